"""Exceptions and warnings of meldopt.

Infeasible, or nothing found within the limit, is a status of a result and never an
exception; what is raised here is bad input, a missing engine or a broken one.
"""

from __future__ import annotations


class MeldoptError(Exception):
    """Root of all errors that meldopt raises on purpose."""


class FileFormatError(MeldoptError, ValueError):
    """A file is unreadable, truncated, of a newer version or not what it says."""


class TraceError(FileFormatError):
    """A trace is unreadable, or holds what no trace may hold: got, expected, where."""


class InstanceError(MeldoptError, ValueError):
    """An instance is readable but makes no sense: got, expected, and where."""


class PlanError(MeldoptError, ValueError):
    """A plan does not belong to the problem or names what does not exist."""


class CatalogueError(MeldoptError, LookupError):
    """A model, device or format that the catalogue does not hold."""


class ProfilingError(MeldoptError, RuntimeError):
    """A model cannot be profiled: no experts found, no weights of one, no corpus."""


class MissingExtraError(MeldoptError, ImportError):
    """Something needs an extra of the distribution that is not installed."""


class SolverNotFoundError(MeldoptError, LookupError):
    """No solver of that name is registered, or none at all."""


class SolverUnavailableError(MeldoptError, ImportError):
    """The engine that a solver needs is not installed."""


class UnsupportedFeatureError(MeldoptError):
    """A solver was asked for something that it cannot do and must not ignore."""


class SolverError(MeldoptError, RuntimeError):
    """An engine failed, or claimed what the judge denies."""


class MeldoptWarning(UserWarning):
    """Root of the warnings of meldopt."""

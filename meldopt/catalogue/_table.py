"""Read a table of the catalogue, and find a row of it by name."""

from __future__ import annotations

from difflib import SequenceMatcher
from importlib import resources
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import msgspec

from meldopt.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterable

Confidence = Literal["high", "medium", "low"]
"""``high``: checked or by construction; ``medium``: in part; ``low``: from memory."""

_ALIKE = 0.6  # the least similarity of a name worth suggesting, as in `difflib`
_TIE = 0.02  # names this much less similar than the nearest are suggested beside it


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Table = TypeVar("Table")
Fact = TypeVar("Fact", bound=_Named)


def read_table(file: str, table: type[Table]) -> Table:
    """Decode a file of ``catalogue/data``, strictly, in the order it is written."""
    data = resources.files(__package__).joinpath("data", file).read_bytes()
    return msgspec.json.decode(data, type=table)


def find(kind: str, name: str, facts: Iterable[Fact]) -> Fact:
    """Return the fact of that name.

    Raises
    ------
    CatalogueError
        If there is none; the message names the nearest.
    """
    names = []
    for fact in facts:
        if fact.name == name:
            return fact
        names.append(fact.name)
    nearest = _nearest(name, names)
    guess = f": did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    raise CatalogueError(
        f"unknown {kind} {name!r}{guess} ('meldopt {kind}s' lists all)"
    )


def _nearest(name: str, names: list[str]) -> list[str]:
    alike = [SequenceMatcher(None, name.lower(), known).ratio() for known in names]
    least = max(_ALIKE, max(alike, default=0.0) - _TIE)
    return [known for known, ratio in zip(names, alike, strict=True) if ratio >= least]

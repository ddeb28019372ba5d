"""A front: its points, and what is proved beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.result import Status

    from .certificate import Certificate

UNITS = {
    "serial": "s per token",
    "parallel": "s per token",
    "fluid": "s per token",
    "bottleneck": "s per token",
    "traffic": "bytes per token",
    "energy": "J per token",
    "quality": "nats per token",
    "pair": "per token",
    "memory": "parts of the fullest place",
}
"""Units of the terms."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Point:
    """A plan on the front, and how far a better one can be.

    Attributes
    ----------
    first, second
        The two terms, as `meldopt.score` says.
    first_bound, second_bound
        What is proved of either among all plans that are better in the other, by more
        than tolerance (1e-6).
    first_gap, second_gap
        What is left to either, a fraction; None where it says nothing.
    weights
        Of the two terms in the run that found it; ``(1, 0)`` with a cap.
    cap
        Cap on the second term in the run that found it; None for a weighted one.
    plan
        With its score's terms in its record.
    """

    first: float
    second: float
    first_bound: float
    second_bound: float
    first_gap: float | None
    second_gap: float | None
    weights: tuple[float, float]
    cap: float | None
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Front:
    """The trade-off between two terms.

    Attributes
    ----------
    terms
        The first and the second.
    points
        No point is at least as good as another in both terms; by rising first.
    certificate
        What is proved about all plans.
    status
        ``optimal`` if no gap is left at any point, ``feasible``, ``infeasible`` or
        ``unknown`` if no plan was found.
    exact
        Whether the second term was capped by a MILP between supported points.
    runs
        Number of solves.
    interrupted
        Whether Ctrl-C ended it early.
    """

    terms: tuple[str, str]
    points: tuple[Point, ...]
    certificate: Certificate
    status: Status
    exact: bool
    runs: int
    interrupted: bool = False

    def largest_gap(self) -> float | None:
        """Return the largest gap of a point, each along the term where it is less.

        None if nothing is proved of any.
        """
        gaps = [
            min(g for g in (p.first_gap, p.second_gap) if g is not None)
            for p in self.points
            if p.first_gap is not None or p.second_gap is not None
        ]
        return max(gaps, default=None)

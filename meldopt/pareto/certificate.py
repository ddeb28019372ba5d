"""What is proved of all plans in two terms: lines and steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meldopt.tolerance import allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Proof of a weighted run: ``first * x + second * y >= bound`` for every plan."""

    first: float
    second: float
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Proof of a capped run: every plan with ``y <= cap`` has ``x >= bound``."""

    cap: float
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """All that is proved of a front."""

    lines: tuple[Line, ...] = ()
    steps: tuple[Step, ...] = ()

    def first_above(self, second: float) -> float:
        """Return a lower bound of the first term of plans whose second is at most this.

        Minus infinity if nothing is proved, infinity if there is no such plan.
        """
        best = -math.inf
        for line in self.lines:
            rest = line.bound - line.second * second
            if line.first > 0:
                best = max(best, rest / line.first)
            elif rest > allowed(line.bound):
                best = math.inf
        for step in self.steps:
            if second <= step.cap:
                best = max(best, step.bound)
        return best

    def second_above(self, first: float) -> float:
        """Return a lower bound of the second term of plans whose first is at most this.

        Minus infinity if nothing is proved, infinity if there is no such plan.
        """
        best = -math.inf
        for line in self.lines:
            rest = line.bound - line.first * first
            if line.second > 0:
                best = max(best, rest / line.second)
            elif rest > allowed(line.bound):
                best = math.inf
        for step in self.steps:
            if first < step.bound:
                best = max(best, step.cap)
        return best

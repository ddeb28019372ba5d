"""How long the rest will take, from limits and from what was run so far."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .grid import Run
    from .records import RunRecord

GUESS_S = 60.0
"""Seconds of a run without any limit that nothing is known of."""


class _Mean:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


class Pace:
    """Remembers how long runs took.

    What is known of the same method on the same instance counts first, then of the
    method on others; else a run takes all of its limit.
    """

    def __init__(self) -> None:
        self._exact: dict[object, _Mean] = defaultdict(_Mean)
        self._method: dict[object, _Mean] = defaultdict(_Mean)
        self._judging = _Mean()

    def learn(self, records: Iterable[RunRecord]) -> None:
        """Take in what an earlier start of the comparison recorded."""
        for one in records:
            digest = one.train_digest or one.instance_digest
            how = (one.label, one.time_limit_s, one.work)
            self._exact[digest, how].add(one.runtime_s)
            self._method[how].add(one.runtime_s)

    def ran(self, run: Run, seconds: float) -> None:
        """Take in how long a run took."""
        self._exact[run.trial.planned.digest, _how(run)].add(seconds)
        self._method[_how(run)].add(seconds)

    def judged(self, seconds: float) -> None:
        """Take in how long a replay took."""
        self._judging.add(seconds)

    def of(self, run: Run) -> float:
        """Return the seconds that a run is expected to take."""
        for mean in (
            self._exact.get((run.trial.planned.digest, _how(run))),
            self._method.get(_how(run)),
        ):
            if mean is not None and mean.value is not None:
                return mean.value
        limits = [
            one for one in (run.limit.time_limit_s, run.limit.work) if one is not None
        ]
        return min(limits, default=GUESS_S)

    def of_judging(self) -> float:
        """Return the seconds that a replay is expected to take."""
        return self._judging.value or 1.0


def _how(run: Run) -> tuple[str, float | None, float | None]:
    return (run.method.label, run.limit.time_limit_s, run.limit.work)

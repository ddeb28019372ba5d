"""Curves of many runs: performance profiles, gaps over time, Pareto fronts.

References
----------
.. [1] Dolan, E. D., Moré, J. J. (2002). Benchmarking optimization software with
   performance profiles. *Mathematical Programming* 91, 201-213.
.. [2] Berthold, T. (2013). Measuring the impact of primal heuristics. *Operations
   Research Letters* 41, 611-614.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.gap import relative_gap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from .records import RunRecord
    from .standing import Bound

STEPS = 200
"""Points of a curve."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """Share of the cases that each label solves within a factor of the best.

    Attributes
    ----------
    labels
        Sorted by `area`, best first.
    tau
        Factors, from 1; (steps,).
    share
        (labels, steps); never falls along a row.
    """

    labels: tuple[str, ...]
    tau: NDArray[np.float64]
    share: NDArray[np.float64]

    @property
    def area(self) -> NDArray[np.float64]:
        """Mean share over the logarithm of the factor: 1 is best everywhere."""
        if len(self.tau) < 2:
            return np.array([row.mean() for row in self.share])
        log = np.log(self.tau)
        mean: NDArray[np.float64] = np.trapezoid(self.share, log, axis=1) / np.ptp(log)
        return mean


def performance_profile(
    ratio: NDArray[np.float64], labels: Sequence[str], *, steps: int = STEPS
) -> Profile:
    """Return the performance profile [1]_ of ratios to the best.

    A failed run (inf) is within no factor of the best, so a curve ends at the share of
    the cases that its solver solves. Curves reach a little further than the largest
    finite ratio, at least to 1.01 and at most to 100.

    Parameters
    ----------
    ratio
        (cases, labels), 1 or more; no nan.
    labels
        Of the columns.
    """
    finite = ratio[np.isfinite(ratio)]
    top = min(max(float(finite.max(initial=1.0)) ** 1.05, 1.01), 100.0)
    tau = np.exp(np.linspace(0.0, math.log(top), steps))
    tau[-1] = top
    ordered = np.sort(ratio, axis=0)
    share = np.array(
        [np.searchsorted(column, tau, side="right") for column in ordered.T],
        dtype=np.float64,
    ).reshape(len(labels), steps) / max(len(ratio), 1)
    profile = Profile(labels=tuple(labels), tau=tau, share=share)
    order = sorted(range(len(labels)), key=lambda k: (-profile.area[k], labels[k]))
    return Profile(labels=tuple(labels[k] for k in order), tau=tau, share=share[order])


# -- over time -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GapCurves:
    """Mean gap over time by label.

    Attributes
    ----------
    labels
        Sorted by the mean gap of their plans over time, best first.
    time_s
        (steps,).
    plan
        Gap of the best plan so far to the best bound of any run at its end, (labels,
        steps): how good the plan is.
    proof
        Gap of the best plan so far to the run's own bound so far, (labels, steps): what
        the run itself knows. All nan for a label that never proved a bound.
    integral
        Mean of ``plan`` up to the limit of each run [2]_, a fraction; (labels,).
    num_runs
        Runs of each label that a curve is the mean of.
    """

    labels: tuple[str, ...]
    time_s: NDArray[np.float64]
    plan: NDArray[np.float64]
    proof: NDArray[np.float64]
    integral: NDArray[np.float64]
    num_runs: tuple[int, ...]


def gap_curves(
    records: Iterable[RunRecord],
    bounds: Mapping[str, Bound],
    *,
    steps: int = STEPS,
) -> GapCurves:
    """Return how gaps close over time.

    A gap is at most 1, and 1 before there is a plan. A run whose last plan breaks a row
    has no plan at any time. A run that ended keeps what it had. Runs of instances
    without any bound are left out: nobody knows their gap. Of plans that were made once
    and judged on several workloads, one is taken.
    """
    chosen: dict[str, RunRecord] = {}
    for record in records:
        if (record.train_digest or record.instance_digest) in bounds:
            before = chosen.get(record.solve)
            if before is None or (_sound(record) and not _sound(before)):
                chosen[record.solve] = record
    runs = list(chosen.values())
    labels = tuple(dict.fromkeys(record.label for record in runs))
    ends = [record.runtime_s for record in runs]
    firsts = [record.history[0][0] for record in runs if record.history]
    last = max([*ends, 1e-3])
    # From a little before the first plan, so that it is seen to come.
    first = 0.7 * min(firsts, default=last / 100)
    first = min(max(first, last * 1e-5, 1e-4), last / 2)
    time_s = np.exp(np.linspace(math.log(first), math.log(last), steps))
    time_s[-1] = last
    plan = np.zeros((len(labels), steps))
    proof = np.zeros((len(labels), steps))
    integral = np.zeros(len(labels))
    count = np.zeros(len(labels), dtype=np.int64)
    proved = np.zeros(len(labels), dtype=np.bool_)
    for record in runs:
        k = labels.index(record.label)
        digest = record.train_digest or record.instance_digest
        curve = _curve(record, bounds[digest].value)
        at = np.searchsorted(curve[:, 0], time_s, side="right") - 1
        plan[k] += curve[at, 1]
        proof[k] += curve[at, 2]
        integral[k] += _mean_until(curve, record.time_limit_s or record.runtime_s)
        proved[k] |= bool((curve[:, 2] < 1).any())
        count[k] += 1
    plan /= np.maximum(count, 1)[:, None]
    proof /= np.maximum(count, 1)[:, None]
    proof[~proved] = np.nan
    integral /= np.maximum(count, 1)
    order = sorted(range(len(labels)), key=lambda k: (integral[k], labels[k]))
    return GapCurves(
        labels=tuple(labels[k] for k in order),
        time_s=time_s,
        plan=plan[order],
        proof=proof[order],
        integral=integral[order],
        num_runs=tuple(int(count[k]) for k in order),
    )


def _sound(record: RunRecord) -> bool:
    """Say whether the plan of a run keeps every row where it was made."""
    trained = record.trained
    return record.ranked or (trained is not None and trained.gap is not None)


def _curve(record: RunRecord, best_bound: float) -> NDArray[np.float64]:
    """Return seconds, gap to the best bound, own gap, where they change; (n, 3)."""
    points = [(0.0, 1.0, 1.0)]
    if not _sound(record):
        return np.array(points)
    objective, bound = math.inf, -math.inf
    trained = record.trained
    final = (
        (record.objective, record.bound)
        if trained is None
        else (trained.objective, trained.bound)
    )
    for second, value, proved in (*record.history, (record.runtime_s, *final)):
        if value is not None:
            objective = min(objective, value)
        if proved is not None:
            bound = max(bound, proved)
        at = max(second, points[-1][0])
        points.append((at, _gap(objective, best_bound), _gap(objective, bound)))
    return np.array(points)


def _gap(objective: float, bound: float) -> float:
    gap = relative_gap(objective, bound)
    if gap is None:  # no plan, no bound, or an objective of 0
        closed = objective == 0 and math.isfinite(bound) and bound >= objective
        return 0.0 if closed else 1.0
    return min(max(gap, 0.0), 1.0)


def _mean_until(curve: NDArray[np.float64], limit_s: float) -> float:
    """Return the mean of the first gap from 0 to a limit."""
    if limit_s <= 0 or not math.isfinite(limit_s):
        return float(curve[-1, 1])
    time = np.minimum(curve[:, 0], limit_s)
    length = np.diff(time, append=limit_s)
    return float((np.maximum(length, 0.0) * curve[:, 1]).sum() / limit_s)


# -- fronts ----------------------------------------------------------------------------


def pareto_front(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which points no other point dominates.

    Parameters
    ----------
    points
        (points, axes), less is better. A point with a nan is on no front.

    Returns
    -------
    ndarray of bool, shape (points,)
        A point is dominated if another is nowhere worse and somewhere better; of equal
        points all are on the front.
    """
    known: NDArray[np.bool_] = np.logical_and.reduce(~np.isnan(points), axis=1)
    front = known.copy()
    for n in np.flatnonzero(known):
        no_worse = (points[known] <= points[n]).all(axis=1)
        better = (points[known] < points[n]).any(axis=1)
        front[n] = not (no_worse & better).any()
    return front

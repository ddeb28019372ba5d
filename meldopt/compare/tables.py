"""Results by case and by family, and what is not ranked.

The rules of `meldopt.compare.standing` hold in each: a plan that breaks a row is shown
with its violations and never ranked.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from meldopt.gap import is_closed, relative_gap
from meldopt.tolerance import allowed

from .markup import Cell, Column, Kind, Table
from .records import FAILED, RANKED
from .standing import OBJECTIVE, case_of
from .statistics import interval, mean_ratio, shifted_geometric_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from .records import RunRecord
    from .standing import Bound, Case, Entry, Standing

GREEDY = "greedy"
"""Label whose objective the second measure of a gap divides by."""

TIME_SHIFT_S = 1.0
"""Shift of the geometric mean of times: what takes a blink does not decide."""

ALL = "all"
"""Name of all families together."""


def columns_of(*specs: tuple[str, Kind]) -> tuple[Column, ...]:
    """Make columns of their names and kinds."""
    return tuple(Column(name, kind) for name, kind in specs)


# -- results ---------------------------------------------------------------------------


def of_greedy(value: float, bound: float | None, greedy: float | None) -> float | None:
    """Return ``(objective - bound) / (greedy's objective - bound)``.

    Constants of the objective cannot flatter it. None without a bound or a plan of
    greedy, or if greedy itself reaches the bound.
    """
    if bound is None or greedy is None:
        return None
    if is_closed(greedy, bound) or not math.isfinite(value):
        return None
    return 0.0 if is_closed(value, bound) else (value - bound) / (greedy - bound)


class Gaps:
    """Both measures of what is left to the best bound, by case and label."""

    def __init__(self, standing: Standing, bounds: Mapping[str, Bound]) -> None:
        known = standing.measure == OBJECTIVE
        self._bounds = bounds if known else {}
        self._greedy: dict[Case, float] = {}
        if known and GREEDY in standing.labels:
            k = standing.labels.index(GREEDY)
            self._greedy = {
                standing.cases[c]: entry.value
                for (c, column), entry in standing.entries.items()
                if column == k and entry.ranked
            }

    def bound(self, case: Case) -> float | None:
        """Return the best certified bound of a case."""
        found = self._bounds.get(case.digest)
        return None if found is None else found.value

    def gap(self, entry: Entry) -> float | None:
        """Return ``(objective - bound) / |objective|``."""
        return relative_gap(entry.value, self.bound(entry.case))

    def of_greedy(self, entry: Entry) -> float | None:
        """Return the gap as a part of greedy's."""
        case = entry.case
        return of_greedy(entry.value, self.bound(case), self._greedy.get(case))


def results_table(
    standing: Standing, bounds: Mapping[str, Bound], *, alone: bool = False
) -> Table:
    """Return one row for each case and label; ranked ones first, best on top.

    Parameters
    ----------
    standing, bounds
        Of all instances, or of one.
    alone
        Whether it stands below the name of its only instance, and a table of all.
    """
    gaps = Gaps(standing, bounds)
    rows: list[tuple[Cell, ...]] = []
    for c, case in enumerate(standing.cases):
        mine = [
            (entry, float(standing.ratio[c, k]))
            for (at, k), entry in standing.entries.items()
            if at == c
        ]
        for entry, ratio in sorted(mine, key=lambda one: (one[0].value, one[0].label)):
            low, high = entry.spread or (None, None)
            several = low is not None and high is not None and high - low > allowed(low)
            rows.append(
                (
                    "" if alone else case.instance,
                    case.planned_on,
                    case.trace,
                    case.limit,
                    entry.label,
                    entry.value if entry.ranked else None,
                    low if several else None,
                    high if several else None,
                    ratio if entry.ranked else None,
                    gaps.gap(entry),
                    gaps.of_greedy(entry),
                    status_text(entry.runs),
                    entry.runtime_s,
                )
            )
    return Table(
        name="results",
        title="Results by instance",
        caption=""
        if alone
        else (
            f"Median of {standing.measure} over the seeds. Ratio: to the best solver "
            "of the case. Gap: to the best certified bound of any run or of the "
            "library. Of greedy's: (objective - bound) / (objective of greedy - bound)."
            " Solvers without a value are not ranked; the status counts the runs."
        ),
        columns=columns_of(
            ("instance", "text"),
            ("planned on", "text"),
            ("trace", "text"),
            ("limit", "text"),
            ("solver", "text"),
            (standing.measure, "number"),
            ("least", "number"),
            ("most", "number"),
            ("ratio", "ratio"),
            ("gap", "percent"),
            ("of greedy's", "percent"),
            ("status", "text"),
            ("time s", "seconds"),
        ),
        rows=tuple(rows),
    ).without_empty()


def status_text(runs: Iterable[RunRecord]) -> str:
    """Write the statuses of runs: ``optimal``, or ``feasible 2, violating 1``."""
    count = Counter(run.status for run in runs)
    if len(count) == 1:
        return next(iter(count))
    return ", ".join(f"{status} {number}" for status, number in count.most_common())


def family_groups(standing: Standing) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the families and which cases are in each; all together come last."""
    families = standing.families
    groups = [(name or "(none)", standing.of_family(name)) for name in families]
    if len(families) != 1:
        groups.append((ALL, standing.of_family(None)))
    return groups


def summary_table(standing: Standing, bounds: Mapping[str, Bound]) -> Table:
    """Return means and counts of each label by family."""
    gaps = Gaps(standing, bounds)
    rows: list[tuple[Cell, ...]] = []
    for name, inside in family_groups(standing):
        part: list[tuple[tuple[float, ...], tuple[Cell, ...]]] = []
        for k, label in enumerate(standing.labels):
            entries = [
                entry
                for (c, column), entry in standing.entries.items()
                if column == k and inside[c]
            ]
            if not entries:
                continue
            ratio = standing.ratio[inside, k]
            solved = ratio[np.isfinite(ratio)]
            mean = mean_ratio(solved)
            low, high = interval(solved) or (None, None)
            count = Counter[str](run.status for entry in entries for run in entry.runs)
            known = [gap for entry in entries if (gap := gaps.gap(entry)) is not None]
            parts = [
                left for one in entries if (left := gaps.of_greedy(one)) is not None
            ]
            runs = sum(count.values())
            ranked = sum(count[status] for status in RANKED)
            failed = sum(count[status] for status in FAILED)
            row: tuple[Cell, ...] = (
                name,
                label,
                len(entries),
                len(solved),
                int((solved == 1).sum()),
                mean,
                low,
                high,
                float(np.median(solved)) if len(solved) else None,
                float(solved.max()) if len(solved) else None,
                statistics.fmean(known) if known else None,
                statistics.median(parts) if parts else None,
                shifted_geometric_mean(
                    np.array([entry.runtime_s for entry in entries]), TIME_SHIFT_S
                ),
                runs,
                ranked,
                count["violating"],
                failed,
                runs - ranked - count["violating"] - failed,
            )
            order = (-len(solved) / len(entries), math.inf if mean is None else mean)
            part.append((order, row))
        rows += [row for _, row in sorted(part, key=lambda one: (one[0], one[1][1]))]
    return Table(
        name="summary"
        if standing.measure == OBJECTIVE
        else f"replay-{_file(standing)}",
        title="Summary by family"
        if standing.measure == OBJECTIVE
        else f"Replay, {standing.measure}, by family",
        caption=(
            f"Ratios of {standing.measure} to the best solver of each case, over the "
            "cases that the solver itself solved: geometric mean with a 95 % bootstrap "
            "interval over cases, median, worst. Compare ratios only together with the "
            "number solved. Wins count ties. Time: geometric mean, shifted by 1 s. "
            "Runs: feasible, violating (never ranked), failed (crashed, hung or "
            "refused), other (nothing found or proved infeasible)."
        ),
        columns=columns_of(
            ("family", "text"),
            ("solver", "text"),
            ("cases", "integer"),
            ("solved", "integer"),
            ("wins", "integer"),
            ("mean ratio", "ratio"),
            ("low", "ratio"),
            ("high", "ratio"),
            ("median", "ratio"),
            ("worst", "ratio"),
            ("mean gap", "percent"),
            ("of greedy's", "percent"),
            ("time s", "seconds"),
            ("runs", "integer"),
            ("feasible", "integer"),
            ("violating", "integer"),
            ("failed", "integer"),
            ("other", "integer"),
        ),
        rows=tuple(rows),
    ).without_empty()


def _file(standing: Standing) -> str:
    return standing.measure.removesuffix("_s").replace("_", "-")


# -- what is not ranked ----------------------------------------------------------------


def violations_table(records: Sequence[RunRecord]) -> Table:
    """Return what violating plans break: one row for each kind of row."""
    rows: list[tuple[Cell, ...]] = []
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for record in records:
        if record.status == "violating":
            case = case_of(record)
            at = record.instance, case.planned_on, record.label
            groups.setdefault(at, []).append(record)
    for (instance, planned_on, label), runs in groups.items():
        objectives = [run.objective for run in runs if run.objective is not None]
        ignored = dict.fromkeys(name for run in runs for name in run.ignored)
        broken = [one for run in runs for one in run.violations]
        for row in dict.fromkeys(one.row for one in broken):
            mine = [one for one in broken if one.row == row]
            worst = max(mine, key=lambda one: one.amount)
            rows.append(
                (
                    instance,
                    planned_on,
                    label,
                    len(runs),
                    row,
                    len(mine) / len(runs),
                    worst.where,
                    worst.amount,
                    statistics.median(objectives) if objectives else None,
                    ", ".join(ignored),
                )
            )
    return Table(
        name="violations",
        title="Plans that break rows",
        caption=(
            "Shown, never ranked. Broken: rows of this kind that a plan breaks, mean "
            "over its runs; the worst place and by how much, in the unit of the row. "
            "The objective of such a plan is not comparable with any other. Ignored: "
            "what the solver could not see."
        ),
        columns=columns_of(
            ("instance", "text"),
            ("planned on", "text"),
            ("solver", "text"),
            ("runs", "integer"),
            ("row", "text"),
            ("broken", "number"),
            ("worst at", "text"),
            ("over by", "number"),
            ("objective, not ranked", "number"),
            ("ignored", "text"),
        ),
        rows=tuple(rows),
    ).without_empty()


def failures_table(records: Sequence[RunRecord]) -> Table:
    """Return runs without a plan, and why."""
    groups: Counter[tuple[str, str, str, str]] = Counter(
        (record.instance, record.label, record.status, record.error or "")
        for record in records
        if record.status not in RANKED and record.status != "violating"
    )
    return Table(
        name="failures",
        title="Runs without a plan",
        caption=(
            "Crashed: the process died or the solver raised. Hung: it was stopped long "
            "after its limit. Refused: the solver says that it cannot do this. Unknown:"
            " nothing was found. Infeasible: it was proved that there is no plan."
        ),
        columns=columns_of(
            ("instance", "text"),
            ("solver", "text"),
            ("status", "text"),
            ("runs", "integer"),
            ("reason", "text"),
        ),
        rows=tuple((*key[:3], count, key[3]) for key, count in groups.items()),
    ).without_empty()

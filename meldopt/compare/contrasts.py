"""Tables that set solvers against each other: ranks, tests, ratios, shifts of workload.

The rules of `meldopt.compare.standing` hold in each.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import numpy as np

from .markup import Cell, Table
from .standing import ratio_to
from .statistics import interval, mean_ratio
from .tables import columns_of, family_groups, status_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .profiles import GapCurves
    from .standing import Entry, Standing
    from .statistics import Friedman, Pair


def ranks_table(labels: Sequence[str], found: Friedman | None) -> Table:
    """Return the mean ranks of labels, best first, with the test of Friedman."""
    caption = (
        "No test: it takes three solvers that solve something, and two cases that all "
        "of them were run on."
    )
    rows: list[tuple[Cell, ...]] = []
    if found is not None:
        p = "< 0.0001" if found.p_f < 1e-4 else f"= {found.p_f:.4f}"
        caption = (
            f"Over {found.num_cases} cases; 1 is best, ties share a rank, failed runs "
            f"tie behind the others. Friedman: chi2 = {found.chi2:.4g}, p = "
            f"{found.p_chi2:.3g}; Iman and Davenport: F = {found.f:.4g}, p {p}. Mean "
            f"ranks that are nearer than {found.distance:.3f} are not told apart "
            "(Nemenyi, 5 %)."
        )
        order = sorted(range(len(labels)), key=lambda k: (found.mean_rank[k], k))
        rows = [(labels[k], float(found.mean_rank[k])) for k in order]
    return Table(
        name="ranks",
        title="Mean ranks",
        caption=caption,
        columns=columns_of(("solver", "text"), ("mean rank", "ratio")),
        rows=tuple(rows),
    )


def pairs_table(
    labels: Sequence[str],
    pairs: Sequence[Pair],
    found: Friedman | None,
    ranked: Sequence[int],
) -> Table:
    """Return tests of pairs, the most certain first.

    Parameters
    ----------
    labels
        All of them.
    pairs
        Of `meldopt.compare.statistics.wilcoxon_pairs`.
    found
        The test of Friedman of the labels ``ranked``; its p-values of pairs are shown.
    """
    position = {k: n for n, k in enumerate(ranked)}

    def nemenyi(pair: Pair) -> float | None:
        both = pair.first in position and pair.second in position
        if found is None or not both:
            return None
        return float(found.p_pair[position[pair.first], position[pair.second]])

    ordered = sorted(
        pairs,
        key=lambda one: (
            math.inf if one.p is None else one.p,
            labels[one.first],
            labels[one.second],
        ),
    )
    return Table(
        name="pairs",
        title="Pairs of solvers",
        caption=(
            "Ratio: geometric mean of first / second over the cases that both solved; "
            "below 1 the first is better. Wins, ties and losses of the first, over the "
            "cases that both were run on; failing on a case loses it. p: Wilcoxon's "
            "signed ranks, two-sided; Holm: corrected for the number of pairs; Nemenyi:"
            " by mean ranks among all solvers."
        ),
        columns=columns_of(
            ("first", "text"),
            ("second", "text"),
            ("ratio", "ratio"),
            ("wins", "integer"),
            ("ties", "integer"),
            ("losses", "integer"),
            ("p", "p"),
            ("Holm", "p"),
            ("Nemenyi", "p"),
        ),
        rows=tuple(
            (
                labels[one.first],
                labels[one.second],
                one.ratio,
                one.wins,
                one.ties,
                one.losses,
                one.p,
                one.holm,
                nemenyi(one),
            )
            for one in ordered
        ),
    ).without_empty()


def against_table(standings: Sequence[Standing], against: str) -> Table:
    """Return what each label is worth relative to one, by measure and family.

    Parameters
    ----------
    standings
        One for each measure; those that do not know the label are left out.
    against
        Label of the reference.
    """
    rows: list[tuple[Cell, ...]] = []
    for one in standings:
        if against not in one.labels:
            continue
        reference = one.value[:, one.labels.index(against)]
        for name, inside in family_groups(one):
            for k, label in enumerate(one.labels):
                if label == against:
                    continue
                mine, other = one.value[inside, k], reference[inside]
                ratio = ratio_to(mine, other)
                ratio = ratio[~np.isnan(ratio)]
                if not len(ratio):
                    continue
                solved = np.isfinite(mine) & np.isfinite(other)
                both = ratio_to(mine[solved], other[solved])
                low, high = interval(both) or (None, None)
                rows.append(
                    (
                        one.measure,
                        name,
                        label,
                        len(ratio),
                        len(both),
                        mean_ratio(both),
                        low,
                        high,
                        float(both.max()) if len(both) else None,
                        int((ratio < 1).sum()),
                        int((ratio == 1).sum()),
                        int((ratio > 1).sum()),
                    )
                )
    return Table(
        name="against",
        title=f"Against {against}",
        caption=(
            f"Values divided by those of {against}: above 1, {against} is better. "
            "Geometric mean over the cases that both solved, with a 95 % bootstrap "
            "interval over cases, and the largest. Better, equal and worse count all "
            f"cases: to fail where {against} does not is worse."
        ),
        columns=columns_of(
            ("measure", "text"),
            ("family", "text"),
            ("solver", "text"),
            ("cases", "integer"),
            ("both", "integer"),
            ("mean ratio", "ratio"),
            ("low", "ratio"),
            ("high", "ratio"),
            ("most", "ratio"),
            ("better", "integer"),
            ("equal", "integer"),
            ("worse", "integer"),
        ),
        rows=tuple(rows),
    ).without_empty()


def frozen_table(standing: Standing) -> Table:
    """Return what plans made on one workload are worth on another."""
    own: dict[tuple[str, float | None, float | None, str], Entry] = {}
    for entry in standing.entries.values():
        case = entry.case
        if case.train is None:
            own[case.digest, case.time_limit_s, case.work, entry.label] = entry
    rows: list[tuple[Cell, ...]] = []
    for entry in standing.entries.values():
        case = entry.case
        if case.train is None:
            continue
        made = [
            run.trained.objective
            for run in entry.runs
            if run.trained is not None and run.trained.objective is not None
        ]
        judged = [run.objective for run in entry.runs if run.objective is not None]
        fresh = own.get((case.digest, case.time_limit_s, case.work, entry.label))
        value = fresh.value if fresh is not None and fresh.ranked else None
        ratio = (
            float(ratio_to(np.array(entry.value), np.array(value)))
            if entry.ranked and value is not None
            else None
        )
        rows.append(
            (
                case.instance,
                case.planned_on,
                case.limit,
                entry.label,
                statistics.median(made) if made else None,
                statistics.median(judged) if judged else None,
                value,
                ratio,
                status_text(entry.runs),
            )
        )
    return Table(
        name="frozen",
        title="Plans made on another workload",
        caption=(
            "The objective of the plan where it was made, and on the instance it was "
            "judged on; that of the same solver planned on the judged one; and the "
            "ratio of the last two: what is lost when the workload shifts. The status "
            "is that on the judged one: of a plan that breaks a row there, the "
            "objective is shown and no ratio."
        ),
        columns=columns_of(
            ("instance", "text"),
            ("planned on", "text"),
            ("limit", "text"),
            ("solver", "text"),
            ("where made", "number"),
            ("judged", "number"),
            ("planned anew", "number"),
            ("ratio", "ratio"),
            ("status", "text"),
        ),
        rows=tuple(rows),
    ).without_empty()


def progress_table(curves: GapCurves) -> Table:
    """Return how fast gaps close, best first."""
    rows: list[tuple[Cell, ...]] = [
        (
            label,
            curves.num_runs[k],
            float(curves.integral[k]),
            float(curves.plan[k, -1]),
            None if np.isnan(curves.proof[k, -1]) else float(curves.proof[k, -1]),
        )
        for k, label in enumerate(curves.labels)
    ]
    return Table(
        name="progress",
        title="Progress",
        caption=(
            "Means over runs. Gap over time: of the plan found so far to the best bound"
            " of any run, averaged from the start to the limit (the primal integral of "
            "Berthold); 100 % while there is no plan that keeps every row. At the end:"
            " the same gap, and that to the run's own bound."
        ),
        columns=columns_of(
            ("solver", "text"),
            ("runs", "integer"),
            ("gap over time", "percent"),
            ("gap at the end", "percent"),
            ("own gap at the end", "percent"),
        ),
        rows=tuple(rows),
    ).without_empty()

"""The pictures of a report, with captions that say how to read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import MeldoptError
from meldopt.units import format_bytes

from .profiles import performance_profile
from .statistics import ALPHA, interval, mean_ratio
from .tables import family_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from .plans import InstancePlans, Weighed
    from .profiles import GapCurves
    from .standing import Standing
    from .statistics import Friedman


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that is drawn when it is needed.

    Attributes
    ----------
    name
        Of its file.
    title, caption
        For people; the caption says how to read it.
    draw
        Makes the figure.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def count_of(number: int, word: str) -> str:
    """Write a number of things."""
    return f"{number} {word}{'' if number == 1 else 's'}"


# -- of all instances ------------------------------------------------------------------
def overall_pictures(
    objective: Standing,
    replays: Sequence[Standing],
    curves: GapCurves,
    labels: Sequence[str],
    found: Friedman | None,
) -> list[Picture]:
    """Return the pictures of all instances together.

    Parameters
    ----------
    objective, replays
        Standings by objective and by measures of replay.
    curves
        Gaps over time.
    labels, found
        Those that were ranked, and the test of Friedman of them.
    """
    from . import plots

    pictures = []
    chart = (
        f" Lines of their own: the best {plots.SHOWN}. The chart has a row for each "
        "solver, the best on top; dark is good."
        if len(objective.labels) > plots.SHOWN
        else ""
    )
    ratio = objective.ratio[objective.complete]
    if len(ratio) > 1:
        profile = performance_profile(ratio, objective.labels)
        pictures.append(
            Picture(
                name="profile",
                title="Performance profile",
                caption=(
                    "For each solver the share of the "
                    f"{count_of(len(ratio), 'case')} on which its objective is within "
                    "a factor of the best solver's (Dolan and Moré). At 1: how often "
                    "it is the best, ties included. "
                    "Where a curve ends: how often it finds a plan that keeps every "
                    "row. Higher and further left is better." + chart
                ),
                draw=partial(plots.draw_profile, profile),
            )
        )
    for one in [objective, *replays]:
        panels, order = ratio_panels(one)
        if panels and len(one.cases) > 1:
            replay = one is not objective
            pictures.append(
                Picture(
                    name=f"ratios-{one.measure.removesuffix('_s')}",
                    title=f"Mean ratios by family: {'replay, ' * replay}{one.measure}",
                    caption=(
                        "Geometric mean of the ratio to the best solver of each case "
                        "that the solver itself solved, with a 95 % bootstrap interval "
                        "over cases (no line: one case). 1 is the best of every case. "
                        "A mean over few cases says little: read it with the number "
                        "solved in the table."
                    ),
                    draw=partial(
                        plots.draw_ratios,
                        [one.labels[k] for k in order],
                        panels,
                        "ratio to the best",
                    ),
                )
            )
    if found is not None:
        pictures.append(
            Picture(
                name="ranks",
                title="Critical-difference diagram",
                caption=(
                    f"Mean ranks over {count_of(found.num_cases, 'case')}; 1, on the "
                    "left, is best. Solvers joined by a bar are not told apart at 5 % "
                    "(Nemenyi; Demšar 2006)."
                    + (
                        ""
                        if found.p_f < ALPHA
                        else " The test of Friedman does not say that solvers differ "
                        f"at all (p = {found.p_f:.2g}): read nothing into the order."
                    )
                ),
                draw=partial(plots.draw_ranks, labels, found),
            )
        )
    if curves.labels:
        pictures.append(
            Picture(
                name="gap-over-time",
                title="Gap over time",
                caption=(
                    f"Mean over {count_of(sum(curves.num_runs), 'run')}; 100 % until "
                    "there is a plan, and for plans that break a row. Left: the plan "
                    "found so far against the best bound that any run had at its end, "
                    "which is how good the plan is. Right: against the bound that the "
                    "run itself had by then, which is what it knows. Lower and further "
                    "left is better; a run that has ended keeps what it had." + chart
                ),
                draw=partial(plots.draw_gaps, curves),
            )
        )
    return pictures


Mark = tuple[float, float, float]


def ratio_panels(
    standing: Standing,
) -> tuple[list[tuple[str, list[Mark | None]]], list[int]]:
    """Return mean ratios and intervals by family, and the order of the labels."""
    groups = family_groups(standing)
    if not groups or not standing.labels:
        return [], []
    groups = [*groups[-1:], *groups[:-1]]  # all together first

    def mark(ratios: NDArray[np.float64]) -> Mark | None:
        mean = mean_ratio(ratios)
        if mean is None:
            return None
        low, high = interval(ratios) or (mean, mean)
        return mean, low, high

    marks = [
        (name, [mark(standing.ratio[inside, k]) for k in range(len(standing.labels))])
        for name, inside in groups
    ]
    solved = np.isfinite(standing.ratio).sum(axis=0)
    first = marks[0][1]

    def order(k: int) -> tuple[float, float, int]:
        one = first[k]
        return -float(solved[k]), np.inf if one is None else one[0], k

    kept = sorted(range(len(standing.labels)), key=order)
    return [(name, [row[k] for k in kept]) for name, row in marks], kept


# -- of one instance -------------------------------------------------------------------
def plan_pictures(
    plans: InstancePlans, number: int, against: str | None
) -> tuple[Weighed, list[Picture], list[str]]:
    """Return the front of an instance, its pictures, and why some are missing.

    Parameters
    ----------
    plans
        Of the instance.
    number
        Of the instance, for names of files.
    against
        Label whose plan is drawn beside the best.
    """
    from . import plan_plots

    pictures: list[Picture] = []
    notes: list[str] = [plans.reason] if plans.reason else []
    weighed = plans.weighed()
    if len(weighed.records) > 1:
        known = weighed.bytes_known
        pictures.append(
            Picture(
                name=f"front-{number}",
                title="Latency, quality loss and memory of all plans",
                caption=(
                    "Each mark is a plan that keeps every row. Filled: no other plan "
                    "is as good in latency, quality loss "
                    + ("and memory " if known else "")
                    + "and better in one. Dotted: the front of latency and quality "
                    "loss alone. Lower left is better."
                ),
                draw=partial(
                    plan_plots.draw_front,
                    [record.label for record in weighed.records],
                    weighed.points,
                    weighed.front,
                    (
                        f"{weighed.term}, seconds per token",
                        "quality loss, nats per token",
                    ),
                ),
            )
        )
    best = plans.best()
    if best is None:
        notes.append("no plan keeps every row: nothing to draw")
        return weighed, pictures, notes
    drawn = [("best", best)]
    other = None if against is None else plans.best(against)
    if other is not None and other.label != best.label:
        drawn.append((str(against), other))
    for which, record in drawn:
        try:
            placement = plans.placement(record)
        except MeldoptError as exc:
            if not plans.reason:
                notes.append(f"the plan of {record.label} cannot be drawn: {exc}")
            continue
        plan = "the best plan" if which == "best" else "the plan"
        suffix = "" if which == "best" else "-against"
        pictures += [
            Picture(
                name=f"placement-{number}{suffix}",
                title=f"Placement: {plan}, by {record.label} (seed {record.seed})",
                caption=(
                    "Top: copies of experts on each server (rows) by layer (columns). "
                    "Below: the mean bits per weight of these copies; white where "
                    "there is none. Right: how full and how busy servers are, as a "
                    f"part of their limits. {format_bytes(placement.bytes)} in all."
                ),
                draw=partial(plan_plots.draw_placement, placement),
            ),
            Picture(
                name=f"links-{number}{suffix}",
                title=f"Links: {plan}, by {record.label} (seed {record.seed})",
                caption=(
                    "Wide and dark links carry much of what they may; thin grey ones "
                    "carry nothing. Servers are coloured by their busiest processor; "
                    "squares are homes, where requests enter."
                ),
                draw=partial(plan_plots.draw_links, placement),
            ),
        ]
    return weighed, pictures, notes

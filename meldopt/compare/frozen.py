"""A plan that stays as it is while the workload changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import PlanError
from meldopt.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meldopt.problem import Problem


def check_same_axes(planned: Problem, judged: Problem) -> None:
    """Refuse two problems whose plans have other copies.

    Layers and their experts, places (servers and tiers), formats and the dataflow must
    be the same; places and formats by name, in any order. Capacities, links and the
    workload may differ.

    Raises
    ------
    PlanError
        In one line: what differs.
    """
    who = f"{judged.name}: cannot judge plans of {planned.name}"
    for what, mine, theirs in (
        ("dataflow", judged.dataflow, planned.dataflow),
        ("layers", judged.layer_ids.tolist(), planned.layer_ids.tolist()),
        (
            "experts of the layers",
            np.diff(judged.layer_start).tolist(),
            np.diff(planned.layer_start).tolist(),
        ),
    ):
        if mine != theirs:
            raise PlanError(f"{who}: {what}: got {mine}, expected {theirs}")
    for what, here, there in (
        (
            "places",
            [" ".join(place) for place in judged.labels.places],
            [" ".join(place) for place in planned.labels.places],
        ),
        ("formats", list(judged.labels.formats), list(planned.labels.formats)),
    ):
        odd = sorted(set(here) ^ set(there))
        if odd:
            side = "more" if odd[0] in here else "missing"
            raise PlanError(f"{who}: {what}: {odd[0]!r} is {side}")


def freeze(plan: Plan, planned: Problem, judged: Problem) -> Plan:
    """Return the copies of a plan as a plan of another problem.

    Its shares follow the default rule: each demand uses its copy of least time.

    Raises
    ------
    PlanError
        If the problems do not have the same copies.
    """
    check_same_axes(planned, judged)
    place = _moved(planned.labels.places, judged.labels.places)
    form = _moved(planned.labels.formats, judged.labels.formats)
    expert, at, b = plan.copies.T
    copies = np.stack([expert, place[at], form[b]], axis=1)
    return Plan.of(judged, copies[np.lexsort(copies.T[::-1])])


def _moved(before: Sequence[object], after: Sequence[object]) -> np.ndarray:
    position = {name: n for n, name in enumerate(after)}
    return np.array([position[name] for name in before], dtype=np.int64)

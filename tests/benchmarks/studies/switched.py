"""Study a: what copies, formats and reductions are worth, and deciding them together.

Each part is switched off by an edit of the instance, so that the same solver, with the
same limit, plans what is left: ``limits.copies`` = 1; one format of the instance; a
model without curves of pruning and fusion and without similar experts. Every plan of an
edited instance is a plan of the whole one, with the same objective, so values can be
divided; and a bound of the edited one says how much at least is lost without the part,
whatever the solver.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.compare.markup import Table
from meldopt.compare.standing import best_bounds
from meldopt.compare.tables import columns_of
from meldopt.compare.trials import Library
from meldopt.gap import relative_gap
from meldopt.tolerance import FEASIBILITY

from .setting import JOINT, chosen, facts, read_all, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meldopt.compare.records import RunRecord
    from meldopt.instance import Instance

    from .setting import Setting

INSTANCES = (
    "tinymoe/edge-4",
    "mixtral-8x7b/metro-4",
    "star/mixtral-5-domains-medium",
    "tree/phi-3.5-even-loose",
    "drift/mixtral-campus-6-before",
)
"""One of a family each, small; the last one stands for the campuses."""

SEQUENTIAL = "sequential"

COPIES, REDUCTIONS, FORMATS, PLACEMENT = (
    "one copy",
    "no reductions",
    "one format",
    "placement alone",
)
"""Parts that are switched off, as tables call what is left."""

SOARING = 1000.0
"""Ratio above which a bound says that there is no plan, rather than how good it is."""

REDUCING = (
    "prune_loss",
    "prune_width",
    "fuse_loss",
    "fuse_width",
    "similar",
    "similar_loss",
)
"""Arrays of a profile that let calls be pruned, fused or substituted."""


# -- edits -----------------------------------------------------------------------------


def named(instance: Instance, what: str) -> Instance:
    """Return an instance under a name that says what is left of it."""
    return instance.replace(name=f"{instance.name}: {what}")


def one_copy(instance: Instance) -> Instance:
    """Let every expert have one copy."""
    limits = msgspec.structs.replace(instance.spec.limits, copies=1)
    return instance.replace(limits=limits)


def no_reductions(instance: Instance) -> Instance:
    """Let every call be served whole by its own expert."""
    kept = {
        name: array for name, array in instance.arrays.items() if name not in REDUCING
    }
    return type(instance)(spec=instance.spec, arrays=kept, source=instance.source)


def one_format(instance: Instance, name: str) -> Instance:
    """Let all copies be in one format of the instance."""
    spec = instance.spec
    names = [one if isinstance(one, str) else one.name for one in spec.formats]
    model = msgspec.structs.replace(
        spec.model, loss_formats=spec.model.loss_formats or names
    )
    return instance.replace(formats=[spec.formats[names.index(name)]], model=model)


def fitting_formats(instance: Instance) -> list[str]:
    """Return the formats in which one copy of every expert fits, largest first."""
    problem = build_problem(instance)
    size = problem.size_bytes.sum(axis=0)
    room = problem.room_bytes.clip(min=0.0).sum()
    order = sorted(range(problem.num_formats), key=lambda b: -float(size[b]))
    return [problem.labels.formats[b] for b in order if size[b] <= room]


def loses_too_much(instance: Instance) -> bool:
    """Whether no plan of an instance can keep its quality budgets, by a simple bound.

    A call that is not pruned loses what a copy loses, at least the least of any that
    may answer; as much is pruned as the segments hold, where that loses less.
    """
    problem = build_problem(instance)
    least = problem.format_loss.min(axis=2)  # (G, N)
    layer = problem.layer_of
    if len(problem.similar):
        of_layer = np.minimum.reduceat(least, problem.layer_start[:-1], axis=1)
        least = of_layer[:, layer]
    saved = least[:, :, None] - problem.prune_loss[:, layer]  # (G, N, M)
    most = (np.maximum(saved, 0.0) * problem.prune_width[:, layer]).sum(axis=2)
    least = np.maximum(least - most, 0.0)
    lost = (problem.calls * least).sum(axis=1)
    return bool((lost > problem.quality_budget * (1 + FEASIBILITY)).any())


def edits(instance: Instance) -> dict[tuple[str, str], Instance]:
    """Return what is left of an instance, by what is off and by the format if any.

    Formats in which the model does not fit, or that lose too much, are left out: no
    plan has them alone.
    """
    made = {
        (COPIES, ""): named(one_copy(instance), COPIES),
        (REDUCTIONS, ""): named(no_reductions(instance), REDUCTIONS),
    }
    for name in fitting_formats(instance):
        single = one_format(instance, name)
        alone = one_copy(no_reductions(single))
        made[FORMATS, name] = named(single, f"{FORMATS}, {name}")
        made[PLACEMENT, name] = named(alone, f"{PLACEMENT}, {name}")
    return {key: one for key, one in made.items() if not loses_too_much(one)}


# -- the study -------------------------------------------------------------------------


def run(setting: Setting) -> str:
    """Compare, and write what the parts are worth."""
    library = Library()
    names = chosen(setting, INSTANCES)
    records = setting.compare(library, library.trials(names), [JOINT, SEQUENTIAL])
    found: dict[str, dict[tuple[str, str], RunRecord]] = {
        name: {(one.label, ""): one for one in records if one.instance == name}
        for name in names
    }
    for name, instance in read_all(names).items():
        for key, made in edits(instance).items():
            found[name][key] = setting.compare(
                library, library.trials([setting.kept(made)]), [JOINT]
            )[0]
    everything = [one for mine in found.values() for one in mine.values()]
    bounds = best_bounds(everything, setting.index())
    known = {
        name: entry.best.objective
        for name, entry in setting.index().items()
        if entry.best is not None
    }
    table = worth_table(found, {at: one.value for at, one in bounds.items()}, known)
    return "\n".join([facts(setting, everything), "", shown(table)])


def worth_table(
    found: Mapping[str, Mapping[tuple[str, str], RunRecord]],
    bounds: Mapping[str, float],
    known: Mapping[str, float],
) -> Table:
    """Return objectives without each part, divided by the best one known with all.

    Parameters
    ----------
    found
        By instance, and by what is off and the format; the joint run is ``(auto, "")``.
    bounds
        Best certified bound by digest of the instance.
    known
        Objective of the best plan of the library, by instance.
    """
    rows = []
    for name, mine in found.items():
        plans = [one.objective for one in mine.values() if one.ranked]
        best = min(
            [
                known.get(name, math.inf),
                *(value for value in plans if value is not None),
            ]
        )
        digest = mine[JOINT, ""].instance_digest
        rows.append(
            (
                name,
                best,
                relative_gap(best, bounds.get(digest)),
                *(
                    _worth(
                        [(key[1], mine[key]) for key in mine if key[0] == what],
                        best,
                        bounds,
                        whole=what in (JOINT, SEQUENTIAL),
                    )
                    for what in (
                        JOINT,
                        SEQUENTIAL,
                        COPIES,
                        REDUCTIONS,
                        FORMATS,
                        PLACEMENT,
                    )
                ),
            )
        )
    return Table(
        name="worth",
        title="What each part is worth",
        caption=(
            "Best: the best plan known of the whole instance, of these runs (a plan "
            "without a part is a plan of the whole too) or of the library, and its gap."
            " Ratios: objective of the plan found over the best; in brackets what the "
            "ratio is at least, by the certified bound of what is left: no plan "
            "without the part does better. One format: the best of those in which the "
            "model fits and keeps its quality budgets. Placement alone: one copy, one "
            "format, no reductions. No plan exists: proved."
        ),
        columns=columns_of(
            ("instance", "text"),
            ("best", "number"),
            ("gap", "percent"),
            (JOINT, "text"),
            (SEQUENTIAL, "text"),
            (COPIES, "text"),
            (REDUCTIONS, "text"),
            (FORMATS, "text"),
            (PLACEMENT, "text"),
        ),
        rows=tuple(rows),
    )


def _worth(
    runs: Sequence[tuple[str, RunRecord]],
    best: float,
    bounds: Mapping[str, float],
    *,
    whole: bool,
) -> str:
    """Write the ratio of the best of some runs; unless ``whole``, what it is at least.

    Prices of a problem without a plan rise for ever, and so does its bound.
    """
    least = min(
        (
            math.inf
            if one.status == "infeasible"
            else bounds.get(one.instance_digest, 0.0) / best
            for _, one in runs
        ),
        default=math.inf,
    )
    if math.isinf(least):
        return "no plan exists"
    at_least = f"> {SOARING:g}" if least > SOARING else f"≥ {max(least, 1.0):.3f}"
    proved = "" if whole else f" ({at_least})"
    ranked = [
        (one.objective, form)
        for form, one in runs
        if one.ranked and one.objective is not None
    ]
    if ranked:
        value, form = min(ranked)
        return f"{value / best:.3f}{proved}" + (f", {form}" if form else "")
    if len(runs) == 1 and runs[0][1].status == "violating":
        return "breaks rows"
    return f"none found{proved}"

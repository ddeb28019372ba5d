"""How much each tightening lifts the root bound.

``python -m tests.benchmarks.tighten [INSTANCE...]``

For each instance the linear relaxation is solved with all inequalities of
`meldopt.formulations.milp.TIGHTENINGS`, and again with each of them left out; in
`roam` also with the products of locations linearised in the textbook way. A bound is
printed as a share of the best objective known; what is missing to 100 % is the gap at
the root.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from meldopt import build_problem, read_instance, read_plan, solve
from meldopt.engines.highs import solve_highs
from meldopt.formulations.milp import TIGHTENINGS, Formulation, build_milp
from meldopt.library import best_plan, instance_names
from meldopt.score import score

if TYPE_CHECKING:
    from meldopt.formulations.linear import LinearModel
    from meldopt.problem import Problem

WEAK = "products"
"""Name of the comparison with ``p >= x + x' - 1`` in `roam`."""


def weak_products(form: Formulation) -> LinearModel:
    """Return a `roam` model with ``p >= x + x' - 1`` in place of sums over one end.

    ``x`` is the location of an expert, the sum of its copies on a server. Costs are
    not negative, so the other half of the textbook linearisation is not needed.
    """
    model, problem, z = form.model, form.problem, form.z
    assert z is not None
    blocks = {block.name: block for block in model.rows}
    drop = np.zeros(model.num_rows, dtype=bool)
    for name in ("pair_from", "pair_to"):
        drop[blocks[name].range] = True
    p = next(block for block in model.columns if block.name == "p")
    # Rows of pair_from and pair_to say where a location stands: p sums less x is 0.
    x_of = {}
    for name in ("pair_from", "pair_to"):
        n, s = blocks[name].keys
        rows = model.matrix[blocks[name].range][:, z.range]
        x_of[name] = (
            {
                key: row
                for row, key in enumerate(zip(n.tolist(), s.tolist(), strict=True))
            },
            rows,
        )
    n, s, t = (key.tolist() for key in p.keys)
    first, ends = x_of["pair_from"]
    other, tails = x_of["pair_to"]
    from_ = [first[key] for key in zip(n, s, strict=True)]
    to = [other[key] for key in zip(n, t, strict=True)]
    on_z = ends[from_] + tails[to]  # minus x and minus x'
    wide = sp.lil_matrix((p.size, model.num_columns))
    wide[:, z.start : z.stop] = on_z
    wide[np.arange(p.size), p.range] = 1.0
    assert problem.dataflow == "roam"
    return dataclasses.replace(
        model,
        matrix=sp.vstack([model.matrix[~drop], wide.tocsr()]).tocsr(),
        row_lower=np.concatenate([model.row_lower[~drop], np.full(p.size, -1.0)]),
        row_upper=np.concatenate([model.row_upper[~drop], np.full(p.size, np.inf)]),
    )


def root_bound(model: LinearModel, time_limit: float) -> tuple[float | None, float]:
    """Return the bound of the linear relaxation, none if time ran out, and seconds."""
    begun = perf_counter()
    outcome = solve_highs(model, relax=True, time_limit=time_limit)
    seconds = perf_counter() - begun
    if outcome.bound is None:
        return None, seconds
    return model.true_objective(outcome.bound), seconds


def best_known(name: str, problem: Problem, time_limit: float) -> float:
    """Return the objective of the bundled best plan, or of a solve with `milp`."""
    path = best_plan(name)
    if path is not None:
        return score(problem, read_plan(path, problem)).objective
    return solve(problem, "milp", time_limit=time_limit).objective


def measure(name: str, time_limit: float) -> dict[str, tuple[float | None, float]]:
    """Return bound and seconds of each variant of an instance's model."""
    problem = build_problem(read_instance(name))
    every = frozenset(TIGHTENINGS)
    variants = {"all": build_milp(problem)}
    for left_out in TIGHTENINGS:
        variants[left_out] = build_milp(problem, tighten=every - {left_out})
    models = {label: form.model for label, form in variants.items()}
    size = models["all"].num_rows, models["all"].num_columns
    used = {"all": models["all"]} | {
        label: model
        for label, model in models.items()
        if (model.num_rows, model.num_columns) != size
    }
    if problem.dataflow == "roam" and len(problem.pairs):
        used[WEAK] = weak_products(variants["all"])
    return {label: root_bound(model, time_limit) for label, model in used.items()}


def main() -> int:
    """Print one line for each instance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "instances", nargs="*", help="names or paths; those of tiny/ if none"
    )
    parser.add_argument(
        "-t", "--time-limit", type=float, default=60.0, help="seconds for each LP"
    )
    given = parser.parse_args()
    chosen = given.instances or [
        name for name in instance_names() if name.startswith("tiny/")
    ]
    if not chosen:
        print("no instances: name some", file=sys.stderr)
        return 1
    labels = ["all", *TIGHTENINGS, WEAK]
    heads = ["instance", "all", *(f"without {name}" for name in labels[1:])]
    print("| " + " | ".join(heads) + " |")
    print("|---" + "|---:" * len(labels) + "|")
    for name in chosen:
        problem = build_problem(read_instance(name))
        best = best_known(name, problem, given.time_limit)
        bounds = measure(name, given.time_limit)
        cells = []
        for label in labels:
            if label not in bounds:
                cells.append("")  # the instance has nothing that it would tighten
                continue
            bound, _ = bounds[label]
            cells.append("time" if bound is None else f"{100 * bound / best:.2f} %")
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

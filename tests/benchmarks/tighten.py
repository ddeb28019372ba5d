"""How much each tightening lifts the root bound.

``python -m tests.benchmarks.tighten [INSTANCE...]``

For each instance the linear relaxation is solved with all inequalities of
`meldopt.formulations.milp.TIGHTENINGS`, and again with each of them left out. A bound
is printed as a share of the best objective known; what is missing to 100 % is the gap
at the root, before cuts and branching.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import numpy as np

from meldopt import build_problem, read_instance, read_plan, solve
from meldopt.engines.highs import solve_highs
from meldopt.formulations.milp import TIGHTENINGS, build_milp
from meldopt.library import best_plan, instance_names
from meldopt.score import score

if TYPE_CHECKING:
    from meldopt.formulations.linear import LinearModel
    from meldopt.problem import Problem


def same(one: LinearModel, other: LinearModel) -> bool:
    """Say whether two models are the same, number by number."""
    return (
        one.matrix.shape == other.matrix.shape
        and one.matrix.nnz == other.matrix.nnz
        and not (one.matrix != other.matrix).nnz
        and np.array_equal(one.row_lower, other.row_lower)
        and np.array_equal(one.row_upper, other.row_upper)
    )


def root_bound(model: LinearModel, time_limit: float) -> float | None:
    """Return the bound of the linear relaxation; None if time ran out."""
    outcome = solve_highs(model, relax=True, time_limit=time_limit)
    return None if outcome.bound is None else model.true_objective(outcome.bound)


def best_known(name: str, problem: Problem, time_limit: float) -> float:
    """Return the objective of the bundled best plan, or of a solve with `milp`."""
    path = best_plan(name)
    if path is not None:
        return score(problem, read_plan(path, problem)).objective
    return solve(problem, "milp", time_limit=time_limit).objective


def measure(problem: Problem, time_limit: float) -> dict[str, float | None]:
    """Return the root bound with all tightenings, and without each that matters.

    A tightening whose absence changes nothing in the model is left out of the result.
    """
    every = frozenset(TIGHTENINGS)
    full = build_milp(problem, by_layer=True).model
    bounds = {"all": root_bound(full, time_limit)}
    for name in TIGHTENINGS:
        model = build_milp(problem, by_layer=True, tighten=every - {name}).model
        if not same(full, model):
            bounds[name] = root_bound(model, time_limit)
    return bounds


def main() -> int:
    """Print a Markdown table, one line for each instance."""
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
    heads = ["instance", "all", *(f"without {name}" for name in TIGHTENINGS)]
    print("| " + " | ".join(heads) + " |")
    print("|---" + "|---:" * (len(heads) - 1) + "|")
    for name in chosen:
        problem = build_problem(read_instance(name))
        best = best_known(name, problem, given.time_limit)
        bounds = measure(problem, given.time_limit)
        cells = [
            "–"
            if label not in bounds
            else "out of time"
            if bounds[label] is None
            else f"{100 * bounds[label] / best:.2f} %"
            for label in ("all", *TIGHTENINGS)
        ]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the last step gains for `parallel`: plans before and after, and the bound.

    python -m tests.benchmarks.parallel [SECONDS] [CASE...]

Each case is solved by `dual`, which bounds the term and plans by `serial` in its place;
the plan is then improved by large-neighbourhood search on that stand-in (``lns``), and
on the sampled tokens (``sampled``), at equal time. Prints Markdown.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.builder import build_problem
from meldopt.gap import relative_gap
from meldopt.generate import generate
from meldopt.instance import read_instance
from meldopt.problem import TERMS
from meldopt.solver import MaxRuntime, make_solver

if TYPE_CHECKING:
    from collections.abc import Callable

    from meldopt.plan import Plan
    from meldopt.problem import Problem

SECONDS = 20.0
"""Of each of the three runs."""


def made(family: str, **parameters: Any) -> Callable[[], Problem]:
    """Return what generates a problem."""
    return lambda: build_problem(
        generate(family, name=family, seed=1, parameters=parameters)
    )


CASES: dict[str, Callable[[], Problem]] = {
    "tiny/fluid": lambda: build_problem(read_instance("tiny/fluid")),
    "tinymoe/edge-4": lambda: build_problem(read_instance("tinymoe/edge-4")),
    "star, 32 experts": made("star", layers=4, servers=4, samples=200, prune=[]),
    "tree, 64 experts": made("device-edge-cloud", layers=8, samples=200, prune=[]),
    "metro, olmoe, 1024 experts": made(
        "metro", model="olmoe-1b-7b", servers=6, samples=500, tightness=0.02
    ),
    "metro, olmoe, nothing pruned": made(
        "metro", model="olmoe-1b-7b", servers=6, samples=500, tightness=0.02, prune=[]
    ),
}
"""Problems with sampled tokens by name; each gets `parallel` as its objective."""


def with_parallel(problem: Problem) -> Problem:
    """Return a problem whose objective is `parallel`."""
    weights = np.zeros(len(TERMS))
    weights[TERMS.index("parallel")] = 1.0
    return problem.replace(weights=weights)


def improved(problem: Problem, plan: Plan, share: float, seconds: float) -> float:
    """Improve a plan, with so much of the time for the stand-in; return its value."""
    from meldopt_solvers.search import lns

    before = lns.SURROGATE_SHARE
    lns.SURROGATE_SHARE = share
    try:
        result = make_solver("lns").solve(
            problem, stop=MaxRuntime(seconds), seed=0, start=plan
        )
    finally:
        lns.SURROGATE_SHARE = before
    return result.objective


def row(name: str, seconds: float) -> list[str]:
    """Return the cells of a case."""
    problem = with_parallel(CASES[name]())
    first = make_solver("dual").solve(problem, stop=MaxRuntime(seconds), seed=0)
    if first.plan is None or not first.feasible:
        return [name, "–", "–", "–", "–", "–", "–"]
    old = improved(problem, first.plan, 1.0, seconds)
    new = improved(problem, first.plan, 0.3, seconds)
    gap = relative_gap(new, first.bound)
    return [
        name,
        f"{first.objective:.6g}",
        f"{old:.6g}",
        f"{new:.6g}",
        f"{100 * (old - new) / abs(old):.2f} %" if old else "–",
        "–" if first.bound is None else f"{first.bound:.6g}",
        "–" if gap is None else f"{100 * gap:.1f} %",
    ]


def main(arguments: list[str]) -> int:
    """Print the table."""
    seconds, names = SECONDS, list(CASES)
    if arguments:
        seconds = float(arguments[0])
        names = arguments[1:] or names
    for name in names:
        if name not in CASES:
            known = ", ".join(CASES)
            print(f"error: got {name!r}, expected one of: {known}", file=sys.stderr)
            return 2
    print("| instance | dual | lns | sampled | gained | bound | gap |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in names:
        print("| " + " | ".join(row(name, seconds)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

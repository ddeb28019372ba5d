"""Prove the optimum of each tiny instance by enumeration and keep its plan.

    python instances/tiny/prove.py [NAME…]

Every set of copies is tried, the best shares of each are a linear programme
(``tests/oracle.py``, which shares no code with the solvers). The plans go to
``instances/best/tiny/``, with the objective as their bound.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parents[1] / "tests")]

from make import keep  # noqa: E402
from oracle import optimum  # noqa: E402

from meldopt import build_problem, read_instance, score  # noqa: E402


def prove(name: str) -> None:
    """Enumerate one instance and write its optimum."""
    problem = build_problem(read_instance(FOLDER / f"{name}.json"))
    found = optimum(problem)
    if found.plan is None:
        raise SystemExit(f"tiny/{name}: is infeasible")
    keep(
        f"tiny/{name}",
        problem,
        found.plan,
        solver="enumeration",
        seed=None,
        bound=score(problem, found.plan).objective,
        force=True,
    )


def main() -> None:
    """Prove the instances that are named, or all of them."""
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.json")):
        prove(name)


if __name__ == "__main__":
    main()

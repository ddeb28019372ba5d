"""The gap reached in `roam`: classic assignment problems, and what is bundled.

``python -m tests.benchmarks.roam [-t SECONDS] [NAME...]``

For each instance `roam_search` looks for a plan from nothing, then `roam_bound` bounds
from below with that plan known. Classic instances (quadratic assignment, generalised
quadratic assignment, task allocation) are read from the folder in ``MELDOPT_DATA``, and
left out without it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from meldopt import build_problem, read_instance, read_plan
from meldopt.gap import relative_gap
from meldopt.library import best_plan, instance_names
from meldopt.score import score
from meldopt.solver import MaxRuntime
from meldopt_solvers.relaxation.roam import roam_bound
from meldopt_solvers.search.roam_lns import roam_search

if TYPE_CHECKING:
    from meldopt.problem import Problem

CLASSIC = (
    *(f"ctap/tassc1003A{letter}.dat" for letter in "abcde"),
    *(f"gqap/leema-10X5-{one}-{two}.txt" for one in "EF" for two in "GH"),
    "gqap/20-15-35.txt",
    "qap/chr12a.dat",
    "qap/had12.dat",
    "qap/nug12.dat",
)
"""Files below ``classic`` in the data folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRow:
    """What was reached on one instance.

    Attributes
    ----------
    best
        Published or bundled objective; None if there is none.
    found_s, bound_s
        Seconds until the best plan was found, and spent on the bound.
    """

    name: str
    experts: int
    servers: int
    best: float | None
    found: float
    found_s: float
    bound: float
    bound_s: float
    nodes: int

    @property
    def gap(self) -> float | None:
        """Of the plan found."""
        return relative_gap(self.found, self.bound)

    def line(self) -> str:
        """Return the row as Markdown."""
        gap = "–" if self.gap is None else f"{100 * self.gap:.2f} %"
        cells = [
            self.name,
            f"{self.experts} × {self.servers}",
            "–" if self.best is None else f"{self.best:.7g}",
            f"{self.found:.7g}",
            f"{self.found_s:.1f}",
            f"{self.bound:.7g}",
            gap,
            f"{self.bound_s:.0f}",
            str(self.nodes),
        ]
        return "| " + " | ".join(cells) + " |"


def load(name: str) -> tuple[Problem, float | None] | None:
    """Return a problem and its best objective known; None without the data for it."""
    if name in CLASSIC:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        import pytest
        from special import classic

        readers = {
            "ctap": classic.read_ctap,
            "gqap": classic.read_gqap,
            "qap": classic.read_qap,
        }
        try:
            instance = readers[name.split("/")[0]](name)
        except pytest.skip.Exception:
            return None
        return build_problem(instance), classic.published(name)
    problem = build_problem(read_instance(name))
    path = best_plan(name)
    best = None if path is None else score(problem, read_plan(path, problem)).objective
    return problem, best


def measure(name: str, seconds: float) -> GapRow | None:
    """Search for a quarter of the time, bound for the rest of it."""
    loaded = load(name)
    if loaded is None:
        return None
    problem, best = loaded
    # Compile before the clock runs.
    roam_search(problem, None, MaxRuntime(0.01), 0)
    roam_bound(problem, deadline=perf_counter())
    run = roam_search(problem, None, MaxRuntime(seconds / 4), 0)
    found_s = next(
        (at for at, value, _ in run.log.history if value <= run.objective), 0.0
    )
    started = perf_counter()
    bounded = roam_bound(
        problem, deadline=started + 0.75 * seconds, upper=run.objective
    )
    found = run.objective
    if bounded.plan is not None:
        found = score(problem, bounded.plan).objective
    return GapRow(
        name=name,
        experts=problem.num_experts,
        servers=problem.num_servers,
        best=best,
        found=found,
        found_s=found_s,
        bound=bounded.bound,
        bound_s=perf_counter() - started,
        nodes=bounded.nodes,
    )


def rows(names: list[str], seconds: float) -> list[GapRow]:
    """Measure instances; those without data are left out."""
    measured = (measure(name, seconds) for name in names)
    return [row for row in measured if row is not None]


def main() -> int:
    """Print a Markdown table, one line for each instance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instances", nargs="*", help="names; all if none")
    parser.add_argument(
        "-t", "--time-limit", type=float, default=60.0, help="seconds for each"
    )
    given = parser.parse_args()
    bundled = [name for name in instance_names() if "/roam-" in name]
    heads = ["instance", "size", "best known", "found", "after s", "bound", "gap"]
    heads += ["bound s", "nodes"]
    print("| " + " | ".join(heads) + " |")
    print("|---" + "|---:" * (len(heads) - 1) + "|")
    for name in given.instances or [*CLASSIC, *bundled]:
        for row in rows([name], given.time_limit):
            print(row.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

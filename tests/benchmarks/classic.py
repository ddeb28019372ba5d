"""Published values of classic problems, through the default solver.

``python -m tests.benchmarks.classic [-t SECONDS] [-s SOLVER] [NAME...]``

Generalised assignment, task allocation, (generalised) quadratic assignment as instances
of meldopt. None of them has a path of its own in a solver: ``auto`` gets the problem
like any other. Read from the folder in ``MELDOPT_DATA``; without it nothing is printed
but a line that says so. A name may be the start of several, as in ``gap/``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meldopt.builder import build_problem
from meldopt.solver import solve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meldopt.instance import Instance

SECONDS = 20.0
"""Limit of each run."""

MISSING = "no data for tests: set MELDOPT_DATA"

HEAD = (
    "| instance | items × places | best known | objective | above it | bound | gap |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A classic instance in the data for tests.

    Attributes
    ----------
    file
        Below the folder ``classic``; its own folder names the problem.
    best
        The least objective that was published.
    optimal
        Whether it was published as proved.
    """

    file: str
    items: int
    places: int
    best: float
    optimal: bool


def published() -> list[Published]:
    """List the classic instances; empty without the data."""
    classic = readers()
    try:
        folder = classic.data_folder("classic")
    except pytest.skip.Exception:
        return []
    with (folder / "best.csv").open() as stream:
        return [
            Published(
                file=row["file"],
                items=int(row["items"]),
                places=int(row["places"]),
                best=float(row["best"]),
                optimal=row["status"] == "optimal",
            )
            for row in csv.DictReader(stream)
        ]


def readers() -> Any:
    """Return the module that reads the files; it lies beside the tests that use it."""
    folder = str(Path(__file__).parents[1])
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from special import classic

    return classic


def read(row: Published) -> Instance:
    """Read an instance."""
    problem = row.file.partition("/")[0]
    made: Instance = getattr(readers(), f"read_{problem}")(row.file)
    return made


def line(row: Published, solver: str, seconds: float) -> str:
    """Solve an instance; return its row of the table."""
    problem = build_problem(read(row))
    result = solve(problem, solver, time_limit=seconds)
    found = result.objective if result.feasible else None
    above = None if found is None else (found - row.best) / abs(row.best)
    cells = [
        row.file,
        f"{row.items} × {row.places}",
        f"{row.best:g}{'' if row.optimal else ' (not proved)'}",
        "–" if found is None else f"{found:.7g}",
        "–" if above is None else f"{100 * max(above, 0.0):.3f} %",
        "–" if result.bound is None else f"{result.bound:.7g}",
        "–" if result.gap is None else f"{100 * result.gap:.3f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def table(names: list[str], solver: str, seconds: float) -> Iterator[str]:
    """Yield the lines of the table; instances whose names start so, or all."""
    rows = published()
    known = [row for row in rows if not names or row.file.startswith(tuple(names))]
    if known:
        yield HEAD
    for row in known:
        yield line(row, solver, seconds)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("instances", nargs="*", help="names or starts of them")
    parser.add_argument("-t", "--time-limit", type=float, default=SECONDS)
    parser.add_argument("-s", "--solver", default="auto")
    given = parser.parse_args(arguments)
    lines = 0
    for text in table(given.instances, given.solver, given.time_limit):
        print(text, flush=True)
        lines += 1
    if not lines:
        print(
            "error: no instance is called so" if published() else MISSING,
            file=sys.stderr,
        )
        return 2 if published() else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

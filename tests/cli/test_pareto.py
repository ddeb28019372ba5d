"""``meldopt pareto``: the table, its files, and what is refused before any work."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest

from meldopt import build_problem, read_instance, read_plan, score

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Invoke

ASK = ("--terms", "serial,quality", "--points", "3", "--work", "100")


@pytest.fixture(name="traced")
def _traced(run: Invoke, tight: Path, here: Path) -> dict[str, object]:
    """Trace a small front with all of its files, and return what JSON says of it."""
    done = run(
        *("pareto", tight, *ASK, "--json", "-q"),
        *("-o", "front.json", "--plans", "plans", "--plot", "front.svg"),
    )
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_json_says_what_is_proved(traced: dict, here: Path) -> None:
    """Terms, bounds and gaps of each point, lines and steps; the file says the same."""
    assert traced["terms"] == ["serial", "quality"]
    assert 2 <= len(traced["points"]) <= 3
    for point in traced["points"]:
        assert point["bound"]["serial"] <= point["serial"]
        assert point["bound"]["quality"] <= point["quality"]
        assert point["terms"]["serial"] == point["serial"]
    assert {"serial", "quality", "at_least"} == set(traced["proved"]["lines"][0])
    assert json.loads((here / "front.json").read_text()) == traced


def test_plans_are_those_of_the_points(traced: dict, tight: Path, here: Path) -> None:
    """Each file is a plan of the instance that is worth what its point says."""
    problem = build_problem(read_instance(tight))
    for point in traced["points"]:
        plan = read_plan(here / point["plan"], problem)
        judged = score(problem, plan)
        assert judged.feasible
        assert judged.terms["serial"] == pytest.approx(point["serial"], rel=1e-9)
        assert plan.num_copies == point["copies"]
    assert len(list((here / "plans").iterdir())) == len(traced["points"])
    assert (here / "front.svg").read_text().startswith("<?xml")


def test_the_table_and_the_csv(run: Invoke, tight: Path, here: Path) -> None:
    """People get a table, and where asked for the same numbers as CSV."""
    done = run("pareto", tight, *ASK, "-o", "front.csv")
    assert done.exit_code == 0
    assert "largest gap" in done.stdout
    assert "run 1: 1 x serial" in done.stderr
    rows = list(csv.DictReader((here / "front.csv").read_text().splitlines()))
    assert 2 <= len(rows) <= 3
    for row in rows:
        assert f"{float(row['serial']):.6g}" in done.stdout
        assert float(row["serial_bound"]) <= float(row["serial"])


def test_nothing_found_is_exit_code_one(
    run: Invoke, infeasible: Path, here: Path
) -> None:
    """An instance without a plan has no front; the picture is left out."""
    done = run("pareto", infeasible, *ASK, "--plot", "front.svg")
    assert done.exit_code == 1
    assert "infeasible" in done.stdout
    assert not (here / "front.svg").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--terms", "serial"), "expected two different ones"),
        (("--terms", "serial,pair"), "dataflow home"),
        (("--terms", "parallel,quality"), "no sampled tokens"),
        (("--range", "1"), "expected LOW:HIGH"),
        (("--range", "2:1"), "range: got 2:1"),
        (("--points", "1"), "points"),
        (("-s", "nothing"), "nothing"),
        (("-s", "lpt"), "cannot minimise 'serial', it can: no term"),
        (("-o", "front.txt"), "expected .json or .csv"),
        (("--plot", "front.gif"), "expected one in"),
        (("--plot", "missing/front.svg"), "missing"),
        (("--plans", "tight.json"), "expected a folder"),
        (("--start", "missing.json"), "missing.json"),
    ],
)
def test_bad_input_is_one_line(
    run: Invoke, tight: Path, here: Path, options: tuple[str, ...], text: str
) -> None:
    """Refused with exit code 2 before anything is solved or written."""
    done = run("pareto", tight, *options)
    assert done.exit_code == 2
    assert text in done.stderr
    assert "run 1" not in done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["tight.json"]

"""``meldopt compare``: tables, files, refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from meldopt.compare.records import read_records
from meldopt.instance import write_instance
from meldopt.testing import contract_instance

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Invoke

pytestmark = pytest.mark.usefixtures("plugins")


@pytest.fixture
def loose(here: Path) -> Path:
    """Return the file of a small instance whose rows do not bind."""
    write_instance(contract_instance("loose"), here / "loose.json")
    return here / "loose.json"


def test_a_table_and_a_folder(
    run: Invoke, tight: Path, loose: Path, here: Path
) -> None:
    """Every run is a record; the table names best, ratio, gap and what went wrong."""
    command = ["compare", tight, loose, "-s", "toy,empty,toy[fail=engine]"]
    command += [*["--set", "empty.x=1"][:0], "--seeds", 2, "-t", 60, "-o", "out"]
    done = run(*command)
    assert done.exit_code == 0, done.output
    records = read_records(here / "out")
    assert len(records) == 2 * 3 * 2
    assert {(one.label, one.status) for one in records} == {
        ("toy", "feasible"),
        ("empty", "unknown"),
        ("toy[fail=engine]", "crashed"),
    }
    assert {one.seed for one in records} == {0, 1}
    words = ["contract-tight", "contract-loose", "unknown", "crashed", "best"]
    assert [word for word in words if word not in done.stdout] == []
    assert "SolverError: the engine of toy crashed" in done.stdout
    assert "meldopt report out" in done.stdout
    assert "12 of 12 runs" in done.stderr
    assert "at a time" in done.stderr

    again = run(*command, "--json")
    assert again.exit_code == 0
    document = json.loads(again.stdout)
    assert document["folder"] == "out"
    assert len(document["records"]) == 12
    assert "12 from before" in again.stderr
    assert read_records(here / "out") == records


def test_nothing_feasible_is_exit_1(run: Invoke, tight: Path, here: Path) -> None:
    """If no run has a feasible plan the exit code says so; results are kept."""
    done = run("compare", tight, "-s", "empty", "-t", 60, "-o", "out", "-q")
    assert done.exit_code == 1
    assert done.stderr == ""
    assert len(read_records(here / "out")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json", "-s", "toy"], "no such file"),
        (["tight.json", "-s", "tou"], "did you mean"),
        (["tight.json", "-s", "toy[speed=1]"], "'speed'"),
        (["tight.json", "-s", "toy", "--set", "toy=1"], "SOLVER.KEY=VALUE"),
        (["tight.json", "-s", "toy", "--set", "empty.x=1"], "not compared"),
        (["tight.json", "-s", "toy", "--seeds", 2, "--seed", "1"], "exclude"),
        (["tight.json", "-s", "toy", "--seed", "1,x"], "'x'"),
        (["tight.json", "-s", "toy", "-t", "1,-2"], "0 or more"),
        (["tight.json", "-s", "toy", "--memory", "much"], "--memory"),
        (["tight.json", "-s", "toy", "--reroute"], "--reroute"),
        (["tight.json", "-s", "toy", "--events"], "--events"),
        (["tight.json", "-s", "toy", "--trace", "no.npz"], "no.npz"),
        (["tight.json", "-s", "toy", "--trace", "tinymoe/a/test"], "expected 2"),
        (["tight.json", "-s", "toy", "--test", "tiny/memory"], "cannot judge"),
        (["-s", "toy"], "no instance"),
        (["tight.json"], "--solvers"),
    ],
)
def test_bad_input_writes_nothing(
    run: Invoke, tight: Path, here: Path, arguments: list[object], message: str
) -> None:
    """Whatever can be refused is one line and exit 2, before anything is written."""
    before = sorted(here.iterdir())
    done = run("compare", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert sorted(here.iterdir()) == before


def test_a_folder_that_cannot_be_one_is_refused(
    run: Invoke, tight: Path, here: Path
) -> None:
    """A file in the place of the folder is not overwritten."""
    (here / "out").write_text("mine")
    done = run("compare", tight, "-s", "toy", "-o", "out")
    assert done.exit_code == 2
    assert "cannot be a folder of results" in done.stderr
    assert (here / "out").read_text() == "mine"


def test_a_frozen_plan_has_a_row_of_its_own(
    run: Invoke, tight: Path, loose: Path, here: Path
) -> None:
    """--train and --test are instances of one model and cluster; rows name both."""
    done = run(
        *("compare", "-s", "toy", "-t", 60, "-o", "out", "--jobs", 1, "--threads", 1),
        *("--train", tight, "--test", loose),
    )
    assert done.exit_code == 0, done.output
    (record,) = read_records(here / "out")
    assert (record.train, record.instance) == ("contract-tight", "contract-loose")
    assert record.trained is not None
    assert "planned on contract-tight (default)" in done.stdout
    assert "1 runs, 1 at a time, 1 thread each" in done.stderr

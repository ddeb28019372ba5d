from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from run_records import fingerprint, many, record, replayed

from meldopt.compare.listings import (
    instances_table,
    runs_table,
    solvers_table,
)
from meldopt.compare.markup import to_csv, to_latex, to_markdown
from meldopt.compare.records import TrainedRecord, ViolationRecord
from meldopt.compare.standing import best_bounds, standing
from meldopt.compare.tables import (
    failures_table,
    of_greedy,
    results_table,
    summary_table,
    violations_table,
)

if TYPE_CHECKING:
    from meldopt.compare.markup import Cell, Table
    from meldopt.compare.records import RunRecord


def cells(table: Table, *keys: Cell) -> dict[str, Cell]:
    """Return the one row that begins with these cells, by column."""
    (row,) = [row for row in table.rows if row[: len(keys)] == keys]
    return dict(zip((column.name for column in table.columns), row, strict=True))


@pytest.fixture
def runs() -> list[RunRecord]:
    """Return two instances of one family and one of another, and four solvers."""
    return [
        record("f/a", "greedy", 4.0),
        record("f/a", "good", 2.0, bound=1.0),
        record(
            "f/a",
            "blind",
            1.5,
            status="violating",
            violations=[
                ViolationRecord(row="memory", where="lab/gpu", amount=5.0),
                ViolationRecord(row="memory", where="van/gpu", amount=7.0),
                ViolationRecord(row="link", where="lab -> van", amount=0.5),
            ],
            ignored=["budgets"],
        ),
        record("f/a", "frail", None, status="crashed", error="died of signal 11"),
        record("f/b", "greedy", 3.0),
        record("f/b", "good", 3.0),
        record("f/b", "blind", 6.0),
        record("f/b", "frail", None, status="hung"),
        record("g/c", "greedy", 8.0),
        record("g/c", "good", 1.0),
        record("g/c", "blind", 1.0),
        record("g/c", "frail", None, status="refused", error="home only"),
    ]


def test_results_by_hand(runs: list[RunRecord]) -> None:
    """Gap (2 - 1) / 2; of greedy's (2 - 1) / (4 - 1); ratio 2 for greedy."""
    table = results_table(standing(runs), best_bounds(runs))
    solver = [column.name for column in table.columns].index("solver")
    first = [row for row in table.rows if row[0] == "f/a"]
    assert [row[solver] for row in first] == ["good", "greedy", "blind", "frail"]
    good, greedy, blind, frail = (
        dict(zip((one.name for one in table.columns), row, strict=True))
        for row in first
    )
    assert good["gap"] == pytest.approx(0.5)
    assert good["of greedy's"] == pytest.approx(1 / 3)
    assert (greedy["ratio"], greedy["gap"]) == (2.0, 0.75)
    assert greedy["of greedy's"] == pytest.approx(1.0)
    assert (blind["status"], frail["status"]) == ("violating", "crashed")


def test_violating_rows_have_no_value(runs: list[RunRecord]) -> None:
    """What is not ranked shows neither objective nor ratio nor gap."""
    table = results_table(standing(runs), best_bounds(runs))
    for row in table.rows:
        cell = dict(zip((one.name for one in table.columns), row, strict=True))
        if cell["status"] not in ("feasible", "optimal"):
            assert cell["objective"] is None
            assert cell["ratio"] is None
            assert cell["gap"] is None


def test_seeds_and_spread() -> None:
    """Several seeds are one row: median, least, most and a count by status."""
    runs = [
        record("f/a", "x", value, seed=n) for n, value in enumerate((1.0, 4.0, 2.0))
    ]
    runs.append(record("f/a", "x", 9.0, seed=3, status="violating"))
    table = results_table(standing(runs), {})
    row = cells(table, "f/a")
    assert (row["objective"], row["least"], row["most"]) == (3.0, 1.0, 4.0)
    assert row["status"] == "feasible 3, violating 1"


def test_summary_by_hand(runs: list[RunRecord]) -> None:
    """Of family f greedy has ratios 2 and 1: mean sqrt 2, median 1.5, one win."""
    table = summary_table(standing(runs), best_bounds(runs))
    greedy = cells(table, "f", "greedy")
    assert greedy["mean ratio"] == pytest.approx(np.sqrt(2))
    assert (greedy["median"], greedy["worst"], greedy["wins"]) == (1.5, 2.0, 1)
    assert (greedy["cases"], greedy["solved"], greedy["feasible"]) == (2, 2, 2)
    low, high = greedy["low"], greedy["high"]
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert low <= np.sqrt(2) <= high
    blind = cells(table, "f", "blind")
    assert (blind["solved"], blind["violating"], blind["mean ratio"]) == (1, 1, 2.0)
    assert blind["low"] is None  # one case says nothing of its spread
    frail = cells(table, "all", "frail")
    assert (frail["solved"], frail["failed"], frail["mean ratio"]) == (0, 3, None)
    # All three: ratios 1, 1 and 1; time: all runs take 2 s.
    good = cells(table, "all", "good")
    assert (good["mean ratio"], good["wins"]) == (1.0, 3)
    assert good["time s"] == pytest.approx(2.0)
    order = [row[1] for row in table.rows if row[0] == "all"]
    assert order == ["good", "greedy", "blind", "frail"]


def test_one_family_is_not_said_twice() -> None:
    """Where there is one family "all" would be the same rows again."""
    table = summary_table(standing([record("f/a", "x", 1.0)]), {})
    assert [row[0] for row in table.rows] == ["f"]
    table = summary_table(standing([record("a", "x", 1.0)]), {})
    assert [row[0] for row in table.rows] == ["(none)"]


def test_second_measure() -> None:
    """(objective - bound) / (greedy's - bound); nothing where that is nothing."""
    assert of_greedy(3.0, 1.0, 5.0) == pytest.approx(0.5)
    assert of_greedy(1.0, 1.0, 5.0) == 0.0
    assert of_greedy(3.0, None, 5.0) is None
    assert of_greedy(3.0, 1.0, None) is None
    assert of_greedy(3.0, 5.0, 5.0) is None
    assert of_greedy(float("inf"), 1.0, 5.0) is None


def test_violations_are_listed(runs: list[RunRecord]) -> None:
    """One row for each kind of row that is broken, with the worst place."""
    table = violations_table(runs)
    memory = cells(table, "f/a", "blind", 1, "memory")
    assert (memory["broken"], memory["worst at"], memory["over by"]) == (
        2.0,
        "van/gpu",
        7.0,
    )
    assert memory["objective, not ranked"] == 1.5
    assert memory["ignored"] == "budgets"
    assert len(table.rows) == 2


def test_failures_are_listed(runs: list[RunRecord]) -> None:
    """Each with its status and its line; equal ones are counted."""
    table = failures_table([*runs, record("f/b", "frail", None, status="hung", seed=1)])
    assert cells(table, "f/a", "frail")["reason"] == "died of signal 11"
    assert cells(table, "f/b", "frail")["runs"] == 2
    assert cells(table, "g/c", "frail")["status"] == "refused"


def test_instances(runs: list[RunRecord]) -> None:
    """Best plan, best bound and who made them; ties are counted."""
    table = instances_table(runs, best_bounds(runs), {})
    first = cells(table, "f/a")
    assert (first["best objective"], first["by"]) == (2.0, "good")
    assert (first["best bound"], first["proved by"], first["gap"]) == (1.0, "good", 0.5)
    assert cells(table, "g/c")["by"] == "good and 1 more"
    assert cells(table, "g/c")["gap"] is None
    assert "library bound" not in first  # nothing is known of them


def test_solvers(runs: list[RunRecord]) -> None:
    """Every label with its source, and everything that it ever ignored."""
    table = solvers_table(runs, {"blind": "Someone (2025)"})
    blind = cells(table, "blind")
    assert (blind["source"], blind["ignored"], blind["runs"]) == (
        "Someone (2025)",
        "budgets",
        3,
    )


def test_replays_are_summarised_as_the_objective_is() -> None:
    """Ratios of means of replay, by family, with no gap to speak of."""
    runs = [
        record("f/a", "x", 1.0, bound=0.5, replay={"t": replayed(2.0)}),
        record("f/a", "y", 2.0, bound=0.5, replay={"t": replayed(1.0)}),
    ]
    table = summary_table(standing(runs, "mean_s"), best_bounds(runs))
    assert table.name == "replay-mean"
    assert cells(table, "f", "x")["mean ratio"] == 2.0
    assert "mean gap" not in [column.name for column in table.columns]


def test_runs_keep_everything() -> None:
    """Terms and replays are columns; what a run lacks is empty."""
    runs = [
        record("f/a", "x", 1.0, replay={"t": replayed(2.0)}),
        record("f/a", "y", None, status="crashed"),
    ]
    table = runs_table(runs)
    first, second = (
        dict(zip((one.name for one in table.columns), row, strict=True))
        for row in table.rows
    )
    assert (first["term serial"], first["t p99_s"]) == (1.0, 4.0)
    assert second["term serial"] is None


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record("f/a", "x", 1.0)],
        [record("f/a", "x", None, status="crashed", error="died")],
        [record("f/a", "x", 0.0, bound=0.0), record("f/a", "y", 0.5)],
        [
            record(
                "f/a",
                "x",
                1.0,
                train="f/b",
                train_digest=fingerprint("f/b"),
                trained=TrainedRecord(objective=None, bound=None, gap=None),
            )
        ],
        many(30, 4, 1),
    ],
    ids=["none", "one", "all crashed", "objective 0", "trained", "thirty"],
)
def test_all_tables_are_written(records: list[RunRecord]) -> None:
    """Every table of every odd comparison can be written in every format."""
    bounds = best_bounds(records)
    found = standing(records)
    for table in (
        instances_table(records, bounds, {}),
        solvers_table(records, {}),
        results_table(found, bounds),
        summary_table(found, bounds),
        violations_table(records),
        failures_table(records),
        runs_table(records),
    ):
        for row in table.rows:
            assert len(row) == len(table.columns)
        assert to_markdown(table)
        assert to_csv(table)
        assert to_latex(table)

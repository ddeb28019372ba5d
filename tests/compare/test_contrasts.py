from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from run_records import fingerprint, record, replayed

from meldopt.compare.contrasts import (
    against_table,
    frozen_table,
    pairs_table,
    progress_table,
    ranks_table,
)
from meldopt.compare.profiles import gap_curves
from meldopt.compare.records import TrainedRecord
from meldopt.compare.standing import best_bounds, standing
from meldopt.compare.statistics import friedman, wilcoxon_pairs

if TYPE_CHECKING:
    from meldopt.compare.markup import Cell, Table


def cells(table: Table, *keys: Cell) -> dict[str, Cell]:
    """Return the one row that begins with these cells, by column."""
    (row,) = [row for row in table.rows if row[: len(keys)] == keys]
    return dict(zip((column.name for column in table.columns), row, strict=True))


def test_ranks_are_sorted() -> None:
    """Best first, with the statistics in the caption."""
    values = np.array([[2.0, 1.0, 3.0]] * 4)
    table = ranks_table(["b", "a", "c"], friedman(values))
    assert table.rows == (("a", 1.0), ("b", 2.0), ("c", 3.0))
    assert "Over 4 cases" in table.caption
    assert "chi2 = 8" in table.caption  # 4 (3 - 1): all cases agree


def test_no_ranks_say_why() -> None:
    """Without a test the caption says what it takes."""
    table = ranks_table(["a"], None)
    assert table.rows == ()
    assert "it takes three solvers" in table.caption


def test_pairs_show_both_tests() -> None:
    """Wilcoxon of all pairs, Nemenyi of those that were ranked."""
    values = np.array([[1.0, 2.0, 3.0, np.inf]] * 6)
    found = friedman(values[:, :3])
    assert found is not None
    table = pairs_table(list("abcd"), wilcoxon_pairs(values), found, [0, 1, 2])
    first = cells(table, "a", "c")
    assert (first["wins"], first["losses"]) == (6, 0)
    assert first["ratio"] == pytest.approx(1 / 3)
    assert first["Nemenyi"] == pytest.approx(found.p_pair[0, 2])
    assert cells(table, "a", "d")["Nemenyi"] is None
    p = [row[6] for row in table.rows]
    assert p == sorted(p)  # type: ignore[type-var]


def test_against_by_hand() -> None:
    """Ratios 2 and 4.5 to the reference: mean 3; failing alone is worse."""
    runs = [
        record("f/a", "joint", 1.0, replay={"t": replayed(1.0)}),
        record("f/a", "old", 2.0, replay={"t": replayed(0.5)}),
        record("f/b", "joint", 2.0),
        record("f/b", "old", 9.0),
        record("g/c", "joint", 2.0),
        record("g/c", "old", None, status="hung"),
        record("h/d", "joint", 2.0),
        record("h/d", "old", 2.0),
    ]
    table = against_table([standing(runs), standing(runs, "mean_s")], "joint")
    row = cells(table, "objective", "f", "old")
    assert (row["cases"], row["both"]) == (2, 2)
    assert row["mean ratio"] == pytest.approx(3.0)
    assert row["most"] == 4.5
    assert (row["better"], row["equal"], row["worse"]) == (0, 0, 2)
    row = cells(table, "objective", "g", "old")
    assert (row["both"], row["mean ratio"], row["worse"]) == (0, None, 1)
    row = cells(table, "objective", "all", "old")
    assert (row["cases"], row["both"]) == (4, 3)
    assert (row["better"], row["equal"], row["worse"]) == (0, 1, 3)
    # Where a baseline wins in replay the table says so.
    row = cells(table, "mean_s", "f", "old")
    assert (row["mean ratio"], row["better"]) == (0.5, 1)
    assert all(row[2] != "joint" for row in table.rows)


def test_what_a_shift_costs() -> None:
    """A plan made elsewhere is worth 3 where one made here is worth 2."""
    trained = TrainedRecord(objective=1.0, bound=0.5, gap=0.5)
    changes = {"train": "f/b", "train_digest": fingerprint("f/b"), "trained": trained}
    runs = [
        record("f/a", "x", 2.0),
        record("f/a", "x", 3.0, **changes),
        record("f/a", "y", 3.0, status="violating", **changes),
    ]
    table = frozen_table(standing(runs))
    row = cells(table, "f/a", "f/b", "10 s", "x")
    assert (row["where made"], row["judged"], row["planned anew"]) == (1.0, 3.0, 2.0)
    assert row["ratio"] == 1.5
    row = cells(table, "f/a", "f/b", "10 s", "y")
    assert (row["judged"], row["ratio"], row["status"]) == (3.0, None, "violating")


def test_no_shift_no_rows() -> None:
    """Without plans made elsewhere there is nothing to say."""
    assert frozen_table(standing([record("f/a", "x", 1.0)])).rows == ()


def test_progress_by_hand() -> None:
    """A gap of 1 for 5 s and of 1/2 for 5 s more is 3/4 over time."""
    history = [(5.0, 2.0, None)]
    runs = [
        record("f/a", "slow", 2.0, history=history, runtime_s=10.0),
        record("f/a", "sure", 2.0, bound=1.0, runtime_s=10.0),
    ]
    table = progress_table(gap_curves(runs, best_bounds(runs)))
    assert [row[0] for row in table.rows] == ["sure", "slow"]
    row = cells(table, "slow", 1)
    assert row["gap over time"] == pytest.approx(0.75)
    assert row["gap at the end"] == pytest.approx(0.5)
    assert row["own gap at the end"] is None  # it never proved a bound
    assert cells(table, "sure", 1)["own gap at the end"] == pytest.approx(0.5)

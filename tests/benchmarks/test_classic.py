"""The table of classic problems: from data in its format, and without any."""

from __future__ import annotations

import importlib

import pytest

classic = importlib.import_module("tests.benchmarks.classic")

HEAD = "file,problem,items,places,best,status"
BEST = f"{HEAD}\ngap/two.txt,gap,2,2,5,optimal\n"

TWO_JOBS = """2 2
1 3
2 9
1 1
1 1
1 1
"""
"""Two jobs on two servers with room for one each: costs 1 and 3 on the first, 2 and 9
on the second. Job 0 would rather go first, but 1 + 9 is dearer than 3 + 2."""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of data with one instance of generalised assignment."""
    folder = tmp_path / "classic"
    (folder / "gap").mkdir(parents=True)
    (folder / "best.csv").write_text(BEST)
    (folder / "gap" / "two.txt").write_text(TWO_JOBS)
    monkeypatch.setenv("MELDOPT_DATA", str(tmp_path))


def test_a_row_says_what_was_reached(data, capsys):
    """The optimum is 3 + 2 = 5: found, proved, nothing above what was published."""
    assert classic.main(["-t", "20"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row == ("| gap/two.txt | 2 × 2 | 5 | 5 | 0.000 % | 5 | 0.000 % |")


def test_unknown_names_are_refused(data, capsys):
    """A name that starts none of the instances is an error in one line."""
    assert classic.main(["qap/nug12"]) == 2
    assert "no instance is called so" in capsys.readouterr().err


def test_without_data_it_says_so(tmp_path, monkeypatch, capsys):
    """No data is no failure: one line says what is missing."""
    monkeypatch.setenv("MELDOPT_DATA", str(tmp_path / "nowhere"))
    assert classic.main([]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "MELDOPT_DATA" in captured.err

"""The benchmarks themselves, on what is quick to run."""

from __future__ import annotations

import importlib
import json

import pytest

bench = importlib.import_module("tests.benchmarks.__main__")


def measured(value):
    """Make one figure against a target of 1."""
    return bench.Measured(name="n", what="w", value=value, target=1.0, unit="s")


def test_what_counts_as_met():
    """A target is met up to its value; what could not be measured is a miss."""
    assert measured(1.0).ok
    assert not measured(1.01).ok
    assert not measured(None).ok
    assert measured(0.5).line().endswith("ok")
    assert measured(None).line().endswith("miss")


def test_unknown_names_are_refused(capsys):
    """A benchmark that does not exist is named, with those that do."""
    assert bench.main(["nonsense"]) == 2
    assert "got 'nonsense', expected one of help," in capsys.readouterr().out


def test_a_run_leaves_json(tmp_path, monkeypatch):
    """A run prints a line per target and leaves the same as JSON, with the machine."""
    monkeypatch.setattr(bench, "OUTPUT", tmp_path / "bench.json")
    monkeypatch.setattr(bench, "BENCHMARKS", {"one": lambda: [measured(0.5)]})
    assert bench.main([]) == 0
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["targets"][0]["ok"] is True
    assert document["targets"][0]["value"] == pytest.approx(0.5)
    assert "highspy" in document["machine"]

"""The benchmark of tightenings measures what `docs/formulations.md` says it does."""

from __future__ import annotations

import pytest
from benchmarks.tighten import WEAK, best_known, main, measure

from meldopt import build_problem, read_instance
from meldopt.formulations.milp import TIGHTENINGS

CASES = {
    "tiny/dozen": "disaggregated",
    "tiny/coverage": "coverage",
    "tiny/bottleneck": "mean",
    "tiny/roam-memory": WEAK,
}


@pytest.mark.parametrize("name", CASES)
def test_bounds(name: str) -> None:
    """No inequality lifts the bound above the optimum, and leaving one out lowers it.

    Never raises it, that is: `mean` is implied by the rows that it averages.
    """
    problem = build_problem(read_instance(name))
    best = best_known(name, problem, 60.0)
    bounds = {label: bound for label, (bound, _) in measure(name, 60.0).items()}
    assert {"all", CASES[name]} <= set(bounds)
    every = bounds["all"]
    assert every is not None
    assert every <= best * (1 + 1e-9)
    for bound in bounds.values():
        assert bound is not None
        assert bound <= every * (1 + 1e-9)
    if CASES[name] in ("disaggregated", "coverage"):
        assert bounds[CASES[name]] < 0.99 * every


def test_every_tightening_is_measured() -> None:
    """The cases above cover every inequality that can be left out."""
    assert {*TIGHTENINGS, WEAK} == set(CASES.values())


def test_table(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """The command prints one line for each instance, of as many cells as its head."""
    monkeypatch.setattr("sys.argv", ["tighten", "tiny/dozen", "tiny/coverage"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| tiny/dozen",
        "| tiny/coverage",
    ]
    assert len({line.count("|") for line in lines}) == 1

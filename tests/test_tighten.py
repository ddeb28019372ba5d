"""The benchmark of tightenings measures what `docs/formulations.md` says it does."""

from __future__ import annotations

import pytest
from benchmarks.tighten import best_known, main, measure

from meldopt import build_problem, read_instance
from meldopt.formulations.milp import TIGHTENINGS
from meldopt.testing import contract_instance

CASES = {
    "disaggregated": "tiny/dozen",
    "coverage": "tiny/coverage",
    "pruned": "tiny/pruning",
    "products": "",  # the roam instance of the contract
}


@pytest.mark.parametrize("left_out", CASES)
def test_bounds(left_out: str) -> None:
    """No inequality lifts the root above the optimum, and without it the root falls."""
    name = CASES[left_out]
    instance = read_instance(name) if name else contract_instance("roam")
    problem = build_problem(instance)
    best = best_known(name, problem, 60.0)
    bounds = measure(problem, 60.0)
    every, without = bounds["all"], bounds[left_out]
    assert every is not None
    assert without is not None
    assert every <= best * (1 + 1e-9)
    assert without < 0.995 * every


def test_every_tightening_is_measured() -> None:
    """The cases above cover every inequality that can be left out."""
    assert set(TIGHTENINGS) == set(CASES)


def test_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command prints one line for each instance, of as many cells as its head."""
    monkeypatch.setattr("sys.argv", ["tighten", "tiny/dozen", "tiny/coverage"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| tiny/dozen",
        "| tiny/coverage",
    ]
    assert len({line.count("|") for line in lines}) == 1

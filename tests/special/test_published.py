"""Published values of classic instances; skipped without the data for tests."""

from __future__ import annotations

import numpy as np
import pytest
from special.builders import bit_allocation
from special.classic import (
    data_folder,
    published,
    published_assignment,
    read_ctap,
    read_gap,
    read_gqap,
    read_qap,
)
from special.test_special_cases import EXACT, proved

from meldopt.builder import build_problem
from meldopt.plan import Plan
from meldopt.score import score

GAP = [f"gap{k}-{n}" for k in range(1, 5) for n in range(5)] + [
    f"a{m}{n}" for m in ("05", "10", "20") for n in (100, 200)
]


READERS = {"gap": read_gap, "ctap": read_ctap, "gqap": read_gqap, "qap": read_qap}
ROWS = [
    "gap/a20200.txt",
    "ctap/tassc1003Aa.dat",
    "gqap/leema-10X5-F-H.txt",
    "gqap/20-15-35.txt",
    "qap/nug12.dat",
    "qap/had12.dat",
    "qap/chr12a.dat",
]


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("name", GAP)
def test_gap(name: str, solver: str) -> None:
    """Every GAP instance is solved to its published optimum."""
    file = f"gap/{name}.txt"
    result = proved(read_gap(file), solver)
    assert result.objective == pytest.approx(published(file), rel=1e-9)


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("letter", "abcde")
def test_ctap(letter: str, solver: str) -> None:
    """Every CTAP instance is solved to its published optimum."""
    file = f"ctap/tassc1003A{letter}.dat"
    result = proved(read_ctap(file), solver)
    assert result.objective == pytest.approx(published(file), rel=1e-9)


@pytest.mark.parametrize("name", ["E-G", "E-H", "F-G", "F-H"])
def test_gqap(name: str) -> None:
    """Four GQAP instances are solved to their published optimum."""
    file = f"gqap/leema-10X5-{name}.txt"
    result = proved(read_gqap(file), "milp")
    assert result.objective == pytest.approx(published(file), rel=1e-9)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row)
def test_published_assignment(row: str) -> None:
    """A published assignment is feasible here and worth exactly what is published.

    Among them are instances too hard to prove in a test: three QAP, one GQAP.
    """
    read = READERS[row.partition("/")[0]]
    problem = build_problem(read(row))
    places = published_assignment(row)
    judged = score(
        problem, Plan.of(problem, np.array([(i, s, s) for i, s in enumerate(places)]))
    )
    assert judged.feasible
    assert judged.objective == pytest.approx(published(row), rel=1e-9)


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("budget", [12, 16, 20])
def test_bits_of_mixtral(budget: int, solver: str) -> None:
    """The bits of all 32 blocks of Mixtral are those that MC-MoE published."""
    folder = data_folder("mixtral-8x7b")
    with np.load(folder / "mcmoe_factors.npz") as factors:
        loss, frequency, gates = (
            factors[key] for key in ("loss", "frequency", "gate_weight")
        )
    with np.load(folder / "mcmoe_bits.npz") as bits:
        want = bits[f"bits_{budget}"]
    agree = 0
    for block in range(32):
        instance = bit_allocation(
            f"block-{block}",
            frequency[block],
            gates[block],
            loss[block],
            (1, 2, 3),
            budget,
        )
        plan = proved(instance, solver).plan
        assert plan is not None
        got = plan.copies[np.argsort(plan.copies[:, 0]), 2] + 1
        agree += (got == want[block]).all()
    assert agree == 32

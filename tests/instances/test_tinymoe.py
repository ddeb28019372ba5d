"""The instances of the tiny measured model: what they hold, and where it came from."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from meldopt.builder import build_problem
from meldopt.instance import Instance, read_instance
from meldopt.plan import read_plan
from meldopt.score import score

if TYPE_CHECKING:
    from types import ModuleType

LIBRARY = Path(__file__).resolve().parents[2] / "instances"
NAMES = ["edge-4", "roam-3"]


def read(name: str) -> Instance:
    return read_instance(LIBRARY / "tinymoe" / f"{name}.json")


@pytest.fixture
def make(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the script that made the instances; needs the recordings."""
    if not (data_folder / "tinymoe").is_dir():
        pytest.skip("no recordings of tinymoe")
    path = LIBRARY / "tinymoe" / "make.py"
    spec = importlib.util.spec_from_file_location("tinymoe_make", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tinymoe_make", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DATA", data_folder)
    return module


def test_made_from_the_recordings(make: ModuleType) -> None:
    """The script makes exactly the instances that are bundled."""
    recorded = make.read()
    assert make.edge(recorded).digest() == read("edge-4").digest()
    assert make.roam(recorded).digest() == read("roam-3").digest()


def test_rising_pools_what_falls(make: ModuleType) -> None:
    """Falling slopes are pooled by width, rising ones are kept, areas stay."""
    got = make.rising([3.0, 1.0, 2.0, 5.0], [1.0, 3.0, 1.0, 1.0])
    assert got.tolist() == [1.5, 1.5, 2.0, 5.0]
    assert make.rising([1.0, 2.0], [1.0, 1.0]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", NAMES)
def test_best_plan(name: str) -> None:
    """The bundled plan keeps every row and uses several formats."""
    problem = build_problem(read(name))
    plan = read_plan(LIBRARY / "best" / "tinymoe" / f"{name}.plan.json", problem)
    judged = score(problem, plan)
    assert judged.feasible
    assert judged.objective == pytest.approx(plan.record["objective"])
    assert len(np.unique(plan.copies[:, 2])) >= 3


def test_losses_are_measured_and_never_zero() -> None:
    """Fewer bits lose more in all, and no quantized expert is free."""
    problem = build_problem(read("edge-4"))
    total = np.einsum("gn,gnb->gb", problem.calls, problem.format_loss)
    assert (total[:, 0] == 0).all()  # bf16: what was measured against
    assert (np.diff(total, axis=1) > 0).all()
    assert (problem.format_loss[:, :, 1:] >= 0).all()
    assert (problem.format_loss[:, :, 3] > 0).all()
    # The sum over experts of 2-bit KL is 0.0708 nats in the domains together.
    assert total[:, 3] == pytest.approx(0.0708, rel=0.12)
    assert (problem.prune_loss > 0).all()
    assert (problem.fuse_loss > 0).all()
    assert (problem.similar_loss > 0).all()


def test_effective_bits() -> None:
    """Sizes count the scale and minimum of every group of 32 weights."""
    problem = build_problem(read("edge-4"))
    assert problem.size_bytes[0].tolist() == [147456, 46080, 36864, 27648]


def test_traversals_add_up() -> None:
    """Each token enters twice, goes on to two experts and gathers once in a layer."""
    problem = build_problem(read("roam-3"))
    ahead = (
        problem.layer_of[problem.pairs[:, 0]] < problem.layer_of[problem.pairs[:, 1]]
    )
    layers = problem.num_layers
    assert problem.entry.sum(axis=1) == pytest.approx(2.0)
    assert problem.exit.sum(axis=1) == pytest.approx(1.0)
    on = problem.pair_weight[:, ahead].sum(axis=1)
    gather = problem.pair_weight[:, ~ahead].sum(axis=1)
    assert on == pytest.approx(2.0 * (layers - 1))
    assert gather == pytest.approx(1.0 * layers)
    # What arrives at an expert, on its way on, is what calls it.
    calls = np.zeros_like(problem.calls)
    np.add.at(
        calls, (slice(None), problem.pairs[ahead, 1]), problem.pair_weight[:, ahead]
    )
    later = problem.layer_of > 0
    assert calls[:, later] == pytest.approx(problem.calls[:, later])

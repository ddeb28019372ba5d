"""The parts of the table of replayed plans."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

import numpy as np

from meldopt.builder import build_problem
from meldopt.importers.recordings import read_recording
from meldopt.instance import read_instance
from meldopt.score import score
from meldopt.trace import read_trace

if TYPE_CHECKING:
    from pathlib import Path

table = importlib.import_module("tests.benchmarks.replay_table")
gptoss = importlib.import_module("tests.benchmarks.gptoss_recording")


def test_round_robin() -> None:
    """Experts go to servers in turn, in one format, the largest that fits."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    copies = table.round_robin(problem).copies
    assert (copies[:, 0] == np.arange(problem.num_experts)).all()
    (format_,) = set(copies[:, 2].tolist())
    rows = score(problem, table.round_robin(problem)).violations
    assert not any(one.row in ("memory", "format", "expert") for one in rows)
    server = problem.server_of[copies[:, 1]]
    turn = server == copies[:, 0] % problem.num_servers
    used = np.bincount(copies[:, 1], problem.size_bytes[copies[:, 0], format_])
    full = problem.room_bytes - used < problem.size_bytes[0, format_]
    # Whoever was passed over is full in the end.
    assert full[(copies[:, 0] % problem.num_servers)[~turn]].all()
    larger = problem.bits_per_weight > problem.bits_per_weight[format_]
    assert all(
        problem.size_bytes[:, b].sum() > problem.room_bytes.sum()
        or table._dealt(problem, int(b), force=False) is None
        for b in np.flatnonzero(larger)
    )


def test_nothing_fits() -> None:
    """Where no format fits, all experts are placed in the most compact one."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    small = problem.replace(capacity_bytes=problem.reserve_bytes + 1e5)
    copies = table.round_robin(small).copies
    assert len(copies) == problem.num_experts
    assert set(copies[:, 2].tolist()) == {int(np.argmin(problem.bits_per_weight))}


def test_planned_with_the_trace() -> None:
    """The planning instance has the trace's mix and the instance's total rate."""
    case = table.CASES["tinymoe-a"]
    planning, held_out = table.traces_of(case, None, 0)
    assert planning.digest() != held_out.digest()
    problem = build_problem(table.planning_instance(case, planning))
    source = build_problem(read_instance(case.instance))
    assert np.isclose(problem.total_rate, source.total_rate)
    # Five domains with as many tokens each; coding and manuals have two.
    share = problem.application_rate / problem.total_rate
    assert np.allclose(share, [0.2, 0.4, 0.4])


def test_halves() -> None:
    """A split takes half of each application; every request is in one half."""
    trace = read_trace("tinymoe/a/plan")
    one, other = table.split(trace, 3)
    assert one.num_requests == other.num_requests == trace.num_requests // 2
    count = [np.bincount(part.requests.application) for part in (one, other)]
    assert (count[0] == count[1]).all()
    assert one.num_tokens + other.num_tokens == trace.num_tokens


def test_requests_come_again() -> None:
    """Each request comes as often as said, with its own tokens."""
    trace = read_trace("tinymoe/a/test")
    many = table.arriving(trace, 3, 1)
    assert many.num_tokens == 3 * trace.num_tokens
    assert (np.diff(many.requests.arrival_s) >= 0).all()
    once = np.unique(trace.load().experts.reshape(80, -1), axis=0)
    again, count = np.unique(
        many.load().experts.reshape(240, -1), axis=0, return_counts=True
    )
    assert (once == again).all()
    assert (count == 3).all()


def test_public_routing(tmp_path: Path) -> None:
    """Examples of the public repository become a recording that can be imported."""
    for number, (name, first) in enumerate((("mmlu_dev", 5), ("gpqa_main", 9))):
        folder = tmp_path / "data" / name / "subject"
        folder.mkdir(parents=True)
        steps = [
            {
                f"token_{first + n}": {
                    f"layer_{layer}": {
                        "selected_experts": [number, 2 + n],
                        "selected_probs": [0.75, 0.25],
                    }
                    for layer in range(2)
                }
            }
            for n in range(3)
        ]
        document = {"router_data": steps}
        (folder / "True_False_examples.json").write_text(json.dumps(document))
    np.savez(tmp_path / "routing.npz", **gptoss.convert(tmp_path))
    found = read_recording(tmp_path / "routing.npz")
    assert found.applications == ("mmlu_dev", "gpqa_main")
    assert found.prompt_tokens.tolist() == [5, 9]
    assert found.experts[:, 1, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.experts[:, 1, 1].tolist() == [2, 3, 4, 2, 3, 4]

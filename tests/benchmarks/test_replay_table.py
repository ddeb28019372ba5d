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


def test_nothing_recorded() -> None:
    """Requests are drawn from the instance, which is planned as it is."""
    case = table.CASES["star"]
    planning, held_out = table.traces_of(case, None, 0)
    assert planning is held_out
    assert held_out.num_requests == table.DRAWN_REQUESTS
    made = table.planning_instance(case, planning)
    assert made.digest() == read_instance(case.instance).digest()


def test_ratios_of_plans() -> None:
    """Twice as slow everywhere: 2, whatever requests are drawn."""
    rng = np.random.default_rng(0)
    request_of = np.repeat(np.arange(20), 30)
    other = rng.exponential(size=600) * (1 + request_of)
    for ratio in table.ratios(2 * other, other, request_of):
        assert ratio.low == ratio.value == ratio.high == 2.0
    assert table.ratios(np.full(600, np.inf), other, request_of) is None


def test_intervals_are_of_requests() -> None:
    """Tokens of a request that are alike do not count as many.

    One request in ten is twice as slow under one plan. The ratio of means is near 1.1,
    and its interval is as wide as that of 40 requests, not of 4,000 tokens.
    """
    request_of = np.repeat(np.arange(40), 100)
    mine = np.where(request_of % 10 == 0, 2.0, 1.0)
    mean, tail = table.ratios(mine, np.ones(4000), request_of)
    assert mean.value == 1.1
    assert mean.high - mean.low > 0.1
    assert mean.low < 1.1 < mean.high
    assert tail.value == 2.0


def test_plans_beside_the_joint_one(monkeypatch) -> None:
    """A row for each other plan, divided by the joint one."""
    problem = build_problem(read_instance("tiny/memory"))
    instance = read_instance("tiny/memory")
    monkeypatch.setattr(table, "RESAMPLES", 20)
    trace = table.drawn_trace(instance, 0)
    again = table.arriving(trace, 1, 0)
    made = table.plans_of(problem, time_limit=20.0, seed=0, say=lambda _: None)
    names = [one.name for one in made]
    assert names[-1] == table.JOINT
    assert {"round-robin", *table.PUBLISHED} <= set(names)
    rows = [
        table.replayed(instance, problem, trace, again, one, (0.1,))
        for one in (made[0], made[-1])
    ]
    lines = table.against_table({"tiny": rows}, 0.1).splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[:2] == ["tiny", "round-robin"]
    assert cells[2] == f"{made[0].serial_s / made[-1].serial_s:.2f}"

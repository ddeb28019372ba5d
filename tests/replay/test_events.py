from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from random_problems import Case, cases
from replay_cases import drawn_trace, plain_plan, star

from meldopt.builder import build_problem
from meldopt.errors import PlanError, TraceError
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import Plan, read_plan
from meldopt.replay.analytic import replay_analytic
from meldopt.replay.backbone import Backbone, backbone_of
from meldopt.replay.events import Settings, replay_events
from meldopt.replay.match import match
from meldopt.trace import Trace

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.replay.records import Records

ALONE = Settings(max_batch=1, step_tokens=1, split="hash", siblings="free")
"""One stream, a token at a time, the judge's draw between copies, and no message that
waits for another of its own token on a link that both cross."""


def _best(name: str) -> tuple[Problem, Plan]:
    problem = build_problem(read_instance(name))
    path = best_plan(name)
    assert path is not None
    return problem, read_plan(path, problem)


@settings(max_examples=25)
@given(
    cases(
        dataflow="home",
        uncalled=False,
        prune=False,
        fuse=False,
        similar=False,  # two calls that one copy answers read it once
        shared_processor=True,
    )
)
def test_alone_a_token_takes_the_analytic_time(case: Case) -> None:
    """Without contention each token takes its `parallel` time plus the backbone's."""
    problem, plan = case.problem, case.witness
    trace = drawn_trace(problem, 9, requests=20, prompt=0, output=1)
    times = replay_analytic(problem, plan, trace, match(problem, trace))
    step = np.linspace(0.1, 0.2, problem.num_servers) * times.mean("parallel")
    token = np.linspace(0.03, 0.01, problem.num_servers) * times.mean("parallel")
    found = match(problem, trace)
    hosts = problem.source[found.request_demand]
    expected = times.parallel_s + (step + token)[hosts].sum(axis=1)
    gap = 2 * float(expected.max())
    trace = drawn_trace(
        problem, 9, requests=20, prompt=0, output=1, arrivals=gap * np.arange(20)
    )
    alone = replay_events(
        problem,
        plan,
        trace,
        found,
        settings=ALONE,
        backbone=Backbone(step_s=step, token_s=token),
    )
    assert alone.latency_s == pytest.approx(expected, rel=1e-9)
    assert alone.ttft_s.tolist() == alone.latency_s.tolist()


@pytest.mark.parametrize("recorded", [True, False])
def test_one_stream_takes_the_sum_of_its_tokens(recorded: bool) -> None:
    """Prompt and output of a request follow each other, each token with its own row."""
    problem, plan = _best("mixtral-8x7b/metro-4")
    plan = Plan.of(problem, plan.copies)
    trace = drawn_trace(
        problem, 4, requests=5, prompt=3, output=4, rate=1e-6, recorded=recorded
    )
    found = match(problem, trace)
    times = replay_analytic(problem, plan, trace, found).parallel_s.reshape(5, -1)
    alone = replay_events(problem, plan, trace, found, settings=ALONE)
    # The last token of the output never passes the model.
    prompt = times[:, :3]
    output = times[:, 3:6] if recorded else times[:, :3]
    first = prompt.sum(axis=1)
    assert alone.ttft_s == pytest.approx(first, rel=1e-6)
    assert alone.latency_s == pytest.approx(first + output.sum(axis=1), rel=1e-6)
    assert alone.tpot_s == pytest.approx(output.mean(axis=1), rel=1e-6)
    assert alone.tokens.sum(axis=1).tolist() == [15, 15]


def test_a_step_reads_weights_and_sends_tokens_once() -> None:
    """A prompt in one step: one reading for all calls of an expert, by hand."""
    problem = star()
    problem = problem.replace(
        s_per_flop=np.full_like(problem.s_per_flop, 1e-3),
        s_per_byte=np.full_like(problem.s_per_byte, 0.5),
    )
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(problem, 1, requests=1, prompt=7, output=1)
    found = match(problem, trace)
    run = replay_events(problem, plan, trace, found)
    work = 10 * 0.5 + 7 * 20 * 1e-3  # 10 bytes once, 20 FLOP a call
    sent = 7 * 1000 / 1e4
    assert run.ttft_s == pytest.approx([sent + work], abs=1e-5)
    assert run.steps == 1
    assert run.place_busy_s.sum() == pytest.approx(work)
    reused = replay_events(
        problem, plan, trace, found, backbone=Backbone.none(problem, reuse=4.0)
    )
    # The problem's rate counts on 4 tokens that share a reading: it is 4 times faster
    # than the memory.
    assert reused.place_busy_s.sum() == pytest.approx(4 * 5 + 0.14)


def test_batches_by_hand() -> None:
    """Decode comes first, prompts fill up the step, and the rest waits its turn."""
    problem = star()
    plan = plain_plan(problem, [(0, 0, 0)])  # at the home: a step is the backbone
    trace = drawn_trace(
        problem, 1, requests=3, prompt=4, output=2, arrivals=[0, 0.5, 0.5], demand=0
    )
    found = match(problem, trace)
    step = np.zeros(problem.num_servers)
    step[0] = 1.0
    run = replay_events(
        problem,
        plan,
        trace,
        found,
        settings=Settings(max_batch=2, step_tokens=5),
        backbone=Backbone(step_s=step, token_s=0 * step),
    )
    # 0-1: 4 of the first. 1-2: its last pass, 4 of the second. 2-3: the second's last
    # pass, 4 of the third.  3-4: the third's last pass.
    assert run.begun_s == pytest.approx([0, 1, 2], abs=1e-6)
    assert run.first_token_s == pytest.approx([1, 2, 3], abs=1e-6)
    assert run.finish_s == pytest.approx([2, 3, 4], abs=1e-6)
    assert run.steps == 4
    short = replay_events(
        problem,
        plan,
        trace,
        found,
        settings=Settings(max_batch=1, step_tokens=3),
        backbone=Backbone(step_s=step, token_s=0 * step),
    )
    # Each alone: two chunks of its prompt, one pass.
    assert short.begun_s == pytest.approx([0, 3, 6], abs=1e-6)
    assert short.finish_s == pytest.approx([3, 6, 9], abs=1e-6)


def test_lanes_overlap_waiting_for_servers() -> None:
    """A second batch computes while the first one's calls are on the link."""
    problem = star()
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(
        problem, 1, requests=2, prompt=0, output=1, arrivals=[0, 0], demand=0
    )
    step = np.zeros(problem.num_servers)
    step[0] = 0.05
    ends = []
    for lanes in (1, 2):
        run = replay_events(
            problem,
            plan,
            trace,
            match(problem, trace),
            settings=Settings(max_batch=1, lanes=lanes),
            backbone=Backbone(step_s=step, token_s=0 * step),
        )
        ends.append(run.finish_s)
    assert ends[0] == pytest.approx([0.15, 0.3], abs=1e-5)
    assert ends[1] == pytest.approx([0.15, 0.25], abs=1e-5)  # the link is the neck


def test_a_message_cuts_through() -> None:
    """Over several links: latencies add up, the slowest sets the time of the bytes."""
    problem = star()
    problem = problem.replace(link_bandwidth=np.where(np.arange(6) < 4, 4e4, 1e4))
    latency = np.array(
        [[0, 3, 1, 3], [3, 0, 2, 4], [1, 2, 0, 2], [3, 4, 2, 0]], dtype=float
    )
    problem = problem.replace(
        route_latency=latency,
        route_s_per_byte=np.where(np.eye(4) > 0, 0, 1e-4),
    )
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(problem, 1, requests=1, prompt=0, output=1, demand=0)
    run = replay_events(problem, plan, trace, match(problem, trace))
    assert run.latency_s == pytest.approx([3 + 0.1 + 3], abs=1e-6)
    busy = dict(zip(problem.labels.links, run.link_busy_total_s, strict=True))
    assert busy["a", "hub"] == pytest.approx(1000 / 4e4)
    assert busy["hub", "far"] == pytest.approx(1000 / 1e4)


def test_busy_seconds_fill_their_bins() -> None:
    """Bins add up to the busy seconds, also after they have been joined."""
    problem, plan = _best("mixtral-8x7b/metro-4")
    trace = drawn_trace(problem, 2, requests=40, rate=40.0)  # far beyond capacity
    instance = read_instance("mixtral-8x7b/metro-4")
    run = replay_events(
        problem,
        plan,
        trace,
        match(problem, trace),
        backbone=backbone_of(instance, problem),
    )
    assert run.end_s > 2 * trace.requests.arrival_s[-1]  # bins were joined
    busy = np.bincount(run.processor_of, run.place_busy_s + run.backbone_busy_s)
    assert run.processor_busy_s.sum(axis=1) == pytest.approx(busy)
    assert run.link_busy_s.sum(axis=1) == pytest.approx(run.link_busy_total_s)
    assert run.bin_tokens.sum(axis=1) == pytest.approx(run.tokens.sum(axis=1))
    assert (run.processor_utilisation < 1 + 1e-9).all()
    assert (run.link_utilisation < 1 + 1e-9).all()
    assert run.bin_start_s[-1] <= run.end_s < run.bin_start_s[-1] + run.bin_s
    assert run.finished.all()


SCRIPT = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from replay_cases import drawn_trace
from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import read_plan
from meldopt.replay.events import replay_events
from meldopt.replay.match import match
from meldopt.replay.scenario import Failure, Scenario, Drift
problem = build_problem(read_instance("tinymoe/edge-4"))
plan = read_plan(best_plan("tinymoe/edge-4"), problem)
trace = drawn_trace(problem, 2, requests=60, rate=2.0, signatures=True)
apps = problem.labels.applications
scenario = Scenario(
    failures=[Failure(server=problem.labels.servers[0], at=3.0, until=9.0)],
    drift=[Drift(at=10.0, mix={{name: 1.0 + n for n, name in enumerate(apps)}})],
)
run = replay_events(problem, plan, trace, match(problem, trace), scenario=scenario)
for name, value in sorted(vars(run).items()):
    if isinstance(value, np.ndarray):
        value = value.tobytes().hex()
    print(name, value)
print(hash("meldopt"), file=sys.stderr)
"""


def test_same_bytes_whatever_the_hash_seed() -> None:
    """Two processes with different hash seeds find the same, to the last bit."""
    tests = str(Path(__file__).parents[1])
    found = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(tests=tests)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert found[0].stderr != found[1].stderr  # hashes of strings did differ
    assert found[0].stdout == found[1].stdout
    assert "finish_s" in found[0].stdout


def _same(one: Records, other: Records) -> None:
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def test_a_window_on_the_trace_is_enough() -> None:
    """With tokens in small chunks the run is the same, and few are held at a time."""
    from meldopt.replay import events

    problem, plan = _best("tinymoe/edge-4")
    trace = drawn_trace(problem, 2, requests=80, rate=0.5, signatures=True)
    found = match(problem, trace)
    whole = replay_events(problem, plan, trace, found)
    chunk = trace.load()
    parts = [chunk.take(slice(n, n + 10)) for n in range(0, len(chunk), 10)]
    cut = Trace(
        header=trace.header, requests=trace.requests, source=lambda: iter(parts)
    )
    held = []
    show = events._Feed.show

    def watched(feed: Any, parts: list[Any], complete: int) -> None:
        show(feed, parts, complete)
        held.append(len(feed.window.experts))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events._Feed, "show", watched)
        _same(replay_events(problem, plan, cut, found), whole)
    assert max(held) < len(chunk) / 2


def test_a_demand_without_rate_or_tokens() -> None:
    """A demand of rate 0 gets no requests, and one without tokens no NaN of loss."""
    problem = star()
    problem = problem.replace(rate=np.array([2.0, 0.0]))
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(problem, 1, requests=6)
    found = match(problem, trace, homes="spread")
    assert found.request_demand.tolist() == [0] * 6
    run = replay_events(problem, plan, trace, found)
    assert run.tokens[:, 1].tolist() == [0, 0]
    assert run.counts[:, :, 1].sum() == 0
    assert run.quality_loss.tolist() == [0.0]


def test_missing_copies_lose_calls() -> None:
    """A plan without any copy answers nothing, and says so call by call."""
    problem = star()
    plan = plain_plan(problem, np.zeros((0, 3)))
    trace = drawn_trace(problem, 1, requests=4, prompt=2, output=3)
    run = replay_events(problem, plan, trace, match(problem, trace))
    assert run.fate("lost").sum() == run.calls == 4 * 4
    assert run.lost_calls.tolist() == [4] * 4
    assert run.finished.all()


def test_refusals() -> None:
    """Shares that cannot be, bad settings and requests without rows: one line."""
    problem = star()
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(problem, 1, requests=2)
    found = match(problem, trace)
    slow = problem.replace(s_per_flop=np.full_like(problem.s_per_flop, np.inf))
    served = Plan.of(
        slow,
        plan.copies,
        served=np.array([[0, 0, 0]]),
        served_share=np.array([1.0]),
    )
    with pytest.raises(PlanError, match="chat at a, layer 0, expert 0 on 'far'"):
        replay_events(slow, served, trace, found)
    for name in ("max_batch", "step_tokens", "lanes"):
        with pytest.raises(ValueError, match=f"{name}: got 0"):
            Settings(**{name: 0})
    with pytest.raises(ValueError, match="split: got 'dice'"):
        Settings(split="dice")  # type: ignore[arg-type]
    chunk = trace.load()
    cut = Trace(
        header=trace.header,
        requests=trace.requests,
        source=lambda: iter([chunk.take(slice(0, 7))]),
    )
    with pytest.raises(TraceError):
        replay_events(problem, plan, cut, found)

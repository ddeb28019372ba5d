from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from random_problems import Case, cases
from replay_cases import drawn_trace, plain_plan, star

from meldopt.builder import build_problem
from meldopt.errors import PlanError, UnsupportedFeatureError
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import Plan, read_plan
from meldopt.replay.analytic import replay_analytic
from meldopt.replay.backbone import Backbone
from meldopt.replay.events import Settings, replay_events
from meldopt.replay.match import match, trace_problem
from meldopt.replay.scenario import BandwidthChange, Failure, Scenario
from meldopt.score import score

ALONE = Settings(max_batch=1, step_tokens=1, siblings="free")


def _single(case: Case) -> Plan:
    """Return the first copy of each expert that the witness has."""
    copies = case.witness.copies
    experts = np.arange(case.problem.num_experts)
    first = np.searchsorted(copies[:, 0], experts)
    assume((first < len(copies)).all() and (copies[first, 0] == experts).all())
    return Plan.of(case.problem, copies[first])


@settings(max_examples=25)
@given(
    cases(
        dataflow="roam",
        uncalled=False,
        distance=False,
        multi_hop=False,
        shared_processor=True,
    )
)
def test_alone_a_token_walks_in_the_analytic_time(case: Case) -> None:
    """Without contention a roaming token takes the time of its walk, copies or not."""
    problem, plan = case.problem, case.witness
    _single(case)  # every expert has a copy
    servers = np.union1d(problem.server_of[plan.copies[:, 1]], problem.home_of)
    assume(np.isfinite(problem.route_latency[np.ix_(servers, servers)]).all())
    trace = drawn_trace(problem, 9, requests=20, prompt=0, output=1)
    found = match(problem, trace)
    times = replay_analytic(problem, plan, trace, found).parallel_s
    gap = 2 * float(times.max()) + 1.0
    trace = drawn_trace(
        problem, 9, requests=20, prompt=0, output=1, arrivals=gap * np.arange(20)
    )
    alone = replay_events(problem, plan, trace, found, settings=ALONE)
    assert alone.latency_s == pytest.approx(times, rel=1e-9, abs=1e-12 * gap)
    step = np.full(problem.num_servers, 0.5)
    slower = replay_events(
        problem,
        plan,
        drawn_trace(
            problem,
            9,
            requests=20,
            prompt=0,
            output=1,
            arrivals=(gap + problem.num_layers) * np.arange(20),
        ),
        found,
        settings=ALONE,
        backbone=Backbone(step_s=step, token_s=0 * step),
    )
    expected = times + 0.5 * problem.num_layers
    assert slower.latency_s == pytest.approx(expected, rel=1e-9, abs=1e-12 * gap)


def test_counts_and_bytes_are_the_judge_s() -> None:
    """Traversals of tokens and calls add up to what `score` says of the trace."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    path = best_plan("tinymoe/roam-3")
    assert path is not None
    plan = read_plan(path, problem)
    trace = drawn_trace(problem, 2, requests=100, prompt=0, output=5, rate=20.0)
    found = match(problem, trace)
    own = trace_problem(problem, trace, found)
    run = replay_events(
        problem, plan, trace, found, settings=Settings(max_batch=8, step_tokens=16)
    )
    assert run.finished.all()
    assert run.fate("served").sum() == run.calls == trace.num_tokens * 12
    judged = score(own, plan)
    scale = trace.num_tokens / own.total_rate
    expected = [row.value * scale for row in judged.rows if row.row == "link"]
    assert run.link_call_bytes == pytest.approx(np.array(expected), rel=1e-9)
    loss = run.loss_nats.sum() / trace.num_tokens
    assert loss == pytest.approx(judged.terms["quality"], rel=1e-9)
    assert (run.link_bytes.sum(axis=1) <= run.link_call_bytes).all()
    assert run.link_bytes.sum() > 0
    joule = run.place_busy_s @ problem.power_w
    joule += run.link_bytes.sum(axis=1) @ problem.link_joule_per_byte
    assert run.energy_joule == pytest.approx(joule)


def test_a_batch_reads_weights_once_and_waits_for_all() -> None:
    """Tokens from two servers meet at a third: one reading, once the last is there."""
    problem = star(
        model={"layers": 2, "experts": 2, "top_k": 1.0},
        workload={"demands": [{"application": "chat", "home": "a", "rate": 1.0}]},
    )
    problem = problem.replace(
        dataflow="roam",
        link_bandwidth=np.full(6, 1e4),
        s_per_byte=np.full(4, 0.1),  # 1 s an expert
        route_s_per_byte=np.where(np.eye(4) > 0, 0, 1e-4),
    )
    # Layer 0: expert 0 at b, expert 1 at home; layer 1: both at far.
    plan = plain_plan(problem, [(0, 1, 0), (1, 0, 0), (2, 3, 0), (3, 3, 0)])
    trace = drawn_trace(problem, 3, requests=1, prompt=8, output=1)
    experts = trace.load().experts[:8, :, 0]
    zero, one = (int((experts[:, 0] == e).sum()) for e in (0, 1))
    both = len(np.unique(experts[:, 1]))
    assert zero
    assert one
    assert both == 2
    run = replay_events(problem, plan, trace, match(problem, trace))
    # To b and run there; layer 0 ends for all when the slower is done. Then both
    # groups go to far over the link that they share; then both experts, then home.
    out = 0.1 * zero + 1.0
    assert run.latency_s == pytest.approx([out + 0.1 * 8 + 2.0 + 0.1 * 8], abs=1e-6)
    assert run.place_busy_s.tolist() == pytest.approx([1, 1, 0, 2])


def test_bandwidth_changes_while_tokens_roam() -> None:
    """Roaming tokens feel a slower link; what they pass stays the same."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    path = best_plan("tinymoe/roam-3")
    assert path is not None
    plan = read_plan(path, problem)
    trace = drawn_trace(problem, 2, requests=30, rate=1.0)
    found = match(problem, trace)
    free = replay_events(problem, plan, trace, found)
    k = int(np.argmax(free.link_bytes.sum(axis=1)))
    one, other = problem.labels.links[k]
    slow = Scenario(
        bandwidth=[
            BandwidthChange(
                from_=one,
                to=other,
                times=[0],
                bandwidth=[float(problem.link_bandwidth[k]) / 10],
            )
        ]
    )
    run = replay_events(problem, plan, trace, found, scenario=slow)
    assert run.latency_s.mean() > free.latency_s.mean()
    assert run.link_busy_total_s[k] == pytest.approx(
        10 * free.link_busy_total_s[k], 0.2
    )
    assert run.fate("served").tolist() == free.fate("served").tolist()


def test_what_roaming_tokens_cannot_do() -> None:
    """Failures, missing copies and copies that cannot run are refused in one line."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    path = best_plan("tinymoe/roam-3")
    assert path is not None
    plan = read_plan(path, problem)
    trace = drawn_trace(problem, 2, requests=2)
    found = match(problem, trace)
    fails = Scenario(failures=[Failure(server=problem.labels.servers[0], at=1.0)])
    with pytest.raises(UnsupportedFeatureError, match="got failures in dataflow"):
        replay_events(problem, plan, trace, found, scenario=fails)
    with pytest.raises(PlanError, match="got none of layer 0, expert 0"):
        replay_events(problem, Plan.of(problem, plan.copies[1:]), trace, found)
    slow = problem.replace(s_per_flop=np.full_like(problem.s_per_flop, np.inf))
    with pytest.raises(PlanError, match=r"layer 0, expert 0 at .*, but it cannot run"):
        replay_events(slow, plan, trace, found)
    apart = np.where(np.eye(3) > 0, 0.0, np.inf)
    with pytest.raises(PlanError, match="expected a route from the one to the other"):
        replay_events(problem.replace(route_latency=apart), plan, trace, found)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from random_problems import Case, cases, random_plan
from replay_cases import drawn_trace, sample_trace

from meldopt.builder import build_problem
from meldopt.errors import PlanError
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import Plan, read_plan
from meldopt.replay.analytic import mix, replay_analytic
from meldopt.replay.match import match, trace_problem
from meldopt.score import score, token_hash

SAMPLED = {"dataflow": "home", "samples": True, "uncalled": False}


def _mixed(case: Case, seed: int) -> Plan:
    """Return a plan with shares of every kind on the copies of the witness."""
    return random_plan(case.problem, case.witness.copies, np.random.default_rng(seed))


@given(cases(**SAMPLED, fuse=True, prune=True, similar=True))
def test_parallel_of_the_sample_is_the_term(case: Case) -> None:
    """On the instance's own sample the mean is what `score` says, hash and all."""
    problem = case.problem
    assume((problem.sample_experts >= 0).all())  # a trace has k calls in each layer
    trace = sample_trace(problem)
    for plan in (case.witness, _mixed(case, 1)):
        times = replay_analytic(problem, plan, trace, match(problem, trace))
        expected = score(problem, plan).terms["parallel"]
        assert times.mean("parallel") == pytest.approx(expected, rel=1e-12)


@given(cases(dataflow="home", uncalled=False, fuse=True, prune=True, similar=True))
def test_serial_is_the_term_on_the_trace_s_statistics(case: Case) -> None:
    """The mean over tokens is `serial` of the problem with the trace's own calls."""
    problem = case.problem
    trace = drawn_trace(problem, 5, requests=30)
    found = match(problem, trace)
    own = trace_problem(problem, trace, found)
    for plan in (case.witness, _mixed(case, 2)):
        times = replay_analytic(problem, plan, trace, found)
        expected = score(own, plan).terms["serial"]
        assert times.mean("serial") == pytest.approx(expected, rel=1e-12)
        judged = replay_analytic(own, plan, trace, found)
        assert judged.serial_s.tolist() == times.serial_s.tolist()


def test_the_best_plan_of_tinymoe() -> None:
    """Both terms agree on a real instance with pruning, fusion and substitution."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    path = best_plan("tinymoe/edge-4")
    assert path is not None
    plan = read_plan(path, problem)
    assert len(plan.pruned)
    assert len(plan.fused)
    assert len(plan.substituted)
    trace = sample_trace(problem)
    found = match(problem, trace)
    times = replay_analytic(problem, plan, trace, found)
    terms = score(problem, plan).terms
    assert times.mean("parallel") == pytest.approx(terms["parallel"], rel=1e-12)
    own = score(trace_problem(problem, trace, found), plan).terms
    assert times.mean("serial") == pytest.approx(own["serial"], rel=1e-12)


def test_tokens_are_bounded_and_grouped() -> None:
    """Of each token, parallel <= serial <= k parallel; means of applications add up."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    path = best_plan("tinymoe/edge-4")
    assert path is not None
    plan = Plan.of(problem, read_plan(path, problem).copies)
    trace = drawn_trace(problem, 3, requests=200)
    times = replay_analytic(problem, plan, trace, match(problem, trace))
    assert times.num_tokens == trace.num_tokens
    assert times.num_calls == times.num_tokens * 12
    assert (times.parallel_s <= times.serial_s * (1 + 1e-12)).all()
    assert (times.serial_s <= 2 * times.parallel_s * (1 + 1e-12)).all()
    count = np.bincount(problem.application_of[times.demand])
    for term in ("serial", "parallel"):
        means = times.by_application(term)
        assert means @ count / count.sum() == pytest.approx(times.mean(term))
        low, high = times.quantiles(term, np.array([0.0, 1.0]))
        assert low < times.mean(term) < high


def test_chunks_do_not_matter() -> None:
    """A token keeps its number, and so its hash, however the trace is cut."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    path = best_plan("tinymoe/edge-4")
    assert path is not None
    plan = read_plan(path, problem)
    trace = drawn_trace(problem, 3, requests=50)
    found = match(problem, trace)
    whole = replay_analytic(problem, plan, trace, found)
    chunk = trace.load()
    parts = [chunk.take(slice(n, n + 7)) for n in range(0, len(chunk), 7)]
    cut = type(trace)(
        header=trace.header, requests=trace.requests, source=lambda: iter(parts)
    )
    again = replay_analytic(problem, plan, cut, found)
    assert again.parallel_s.tolist() == whole.parallel_s.tolist()
    assert again.serial_s.tolist() == whole.serial_s.tolist()


def test_the_hash_is_the_judge_s() -> None:
    """Compiled or not, a token and an expert have one draw."""
    tokens, experts = np.arange(40), np.arange(40) * 977
    for salt in (1, 2):
        drawn = [_draw(t, e, salt) for t, e in zip(tokens, experts, strict=True)]
        assert drawn == token_hash(tokens, experts, salt).tolist()


def _draw(token: int, expert: int, salt: int) -> float:
    import numba

    @numba.njit
    def draw(t: int, e: int, s: int) -> float:
        return float(mix(t, e, s))

    return draw(int(token), int(expert), salt)


@given(cases(dataflow="roam", uncalled=False))
def test_a_roaming_token_walks_as_the_judge_says(case: Case) -> None:
    """With one copy of each expert `serial` is the term on the trace's own pairs."""
    problem = case.problem
    experts = np.arange(problem.num_experts)
    copies = case.witness.copies
    first = np.searchsorted(copies[:, 0], experts)
    assume((first < len(copies)).all() and (copies[first, 0] == experts).all())
    plan = Plan.of(problem, copies[first])
    trace = drawn_trace(problem, 6, requests=30)
    found = match(problem, trace)
    own = trace_problem(problem, trace, found)
    times = replay_analytic(problem, plan, trace, found)
    expected = score(own, plan).terms["serial"]
    assert times.mean("serial") == pytest.approx(expected, rel=1e-12)
    assert (times.parallel_s <= times.serial_s * (1 + 1e-12)).all()


def test_a_roaming_token_by_hand() -> None:
    """Two layers, two calls each, three servers in a line."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    apart = np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])
    problem = problem.replace(
        distance=apart,
        flop=np.zeros(96),
        s_per_byte=np.array([0.1, 0.1, 0.1])[: problem.num_places],
        size_bytes=np.ones_like(problem.size_bytes),
    )
    expert = np.arange(96)
    plan = Plan.of(problem, np.stack([expert, expert % 3, 0 * expert], axis=1))
    # Expert e of layer l is at server (16 l + e) % 3 = (l + e) % 3.
    trace = drawn_trace(problem, 1, requests=1, prompt=0, output=1, demand=0)
    home = int(problem.home_of[0])
    at, serial, parallel = home, 0.0, 0.0
    for layer, (one, two) in enumerate(trace.load().experts[0].tolist()):
        s, t = (layer + one) % 3, (layer + two) % 3
        serial += apart[at, s] + apart[at, t] + apart[t, s] + 0.2
        if s == t:
            parallel += apart[at, s] + 0.2
        else:
            parallel += 0.1 + max(apart[at, s], apart[at, t] + apart[t, s])
        at = s
    times = replay_analytic(problem, plan, trace, match(problem, trace))
    assert times.serial_s == pytest.approx([serial + apart[at, home]])
    assert times.parallel_s == pytest.approx([parallel + apart[at, home]])


def test_a_roaming_token_needs_a_copy() -> None:
    """An expert that is called and has no copy is refused in one line."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    trace = drawn_trace(problem, 1, requests=2)
    plan = Plan.of(problem, np.zeros((0, 3), dtype=np.int64))
    with pytest.raises(PlanError, match="got none of layer 0, expert 0, expected one"):
        replay_analytic(problem, plan, trace, match(problem, trace))

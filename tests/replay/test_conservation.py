"""Every call has one fate, and counts and bytes are those of the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from random_problems import Case, cases, random_plan
from replay_cases import drawn_trace, header_of, plain_plan, star

from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import Plan, read_plan
from meldopt.replay.events import Settings, replay_events
from meldopt.replay.match import match, trace_problem
from meldopt.score import score, transfer_budgets
from meldopt.trace import Chunk, Requests, Trace

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.replay.records import Records

BATCHED = Settings(max_batch=8, step_tokens=16)


def _best(name: str) -> tuple[Problem, Plan]:
    problem = build_problem(read_instance(name))
    path = best_plan(name)
    assert path is not None
    return problem, read_plan(path, problem)


@settings(max_examples=30)
@given(cases(dataflow="home", uncalled=False, prune=True, fuse=True, similar=True))
def test_every_call_has_one_fate(case: Case) -> None:
    """Calls of tokens that passed = served + fused + substituted + pruned + lost."""
    problem = case.problem
    plan = random_plan(problem, case.witness.copies, np.random.default_rng(1))
    trace = drawn_trace(problem, 3, requests=30, prompt=5, output=4, rate=1e4)
    found = match(problem, trace)
    for chosen in (BATCHED, replace(BATCHED, split="hash", fusion="partner")):
        run = replay_events(problem, plan, trace, found, settings=chosen)
        k = trace.header.top_k
        assert run.tokens.sum(axis=1).tolist() == [30 * 5, 30 * 3]
        per_layer = run.counts.sum(axis=(0, 3))
        assert (per_layer == run.tokens.sum(axis=0) * k).all()
        assert run.calls == run.counts.sum()
        assert run.fate("lost").sum() == run.lost_calls.sum() == 0
        assert run.finished.all()
        home = problem.source.T[:, :, None]
        servers = np.arange(problem.num_servers + 1)
        assert (run.fate("substituted")[home != servers] == 0).all()
        assert (run.fate("fused")[home == servers] == 0).all()


def _even_plan(problem: Problem, copies: Any, pruned: float, fused: float) -> Plan:
    """Return a plan with the same shares for all experts: what budgets say is exact."""
    whole = plain_plan(problem, copies)
    from meldopt.score import least_time_copies

    best = least_time_copies(problem, whole.copies)
    q, i = np.nonzero(best >= 0)
    place = whole.copies[best[q, i], 1]
    away = problem.server_of[place] != problem.source[q, problem.layer_of[i]]
    return Plan.of(
        problem,
        whole.copies,
        served=np.stack([q, i, best[q, i]], axis=1),
        served_share=np.full(len(q), 1 - pruned),
        pruned=np.stack([q, i, np.zeros_like(q)], axis=1),
        pruned_share=np.full(len(q), pruned),
        fused=np.stack([q, i, place, np.zeros_like(q)], axis=1)[away],
        fused_share=np.full(int(away.sum()), fused * (1 - pruned)),
    )


@pytest.mark.parametrize("name", ["tinymoe/edge-4", "mixtral-8x7b/metro-10"])
def test_counts_and_bytes_agree_with_the_budgets(name: str) -> None:
    """By layer, demand and link no count is off by more than the carry of a token."""
    problem, plan = _best(name)
    problem = problem.replace(fuse_factor=0.25)
    plan = _even_plan(problem, plan.copies, 0.15, 0.3)
    trace = drawn_trace(problem, 2, requests=200, prompt=0, output=9, rate=20.0)
    found = match(problem, trace)
    own = trace_problem(problem, trace, found)
    run = replay_events(problem, plan, trace, found, settings=BATCHED)
    assert run.counts.sum() == trace.num_tokens * problem.num_layers * 2
    scale = trace.num_tokens / own.total_rate
    names = problem.labels.servers
    slack = problem.num_demands * 2
    seen = 0.0
    for entry in transfer_budgets(own, plan):
        to = names.index(entry.to)
        here = problem.home_of == names.index(entry.from_)
        kept, fused, pruned = (
            run.fate(fate)[entry.layer, here, to].sum()
            for fate in ("served", "fused", "pruned")
        )
        sent = entry.tokens_per_s * scale
        meant = sent / (entry.kept + 0.25 * entry.fused)
        assert kept == pytest.approx(entry.kept * meant, abs=slack)
        assert fused == pytest.approx(entry.fused * meant, abs=slack)
        assert pruned == pytest.approx(entry.pruned * meant, abs=slack)
        seen += kept + fused + pruned
    away = ~np.eye(problem.num_servers + 1, dtype=bool)[problem.home_of]
    assert seen == run.counts[:, :, away].sum()
    rows = [row for row in score(own, plan).rows if row.row == "link"]
    expected = np.array([row.value for row in rows]) * scale
    carried = problem.num_layers * problem.num_demands * problem.num_servers
    bytes_ = max(problem.bytes_out, problem.bytes_back)
    assert run.link_call_bytes == pytest.approx(expected, abs=carried * bytes_)
    assert run.link_call_bytes == pytest.approx(expected, rel=0.05)
    assert (run.link_bytes.sum(axis=1) <= run.link_call_bytes * 1.02).all()
    assert run.link_saved_bytes.sum() > 0


@pytest.mark.parametrize("name", ["tinymoe/edge-4", "mixtral-8x7b/metro-4"])
def test_bytes_of_whole_shares_are_the_judge_s(name: str) -> None:
    """With the default rule, bytes counted call by call are `score`'s to the byte."""
    problem, plan = _best(name)
    plan = Plan.of(problem, plan.copies)
    trace = drawn_trace(problem, 2, requests=100, prompt=0, output=5, rate=20.0)
    found = match(problem, trace)
    own = trace_problem(problem, trace, found)
    run = replay_events(problem, plan, trace, found, settings=BATCHED)
    judged = score(own, plan)
    scale = trace.num_tokens / own.total_rate
    expected = [row.value * scale for row in judged.rows if row.row == "link"]
    assert run.link_call_bytes == pytest.approx(np.array(expected), rel=1e-9)
    loss = run.loss_nats.sum() / trace.num_tokens
    assert loss == pytest.approx(judged.terms["quality"], rel=1e-9)
    assert (run.link_bytes[:, 0] == 0).all()  # no prompts
    assert (run.link_bytes.sum(axis=1) <= run.link_call_bytes).all()
    assert run.link_bytes.sum() < run.link_call_bytes.sum()  # a token goes once


def test_quality_and_energy_of_the_mixed_plan() -> None:
    """The best plan of tinymoe: estimated loss as `score` says, energy adds up."""
    problem, plan = _best("tinymoe/edge-4")
    trace = drawn_trace(problem, 2, requests=400, prompt=0, output=5, rate=20.0)
    found = match(problem, trace)
    run = replay_events(problem, plan, trace, found, settings=BATCHED)
    judged = score(trace_problem(problem, trace, found), plan)
    loss = run.loss_nats.sum() / trace.num_tokens
    assert loss == pytest.approx(judged.terms["quality"], rel=0.05)
    assert (run.quality_loss > 0).all()
    parts = run.place_busy_s @ problem.power_w
    parts += run.link_bytes.sum(axis=1) @ problem.link_joule_per_byte
    assert run.energy_joule == pytest.approx(parts)


def test_a_token_goes_once_to_a_server() -> None:
    """Two calls of a token at one server: two transfers for `score`, one in fact."""
    problem, trace, plan = _two_experts(tokens=4)
    run = replay_events(problem, plan, trace, match(problem, trace))
    assert run.link_call_bytes.max() == 8 * 1000
    assert run.link_bytes.max() == 4 * 1000


def _two_experts(
    tokens: int,
    *,
    gates: Any = (0.9, 0.1),
    signature: Any = None,
    **shares: Any,
) -> tuple[Problem, Trace, Plan]:
    """Return a step of one prompt whose tokens all call experts 0 and 1 far away.

    A call of expert 0 takes 2 s, one of expert 1 takes 0.02 s.
    """
    problem = star(model={"experts": 2, "top_k": 2.0})
    problem = problem.replace(
        flop=np.array([20.0, 0.2]),
        s_per_flop=np.full_like(problem.s_per_flop, 0.1),
        s_per_byte=np.zeros(problem.num_places),
        prune_width=np.ones((1, 1, 1)),
        prune_loss=np.ones((1, 1, 1)),
        fuse_width=np.ones((1, 1, 1)),
        fuse_loss=np.ones((1, 1, 1)),
    )
    experts = np.tile(np.array([[[0, 1]]], dtype=np.uint8), (tokens, 1, 1))
    trace = Trace.of(
        header_of(problem, 2, signature_bits=0 if signature is None else 64),
        Requests(
            arrival_s=np.zeros(1),
            application=np.zeros(1, dtype=np.int64),
            home=np.zeros(1, dtype=np.int64),
            prompt_tokens=np.array([tokens - 1]),
            output_tokens=np.array([1]),
        )
        if tokens > 4
        else Requests(
            arrival_s=np.zeros(1),
            application=np.zeros(1, dtype=np.int64),
            home=np.zeros(1, dtype=np.int64),
            prompt_tokens=np.array([0]),
            output_tokens=np.array([tokens]),
        ),
        Chunk(
            experts=experts,
            gates=np.broadcast_to(np.array(gates, dtype=np.float16), experts.shape),
            token_request=np.zeros(tokens, dtype=np.int64),
            signature=signature,
        ),
    )
    tables: dict[str, Any] = {}
    if shares:
        keep = 1 - shares.get("pruned", 0.0)
        tables["served"] = np.array([[0, 0, 0], [0, 1, 1]])
        tables["served_share"] = np.full(2, keep)
        if "pruned" in shares:
            tables["pruned"] = np.array([[0, 0, 0], [0, 1, 0]])
            tables["pruned_share"] = np.full(2, shares["pruned"])
        if "fused" in shares:
            tables["fused"] = np.array([[0, 0, 3, 0], [0, 1, 3, 0]])
            tables["fused_share"] = np.full(2, shares["fused"] * keep)
    plan = Plan.of(problem, np.array([[0, 3, 0], [1, 3, 0]]), **tables)
    return problem, trace, plan


def _step(problem: Problem, trace: Trace, plan: Plan, **chosen: Any) -> Records:
    return replay_events(
        problem, plan, trace, match(problem, trace), settings=Settings(**chosen)
    )


def test_the_smallest_gates_are_pruned() -> None:
    """Half of the calls of a link go, and all of them are second choices."""
    run = _step(*_two_experts(41, pruned=0.5))
    assert run.fate("pruned").sum() == 40
    assert run.fate("served").sum() == 40
    assert run.place_busy_s.sum() == pytest.approx(40 * 2.0)  # all of expert 0 stay
    assert run.loss_nats.sum() == 40


def test_the_carry_makes_up_for_small_steps() -> None:
    """In steps of one token every fourth call is pruned, in the long run exactly."""
    run = _step(*_two_experts(4, pruned=0.125), max_batch=1)
    assert run.steps == 4
    assert run.fate("pruned").sum() == 1
    run = _step(*_two_experts(4, pruned=0.25), max_batch=1)
    assert run.fate("pruned").sum() == 2
    assert run.fate("served").sum() == 6


def test_the_most_alike_tokens_are_fused() -> None:
    """Of 40 tokens, 20 look like another one; these are fused, and none of the rest."""
    rng = np.random.default_rng(5)
    signature = rng.integers(0, 2**62, 41).astype(np.uint64)
    signature[1:40:2] = signature[0:40:2] ^ np.uint64(4)  # one bit differs
    case = _two_experts(41, signature=signature[:, None], fused=0.5)
    run = _step(*case)
    assert run.fate("fused").sum() == 40  # calls: 20 tokens with two each
    assert run.fuse_distance == 1.0
    assert run.link_saved_bytes.max() == 20 * 1000
    assert run.link_bytes.max() == 20 * 1000
    assert run.place_busy_s.sum() == pytest.approx(40 * 2.02)  # the work is done
    assert run.place_saved_s.sum() == pytest.approx(20 * 2.02)
    case = _two_experts(41, signature=signature[:, None], fused=0.6)
    assert _step(*case).fuse_distance > 1.0


def test_partners_must_be_there() -> None:
    """In steps of one token budgets can fuse, but there is nobody to be fused with."""
    signature = np.zeros((4, 1), dtype=np.uint64)
    case = _two_experts(4, signature=signature, fused=0.5)
    run = _step(*case, max_batch=1)
    assert run.fate("fused").sum() == 4
    alone = _step(*case, max_batch=1, fusion="partner")
    assert alone.fate("fused").sum() == 0
    assert alone.fuse_short == 4
    wide = _two_experts(41, signature=np.zeros((41, 1), dtype=np.uint64), fused=1.0)
    run = _step(*wide, fusion="partner")
    assert run.fate("fused").sum() == 2 * 39  # one token stands for all
    assert run.fuse_short == 2


def test_copies_get_their_shares() -> None:
    """With a carry each copy is within one call of its share; drawn, it is not."""
    problem = star()
    plan = Plan.of(
        problem,
        np.array([[0, 2, 0], [0, 3, 0]]),
        served=np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]),
        served_share=np.array([0.3, 0.7, 0.9, 0.1]),
    )
    trace = drawn_trace(problem, 5, requests=50, prompt=0, output=20)
    run = replay_events(problem, plan, trace, match(problem, trace))
    for q, shares in enumerate([(0.3, 0.7), (0.9, 0.1)]):
        got = run.fate("served")[0, q, [2, 3]]
        assert got == pytest.approx(np.array(shares) * run.tokens[1, q], abs=1)
    drawn = replay_events(
        problem, plan, trace, match(problem, trace), settings=Settings(split="hash")
    )
    got = drawn.fate("served")[0, 0, [2, 3]]
    assert got == pytest.approx(np.array([0.3, 0.7]) * run.tokens[1, 0], rel=0.2)
    assert (got != run.fate("served")[0, 0, [2, 3]]).any()

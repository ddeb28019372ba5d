"""Hops and servers per token agree with counting by hand and with published values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from replay_cases import header_of, star

from meldopt import build_problem, read_instance
from meldopt.affinity import (
    devices_per_token,
    hops_per_token,
    main_servers,
    plan_affinity,
    trace_tokens,
    uniform_devices_per_token,
    uniform_hops_per_token,
)
from meldopt.errors import PlanError
from meldopt.plan import Plan
from meldopt.testing import contract_instance
from meldopt.trace import Chunk, Requests, Trace

# Two layers of three experts on three servers: experts 0 to 2, then 3 to 5.
SERVER_OF = np.array([0, 0, 1, 0, 1, 2])


def test_uniform_hops_are_those_published_for_exflow():
    """31 transitions x 3/4 on four GPUs, x 7/8 on eight: 23.25 and 27.125."""
    assert uniform_hops_per_token(np.full((32, 4), 2)) == 23.25
    assert uniform_hops_per_token(np.full((32, 8), 1)) == 27.125


def test_uniform_devices_are_those_published_for_occult():
    """8 of 64 experts on 4 equal devices: 4 (1 - C(48, 8) / C(64, 8)) = 3.659."""
    found = uniform_devices_per_token([16] * 4, 8)
    assert found == pytest.approx(4 * (1 - math.comb(48, 8) / math.comb(64, 8)))
    assert round(found, 3) == 3.659


def test_uniform_values_are_means_over_all_tokens():
    """Unequal servers: the formulas are the evaluators' means over every token."""
    counts = [[2, 1, 0], [1, 1, 1]]
    paths = np.array(list(itertools.product(range(3), range(3, 6))))
    assert uniform_hops_per_token(counts) == pytest.approx(
        hops_per_token(paths, SERVER_OF)
    )
    pairs = list(itertools.combinations(range(3), 2))
    experts = np.array([[one, [3, 4]] for one in pairs])
    assert uniform_devices_per_token(counts[0], 2) == pytest.approx(
        devices_per_token(experts, SERVER_OF)[0]
    )


def test_uniform_devices_refuse_too_few_experts():
    """A token cannot call four of three experts."""
    with pytest.raises(ValueError, match="got 4, expected 0 to 3"):
        uniform_devices_per_token([2, 1], 4)


def test_hops_are_counted():
    """From 0 to 3: stays; from 2 to 5: server 1 to 2, one hop; mean of two tokens 1/2.

    With weights 1 and 3 the mean is 3/4; with distance 2 from 1 to 2 it is 1.
    """
    paths = np.array([[0, 3], [2, 5]])
    assert hops_per_token(paths, SERVER_OF) == 0.5
    weight = np.array([1.0, 3.0])
    assert hops_per_token(paths, SERVER_OF, weight=weight) == 0.75
    far = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
    assert hops_per_token(paths, SERVER_OF, distance=far) == 1.0


def test_a_missing_expert_is_no_hop_and_no_server():
    """-1 stands for no expert: no hop to it, no server for it."""
    assert hops_per_token(np.array([[0, -1]]), SERVER_OF) == 0.0
    experts = np.array([[[0, 2], [-1, 5]]])
    assert devices_per_token(experts, SERVER_OF).tolist() == [2.0, 1.0]


def test_devices_are_counted_once():
    """Experts 0 and 1 share server 0: one server; 3, 4 and 5 sit on three."""
    experts = np.array([[[0, 1, -1], [3, 4, 5]], [[0, 2, 1], [5, 5, 5]]])
    assert devices_per_token(experts, SERVER_OF).tolist() == [1.5, 2.0]


def test_tokens_may_see_experts_elsewhere():
    """With a table by token, the second token finds expert 3 on server 2: one hop."""
    at = np.stack([SERVER_OF, [0, 0, 1, 2, 1, 2]])
    assert hops_per_token(np.array([[0, 3], [0, 3]]), at) == 0.5


def test_no_tokens_are_zero():
    """No token takes no hop."""
    assert hops_per_token(np.zeros((0, 3), dtype=np.int64), SERVER_OF) == 0.0


def _contract_plan(problem, places):
    return Plan.of(
        problem,
        np.array([(i, v, 1) for i, v in places], dtype=np.int64),
    )


def test_demands_find_the_copy_that_answers_them():
    """Two copies of expert 0, at both homes: each demand takes its own."""
    problem = build_problem(contract_instance("loose"))
    plan = _contract_plan(problem, [(0, 0), (0, 2), (1, 1), (2, 2), (3, 0)])
    assert main_servers(problem, plan).tolist() == [[0, 1, 2, 0], [2, 1, 2, 0]]


def test_most_calls_decide_where_an_expert_is():
    """Shares 0.4 and 0.6 of two copies: the second one, whatever the order."""
    problem = build_problem(contract_instance("loose"))
    copies = np.array([(0, 0, 1), (0, 2, 1), (1, 1, 1), (2, 2, 1), (3, 0, 1)])
    plan = Plan.of(
        problem,
        copies,
        served=np.array([[0, 0, 0], [0, 0, 1]]),
        served_share=np.array([0.4, 0.6]),
    )
    assert main_servers(problem, plan)[0, 0] == 2


def test_a_plan_is_measured_on_tokens():
    """Chat is 3/5 of the tokens: its token hops, that of code does not; mean 0.6.

    Two experts of each layer: layer 0 on servers 0 and 1, layer 1 on 2 and 0. Chance
    to stay is 1/4 (expert 0 and 3), so 3/4 of a hop is to expect.
    """
    problem = build_problem(contract_instance("loose"))
    plan = _contract_plan(problem, [(0, 0), (1, 1), (2, 2), (3, 0)])
    experts = np.array([[[0], [2]], [[0], [3]], [[0], [3]]])
    demand = np.array([0, 1, 1])
    found = plan_affinity(problem, plan, [(experts, demand)])
    assert found.hops == pytest.approx(0.6)
    assert found.uniform_hops == pytest.approx(0.75)
    assert found.devices.tolist() == [1.0, 1.0]
    assert found.uniform_devices.tolist() == [1.0, 1.0]
    assert found.devices_per_token == 1.0
    # In chunks it is the same, and so it is if only one demand has tokens but its own.
    chunks = [(experts[:1], demand[:1]), (experts[1:], demand[1:])]
    assert plan_affinity(problem, plan, chunks).hops == pytest.approx(found.hops)
    assert plan_affinity(problem, plan, chunks[:1]).hops == 1.0
    assert plan_affinity(problem, plan, chunks[1:]).hops == 0.0


def test_sampled_tokens_are_the_default():
    """The samples of an instance are measured; all experts on one server: no hop."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    copies = np.array([(i, 0, 3) for i in range(problem.num_experts)])
    found = plan_affinity(problem, Plan.of(problem, copies))
    assert (found.hops, found.uniform_hops) == (0.0, 0.0)
    assert found.devices.tolist() == pytest.approx([1.0] * 6)
    assert found.uniform_devices.tolist() == pytest.approx([1.0] * 6)


def test_a_trace_is_measured():
    """Three requests, layers of the trace in another order; by hand.

    Tokens call 0 and 1 of three experts in every layer; the primary is 1 in the second
    layer of the trace, which is the first of the problem. Layer 0: experts 0, 1, 2 on
    servers 0, 1, 0; layer 1: all on server 0. The primary goes from 1 to 0: one hop.
    """
    problem = star(model={"layers": 2, "experts": 3, "top_k": 2.0})
    header = header_of(problem, 2)
    experts = np.zeros((3, 2, 2), dtype=np.uint8)
    experts[:, 0], experts[:, 1] = (0, 1), (1, 0)
    numbers = np.arange(3)
    trace = Trace.of(
        header,
        Requests(
            arrival_s=numbers.astype(np.float64),
            application=0 * numbers,
            home=0 * numbers,
            prompt_tokens=0 * numbers,
            output_tokens=0 * numbers + 1,
        ),
        Chunk(
            experts=experts,
            gates=np.ones(experts.shape, dtype=np.float16),
            token_request=numbers,
        ),
    )
    places = [0, 1, 0, 0, 0, 0]
    plan = Plan.of(problem, np.array([(i, v, 0) for i, v in enumerate(places)]))
    tokens = trace_tokens(problem, trace, np.array([1, 0]), np.array([0, 1, 1]))
    found = plan_affinity(problem, plan, tokens)
    assert found.hops == 1.0
    assert found.devices.tolist() == [2.0, 1.0]


def test_without_tokens_there_is_nothing_to_measure():
    """One line says that the problem has no samples."""
    problem = build_problem(contract_instance("loose"))
    plan = _contract_plan(problem, [(0, 0), (1, 1), (2, 2), (3, 0)])
    with pytest.raises(PlanError, match="got no tokens"):
        plan_affinity(problem, plan)

"""The judge: every term and row by hand, and properties on random plans."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hand_case import FULL, HALF, A, B, C, changed, copies, document, instance_of
from hypothesis import given, settings
from oracle import optimum, roam_value
from random_problems import Case, cases

from meldopt.builder import build_problem
from meldopt.errors import PlanError
from meldopt.plan import Plan
from meldopt.problem import TERMS
from meldopt.score import (
    Flows,
    Row,
    Score,
    least_time_copies,
    sampled_calls,
    score,
    token_hash,
    transfer_budgets,
    worst_rows,
)

if TYPE_CHECKING:
    from meldopt.problem import Problem

HELD = copies((0, A, FULL), (0, C, HALF), (1, B, HALF), (2, C, HALF), (3, A, HALF))


def value_of(judged: Score, row: str, where: str) -> float:
    (found,) = [r.value for r in judged.rows if (r.row, r.where) == (row, where)]
    return found


def broken(judged: Score) -> dict[str, float]:
    return {f"{v.row}: {v.where}": v.amount for v in judged.violations}


# -- the default rule, by hand ---------------------------------------------------------


def test_default_rule_takes_the_copy_of_least_time() -> None:
    """Each demand uses the copy whose round trip, bytes and work take least time.

    From a, expert 0 at home takes 2 s, at c 7 + 2.4 + 3; from c, at home 3 s and at a
    7 + 1.8 + 2. Copies are numbered 0 (expert 0 at a), 1 (at c), 2, 3, 4.
    """
    problem = build_problem(changed())
    assert least_time_copies(problem, HELD).tolist() == [[0, 2, 3, 4], [1, 2, 3, 4]]
    # Of two equal copies the first in order of place is used; without any: -1.
    assert least_time_copies(problem, HELD[:1]).tolist() == [[0, -1, -1, -1]] * 2
    assert least_time_copies(problem, HELD[:0]).tolist() == [[-1] * 4] * 2


def test_serial_by_hand() -> None:
    """The mean over demands of calls x (round trip + bytes + work).

    Demand a: 0.75 x 2 + 0.25 x (2 + 0.6 + 1.25) + 0.5 x (7 + 2.4 + 3) + 0.5 x 1
    = 9.1625. Demand c: 0.75 x 3 + 0.25 x (5 + 1.8 + 1.25) + 0.5 x 3 + 0.5 x
    (7 + 1.8 + 1) = 10.6625. Weights 3/4 and 1/4.
    """
    problem = build_problem(changed())
    judged = score(problem, Plan.of(problem, HELD))
    assert judged.terms["serial"] == pytest.approx(0.75 * 9.1625 + 0.25 * 10.6625)
    assert judged.objective == judged.terms["serial"]
    assert judged.feasible


# -- a plan that uses every decision, by hand ------------------------------------------


def mixed(problem: Problem) -> Plan:
    """Demand a answers expert 1 in every way; the rest follows the default rule.

    Half is served at b, half of that fused; a fifth is answered by expert 0 at a;
    three tenths are pruned, two in the first segment and one in the second.
    """
    return Plan.of(
        problem,
        HELD,
        served=np.array([[0, 1, 2]]),
        served_share=np.array([0.5]),
        fused=np.array([[0, 1, B, 0]]),
        fused_share=np.array([0.25]),
        substituted=np.array([[0, 1, 0]]),
        substituted_share=np.array([0.2]),
        pruned=np.array([[0, 1, 0], [0, 1, 1]]),
        pruned_share=np.array([0.2, 0.1]),
    )


@pytest.fixture(name="judged")
def _judged() -> Score:
    written = document()
    written["limits"].update(
        budgets=[
            {"layer": 0, "from": "a", "to": "b", "max": 5.0},
            {"to": "c", "max": 5.0},
            {"link": ["c", "b"], "max": 5.0},
        ]
    )
    written["workload"]["applications"][0].update(
        quality_budget=1.0, latency_target=100.0
    )
    problem = build_problem(instance_of(written))
    judged = score(problem, mixed(problem))
    assert judged.feasible
    return judged


def test_serial_of_the_mixed_plan(judged: Score) -> None:
    """A fused call saves 1 - φ of its transfer, a substituted one costs only work.

    Expert 1 of demand a: 0.5 x 3.85 served, minus 0.25 x 0.75 x 0.6 saved by fusing,
    plus 0.2 x 2 of work at a = 2.2125 per call; pruned calls cost no time.
    """
    a = 1.5 + 0.25 * (0.5 * 3.85 - 0.25 * 0.75 * 0.6 + 0.2 * 2) + 6.2 + 0.5
    serial = 0.75 * a + 0.25 * 10.6625
    assert judged.terms["serial"] == pytest.approx(serial)
    assert value_of(judged, "latency", "chat") == pytest.approx(serial)


def test_quality_of_the_mixed_plan(judged: Score) -> None:
    """Losses of formats, fusion, substitution and pruning add up per call.

    Demand a, expert 1: 0.5 x 0.2 in half precision, 0.25 x 0.05 fused, 0.2 x (0.7 + 0)
    answered by expert 0 in full, 0.2 x 0.5 + 0.1 x 1 pruned; experts 2 and 3 in half.
    """
    a = 0.25 * (0.1 + 0.0125 + 0.14 + 0.1 + 0.1) + 0.5 * 0.3 + 0.5 * 0.4
    c = 0.75 * 0.1 + 0.25 * 0.2 + 0.5 * 0.3 + 0.5 * 0.4
    assert judged.terms["quality"] == pytest.approx(0.75 * a + 0.25 * c)
    assert value_of(judged, "quality", "chat") == pytest.approx(0.75 * a + 0.25 * c)


def test_compute_and_bottleneck_of_the_mixed_plan(judged: Score) -> None:
    """Busy seconds per second of each processor; the worst server of each layer."""
    # a: demand a has expert 0 (2 s), the substituted fifth of expert 1 (2 s), expert 3.
    layer_0 = {"a": 3 * (0.75 * 2 + 0.25 * 0.2 * 2), "c": 1 * 0.75 * 3}
    layer_0["b"] = 3 * 0.25 * 0.5 * 1.25 + 1 * 0.25 * 1.25
    layer_1 = {"a": (3 + 1) * 0.5 * 1, "b": 0.0, "c": (3 + 1) * 0.5 * 3}
    for server in "abc":
        assert value_of(judged, "compute", f"{server}/processor") == pytest.approx(
            layer_0[server] + layer_1[server]
        )
    assert judged.terms["bottleneck"] == pytest.approx((4.8 + 6.0) / 4)
    assert max(layer_0.values()) == pytest.approx(4.8)


def test_links_traffic_and_energy_of_the_mixed_plan(judged: Score) -> None:
    """Bytes follow the routes out and back; a fused call sends a quarter.

    Calls/s: expert 1 from a to b 3 x 0.25 x (0.5 - 0.75 x 0.25) = 0.234375 at full
    bytes; expert 2 from a to c 1.5; from c: expert 1 to b 0.25, expert 3 to a 0.5.
    """
    e1, e2, c1, c3 = 0.234375, 1.5, 0.25, 0.5
    ab = 2 * (e1 + e2) + 4 * c3
    ba = 4 * (e1 + e2) + 2 * c3
    bc = 2 * e2 + 4 * (c1 + c3)
    cb = 4 * e2 + 2 * (c1 + c3)
    for link, load in (("a -> b", ab), ("b -> a", ba), ("b -> c", bc), ("c -> b", cb)):
        assert value_of(judged, "link", link) == pytest.approx(load)
    assert judged.terms["traffic"] == pytest.approx((ab + ba + bc + cb) / 4)
    busy = 6.8 * 10 + 0.78125 * 20 + 8.25 * 5  # seconds x watts of a, b, c
    joule = 0.5 * (ab + ba) + 0.25 * bc + 0.125 * cb
    assert judged.terms["energy"] == pytest.approx((busy + joule) / 4)


def test_budgets_of_the_mixed_plan(judged: Score) -> None:
    """Caps count what goes out: per layer and pair, to a server, over a link."""
    assert value_of(judged, "budget", "layer 0, a -> b") == pytest.approx(0.234375)
    assert value_of(judged, "budget", "all layers, any -> c") == pytest.approx(1.5)
    # From c to b and, over b, to a.
    assert value_of(judged, "budget", "all layers, c -> b") == pytest.approx(0.75)


def test_memory_of_the_mixed_plan(judged: Score) -> None:
    """Sizes of copies per place: 10 bytes in full, 5 in half precision."""
    assert value_of(judged, "memory", "a/gpu") == 15.0
    assert value_of(judged, "memory", "b/gpu") == 5.0
    assert value_of(judged, "memory", "c/ram") == 10.0
    (row,) = [r for r in judged.rows if r.where == "a/gpu"]
    assert (row.slack, row.relative_slack) == (5.0, 0.25)
    assert worst_rows(judged.rows, 1)[0].relative_slack == min(
        r.relative_slack for r in judged.rows if r.limit
    )


def test_objective_is_the_weighted_sum() -> None:
    """Weights multiply terms and nothing else."""
    weights = {"serial": 2.0, "traffic": 0.5, "energy": 0.25, "quality": 3.0}
    problem = build_problem(changed(objective=weights))
    judged = score(problem, mixed(problem))
    assert judged.objective == pytest.approx(
        sum(weight * judged.terms[term] for term, weight in weights.items())
    )


def test_transfer_budgets_by_hand() -> None:
    """What was meant to cross splits into kept, fused and pruned.

    Demand a means to send 0.75 calls/s of expert 1 to b: 0.375 are served there, half
    of them fused, and 0.225 pruned; the substituted fifth never meant to leave.
    """
    problem = build_problem(changed())
    (entry,) = [
        e
        for e in transfer_budgets(problem, mixed(problem))
        if (e.layer, e.from_, e.to) == (0, "a", "b")
    ]
    meant = 0.375 + 0.225
    assert entry.tokens_per_s == pytest.approx(0.234375)
    assert entry.kept == pytest.approx(0.1875 / meant)
    assert entry.fused == pytest.approx(0.1875 / meant)
    assert entry.pruned == pytest.approx(0.225 / meant)


def test_pipeline_by_hand() -> None:
    """With hosts b and c, layer 0 leaves from b and returns to c, layer 1 from c home.

    Expert 1 at b itself: 0 s there, 2 s back to c, 4 bytes at 5 B/s, 1.25 s of work.
    """
    written = document()
    written["workload"].update(hosts=["b", "c"])
    problem = build_problem(instance_of(written))
    judged = score(problem, Plan.of(problem, HELD))
    # Layer 0 (both demands): expert 0 at a: 1 + 3 s, 2 x 0.1 + 4 x 0.2, work 2 = 7.0;
    # at c: 2 + 0 s, 2 x 0.2, work 3 = 5.4: c is nearer. Expert 1: 2 + 0.8 + 1.25.
    layer_0 = 0.75 * 5.4 + 0.25 * 4.05
    # Layer 1 leaves from c. Home a: expert 2 at c: 0 + 4 s, 4 x 0.5, work 3 = 9;
    # expert 3 at a: 4 + 0 s, 2 x 0.5, work 1 = 6. Home c: 3 s and 7 + 1.8 + 1 s.
    a, c = 0.5 * 9 + 0.5 * 6, 0.5 * 3 + 0.5 * 9.8
    assert judged.terms["serial"] == pytest.approx(layer_0 + 0.75 * a + 0.25 * c)


# -- roam by hand ----------------------------------------------------------------------

SINGLE = copies((0, A, FULL), (1, B, HALF), (2, C, HALF), (3, A, HALF))


def roaming(**limits: Any) -> Problem:
    written = document()
    written["dataflow"] = "roam"
    written["objective"] = {"serial": 1.0}
    written["limits"].update(limits)
    written["model"]["profile"].update(
        pairs=[[0, 2], [1, 3], [2, 3]],
        pair_weight=[[0.5, 0.25, 0.1]],
        entry=[[0.75, 0.25, 0.0, 0.0]],
        exit=[[0.0, 0.0, 0.5, 0.5]],
    )
    return build_problem(instance_of(written))


def test_roam_by_hand() -> None:
    """Pairs, entries and exits walk the distances; work as in home.

    Distances: a to b 1.2 and back, a to c 3.4, c to a 5, b to c 2.4, c to b 4. Pairs:
    0.5 x 3.4 + 0.25 x 1.2 + 0.1 x 5 = 2.5. Home a: in 0.25 x 1.2, out 0.5 x 5; home
    c: in 0.75 x 5 + 0.25 x 4, out 0.5 x 3.4.
    """
    problem = roaming(
        budgets=[
            {"layer": 1, "from": "a", "to": "c", "max": 9.0},
            {"layer": 0, "from": "a", "to": "b", "max": 9.0},
            {"from": "c", "to": "a", "max": 9.0},
        ]
    )
    judged = score(problem, Plan.of(problem, SINGLE))
    assert judged.feasible
    pair = 2.5 + 0.75 * (0.3 + 2.5) + 0.25 * (4.75 + 1.7)
    work = 0.75 * 2 + 0.25 * 1.25 + 0.5 * 3 + 0.5 * 1
    assert judged.terms["pair"] == pytest.approx(pair)
    assert judged.terms["serial"] == pytest.approx(pair + work)
    # Walks/s of 4 tokens/s: a-c 2, b-a 1, c-a 0.4; in: a-b 0.75, c-a 0.75, c-b 0.25;
    # out: c-a 1.5, a-c 0.5. Two bytes each; a to c crosses two links.
    loads = {
        "a -> b": 2 * (2 + 0.75 + 0.5),
        "b -> c": 2 * (2 + 0.5),
        "b -> a": 2 * (1 + 0.4 + 0.75 + 1.5),
        "c -> b": 2 * (0.4 + 0.75 + 0.25 + 1.5),
    }
    for link, load in loads.items():
        assert value_of(judged, "link", link) == pytest.approx(load)
    assert judged.terms["traffic"] == pytest.approx(sum(loads.values()) / 4)
    # Budgets go by the layer that a walk leads to; what goes home is in none.
    assert value_of(judged, "budget", "layer 1, a -> c") == pytest.approx(2.0)
    assert value_of(judged, "budget", "layer 0, a -> b") == pytest.approx(0.75)
    assert value_of(judged, "budget", "all layers, c -> a") == pytest.approx(1.15)
    assert value_of(judged, "compute", "a/processor") == pytest.approx(4 * 2.0)
    assert judged.terms["bottleneck"] == pytest.approx(1.5 + 1.5)
    assert "parallel" not in judged.terms


def test_roam_takes_the_nearest_of_several_copies() -> None:
    """With a second copy a walk ends at the one nearest to where the token is.

    Expert 2 at b as well (in half precision). From expert 0 at a, b is nearer (1.2)
    than c (3.4); its work there is 1.25 s instead of 3 s; then 2 -> 3 walks 1.2 from b
    instead of 5, and the way home is 1.2 to a or 2.4 to c.
    """
    problem = roaming(copies=2)
    held = copies(*SINGLE.tolist(), (2, B, HALF))
    judged = score(problem, Plan.of(problem, held))
    pair = 0.5 * 1.2 + 0.25 * 1.2 + 0.1 * 1.2
    pair += 0.75 * (0.3 + 0.5 * 1.2) + 0.25 * (4.75 + 0.5 * 2.4 + 0.5 * 3.4)
    assert judged.terms["pair"] == pytest.approx(pair)
    assert judged.terms["serial"] == pytest.approx(
        pair + 0.75 * 2 + 0.25 * 1.25 + 0.5 * 1.25 + 0.5 * 1
    )


def test_roam_has_no_shares() -> None:
    """A roaming plan with shares is no plan."""
    problem = roaming()
    plan = Plan.of(
        problem,
        SINGLE,
        served=np.array([[0, 0, 0]]),
        served_share=np.array([1.0]),
    )
    with pytest.raises(PlanError, match="in roam a plan has none"):
        score(problem, plan)


# -- sampled tokens --------------------------------------------------------------------


def sampled(top_k: float, samples: list[Any], **profile: Any) -> Problem:
    written = document()
    written["model"]["top_k"] = top_k
    written["model"]["profile"].update(sample_experts=samples, **profile)
    written["objective"] = {"parallel": 1.0}
    return build_problem(instance_of(written))


def test_parallel_with_one_call_a_layer_is_serial() -> None:
    """With k = 1 nothing is side by side: the sample's own serial.

    Tokens 0 to 2 belong to demand a, token 3 to c. Their two calls each: 2 + 12.4,
    3.85 + 1, 2 + 1 and (from c) 8.05 + 3 seconds.
    """
    problem = sampled(1.0, [[[0], [0]], [[1], [1]], [[0], [1]], [[1], [0]]])
    terms = score(problem, Plan.of(problem, HELD)).terms
    assert terms["parallel"] == pytest.approx((14.4 + 4.85 + 3.0 + 11.05) / 4)
    assert terms["fluid"] == pytest.approx(terms["parallel"])


def test_parallel_sends_a_token_once_to_a_server() -> None:
    """Two experts on one server share a trip and a transfer and add their work.

    Layer 0: both at b: 2 + 0.6 + 2 x 1.25 = 5.1. Layer 1: expert 2 at c takes 12.4,
    expert 3 at home 1: the slower counts.
    """
    problem = sampled(2.0, [[[0, 1], [0, 1]]], calls=[[1.0, 1.0, 1.0, 1.0]])
    held = copies((0, B, HALF), (1, B, HALF), (2, C, HALF), (3, A, HALF))
    terms = score(problem, Plan.of(problem, held)).terms
    assert terms["parallel"] == pytest.approx(5.1 + 12.4)
    assert terms["fluid"] == pytest.approx(5.1 + 12.4)


def test_parallel_and_fluid_of_split_shares() -> None:
    """The hash sends a token one way; fluid takes the shares as they are.

    Expert 0 is half at a (2 s) and half at b (2 + 0.6 + 2.5 s): a token takes one of
    them, fluid the larger of 0.5 x 2 and 0.5 x 5.1. Expert 3 at home adds 1.
    """
    problem = sampled(1.0, [[[0], [1]]])
    held = copies((0, A, FULL), (0, B, FULL), (1, B, HALF), (2, C, HALF), (3, A, HALF))
    plan = Plan.of(
        problem,
        held,
        served=np.array([[0, 0, 0], [0, 0, 1]]),
        served_share=np.array([0.5, 0.5]),
    )
    terms = score(problem, plan).terms
    draw = token_hash(np.array([0]), np.array([0]), 1)[0]
    assert terms["parallel"] == pytest.approx((2.0 if draw < 0.5 else 5.1) + 1.0)
    assert terms["fluid"] == pytest.approx(0.5 * 5.1 + 1.0)


def test_a_fused_visit_sends_a_quarter() -> None:
    """When all calls to a server are fused, its transfer is φ of one.

    Expert 1 fully fused at b: 2 + 0.25 x 0.6 + 1.25; the curve has to allow it.
    """
    problem = sampled(1.0, [[[1], [1]]], fuse_width=[[[1.0], [1.0]]])
    plan = Plan.of(
        problem,
        HELD,
        fused=np.array([[0, 1, B, 0]]),
        fused_share=np.array([1.0]),
    )
    terms = score(problem, plan).terms
    assert terms["parallel"] == pytest.approx(2 + 0.15 + 1.25 + 1.0)
    assert terms["fluid"] == pytest.approx(terms["parallel"])


def test_pruned_and_substituted_calls_do_not_travel() -> None:
    """A pruned call takes no time, a substituted one its work at home."""
    problem = sampled(
        1.0,
        [[[1], [1]]],
        prune_width=[[[1.0], [1.0]]],
        prune_loss=[[[0.1], [0.1]]],
    )
    gone = Plan.of(
        problem, HELD, pruned=np.array([[0, 1, 0]]), pruned_share=np.array([1.0])
    )
    terms = score(problem, gone).terms
    assert (terms["parallel"], terms["fluid"]) == pytest.approx((1.0, 1.0))
    other = Plan.of(
        problem,
        HELD,
        substituted=np.array([[0, 1, 0]]),
        substituted_share=np.array([1.0]),
    )
    terms = score(problem, other).terms  # expert 0 in full at a: 2 s
    assert (terms["parallel"], terms["fluid"]) == pytest.approx((3.0, 3.0))


def test_the_hash_is_uniform_and_fixed() -> None:
    """Draws fill [0, 1) evenly, differ by salt, and never change between releases."""
    tokens, experts = np.divmod(np.arange(20_000), 100)
    draw = token_hash(tokens, experts, 1)
    assert draw.min() >= 0
    assert draw.max() < 1
    counts = np.histogram(draw, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 200
    assert abs(np.corrcoef(draw, token_hash(tokens, experts, 2))[0, 1]) < 0.03
    # splitmix64 finaliser of 0 with salt 1, worked out with Python's own integers.
    x = 0x94D049BB133111EB
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift)) * factor % 2**64
    x ^= x >> 31
    assert token_hash(np.array([0]), np.array([0]), 1)[0] == (x >> 11) / 2.0**53


# -- violations ------------------------------------------------------------------------


def judge(problem: Problem, held: np.ndarray, **tables: Any) -> dict[str, float]:
    return broken(score(problem, Plan.of(problem, held, **tables)))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"busy": 6.0}, {"compute: a/processor": 0.5, "compute: c/processor": 2.25}),
        ({"link_busy": 2.0}, {"link: c -> b": 7.5 - 4.0}),
        ({"copies": 1}, {"copies: copies over 1": 1.0}),
        ({"coverage": [["c"], ["a", "b"]]}, {"coverage: c": 1.0, "coverage: a+b": 2.0}),
        (
            {
                "count": [
                    {"name": "few", "servers": ["a"], "max": 1},
                    {"name": "many", "formats": ["full"], "min": 3},
                ]
            },
            {"count: few": 1.0, "count: many": 2.0},
        ),
        (
            {"uniform": [{"name": "same", "layers": "each"}]},
            {"uniform: same, layer 0": 1.0},
        ),
        (
            {
                "pin": [
                    {
                        "layer": 0,
                        "expert": 0,
                        "server": "b",
                        "tier": "gpu",
                        "format": "half",
                    }
                ]
            },
            {"pin: pinned copies that are missing": 1.0},
        ),
        (
            {"forbid": [{"layer": 0, "expert": 0, "server": "c"}]},
            {"forbid: forbidden copies": 1.0},
        ),
        (
            {"budgets": [{"layer": 1, "to": "c", "max": 0.5}]},
            {"budget: layer 1, any -> c": 1.0},
        ),
    ],
    ids=lambda x: ",".join(x) if "busy" in str(x) else None,
)
def test_broken_rows_are_named_with_their_amount(
    limits: dict[str, Any], expected: dict[str, float]
) -> None:
    """The default plan of HELD breaks exactly the row that was tightened.

    Busy: a 3 x (1.5 + 0.5) + 0.5 = 6.5, b 4 x 0.25 x 1.25, c 2.25 + 4.5 + 1.5 = 8.25;
    bytes/s from c to b: 4 x 1.5 + 2 x 0.75 = 7.5 of 2 x 2.
    """
    problem = build_problem(changed(limits=limits))
    assert judge(problem, HELD) == pytest.approx(expected)


def test_broken_rows_of_an_application() -> None:
    """Quality, latency and trust name the application."""
    written = document()
    written["workload"]["applications"][0].update(
        quality_budget=0.2, latency_target=9.0, trusted=["a", "c"]
    )
    problem = build_problem(instance_of(written))
    # Expert 1 is only at b, which is not trusted: its calls have no answer, so they
    # take neither time nor quality.
    quality = 0.75 * 0.35 + 0.25 * (0.075 + 0.35)
    assert judge(problem, HELD) == pytest.approx(
        {
            "quality: chat": quality - 0.2,
            "share: calls without an answer": 2.0,
        }
    )
    # Said outright, b serves it: then it is the trust row that is broken.
    tables = {
        "served": np.array([[0, 1, 2], [1, 1, 2]]),
        "served_share": np.array([1.0, 1.0]),
    }
    assert judge(problem, HELD, **tables) == pytest.approx(
        {
            "quality: chat": quality + 0.25 * 0.2 - 0.2,
            "latency: chat": 0.75 * 9.1625 + 0.25 * 10.6625 - 9.0,
            "trust: chat": 2.0,
        }
    )


def test_broken_rows_of_copies() -> None:
    """Memory, missing experts, second copies and formats that a tier does not run."""
    problem = build_problem(changed())
    crowd = copies(*[(i, A, FULL) for i in range(4)])
    assert judge(problem, crowd) == {"memory: a/gpu": 20.0}
    assert judge(problem, HELD[:2]) == {
        "expert: experts without a copy": 3.0,
        "share: calls without an answer": 6.0,
    }
    twice = copies(*HELD.tolist(), (0, A, HALF))
    assert judge(problem, twice) == {"one-per-server: second copies": 1.0}
    odd = copies(*HELD.tolist(), (3, C, FULL))
    assert judge(problem, odd) == {
        "format: copies in a format that the tier does not run": 1.0
    }


def test_a_plan_without_copies_is_judged() -> None:
    """Even nothing at all gets a score: every call is without an answer."""
    for problem in (
        build_problem(changed()),
        sampled(1.0, [[[0], [0]]]),
        roaming(),
    ):
        judged = score(problem, Plan.of(problem, copies()))
        assert judged.objective == 0.0
        assert "share: calls without an answer" in broken(judged)
        assert "expert: experts without a copy" in broken(judged)


def test_missing_experts_may_be_pruned_where_allowed() -> None:
    """With allow_missing an expert needs no copy, but its calls need an answer."""
    written = document()
    written["limits"].update(allow_missing=True, coverage=[["b"]])
    written["model"]["profile"].update(prune_width=[[[0.4, 0.6], [0.2, 0.1]]])
    problem = build_problem(instance_of(written))
    held = HELD[HELD[:, 0] != 1]
    assert judge(problem, held) == {"share: calls without an answer": 2.0}
    everything = {
        "pruned": np.array([[0, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1]]),
        "pruned_share": np.array([0.4, 0.6, 0.4, 0.6]),
    }
    assert judge(problem, held, **everything) == {}


@pytest.mark.parametrize(
    ("tables", "row"),
    [
        ({"served": [[0, 0, 0, 0.9]]}, "largest deviation of a sum of shares from 1"),
        (
            {"served": [[0, 0, 0, 1.2], [0, 0, 1, -0.2]]},
            "negative shares",
        ),
        ({"served": [[0, 0, 2, 1.0]]}, "shares of a copy of another expert"),
        (
            {"served": [[0, 1, 2, 0.7]], "pruned": [[0, 1, 0, 0.3]]},
            "pruned beyond the width of a segment",
        ),
        (
            {"served": [[0, 1, 2, 1.0]], "fused": [[0, 1, B, 0, 0.6]]},
            "fused beyond the width of a segment",
        ),
        ({"fused": [[0, 0, A, 0, 0.1]]}, "fused at home"),
        (
            {"substituted": [[1, 1, 0, 1.0]]},
            "substituted by an expert that is not here",
        ),
    ],
)
def test_shares_that_cannot_be(tables: dict[str, Any], row: str) -> None:
    """Each way of writing impossible shares is a violation of its own."""
    problem = build_problem(changed())
    arrays: dict[str, Any] = {}
    for name, rows in tables.items():
        arrays[name] = np.array([r[:-1] for r in rows], dtype=np.int64)
        arrays[f"{name}_share"] = np.array([r[-1] for r in rows], dtype=np.float64)
    assert list(judge(problem, HELD, **arrays)) == [f"share: {row}"]


def test_substitution_needs_similarity() -> None:
    """Expert 0 is not answered by expert 1: only the pair (1, 0) is similar."""
    problem = build_problem(changed())
    held = copies((0, B, FULL), (1, A, HALF), (2, C, HALF), (3, A, HALF))
    plan = Plan.of(
        problem,
        held,
        substituted=np.array([[0, 0, 1]]),
        substituted_share=np.array([1.0]),
    )
    with pytest.raises(PlanError, match="not similar to the one it answers"):
        score(problem, plan)


def test_a_copy_that_cannot_compute_is_judged_without_warnings() -> None:
    """Work of a format that a tier cannot run is infinite, and never a NaN."""
    problem = build_problem(changed())
    held = copies(*HELD.tolist(), (1, C, FULL))
    index = int(np.flatnonzero((held == [1, C, FULL]).all(axis=1))[0])
    for share, objective in ((1.0, math.inf), (0.0, None)):
        plan = Plan.of(
            problem,
            held,
            served=np.array([[0, 1, index], [0, 1, index - 1]]),
            served_share=np.array([share, 1.0 - share]),
        )
        judged = score(problem, plan)
        assert "format: copies in a format that the tier does not run" in broken(judged)
        assert not math.isnan(judged.objective)
        if objective is not None:
            assert judged.objective == objective


def test_tolerance_of_a_row() -> None:
    """A millionth of the limit is forgiven, twice that is not; both ways round."""

    def violated(value: float, limit: float, at_least: bool = False) -> bool:
        return Row(
            row="r", where="", value=value, limit=limit, at_least=at_least
        ).violated

    assert not violated(1e9 * (1 + 0.9e-6), 1e9)
    assert violated(1e9 * (1 + 2e-6), 1e9)
    assert not violated(0.9e-12, 0.0)
    assert violated(2e-12, 0.0)
    assert violated(1.0, 2.0, at_least=True)
    assert not violated(3.0, 2.0, at_least=True)


# -- properties ------------------------------------------------------------------------


@given(case=cases())
def test_parts_add_up_to_totals(case: Case) -> None:
    """Objective, traffic, serial and quality are the sums of what they are made of."""
    problem, plan = case.problem, case.witness
    # Limits that bind nothing make every application report its means.
    loose = problem.replace(
        quality_budget=np.full(problem.num_applications, 1e30),
        latency_target=np.full(problem.num_applications, 1e30),
    )
    judged = score(loose, plan)
    assert judged.objective == pytest.approx(
        sum(loose.weight_of(term) * judged.terms.get(term, 0.0) for term in TERMS)
    )
    total = problem.total_rate
    link = sum(row.value for row in judged.rows if row.row == "link")
    assert judged.terms["traffic"] == pytest.approx(link / total)
    share = dict(
        zip(
            problem.labels.applications,
            (problem.application_rate / total).tolist(),
            strict=True,
        )
    )
    for row, term in (("latency", "serial"), ("quality", "quality")):
        mean = sum(share[r.where] * r.value for r in judged.rows if r.row == row)
        assert judged.terms[term] == pytest.approx(mean, rel=1e-9, abs=1e-15)
    # Shares of the budgets' report are fractions of a whole.
    for entry in transfer_budgets(problem, plan):
        assert entry.kept + entry.fused + entry.pruned == pytest.approx(1.0)
        assert min(entry.kept, entry.fused, entry.pruned) >= -1e-12


@given(case=cases(dataflow="home", samples=True))
def test_parallel_lies_between_serial_over_k_and_serial(case: Case) -> None:
    """On the same sample serial / k <= parallel <= serial, by k calls of each token."""
    problem, plan = case.problem, case.witness
    calls = sampled_calls(problem, Flows(problem, plan))
    kept = calls.server >= 0
    q, layer, server = calls.demand[kept], calls.layer[kept], calls.server[kept]
    factor = calls.factor[kept]
    away = factor > 0
    if problem.fuse_factor == 0:  # a fused call still takes the latency
        away |= problem.remote[q, layer, server]
    trip = np.where(away, problem.round_trip_s[q, layer, server], 0.0)
    time = trip + factor * problem.transfer_s[q, layer, server] + calls.work[kept]
    serial = float(time.sum()) / len(problem.sample_demand)
    parallel = score(problem, plan).terms["parallel"]
    width = problem.sample_experts.shape[2]
    assert serial / width <= parallel * (1 + 1e-9) + 1e-15
    assert parallel <= serial * (1 + 1e-9) + 1e-15


@given(
    case=cases(
        dataflow="home",
        samples=True,
        prune=False,
        fuse=False,
        similar=False,
        hosts=False,
    )
)
def test_fluid_is_parallel_at_whole_shares(case: Case) -> None:
    """Where every share is 0 or 1 the hash decides nothing."""
    whole = Plan.of(case.problem, case.witness.copies)
    terms = score(case.problem, whole).terms
    assert terms["fluid"] == pytest.approx(terms["parallel"], rel=1e-9)


@settings(max_examples=250)
@given(case=cases())
def test_the_oracle_and_the_judge_agree(case: Case) -> None:
    """What enumeration finds is feasible for the judge, at the same objective.

    And where the plan that the limits were drawn around is feasible, enumeration finds
    one at least as good: neither has a row that the other does not know.
    """
    found = optimum(case.problem)
    witness = score(case.problem, case.witness)
    if witness.feasible:
        assert found.feasible
        assert found.objective <= witness.objective + 1e-7 * abs(witness.objective)
    if found.plan is not None:
        judged = score(case.problem, found.plan)
        assert judged.violations == ()
        assert judged.objective == pytest.approx(found.objective, rel=1e-7, abs=1e-12)


@given(case=cases(dataflow="roam"))
def test_roaming_agrees_with_walking_every_pair(case: Case) -> None:
    """Terms and rows of the judge are those of the oracle's walk, pair by pair."""
    problem = case.problem
    walked = roam_value(problem, [tuple(c) for c in case.witness.copies.tolist()])
    judged = score(problem, case.witness)
    assert judged.terms == pytest.approx(walked.terms, rel=1e-9, abs=1e-15)
    for name, values in (
        ("compute", walked.compute),
        ("link", walked.link),
        ("budget", walked.budget),
    ):
        rows = [row.value for row in judged.rows if row.row == name]
        assert rows == pytest.approx(values, rel=1e-9, abs=1e-12)
    limited = np.isfinite(problem.quality_budget)
    rows = [row.value for row in judged.rows if row.row == "quality"]
    assert rows == pytest.approx(
        np.array(walked.quality)[limited].tolist(), rel=1e-9, abs=1e-15
    )

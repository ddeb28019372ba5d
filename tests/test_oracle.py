"""The oracle itself, on problems that can be solved by hand, and its short cuts."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hand_case import FULL, HALF, A, B, C, changed, document, instance_of
from hypothesis import given, settings
from oracle import copy_sets, optimum, possible_copies
from random_problems import CHANCE, Case, cases, random_case, random_instance

from meldopt.builder import build_problem
from meldopt.plan import Plan
from meldopt.score import score

if TYPE_CHECKING:
    from collections.abc import Callable

    from meldopt.problem import Problem


def built(change: Callable[[dict[str, Any]], Any] | None = None) -> Problem:
    written = document()
    if change is not None:
        change(written)
    return build_problem(instance_of(written))


def plain(written: dict[str, Any]) -> None:
    """Leave no way to answer a call but to serve it; one copy of each expert."""
    profile = written["model"]["profile"]
    for name in list(profile):
        if name not in ("calls", "loss"):
            del profile[name]
    written["limits"].update(copies=1)


def test_possible_copies_and_sets() -> None:
    """c cannot run the full format; sets take at most one copy of a server."""
    problem = built(
        lambda d: d["limits"].update(
            forbid=[{"layer": 0, "expert": 0, "server": "b"}], coverage=[["a"]]
        )
    )
    copies = [copy for copy in possible_copies(problem) if copy[0] == 0]
    assert copies == [(0, A, FULL), (0, A, HALF), (0, C, HALF)]
    # Nothing, or a alone, would be lost with a.
    assert sorted(copy_sets(problem, 0, single=False)) == [
        ((0, A, FULL), (0, C, HALF)),
        ((0, A, HALF), (0, C, HALF)),
        ((0, C, HALF),),
    ]
    assert copy_sets(problem, 0, single=True) == [((0, C, HALF),)]


def test_without_rows_each_expert_goes_where_it_is_cheapest() -> None:
    """Serial alone: every expert at a in half precision.

    Per call at a: home a 1 s, home c 7 + 1.8 + 1 = 9.8; mean 3.2. At b: 0.75 x 3.85 +
    0.25 x 8.05 = 4.9; at c: 0.75 x 12.4 + 0.25 x 3 = 10.05. Two calls a token: 6.4.
    With capacity 20 four halves fit.
    """
    found = optimum(built(plain))
    assert found.feasible
    assert found.objective == pytest.approx(6.4)
    assert found.copies is not None
    assert found.copies.tolist() == [[i, A, HALF] for i in range(4)]


def test_memory_moves_the_expert_that_loses_least() -> None:
    """With room for three halves at a one expert goes to b: the one least called.

    Moving expert i costs calls x (4.9 - 3.2); expert 1 has 0.25 calls: 0.425.
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        d["cluster"]["servers"][0]["tiers"]["gpu"]["capacity"] = 15.0

    found = optimum(built(change))
    assert found.objective == pytest.approx(6.4 + 0.25 * 1.7)
    assert found.copies is not None
    assert [1, B, HALF] in found.copies.tolist()


def test_copies_everywhere_serve_every_home() -> None:
    """With any number of copies each home has its own: a 1 s, c 3 s a call.

    Mean 0.75 x 1 + 0.25 x 3 = 1.5 for each of two calls.
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        del d["limits"]["copies"]

    found = optimum(built(change))
    assert found.objective == pytest.approx(3.0)


def test_quality_budget_buys_the_cheapest_full_copies() -> None:
    """Quality 0.3 nats forces full precision where it saves most nats a second.

    At a, full costs 1 s a call more. All halves lose 0.75 x 0.1 + 0.25 x 0.2 + 0.5 x
    0.3 + 0.5 x 0.4 = 0.475. Expert 3 in full saves 0.2 at 0.5 s a token: enough
    (0.275), and no cheaper single choice saves 0.175. Room 25 is needed.
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        d["workload"]["applications"][0]["quality_budget"] = 0.3
        d["cluster"]["servers"][0]["tiers"]["gpu"]["capacity"] = 25.0

    found = optimum(built(change))
    assert found.objective == pytest.approx(6.4 + 0.5)
    assert found.copies is not None
    assert [3, A, FULL] in found.copies.tolist()


def test_shares_split_where_a_row_binds() -> None:
    """Expert 0 has a copy at a and at b, the others are pinned to c, all in half.

    a works at a tenth of its speed: 10 s a call, more than the 3.85 s of going to b, so
    serial splits nothing. Traffic would keep demand a's 2.25 calls/s at home, but a
    may be busy 20 s/s only: 2 calls/s stay, a quarter of a call goes to b.
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        del d["limits"]["copies"]
        places = {"a": "gpu", "b": "gpu", "c": "ram"}
        d["limits"]["pin"] = [
            {"layer": n // 2, "expert": n % 2, "server": s, "tier": places[s]}
            | {"format": "half"}
            for n, s in [(0, "a"), (0, "b"), (1, "c"), (2, "c"), (3, "c")]
        ]
        d["limits"]["count"] = [{"name": "five", "min": 5, "max": 5}]
        d["limits"]["busy"] = 20.0  # enough for c: 4 x 1.25 x 3 s = 15 s/s
        slow = {"read": 1.0, "compute": {"full": 2.0, "half": 4.0}}
        d["cluster"]["servers"][0]["tiers"]["gpu"].update(slow)

    found = optimum(built(change))
    serial_0 = 0.75 * (0.75 * 3.85 + 0.25 * 8.05)
    rest = 1.25 * (0.75 * 12.4 + 0.25 * 3)
    assert found.objective == pytest.approx(serial_0 + rest)
    assert found.num_placements == 1

    def traffic(d: dict[str, Any]) -> None:
        change(d)
        d["objective"] = {"traffic": 1.0}

    found = optimum(built(traffic))
    moved = 0.25 * 6 + 0.75 * 6  # from a and from c to b: one link each way
    others = 3 * 1.25 * 12  # experts 1, 2, 3 of demand a, at c: two links each way
    assert found.objective == pytest.approx((moved + others) / 4)
    assert found.plan is not None
    mine = {
        (int(q), int(c)): float(x)
        for (q, i, c), x in zip(found.plan.served, found.plan.served_share, strict=True)
        if i == 0
    }
    assert mine[0, 0] == pytest.approx(2 / 2.25)
    assert mine[0, 1] == pytest.approx(0.25 / 2.25)


def test_the_curve_is_used_from_its_cheap_end() -> None:
    """Where pruning pays, both segments are used up; where it does not, none is.

    Quality 0 costs nothing: prune 0.3 of every call. With weight 100 on quality the
    first segment costs 50 s a call and none is pruned.
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        d["model"]["profile"].update(
            prune_width=np.array([[[0.2, 0.1], [0.2, 0.1]]]),
            prune_loss=np.array([[[0.5, 1.0], [0.5, 1.0]]]),
        )

    assert optimum(built(change)).objective == pytest.approx(0.7 * 6.4)

    def dear(d: dict[str, Any]) -> None:
        change(d)
        d["objective"] = {"serial": 1.0, "quality": 100.0}

    found = optimum(built(dear))
    assert found.plan is not None
    assert not len(found.plan.pruned)

    def between(d: dict[str, Any]) -> None:
        change(d)
        d["objective"] = {"serial": 1.0, "quality": 15.0}
        del d["model"]["profile"]["loss"]

    # Expert at a: a call from a takes 1 s, from c 9.8 s. Segments cost 7.5 and 15:
    # only c prunes, and only the first segment.
    found = optimum(built(between))
    assert found.objective == pytest.approx(
        2 * (0.75 * 1 + 0.25 * (0.8 * 9.8 + 0.2 * 7.5))
    )


def test_fusion_saves_bytes_within_its_width() -> None:
    """Half of what travels may fuse, which saves three quarters of its transfer.

    Experts pinned to b: a 3.85 - 0.5 x 0.75 x 0.6, c 8.05 - 0.5 x 0.75 x 1.8 a call.
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        d["model"]["profile"].update(
            fuse_width=np.array([[[0.5], [0.5]]]),
            fuse_loss=np.array([[[0.05], [0.05]]]),
        )
        d["limits"]["forbid"] = [{"server": "a"}, {"server": "c"}, {"format": "full"}]

    found = optimum(built(change))
    per_call = 0.75 * (3.85 - 0.225) + 0.25 * (8.05 - 0.675)
    assert found.objective == pytest.approx(2 * per_call)


def test_a_similar_expert_at_home_answers() -> None:
    """Expert 1 lives at b, expert 0 at a and c answers for it without a journey."""

    def change(d: dict[str, Any]) -> None:
        plain(d)
        del d["limits"]["copies"]
        d["model"]["profile"].update(
            similar=np.array([[1, 0]]), similar_loss=np.array([[0.7]])
        )
        d["limits"]["forbid"] = [
            {"layer": 0, "expert": 1, "server": "a"},
            {"layer": 0, "expert": 1, "server": "c"},
        ]

    # As in copies everywhere: 1 s and 3 s, for expert 1's calls as well.
    assert optimum(built(change)).objective == pytest.approx(3.0)


def test_bottleneck_balances_each_layer() -> None:
    """The busiest server of each layer, summed: shares level the servers.

    Only work counts: a 1 s, b 1.25 s, c 3 s a call in half precision. Each layer has 1
    call a token, all copies may exist: x + y + z = 1 with x = 1.25 y = 3 z is levelled
    at 1 / (1 + 0.8 + 1/3).
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        del d["limits"]["copies"]
        d["objective"] = {"bottleneck": 1.0}

    assert optimum(built(change)).objective == pytest.approx(2 / (1 + 0.8 + 1 / 3))


def test_fluid_levels_a_sampled_token() -> None:
    """Two experts side by side: the slower counts, so both stay at home.

    From a: both at a one after the other take 2 s; one at b would take 3.85 s.
    """

    def change(d: dict[str, Any]) -> None:
        plain(d)
        d["model"]["top_k"] = 2.0
        d["model"]["profile"].update(
            calls=[[1.0] * 4], sample_experts=[[[0, 1], [0, 1]]]
        )
        d["objective"] = {"fluid": 1.0}

    assert optimum(built(change)).objective == pytest.approx(4.0)


def test_infeasible_is_a_finding() -> None:
    """Nothing fits: no plan, an infinite objective, no error."""

    def change(d: dict[str, Any]) -> None:
        for server in d["cluster"]["servers"]:
            for tier in server["tiers"].values():
                tier["capacity"] = 4.0

    found = optimum(built(change))
    assert not found.feasible
    assert found.objective == math.inf
    assert found.copies is None
    assert found.plan is None
    contrary = built(
        lambda d: d["limits"].update(
            pin=[
                {
                    "layer": 0,
                    "expert": 0,
                    "server": "c",
                    "tier": "ram",
                    "format": "full",
                }
            ]
        )
    )
    assert not optimum(contrary).feasible


def test_parallel_is_refused() -> None:
    """The oracle says so where it cannot minimise."""

    def change(d: dict[str, Any]) -> None:
        d["model"]["profile"]["sample_experts"] = [[[0], [1]]]
        d["objective"] = {"parallel": 1.0}

    with pytest.raises(ValueError, match="parallel is no linear term"):
        optimum(built(change))


def test_roam_by_trying_all_in_the_open() -> None:
    """The best of all placements is the best of a plain loop over score."""

    def change(d: dict[str, Any]) -> None:
        d["dataflow"] = "roam"
        d["objective"] = {"pair": 1.0, "energy": 0.01}
        d["model"]["profile"].update(
            pairs=[[0, 2], [1, 3], [2, 3]],
            pair_weight=[[0.5, 0.25, 0.1]],
            entry=[[0.75, 0.25, 0.0, 0.0]],
            exit=[[0.0, 0.0, 0.5, 0.5]],
        )
        d["cluster"]["servers"][0]["tiers"]["gpu"]["capacity"] = 12.0

    problem = built(change)
    sets = [copy_sets(problem, i, single=True) for i in range(4)]
    best = math.inf
    for choice in itertools.product(*sets):
        judged = score(problem, Plan.of(problem, np.array([c for (c,) in choice])))
        if judged.feasible:
            best = min(best, judged.objective)
    found = optimum(problem)
    assert found.objective == pytest.approx(best)
    assert optimum(problem, cutoff=False).num_placements == sum(
        sum(5 if b else 10 for ((_, v, b),) in choice if v == A) <= 12
        and sum(5 if b else 10 for ((_, v, b),) in choice if v == B) <= 20
        for choice in itertools.product(*sets)
    )


@settings(max_examples=60)
@given(case=cases(placements=400))
def test_cutting_off_changes_nothing(case: Case) -> None:
    """Every placement tried to the end gives the same optimum as the short cut."""
    every = optimum(case.problem, cutoff=False)
    quick = optimum(case.problem)
    assert quick.feasible == every.feasible
    assert quick.num_placements <= every.num_placements
    if every.feasible:
        assert quick.objective == pytest.approx(every.objective, rel=1e-8, abs=1e-15)


def test_random_instances_depend_on_the_seed_alone() -> None:
    """One seed, one instance; the next seed another."""
    assert random_instance(7).digest() == random_instance(7).digest()
    assert random_instance(7).digest() != random_instance(8).digest()
    with pytest.raises(ValueError, match="unknown switches"):
        random_instance(7, memroy=True)


@pytest.mark.parametrize("name", [*CHANCE, "roam"])
def test_every_switch_turns_its_feature_on(name: str) -> None:
    """Each switch shows in the instance: nothing is silently left out."""
    needs = {"shared_processor": {"two_tiers": True}}.get(name, {})
    if name in ("distance", "roam"):
        needs = {"dataflow": "roam"}
    elif name != "infeasible":
        needs |= {"dataflow": "home"}
    sign: dict[str, Callable[[Problem], Any]] = {
        "integers": lambda p: not (p.rate % 1).any() and not (p.flop % 2).any(),
        "multi_hop": lambda p: max(len(k) for row in p.route_links for k in row) > 1,
        "asymmetric": lambda p: len(set(p.link_bandwidth.tolist())) > 1,
        "two_tiers": lambda p: p.num_places == 2 * p.num_servers,
        "shared_processor": lambda p: len(p.processor_server) < p.num_places,
        "sizes": lambda p: len(set((p.size_bytes / p.bits_per_weight).ravel())) > 1,
        "signed_loss": lambda p: (p.format_loss < 0).any(),
        "prune": lambda p: p.prune_width.any(),
        "fuse": lambda p: p.fuse_width.any(),
        "similar": lambda p: len(p.similar),
        "hosts": lambda p: (p.source != p.home_of[:, None]).any(),
        "samples": lambda p: len(p.sample_demand),
        "zero_rate": lambda p: (p.rate == 0).any(),
        "uncalled": lambda p: (p.calls == 0).any(),
        "memory": lambda p: p.capacity_bytes.min() < 1e13,
        "compute": lambda p: p.busy < 1e11,
        "link": lambda p: p.link_busy < 1e11,
        "budgets": lambda p: len(p.budget_caps),
        "quality": lambda p: np.isfinite(p.quality_budget).any(),
        "latency": lambda p: np.isfinite(p.latency_target).any(),
        "trust": lambda p: not p.trusted.all(),
        "coverage": lambda p: len(p.failure_sets),
        "count": lambda p: len(p.count_rows),
        "uniform": lambda p: len(p.uniform_groups),
        "pin": lambda p: len(p.pinned),
        "forbid": lambda p: len(p.forbidden),
        "max_copies": lambda p: p.max_copies is not None,
        "allow_missing": lambda p: p.allow_missing,
        "distance": lambda p: (
            not np.allclose(
                p.distance, p.route_latency + p.bytes_out * p.route_s_per_byte
            )
        ),
        "roam": lambda p: p.dataflow == "roam" and len(p.pairs),
    }
    if name != "roam":
        needs = needs | {name: True}
    seen = [random_case(seed, **needs) for seed in range(12)]
    if name == "infeasible":
        assert not all(score(case.problem, case.witness).feasible for case in seen)
    else:
        assert any(sign[name](case.problem) for case in seen)
    if name in (
        "compute",
        "link",
        "memory",
        "prune",
        "fuse",
        "samples",
        "allow_missing",
    ):
        off = random_case(3, **(needs | {name: False}))
        assert not sign[name](off.problem)


def test_most_instances_are_feasible_and_some_are_not() -> None:
    """Limits drawn around a plan leave most instances feasible, but not all."""
    found = [optimum(random_case(seed, placements=2000).problem) for seed in range(80)]
    feasible = sum(result.feasible for result in found)
    assert 60 <= feasible < 80


def test_the_hand_case_is_feasible() -> None:
    """The document that other tests change is a sound instance itself."""
    assert optimum(build_problem(changed())).feasible

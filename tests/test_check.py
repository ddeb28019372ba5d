"""What is wrong with an infeasible instance, and the smallest thing that mends it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from oracle import copy_sets, optimum
from random_problems import random_case

from meldopt import check
from meldopt.builder import build_problem
from meldopt.check import ELASTIC, Explanation, Relaxation, explain, relax
from meldopt.engines.highs import solve_highs
from meldopt.formulations.milp import build_milp
from meldopt.instance import (
    ApplicationSpec,
    BudgetSpec,
    ClusterSpec,
    CopySpec,
    CountSpec,
    DemandSpec,
    FormatSpec,
    Instance,
    InstanceSpec,
    LimitsSpec,
    LinkSpec,
    ModelSpec,
    ServerSpec,
    TierSpec,
    UniformSpec,
    WorkloadSpec,
)
from meldopt.score import score

if TYPE_CHECKING:
    from meldopt.problem import Problem


def two_servers(
    *,
    capacity: tuple[float, float] = (1000.0, 1000.0),
    application: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    rate: float = 1.0,
    bandwidth: float = 1e9,
    formats: tuple[list[str] | None, list[str] | None] = (None, None),
    others: tuple[ApplicationSpec, ...] = (),
    dataflow: Literal["home", "roam"] = "home",
) -> Problem:
    """One layer of four experts of 100 bytes (wide) or 50 (narrow, 0.1 nats a call).

    Requests enter at ``a``; a call moves 10 bytes each way and takes 1 ms of work at
    100 bytes of weights; each token makes one call, of each expert as often.
    """
    spec = InstanceSpec(
        format_version=1,
        name="two",
        dataflow=dataflow,
        model=ModelSpec(
            layers=1,
            experts=4,
            top_k=1.0,
            parameters_per_expert=100.0,
            bytes_out=10.0,
            bytes_back=10.0,
        ),
        formats=[
            FormatSpec(name="wide", bits_per_weight=8.0),
            FormatSpec(name="narrow", bits_per_weight=4.0),
        ],
        cluster=ClusterSpec(
            servers=[
                ServerSpec(
                    name=name,
                    tiers={"gpu": TierSpec(capacity=room, read=1e5, formats=runs)},
                )
                for name, room, runs in zip("ab", capacity, formats, strict=True)
            ],
            links=[LinkSpec(between=("a", "b"), bandwidth=bandwidth, latency=0.01)],
        ),
        workload=WorkloadSpec(
            applications=[ApplicationSpec(name="chat", **(application or {})), *others],
            demands=[DemandSpec(application="chat", home="a", rate=rate)],
        ),
        limits=LimitsSpec(**(limits or {})),
    )
    loss = np.zeros((1, 4, 2))
    loss[..., 1] = 0.1
    return build_problem(Instance(spec=spec, arrays={"loss": loss}))


def mends(problem: Problem, found: Explanation) -> bool:
    """Whether the relaxation of an explanation makes its plan feasible."""
    assert found.plan is not None
    return score(relax(problem, found.relaxations), found.plan).feasible


def test_a_feasible_problem_comes_with_a_plan() -> None:
    """A feasible problem is called so, and the plan that shows it keeps every row."""
    problem = two_servers()
    found = explain(problem)
    assert (found.feasible, found.proved, found.relaxations) == (True, True, ())
    assert found.plan is not None
    assert score(problem, found.plan).feasible


# Each: what is wrong, and the smallest relaxation, worked out by hand.
SINGLE = {
    # Four narrow experts take 200 bytes; 120 + 60 are there. 50-byte pieces: two and
    # one fit, and the fourth is 30 over in a (of 120: 25 %) or 40 in b (of 60).
    "memory": (
        {"capacity": (120.0, 60.0)},
        Relaxation(row="memory", where="a/gpu", amount=30, unit="bytes", relative=0.25),
    ),
    # All at home and narrow: 0.5 ms a call at 4000 tokens/s is 2 busy processors; each
    # of two may be busy 0.8, and 0.4 is over.
    "compute": (
        {"rate": 4000.0},
        Relaxation(
            row="compute",
            where="a/processor",
            amount=0.4,
            unit="busy share",
            relative=0.5,
        ),
    ),
    # a holds two of four experts: half of the calls cross, 10 bytes each way, 500 B/s;
    # a link may carry 440. Room for a third expert would be 50 % more memory.
    "link": (
        {"capacity": (100.0, 1000.0), "rate": 100.0, "bandwidth": 550.0},
        None,
    ),
    # 50 tokens/s must cross and 40 may.
    "budget": (
        {
            "capacity": (100.0, 1000.0),
            "rate": 100.0,
            "limits": {"budgets": [BudgetSpec(from_="a", to="b", max=40.0)]},
        },
        Relaxation(
            row="budget",
            where="all layers, a -> b",
            amount=10,
            unit="tokens/s",
            relative=0.25,
        ),
    ),
    # 300 bytes hold two wide and two narrow experts: 0.05 nats a token.
    "quality": (
        {
            "capacity": (200.0, 100.0),
            "application": {"quality_budget": 0.045},
        },
        Relaxation(
            row="quality", where="chat", amount=0.005, unit="nats", relative=1 / 9
        ),
    ),
    # Narrow and at home: 0.5 ms a token; in 0.4 ms it cannot be.
    "latency": (
        {"application": {"latency_target": 4e-4}},
        Relaxation(row="latency", where="chat", amount=1e-4, unit="s", relative=0.25),
    ),
    # Three wide copies are asked for and at most one allowed.
    "count": (
        {
            "limits": {
                "copies": 1,
                "count": [
                    CountSpec(name="wide", formats=["wide"], min=4),
                    CountSpec(name="few at a", servers=["a"], max=2),
                    CountSpec(name="none at b", servers=["b"], max=1),
                ],
            }
        },
        Relaxation(
            row="count", where="few at a", amount=1, unit="copies", relative=0.5
        ),
    ),
    # One copy each: the two servers cannot both be spared.
    "coverage": ({"limits": {"copies": 1, "coverage": "any-server"}}, None),
}


@pytest.mark.parametrize("row", SINGLE)
def test_one_row(row: str) -> None:
    """An instance that one row makes infeasible is mended there, by what it takes."""
    arguments, want = SINGLE[row]
    problem = two_servers(**arguments)
    found = explain(problem)
    assert (found.feasible, found.proved) == (False, True)
    assert {one.row for one in found.relaxations} == {row}
    assert mends(problem, found)
    if row == "link":
        assert [one.amount for one in found.relaxations] == pytest.approx([60, 60])
    if want is None:
        return
    if row == "compute":  # either processor, or both: the sum is what is smallest
        assert sum(one.amount for one in found.relaxations) == pytest.approx(0.4)
        return
    (one,) = found.relaxations
    assert (one.row, one.where, one.unit) == (want.row, want.where, want.unit)
    assert one.amount == pytest.approx(want.amount, rel=1e-5)
    assert one.relative == pytest.approx(want.relative, rel=1e-5)


def test_half_the_relaxation_is_not_enough() -> None:
    """With less than the smallest relaxation there is still no plan."""
    arguments, _ = SINGLE["quality"]
    problem = two_servers(**arguments)
    (one,) = explain(problem).relaxations
    half = Relaxation(
        row=one.row,
        where=one.where,
        amount=one.amount / 2,
        unit=one.unit,
        relative=one.relative,
    )
    assert not optimum(relax(problem, [half])).feasible
    assert optimum(relax(problem, [one])).feasible


def smallest_excess(problem: Problem) -> float:
    """Least summed relative excess over every placement, the shares by an LP each."""
    elastic = frozenset(ELASTIC)
    best = np.inf
    sets = [
        copy_sets(problem.replace(failure_sets=()), i, single=False)
        for i in range(problem.num_experts)
    ]
    for choice in itertools.product(*sets):
        copies = np.array(sorted(itertools.chain(*choice))).reshape(-1, 3)
        used = np.bincount(
            copies[:, 1],
            weights=problem.size_bytes[copies[:, 0], copies[:, 2]],
            minlength=problem.num_places,
        )
        room = problem.room_bytes
        over = (np.maximum(used - room, 0) / np.abs(room)).sum()
        for servers in problem.failure_sets:
            away = ~np.isin(problem.server_of[copies[:, 1]], servers)
            over += problem.num_experts - len(np.unique(copies[away, 0]))
        for row in problem.count_rows:
            inside = sum(
                i in row.experts and v in row.places and b in row.formats
                for i, v, b in copies.tolist()
            )
            if row.lower is not None:
                over += max(row.lower - inside, 0) / max(row.lower, 1)
            if row.upper is not None:
                over += max(inside - row.upper, 0) / max(row.upper, 1)
        if any(
            len(set(copies[np.isin(copies[:, 0], group.experts), 2].tolist())) > 1
            for group in problem.uniform_groups
        ):
            continue
        if over < best:
            form = build_milp(problem, copies=copies, elastic=elastic)
            outcome = solve_highs(form.model)
            if outcome.objective is not None:
                best = min(best, over + outcome.objective)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_smallest_by_enumeration(seed: int) -> None:
    """On random tiny problems no placement needs less than the relaxation found."""
    case = random_case(
        seed,
        dataflow="home",
        infeasible=True,
        allow_missing=False,
        placements=300,
    )
    problem = case.problem
    found = explain(problem)
    assert found.feasible == optimum(problem).feasible
    if found.feasible or found.reasons:
        return
    assert found.proved
    assert mends(problem, found)
    form = build_milp(problem, elastic=frozenset(ELASTIC))
    least = solve_highs(form.model).objective
    assert least == pytest.approx(smallest_excess(problem), rel=1e-4, abs=1e-7)
    total = sum(one.relative or 0.0 for one in found.relaxations)
    if all(one.relative is not None for one in found.relaxations):
        assert total == pytest.approx(least, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dataflow", ["home", "roam"])
@pytest.mark.parametrize("seed", range(100, 112))
def test_agrees_with_the_oracle(seed: int, dataflow: str) -> None:
    """Feasible or not is as enumeration says, and what is said to mend does mend."""
    problem = random_case(
        seed, dataflow=dataflow, infeasible=True, max_copies=True, placements=500
    ).problem
    found = explain(problem)
    assert found.feasible == optimum(problem).feasible
    if found.feasible:
        assert found.plan is not None
        assert score(problem, found.plan).feasible
    elif not found.reasons:
        assert found.relaxations
        assert mends(problem, found)
        assert optimum(relax(problem, found.relaxations)).feasible


ANY = {"layer": 0, "expert": 1, "server": "a", "tier": "gpu"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {
                "limits": {
                    "pin": [CopySpec(**ANY, format="wide")],
                    "forbid": [CopySpec(layer=0, expert=1, server="a")],
                }
            },
            "pin: expert (0, 1) at a/gpu in wide is both pinned and forbidden",
        ),
        (
            {
                "limits": {"pin": [CopySpec(**ANY, format="wide")]},
                "formats": (["narrow"], None),
            },
            "pin: expert (0, 1) at a/gpu in wide is pinned, but the tier does not run",
        ),
        (
            {
                "limits": {
                    "pin": [CopySpec(**ANY, format=f) for f in ("wide", "narrow")]
                }
            },
            "pin: 2 copies of expert (0, 1) are pinned at a, which holds at most one",
        ),
        (
            {
                "limits": {
                    "copies": 1,
                    "pin": [
                        CopySpec(**(ANY | {"server": s}), format="wide") for s in "ab"
                    ],
                }
            },
            "pin: 2 copies of expert (0, 1) are pinned, but limits.copies is 1",
        ),
        (
            {
                "application": {"trusted": ["a"]},
                "limits": {"forbid": [CopySpec(layer=0, expert=2, server="a")]},
            },
            "trust: no server that 'chat' at 'a' trusts may hold expert (0, 2)",
        ),
        (
            {
                "limits": {
                    "uniform": [UniformSpec(name="all")],
                    "forbid": [
                        CopySpec(layer=0, expert=0, format="wide"),
                        CopySpec(layer=0, expert=1, format="narrow"),
                    ],
                }
            },
            "uniform: no format that all experts of all may have",
        ),
    ],
)
def test_what_no_limit_mends(arguments: dict[str, Any], words: str) -> None:
    """A contradiction that no limit can mend is named, and proved."""
    found = explain(two_servers(**arguments))
    assert (found.feasible, found.proved, found.relaxations) == (False, True, ())
    assert any(reason.startswith(words) for reason in found.reasons)


@pytest.mark.parametrize("dataflow", ["home", "roam"])
def test_an_application_without_demand_is_no_obstacle(
    dataflow: Literal["home", "roam"],
) -> None:
    """Whom an application trusts that nobody uses does not matter; if used it does."""
    limits = {"forbid": [CopySpec(layer=0, expert=2, server="a")]}
    idle = ApplicationSpec(name="idle", trusted=["a"])
    problem = two_servers(limits=limits, others=(idle,), dataflow=dataflow)
    assert explain(problem).feasible is True
    used = two_servers(limits=limits, application={"trusted": ["a"]}, dataflow=dataflow)
    found = explain(used)
    assert found.feasible is False
    assert [reason.partition(":")[0] for reason in found.reasons] == ["trust"]


def test_contradiction_of_several_rows() -> None:
    """Rows that contradict each other only together are found by leaving them out."""
    limits = {
        "uniform": [UniformSpec(name="all")],
        "pin": [CopySpec(**ANY, format="narrow")],
        "forbid": [CopySpec(layer=0, expert=0, format="narrow")],
    }
    found = explain(two_servers(limits=limits))
    assert (found.feasible, found.proved) == (False, True)
    rows = {reason.partition(":")[0] for reason in found.reasons}
    assert rows == {"pin", "forbid", "uniform"}


def test_written_for_people() -> None:
    """Amounts read in the units of their rows, and as a share of the limit."""
    memory = Relaxation(
        row="memory", where="lab/gpu", amount=1.5 * 2**30, unit="bytes", relative=0.06
    )
    quality = Relaxation(
        row="quality", where="chat", amount=0.004, unit="nats", relative=0.13
    )
    coverage = Relaxation(
        row="coverage", where="lab", amount=2, unit="experts", relative=None
    )
    assert str(memory) == "memory lab/gpu +1.5 GiB (6 %)"
    assert str(quality) == "quality chat +0.004 nats (13 %)"
    assert str(coverage) == "coverage lab +2 experts"


@pytest.mark.parametrize("row", ["memory", "compute", "quality", "latency"])
def test_too_large_for_the_exact_model(
    row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large problem that sums rule out is infeasible; nothing is smallest."""
    monkeypatch.setattr(check, "MAX_COLUMNS", 0)
    hard = {
        "memory": {"capacity": (80.0, 60.0)},
        "compute": {"rate": 4000.0},
        "quality": {
            "application": {"quality_budget": 0.04},
            "formats": (["narrow"], ["narrow"]),
        },
        "latency": {"application": {"latency_target": 4e-4}},
    }
    problem = two_servers(**hard[row])
    found = explain(problem, 0.5)
    assert (found.feasible, found.proved) == (False, False)
    assert any(f"at least {row}" in reason for reason in found.reasons)
    assert not optimum(problem).feasible


def test_large_and_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large problem is feasible if a heuristic finds a plan, and only then."""
    monkeypatch.setattr(check, "MAX_COLUMNS", 0)
    problem = two_servers()
    found = explain(problem, 0.5)
    assert found.feasible in (True, None)
    assert (found.plan is not None) == bool(found.feasible)

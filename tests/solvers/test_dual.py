"""`dual`: the contract, bounds against exact optima, pricing against enumeration."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import copy_sets, optimum
from priced import Priced
from random_problems import random_case
from searched import solved_problems

from meldopt.bounds import trivial_bound
from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.plan import Plan, read_plan
from meldopt.problem import TERMS, CountRow, UniformGroup
from meldopt.score import score
from meldopt.solver import DeterministicTime, MaxIterations, Status, StopReason, solve
from meldopt.testing import SolverContract, contract_instance, same_plan
from meldopt.tolerance import SHARE_SUM, allowed
from meldopt_solvers.relaxation import dual, facility
from meldopt_solvers.relaxation.bundle import draw_sample, maximise, members
from meldopt_solvers.relaxation.dual import DualParams, DualSolver
from meldopt_solvers.relaxation.pricing import Lagrangian
from meldopt_solvers.relaxation.primal import copies_of
from meldopt_solvers.relaxation.sampled import SampledWeights
from meldopt_solvers.search.descent import descend
from meldopt_solvers.search.greedy import construct
from meldopt_solvers.search.state import HomeState

LIBRARY = Path(__file__).resolve().parents[2] / "instances"
SEEDS = st.integers(0, 100_000)


def left_out(problem, terms=("parallel", "fluid")):
    """Return a lower bound of the terms that the Lagrangian leaves out."""
    only = np.zeros_like(problem.weights)
    for term in terms:
        only[TERMS.index(term)] = problem.weight_of(term)
    return trivial_bound(problem.replace(weights=only)) if only.any() else 0.0


class TestDualContract(SolverContract):
    """`dual` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return DualSolver(DualParams(threads=1))

    @pytest.fixture
    def stop(self):
        return MaxIterations(60)


def plain(problem):
    """The Lagrangian in Python, on one thread."""
    return Lagrangian(problem, compile_=False, threads=1)


def random_prices(lagrangian, rng):
    """Prices of every size, some of them 0, that prove something."""
    size = abs(lagrangian.at(lagrangian.zero()).value)
    size = size if np.isfinite(size) and size > 0 else 1.0
    prices = lagrangian.zero()
    prices[:] = rng.random(len(prices)) * size * rng.choice([0.01, 0.3, 3.0])
    prices[: lagrangian.num_rows] *= rng.random(lagrangian.num_rows) < 0.7
    return lagrangian.valid(prices)


def raised(lagrangian, rounds=40):
    """The best point of a bundle from no prices at all."""
    return maximise(
        lagrangian,
        lagrangian.zero(),
        tolerance=1e-6,
        spent=lambda _: False,
        rounds=rounds,
    )


# -- bounds ----------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=SEEDS)
def test_never_above_the_exact_model(seed):
    """No prices, given or found, prove more than the objective of the exact model."""
    problem = random_case(seed, dataflow="home").problem
    exact = solve(problem, "milp", time_limit=60, threads=1)
    if not exact.feasible:
        return
    lagrangian, rest = plain(problem), left_out(problem)
    rng = np.random.default_rng(seed)
    points = [lagrangian.at(random_prices(lagrangian, rng)) for _ in range(3)]
    points.append(raised(lagrangian))
    for point in points:
        assert point.value + rest <= exact.objective + allowed(exact.objective)


@pytest.mark.parametrize("seed", range(12))
def test_never_above_enumeration(seed):
    """On the smallest problems the judge of bounds is the oracle, not a solver."""
    problem = random_case(seed, dataflow="home", placements=300).problem
    truth = optimum(problem).objective
    value = raised(plain(problem)).value + left_out(problem)
    assert value <= truth + allowed(truth) or np.isinf(truth)


def test_bounds_are_close():
    """On most random problems the bound is near the optimum, and above the trivial."""
    gaps = []
    for problem, best in solved_problems("home")[:20]:
        value = raised(plain(problem)).value + left_out(problem)
        assert value >= trivial_bound(problem) - 1e-6 * abs(best)
        gaps.append((best - value) / max(abs(best), 1e-9))
    assert np.median(gaps) <= 0.05


TINY = [
    path.stem
    for path in sorted((LIBRARY / "tiny").glob("*.json"))
    if not path.stem.startswith("roam")
]


@pytest.mark.parametrize("name", TINY)
def test_tiny_instances(name):
    """On each tiny instance of the library the bound is below the proven optimum."""
    problem = build_problem(read_instance(LIBRARY / "tiny" / f"{name}.json"))
    plan = read_plan(LIBRARY / "best" / "tiny" / f"{name}.plan.json", problem)
    best = score(problem, plan).objective
    value = raised(plain(problem), rounds=60).value + left_out(problem)
    assert trivial_bound(problem) - 1e-9 * best <= value <= best + allowed(best)


@settings(max_examples=60)
@given(seed=SEEDS)
def test_slope_is_a_supergradient(seed):
    """The value anywhere is at most the cut of a point anywhere else."""
    lagrangian = plain(random_case(seed, dataflow="home").problem)
    rng = np.random.default_rng(seed)
    rows = lagrangian.num_rows
    points = [lagrangian.at(random_prices(lagrangian, rng)) for _ in range(3)]
    for one, other in itertools.permutations(points, 2):
        if not np.isfinite(one.parts).all():
            continue
        step = other.prices - one.prices
        cut = one.parts.sum() + one.use.sum(axis=0) @ step[:rows]
        cut += one.cell_use.ravel() @ step[rows:]
        cut -= lagrangian.back @ other.prices[:rows]
        assert other.value <= cut + 1e-8 * max(abs(one.value), abs(other.value), 1e-9)


# -- pricing against loops -------------------------------------------------------------


@settings(max_examples=40)
@given(seed=SEEDS)
def test_value_is_that_of_enumeration(seed):
    """The value is what all sets of copies of each block, tried one by one, come to."""
    problem = random_case(seed, dataflow="home", placements=2_000).problem
    check_value(problem, np.random.default_rng(seed))


def check_value(problem, rng):
    """Compare a Lagrangian with plain loops at random prices; return its value."""
    if problem.allow_missing and problem.failure_sets and len(problem.similar):
        problem = problem.replace(failure_sets=())  # left out there: a relaxation
    lagrangian = plain(problem)
    point = lagrangian.at(random_prices(lagrangian, rng))
    priced = Priced(lagrangian, point.prices)
    truth = priced.value()
    if np.isinf(truth):
        assert point.value == np.inf
    else:
        assert point.value == pytest.approx(truth, rel=1e-7, abs=1e-7 * priced.size)
        assert point.value <= truth + 1e-12 * priced.size
    return point.value


def without(**changes):
    """Switches that make a feature matter, and how to take it out of a problem."""
    return lambda problem: problem.replace(
        **{name: make(problem) for name, make in changes.items()}
    )


FEATURES = {
    "prune": (
        {"prune": True, "terms": ("serial", "quality")},
        without(prune_width=lambda p: 0 * p.prune_width),
    ),
    "fuse": (
        {"fuse": True, "terms": ("serial", "traffic")},
        without(fuse_width=lambda p: 0 * p.fuse_width),
    ),
    "similar": (
        {"similar": True},
        without(
            similar=lambda p: p.similar[:0],
            similar_loss=lambda p: p.similar_loss[:, :0],
        ),
    ),
    "hosts": (
        {"hosts": True, "fuse": True, "terms": ("serial", "traffic")},
        without(
            sink=lambda p: np.repeat(p.home_of[:, None], p.num_layers, 1),
            source=lambda p: np.repeat(p.home_of[:, None], p.num_layers, 1),
        ),
    ),
    "two_tiers": (
        {"two_tiers": True, "shared_processor": False},
        without(s_per_byte=lambda p: np.full_like(p.s_per_byte, p.s_per_byte[0])),
    ),
    "trust": ({"trust": True}, without(trusted=lambda p: np.ones_like(p.trusted))),
    "coverage": ({"coverage": True}, without(failure_sets=lambda p: ())),
    "count": ({"count": True}, without(count_rows=lambda p: p.count_rows)),
    "pin": ({"pin": True}, without(pinned=lambda p: p.pinned[:0])),
    "forbid": ({"forbid": True}, without(forbidden=lambda p: p.forbidden[:0])),
    "max_copies": ({"max_copies": True}, without(max_copies=lambda p: None)),
    "allow_missing": (
        {"allow_missing": True, "prune": True, "memory": True},
        without(allow_missing=lambda p: False),
    ),
    "uniform": ({"uniform": True}, without(uniform_groups=lambda p: ())),
    "bottleneck": (
        {"terms": ("bottleneck",)},
        without(weights=lambda p: np.zeros_like(p.weights)),
    ),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_is_priced(feature):
    """With the feature the value is that of enumeration, and not that without it."""
    switches, remove = FEATURES[feature]
    noticed = 0
    for seed in range(16):
        problem = random_case(
            seed, dataflow="home", placements=2_000, infeasible=False, **switches
        ).problem
        if feature == "count":
            prices = plain(problem)
            at = random_prices(prices, np.random.default_rng(seed))
            bare = at.copy()
            counts = slice(problem.num_places + len(prices.load_rows), prices.num_rows)
            bare[counts] = 0.0
            other = prices.at(bare).value
        else:
            other = check_value(remove(problem), np.random.default_rng(seed))
        mine = check_value(problem, np.random.default_rng(seed))
        noticed += not np.isclose(mine, other, rtol=1e-5, atol=0.0)
    assert noticed >= 1


def test_uniform_groups_across_blocks():
    """A group takes one format for all its blocks: the one of least sum."""
    for seed in range(4):
        problem = random_case(
            seed, dataflow="home", placements=2_000, similar=False, uniform=False
        ).problem
        group = UniformGroup(
            name="all", experts=np.arange(problem.num_experts, dtype=np.int64)
        )
        check_value(
            problem.replace(uniform_groups=(group,)), np.random.default_rng(seed)
        )


def test_count_rows_raise_the_bound():
    """A row that asks for copies of the dear kind is worth its price in the bound."""
    problem = build_problem(contract_instance("loose"))
    every = np.arange(problem.num_experts, dtype=np.int64)
    row = CountRow(
        name="few",
        experts=every,
        places=np.arange(problem.num_places, dtype=np.int64),
        formats=np.arange(problem.num_formats, dtype=np.int64),
        lower=None,
        upper=problem.num_experts,
    )
    few = problem.replace(count_rows=(row,))
    truth = optimum(few).objective
    free, bound = (raised(plain(one)).value for one in (problem, few))
    assert bound > free * (1 + 1e-3)
    assert bound <= truth + allowed(truth)


def test_many_segments():
    """A curve of more segments than the search uses is not cut short in a bound."""
    case = random_case(3, dataflow="home", prune=True, fuse=True, placements=2_000)
    problem = case.problem
    shape = (problem.num_applications, problem.num_layers, 80)
    loss = np.broadcast_to(np.linspace(0.0, 1e-4, 80), shape)
    width = np.full(shape, 1 / 100)
    problem = problem.replace(
        prune_width=width, prune_loss=loss, fuse_width=width, fuse_loss=loss
    )
    check_value(problem, np.random.default_rng(0))


def test_all_but_dust_may_be_pruned():
    """Widths that add to one but for rounding leave nothing that must be served."""
    case = random_case(
        0, dataflow="home", prune=True, allow_missing=True, placements=2_000
    )
    problem = case.problem
    shape = (problem.num_applications, problem.num_layers, 3)
    width = np.broadcast_to(np.array([0.1, 0.2, 0.7]) * (1 - 1e-15), shape)
    problem = problem.replace(
        prune_width=width,
        prune_loss=np.full(shape, 1e-3),
        pinned=problem.pinned[:0],
        trusted=np.zeros_like(problem.trusted),
    )
    lagrangian = plain(problem)
    assert lagrangian.at(lagrangian.zero()).value < np.inf


@settings(max_examples=100)
@given(seed=SEEDS)
def test_loads_are_those_of_score(seed):
    """The plan of the copies and answers found costs and loads what the point says."""
    switches = {}
    if seed % 4 == 0:  # no copy at all may be what is best, and needs no cover then
        switches = {"coverage": True, "allow_missing": True, "prune": True}
    problem = random_case(
        seed,
        dataflow="home",
        terms=("serial", "traffic", "energy", "quality"),
        **switches,
    ).problem
    lagrangian = plain(problem)
    rng = np.random.default_rng(seed)
    # All prices above 0: where answers cost the same the loads need not agree.
    prices = random_prices(lagrangian, rng)
    prices[: lagrangian.num_rows] += rng.uniform(1e-4, 1e-3) * prices.max()
    point = lagrangian.at(prices)
    if not np.isfinite(point.parts).all():
        return
    priced = Priced(lagrangian, point.prices)
    copies = [tuple(copy) for copy in copies_of(lagrangian, point).tolist()]
    plan = priced.plan(copies)
    assert plan is not None
    judged = score(problem, plan)
    value = {}
    for row in judged.rows:
        value.setdefault(row.row, []).append((row.value, row.limit))
    rate = np.where(problem.application_rate > 0, problem.application_rate, 1.0)
    called = problem.application_rate > 0
    loads, limits = [], []
    segments = problem.prune_width.shape[2] + problem.fuse_width.shape[2]
    short = (1 + segments) * SHARE_SUM  # what shares may lack of one

    def forgiven(limit, share=short):
        wide = limit + allowed(limit)
        return wide + share * abs(wide)

    for name in ("memory", "compute", "link", "budget"):
        for x, limit in value.get(name, ()):
            if np.isfinite(limit):
                loads.append(x)
                limits.append(forgiven(limit, 0.0 if name == "memory" else short))
    for name, targets in (
        ("quality", problem.quality_budget),
        ("latency", problem.latency_target),
    ):
        for g, (x, limit) in zip(
            np.flatnonzero(np.isfinite(targets)), value.get(name, ()), strict=True
        ):
            if called[g]:
                loads.append(x * rate[g])
                limits.append(forgiven(limit) * rate[g])
    num = problem.num_places + len(lagrangian.load_rows)
    assert lagrangian.limit[:num] == pytest.approx(np.array(limits), rel=1e-9)
    use = point.use.sum(axis=0) * lagrangian.scale
    assert np.allclose(use[:num], loads, rtol=1e-7, atol=1e-9 * lagrangian.scale[:num])
    counted = {row.where: row.value for row in judged.rows if row.row == "count"}
    inside = [problem.count_rows[r] for r in lagrangian.must_rows]
    assert all(counted[row.name] >= 1 for row in inside)
    lower = [
        row for row in problem.count_rows if (row.lower or 0) > 0 and row not in inside
    ]
    upper = [row for row in problem.count_rows if row.upper is not None]
    assert list(use[num:]) == [-counted[row.name] for row in lower] + [
        counted[row.name] for row in upper
    ]
    total = judged.objective + point.use.sum(axis=0) @ point.prices
    assert point.parts.sum() == pytest.approx(total, rel=1e-8)


@settings(max_examples=40)
@given(seed=SEEDS)
def test_weights_of_servers_bound_the_bottleneck(seed):
    """Any weights of the servers give no more than the busiest of each layer."""
    problem = random_case(seed, dataflow="home", terms=("bottleneck",)).problem
    lagrangian = plain(problem)
    point = lagrangian.at(random_prices(lagrangian, np.random.default_rng(seed)))
    if not np.isfinite(point.parts).all():
        return
    cells = point.prices[lagrangian.num_rows :].reshape(problem.num_layers, -1)
    assert cells.sum(axis=1) == pytest.approx(1.0)
    copies = [tuple(copy) for copy in copies_of(lagrangian, point).tolist()]
    plan = Priced(lagrangian, point.prices).plan(copies)
    assert plan is not None
    assert (cells * point.cell_use).sum() <= score(problem, plan).objective + 1e-9
    assert point.cell_use.max(axis=1).sum() == pytest.approx(
        score(problem, plan).objective, rel=1e-6
    )


@settings(max_examples=30)
@given(seed=SEEDS)
def test_weights_of_sampled_calls_bound_parallel(seed):
    """With any weights of a token's calls the value is below every feasible plan."""
    case = random_case(
        seed, dataflow="home", terms=("serial", "parallel"), placements=300
    )
    problem = case.problem
    sets = [copy_sets(problem, i, single=False) for i in range(problem.num_experts)]
    plans = [
        Plan.of(problem, np.array(sorted(sum(held, ())), dtype=np.int64).reshape(-1, 3))
        for held in itertools.product(*sets)
    ]
    judged = [score(problem, plan) for plan in (case.witness, *plans)]
    best = min((one.objective for one in judged if one.feasible), default=np.inf)
    lagrangian, rng = plain(problem), np.random.default_rng(seed)
    rest = left_out(problem, ("fluid",))
    weights = SampledWeights(problem)
    for _ in range(3):
        lagrangian.count_sampled(weights)
        for prices in (lagrangian.zero(), random_prices(lagrangian, rng)):
            point = lagrangian.at(prices)
            assert point.value + rest <= best + allowed(best) or np.isinf(best)
        weights.pull(point, lagrangian.tables.place, lagrangian.tables.format)


def test_weights_of_sampled_calls_are_worth_it():
    """Most problems have a better bound of `parallel` with weights than without."""
    better = 0
    for seed in range(12):
        problem = random_case(
            seed, dataflow="home", terms=("parallel",), prune=False, similar=False
        ).problem
        lagrangian = plain(problem)
        before = lagrangian.at(lagrangian.zero()).value
        lagrangian.count_sampled(SampledWeights(problem))
        better += lagrangian.at(lagrangian.zero()).value > before
    assert better >= 6


# -- one block -------------------------------------------------------------------------


def random_block(rng, number):
    """A facility-location problem with everything that a block can have."""
    num_f, num_c = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    owner = np.sort(rng.integers(0, 1 + number % 3, num_f))
    server = rng.integers(0, 4, num_f)
    order = np.lexsort((server, owner))
    owner, server = owner[order].astype(np.int64), server[order].astype(np.int64)
    opening = rng.random(num_f) * rng.choice([0.1, 1.0, 3.0])
    if number % 3 == 0:
        opening -= rng.choice([0.05, 0.5])
    way = 2 * rng.random((num_f, num_c)) - (0.5 if number % 5 == 0 else 0.0)
    if number % 2:
        way[rng.random(way.shape) < 0.2] = np.inf
    bare = np.where(rng.random(num_c) < 0.5, np.inf, 3 * rng.random(num_c))
    forced = np.zeros(num_f, dtype=np.bool_)
    if number % 4 == 0:
        forced[int(rng.integers(num_f))] = True
    most = int(rng.integers(1, 5))
    return opening, way, bare, forced, server, owner, most


def all_sets(block):
    """Every set of facilities that may be open together, and its cost."""
    opening, way, bare, forced, server, owner, most = block
    num_f = len(opening)
    for size in range(num_f + 1):
        for chosen in itertools.combinations(range(num_f), size):
            held = list(chosen)
            cells = {(int(owner[f]), int(server[f])) for f in held}
            counts = np.bincount(owner[held], minlength=1)
            if len(cells) < size or counts.max() > most:
                continue
            if not set(np.flatnonzero(forced)) <= set(held):
                continue
            least = bare
            if held:
                least = np.minimum(bare, way[held].min(axis=0))
            yield held, float(opening[held].sum() + least.sum())


def priced_bare(block):
    """Cost of each client if only what is forced is open."""
    _, way, bare, forced, *_ = block
    if forced.any():
        return np.minimum(bare, way[forced].min(axis=0))
    return bare


def as_facilities(block):
    """The block as the kernels take it."""
    opening, way, _, forced, server, owner, most = block
    cost = np.ascontiguousarray(way.T)
    return facility.Facilities(
        opening, cost, way, priced_bare(block), forced, server, owner, most
    )


@pytest.mark.parametrize("many", [1, facility.MANY])
@pytest.mark.parametrize("nodes", [0, 3, 100_000])
def test_blocks_are_solved_exactly(nodes, many, monkeypatch):
    """With enough sets it finds the best and proves it; with few the bound holds.

    Also where a quick ascent leaves facilities out before.
    """
    monkeypatch.setattr(facility, "MANY", many)
    rng = np.random.default_rng(7)
    proved = 0
    for number in range(500):
        block = random_block(rng, number)
        opening, most = block[0], block[-1]
        truth = min((cost for _, cost in all_sets(block)), default=np.inf)
        chosen = np.full(4 * most + 1, -1, dtype=np.int64)
        near = np.zeros(len(opening), dtype=np.bool_)
        lower, upper, count, _ = facility.locate(
            as_facilities(block), nodes, chosen, near
        )
        assert lower <= truth + 1e-9
        assert upper >= truth - 1e-9
        if nodes < 100_000:
            proved += np.isclose(lower, truth)
            continue
        if np.isinf(truth):
            assert lower == np.inf
            continue
        assert (lower, upper) == pytest.approx((truth, truth), abs=1e-9)
        costs = {tuple(held): cost for held, cost in all_sets(block)}
        found = tuple(sorted(chosen[:count].tolist()))
        assert costs[found] == pytest.approx(upper, abs=1e-9)
    assert nodes == 100_000 or 0 < proved < 500


@pytest.mark.parametrize("steps", [0.5, 1.0, facility.CAREFUL])
def test_slacks_bound_every_set(steps):
    """A set costs at least the duals, its slacks, and what clients pay twice."""
    rng = np.random.default_rng(11)
    for number in range(200):
        block = random_block(rng, number)
        opening, way, bare, forced, server, owner, most = block
        block = (opening, way, bare, np.zeros_like(forced), server, owner, most)
        slack, dual = np.empty(len(opening)), np.empty(len(bare))
        lower = facility.ascend(as_facilities(block), opening, slack, dual, steps)
        assert (slack >= 0).all()
        for held, cost in all_sets(block):
            if np.isfinite(lower):
                paid = np.maximum(dual - way[held], 0.0)
                twice = paid.sum() - paid.max(axis=0, initial=0.0).sum()
                assert lower + slack[held].sum() + twice <= cost + 1e-9
            else:
                assert cost == np.inf


# -- compiled, threads -----------------------------------------------------------------


def test_compiled_pricing_agrees():
    """The compiled kernels come to the values of the plain ones."""
    for seed in range(8):
        problem = random_case(seed, dataflow="home").problem
        slow, fast = (
            Lagrangian(problem, compile_=on, threads=1) for on in (False, True)
        )
        prices = random_prices(slow, np.random.default_rng(seed))
        one, other = slow.at(prices), fast.at(prices)
        assert one.value == pytest.approx(other.value, rel=1e-10, nan_ok=True)
        assert one.parts == pytest.approx(other.parts, rel=1e-10)
        assert one.use.sum() == pytest.approx(other.use.sum(), rel=1e-6)


def test_threads_change_nothing():
    """One thread and two give the same bits."""
    problem = build_problem(read_instance(LIBRARY / "mixtral-8x7b" / "metro-4.json"))
    one, two = (Lagrangian(problem, compile_=True, threads=n) for n in (1, 2))
    prices = random_prices(one, np.random.default_rng(0))
    a, b = one.at(prices), two.at(prices)
    assert a.value == b.value
    assert np.array_equal(a.option, b.option)
    assert np.array_equal(a.use, b.use)
    assert np.isfinite(a.value)


# -- the sample ------------------------------------------------------------------------


def test_sample_stands_for_all():
    """A sample of every block is all of them; in a half each block counts twice."""
    lagrangian = plain(build_problem(contract_instance("loose")))
    whole, half = draw_sample(lagrangian, 1), draw_sample(lagrangian, 2)
    assert not whole.skip.any()
    assert (whole.weight == 1).all()
    assert half.skip.sum() * 2 == len(half.skip)
    assert (half.weight == 2).all()
    point = lagrangian.at(lagrangian.zero(), skip=half.skip)
    rest = lagrangian.at(lagrangian.zero(), skip=~half.skip)
    every = lagrangian.at(lagrangian.zero())
    assert point.parts + rest.parts == pytest.approx(every.parts)


def test_sample_is_fair():
    """Over the layers it stands for about as much traffic as there is."""
    problem = build_problem(read_instance(LIBRARY / "deepseek-v3" / "metro-16.json"))
    lagrangian = Lagrangian(problem, threads=1)
    mass = problem.rate @ problem.calls[problem.application_of]
    sample = draw_sample(lagrangian, 16)
    taken = members(lagrangian, sample)
    counted = mass[taken] @ sample.weight[problem.layer_of[taken]]
    assert counted == pytest.approx(mass.sum(), rel=0.01)
    assert taken.sum() == (~sample.skip).sum()  # blocks of one expert


# -- a part of the experts for all, and of the options ---------------------------------


def test_a_part_has_a_part_of_the_room():
    """Half of the experts twice over: limits are half, and come back."""
    problem = build_problem(contract_instance("loose"))
    state = HomeState(problem, compile_=False)
    limit, room = state.limit.copy(), state.tables.room.copy()
    steepest = state.steepest
    rng = np.random.default_rng(0)
    with state.part(0.5):
        assert (state.tables.room == 0.5 * room).all()
        assert (
            state.limit[np.isfinite(limit)] == 0.5 * limit[np.isfinite(limit)]
        ).all()
        taken = np.zeros(problem.num_experts, dtype=np.bool_)
        taken[::2] = True
        descend(state, rng, passes=3, spent=lambda: False, experts=taken)
        assert state.s.live.sum() == taken.sum()
    assert np.array_equal(state.limit, limit)
    assert np.array_equal(state.tables.room, room)
    assert state.steepest == state.s.knob[0] == steepest
    assert not state.s.live.any()
    assert not state.s.load.any()


def test_focus_leaves_the_other_options_alone():
    """An expert goes where it may, and anywhere again afterwards."""
    problem = build_problem(contract_instance("loose"))
    state = HomeState(problem, compile_=False)
    rng = np.random.default_rng(0)
    some = state.tables.usable.copy()
    some[:, state.tables.place != 0] = False
    kept = state.tables.usable & some
    assert kept.any(axis=1).all()
    state.focus(some)
    state.sweep(state.order(rng))
    assert set(state.copies()[:, 1]) == {0}
    state.focus(None)
    state.sweep(state.order(rng))
    assert set(state.copies()[:, 1]) > {0}


def test_long_problems_begin_with_a_sample(monkeypatch):
    """Their plans keep every row and their bounds hold, as those of others."""
    problem = build_problem(read_instance(LIBRARY / "olmoe-1b-7b" / "metro-6.json"))
    solver = DualSolver(DualParams(sample=100))
    whole = solver.solve(problem, stop=MaxIterations(300), seed=0)
    monkeypatch.setattr(dual, "LONG", 0)
    part = solver.solve(problem, stop=MaxIterations(300), seed=0)
    assert part.feasible
    assert part.bound <= min(part.objective, whole.objective)
    assert part.objective == pytest.approx(whole.objective, rel=0.02)


# -- the solver ------------------------------------------------------------------------


def test_finds_feasible_plans():
    """On 90 % of the feasible random problems it finds a plan, with an honest bound."""
    found = 0
    problems = solved_problems("home")[:20]
    for problem, best in problems:
        result = DualSolver(DualParams(threads=1)).solve(
            problem, stop=MaxIterations(80), seed=0
        )
        assert result.bound <= best + allowed(best)
        found += result.feasible
    assert found >= 0.9 * len(problems)


def test_same_seed_same_plan():
    """With a deterministic budget the same seed gives the same plan and bound."""
    problem = random_case(5, dataflow="home", infeasible=False).problem
    one, other = (
        DualSolver().solve(problem, stop=DeterministicTime(0.02), seed=7)
        for _ in range(2)
    )
    assert same_plan(one.plan, other.plan)
    assert one.bound == other.bound
    assert [h[1] for h in one.history] == [h[1] for h in other.history]


def test_bound_is_better_than_trivial():
    """On a tight problem the prices prove more than the trivial bound does."""
    problem = build_problem(contract_instance("tight"))
    result = DualSolver().solve(problem, stop=MaxIterations(200), seed=0)
    assert result.feasible
    assert result.bound > trivial_bound(problem) * 1.01


def impossible(kind):
    """A problem without a plan: by rows, a block alone, or a call nothing answers."""
    if kind == "rows":
        return build_problem(contract_instance("infeasible"))
    problem = build_problem(contract_instance("loose"))
    if kind == "block":
        every = np.arange(problem.num_servers, dtype=np.int64)
        return problem.replace(failure_sets=(every,))
    if kind == "trust":
        return problem.replace(trusted=np.zeros_like(problem.trusted))
    pins = np.array([[0, 0, 0], [0, 1, 0]], dtype=np.int64)
    return problem.replace(pinned=pins, max_copies=1)


@pytest.mark.parametrize("kind", ["rows", "block", "trust", "pins"])
def test_infeasible_problems(kind):
    """Without any plan it ends, claims none, and its bound is a number or none."""
    problem = impossible(kind)
    result = DualSolver().solve(problem, stop=MaxIterations(100), seed=0)
    assert not result.feasible
    assert result.status in (Status.INFEASIBLE, Status.UNKNOWN, Status.VIOLATING)
    assert result.bound is None or not np.isnan(result.bound)


def test_interruption_keeps_the_plan():
    """Ctrl-C in the middle returns the best plan so far."""
    problem, _ = solved_problems("home")[0]

    def interrupt(progress):
        if np.isfinite(progress.objective):
            raise KeyboardInterrupt

    result = DualSolver().solve(
        problem, stop=MaxIterations(500), seed=0, on_progress=interrupt
    )
    assert result.stop_reason is StopReason.INTERRUPTED
    assert result.feasible


def test_far_plans_are_built_from_nothing_too(monkeypatch):
    """Where the plans of prices are far from the bound, a greedy one is tried."""
    built = []
    problem = build_problem(contract_instance("tight"))
    monkeypatch.setattr(dual, "FAR", -1.0)
    monkeypatch.setattr(
        dual, "construct", lambda state, rng: built.append(construct(state, rng))
    )
    solver = DualSolver(DualParams(improve=True))
    result = solver.solve(problem, stop=DeterministicTime(2.0), seed=0)
    assert built == [None]
    assert result.feasible


def test_no_plan_costs_more_than_the_dearest():
    """What a bound must exceed to prove that there is no plan: no plan comes near it.

    Even one whose calls all go to the dearest of its copies stays below.
    """
    for seed in range(60):
        case = random_case(seed, dataflow="home", fuse=True, prune=True)
        most = Lagrangian(case.problem, threads=1).dearest()
        assert score(case.problem, case.witness).objective <= most * (1 + 1e-9)


def test_rows_without_a_plan_are_proved():
    """Copies in full for all, no more than one of each, and no room for them."""
    whole = build_problem(contract_instance("loose"))
    every = np.arange(whole.num_experts, dtype=np.int64)
    places = np.arange(whole.num_places, dtype=np.int64)
    formats = np.arange(whole.num_formats, dtype=np.int64)
    rows = [
        CountRow(
            name=name,
            experts=every,
            places=places,
            formats=which,
            lower=lower,
            upper=upper,
        )
        for name, which, lower, upper in (
            ("full", formats[:1], whole.num_experts, None),
            ("one", formats, None, whole.num_experts),
        )
    ]
    size = float(whole.size_bytes[:, 0].sum())
    room = whole.room_bytes * (0.9 * size / whole.room_bytes.sum())
    tight = whole.replace(
        capacity_bytes=room, reserve_bytes=0 * room, count_rows=tuple(rows)
    )
    result = DualSolver().solve(tight, stop=MaxIterations(300), seed=0)
    assert result.status is Status.INFEASIBLE
    assert result.bound is None


PLAIN = dict.fromkeys(
    [
        "prune",
        "fuse",
        "similar",
        "hosts",
        "samples",
        "zero_rate",
        "memory",
        "compute",
        "link",
        "budgets",
        "quality",
        "latency",
        "trust",
        "coverage",
        "count",
        "uniform",
        "pin",
        "forbid",
        "max_copies",
        "allow_missing",
        "infeasible",
        "multi_hop",
        "integers",
        "two_tiers",
    ],
    False,
)


@pytest.mark.parametrize("term", ["serial", "quality"])
@pytest.mark.parametrize("seed", range(3))
def test_shares_may_fall_short_as_score_lets_them(seed, term):
    """Calls that are left out within the tolerance of shares may be what fits a row."""
    problem = random_case(seed, dataflow="home", terms=(term,), **PLAIN).problem
    allowed = np.zeros_like(problem.allowed)
    allowed[0, 0] = True
    problem = problem.replace(
        allowed=allowed, format_loss=np.zeros_like(problem.format_loss)
    )
    experts = np.arange(problem.num_experts, dtype=np.int64)
    copies = np.stack([experts, 0 * experts, 0 * experts], axis=1)
    q, i = np.nonzero(problem.calls[problem.application_of] > 0)

    def served(share):
        return Plan.of(
            problem,
            copies,
            served=np.stack([q, i, i], axis=1),
            served_share=np.full(len(q), share),
        )

    rows = score(problem, served(1.0)).rows
    load = max(row.value for row in rows if row.row == "compute")
    busy = np.full_like(problem.busy, load / (1 + 1.5e-6))
    tight = problem.replace(busy=busy)
    plan = served(1 - 0.99e-6)
    objective = score(tight, plan).objective
    assert score(tight, plan).feasible
    for start in (None, plan):
        solver = DualSolver(DualParams(threads=1))
        result = solver.solve(tight, stop=MaxIterations(60), seed=0, start=start)
        assert result.status is not Status.INFEASIBLE
        assert result.bound is None or result.bound <= objective + 2e-6 * abs(objective)

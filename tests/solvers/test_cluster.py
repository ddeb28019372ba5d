"""Pricing on Dask workers: the same numbers, also when workers are lost."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
from time import perf_counter

import numpy as np
import pytest
from random_problems import random_case

from meldopt.engines.cluster import connect
from meldopt.errors import SolverError, SolverUnavailableError
from meldopt.problem import UniformGroup
from meldopt.score import score
from meldopt.solver import MaxIterations
from meldopt.testing import same_plan
from meldopt_solvers.relaxation import cluster
from meldopt_solvers.relaxation.cluster import Cluster, cut
from meldopt_solvers.relaxation.dual import DualParams, DualSolver
from meldopt_solvers.relaxation.pricing import Lagrangian
from meldopt_solvers.relaxation.sampled import SampledWeights
from meldopt_solvers.search.incumbent import Incumbent
from meldopt_solvers.search.lns_cluster import ClusterLns, solve_job
from meldopt_solvers.search.lns_search import LnsParams
from meldopt_solvers.search.submodel import Part, measure

distributed = pytest.importorskip("distributed")

# The nanny's process, its pipes and the loop of a closed cluster are left to the
# garbage collector by distributed itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore:Port .* is already in use:UserWarning"
)


@pytest.fixture(scope="module")
def workers():
    """Two workers in this process."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
    ) as local:
        yield local


@pytest.fixture
def remote(workers):
    """Make Lagrangians whose layers are priced by the workers, however few."""
    made = []

    def make(problem, **options):
        lagrangian = Lagrangian(problem, threads=1, **options)
        client = connect(workers.scheduler_address)
        lagrangian.cluster = Cluster(
            client, problem, compiled=lagrangian.compiled, least=1
        )
        made.append(lagrangian.cluster)
        return lagrangian

    yield make
    for each in made:
        each.close()


def random_points(lagrangian, seed, count=3):
    """Valid prices of several sizes."""
    rng = np.random.default_rng(seed)
    for scale in rng.choice([0.0, 0.01, 0.3, 3.0], count):
        prices = lagrangian.zero()
        prices[: lagrangian.num_rows] += scale * rng.random(lagrangian.num_rows)
        yield lagrangian.valid(prices), rng


def assert_same(one, two):
    """Every number of two points is the same, bit by bit."""
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(two, field.name)
        np.testing.assert_array_equal(left, right, err_msg=field.name)


@pytest.mark.parametrize(
    ("seed", "compile_"), [(0, False), (1, False), (2, False), (3, False), (0, True)]
)
def test_workers_find_what_one_machine_finds(remote, seed, compile_):
    """At any prices, with blocks left out or not, the points are equal bit by bit."""
    problem = random_case(seed, dataflow="home").problem
    here = Lagrangian(problem, threads=1, compile_=compile_)
    there = remote(problem, compile_=compile_)
    for prices, rng in random_points(here, seed):
        skip = rng.random(len(here.blocks.only)) < 0.5
        assert_same(here.at(prices), there.at(prices))
        assert_same(here.at(prices, skip=skip), there.at(prices, skip=skip))
    assert there.cluster.priced > 0
    assert there.cluster.missed == 0


def test_uniform_groups_agree(remote):
    """The format of a uniform group is chosen from sums that workers found."""
    problem = random_case(3, dataflow="home").problem
    half = np.arange(problem.num_experts // 2, dtype=np.int64)
    problem = problem.replace(uniform_groups=(UniformGroup(name="half", experts=half),))
    here, there = Lagrangian(problem, compile_=False), remote(problem, compile_=False)
    for prices, _ in random_points(here, 3):
        assert_same(here.at(prices), there.at(prices))


def test_weights_of_sampled_calls_go_along(remote):
    """With sampled terms workers find what one machine finds, and not what is found
    without them."""
    problem = random_case(
        11, dataflow="home", terms=("parallel", "fluid"), samples=True, infeasible=False
    ).problem
    here, there = Lagrangian(problem, compile_=False), remote(problem, compile_=False)
    bare = here.at(here.zero()).value
    for lagrangian in (here, there):
        lagrangian.count_sampled(SampledWeights(problem))
    assert here.at(here.zero()).value > bare
    for prices, _ in random_points(here, 2):
        assert_same(here.at(prices), there.at(prices))
    assert there.cluster.priced > 0


def test_options_in_focus_stay_here(remote):
    """Workers price with all options, so what is focused is not theirs."""
    problem = random_case(1, dataflow="home").problem
    there = remote(problem, compile_=False)
    there.focus(np.ones(there.tables.usable.shape, dtype=np.bool_))
    there.at(there.zero())
    assert there.cluster.priced == 0
    there.focus(None)
    there.at(there.zero())
    assert there.cluster.priced > 0


def test_lost_chunks_are_priced_here(remote, monkeypatch):
    """What Dask gives up is priced by the caller, to the same point."""
    problem = random_case(2, dataflow="home").problem
    here, there = Lagrangian(problem, compile_=False), remote(problem, compile_=False)

    def give_up(*_):
        raise OSError("the connection is gone")

    monkeypatch.setattr(cluster, "price_span", give_up)
    assert_same(here.at(here.zero()), there.at(there.zero()))
    assert there.cluster.priced == 0
    assert there.cluster.missed > 0


def test_a_killed_worker_changes_nothing(monkeypatch):
    """A worker that dies with chunks to do: Dask lets others do them, all the same."""
    problem = random_case(2, dataflow="home").problem
    here = Lagrangian(problem, compile_=False)
    there = Lagrangian(problem, compile_=False)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as local:
        client = connect(local.scheduler_address)
        there.cluster = Cluster(client, problem, compiled=False, least=1)
        go = distributed.Event("go", client=client)
        pids = client.run(os.getpid)
        held = [
            client.submit(_held, workers=[name], allow_other_workers=True, pure=False)
            for name in pids
        ]
        result = Cluster._result

        def kill_first(self, *given):
            if not go.is_set():  # both workers are held: no chunk is done
                os.kill(next(iter(pids.values())), signal.SIGKILL)
                go.set()
            return result(self, *given)

        monkeypatch.setattr(Cluster, "_result", kill_first)
        assert_same(here.at(here.zero()), there.at(there.zero()))
        assert there.cluster.priced > 0
        assert there.cluster.missed == 0
        client.cancel(held)
        there.leave()


def _held():
    distributed.Event("go").wait()


def test_without_workers_left_everything_is_priced_here():
    """When the last worker is gone the caller goes on alone."""
    problem = random_case(2, dataflow="home").problem
    here = Lagrangian(problem, compile_=False)
    there = Lagrangian(problem, compile_=False)
    with distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address=None
    ) as local:
        client = connect(local.scheduler_address)
        there.cluster = Cluster(client, problem, compiled=False, least=1)
        local.sync(local.workers[0].close)
        assert_same(here.at(here.zero()), there.at(there.zero()))
        assert there.cluster.lost
        there.leave()


def test_other_versions_are_refused(remote, monkeypatch):
    """A worker with another meldopt proves nothing: one line says so."""
    problem = random_case(2, dataflow="home").problem
    there = remote(problem, compile_=False)
    monkeypatch.setattr(there.cluster, "version", "0")
    with pytest.raises(SolverError, match=r"a worker with meldopt .*, expected 0"):
        there.at(there.zero())


def test_spans_cover_each_layer_once():
    """Spans follow each other from the first layer, block and expert to the last."""
    problem = random_case(5, dataflow="home").problem
    blocks = Lagrangian(problem, compile_=False).blocks
    for most in (1, 2, 3, 50):
        for part in (0.0, 0.6, 1.0):
            skip = np.random.default_rng(most).random(len(blocks.skip)) < part
            spans = cut(problem, blocks._replace(skip=skip), most)
            assert 1 <= len(spans) <= max(most, 1)
            ends = (problem.num_layers, len(blocks.only), problem.num_experts)
            for k, end in enumerate(ends):
                pairs = [span[k] for span in spans]
                assert pairs[0][0] == 0
                assert pairs[-1][1] == end
                assert all(a[1] == b[0] for a, b in itertools.pairwise(pairs))


def test_dual_with_an_address_is_dual_without(workers, monkeypatch):
    """A whole run gives the same plan, bound and history on workers as without."""
    monkeypatch.setattr(cluster, "LEAST", 1)
    used = []
    price = Cluster.price
    monkeypatch.setattr(
        Cluster, "price", lambda *given: used.append(price(*given)) or used[-1]
    )
    problem = random_case(7, dataflow="home", infeasible=False).problem
    found = [
        DualSolver(DualParams(threads=1, cluster=address)).solve(
            problem, stop=MaxIterations(30), seed=0
        )
        for address in (None, workers.scheduler_address)
    ]
    assert any(used)
    assert found[0].bound == found[1].bound
    assert found[0].objective == found[1].objective
    assert [row[1:] for row in found[0].history] == [
        row[1:] for row in found[1].history
    ]


def test_nobody_at_the_address(monkeypatch):
    """An address where nothing answers is one line."""
    monkeypatch.setattr("meldopt.engines.cluster.CONNECT_S", 0.2)
    with pytest.raises(SolverError, match="nothing answers") as caught:
        connect("tcp://127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["no://where", "", "tcp://", "localhost:8786"])
def test_no_address_at_all(monkeypatch, text):
    """What is no address is refused without asking Dask, which would wait."""
    monkeypatch.setattr(distributed, "Client", None)
    with pytest.raises(SolverError, match=f"got '{text}', expected the address"):
        connect(text)


def test_scheduler_without_workers():
    """A scheduler alone cannot price."""
    with (
        distributed.LocalCluster(
            n_workers=0, processes=False, dashboard_address=None
        ) as local,
        pytest.raises(SolverError, match="has no workers"),
    ):
        connect(local.scheduler_address)


def test_without_the_package(monkeypatch):
    """Without distributed the error names the extra."""
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(SolverUnavailableError, match=r"pip install 'meldopt\[cluster"):
        connect("tcp://127.0.0.1:8786")


# -- large-neighbourhood search --------------------------------------------------------


def searching(problem, lagrangian, seed=0):
    """A search on a cluster, from the planted or the first feasible plan."""
    stop = MaxIterations(10)
    first = DualSolver(DualParams(threads=1)).solve(problem, stop=stop, seed=seed)
    assert first.feasible
    best = Incumbent(problem, stop=stop, started=perf_counter(), on_progress=None)
    best.offer(first.plan)
    return ClusterLns(
        problem,
        LnsParams(size=3),
        best,
        np.random.default_rng(seed),
        spent=lambda: False,
        lagrangian=lagrangian,
        prices=lagrangian.zero(),
    )


def searched_case(seed):
    """A problem with plans; more of them where nothing is substituted."""
    return random_case(
        seed, dataflow="home", infeasible=False, placements=200_000
    ).problem


@pytest.mark.parametrize("seed", range(6))
def test_rounds_keep_every_row(remote, seed):
    """Plans from disjoint neighbourhoods of one plan keep the rows and never worsen."""
    problem = searched_case(seed)
    search = searching(problem, remote(problem, compile_=False), seed)
    before = search.best.objective
    for _ in range(4):
        drawn = search.draw(3)
        experts = np.concatenate([experts for _, experts in drawn])
        assert len(np.unique(experts)) == len(experts)
        search.round(search.lagrangian.cluster, 3)
        truth = measure(search.searched, search.plan)
        assert search.loads.objective == pytest.approx(truth.objective, rel=1e-9)
        assert score(problem, search.plan).feasible
    search.judge()
    assert search.best.objective <= before


def test_rounds_improve(remote):
    """Over several problems workers find better plans."""
    applied = 0
    for seed in range(6):
        problem = searched_case(seed)
        search = searching(problem, remote(problem, compile_=False), seed)
        for _ in range(3):
            search.round(search.lagrangian.cluster, 3)
        applied += search.applied
    assert applied > 0


def test_a_worker_solves_what_is_solved_here(remote):
    """A sub-problem that a worker solves has the answer that it has here."""
    problem = searched_case(0)
    search = searching(problem, remote(problem, compile_=False))
    ((kind, experts),) = search.draw(1)
    job = search.job(search.lagrangian.cluster, kind, experts, None)
    there = search.lagrangian.cluster.run(solve_job, [job])[0]
    part = Part(search.searched, search.plan, search.loads, experts)
    here = {"patterns": search.by_patterns, "copies": search.by_copies}[kind.how](part)
    assert there.work == here[1]
    assert there.solved == here[2]
    assert (there.found is None) == (here[0] is None)
    if here[0] is not None:
        assert same_plan(there.found, here[0])

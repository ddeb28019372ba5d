"""Runs in processes of their own: what goes wrong costs its own row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from replay_cases import drawn_trace

from meldopt.builder import build_problem
from meldopt.compare.grid import Limit, Run, Subject, Trial, grid
from meldopt.compare.methods import read_methods
from meldopt.compare.records import RunRecord, read_records
from meldopt.compare.runner import Comparison, Progress, Setup, TraceFile
from meldopt.instance import read_instance
from meldopt.plan import read_plan
from meldopt.score import score
from meldopt.solver import solve
from meldopt.testing import contract_instance
from meldopt.trace import write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from meldopt.compare.folder import Folder

pytestmark = pytest.mark.usefixtures("wild")

Keep = Callable[..., Subject]
MakeRuns = Callable[..., list[Run]]

TWO = Setup(slots=2, threads=1, grace_s=20.0)


def by_label(records: list[RunRecord]) -> dict[str, RunRecord]:
    """Return records by label; there is one of each."""
    found = {one.label: one for one in records}
    assert len(found) == len(records)
    return found


def test_what_goes_wrong_costs_its_own_row(
    folder: Folder, keep: Keep, make_runs: MakeRuns
) -> None:
    """Each way of going wrong is a row with a status and a reason; the rest runs."""
    runs = make_runs(
        [keep("tight")],
        "wild[mode=raise],wild[mode=engine],wild[mode=exit],wild[mode=segfault]",
        "wild[mode=refuse],wild[mode=empty],wild[mode=violating],engineless,steady",
    )
    found = by_label(Comparison(folder, runs, TWO).complete())
    ends = {label: (one.status, one.error) for label, one in found.items()}
    assert ends == {
        "wild[mode=raise]": ("crashed", "ZeroDivisionError: all is lost"),
        "wild[mode=engine]": (
            "crashed",
            "meldopt.errors.SolverError: the engine broke",
        ),
        "wild[mode=exit]": ("crashed", "exit code 3: leaving"),
        "wild[mode=segfault]": ("crashed", "killed by SIGSEGV"),
        "wild[mode=refuse]": ("refused", "wild: got a problem, expected none"),
        "wild[mode=empty]": ("unknown", None),
        "wild[mode=violating]": ("violating", None),
        "engineless": (
            "refused",
            "solver 'engineless' (no_such_engine:Solver) needs 'no_such_engine', "
            "which is not installed",
        ),
        "steady": ("feasible", None),
    }
    assert len(list((folder.path / "logs").iterdir())) == 4  # those that crashed
    assert {one.row for one in found["wild[mode=violating]"].violations} == {
        "expert",
        "share",
    }


def test_a_run_that_hangs_is_killed_with_its_children(
    folder: Folder,
    keep: Keep,
    make_runs: MakeRuns,
    has_ended: Callable[[int], bool],
    tmp_path: Path,
) -> None:
    """After limit and grace the process and what it started are gone."""
    log = tmp_path / "log"
    runs = make_runs([keep("tight")], f"wild[mode=hang,log={log}]", seconds=0.1)
    setup = Setup(grace_s=1.0, threads=1)
    (found,) = Comparison(folder, runs, setup).complete()
    assert found.status == "hung"
    assert found.error is not None
    assert found.error.startswith("killed after ")
    assert found.error.endswith(": time limit 0.1 s")
    child = int(log.read_text().splitlines()[-1])
    assert has_ended(child)


def test_memory_has_a_limit(folder: Folder, keep: Keep, make_runs: MakeRuns) -> None:
    """A run that wants 8 GiB where 2 GiB are allowed fails alone."""
    runs = make_runs([keep("tight")], "wild[mode=hungry],steady")
    setup = replace(TWO, memory_bytes=2 << 30)
    found = by_label(Comparison(folder, runs, setup).complete())
    hungry = found["wild[mode=hungry]"]
    assert hungry.status == "crashed"
    assert "Unable to allocate 8.00 GiB" in str(hungry.error)
    assert found["steady"].ranked
    assert 0 < found["steady"].memory_bytes < 2 << 30


def test_records_say_what_score_says_of_the_plan(
    folder: Folder, keep: Keep, make_runs: MakeRuns
) -> None:
    """The kept plan, read again, has the objective and the terms of the record."""
    runs = make_runs([keep("tight")], "steady,milp", seeds=(3,))
    records = Comparison(folder, runs, TWO).complete()
    for one in records:
        instance = read_instance(folder.instance(one.instance_digest))
        problem = build_problem(instance)
        path = folder.plan(one)
        assert path is not None
        judged = score(problem, read_plan(path, problem))
        assert judged.objective == one.objective
        assert dict(judged.terms) == one.terms
        here = solve(problem, one.solver, time_limit=30, seed=3)
        assert here.objective == one.objective  # alone in a process or not
        assert (here.bound, here.gap, here.status) == (one.bound, one.gap, one.status)
        assert (one.layers, one.experts, one.servers, one.formats) == (2, 4, 3, 2)
        assert (one.family, one.instance) == ("contract", "contract/tight")
        assert one.versions.keys() >= {"meldopt", "numpy"}
        assert one.cpu_s > 0
    keys = {one.key for one in records}
    assert {one.key for one in read_records(folder.path)} == keys


def test_nothing_is_done_twice(
    folder: Folder, keep: Keep, make_runs: MakeRuns, tmp_path: Path
) -> None:
    """A second start runs what is new only; failed runs only when asked to."""
    log = tmp_path / "log"
    solvers = f"steady[log={log}],wild[mode=exit,log={log}]"
    tight = keep("tight")
    first = Comparison(folder, make_runs([tight], solvers), TWO).complete()
    assert Counter(log.read_text().splitlines()) == {"contract-tight 0": 2}

    seen: list[Progress] = []
    both = make_runs([tight, keep("loose")], solvers)
    second = Comparison(folder, both, TWO, on_progress=seen.append).complete()
    assert Counter(log.read_text().splitlines()) == {
        "contract-tight 0": 2,
        "contract-loose 0": 2,
    }
    assert second[:2] == first
    assert (seen[0].done, seen[0].kept, seen[0].total) == (2, 2, 4)
    assert (seen[-1].done, seen[-1].left_s) == (4, 0.0)

    retry = replace(TWO, again=True)
    Comparison(folder, make_runs([tight], solvers), retry).complete()
    assert Counter(log.read_text().splitlines())["contract-tight 0"] == 3
    assert len(read_records(folder.path)) == 4


def test_plans_are_replayed_also_later(
    folder: Folder, keep: Keep, make_runs: MakeRuns, tmp_path: Path
) -> None:
    """One more trace replays the kept plan; the solve is not repeated."""
    log = tmp_path / "log"
    problem = build_problem(contract_instance("tight"))
    files = []
    for seed in range(2):
        trace = drawn_trace(problem, seed, requests=5)
        path = tmp_path / f"{seed}.npz"
        header = write_trace(path, trace.header, trace.requests, trace.chunks())
        files.append(TraceFile(name=f"t{seed}", path=str(path), digest=header.digest))
    runs = make_runs([keep("tight")], f"steady[log={log}],wild[mode=exit]")
    for traces in (files[:1], files):
        setup = replace(TWO, traces=traces)
        found = by_label(Comparison(folder, runs, setup).complete())
        steady = found[f"steady[log={log}]"]
        assert steady.replay.keys() == {one.name for one in traces}
        for trace in traces:
            replay = steady.replay[trace.name]
            assert (replay.mode, replay.digest) == ("analytic", trace.digest)
            assert replay.mean_s is not None
            assert replay.p50_s is not None
            assert replay.p99_s is not None
            assert 0 < replay.p50_s <= replay.p99_s
            assert replay.facts["serial_mean_s"] >= replay.mean_s
            assert replay.facts["term_parallel"] == replay.mean_s
        assert found["wild[mode=exit]"].replay == {}
    assert log.read_text().splitlines() == ["contract-tight 0"]
    assert len(read_records(folder.path)) == 2


def test_a_plan_is_judged_on_another_workload(
    folder: Folder, keep: Keep, tmp_path: Path
) -> None:
    """Copies stay, shares follow the rule, and what the plan was worth is kept."""
    log = tmp_path / "log"
    train = contract_instance("loose")
    demands = list(reversed(train.spec.workload.demands))
    workload = msgspec.structs.replace(train.spec.workload, demands=demands)
    turned = train.replace(name="turned", workload=workload)
    rates = [one.rate for one in demands]  # in the other order
    moved_rates = [
        msgspec.structs.replace(one, rate=rate)
        for one, rate in zip(train.spec.workload.demands, rates, strict=True)
    ]
    workload = msgspec.structs.replace(train.spec.workload, demands=moved_rates)
    test = train.replace(name="test", workload=workload)
    here, there, same = keep(train, "one"), keep(test, "two"), keep(turned, "three")
    methods, _ = read_methods([f"steady[log={log}],wild[mode=empty]"])
    limits = [Limit(time_limit_s=30.0, work=None)]

    def complete(*judged: Subject, reroute: bool) -> list[RunRecord]:
        runs = grid([Trial(planned=here, judged=judged)], methods, limits, [0])
        setup = replace(TWO, reroute=reroute)
        return Comparison(folder, runs, setup).complete()

    steady, empty = complete(there, reroute=False)
    assert (steady.train, steady.instance, steady.shares) == ("one", "two", "default")
    assert (empty.status, empty.trained, empty.plan) == ("unknown", None, None)
    planned, judged = (
        build_problem(read_instance(folder.instance(one.digest)))
        for one in (here, there)
    )
    assert steady.plan is not None
    own = read_plan(folder.path / folder.plan_name(steady.solve), planned)
    moved = read_plan(folder.path / steady.plan, judged)
    assert own.copies.tolist() == moved.copies.tolist()  # the same axes here
    assert steady.trained is not None
    assert steady.trained.objective == score(planned, own).objective
    assert steady.objective == score(judged, moved).objective
    assert steady.objective != steady.trained.objective

    # The best shares for these copies are never worse than the default rule.
    both = complete(there, reroute=True)
    default, best = (
        one for one in both if one.label == steady.label and one.instance == "two"
    )
    assert default == steady
    assert best.shares == "best"
    assert best.objective is not None
    assert steady.ranked
    assert best.objective <= steady.objective + 1e-12
    assert best.solve == steady.solve
    assert best.key != steady.key

    # One more instance to judge on needs no solve, nor does the train itself.
    more = complete(there, same, here, reroute=False)
    assert [one.instance for one in more if one.label == steady.label] == [
        "two",
        "three",
        "one",
    ]
    assert next(one for one in more if one.instance == "three").objective == (
        pytest.approx(steady.trained.objective)  # the same workload in another order
    )
    alone = next(one for one in more if one.instance == "one")
    assert (alone.train, alone.shares) == (None, "own")
    assert alone.objective == steady.trained.objective
    assert log.read_text().splitlines() == ["contract-loose 0"]


def test_processes_end_with_whoever_started_them(
    folder: Folder,
    keep: Keep,
    make_runs: MakeRuns,
    has_ended: Callable[[int], bool],
    tmp_path: Path,
) -> None:
    """An exception in the midst of a comparison leaves no process behind."""
    log = tmp_path / "log"
    runs = make_runs([keep("tight")], f"wild[mode=hang,log={log}]", seconds=1000.0)

    def stop(progress: Progress) -> None:
        if log.exists() and len(log.read_text().split("\n")) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Comparison(folder, runs, TWO, on_progress=stop).complete()
    assert has_ended(int(log.read_text().splitlines()[-1]))
    assert read_records(folder.path) == []

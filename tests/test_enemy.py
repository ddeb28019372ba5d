"""What hostile input must not do: harm files, slip past the judge, take all memory."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pulp
import pytest
from hand_case import FULL, HALF, A, B, C, changed, copies, document, instance_of
from pulp.apis import coin_api

import meldopt.engines.pulp as pulp_module
from meldopt.bounds import trivial_bound
from meldopt.builder import build_problem
from meldopt.engines.aside import run_aside
from meldopt.errors import InstanceError, PlanError, SolverError
from meldopt.files import check_writable, write_bytes
from meldopt.plan import Plan, plan_from_file, plan_to_file
from meldopt.score import Row, score

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

HELD = copies((0, A, FULL), (0, C, HALF), (1, B, HALF), (2, C, HALF), (3, A, HALF))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """A target that is no regular file stays what it is and gets the bytes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    check_writable(pipe)
    write_bytes(pipe, b"plan")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(10)
    assert got == [b"plan"]
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    """Writing through a link changes the file it names and keeps the link."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_row_that_is_not_a_number_is_violated() -> None:
    """Whatever value a row has, a plan is feasible only if it is known to hold."""
    assert Row(row="latency", where="chat", value=float("nan"), limit=1.0).violated
    assert not Row(row="latency", where="chat", value=1.0, limit=1.0).violated


def test_fused_shares_cannot_lower_a_loss_in_roam() -> None:
    """In roam a plan has no exceptions, fused ones included."""
    written = document()
    written["dataflow"] = "roam"
    home = build_problem(changed())
    problem = build_problem(instance_of(written)).replace(
        fuse_width=home.fuse_width, fuse_loss=home.fuse_loss
    )
    plan = Plan.of(
        problem,
        HELD,
        fused=np.array([[0, 0, B, 0]]),
        fused_share=np.array([-1e9]),
    )
    with pytest.raises(PlanError, match="in roam a plan has none"):
        score(problem, plan)


@pytest.mark.parametrize(
    ("held", "tables"),
    [
        ([[0, A, -1]], {}),
        ([[0, -1, FULL]], {}),
        ([[4, A, FULL]], {}),
        ([[0, A, 2]], {}),
        ([[0, A, FULL]], {"fused": [[0, 0, B, -1]], "fused_share": [0.5]}),
        ([[0, A, FULL]], {"served": [[0, 0, -1]], "served_share": [1.0]}),
        ([[0, A, FULL]], {"pruned": [[0, 0, 2]], "pruned_share": [0.1]}),
        ([[0, A, FULL]], {"substituted": [[2, 0, 0]], "substituted_share": [0.1]}),
    ],
)
def test_indices_out_of_range_are_refused(
    held: list[list[int]], tables: dict[str, list[object]]
) -> None:
    """A negative index is not another name of the last format, place or segment."""
    problem = build_problem(changed())
    plan = Plan.of(
        problem,
        np.array(held),
        **{name: np.array(value) for name, value in tables.items()},
    )
    with pytest.raises(PlanError, match="out of range"):
        score(problem, plan)


def test_a_forbidden_copy_has_one_name_only() -> None:
    """The last format written as -1 does not slip past a forbidden copy."""
    problem = build_problem(
        changed(
            limits={
                "forbid": [
                    {
                        "layer": 0,
                        "expert": 0,
                        "server": "a",
                        "tier": "gpu",
                        "format": "half",
                    }
                ]
            }
        )
    )
    held = HELD.copy()
    held[0, 2] = HALF - problem.num_formats
    with pytest.raises(PlanError, match="out of range"):
        score(problem, Plan.of(problem, held))


def test_a_share_listed_twice_keeps_what_is_fused_of_it() -> None:
    """The placement JSON does not count a fused share once for each served entry."""
    problem = build_problem(changed())
    plan = Plan.of(
        problem,
        HELD,
        served=np.array([[0, 1, 2], [0, 1, 2]]),
        served_share=np.array([0.5, 0.5]),
        fused=np.array([[0, 1, B, 0]]),
        fused_share=np.array([0.5]),
    )
    file, arrays = plan_to_file(plan, budgets=[], stem="p")
    again = plan_from_file(file, problem, source="p", arrays=arrays)
    assert score(problem, again).terms == pytest.approx(score(problem, plan).terms)


def test_a_record_that_is_not_finite_can_be_read_again() -> None:
    """JSON has no infinity: such terms are left out, and the file stays readable."""
    problem = build_problem(changed())
    plan = Plan.of(problem, HELD).with_record(
        {"terms": {"serial": float("inf"), "quality": 0.5}, "objective": float("inf")}
    )
    file, arrays = plan_to_file(plan, budgets=[], stem="p")
    data = msgspec.json.encode(file)
    again = msgspec.json.decode(data, type=type(file))
    assert again.terms == {"quality": 0.5}
    assert again.objective is None
    assert not arrays


def test_an_absurd_number_of_experts_is_refused_before_memory_is_taken() -> None:
    """A typo in the number of experts is one line, not gigabytes."""
    written = document()
    written["model"]["experts"] = 10**9
    with pytest.raises(InstanceError, match=r"model\.experts.*2000000000"):
        build_problem(instance_of(written))


def test_the_trivial_bound_uses_substitutes_at_the_home_only() -> None:
    """A similar expert answers from the source of the layer, at its own best format."""
    problem = build_problem(changed(objective={"serial": 1.0, "quality": 1.0}))
    far = problem.replace(similar_loss=np.full_like(problem.similar_loss, 1e6))
    near = problem.replace(similar_loss=np.zeros_like(problem.similar_loss))
    # Only expert 1 has a similar one; from c it is served over the network otherwise.
    assert trivial_bound(near) <= trivial_bound(far)
    plan = Plan.of(
        near,
        copies((0, A, HALF), (0, C, HALF), (1, B, HALF), (2, C, HALF), (3, A, HALF)),
        substituted=np.array([[0, 1, 0], [1, 1, 1]]),
        substituted_share=np.ones(2),
    )
    judged = score(near, plan)
    assert judged.feasible
    assert trivial_bound(near) <= judged.objective


def test_an_infeasible_part_of_a_search_is_not_the_result() -> None:
    """Only CBC's last word counts, not what it says of a sub-problem."""
    model = SimpleNamespace(objective=np.ones(1))
    found = SimpleNamespace(
        sol_status=pulp.LpSolutionOptimal, status=pulp.LpStatusOptimal
    )
    log = "Problem is infeasible\n\nResult - Optimal solution found\nLower bound: 2\n"
    values = [SimpleNamespace(varValue=2.0)]
    outcome = pulp_module._outcome(model, found, values, log, 0.0, False)  # type: ignore[arg-type]
    assert outcome.status == "optimal"
    assert outcome.objective == 2.0
    log = "Problem is infeasible\n\nResult - Problem proven infeasible\n"
    outcome = pulp_module._outcome(model, found, values, log, 0.0, False)  # type: ignore[arg-type]
    assert outcome.status == "infeasible"


def test_an_interrupted_engine_of_pulp_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C ends the process that PuLP has started, and PuLP is as it was before."""
    before = coin_api.subprocess
    made: list[subprocess.Popen[bytes]] = []

    def solve(_: object) -> None:
        code = "import time; time.sleep(60)"
        process = coin_api.subprocess.Popen([sys.executable, "-c", code])
        made.append(process)
        (tmp_path / "log").write_text("")
        process.wait()

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    problem = SimpleNamespace(solve=solve)
    assert pulp_module._run(problem, None, tmp_path / "log", interrupt)
    assert made[0].poll() is not None
    assert coin_api.subprocess is before


@pytest.mark.parametrize("when", ["before", "while"])
def test_an_interrupted_engine_is_waited_for(when: str) -> None:
    """A signal at any moment never lets results be read before the engine ends."""
    ended = threading.Event()
    waiting, release = threading.Event(), threading.Event()

    def work() -> int:
        if when == "before":  # the main thread is still starting this one
            signal.raise_signal(signal.SIGINT)
        else:
            waiting.wait(10)
            signal.raise_signal(signal.SIGINT)
        release.wait(10)
        ended.set()
        return 7

    def tick(interrupted: bool) -> None:
        waiting.set()
        if interrupted:
            release.set()

    handler = signal.getsignal(signal.SIGINT)
    assert run_aside("it", work, tick, period_s=0.01) == (7, True)
    assert ended.is_set()
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_engine_that_does_not_end_is_given_up() -> None:
    """With a patience, an interruption is not waited for without end."""
    release = threading.Event()

    def tick(interrupted: bool) -> None:
        if not interrupted:
            raise KeyboardInterrupt

    found = run_aside("it", release.wait, tick, period_s=0.01, patience_s=0.05)
    assert found == (None, True)
    release.set()


def test_a_failing_engine_is_named() -> None:
    """An exception of the engine becomes one line that says whose it is."""
    with pytest.raises(SolverError, match=r"it failed: division"):
        run_aside("it", lambda: 1 / 0, lambda _: None, period_s=0.01)

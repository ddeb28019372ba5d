"""Comparisons on Dask workers: the same table, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from meldopt.cli import main
from meldopt.compare.cluster import ClusterProcesses
from meldopt.compare.folder import Folder
from meldopt.compare.records import read_records
from meldopt.compare.runner import Comparison, Progress, Setup
from meldopt.errors import SolverError
from meldopt.instance import write_instance
from meldopt.testing import contract_instance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meldopt.compare.grid import Run, Subject

distributed = pytest.importorskip("distributed")

# The nanny's process, its pipes and the loop of a closed cluster are left to the
# garbage collector by distributed itself.
pytestmark = [
    pytest.mark.usefixtures("wild"),
    pytest.mark.filterwarnings(
        "ignore:unclosed:ResourceWarning",
        "ignore:Port .* is already in use:UserWarning",
    ),
]

SETUP = Setup(slots=2, threads=1)


def table(records: Any) -> dict[str, tuple[object, ...]]:
    """Return what must not depend on where runs ran."""
    return {
        one.key: (one.label, one.instance, one.seed, one.status, one.objective, one.gap)
        for one in records
    }


def test_a_killed_worker_costs_nothing(
    folder: Folder,
    keep: Callable[..., Subject],
    make_runs: Callable[..., list[Run]],
    tmp_path: Path,
    wild: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 of a worker with a run on it: another worker does the run again."""
    log, go = tmp_path / "log", tmp_path / "go"
    monkeypatch.setenv("PYTHONPATH", str(wild))
    subjects = [keep("tight"), keep("loose")]
    solvers = f"steady[log={log},wait={go}],wild[mode=exit]"
    runs = make_runs(subjects, solvers, seeds=(0, 1), seconds=60.0)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as local:
        remote = ClusterProcesses(local.scheduler_address, threads=1)
        assert remote.slots == 2
        pids = sorted(remote.client.run(os.getpid).values())

        def kill(progress: Progress) -> None:
            """Kill a worker once both of them are in the midst of a run."""
            waiting = log.read_text().count("\n") if log.exists() else 0
            if waiting == 2 and not go.exists():
                os.kill(pids[0], signal.SIGKILL)
                go.touch()

        there = Comparison(
            folder, runs, SETUP, executor=remote, on_progress=kill
        ).complete()
    assert go.exists()
    assert log.read_text().count("\n") == 4 + 1  # the killed one was begun again
    assert len(there) == 8

    local_folder = Folder(tmp_path / "here")
    local_folder.prepare()
    for one in (folder.path / "instances").iterdir():
        (local_folder.path / "instances" / one.name).write_bytes(one.read_bytes())
    here = Comparison(local_folder, runs, SETUP).complete()
    assert table(there) == table(here)
    assert table(read_records(folder.path)) == table(there)
    for one in there:
        if one.plan is not None:
            assert (folder.path / one.plan).read_bytes() == (
                local_folder.path / one.plan
            ).read_bytes()


@pytest.fixture(scope="module")
def workers() -> Any:
    """Two workers in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as local:
        yield local


def test_an_interrupted_comparison_stops_its_workers(
    workers: Any,
    folder: Folder,
    keep: Callable[..., Subject],
    make_runs: Callable[..., list[Run]],
    has_ended: Callable[[int], bool],
    tmp_path: Path,
) -> None:
    """Ctrl-C kills the processes on the workers; nothing is recorded of them."""
    log = tmp_path / "log"
    runs = make_runs([keep("tight")], f"wild[mode=hang,log={log}]", seconds=1000.0)
    remote = ClusterProcesses(workers.scheduler_address, threads=1)

    def stop(progress: Progress) -> None:
        if log.exists() and log.read_text().count("\n") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Comparison(folder, runs, SETUP, executor=remote, on_progress=stop).complete()
    child = int(log.read_text().splitlines()[-1])
    for _ in range(1000):
        if has_ended(child):
            break
        threading.Event().wait(0.02)
    else:
        pytest.fail("the process on the worker did not end")
    assert read_records(folder.path) == []


def test_the_command_runs_on_a_cluster(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--cluster takes an address; runs at a time are the threads of its workers."""
    monkeypatch.chdir(tmp_path)
    write_instance(contract_instance("tight"), tmp_path / "tight.json")
    command = ["compare", "tight.json", "-s", "steady,wild[mode=empty]", "-o", "out"]
    done = CliRunner().invoke(main, [*command, "--cluster", workers.scheduler_address])
    assert done.exit_code == 0, done.output
    assert f"2 runs, 2 at a time on {workers.scheduler_address}" in done.stderr
    assert {one.status for one in read_records("out")} == {"feasible", "unknown"}


def test_workers_of_another_version_are_refused(
    workers: Any,
    folder: Folder,
    keep: Callable[..., Subject],
    make_runs: Callable[..., list[Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker with another meldopt is an error, not a row of results."""
    remote = ClusterProcesses(workers.scheduler_address, threads=1)
    submit = remote.client.submit

    def older(*arguments: Any, **options: Any) -> Any:
        return submit(*arguments, **options | {"version": "0.0.0"})

    monkeypatch.setattr(remote.client, "submit", older)
    runs = make_runs([keep("tight")], "steady")
    with pytest.raises(SolverError, match=r"expected 0\.0\.0 as here"):
        Comparison(folder, runs, SETUP, executor=remote).complete()


def test_an_address_where_nobody_answers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong address is one clear line."""
    monkeypatch.setattr("meldopt.engines.cluster.CONNECT_S", 0.1)
    with pytest.raises(SolverError, match="nothing answers"):
        ClusterProcesses("tcp://127.0.0.1:9")

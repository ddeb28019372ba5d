"""What tests of comparisons share: wild solvers installed, and folders with trials."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meldopt.compare.folder import Folder
from meldopt.compare.grid import Limit, Run, Subject, Trial, grid
from meldopt.compare.methods import read_methods
from meldopt.testing import contract_instance

if TYPE_CHECKING:
    from meldopt.instance import Instance

SOLVERS = Path(__file__).with_name("wild_solvers.py")


@pytest.fixture
def wild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the wild solvers, here and for processes that are started."""
    folder = tmp_path / "plugins"
    info = folder / "wild-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(SOLVERS, folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wild\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[meldopt.solvers]\n"
        "steady = wild_solvers:SteadySolver\n"
        "wild = wild_solvers:WildSolver\n"
        "engineless = no_such_engine:Solver\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return the empty folder of a comparison."""
    folder = Folder(tmp_path / "comparison")
    folder.prepare()
    return folder


Keep = Callable[..., Subject]


@pytest.fixture
def keep(folder: Folder) -> Keep:
    """Return a function that puts an instance into the folder."""

    def put(instance: Instance | str, name: str = "") -> Subject:
        if isinstance(instance, str):
            name = name or f"contract/{instance}"
            instance = contract_instance(instance)
        digest = instance.digest()
        folder.keep_instance(instance, digest)
        return Subject(name=name or instance.name, digest=digest)

    return put


def runs_of(
    subjects: list[Subject],
    *solvers: str,
    seeds: tuple[int, ...] = (0,),
    seconds: float | None = 30.0,
    repair: bool = False,
) -> list[Run]:
    """Return runs that are judged where they are planned."""
    methods, _ = read_methods(solvers, repair=repair)
    trials = [Trial(planned=one, judged=(one,)) for one in subjects]
    return grid(trials, methods, [Limit(time_limit_s=seconds, work=None)], seeds)


@pytest.fixture
def make_runs() -> Callable[..., list[Run]]:
    """Return `runs_of`."""
    return runs_of


@pytest.fixture
def has_ended() -> Callable[[int], bool]:
    """Return a function that says whether a process has ended."""

    def ended(pid: int) -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return status.rpartition(")")[2].split()[0] in "ZX"

    return ended

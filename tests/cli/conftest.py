"""What the tests of the command line share: instances, and a toy solver installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from meldopt.cli import main
from meldopt.instance import write_instance
from meldopt.testing import contract_instance

PLUGIN = Path(__file__).resolve().parents[1] / "toy_plugin" / "toy_plugin.py"

Invoke = Callable[..., Result]


@pytest.fixture
def run() -> Invoke:
    """Return a function that runs the command line in this process."""

    def invoke(*arguments: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(main, [str(one) for one in arguments], input=stdin)

    return invoke


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tight(here: Path) -> Path:
    """Return the file of a small instance whose rows bind."""
    write_instance(contract_instance("tight"), here / "tight.json")
    return here / "tight.json"


@pytest.fixture
def infeasible(here: Path) -> Path:
    """Return the file of a small instance without a plan."""
    write_instance(contract_instance("infeasible"), here / "infeasible.json")
    return here / "infeasible.json"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the toy solvers, and one whose engine is not installed."""
    folder = tmp_path / "plugins"
    info = folder / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(PLUGIN, folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[meldopt.solvers]\n"
        "toy = toy_plugin:ToySolver\n"
        "empty = toy_plugin:HonestlyEmpty\n"
        "engineless = no_such_engine:Solver\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def spawn(here: Path, plugins: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts the command line as a process of its own."""

    def start(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "meldopt", *map(str, arguments)],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(plugins)},
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings},
        )

    return start

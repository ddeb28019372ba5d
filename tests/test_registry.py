"""The registry: entry points, listed without import, loaded when asked for."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from meldopt import registry
from meldopt.errors import (
    MeldoptWarning,
    SolverNotFoundError,
    SolverUnavailableError,
)
from meldopt.solver import make_solver

TOY = Path(__file__).parent / "toy_plugin"


def distribution(folder: Path, name: str, entries: dict[str, str]) -> None:
    """Write the metadata of an installed distribution that registers solvers."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (info / "entry_points.txt").write_text(
        "\n".join([f"[{registry.GROUP}]", *lines, ""])
    )


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the path, with the toy solvers importable."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def nothing(group: str) -> importlib.metadata.EntryPoints:
    """Stand for a checkout that was never installed."""
    return importlib.metadata.EntryPoints()


def test_another_distribution_registers_like_ours(plugins: Path) -> None:
    """A solver of a third party is listed and loaded beside the bundled ones."""
    distribution(plugins, "third", {"toy": "toy_plugin:ToySolver"})
    assert {"toy", "milp"} <= set(registry.solver_names())
    assert registry.load_solver("toy").info.name == "toy"
    assert registry.solver_names() == tuple(sorted(registry.solver_names()))


def test_listing_imports_no_solver() -> None:
    """Names are known without importing a solver, an engine or even numpy."""
    code = (
        "import sys, meldopt; names = meldopt.solver_names();"
        "assert 'milp' in names, names;"
        "bad = {'numpy', 'ortools', 'highspy', 'pulp', 'meldopt_solvers'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_suggests_near_ones(plugins: Path) -> None:
    """A typing error is answered with the name that was meant and all there are."""
    distribution(plugins, "third", {"toy": "toy_plugin:ToySolver"})
    with pytest.raises(
        SolverNotFoundError, match=r"'toyy'; did you mean 'toy'\?.*milp"
    ):
        registry.load_solver("toyy")


def test_an_empty_registry_is_an_error_with_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a checkout that is not installed every use says what to do."""
    monkeypatch.setattr(importlib.metadata, "entry_points", nothing)
    for use in (
        registry.solver_names,
        registry.solver_infos,
        lambda: registry.load_solver("milp"),
    ):
        with pytest.raises(SolverNotFoundError, match="make install"):
            use()


def test_a_name_registered_twice_warns(plugins: Path) -> None:
    """Of two solvers of one name the second is skipped, and somebody hears of it."""
    distribution(plugins, "aaa", {"toy": "toy_plugin:ToySolver"})
    distribution(plugins, "bbb", {"toy": "toy_plugin:Z"})
    with pytest.warns(MeldoptWarning, match="'toy'.*twice.*toy_plugin:Z is skipped"):
        assert registry.load_solver("toy").info.name == "toy"


def test_ours_wins_over_a_stranger_of_the_same_name(plugins: Path) -> None:
    """No other distribution can take the name of a bundled solver."""
    distribution(plugins, "aaa", {"milp": "aaa:Milp"})
    with pytest.warns(MeldoptWarning, match="aaa:Milp is skipped"):
        assert registry.load_solver("milp").__module__.startswith("meldopt_solvers")


def test_the_same_entry_twice_is_no_conflict(plugins: Path) -> None:
    """The metadata of one distribution found in two places warns nobody."""
    distribution(plugins / "one", "third", {"toy": "toy_plugin:ToySolver"})
    distribution(plugins / "two", "third", {"toy": "toy_plugin:ToySolver"})
    sys.path[:0] = [str(plugins / "one"), str(plugins / "two")]
    try:
        assert registry.load_solver("toy").info.name == "toy"
    finally:
        del sys.path[:2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_engine:Solver", "needs 'no_such_engine', which is not installed"),
        ("toy_plugin:Missing", "cannot be imported: AttributeError"),
        ("toy_plugin:ToyParams", "is no solver"),
        ("toy_plugin:HonestlyEmpty", "calls itself 'empty'"),
    ],
)
def test_broken_plugins(plugins: Path, value: str, message: str) -> None:
    """A broken plug-in is an error when asked for, and a warning when listed."""
    distribution(plugins, "third", {"bad": value})
    with pytest.raises(SolverUnavailableError, match=message):
        registry.load_solver("bad")
    with pytest.warns(MeldoptWarning, match="'bad'.*skipped"):
        infos = registry.solver_infos()
    assert "bad" not in infos
    assert "milp" in infos


def test_a_solver_is_made_with_its_parameters(plugins: Path) -> None:
    """Options reach the parameters of a solver that another distribution brought."""
    distribution(plugins, "third", {"toy": "toy_plugin:ToySolver"})
    solver = make_solver("toy", {"scale": "2", "wait": "true"})
    assert solver.params.scale == 2.0  # type: ignore[attr-defined]
    assert solver.params.wait is True  # type: ignore[attr-defined]

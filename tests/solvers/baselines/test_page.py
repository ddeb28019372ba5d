"""``docs/baselines.md`` says what the registered baselines say of themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from meldopt.registry import load_solver

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def methods():
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("methods", DOCS / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_baseline_is_on_the_page(methods):
    """Row, section and parameters of each are those of the code: run the script."""
    assert methods.PAGE.read_text(encoding="utf-8") == methods.page(), (
        "docs/baselines.md is not what the code says: python docs/methods.py"
    )


def test_every_file_of_a_method_is_registered(methods):
    """No method is written and then forgotten."""
    folder = DOCS.parent / "solvers" / "meldopt_solvers" / "baselines"
    files = {
        path.stem
        for path in folder.glob("*.py")
        if "(Baseline)" in path.read_text(encoding="utf-8")
    }
    registered = {
        load_solver(name).__module__.rpartition(".")[2] for name in methods.baselines()
    }
    assert files
    assert files == registered


def test_every_method_says_what_it_ignores_and_what_was_filled(methods):
    """The docstring has all parts, and at least one reference."""
    for name in methods.baselines():
        said = methods.notes(name)
        for part in ("Decides", "Ignores", "Gaps filled"):
            assert said[part], (name, part)
        assert methods.references(said["References"]), name

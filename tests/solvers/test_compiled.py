"""Kernels of several modules, compiled or plain, and names that follow what they do."""

from __future__ import annotations

import types

import pytest

from meldopt_solvers.search import compiled as compiling
from meldopt_solvers.search import sampled_changes, sampled_kernels, sampled_moves
from meldopt_solvers.search.compiled import compiled, plain

CALLEE = """
FACTOR = {factor}

def scaled(x: float) -> float:
    return FACTOR * x

KERNELS = (scaled,)
"""

ENTRY = """
def total(x: float) -> float:
    return scaled(x) + {more}

KERNELS = (*KERNELS, total)
ENTRIES = ("total",)
"""


def kernels(factor=2.0, more=1.0):
    """Return a module whose entry calls a kernel of another module."""
    lower, upper = types.ModuleType("lower"), types.ModuleType("upper")
    exec(CALLEE.format(factor=factor), vars(lower))
    vars(upper).update(scaled=lower.scaled, KERNELS=lower.KERNELS)
    exec(ENTRY.format(more=more), vars(upper))
    return upper


@pytest.mark.parametrize("how", [plain, compiled])
def test_kernels_of_two_modules_work_together(how, monkeypatch):
    """The entry calls the kernel of the other module, with that module's constant."""
    monkeypatch.setattr(compiling, "_COMPILED", {})
    assert how(kernels()).total(3.0) == 7.0


def test_names_follow_what_kernels_do():
    """A constant or a step of any kernel changes the name; else it stays the same."""
    named = compiling._digest
    same = named(kernels().KERNELS)
    assert named(kernels().KERNELS) == same
    assert named(kernels(factor=3.0).KERNELS) != same
    assert named(kernels(more=2.0).KERNELS) != same
    assert named(kernels().KERNELS[:1]) != same


def test_sampled_kernels_are_complete():
    """Every kernel of the walk on samples stands once, after all that it calls."""
    every = sampled_moves.KERNELS
    names = [kernel.__name__ for kernel in every]
    assert len(set(names)) == len(names)
    assert set(sampled_kernels.KERNELS) < set(sampled_changes.KERNELS) < set(every)
    for n, kernel in enumerate(every):
        called = set(kernel.__code__.co_names) & set(names)
        assert called <= set(names[:n])

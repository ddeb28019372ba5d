"""Plan Mixture-of-Experts language models over unequal edge servers.

The names below are imported when first used, so that ``import meldopt`` and the command
line answer at once.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builder import build_problem as build_problem
    from .errors import MeldoptError as MeldoptError
    from .errors import MeldoptWarning as MeldoptWarning
    from .instance import Instance as Instance
    from .instance import read_instance as read_instance
    from .instance import write_instance as write_instance
    from .library import instance_names as instance_names
    from .plan import Plan as Plan
    from .plan import read_plan as read_plan
    from .plan import write_plan as write_plan
    from .problem import Problem as Problem
    from .registry import load_solver as load_solver
    from .registry import solver_names as solver_names
    from .result import Result as Result
    from .result import Status as Status
    from .result import StopReason as StopReason
    from .score import Score as Score
    from .score import score as score
    from .score import transfer_budgets as transfer_budgets
    from .solver import Progress as Progress
    from .solver import Solver as Solver
    from .solver import SolverInfo as SolverInfo
    from .solver import solve as solve

__version__ = "0.1.0"

_HOME = {
    "build_problem": "builder",
    "MeldoptError": "errors",
    "MeldoptWarning": "errors",
    "Instance": "instance",
    "read_instance": "instance",
    "write_instance": "instance",
    "instance_names": "library",
    "Plan": "plan",
    "read_plan": "plan",
    "write_plan": "plan",
    "Problem": "problem",
    "load_solver": "registry",
    "solver_names": "registry",
    "Result": "result",
    "Status": "result",
    "StopReason": "result",
    "Score": "score",
    "score": "score",
    "transfer_budgets": "score",
    "Progress": "solver",
    "Solver": "solver",
    "SolverInfo": "solver",
    "solve": "solver",
}


class _Package(types.ModuleType):
    """The package; `meldopt.score` stays the function when its module is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

"""Best plans of the library: whether a plan is better, and keeping it.

The rule for a better plan is short. It must belong to the very instance (its digest),
keep every row as `meldopt.score` says, and be worth at least 1e-6 of the objective
less than the best plan known. Nothing that its file claims counts, except that a bound
may be taken from whoever ran a solver that proves it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from . import __version__
from .builder import build_problem
from .errors import PlanError
from .files import arrays_to_bytes, write_bytes
from .gap import clip_bound, relative_gap
from .instance import read_instance
from .library import BestEntry, IndexEntry, read_index, write_index
from .plan import plan_to_file, read_plan
from .score import score, transfer_budgets
from .tolerance import OPTIMALITY

if TYPE_CHECKING:
    from pathlib import Path

    from .instance import Instance
    from .plan import Plan
    from .problem import Problem
    from .score import Score, Violation

LARGE_BYTES = 60_000
"""From this size on a best plan is written without white space and budgets."""

SAME = 1e-6
"""Relative difference of objectives that count as equal, and that is no progress."""


def instance_path(folder: Path, name: str) -> Path:
    """Return the file of an instance of a library's folder."""
    return folder / f"{name}.json"


def plan_path(folder: Path, name: str) -> Path:
    """Return the file of the best plan of an instance of a library's folder."""
    return folder / "best" / f"{name}.plan.json"


# -- the rule --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a plan is worth beside the best one known.

    Attributes
    ----------
    objective
        Of the plan, as `meldopt.score` says.
    known
        Objective of the best plan known; None if there is none.
    bound
        The best bound known, the new one included; None if nothing is proved.
    violations
        Rows that the plan breaks.
    better
        Whether it is feasible and worth less than what is known.
    higher
        Whether the new bound is higher than the one known.
    """

    objective: float
    known: float | None
    bound: float | None
    violations: tuple[Violation, ...]
    better: bool
    higher: bool = False

    @property
    def feasible(self) -> bool:
        """Whether the plan keeps every row."""
        return not self.violations

    def text(self) -> str:
        """Say it in one line."""
        if not self.feasible:
            first = self.violations[0]
            more = f", and {len(self.violations) - 1} more"
            return (
                f"the plan breaks {first.row} {first.where} by {first.amount:.6g}"
                f"{more if len(self.violations) > 1 else ''}"
            )
        if self.known is None:
            return f"{self.objective:.9g} is the first plan known"
        if self.better:
            gain = (self.known - self.objective) / max(abs(self.known), 1e-300)
            return f"{self.objective:.9g} is better than {self.known:.9g} by {gain:.3%}"
        return f"{self.objective:.9g} is not better than {self.known:.9g}"


def judge(
    problem: Problem,
    plan: Plan,
    known: BestEntry | None,
    *,
    bound: float | None = None,
) -> Verdict:
    """Judge a plan of a bundled instance by the rule for better plans.

    Parameters
    ----------
    problem, plan
        The instance's problem and the plan; what the plan's file claims is not used.
    known
        What the index says of the best plan known.
    bound
        A new bound that was proved, if any.

    Raises
    ------
    PlanError
        If the plan belongs to another instance.
    SolverError
        If the plan is feasible and a bound is above it: one of the two is wrong.
    """
    judged = score(problem, plan)
    old = None if known is None else known.bound
    bounds = [value for value in (bound, old) if value is not None]
    best = max(bounds) if bounds else None
    objective = None if known is None else known.objective
    better = judged.feasible and (
        objective is None or judged.objective < objective - SAME * abs(objective)
    )
    for value, feasible in (
        (judged.objective, judged.feasible),
        (objective, objective is not None),
    ):
        if best is not None and feasible and value is not None:
            best = clip_bound(value, best, who=problem.name)
    return Verdict(
        objective=judged.objective,
        known=objective,
        bound=best,
        violations=judged.violations,
        better=better,
        higher=best is not None and (old is None or best > old + OPTIMALITY * abs(old)),
    )


# -- keeping ---------------------------------------------------------------------------


def keep(
    name: str,
    problem: Problem,
    plan: Plan,
    *,
    folder: Path,
    solver: str,
    seed: int | None,
    bound: float | None = None,
    time_limit: float | None = None,
    force: bool = False,
) -> Verdict:
    """Write a plan as the best one known, if it is, and say so in the index.

    Parameters
    ----------
    name
        Of the instance.
    problem, plan
        Of that instance.
    folder
        The library's.
    solver, seed, time_limit
        Who found the plan, and how.
    bound
        A bound that was proved; kept if it is higher than the one known, even where
        the plan is not better.
    force
        Write whatever is known; for an instance that was made again.

    Returns
    -------
    Verdict
        Nothing was written unless it is ``better`` or ``higher``.

    Raises
    ------
    PlanError
        If the plan breaks a row, or belongs to another instance.
    SolverError
        If a bound is above the objective of a feasible plan.
    """
    entries = read_index(folder) if (folder / "index.json").exists() else {}
    old = entries[name].best if name in entries and not force else None
    verdict = judge(problem, plan, old, bound=bound)
    if not verdict.feasible:
        raise PlanError(f"{name}: {verdict.text()}")
    if not verdict.better and not verdict.higher:
        return verdict
    if verdict.better or old is None:
        entry = BestEntry(
            objective=verdict.objective,
            bound=verdict.bound,
            solver=solver,
            seed=seed,
            version=__version__,
            date=datetime.date.today().isoformat(),
            time_limit_s=time_limit,
        )
    else:  # only its bound is news
        plan = read_plan(plan_path(folder, name), problem)
        entry = msgspec.structs.replace(old, bound=verdict.bound)
    judged = score(problem, plan)
    _write(plan_path(folder, name), problem, plan.with_record(_record(entry, judged)))
    path = instance_path(folder, name)
    made = entry_of(path, read_instance(path), problem, entry)
    entries = read_index(folder) if (folder / "index.json").exists() else {}
    write_index(entries | {name: made}, folder)
    return verdict


def _record(entry: BestEntry, judged: Score) -> dict[str, Any]:
    """Return what the file of a best plan says about it."""
    record: dict[str, Any] = {
        "terms": dict(judged.terms),
        "objective": judged.objective,
        "solver": entry.solver,
        "versions": {"meldopt": entry.version},
    }
    if entry.bound is not None:
        record["bound"] = entry.bound
        record["gap"] = relative_gap(judged.objective, entry.bound)
    if entry.seed is not None:
        record["seed"] = entry.seed
    return record


def _write(path: Path, problem: Problem, plan: Plan) -> None:
    """Write a best plan; a large one without white space and budgets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.name.removesuffix(".json")
    budgets = transfer_budgets(problem, plan)
    file, arrays = plan_to_file(plan, budgets=budgets, stem=stem)
    text = msgspec.json.format(msgspec.json.encode(file), indent=1)
    if len(text) >= LARGE_BYTES:
        text = msgspec.json.encode(msgspec.structs.replace(file, budgets=[]))
    beside = path.with_name(f"{stem}.npz")
    if arrays:
        write_bytes(beside, arrays_to_bytes(arrays))
    write_bytes(path, text + b"\n")
    if not arrays:
        beside.unlink(missing_ok=True)


def entry_of(
    path: Path, instance: Instance, problem: Problem, best: BestEntry | None
) -> IndexEntry:
    """Describe an instance for the index.

    Parameters
    ----------
    path
        Its file, which says whether it is a recipe.
    instance, problem
        What was read from there, and built from it.
    best
        The best plan known, if any.
    """
    return IndexEntry(
        digest=instance.digest(),
        model=instance.spec.model.catalogue,
        dataflow=problem.dataflow,
        layers=problem.num_layers,
        experts=problem.num_experts,
        servers=problem.num_servers,
        demands=problem.num_demands,
        formats=problem.num_formats,
        recipe=b'"recipe"' in path.read_bytes(),
        best=best,
    )


# -- checking --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What `check_instance` found, and what it read for that."""

    found: tuple[str, ...]
    problem: Problem
    plan: Plan | None
    score: Score | None


def check_instance(name: str, entry: IndexEntry, folder: Path) -> Checked:
    """Compare an instance and its best plan with the index.

    Parameters
    ----------
    name, entry
        What the index says of an instance.
    folder
        The library's.

    Returns
    -------
    Checked
        ``found`` says what is wrong: a digest or a size that differs, a best plan that
        is missing, breaks a row or is worth something else, a bound above it.

    Raises
    ------
    MeldoptError
        If a file cannot be read, or a plan belongs to another instance.
    """
    instance = read_instance(instance_path(folder, name))
    problem = build_problem(instance)
    found = []
    if instance.digest() != entry.digest:
        found.append(f"digest: got {instance.digest()}, expected {entry.digest}")
    sizes = {
        "model": instance.spec.model.catalogue,
        "dataflow": problem.dataflow,
        "layers": problem.num_layers,
        "experts": problem.num_experts,
        "servers": problem.num_servers,
        "demands": problem.num_demands,
        "formats": problem.num_formats,
    }
    for key, value in sizes.items():
        if getattr(entry, key) != value:
            found.append(f"{key}: got {value}, expected {getattr(entry, key)}")
    path = plan_path(folder, name)
    if (entry.best is not None) != path.is_file():
        found.append("best plan: the index and the folder best/ do not agree")
    if entry.best is None or not path.is_file():
        return Checked(found=tuple(found), problem=problem, plan=None, score=None)
    plan = read_plan(path, problem)
    judged = score(problem, plan)
    found += [
        f"best plan: breaks {v.row} {v.where} by {v.amount:.3g}"
        for v in judged.violations
    ]
    told = entry.best.objective
    if abs(judged.objective - told) > SAME * max(abs(told), 1e-12):
        found.append(f"objective: got {judged.objective:.9g}, expected {told:.9g}")
    bound = entry.best.bound
    if bound is not None and bound > told + SAME * max(abs(told), 1e-12):
        found.append(f"bound: got {bound:.9g}, above the objective {told:.9g}")
    return Checked(found=tuple(found), problem=problem, plan=plan, score=judged)

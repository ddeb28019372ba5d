"""The judge of a comparison: what a plan is worth, by `score` and nothing else.

Solvers run elsewhere; their plans are read, scored and recorded here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from meldopt.bounds import trivial_bound
from meldopt.builder import build_problem
from meldopt.errors import MeldoptError
from meldopt.gap import clip_bound, is_closed, relative_gap
from meldopt.instance import read_instance
from meldopt.plan import read_plan, write_plan
from meldopt.score import score

from .folder import file_digest
from .frozen import freeze
from .records import RunRecord, RunStatus, TrainedRecord, ViolationRecord

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem

    from .folder import Folder
    from .grid import Run, Subject
    from .outcome import Made

PROBLEMS = 6
"""Problems that are kept built."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is worth on an instance; the fields are those of `RunRecord`."""

    status: RunStatus
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    terms: dict[str, float] = {}
    violations: list[ViolationRecord] = []


def verdict_of(
    problem: Problem, plan: Plan, bound: float | None, *, who: str
) -> Verdict:
    """Judge a plan.

    Parameters
    ----------
    problem, plan
        Of one instance.
    bound
        What a solver proved for this very problem; None takes the trivial bound.
    who
        For messages.

    Raises
    ------
    SolverError
        If the bound is above the objective of a feasible plan: it is none.
    """
    judged = score(problem, plan)
    bound = trivial_bound(problem) if bound is None else bound
    proved: float | None = bound if math.isfinite(bound) else None
    if proved is not None and judged.feasible:
        proved = clip_bound(judged.objective, proved, who=who)
    status: RunStatus = "violating"
    gap = None
    if judged.feasible:
        gap = relative_gap(judged.objective, proved)
        status = "optimal" if is_closed(judged.objective, proved) else "feasible"
    return Verdict(
        status=status,
        objective=judged.objective if math.isfinite(judged.objective) else None,
        bound=proved,
        gap=gap,
        terms={
            name: value for name, value in judged.terms.items() if math.isfinite(value)
        },
        violations=[
            ViolationRecord(row=one.row, where=one.where, amount=one.amount)
            for one in judged.violations
        ],
    )


class Judge:
    """Judges plans that lie in the folder of a comparison.

    Parameters
    ----------
    folder
        Holds the instances.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._problems: OrderedDict[str, Problem] = OrderedDict()

    def problem(self, digest: str) -> Problem:
        """Return the problem of an instance; the last few are kept."""
        if digest not in self._problems:
            instance = read_instance(self.folder.instance(digest))
            self._problems[digest] = build_problem(instance)
            while len(self._problems) > PROBLEMS:
                self._problems.popitem(last=False)
        self._problems.move_to_end(digest)
        return self._problems[digest]

    def record(self, run: Run, made: Made, key: str, judged: Subject) -> RunRecord:
        """Judge what a solve came to on one instance.

        Parameters
        ----------
        run, made
            What was run and what came of it; the plan, if any, is in the folder.
        key
            Of the record.
        judged
            The instance; if it is not the one planned on, the copies are kept and the
            shares follow the default rule.
        """
        planned = run.trial.planned
        other = judged.digest != planned.digest
        name: str | None = None
        trained: TrainedRecord | None = None
        verdict: Verdict | None = None
        if made.has_plan:
            try:
                verdict, name = self._own(run, made)
                if other:
                    trained = TrainedRecord(
                        objective=verdict.objective,
                        bound=verdict.bound,
                        gap=verdict.gap,
                    )
                    verdict, name = self._frozen(run, key, judged)
            except MeldoptError as exc:  # a plan that nobody can read, a false bound
                made = made.crashed(" ".join(str(exc).split()))
                verdict, trained, name = None, None, None
        if verdict is None:
            verdict = _without_plan(made, other=other)
        problem = self.problem(judged.digest)
        return RunRecord(
            key=key,
            solve=run.solve,
            instance=judged.name,
            instance_digest=judged.digest,
            family=judged.family,
            dataflow=problem.dataflow,
            layers=problem.num_layers,
            experts=problem.num_experts,
            servers=problem.num_servers,
            demands=problem.num_demands,
            formats=problem.num_formats,
            solver=run.method.solver,
            kind=run.method.kind,
            label=run.method.label,
            options=dict(run.method.options),
            seed=run.seed,
            threads=made.threads,
            time_limit_s=run.limit.time_limit_s,
            work=run.limit.work,
            train=planned.name if other else None,
            train_digest=planned.digest if other else None,
            shares="default" if other else "own",
            status=verdict.status,
            stop_reason=made.stop_reason,
            error=made.error,
            objective=verdict.objective,
            bound=verdict.bound,
            gap=verdict.gap,
            terms=verdict.terms,
            violations=verdict.violations,
            ignored=made.ignored,
            trained=trained,
            history=made.history,
            runtime_s=made.runtime_s,
            cpu_s=made.cpu_s,
            memory_bytes=made.memory_bytes,
            replay={},
            plan=name,
            plan_digest=None if name is None else self._digest(name),
            versions=made.versions,
            machine=made.machine,
            finished=made.finished,
        )

    def _own(self, run: Run, made: Made) -> tuple[Verdict, str]:
        """Judge a plan where it was made."""
        planned = run.trial.planned
        problem = self.problem(planned.digest)
        name = self.folder.plan_name(run.solve)
        plan = read_plan(self.folder.path / name, problem)
        who = f"solver {run.method.solver!r} on {planned.name!r}"
        return verdict_of(problem, plan, made.bound, who=who), name

    def _frozen(self, run: Run, key: str, judged: Subject) -> tuple[Verdict, str]:
        """Judge the copies of a plan on another instance."""
        planned = self.problem(run.trial.planned.digest)
        plan = read_plan(self.folder.path / self.folder.plan_name(run.solve), planned)
        problem = self.problem(judged.digest)
        frozen = freeze(plan, planned, problem)
        name = self.folder.plan_name(key)
        write_plan(frozen, self.folder.path / name, problem=problem)
        return verdict_of(problem, frozen, None, who=judged.name), name

    def rerouted(
        self, record: RunRecord, key: str, document: bytes | None, arrays: bytes | None
    ) -> RunRecord:
        """Judge a frozen plan with the best shares for its copies.

        Parameters
        ----------
        record
            Of the same plan with the shares of the default rule.
        key
            Of the new record.
        document, arrays
            Files of the plan; None if no shares keep every row: what the default rule
            makes of it then stands.
        """
        again = msgspec.structs.replace(record, key=key, shares="best", replay={})
        if document is None:
            return again
        name = self.folder.keep_plan(key, document, arrays)
        problem = self.problem(record.instance_digest)
        plan = read_plan(self.folder.path / name, problem)
        verdict = verdict_of(problem, plan, None, who=record.instance)
        return msgspec.structs.replace(
            again,
            **msgspec.structs.asdict(verdict),
            plan=name,
            plan_digest=self._digest(name),
        )

    def _digest(self, name: str) -> str:
        return file_digest(self.folder.path / name)


def _without_plan(made: Made, *, other: bool) -> Verdict:
    """Return the verdict on a solve that has no plan."""
    if made.failure is not None:
        return Verdict(status=made.failure)
    if other:  # what was proved of one instance is not proved of another
        return Verdict(status="unknown")
    status: RunStatus = "infeasible" if made.status == "infeasible" else "unknown"
    return Verdict(status=status, bound=made.bound)

"""Large-neighbourhood search with its sub-problems on the workers of a Dask cluster.

As many neighbourhoods as workers have threads are drawn from one plan, no expert in
two of them, and solved side by side. What comes back is put in one after the other, in
the order of drawing: each was solved as if the others stayed, so those that no longer
fit beside what was put in before are skipped. A sub-problem that Dask gives up is
solved here.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meldopt.tolerance import FEASIBILITY, FLOOR
from meldopt_solvers.relaxation.cluster import KEPT, check_version, kept

from .lns_search import WORTH, Lns, LnsParams
from .screen import Screen
from .submodel import ADDITIVE, Loads, Part, limits_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt_solvers.relaxation.cluster import Cluster

    from .neighbourhoods import Kind


class Job(NamedTuple):
    """What a worker needs beside the problem to solve a sub-problem."""

    key: str  # of the problem
    version: str
    compiled: bool
    params: LnsParams
    how: str
    part: Part  # without what the worker has
    copies: NDArray[np.int64]  # of the whole plan
    prices: NDArray[np.float64]
    hints: NDArray[np.bool_] | None  # of the experts that are free
    seconds: float | None
    step: int


class Answer(NamedTuple):
    """What a sub-problem came to."""

    found: Plan | None
    work: float
    solved: bool
    prices: NDArray[np.float64]
    hints: NDArray[np.bool_]


class ClusterLns(Lns):
    """A search whose sub-problems go to the cluster of its Lagrangian."""

    applied = 0
    """Sub-problems of workers that were put in."""

    skipped = 0
    """Those that were better, but no longer fitted."""

    def run(self) -> None:
        """Step, many neighbourhoods at a time, until the criterion is met."""
        cluster = self.lagrangian.cluster
        while not self.spent():
            threads = cluster.threads() if cluster is not None else 0
            if cluster is None or threads < 1:
                super().run()
                return
            self.round(cluster, threads)
        self.judge()

    def round(self, cluster: Cluster, count: int) -> None:
        """Solve up to so many neighbourhoods from one plan, and put in what fits."""
        drawn = self.draw(count)
        limit = self.seconds()
        base = self.prices
        jobs = [self.job(cluster, kind, experts, limit) for kind, experts in drawn]
        answers = cluster.run(solve_job, jobs)
        moved = np.zeros_like(base)
        for (kind, experts), answer in zip(drawn, answers, strict=True):
            if answer is None:
                gain, work, solved = self.step(kind, experts)
            else:
                gain, work, solved = self.put(experts, answer)
                moved += answer.prices - base
                if self.hinted:
                    self.hints[experts] = answer.hints
            self.chooser.learn(kind, gain, work, solved=solved)
        self.prices = self.lagrangian.valid(self.prices + moved)
        tables = self.lagrangian.price_tables(self.prices)
        self.screen = Screen(self.tables, tables)

    def draw(self, count: int) -> list[tuple[Kind, NDArray[np.int64]]]:
        """Draw neighbourhoods that have no expert in common."""
        taken = np.zeros(0, dtype=np.int64)
        drawn: list[tuple[Kind, NDArray[np.int64]]] = []
        for _ in range(count):
            kind = self.chooser.pick(self.rng)
            size = max(round(kind.size), 1)
            experts = self.near.draw(kind.name, size, self.plan.copies, self.rng)
            # Sets closed under similarity, less such sets, are closed.
            experts = np.setdiff1d(experts, taken)
            if len(experts):
                drawn.append((kind, experts))
                taken = np.union1d(taken, experts)
        return drawn

    def job(
        self,
        cluster: Cluster,
        kind: Kind,
        experts: NDArray[np.int64],
        seconds: float | None,
    ) -> Job:
        """Write a sub-problem down for a worker."""
        self.steps += 1
        part: Any = Part(self.searched, self.plan, self.loads, experts)
        part.whole = part.plan = None  # large, and known there or not needed
        uniform = bool(self.problem.uniform_groups)
        return Job(
            key=cluster.key,
            version=cluster.version,
            compiled=cluster.compiled,
            params=self.params,
            how=kind.how,
            part=part,
            copies=self.plan.copies if uniform else self.plan.copies[:0],
            prices=self.prices,
            hints=self.hints[experts] if self.hinted else None,
            seconds=seconds,
            step=self.steps,
        )

    def put(
        self, experts: NDArray[np.int64], answer: Answer
    ) -> tuple[float, float, bool]:
        """Put an answer in if it is better and fits; return gain, work and solved."""
        self.best.work += answer.work
        if answer.found is None:
            return 0.0, answer.work, answer.solved
        part = Part(self.searched, self.plan, self.loads, experts)
        plan, loads = part.replaced(answer.found)
        gain = self.loads.objective - loads.objective
        if gain <= WORTH * abs(self.loads.objective):
            return gain, answer.work, answer.solved
        if not fits(self.searched, loads, self.loads):
            self.skipped += 1
            return 0.0, answer.work, answer.solved
        self.applied += 1
        self.plan, self.loads = plan, loads
        self.unjudged += 1
        size = self.problem.num_demands * self.problem.num_experts
        if size <= self.params.judge or self.unjudged >= 5:
            self.judge()
        return gain, answer.work, answer.solved


def fits(problem: Problem, loads: Loads, now: Loads) -> bool:
    """Ask whether no row is exceeded by more than is forgiven, or than it is now."""
    limits = limits_of(problem)
    for name in ADDITIVE:
        forgiven = np.maximum(FLOOR, FEASIBILITY * np.abs(limits[name]))
        high = np.maximum(limits[name], now.rows[name])
        if (loads.rows[name] > high + forgiven).any():
            return False
    lower = np.array([row.lower or 0 for row in problem.count_rows], dtype=np.float64)
    upper = np.array(
        [np.inf if row.upper is None else row.upper for row in problem.count_rows]
    )
    return bool(
        (loads.count >= np.minimum(lower, now.count)).all()
        and (loads.count <= np.maximum(upper, now.count)).all()
    )


# -- on a worker -----------------------------------------------------------------------


class _Hand(Lns):
    """A search that only solves the sub-problems that it is given."""

    limit: float | None = None

    def take(self, plan: Plan) -> None:
        self.plan = plan

    def over(self) -> bool:
        return False

    def seconds(self) -> float | None:
        return self.limit


class _Hands(threading.local):
    """Those of a thread: a Lagrangian keeps what it computed last."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[str, bool], _Hand] = OrderedDict()


_HANDS = _Hands()


def _hand(problem: Problem, job: Job) -> _Hand:
    name = (job.key, job.hints is not None)
    found = _HANDS.kept
    if name not in found:
        lagrangian = copy.copy(kept(problem, job.key, compiled=job.compiled))
        best: Any = SimpleNamespace(plan=SimpleNamespace(copies=job.copies), work=0.0)
        hints = None
        if job.hints is not None:
            hints = np.full((problem.num_experts, 1), -1, dtype=np.int64)
        found[name] = _Hand(
            lagrangian.problem,
            job.params,
            best,
            np.random.default_rng(0),
            spent=lambda: False,
            lagrangian=lagrangian,
            prices=job.prices,
            hints=hints,
        )
        while len(found) > KEPT:
            found.popitem(last=False)
    found.move_to_end(name)
    return found[name]


def solve_job(problem: Problem, job: Job) -> Answer:
    """Solve one sub-problem."""
    check_version(job.version)
    hand, part = _hand(problem, job), job.part
    plan: Any = SimpleNamespace(copies=job.copies)
    part.whole, hand.plan = hand.searched, plan
    hand.params, hand.limit, hand.steps = job.params, job.seconds, job.step
    hand.prices = job.prices
    hand.screen = Screen(hand.tables, hand.lagrangian.price_tables(job.prices))
    hand.hints[:] = False
    if job.hints is not None:
        hand.hints[part.experts] = job.hints
    found: Plan | None
    if job.how == "patterns":
        found, work, solved = hand.by_patterns(part)
    elif job.how == "shares":
        found, work = hand.by_shares(part, part.current)
        solved = found is not None
    else:
        found, work, solved = hand.by_copies(part)
    return Answer(found, work, solved, hand.prices, hand.hints[part.experts])

"""Placement, then bits, then budgets: what deciding jointly is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.plan import Plan
from meldopt.solver import SolverInfo

from .bits import choose_formats
from .descent import descend, mend
from .frame import Run, SearchSolver
from .kernels import EXTRA
from .roam import RoamSearch
from .state import HomeState
from .terms import CAPABILITIES, TERMS_SEARCHED, lp_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .incumbent import Incumbent


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialParams:
    """Parameters of `SequentialSolver`.

    Attributes
    ----------
    passes
        Passes of price descent that place the experts.
    copies
        Whether there may be more copies than rows ask for.
    lp_shares
        Columns up to which an LP finds the best shares for the copies.
    """

    passes: int = 12
    copies: bool = True
    lp_shares: int = 40_000


def placement_problem(problem: Problem, format_: int) -> Problem:
    """Return the problem of the first stage: one format, nothing dropped or fused.

    Quality belongs to the second stage: its budgets are left out. Pinned copies keep
    their formats; count and uniform rows that speak of formats belong to the second
    stage, too, but those that hold for all formats stay.
    """
    allowed = np.zeros_like(problem.allowed)
    allowed[:, format_] = problem.allowed[:, format_]
    for _, v, b in problem.pinned.tolist():
        allowed[v, b] = problem.allowed[v, b]
    # A place that cannot run the format takes its own smallest one for now.
    for v in np.flatnonzero(~allowed.any(axis=1)).tolist():
        runs = np.flatnonzero(problem.allowed[v])
        if len(runs):
            size = problem.size_bytes[:, runs].sum(axis=0)
            allowed[v, runs[int(np.argmin(size))]] = True
    every = problem.num_formats
    return problem.replace(
        allowed=allowed,
        prune_width=np.zeros_like(problem.prune_width),
        fuse_width=np.zeros_like(problem.fuse_width),
        similar=problem.similar[:0],
        similar_loss=problem.similar_loss[:, :0],
        quality_budget=np.full_like(problem.quality_budget, np.inf),
        count_rows=tuple(
            row for row in problem.count_rows if len(row.formats) == every
        ),
        uniform_groups=(),
    )


class SequentialSolver(SearchSolver[SequentialParams]):
    """Place experts in one format, then choose formats, then shares and budgets.

    Each stage takes what the one before it decided as given. All uniform formats are
    tried, the largest first, and the best plan is kept. If the stages leave a row
    broken, no later one mends it: the status then says ``violating``. A unit of
    deterministic work is 1e9 evaluations of an option by a demand.
    """

    info: ClassVar[SolverInfo] = SolverInfo(
        name="sequential",
        kind="search",
        summary="placement, then bits, then budgets: one after the other",
        capabilities=CAPABILITIES,
        terms=TERMS_SEARCHED,
        params=SequentialParams,
        packages=("numba",),
    )

    def search(self, run: Run) -> bool:
        """Run the stages from each format."""
        problem, best = run.problem, run.best
        if problem.dataflow == "roam" and problem.max_copies != 1:
            run.ignored = ("copies",)
        size = problem.size_bytes.sum(axis=0)
        for b in np.argsort(-size, kind="stable").tolist():
            if best.spent():
                return False
            if not problem.allowed[:, b].any():
                continue
            if problem.dataflow == "roam":
                self.stages_roam(problem, b, best, run.rng)
            else:
                self.stages(problem, b, best, run.rng)
        return True

    def stages(
        self, problem: Problem, b: int, best: Incumbent, rng: np.random.Generator
    ) -> None:
        """Run the three stages from one uniform format."""
        copies = self.place(placement_problem(problem, b), best, rng)
        if copies is None:
            return
        chosen = choose_formats(problem, copies)
        if chosen is None:
            return
        state = HomeState(problem)
        state.set_copies(chosen)
        if lp_size(state) <= self.params.lp_shares and np.isfinite(
            best.offer_shares(state.copies())
        ):
            return
        for _ in range(30):
            state.settle(state.order(rng))
            load = state.excess()[0]
            if load <= 0.0:
                break
            state.raise_margins()
            state.update_prices()
            if best.step(state.work):
                break
        best.work += state.work
        best.offer(state.plan())

    def place(
        self, problem: Problem, best: Incumbent, rng: np.random.Generator
    ) -> NDArray[np.int64] | None:
        """Place the experts in one format; None if they do not fit."""
        state = HomeState(problem)
        state.s.knob[EXTRA] = 1.0 if self.params.copies else 0.0

        def spent() -> bool:
            return best.step(state.work)

        descend(state, rng, passes=self.params.passes, spent=spent)
        mend(state, rng, rounds=6, spent=spent)
        best.work += state.work
        _, memory, _ = state.excess()
        return state.copies() if memory <= 1e-6 else None

    def stages_roam(
        self, problem: Problem, b: int, best: Incumbent, rng: np.random.Generator
    ) -> None:
        """Place by annealing in one format, then choose formats."""
        search = RoamSearch(placement_problem(problem, b))
        search.set_prices(float(np.abs(search.tables.worth).mean()) or 1.0)
        search.build(rng)
        search.set_prices(search.objective())
        search.build(rng)
        search.cycle(rng, moves=max(40 * problem.num_experts, 2000))
        best.work += 1e-6 * 40 * problem.num_experts
        best.step()
        found = (
            search.s.best if np.isfinite(search.s.best_value[0]) else search.s.option
        )
        chosen = choose_formats(problem, search.copies(found))
        if chosen is not None:
            best.offer(Plan.of(problem, chosen))

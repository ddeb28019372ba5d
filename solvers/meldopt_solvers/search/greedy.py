"""Greedy construction: the cheapest covering, then changes by gain per byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.solver import SolverInfo

from .descent import choose_format, descend, mend, prepare_formats
from .frame import Run, SearchSolver
from .kernels import EXTRA, STEEP, WORTH
from .roam import solve_roam
from .state import HomeState
from .terms import CAPABILITIES, TERMS_SEARCHED

if TYPE_CHECKING:
    from meldopt.problem import Problem

    from .incumbent import Incumbent

COVER_WORTH = 0.01
"""What calls count for beside memory while the covering is built."""

COVER_STEEP = 5.0
"""Steepness while the covering is built: places fill up evenly."""

LARGE = 5_000_000
"""Options x demands x experts from which upgrades have two rounds, not three."""

LEVELS = 8
"""Levels of gain per byte."""

FALL = 0.3
"""A level is this part of the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyParams:
    """Parameters of `GreedySolver`.

    Attributes
    ----------
    copies
        Whether there may be more copies of an expert than rows and routes ask for.
    formats
        Whether formats may be raised.
    mend
        Passes of price descent that may follow if the construction breaks a row.
    lp_shares
        Columns up to which an LP finds the best shares for the copies.
    """

    copies: bool = True
    formats: bool = True
    mend: int = 12
    lp_shares: int = 40_000


def cover(state: HomeState, rng: np.random.Generator) -> None:
    """Give each expert the copies that rows ask for, as small as can be."""
    s = state.s
    prepare_formats(state)
    s.knob[WORTH], s.knob[EXTRA], s.knob[STEEP] = COVER_WORTH, 0.0, COVER_STEEP
    s.memory_scale[:] = 20.0 * state.value / max(float(state.tables.room.sum()), 1.0)
    # Large experts first, as in bin packing; equal ones in random order.
    size = state.problem.size_bytes.min(axis=1)
    order = np.lexsort((rng.permutation(len(size)), -size)).astype(np.int64)
    state.sweep(order, every=1)
    for _ in range(6):
        _, memory, wrong = state.excess()
        if memory <= 1e-6 and not wrong:
            break
        state.update_prices()
        state.sweep(state.order(rng), every=1)
    s.knob[WORTH], s.knob[EXTRA], s.knob[STEEP] = 1.0, 1.0, state.steepest


def settle_prices(state: HomeState, rng: np.random.Generator, rounds: int) -> None:
    """Let the prices of links, processors and budgets find their level."""
    for number in range(rounds):
        part = (number + 1) / rounds
        state.s.knob[STEEP] = COVER_STEEP * (state.steepest / COVER_STEEP) ** part
        state.settle(state.order(rng), 16)
        state.update_prices(most=1.0, memory=False)
    state.s.knob[STEEP] = state.steepest


def upgrade_all(state: HomeState, rng: np.random.Generator) -> None:
    """Add copies, raise formats and move by gain per byte, while they fit in memory.

    Level by level, from the largest gain per byte down: at each level every expert that
    reaches it is served, with prices that follow. A change that turns out to gain
    nothing is taken back.
    """
    known = np.full(state.problem.num_experts, np.inf)
    order = state.order(rng)
    # Nobody gains that much: this only finds what everybody would gain.
    state.upgrade_level(order, known, 1e300)
    top = float(np.quantile(known, 0.999))
    if top <= 0.0:
        return
    level = top
    worth = level
    for _ in range(LEVELS):
        done = state.upgrade_level(state.order(rng), known, level)
        if done > 0.01 * len(known):
            worth = level
        level *= FALL
    # What the last bytes were worth is what a byte costs from now on.
    state.s.memory_scale[:] = worth


def construct(
    state: HomeState,
    rng: np.random.Generator,
    *,
    copies: bool = True,
    formats: bool = True,
) -> None:
    """Build copies: cover, price, upgrade, and settle the shares."""
    s = state.s
    cover(state, rng)
    settle_prices(state, rng, 3)
    for _ in range(3 if state.size <= LARGE else 2):
        s.knob[EXTRA] = 1.0 if copies else 0.0
        if copies or formats:
            upgrade_all(state, rng)
        for group in range(len(s.group_format)):
            choose_format(state, group, rng)
        settle_prices(state, rng, 6)
    s.knob[EXTRA] = 1.0


class GreedySolver(SearchSolver[GreedyParams]):
    """Cheapest covering, then the change that gains most per byte, until none fits.

    Prices of links, processors and budgets tell what a change gains. If the plan built
    so breaks a row, a short price descent mends it. A unit of deterministic work is 1e9
    evaluations of an option by a demand.
    """

    info: ClassVar[SolverInfo] = SolverInfo(
        name="greedy",
        kind="search",
        summary="constructive, by marginal gain per byte",
        capabilities=CAPABILITIES,
        terms=TERMS_SEARCHED,
        params=GreedyParams,
        packages=("numba",),
    )

    def search(self, run: Run) -> bool:
        """Construct a plan."""
        if run.problem.dataflow == "roam":
            run.ignored = solve_roam(
                run.problem, run.best, run.rng, start=run.start, anneal=False
            )
        else:
            self.build(run.problem, run.best, run.rng)
        return True

    def build(
        self, problem: Problem, best: Incumbent, rng: np.random.Generator
    ) -> None:
        """Construct a plan and offer it; mend it if it breaks a row."""
        params = self.params
        state = HomeState(problem)

        def spent() -> bool:
            return best.step(state.work)

        construct(state, rng, copies=params.copies, formats=params.formats)
        best.offer_state(state, lp_shares=params.lp_shares)
        for _ in range(2):
            if np.isfinite(best.objective) or spent():
                return
            if mend(state, rng, rounds=6, spent=spent):
                best.offer_state(state, lp_shares=params.lp_shares)
            if np.isfinite(best.objective) or not params.mend:
                return
            descend(state, rng, passes=params.mend, spent=spent)
            mend(state, rng, rounds=12, spent=spent)
            best.offer_state(state, lp_shares=params.lp_shares)
        if best.plan is None:
            best.offer(state.plan())

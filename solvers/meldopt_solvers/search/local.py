"""Local search: price descent, then ruin and recreate with adaptive prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.solver import SolverInfo

from .copies import walk
from .descent import choose_format, descend, mend
from .frame import Run, SearchSolver
from .greedy import LARGE, construct
from .roam import solve_roam
from .state import HomeState
from .terms import CAPABILITIES, TERMS_SEARCHED, lp_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem

    from .incumbent import Incumbent

MOST_MOVED = 200
"""Experts of one move at most."""

WALK = 60
"""Moves of single copies in a row, on small problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalParams:
    """Parameters of `LocalSolver`.

    Attributes
    ----------
    passes
        Soft passes of price descent at the start.
    ruin
        Largest part of all experts that one move takes out.
    lp_shares
        Columns up to which an LP finds the best shares for copies worth it.
    lp_moves
        Columns up to which moves of single copies are tried with such LPs.
    """

    passes: int = 16
    ruin: float = 0.1
    lp_shares: int = 40_000
    lp_moves: int = 1000


class HomeSearch:
    """One run of local search on a problem with the `home` dataflow."""

    def __init__(
        self,
        problem: Problem,
        params: LocalParams,
        best: Incumbent,
        rng: np.random.Generator,
        state: HomeState | None = None,
    ) -> None:
        self.problem, self.params, self.best, self.rng = problem, params, best, rng
        self.state = HomeState(problem) if state is None else state

    def spent(self) -> bool:
        """Count one iteration, report, and ask the criterion."""
        return self.best.step(self.state.work)

    def over(self) -> bool:
        """Ask the criterion without counting."""
        return self.best.spent(self.state.work)

    def submit(self) -> None:
        """Offer the plan of the state."""
        self.best.offer_state(self.state, lp_shares=self.params.lp_shares)

    def start(self, plan: Plan | None) -> bool:
        """Take over a plan, or descend from nothing; say whether to go on."""
        state = self.state
        if plan is not None:
            state.set_copies(plan.copies)
            for _ in range(10):
                state.settle(state.order(self.rng))
                state.update_prices()
                if self.spent():
                    return False
        else:
            passes = self.params.passes
            if state.size <= LARGE:
                construct(state, self.rng)
                mend(state, self.rng, rounds=4, spent=self.spent)
                self.submit()
                state.reset_prices()
            else:
                passes = max(passes * 5 // 8, 1)
            descend(state, self.rng, passes=passes, spent=self.spent)
            if self.over():
                self.submit()
                return False
        mend(state, self.rng, rounds=12, spent=self.spent)
        self.submit()
        return not self.over()

    def pick(self) -> NDArray[np.int64]:
        """Pick experts that move together."""
        problem, rng, state = self.problem, self.rng, self.state
        num = problem.num_experts
        most = max(2, min(num, int(self.params.ruin * num), MOST_MOVED))
        count = int(rng.integers(1, most + 1)) if num > 1 else 1
        kind = int(rng.integers(0, 4))
        if kind == 0:
            chosen = rng.choice(num, size=min(count, num), replace=False)
        elif kind == 1:
            layer = state.layers[int(rng.integers(0, len(state.layers)))]
            chosen = rng.permutation(layer)[:count]
        else:
            # Experts of two places: what leaves one makes room in the other.
            i, k = np.nonzero(
                np.arange(state.s.option.shape[1]) < state.s.copies[:, None]
            )
            places = state.tables.place[state.s.option[i, k]]
            over = state.s.used - state.tables.room
            first = int(np.argmax(over)) if kind == 2 else int(rng.integers(len(over)))
            second = int(rng.integers(len(over)))
            near = np.unique(i[(places == first) | (places == second)])
            if not len(near):
                near = np.arange(num)
            chosen = rng.permutation(near)[:count]
        return state.closure(chosen.astype(np.int64))

    def improve(self) -> None:
        """Reheat, walk and move until the criterion is met."""
        state = self.state
        moves = int(np.clip(8000 / len(state.s.copies), 20, 200))
        while True:
            descend(
                state,
                self.rng,
                passes=max(self.params.passes // 2, 1),
                spent=self.spent,
                flat=float(self.rng.uniform(0.15, 0.6)) * state.steepest,
            )
            if self.over():
                return
            mend(state, self.rng, rounds=6, spent=self.over)
            self.submit()
            if lp_size(state) <= self.params.lp_moves and walk(
                self.problem,
                self.best,
                self.rng,
                moves=WALK,
                spent=self.spent,
                start=state.copies(),
            ):
                return
            if self.spent() or self.move(moves):
                return
            mend(state, self.rng, rounds=4, spent=self.over)
            self.submit()
            state.recount()
            state.lower_margins()

    def move(self, moves: int) -> bool:
        """Ruin and recreate some experts at a time; say whether to end.

        Recreation is best response at prices that are shaken a little; a move stays if
        the potential falls.
        """
        state, rng, s = self.state, self.rng, self.state.s
        groups = len(s.group_format)
        value = state.potential()
        for number in range(moves):
            if groups and number % 10 == 9:
                choose_format(state, int(rng.integers(groups)), rng)
                value = state.potential()
            chosen = self.pick()
            kept = state.keep(chosen)
            order = rng.permutation(chosen)
            memory, scale = s.memory_scale.copy(), s.scale.copy()
            s.memory_scale[:] *= np.exp(0.3 * rng.standard_normal(len(memory)))
            if number % 2:
                s.scale[:] *= np.exp(0.2 * rng.standard_normal(len(scale)))
            state.clear(order)
            state.sweep(order)
            s.memory_scale[:], s.scale[:] = memory, scale
            state.sweep(order)
            new = state.potential()
            if new < value - 1e-12 * abs(value):
                value = new
                self.submit()
            else:
                state.put_back(kept)
            if number % 40 == 39:
                state.settle(state.order(rng))
                state.update_prices(0.25, 0.5)
                self.submit()
                value = state.potential()
            if self.spent():
                return True
        return False


class LocalSolver(SearchSolver[LocalParams]):
    """Price descent, then ruin and recreate with prices that adapt.

    A unit of deterministic work is about a second of one core: in `home` 1e9
    evaluations of an option by a demand, in `roam` the moves of `RoamWalk`.
    """

    info: ClassVar[SolverInfo] = SolverInfo(
        name="local",
        kind="search",
        summary="price descent, then local search with incremental scoring",
        capabilities=CAPABILITIES,
        terms=TERMS_SEARCHED,
        params=LocalParams,
        packages=("numba",),
    )

    def search(self, run: Run) -> bool:
        """Descend, then move until the criterion is met."""
        problem, best = run.problem, run.best
        if problem.dataflow == "roam":
            run.ignored = solve_roam(problem, best, run.rng, start=run.start)
            return False
        search = HomeSearch(problem, self.params, best, run.rng)
        if search.start(run.start):
            search.improve()
        if best.plan is None:
            best.offer(search.state.plan())
        return False

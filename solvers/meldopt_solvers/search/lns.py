"""The solver `lns`: a first plan, sub-problems, at last the sampled tokens."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

from meldopt.solver import SolverInfo
from meldopt.stop import iteration_limit, runtime_limit, work_limit
from meldopt_solvers.relaxation.cluster import join
from meldopt_solvers.relaxation.pricing import Lagrangian
from meldopt_solvers.relaxation.primal import state_prices

from .feasible import UntilFeasible, find_plan
from .frame import Run, SearchSolver
from .lns_search import Lns, LnsParams
from .local import HomeSearch, LocalParams
from .roam import solve_roam
from .sampled import improve_sampled, is_sampled
from .submodel import surrogate
from .terms import CAPABILITIES, TERMS_SEARCHED

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .incumbent import Incumbent

SURROGATE_SHARE = 0.3
"""Of what is left of a run, where its objective looks at sampled tokens: that part goes
to sub-problems, which know `serial` only; the rest to the sampled tokens."""

SURROGATE_STEPS = 100
"""Such sub-problems where nothing limits the run."""


def improve(
    problem: Problem,
    best: Incumbent,
    *,
    rng: np.random.Generator,
    spent: Callable[[], bool],
    lagrangian: Lagrangian,
    prices: NDArray[np.float64],
    hints: NDArray[np.int64] | None = None,
    left: Callable[[], float] | None = None,
    params: LnsParams | None = None,
) -> str | None:
    """Improve the plan of an incumbent until the criterion is met.

    Where the objective looks at sampled tokens the last step is `improve_sampled`.

    Parameters
    ----------
    problem
        With the `home` dataflow.
    best
        Without a feasible plan one is sought first (`find_plan`).
    rng
        Decides which experts are free.
    spent
        Asked after each sub-problem whether to end.
    lagrangian, prices
        Prices of rows, `Point.prices`.
    hints
        Options that the relaxation chose, `Point.option`.
    left
        Seconds that are left; None: no clock decides anything.
    params
        The usual ones when None.

    Returns
    -------
    str or None
        Who made the plan better last: ``lns``, ``sampled``, or nobody.
    """
    if not find_plan(problem, best, rng, left=left):
        return None
    params = LnsParams() if params is None else params
    search = Lns
    if lagrangian.cluster is not None:
        from .lns_cluster import ClusterLns as search
    sampled = is_sampled(problem)
    before = best.objective
    search(
        problem,
        params,
        best,
        rng,
        spent=_Share(best, spent) if sampled else spent,
        lagrangian=lagrangian,
        prices=prices,
        hints=hints,
        left=left,
    ).run()
    found = "lns" if best.objective < before else None
    if sampled and not best.spent():
        better = improve_sampled(problem, best, rng=rng, spent=spent)
        found = "sampled" if better else found
    return found


class _Share:
    """Ends a search when it had its share of what was left of the run."""

    def __init__(self, best: Incumbent, spent: Callable[[], bool]) -> None:
        self.best, self.spent = best, spent
        gone = best.part()
        self.until = (
            None if gone is None else gone + SURROGATE_SHARE * max(1.0 - gone, 0.0)
        )
        self.steps = 0

    def __call__(self) -> bool:
        self.steps += 1
        if self.spent():
            return True
        if self.until is None:
            return self.steps > SURROGATE_STEPS
        return (self.best.part() or 0.0) >= self.until


class _Start(HomeSearch):
    """A first plan whose passes are no iterations: those are sub-problems."""

    def spent(self) -> bool:
        return self.over()


class LnsSolver(SearchSolver[LnsParams]):
    """Large-neighbourhood search whose sub-problems HiGHS solves.

    A unit of deterministic work is about a second of one core.
    """

    info: ClassVar[SolverInfo] = SolverInfo(
        name="lns",
        kind="search",
        summary="large-neighbourhood search with exact sub-problems",
        capabilities=CAPABILITIES,
        terms=TERMS_SEARCHED,
        params=LnsParams,
        packages=("highspy", "numba"),
    )

    def search(self, run: Run) -> bool:
        """Find a plan, then solve sub-problems until the criterion is met."""
        if run.problem.dataflow == "roam":
            run.ignored = solve_roam(run.problem, run.best, run.rng, start=run.start)
            return False
        self._home(run)
        return not run.best.spent()

    def _home(self, run: Run) -> None:
        problem, best, rng = run.problem, run.best, run.rng
        seconds = runtime_limit(run.stop)
        fixed = (
            iteration_limit(run.stop) is not None or work_limit(run.stop) is not None
        )
        left = None
        if seconds is not None and not fixed:

            def left() -> float:
                return seconds - (perf_counter() - run.started)

        # With the first plan that keeps all rows, prices would not know the rows yet.
        search = _Start(problem, LocalParams(), best, rng)
        search.start(best.plan if math.isfinite(best.objective) else None)
        if not find_plan(problem, best, rng, left=left) and not best.spent():
            UntilFeasible(problem, LocalParams(), best, rng, search.state).improve()
        if best.plan is None:
            best.offer(search.state.plan())
        best.work += search.state.work
        if best.spent():
            return
        lagrangian = Lagrangian(surrogate(problem))
        prices = state_prices(search.state, lagrangian)
        if self.params.cluster is not None:
            lagrangian.cluster = join(self.params.cluster, lagrangian)
        try:
            run.found_by = improve(
                problem,
                best,
                rng=rng,
                spent=best.step,
                lagrangian=lagrangian,
                prices=prices,
                left=left,
                params=self.params,
            )
        finally:
            lagrangian.leave()

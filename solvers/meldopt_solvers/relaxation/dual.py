"""`dual`: a proven bound and a plan from prices of the rows, at any size."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.bounds import trivial_bound
from meldopt.solver import (
    AnyOf,
    MaxIterations,
    SolverInfo,
    StopReason,
    finish,
    runtime_limit,
    work_limit,
)
from meldopt.stop import iteration_limit
from meldopt_solvers.search.descent import descend, mend
from meldopt_solvers.search.feasible import find_plan
from meldopt_solvers.search.greedy import construct
from meldopt_solvers.search.incumbent import Incumbent
from meldopt_solvers.search.lns import improve
from meldopt_solvers.search.roam_lns import improve_roam
from meldopt_solvers.search.state import HomeState
from meldopt_solvers.search.submodel import surrogate
from meldopt_solvers.search.terms import CAPABILITIES, TERMS_SEARCHED

from .bundle import Master, draw_sample, maximise, members
from .cluster import join
from .pricing import Lagrangian, Point
from .primal import settle_point, state_prices
from .roam import roam_bound
from .sampled import SampledWeights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion

    from .bundle import Sample

SEARCH_SHARE = 0.4
"""Part of a run in `roam` that searches; the rest bounds."""

ROAM_ROUNDS = 400
"""Iterations of that search, at most."""

FEW = 20_000
"""Sets of copies looked at for a block, at most, on the way to the last proof."""

LONG = 100_000_000
"""Options x demands x experts from which the first prices are those of a sample."""

SAMPLE, SAMPLED = 16, 3000
"""One of so many blocks is in the sample; a smaller part where that is more blocks."""

SAMPLE_PASSES = 2
"""Times the passes of price descent on it: prices settle later there."""

ROUNDS = 30
"""Times that all options are priced, at most."""

ROUGH = 10
"""Times that some options are priced between, at most."""

BOX = 0.2
"""First half side of the box then, relative to each price."""

RADIUS, NARROW = 0.3, 1e-4
"""How far prices may go, relative to each, before all options are priced again."""

WEIGHINGS = 200
"""Times that what sampled tokens wait for is weighed anew, at most."""

WEIGHED_ROUNDS = 2
"""Evaluations with the same weights, at most."""

COMPILED = 64
"""Experts from which pricing with sampled calls is compiled, however small it is."""

FIRST_TOLERANCE = 3e-4
"""Gain, relative to the bound, at which the first prices are good enough."""

FIRST_ROUNDS = 12
"""Evaluations with the first weights, at most."""

STEEPS = (0.1, 0.25, 0.6)
"""Steepness of prices in the attempts at a plan, in turn."""

FAR = 0.01
"""Gap above which a plan is built from nothing as well."""

FEWEST, MOST = 2, 24
"""Attempts at a plan, each from another draw of the mix of choices."""

ATTEMPTS_WORK, ATTEMPTS_SHARE = 1.0, 0.3
"""Work on attempts beyond the fewest, and as a part of the work on the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DualParams:
    """Parameters of `DualSolver`.

    Attributes
    ----------
    threads
        Layers priced side by side; all cores when None.
    passes
        Of the price descent that gives first prices and a first plan.
    sample
        Blocks from which a sample of them comes first.
    tolerance
        Promised gain, relative to the bound, at which prices are good enough.
    share
        Part of the time, or of the work, after which prices are good enough too.
    lp_shares
        Columns up to which an LP finds the best shares of a plan.
    improve
        Whether large-neighbourhood search, guided by the prices, goes on until the
        criterion is met.
    cluster
        Address of a Dask scheduler whose workers price; none: this machine does.
    """

    threads: int | None = None
    passes: int = 12
    sample: int = 2000
    tolerance: float = 2e-5
    share: float = 0.6
    lp_shares: int = 60_000
    improve: bool = False
    cluster: str | None = None


class Budget:
    """How much of a run is over: by its limit of work, or by the clock."""

    def __init__(self, stop: StopCriterion, started: float) -> None:
        self.started = started
        self.work, self.seconds = work_limit(stop), runtime_limit(stop)
        self.iterations = iteration_limit(stop)
        # Where work or iterations end a run the clock decides nothing.
        self.fixed = self.work is not None or self.iterations is not None

    def part(self, work: float) -> float:
        """Return the part that is over, 0 if nothing limits the run."""
        if self.work is not None:
            return work / self.work if self.work > 0 else 1.0
        if self.fixed or self.seconds is None or not self.seconds > 0:
            return 0.0
        return (perf_counter() - self.started) / self.seconds

    @property
    def left(self) -> Callable[[], float] | None:
        """Seconds that are left, as a function; None if the clock decides nothing."""
        seconds = self.seconds
        if self.fixed or seconds is None:
            return None
        return lambda: seconds - (perf_counter() - self.started)


class Bounding:
    """Prices, and the best bound that they proved.

    Parameters
    ----------
    problem, params
        Of the run.
    best
        Where the bound is told.
    budget
        Of the run.
    """

    def __init__(
        self, problem: Problem, params: DualParams, best: Incumbent, budget: Budget
    ) -> None:
        sampled = problem.weight_of("parallel") or problem.weight_of("fluid")
        # Their clients make pricing several times dearer: compile it sooner.
        dear = bool(sampled) and problem.num_experts >= COMPILED
        self.lagrangian = Lagrangian(
            problem, threads=params.threads, compile_=True if dear else None
        )
        if params.cluster is not None:
            self.lagrangian.cluster = join(params.cluster, self.lagrangian)
        self.params, self.best, self.budget = params, best, budget
        self.weights: SampledWeights | None = None
        if sampled:
            self.weights = SampledWeights(problem)
            self.lagrangian.count_sampled(self.weights)
        self.impossible = False
        self.dearest = self.lagrangian.dearest()
        self.part = 1.0
        self.point: Point | None = None
        self.master: Master | None = None  # of the point, where its choices can mix
        self.near: NDArray[np.bool_] | None = None  # options that it might use
        self.evaluations = 0.0

    @property
    def work(self) -> float:
        """Deterministic work, in units of about a second."""
        return self.evaluations * self.lagrangian.size * 3e-8

    def sampled(self, _: Point) -> bool:
        """Ask whether to end, in a sample: nothing is proved."""
        self.evaluations += self.part
        return self._over()

    def proved(self, point: Point) -> bool:
        """Note a bound and ask whether to end."""
        self.evaluations += 1.0
        if self.point is None:
            self.point = point
        # Some block has no choice at all, or the rows leave no mix of choices.
        if point.value == math.inf or point.value > self.dearest:
            self.impossible = not math.isfinite(self.best.objective)
            return True
        if math.isfinite(point.value):
            known = self.best.bound
            low = point.value
            self.best.bound = low if known is None else max(low, known)
        return self._over()

    def _over(self) -> bool:
        return self.best.step(self.work) or (
            self.budget.part(self.work) >= self.params.share
        )

    def run(self, prices: NDArray[np.float64], rng: np.random.Generator) -> None:
        """Raise the bound from some prices."""
        lagrangian, params = self.lagrangian, self.params
        self.part = 1.0
        sample = None
        if len(lagrangian.blocks.only) >= params.sample:
            sample = self.draw()
            self.part = float(np.mean(~sample.skip))
        first = maximise(
            lagrangian,
            prices,
            tolerance=max(FIRST_TOLERANCE, params.tolerance),
            spent=self.proved if sample is None else self.sampled,
            sample=sample,
            box=0.5,
            rounds=60 if self.weights is None else FIRST_ROUNDS,
            scale=self._scale(),
            nodes=FEW,
        )
        if self.weights is None:
            self._raise(first.prices)
        else:
            self._weigh_calls(first.prices, self.weights, rng)

    def draw(self) -> Sample:
        """Return the sample of the blocks."""
        part = max(SAMPLE, len(self.lagrangian.blocks.only) // SAMPLED)
        return draw_sample(self.lagrangian, part)

    def choice(self, rng: np.random.Generator) -> Point | None:
        """Return the best point with choices drawn from the mix of the last master."""
        if self.point is None or self.master is None or not self.master.weight.any():
            return self.point
        return dataclasses.replace(self.point, option=self.master.mixture(rng))

    def _cost(self, point: Point) -> float:
        """Return what the choices of a point come to in the Lagrangian."""
        rows = self.lagrangian.num_rows
        return float(point.parts.sum() - self.lagrangian.back @ point.prices[:rows])

    def _scale(self) -> float:
        """Return what the best plan comes to, 0 if there is none."""
        return abs(self.best.objective) if math.isfinite(self.best.objective) else 0.0

    def _raise(self, prices: NDArray[np.float64]) -> None:
        """Raise the bound with all blocks; their options come to be known as we go.

        Prices are raised where experts choose among options that they used, or nearly
        used, before: that is cheap, and its cuts hold for all options. Then all options
        are priced, which proves a bound and finds more, until nothing is missing.
        """
        lagrangian = self.lagrangian
        tolerance = self.params.tolerance
        self.part = 1.0
        centre = lagrangian.at(prices, nodes=FEW)
        over = self.proved(centre)
        master = Master(lagrangian)
        master.add(centre)
        near = centre.near.copy()
        radius = RADIUS
        for _ in range(ROUNDS):
            if over or not np.isfinite(centre.value) or radius < NARROW:
                break
            self.part = max(float(near.mean() / lagrangian.tables.usable.mean()), 0.05)
            lagrangian.focus(near)
            rough = maximise(
                lagrangian,
                centre.prices,
                tolerance=0.5 * tolerance,
                spent=self.sampled,
                box=min(BOX, radius),
                master=master,
                rough=True,
                rounds=ROUGH,
                radius=radius,
                known=centre,
                scale=self._scale(),
                nodes=FEW,
            )
            lagrangian.focus(None)
            enough = tolerance * abs(centre.value)
            hoped = self._cost(rough) - self._cost(centre)
            if hoped <= enough:
                if self._over() or master.promised - self._cost(centre) <= enough:
                    break
                radius *= 0.25
                continue
            self.part = 1.0
            point = lagrangian.at(rough.prices, nodes=FEW)
            over = self.proved(point)
            master.add(point)
            near |= point.near
            found = self._cost(point) - self._cost(centre)
            if found > 0.5 * hoped:
                radius = min(2.0 * radius, 1.0)
            elif found < 0.25 * hoped:
                radius *= 0.5
            if point.value > centre.value:
                centre = point
        short = self._cost(centre) - centre.value  # of blocks given up too early
        if not over and short > tolerance * abs(centre.value):
            self.proved(lagrangian.at(centre.prices))
        self.point, self.master = centre, master
        self.near = near

    def _weigh_calls(
        self,
        prices: NDArray[np.float64],
        weights: SampledWeights,
        rng: np.random.Generator,
    ) -> None:
        """Weigh what sampled tokens wait for anew, again and again, at new prices."""
        lagrangian = self.lagrangian
        t = lagrangian.tables
        self.part, self.master = 1.0, None  # its cuts would be of other weights
        for _ in range(WEIGHINGS):
            point = maximise(
                lagrangian,
                prices,
                tolerance=self.params.tolerance,
                spent=self.proved,
                rounds=WEIGHED_ROUNDS,
                box=0.1,
                rng=rng,
                scale=self._scale(),
            )
            self.point, prices = point, point.prices
            if not np.isfinite(point.value) or self._over():
                return
            weights.pull(point, t.place, t.format)
            lagrangian.count_sampled(weights)


class _Part:
    """A stop criterion: so much of a budget is over."""

    def __init__(self, budget: Budget, share: float) -> None:
        self.budget, self.share = budget, share

    def start(self) -> _Part:
        return self

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        return self.budget.part(work) >= self.share


class DualSolver:
    """Rows at a price, one small problem for each expert, and a plan from the prices.

    A unit of deterministic work is about a second of one core.
    """

    info: ClassVar[SolverInfo] = SolverInfo(
        name="dual",
        kind="relaxation",
        summary="Lagrangian bound with exact pricing, and a plan from the prices",
        capabilities=CAPABILITIES | {"bound"},
        terms=TERMS_SEARCHED,
        params=DualParams,
        packages=("highspy", "numba"),
    )

    def __init__(self, params: DualParams | None = None) -> None:
        self.params = DualParams() if params is None else params

    def solve(
        self,
        problem: Problem,
        /,
        *,
        stop: StopCriterion,
        seed: int,
        start: Plan | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Solve a problem; see `meldopt.solver.Solver`."""
        started = perf_counter()
        best = Incumbent(
            problem, stop=stop, started=started, on_progress=on_progress, start=start
        )
        best.bound = trivial_bound(problem)
        reason = StopReason.FINISHED
        ignored: tuple[str, ...] = ()
        found_by = "dual"
        impossible = False
        try:
            rng = np.random.default_rng(seed)
            budget = Budget(stop, started)
            if best.spent():
                pass
            elif problem.dataflow == "roam":
                ignored = solve_roam(problem, best, rng, budget, start)
            else:
                run = DualRun(problem, self.params, best, rng, budget)
                try:
                    run.solve()
                finally:
                    run.bounding.lagrangian.leave()
                found_by = run.found_by
                impossible = run.bounding.impossible
            if best.spent():
                reason = StopReason.CRITERION
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        return finish(
            problem,
            self.info,
            plan=best.plan,
            bound=None if impossible else best.bound,
            proved_infeasible=impossible,
            stop_reason=reason,
            seed=seed,
            started=started,
            params=dataclasses.asdict(self.params) | {"found_by": found_by},
            history=best.log.history,
            ignored=ignored,
        )


class DualRun:
    """First prices, the bound, and plans from the best prices."""

    def __init__(
        self,
        problem: Problem,
        params: DualParams,
        best: Incumbent,
        rng: np.random.Generator,
        budget: Budget,
    ) -> None:
        self.problem, self.params, self.best, self.rng = problem, params, best, rng
        self.state = HomeState(problem)
        self.budget = budget
        self.bounding = Bounding(problem, params, best, budget)
        self.found_by = "dual"

    def spent(self) -> bool:
        """Ask the criterion."""
        return self.best.step(self.state.work + self.bounding.work)

    def solve(self) -> None:
        """Run to the end, or until the criterion is met."""
        prices = self.first_prices()
        if not self.best.spent():
            self.bounding.run(prices, self.rng)
        point = self.attempt()
        if point is None:
            return
        if not math.isfinite(self.best.objective):
            find_plan(self.problem, self.best, self.rng, left=self.budget.left)
        if self.params.improve:
            self.build()
            self.best.work += self.state.work + self.bounding.work
            found = improve(
                self.problem,
                self.best,
                rng=self.rng,
                spent=self.best.step,
                lagrangian=self._searched(),
                prices=point.prices,
                hints=point.option,
                left=self.budget.left,
            )
            self.found_by = found or self.found_by

    def first_prices(self) -> NDArray[np.float64]:
        """Descend to first prices, and to a plan; with a sample where that is long.

        Prices swing round the best ones, so they are those of the last passes on
        average.
        """
        state, lagrangian, params = self.state, self.bounding.lagrangian, self.params
        seen: list[NDArray[np.float64]] = []

        def spent() -> bool:
            seen.append(state_prices(state, lagrangian))
            return self.spent()

        if self.is_long():
            taken = members(lagrangian, self.bounding.draw())
            passes = SAMPLE_PASSES * params.passes
            with state.part(float(taken.mean())):
                descend(state, self.rng, passes=passes, spent=spent, experts=taken)
        else:
            descend(state, self.rng, passes=params.passes, spent=spent)
            mend(state, self.rng, rounds=4, spent=self.spent)
            self.submit()
        if not seen:  # no pass was asked for
            return state_prices(state, lagrangian)
        prices: NDArray[np.float64] = np.mean(seen[-len(seen) // 3 :], axis=0)
        return prices

    def is_long(self) -> bool:
        """Say whether a sample of the experts has to do at first.

        Rows that count whole copies, and groups of one format, have no share of a part.
        """
        lagrangian = self.bounding.lagrangian
        counted = len(lagrangian.least_rows) + len(lagrangian.most_rows)
        return (
            lagrangian.size >= LONG
            and len(lagrangian.blocks.only) >= self.params.sample
            and not counted
            and not len(self.state.s.group_format)
        )

    def build(self) -> None:
        """Build a plan from nothing too, where those of the prices are far off."""
        best, problem = self.best, self.problem
        low = -math.inf if best.bound is None else best.bound
        if best.objective - low <= FAR * abs(best.objective) or best.spent():
            return
        before, state = best.objective, HomeState(problem)
        construct(state, self.rng)
        best.offer_state(state, lp_shares=self.params.lp_shares)
        best.work += state.work
        if best.objective < before:
            self.found_by = "greedy"

    def attempt(self) -> Point | None:
        """Make plans from draws of the mix; return the last, None if time is over."""
        bounding, state = self.bounding, self.state
        begun = state.work
        point: Point | None = None
        state.focus(bounding.near)  # it serves nothing else from here on
        for number in range(MOST):
            if bounding.impossible or self.best.spent():
                return None
            over = state.work - begun > ATTEMPTS_WORK + ATTEMPTS_SHARE * bounding.work
            if number >= FEWEST and over:
                break
            point = bounding.choice(self.rng)
            if point is None:
                return None
            settle_point(
                state,
                bounding.lagrangian,
                point,
                self.rng,
                steep=STEEPS[number % len(STEEPS)],
                spent=self.spent,
            )
            self.submit()
        return point

    def _searched(self) -> Lagrangian:
        """Return the Lagrangian of the terms that a search goes by."""
        problem, params = self.problem, self.params
        if not (problem.weight_of("parallel") or problem.weight_of("fluid")):
            return self.bounding.lagrangian
        return Lagrangian(surrogate(problem), threads=params.threads)

    def submit(self) -> None:
        """Offer the plan of the state."""
        self.best.offer_state(self.state, lp_shares=self.params.lp_shares)


def solve_roam(
    problem: Problem,
    best: Incumbent,
    rng: np.random.Generator,
    budget: Budget,
    start: Plan | None,
) -> tuple[str, ...]:
    """Search in `roam`, and bound with what the search found; return what is left out.

    With several copies of an expert only the trivial bound holds.
    """
    bounded = problem.max_copies == 1
    part = _Part(budget, SEARCH_SHARE if bounded else 1.0)
    rounds = budget.iterations or (ROAM_ROUNDS if bounded else None)
    search = Incumbent(
        problem,
        stop=AnyOf(part, MaxIterations(rounds)) if rounds else part,
        started=budget.started,
        on_progress=None,
        start=start,
    )
    improve_roam(problem, search, rng, start=start)
    if search.plan is not None:
        best.offer(search.plan)
    best.work += search.work
    if not bounded or best.spent():
        return () if bounded else ("bound with several copies in roam",)

    def over(bound: float, work: float, /) -> bool:
        best.bound = bound if best.bound is None else max(bound, best.bound)
        return best.step(work)

    upper = best.objective if math.isfinite(best.objective) else None
    found = roam_bound(problem, over=over, upper=upper)
    best.bound = max(found.bound, best.bound or -math.inf)
    if found.plan is not None:
        best.offer(found.plan)
    return ()

"""Large-neighbourhood search: some experts are free, the rest stays, HiGHS decides.

References
----------
.. [1] Shaw, P. (1998). Using constraint programming and local search methods to solve
   vehicle routing problems. *CP 1998*, LNCS 1520.
.. [2] Pisinger, D., & Ropke, S. (2019). Large neighborhood search. In *Handbook of
   Metaheuristics*. https://doi.org/10.1007/978-3-319-91086-4_4
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.engines.highs import solve_highs
from meldopt.formulations.milp import build_milp
from meldopt.tolerance import OPTIMALITY

from .choice import Pool
from .kernels import NONE
from .neighbourhoods import Chooser, Kind, Neighbourhoods
from .patterns import Patterns
from .screen import Screen, option_sets
from .submodel import Part, measure, surrogate
from .tables import uniform_group_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from meldopt.engines.outcome import Outcome
    from meldopt.formulations.linear import LinearModel
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt_solvers.relaxation.pricing import Lagrangian

    from .incumbent import Incumbent

WORTH = 1e-9
"""Relative gain from which a plan counts as better."""

WORK = 2e-6
"""Deterministic work of a column of a sub-problem and node."""

ROOT = 20
"""Nodes that the root of a sub-problem counts for."""

STALL = 2e-5
"""Relative gain of a round of prices below which there is no further one."""

PER_ROUND = 4
"""Patterns of an expert that a round of prices makes."""

WHOLE = 4_000
"""Shares of a sub-problem up to which it may choose from all copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LnsParams:
    """Parameters of `LnsSolver`.

    Attributes
    ----------
    size
        Experts that the first sub-problems set free.
    options
        Copies of an expert that a sub-problem may choose from, beside present ones.
    patterns
        Of an expert, with which a sub-problem of patterns begins.
    rounds
        In which prices of such a sub-problem make more of them.
    lp_shares
        Columns up to which an LP finds the best shares of what patterns chose.
    seconds
        That a sub-problem may take, where the clock may decide.
    nodes
        That a sub-problem may take.
    gap
        Relative gap at which a sub-problem ends.
    judge
        Demands x experts from which not every better plan is judged at once.
    cluster
        Address of a Dask scheduler whose workers solve sub-problems; none: this
        machine does, one after the other.
    """

    size: int = 16
    options: int = 8
    patterns: int = 12
    rounds: int = 12
    lp_shares: int = 15_000
    seconds: float = 2.0
    nodes: int = 200
    gap: float = 1e-4
    judge: int = 50_000
    cluster: str | None = None


class Lns:
    """One run of large-neighbourhood search on a problem with the `home` dataflow.

    Parameters
    ----------
    problem, params
        Of the run.
    best
        Holds a feasible plan, and takes better ones.
    rng
        Decides what is free.
    spent
        Asked after each step, and while HiGHS runs, whether to end.
    lagrangian, prices
        Prices of rows, as the relaxation has them.
    hints
        Options of each expert that the relaxation chose, -1 beyond them; (N, C).
    left
        Seconds that are left, or None: then no clock decides anything.
    """

    def __init__(
        self,
        problem: Problem,
        params: LnsParams,
        best: Incumbent,
        rng: np.random.Generator,
        *,
        spent: Callable[[], bool],
        lagrangian: Lagrangian,
        prices: NDArray[np.float64],
        hints: NDArray[np.int64] | None = None,
        left: Callable[[], float] | None = None,
    ) -> None:
        assert best.plan is not None
        self.problem, self.params, self.best, self.rng = problem, params, best, rng
        self.spent, self.left = spent, left
        self.searched = surrogate(problem)
        self.tables = t = lagrangian.tables
        self.option_at = np.full(
            (problem.num_places, problem.num_formats), NONE, dtype=np.int64
        )
        self.option_at[t.place, t.format] = np.arange(len(t.place))
        self.uniform = uniform_group_of(problem)
        self.near = Neighbourhoods(self.searched, self.uniform)
        self.lagrangian, self.prices = lagrangian, lagrangian.valid(prices)
        self.screen = Screen(t, lagrangian.price_tables(self.prices))
        self.hinted = hints is not None
        nothing = np.full((problem.num_experts, 1), NONE, dtype=np.int64)
        self.hints = self.sets_of(nothing if hints is None else hints)
        self.patterns = Patterns(self.searched, t, self.option_at)
        names: tuple[str, ...] = Neighbourhoods.names + Neighbourhoods.priced
        if not self.hinted:
            names = tuple(name for name in names if name != "costly")
        kinds = [Kind(name, "copies", float(params.size)) for name in names]
        if not len(problem.similar):
            kinds = [
                Kind(name, "patterns", 8.0 * params.size) for name in names
            ] + kinds
        self.chooser = Chooser(kinds, least=2, most=problem.num_experts)
        self.take(best.plan)
        self.unjudged = 0
        self.steps = 0
        self.done = False  # everything was free, and solved

    def take(self, plan: Plan) -> None:
        """Go on from a plan that was judged."""
        self.plan, self.loads = plan, measure(self.searched, plan)
        self.safe = self.plan, self.loads
        self.survey()

    def survey(self) -> None:
        """Look for experts with much to gain, or with options that are as good."""
        everyone = np.arange(self.problem.num_experts)
        sets = option_sets(self.tables, self.option_at, self.plan.copies)
        margins = np.where(sets, np.inf, self.screen.margins(everyone, sets))
        least = margins.min(axis=1, initial=np.inf)
        high = np.max(least[np.isfinite(least)], initial=0.0)
        self.near.tied = np.abs(np.where(np.isfinite(least), least, 10 * high))
        if self.hinted:
            now = self.screen.values(everyone, sets)
            ideal = self.screen.values(everyone, self.hints)
            with np.errstate(invalid="ignore"):
                gain = np.nan_to_num(now - ideal, nan=0.0, posinf=0.0, neginf=0.0)
            self.near.costly = np.maximum(gain, 0.0)

    # -- steps -------------------------------------------------------------------------
    def run(self) -> None:
        """Step until the criterion is met or everything was free and solved."""
        while not self.done and not self.spent():
            kind = self.chooser.pick(self.rng)
            size = max(round(kind.size), 1)
            experts = self.near.draw(kind.name, size, self.plan.copies, self.rng)
            gain, work, solved = self.step(kind, experts)
            self.chooser.learn(kind, gain, work, solved=solved)
        self.judge()

    def step(self, kind: Kind, experts: NDArray[np.int64]) -> tuple[float, float, bool]:
        """Solve one sub-problem; return its gain, work and whether it was solved."""
        part = Part(self.searched, self.plan, self.loads, experts)
        self.steps += 1
        if kind.how == "patterns":
            found, work, solved = self.by_patterns(part)
        elif kind.how == "shares":
            found, work = self.by_shares(part, part.current)
            solved = found is not None
        else:
            found, work, solved = self.by_copies(part)
        if found is None:
            return 0.0, work, solved
        plan, loads = part.replaced(found)
        gain = self.loads.objective - loads.objective
        if gain > WORTH * abs(self.loads.objective):
            self.plan, self.loads = plan, loads
            self.unjudged += 1
            size = self.problem.num_demands * self.problem.num_experts
            if size <= self.params.judge or self.unjudged >= 5:
                self.judge()
        return gain, work, solved

    def ask(
        self,
        model: LinearModel,
        start: NDArray[np.float64],
        gap: float | None = None,
    ) -> tuple[Outcome, float]:
        """Solve a model as far as a step may; return the outcome and its work."""
        outcome = solve_highs(
            model,
            time_limit=self.seconds(),
            gap=self.params.gap if gap is None else gap,
            nodes=self.params.nodes,
            seed=self.steps,
            threads=1,
            start=start,
            on_incumbent=lambda *_: self.over(),
        )
        if outcome.interrupted and not self.over():
            raise KeyboardInterrupt
        work = WORK * model.num_columns * (ROOT + outcome.nodes)
        self.best.work += work
        return outcome, work

    def by_copies(self, part: Part) -> tuple[Plan | None, float, bool]:
        """Choose copies and shares of a part together."""
        candidates = self.candidates(part)
        form = build_milp(
            part.problem, candidates=candidates, by_layer=True, used=part.used()
        )
        everyone = len(part.experts) == self.problem.num_experts
        whole = everyone and len(candidates) == int(self.tables.usable.sum())
        gap = OPTIMALITY / 2 if whole else None
        outcome, work = self.ask(form.model, form.encode(part.current), gap)
        solved = outcome.status == "optimal"
        self.done = whole and solved
        if outcome.x is None:
            return None, work, solved
        return form.decode(outcome.x), work, solved

    def by_patterns(self, part: Part) -> tuple[Plan | None, float, bool]:
        """Choose a pattern for each expert of a part, then its shares.

        Patterns come from prices, and prices from the relaxed choice among patterns.
        """
        experts, made = part.experts, self.patterns
        num = len(experts)
        now, used = self.sets(part), part.used()
        pool = Pool(made, experts)
        present = made.of_plan(part.problem, experts, part.current)
        pool.add_answers(experts, now, present)
        self.enrich(pool, self.screen, experts, now, self.params.patterns)
        if self.hinted:
            hinted = self.one_format(experts, self.hints[experts], now)
            pool.add(self.screen, experts, hinted)
        member = np.zeros(self.problem.num_experts, dtype=np.bool_)
        member[experts] = True
        blocks = self.lagrangian.blocks
        skip = ~member[blocks.member[blocks.start[:-1]]]
        work = 0.0
        centre, last = self.prices, math.inf
        found = self.hints[experts]
        keep = np.ones(pool.size, dtype=np.bool_)
        for number in range(self.params.rounds + 1):
            model = pool.model(used)
            outcome = solve_highs(model, relax=True, threads=1)
            work += WORK * model.num_columns * ROOT
            if outcome.duals is None or outcome.objective is None or self.over():
                break
            low = model.true_objective(outcome.objective)
            keep = pool.worth(model, outcome.duals, outcome.objective)
            stalls = low > last - STALL * abs(last) and number > 2
            if stalls or number == self.params.rounds:
                break
            last = low
            prices = made.choice.prices(self.lagrangian, model, outcome.duals)
            centre = 0.5 * (prices + centre) if number < 2 else prices
            point = self.lagrangian.at(centre, skip=skip)
            screen = Screen(self.tables, self.lagrangian.price_tables(point.prices))
            found = self.sets_of(point.option[experts])
            found = self.one_format(experts, found, now)
            self.enrich(pool, screen, experts, found, PER_ROUND)
            keep = np.ones(pool.size, dtype=np.bool_)
            work += WORK * num * self.tables.place.size * ROOT
        self.settle_prices(experts, centre, found)
        model = pool.model(used, keep)
        start = np.full(model.num_columns, np.nan)
        start[: int(keep.sum())] = 0.0
        start[:num] = 1.0
        outcome, more = self.ask(model, start)
        self.best.work += work
        work += more
        solved = outcome.status == "optimal"
        if outcome.x is None:
            return None, work, solved
        chosen = np.flatnonzero(keep)[outcome.x[: int(keep.sum())] > 0.5]
        if (chosen < num).all():
            return None, work, solved
        plan = pool.plan(part.problem, chosen)
        better, more = self.by_shares(part, plan)
        return (plan if better is None else better), work + more, solved

    def settle_prices(
        self,
        experts: NDArray[np.int64],
        prices: NDArray[np.float64],
        found: NDArray[np.bool_],
    ) -> None:
        """Begin the next time with what prices came to, the more the more is free."""
        part = len(experts) / self.problem.num_experts
        self.prices = (1.0 - part) * self.prices + part * prices
        tables = self.lagrangian.price_tables(self.lagrangian.valid(self.prices))
        self.screen = Screen(self.tables, tables)
        if self.hinted:
            self.hints[experts] = found

    def enrich(
        self,
        pool: Pool,
        screen: Screen,
        experts: NDArray[np.int64],
        sets: NDArray[np.bool_],
        most: int,
    ) -> None:
        """Add sets near given ones that are cheap at some prices."""
        free = self.promising(experts, sets, screen)
        free &= self._formats(experts, whole=True)
        who, what = self.patterns.neighbours(screen, experts, sets, free, most)
        pool.add(screen, who, what)

    def one_format(
        self,
        experts: NDArray[np.int64],
        sets: NDArray[np.bool_],
        now: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Put present sets in place of those that uniform groups do not allow.

        The format of such a group is for sub-problems of copies to change.
        """
        wrong = np.any(sets & ~self._formats(experts, whole=True), axis=1)
        return np.where(wrong[:, None], now, sets)

    def sets_of(self, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Turn lists of options, -1 beyond them, into sets; (n, O)."""
        sets = np.zeros((len(option), len(self.tables.place)), dtype=np.bool_)
        i, k = np.nonzero(option != NONE)
        sets[i, option[i, k]] = True
        return sets

    def by_shares(self, part: Part, plan: Plan) -> tuple[Plan | None, float]:
        """Find the best shares for the copies of a plan of a part."""
        form = build_milp(
            part.problem, copies=plan.copies, by_layer=True, used=part.used()
        )
        if form.model.num_columns > self.params.lp_shares:
            return None, 0.0
        outcome = solve_highs(form.model, time_limit=self.seconds(), threads=1)
        if outcome.interrupted and not self.over():
            raise KeyboardInterrupt
        work = WORK * form.model.num_columns * ROOT
        self.best.work += work
        return (None if outcome.x is None else form.decode(outcome.x)), work

    def over(self) -> bool:
        """Ask the criterion without counting."""
        return self.best.spent()

    def seconds(self) -> float | None:
        """Return what a sub-problem may take."""
        if self.left is None:
            return None
        return max(min(self.params.seconds, self.left()), 0.01)

    def judge(self) -> None:
        """Let `score` judge the plan; go back to the last good one if it is not."""
        if not self.unjudged:
            return
        self.unjudged = 0
        judged = self.best.offer(self.plan)
        if judged.feasible:
            self.safe = self.plan, self.loads
        else:
            self.plan, self.loads = self.safe

    def sets(self, part: Part) -> NDArray[np.bool_]:
        """Return the options that experts of a part have now; (n, O)."""
        i, v, b = part.current.copies.T
        found = np.zeros((len(part.experts), len(self.tables.place)), dtype=np.bool_)
        found[i, self.option_at[v, b]] = True
        return found

    def promising(
        self,
        experts: NDArray[np.int64],
        sets: NDArray[np.bool_],
        screen: Screen,
    ) -> NDArray[np.bool_]:
        """Return the options that a sub-problem may choose from; (n, O)."""
        keep = sets | self.hints[experts]
        for row, o in self._pins(experts):
            keep[row, o] = True
        margin = screen.margins(experts, sets)
        most = min(self.params.options, margin.shape[1])
        cheap = np.argpartition(margin, most - 1, axis=1)[:, :most]
        rows = np.arange(len(experts))[:, None]
        keep[rows, cheap] |= np.isfinite(margin[rows, cheap])
        return keep & self.tables.usable[experts] & self._formats(experts)

    def candidates(self, part: Part) -> NDArray[np.int64]:
        """Return the copies that a sub-problem chooses from, sorted; (C, 3)."""
        t = self.tables
        experts = part.experts
        if len(experts) * len(t.place) * len(t.rate) <= WHOLE:
            free = self.sets(part) | self.tables.usable[experts]
            free &= self._formats(experts)
        else:
            free = self.promising(experts, self.sets(part), self.screen)
        i, o = np.nonzero(free)
        table = np.stack([i, t.place[o], t.format[o]], axis=1).astype(np.int64)
        found: NDArray[np.int64] = table[np.lexsort(table.T[::-1])]
        return found

    def _pins(self, experts: NDArray[np.int64]) -> list[tuple[int, int]]:
        t = self.tables
        return [
            (row, int(o))
            for row, i in enumerate(experts.tolist())
            for o in t.pin_option[t.pin_start[i] : t.pin_start[i + 1]]
        ]

    def _formats(
        self, experts: NDArray[np.int64], *, whole: bool = False
    ) -> NDArray[np.bool_]:
        """Return the options in a format that uniform groups leave free; (n, O).

        A group that is free as a whole may change its format, but not with ``whole``.
        """
        t = self.tables
        free = np.ones((len(experts), len(t.place)), dtype=np.bool_)
        inside = np.zeros(self.problem.num_experts, dtype=np.bool_)
        inside[experts] = True
        for group in self.problem.uniform_groups:
            free_now: NDArray[np.bool_] = inside[group.experts]
            if not free_now.any() or (free_now.all() and not whole):
                continue
            held = self.plan.copies[np.isin(self.plan.copies[:, 0], group.experts)]
            format_ = int(held[0, 2]) if len(held) else 0
            rows = np.flatnonzero(np.isin(experts, group.experts))
            free[rows] &= t.format == format_
        return free

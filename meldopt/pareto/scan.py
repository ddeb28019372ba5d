"""Trace a front: which runs are made, and what is kept of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.errors import InstanceError, UnsupportedFeatureError
from meldopt.gap import clip_bound, relative_gap
from meldopt.problem import TERMS
from meldopt.result import Status
from meldopt.score import score
from meldopt.solver import SolverInfo, load_solver, solve
from meldopt.tolerance import allowed

from .capped import NO_MODEL, Capped
from .certificate import Certificate, Line, Step
from .front import Front, Point

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.score import Score

MEMORY_SPAN = (0.5, 1.0)
"""Range of ``memory`` unless another is given."""

EXACT_COLUMNS = 20_000
"""Largest MILP that caps a term; weighted sums alone serve larger problems."""

TIE = 1e-3
"""Weight of the other term at the ends of the front, per range of either."""

CAPS = 3
"""Caps that are tried between two neighbours: at 1/2, 3/4 and 7/8 of the way up."""

NEAR = 1e-3
"""Part of the range of a term within which nothing is looked for between neighbours."""


@dataclass(frozen=True, slots=True)
class FrontProgress:
    """Told after each run: how many there were, and the points so far."""

    runs: int
    points: tuple[tuple[float, float], ...]
    what: str


def pareto(
    problem: Problem,
    terms: tuple[str, str],
    *,
    points: int = 9,
    solver: str = "auto",
    start: Plan | None = None,
    time_limit: float | None = None,
    work: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    span: tuple[float, float] | None = None,
    exact: bool | None = None,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[FrontProgress], None] | None = None,
) -> Front:
    """Trace the trade-off between two terms under all rows of a problem.

    Parameters
    ----------
    problem
        Its own weights are not used.
    terms
        Two of `meldopt.problem.TERMS` that the dataflow has, or one and ``memory``;
        both are minimised.
    points
        Largest number of points, 2 or more.
    solver, options, seed, threads
        Of the weighted runs, as `meldopt.solve` takes them.
    start
        A plan to start from.
    time_limit, work
        Of each run. With ``work`` alone the front does not depend on the machine; for
        the MILP it counts nodes.
    span
        Only this range of the second term; of ``memory`` `MEMORY_SPAN` if none.
    exact
        Cap the second term by a MILP between supported points; None: if the model
        has at most `EXACT_COLUMNS` columns.
    on_progress
        Called after each run.

    Returns
    -------
    Front
        Its points are feasible plans. Without a plan it has none, and says why.

    Raises
    ------
    InstanceError
        For terms that are unknown, the same, or not of this dataflow, or an empty span.
    UnsupportedFeatureError
        If the solver cannot minimise a term, or ``exact`` is asked for and there is no
        such MILP.
    """
    _check(problem, terms, points, solver, span)
    if exact and "parallel" in terms:
        raise UnsupportedFeatureError(NO_MODEL)
    scan = _Scan(problem, terms, points, span)
    scan.call = {
        "solver": solver,
        "time_limit": time_limit,
        "work": work,
        "seed": seed,
        "threads": threads,
        "options": options,
    }
    scan.exact = exact
    scan.on_progress = on_progress
    if start is not None:
        scan.keep(start, (1.0, 0.0), None)
    interrupted = False
    try:
        scan.go()
    except KeyboardInterrupt:
        interrupted = True
    return scan.front(interrupted=interrupted)


def _check(
    problem: Problem,
    terms: Sequence[str],
    points: int,
    solver: str,
    span: tuple[float, float] | None,
) -> None:
    has = [term for term in TERMS if problem.dataflow == "roam" or term != "pair"]
    if problem.dataflow == "roam":
        has = [term for term in has if term not in ("parallel", "fluid")]
    if len(terms) != 2 or terms[0] == terms[1]:
        raise InstanceError(
            f"terms: got {','.join(terms)}, expected two different ones"
        )
    terms = [term for n, term in enumerate(terms) if (n, term) != (1, "memory")]
    for term in terms:
        if term not in has:
            raise InstanceError(
                f"terms: got {term!r}, expected of {', '.join(has)} (dataflow "
                f"{problem.dataflow}), or 'memory' as the second"
            )
        if term in ("parallel", "fluid") and not len(problem.sample_demand):
            raise InstanceError(
                f"terms: got {term!r}, but the instance has no sampled tokens"
            )
    if points < 2:
        raise InstanceError(f"points: got {points}, expected 2 or more")
    if span is not None and not span[0] < span[1]:
        raise InstanceError(
            f"range: got {span[0]:g}:{span[1]:g}, expected the lower end first"
        )
    info: SolverInfo = load_solver(solver).info
    lacking = [term for term in terms if term not in info.terms]
    if lacking:
        raise UnsupportedFeatureError(
            f"solver {solver!r}: cannot minimise {lacking[0]!r}, "
            f"it can: {', '.join(info.terms) or 'no term'}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A feasible plan that some run found."""

    x: float
    y: float
    plan: Plan
    weights: tuple[float, float]
    cap: float | None = None


@dataclass(eq=False)
class _Scan:
    """One trace of a front: plans and proofs so far."""

    problem: Problem
    terms: tuple[str, str]
    wanted: int
    span: tuple[float, float] | None
    call: dict[str, Any] = field(default_factory=dict)
    exact: bool | None = None
    on_progress: Callable[[FrontProgress], None] | None = None
    found: list[_Found] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    runs: int = 0
    capped: Capped | None = None
    infeasible: bool = False

    # -- runs --------------------------------------------------------------------
    def weighted(self, first: float, second: float) -> None:
        """Minimise a weighted sum; keep the plan and the line."""
        weights = np.zeros(len(TERMS))
        for term, weight in zip(self.terms, (first, second), strict=True):
            weights[TERMS.index(term)] = weight
        start = min(
            self.found, key=lambda one: first * one.x + second * one.y, default=None
        )
        result = solve(
            self.problem.replace(weights=weights),
            start=None if start is None else start.plan,
            **self.call,
        )
        self.runs += 1
        if result.bound is not None:
            self.lines.append(Line(first=first, second=second, bound=result.bound))
        if result.feasible and result.plan is not None:
            self.keep(result.plan, (first, second), None)
        self.infeasible = result.status is Status.INFEASIBLE
        self.tell(f"{first:.3g} x {self.terms[0]} + {second:.3g} x {self.terms[1]}")
        if result.stop_reason == "interrupted":
            raise KeyboardInterrupt

    def cap(self, limit: float) -> None:
        """Minimise the first term with the second one capped; keep plan and step."""
        assert self.capped is not None
        inside = [one for one in self.found if one.y <= limit]
        start = min(inside, key=lambda one: one.x, default=None)
        plan, bound, stopped = self.capped.solve(
            limit, None if start is None else start.plan, self.call
        )
        self.runs += 1
        if bound is not None:
            self.steps.append(Step(cap=limit, bound=bound))
        if plan is not None:
            self.keep(plan, (1.0, 0.0), limit)
        self.tell(f"{self.terms[0]} with {self.terms[1]} at most {limit:.4g}")
        if stopped:
            raise KeyboardInterrupt

    def scaled(self) -> None:
        """Minimise the first term at several scales of all memory, from the least."""
        problem = self.problem
        weights = np.zeros(len(TERMS))
        weights[TERMS.index(self.terms[0])] = 1.0
        low, high = MEMORY_SPAN if self.span is None else self.span
        if not (low > 0 and math.isfinite(high)):
            raise InstanceError(
                f"range: got {low:g}:{high:g} of memory, expected two ends above 0"
            )
        self.span = (0.0, high)  # a plan may need less than it was given
        for scale in np.linspace(low, high, self.wanted).tolist():
            room = problem.room_bytes * scale
            changed = problem.replace(
                weights=weights, capacity_bytes=problem.reserve_bytes + room
            )
            inside = [one for one in self.found if one.y <= scale]
            start = min(inside, key=lambda one: one.x, default=None)
            result = solve(
                changed, start=None if start is None else start.plan, **self.call
            )
            self.runs += 1
            self.infeasible = result.status is Status.INFEASIBLE
            if self.infeasible:
                self.steps.append(Step(cap=scale, bound=math.inf))
            elif result.bound is not None:
                self.steps.append(Step(cap=scale, bound=result.bound))
            if result.feasible and result.plan is not None:
                self.keep(result.plan, (1.0, 0.0), scale)
            self.tell(f"{self.terms[0]} with {scale:.3g} of the memory")
            if result.stop_reason == "interrupted":
                raise KeyboardInterrupt

    def keep(self, plan: Plan, weights: tuple[float, float], cap: float | None) -> None:
        """Keep a plan if it is feasible; memory is no row where it is traded off."""
        judged = score(self.problem, plan)
        broken = {one.row for one in judged.violations}
        memory = self.terms[1] == "memory"
        if not broken or (memory and broken == {"memory"}):
            x = float(judged.terms[self.terms[0]])
            y = (
                _fullest(self.problem, plan)
                if memory
                else float(judged.terms[self.terms[1]])
            )
            plan = plan.with_record(_record(plan, judged))
            self.found.append(_Found(x, y, plan, weights, cap))

    def tell(self, what: str) -> None:
        if self.on_progress is not None:
            points = tuple((one.x, one.y) for one in self.best())
            self.on_progress(FrontProgress(self.runs, points, what))

    # -- the scan ----------------------------------------------------------------
    def go(self) -> None:
        """Find the ends, then split the widest part until there are enough points."""
        if self.terms[1] == "memory":
            self.scaled()
            return
        self.weighted(1.0, 0.0)
        if self.infeasible:
            return
        empty = not self.found
        self.weighted(0.0, 1.0)
        if empty and self.found:
            self.weighted(1.0, 0.0)
        if len(self.best()) < 2:
            return
        dx, dy = self.ranges()
        self.weighted(1.0, TIE * dx / dy)
        self.weighted(TIE * dy / dx, 1.0)
        if len(self.best()) < 2:  # one plan is the best in both
            return
        self.model()
        if self.span is not None and self.capped is not None:
            for end in self.span:
                if self.best()[-1].y < end < self.best()[0].y:
                    self.cap(end)
        tried: dict[tuple[float, float, float, float], int] = {}
        while len(self.chosen()) < self.wanted:
            best = self.best()
            tries = 1 if self.capped is None else CAPS + 1
            open_ = [
                (a, b)
                for a, b in pairwise(best)
                if tried.get(_chord(a, b), 0) < tries and self.room(a, b) > 0
            ]
            if not open_:
                return
            a, b = max(open_, key=lambda pair: self.room(*pair))
            chord = _chord(a, b)
            tries = tried.get(chord, 0)
            tried[chord] = tries + 1
            if tries == 0:
                self.weighted(1.0, (b.x - a.x) / (a.y - b.y))
            else:
                low, high = max(b.y, self.low), min(a.y, self.high)
                self.cap(high - (high - low) / 2**tries)

    def model(self) -> None:
        """Build the MILP with a cap, if it is wanted and there is one."""
        if self.exact is False:
            return
        dx, dy = self.ranges()
        try:
            self.capped = Capped(
                self.problem,
                self.terms,
                dx / dy,
                most=None if self.exact else EXACT_COLUMNS,
            )
        except UnsupportedFeatureError:
            if self.exact:
                raise

    @property
    def low(self) -> float:
        """Lower end of the second term."""
        return -math.inf if self.span is None else self.span[0]

    @property
    def high(self) -> float:
        """Upper end of the second term."""
        return math.inf if self.span is None else self.span[1]

    def ranges(self) -> tuple[float, float]:
        """Return how far the front reaches in each term."""
        best = self.best()
        return best[-1].x - best[0].x, best[0].y - best[-1].y

    def room(self, a: _Found, b: _Found) -> float:
        """Return the area between two neighbours where points may be, by ranges."""
        dx, dy = self.ranges()
        high, low = min(a.y, self.high), max(b.y, self.low)
        wide, tall = (b.x - a.x) / dx, (high - low) / dy
        return 0.0 if min(wide, tall) < NEAR else wide * tall

    def best(self) -> list[_Found]:
        """Return the plans that no other is as good as in both terms, by first.

        Of plans that are nearly the same one stands for all; the ends stay.
        """
        kept: list[_Found] = []
        for one in sorted(self.found, key=lambda one: (one.x, one.y)):
            if not kept or one.y < kept[-1].y - allowed(kept[-1].y):
                kept.append(one)
        if len(kept) < 3:
            return kept
        end = kept[-1]
        dx, dy = end.x - kept[0].x, kept[0].y - end.y
        thin = kept[:1]
        for one in kept[1:-1]:
            if all(
                max(abs(one.x - other.x) / dx, abs(one.y - other.y) / dy) >= NEAR
                for other in (thin[-1], end)
            ):
                thin.append(one)
        return [*thin, end]

    def chosen(self) -> list[_Found]:
        """Return those of the best plans that are in the range."""
        return [one for one in self.best() if self.low <= one.y <= self.high]

    def front(self, *, interrupted: bool) -> Front:
        """Return what was found.

        Raises
        ------
        SolverError
            If a plan lies below what a run of a solver proved.
        """
        who = f"pareto on {self.problem.name!r}"
        for one in self.found:
            for line in self.lines:
                worth = line.first * one.x + line.second * one.y
                clip_bound(worth, line.bound, who=who)
            for step in self.steps:
                if one.y <= step.cap - allowed(step.cap):
                    clip_bound(one.x, step.bound, who=who)
        certificate = Certificate(lines=tuple(self.lines), steps=tuple(self.steps))
        points = []
        for one in self.chosen():
            # Plans that are better by no more than tolerance count as no better.
            first = certificate.first_above(one.y - allowed(one.y))
            second = certificate.second_above(one.x - allowed(one.x))
            first, second = min(first, one.x), min(second, one.y)
            points.append(
                Point(
                    first=one.x,
                    second=one.y,
                    first_bound=first,
                    second_bound=second,
                    first_gap=relative_gap(one.x, first),
                    second_gap=relative_gap(one.y, second),
                    weights=one.weights,
                    cap=one.cap,
                    plan=one.plan,
                )
            )
        closed = points and all(
            0 in (p.first_gap, p.second_gap)
            or (p.first, p.second) == (p.first_bound, p.second_bound)
            for p in points
        )
        status = (
            Status.OPTIMAL
            if closed
            else Status.FEASIBLE
            if points
            else Status.INFEASIBLE
            if self.infeasible
            else Status.UNKNOWN
        )
        return Front(
            terms=self.terms,
            points=tuple(points),
            certificate=certificate,
            status=status,
            exact=self.capped is not None,
            runs=self.runs,
            interrupted=interrupted,
        )


def _fullest(problem: Problem, plan: Plan) -> float:
    """Return the largest part of a place's memory that a plan's copies take."""
    expert, place, format_ = plan.copies.T
    size = problem.size_bytes[expert, format_]
    taken = np.bincount(place, weights=size, minlength=problem.num_places)
    room = problem.room_bytes
    if (taken[room <= 0] > 0).any():
        return math.inf
    return float(np.max(taken[room > 0] / room[room > 0], initial=0.0))


def _chord(a: _Found, b: _Found) -> tuple[float, float, float, float]:
    return a.x, a.y, b.x, b.y


def _record(plan: Plan, judged: Score) -> dict[str, Any]:
    """Keep of a plan's record what is true without the weights of its run."""
    kept = {
        key: plan.record[key]
        for key in ("solver", "options", "seed", "versions", "budgets")
        if key in plan.record
    }
    return kept | {"terms": dict(judged.terms)}

"""A lower bound of problems in `roam`: products of locations, split among stars.

With one copy per expert the objective is a sum over experts and over pairs of experts.
The cost of each pair of labels is split between the stars of its two experts, and the
trios that both are part of; each of these takes its own minimum, and the sum of the
minima is a bound whatever the split is. Rows of copies are priced inside each star,
given the label of its expert (the products of the rows with each location: the first
level of reformulation-linearisation); rows of traversals and `bottleneck` have one
price for all. What improves the split is block ascent on softened minima, with a
temperature that falls. If a plan is known, pairs of labels that cannot be part of a
better one are struck out, and a tree over the labels of one expert after the other goes
on from there.

References
----------
Adams and Johnson (1994), Improved linear programming-based lower bounds for the
quadratic assignment problem. Pessoa, Hahn, Guignard and Zhu (2010), Algorithms for the
generalized quadratic assignment problem combining Lagrangean decomposition and the
reformulation-linearization technique, doi:10.1016/j.ejor.2010.02.006. Sontag, Meltzer,
Globerson, Jaakkola and Weiss (2008), Tightening LP relaxations for MAP using message
passing.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from meldopt.bounds import trivial_bound
from meldopt.plan import Plan
from meldopt.score import score
from meldopt_solvers.search.compiled import compiled, plain

from . import roam_kernels
from .roam_model import MAX_CELLS, MAX_TRIO_CELLS, NoOptionError, build_stars

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .roam_model import OuterRow, StarModel

SMALL = 500
"""Cells of tables up to which nothing is compiled."""

BLOCK = 10
"""Sweeps between two bounds."""

OUTER = 5
"""Sweeps between two moves of the prices outside the stars."""

INNER = 2
"""Sweeps between two moves of the prices inside the stars."""

HOT, COLD, COOLING = 0.8, 1e-5, 0.7
"""First and last temperature, in units of `StarAscent.unit`, and the factor."""

FLAT = 0.01
"""A temperature falls when a block gains less than this part of it x experts²."""

SETTLED = 0.0015
"""The root is done when blocks close less than this part of what is open, at the
end of the cooling."""

TREE_BYTES = 1 << 30
"""Memory for the open nodes of the tree."""

WORK = 1e-8
"""Deterministic work of one cell in one sweep."""


class Over(Protocol):
    """Asked between blocks of work whether to end."""

    def __call__(self, bound: float, work: float, /) -> bool:
        """Take the bound so far and the deterministic work done."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoamBound:
    """What the relaxation proves and suggests.

    Attributes
    ----------
    bound
        Of the objective of every feasible plan.
    prices
        Of the rows of traversals, by name, as `score` counts them (per second).
    expert, option, likely
        Every option and how likely the relaxation finds it; options number (place,
        format) as `RoamSearch` does, -1 stands for no copy.
    work
        Deterministic work done.
    nodes
        Of the tree; 1 if only its root was bounded.
    dropped
        What was left out of the relaxation.
    plan
        Better than the known one, if the tree came upon one.
    """

    bound: float
    prices: tuple[tuple[str, float], ...]
    expert: NDArray[np.int64]
    option: NDArray[np.int64]
    likely: NDArray[np.float64]
    work: float
    nodes: int
    dropped: tuple[str, ...]
    plan: Plan | None = None


class StarAscent:
    """The dual ascent on the stars of one problem.

    Parameters
    ----------
    model
        From `build_stars`; its state is changed.
    upper
        Objective of a known plan, or inf.
    compile_
        Whether the kernels are compiled.
    """

    def __init__(
        self, model: StarModel, *, upper: float = math.inf, compile_: bool = True
    ) -> None:
        self.model, self.upper = model, upper
        self.run = (compiled if compile_ else plain)(roam_kernels)
        self.t, self.s = self.run.pack(model.tables), self.run.pack(model.state)
        t, num = model.tables, model.problem.num_experts
        widest = int(np.diff(t.start).max(initial=1))
        trios = int(np.diff(t.trio_start).max(initial=0))
        self.room = np.zeros(2 * widest)
        self.buffer = np.zeros((trios + 1) * widest**2)
        self.scratch = (
            np.zeros((2, max(len(t.norm), 1))),
            np.zeros(len(model.option)),
            np.zeros(len(model.state.held)),
        )
        self.size = np.zeros(1)
        self.told = 0.0  # temperature of the priced loads within the tables
        self.price = np.zeros(len(model.outer))
        self.limit = np.array([row.limit for row in model.outer], dtype=np.float64)
        problem = model.problem
        self.bottleneck = problem.weight_of("bottleneck")
        shape = (problem.num_layers, problem.num_servers)
        self.cells = np.full(shape, 1.0 / problem.num_servers)
        self.inner = model.state.price.shape[1] > 0
        # The known objective over all meetings, and over those who share each.
        known = abs(upper) if math.isfinite(upper) and upper else model.spread
        self.unit = known / (num**2 * (2.0 + trios * t.part))
        self.sweep_work = WORK * (2 * len(model.state.one) + 4 * len(model.state.share))
        self.work = 0.0
        self.best = -math.inf
        self.kept: tuple[NDArray[np.float64], ...] = ()
        self.set_own()

    # -- prices outside the stars ----------------------------------------------------
    def set_own(self) -> None:
        """Put the prices outside the stars on options and traversals."""
        m = self.model
        s = m.state
        s.own[:] = m.linear
        s.cost[...] = m.base_cost
        for price, row in zip(self.price.tolist(), m.outer, strict=True):
            if not price:
                continue
            s.own[:] += price * row.own
            if row.crossing is not None:
                s.cost[_part(row)] += price * row.crossing
        if self.bottleneck:
            held = m.server >= 0
            at = self.cells[m.layer[held], m.server[held]]
            s.own[held] += self.bottleneck * at * m.work[held]

    def move_outer(self, tau: float) -> None:
        """Move the prices outside the stars by what the stars expect."""
        m = self.model
        t, s = m.tables, m.state
        if not (len(m.outer) or self.bottleneck):
            return
        self.run.gather(self.t, self.s, tau, self.size)
        self.run.expect(self.t, self.s, tau)
        like = s.like
        heaviest = max(float(t.there.max(initial=0.0)), float(t.back.max(initial=0.0)))
        for k, row in enumerate(m.outer):
            load = float(row.own @ like)
            spread = float((row.own**2) @ (like * (1 - like)))
            norm = float(np.abs(row.own).max(initial=0.0))
            if row.crossing is not None:
                part = _part(row)
                load += float((s.flow[part] * row.crossing).sum())
                spread += float((s.square[part] * row.crossing**2).sum())
                norm = max(norm, heaviest * float(row.crossing.max()))
            if norm > 0.0:
                most = tau / norm
                step = 0.5 * (load - row.limit) * tau / max(spread, 1e-300)
                self.price[k] = max(0.0, self.price[k] + min(max(step, -most), most))
        if self.bottleneck:
            work = np.zeros_like(self.cells)
            held = m.server >= 0
            at = (m.layer[held], m.server[held])
            np.add.at(work, at, (like * m.work)[held])
            top = work.max(axis=1, keepdims=True)
            self.cells *= np.exp(0.2 * (work - top) / np.where(top > 0, top, 1.0))
            self.cells /= self.cells.sum(axis=1, keepdims=True)
        old = s.cost.copy()
        self.set_own()
        if (s.cost != old).any():
            self.run.halve(self.t, self.s, old)
        self.run.gather(self.t, self.s, tau, self.size)

    # -- bounds ----------------------------------------------------------------------
    def value(self) -> float:
        """Bound of the present split."""
        total = self.run.gather(self.t, self.s, 0.0, self.size)
        total += self.run.trios(self.t, self.s, self.size)
        return float(total - self.price @ self.limit + self.model.constant)

    def keep(self) -> tuple[NDArray[np.float64], ...]:
        """Copy what decides a bound."""
        s = self.model.state
        return tuple(
            a.copy() for a in (s.one, s.share, s.price, self.price, self.cells)
        )

    def restore(self, kept: tuple[NDArray[np.float64], ...]) -> None:
        """Return to a copy, and compute everything else anew."""
        s = self.model.state
        one, share, s.price[...], self.price[:], self.cells[...] = kept
        s.one[:], s.share[:] = one, share
        self.cells /= self.cells.sum(axis=1, keepdims=True)
        self.set_own()
        self.run.split(self.t, self.s)
        self.told = 0.0

    def certified(self) -> float:
        """Bound of a split just restored, less what rounding may have added."""
        m, s = self.model, self.model.state
        value = self.value()
        if value == math.inf:
            return self.upper  # nothing is left: no plan is better than the known one
        num = m.problem.num_experts
        outer = float(np.abs(self.price) @ np.abs(self.limit))
        sums = num + len(m.tables.trio) + len(self.limit) + 100
        error = sums * (float(self.size[0]) + outer + abs(m.constant))
        largest = max(_largest(s.one), _largest(s.two), _largest(s.share))
        cell = float(np.diff(m.tables.trio_start).max(initial=0))
        error += num**2 * (cell + s.price.shape[1] + 10) * largest
        return float(min(value - 2.3e-16 * error, self.upper))

    # -- ascent ----------------------------------------------------------------------
    def block(self, tau: float, sweeps: int = BLOCK) -> float:
        """Sweep some times at a temperature; strike out, and return the bound."""
        run, t, s = self.run, self.t, self.s
        run.gather(t, s, tau, self.size)
        for n in range(sweeps):
            run.sweep(t, s, tau, n % 2 == 1, self.room, self.buffer)
            if self.inner and n % INNER == 0:
                run.reprice(t, s, self.told, tau, 1.0, *self.scratch)
                self.told = tau
            if n % OUTER == 0:
                self.move_outer(tau)
        self.work += sweeps * self.sweep_work
        value = self.value()
        if value < self.upper < math.inf:
            margin = self.upper + 1e-9 * abs(self.upper)
            run.prune(t, s, margin, value, self.room, self.buffer)
        return value

    def ascend(self, over: Over) -> float:
        """Sweep while the temperature falls; return it in the end."""
        tau = HOT * self.unit
        before = self.value()
        self.best, self.kept = before, self.keep()
        slow = 0
        floor = max(COLD * self.unit, 1e-12 * abs(before))
        while tau > floor and not over(self.best, self.work):
            value = self.block(tau)
            if value > self.best:
                self.best, self.kept = value, self.keep()
            if value >= self.upper:
                break
            open_ = self.upper - value
            slow = slow + 1 if value - before < SETTLED * open_ else 0
            if value - before < FLAT * tau * self.model.problem.num_experts**2:
                tau *= COOLING
            cool = tau < 1e-3 * HOT * self.unit
            if slow >= 15 and cool and math.isfinite(self.upper):
                break
            before = value
        return tau


def _part(row: OuterRow) -> tuple[int | slice, int | slice]:
    """Where a row counts traversals in (G, L, S, S)."""
    return (
        slice(None) if row.application is None else row.application,
        slice(None) if row.layer is None else row.layer,
    )


def _largest(table: NDArray[np.float64]) -> float:
    finite = np.isfinite(table)
    return float(np.abs(table[finite]).max(initial=0.0))


class StarTree:
    """Branch and bound over the labels of experts, best bound first.

    A node is a split of its own; only its label sets and that split are kept, and its
    bound is computed anew from them.
    """

    def __init__(self, ascent: StarAscent, tau: float) -> None:
        self.ascent, self.tau = ascent, tau
        self.nodes = 1
        self.plan: Plan | None = None
        self.count = itertools.count()
        self.heap: list[tuple[float, int, tuple[NDArray[np.float64], ...]]] = []

    def push(self, bound: float) -> None:
        """Keep the present split as an open node."""
        kept = self.ascent.keep()
        heapq.heappush(self.heap, (bound, next(self.count), kept))

    def bound(self) -> float:
        """Least bound of what is open."""
        upper = self.ascent.upper
        return min(self.heap[0][0], upper) if self.heap else upper

    def grow(self, over: Over) -> None:
        """Branch until asked to end, nothing is open, or memory is used up."""
        a = self.ascent
        bytes_ = sum(array.nbytes for array in a.keep())
        while self.heap and not over(self.bound(), a.work):
            if len(self.heap) * bytes_ > TREE_BYTES:
                return
            bound, number, kept = heapq.heappop(self.heap)
            a.restore(kept)
            chosen = self.choose(bound)
            if chosen is None and not self.settle():
                heapq.heappush(self.heap, (bound, number, kept))
                return
            if chosen is None:
                continue
            found = []
            for label in chosen:
                a.restore(kept)
                self.fix(label)
                value = self.descend(bound, over)
                self.nodes += 1
                if value < a.upper:
                    found.append((max(value, bound), next(self.count), a.keep()))
                if over(bound, a.work) and label != chosen[-1]:
                    heapq.heappush(self.heap, (bound, number, kept))
                    return
            for node in found:
                heapq.heappush(self.heap, node)

    def settle(self) -> bool:
        """Judge the only plan that a node has left; false if several are left."""
        a = self.ascent
        m = a.model
        t = m.tables
        held = np.flatnonzero(np.isfinite(m.state.held))
        if len(held) < len(t.start) - 1:
            return True  # an expert has no label: no plan is left
        first, last = t.option_start[held], t.option_start[held + 1]
        if (last - first > 1).any():
            return False
        option = m.option[first]
        placed = option >= 0
        o = option[placed]
        place, format_ = m.search.place[o], m.search.format[o]
        copies = np.stack([m.expert[first][placed], place, format_], axis=1)
        plan = Plan.of(m.problem, copies.astype(np.int64))
        judged = score(m.problem, plan)
        if judged.feasible and judged.objective < a.upper:
            a.upper, self.plan = judged.objective, plan
        return True

    def choose(self, bound: float) -> list[int] | None:
        """Return the labels of the expert whose choice raises bounds most."""
        a = self.ascent
        t, held = a.model.tables, a.model.state.held
        a.value()
        open_ = a.upper - bound
        best, chosen = -1.0, None
        for i in range(len(t.start) - 1):
            mine = held[t.start[i] : t.start[i + 1]]
            rise = mine - mine.min()
            alive = np.flatnonzero(np.isfinite(mine))
            if len(alive) < 2:
                continue
            gain = float(np.minimum(rise[alive], open_).sum()) / len(alive)
            if gain > best:
                order = alive[np.argsort(rise[alive], kind="stable")]
                best, chosen = gain, (t.start[i] + order).tolist()
        return chosen

    def fix(self, label: int) -> None:
        """Strike out every other label of an expert."""
        m = self.ascent.model
        t, s = m.tables, m.state
        i = int(np.searchsorted(t.start, label, side="right")) - 1
        kept = label - t.start[i]
        for n in range(t.meet_start[i], t.meet_start[i + 1]):
            e, back = divmod(int(t.meet[n]), 2)
            shape = (np.diff(t.start)[t.first[e]], np.diff(t.start)[t.second[e]])
            gone = np.ones(shape, dtype=bool)
            if back:
                gone[:, kept] = False
            else:
                gone[kept] = False
            table = slice(t.offset[e], t.offset[e + 1])
            for values in (s.one[table], s.two[table]):
                values[gone.ravel()] = np.inf
            for of in t.trio_of[t.trio_start[e] : t.trio_start[e + 1]]:
                at = t.trio_at[of // 3, of % 3]
                s.share[at : at + gone.size][gone.ravel()] = np.inf

    def descend(self, bound: float, over: Over) -> float:
        """Bound the present node; stop early if it is beaten or goes nowhere."""
        a = self.ascent
        before = bound
        for _ in range(4):
            value = a.block(self.tau)
            if value >= a.upper or over(bound, a.work):
                break
            if value - before < 0.1 * (a.upper - value):
                break
            before = value
        a.restore(a.keep())
        return a.certified()


def roam_bound(
    problem: Problem,
    *,
    over: Over | None = None,
    deadline: float | None = None,
    upper: float | None = None,
    max_cells: int = MAX_CELLS,
    max_trio_cells: int = MAX_TRIO_CELLS,
    tree: bool = True,
    compile_: bool | None = None,
) -> RoamBound:
    """Bound a problem in `roam` from below.

    Parameters
    ----------
    problem
        With the `roam` dataflow. If an expert may have several copies, only the trivial
        bound holds and is returned.
    over
        Asked between blocks with the bound so far and the work done; true ends. Without
        it and without ``deadline``, the ascent ends when it gains nothing more.
    deadline
        Of `time.perf_counter`, in seconds.
    upper
        Objective of a known feasible plan: what cannot be better is left out.
    max_cells, max_trio_cells
        Pairs and triples of labels that tables may hold; what is beyond is left out.
    tree
        Whether to branch when the ascent gains little; needs ``upper``.
    compile_
        Whether the kernels are compiled; None: if the problem is not tiny.
    """
    trivial = trivial_bound(problem)
    nothing = RoamBound(
        bound=trivial,
        prices=(),
        expert=np.zeros(0, dtype=np.int64),
        option=np.zeros(0, dtype=np.int64),
        likely=np.zeros(0),
        work=0.0,
        nodes=0,
        dropped=("all but the trivial bound",),
    )
    if problem.max_copies is None or problem.max_copies > 1:
        return nothing
    try:
        model = build_stars(problem, max_cells=max_cells, max_trio_cells=max_trio_cells)
    except NoOptionError:
        return nothing
    cells = len(model.state.one) + len(model.state.share)
    ascent = StarAscent(
        model,
        upper=math.inf if upper is None else upper,
        compile_=cells > SMALL if compile_ is None else compile_,
    )

    def ends(bound: float, work: float, /) -> bool:
        if deadline is not None and perf_counter() >= deadline:
            return True
        return over is not None and over(bound, work)

    tau = ascent.ascend(ends)
    ascent.restore(ascent.kept)
    bound = ascent.certified()
    ascent.run.gather(ascent.t, ascent.s, tau, ascent.size)
    ascent.run.expect(ascent.t, ascent.s, tau)
    likely = model.state.like.copy()
    nodes, plan = 1, None
    if tree and bound < ascent.upper < math.inf and not ends(bound, ascent.work):
        grown = StarTree(ascent, tau)
        grown.push(bound)
        grown.grow(ends)
        bound, nodes, plan = max(bound, grown.bound()), grown.nodes, grown.plan
    return RoamBound(
        bound=max(trivial, bound) if math.isfinite(bound) else trivial,
        prices=tuple(
            (row.name, float(price))
            for row, price in zip(model.outer, ascent.price, strict=True)
        ),
        expert=model.expert,
        option=model.option,
        likely=likely,
        work=ascent.work,
        nodes=nodes,
        dropped=model.dropped,
        plan=plan,
    )

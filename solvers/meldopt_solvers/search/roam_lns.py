"""Search in `roam`: annealing of all experts, then of one neighbourhood at a time.

One copy per expert. A neighbourhood (experts of neighbouring layers, of two servers, of
one expert and those it exchanges most with) is shaken and annealed while all others
stay; the best plan that breaks no row is kept. Rows of copies have prices that rise
while they are broken; rows of traversals have tolls, which are part of the cost of each
pair, so that a move is still judged by a few look-ups.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from meldopt.plan import Plan

from . import roam_walk
from .compiled import compiled, plain
from .incumbent import Incumbent
from .roam_rows import NoOptionError, RoamOptions, forgiven
from .roam_walk import WalkState, WalkTables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, StopCriterion

CHUNK = 20_000
"""Moves after which prices and tolls adapt; one iteration."""

ASK = 0.05
"""Deterministic work, at most, between two questions to the stop criterion."""

MOVES = 300
"""Moves of the first full annealing for each option of an expert."""

SHORTER = (64, 8)
"""How much shorter the annealings before the first full one are: a run with little
left, too, ends with a plan that has cooled down."""

FEWEST_MOVES, MOST_MOVES = 100_000, 4_000_000
"""Moves of a full annealing, at least and at most."""

STALE = 25
"""Neighbourhoods without gain before all experts are annealed again."""

COLD = 2e-3
"""Last temperature of an annealing, by the first."""

MOVE_WORK = 3e-7
"""Deterministic work of judging a move."""

END_WORK = 2.5e-8
"""Deterministic work of changing one entry of the field of a neighbour."""

ADAPT_WORK = 1e-4
"""Deterministic work of adapting prices and tolls."""

OFFER_WORK = 2e-6
"""Deterministic work of judging a plan, for each pair and expert."""

PLAIN = 50.0
"""Work of kernels in Python, by that of compiled ones."""

SMALL = 40
"""Options up to which nothing is compiled."""


class RoamWalk:
    """The incremental state of the search.

    Parameters
    ----------
    problem
        With the `roam` dataflow.
    compile_
        Whether the kernels are compiled; None: if the problem is not tiny.

    Raises
    ------
    NoOptionError
        If some expert can be nowhere.
    """

    def __init__(self, problem: Problem, *, compile_: bool | None = None) -> None:
        self.problem = problem
        options = RoamOptions(problem)
        _, loads, limits = options.copy_rows()
        if not options.strike(loads, limits):
            raise NoOptionError
        self.options = options
        self.tables = _tables(options)
        self.s = _state(self.tables, problem)
        chosen = len(options.option) > SMALL if compile_ is None else compile_
        self.fast = chosen
        self.run = (compiled if chosen else plain)(roam_walk)
        self.packed, self.live = self.run.pack(self.tables), self.run.pack(self.s)
        self.work = 0.0
        self.pace = 1.0 if chosen else PLAIN
        t = self.tables
        width = self.s.field.shape[1] + 2 * len(t.room) + 2
        self.end_work = END_WORK * len(t.out) * width
        self.place_of = np.where(
            options.option >= 0, options.t.place[options.option], -1
        )
        self.kind_of = self.tables.kind
        self.settle()
        self.scale = self.heat()
        self.s.price[:] = 2.0 * self.scale

    def settle(self) -> None:
        """Compute the state anew from the options chosen and the tolls."""
        t, s = self.tables, self.s
        s.priced[...] = t.cost + np.tensordot(s.toll, t.crossing, axes=1)
        self.run.settle(self.packed, self.live)
        self.work += self.pace * self.end_work * (len(t.near) + len(s.chosen))

    def anneal(
        self,
        who: NDArray[np.int64],
        draws: NDArray[np.float64],
        hot: float,
        cold: float,
    ) -> None:
        """Walk among some experts while it cools down; ``draws`` is (moves, 5)."""
        changed = self.run.walk(self.packed, self.live, who, draws, hot, cold)
        self.work += self.pace * (MOVE_WORK * len(draws) + self.end_work * changed)

    @property
    def dearest(self) -> float:
        """Work of a move, if all of them were swaps that are carried out."""
        near = len(self.tables.near) / max(len(self.s.chosen), 1)
        return float(self.pace * (MOVE_WORK + self.end_work * 2.0 * near))

    def heat(self) -> float:
        """Return how far the cost of an expert spreads over its options."""
        t, s = self.tables, self.s
        num = len(s.chosen)
        expert = np.repeat(np.arange(num), np.diff(t.start))
        held = t.server >= 0
        cost = t.linear.copy()
        cost[held] += s.field[expert[held], t.server[held]]
        low = np.minimum.reduceat(cost, t.start[:-1])
        high = np.maximum.reduceat(cost, t.start[:-1])
        spread = float((high - low).mean())
        work = t.bottleneck * float(t.work.mean()) if len(t.work) else 0.0
        return max(spread + work, 1e-12)

    def take(self, chosen: NDArray[np.int64], group: NDArray[np.int64]) -> None:
        """Continue from other options."""
        self.s.chosen[:] = chosen
        self.s.group[:] = group
        self.settle()

    def options_of(self, copies: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the option of each expert that a plan has; the first of the others."""
        t = self.tables
        chosen = t.start[:-1].copy()
        for i, v, b in copies[::-1].tolist():
            mine = np.arange(t.start[i], t.start[i + 1])
            hit = mine[(t.place[mine] == v) & (t.kind[mine] == b)]
            if len(hit):
                chosen[i] = hit[0]
        return chosen

    def groups_of(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the most frequent format of each uniform group."""
        t = self.tables
        group = self.s.group.copy()
        for u in range(len(group)):
            kinds = t.kind[chosen[(t.group_of == u) & (t.place[chosen] >= 0)]]
            if len(kinds):
                group[u] = np.bincount(kinds).argmax()
        return group

    def conform(self, u: int, kind: int, rng: np.random.Generator) -> None:
        """Give a uniform group a format; members stay at their place if they can."""
        t, s = self.tables, self.s
        s.group[u] = kind
        for i in np.flatnonzero(t.group_of == u).tolist():
            mine = np.arange(t.start[i], t.start[i + 1])
            can = mine[(t.kind[mine] == kind) | (t.place[mine] < 0)]
            here = can[t.place[can] == t.place[s.chosen[i]]]
            if len(here):
                s.chosen[i] = here[0]
            elif len(can):
                s.chosen[i] = int(rng.choice(can))

    def random(self, rng: np.random.Generator) -> None:
        """Give every expert a random option."""
        t, s = self.tables, self.s
        s.chosen[:] = t.start[:-1] + rng.integers(0, np.diff(t.start))
        for u in range(len(s.group)):
            members = np.flatnonzero(t.group_of == u)
            kinds = [set(t.kind[t.start[i] : t.start[i + 1]]) - {-1} for i in members]
            common = sorted(set.intersection(*kinds)) or [int(s.group[u])]
            self.conform(u, int(rng.choice(common)), rng)
        self.settle()

    def plan(self, chosen: NDArray[np.int64]) -> Plan:
        """Return options as a plan."""
        t = self.tables
        held = np.flatnonzero(t.place[chosen] >= 0)
        x = chosen[held]
        copies = np.stack([held, t.place[x], t.kind[x]], axis=1)
        return Plan.of(self.problem, copies.astype(np.int64))

    def adapt(self) -> None:
        """Raise prices and tolls of broken rows, lower those of rows that hold."""
        t, s = self.tables, self.s
        s.price[:] *= np.where(s.load > t.limit, 1.5, 0.93)
        np.clip(s.price, 0.1 * self.scale, 1e5 * self.scale, out=s.price)
        self.work += ADAPT_WORK
        if not len(t.room):
            return
        usual = self.scale * len(s.chosen) / np.maximum(np.abs(t.room), 1e-300)
        over = s.flow > t.room
        old = s.toll.copy()
        s.toll[:] = np.where(over, np.maximum(1.4 * s.toll, 0.02 * usual), 0.9 * s.toll)
        s.toll[s.toll < 0.002 * usual] = 0.0
        np.minimum(s.toll, 1e4 * usual, out=s.toll)
        if (s.toll != old).any():
            self.settle()


class _Run:
    """One run of the search."""

    def __init__(self, walk: RoamWalk, best: Incumbent, rng: np.random.Generator):
        self.walk, self.best, self.rng = walk, best, rng
        t = walk.tables
        self.all = np.arange(len(t.start) - 1)
        self.offered = math.inf

    def offer(self) -> None:
        """Offer the best state if it is new."""
        s = self.walk.s
        if s.best_value[0] < self.offered:
            self.offered = float(s.best_value[0])
            if self.offered < self.best.objective:
                self.best.offer(self.walk.plan(s.best))
                num = len(self.walk.problem.pairs) + len(s.chosen)
                self.best.work += OFFER_WORK * num

    def anneal(self, who: NDArray[np.int64], moves: int, hot: float) -> bool:
        """Anneal some experts; say whether the run ends."""
        walk = self.walk
        chunk = min(CHUNK if walk.fast else 500, max(moves // 8, 50))
        chunks = max(math.ceil(moves / chunk), 1)
        pieces = min(math.ceil(chunk * walk.dearest / ASK), chunk)
        ratio = COLD ** (1.0 / chunks)
        for n in range(chunks):
            heat = hot * ratio**n
            for draws in np.array_split(self.rng.random((chunk, 5)), pieces):
                cold = heat * ratio ** (len(draws) / chunk)
                walk.anneal(who, draws, heat, cold)
                heat = cold
                if self.best.spent(walk.work):
                    self.offer()
                    return True
            walk.adapt()
            self.offer()
            if self.best.step(walk.work):
                return True
        return False

    def neighbourhood(self) -> NDArray[np.int64]:
        """Choose experts to anneal together."""
        t, s, rng = self.walk.tables, self.walk.s, self.rng
        kind = int(rng.integers(4))
        layers = int(t.layer.max(initial=0)) + 1
        if kind == 0 and layers > 1:
            first = int(rng.integers(layers))
            last = first + int(rng.integers(1, 3))
            return np.flatnonzero((t.layer >= first) & (t.layer <= last))
        server = t.server[s.chosen]
        if kind == 1 and s.field.shape[1] > 2:
            two = rng.choice(s.field.shape[1], size=2, replace=False)
            return np.flatnonzero(np.isin(server, two))
        if kind == 2:
            i = int(rng.integers(len(t.start) - 1))
            mine = slice(t.near_start[i], t.near_start[i + 1])
            weight = (t.out[:, mine] + t.back[:, mine]).sum(axis=0)
            most = min(len(weight), int(rng.integers(3, 25)))
            near = t.near[mine][np.argsort(-weight, kind="stable")[:most]]
            return np.unique(np.append(near, i))
        size = int(rng.integers(2, max(3, min(len(self.all), 40)) + 1))
        return np.sort(
            rng.choice(self.all, size=min(size, len(self.all)), replace=False)
        )

    def go(self, start: Plan | None, likely: NDArray[np.int64] | None) -> None:
        """Search until the criterion is met."""
        walk, rng = self.walk, self.rng
        t, s = walk.tables, walk.s
        fewest = FEWEST_MOVES if walk.fast else 0
        moves = int(np.clip(MOVES * len(t.linear), fewest, MOST_MOVES))
        copies = likely if start is None else start.copies
        hot = (0.5 if copies is None else 0.1) * walk.scale
        for shorter in (*SHORTER, 1):
            if copies is None:
                walk.random(rng)
            else:
                chosen = walk.options_of(copies)
                walk.take(chosen, walk.groups_of(chosen))
                walk.run.note(walk.packed, walk.live)
            if self.anneal(self.all, math.ceil(moves / shorter), hot):
                return
        stale, restarts = 0, 0
        while True:
            had = float(s.best_value[0])
            if math.isfinite(had):
                walk.take(s.best.copy(), walk.groups_of(s.best))
            if stale >= STALE or not math.isfinite(had):
                # Afresh and more slowly; half of the time from the best plan.
                stale, restarts = 0, restarts + 1
                if rng.random() < 0.5:
                    walk.random(rng)
                walk.scale = walk.heat()
                slow = min(moves * 2 ** min(restarts, 5), MOST_MOVES)
                if self.anneal(self.all, slow, walk.scale * rng.uniform(0.1, 0.5)):
                    return
                continue
            who = self.neighbourhood()
            if len(s.group) and rng.random() < 0.3:
                u = int(rng.integers(len(s.group)))
                self.regroup(u)
                who = self.all
            if not len(who):
                continue
            options = float(np.diff(t.start)[who].sum())
            few = int(min(max(60 * options, 500), MOST_MOVES))
            if self.anneal(who, few, walk.scale * 10 ** rng.uniform(-2.0, -0.5)):
                return
            better = s.best_value[0] < had - 1e-9 * abs(had)
            stale = 0 if better else stale + 1

    def regroup(self, u: int) -> None:
        """Give a uniform group a random other format."""
        walk = self.walk
        t = walk.tables
        members = np.flatnonzero(t.group_of == u)
        kinds = np.unique(
            np.concatenate([t.kind[t.start[i] : t.start[i + 1]] for i in members])
        )
        walk.conform(u, int(self.rng.choice(kinds[kinds >= 0])), self.rng)
        walk.settle()


def improve_roam(
    problem: Problem,
    best: Incumbent,
    rng: np.random.Generator,
    *,
    start: Plan | None = None,
    likely: NDArray[np.int64] | None = None,
) -> None:
    """Search until the criterion of ``best`` is met, and offer what is found.

    Parameters
    ----------
    problem
        With the `roam` dataflow.
    best
        Where plans go; asked when to stop.
    rng
        Of the run.
    start
        Where to begin; it may break rows.
    likely
        Copies (C, 3) that a relaxation finds likely: where to begin without ``start``.
    """
    try:
        walk = RoamWalk(problem)
    except NoOptionError:
        return
    _Run(walk, best, rng).go(start, likely)
    best.work += walk.work


def roam_search(
    problem: Problem,
    start: Plan | None,
    stop: StopCriterion,
    seed: int,
    *,
    on_progress: OnProgress | None = None,
    likely: NDArray[np.int64] | None = None,
) -> Incumbent:
    """Search a problem in `roam` for a plan; see `improve_roam`.

    Returns
    -------
    Incumbent
        With the best plan, never worse than ``start``, and its objective.
    """
    best = Incumbent(
        problem,
        stop=stop,
        started=perf_counter(),
        on_progress=on_progress,
        start=start,
    )
    if not best.spent():
        improve_roam(
            problem, best, np.random.default_rng(seed), start=start, likely=likely
        )
    return best


# -- set-up ----------------------------------------------------------------------------


def _tables(options: RoamOptions) -> WalkTables:
    problem, t = options.problem, options.t
    num = problem.num_experts
    _, loads, limits = options.copy_rows()
    start = options.start
    most = np.maximum.reduceat(loads, start[:-1], axis=1).sum(axis=1)
    can = most > limits
    loads, limits = loads[can], limits[can]
    label, row = np.nonzero(loads.T)
    norm = np.abs(loads).max(axis=1, initial=0.0)
    ends, there, back = options.weights()
    apart = t.latency and problem.num_applications > 1
    if not apart:
        there, back = there.sum(axis=0)[None], back.sum(axis=0)[None]
    own = np.concatenate([ends[:, 0], ends[:, 1]])
    other = np.concatenate([ends[:, 1], ends[:, 0]])
    order = np.lexsort((other, own))
    shape = (len(there), problem.num_layers, *t.cost.shape)
    outer = options.moving_rows(bool(apart))
    crossing = np.zeros((len(outer), *shape))
    for z, moving in enumerate(outer):
        assert moving.crossing is not None
        g = slice(None) if moving.application is None else moving.application
        to = slice(None) if moving.layer is None else moving.layer
        crossing[z, g, to] = moving.crossing
    held = options.option >= 0
    o = np.maximum(options.option, 0)
    return WalkTables(
        start=start,
        place=np.where(held, t.place[o], -1),
        server=options.server,
        kind=np.where(held, t.format[o], -1),
        linear=options.values(t.worth) + options.end_values(t.cost),
        work=options.values(t.work) / problem.total_rate,
        entry_start=np.searchsorted(label, np.arange(len(held) + 1)).astype(np.int64),
        entry_row=row.astype(np.int64),
        entry=np.ascontiguousarray(loads.T[label, row]),
        limit=np.array([limit - 0.5 * forgiven(limit) for limit in limits]),
        norm=np.where(norm > 0, norm, 1.0),
        near_start=np.searchsorted(own[order], np.arange(num + 1)).astype(np.int64),
        near=other[order].astype(np.int64),
        out=np.ascontiguousarray(np.concatenate([there, back], axis=1)[:, order]),
        back=np.ascontiguousarray(np.concatenate([back, there], axis=1)[:, order]),
        layer=problem.layer_of.copy(),
        cost=np.ascontiguousarray(np.broadcast_to(t.cost, shape)).copy(),
        crossing=crossing,
        own=np.array([row_.own for row_ in outer]).reshape(len(outer), len(held)),
        room=np.array([row_.limit - 0.5 * forgiven(row_.limit) for row_ in outer]),
        group_of=t.group_of.copy(),
        bottleneck=float(problem.weight_of("bottleneck")),
    )


def _state(t: WalkTables, problem: Problem) -> WalkState:
    num, num_s = problem.num_experts, problem.num_servers
    return WalkState(
        chosen=t.start[:-1].copy(),
        field=np.zeros((num, num_s)),
        load=np.zeros(len(t.limit)),
        price=np.ones(len(t.limit)),
        flow=np.zeros(len(t.room)),
        toll=np.zeros(len(t.room)),
        priced=t.cost.copy(),
        cell=np.zeros((problem.num_layers, num_s)),
        group=np.zeros(int(t.group_of.max(initial=-1)) + 1, dtype=np.int64),
        total=np.zeros(2),
        best=t.start[:-1].copy(),
        best_value=np.full(1, np.inf),
    )

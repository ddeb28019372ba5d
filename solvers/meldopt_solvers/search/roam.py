"""Search in `roam`: greedy placement, and annealing that mends it.

One copy per expert. Rows have prices that rise while they are broken, so the walk may
pass through plans that break some; the best one that breaks none is kept. Copies beyond
one (as coverage of single failures needs) are not decided here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from meldopt.plan import Plan

from . import roam_kernels
from .compiled import compiled, plain
from .roam_kernels import NOWHERE, RoamState, RoamTables
from .roam_lns import improve_roam
from .roam_tables import exposed_servers, roam_tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .incumbent import Incumbent

SMALL = 3_000
"""Pairs and options up to which nothing is compiled."""

MOVES = 60
"""Moves of one cycle of annealing for each expert, at least."""

MOST_MOVES = 200_000
"""Moves of one cycle at most."""

CHUNK = 500
"""Moves between two questions to the stop criterion; one iteration."""

MOVE_WORK, PAIR_WORK = 1e-6, 4e-8
"""Deterministic work of one move, and more for each pair of an expert."""

PLAIN = 30.0
"""Work of kernels in Python, by that of compiled ones."""

TOLERANCE = 1e-7
"""Relative excess of a row that the walk forgives; well within what `score` does."""


class RoamSearch:
    """The incremental state of a search in `roam`.

    Parameters
    ----------
    problem
        With the `roam` dataflow.
    compile_
        Whether the kernels are compiled; None: if the problem is not small.
    """

    def __init__(self, problem: Problem, *, compile_: bool | None = None) -> None:
        self.problem = problem
        self.tables = roam_tables(problem)
        self.s = _state(problem, self.tables)
        size = len(problem.pairs) + len(self.tables.usable)
        chosen = size > SMALL if compile_ is None else compile_
        self.run = (compiled if chosen else plain)(roam_kernels)
        self.packed, self.live = self.run.pack(self.tables), self.run.pack(self.s)
        self.scale = 1.0
        pairs = len(self.tables.pair_other) / max(len(self.s.option), 1)
        self.work = 0.0
        self.move_work = (MOVE_WORK + PAIR_WORK * pairs) * (1.0 if chosen else PLAIN)

    def set_options(self, option: NDArray[np.int64]) -> None:
        """Place all experts afresh."""
        s = self.s
        for array in (s.load, s.used, s.tally, s.cell, s.value):
            array[...] = 0
        s.option[:] = NOWHERE
        for i, o in enumerate(option.tolist()):
            s.option[i] = o
            # A pair counts when its second expert gets its place.
            self.run.put(self.packed, self.live, i, roam_kernels.IN)

    def options_of(self, copies: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the option of the first usable copy of each expert of a plan."""
        t = self.tables
        at = {
            (int(v), int(b)): o
            for o, (v, b) in enumerate(zip(t.place, t.format, strict=True))
        }
        option = np.full(len(self.s.option), NOWHERE, dtype=np.int64)
        for i, v, b in copies[::-1].tolist():
            o = at.get((v, b), NOWHERE)
            if o in t.usable[t.usable_start[i] : t.usable_start[i + 1]]:
                option[i] = o
        return option

    def copies(self, option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return options as copies, sorted; (C, 3)."""
        t = self.tables
        held = np.flatnonzero(option >= 0)
        o = option[held]
        return np.stack([held, t.place[o], t.format[o]], axis=1).astype(np.int64)

    def plan(self, option: NDArray[np.int64] | None = None) -> Plan:
        """Return options (those of the state by default) as a plan."""
        option = self.s.option if option is None else option
        return Plan.of(self.problem, self.copies(option))

    def objective(self) -> float:
        """Return the objective of the state."""
        return float(self.run.objective(self.packed, self.live))

    def merit(self) -> float:
        """Objective of the state plus what its broken rows cost."""
        return self.objective() + float(self.run.charge(self.packed, self.live))

    def set_prices(self, value: float) -> None:
        """Price the rows by the magnitude of the objective."""
        s = self.s
        self.scale = abs(value) or 1.0
        s.price[:] = self.scale
        s.room_price[:] = self.scale
        s.count_price[:] = self.scale / max(len(s.option), 1)

    def adapt(self) -> None:
        """Raise the prices of broken rows, lower those of rows that hold."""
        s, t = self.s, self.tables
        low = 0.05 * self.scale
        for price, broken in (
            (s.price, s.load - t.limit > TOLERANCE * t.norm),
            (s.room_price, s.used - t.room > TOLERANCE * t.room_norm),
        ):
            price *= np.where(broken, 2.0, 0.9)
            np.clip(price, low, 1e6 * self.scale, out=price)
        wrong = (s.tally > t.count_upper) | (s.tally < t.count_lower)
        s.count_price[:] *= np.where(wrong, 2.0, 0.95)
        np.clip(
            s.count_price,
            low / max(len(s.option), 1),
            1e6 * self.scale,
            out=s.count_price,
        )

    def build(self, rng: np.random.Generator) -> None:
        """Place experts greedily: large ones first, busy before idle."""
        t = self.tables
        self.set_options(np.full(len(self.s.option), NOWHERE, dtype=np.int64))
        key = rng.permutation(len(self.s.option))
        order = np.lexsort((key, -t.share.sum(axis=0), -t.size.min(axis=1)))
        self.place(order.astype(np.int64))

    def place(self, order: NDArray[np.int64]) -> None:
        """Place some experts anew, one after the other, at the least merit."""
        t = self.tables
        self.run.build(self.packed, self.live, order)
        options = (t.usable_start[order + 1] - t.usable_start[order]).sum()
        self.work += 0.5 * self.move_work * float(options)

    def heat(self, rng: np.random.Generator) -> float:
        """Return the mean rise of the merit over random relocations."""
        t, s = self.tables, self.s
        merit = self.merit()
        rises = []
        for _ in range(30):
            i = int(rng.integers(len(s.option)))
            mine = t.usable[t.usable_start[i] : t.usable_start[i + 1]]
            if not len(mine):
                continue
            old, new = s.option[i], mine[int(rng.integers(len(mine)))]
            self.run.move(self.packed, self.live, i, new)
            rises.append(self.merit() - merit)
            self.run.move(self.packed, self.live, i, old)
        up = [rise for rise in rises if rise > 0.0]
        return float(np.median(up)) if up else 1e-3 * self.scale

    def choose_formats(self, rng: np.random.Generator) -> None:
        """Give each uniform group the format of least merit."""
        t, s = self.tables, self.s
        for group in rng.permutation(len(s.group_format)).tolist():
            members = np.flatnonzero(t.group_of == group).astype(np.int64)
            # First that every member has a place, then the merit.
            best = (self.homeless(members), self.merit())
            kept = (int(s.group_format[group]), s.option.copy())
            for b in range(self.problem.num_formats):
                s.group_format[group] = b
                self.place(rng.permutation(members))
                found = (self.homeless(members), self.merit())
                if found < best:
                    best, kept = found, (b, s.option.copy())
            s.group_format[group] = kept[0]
            self.set_options(kept[1])

    def homeless(self, experts: NDArray[np.int64]) -> int:
        """Count experts without a copy that must have one."""
        t = self.tables
        return sum(
            self.s.option[i] < 0
            and NOWHERE not in t.usable[t.usable_start[i] : t.usable_start[i + 1]]
            for i in experts.tolist()
        )

    def anneal(
        self, moves: int, hot: float, cold: float, rng: np.random.Generator
    ) -> None:
        """Run some moves of a walk that cools down."""
        draws = rng.random((moves, 4))
        self.run.anneal(self.packed, self.live, draws, hot, cold)
        self.work += moves * self.move_work

    def cycle(self, rng: np.random.Generator, *, moves: int) -> None:
        """Anneal once from hot to cold, prices adapting."""
        hot = 0.5 * self.heat(rng)
        chunks = math.ceil(moves / CHUNK)
        step = 1e-3 ** (1 / chunks)
        for number in range(chunks):
            self.anneal(CHUNK, hot * step**number, hot * step ** (number + 1), rng)
            self.adapt()


def solve_roam(
    problem: Problem,
    best: Incumbent,
    rng: np.random.Generator,
    *,
    start: Plan | None = None,
    anneal: bool = True,
) -> tuple[str, ...]:
    """Search for a plan in `roam` and offer what is found.

    Parameters
    ----------
    problem
        With the `roam` dataflow.
    best
        Where plans go; asked when to stop.
    rng
        Of the run.
    start
        Where to begin; greedy if none.
    anneal
        Whether to go on from the greedy plan with `improve_roam`, until the criterion
        is met; without, annealing only mends a greedy plan that breaks a row.

    Returns
    -------
    tuple of str
        What was not honoured.
    """
    search = RoamSearch(problem)
    s = search.s
    search.set_prices(float(np.abs(search.tables.worth).sum(axis=0).mean()) or 1.0)
    for group in range(len(s.group_format)):
        members = np.flatnonzero(search.tables.group_of == group)
        s.group_format[group] = _common_format(search, members)
    if start is not None and anneal:
        search.set_options(search.options_of(start.copies))
        for group in range(len(s.group_format)):
            members = np.flatnonzero(search.tables.group_of == group)
            held = s.option[members][s.option[members] >= 0]
            if len(held):
                s.group_format[group] = search.tables.format[held[0]]
    else:
        search.build(rng)
    search.set_prices(search.objective())
    if start is None or not anneal:
        search.build(rng)
        search.choose_formats(rng)
    best.offer(search.plan())
    if anneal:
        best.work += search.work
        improve_roam(problem, best, rng, start=start)
        return _ignored(problem)
    # A greedy plan that breaks a row is mended.
    cycle = 0
    moves = int(min(max(MOVES * problem.num_experts, CHUNK), MOST_MOVES))
    while not best.spent(search.work):
        if math.isfinite(best.objective) or cycle >= 12:
            break
        if _cycle(search, best, rng, moves):
            break
        cycle += 1
        if len(s.group_format):
            search.choose_formats(rng)
    _offer_best(search, best)
    best.work += search.work
    return _ignored(problem)


def _cycle(
    search: RoamSearch,
    best: Incumbent,
    rng: np.random.Generator,
    moves: int,
) -> bool:
    """Anneal once from hot to cold; say whether the run ends."""
    s = search.s
    hot = search.heat(rng) * float(rng.uniform(0.2, 1.0))
    cold = 1e-3 * hot
    chunks = math.ceil(moves / CHUNK)
    step = (cold / hot) ** (1 / chunks)
    for number in range(chunks):
        search.anneal(CHUNK, hot * step**number, hot * step ** (number + 1), rng)
        search.adapt()
        if best.step(search.work):
            return True
    _offer_best(search, best)
    if math.isinf(s.best_value[0]):
        best.offer(search.plan())
    # Sums drift by rounding; the next walk begins from the best state or from here.
    found = (
        s.best if rng.random() < 0.5 and math.isfinite(s.best_value[0]) else s.option
    )
    search.set_options(found.copy())
    return False


def _offer_best(search: RoamSearch, best: Incumbent) -> None:
    if search.s.best_value[0] < best.objective:
        best.offer(search.plan(search.s.best))


def _common_format(search: RoamSearch, members: NDArray[np.int64]) -> int:
    """Return the smallest format that every member of a group can have somewhere."""
    t = search.tables
    formats: list[set[int]] = []
    for i in members.tolist():
        mine = t.usable[t.usable_start[i] : t.usable_start[i + 1]]
        formats.append({int(t.format[o]) for o in mine if o >= 0})
    common = set.intersection(*formats) or set.union(*formats) or {0}
    return min(common, key=lambda b: (float(t.size[members, b].sum()), b))


def _ignored(problem: Problem) -> tuple[str, ...]:
    lacking = []
    if problem.max_copies is None or problem.max_copies > 1:
        lacking.append("copies")
    if problem.failure_sets and exposed_servers(problem).all():
        lacking.append("coverage")
    return tuple(lacking)


# -- set-up ----------------------------------------------------------------------------


def _state(problem: Problem, t: RoamTables) -> RoamState:
    num = problem.num_experts
    return RoamState(
        option=np.full(num, NOWHERE, dtype=np.int64),
        load=np.zeros(len(t.limit)),
        used=np.zeros(problem.num_places),
        tally=np.zeros(len(t.count_lower), dtype=np.int64),
        cell=np.zeros((problem.num_layers, problem.num_servers)),
        price=np.zeros(len(t.limit)),
        room_price=np.zeros(problem.num_places),
        count_price=np.zeros(len(t.count_lower)),
        group_format=np.full(int(t.group_of.max(initial=-1)) + 1, NOWHERE),
        value=np.zeros(1),
        best=np.full(num, NOWHERE, dtype=np.int64),
        best_value=np.full(1, np.inf),
    )

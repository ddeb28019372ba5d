"""The common repair: change a plan as little as needed until every row holds.

The same procedure for every method, with the machinery of the project's own search.
First only shares are decided again; then the experts move that stand where a row is
broken, those first that load it most, each to the copies that cost least at the prices
of the rows: another server, tier or format, or fewer copies. Who has one copy keeps
one; if that does not help they may have more; if that does not help, all experts may
move.

In `roam` there are no shares, and one copy of each expert is kept, the first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from meldopt.tolerance import FEASIBILITY, SHARE_SUM
from meldopt_solvers.search import roam_kernels
from meldopt_solvers.search.descent import mend, prepare_formats
from meldopt_solvers.search.kernels import EXTRA, NONE
from meldopt_solvers.search.roam import RoamSearch
from meldopt_solvers.search.roam_kernels import NOWHERE
from meldopt_solvers.search.state import HomeState
from meldopt_solvers.search.tables import uniform_group_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt_solvers.search.incumbent import Incumbent

    from .method import Budget

ROUNDS = 40
"""Rounds in which only experts at broken rows move."""

LP_SHARES = 40_000
"""Columns up to which an LP finds the best shares."""

PATIENCE = 3
"""Rounds without less excess after which the repair goes one step further."""

LAST = 3
"""Times that all experts may move, six rounds each."""

STEPS = 8
"""An over-full place is emptied in about as many steps, so that few leave it."""

MOVES = 30
"""Moves of the last resort in `roam`, for each expert."""


def mend_plan(
    problem: Problem,
    plan: Plan,
    rng: np.random.Generator,
    best: Incumbent,
    check: Budget,
) -> None:
    """Mend a plan that breaks a row, and offer what comes out of it.

    Parameters
    ----------
    problem
        What is solved.
    plan
        Completed; it breaks a row.
    rng
        For the order in which experts move.
    best
        Where the mended plan is offered.
    check
        Asked in every round.
    """
    if problem.dataflow == "roam":
        _mend_roam(problem, plan, rng, best, check)
    else:
        _mend_home(problem, plan, rng, best, check)


def adapted_copies(problem: Problem, copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Change what no move of others can mend: pins, forbidden copies, uniform formats.

    Pinned copies are added and take the place of others on their servers; a uniform
    group takes the pinned format, else the one that most of its copies have; copies
    that may not exist are left out.

    Parameters
    ----------
    problem
        What is solved.
    copies
        Expert, place and format; (C, 3).

    Returns
    -------
    ndarray of int64, shape (C', 3)
        Sorted.
    """
    pinned = problem.pinned
    key = problem.num_servers * copies[:, 0] + problem.server_of[copies[:, 1]]
    taken = problem.num_servers * pinned[:, 0] + problem.server_of[pinned[:, 1]]
    copies = np.concatenate([pinned, copies[~np.isin(key, taken)]])
    group = uniform_group_of(problem)[copies[:, 0]]
    for number in np.unique(group[group >= 0]).tolist():
        mine = group == number
        of_pins = mine[: len(pinned)]
        voters = copies[: len(pinned)][of_pins] if of_pins.any() else copies[mine]
        copies[mine, 2] = np.bincount(voters[:, 2]).argmax()
    may = problem.allowed[copies[:, 1], copies[:, 2]]
    size = problem.size_bytes[copies[:, 0], copies[:, 2]]
    may &= size <= problem.largest_bytes[copies[:, 1]]
    forbidden = {tuple(row) for row in problem.forbidden.tolist()}
    if forbidden:
        may &= [tuple(row) not in forbidden for row in copies.tolist()]
    copies = copies[may]
    # As many as an expert may have, pins first.
    most = problem.max_copies or problem.num_servers
    order = np.argsort(copies[:, 0], kind="stable")
    start = np.searchsorted(copies[order, 0], np.arange(problem.num_experts))
    rank = np.arange(len(order)) - start[copies[order, 0]]
    copies = copies[order[rank < most]]
    return copies[np.lexsort(copies.T[::-1])]


def heaviest(
    load: NDArray[np.float64], excess: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Choose experts that together load broken rows by twice their excess.

    Parameters
    ----------
    load
        What each expert puts on each broken row; (N, rows).
    excess
        By how much each row is broken; (rows,).

    Returns
    -------
    ndarray of int64
        Experts, heaviest first for each row; at most a quarter of all.
    """
    chosen: list[int] = []
    for row, over in enumerate(excess.tolist()):
        order = np.argsort(-load[:, row], kind="stable")
        sums = np.cumsum(load[order, row])
        count = int(np.searchsorted(sums, 2.0 * over)) + 1
        count = min(count, max(len(order) // 4, 1))
        chosen += [i for i in order[:count].tolist() if load[i, row] > 0.0]
    return np.array(list(dict.fromkeys(chosen)), dtype=np.int64)


# -- home ------------------------------------------------------------------------------


def _mend_home(
    problem: Problem,
    plan: Plan,
    rng: np.random.Generator,
    best: Incumbent,
    check: Budget,
) -> None:
    state = HomeState(problem)
    copies = adapted_copies(problem, plan.copies)
    t, s = state.tables, state.s
    of = t.group_of[copies[:, 0]]
    s.group_format[of[of >= 0]] = copies[of >= 0, 2]
    prepare_formats(state)
    state.set_copies(copies)
    start = best.objective
    done = 0.0

    def spent() -> bool:
        nonlocal done
        done, new = state.work, state.work - done
        return check.step(new)

    more = False  # copies than before
    least, since = math.inf, 0
    for _ in range(ROUNDS):
        _make_room(state, rng, more=more)
        load = _settle(state, rng)
        _, memory, wrong = state.excess()
        if memory <= 0.5 * FEASIBILITY and not wrong and not len(_incomplete(state)):
            best.offer_state(state, lp_shares=LP_SHARES)
            if load <= 0.5 * FEASIBILITY or best.objective < start:
                return
        if spent():
            best.offer(state.plan())
            return
        since = 0 if load < 0.95 * least else since + 1
        least = min(least, load)
        if since >= PATIENCE:
            if more:
                break
            more, since = True, 0
        if load > 0.5 * FEASIBILITY:
            _move(state, _loading(state), rng, more=more)
    state.reset_prices()
    for _ in range(LAST):
        if mend(state, rng, rounds=6, spent=spent) or best.objective < start:
            break
        best.offer_state(state, lp_shares=LP_SHARES)
    best.offer(state.plan())
    best.offer_state(state, lp_shares=LP_SHARES)


def _make_room(state: HomeState, rng: np.random.Generator, *, more: bool) -> None:
    """Complete what lacks, and empty over-full places and counts step by step."""
    _move(state, _incomplete(state), rng, more=more)
    for _ in range(STEPS):
        crowd = _crowded(state)
        if not len(crowd):
            return
        few = rng.permutation(crowd)[: max(len(crowd) // STEPS, 1)]
        _move(state, few, rng, more=more)
        state.update_prices()


def _settle(state: HomeState, rng: np.random.Generator) -> float:
    """Decide shares again at rising prices; return the excess of loads that is left."""
    load = state.excess()[0]
    for _ in range(4):
        state.settle(state.order(rng))
        load = state.excess()[0]
        if load <= 0.5 * FEASIBILITY:
            break
        state.raise_margins()
        state.update_prices(memory=False)
    return load


def _move(
    state: HomeState,
    experts: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    more: bool,
) -> None:
    """Let experts respond; unless ``more``, who has one copy keeps one."""
    several = (state.s.copies[experts] > 1) | more
    extra = state.s.knob[EXTRA]
    for knob, mine in ((1.0, experts[several]), (0.0, experts[~several])):
        state.s.knob[EXTRA] = knob
        state.sweep(rng.permutation(mine), every=1)
    state.s.knob[EXTRA] = extra


def _incomplete(state: HomeState) -> NDArray[np.int64]:
    """Experts that lack a copy, a demand without an answer, or cover of a failure."""
    problem, t, s = state.problem, state.tables, state.s
    held = np.arange(s.option.shape[1]) < s.copies[:, None]
    server = np.where(held, t.server[np.maximum(s.option, 0)], NONE)
    lacks = np.zeros(len(s.copies), dtype=bool) if t.may_miss else s.copies == 0
    if not t.may_miss:
        for fails in t.fails:
            lacks |= ~(held & ~fails[server]).any(axis=1)
    rest = np.where(problem.calls[problem.application_of].T > 0, 1.0, 0.0)  # (N, Q)
    for n in range(t.prune_width.shape[1]):
        dropped = (s.pruned >> n) & 1 == 1
        rest -= np.where(dropped, t.prune_width[t.layer_of, n], 0.0)
    lacks |= ((s.choice < 0) & (rest > SHARE_SUM)).any(axis=1)
    return np.flatnonzero(lacks)


def _crowded(state: HomeState) -> NDArray[np.int64]:
    """Experts with a copy in an over-full place, or in a count row that is broken."""
    t, s = state.tables, state.s
    full = s.used - t.room > 0.5 * FEASIBILITY * t.memory_norm
    wrong = (s.tally > t.count_upper) | (s.tally < t.count_lower)
    held = np.arange(s.option.shape[1]) < s.copies[:, None]
    full_here = held & full[t.place[np.maximum(s.option, 0)]]
    crowd: NDArray[np.bool_] = full_here.sum(axis=1) > 0
    for row in np.flatnonzero(wrong).tolist():
        crowd[state.problem.count_rows[row].experts] = True
    return np.flatnonzero(crowd)


def _loading(state: HomeState) -> NDArray[np.int64]:
    """Experts whose calls load the rows that are exceeded most."""
    s = state.s
    over = s.load - state.limit
    rows = np.flatnonzero(
        np.isfinite(state.limit) & (over > 0.5 * FEASIBILITY * s.norm)
    )
    load = np.zeros((len(s.copies), len(rows)))
    kept = s.load.copy()
    for i in range(len(load)):
        state.run.carry(state.packed, state.live, i, -1.0)
        load[i] = kept[rows] - s.load[rows]
        s.load[:] = kept
    return heaviest(load, over[rows])


# -- roam ------------------------------------------------------------------------------


def _mend_roam(
    problem: Problem,
    plan: Plan,
    rng: np.random.Generator,
    best: Incumbent,
    check: Budget,
) -> None:
    search = RoamSearch(problem)
    t, s = search.tables, search.s
    copies = adapted_copies(problem, plan.copies)
    for group in range(len(s.group_format)):
        held = copies[t.group_of[copies[:, 0]] == group, 2]
        s.group_format[group] = held[0] if len(held) else 0
    search.set_options(search.options_of(copies))
    search.set_prices(search.objective())
    for _ in range(ROUNDS):
        homeless = [i for i in range(len(s.option)) if _homeless(search, i)]
        search.run.build(search.packed, search.live, np.array(homeless, dtype=np.int64))
        if search.run.charge(search.packed, search.live) <= 0.0:
            best.offer(search.plan())
            return
        search.adapt()
        movers = _misplaced(search, rng)
        search.run.build(search.packed, search.live, movers)
        if check.step(1e-6 * len(movers) * len(t.place)):
            best.offer(search.plan())
            return
    hot = 0.1 * search.heat(rng)
    for _ in range(MOVES):
        search.anneal(max(problem.num_experts, 100), hot, 0.3 * hot, rng)
        search.adapt()
        hot *= 0.7
        if check.step(1e-5 * problem.num_experts):
            break
    best.offer(search.plan())
    if math.isfinite(s.best_value[0]):
        best.offer(search.plan(s.best))


def _homeless(search: RoamSearch, i: int) -> bool:
    t, start = search.tables, search.tables.usable_start
    mine = t.usable[start[i] : start[i + 1]]
    return bool(search.s.option[i] < 0 and len(mine) and NOWHERE not in mine)


def _misplaced(search: RoamSearch, rng: np.random.Generator) -> NDArray[np.int64]:
    """Experts at broken rows: some of a full place or a count, heavy ones of loads."""
    t, s = search.tables, search.s
    held = np.maximum(s.option, 0)
    full = s.used - t.room > 0.1 * FEASIBILITY * t.room_norm
    crowd = (s.option >= 0) & full[t.place[held]]
    for row in np.flatnonzero((s.tally > t.count_upper) | (s.tally < t.count_lower)):
        crowd[search.problem.count_rows[row].experts] = True
    few = rng.permutation(np.flatnonzero(crowd))
    few = few[: max(len(few) // STEPS, 1)]
    over = s.load - t.limit
    rows = np.flatnonzero(np.isfinite(t.limit) & (over > 0.1 * FEASIBILITY * t.norm))
    if not len(rows):
        return few.astype(np.int64)
    load = np.zeros((len(s.option), len(rows)))
    for i in range(len(load)):
        before = s.load[rows].copy()
        search.run.put(search.packed, search.live, i, roam_kernels.OUT)
        load[i] = before - s.load[rows]
        search.run.put(search.packed, search.live, i, roam_kernels.IN)
    heavy = heaviest(load, over[rows])
    return np.unique(np.concatenate([few, heavy])).astype(np.int64)

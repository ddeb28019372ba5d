"""The last step for `parallel`: a plan is improved on its sampled tokens, exactly.

A walk over changes of single copies (place, format, one more, one less, two that change
places) and of shares. Each change is worth what `score` would say, found from the
tokens that call the experts that change; rows never break. First only what is better
stays, then the walk is heated and cooled again and again, from the best plan
(simulated annealing with restarts).

References
----------
.. [1] Kirkpatrick, S., Gelatt, C. D., & Vecchi, M. P. (1983). Optimization by simulated
   annealing. *Science* 220(4598). https://doi.org/10.1126/science.220.4598.671
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.plan import Plan
from meldopt.score import Flows, least_time_copies

from . import sampled_moves
from .compiled import compiled, plain
from .kernels import NONE
from .sampled_kernels import (
    COST,
    DONE,
    SAMPLED,
    TRIED,
    UPHILL,
    WORK,
)
from .sampled_moves import DRAWS
from .sampled_tables import sampled_state, sampled_tables
from .tables import build_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .incumbent import Incumbent

SMALL = 2_000
"""Sampled calls up to which nothing is compiled."""

SPARE = 2
"""Copies of an expert for which there is room beyond the most of the plan."""

ROUNDING = 1e-9
"""Relative excess of a row that sums of many changes may show."""

BATCH = 2_000
"""Moves of which the best is looked at together, compiled; a tenth in Python."""

COOLING = 8
"""Batches from hot to cold."""

HEAT = 0.1
"""First temperature, as a part of what a refused move costs on average."""

COLD = 0.02
"""Last temperature, as a part of the first."""

COOLER = 0.7
"""Factor of the temperature after cooling that found nothing better."""

SETTLED = 5e-4
"""Relative gain of some batches below which a descent is over."""

PATIENCE = 5
"""Those batches."""

UNIT = 4e-8
"""Deterministic work of looking at one call of a token."""


def is_sampled(problem: Problem) -> bool:
    """Say whether a problem has sampled tokens that its objective looks at."""
    weight = problem.weight_of("parallel") + problem.weight_of("fluid")
    return bool(
        problem.dataflow == "home" and weight > 0 and len(problem.sample_demand)
    )


class SampledSearch:
    """A plan with all that its sampled tokens need to be judged move by move.

    Parameters
    ----------
    problem
        With the `home` dataflow and sampled tokens.
    plan
        Feasible; where it exceeds a limit by what is forgiven, it may stay there.
    compile_
        Whether the kernels are compiled; None: if there are many calls.
    """

    def __init__(
        self, problem: Problem, plan: Plan, *, compile_: bool | None = None
    ) -> None:
        self.problem = problem
        self.tables = t = build_tables(problem, never=0.0)
        flows = Flows(problem, plan)
        held = np.bincount(plan.copies[:, 0], minlength=problem.num_experts)
        most = min(problem.num_servers, problem.max_copies or problem.num_servers)
        slots = max(min(most, int(held.max(initial=1)) + SPARE), int(held.max()), 1)
        self.calls = c = sampled_tables(problem, t, slots)
        self.s = sampled_state(problem, t, c, slots)
        self.valid = np.flatnonzero(c.expert >= 0).astype(np.int64)
        small = len(self.valid) <= SMALL if compile_ is None else not compile_
        self.compiled = not small
        self.run = (plain if small else compiled)(sampled_moves)
        self._take(plan, flows)
        self.packed, self.fixed = self.run.pack(t), self.run.pack(c)
        self.live = self.run.pack(self.s)
        self.recount()
        s = self.s
        slack = ROUNDING * np.abs(s.limit)
        with np.errstate(invalid="ignore"):
            s.limit[:] = np.where(
                np.isfinite(s.limit), np.maximum(s.limit, s.load) + slack, np.inf
            )
        s.room[:] = np.maximum(s.room, s.used) + ROUNDING * t.memory_norm
        s.lower[:] = np.minimum(s.lower, s.tally)
        s.upper[:] = np.maximum(s.upper, s.tally)

    # -- what it is worth --------------------------------------------------------------
    @property
    def objective(self) -> float:
        """Objective of the plan, as `score` has it."""
        return float(self.s.knob[COST] + self.s.knob[SAMPLED])

    @property
    def sampled(self) -> float:
        """What of the objective are sampled terms."""
        return float(self.s.knob[SAMPLED])

    @property
    def work(self) -> float:
        """Deterministic work done so far, in units of about a second."""
        return float(self.s.knob[WORK]) * UNIT

    def recount(self) -> None:
        """Add everything up afresh: sums of many changes drift by rounding."""
        self.run.build(self.packed, self.fixed, self.live)

    # -- moves -------------------------------------------------------------------------
    def walk(
        self,
        rng: np.random.Generator,
        moves: int,
        hot: float = 0.0,
        cold: float = 0.0,
    ) -> None:
        """Try moves.

        Parameters
        ----------
        rng
            Decides which.
        moves
            How many.
        hot, cold
            Temperatures at the start and the end; 0: nothing worse stays.
        """
        knob = self.s.knob
        knob[TRIED] = knob[DONE] = knob[UPHILL] = 0.0
        draws = rng.random((moves, DRAWS))
        self.run.walk(self.packed, self.fixed, self.live, self.valid, draws, hot, cold)
        self.recount()

    @property
    def uphill(self) -> float:
        """What a refused move of the last walk would have cost, on average."""
        knob = self.s.knob
        return float(knob[UPHILL]) / max(float(knob[TRIED] - knob[DONE]), 1.0)

    def keep(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        """Copy what makes the plan."""
        return {name: getattr(self.s, name).copy() for name in _PLAN}

    def put_back(
        self, kept: dict[str, NDArray[np.float64] | NDArray[np.int64]]
    ) -> None:
        """Come back to a plan that was kept."""
        for name, values in kept.items():
            getattr(self.s, name)[...] = values
        self.recount()

    # -- taking and giving -------------------------------------------------------------
    def _take(self, plan: Plan, flows: Flows) -> None:
        """Lay a plan out by expert, demand and copy."""
        s, t, problem = self.s, self.tables, self.problem
        expert, place, format_ = plan.copies.T
        option = self.calls.option_at[place, format_]
        first = np.searchsorted(expert, np.arange(problem.num_experts))
        slot = np.arange(len(expert)) - first[expert]
        s.option[expert, slot] = option
        s.copies[:] = np.bincount(expert, minlength=problem.num_experts)
        np.add.at(s.share, (flows.i, flows.q, slot[flows.c]), flows.share)
        if len(flows.fq):
            slot_at = np.full((problem.num_experts, problem.num_places), NONE)
            slot_at[expert, place] = slot
            at = slot_at[flows.fi, flows.fv]
            np.add.at(s.fused, (flows.fi, flows.fq, at), flows.fshare)
        np.add.at(s.pruned, (flows.pi, flows.pq), flows.pshare)
        if len(flows.uq):
            pair = {
                (i, int(j)): n
                for i in range(problem.num_experts)
                for n, j in enumerate(
                    t.similar_to[t.similar_start[i] : t.similar_start[i + 1]].tolist(),
                    start=int(t.similar_start[i]),
                )
            }
            other = expert[flows.uc]
            at = np.array(
                [
                    pair[i, j]
                    for i, j in zip(flows.ui.tolist(), other.tolist(), strict=True)
                ]
            )
            np.add.at(s.sub, (at, flows.uq), flows.ushare)
            n, _ = np.nonzero(s.sub > 0)
            s.lent[:] = np.bincount(t.similar_to[n], minlength=problem.num_experts)

    def plan(self) -> Plan:
        """Return the plan; what follows the default rule is left out."""
        problem, s, t = self.problem, self.s, self.tables
        i, k = np.nonzero(np.arange(s.option.shape[1]) < s.copies[:, None])
        o = s.option[i, k]
        copies = np.stack([i, t.place[o], t.format[o]], axis=1).astype(np.int64)
        index = np.full(s.option.shape, NONE, dtype=np.int64)
        index[i, k] = np.arange(len(i))
        default = least_time_copies(problem, copies)  # (Q, N)
        lent = np.zeros(s.pruned.shape)
        owner = np.repeat(np.arange(problem.num_experts), np.diff(t.similar_start))
        np.add.at(lent, owner, s.sub)
        # Whole at the copy of least time, and nothing else: the default rule.
        listed = (s.pruned > 0) | (lent > 0) | (s.share > 0).any(axis=2)
        top = s.share.argmax(axis=2)
        alone = (s.share > 0).sum(axis=2) == 1
        whole = np.isclose(s.share.max(axis=2), 1.0, rtol=0, atol=1e-12)
        usual = np.take_along_axis(index, top, axis=1) == default.T
        listed &= ~(alone & whole & usual & (s.pruned == 0) & (lent == 0))
        i, q, k = np.nonzero(listed[..., None] & (s.share > 0))
        served = np.stack([q, i, index[i, k]], axis=1)
        served_share = s.share[i, q, k]
        fused, fused_share = [], []
        left = s.fused.copy()
        for m in range(t.fuse_width.shape[1]):
            width = t.fuse_width[problem.layer_of, m, :, None] * s.share
            part = np.minimum(width, left)
            left -= part
            i, q, k = np.nonzero(part > 0)
            v = t.place[s.option[i, k]]
            fused.append(np.stack([q, i, v, np.full_like(q, m)], axis=1))
            fused_share.append(part[i, q, k])
        pruned, pruned_share = [], []
        rest = s.pruned.copy()
        for m in range(t.prune_width.shape[1]):
            part = np.minimum(t.prune_width[problem.layer_of, m], rest)
            rest -= part
            i, q = np.nonzero(part > 0)
            pruned.append(np.stack([q, i, np.full_like(q, m)], axis=1))
            pruned_share.append(part[i, q])
        n, q = np.nonzero(s.sub > 0)
        at = self._answering(owner[n], t.similar_to[n], q, index)
        return Plan.of(
            problem,
            copies,
            served=served,
            served_share=served_share,
            fused=_join(fused, 4),
            fused_share=np.concatenate([*fused_share, np.zeros(0)]),
            substituted=np.stack([q, owner[n], at], axis=1),
            substituted_share=s.sub[n, q],
            pruned=_join(pruned, 3),
            pruned_share=np.concatenate([*pruned_share, np.zeros(0)]),
        )

    def _answering(
        self,
        i: NDArray[np.int64],
        j: NDArray[np.int64],
        q: NDArray[np.int64],
        index: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the copies of experts at the homes of demands."""
        s, t = self.s, self.tables
        home = t.source[t.layer_of[i], q]
        option = s.option[j]  # (n, C)
        here = (option >= 0) & (t.server[option] == home[:, None])
        slot = here.argmax(axis=1)
        found: NDArray[np.int64] = index[j, slot]
        return found


_PLAN = ("option", "copies", "share", "fused", "pruned", "sub", "lent")


def _join(tables: list[NDArray[np.int64]], width: int) -> NDArray[np.int64]:
    return np.concatenate([*tables, np.zeros((0, width), dtype=np.int64)])


def improve_sampled(
    problem: Problem,
    best: Incumbent,
    *,
    rng: np.random.Generator,
    spent: Callable[[], bool],
) -> bool:
    """Improve the plan of an incumbent on its sampled tokens until told to end.

    Parameters
    ----------
    problem, best
        Of the run; ``best`` holds a feasible plan.
    rng
        Decides which moves are tried.
    spent
        Asked after each batch of moves whether to end.

    Returns
    -------
    bool
        Whether the plan became better.
    """
    assert best.plan is not None
    before = best.objective
    search = SampledSearch(problem, best.plan)
    batch = BATCH if search.compiled else BATCH // 10
    found = Annealing(search, rng, batch)
    done = 0.0
    if search.objective < before:  # fused and pruned shares, put in their best order
        best.offer(search.plan())
    while True:
        better = found.step()
        best.work += search.work - done
        done = search.work
        if better:
            best.offer(search.plan())
        if spent():
            return best.objective < before


class Annealing:
    """Descent, then cooling again and again from the best plan.

    Parameters
    ----------
    search
        What walks.
    rng
        Decides which moves are tried.
    batch
        Moves of a step.
    """

    def __init__(
        self, search: SampledSearch, rng: np.random.Generator, batch: int
    ) -> None:
        self.search, self.rng, self.batch = search, rng, batch
        self.value = search.objective
        self.kept = search.keep()
        self.heat = 0.0
        self.number = -1  # of the batch in a cooling; -1: descent
        self.gained = False
        self.values: list[float] = []

    def step(self) -> bool:
        """Walk one batch; say whether the best plan became better."""
        search = self.search
        if self.number < 0:
            search.walk(self.rng, self.batch)
            better = self.note()
            self.values.append(self.value)
            old = self.values[-1 - PATIENCE] if len(self.values) > PATIENCE else np.inf
            if old - self.value <= SETTLED * abs(self.value):
                self.heat = HEAT * search.uphill
                self.number = 0
            return better
        each = COLD ** (1.0 / COOLING)
        hot = self.heat * each**self.number
        search.walk(self.rng, self.batch, hot, hot * each)
        better = self.note()
        self.gained |= better
        self.number += 1
        if self.number == COOLING:
            self.number = 0
            if not self.gained:
                self.heat *= COOLER
            self.gained = False
            search.put_back(self.kept)
        return better

    def note(self) -> bool:
        """Keep the plan if it is better than the best."""
        value = self.search.objective
        if value >= self.value:
            return False
        self.value, self.kept = value, self.search.keep()
        return True

"""The incremental state of the `home` search: copies, answers, loads and prices."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.plan import Plan
from meldopt.score import least_time_copies
from meldopt.tolerance import FEASIBILITY

from . import kernels
from .compiled import compiled, plain
from .kernels import IN, NONE, STEEP, WORK, State
from .tables import NO_LIMIT, build_tables, serial_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from meldopt.problem import Problem

SMALL = 8_000
"""Options x demands x experts up to which nothing is compiled."""

OFTEN, SELDOM = 4, 4000
"""Prices follow the loads after so many experts; after more where each one is one of
many: this part of all."""

LOWEST = 1e-5
"""Least price of a row, as a part of objective / limit: it must be able to return."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """What a search must keep of some experts to come back to a state."""

    experts: NDArray[np.int64]
    option: NDArray[np.int64]
    copies: NDArray[np.int64]
    choice: NDArray[np.int64]
    answer: NDArray[np.int64]
    pruned: NDArray[np.int64]
    fused: NDArray[np.int64]
    live: NDArray[np.bool_]
    used: NDArray[np.float64]
    tally: NDArray[np.int64]
    load: NDArray[np.float64]
    group_format: NDArray[np.int64]


_BY_EXPERT = ("option", "copies", "choice", "answer", "pruned", "fused", "live")
_SUMS = ("used", "tally", "load", "group_format")


def _typical(problem: Problem) -> dict[str, float]:
    """Estimate loads if every call took an average option; what scales go by."""
    calls = problem.calls[problem.application_of]  # (Q, N)
    mass = problem.rate @ calls  # (N,)
    total = float(mass.sum())
    reach = problem.reachable
    trip = np.where(reach, problem.round_trip_s, 0.0)
    move = np.where(reach, problem.transfer_s, 0.0)
    flop = np.where(problem.allowed, problem.s_per_flop, 0.0)
    runs = max(int(problem.allowed.sum()), 1)
    work = (
        problem.flop * flop.sum() / runs
        + problem.size_bytes.mean(axis=1) * problem.s_per_byte.mean()
    )
    loss = np.abs(problem.format_loss).mean(axis=2)  # (G, N)
    nats = float((problem.application_rate[:, None] * problem.calls * loss).sum())
    drop = problem.prune_width * problem.prune_loss
    if drop.size:
        nats += 0.1 * total * float(drop.sum(axis=2).mean())
    busy = float(mass @ work)
    sent = total * (problem.bytes_out + problem.bytes_back)
    return {
        "calls": total,
        "busy": busy,
        "sent": sent,
        "nats": nats,
        "serial": total * float((trip + move).mean()) + busy,
        "energy": busy * float(problem.power_w.mean()),
    }


def steepness(experts: int, servers: int) -> float:
    """Return how steep prices may be: one expert should not move one by half."""
    return float(np.clip(0.25 * experts / max(servers, 1), 6.0, 200.0))


class HomeState:
    """The state of a search on a problem with the `home` dataflow.

    Parameters
    ----------
    problem
        What is to be solved.
    compile_
        Whether the kernels are compiled; None: if the problem is not small.
    """

    def __init__(self, problem: Problem, *, compile_: bool | None = None) -> None:
        self.problem = problem
        rough = _typical(problem)
        total = problem.total_rate
        value = (
            serial_weight(problem) * rough["serial"]
            + problem.weight_of("quality") * rough["nats"]
            + problem.weight_of("traffic") * rough["sent"]
            + problem.weight_of("energy") * rough["energy"]
            + problem.weight_of("bottleneck") * rough["busy"]
        ) / total
        self.value = value if value > 0 else 1.0
        calls = max(rough["calls"], 1e-300)
        self.tables = t = build_tables(problem, never=1e8 * self.value / calls)
        num_options = len(t.place)
        size = num_options * problem.num_demands * problem.num_experts
        self.compiled = size > SMALL if compile_ is None else compile_
        self.run = (compiled if self.compiled else plain)(kernels)
        self.size = size
        self.limit, norm = self._limits(rough)
        self.s = self._state(norm)
        # What kernels take: the same arrays.
        self.packed, self.live = self.run.pack(t), self.run.pack(self.s)
        self.floor = np.where(np.isfinite(self.limit), LOWEST * self.value / norm, 0.0)
        self.memory_floor = LOWEST * self.value / t.memory_norm
        self.count_floor = LOWEST * self.value / self.s.count_norm
        # Where experts share the copies of a row, those are worth a price to each;
        # of its own rows an expert only keeps or breaks the limit.
        shared = [len(np.unique(row.experts)) > 1 for row in problem.count_rows]
        self.shared = np.array(shared, dtype=np.bool_)
        self.steepest = float(self.s.knob[STEEP])
        self.every = max(OFTEN, problem.num_experts // SELDOM)
        self.margin = np.zeros(len(self.limit))
        self.layers = [
            np.arange(*problem.layer_start[layer : layer + 2], dtype=np.int64)
            for layer in range(problem.num_layers)
        ]
        self.reset_prices()

    # -- set-up ------------------------------------------------------------------------
    def _limits(
        self, rough: dict[str, float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        problem, at = self.problem, self.tables.at
        limit = np.full(int(at[-1]), np.inf)
        usual = np.ones(int(at[-1]))
        limit[at[1] : at[2]] = problem.busy
        usual[at[1] : at[2]] = rough["busy"] / max(len(problem.processor_server), 1)
        limit[at[2] : at[3]] = problem.link_busy * problem.link_bandwidth
        usual[at[2] : at[3]] = rough["sent"] / max(len(problem.link_from), 1)
        caps = [cap.max_tokens_per_s for cap in problem.budget_caps]
        limit[at[3] : at[4]] = caps
        usual[at[3] : at[4]] = rough["calls"] / max(len(caps), 1)
        rate = problem.application_rate
        for first, per_token, what in (
            (4, problem.quality_budget, "nats"),
            (5, problem.latency_target, "serial"),
        ):
            with np.errstate(invalid="ignore"):
                row = np.where(rate > 0, per_token * rate, np.inf)
            limit[at[first] : at[first + 1]] = row
            usual[at[first] : at[first + 1]] = rough[what] / max(len(rate), 1)
        finite = np.where(np.isfinite(limit), np.abs(limit), 1.0)
        return limit, np.maximum(np.maximum(finite, 0.01 * usual), 1e-300)

    def _state(self, norm: NDArray[np.float64]) -> State:
        problem, t = self.problem, self.tables
        num, num_q = problem.num_experts, problem.num_demands
        num_s, num_o = problem.num_servers, len(t.place)
        most = min(num_s, problem.max_copies or num_s)
        table = (num, num_q)
        groups = int(t.group_of.max(initial=-1)) + 1
        steep = steepness(num, num_s)
        segments = t.prune_width.shape[1]
        asking = int(np.diff(t.asked_start).max(initial=0))
        clients = num_q * (1 + asking)
        return State(
            option=np.full((num, most), NONE, dtype=np.int64),
            copies=np.zeros(num, dtype=np.int64),
            live=np.zeros(num, dtype=np.bool_),
            choice=np.full(table, NONE, dtype=np.int64),
            answer=np.full(table, NONE, dtype=np.int64),
            pruned=np.zeros(table, dtype=np.int64),
            fused=np.zeros(table, dtype=np.int64),
            used=np.zeros(problem.num_places),
            tally=np.zeros(len(t.count_lower), dtype=np.int64),
            load=np.zeros(int(t.at[-1])),
            limit=self.limit.copy(),
            norm=norm,
            scale=np.zeros(int(t.at[-1])),
            price=t.objective.copy(),
            memory_scale=np.zeros(problem.num_places),
            memory_over=np.zeros(problem.num_places),
            count_price=np.zeros(len(t.count_lower)),
            count_most=np.zeros(len(t.count_lower)),
            count_least=np.zeros(len(t.count_lower)),
            count_norm=np.maximum(
                np.where(t.count_upper < NO_LIMIT, t.count_upper, t.count_lower),
                2.0 * steep,
            ),
            group_format=np.full(groups, NONE, dtype=np.int64),
            knob=np.array([steep, 1.0, 1.0, 0.0]),
            route=np.zeros((num_s, num_s)),
            net=np.zeros((num_s, num_q)),
            serial=np.zeros(num_q),
            nat=np.zeros(num_q),
            omega=np.zeros(problem.num_places),
            drop=np.zeros((segments, num_q)),
            rest=np.ones(num_q),
            cost=np.zeros((num_o, clients)),
            held=np.zeros(num_o),
            least=np.zeros(clients),
            bare=np.zeros(clients),
            mass=np.zeros(num_q),
            pick=np.zeros(most + 1, dtype=np.int64),
            fit=np.zeros(num_s, dtype=np.bool_),
        )

    def reset_prices(self) -> None:
        """Set all prices to where a search begins."""
        s, t = self.s, self.tables
        self.margin[:] = 0.0
        s.limit[:] = self.limit
        s.scale[:] = np.where(np.isfinite(self.limit), 100 * self.floor, 0.0)
        room = float(np.maximum(t.room, 0.0).sum()) or 1.0
        s.memory_scale[:] = 0.1 * self.value / room
        s.memory_over[:] = 10.0 * self.value / room * max(len(t.room), 1)
        # Its own rows an expert can keep whatever the others do.
        num = np.where(self.shared, max(self.problem.num_experts, 1), 1)
        s.count_price[:] = self.value / num
        start = np.where(self.shared, 100 * self.count_floor, 0.0)
        s.count_most[:] = np.where(t.count_upper < NO_LIMIT, start, 0.0)
        s.count_least[:] = np.where(t.count_lower > 0, start, 0.0)

    def focus(self, options: NDArray[np.bool_] | None) -> None:
        """Let experts choose among some options only, (N, O); all again when None."""
        t = self.tables
        if options is not None:
            t = t._replace(usable=t.usable & options)
        self.packed = self.run.pack(t)

    @contextmanager
    def part(self, share: float) -> Iterator[None]:
        """Give the rows this share of their limits, for so many of the experts.

        Prices and what they are per unit of load stay comparable. The state must be
        empty; it is emptied at the end.
        """
        s, t = self.s, self.tables
        scaled = (self.limit, s.limit, s.norm, t.room, t.memory_norm)
        kept = [array.copy() for array in scaled]
        top = self.steepest
        for array in scaled:
            array *= share
        self.steepest = steepness(round(share * len(s.copies)), len(s.fit))
        try:
            yield
        finally:
            self.clear(np.flatnonzero(s.live))
            for array, was in zip(scaled, kept, strict=True):
                array[:] = was
            self.steepest = s.knob[STEEP] = top
            self.recount()

    # -- moves -------------------------------------------------------------------------
    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return all experts, layers and the experts of each in random order."""
        parts = [
            self.layers[int(layer)][rng.permutation(len(self.layers[int(layer)]))]
            for layer in rng.permutation(len(self.layers))
        ]
        return np.concatenate(parts)

    def sweep(self, order: NDArray[np.int64], every: int | None = None) -> None:
        """Let experts respond to the prices, one after the other."""
        self.run.sweep(self.packed, self.live, order, every or self.every)

    def settle(self, order: NDArray[np.int64], every: int | None = None) -> None:
        """Re-decide shares, pruning and fusion of experts; copies stay."""
        self.run.settle(self.packed, self.live, order, every or self.every)

    def upgrade_level(
        self,
        order: NDArray[np.int64],
        known: NDArray[np.float64],
        level: float,
        every: int = 8,
    ) -> int:
        """Carry out upgrades that gain so much per byte; return how many."""
        return int(
            self.run.upgrade_level(self.packed, self.live, order, known, level, every)
        )

    def set_copies(self, copies: NDArray[np.int64]) -> None:
        """Take over the copies of a plan, (C, 3); options that cannot be are left."""
        t, s = self.tables, self.s
        at = {
            (int(v), int(b)): o
            for o, (v, b) in enumerate(zip(t.place, t.format, strict=True))
        }
        most = s.option.shape[1]
        lists: list[list[int]] = [[] for _ in range(len(s.copies))]
        for i, v, b in copies.tolist():
            o = at.get((v, b), NONE)
            if o >= 0 and len(lists[i]) < most:
                lists[i].append(o)
        target = np.full((len(lists), most), NONE, dtype=np.int64)
        for i, row in enumerate(lists):
            # Pinned copies come first: the kernels never touch the first ones.
            pins = t.pin_option[t.pin_start[i] : t.pin_start[i + 1]].tolist()
            row.sort(key=lambda o: (pins.index(o) if o in pins else len(pins), o))
            target[i, : len(row)] = row
        num = np.array([len(row) for row in lists], dtype=np.int64)
        order = np.arange(len(lists), dtype=np.int64)
        self.run.place_all(self.packed, self.live, order, target, num, self.every)

    def update_prices(
        self, rate: float = 0.5, most: float = 1.5, *, memory: bool = True
    ) -> None:
        """Raise the prices of rows that are exceeded, lower those with room left."""
        s, t = self.s, self.tables
        steep = s.knob[STEEP]
        rows = np.isfinite(self.limit)
        excess = (s.load[rows] - s.limit[rows]) / s.norm[rows]
        step = np.clip(rate * steep * excess, -most, most)
        s.scale[rows] = np.clip(
            s.scale[rows] * np.exp(step), self.floor[rows], 1e7 * self.floor[rows]
        )
        if not memory:
            return
        over = s.used - t.room
        step = np.clip(rate * steep * over / t.memory_norm, -most, most)
        s.memory_scale[:] = np.clip(
            s.memory_scale * np.exp(step), self.memory_floor, 1e7 * self.memory_floor
        )
        bad = over > FEASIBILITY * t.memory_norm
        s.memory_over[bad] *= 1.5
        wrong = (s.tally > t.count_upper) | (s.tally < t.count_lower)
        s.count_price[wrong] *= 1.5
        for price, excess in (
            (s.count_most, (s.tally - t.count_upper) / s.count_norm),
            (s.count_least, (t.count_lower - s.tally) / s.count_norm),
        ):
            on, floor = price > 0.0, self.count_floor
            step = np.clip(rate * steep * excess, -most, most)
            price[on] = np.clip(price * np.exp(step), floor, 1e7 * floor)[on]

    def raise_margins(self) -> None:
        """Aim lower at rows that are still exceeded, by at most a hundredth."""
        s = self.s
        rows = np.isfinite(self.limit)
        excess = (s.load[rows] - self.limit[rows]) / s.norm[rows]
        more = np.where(excess > 0.0, np.minimum(0.5 * excess + 1e-4, 2e-3), 0.0)
        self.margin[rows] = np.minimum(self.margin[rows] + more, 0.01)
        s.limit[rows] = self.limit[rows] - self.margin[rows] * s.norm[rows]

    def lower_margins(self) -> None:
        """Aim closer at the limits again."""
        rows = np.isfinite(self.limit)
        self.margin *= 0.5
        self.s.limit[rows] = self.limit[rows] - self.margin[rows] * self.s.norm[rows]

    def usual_format(self, experts: NDArray[np.int64]) -> int:
        """Return the smallest format that most options of experts have."""
        t = self.tables
        runs = np.bincount(
            t.format,
            weights=t.usable[experts].sum(axis=0),
            minlength=self.problem.num_formats,
        )
        best = np.flatnonzero(runs == runs.max())
        return int(best[np.argmin(self.problem.size_bytes[experts].sum(axis=0)[best])])

    # -- what it is worth --------------------------------------------------------------
    def objective(self) -> float:
        """Objective from the loads, with serial in place of the sampled terms."""
        s, t = self.s, self.tables
        total = float(t.objective @ s.load)
        if t.bottleneck:
            cells = s.load[t.at[6] : t.at[7]].reshape(len(self.layers), -1)
            total += t.bottleneck * float(cells.max(axis=1).sum())
        return total

    def idle(self) -> float:
        """Return what the rows charge for the room that is left in them."""
        s = self.s
        rows = np.isfinite(self.limit)
        room = (s.limit[rows] - s.load[rows]) / s.norm[rows]
        growth = np.exp(-s.knob[STEEP] * np.maximum(room, 0.0))
        left = np.maximum(self.limit[rows] - s.load[rows], 0.0)
        return float((s.scale[rows] * growth * left).sum())

    def excess(self) -> tuple[float, float, int]:
        """Return the largest relative excess of loads and of memory; wrong counts."""
        s, t = self.s, self.tables
        rows = np.isfinite(self.limit)
        load = (s.load[rows] - self.limit[rows]) / s.norm[rows]
        memory = (s.used - t.room) / t.memory_norm
        wrong = np.maximum(s.tally - t.count_upper, 0) + np.maximum(
            t.count_lower - s.tally, 0
        )
        return (
            float(load.max(initial=-1.0)),
            float(memory.max(initial=-1.0)),
            int(wrong.sum()),
        )

    def crowded(self) -> NDArray[np.bool_]:
        """Say which places hold more than there is room for, (V,)."""
        t = self.tables
        return self.s.used - t.room > 0.5 * FEASIBILITY * t.memory_norm

    def potential(self) -> float:
        """Objective plus what rows charge at the prices of now."""
        return float(self.run.potential(self.packed, self.live))

    @property
    def work(self) -> float:
        """Deterministic work done so far, in units of about a second."""
        return float(self.s.knob[WORK]) * 1e-9

    def recount(self) -> None:
        """Add up all loads afresh: sums of many changes drift by rounding."""
        s = self.s
        s.used[:] = 0.0
        s.load[:] = 0.0
        s.tally[:] = 0
        for i in np.flatnonzero(s.live).tolist():
            self.run.hold(self.packed, self.live, i, IN)
            self.run.carry(self.packed, self.live, i, 1.0)

    # -- keeping and giving ------------------------------------------------------------
    def keep(self, experts: NDArray[np.int64]) -> Snapshot:
        """Copy what changes when only these experts move; not the prices.

        They must be closed under similarity (`closure`).
        """
        parts = {name: getattr(self.s, name)[experts] for name in _BY_EXPERT}
        sums = {name: getattr(self.s, name).copy() for name in _SUMS}
        return Snapshot(experts=experts.copy(), **parts, **sums)

    def put_back(self, kept: Snapshot) -> None:
        """Come back to a copied state; prices stay as they are."""
        for name in _BY_EXPERT:
            getattr(self.s, name)[kept.experts] = getattr(kept, name)
        for name in _SUMS:
            getattr(self.s, name)[...] = getattr(kept, name)

    def closure(self, experts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add the experts that similar ones answer for, sorted."""
        if not len(self.tables.similar_to):
            return np.unique(experts)
        groups = np.unique(self.problem.group_of[experts])
        return np.flatnonzero(np.isin(self.problem.group_of, groups)).astype(np.int64)

    def clear(self, experts: NDArray[np.int64]) -> None:
        """Take experts out; they have no copies then."""
        for i in experts.tolist():
            self.run.remove(self.packed, self.live, i)
        self.s.copies[experts] = 0

    def copies(self) -> NDArray[np.int64]:
        """Return the copies, sorted by expert, place and format; (C, 3)."""
        return self._copies()[0]

    def _copies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        s, t = self.s, self.tables
        i, k = np.nonzero(np.arange(s.option.shape[1]) < s.copies[:, None])
        o = s.option[i, k]
        table = np.stack([i, t.place[o], t.format[o]], axis=1).astype(np.int64)
        order = np.lexsort(table.T[::-1])
        index = np.full((len(s.copies), len(t.place)), NONE, dtype=np.int64)
        index[i[order], o[order]] = np.arange(len(order))
        return table[order], index

    def plan(self) -> Plan:
        """Return the state as a plan; what follows the default rule is left out."""
        problem, s, t = self.problem, self.s, self.tables
        copies, index = self._copies()
        default = least_time_copies(problem, copies).T  # (N, Q)
        experts = np.arange(problem.num_experts)[:, None]
        chosen = np.where(
            (s.choice >= 0) & (s.answer < 0), index[experts, s.choice], NONE
        )
        other = np.where(
            (s.choice >= 0) & (s.answer >= 0), index[s.answer, s.choice], NONE
        )
        called = (t.rate[:, None] * t.calls[t.app_of]).T > 0
        listed = called & ((s.pruned != 0) | (s.answer >= 0) | (chosen != default))
        rest = np.ones(listed.shape)
        pruned, pruned_share = [], []
        for n in range(t.prune_width.shape[1]):
            width = t.prune_width[problem.layer_of, n, :]
            share = np.where((s.pruned >> n) & 1 == 1, np.minimum(width, rest), 0.0)
            rest -= share
            i, q = np.nonzero(listed & (share > 0))
            pruned.append(np.stack([q, i, np.full_like(q, n)], axis=1))
            pruned_share.append(share[i, q])
        rest = np.maximum(rest, 0.0)
        rest[rest < 1e-12] = 0.0
        i, q = np.nonzero(listed & (chosen >= 0) & (rest > 0))
        served, served_share = np.stack([q, i, chosen[i, q]], axis=1), rest[i, q]
        i, q = np.nonzero(listed & (other >= 0) & (rest > 0))
        answered = np.stack([q, i, other[i, q]], axis=1)
        answered_share = rest[i, q]
        fused, fused_share = [], []
        for m in range(t.fuse_width.shape[1]):
            on = called & ((s.fused >> m) & 1 == 1) & (chosen >= 0) & (rest > 0)
            share = t.fuse_width[problem.layer_of, m, :] * rest
            i, q = np.nonzero(on & (share > 0))
            v = t.place[s.choice[i, q]]
            fused.append(np.stack([q, i, v, np.full_like(q, m)], axis=1))
            fused_share.append(share[i, q])
        return Plan.of(
            problem,
            copies,
            served=served,
            served_share=served_share,
            fused=_join(fused, 4),
            fused_share=np.concatenate([*fused_share, np.zeros(0)]),
            substituted=answered,
            substituted_share=answered_share,
            pruned=_join(pruned, 3),
            pruned_share=np.concatenate([*pruned_share, np.zeros(0)]),
        )


def _join(tables: list[NDArray[np.int64]], width: int) -> NDArray[np.int64]:
    return np.concatenate([*tables, np.zeros((0, width), dtype=np.int64)])

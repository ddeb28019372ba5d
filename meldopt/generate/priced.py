"""The best plan at given prices: one small facility location per expert.

With a price on every row that couples experts (bytes of memory, busy seconds, bytes on
a link, nats) the problem falls apart: each expert opens the copies that save more than
they cost, each demand takes the cheapest of them, prunes the segments of calls that
cost less than serving them, and fuses what pays. Experts of a layer are searched side
by side, by the best move (add a copy, change its format, drop it, move it) until none
helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.plan import Plan
from meldopt.score import least_time_copies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from meldopt.problem import Problem

_CELLS = 300_000  # experts x demands x options from which on the search is compiled
_SAVES = 1e-12  # relative saving below which a move is no better


@dataclass(slots=True, kw_only=True)
class Prices:
    """Prices of the coupling rows, in the unit of the objective per unit of the row."""

    memory: NDArray[np.float64]  # (V,) per byte
    compute: NDArray[np.float64]  # (P,) per busy share
    link: NDArray[np.float64]  # (K,) per byte/s
    quality: NDArray[np.float64]  # (G,) per nat per token


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a plan takes of each coupling row."""

    memory: NDArray[np.float64]  # (V,) bytes
    compute: NDArray[np.float64]  # (P,) busy share
    link: NDArray[np.float64]  # (K,) bytes/s
    quality: NDArray[np.float64]  # (G,) nats per token


@dataclass(slots=True, kw_only=True)
class _Layer:
    """Costs of one layer's experts at given prices; Q demands, O options."""

    experts: NDArray[np.int64]  # (E,)
    unit: NDArray[np.float64]  # (E, Q, O) of serving all calls by an option
    open: NDArray[np.float64]  # (E, O)
    prune: NDArray[np.float64]  # (E, Q, M) of pruning all calls
    width: NDArray[np.float64]  # (Q, M) share of calls that may go
    fuse: NDArray[np.bool_]  # (Q, S, M) whether fusing a segment pays


class Pricer:
    """Plans of one problem at prices; keeps what does not depend on them."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        places, formats = np.nonzero(problem.allowed)
        self.places = places.astype(np.int64)
        self.formats = formats.astype(np.int64)
        self.server = problem.server_of[self.places]
        cells = problem.num_experts * problem.num_demands * len(self.places)
        self.compiled = cells > _CELLS
        self.trip = np.where(problem.reachable, problem.round_trip_s, np.inf)

    def link_price(self, prices: Prices) -> NDArray[np.float64]:
        """Return the price of the links that one call crosses; (Q, L, S)."""
        problem = self.problem
        per_byte = np.array(
            [
                [float(prices.link[links].sum()) for links in row]
                for row in problem.route_links
            ]
        )
        price: NDArray[np.float64] = (
            problem.bytes_out * per_byte[problem.source]
            + problem.bytes_back * per_byte.T[problem.sink]
        )
        return price

    def layer(self, layer: int, prices: Prices, link: NDArray[np.float64]) -> _Layer:
        """Price the options of the experts of one layer."""
        problem = self.problem
        start, end = problem.layer_start[layer : layer + 2]
        experts = np.arange(start, end)
        app, rate = problem.application_of, problem.rate
        weight = problem.demand_weight
        calls = problem.calls[app, start:end].T  # (E, Q)
        size = problem.size_bytes[start:end][:, self.formats]  # (E, O)
        work = (
            problem.flop[start:end, None]
            * problem.s_per_flop[self.places, self.formats]
            + size * problem.s_per_byte[self.places]
        )
        busy = prices.compute[problem.processor_of[self.places]]
        nat = prices.quality[app] * problem.application_weight  # (Q,)
        moving = weight[:, None] * problem.transfer_s[:, layer] + (
            rate[:, None] * link[:, layer]
        )
        fuse_cost = nat[:, None] * problem.fuse_loss[app, layer]  # (Q, M)
        gain = (1 - problem.fuse_factor) * moving[:, :, None] - fuse_cost[:, None, :]
        gain = np.where(problem.remote[:, layer, :, None], gain, 0.0)
        fuse = gain > 0
        saved = (
            np.maximum(gain, 0.0) * problem.fuse_width[app, layer][:, None, :]
        ).sum(axis=2)
        net = weight[:, None] * self.trip[:, layer] + rate[:, None] * link[:, layer]
        net = net + weight[:, None] * problem.transfer_s[:, layer] - saved  # (Q, S)
        unit = net[None][:, :, self.server] + work[:, None, :] * (
            weight[:, None] + rate[:, None] * busy[None]
        )
        loss = problem.format_loss[app, start:end][:, :, self.formats]  # (Q, E, O)
        unit += nat[None, :, None] * loss.transpose(1, 0, 2)
        unit *= calls[:, :, None]
        prune = calls[:, :, None] * (nat[:, None] * problem.prune_loss[app, layer])
        return _Layer(
            experts=experts,
            unit=unit,
            open=prices.memory[self.places] * size,
            prune=prune,
            width=problem.prune_width[app, layer],
            fuse=fuse,
        )

    def answered(
        self, cost: NDArray[np.float64], priced: _Layer, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Sum over demands what calls cost when the cheap segments are pruned.

        ``cost`` is that of the cheapest copy, (E, Q, …), of the experts in ``rows``.
        """
        total: NDArray[np.float64] = cost.sum(axis=1)
        extra = (slice(None),) * 2 + (None,) * (cost.ndim - 2)
        for m in range(priced.prune.shape[2]):
            gain = cost - priced.prune[rows, :, m][extra]
            np.maximum(gain, 0.0, out=gain)
            total -= np.einsum("eq...,q->e...", gain, priced.width[:, m])
        return total

    def search(self, priced: _Layer) -> NDArray[np.int64]:
        """Choose the copies of a layer's experts: an option per server, -1 for none.

        From the best single copy and from a copy on every server, by single moves; then
        by moving copies between servers.
        """
        count, num_servers = len(priced.experts), self.problem.num_servers
        if self.compiled:
            from .kernel import search

            chosen: NDArray[np.int64] = search(
                np.ascontiguousarray(priced.unit.transpose(0, 2, 1)),
                priced.open,
                priced.prune,
                priced.width,
                self.server,
                num_servers,
            )
            return chosen
        rows = np.arange(count)
        single = self.answered(priced.unit, priced, rows) + priced.open
        one = np.full((count, num_servers), -1, dtype=np.int64)
        best = np.argmin(single, axis=1)
        one[rows, self.server[best]] = best
        value = single[rows, best]
        if num_servers == 1:
            return one
        every = np.full((count, num_servers), -1, dtype=np.int64)
        for s in range(num_servers):
            own = np.flatnonzero(self.server == s)
            if len(own):
                every[:, s] = own[np.argmin(single[:, own], axis=1)]
        value_every = self.value(priced, every, rows)
        self._descend(priced, one, value, rows)
        self._descend(priced, every, value_every, rows)
        better = value_every < value
        chosen = np.where(better[:, None], every, one)
        value = np.where(better, value_every, value)
        active = rows
        while len(active):
            gain, gone, option = self._swaps(priced, chosen, active, value)
            helps = gain > _SAVES * np.abs(value[active])
            active = active[helps]
            chosen[active, gone[helps]] = -1
            chosen[active, self.server[option[helps]]] = option[helps]
            value[active] -= gain[helps]
            self._descend(priced, chosen, value, active)
        return chosen

    def value(
        self, priced: _Layer, chosen: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the priced cost of the copies chosen for some experts."""
        held = chosen[rows] >= 0
        option = np.maximum(chosen[rows], 0)
        now = np.take_along_axis(priced.unit[rows], option[:, None, :], axis=2)
        least = np.where(held[:, None, :], now, np.inf).min(axis=2)
        opened = np.take_along_axis(priced.open[rows], option, axis=1)
        total: NDArray[np.float64] = self.answered(least, priced, rows) + np.where(
            held, opened, 0.0
        ).sum(axis=1)
        return total

    def _descend(
        self,
        priced: _Layer,
        chosen: NDArray[np.int64],
        value: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> None:
        """Take the best single move of each expert until none helps; in place."""
        active = rows
        while len(active):
            gain, server, option = self._moves(priced, chosen[active], active, value)
            better = gain > _SAVES * np.abs(value[active])
            active = active[better]
            chosen[active, server[better]] = option[better]
            value[active] -= gain[better]

    def _swaps(
        self,
        priced: _Layer,
        chosen: NDArray[np.int64],
        rows: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return saving, server left and new option of the best relocation."""
        index = np.arange(len(rows))
        best = np.full(len(rows), np.inf)
        gone, option = np.zeros((2, len(rows)), dtype=np.int64)
        held = chosen[rows] >= 0
        rank = np.cumsum(held, axis=1) - 1
        for n in range(int(held.sum(axis=1).max(initial=0))):
            at = np.argmax(held & (rank == n), axis=1)
            has = held.sum(axis=1) > n
            some = np.flatnonzero(has)
            trial = chosen[rows[some]].copy()
            trial[np.arange(len(some)), at[some]] = -1
            keeps = trial >= 0
            unit = priced.unit[rows[some]]
            kept = np.maximum(trial, 0)
            now = np.take_along_axis(unit, kept[:, None, :], axis=2)
            now = np.where(keeps[:, None, :], now, np.inf).min(axis=2)
            opened = np.take_along_axis(priced.open[rows[some]], kept, axis=1)
            opened = np.where(keeps, opened, 0.0).sum(axis=1)
            cost = self.answered(np.minimum(unit, now[:, :, None]), priced, rows[some])
            cost += priced.open[rows[some]] + opened[:, None]
            cost = np.where(keeps[:, self.server], np.inf, cost)
            new = np.argmin(cost, axis=1)
            found = cost[np.arange(len(some)), new]
            less = found < best[some]
            best[some[less]] = found[less]
            gone[some[less]], option[some[less]] = at[some[less]], new[less]
        return value[rows] - best, gone[index], option

    def _moves(
        self,
        priced: _Layer,
        chosen: NDArray[np.int64],
        rows: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return saving, server and new option of the best move of each expert."""
        num_servers = chosen.shape[1]
        index = np.arange(len(rows))
        unit = priced.unit[rows]
        held = chosen >= 0
        now = np.take_along_axis(unit, np.maximum(chosen, 0)[:, None, :], axis=2)
        now = np.where(held[:, None, :], now, np.inf)  # (E, Q, S)
        first = np.argmin(now, axis=2)
        if num_servers > 1:
            two = np.partition(now, 1, axis=2)
            least, second = two[:, :, 0], two[:, :, 1]
        else:
            least = now[:, :, 0]
            second = np.full_like(least, np.inf)
        alone = first[:, :, None] == np.arange(num_servers)
        without = np.where(alone, second[:, :, None], least[:, :, None])
        opened = np.take_along_axis(priced.open[rows], np.maximum(chosen, 0), axis=1)
        opened = np.where(held, opened, 0.0)
        kept = opened.sum(axis=1, keepdims=True) - opened  # (E, S)
        cost = np.minimum(unit, without[:, :, self.server])
        placed = self.answered(cost, priced, rows) + priced.open[rows]
        placed += kept[:, self.server]
        many = held.sum(axis=1) > 1
        dropped = np.full((len(rows), num_servers), np.inf)
        if many.any():
            free = self.answered(without[many], priced, rows[many]) + kept[many]
            dropped[many] = np.where(held[many], free, np.inf)
        add, drop = np.argmin(placed, axis=1), np.argmin(dropped, axis=1)
        placed_value, dropped_value = placed[index, add], dropped[index, drop]
        adds = placed_value <= dropped_value
        best = np.where(adds, placed_value, dropped_value)
        server = np.where(adds, self.server[add], drop)
        return value[rows] - best, server, np.where(adds, add, -1)

    def plan(
        self, prices: Prices, layers: Sequence[int] | None = None
    ) -> tuple[Usage, Chosen]:
        """Find the plan of least priced cost, of all layers or some of them."""
        problem = self.problem
        link = self.link_price(prices)
        usage = Usage(
            memory=np.zeros(problem.num_places),
            compute=np.zeros(len(problem.processor_server)),
            link=np.zeros(len(problem.link_from)),
            quality=np.zeros(problem.num_applications),
        )
        parts = []
        for layer in range(problem.num_layers) if layers is None else layers:
            priced = self.layer(layer, prices, link)
            chosen = self.search(priced)
            parts.append(self._account(layer, priced, chosen, usage))
        return usage, Chosen(
            copies=np.concatenate([part.copies for part in parts]),
            served=np.concatenate([part.served for part in parts]),
            pruned=np.concatenate([part.pruned for part in parts]),
            fuse=np.stack([part.fuse[0] for part in parts])[None],
        )

    def _account(
        self, layer: int, priced: _Layer, chosen: NDArray[np.int64], usage: Usage
    ) -> Chosen:
        """Add what the choice takes to ``usage`` and write it down."""
        problem = self.problem
        app, rate = problem.application_of, problem.rate
        held = chosen >= 0
        expert, server = np.nonzero(held)
        option = chosen[expert, server]
        copies = np.stack(
            [priced.experts[expert], self.places[option], self.formats[option]], axis=1
        )
        usage.memory += np.bincount(
            copies[:, 1],
            weights=problem.size_bytes[copies[:, 0], copies[:, 2]],
            minlength=problem.num_places,
        )
        now = np.take_along_axis(priced.unit, np.maximum(chosen, 0)[:, None, :], axis=2)
        now = np.where(held[:, None, :], now, np.inf)
        at = np.argmin(now, axis=2)  # (E, Q) server
        taken = np.take_along_axis(chosen, at, axis=1)  # (E, Q) option
        least = np.min(now, axis=2)
        pruned = priced.prune < least[:, :, None]  # (E, Q, M)
        left = 1.0 - (pruned * priced.width).sum(axis=2)
        calls = problem.calls[app, priced.experts[0] : priced.experts[-1] + 1].T
        mass = calls * rate * left  # (E, Q) per second
        place, form = self.places[taken], self.formats[taken]
        experts = np.broadcast_to(priced.experts[:, None], taken.shape)
        work = problem.work_s(experts, place, form)
        usage.compute += np.bincount(
            problem.processor_of[place].ravel(),
            weights=(mass * work).ravel(),
            minlength=len(usage.compute),
        )
        demands = np.arange(len(app))
        fuse = priced.fuse[demands, at] * problem.fuse_width[app, layer]  # (E, Q, M)
        sent = mass * (1 - (1 - problem.fuse_factor) * fuse.sum(axis=2))
        table = np.zeros((len(app), problem.num_servers))
        np.add.at(table, (np.broadcast_to(demands, at.shape), at), sent)
        for q, s in np.argwhere(table > 0):
            out = problem.route_links[problem.source[q, layer]][s]
            back = problem.route_links[s][problem.sink[q, layer]]
            usage.link[out] += table[q, s] * problem.bytes_out
            usage.link[back] += table[q, s] * problem.bytes_back
        nats = left * problem.format_loss[app, experts, form]
        nats += (pruned * priced.width * problem.prune_loss[app, layer]).sum(axis=2)
        nats += left * (fuse * problem.fuse_loss[app, layer]).sum(axis=2)
        per_demand = (calls * nats).sum(axis=0) * problem.application_weight
        usage.quality += np.bincount(
            app, weights=per_demand, minlength=len(usage.quality)
        )
        return Chosen(
            copies=copies.astype(np.int64),
            served=at,
            pruned=pruned,
            fuse=priced.fuse[None],
        )


@dataclass(slots=True, kw_only=True)
class Chosen:
    """A plan before it is written as tables.

    Attributes
    ----------
    copies
        Expert, place and format, (C, 3).
    served
        Server that answers each (expert, demand), (N, Q).
    pruned
        Whether a segment is pruned, (N, Q, M).
    fuse
        Whether what goes to a server is fused, by layer, (1, L, Q, S, M).
    """

    copies: NDArray[np.int64]
    served: NDArray[np.int64]
    pruned: NDArray[np.bool_]
    fuse: NDArray[np.bool_]

    def plan(self, problem: Problem) -> Plan:
        """Write the plan, listing only what the default rule does not say."""
        order = np.lexsort(self.copies.T[::-1])
        copies = self.copies[order]
        of = np.full((problem.num_experts, problem.num_servers), -1, dtype=np.int64)
        of[copies[:, 0], problem.server_of[copies[:, 1]]] = np.arange(len(copies))
        app = problem.application_of
        experts = np.arange(problem.num_experts)
        copy = of[experts[:, None], self.served].T  # (Q, N)
        fuse = self.fuse[0][
            problem.layer_of[:, None], np.arange(len(app))[None], self.served
        ]  # (N, Q, M)
        fuse = fuse & (problem.fuse_width[app][:, problem.layer_of] > 0).swapaxes(0, 1)
        prune = self.pruned & (
            problem.prune_width[app][:, problem.layer_of] > 0
        ).swapaxes(0, 1)
        default = copy == least_time_copies(problem, copies)
        plain = ~prune.any(axis=2).T & ~fuse.any(axis=2).T & default
        listed = ~plain & (problem.calls[app] > 0)
        q, i = np.nonzero(listed)
        width = problem.prune_width[app][:, problem.layer_of].swapaxes(0, 1)
        left = 1.0 - (prune * width).sum(axis=2)  # (N, Q)
        pi, pq, pn = np.nonzero(prune & listed.T[:, :, None])
        fi, fq, fm = np.nonzero(fuse & listed.T[:, :, None])
        layer = problem.layer_of[fi]
        return Plan.of(
            problem,
            copies,
            served=np.stack([q, i, copy[q, i]], axis=1),
            served_share=left[i, q],
            fused=np.stack([fq, fi, copies[copy[fq, fi], 1], fm], axis=1),
            fused_share=left[fi, fq] * problem.fuse_width[app[fq], layer, fm],
            pruned=np.stack([pq, pi, pn], axis=1),
            pruned_share=width[pi, pq, pn],
        )

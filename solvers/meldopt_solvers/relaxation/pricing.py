"""The Lagrangian: value, bound and slope at any prices of the coupling rows."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.tolerance import FEASIBILITY, FLOOR, SHARE_SUM
from meldopt_solvers.search.compiled import compiled, plain
from meldopt_solvers.search.tables import (
    NO_LIMIT,
    build_tables,
    objective_weights,
    uniform_group_of,
)

from . import kernels
from .facility import NONE
from .kernels import Blocks, Found, PriceTables
from .sampled import no_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .cluster import Cluster
    from .sampled import SampledWeights

SMALL = 20_000
"""Options x demands x experts up to which nothing is compiled."""

NODES = 200_000
"""Sets of copies looked at for a block, at most."""

SAFE = 1e-9
"""Part of the magnitudes summed by which a bound gives way to rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Point:
    """What the Lagrangian is at some prices.

    Attributes
    ----------
    prices
        Of the rows, in units of the objective for all of a row's limit, and then the
        weights of the servers of each layer in `bottleneck`; (R + C,).
    value
        Proven lower bound of the objective.
    parts
        What the copies and answers found cost by layer, rows' prices included; (L,).
    use
        Load of each row by layer, as a part of its limit; (L, R).
    cell_use
        Weighted seconds of work of each server by layer; (L, S), or (L, 0).
    option
        Options of each expert, -1 beyond them; (N, C).
    nodes
        Sets of copies looked at.
    near
        Options that choices not much dearer might use; (N, O).
    """

    prices: NDArray[np.float64]
    value: float
    parts: NDArray[np.float64]
    use: NDArray[np.float64]
    cell_use: NDArray[np.float64]
    option: NDArray[np.int64]
    nodes: int
    near: NDArray[np.bool_]


class Lagrangian:
    """The relaxation of a `home` problem with every coupling row at a price.

    Rows, in this order: memory of places, then loads with a limit (processors, links,
    caps, quality, latency), then the lower and the upper limits of count rows. Each is
    divided by its limit, so a price says what the whole of a row is worth.

    Parameters
    ----------
    problem
        What is to be bounded; `home`.
    threads
        Layers priced side by side; all cores when None.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        threads: int | None = None,
        compile_: bool | None = None,
    ) -> None:
        self.problem = problem
        t = build_tables(problem, never=np.inf)
        # Not the stand-in for the sampled terms that a search goes by.
        exact = objective_weights(problem, t.at, problem.weight_of("serial"))
        # Whole curves: to use some segments only is no relaxation.
        self.tables = t = t._replace(
            objective=exact,
            prune_width=_whole_curve(problem, problem.prune_width),
            prune_loss=_whole_curve(problem, problem.prune_loss),
            fuse_width=_whole_curve(problem, problem.fuse_width),
            fuse_loss=_whole_curve(problem, problem.fuse_loss),
        )
        self.size = len(t.place) * problem.num_demands * problem.num_experts
        self.compiled = self.size > SMALL if compile_ is None else compile_
        self.run = (compiled if self.compiled else plain)(kernels)
        self.threads = threads or os.cpu_count() or 1
        self._packed = self.run.pack(t)
        self._nodes = NODES
        self.sampled = no_weights()
        self.cluster: Cluster | None = None  # whose workers price, where it is given
        self.focused = False
        self._rows()
        self.blocks = self._blocks()
        # The layers in order of their work, so that threads end together.
        self.order = np.argsort(-np.diff(problem.layer_start), kind="stable")

    def _rows(self) -> None:
        problem, t = self.problem, self.tables
        at = t.at
        limit = np.full(int(at[6]), np.inf)
        limit[at[1] : at[2]] = problem.busy
        limit[at[2] : at[3]] = problem.link_busy * problem.link_bandwidth
        limit[at[3] : at[4]] = [cap.max_tokens_per_s for cap in problem.budget_caps]
        rate = problem.application_rate
        limit[at[4] : at[5]] = np.where(rate > 0, problem.quality_budget, np.inf)
        limit[at[5] : at[6]] = np.where(rate > 0, problem.latency_target, np.inf)
        limit[at[4] : at[6]] *= np.tile(np.where(rate > 0, rate, 1.0), 2)
        self.load_rows = np.flatnonzero(np.isfinite(limit))
        lower, upper = t.count_lower, t.count_upper
        # A row that asks one block for a copy stays inside its pricing.
        self.must_rows = [
            r
            for r, row in enumerate(problem.count_rows)
            if lower[r] == 1 and len(np.unique(problem.group_of[row.experts])) == 1
        ]
        self.least_rows = np.setdiff1d(np.flatnonzero(lower > 0), self.must_rows)
        self.most_rows = np.flatnonzero(upper < NO_LIMIT)
        raw = np.concatenate(
            [
                t.room,
                limit[self.load_rows],
                -lower[self.least_rows].astype(np.float64),
                upper[self.most_rows].astype(np.float64),
            ]
        )
        # What `score` forgives: else a plan it accepts could lie below the bound.
        loads = slice(0, problem.num_places + len(self.load_rows))
        raw[loads] += np.maximum(FLOOR, FEASIBILITY * np.abs(raw[loads]))
        # Shares may fall short of one, of all calls and of each segment.
        segments = t.prune_width.shape[1] + t.fuse_width.shape[1]
        loads = slice(problem.num_places, problem.num_places + len(self.load_rows))
        raw[loads] += (1 + segments) * SHARE_SUM * np.abs(raw[loads])
        self.limit = raw
        self.scale = np.where(np.abs(raw) > 0, np.abs(raw), 1.0)
        self.num_rows = len(raw)
        cells = problem.num_layers * problem.num_servers
        self.num_cells = cells if t.bottleneck else 0
        self.back = self.limit / self.scale  # what a price of one gives back
        # Routes as rows of a matrix, to turn flows between servers into loads of links.
        num = problem.num_servers
        cross = np.zeros((num * num, len(problem.link_from)))
        for a in range(num):
            for b in range(num):
                np.add.at(cross[a * num + b], problem.route_links[a][b], 1.0)
        self._cross = cross
        caps = np.zeros((problem.num_layers * num * num, len(problem.budget_caps)))
        for k in range(len(t.cap_start) - 1):
            for n in range(t.cap_start[k], t.cap_start[k + 1]):
                caps[k, t.cap_row[n] - at[3]] += 1.0
        self._caps = caps.reshape(problem.num_layers, num * num, -1)

    def _blocks(self) -> Blocks:
        problem = self.problem
        group = problem.group_of
        order = np.lexsort((np.arange(len(group)), group, problem.layer_of))
        first = np.flatnonzero(np.diff(group[order], prepend=-1))
        start = np.append(first, len(group)).astype(np.int64)
        layer = problem.layer_of[order[first]]
        num = len(first)
        place = np.zeros(len(group), dtype=np.int64)  # block of each expert
        place[order] = np.repeat(np.arange(num), np.diff(start))
        rows = [problem.count_rows[r].experts[0] for r in self.must_rows]
        asked = place[np.array(rows, dtype=np.int64)]
        by_block = np.argsort(asked, kind="stable")
        # A block is held to one format if it lies in one uniform group; else that row
        # is left out, which is a relaxation too.
        uniform = uniform_group_of(problem)
        label = uniform[order]
        least = np.minimum.reduceat(label, first)
        same = least == np.maximum.reduceat(label, first)
        self.uniform = np.where(same, least, NONE)
        return Blocks(
            start=start,
            member=order.astype(np.int64),
            layer_start=np.searchsorted(
                layer, np.arange(problem.num_layers + 1)
            ).astype(np.int64),
            must_start=np.searchsorted(asked[by_block], np.arange(num + 1)).astype(
                np.int64
            ),
            must_row=np.array(self.must_rows, dtype=np.int64)[by_block],
            only=np.full(num, NONE, dtype=np.int64),
            skip=np.zeros(num, dtype=np.bool_),
        )

    def focus(self, options: NDArray[np.bool_] | None) -> None:
        """Let experts choose among some options only, (N, O); all again when None.

        What is priced so is no bound, but choices and their costs are what they are.
        """
        t = self.tables
        self.focused = options is not None
        if options is not None:
            t = t._replace(usable=t.usable & options)
        self._packed = self.run.pack(t)

    def count_sampled(self, weights: SampledWeights | None) -> None:
        """Let sampled terms take part by weights of their calls; or not, when None."""
        self.sampled = no_weights() if weights is None else weights.tables()

    def leave(self) -> None:
        """Leave the cluster, if there is one; this machine prices from now on."""
        if self.cluster is not None:
            self.cluster.close()
            self.cluster = None

    # -- prices ------------------------------------------------------------------------
    def zero(self) -> NDArray[np.float64]:
        """Return prices of nothing, with even weights of the servers; (R + C,)."""
        prices = np.zeros(self.num_rows + self.num_cells)
        prices[self.num_rows :] = 1.0 / self.problem.num_servers
        return prices

    def valid(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the nearest prices that prove something: >= 0, weights of sum 1."""
        made = np.maximum(prices, 0.0)
        if self.num_cells:
            cells = made[self.num_rows :].reshape(self.problem.num_layers, -1)
            total = cells.sum(axis=1, keepdims=True)
            even = np.full_like(cells, 1.0 / cells.shape[1])
            np.divide(cells, total, out=even, where=total > 0)
            made[self.num_rows :] = even.ravel()
        return made

    def price_tables(self, prices: NDArray[np.float64]) -> PriceTables:
        """Lay out `valid` prices for the kernels."""
        problem, t = self.problem, self.tables
        num_v, num_s, num_l = (
            problem.num_places,
            problem.num_servers,
            problem.num_layers,
        )
        y = prices[: self.num_rows] / self.scale
        price = t.objective[: t.at[6]].copy()
        price[self.load_rows] += y[num_v : num_v + len(self.load_rows)]
        rest = y[num_v + len(self.load_rows) :]
        count = np.zeros(len(t.count_lower))
        count[self.least_rows] -= rest[: len(self.least_rows)]
        count[self.most_rows] += rest[len(self.least_rows) :]
        app = problem.application_of
        nat = price[t.at[4] : t.at[5]][app]
        serial = price[t.at[5] : t.at[6]][app]
        route = (self._cross @ price[t.at[2] : t.at[3]]).reshape(num_s, num_s)
        cap = (self._caps @ price[t.at[3] : t.at[4]]).reshape(num_l, num_s, num_s)
        # (L, Q, S) -> (L, S, Q)
        sent = t.bytes_out * route[t.source] + t.bytes_back * route.T[t.sink]
        sent += cap[np.arange(num_l)[:, None], t.source]
        sent = np.moveaxis(sent, 2, 1) + serial * t.transfer
        away = np.arange(num_s)[:, None] != t.source[:, None, :]  # (L, S, Q)
        self._fused = np.zeros_like(sent)
        self._fuse_nats = np.zeros_like(sent)
        net = sent + serial * t.trip
        for m in range(t.fuse_width.shape[1]):
            loss = t.fuse_loss[:, m][:, None, :]
            width = t.fuse_width[:, m][:, None, :]
            gain = (1.0 - t.fuse_factor) * sent - nat * loss
            pays = away & (gain > 0.0)
            net = net - np.where(pays, width * gain, 0.0)
            self._fused += np.where(pays, width, 0.0)
            self._fuse_nats += np.where(pays, width * loss, 0.0)
        omega = np.tile(
            price[t.at[0] : t.at[1]] + price[t.at[1] : t.at[2]][t.processor], (num_l, 1)
        )
        if t.bottleneck:
            cells = prices[self.num_rows :].reshape(num_l, num_s)
            omega += t.bottleneck * cells[:, problem.server_of]
        unpruned = 1.0 - t.prune_width.sum(axis=1)
        return PriceTables(
            net=np.ascontiguousarray(np.where(t.reach, net, np.inf)),
            serial=serial,
            nat=nat,
            omega=omega,
            drop=np.ascontiguousarray(nat * t.prune_loss),
            # `score` forgives as much in the sum, and in each segment.
            rest=np.where(
                unpruned > (1 + t.prune_width.shape[1]) * SHARE_SUM, unpruned, 0.0
            ),
            memory=y[:num_v].copy(),
            counted=count,
            **self.sampled._asdict(),
        )

    # -- values ------------------------------------------------------------------------
    def dearest(self) -> float:
        """Return what no plan costs more than: each call by the dearest answer.

        Where rows leave no plan prices grow without end, and so does the bound; one
        above this proves it. Of sampled tokens nothing is known here: then it is inf.
        """
        problem, t = self.problem, self.tables
        if problem.weight_of("fluid") or problem.weight_of("parallel"):
            return np.inf

        def top(*values: NDArray[np.float64]) -> float:
            return sum(float(np.max(one, initial=0.0)) for one in values)

        each = t.objective
        serial = top(each[t.at[5] : t.at[6]])
        nat = top(each[t.at[4] : t.at[5]])
        way = top(self._cross @ each[t.at[2] : t.at[3]])
        busy = serial + top(each[t.at[0] : t.at[1]]) + t.bottleneck
        work = top(t.flop) * top(t.s_per_flop) + top(t.size) * top(t.s_per_byte)
        loss = top(t.loss, t.similar_loss, t.fuse_loss, t.prune_loss)
        call = serial * top(t.trip, t.transfer) + busy * work + nat * loss
        call += (t.bytes_out + t.bytes_back) * way
        total = (1.0 + FEASIBILITY) * call * float((t.rate @ t.calls[t.app_of]).sum())
        return total if total > 0.0 else np.inf  # where nothing costs, nothing is told

    def at(
        self,
        prices: NDArray[np.float64],
        *,
        skip: NDArray[np.bool_] | None = None,
        nodes: int = NODES,
    ) -> Point:
        """Price every block (but those of ``skip``) and add up.

        Returns
        -------
        Point
            Its value is a lower bound for any prices, if nothing is skipped.
        """
        prices = self.valid(prices)
        self._nodes = nodes
        tables = self.price_tables(prices)
        blocks = self.blocks
        if skip is not None:
            blocks = blocks._replace(skip=skip)
        if (self.uniform >= 0).any():
            blocks = blocks._replace(only=self._formats(tables, blocks))
        found = self._price(tables, blocks)
        return self._point(prices, tables, found, blocks)

    def _formats(self, tables: PriceTables, blocks: Blocks) -> NDArray[np.int64]:
        """Choose the format of each uniform group: the one of least sum."""
        grouped = self.uniform >= 0
        groups = int(self.uniform.max()) + 1
        sums = np.zeros((self.problem.num_formats, groups))
        for b in range(self.problem.num_formats):
            part = blocks._replace(
                only=np.where(grouped, b, NONE), skip=blocks.skip | ~grouped
            )
            lower = self._price(tables, part).lower
            used = grouped & ~blocks.skip
            np.add.at(sums[b], self.uniform[used], lower[used])
        best = sums.argmin(axis=0)
        only: NDArray[np.int64] = np.where(grouped, best[self.uniform], NONE)
        return only.astype(np.int64)

    def _price(self, tables: PriceTables, blocks: Blocks) -> Found:
        found = self.nothing_found()
        cluster = None if self.focused else self.cluster
        if cluster is None or not cluster.price(self, tables, blocks, found):
            self.price_layers(tables, blocks, found, self.order)
        return found

    def nothing_found(self) -> Found:
        """Return what pricing fills in."""
        problem = self.problem
        num_l, num_v = problem.num_layers, problem.num_places
        most = min(problem.num_servers, problem.max_copies or problem.num_servers)
        return Found(
            lower=np.zeros(len(self.blocks.only)),
            upper=np.zeros(len(self.blocks.only)),
            option=np.full((problem.num_experts, max(most, 1)), NONE, dtype=np.int64),
            sent=np.zeros((num_l, problem.num_demands, problem.num_servers)),
            busy=np.zeros((num_l, num_v)),
            spent=np.zeros((num_l, problem.num_applications)),
            nats=np.zeros((num_l, problem.num_applications)),
            memory=np.zeros((num_l, num_v)),
            counted=np.zeros((num_l, len(self.tables.count_lower))),
            nodes=np.zeros(num_l, dtype=np.int64),
            near=np.zeros(self.tables.usable.shape, dtype=np.bool_),
        )

    def price_layers(
        self,
        tables: PriceTables,
        blocks: Blocks,
        found: Found,
        layers: NDArray[np.int64],
    ) -> None:
        """Price the blocks of some layers, side by side."""
        packed = [self.run.pack(part) for part in (tables, blocks, found)]

        def work(layers: NDArray[np.int64]) -> None:
            self.run.price_layers(self._packed, *packed, layers, self._nodes)

        if self.threads == 1 or not self.compiled:
            work(layers)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, [layers[k : k + 1] for k in range(len(layers))]))

    def _point(
        self,
        prices: NDArray[np.float64],
        tables: PriceTables,
        found: Found,
        blocks: Blocks,
    ) -> Point:
        problem, t = self.problem, self.tables
        num_l, num_s = problem.num_layers, problem.num_servers
        layer_of = np.repeat(np.arange(num_l), np.diff(blocks.layer_start))
        # A cut is what one choice costs at other prices: it must cost what it costs.
        parts: NDArray[np.float64] = np.bincount(
            layer_of, weights=found.upper, minlength=num_l
        ).astype(np.float64)
        magnitude = float(np.abs(found.lower).sum())
        sent = np.moveaxis(found.sent, 2, 1)  # (L, S, Q)
        load = np.zeros((num_l, int(t.at[6])))
        load[:, t.at[0] : t.at[1]] = found.busy
        for p in range(len(problem.processor_server)):
            load[:, t.at[1] + p] = found.busy[:, t.processor == p].sum(axis=1)
        kept = sent * (1.0 - (1.0 - t.fuse_factor) * self._fused)
        out = np.zeros((num_l, num_s * num_s))
        back = np.zeros((num_l, num_s * num_s))
        layers = np.arange(num_l, dtype=np.int64)[:, None]
        for s in range(num_s):
            np.add.at(out, (layers, t.source * num_s + s), kept[:, s])
            np.add.at(back, (layers, s * num_s + t.sink), kept[:, s])
        load[:, t.at[2] : t.at[3]] = (
            t.bytes_out * out + t.bytes_back * back
        ) @ self._cross
        load[:, t.at[3] : t.at[4]] = np.einsum("lp,lpc->lc", out, self._caps)
        nats = (sent * self._fuse_nats).sum(axis=1)  # (L, Q)
        seconds = (sent * t.trip + kept * t.transfer).sum(axis=1)
        for g in range(problem.num_applications):
            of = t.app_of == g
            load[:, t.at[4] + g] = found.nats[:, g] + nats[:, of].sum(axis=1)
            load[:, t.at[5] + g] = found.spent[:, g] + seconds[:, of].sum(axis=1)
        use = np.concatenate(
            [
                found.memory,
                load[:, self.load_rows],
                -found.counted[:, self.least_rows],
                found.counted[:, self.most_rows],
            ],
            axis=1,
        )
        back_given = prices[: self.num_rows] * self.back
        cell_use = np.zeros((num_l, num_s if self.num_cells else 0))
        for s in range(cell_use.shape[1]):
            on = problem.server_of == s
            cell_use[:, s] = t.bottleneck * found.busy[:, on].sum(axis=1)
        value = float(found.lower.sum() - back_given.sum())
        magnitude += float(np.abs(back_given).sum())
        self.load = load
        return Point(
            prices=prices,
            value=value - SAFE * magnitude if np.isfinite(value) else value,
            parts=parts,
            use=use / self.scale,
            cell_use=cell_use,
            option=found.option,
            nodes=int(found.nodes.sum()),
            near=found.near,
        )


def _whole_curve(problem: Problem, curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """(G, L, M) -> (L, M, Q)."""
    spread = np.moveaxis(curve[problem.application_of], 0, 2)
    return np.ascontiguousarray(spread)

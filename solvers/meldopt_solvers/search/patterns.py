"""Whole experts as columns: sets of copies with the answers that prices give them.

A pattern of an expert is a set of copies together with what becomes of each demand's
calls at the prices of rows. It loads every row by a known amount, so that choosing a
pattern for each of hundreds of experts is one row of choice for each and one for every
row of the problem: far smaller than copies and shares, and blind to other shares, which
an LP looks at afterwards.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.formulations.linear import LinearBuilder
from meldopt.plan import Plan
from meldopt.score import Flows, budget_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from meldopt.formulations.linear import Block, LinearModel
    from meldopt.problem import Problem
    from meldopt_solvers.relaxation.kernels import PriceTables
    from meldopt_solvers.relaxation.pricing import Lagrangian

    from .kernels import Tables
    from .screen import Screen

PART = 0.25
"""Of the gap of a choice: a pattern that costs more by itself is left out."""

CHUNK = 40_000
"""Answers whose loads are added up at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What becomes of calls, one entry each; ``row`` says whose it is.

    Attributes
    ----------
    row, expert, demand
        Pattern (or expert) that an entry counts for, and the calls it is about.
    option
        That serves ``share`` of the calls.
    fused
        Of that share, what travels fused, by segment; (A, M).
    pruned
        Of all calls, what is dropped, by segment; (A, M).
    """

    row: NDArray[np.int64]
    expert: NDArray[np.int64]
    demand: NDArray[np.int64]
    option: NDArray[np.int64]
    share: NDArray[np.float64]
    fused: NDArray[np.float64]
    pruned: NDArray[np.float64]

    def part(self, some: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Answers:
        """Return some of the entries."""
        return Answers(
            row=self.row[some],
            expert=self.expert[some],
            demand=self.demand[some],
            option=self.option[some],
            share=self.share[some],
            fused=self.fused[some],
            pruned=self.pruned[some],
        )


class Ledger:
    """Adds up what answers put on rows, in the order of `Part.used`.

    Parameters
    ----------
    problem
        What is searched.
    tables
        Its tables.
    """

    def __init__(self, problem: Problem, tables: Tables) -> None:
        self.problem, self.tables = problem, tables
        self.limited = [
            np.flatnonzero(np.isfinite(problem.quality_budget)),
            np.flatnonzero(np.isfinite(problem.latency_target)),
        ]
        names = ("memory", "compute", "link", "budget", "quality", "latency", "count")
        sizes = [
            problem.num_places,
            len(problem.processor_server),
            len(problem.link_from),
            len(problem.budget_caps),
            len(self.limited[0]),
            len(self.limited[1]),
            len(problem.count_rows),
        ]
        stops = np.cumsum(sizes)
        self.at = {
            name: slice(int(stop - size), int(stop))
            for name, size, stop in zip(names, sizes, stops, strict=True)
        }
        self.num_rows = int(stops[-1])
        num_l, num_s = problem.num_layers, problem.num_servers
        self.peak = problem.weight_of("bottleneck")
        cross = np.zeros((num_s, num_s, sizes[2]))
        for a in range(num_s):
            for b in range(num_s):
                cross[a, b, problem.route_links[a][b]] = 1.0
        self.cross = cross
        self.caps = np.zeros((num_l, num_s, num_s, sizes[3]))
        for n, cap in enumerate(problem.budget_caps):
            layers = slice(None) if cap.layer is None else cap.layer
            for a, b in budget_pairs(problem, cap):
                self.caps[layers, a, b, n] = 1.0

    def loads(
        self, num: int, answers: Answers
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return rows (num, R), costs (num,) and seconds by server (num, S)."""
        rows = np.zeros((num, self.num_rows))
        cost = np.zeros(num)
        cells = np.zeros((num, self.problem.num_servers if self.peak else 0))
        for k in range(0, len(answers.row), CHUNK):
            self._add(answers.part(slice(k, k + CHUNK)), rows, cost, cells)
        return rows, cost, cells

    def _add(
        self,
        a: Answers,
        rows: NDArray[np.float64],
        cost: NDArray[np.float64],
        cells: NDArray[np.float64],
    ) -> None:
        problem, t = self.problem, self.tables
        app = problem.application_of[a.demand]
        layer = problem.layer_of[a.expert]
        place, format_ = t.place[a.option], t.format[a.option]
        server = problem.server_of[place]
        total = problem.total_rate
        calls = problem.rate[a.demand] * problem.calls[app, a.expert]
        mass = calls * a.share
        work = np.where(mass > 0, problem.work_s(a.expert, place, format_), 0.0)
        away = problem.remote[a.demand, layer, server]
        fused = np.where(away, calls * a.fused.sum(axis=1), 0.0)
        sent = mass - (1 - problem.fuse_factor) * fused
        reach = problem.reachable[a.demand, layer, server]
        trip = np.where(reach, problem.round_trip_s[a.demand, layer, server], 0.0)
        move = np.where(reach, problem.transfer_s[a.demand, layer, server], 0.0)
        busy = mass * work
        seconds = mass * trip + sent * move + busy
        nats = mass * problem.format_loss[app, a.expert, format_]
        nats += calls * (a.fused * problem.fuse_loss[app, layer]).sum(axis=1)
        nats += calls * (a.pruned * problem.prune_loss[app, layer]).sum(axis=1)
        np.add.at(
            rows,
            (a.row, self.at["compute"].start + problem.processor_of[place]),
            busy,
        )
        source, sink = problem.source[a.demand, layer], problem.sink[a.demand, layer]
        there = sent[:, None] * problem.bytes_out * self.cross[source, server]
        there += sent[:, None] * problem.bytes_back * self.cross[server, sink]
        np.add.at(rows[:, self.at["link"]], a.row, there)
        if len(problem.budget_caps):
            capped = sent[:, None] * self.caps[layer, source, server]
            np.add.at(rows[:, self.at["budget"]], a.row, capped)
        rate = np.where(problem.application_rate > 0, problem.application_rate, 1.0)
        for name, limited, value in (
            ("quality", self.limited[0], nats),
            ("latency", self.limited[1], seconds),
        ):
            position = np.full(problem.num_applications, -1)
            position[limited] = np.arange(len(limited))
            mine = position[app] >= 0
            at = self.at[name].start + position[app[mine]]
            np.add.at(rows, (a.row[mine], at), value[mine] / rate[app[mine]])
        weight = problem.weight_of
        price = weight("serial") * seconds + weight("quality") * nats
        price += weight("energy") * busy * problem.power_w[place]
        price += weight("traffic") * there.sum(axis=1)
        if weight("energy"):
            price += weight("energy") * (there @ problem.link_joule_per_byte)
        np.add.at(cost, a.row, price / total)
        if self.peak:
            np.add.at(cells, (a.row, server), busy / total)

    def holdings(
        self, experts: NDArray[np.int64], sets: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return memory and counts of sets of copies, as rows; (P, R)."""
        problem, t = self.problem, self.tables
        rows = np.zeros((len(experts), self.num_rows))
        p, o = np.nonzero(sets)
        size = problem.size_bytes[experts[p], t.format[o]]
        np.add.at(rows, (p, self.at["memory"].start + t.place[o]), size)
        for n, row in enumerate(problem.count_rows):
            inside = t.count_option[n] & np.ones_like(sets)
            inside &= np.isin(experts, row.experts)[:, None]
            rows[:, self.at["count"].start + n] = (inside & sets).sum(axis=1)
        return rows


class Patterns:
    """Makes patterns at prices, and the choice among them.

    Parameters
    ----------
    problem
        What is searched; no expert answers for another.
    tables, option_at
        Its tables, and the option of each place and format.
    """

    def __init__(
        self, problem: Problem, tables: Tables, option_at: NDArray[np.int64]
    ) -> None:
        self.problem, self.tables, self.option_at = problem, tables, option_at
        self.ledger = Ledger(problem, tables)

    # -- sets --------------------------------------------------------------------------
    def neighbours(
        self,
        screen: Screen,
        experts: NDArray[np.int64],
        sets: NDArray[np.bool_],
        free: NDArray[np.bool_],
        most: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return sets near given ones that are cheap at the prices.

        Parameters
        ----------
        screen
            Prices.
        experts, sets
            Sets to begin with, which are returned too; (P,) and (P, O).
        free
            Options that may be chosen at all; (P, O).
        most
            Sets to return of each row.
        """
        t = self.tables
        num_o = len(t.place)
        found_e, found_s = [experts], [sets]
        same = t.server[:, None] == t.server  # (O, O)
        owner, option = np.nonzero(free & ~sets)
        # Added; exchanged for each copy held; and each copy dropped.
        added = sets[owner].copy()
        added[np.arange(len(owner)), option] = True
        found_e.append(experts[owner])
        found_s.append(added)
        row, held = np.nonzero(sets)
        dropped = sets[row].copy()
        dropped[np.arange(len(row)), held] = False
        found_e.append(experts[row])
        found_s.append(dropped)
        where, option = np.nonzero(free[row] & ~sets[row])
        swapped = dropped[where]
        swapped[np.arange(len(where)), option] = True
        found_e.append(experts[row[where]])
        found_s.append(swapped)
        who, what = np.concatenate(found_e), np.concatenate(found_s)
        keep = self._valid(who, what, same)
        keep[: len(experts)] = True
        who, what = who[keep], what[keep]
        packed = np.concatenate(
            [
                who.astype(">i8").view(np.uint8).reshape(-1, 8),
                np.packbits(what, axis=1),
            ],
            axis=1,
        )
        _, first = np.unique(packed, axis=0, return_index=True)
        who, what = who[first], what[first]
        value = screen.values(who, what)
        # The cheapest of each expert, and whatever was given.
        given = np.isin(first, np.arange(len(experts)))
        order = np.lexsort((value, ~given, who))
        start = np.searchsorted(who[order], who[order])
        rank = np.arange(len(order)) - start
        order = order[(rank < most) & np.isfinite(value[order])]
        assert what.shape[1] == num_o
        return who[order], what[order]

    def _valid(
        self,
        who: NDArray[np.int64],
        what: NDArray[np.bool_],
        same: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        problem, t = self.problem, self.tables
        count = what.sum(axis=1)
        held = what.astype(np.float32) @ same.astype(np.float32)
        crowded = (held > 1.5) & what
        good: NDArray[np.bool_] = np.logical_not(np.any(crowded, axis=1))
        if not problem.allow_missing:
            good &= count > 0
        if problem.max_copies is not None:
            good &= count <= problem.max_copies
        for servers in problem.failure_sets:
            outside = ~np.isin(t.server, servers)
            good &= (what & outside).any(axis=1) | (count == 0)
        pinned = t.pin_start[who + 1] > t.pin_start[who]
        for p in np.flatnonzero(pinned & good).tolist():
            pins = t.pin_option[t.pin_start[who[p]] : t.pin_start[who[p] + 1]]
            good[p] = what[p, pins].all()
        return good

    # -- answers -----------------------------------------------------------------------
    def answers(
        self,
        screen: Screen,
        experts: NDArray[np.int64],
        sets: NDArray[np.bool_],
    ) -> Answers:
        """Answer every demand of every pattern as the prices say.

        Parameters
        ----------
        screen
            Prices.
        experts, sets
            The patterns, (P,) and (P, O).
        """
        t = self.tables
        fused = fused_ways(t, screen.p)
        parts = []
        step = max(CHUNK * 10 // max(screen.num_o * screen.num_q, 1), 1)
        for k in range(0, len(experts), step):
            some = slice(k, k + step)
            parts.append(self._answer(screen, fused, experts[some], sets[some], k))
        width = t.prune_width.shape[1], t.fuse_width.shape[1]
        empty = np.zeros(0, dtype=np.int64)
        parts.append(
            Answers(
                row=empty,
                expert=empty,
                demand=empty,
                option=empty,
                share=np.zeros(0),
                fused=np.zeros((0, width[1])),
                pruned=np.zeros((0, width[0])),
            )
        )
        return joined(parts)

    def _answer(
        self,
        screen: Screen,
        fused: NDArray[np.bool_],
        experts: NDArray[np.int64],
        sets: NDArray[np.bool_],
        first: int,
    ) -> Answers:
        t, p = self.tables, screen.p
        cost = screen.unit_costs(experts)  # (n, O, Q)
        cost = np.where(sets[..., None], cost, np.inf)
        option = cost.argmin(axis=1)  # (n, Q)
        x = np.take_along_axis(cost, option[:, None], axis=1)[:, 0]
        n, q = np.nonzero(t.rate * t.calls[t.app_of][:, experts].T > 0)
        option, x = option[n, q], x[n, q]
        expert = experts[n]
        layer = t.layer_of[expert]
        width = t.prune_width[layer, :, q]  # (A, M)
        pruned = np.where(p.drop[layer, :, q] < x[:, None], width, 0.0)
        # Whatever cannot be answered is pruned as a whole, or the set is no pattern.
        share = np.maximum(1.0 - pruned.sum(axis=1), 0.0)
        share[share < 1e-12] = 0.0
        server = t.server[option]
        on = fused[:, layer, server, q].T  # (A, M)
        part = np.where(on, t.fuse_width[layer, :, q], 0.0) * share[:, None]
        return Answers(
            row=n + first,
            expert=expert,
            demand=q,
            option=option,
            share=share,
            fused=part,
            pruned=pruned,
        )

    def of_plan(self, part: Problem, experts: NDArray[np.int64], plan: Plan) -> Answers:
        """Return the answers of a plan of a part; ``row`` is the expert in the part.

        Entries of fused shares and of pruned ones stand by themselves.
        """
        t = self.tables
        flows = Flows(part, plan)
        width = t.prune_width.shape[1], t.fuse_width.shape[1]

        def entries(
            q: NDArray[np.int64],
            i: NDArray[np.int64],
            v: NDArray[np.int64],
            b: NDArray[np.int64] | None,
        ) -> dict[str, NDArray[np.int64]]:
            option = np.searchsorted(t.place, v) if b is None else self.option_at[v, b]
            return {"row": i, "expert": experts[i], "demand": q, "option": option}

        num = len(flows.q)
        served = Answers(
            **entries(flows.q, flows.i, flows.place, flows.format),
            share=flows.share,
            fused=np.zeros((num, width[1])),
            pruned=np.zeros((num, width[0])),
        )
        num = len(flows.fq)
        table = np.zeros((num, width[1]))
        table[np.arange(num), flows.fm] = flows.fshare
        fused = Answers(
            **entries(flows.fq, flows.fi, flows.fv, None),
            share=np.zeros(num),
            fused=table,
            pruned=np.zeros((num, width[0])),
        )
        num = len(flows.pq)
        table = np.zeros((num, width[0]))
        table[np.arange(num), flows.pn] = flows.pshare
        nowhere = np.zeros(num, dtype=np.int64)
        pruned = Answers(
            **entries(flows.pq, flows.pi, nowhere, None),
            share=np.zeros(num),
            fused=np.zeros((num, width[1])),
            pruned=table,
        )
        return joined([served, fused, pruned])

    # -- the choice --------------------------------------------------------------------
    def model(
        self,
        owner: NDArray[np.int64],
        num: int,
        rows: NDArray[np.float64],
        cost: NDArray[np.float64],
        cells: NDArray[np.float64],
        layer: NDArray[np.int64],
        used: Mapping[str, NDArray[np.float64]],
    ) -> LinearModel:
        """Formulate the choice of one pattern for each expert.

        Parameters
        ----------
        owner
            Number of the expert of each pattern, sorted; (P,).
        num
            Experts.
        rows, cost, cells
            Loads of each pattern.
        layer
            Layer of each pattern.
        used
            What rows carry already (`Part.used`).
        """
        problem, at = self.problem, self.ledger.at
        builder = LinearBuilder()
        size = len(owner)
        x = builder.add_columns(
            "x", [np.arange(size)], upper=1.0, cost=cost, integer=True
        )
        every = np.arange(num)
        builder.add_rows(
            "one", [every], [(owner, x.range, np.ones(size))], lower=1.0, upper=1.0
        )
        limits = {
            "memory": problem.room_bytes,
            "compute": np.full(len(problem.processor_server), problem.busy),
            "link": problem.link_busy * problem.link_bandwidth,
            "budget": np.array([cap.max_tokens_per_s for cap in problem.budget_caps]),
            "quality": problem.quality_budget[self.ledger.limited[0]],
            "latency": problem.latency_target[self.ledger.limited[1]],
        }
        for name, limit in limits.items():
            if not len(limit):
                continue
            p, r = np.nonzero(rows[:, at[name]])
            builder.add_rows(
                name,
                [np.arange(len(limit))],
                [(r, x.range[p], rows[:, at[name]][p, r])],
                upper=limit,
                scale=True,
                used=used[name],
            )
        for n, row in enumerate(problem.count_rows):
            held = rows[:, at["count"].start + n]
            on = np.flatnonzero(held)
            builder.add_rows(
                "count",
                [[n]],
                [(np.zeros(len(on), dtype=np.int64), x.range[on], held[on])],
                lower=-np.inf if row.lower is None else float(row.lower),
                upper=np.inf if row.upper is None else float(row.upper),
                used=used["count"][n],
            )
        if self.ledger.peak:
            self._peaks(builder, x.range, cells, layer, used["bottleneck"])
        return builder.build()

    def prices(
        self,
        lagrangian: Lagrangian,
        model: LinearModel,
        duals: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Turn duals of the rows of a choice into prices of the relaxation."""
        problem, t = self.problem, self.tables
        prices = lagrangian.zero()
        blocks = {block.name: block for block in model.rows if block.name != "count"}
        # A scaled row is a hundredth of its limit.
        per_limit = np.maximum(-duals, 0.0) * 100.0 / model.objective_scale
        num_v = problem.num_places
        loads = np.zeros(int(t.at[6]))
        for name, first, which in (
            ("compute", 1, None),
            ("link", 2, None),
            ("budget", 3, None),
            ("quality", 4, self.ledger.limited[0]),
            ("latency", 5, self.ledger.limited[1]),
        ):
            if name in blocks:
                block = blocks[name]
                at = t.at[first] + (np.arange(block.size) if which is None else which)
                loads[at] = per_limit[block.start : block.stop]
        block = blocks["memory"]
        prices[:num_v] = per_limit[block.start : block.stop]
        prices[num_v : num_v + len(lagrangian.load_rows)] = loads[lagrangian.load_rows]
        counts = [
            -float(duals[block.start]) / model.objective_scale
            for block in model.rows
            if block.name == "count"
        ]
        first = num_v + len(lagrangian.load_rows)
        scale = lagrangian.scale[first:]
        both = np.concatenate([lagrangian.least_rows, lagrangian.most_rows])
        signs = np.repeat(
            [-1.0, 1.0], [len(lagrangian.least_rows), len(lagrangian.most_rows)]
        )
        for k, (r, sign) in enumerate(zip(both.tolist(), signs.tolist(), strict=True)):
            prices[first + k] = max(sign * counts[r], 0.0) * scale[k]
        if self.ledger.peak and "peak" in blocks:
            self._weigh(lagrangian, model, duals, blocks["peak"], prices)
        return prices

    def _weigh(
        self,
        lagrangian: Lagrangian,
        model: LinearModel,
        duals: NDArray[np.float64],
        block: Block,
        prices: NDArray[np.float64],
    ) -> None:
        """Set the weights of servers in the layers of a choice from its duals."""
        layers, servers = block.keys
        num_s = self.problem.num_servers
        force = np.maximum(-duals[block.start : block.stop], 0.0).reshape(-1, num_s)
        force = force * self.peak_scale.reshape(-1, num_s)
        total = force.sum(axis=1, keepdims=True)
        share = np.full_like(force, 1.0 / num_s)
        np.divide(force, total, out=share, where=total > 0)
        at = lagrangian.num_rows + layers * num_s + servers
        prices[at] = share.ravel()

    def _peaks(
        self,
        builder: LinearBuilder,
        columns: NDArray[np.int64],
        cells: NDArray[np.float64],
        layer: NDArray[np.int64],
        used: NDArray[np.float64],
    ) -> None:
        """Charge the busiest server of each layer that a pattern touches."""
        num_s = self.problem.num_servers
        layers = np.unique(layer)
        top = builder.add_columns(
            "peak", [layers], cost=self.ledger.peak, lower=-np.inf
        )
        p, s = np.nonzero(cells)
        row = np.searchsorted(layers, layer[p]) * num_s + s
        at = np.arange(len(layers) * num_s)
        largest = np.ones(len(at))  # of the ones of `top`: as rows are scaled
        np.maximum.at(largest, row, cells[p, s])
        self.peak_scale = 1.0 / largest
        builder.add_rows(
            "peak",
            [layers[at // num_s], at % num_s],
            [
                (row, columns[p], cells[p, s]),
                (at, top.range[at // num_s], -np.ones(len(at))),
            ],
            upper=0.0,
            scale=True,
            used=used.reshape(-1, num_s)[layers].ravel(),
        )


class Pool:
    """The patterns of one sub-problem, growing; first what each expert has now.

    Parameters
    ----------
    made
        Makes patterns.
    experts
        Of the sub-problem, (n,) sorted.
    """

    def __init__(self, made: Patterns, experts: NDArray[np.int64]) -> None:
        self.made, self.experts = made, experts
        self.size = 0
        self.who: list[NDArray[np.int64]] = []
        self.sets: list[NDArray[np.bool_]] = []
        self.answers: list[Answers] = []
        self.loads: list[tuple[NDArray[np.float64], ...]] = []
        self.known: set[bytes] = set()

    def add(
        self, screen: Screen, who: NDArray[np.int64], sets: NDArray[np.bool_]
    ) -> None:
        """Add sets with the answers that prices give them."""
        self.add_answers(who, sets, self.made.answers(screen, who, sets))

    def add_answers(
        self, who: NDArray[np.int64], sets: NDArray[np.bool_], answers: Answers
    ) -> None:
        """Add patterns that are not there yet; ``row`` counts from 0."""
        ledger = self.made.ledger
        rows, cost, cells = ledger.loads(len(who), answers)
        rows += ledger.holdings(who, sets)
        short = np.concatenate([who[:, None], rows, cost[:, None]], axis=1)
        keep = np.zeros(len(who), dtype=np.bool_)
        for p, line in enumerate(short.astype(np.float32)):
            key = line.tobytes()
            if key not in self.known:
                self.known.add(key)
                keep[p] = True
        if self.size == 0:
            keep[:] = True
        number = np.cumsum(keep) - 1 + self.size
        answers = answers.part(keep[answers.row])
        self.answers.append(dataclasses.replace(answers, row=number[answers.row]))
        self.who.append(who[keep])
        self.sets.append(sets[keep])
        self.loads.append((rows[keep], cost[keep], cells[keep]))
        self.size += int(keep.sum())

    def model(
        self,
        used: Mapping[str, NDArray[np.float64]],
        keep: NDArray[np.bool_] | None = None,
    ) -> LinearModel:
        """Formulate the choice of one pattern for each expert, among those to keep."""
        some = slice(None) if keep is None else keep
        who = np.concatenate(self.who)[some]
        rows, cost, cells = (
            np.concatenate([load[n] for load in self.loads])[some] for n in range(3)
        )
        owner = np.searchsorted(self.experts, who)
        layer = self.made.problem.layer_of[who]
        return self.made.model(owner, len(self.experts), rows, cost, cells, layer, used)

    def worth(
        self, model: LinearModel, duals: NDArray[np.float64], low: float
    ) -> NDArray[np.bool_]:
        """Say which patterns may be part of a better choice.

        Parameters
        ----------
        model, duals, low
            The choice among all patterns, relaxed: duals of rows and objective.
        """
        num = len(self.experts)
        high = float(model.objective[:num].sum())
        if self.made.ledger.peak:
            high = np.inf  # the present choice costs more than its columns
        reduced = model.objective - model.matrix.T @ duals
        keep: NDArray[np.bool_] = reduced[: self.size] <= PART * (high - low)
        keep[:num] = True
        return keep

    def plan(self, part: Problem, chosen: NDArray[np.int64]) -> Plan:
        """Return the plan of a part from the numbers of one pattern of each expert."""
        made, t = self.made, self.made.tables
        who = np.concatenate(self.who)[chosen]
        owner = np.searchsorted(self.experts, who)
        sets = np.zeros((len(self.experts), len(t.place)), dtype=np.bool_)
        sets[owner] = np.concatenate(self.sets)[chosen]
        taken = np.zeros(self.size, dtype=np.bool_)
        taken[chosen] = True
        a = joined([answers.part(taken[answers.row]) for answers in self.answers])
        i, o = np.nonzero(sets)
        copies = np.stack([i, t.place[o], t.format[o]], axis=1).astype(np.int64)
        order = np.lexsort(copies.T[::-1])
        index = np.full(sets.shape, -1, dtype=np.int64)
        index[i[order], o[order]] = np.arange(len(order))
        expert = np.searchsorted(self.experts, a.expert)
        on = a.share > 0
        served = np.stack([a.demand, expert, index[expert, a.option]], axis=1)[on]
        k, m = np.nonzero(a.fused > 0)
        fused = np.stack([a.demand[k], expert[k], t.place[a.option[k]], m], axis=1)
        fused_share = a.fused[k, m]
        k, m = np.nonzero(a.pruned > 0)
        pruned = np.stack([a.demand[k], expert[k], m], axis=1)
        assert made.problem.dataflow == "home"
        return Plan.of(
            part,
            copies[order],
            served=served,
            served_share=a.share[on],
            fused=fused,
            fused_share=fused_share,
            pruned=pruned,
            pruned_share=a.pruned[k, m],
        )


def fused_ways(tables: Tables, prices: PriceTables) -> NDArray[np.bool_]:
    """Return which segments of fusion pay on a way, (M, L, S, Q).

    What a way costs grows with what is sent, so it is compared with what it costs
    where a segment begins to pay.
    """
    t = tables
    num_m = t.fuse_width.shape[1]
    away = np.arange(t.reach.shape[1])[:, None] != t.source[:, None, :]
    paid = prices.net - prices.serial * t.trip
    gain = 1.0 - t.fuse_factor
    ways = np.zeros((num_m, *paid.shape), dtype=np.bool_)
    if gain <= 0.0:
        return ways
    for m in range(num_m):
        nats = prices.nat * t.fuse_loss[:, m]  # (L, Q)
        edge = nats / gain
        for k in range(num_m):
            other = prices.nat * t.fuse_loss[:, k]
            edge = edge - t.fuse_width[:, k] * np.maximum(nats - other, 0.0)
        ways[m] = away & np.isfinite(paid) & (paid > edge[:, None])
    return ways


def joined(parts: list[Answers]) -> Answers:
    """Put entries one after the other."""
    names = ("row", "expert", "demand", "option", "share", "fused", "pruned")
    return Answers(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    )

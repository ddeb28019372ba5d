"""The choice of one pattern for each expert, as a model, and the patterns it has."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from meldopt.formulations.linear import LinearBuilder
from meldopt.plan import Plan

from .ledger import joined

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from meldopt.formulations.linear import Block, LinearModel
    from meldopt.problem import Problem
    from meldopt_solvers.relaxation.pricing import Lagrangian

    from .kernels import Tables
    from .ledger import Answers, Ledger
    from .patterns import Patterns
    from .screen import Screen

PART = 0.25
"""Of the gap of a choice: a pattern that costs more by itself is left out."""


class Choice:
    """Formulates the choice among patterns, and reads prices off its duals.

    Parameters
    ----------
    problem, tables, ledger
        What is searched, and what patterns put on its rows.
    """

    def __init__(self, problem: Problem, tables: Tables, ledger: Ledger) -> None:
        self.problem, self.tables, self.ledger = problem, tables, ledger

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
        return self.made.choice.model(
            owner, len(self.experts), rows, cost, cells, layer, used
        )

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

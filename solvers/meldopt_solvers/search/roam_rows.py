"""Options of experts in `roam` and the rows that count them, as flat arrays.

An option is a copy that an expert may have, or none. What concerns options alone is a
number for each; what concerns traversals is a matrix between servers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import budget_pairs
from meldopt.tolerance import FEASIBILITY, FLOOR

from .roam_tables import roam_tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem


class NoOptionError(Exception):
    """No plan keeps all rows: some expert has no option left."""


@dataclass(slots=True, eq=False)
class OuterRow:
    """A row with one price for all: what it adds to labels and to traversals.

    Attributes
    ----------
    own
        Load of each option; (F,).
    crossing
        Load of one traversal/s between servers, (S, S); none for rows of copies.
    layer, application
        Which traversals count, by the layer of their target; none: all.
    limit
        With the tolerance of the judge.
    """

    name: str
    own: NDArray[np.float64]
    limit: float
    crossing: NDArray[np.float64] | None = None
    layer: int | None = None
    application: int | None = None


class RoamOptions:
    """The options of every expert of a problem.

    Attributes
    ----------
    expert, option
        Of each; options number (place, format) as `RoamTables`, -1 stands for no copy.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.t = roam_tables(problem)
        num = problem.num_experts
        self.expert = np.repeat(np.arange(num), np.diff(self.t.usable_start))
        self.option = self.t.usable.copy()

    @property
    def server(self) -> NDArray[np.int64]:
        """Server of each option, -1 for none."""
        server = self.t.server[np.maximum(self.option, 0)]
        return np.where(self.option >= 0, server, -1)

    @property
    def start(self) -> NDArray[np.int64]:
        """First option of each expert; (N+1,)."""
        num = self.problem.num_experts
        return np.searchsorted(self.expert, np.arange(num + 1)).astype(np.int64)

    # -- rows of copies --------------------------------------------------------------
    def values(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pick (N, O) values for each option; 0 without a copy."""
        value = table[self.expert, np.maximum(self.option, 0)]
        return np.where(self.option >= 0, value, 0.0)

    def copy_rows(
        self,
    ) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
        """Names, loads of options (K, F) and limits of the rows of copies alone."""
        problem, t = self.problem, self.t
        held = self.option >= 0
        o = np.maximum(self.option, 0)
        place, fmt = t.place[o], t.format[o]
        names: list[str] = []
        loads: list[NDArray[np.float64]] = []
        limits: list[float] = []

        def add(name: str, load: NDArray[np.float64], limit: float) -> None:
            names.append(name)
            loads.append(np.where(held, load, 0.0))
            limits.append(limit)

        size = problem.size_bytes[self.expert, fmt]
        for v in range(problem.num_places):
            add("memory", np.where(place == v, size, 0.0), problem.room_bytes[v])
        work = self.values(t.work)
        for p in range(len(problem.processor_server)):
            add("compute", np.where(t.processor[o] == p, work, 0.0), problem.busy)
        for g in range(problem.num_applications):
            rate = float(problem.application_rate[g])
            if rate > 0 and math.isfinite(problem.quality_budget[g]):
                nats = t.nats[g, self.expert, fmt]
                add("quality", nats / rate, float(problem.quality_budget[g]))
        for row in problem.count_rows:
            inside = (
                np.isin(self.expert, row.experts)
                & np.isin(place, row.places)
                & np.isin(fmt, row.formats)
            ).astype(np.float64)
            if row.upper is not None:
                add("count", inside, float(row.upper))
            if row.lower:
                add("count", -inside, -float(row.lower))
        slack = np.array([forgiven(limit) for limit in limits])
        table = np.array(loads).reshape(len(names), len(self.option))
        return names, table, np.array(limits, dtype=np.float64) + slack

    def strike(self, loads: NDArray[np.float64], limits: NDArray[np.float64]) -> bool:
        """Strike out options that some row forbids whatever the others are."""
        problem = self.problem
        num = problem.num_experts
        while True:
            start = np.searchsorted(self.expert, np.arange(num + 1))
            if (np.diff(start) == 0).any():
                return False
            if not len(loads):
                return True
            least = np.minimum.reduceat(loads, start[:-1], axis=1)  # (K, N)
            rest = least.sum(axis=1)[:, None] - least
            margin = 1e-9 * np.abs(loads).sum(axis=1)[:, None]
            bad = (loads + rest[:, self.expert] > limits[:, None] + margin).any(axis=0)
            if not bad.any():
                return True
            self.expert, self.option = self.expert[~bad], self.option[~bad]
            loads = loads[:, ~bad]

    def weights(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Paired experts (M, 2), and traversals/s there and back by application."""
        problem = self.problem
        rate = problem.application_rate[:, None] * problem.pair_weight  # (G, R)
        pairs = problem.pairs
        used = (pairs[:, 0] != pairs[:, 1]) & (rate > 0).any(axis=0)
        pairs, rate = pairs[used], rate[:, used]
        low, high = pairs.min(axis=1), pairs.max(axis=1)
        key, of = np.unique(low * problem.num_experts + high, return_inverse=True)
        of = of.ravel()
        there = np.zeros((problem.num_applications, len(key)))
        back = np.zeros_like(there)
        forward = pairs[:, 0] < pairs[:, 1]
        for g in range(problem.num_applications):
            np.add.at(there[g], of[forward], rate[g, forward])
            np.add.at(back[g], of[~forward], rate[g, ~forward])
        ends = np.stack([key // problem.num_experts, key % problem.num_experts], axis=1)
        return ends.astype(np.int64).reshape(-1, 2), there, back

    # -- what moves ----------------------------------------------------------------
    def end_values(
        self,
        cost: NDArray[np.float64],
        *,
        exits: bool = True,
        layer: int | None = None,
        application: int | None = None,
    ) -> NDArray[np.float64]:
        """Cost of entries and exits of each option; (F,)."""
        t = self.t
        held = self.option >= 0
        server = t.server[np.maximum(self.option, 0)]
        value = np.zeros(len(self.option))
        for q, home in enumerate(t.home.tolist()):
            if application is not None and t.app_of[q] != application:
                continue
            value += t.entry[q, self.expert] * cost[home, server]
            if exits:
                value += t.exit[q, self.expert] * cost[server, home]
        value[~held] = 0.0
        if layer is not None:
            value[self.problem.layer_of[self.expert] != layer] = 0.0
        return value

    def self_values(
        self, cost: NDArray[np.float64], application: int | None = None
    ) -> NDArray[np.float64]:
        """Cost of pairs of an expert with itself; (F,)."""
        problem = self.problem
        rate = problem.application_rate[:, None] * problem.pair_weight
        alone = problem.pairs[:, 0] == problem.pairs[:, 1]
        each = np.zeros((problem.num_applications, problem.num_experts))
        for g in range(problem.num_applications):
            np.add.at(each[g], problem.pairs[alone, 0], rate[g, alone])
        weight = each.sum(axis=0) if application is None else each[application]
        server = self.t.server[np.maximum(self.option, 0)]
        return np.where(
            self.option >= 0, weight[self.expert] * np.diag(cost)[server], 0.0
        )

    def moving_rows(self, apart: bool) -> list[OuterRow]:
        """Rows that count traversals: links, caps, latency."""
        problem, t = self.problem, self.t
        num_s = problem.num_servers
        rows = []
        for k in range(len(problem.link_from)):
            crossing = np.zeros((num_s, num_s))
            for a in range(num_s):
                for b in range(num_s):
                    if k in problem.route_links[a][b].tolist():
                        crossing[a, b] = problem.bytes_out
            limit = float(problem.link_busy * problem.link_bandwidth[k])
            own = self.end_values(crossing) + self.self_values(crossing)
            rows.append(OuterRow("link", own, limit + forgiven(limit), crossing))
        for cap in problem.budget_caps:
            crossing = np.zeros((num_s, num_s))
            for a, b in budget_pairs(problem, cap):
                crossing[a, b] = 1.0
            own = self.end_values(crossing, exits=False, layer=cap.layer)
            limit = cap.max_tokens_per_s
            rows.append(
                OuterRow("budget", own, limit + forgiven(limit), crossing, cap.layer)
            )
        for g in range(problem.num_applications):
            rate = float(problem.application_rate[g])
            target = float(problem.latency_target[g])
            if rate <= 0 or not math.isfinite(target):
                continue
            calls = t.share.sum(axis=0)
            part = np.where(calls > 0, t.share[g] / np.where(calls > 0, calls, 1), 0.0)
            own = self.values(t.work) * part[self.expert]
            own += self.end_values(t.distance, application=g)
            own += self.self_values(t.distance, g)
            limit = target * rate
            rows.append(
                OuterRow(
                    "latency",
                    own,
                    limit + forgiven(limit) + FLOOR * rate,
                    t.distance,
                    None,
                    g if apart else None,
                )
            )
        return [row for row in rows if self.can_bind(row)]

    def can_bind(self, row: OuterRow) -> bool:
        """Say whether the worst plan breaks a row."""
        if not math.isfinite(row.limit):
            return False
        most = 0.0
        start = np.searchsorted(self.expert, np.arange(self.problem.num_experts + 1))
        if (np.diff(start) > 0).all() and len(row.own):
            most += float(np.maximum.reduceat(row.own, start[:-1]).sum())
        if row.crossing is not None:
            rate = self.problem.application_rate[:, None] * self.problem.pair_weight
            if row.layer is not None:
                rate = rate[
                    :, self.problem.layer_of[self.problem.pairs[:, 1]] == row.layer
                ]
            if row.application is not None:
                rate = rate[row.application]
            most += float(rate.sum() * row.crossing.max())
        return most > row.limit


def forgiven(limit: float) -> float:
    """Return what the judge forgives, and a little more."""
    return 1.001 * max(FLOOR, FEASIBILITY * abs(limit))

"""What becomes of calls, and what that puts on the rows of a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import budget_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .kernels import Tables

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


def joined(parts: list[Answers]) -> Answers:
    """Put entries one after the other."""
    names = ("row", "expert", "demand", "option", "share", "fused", "pruned")
    return Answers(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    )

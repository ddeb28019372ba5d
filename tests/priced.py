"""What copies and answers cost at prices of the rows, in plain loops.

Written from the text of ``docs/problem.md`` and ``docs/relaxation.md`` over the base
arrays of a `Problem`. It shares no code with `meldopt_solvers.relaxation` but the order
of the rows and their scale, which say what a price means.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from oracle import copy_sets, work_s

from meldopt.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from meldopt_solvers.relaxation.pricing import Lagrangian

Copy = tuple[int, int, int]
"""Expert, place, format."""


class Priced:
    """The Lagrangian of a problem at some prices, by enumeration.

    Parameters
    ----------
    lagrangian
        Which rows there are, and what their prices are relative to.
    prices
        Valid ones; (R + C,).
    """

    def __init__(self, lagrangian: Lagrangian, prices: NDArray[np.float64]) -> None:
        self.problem = p = lagrangian.problem
        unit = prices[: lagrangian.num_rows] / lagrangian.scale
        self.rows = unit
        num_v, num_p, num_k = p.num_places, len(p.processor_server), len(p.link_from)
        num_b, num_g = len(p.budget_caps), p.num_applications
        self.memory = unit[:num_v]
        loads = np.zeros(num_v + num_p + num_k + num_b + 2 * num_g)
        loads[lagrangian.load_rows] = unit[num_v : num_v + len(lagrangian.load_rows)]
        ends = np.cumsum([num_v, num_p, num_k, num_b, num_g])
        _, self.compute, self.link, self.cap, self.nats, self.seconds = np.split(
            loads, ends
        )
        rest = unit[num_v + len(lagrangian.load_rows) :]
        self.count = np.zeros(len(p.count_rows))
        inside = lagrangian.must_rows  # have no price: every set of a block keeps them
        self.must = [p.count_rows[n] for n in inside]
        lower = [
            n
            for n, row in enumerate(p.count_rows)
            if (row.lower or 0) > 0 and n not in inside
        ]
        upper = [n for n, row in enumerate(p.count_rows) if row.upper is not None]
        self.count[lower] -= rest[: len(lower)]
        self.count[upper] += rest[len(lower) :]
        self.limit = lagrangian.limit
        cells = prices[lagrangian.num_rows :]
        self.cell = cells.reshape(p.num_layers, -1) if len(cells) else None
        self.total = p.total_rate

    # -- one call ----------------------------------------------------------------------
    def second(self, g: int) -> float:
        """Price of a second of a call of an application."""
        return float(self.problem.weight_of("serial") / self.total + self.seconds[g])

    def nat(self, g: int) -> float:
        """Price of a nat."""
        return float(self.problem.weight_of("quality") / self.total + self.nats[g])

    def copy(self, g: int, copy: Copy) -> float:
        """Price of the work and the format loss of a call at a copy."""
        p = self.problem
        i, v, b = copy
        layer, s = int(p.layer_of[i]), int(p.server_of[v])
        price = self.second(g) + float(self.compute[p.processor_of[v]])
        price += p.weight_of("energy") / self.total * float(p.power_w[v])
        if self.cell is not None:
            price += p.weight_of("bottleneck") / self.total * float(self.cell[layer, s])
        return price * work_s(p, copy) + self.nat(g) * float(p.format_loss[g, i, b])

    def sending(self, q: int, layer: int, s: int) -> tuple[float, float] | None:
        """Price of the latency, and of the bytes, of a call that goes to a server."""
        p = self.problem
        g = int(p.application_of[q])
        src, snk = int(p.source[q, layer]), int(p.sink[q, layer])
        trip = float(p.route_latency[src, s] + p.route_latency[s, snk])
        if not np.isfinite(trip) or not p.trusted[g, s]:
            return None
        seconds = p.bytes_out * p.route_s_per_byte[src, s]
        seconds += p.bytes_back * p.route_s_per_byte[s, snk]
        price = self.second(g) * float(seconds)
        out, back = p.route_links[src][s], p.route_links[s][snk]
        for links, size in ((out, p.bytes_out), (back, p.bytes_back)):
            for e in links.tolist():
                per_byte = (
                    float(self.link[e])
                    + (
                        p.weight_of("traffic")
                        + p.weight_of("energy") * float(p.link_joule_per_byte[e])
                    )
                    / self.total
                )
                price += size * per_byte
        for n, cap in enumerate(p.budget_caps):
            if cap.layer not in (None, layer) or s == src:
                continue
            if cap.link is not None:
                inside = cap.link in out.tolist()
            else:
                inside = cap.from_server in (None, src) and cap.to_server in (None, s)
            price += float(self.cap[n]) if inside else 0.0
        return self.second(g) * trip, price

    def fusing(self, q: int, layer: int, s: int, sent: float) -> Iterator[int]:
        """Segments that pay."""
        p = self.problem
        g = int(p.application_of[q])
        if s == int(p.source[q, layer]):
            return
        for m in range(p.fuse_width.shape[2]):
            loss = self.nat(g) * float(p.fuse_loss[g, layer, m])
            if loss < (1 - p.fuse_factor) * sent:
                yield m

    def answer(self, q: int, i: int, copy: Copy) -> float:
        """Price of a call of i answered by a copy, fused where that pays; or inf."""
        p = self.problem
        g, layer = int(p.application_of[q]), int(p.layer_of[i])
        s = int(p.server_of[copy[1]])
        if copy[0] == i:
            way = self.sending(q, layer, s)
            if way is None:
                return np.inf
            trip, sent = way
            total = trip + sent + self.copy(g, copy)
            for m in self.fusing(q, layer, s, sent):
                gain = (1 - p.fuse_factor) * sent
                gain -= self.nat(g) * float(p.fuse_loss[g, layer, m])
                total -= float(p.fuse_width[g, layer, m]) * gain
            return total
        if s != int(p.source[q, layer]):
            return np.inf
        for n, (a, b) in enumerate(p.similar.tolist()):
            if (a, b) == (i, copy[0]):
                return self.copy(g, copy) + self.nat(g) * float(p.similar_loss[g, n])
        return np.inf

    def call(self, q: int, i: int, held: list[Copy]) -> tuple[float, Copy | None]:
        """Price of a call of i, the dearest pruned, and the copy that answers."""
        p = self.problem
        g, layer = int(p.application_of[q]), int(p.layer_of[i])
        costs = [self.answer(q, i, copy) for copy in held]
        best = int(np.argmin(costs)) if costs else 0
        x = costs[best] if costs else np.inf
        total, left = 0.0, 1.0
        for m in range(p.prune_width.shape[2]):
            loss = self.nat(g) * float(p.prune_loss[g, layer, m])
            if loss < x:
                total += float(p.prune_width[g, layer, m]) * loss
                left -= float(p.prune_width[g, layer, m])
        if left > 1e-9:
            total += left * x
        return total, held[best] if np.isfinite(x) else None

    # -- blocks ------------------------------------------------------------------------
    def opening(self, copy: Copy) -> float:
        """Price of a copy's memory and of its places in count rows."""
        p = self.problem
        i, v, b = copy
        total = float(self.memory[v] * p.size_bytes[i, b])
        for n, row in enumerate(p.count_rows):
            if i in row.experts and v in row.places and b in row.formats:
                total += float(self.count[n])
        return total

    def block(self, members: list[int], held: list[Copy]) -> float:
        """Price of the copies of a block and of all its calls."""
        p = self.problem
        total = sum(self.opening(copy) for copy in held)
        for i in members:
            for q in range(p.num_demands):
                mass = float(p.rate[q] * p.calls[p.application_of[q], i])
                if mass > 0:
                    total += mass * self.call(q, i, held)[0]
        return total

    def blocks(self) -> list[list[int]]:
        """Experts that are priced together."""
        groups: dict[int, list[int]] = defaultdict(list)
        for i, group in enumerate(self.problem.group_of.tolist()):
            groups[group].append(i)
        return list(groups.values())

    def sets(self, members: list[int]) -> list[list[Copy]]:
        """Every set of copies that a block may hold."""
        p = self.problem
        may = p.copy_allowed()
        pinned = {tuple(row) for row in p.pinned.tolist()}
        each = [
            [
                held
                for held in copy_sets(p, i, single=False)
                if all(may[copy] or copy in pinned for copy in held)
            ]
            for i in members
        ]
        found = [list(sum(parts, ())) for parts in itertools.product(*each)]
        asked = [row for row in self.must if int(row.experts[0]) in members]
        return [
            held
            for held in found
            if all(
                any(
                    i in row.experts and v in row.places and b in row.formats
                    for i, v, b in held
                )
                for row in asked
            )
        ]

    def value(self) -> float:
        """Return the least price of all blocks, less what the rows give back.

        Uniform groups must be unions of blocks that do not overlap. ``size`` is then
        the sum of what was added up, regardless of sign.
        """
        p = self.problem
        grouped: set[int] = set()
        kinds: list[tuple[list[list[int]], bool]] = []
        for group in p.uniform_groups:
            inside = set(group.experts.tolist())
            kinds.append(([b for b in self.blocks() if inside >= set(b)], True))
            grouped |= inside
        kinds += [([b], False) for b in self.blocks() if not grouped & set(b)]
        total = -float(self.rows @ self.limit)
        self.size = float(self.rows @ np.abs(self.limit))
        for blocks, uniform in kinds:
            options = []
            for only in range(p.num_formats) if uniform else [None]:
                least = 0.0
                for members in blocks:
                    costs = [
                        self.block(members, held)
                        for held in self.sets(members)
                        if only is None or all(b == only for _, _, b in held)
                    ]
                    least += min(costs, default=np.inf)
                    self.size += abs(min(costs, default=0.0))
                options.append(least)
            total += min(options)
        return total

    # -- plans -------------------------------------------------------------------------
    def plan(self, copies: list[Copy]) -> Plan | None:
        """Return the plan of some copies with the cheapest answers; none if one lacks.

        Demands of rate 0 answer by the default rule.
        """
        p = self.problem
        copies = sorted(copies)
        index = {copy: c for c, copy in enumerate(copies)}
        tables: dict[str, list[tuple[int, ...]]] = defaultdict(list)
        shares: dict[str, list[float]] = defaultdict(list)

        def put(name: str, row: tuple[int, ...], share: float) -> None:
            tables[name].append(row)
            shares[name].append(share)

        for q, i in itertools.product(range(p.num_demands), range(p.num_experts)):
            g, layer = int(p.application_of[q]), int(p.layer_of[i])
            if not p.rate[q] * p.calls[g, i] > 0:
                continue
            members = [copy for copy in copies if p.group_of[copy[0]] == p.group_of[i]]
            price, copy = self.call(q, i, members)
            if not np.isfinite(price):
                return None
            x = np.inf if copy is None else self.answer(q, i, copy)
            left = 1.0
            for m in range(p.prune_width.shape[2]):
                width = float(p.prune_width[g, layer, m])
                if self.nat(g) * float(p.prune_loss[g, layer, m]) < x and width > 0:
                    put("pruned", (q, i, m), width)
                    left -= width
            if left <= 1e-9 or copy is None:
                continue
            if copy[0] != i:
                put("substituted", (q, i, index[copy]), left)
                continue
            put("served", (q, i, index[copy]), left)
            s = int(p.server_of[copy[1]])
            way = self.sending(q, layer, s)
            assert way is not None
            for m in self.fusing(q, layer, s, way[1]):
                width = float(p.fuse_width[g, layer, m])
                if width > 0:
                    put("fused", (q, i, copy[1], m), width * left)
        arrays = {}
        for name, width_ in (
            ("served", 3),
            ("fused", 4),
            ("substituted", 3),
            ("pruned", 3),
        ):
            arrays[name] = np.array(tables[name], dtype=np.int64).reshape(-1, width_)
            arrays[f"{name}_share"] = np.array(shares[name], dtype=np.float64)
        return Plan.of(p, np.array(copies, dtype=np.int64).reshape(-1, 3), **arrays)

"""Whole experts as columns: sets of copies with the answers that prices give them.

A pattern of an expert is a set of copies together with what becomes of each demand's
calls at the prices of rows. It loads every row by a known amount, so that choosing a
pattern for each of hundreds of experts is one row of choice for each and one for every
row of the problem: far smaller than copies and shares, and blind to other shares, which
an LP looks at afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import Flows

from .choice import Choice
from .ledger import CHUNK, Answers, Ledger, joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt_solvers.relaxation.kernels import PriceTables

    from .kernels import Tables
    from .screen import Screen


class Patterns:
    """Makes patterns at prices.

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
        self.choice = Choice(problem, tables, self.ledger)

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

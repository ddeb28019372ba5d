"""Which copies are promising at the prices of rows.

At fixed prices each expert is a facility location problem: opening a copy costs its
memory, answering a call costs what it adds to all loads. An option is as good as the
best set that has it and differs from a known good set by one copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt_solvers.relaxation.kernels import PriceTables

    from .kernels import Tables

SLOTS = 6
"""Copies of a set that are tried in exchange, at most."""

CHUNK = 4_000_000
"""Entries of the largest array of one step."""


class Screen:
    """Prices of options of experts.

    Parameters
    ----------
    tables
        Of the search.
    prices
        Laid out by layer (`Lagrangian.price_tables`).
    """

    def __init__(self, tables: Tables, prices: PriceTables) -> None:
        self.t, self.p = tables, prices
        self.num_o = len(tables.place)
        self.num_q = len(tables.rate)
        member = np.zeros((len(tables.layer_of), len(tables.count_lower)))
        experts = np.repeat(
            np.arange(len(tables.layer_of)), np.diff(tables.count_start)
        )
        member[experts, tables.count_row] = 1.0
        self.counted = member

    def unit_costs(self, experts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Price one call of each demand at each option; (n, O, Q), inf: cannot be."""
        t, p = self.t, self.p
        place, format_, server = t.place, t.format, t.server
        layer = t.layer_of[experts]
        work = t.flop[experts, None] * t.s_per_flop[place, format_]
        work = work + t.size[experts][:, format_] * t.s_per_byte[place]
        each = p.serial + p.omega[layer][:, place][..., None]  # (n, O, Q)
        cost = work[..., None] * each
        loss = t.loss[t.app_of][:, experts][..., format_]  # (Q, n, O)
        cost += p.nat * np.moveaxis(loss, 0, 2)
        cost += p.net[layer][:, server]
        return np.where(t.usable[experts][..., None], cost, np.inf)

    def _costs(
        self, experts: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return costs of answers (n, O, Q), opening (n, O) and no copy (n, Q)."""
        t, p = self.t, self.p
        cost = self.unit_costs(experts)
        layer = t.layer_of[experts]
        bare = np.where(p.rest[layer] > 0.0, np.inf, 0.0)  # (n, Q)
        if t.prune_width.shape[1]:
            rest = p.rest[layer][:, None]
            folded = np.where(rest > 0.0, rest * np.where(rest > 0.0, cost, 0.0), 0.0)
            for m in range(t.prune_width.shape[1]):
                width = t.prune_width[layer, m]
                drop = p.drop[layer, m]
                folded += width[:, None] * np.minimum(cost, drop[:, None])
                bare += width * drop
            cost = folded
        mass = t.rate * t.calls[t.app_of][:, experts].T  # (n, Q)
        called = mass > 0.0
        cost = mass[:, None] * np.where(called[:, None], cost, 0.0)
        bare = mass * np.where(called, bare, 0.0)
        opening = p.memory[t.place] * t.size[experts][:, t.format]
        opening = opening + (self.counted[experts] * p.counted) @ t.count_option
        return cost, opening, bare

    def values(
        self, experts: NDArray[np.int64], sets: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return what sets of options cost at the prices, (n,); ``sets`` is (n, O)."""
        parts = []
        for some in self._chunks(len(experts)):
            cost, opening, bare = self._costs(experts[some])
            held = sets[some]
            least = np.where(held[..., None], cost, np.inf).min(axis=1)
            least = np.minimum(least, bare)
            parts.append(least.sum(axis=1) + np.where(held, opening, 0.0).sum(axis=1))
        return np.concatenate([*parts, np.zeros(0)])

    def margins(
        self, experts: NDArray[np.int64], sets: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return what the best set with each option costs more than the given one.

        Parameters
        ----------
        experts
            (n,).
        sets
            Options that each has; (n, O).

        Returns
        -------
        ndarray of float64, shape (n, O)
            Of sets that differ by one copy added or exchanged; inf: cannot be.
        """
        parts = [
            self._margins(experts[some], sets[some])
            for some in self._chunks(len(experts))
        ]
        return np.concatenate([*parts, np.zeros((0, self.num_o))])

    def _chunks(self, num: int) -> list[slice]:
        step = max(CHUNK // max(self.num_o * self.num_q, 1), 1)
        return [slice(k, k + step) for k in range(0, num, step)]

    def _margins(
        self, experts: NDArray[np.int64], sets: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        t = self.t
        cost, opening, bare = self._costs(experts)
        num = len(experts)
        rows = np.arange(num)
        held = np.where(sets[..., None], cost, np.inf)  # (n, O, Q)
        nearest = held.argmin(axis=1)  # (n, Q)
        first = np.take_along_axis(held, nearest[:, None], axis=1)[:, 0]
        np.put_along_axis(held, nearest[:, None], np.inf, axis=1)
        second = np.minimum(held.min(axis=1), bare)
        first = np.minimum(first, bare)
        open_ = np.where(sets, opening, 0.0).sum(axis=1)
        now = first.sum(axis=1) + open_
        servers = np.zeros((num, t.server.max(initial=0) + 1), dtype=np.int64)
        for o in range(self.num_o):
            servers[:, t.server[o]] += sets[:, o]
        same = servers[:, t.server]  # (n, O)

        def with_each(
            least: NDArray[np.float64], paid: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            total: NDArray[np.float64] = paid[:, None] + opening
            total += np.minimum(cost, least[:, None]).sum(axis=2)
            return total

        usable = t.usable[experts]
        best = np.where(same == 0, with_each(first, open_), np.inf)
        count = sets.sum(axis=1)
        order = np.argsort(~sets, axis=1, kind="stable")
        for slot in range(min(int(count.max(initial=0)), SLOTS)):
            gone = order[:, slot]
            there = slot < count
            least = np.where(nearest == gone[:, None], second, first)
            paid = open_ - opening[rows, gone]
            left = same - (t.server[gone][:, None] == t.server)
            value = with_each(least, paid)
            best = np.minimum(
                best, np.where((left == 0) & there[:, None], value, np.inf)
            )
        with np.errstate(invalid="ignore"):
            margin = best - now[:, None]
        margin = np.where(usable & np.isfinite(best), margin, np.inf)
        margin = np.nan_to_num(margin, nan=0.0, posinf=np.inf)
        found: NDArray[np.float64] = np.where(sets, 0.0, margin)
        return found


def option_sets(
    tables: Tables, option_at: NDArray[np.int64], copies: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the options of each expert in a table of copies; (N, O)."""
    sets = np.zeros((len(tables.layer_of), len(tables.place)), dtype=np.bool_)
    option = option_at[copies[:, 1], copies[:, 2]]
    known = option >= 0
    sets[copies[known, 0], option[known]] = True
    return sets

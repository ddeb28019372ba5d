"""A problem in `roam` as stars: labels, rows, meetings, and rows that are priced.

An option is a copy that an expert may have; a label, the options on one server. Two
experts meet if a table of their pairs of labels is kept: all do if the tables fit in
memory, else those that exchange most tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from meldopt_solvers.search.roam_rows import NoOptionError as NoOptionError
from meldopt_solvers.search.roam_rows import OuterRow as OuterRow
from meldopt_solvers.search.roam_rows import RoamOptions

from .roam_kernels import StarState, StarTables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem
    from meldopt_solvers.search.roam_kernels import RoamTables

MAX_CELLS = 24_000_000
"""Pairs of labels that tables may hold on each side; 16 bytes each in all."""

MAX_PRICES = 20_000_000
"""Prices of rows within stars; without them above that."""

MAX_TRIO_CELLS = 6_000_000
"""Triples of labels that trios may hold; fewer trios above that."""

PART = 0.2
"""Weight of a trio in the split of a meeting."""

FINE_CELLS = 300_000
"""Pairs of options up to which each option is a label of its own: a tighter bound."""


@dataclass(slots=True, eq=False)
class StarModel:
    """Tables, a fresh state, and what prices outside the stars act on.

    Attributes
    ----------
    expert, option
        Of each option of an expert: -1 for no copy; (F,).
    linear, work
        Cost and s/token of each option without prices; (F,).
    base_cost
        Cost of a traversal/s without prices; (G, L, S, S).
    spread
        Of the objective: what temperatures are measured by.
    complete
        Whether all experts meet.
    outer
        Rows priced outside the stars.
    dropped
        Names of what the bound leaves out.
    constant
        Of the objective: pairs that no table holds, at their least.
    """

    problem: Problem
    search: RoamTables
    tables: StarTables
    state: StarState
    expert: NDArray[np.int64]
    option: NDArray[np.int64]
    server: NDArray[np.int64]
    linear: NDArray[np.float64]
    work: NDArray[np.float64]
    layer: NDArray[np.int64]
    base_cost: NDArray[np.float64]
    spread: float
    complete: bool
    outer: list[OuterRow] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    constant: float = 0.0


def build_stars(
    problem: Problem,
    *,
    max_cells: int = MAX_CELLS,
    max_trio_cells: int = MAX_TRIO_CELLS,
) -> StarModel:
    """Make the star model of a problem in `roam` with one copy per expert.

    Parameters
    ----------
    problem
        With the `roam` dataflow and at most one copy per expert.
    max_cells
        Pairs of labels that may be held; fewer experts meet if all are more.
    """
    return _Builder(problem, max_cells, max_trio_cells).build()


class _Builder(RoamOptions):
    def __init__(self, problem: Problem, max_cells: int, max_trio_cells: int) -> None:
        super().__init__(problem)
        self.max_cells = max_cells
        self.max_trio_cells = max_trio_cells

    # -- meetings ------------------------------------------------------------------
    def group_labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sort options by label; first label of experts, first option of labels."""
        problem, t = self.problem, self.t
        num = problem.num_experts
        held = self.option >= 0
        o = np.maximum(self.option, 0)
        count = np.bincount(self.expert, minlength=num)
        cells = (int(count.sum()) ** 2 - int((count**2).sum())) // 2
        kind = np.where(held, t.server[o], -1)
        if cells <= FINE_CELLS:
            kind = self.option
        else:  # experts of one format meet by format
            formats = problem.num_formats
            kind = np.where(held, kind * formats, -1)
            apart = held & (t.group_of[self.expert] >= 0)
            kind = np.where(apart, kind + t.format[o], kind)
        order = np.lexsort((kind, self.expert))
        self.expert, self.option = self.expert[order], self.option[order]
        kind = kind[order]
        new = np.ones(len(kind), dtype=bool)
        new[1:] = (np.diff(self.expert) != 0) | (np.diff(kind) != 0)
        option_start = np.append(np.flatnonzero(new), len(kind))
        start = np.searchsorted(self.expert[new], np.arange(num + 1))
        return start.astype(np.int64), option_start.astype(np.int64)

    def build(self) -> StarModel:
        problem, t = self.problem, self.t
        num = problem.num_experts
        names, loads, limits = self.copy_rows()
        feasible = self.strike(loads, limits)
        names, loads, limits = self.copy_rows()
        if not feasible:
            raise NoOptionError
        start, option_start = self.group_labels()
        names, loads, limits = self.copy_rows()
        of = option_start[start]  # (N+1,) options of each expert
        count = np.diff(start)
        ends, there, back = self.weights()
        # Latency is a row of one application; else all applications cost the same.
        apart = t.latency and problem.num_applications > 1
        if not apart:
            there, back = there.sum(axis=0)[None], back.sum(axis=0)[None]
        pairs_in_all = (count.sum() ** 2 - (count**2).sum()) // 2
        complete = bool(num > 1 and pairs_in_all <= self.max_cells)
        dropped: list[str] = []
        constant = 0.0
        if complete:
            first, second = np.triu_indices(num, 1)
            at = first * num + second
            key = ends[:, 0] * num + ends[:, 1]
            where = np.searchsorted(at, key)
            all_there = np.zeros((len(there), len(first)))
            all_back = np.zeros_like(all_there)
            all_there[:, where], all_back[:, where] = there, back
            there, back = all_there, all_back
        else:
            cells = count[ends[:, 0]] * count[ends[:, 1]]
            order = np.argsort(-(there + back).sum(axis=0), kind="stable")
            kept = np.sort(order[np.cumsum(cells[order]) <= self.max_cells])
            gone = np.setdiff1d(np.arange(len(ends)), kept)
            if len(gone):
                dropped.append(f"{len(gone)} of {len(ends)} pairs above their least")
                least = t.cost.min()
                constant = float((there + back)[:, gone].sum() * min(least, 0.0))
                constant += float((there + back)[:, gone].sum() * max(least, 0.0))
            first, second = ends[kept].T
            there, back = there[:, kept], back[:, kept]
        first, second = first.astype(np.int64), second.astype(np.int64)
        cells = count[first] * count[second]
        offset = np.concatenate([[0], np.cumsum(cells)]).astype(np.int64)
        meet = np.concatenate(
            [2 * np.arange(len(first)), 2 * np.arange(len(first)) + 1]
        )
        who = np.concatenate([first, second])
        order = np.argsort(who, kind="stable")
        meet_start = np.searchsorted(who[order], np.arange(num + 1))
        # Rows that can bind at all.
        most = np.maximum.reduceat(loads, of[:-1], axis=1).sum(axis=1)
        can = most > limits
        inner, bound_rows = loads[can], limits[can]
        row_names = [name for name, kept_ in zip(names, can, strict=True) if kept_]
        priced = inner
        if len(option_start) * len(inner) > MAX_PRICES or not len(first):
            priced = inner[:0]
        room = np.zeros((num, len(priced)))
        if len(priced):
            least = np.minimum.reduceat(priced, of[:-1], axis=1)  # (K, N)
            met = least.copy()
            np.add.at(met.T, first, least.T[second])
            np.add.at(met.T, second, least.T[first])
            room = (bound_rows[:, None] - (least.sum(axis=1)[:, None] - met)).T
        nonzero = priced.T != 0
        entry_start = np.concatenate([[0], np.cumsum(nonzero.sum(axis=1))])
        label, row = np.nonzero(nonzero)
        norm = np.abs(priced).max(axis=1, initial=0.0)
        trio, crowded = self.trios(start, first, second, option_start, complete)
        trio_cells = cells[trio]
        trio_at = np.cumsum(trio_cells.ravel()) - trio_cells.ravel()
        trio_order = np.argsort(trio.ravel(), kind="stable")
        trio_start = np.searchsorted(
            trio.ravel()[trio_order], np.arange(len(first) + 1)
        )
        tables = StarTables(
            start=start,
            server=self.server[option_start[:-1]],
            option_start=option_start,
            first=np.ascontiguousarray(first),
            second=np.ascontiguousarray(second),
            offset=offset,
            meet_start=meet_start.astype(np.int64),
            meet=meet[order].astype(np.int64),
            there=np.ascontiguousarray(there),
            back=np.ascontiguousarray(back),
            layer=problem.layer_of.copy(),
            entry_start=entry_start.astype(np.int64),
            entry_row=row.astype(np.int64),
            entry=np.ascontiguousarray(priced.T[label, row]),
            room=np.ascontiguousarray(room),
            norm=np.where(norm > 0, norm, 1.0),
            trio=trio,
            apart=crowded,
            trio_at=trio_at.reshape(-1, 3).astype(np.int64),
            trio_start=trio_start.astype(np.int64),
            trio_of=trio_order.astype(np.int64),
            part=PART,
        )
        shape = (len(there), problem.num_layers, *t.cost.shape)
        base_cost = np.ascontiguousarray(np.broadcast_to(t.cost, shape))
        num_y = len(option_start) - 1
        work = self.values(t.work) / problem.total_rate
        linear = self.values(t.worth) + self.end_values(t.cost)
        state = StarState(
            own=linear.copy(),
            cost=base_cost.copy(),
            one=np.zeros(int(offset[-1])),
            two=np.zeros(int(offset[-1])),
            share=np.zeros(int(trio_cells.sum())),
            price=np.zeros((num_y, len(priced))),
            held=np.zeros(num_y),
            like=np.zeros(len(self.option)),
            flow=np.zeros(shape),
            square=np.zeros(shape),
        )
        model = StarModel(
            problem=problem,
            search=t,
            tables=tables,
            state=state,
            expert=self.expert,
            option=self.option,
            server=self.server,
            linear=linear,
            work=work,
            layer=problem.layer_of[self.expert],
            base_cost=base_cost,
            spread=self.spread(linear, work, of, there, back),
            complete=complete,
            constant=constant,
        )
        self.exclude(model, inner, bound_rows, of)
        model.outer = self.moving_rows(apart)
        if not complete:
            model.outer += [
                OuterRow(name, load, float(limit))
                for name, load, limit in zip(row_names, inner, bound_rows, strict=True)
            ]
            if problem.uniform_groups:
                dropped.append("uniform (but for experts that meet)")
        model.dropped = tuple(dropped)
        return model

    def trios(
        self,
        start: NDArray[np.int64],
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        option_start: NDArray[np.int64],
        complete: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose trios, all or none; bits of servers where the three do not fit."""
        problem, t = self.problem, self.t
        num, num_s = problem.num_experts, problem.num_servers
        none = np.zeros((0, 3), dtype=np.int64), np.zeros(0, dtype=np.int64)
        if not complete or num < 3:
            return none
        count = np.diff(start).astype(np.float64)
        s1, s2, s3 = count.sum(), (count**2).sum(), (count**3).sum()
        cells = (s1**3 - 3 * s1 * s2 + 2 * s3) / 6
        if cells > self.max_trio_cells:
            return none
        i, j, k = (
            a.astype(np.int64)
            for a in np.nonzero(
                np.tri(num, k=-1).T[:, :, None] * np.tri(num, k=-1).T[None]
            )
        )
        at = np.zeros((num, num), dtype=np.int64)
        at[first, second] = np.arange(len(first))
        trio = np.stack([at[i, j], at[i, k], at[j, k]], axis=1)
        held = self.option >= 0
        o = np.maximum(self.option, 0)
        size = problem.size_bytes[self.expert, t.format[o]]
        least = np.full((num, num_s), np.inf)
        np.minimum.at(least, (self.expert[held], t.server[o[held]]), size[held])
        room = np.zeros(num_s)
        np.add.at(room, problem.server_of, np.maximum(problem.largest_bytes, 0.0))
        room *= 1 + 1e-9
        apart = np.zeros(len(trio), dtype=np.int64)
        for s in range(min(num_s, 62)):
            over = least[i, s] + least[j, s] + least[k, s] > room[s]
            apart |= over.astype(np.int64) << s
        return trio, apart

    def spread(
        self,
        linear: NDArray[np.float64],
        work: NDArray[np.float64],
        of: NDArray[np.int64],
        there: NDArray[np.float64],
        back: NDArray[np.float64],
    ) -> float:
        """How far the objective may vary, roughly."""
        low = np.minimum.reduceat(linear, of[:-1])
        high = np.maximum.reduceat(linear, of[:-1])
        cost = self.t.cost
        far = float(cost.mean() - cost.min()) if cost.size else 0.0
        found = float((high - low).mean()) * len(low) / 2
        found += float(there.sum() + back.sum()) * far
        found += self.problem.weight_of("bottleneck") * float(work.sum()) / len(low)
        return found or 1e-9

    def exclude(
        self,
        model: StarModel,
        loads: NDArray[np.float64],
        limits: NDArray[np.float64],
        of: NDArray[np.int64],
    ) -> None:
        """Halve the cost of pairs of labels; mark those that no plan can have."""
        t, s = model.tables, model.state
        least = np.minimum.reduceat(loads, of[:-1], axis=1)
        scale = np.abs(loads).sum(axis=1)
        format_ = np.where(self.option >= 0, self.t.format[self.option], -1)
        group = self.t.group_of
        for e, (i, j) in enumerate(zip(t.first, t.second, strict=True)):
            mine = slice(t.start[i], t.start[i + 1])
            other = slice(t.start[j], t.start[j + 1])
            a, b = t.server[mine][:, None], t.server[other][None]
            cost = np.zeros((a.size, b.size))
            for g in range(len(t.there)):
                to, fro = s.cost[g, t.layer[j]], s.cost[g, t.layer[i]]
                cost += t.there[g, e] * to[a, b] + t.back[g, e] * fro.T[a, b]
            cost = np.where((a >= 0) & (b >= 0), 0.5 * cost, 0.0)
            # Options that no plan can have together; a label is out if all of its are.
            x, y = slice(of[i], of[i + 1]), slice(of[j], of[j + 1])
            rest = least.sum(axis=1) - least[:, i] - least[:, j]
            both = loads[:, x][:, :, None] + loads[:, y][:, None]
            over = (both + (rest - limits - 1e-9 * scale)[:, None, None] > 0).any(
                axis=0
            )
            if group[i] >= 0 and group[i] == group[j]:
                p, q = format_[x][:, None], format_[y][None]
                over |= (p != q) & (p >= 0) & (q >= 0)
            rows = t.option_start[mine.start : mine.stop] - of[i]
            columns = t.option_start[other.start : other.stop] - of[j]
            over = np.logical_and.reduceat(over, rows, axis=0)
            cost[np.logical_and.reduceat(over, columns, axis=1)] = np.inf
            s.one[t.offset[e] : t.offset[e + 1]] = cost.ravel()
            s.two[t.offset[e] : t.offset[e + 1]] = cost.ravel()

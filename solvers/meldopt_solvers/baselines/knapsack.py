"""The multiple-choice knapsack, solved exactly: one format per expert within a budget.

The published methods that choose bit-widths (PMQ, GEMQ, and inside MxMoE and LLM-PQ)
all end in this problem and hand it to a commercial engine. Here it is solved by the
steps of Dyer, Riha and Walker, "A hybrid dynamic programming / branch-and-bound
algorithm for the multiple-choice knapsack problem", J. Comput. Appl. Math. 58 (1995),
and Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", EJOR 83
(1995): the price of a byte at which the relaxation is tight, a plan that a greedy rule
makes of it, the choices that the price proves useless, and a dynamic programme over
sizes for the few items that are left. A group of items (a layer) may have to hold at
least one item in each of some choices; the price then decomposes by group.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EXACT = 1e-12
"""Relative difference of costs that counts as none."""

MOST_STATES = 30_000_000
"""States that the dynamic programme may touch before it gives up being exact."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """One choice for each item.

    Attributes
    ----------
    choice
        Column of each item; (N,).
    cost, size
        Sums over the items.
    exact
        Whether no other choice within the budget costs less.
    """

    choice: NDArray[np.int64]
    cost: float
    size: float
    exact: bool


def choose(
    cost: NDArray[np.float64],
    size: NDArray[np.float64],
    budget: float,
    *,
    group: NDArray[np.int64] | None = None,
    required: Sequence[int] = (),
    most_states: int = MOST_STATES,
) -> Chosen | None:
    """Choose one column for each item: least cost, sizes within a budget.

    Parameters
    ----------
    cost
        Of each item in each column; ``inf`` where a column cannot be chosen; (N, B).
    size
        Likewise, not negative; (N, B).
    budget
        Largest sum of sizes.
    group
        Group of each item; (N,). One group if None.
    required
        Columns of which each group must hold at least one item.
    most_states
        States that the dynamic programme may touch; beyond that the result is the
        greedy one, and says that it is not exact.

    Returns
    -------
    Chosen or None
        None if nothing is within the budget and holds what is required.
    """
    items = len(cost)
    if items == 0:
        empty = np.zeros(0, dtype=np.int64)
        return Chosen(choice=empty, cost=0.0, size=0.0, exact=True)
    if group is None:
        group = np.zeros(items, dtype=np.int64)
    return _Knapsack(cost, size, budget, group, tuple(required), most_states).solve()


class _Knapsack:
    """One problem: its prices, its best choice so far, its dynamic programme."""

    def __init__(
        self,
        cost: NDArray[np.float64],
        size: NDArray[np.float64],
        budget: float,
        group: NDArray[np.int64],
        required: tuple[int, ...],
        most_states: int,
    ) -> None:
        may = np.isfinite(cost) & np.isfinite(size)
        self.cost = np.where(may, cost, np.inf)
        self.size = np.where(may, size, np.inf)
        # An order of bytes is not an order of additions: forgive what sums may differ.
        self.budget = budget + EXACT * abs(budget)
        self.required, self.most_states = required, most_states
        order = np.argsort(group, kind="stable")
        start = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
        self.members = [part.astype(np.int64) for part in np.split(order, start[1:])]
        if not required:
            self.members = [np.arange(len(cost), dtype=np.int64)]
        self.rows = np.arange(len(cost))
        self.choice = np.zeros(len(cost), dtype=np.int64)
        self.best = np.inf

    # -- prices ------------------------------------------------------------------

    def priced(self, price: float) -> NDArray[np.float64]:
        """Return cost plus price times size, inf where not allowed; (N, B)."""
        if price == np.inf:
            return self.size
        if price == 0.0:
            return self.cost
        return self.cost + price * self.size

    def cheapest(self, price: float, *, small: bool) -> NDArray[np.int64] | None:
        """Return the best choice at a price; ties by size (``small``) or by cost.

        None if a group cannot hold what is required of it.
        """
        reduced = self.priced(price)
        least = reduced.min(axis=1)
        if not np.isfinite(least).all():
            return None
        tie = self.size if small else self.cost
        near = reduced <= (least + EXACT * np.abs(least))[:, None]
        choice = np.where(near, tie, np.inf).argmin(axis=1)
        for members in self.members if self.required else ():
            extra = self.extra(reduced[members], choice[members])
            if extra is None:
                return None
            for place, column in extra[1]:
                choice[members[place]] = column
        best: NDArray[np.int64] = choice.astype(np.int64)
        return best

    def extra(
        self,
        reduced: NDArray[np.float64],
        choice: NDArray[np.int64],
        without: int = -1,
        lacking: Sequence[int] | None = None,
    ) -> tuple[float, list[tuple[int, int]]] | None:
        """Return what a group must pay for its required columns, and who changes.

        Items that already stand in a required column pay nothing to stay. ``without``
        is an item that may not be used; ``lacking`` the columns asked for.
        """
        columns = self.required if lacking is None else tuple(lacking)
        if not columns:
            return 0.0, []
        least = reduced[np.arange(len(reduced)), choice]
        offers = []
        for column in columns:
            more = reduced[:, column] - least
            if without >= 0:
                more = more.copy()
                more[without] = np.inf
            first = np.argsort(more, kind="stable")[: len(columns) + 1]
            offers.append([(float(more[i]), int(i)) for i in first.tolist()])
        best: tuple[float, list[tuple[int, int]]] | None = None
        for pick in itertools.product(*offers):
            total = sum(more for more, _ in pick)
            if len({i for _, i in pick}) < len(pick) or not np.isfinite(total):
                continue
            if best is None or total < best[0]:
                who = [(i, c) for (_, i), c in zip(pick, columns, strict=True)]
                best = total, who
        return best

    def sums(self, choice: NDArray[np.int64]) -> tuple[float, float]:
        """Return cost and size of a choice."""
        return (
            float(self.cost[self.rows, choice].sum()),
            float(self.size[self.rows, choice].sum()),
        )

    def tight_price(self) -> tuple[float, bool] | None:
        """Find the price at which the relaxation is tight; keep the best choice seen.

        Returns the price and whether the choice is proved already; None if nothing
        fits. Each step takes the price at which the choice that is too large and the
        one that fits cost the same, until no third one is cheaper there: the maximum
        of the Lagrangian dual, reached in finitely many steps.
        """
        fits = self.cheapest(np.inf, small=False)
        if fits is None:
            return None
        cost_in, size_in = self.sums(fits)
        if size_in > self.budget:
            return None
        self.offer(fits)
        free = self.cheapest(0.0, small=True)
        if free is None:
            return None
        cost_out, size_out = self.sums(free)
        if size_out <= self.budget:
            self.offer(free)
            return 0.0, True
        while True:
            price = (cost_in - cost_out) / (size_out - size_in)
            if not price > 0.0:
                return 0.0, False
            middle = self.cheapest(price, small=True)
            assert middle is not None
            cost, size = self.sums(middle)
            line = cost_in + price * size_in
            if cost + price * size >= line - EXACT * abs(line):
                return price, False
            if size <= self.budget:
                cost_in, size_in = cost, size
                self.offer(middle)
            else:
                cost_out, size_out = cost, size

    # -- a good choice -----------------------------------------------------------

    def offer(self, choice: NDArray[np.int64]) -> None:
        """Keep a choice that fits, if it is the best."""
        cost, size = self.sums(choice)
        if cost < self.best and size <= self.budget:
            self.choice, self.best = choice.copy(), cost

    def fill(self, price: float) -> None:
        """Use the room that is left: changes by what they lose at the price."""
        choice = self.choice.copy()
        left = self.budget - self.sums(choice)[1]
        counts = self.counts(choice)
        of = np.zeros(len(choice), dtype=np.int64)
        for number, members in enumerate(self.members):
            of[members] = number
        for _ in range(4):
            now_cost = self.cost[self.rows, choice][:, None]
            now_size = self.size[self.rows, choice][:, None]
            with np.errstate(invalid="ignore"):
                gain, more = now_cost - self.cost, self.size - now_size
                loss = price * more - gain
            good = (gain > 0.0) & (more <= left)
            at = np.flatnonzero(good)
            if not len(at):
                break
            at = at[np.argsort(loss.ravel()[at], kind="stable")[:20_000]]
            moved = False
            done: set[int] = set()
            for flat in at.tolist():
                i, b = divmod(flat, self.cost.shape[1])
                extra = float(more[i, b])
                if i in done or extra > left:
                    continue
                old, held = int(choice[i]), counts[int(of[i])]
                if old in held and held[old] == 1:
                    continue
                if old in held:
                    held[old] -= 1
                if b in held:
                    held[b] += 1
                choice[i], left, moved = b, left - extra, True
                done.add(i)
            if not moved:
                break
        self.offer(choice)

    def counts(self, choice: NDArray[np.int64]) -> list[dict[int, int]]:
        """Return how many items of each group stand in each required column."""
        return [
            {b: int((choice[members] == b).sum()) for b in self.required}
            for members in self.members
        ]

    # -- what cannot be better ---------------------------------------------------

    def forced(self, price: float) -> tuple[float, NDArray[np.float64]]:
        """Return the dual value at a price, and by how much each choice raises it.

        Returns the value without the budget's part, and an array (N, B).
        """
        reduced = self.priced(price)
        least = reduced.min(axis=1)
        rise = reduced - least[:, None]
        value = float(least.sum())
        if not self.required:
            return value, rise
        lowest = reduced.argmin(axis=1)
        for members in self.members:
            part, choice = reduced[members], lowest[members]
            whole = self.extra(part, choice)
            assert whole is not None
            value += whole[0]
            paid = {place for place, _ in whole[1]}
            # Three of each column are looked at, so only these differ from the rest.
            for place in range(len(members)):
                row = rise[members[place]]
                for b in range(len(row)):
                    if not np.isfinite(row[b]):
                        continue
                    if b not in self.required and place not in paid:
                        continue  # what is required is held by others, at no more
                    lacking = [c for c in self.required if c != b]
                    rest = self.extra(part, choice, place, lacking)
                    row[b] += np.inf if rest is None else rest[0] - whole[0]
        return value, np.maximum(rise, 0.0)

    # -- the rest, by dynamic programming ------------------------------------------

    def solve(self) -> Chosen | None:
        """Run the steps."""
        found = self.tight_price()
        if found is None:
            return None
        price, proved = found
        if not proved:
            self.fill(price)
            proved = self.complete(price)
        cost, size = self.sums(self.choice)
        return Chosen(choice=self.choice, cost=cost, size=size, exact=proved)

    def complete(self, price: float) -> bool:
        """Search what the price leaves open; say whether it was searched in full."""
        value, rise = self.forced(price)
        limit = self.best - EXACT * abs(self.best)
        dual = value - price * self.budget
        open_ = dual + rise < limit
        number = open_.sum(axis=1)
        if (number == 0).any():
            return True  # some item has no choice that could make it better
        states = _States(self, price, open_, dual)
        if not states.run(limit):
            return False
        better = states.best()
        if better is not None:
            self.offer(better)
        return True


class _States:
    """Sums of cost and size that are still of use, one list per set of columns held.

    An item with one open choice is in the sums from the start. The others are taken
    group by group; ``mask`` says which required columns the group holds so far.
    """

    def __init__(
        self,
        knapsack: _Knapsack,
        price: float,
        open_: NDArray[np.bool_],
        dual: float,
    ) -> None:
        self.k, self.price, self.open, self.dual = knapsack, price, open_, dual
        self.choice = open_.argmax(axis=1).astype(np.int64)
        self.free = open_.sum(axis=1) > 1
        self.full = (1 << len(knapsack.required)) - 1
        self.bit = {b: 1 << n for n, b in enumerate(knapsack.required)}
        self.steps: list[tuple[int, dict[int, tuple[NDArray[np.int64], ...]]]] = []
        self.ends: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def run(self, limit: float) -> bool:
        """Go through all free items; False if there are too many states."""
        k = self.k
        reduced = k.priced(self.price)
        least = np.where(self.open, reduced, np.inf).min(axis=1)
        smallest = np.where(self.open, k.size, np.inf).min(axis=1)
        fixed = ~self.free
        cost = float(k.cost[k.rows, self.choice][fixed].sum())
        size = float(k.size[k.rows, self.choice][fixed].sum())
        rest = float(least[self.free].sum())
        rest_size = float(smallest[self.free].sum())
        lists = {0: (np.array([cost]), np.array([size]))}
        touched = 0
        for members in k.members:
            held = 0
            for i in members[fixed[members]].tolist():
                held |= self.bit.get(int(self.choice[i]), 0)
            lists = {held: lists[0]} if 0 in lists else {}
            free = members[self.free[members]]
            spread = np.where(self.open, reduced - least[:, None], 0.0)[free]
            for i in free[np.argsort(-spread.max(axis=1), kind="stable")].tolist():
                rest -= float(least[i])
                rest_size -= float(smallest[i])
                lists = self.step(i, lists, rest, rest_size, limit)
                touched += sum(len(cost) for cost, _ in lists.values())
                if touched > k.most_states:
                    return False
            lists = {0: lists[self.full]} if self.full in lists else {}
            if not lists:
                break
            if self.full:
                self.steps.append((-1, {}))  # the group ends: the set starts anew
        self.ends = lists
        return True

    def step(
        self,
        i: int,
        lists: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]],
        rest: float,
        rest_size: float,
        limit: float,
    ) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Add an item to all states and keep those that can still lead to better."""
        k = self.k
        parts: dict[int, list[tuple[NDArray[np.float64], ...]]] = {}
        for mask, (cost, size) in lists.items():
            origin = np.arange(len(cost)).astype(np.float64)
            for b in np.flatnonzero(self.open[i]).tolist():
                to = mask | self.bit.get(b, 0)
                parts.setdefault(to, []).append(
                    (
                        cost + k.cost[i, b],
                        size + k.size[i, b],
                        origin,
                        np.full(len(cost), float(mask)),
                        np.full(len(cost), float(b)),
                    )
                )
        after, back = {}, {}
        for mask, pieces in parts.items():
            cost, size, origin, source, chosen = (
                np.concatenate([piece[n] for piece in pieces]) for n in range(5)
            )
            bound = cost + self.price * (size - k.budget) + rest
            keep = np.flatnonzero((bound < limit) & (size + rest_size <= k.budget))
            order = keep[np.lexsort((cost[keep], size[keep]))]
            if not len(order):
                continue
            # A larger state is of use only if it costs less than all smaller ones.
            before = np.minimum.accumulate(np.r_[np.inf, cost[order][:-1]])
            order = order[cost[order] < before]
            after[mask] = cost[order], size[order]
            back[mask] = tuple(
                x[order].astype(np.int64) for x in (origin, source, chosen)
            )
        self.steps.append((i, back))
        return after

    def best(self) -> NDArray[np.int64] | None:
        """Follow the cheapest state back to its choices."""
        if not self.ends:
            return None
        cost, _ = self.ends[0]
        choice: NDArray[np.int64] = self.choice.copy()
        at, mask = int(cost.argmin()), 0
        for i, back in reversed(self.steps):
            if i < 0:
                mask = self.full
                continue
            origin, source, chosen = back[mask]
            choice[i] = chosen[at]
            at, mask = int(origin[at]), int(source[at])
        return choice

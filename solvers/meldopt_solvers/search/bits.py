"""Formats for copies that already have a place: a multiple-choice knapsack.

Each copy (or uniform group) takes one format; the loss is minimised within the memory
of every place. Greedy along the convex hull of each choice, by loss saved per byte;
where few copies share a place and no row ties it to another, all are tried.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import least_time_copies

from .tables import NO_LIMIT, uniform_group_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

ENUMERATED = 20_000
"""Combinations of formats of one place up to which all are tried."""

IDLE = 1e-6
"""Weight of a copy that no demand uses, as a part of all calls of its expert."""


def choose_formats(
    problem: Problem, copies: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Choose a format for each copy.

    Parameters
    ----------
    problem
        With the limits on memory, formats, pins and counts.
    copies
        Expert, place and format, sorted; the formats are chosen anew.

    Returns
    -------
    ndarray of int64, shape (C, 3), or None
        The copies in their new formats, sorted; None if not even the smallest fit.
    """
    knapsack = _Knapsack(problem, copies)
    if not knapsack.start():
        return None
    knapsack.fill()
    knapsack.enumerate_places()
    chosen = copies.copy()
    chosen[:, 2] = knapsack.format
    return chosen[np.lexsort(chosen.T[::-1])]


def loss_of_copies(problem: Problem, copies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return nats/s of each copy in each format, by who uses it; (C, B).

    A demand uses its copy of least time.
    """
    calls = problem.calls[problem.application_of]  # (Q, N)
    app = problem.application_of
    loss = np.zeros((len(copies), problem.num_formats))
    if problem.dataflow == "home":
        used = least_time_copies(problem, copies)
        q, i = np.nonzero(used >= 0)
        mass = problem.rate[q] * calls[q, i]
        np.add.at(loss, used[q, i], mass[:, None] * problem.format_loss[app[q], i])
    idle = 1.0 if problem.dataflow == "roam" else IDLE
    share = problem.application_rate[:, None] * problem.calls  # (G, N)
    total = np.einsum("gn,gnb->nb", share, problem.format_loss)
    every: NDArray[np.float64] = loss + idle * total[copies[:, 0]]
    return every


class _Knapsack:
    """Items are copies, or all copies of a uniform group."""

    def __init__(self, problem: Problem, copies: NDArray[np.int64]) -> None:
        self.problem, self.copies = problem, copies
        self.size = problem.size_bytes[copies[:, 0]]  # (C, B)
        self.loss = loss_of_copies(problem, copies)
        self.may = problem.copy_allowed()[copies[:, 0], copies[:, 1]]  # (C, B)
        pins = {(i, v): b for i, v, b in problem.pinned.tolist()}
        for c, (i, v, _) in enumerate(copies.tolist()):
            if (i, v) in pins:
                self.may[c] = False
                self.may[c, pins[i, v]] = True
        group = uniform_group_of(problem)[copies[:, 0]]
        groups = np.unique(group[group >= 0])
        self.items = [np.flatnonzero(group == g) for g in groups]
        self.items += [np.array([c]) for c in np.flatnonzero(group < 0)]
        self.format = np.full(len(copies), -1, dtype=np.int64)
        self.room = problem.room_bytes.copy()
        self.counts = [
            (
                np.isin(copies[:, 0], row.experts) & np.isin(copies[:, 1], row.places),
                row.formats,
                row.lower or 0,
                NO_LIMIT if row.upper is None else row.upper,
            )
            for row in problem.count_rows
        ]

    def formats_of(self, item: NDArray[np.int64]) -> list[int]:
        """Return the formats that all copies of an item can have, smallest first."""
        common = np.flatnonzero(self.may[item].all(axis=0))
        size = self.size[item].sum(axis=0)
        return sorted(common.tolist(), key=lambda b: (size[b], b))

    def set(self, item: NDArray[np.int64], b: int) -> None:
        """Give an item a format and book its memory."""
        for sign, formats in ((1.0, self.format[item]), (-1.0, np.full(len(item), b))):
            on = formats >= 0
            np.add.at(
                self.room,
                self.copies[item[on], 1],
                sign * self.size[item[on], formats[on]],
            )
        self.format[item] = b

    def fits(self, item: NDArray[np.int64], b: int) -> bool:
        """Say whether an item fits in another format, memory and counts."""
        old = self.format[item].copy()
        self.set(item, b)
        fine = bool((self.room >= -1e-9 * np.abs(self.problem.room_bytes)).all())
        fine = fine and self.counts_hold()
        self.set(item, int(old[0]))
        return fine

    def counts_hold(self) -> bool:
        """Say whether every count row that the formats decide is kept."""
        for inside, formats, lower, upper in self.counts:
            number = int((inside & np.isin(self.format, formats)).sum())
            if not lower <= number <= upper:
                return False
        return True

    def start(self) -> bool:
        """Take the smallest formats, then mend the counts; say whether they fit."""
        for item in self.items:
            formats = self.formats_of(item)
            if not formats:
                return False
            self.set(item, formats[0])
        for _ in range(2 * len(self.items)):
            if self.counts_hold() or not self.mend_counts():
                break
        return bool((self.room >= -1e-9 * np.abs(self.problem.room_bytes)).all())

    def mend_counts(self) -> bool:
        """Change one item towards the first count row that is not kept."""
        for inside, formats, lower, upper in self.counts:
            holds = inside & np.isin(self.format, formats)
            number = int(holds.sum())
            if lower <= number <= upper:
                continue
            want = number < lower
            best: tuple[float, int, int] | None = None
            for n, item in enumerate(self.items):
                if not (inside[item] & (holds[item] != want)).any():
                    continue
                now = self.format[item[0]]
                for b in self.formats_of(item):
                    if (b in formats) == want:
                        more = self.size[item, b].sum() - self.size[item, now].sum()
                        if best is None or more < best[0]:
                            best = (float(more), n, b)
            if best is None:
                return False
            self.set(self.items[best[1]], best[2])
            return True
        return False

    def step(self, n: int) -> tuple[float, int] | None:
        """Return the change of an item that saves most loss per byte, and its rate."""
        item = self.items[n]
        now = int(self.format[item[0]])
        size, loss = self.size[item].sum(axis=0), self.loss[item].sum(axis=0)
        best: tuple[float, int] | None = None
        for b in self.formats_of(item):
            saved, more = loss[now] - loss[b], size[b] - size[now]
            if saved <= 0.0:
                continue
            rate = float(saved / max(more, 1e-9 * max(size[b], 1.0)))
            if (best is None or rate > best[0]) and self.fits(item, b):
                best = (rate, b)
        return best

    def fill(self) -> None:
        """Raise formats by loss saved per byte while anything fits."""
        heap = []
        for n in range(len(self.items)):
            found = self.step(n)
            if found is not None:
                heap.append((-found[0], n, found[1]))
        heapq.heapify(heap)
        while heap:
            rate, n, b = heapq.heappop(heap)
            if self.fits(self.items[n], b):
                self.set(self.items[n], b)
            again = self.step(n)
            if again is not None and (again[1] != b or -again[0] < rate):
                heapq.heappush(heap, (-again[0], n, again[1]))

    def enumerate_places(self) -> None:
        """Try all combinations at places that are small and tied to no other."""
        if self.counts:
            return
        for v in range(self.problem.num_places):
            mine = [item for item in self.items if (self.copies[item, 1] == v).all()]
            here = np.flatnonzero(self.copies[:, 1] == v)
            if sum(len(item) for item in mine) < len(here) or not mine:
                continue
            choices = [self.formats_of(item) for item in mine]
            if math.prod(len(formats) for formats in choices) > ENUMERATED:
                continue
            room = float(self.problem.room_bytes[v]) * (1 + 1e-9)
            sizes = [self.size[item].sum(axis=0) for item in mine]
            losses = [self.loss[item].sum(axis=0) for item in mine]
            best: tuple[float, tuple[int, ...]] | None = None
            for pick in itertools.product(*choices):
                if sum(s[b] for s, b in zip(sizes, pick, strict=True)) > room:
                    continue
                loss = sum(x[b] for x, b in zip(losses, pick, strict=True))
                if best is None or loss < best[0]:
                    best = (float(loss), pick)
            if best is not None:
                for item, b in zip(mine, best[1], strict=True):
                    self.set(item, b)

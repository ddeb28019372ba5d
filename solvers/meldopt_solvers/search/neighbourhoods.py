"""Which experts a step of large-neighbourhood search sets free, and how it learns.

Neighbourhoods are drawn with weights that follow what they gained for their work,
segment by segment, and each has a size of its own that grows while its sub-problems are
solved to the end.

References
----------
.. [1] Ropke, S., & Pisinger, D. (2006). An adaptive large neighborhood search
   heuristic for the pickup and delivery problem with time windows. *Transportation
   Science* 40(4).
   https://doi.org/10.1287/trsc.1050.0135
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from meldopt.problem import Problem

SEGMENT = 12
"""Steps after which weights are set anew."""

REACTION = 0.5
"""Part of a weight that the last segment decides."""

LEAST_WEIGHT = 0.05
"""Of the mean weight: every neighbourhood may come back."""

GROWTH, SHRINKAGE = 1.15, 0.7
"""Factors of a size after a sub-problem that was solved, and one that was not."""


@dataclass(slots=True)
class Kind:
    """One neighbourhood: its size in experts, and what it gained.

    Attributes
    ----------
    name
        One of `Neighbourhoods.names`.
    how
        How the sub-problem is put: ``copies`` or ``patterns``.
    size
        Experts to set free.
    """

    name: str
    how: str
    size: float
    weight: float = 1.0
    gain: float = 0.0
    work: float = 0.0


@dataclass(slots=True)
class Chooser:
    """Draws kinds by weight and learns from what they gain.

    Attributes
    ----------
    kinds
        To choose from.
    least, most
        Sizes that no kind leaves.
    """

    kinds: Sequence[Kind]
    least: int
    most: int
    steps: int = 0
    tried: int = 0

    def pick(self, rng: np.random.Generator) -> Kind:
        """Draw a kind; each is tried once before weights count."""
        if self.tried < len(self.kinds):
            self.tried += 1
            return self.kinds[self.tried - 1]
        weight = np.array([kind.weight for kind in self.kinds])
        return self.kinds[int(rng.choice(len(weight), p=weight / weight.sum()))]

    def learn(self, kind: Kind, gain: float, work: float, *, solved: bool) -> None:
        """Note what a step gained for its work and whether it came to its end."""
        kind.gain += max(gain, 0.0)
        kind.work += work
        factor = GROWTH if solved else SHRINKAGE
        kind.size = float(np.clip(kind.size * factor, self.least, self.most))
        self.steps += 1
        if self.steps % SEGMENT == 0:
            self._settle()

    def _settle(self) -> None:
        done = [kind for kind in self.kinds if kind.work > 0]
        rates = np.array([kind.gain / kind.work for kind in done])
        top = rates.max(initial=0.0)
        for kind, rate in zip(done, rates.tolist(), strict=True):
            new = rate / top if top > 0 else 1.0
            kind.weight = (1 - REACTION) * kind.weight + REACTION * new
            kind.gain = kind.work = 0.0
        mean = float(np.mean([kind.weight for kind in self.kinds]))
        for kind in self.kinds:
            kind.weight = max(kind.weight, LEAST_WEIGHT * mean)


class Neighbourhoods:
    """Draws sets of experts.

    Parameters
    ----------
    problem
        What is searched.
    uniform
        Uniform group of each expert, -1: none; (N,).
    """

    names = ("layers", "servers", "application", "random")
    priced = ("costly", "tied")

    def __init__(self, problem: Problem, uniform: NDArray[np.int64]) -> None:
        self.problem = problem
        self.uniform = uniform
        self.traffic = np.zeros((problem.num_applications, problem.num_experts))
        np.add.at(
            self.traffic,
            problem.application_of,
            problem.rate[:, None] * problem.calls[problem.application_of],
        )
        group = problem.group_of
        self.similar = group if len(problem.similar) else None
        self.costly: NDArray[np.float64] | None = None  # (N,) what could be gained
        self.tied: NDArray[np.float64] | None = None  # (N,) margin of the next best

    def draw(
        self,
        kind: str,
        size: int,
        copies: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Draw about so many experts; sorted, closed under similarity.

        Parameters
        ----------
        kind
            One of `names` or `priced`.
        size
            Experts to draw.
        copies
            Of the present plan, (C, 3).
        rng
            Decides.
        """
        num = self.problem.num_experts
        if size >= num:
            return np.arange(num, dtype=np.int64)
        chosen = getattr(self, f"_{kind}")(size, copies, rng)
        if len(chosen) < 2:  # nothing can be exchanged
            chosen = self._random(size, copies, rng)
        return self._closed(np.unique(chosen).astype(np.int64), size)

    def _closed(self, chosen: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        if self.similar is not None:
            member = np.isin(self.similar, self.similar[chosen])
            chosen = np.flatnonzero(member).astype(np.int64)
        groups = np.unique(self.uniform[chosen])
        inside = np.isin(self.uniform, groups[groups >= 0])
        wider = np.union1d(chosen, np.flatnonzero(inside))
        if len(wider) > len(chosen) and len(wider) <= 2 * size:
            chosen = wider.astype(np.int64)
            if self.similar is not None:
                member = np.isin(self.similar, self.similar[chosen])
                chosen = np.flatnonzero(member).astype(np.int64)
        return chosen

    # -- kinds -------------------------------------------------------------------------
    def _weighted(
        self, weight: NDArray[np.float64], size: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw experts without replacement, by weight."""
        on = np.flatnonzero(weight > 0)
        if len(on) <= size:
            return on.astype(np.int64)
        # Exponential keys: the largest are a weighted sample (Efraimidis, Spirakis).
        key = rng.exponential(size=len(on)) / weight[on]
        found: NDArray[np.int64] = on[np.argpartition(key, size)[:size]]
        return found.astype(np.int64)

    def _random(
        self, size: int, copies: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        num = self.problem.num_experts
        return rng.choice(num, size=min(size, num), replace=False).astype(np.int64)

    def _layers(
        self, size: int, copies: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Experts of one layer, then of others that it does not fill the size with."""
        start = self.problem.layer_start
        found: list[NDArray[np.int64]] = []
        left = size
        for layer in rng.permutation(self.problem.num_layers).tolist():
            members = np.arange(start[layer], start[layer + 1])
            taken = rng.permutation(members)[:left]
            found.append(taken)
            left -= len(taken)
            if left <= 0:
                break
        return np.concatenate(found)

    def _servers(
        self, size: int, copies: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Experts with a copy on one of two servers, half of each."""
        num_s = self.problem.num_servers
        if num_s < 2:
            return self._random(size, copies, rng)
        pair = rng.choice(num_s, size=2, replace=False)
        server = self.problem.server_of[copies[:, 1]]
        halves = [
            rng.permutation(np.unique(copies[server == s, 0]))[: (size + 1) // 2]
            for s in pair
        ]
        return np.concatenate(halves)

    def _application(
        self, size: int, copies: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Experts that carry most of the calls of one application."""
        g = int(rng.integers(self.problem.num_applications))
        return self._weighted(self.traffic[g] ** 2, size, rng)

    def _costly(
        self, size: int, copies: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Experts that cost more at the prices than they must."""
        assert self.costly is not None
        return self._weighted(self.costly, size, rng)

    def _tied(
        self, size: int, copies: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Experts that other copies would suit as well, at the prices."""
        assert self.tied is not None
        floor = float(np.median(self.tied)) * 0.1 + 1e-300
        return self._weighted(1.0 / (self.tied + floor), size, rng)

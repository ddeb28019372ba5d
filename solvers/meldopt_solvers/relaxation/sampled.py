"""The term `parallel` in the relaxation: weights on the calls of sampled tokens.

A layer takes a token as long as its slowest server, and that is at least any mean of
the times of its calls, each alone: sum(weight time) <= slowest, for weights >= 0 of sum
one. A call takes at least the time of the fastest copy of its expert that exists. So
`parallel` becomes a client of facility location for each (demand, expert) that sampled
tokens call. Calls that may be substituted count nothing, nor those that may be pruned:
the hash that turns shares into answers prunes the calls of the largest draws first, so
those below the share that no segment can prune are answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import token_hash

from .kernels import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .pricing import Point

SURE = 1e-4
"""Far more than what `score` forgives in a sum of shares."""

PULL = 4.0
"""How strongly weights move to the slower calls of a token, in one step."""


class SampledWeights:
    """Weights of the calls of each sampled token and layer, (T, L, k)."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        token, layer, slot = np.nonzero(problem.sample_experts >= 0)
        expert = problem.sample_experts[token, layer, slot]
        demand = problem.sample_demand[token]
        app = problem.application_of[demand]
        most = problem.prune_width.sum(axis=2)[app, layer]  # that may be pruned
        free = (most > 0) & (token_hash(token, expert, 1) >= 1.0 - most - SURE)
        if len(problem.similar):
            free |= np.isin(expert, problem.similar[:, 0])
        free |= problem.rate[demand] * problem.calls[app, expert] <= 0
        keep = ~free
        self.expert, self.demand = expert[keep], demand[keep]
        group = token[keep] * problem.num_layers + layer[keep]
        _, self.group = np.unique(group, return_inverse=True)
        self.weight = np.ones(len(self.expert))
        self._normalise()

    def _normalise(self) -> None:
        total = np.bincount(self.group, weights=self.weight)
        self.weight /= total[self.group] if len(self.group) else 1.0

    def timed(self) -> NDArray[np.float64]:
        """Return what the fastest answer of each (expert, demand) counts; (N, Q)."""
        problem = self.problem
        found = np.zeros((problem.num_experts, problem.num_demands))
        tokens = max(len(problem.sample_demand), 1)
        each = problem.weight_of("parallel") * self.weight / tokens
        np.add.at(found, (self.expert, self.demand), each)
        return found

    def swift(self) -> NDArray[np.float64]:
        """Return the least network time of a call that is served; (L, S, Q)."""
        problem = self.problem
        fuses = (problem.fuse_width.sum(axis=2) > 0)[problem.application_of]  # (Q, L)
        part = np.where(fuses, problem.fuse_factor, 1.0)[:, :, None]
        time = problem.round_trip_s + part * problem.transfer_s
        time = np.where(problem.reachable, time, np.inf)
        return np.ascontiguousarray(np.moveaxis(time, 0, 2))

    def pull(
        self, point: Point, place: NDArray[np.int64], b: NDArray[np.int64]
    ) -> None:
        """Move weight to the calls that are slow with the copies of a point."""
        problem = self.problem
        if not len(self.group):
            return
        swift = self.swift()
        layer = problem.layer_of[self.expert]
        least = np.full(len(self.expert), np.inf)
        for option in point.option[self.expert].T:
            there = option != NONE
            i, o = self.expert[there], option[there]
            server = problem.server_of[place[o]]
            time = swift[layer[there], server, self.demand[there]]
            time = time + problem.work_s(i, place[o], b[o])
            least[there] = np.minimum(least[there], time)
        least = np.where(np.isfinite(least), least, 0.0)
        slowest = np.zeros(int(self.group.max()) + 1)
        np.maximum.at(slowest, self.group, least)
        top = slowest[self.group]
        part = np.divide(least, top, out=np.ones_like(least), where=top > 0)
        self.weight *= np.exp(PULL * (part - 1.0))
        self._normalise()

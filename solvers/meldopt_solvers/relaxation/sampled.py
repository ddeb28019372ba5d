"""The sampled terms in the relaxation: weights on what a token waits for.

A layer takes a token as long as its slowest server, and that is at least any mean, with
weights >= 0 of sum one, of

- the time of one of its calls by itself (`parallel` only), and
- the time that one server spends on all its calls there, where a call that goes there
  counts its work and one k-th of the way (k calls are asked for, and the way is gone
  once at least).

A call takes at least what the best copy that exists takes. So the first kind becomes a
client of facility location for each (demand, expert) that sampled tokens call. The
second becomes another, whose cost at a server goes with the weight of that server; it
must be the same for all tokens of a demand in a layer, since tokens may go to different
copies.

Calls that may be substituted have what similar experts at home could do as further
answers. Calls that may be pruned count where they cannot be: the hash that turns shares
into answers prunes the calls of the largest draws first, so those of draws below the
share that no segment can prune are answered. Another draw fuses calls, again none at or
above the widths of the segments. In `fluid` these shares themselves count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from meldopt.score import token_hash
from meldopt.tolerance import SHARE_SUM

from .facility import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .pricing import Point

PULL = 2.0
"""How strongly weights move to what a token waits for, in the first step."""

ALONE = 0.75
"""First weight of the calls by themselves in `parallel`; servers have the rest."""

LEAST = 1e-6
"""No weight falls below that part of the largest: it could not come back."""


class SampledTables(NamedTuple):
    """Weights as the kernels read them; none of them is filled without weights."""

    timed: NDArray[np.float64]  # (N, Q, K) of the fastest answer, by itself
    load: NDArray[np.float64]  # (N, Q, K) of work at a weighted server
    visit: NDArray[np.float64]  # (N, Q, K) of the way to a weighted server
    swift: NDArray[np.float64]  # (L, S, Q, K) least time of the way; inf: no
    lean: NDArray[np.float64]  # (L, S, Q) weight of each server


def no_weights() -> SampledTables:
    """Return the tables of a relaxation that leaves the sampled terms out."""
    flat = np.zeros((0, 0, 0))
    return SampledTables(flat, flat, flat, np.zeros((0, 0, 0, 0)), flat)


FULL, FUSED, PARTLY = range(3)
"""How calls travel: as they are; fused; as a mean of both, in `fluid`."""


def _forgiven(curve: NDArray[np.float64]) -> float:
    """Return more than plans are forgiven of a curve: `SHARE_SUM` in each segment."""
    return float(2 * (curve.shape[2] + 3) * SHARE_SUM)


def surely_answered(problem: Problem) -> NDArray[np.float64]:
    """Return the part of an application's calls that no plan can prune; (G, L)."""
    most = problem.prune_width.sum(axis=2)
    rest = 1.0 - most - _forgiven(problem.prune_width)
    return np.where(most > 0, np.maximum(rest, 0.0), 1.0)


def possibly_fused(problem: Problem) -> NDArray[np.float64]:
    """Return the part of an application's calls that may travel fused; (G, L)."""
    most = problem.fuse_width.sum(axis=2)
    most = np.where(most > 0, most + _forgiven(problem.fuse_width), 0.0)
    return np.minimum(most, 1.0)


class SampledWeights:
    """Weights of what each sampled token waits for in each layer.

    Parameters
    ----------
    problem
        With sampled tokens, in `home`.

    Attributes
    ----------
    weight
        Of each call that counts in `parallel`, among those of its token and layer.
    server
        Of the calls by themselves, then of each server; (L, 1 + S, Q), of sum 1.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        token, layer, slot = np.nonzero(problem.sample_experts >= 0)
        expert = problem.sample_experts[token, layer, slot]
        demand = problem.sample_demand[token]
        app = problem.application_of[demand]
        part = surely_answered(problem)[app, layer]
        asked = problem.rate[demand] * problem.calls[app, expert] > 0
        answered = (part >= 1.0) | (token_hash(token, expert, 1) < part)
        self.parallel = problem.weight_of("parallel")
        self.fluid = problem.weight_of("fluid")
        fused = token_hash(token, expert, 2) < possibly_fused(problem)[app, layer]
        # What each call counts beside others of its token, by term.
        counts = np.stack([asked & answered, np.where(asked, part, 0.0)])
        counts *= np.array([[self.parallel > 0], [self.fluid > 0]])
        keep = counts.any(axis=0)
        self.expert, self.demand = expert[keep], demand[keep]
        self.layer, self.part = layer[keep], counts[:, keep]
        self.kind = np.where(fused[keep], FUSED, FULL)
        group = token[keep] * problem.num_layers + layer[keep]
        _, self.first, self.group = np.unique(
            group, return_index=True, return_inverse=True
        )
        self.way = self.part / self._most_calls()
        self.weight = self.part[0].copy()
        self._normalise()
        self.swift = self._swift()
        self.server = self._first_servers()
        self.steps = 0

    def _most_calls(self) -> NDArray[np.float64]:
        """Count calls side by side: the most of any token of the same demand; (2, C).

        The same for all: else tokens could gain by going to different copies.
        """
        number = np.zeros((2, len(self.first)))
        shape = (self.problem.num_demands, self.problem.num_layers)
        at = self.demand, self.layer
        found = []
        for row, counted in zip(number, self.part > 0, strict=True):
            np.add.at(row, self.group, counted)
            most = np.ones(shape)
            np.maximum.at(most, at, row[self.group])
            found.append(most[at])
        return np.stack(found)

    def _normalise(self) -> None:
        total = np.bincount(self.group, weights=self.weight, minlength=len(self.first))
        total = total[self.group]
        np.divide(self.weight, total, out=self.weight, where=total > 0)

    def _swift(self) -> NDArray[np.float64]:
        """Return the least time of the way of a call by kind; (L, S, Q, K)."""
        problem = self.problem
        saves = np.zeros((3, *problem.remote.shape))
        fused = possibly_fused(problem)[problem.application_of][:, :, None]  # (Q, L, 1)
        saves[FUSED] = (fused > 0) & problem.remote
        saves[PARTLY] = fused * problem.remote
        part = 1.0 - (1.0 - problem.fuse_factor) * saves
        time = problem.round_trip_s + part * problem.transfer_s
        time = np.where(problem.reachable, time, np.inf)
        return np.ascontiguousarray(np.transpose(time, (2, 3, 1, 0)))

    def _first_servers(self) -> NDArray[np.float64]:
        """Weigh servers by what they could do in a second, calls alone by `ALONE`."""
        problem = self.problem
        work = np.full((problem.num_servers, problem.num_layers), np.inf)
        for v, b in np.argwhere(problem.allowed):
            each = (
                problem.flop * problem.s_per_flop[v, b]
                + problem.size_bytes[:, b] * problem.s_per_byte[v]
            )
            row = work[problem.server_of[v]]
            np.minimum.at(row, problem.layer_of, each)
        width = max(problem.sample_experts.shape[2], 1)
        time = self.swift[..., FULL] / width + work.T[:, :, None]  # (L, S, Q)
        speed = 1.0 / np.maximum(time, 1e-300)
        total = speed.sum(axis=1, keepdims=True)
        even = np.full_like(speed, 1.0 / problem.num_servers)
        lean = np.divide(speed, total, out=even, where=total > 0)
        alone = ALONE if self.parallel else 0.0
        start = np.full((problem.num_layers, 1, problem.num_demands), alone)
        return np.concatenate([start, (1.0 - alone) * lean], axis=1)

    def tables(self) -> SampledTables:
        """Return what the best answers of each (expert, demand) count."""
        problem = self.problem
        tokens = max(len(problem.sample_demand), 1)
        shape = problem.num_experts, problem.num_demands, self.swift.shape[3]
        timed, load, visit = np.zeros((3, *shape))
        own, mean = (
            (self.expert, self.demand, kind)
            for kind in (self.kind, np.full_like(self.kind, PARTLY))
        )
        alone = self.server[self.layer, 0, self.demand]
        np.add.at(timed, own, self.parallel / tokens * alone * self.weight)
        # `fluid` spreads its whole weight over the servers.
        lean = self.server[:, 1:]
        total = lean.sum(axis=1)
        spread = total[self.layer, self.demand]
        for table, part in ((load, self.part), (visit, self.way)):
            np.add.at(table, own, self.parallel / tokens * spread * part[0])
            np.add.at(table, mean, self.fluid / tokens * (spread > 0) * part[1])
        lean = np.divide(
            lean, total[:, None], out=np.zeros_like(lean), where=total[:, None] > 0
        )
        return SampledTables(timed, load, visit, self.swift, np.ascontiguousarray(lean))

    def pull(
        self, point: Point, place: NDArray[np.int64], b: NDArray[np.int64]
    ) -> None:
        """Move weight to what tokens wait for with the copies of a point.

        Parameters
        ----------
        point
            Where the copies come from.
        place, b
            Place and format of each option; (O,).
        """
        if not len(self.group):
            return
        self.steps += 1
        step = PULL / np.sqrt(self.steps)
        problem = self.problem
        time = np.full(len(self.expert), np.inf)
        work, way = np.zeros_like(time), np.zeros_like(time)
        server = np.full(len(time), NONE)
        for option in point.option[self.expert].T:
            there = np.flatnonzero(option != NONE)
            i, v = self.expert[there], place[option[there]]
            s = problem.server_of[v]
            at = self.layer[there], s, self.demand[there]
            go = self.swift[(*at, self.kind[there])]
            spent = problem.work_s(i, v, b[option[there]])
            better = go + spent < time[there]
            there = there[better]
            time[there], server[there] = (go + spent)[better], s[better]
            work[there], way[there] = spent[better], go[better]
        time = np.where(np.isfinite(time), time, 0.0)
        # What each token waits for: its slowest call, and each server.
        called = np.where(self.part[0] > 0, time, 0.0)
        slowest = np.zeros(len(self.first))
        np.maximum.at(slowest, self.group, called)
        shape = problem.num_layers, 1 + problem.num_servers, problem.num_demands
        spent = np.zeros(shape)
        q, layer = self.demand[self.first], self.layer[self.first]
        np.add.at(spent[:, 0], (layer, q), self.parallel * slowest)
        held = np.flatnonzero(server != NONE)
        for price, part, gone in zip(
            (self.parallel, self.fluid), self.part, self.way, strict=True
        ):
            each = price * (part * work + gone * way)[held]
            at = self.layer[held], 1 + server[held], self.demand[held]
            np.add.at(spent, at, each)
        if not self.parallel:
            spent[:, 0] = 0.0
        most = spent.max(axis=1, keepdims=True)
        part = np.divide(spent, most, out=np.ones_like(spent), where=most > 0)
        self.server *= np.exp(step * (part - 1.0))
        top = self.server.max(axis=1, keepdims=True)
        self.server = np.where(
            self.server > 0, np.maximum(self.server, LEAST * top), 0.0
        )
        self.server /= self.server.sum(axis=1, keepdims=True)
        top = slowest[self.group]
        part = np.divide(called, top, out=np.ones_like(called), where=top > 0)
        self.weight *= np.exp(step * (part - 1.0))
        self._normalise()

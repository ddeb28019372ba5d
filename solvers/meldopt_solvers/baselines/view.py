"""What a published method is shown of a problem: one format, memory, calls, statistics.

Papers of the field think in experts of one size on devices with room, in how often
each expert is called, and in which experts are called together or one after the other.
A `View` says these things of a `Problem`, for one uniform format at a time.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from meldopt.sums import sum_by
from meldopt.tolerance import FEASIBILITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

Source = Literal["pairs", "samples", "independent"]
"""Where statistics of pairs come from: pairs of the instance, sampled tokens, or the
assumption that calls are independent."""


def format_on(problem: Problem) -> NDArray[np.int64]:
    """Return the format in which a server stores what was asked for; (S, B).

    The format itself where some tier runs it; else the one of most bits that is not
    above it; else the one of fewest bits. -1 if no tier of the server runs anything.
    """
    bits = problem.bits_per_weight
    stored = np.full((problem.num_servers, problem.num_formats), -1, dtype=np.int64)
    for s, places in enumerate(problem.places_of):
        runs = np.flatnonzero(problem.allowed[places].any(axis=0))
        if not len(runs):
            continue
        runs = runs[np.argsort(bits[runs], kind="stable")]
        for b in range(problem.num_formats):
            below = runs[bits[runs] <= bits[b]]
            stored[s, b] = below[-1] if len(below) else runs[0]
            if b in runs:
                stored[s, b] = b
    return stored


class View:
    """What a method sees of a problem in one attempt.

    Parameters
    ----------
    problem
        Of either dataflow.
    format_
        The uniform format of the attempt; -1 for methods that choose formats. Sizes are
        then those of the smallest format of a server.

    Attributes
    ----------
    format
        As given.
    format_at
        Format of a copy on each server in this attempt (see `format_on`); -1 where
        nothing runs; (S,).
    stored
        What each server stores for each format; see `format_on`; (S, B).
    estimated
        Statistics that the method asked for and that could only be estimated as
        independent: "coactivation", "transitions".
    """

    def __init__(self, problem: Problem, format_: int) -> None:
        self.problem = problem
        self.format = format_
        self.stored = format_on(problem)
        smallest = int(np.argmin(problem.bits_per_weight))
        self.format_at = self.stored[:, format_ if format_ >= 0 else smallest]
        self.estimated: set[str] = set()
        self._together: dict[int, NDArray[np.float64]] = {}
        self._after: dict[int, NDArray[np.float64]] = {}

    # -- memory ------------------------------------------------------------------------
    @cached_property
    def size(self) -> NDArray[np.float64]:
        """Bytes of an expert on a server; (N, S), inf where nothing runs."""
        size = self.problem.size_bytes[:, self.format_at]
        return np.where(self.format_at >= 0, size, np.inf)

    @cached_property
    def places(self) -> NDArray[np.bool_]:
        """Places that hold copies in this attempt; (V,).

        Those that run the format of their server, or any format if the method chooses.
        """
        problem = self.problem
        if self.format < 0:
            any_format: NDArray[np.bool_] = problem.allowed.sum(axis=1) > 0
            return any_format
        at = self.format_at[problem.server_of]
        runs = problem.allowed[np.arange(problem.num_places), at]
        return runs & (at >= 0)

    @cached_property
    def room(self) -> NDArray[np.float64]:
        """Bytes of the tiers of a server together, less reserves; (S,)."""
        problem = self.problem
        free = np.where(self.places, np.maximum(problem.room_bytes, 0.0), 0.0)
        return sum_by(problem.server_of, free, problem.num_servers)

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """Copies of the largest expert that the tiers of a server hold; (S,).

        Tier by tier: a copy lies in one tier. No more than there are experts.
        """
        problem, largest = self.problem, self.size.max(axis=0, initial=0.0)
        room = np.where(self.places, np.maximum(problem.room_bytes, 0.0), 0.0)
        size = largest[problem.server_of]
        most = float(problem.num_experts)
        with np.errstate(divide="ignore", invalid="ignore"):
            fit = np.where(size > 0, room * (1 + FEASIBILITY) / size, most)
        fit = np.where(self.places, np.floor(np.nan_to_num(fit, posinf=most)), 0.0)
        slots = sum_by(problem.server_of, fit, problem.num_servers)
        return np.minimum(slots, most).astype(np.int64)

    @cached_property
    def max_copies(self) -> int:
        """Copies that an expert may have at most: limit of the instance, servers."""
        problem = self.problem
        return min(problem.max_copies or problem.num_servers, problem.num_servers)

    # -- calls -------------------------------------------------------------------------
    @cached_property
    def load(self) -> NDArray[np.float64]:
        """Calls per second of each expert over all demands; (N,)."""
        return self.problem.application_rate @ self.problem.calls

    @cached_property
    def load_at(self) -> NDArray[np.float64]:
        """Calls per second of each expert by the home where they enter; (S, N)."""
        problem = self.problem
        rate = np.zeros((problem.num_servers, problem.num_applications))
        np.add.at(rate, (problem.home_of, problem.application_of), problem.rate)
        return rate @ problem.calls

    @property
    def layer_of(self) -> NDArray[np.int64]:
        """Layer of each expert; (N,)."""
        return self.problem.layer_of

    def experts(self, layer: int) -> NDArray[np.int64]:
        """Return the experts of a layer, ascending; (E,)."""
        start = self.problem.layer_start
        return np.arange(start[layer], start[layer + 1], dtype=np.int64)

    @cached_property
    def work(self) -> NDArray[np.float64]:
        """Seconds of a call of an expert on a server, at its fastest tier; (N, S)."""
        problem = self.problem
        v = np.flatnonzero(self.places)
        at = self.format_at[problem.server_of[v]]
        expert = np.arange(problem.num_experts)
        seconds = problem.work_s(expert[:, None], v[None, :], at[None, :])
        seconds = np.where(problem.allowed[v, at], seconds, np.inf)
        least = np.full((problem.num_servers, problem.num_experts), np.inf)
        np.minimum.at(least, problem.server_of[v], seconds.T)
        return least.T

    # -- time --------------------------------------------------------------------------
    def mean_time(
        self, layer: int, formats: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the mean seconds of a call of each expert of a layer by place; (E, V).

        Mean over demands, weighted by their calls: round trip, bytes and work (design,
        `time`). Experts that nobody calls count all demands alike. inf where a demand
        has no route, or the place does not run the format.

        Parameters
        ----------
        layer
            Of the instance, from 0.
        formats
            Asked-for format of each expert of the layer, (E,), stored as `format_on`
            says; that of each server in this attempt if None.
        """
        problem, experts = self.problem, self.experts(layer)
        net = problem.round_trip_s[:, layer] + problem.transfer_s[:, layer]  # (Q, S)
        net = np.where(problem.reachable[:, layer], net, np.inf)
        calls = problem.calls[problem.application_of][:, experts]  # (Q, E)
        mass = problem.rate[:, None] * calls
        mass = np.where(mass.sum(axis=0) > 0, mass, 1.0)
        mass = mass / np.maximum(mass.sum(axis=0), 1e-300)
        blocked = (mass > 0).astype(float).T @ ~np.isfinite(net) > 0  # (E, S)
        way = mass.T @ np.where(np.isfinite(net), net, 0.0)
        way = np.where(blocked, np.inf, way)
        v = np.arange(problem.num_places)
        if formats is None:
            at = np.broadcast_to(self.format_at, (len(experts), problem.num_servers))
        else:
            at = self.stored[:, formats].T  # (E, S)
        at = at[:, problem.server_of]
        known = np.maximum(at, 0)
        runs = problem.allowed[v, known] & (at >= 0)
        work = problem.work_s(experts[:, None], v[None, :], known)
        return np.where(runs, way[:, problem.server_of] + work, np.inf)

    # -- experts that are called together, and one after the other ---------------------
    @cached_property
    def _token_weight(self) -> NDArray[np.float64]:
        """Tokens per second that each sampled token stands for; (T,)."""
        problem = self.problem
        count = np.bincount(problem.sample_demand, minlength=problem.num_demands)
        weight: NDArray[np.float64] = problem.rate / np.maximum(count, 1)
        return weight[problem.sample_demand]

    @cached_property
    def _pair_rate(self) -> NDArray[np.float64]:
        """Traversals per second of each pair; (R,)."""
        return self.problem.application_rate @ self.problem.pair_weight

    @cached_property
    def _pair_layers(self) -> NDArray[np.int64]:
        return self.problem.layer_of[self.problem.pairs].reshape(-1, 2)

    @cached_property
    def coactivation_source(self) -> Source:
        """Where `coactivation` comes from."""
        if len(self.problem.sample_experts):
            return "samples"
        first, second = self._pair_layers.T
        return "pairs" if (first == second).any() else "independent"

    @cached_property
    def transitions_source(self) -> Source:
        """Where `transitions` come from."""
        first, second = self._pair_layers.T
        if (first + 1 == second).any():
            return "pairs"
        return "samples" if len(self.problem.sample_experts) else "independent"

    def coactivation(self, layer: int) -> NDArray[np.float64]:
        """Return how often experts of a layer are called by the same token.

        From sampled tokens, each weighted by the rate of its demand; else from pairs
        inside the layer; else as if calls were independent (then "coactivation" is
        listed in `estimated`).

        Returns
        -------
        ndarray of float64, shape (E, E)
            Tokens per second that call both; symmetric, zero on the diagonal.
        """
        if layer not in self._together:
            self._together[layer] = self._coactivation(layer)
        if self.coactivation_source == "independent":
            self.estimated.add("coactivation")
        return self._together[layer]

    def _coactivation(self, layer: int) -> NDArray[np.float64]:
        problem, experts = self.problem, self.experts(layer)
        first, num = int(problem.layer_start[layer]), len(experts)
        if self.coactivation_source == "samples":
            token, slot = np.nonzero(problem.sample_experts[:, layer] >= 0)
            called = np.zeros((len(problem.sample_demand), num))
            called[token, problem.sample_experts[token, layer, slot] - first] = 1.0
            both = called.T @ (self._token_weight[:, None] * called)
        elif self.coactivation_source == "pairs":
            mine = (self._pair_layers == layer).all(axis=1)
            i, j = (problem.pairs[mine] - first).T
            both = np.zeros((num, num))
            np.add.at(both, (i, j), self._pair_rate[mine])
            both = both + both.T
        else:
            calls = problem.calls[:, experts]
            both = (problem.application_rate[:, None] * calls).T @ calls
        np.fill_diagonal(both, 0.0)
        both.flags.writeable = False
        return both

    def transitions(self, layer: int) -> NDArray[np.float64]:
        """Return how often a token goes from an expert to one of the next layer.

        From the pairs of the instance; else from sampled tokens, from primary to
        primary expert (the first in gate order), each weighted by the rate of its
        demand; else as if layers were independent (then "transitions" is listed in
        `estimated`).

        Parameters
        ----------
        layer
            Of the instance, from 0; not the last.

        Returns
        -------
        ndarray of float64, shape (E of the layer, E of the next)
            Traversals per second.
        """
        if layer not in self._after:
            self._after[layer] = self._transitions(layer)
        if self.transitions_source == "independent":
            self.estimated.add("transitions")
        return self._after[layer]

    def _transitions(self, layer: int) -> NDArray[np.float64]:
        problem, start = self.problem, self.problem.layer_start
        here, there = self.experts(layer), self.experts(layer + 1)
        table = np.zeros((len(here), len(there)))
        if self.transitions_source == "pairs":
            first, second = self._pair_layers.T
            mine = (first == layer) & (second == layer + 1)
            i, j = problem.pairs[mine].T
            np.add.at(
                table, (i - start[layer], j - start[layer + 1]), self._pair_rate[mine]
            )
        elif self.transitions_source == "samples":
            i = problem.sample_experts[:, layer, 0]
            j = problem.sample_experts[:, layer + 1, 0]
            both = (i >= 0) & (j >= 0)
            np.add.at(
                table,
                (i[both] - start[layer], j[both] - start[layer + 1]),
                self._token_weight[both],
            )
        else:
            now, then = problem.calls[:, here], problem.calls[:, there]
            k = np.maximum(now.sum(axis=1), 1e-300) * np.maximum(
                then.sum(axis=1), 1e-300
            )
            table = ((problem.application_rate / k)[:, None] * now).T @ then
        table.flags.writeable = False
        return table

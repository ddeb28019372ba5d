"""SlimCaching: servers fill their caches one after another, each by a knapsack.

A token waits for the slowest of its K experts in a layer; each comes from the nearest
server that caches it, or from a cloud. With K = 1 the time that a cache saves is
submodular and a greedy rule takes the copy that saves most. With K > 1 experts are
worth something only together; the servers are taken in order, and with the caches
before it fixed each one solves a knapsack: how many experts of which layer. Layers are
independent in it, so that a dynamic programme over memory joins them by max-plus
convolution.

Decides: placement and copies.
Ignores: formats, tiers, losses and every row but memory. A server that may not see the
    tokens counts as one without a route.
Gaps filled: a problem has no cloud; here it is ``cloud`` times as far as the farthest
    server, so that what no server caches yet is worth most, and an expert that is in no
    cache at the end takes a free slot, or the place of the duplicate that is called
    least. Within a layer the paper's values of joint choices are not accessible to us:
    experts enter a cache in the order of the time that their tokens would save if all
    that the token lacks were cached, in equal parts for each expert it still lacks; the
    value of the first m is the time then really saved. Tokens are those that the
    problem samples, else drawn from the calls as if experts were independent. Sizes are
    counted in slots of the largest expert.

References
----------
.. [1] Chen, Q., Chen, X., Huang, K. (2025). SlimCaching: Edge Caching of
   Mixture-of-Experts for Distributed Inference. https://arxiv.org/abs/2507.06567
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .facility import take_by_saving
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .prism import calls_seen, decision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .complete import Decision
    from .view import View

ALIKE = 1e-12
"""Relative difference of times that counts as none."""

EVALUATION = 1e-7
"""Deterministic work of looking at one call of a sampled token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimCachingParams(BaselineParams):
    """Parameters of `SlimCachingSolver`.

    Attributes
    ----------
    cloud
        Time of an expert that no server caches, as a multiple of the longest time of
        one that is cached.
    tokens
        Tokens that are drawn if the problem has no sample; at most that many are used.
    """

    cloud: float = 4.0
    tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerTokens:
    """Calls of sampled tokens in one layer.

    Attributes
    ----------
    experts
        Number of each expert within the layer, -1: none; (T, K).
    demand
        Of each token; (T,).
    weight
        Tokens per second that each token stands for; (T,).
    """

    experts: NDArray[np.int64]
    demand: NDArray[np.int64]
    weight: NDArray[np.float64]


def joint_values(
    experts: NDArray[np.int64],
    weight: NDArray[np.float64],
    now: NDArray[np.float64],
    new: NDArray[np.float64],
    num_experts: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Order the experts of a layer for one cache, and say what the first m save.

    Parameters
    ----------
    experts
        Experts of each token, -1: none; (T, K).
    weight
        Of each token; (T,).
    now
        Time of each call from the caches so far; (T, K).
    new
        Time of each call from the cache in question; (T, K).
    num_experts
        Of the layer.

    Returns
    -------
    order : ndarray of int64, shape (m,)
        Experts that save something, alone or with others.
    values : ndarray of float64, shape (m + 1,)
        Time saved by the first 0, 1, ..., m of them.
    """
    there = experts >= 0
    now = np.where(there, now, 0.0)
    goal = np.where(there, np.minimum(now, new), 0.0)
    slowest = now.max(axis=1, initial=0.0)
    best = goal.max(axis=1, initial=0.0)
    lacks = there & (now > best[:, None] * (1 + ALIKE))
    group = weight * np.where(lacks.any(axis=1), slowest - best, 0.0)
    lacking = lacks.sum(axis=1)
    share = np.zeros(num_experts)
    part = np.where(lacks, (group / np.maximum(lacking, 1))[:, None], 0.0)
    np.add.at(share, experts[lacks], part[lacks])
    # Calls by expert, so that a step looks only at the tokens that it changes.
    token, slot = np.nonzero(lacks)
    by = np.argsort(experts[token, slot], kind="stable")
    token, slot = token[by], slot[by]
    edge = np.searchsorted(experts[token, slot], np.arange(num_experts + 1))
    order: list[int] = []
    values = [0.0]
    open_ = np.diff(edge) > 0
    while open_.any():
        e = int(np.argmax(np.where(open_, share, -1.0)))
        open_[e] = False
        t, k = token[edge[e] : edge[e + 1]], slot[edge[e] : edge[e + 1]]
        before = now[t].max(axis=1)
        now[t, k] = goal[t, k]
        gain = float((weight[t] * (before - now[t].max(axis=1))).sum())
        order.append(e)
        values.append(values[-1] + gain)
        lacks[t, k] = False
        old, lacking[t] = group[t] / lacking[t], lacking[t] - 1
        fresh = group[t] / np.maximum(lacking[t], 1) - old
        row, col = np.nonzero(lacks[t])
        np.add.at(share, experts[t[row], col], fresh[row])
    return np.array(order, dtype=np.int64), np.array(values)


def best_numbers(
    values: Sequence[NDArray[np.float64]], capacity: int
) -> NDArray[np.int64]:
    """Choose how many experts of each layer a cache holds: a knapsack over layers.

    Parameters
    ----------
    values
        Of each layer: what the first 0, 1, 2, ... experts save.
    capacity
        Slots of the cache.

    Returns
    -------
    ndarray of int64
        Of each layer; the sum of values is the largest within the capacity.
    """
    best = np.zeros(capacity + 1)
    choice = np.zeros((len(values), capacity + 1), dtype=np.int64)
    for layer, value in enumerate(values):
        joined = best + value[0]
        for m in range(1, min(len(value), capacity + 1)):
            other = best[: capacity + 1 - m] + value[m]
            better = other > joined[m:] * (1 + ALIKE)
            joined[m:][better] = other[better]
            choice[layer, m:][better] = m
        best = joined
    numbers = np.zeros(len(values), dtype=np.int64)
    room = capacity
    for layer in reversed(range(len(values))):
        numbers[layer] = choice[layer, room]
        room -= int(numbers[layer])
    return numbers


def draw_tokens(
    calls: NDArray[np.float64],
    demand: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw the experts of tokens as if experts were independent.

    Parameters
    ----------
    calls
        Calls of the experts of a layer per token of each demand; (Q, E).
    demand
        Of each token; (T,).
    rng
        Of the draw.

    Returns
    -------
    ndarray of int64, shape (T, K)
        Without replacement, with odds in proportion to calls (by Gumbel keys); -1
        where fewer than K experts are called at all. K is the largest number of calls
        of a demand, rounded.
    """
    k = int(np.clip(np.rint(calls.sum(axis=1).max(initial=0.0)), 1, calls.shape[1]))
    with np.errstate(divide="ignore"):
        key = np.log(calls)[demand] + rng.gumbel(size=(len(demand), calls.shape[1]))
    chosen = np.argsort(-key, axis=1, kind="stable")[:, :k]
    called = np.isfinite(np.take_along_axis(key, chosen, axis=1))
    return np.where(called, chosen, -1).astype(np.int64)


def cover_missing(
    held: NDArray[np.bool_],
    seen: NDArray[np.float64],
    load: NDArray[np.float64],
    left: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Give every expert a home: a free slot, else the place of a duplicate.

    Parameters
    ----------
    held
        Which server holds which expert; (S, N).
    seen
        Calls per second of each expert by server; (S, N).
    load
        Calls per second of each expert, which is served first; (N,).
    left
        Free slots of each server; (S,).

    Returns
    -------
    ndarray of bool, shape (S, N)
        Experts that find neither stay without a home.
    """
    held, left = held.copy(), left.copy()
    count = held.sum(axis=0)
    missing = np.flatnonzero(count == 0)
    for i in missing[np.argsort(-load[missing], kind="stable")].tolist():
        free = left > 0
        if free.any():
            s = int(np.argmax(np.where(free, seen[:, i], -1.0)))
            left[s] -= 1
        else:
            spare = np.where(held & (count > 1), seen, np.inf)
            s, out = divmod(int(np.argmin(spare)), spare.shape[1])
            if not np.isfinite(spare[s, out]):
                break
            held[s, out] = False
            count[out] -= 1
        held[s, i] = True
        count[i] = 1
    return held


class SlimCachingSolver(Baseline):
    """Greedy caches for K = 1, one knapsack for each server for K > 1."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="slimcaching",
        summary="caches filled one after another by a knapsack over layers",
        citation="SlimCaching, arXiv 2507.06567, successive greedy decomposition",
        decides=("placement", "copies"),
        sees=("memory", "trust", "calls", "homes", "coactivation", "network", "work"),
        params=SlimCachingParams,
    )
    params: SlimCachingParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Fill the caches, then give homes to what is in none."""
        delay = delays(problem, view)
        finite = delay[np.isfinite(delay)]
        cloud = self.params.cloud * float(finite.max(initial=0.0))
        calls = problem.calls[problem.application_of]
        if np.rint(np.add.reduceat(calls, problem.layer_start[:-1], axis=1)).max() <= 1:
            held = greedy_caches(
                delay, problem.rate[:, None] * calls, cloud, view.slots, view.max_copies
            )
        else:
            tokens = self.tokens(problem, view, rng)
            held = self.successive(problem, view, delay, tokens, cloud, check)
        left = view.slots - held.sum(axis=1)
        held = cover_missing(held, calls_seen(view), view.load, left)
        return decision_of(held, view)

    def tokens(
        self, problem: Problem, view: View, rng: np.random.Generator
    ) -> list[LayerTokens]:
        """Return the calls of sampled tokens by layer."""
        most, start = self.params.tokens, problem.layer_start
        if len(problem.sample_experts):
            # Evenly spaced: all demands stay in.
            at = np.arange(len(problem.sample_experts))
            if len(at) > most:
                at = np.unique(np.linspace(0, len(at) - 1, most).astype(np.int64))
            demand = problem.sample_demand[at]
            experts = [
                np.where(chosen >= 0, chosen - start[layer], -1)
                for layer, chosen in enumerate(
                    np.moveaxis(problem.sample_experts[at], 1, 0)
                )
            ]
        else:
            view.estimated.add("coactivation")
            odds = problem.rate if problem.rate.any() else np.ones_like(problem.rate)
            demand = rng.choice(len(odds), size=most, p=odds / odds.sum())
            calls = problem.calls[problem.application_of]
            experts = [
                draw_tokens(calls[:, low:high], demand, rng)
                for low, high in pairwise(start.tolist())
            ]
        count = np.bincount(demand, minlength=problem.num_demands)
        weight = (problem.rate / np.maximum(count, 1))[demand]
        return [
            LayerTokens(experts=one, demand=demand, weight=weight) for one in experts
        ]

    def successive(
        self,
        problem: Problem,
        view: View,
        delay: NDArray[np.float64],
        tokens: Sequence[LayerTokens],
        cloud: float,
        check: Budget,
    ) -> NDArray[np.bool_]:
        """Fill one cache after the other; (S, N)."""
        start = problem.layer_start
        held = np.zeros((problem.num_servers, problem.num_experts), dtype=bool)
        now = [np.full(one.experts.shape, cloud) for one in tokens]
        work = EVALUATION * sum(one.experts.size for one in tokens)
        for s in range(problem.num_servers):
            if check.step(work):
                break
            orders, values, news = [], [], []
            for layer, one in enumerate(tokens):
                low, high = int(start[layer]), int(start[layer + 1])
                new = delay[one.demand[:, None], low + np.maximum(one.experts, 0), s]
                full = held[:, low:high].sum(axis=0) >= view.max_copies
                new = np.where(full[np.maximum(one.experts, 0)], np.inf, new)
                order, value = joint_values(
                    one.experts, one.weight, now[layer], new, high - low
                )
                orders.append(order)
                values.append(value)
                news.append(new)
            numbers = best_numbers(values, int(view.slots[s]))
            for layer, one in enumerate(tokens):
                mine = orders[layer][: numbers[layer]]
                held[s, start[layer] + mine] = True
                cached = np.isin(one.experts, mine)
                best = np.minimum(now[layer], news[layer])
                now[layer] = np.where(cached, best, now[layer])
        return held


def delays(problem: Problem, view: View) -> NDArray[np.float64]:
    """Return the seconds of a call by server, at its fastest tier; (Q, N, S)."""
    net = np.where(problem.reachable, problem.round_trip_s + problem.transfer_s, np.inf)
    delay: NDArray[np.float64] = net[:, problem.layer_of] + fastest_work(problem, view)
    return delay


def fastest_work(problem: Problem, view: View) -> NDArray[np.float64]:
    """Return the seconds of work of a call at the fastest tier of a server; (N, S)."""
    experts = np.arange(problem.num_experts)[:, None]
    work = np.full((problem.num_experts, problem.num_servers), np.inf)
    for s, places in enumerate(problem.places_of):
        usable = places[view.places[places]]
        if len(usable):
            time = problem.work_s(experts, usable[None, :], view.format_at[[s]][None])
            work[:, s] = time.min(axis=1)
    return work


def greedy_caches(
    delay: NDArray[np.float64],
    mass: NDArray[np.float64],
    cloud: float,
    slots: NDArray[np.int64],
    max_copies: int,
) -> NDArray[np.bool_]:
    """Fill caches for K = 1: always the copy that saves most.

    Parameters
    ----------
    delay
        Seconds of a call by server; (Q, N, S).
    mass
        Calls per second; (Q, N).
    cloud
        Seconds of a call that no server answers.
    slots
        Of each server; (S,).
    max_copies
        Of an expert.

    Returns
    -------
    ndarray of bool, shape (S, N)
        At least 1 - 1/e of the largest saving where slots are all that binds one
        server.
    """
    num_experts, num_servers = delay.shape[1:]
    held = np.zeros((num_servers, num_experts), dtype=bool)
    now = np.full(mass.shape, cloud)
    left, count = slots.copy(), np.zeros(num_experts, dtype=np.int64)

    def saving(i: int, s: int) -> float:
        if left[s] <= 0 or count[i] >= max_copies:
            return 0.0
        return float(mass[:, i] @ np.maximum(now[:, i] - delay[:, i, s], 0.0))

    first = np.stack(
        [
            (mass * np.maximum(now - delay[:, :, s], 0.0)).sum(axis=0)
            for s in range(num_servers)
        ],
        axis=1,
    )
    i, s = np.nonzero(first > 0)
    for i_, s_, _ in take_by_saving(i, s, first[i, s], saving):
        held[s_, i_] = True
        left[s_] -= 1
        count[i_] += 1
        now[:, i_] = np.minimum(now[:, i_], delay[:, i_, s_])
    return held

"""OrderMoE: similar experts spread over servers, spare memory by newly covered groups.

Experts of a layer that can stand in for one another form groups. One copy of each is
placed first, the members of a group on different servers, so that every server comes to
hold some member; spare memory is filled by frequency x newly covered groups / memory.
At run time a call goes to the exact expert or to a similar one that is nearer, while
the quality budget of the token lasts, and a look-ahead over H layers asks how far the
predicted next experts are from there.

Decides: placement, copies and substitution.
Ignores: formats, tiers, and every row but memory and quality. A server that may not see
    the tokens counts as one without a route.
Gaps filled: the paper compares router logits (cosine, threshold 0.9 in shallow layers
    falling to 0.5 in deep ones); a problem holds the outcome of such a test, its
    similar pairs: groups grow from them around the most called experts, and where there
    are none every expert is its own group. The first copy stands where the mean time is
    least among the servers with room. Frequencies are those of the requests that enter
    at a server (of all requests where none does). What is left when every group is
    covered goes to exact copies by frequency / memory. In `home` the position of a
    token is its home in every layer, so that the look-ahead is the same for all
    candidates and drops out; in `roam` routing is the nearest copy, and the look-ahead
    chooses where the first copies stand, from the last layer to the first, beside work
    and the ways from and to the homes. Which part of the calls is substituted is chosen
    by time saved per nat, within the budget of the application.

References
----------
.. [1] OrderMoE (2026). https://arxiv.org/abs/2607.17154, group construction, coverage
   placement, look-ahead routing; after secondary summaries of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision, complete
from .hetroute import Router
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .prism import calls_seen
from .slimcaching import fastest_work
from .substitution import substitutes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View


NO_ROUTE = 1e6
"""Seconds of a way that does not exist: means over ways must stay finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderMoEParams(BaselineParams):
    """Parameters of `OrderMoESolver`.

    Attributes
    ----------
    look_ahead
        Layers H that the look-ahead asks about; published: 3.
    redundancy
        Copies, in the mean of all experts, at which filling ends.
    quality_price
        Seconds that a nat counts for in a substitution.
    """

    look_ahead: int = 3
    redundancy: float = math.inf
    quality_price: float = 0.0


def grow_groups(
    load: NDArray[np.float64], similar: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Grow groups of similar experts around popular seeds.

    Parameters
    ----------
    load
        Calls per second of each expert; (N,).
    similar
        Pairs of experts of which the first may be answered by the second; (J, 2).

    Returns
    -------
    ndarray of int64, shape (N,)
        The seed of the group of each expert. The most called expert without a group
        becomes a seed and takes what it may answer and is not taken yet.
    """
    group = np.full(len(load), -1, dtype=np.int64)
    answers: dict[int, list[int]] = {}
    for called, other in similar.tolist():
        answers.setdefault(other, []).append(called)
    for seed in np.argsort(-load, kind="stable").tolist():
        if group[seed] < 0:
            group[seed] = seed
            for member in answers.get(seed, ()):
                if group[member] < 0:
                    group[member] = seed
    return group


def place_spread(
    cost: NDArray[np.float64],
    order: NDArray[np.int64],
    group: NDArray[np.int64],
    left: NDArray[np.int64],
    covered: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Place one copy of each expert, members of a group on different servers.

    Parameters
    ----------
    cost
        Of an expert on a server, inf where it cannot be; (N, S).
    order
        Experts to place, first one first.
    group
        Seed of the group of each expert; (N,).
    left
        Free slots of each server, counted down; (S,).
    covered
        Which server holds a member of which group, filled in; (N, S).

    Returns
    -------
    ndarray of int64
        Server of each expert of ``order``; where no slot is left, the fullest use is
        made of the server of most slots (they go below zero).
    """
    server = np.zeros(len(order), dtype=np.int64)
    for n, i in enumerate(order.tolist()):
        fits = np.where(left > 0, cost[i], np.inf)
        fresh = np.where(covered[group[i]], np.inf, fits)
        price = fresh if np.isfinite(fresh).any() else fits
        s = int(np.argmin(price)) if np.isfinite(price).any() else int(np.argmax(left))
        server[n] = s
        left[s] -= 1
        covered[group[i], s] = True
    return server


def fill(
    seen: NDArray[np.float64],
    size: NDArray[np.float64],
    group: NDArray[np.int64],
    held: NDArray[np.bool_],
    left: NDArray[np.int64],
    *,
    most: float,
    max_copies: int,
) -> NDArray[np.bool_]:
    """Fill spare memory by frequency x newly covered groups / memory.

    Parameters
    ----------
    seen
        Frequency of each expert by server; (S, N).
    size
        Bytes of an expert on a server; (N, S).
    group
        Seed of the group of each expert; (N,).
    held
        Which server holds which expert; (S, N).
    left
        Free slots of each server; (S,).
    most
        Copies at which filling ends.
    max_copies
        Of an expert.

    Returns
    -------
    ndarray of bool, shape (S, N)
        First copies that cover a group on a server, then exact copies.
    """
    held, left = held.copy(), left.copy()
    count = held.sum(axis=0)
    covered = np.zeros(held.shape, dtype=bool)
    s, i = np.nonzero(held)
    covered[s, group[i]] = True
    value = np.where(held, 0.0, seen / np.maximum(size.T, 1e-300))
    s, i = np.nonzero(value > 0)
    order = np.lexsort((i, s, -value[s, i]))
    candidates = list(zip(s[order].tolist(), i[order].tolist(), strict=True))
    total = int(held.sum())
    for covering in (True, False):
        for s_, i_ in candidates:
            if total >= most:
                return held
            new = not covered[s_, group[i_]]
            if left[s_] <= 0 or held[s_, i_] or count[i_] >= max_copies:
                continue
            if covering and not new:
                continue
            held[s_, i_] = covered[s_, group[i_]] = True
            left[s_] -= 1
            count[i_] += 1
            total += 1
    return held


def look_ahead_cost(
    follow: list[NDArray[np.float64]],
    distance: NDArray[np.float64],
    holder: list[NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Return the expected distance to the holders of the experts that follow.

    Parameters
    ----------
    follow
        For h = 1, 2, ...: traversals from each expert of the layer to those of the next
        one, (E, E'); from there on; rows need not add to 1.
    distance
        Between servers; (S, S).
    holder
        Server of each expert of the layer h ahead.

    Returns
    -------
    ndarray of float64, shape (E, S)
        Of each expert of the layer on each server: the sum over h.
    """
    cost = np.zeros((len(follow[0]), len(distance)))
    reach: NDArray[np.float64] | None = None
    for table, at in zip(follow, holder, strict=True):
        step = table / np.maximum(table.sum(axis=1, keepdims=True), 1e-300)
        reach = step if reach is None else reach @ step
        cost += reach @ distance[:, at].T
    return cost


def home_ways(problem: Problem, view: View) -> NDArray[np.float64]:
    """Return the ways from and to the homes for each call of an expert, roam; (N, S).

    Only experts that a token enters by, or leaves from, have any.
    """
    distance = np.where(np.isfinite(problem.distance), problem.distance, NO_ROUTE)
    out, back = distance[problem.home_of], distance.T[problem.home_of]  # (Q, S)
    rate, app = problem.rate[:, None], problem.application_of
    ways = (rate * problem.entry[app]).T @ out + (rate * problem.exit[app]).T @ back
    per_call: NDArray[np.float64] = ways / np.maximum(view.load, 1e-300)[:, None]
    return np.where(view.load[:, None] > 0, per_call, 0.0)


class OrderMoESolver(Baseline):
    """Groups of similar experts spread over servers, then covered everywhere."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="ordermoe",
        summary="similar experts spread over servers, then covered by frequency",
        citation="OrderMoE, arXiv 2607.17154, coverage placement",
        decides=("placement", "copies", "substitution"),
        sees=(
            "memory",
            "quality",
            "trust",
            "calls",
            "homes",
            "transitions",
            "network",
            "work",
        ),
        params=OrderMoEParams,
    )
    params: OrderMoEParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Group, cover, fill, and substitute."""
        group = grow_groups(view.load, problem.similar)
        left = view.slots.copy()
        held = self.first_copies(problem, view, group, left)
        most = self.params.redundancy * problem.num_experts
        seen = calls_seen(view)
        held = fill(
            seen,
            view.size,
            group,
            held,
            left,
            most=most,
            max_copies=view.max_copies,
        )
        expert, server = np.nonzero(held.T)
        decision = Decision(expert=expert, server=server)
        if not len(problem.similar) or problem.dataflow == "roam":
            return decision
        # Tiers and formats are completed first: they say what a call costs.
        copies = complete(problem, view, decision).copies
        router = Router(problem, 0.0)
        routing = router.route(copies)
        answered = substitutes(
            problem,
            copies,
            routing.cost,
            routing.loss,
            problem.quality_budget - router.lost(routing.loss),
            self.params.quality_price,
        )
        return Decision(
            expert=copies[:, 0],
            server=problem.server_of[copies[:, 1]],
            substituted=answered,
            substituted_share=np.ones(len(answered)),
        )

    def first_copies(
        self,
        problem: Problem,
        view: View,
        group: NDArray[np.int64],
        left: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Place one copy of each expert; ``left`` is counted down; (S, N)."""
        shape = problem.num_experts, problem.num_servers
        covered = np.zeros(shape, dtype=bool)
        time = np.concatenate(
            [view.mean_time(layer) for layer in range(problem.num_layers)]
        )
        cost = np.stack(
            [time[:, places].min(axis=1) for places in problem.places_of], axis=1
        )
        server = np.zeros(problem.num_experts, dtype=np.int64)
        if problem.dataflow == "home":
            order = np.argsort(-view.load, kind="stable").astype(np.int64)
            server[order] = place_spread(cost, order, group, left, covered)
        else:
            own = fastest_work(problem, view) + home_ways(problem, view)
            cost = np.where(np.isfinite(cost), own, np.inf)
            for layer in reversed(range(problem.num_layers)):
                mine = view.experts(layer)
                self.add_look_ahead(problem, view, cost, server, layer)
                order = mine[np.argsort(-view.load[mine], kind="stable")]
                server[order] = place_spread(cost, order, group, left, covered)
        held = np.zeros(shape[::-1], dtype=bool)
        held[server, np.arange(problem.num_experts)] = True
        return held

    def add_look_ahead(
        self,
        problem: Problem,
        view: View,
        cost: NDArray[np.float64],
        server: NDArray[np.int64],
        layer: int,
    ) -> None:
        """Add to the costs of a layer the way to the layers after it."""
        last = min(layer + self.params.look_ahead, problem.num_layers - 1)
        if last <= layer:
            return
        follow = [view.transitions(ahead) for ahead in range(layer, last)]
        holder = [server[view.experts(ahead + 1)] for ahead in range(layer, last)]
        distance = np.where(np.isfinite(problem.distance), problem.distance, NO_ROUTE)
        cost[view.experts(layer)] += look_ahead_cost(follow, distance, holder)

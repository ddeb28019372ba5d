"""The trivial bound: every coupling row relaxed at zero price.

Each (demand, expert) takes the cheapest answer that could exist at all. It costs a
few passes over arrays at any size, so every solve reports at least this bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .costs import linear_costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .problem import Problem


def trivial_bound(problem: Problem) -> float:
    """Return a lower bound of the objective with no row but the shares' own.

    Every term is bounded alone from below (the linear ones together); a sum of lower
    bounds is a lower bound.
    """
    if problem.dataflow == "roam":
        return _roam(problem)
    bound = _linear(problem) + _bottleneck(problem) + _sampled(problem)
    return _safe(bound)


def _safe(bound: float) -> float:
    """Give way by rounding: `score` adds up in another order. Inf stays inf."""
    return float(bound - 1e-12 * abs(bound)) if np.isfinite(bound) else float(bound)


def cheapest_copies(
    problem: Problem, nat: float, work_price: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the least cost of a call's work and loss over formats, (G, V, N)."""
    num_g, num_v = problem.num_applications, problem.num_places
    least = np.full((num_g, num_v, problem.num_experts), np.inf)
    for v in range(num_v):
        for b in np.flatnonzero(problem.allowed[v]):
            work = (
                problem.flop * problem.s_per_flop[v, b]
                + problem.size_bytes[:, b] * problem.s_per_byte[v]
            ) * work_price[v]
            fits = problem.size_bytes[:, b] <= problem.largest_bytes[v]
            for g in range(num_g):
                cost = work + nat * problem.format_loss[g, :, b]
                np.minimum(least[g, v], np.where(fits, cost, np.inf), out=least[g, v])
    return least


def cheapest_answers(
    problem: Problem,
    net: NDArray[np.float64],
    saved: NDArray[np.float64],
    work_price: NDArray[np.float64],
    nat: float,
) -> NDArray[np.float64]:
    """Return the least cost of one call of each (demand, expert), (Q, N).

    ``net``, ``saved``: (Q, L, S), cost of going there and what fusion saves of it.
    A pair that nothing can answer costs inf.
    """
    app, layer_of = problem.application_of, problem.layer_of
    least = cheapest_copies(problem, nat, work_price)
    fuse = np.zeros_like(net)  # the best that fusing can add to a served call
    for m in range(problem.fuse_width.shape[2]):
        gain = nat * problem.fuse_loss[app, :, m][:, :, None] - saved
        width = problem.fuse_width[app, :, m][:, :, None]
        fuse += width * np.minimum(gain, 0.0)
    fuse = np.where(problem.remote, fuse, 0.0)
    asked, other = problem.similar.T
    at_server = np.full((len(least), problem.num_servers, problem.num_experts), np.inf)
    if len(asked):
        for v, s in enumerate(problem.server_of):
            np.minimum(at_server[:, s], least[:, v], out=at_server[:, s])
    answers = np.full((problem.num_demands, problem.num_experts), np.inf)
    for q in range(problem.num_demands):
        go = net[q] + fuse[q]  # (L, S)
        best = answers[q]
        for v, s in enumerate(problem.server_of):
            np.minimum(best, go[layer_of, s] + least[app[q], v], out=best)
        here = problem.source[q, layer_of[asked]]
        cost = at_server[app[q], here, other] + nat * problem.similar_loss[app[q]]
        np.minimum.at(best, asked, cost)
    # Pruning: the cheapest first, as far as the segments are wide.
    pruned = np.zeros_like(answers)
    left = np.ones_like(answers)
    for m in range(problem.prune_width.shape[2]):
        loss = nat * problem.prune_loss[app, :, m][:, layer_of]
        width = problem.prune_width[app, :, m][:, layer_of]
        width = np.where(loss < answers, np.minimum(width, left), 0.0)
        pruned += width * loss
        left -= width
    rest = np.where(left > 1e-12, left, 0.0)
    served = np.where(rest > 0, rest * np.where(rest > 0, answers, 0.0), 0.0)
    return pruned + served


def _weights(problem: Problem) -> NDArray[np.float64]:
    weight: NDArray[np.float64] = (
        problem.demand_weight[:, None] * problem.calls[problem.application_of]
    )
    return weight


def _sum(weight: NDArray[np.float64], cost: NDArray[np.float64]) -> float:
    used = weight > 0
    return float((weight[used] * cost[used]).sum())


def _linear(problem: Problem) -> float:
    costs = linear_costs(problem)
    cost = cheapest_answers(
        problem, costs.net, costs.saved, costs.work_price, costs.nat
    )
    return _sum(_weights(problem), cost)


def _bottleneck(problem: Problem) -> float:
    """Work spread evenly over all servers of each layer."""
    price = problem.weight_of("bottleneck")
    if not price:
        return 0.0
    nothing = np.where(problem.reachable, 0.0, np.inf)
    cost = cheapest_answers(
        problem, nothing, np.zeros_like(nothing), np.ones(problem.num_places), 0.0
    )
    return price * _sum(_weights(problem), cost) / problem.num_servers


def _sampled(problem: Problem) -> float:
    """Each sampled call takes the fastest answer; a layer takes its slowest call.

    Where a call may be pruned it takes nothing; `fluid` may spread a call over all
    servers, which takes as long as the harmonic sum of their times.
    """
    parallel, fluid = problem.weight_of("parallel"), problem.weight_of("fluid")
    if not (parallel or fluid) or not len(problem.sample_demand):
        return 0.0
    app, layer_of = problem.application_of, problem.layer_of
    time = np.where(
        problem.reachable, problem.round_trip_s + problem.transfer_s, np.inf
    )
    least = cheapest_copies(problem, 0.0, np.ones(problem.num_places))
    free = (problem.prune_width.sum(axis=2) > 0)[app][:, layer_of]
    if len(problem.similar):
        free[:, problem.similar[:, 0]] = True
    saved = (1 - problem.fuse_factor) * problem.transfer_s * problem.remote
    total = 0.0
    for t, q in enumerate(problem.sample_demand.tolist()):
        for layer in range(problem.num_layers):
            chosen = problem.sample_experts[t, layer]
            chosen = chosen[chosen >= 0]
            chosen = chosen[~free[q, chosen]]
            if not len(chosen):
                continue
            go = time[q, layer] - saved[q, layer]
            each = go[problem.server_of][:, None] + least[app[q]][:, chosen]
            by_server = np.full((problem.num_servers, len(chosen)), np.inf)
            np.minimum.at(by_server, problem.server_of, each)
            total += parallel * float(by_server.min(axis=0).max())
            speed = (1 / np.maximum(by_server, 1e-300)).sum(axis=0)
            if (speed > 0).all():
                total += fluid * float((1 / speed).max())
    return total / len(problem.sample_demand)


def _roam(problem: Problem) -> float:
    """Work and loss at their cheapest, entries and exits to the nearest server."""
    price = problem.weight_of("serial") + problem.weight_of("pair")
    work_price = (
        problem.weight_of("serial") + problem.weight_of("energy") * problem.power_w
    )
    least = cheapest_copies(problem, problem.weight_of("quality"), work_price)
    app = problem.application_of
    share = problem.application_rate / problem.total_rate
    cost = least.min(axis=1)  # (G, N)
    total = _sum(share[:, None] * problem.calls, cost)
    distance = problem.distance
    for q in range(problem.num_demands):
        home = problem.home_of[q]
        ends = problem.entry[app[q]].sum() * distance[home].min()
        ends += problem.exit[app[q]].sum() * distance[:, home].min()
        total += problem.demand_weight[q] * price * float(ends)
    if len(problem.pairs):
        total += price * float((share @ problem.pair_weight).sum() * distance.min())
    bottleneck = problem.weight_of("bottleneck")
    if bottleneck:
        work = cheapest_copies(problem, 0.0, np.ones(problem.num_places)).min(axis=1)
        even = _sum(share[:, None] * problem.calls, work) / problem.num_servers
        total += bottleneck * even
    return _safe(total)

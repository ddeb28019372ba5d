"""Topology-driven placement: an integer programme over hops, solved as a flow.

    min  sum_i sum_s w_i (dist(dispatch, s) + dist(s, collect)) x[i, s]
    sum_s x[i, s] = 1,  sum_i x[i, s] <= C_exp,  sum_(i in layer) x[i, s] <= C_layer

with w_i = 1 ("ILP") or the calls of the expert ("ILPLoad"). The caps of a layer lie
inside those of a server, so that this is a min-cost flow, and a flow method finds the
same optimum as the branch and bound of the paper: expert -> (layer, server) -> server.

Decides: placement.
Ignores: bandwidth, speed, sizes beyond a number of slots, and every row but memory.
Gaps filled: the paper has one dispatch and one collect host for each layer; here the
distance is the mean over demands, weighted by their calls (by their rate alone when not
``weighted``). C_exp is the copies of the largest expert that a server's memory holds;
if they do not hold all experts, servers take experts in proportion to them, and memory
is broken. C_layer is given by ``layer_cap``. Costs are rounded to 2^-40 of the largest,
as the flow method takes integers; for them the placement is optimal.

References
----------
.. [1] Sivtsov, D., Katrutsa, A., Oseledets, I. (2025). Cluster Topology-Driven
   Placement of Experts Reduces Network Traffic in MoE Inference.
   https://arxiv.org/abs/2508.09229
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

UNITS = 2.0**40
"""Integer cost of the most costly arc: with 1e6 nodes the method stays below 2^63."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyParams(BaselineParams):
    """Parameters of `TopologySolver`.

    Attributes
    ----------
    weighted
        Whether experts count by their calls ("ILPLoad"), or all alike ("ILP").
    distance
        Hops, as published, or seconds of latency.
    layer_cap
        Experts of a layer that a server may hold; 0: any number.
    """

    weighted: bool = True
    distance: Literal["hops", "latency"] = "hops"
    layer_cap: int = 0


def place_by_flow(
    cost: NDArray[np.float64],
    layer_of: NDArray[np.int64],
    slots: NDArray[np.int64],
    layer_cap: int = 0,
) -> NDArray[np.int64] | None:
    """Place experts at least cost with caps on servers and layers.

    Parameters
    ----------
    cost
        Of each expert on each server, non-negative; inf: must not be; (N, S).
    layer_of
        Layer of each expert, from 0; (N,).
    slots
        Experts that a server holds at most; (S,).
    layer_cap
        Experts of one layer that a server holds at most; 0: any number.

    Returns
    -------
    ndarray of int64, shape (N,), or None
        Server of each expert; None if they do not fit.
    """
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    num, num_s = cost.shape
    layers = int(layer_of.max(initial=-1)) + 1
    scale = float(np.max(cost, where=np.isfinite(cost), initial=0.0)) or 1.0
    i, s = np.nonzero(np.isfinite(cost))
    whole = np.rint(cost[i, s] * (UNITS / scale)).astype(np.int64)
    cell = num + np.arange(layers * num_s)
    last = num + layers * num_s
    server, sink = last + np.arange(num_s), last + num_s
    flow = SimpleMinCostFlow()
    arcs = flow.add_arcs_with_capacity_and_unit_cost(
        i, num + layer_of[i] * num_s + s, np.ones_like(i), whole
    )
    cap = np.full(len(cell), layer_cap if layer_cap > 0 else num, dtype=np.int64)
    flow.add_arcs_with_capacity_and_unit_cost(
        cell, np.tile(server, layers), cap, np.zeros_like(cell)
    )
    flow.add_arcs_with_capacity_and_unit_cost(
        server, np.full(num_s, sink), slots, np.zeros_like(server)
    )
    flow.set_nodes_supplies(
        np.append(np.arange(num), sink), np.append(np.ones(num, dtype=np.int64), -num)
    )
    if flow.solve() != flow.OPTIMAL:
        return None
    used = flow.flows(arcs) > 0
    chosen = np.zeros(num, dtype=np.int64)
    chosen[i[used]] = s[used]
    return chosen


def mean_distance(
    problem: Problem, view: View, *, weighted: bool, distance: str
) -> NDArray[np.float64]:
    """Return the distance that the calls of each expert travel to each server; (N, S).

    From where a demand leaves in the layer and back to where it returns, times calls
    per second if ``weighted``; the mean over demands otherwise.
    """
    if distance == "latency":
        between = problem.route_latency
    else:
        hops = [[len(links) for links in row] for row in problem.route_links]
        between = np.array(hops, dtype=np.float64)
        between[~np.isfinite(problem.route_latency)] = np.inf
    cost = np.zeros((problem.num_experts, problem.num_servers))
    for layer in range(problem.num_layers):
        there, back = problem.source[:, layer], problem.sink[:, layer]
        far = between[there] + between.T[back]  # (Q, S)
        experts = view.experts(layer)
        if weighted:
            calls = problem.calls[problem.application_of][:, experts]
            mass = (problem.rate[:, None] * calls).T  # (E, Q)
        else:
            mass = np.tile(problem.demand_weight, (len(experts), 1))
        known = np.isfinite(far)
        total = mass @ np.where(known, far, 0.0)
        lost = (mass > 0).astype(float) @ ~known > 0
        cost[experts] = np.where(lost, np.inf, total)
    return cost


class TopologySolver(Baseline):
    """Least mean distance to the experts, with equal slots: exact, as a flow."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="topology",
        summary="least mean distance to the experts within slots: exact, as a flow",
        citation="Sivtsov, Katrutsa, Oseledets 2025, arXiv 2508.09229, ILP and ILPLoad",
        decides=("placement",),
        sees=("memory", "calls", "homes", "network"),
        params=TopologyParams,
        packages=("ortools",),
    )
    params: TopologyParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Solve the flow."""
        from .slots import equal_parts

        params = self.params
        cost = mean_distance(
            problem, view, weighted=params.weighted, distance=params.distance
        )
        slots = view.slots
        if slots.sum() < problem.num_experts:
            slots = equal_parts(problem.num_experts, slots)
        most = int(np.diff(problem.layer_start).max(initial=0))
        least = -(-most // problem.num_servers)
        cap = max(params.layer_cap, least) if params.layer_cap > 0 else 0
        server = place_by_flow(cost, problem.layer_of, slots, cap)
        if server is None and cap:
            server = place_by_flow(cost, problem.layer_of, slots)
        return None if server is None else Decision(server=server)

"""Prism: slots by entropy of the layers, then the most called experts of each server.

Stage 1 shares the memory of a server among layers in proportion to the entropy of
their activations there, and moves slots until every layer has one for each expert.
Stage 2 gives each server the experts that its own requests call most; an expert
without a home takes the place of a duplicate.

The proxy behind it, remote calls under memory, is a b-matching when experts have one
size: `flow_optimum` solves it exactly, so that the gap of the two stages can be shown.

Decides: placement and copies.
Ignores: links, compute, formats, tiers, losses and every row but memory. The run-time
    part (a new placement every five minutes, taken if it saves more than it costs to
    move) is no part of a plan.
Gaps filled: slots are rounded down and the rest goes to the largest remainders; a layer
    has no more slots on a server than experts, and passes on what is over. A slot that
    moves comes from the layer of largest surplus on the largest server that has one. A
    server where no request enters uses the statistics of all requests. Experts of
    unlike sizes count as the largest. Where copies are limited, an expert stays where
    it is called most, and freed slots go to experts without a home first.

References
----------
.. [1] Wu, T., Wang, L., Wen, Z., Zhang, X., Duan, J., Zhang, X., Zuo, J. (2025).
   Accelerating Edge Inference for Distributed MoE Models with Latency-Optimized Expert
   Placement (DanceMoE in its first version). https://arxiv.org/abs/2508.12851
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, Budget, baseline_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

COST_SCALE = 2**30
"""Whole numbers per largest frequency in the flow: its costs are integers."""


def calls_seen(view: View) -> NDArray[np.float64]:
    """Return calls per second of each expert as a server sees them; (S, N).

    Of the requests that enter there; of all requests, split evenly, where none does.
    """
    seen = view.load_at.copy()
    blind = seen.sum(axis=1) <= 0
    seen[blind] = view.load / len(seen)
    return seen


def layer_entropies(
    seen: NDArray[np.float64], layer_start: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the entropy of the activations of each layer, by server; (S, L) nats."""
    starts = layer_start[:-1]
    total = np.add.reduceat(seen, starts, axis=1)
    part = seen / np.maximum(np.repeat(total, np.diff(layer_start), axis=1), 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(part > 0, -part * np.log(part), 0.0)
    entropy: NDArray[np.float64] = np.add.reduceat(terms, starts, axis=1)
    return entropy


def share_slots(
    weight: NDArray[np.float64], num_slots: int, width: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Share the slots of a server among layers in proportion to weights.

    Parameters
    ----------
    weight
        Of each layer, not negative; (L,). All alike if none is positive.
    num_slots
        Of the server.
    width
        Experts of each layer, its largest number of slots; (L,).

    Returns
    -------
    ndarray of int64, shape (L,)
        Rounded down, the rest to the largest remainders; a layer that is full passes
        what is over on to the others.
    """
    slots = np.zeros(len(width), dtype=np.int64)
    weight = np.where(weight > 1e-12, weight, 0.0)
    left = min(num_slots, int(width.sum()))
    while left:
        open_ = slots < width
        part = np.where(open_, weight, 0.0)
        if part.sum() <= 0:
            part = open_.astype(float)
        ideal = left * part / part.sum()
        whole = np.minimum(np.floor(ideal + 1e-9).astype(np.int64), width - slots)
        if not whole.any():
            first = np.lexsort((np.arange(len(width)), -ideal))[:left]
            whole[first[ideal[first] > 0]] = 1
        elif (np.floor(ideal + 1e-9) <= width - slots).all():
            # Nobody was cut: what is left over goes to the largest remainders.
            rest = ideal - whole
            rest[whole + slots >= width] = -1.0
            first = np.lexsort((np.arange(len(width)), -rest))[: left - whole.sum()]
            whole[first[rest[first] > 0]] += 1
        slots += whole
        left -= int(whole.sum())
    return slots


def cover_layers(
    slots: NDArray[np.int64], capacity: NDArray[np.int64], width: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Move slots to layers that have fewer than experts, large servers first.

    Parameters
    ----------
    slots
        Of each layer on each server; (S, L).
    capacity
        Slots of each server; (S,).
    width
        Experts of each layer; (L,).
    """
    slots = slots.copy()
    servers = np.argsort(-capacity, kind="stable")
    surplus = slots.sum(axis=0) - width
    for layer in np.argsort(surplus, kind="stable"):
        while surplus[layer] < 0:
            for s in servers:
                donors = np.flatnonzero((slots[s] > 0) & (surplus > 0))
                if len(donors) and slots[s, layer] < width[layer]:
                    donor = donors[np.argmax(surplus[donors])]
                    slots[s, donor] -= 1
                    slots[s, layer] += 1
                    surplus[donor] -= 1
                    surplus[layer] += 1
                    break
            else:
                break
    return slots


def allot_slots(
    entropy: NDArray[np.float64], capacity: NDArray[np.int64], width: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Stage 1: slots of each layer on each server.

    Parameters
    ----------
    entropy
        Of the activations of each layer at each server; (S, L).
    capacity
        Slots of each server; (S,).
    width
        Experts of each layer; (L,).

    Returns
    -------
    ndarray of int64, shape (S, L)
        In proportion to entropy, and enough for every expert where memory allows.
    """
    slots = np.array(
        [share_slots(w, int(c), width) for w, c in zip(entropy, capacity, strict=True)],
        dtype=np.int64,
    ).reshape(entropy.shape)
    return cover_layers(slots, capacity, width)


def choose_experts(
    seen: NDArray[np.float64], slots: NDArray[np.int64], max_copies: int
) -> NDArray[np.bool_]:
    """Stage 2 for one layer: which experts each server holds.

    Parameters
    ----------
    seen
        Calls per second of the experts of the layer by server; (S, E).
    slots
        Of the layer on each server; (S,).
    max_copies
        Of an expert.

    Returns
    -------
    ndarray of bool, shape (S, E)
        The most called ones of each server; then an expert without a home takes the
        place of a duplicate on the server that holds most duplicates.
    """
    num_servers, num_experts = seen.shape
    load = seen.sum(axis=0)
    index = np.arange(num_experts)
    held = np.zeros(seen.shape, dtype=bool)
    for s in range(num_servers):
        held[s, np.lexsort((index, -load, -seen[s]))[: slots[s]]] = True
    for i in np.flatnonzero(held.sum(axis=0) > max_copies):
        holders = np.flatnonzero(held[:, i])
        keep = holders[np.argsort(-seen[holders, i], kind="stable")[:max_copies]]
        held[:, i] = False
        held[keep, i] = True
    free = slots - held.sum(axis=1)
    for i in np.argsort(-load, kind="stable"):
        # Only a limit of copies leaves free slots: without it they are all taken.
        if not held[:, i].any() and (free > 0).any():
            s = int(np.argmax(np.where(free > 0, seen[:, i], -1.0)))
            held[s, i] = True
            free[s] -= 1
    while not (placed := held.any(axis=0)).all():
        twice = held & (held.sum(axis=0) > 1)
        num_twice = twice.sum(axis=1)
        s = int(np.argmax(num_twice))
        if not num_twice[s]:
            break  # there are fewer slots than experts
        mine = np.flatnonzero(twice[s])
        out = mine[np.lexsort((-mine, load[mine], seen[s, mine]))[0]]
        homeless = np.flatnonzero(~placed)
        in_ = homeless[np.lexsort((homeless, -load[homeless], -seen[s, homeless]))[0]]
        held[s, out], held[s, in_] = False, True
    return held


def two_stages(
    seen: NDArray[np.float64],
    capacity: NDArray[np.int64],
    layer_start: NDArray[np.int64],
    max_copies: int | None = None,
) -> NDArray[np.bool_]:
    """Place experts as published.

    Parameters
    ----------
    seen
        Calls per second of each expert by server; (S, N).
    capacity
        Slots of each server; (S,).
    layer_start
        First expert of each layer; (L+1,).
    max_copies
        Of an expert; any number if none.

    Returns
    -------
    ndarray of bool, shape (S, N)
        Which server holds which expert.
    """
    width = np.diff(layer_start)
    slots = allot_slots(layer_entropies(seen, layer_start), capacity, width)
    most = len(seen) if max_copies is None else max_copies
    return np.concatenate(
        [
            choose_experts(seen[:, low:high], slots[:, layer], most)
            for layer, (low, high) in enumerate(pairwise(layer_start.tolist()))
        ],
        axis=1,
    )


def remote_calls(frequency: NDArray[np.float64], held: NDArray[np.bool_]) -> float:
    """Return the proxy: calls per second of experts that are not where they are called.

    Parameters
    ----------
    frequency
        Calls per second of each expert by server; (S, N).
    held
        Which server holds which expert; (S, N).
    """
    return float((frequency * ~held).sum())


class PrismSolver(Baseline):
    """Slots by entropy, then the most called experts of each server."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="prism",
        summary="slots by entropy of layers, then the most called experts of a server",
        citation="Prism (DanceMoE), arXiv 2508.12851, two-stage expert placement",
        decides=("placement", "copies"),
        sees=("memory", "calls", "homes"),
    )

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Run both stages."""
        held = two_stages(
            calls_seen(view), view.slots, problem.layer_start, view.max_copies
        )
        return decision_of(held, view)


def decision_of(held: NDArray[np.bool_], view: View) -> Decision:
    """Return the decision of who holds what; what nobody holds goes where room is most.

    Parameters
    ----------
    held
        Which server holds which expert; (S, N).
    view
        Of the attempt.
    """
    left = view.slots - held.sum(axis=1)
    held = held.copy()
    for i in np.flatnonzero(~held.any(axis=0)):
        s = int(np.argmax(left))
        held[s, i] = True
        left[s] -= 1
    expert, server = np.nonzero(held.T)
    return Decision(expert=expert, server=server)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProxyOptimum:
    """The best placement for Prism's proxy.

    Attributes
    ----------
    held
        Which server holds which expert; (S, N).
    remote
        Its remote calls per second.
    bound
        No placement has fewer: ``remote`` less what rounding the costs may have hidden.
    """

    held: NDArray[np.bool_]
    remote: float
    bound: float

    def gap(self, remote: float) -> float:
        """Return the excess of other remote calls over the optimum, as a fraction.

        0 if both are 0, inf if only the optimum is.
        """
        if remote <= self.bound:
            return 0.0
        return (remote - self.remote) / self.remote if self.remote > 0 else float("inf")


def flow_optimum(
    frequency: NDArray[np.float64], capacity: NDArray[np.int64]
) -> ProxyOptimum | None:
    """Solve the proxy of Prism exactly, as a min-cost flow.

    Experts of one size make it a bipartite b-matching: a server sends as many units as
    it has slots, each to another expert; the first unit that an expert receives earns
    so much that every expert gets one.

    Parameters
    ----------
    frequency
        Calls per second of each expert by server; (S, N).
    capacity
        Slots of each server; (S,).

    Returns
    -------
    ProxyOptimum or None
        None if there are fewer slots than experts.
    """
    from ortools.graph.python import min_cost_flow

    num_servers, num_experts = frequency.shape
    capacity = np.minimum(capacity, num_experts)
    if capacity.sum() < num_experts:
        return None
    top = float(frequency.max(initial=0.0))
    # A path of exchanges visits each server once: this outbids the worst of them.
    scale = COST_SCALE / top if top > 0 else 0.0
    worth = np.rint(frequency * scale).astype(np.int64)
    first = (num_servers + 1) * COST_SCALE
    servers = np.repeat(np.arange(num_servers), num_experts)
    experts = np.tile(np.arange(num_experts), num_servers) + num_servers
    each = np.arange(num_experts) + num_servers
    sink = np.full(num_experts, num_servers + num_experts)
    flow = min_cost_flow.SimpleMinCostFlow()
    held_by = flow.add_arcs_with_capacity_and_unit_cost(
        servers, experts, np.ones(len(servers), dtype=np.int64), -worth.ravel()
    )
    flow.add_arcs_with_capacity_and_unit_cost(
        each,
        sink,
        np.ones(num_experts, dtype=np.int64),
        np.full(num_experts, -first),
    )
    flow.add_arcs_with_capacity_and_unit_cost(
        each,
        sink,
        np.full(num_experts, num_servers, dtype=np.int64),
        np.zeros(num_experts, dtype=np.int64),
    )
    flow.set_nodes_supplies(
        np.append(np.arange(num_servers), num_servers + num_experts),
        np.append(capacity, -capacity.sum()),
    )
    if flow.solve() != flow.OPTIMAL:
        return None
    held = flow.flows(held_by).reshape(frequency.shape) > 0
    remote = remote_calls(frequency, held)
    hidden = held.size / scale if scale else 0.0  # half a unit, in both placements
    return ProxyOptimum(held=held, remote=remote, bound=max(remote - hidden, 0.0))

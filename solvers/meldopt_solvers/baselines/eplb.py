"""EPLB: replicate the most called experts, then pack replicas on devices by load.

DeepSeek's expert-parallelism load balancer. Hierarchically, groups of experts are
packed on nodes first, experts are replicated inside each node, and replicas are packed
on its devices; globally the same with one group and one node. Packing takes items by
load, each to the least loaded pack that has a free slot; replicating gives the next
replica to the expert with most calls per replica.

Decides: placement, copies.
Ignores: homes, network, speed, sizes beyond a number of slots, and every row but
memory.
Gaps filled: the published code wants equal devices. Here the slots of a server are the
copies of the largest expert that its memory holds, spread over the layers in
proportion; servers take equal numbers of a layer up to their slots. If the slots do not
hold all experts, servers take experts in proportion to them, and memory is broken. No
expert gets more replicas than servers, or than the instance allows. Replicas of an
expert that fall on one server are one copy. Nodes are equal runs of servers; where
nodes and groups do not divide, or a node has too few slots, balancing is global, as
published. A demand takes its copy of least time; with ``even`` each replica gets the
same part of the calls, as the balancer assumes.

References
----------
.. [1] DeepSeek-AI (2025). Expert Parallelism Load Balancer.
   https://github.com/deepseek-ai/EPLB
.. [2] DeepSeek-AI (2024). DeepSeek-V3 Technical Report, section 3.4.
   https://arxiv.org/abs/2412.19437
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View


# -- the algorithm on arrays -----------------------------------------------------------


def pack(
    weight: NDArray[np.float64], slots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pack items by weight, each in the lightest pack that has a free slot.

    As many packs as items are filled in order, as published.

    Parameters
    ----------
    weight
        Of each item; (items,).
    slots
        Of each pack; together at least as many as items; (packs,).

    Returns
    -------
    tuple of ndarray
        Pack of each item, and its number in the pack; (items,).
    """
    number = np.zeros(len(weight), dtype=np.int64)
    if len(weight) == len(slots) and (slots == 1).all():
        return np.arange(len(weight), dtype=np.int64), number
    chosen = np.zeros(len(weight), dtype=np.int64)
    load = np.where(slots > 0, 0.0, np.inf)
    held = np.zeros(len(slots), dtype=np.int64)
    for item in np.argsort(-weight, kind="stable").tolist():
        p = int(np.argmin(load))
        chosen[item], number[item] = p, held[p]
        held[p] += 1
        load[p] = load[p] + weight[item] if held[p] < slots[p] else np.inf
    return chosen, number


def replicate(
    weight: NDArray[np.float64], count: int, most: int | None = None
) -> NDArray[np.int64]:
    """Give each further replica to the expert with most calls per replica.

    This keeps the largest load of a replica as small as can be.

    Parameters
    ----------
    weight
        Calls of each expert; (E,).
    count
        Replicas in all, at least E.
    most
        Replicas of one expert; any number if None. There may then be fewer in all.

    Returns
    -------
    ndarray of int64, shape (count,)
        Expert of each replica; the first E are the experts in order.
    """
    weight = np.asarray(weight, dtype=np.float64)
    replicas = np.ones(len(weight), dtype=np.int64)
    each = weight.copy() if most is None or most > 1 else np.full_like(weight, -np.inf)
    expert_of = list(range(len(weight)))
    for _ in range(count - len(weight)):
        e = int(np.argmax(each))
        if each[e] == -np.inf:
            break
        expert_of.append(e)
        replicas[e] += 1
        full = most is not None and replicas[e] >= most
        each[e] = -np.inf if full else weight[e] / replicas[e]
    return np.array(expert_of, dtype=np.int64)


def balance_layer(
    weight: NDArray[np.float64],
    slots: NDArray[np.int64],
    *,
    groups: int = 1,
    nodes: int = 1,
    most: int | None = None,
) -> list[NDArray[np.int64]]:
    """Balance one layer; hierarchically if the groups divide among the nodes.

    Parameters
    ----------
    weight
        Calls of each expert; (E,).
    slots
        Of each device, (P,); devices of a node follow each other.
    groups, nodes
        Groups of consecutive experts, and nodes of consecutive devices.
    most
        Replicas of one expert in a node; any number if None.

    Returns
    -------
    list of ndarray of int64
        Experts of each device, in the order of its slots; an expert may stand twice.
    """
    num, devices = len(weight), len(slots)
    divides = groups % nodes == 0 and num % groups == 0 and devices % nodes == 0
    room = slots.reshape(nodes, -1) if divides else slots.reshape(1, -1)
    if not divides or (room.sum(axis=1) < num // nodes).any():
        groups, nodes, room = 1, 1, slots.reshape(1, -1)
    members = np.arange(num).reshape(groups, -1)
    node, number = pack(
        weight[members].sum(axis=1), np.full(nodes, groups // nodes, dtype=np.int64)
    )
    held = []
    for n in range(nodes):
        mine = np.flatnonzero(node == n)
        experts = members[mine[np.argsort(number[mine])]].ravel()
        own = weight[experts]
        expert_of = replicate(own, int(room[n].sum()), most)
        count = np.bincount(expert_of, minlength=len(own))
        device, slot = pack((own / count)[expert_of], room[n])
        for p in range(room.shape[1]):
            here = np.flatnonzero(device == p)
            held.append(experts[expert_of[here[np.argsort(slot[here])]]])
    return held


def rebalance_experts(
    weight: NDArray[np.float64],
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
) -> NDArray[np.int64]:
    """Balance layers on equal devices: the function that DeepSeek published.

    Parameters
    ----------
    weight
        Calls of each expert; (L, E).
    num_replicas
        Physical experts of a layer, a multiple of ``num_gpus``.
    num_groups, num_nodes, num_gpus
        Of the model and the cluster.

    Returns
    -------
    ndarray of int64, shape (L, num_replicas)
        Logical expert of each physical one, device by device.
    """
    slots = np.full(num_gpus, num_replicas // num_gpus, dtype=np.int64)
    return np.stack(
        [
            np.concatenate(
                balance_layer(layer, slots, groups=num_groups, nodes=num_nodes)
            )
            for layer in np.asarray(weight, dtype=np.float64)
        ]
    )


# -- the solver ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EplbParams(BaselineParams):
    """Parameters of `EplbSolver`.

    Attributes
    ----------
    groups
        Groups of consecutive experts of a layer that stay on one node.
    nodes
        Nodes of consecutive servers. It is hierarchical if the groups divide among the
        nodes and there is more than one, else global.
    redundant
        Redundant experts of a layer; -1: as many as memory holds.
    even
        Whether each replica gets the same part of the calls of its expert, from every
        demand; else a demand uses its copy of least time.
    """

    groups: int = 1
    nodes: int = 1
    redundant: int = -1
    even: bool = False


def replica_slots(view: View, redundant: int = -1) -> NDArray[np.int64]:
    """Return how many experts of each layer, with replicas, a server holds; (L, S).

    The slots of a server are spread over the layers in proportion to their experts. In
    a layer servers take equal numbers, up to their slots.

    Parameters
    ----------
    view
        Memory, and how many copies an expert may have.
    redundant
        Replicas beyond one of each expert, in each layer; -1: as many as fit.
    """
    from .slots import equal_parts, layer_slots

    start = view.problem.layer_start
    sizes = np.diff(start)
    upto = view.slots * start[:, None] // max(int(start[-1]), 1)  # (L+1, S)
    quota = np.minimum(np.diff(upto, axis=0), sizes[:, None])
    if (quota.sum(axis=1) < sizes).any():
        return layer_slots(view)
    wanted = np.minimum(quota.sum(axis=1), sizes * view.max_copies)
    if redundant >= 0:
        wanted = np.minimum(wanted, sizes + redundant)
    return np.stack(
        [
            equal_parts(int(total), caps)
            for total, caps in zip(wanted, quota, strict=True)
        ]
    )


def balanced_replicas(
    view: View, *, groups: int = 1, nodes: int = 1, redundant: int = -1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Replicate and pack the experts of all layers on the servers.

    Parameters
    ----------
    view
        The attempt.
    groups, nodes, redundant
        See `EplbParams`.

    Returns
    -------
    tuple of ndarray of int64
        Expert and server of each replica; an expert may stand twice on a server.
    """
    experts, servers = [], []
    for layer, slots in enumerate(replica_slots(view, redundant)):
        mine = view.experts(layer)
        held = balance_layer(
            view.load[mine], slots, groups=groups, nodes=nodes, most=view.max_copies
        )
        experts += [mine[one] for one in held]
        servers += [np.full(len(one), s) for s, one in enumerate(held)]
    return np.concatenate(experts), np.concatenate(servers)


class EplbSolver(Baseline):
    """Replicate the most called experts, then pack replicas by load."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="eplb",
        summary="replicate the most called experts, then pack replicas by load",
        citation="DeepSeek EPLB, https://github.com/deepseek-ai/EPLB",
        decides=("placement", "copies"),
        sees=("memory", "calls"),
        params=EplbParams,
    )
    params: EplbParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Balance every layer."""
        params = self.params
        expert, server = balanced_replicas(
            view,
            groups=params.groups,
            nodes=params.nodes,
            redundant=params.redundant,
        )
        if not params.even:
            return Decision(expert=expert, server=server)
        count = np.bincount(expert, minlength=problem.num_experts)
        shared = np.flatnonzero(count[expert] > 1)
        demand = np.repeat(np.arange(problem.num_demands), len(shared))
        row = np.tile(shared, problem.num_demands)
        return Decision(
            expert=expert,
            server=server,
            served=np.stack([demand, row], axis=1),
            served_share=1.0 / count[expert[row]],
        )

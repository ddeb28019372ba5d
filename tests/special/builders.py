"""Classic problems as instances: what meldopt generalises, it must also solve.

None of these needs a special path in a solver. Each builder says which words of the
classic problem become which words of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.instance import (
    ApplicationSpec,
    ClusterSpec,
    CountSpec,
    DemandSpec,
    FormatSpec,
    Instance,
    InstanceSpec,
    LimitsSpec,
    LinkSpec,
    ModelSpec,
    ObjectiveSpec,
    ServerSpec,
    TierSpec,
    WorkloadSpec,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import networkx as nx
    from numpy.typing import NDArray


def _star(names: Sequence[str]) -> list[LinkSpec]:
    """Join all servers to the first: a graph must be connected, here nothing moves."""
    return [LinkSpec(between=(names[0], name), bandwidth=1.0) for name in names[1:]]


def _one_demand(home: str) -> WorkloadSpec:
    return WorkloadSpec(
        applications=[ApplicationSpec(name="all")],
        demands=[DemandSpec(application="all", home=home, rate=1.0)],
    )


def _sites(capacity: NDArray[np.float64]) -> tuple[list[ServerSpec], list[FormatSpec]]:
    """Servers of one format each: sizes and losses may then differ by server."""
    formats = [
        FormatSpec(name=f"on-{s}", bits_per_weight=8.0) for s in range(len(capacity))
    ]
    servers = [
        ServerSpec(
            name=f"s{s}",
            tiers={"gpu": TierSpec(capacity=float(room), formats=[f"on-{s}"])},
        )
        for s, room in enumerate(capacity)
    ]
    return servers, formats


def generalised_assignment(
    name: str,
    cost: NDArray[np.float64],
    weight: NDArray[np.float64],
    capacity: NDArray[np.float64],
) -> Instance:
    """Generalised assignment: a job is a layer of one expert, its cost a quality loss.

    Parameters
    ----------
    cost, weight
        Of each job on each server; (S, J).
    capacity
        Of each server; (S,).
    """
    servers, formats = _sites(capacity)
    num = cost.shape[1]
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name=name,
            model=ModelSpec(layers=num, experts=1, top_k=1.0),
            formats=list(formats),
            cluster=ClusterSpec(
                servers=servers, links=_star([s.name for s in servers])
            ),
            workload=_one_demand("s0"),
            limits=LimitsSpec(copies=1),
            objective=ObjectiveSpec(quality=1.0),
        ),
        arrays={
            "calls": np.ones((1, num)),
            "size": weight.T.astype(np.float64),
            "loss": cost.T[None].astype(np.float64),
        },
    )


def bit_allocation(
    name: str,
    frequency: NDArray[np.float64],
    gate_weight: NDArray[np.float64],
    loss: NDArray[np.float64],
    bits: Sequence[int],
    budget: int,
) -> Instance:
    """Mixed precision in one layer (PMQ of MC-MoE): one place, many formats.

    A multiple-choice knapsack: minimise the sum of frequency x weight^1.5 x loss(bits)
    within a budget of bits, at least one expert in the widest format and one in the
    next.

    Parameters
    ----------
    frequency, gate_weight
        How often each expert is chosen, and with which summed weight; (E,).
    loss
        Output error by expert and width; (E, B).
    bits
        Widths, ascending.
    budget
        Bits that the experts may use in all: the memory, at one byte a bit.
    """
    share = frequency / frequency.sum()
    weight = gate_weight / gate_weight.sum()
    names = [f"{b}-bit" for b in bits]
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name=name,
            model=ModelSpec(
                layers=1, experts=len(share), top_k=2.0, parameters_per_expert=8.0
            ),
            formats=[
                FormatSpec(name=label, bits_per_weight=float(b))
                for label, b in zip(names, bits, strict=True)
            ],
            cluster=ClusterSpec(
                servers=[
                    ServerSpec(
                        name="device", tiers={"gpu": TierSpec(capacity=float(budget))}
                    )
                ]
            ),
            workload=_one_demand("device"),
            limits=LimitsSpec(
                count=[
                    CountSpec(name=f"some {label}", formats=[label], min=1)
                    for label in names[-2:]
                ]
            ),
            objective=ObjectiveSpec(quality=1.0),
        ),
        arrays={
            "calls": 2.0 * share[None],
            "loss": (weight**1.5)[None, :, None] * loss[None] / 2.0,
        },
    )


def quadratic_assignment(
    name: str,
    flow: NDArray[np.float64],
    distance: NDArray[np.float64],
    cost: NDArray[np.float64],
    weight: NDArray[np.float64],
    capacity: NDArray[np.float64],
) -> Instance:
    """Generalised quadratic assignment: one layer of experts whose tokens roam.

    Facilities are experts, all called by every token; flow is the weight of pairs and
    installation a quality loss. CTAP and QAP are special cases.

    Parameters
    ----------
    flow
        Between ordered pairs of facilities; (N, N).
    distance
        Between sites; (S, S).
    cost
        Of a facility at a site; (N, S).
    weight, capacity
        Of the facilities, (N,), and of the sites, (S,).
    """
    servers, formats = _sites(capacity)
    num = len(flow)
    pairs = np.argwhere(flow > 0)
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name=name,
            dataflow="roam",
            model=ModelSpec(layers=1, experts=num, top_k=float(num)),
            formats=list(formats),
            cluster=ClusterSpec(
                servers=servers,
                links=_star([s.name for s in servers]),
                distance=distance.astype(float).tolist(),
            ),
            workload=_one_demand("s0"),
            limits=LimitsSpec(copies=1),
            objective=ObjectiveSpec(quality=1.0, pair=1.0),
        ),
        arrays={
            "calls": np.ones((1, num)),
            "size": np.repeat(weight[:, None], len(servers), axis=1).astype(np.float64),
            "loss": cost[None].astype(np.float64),
            "pairs": pairs,
            "pair_weight": flow[tuple(pairs.T)][None].astype(np.float64),
        },
    )


def task_allocation(
    name: str,
    execution: NDArray[np.float64],
    communication: NDArray[np.float64],
    memory: NDArray[np.float64],
    capacity: NDArray[np.float64],
) -> Instance:
    """Constrained task allocation (CTAP): pairs pay when they are on two processors.

    Parameters
    ----------
    execution
        Cost of a task on a processor; (N, M).
    communication
        Cost of each pair i < j that is apart; (N, N), upper triangle.
    memory, capacity
        Of the tasks, (N,), and of the processors, (M,).
    """
    apart = 1.0 - np.eye(len(capacity))
    return quadratic_assignment(
        name, np.triu(communication, 1), apart, execution, memory, capacity
    )


def nearest_experts(
    name: str, counts: NDArray[np.int64], slots: NDArray[np.int64]
) -> Instance:
    """Prism's proxy: as few remote calls as possible, equal experts, a full mesh.

    Parameters
    ----------
    counts
        Calls of each expert by the requests of each server; (S, L, E). Every server
        and layer must have the same total.
    slots
        Experts that each server holds; (S,).
    """
    num_s, num_l, num_e = counts.shape
    names = [f"s{s}" for s in range(num_s)]
    total = int(counts[0, 0].sum())
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name=name,
            model=ModelSpec(
                layers=num_l,
                experts=num_e,
                top_k=1.0,
                parameters_per_expert=8.0,
                bytes_out=1.0,
                bytes_back=0.0,
                domains=names,
            ),
            formats=[FormatSpec(name="one", bits_per_weight=1.0)],
            cluster=ClusterSpec(
                servers=[
                    ServerSpec(
                        name=server, tiers={"gpu": TierSpec(capacity=float(room))}
                    )
                    for server, room in zip(names, slots, strict=True)
                ],
                links=[
                    LinkSpec(between=(names[s], names[t]), bandwidth=1e12, latency=1e-3)
                    for s in range(num_s)
                    for t in range(s)
                ],
            ),
            workload=WorkloadSpec(
                applications=[ApplicationSpec(name=n, domain=n) for n in names],
                demands=[DemandSpec(application=n, home=n, rate=1.0) for n in names],
            ),
            objective=ObjectiveSpec(traffic=float(num_s * total)),
        ),
        arrays={"calls": counts / total},
    )


def hop_placement(
    name: str,
    graph: nx.Graph,
    hosts: Sequence[int],
    load: NDArray[np.int64],
    slots: int,
    slots_per_layer: int,
) -> Instance:
    """The topology ILP: one copy of each expert, load x hops there and back.

    Parameters
    ----------
    graph
        Servers 0, 1, … and the links between them.
    hosts
        Server from which the calls of each layer leave, and where the last returns;
        (L + 1,).
    load
        Calls of each expert; (L, E), the same total in every layer.
    slots, slots_per_layer
        Experts of a server in all and of one layer.
    """
    num_l, num_e = load.shape
    names = [f"s{s}" for s in range(len(graph))]
    total = int(load[0].sum())
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name=name,
            model=ModelSpec(
                layers=num_l,
                experts=num_e,
                top_k=1.0,
                parameters_per_expert=8.0,
                bytes_out=1.0,
                bytes_back=1.0,
            ),
            formats=[FormatSpec(name="one", bits_per_weight=1.0)],
            cluster=ClusterSpec(
                servers=[
                    ServerSpec(name=n, tiers={"gpu": TierSpec(capacity=float(slots))})
                    for n in names
                ],
                links=[
                    LinkSpec(between=(names[s], names[t]), bandwidth=1e12, latency=1e-3)
                    for s, t in sorted(graph.edges)
                ],
            ),
            workload=WorkloadSpec(
                applications=[ApplicationSpec(name="all")],
                demands=[DemandSpec(application="all", home=names[hosts[0]], rate=1.0)],
                hosts=[names[host] for host in hosts],
            ),
            limits=LimitsSpec(
                copies=1,
                count=[
                    CountSpec(
                        name="slots", layers="each", servers="each", max=slots_per_layer
                    )
                ],
            ),
            objective=ObjectiveSpec(traffic=float(total)),
        ),
        arrays={"calls": (load / total).reshape(1, -1)},
    )

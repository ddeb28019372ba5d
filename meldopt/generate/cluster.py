"""Clusters: servers, and the links between them, in several shapes.

Every shape draws device, memory and speed of a server from what it is given, then
lays links. Latency follows distance where there are places, else it is drawn.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from meldopt import catalogue
from meldopt.errors import CatalogueError, InstanceError, SolverUnavailableError
from meldopt.instance import ClusterSpec, LinkSpec, ServerSpec, TierSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_DIGITS = 4  # significant digits of what is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A generated cluster.

    Attributes
    ----------
    spec
        Servers and links as the instance file holds them.
    levels
        Level of each server: ``"server"``, or ``"device"``, ``"edge"``, ``"cloud"``.
    """

    spec: ClusterSpec
    levels: tuple[str, ...]


def spelled(value: float, unit: str) -> str:
    """Write a quantity in the multiple of its unit that people would choose."""
    scales: tuple[tuple[str, float], ...]
    if unit == "bytes/s":
        value, scales = value * 8, (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3))
    elif unit == "B/s":
        scales = (("GB/s", 1e9), ("MB/s", 1e6))
    elif unit == "bytes":
        scales = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
    elif unit == "FLOP/s":
        scales = (("TFLOP/s", 1e12), ("GFLOP/s", 1e9))
    elif unit == "s":
        scales = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
    else:
        scales = ((unit, 1.0),)
    name, scale = next((s for s in scales if value >= s[1]), scales[-1])
    return f"{value / scale:.{_DIGITS}g} {name}"


def _log_uniform(
    rng: np.random.Generator, ends: tuple[float, float], count: int
) -> NDArray[np.float64]:
    draw = rng.random(count)
    if ends[0] <= 0:
        flat: NDArray[np.float64] = ends[0] + (ends[1] - ends[0]) * draw
        return flat
    low, high = math.log(ends[0]), math.log(ends[1])
    spread: NDArray[np.float64] = np.exp(low + (high - low) * draw)
    return spread


def draw_servers(
    rng: np.random.Generator,
    names: Sequence[str],
    *,
    devices: Sequence[str],
    memory: tuple[float, float] | None,
    speed: tuple[float, float],
    ram: float | None,
    ram_servers: int,
) -> list[ServerSpec]:
    """Draw devices: every one of the list is used before one is used again."""
    picks: list[str] = []
    while len(picks) < len(names):
        picks += [devices[n] for n in rng.permutation(len(devices))]
    sizes = None if memory is None else _log_uniform(rng, memory, len(names))
    factors = _log_uniform(rng, speed, len(names))
    servers = []
    for s, name in enumerate(names):
        try:
            facts = catalogue.device(picks[s])
        except CatalogueError as exc:
            raise InstanceError(f"parameters.devices: {exc}") from exc
        gpu: dict[str, Any] = {}
        if sizes is not None:
            gpu["capacity"] = spelled(float(sizes[s]), "bytes")
        if speed != (1.0, 1.0):
            gpu["read"] = spelled(facts.read_bytes_per_s * factors[s], "B/s")
            gpu["compute"] = {
                precision: spelled(rate * factors[s], "FLOP/s")
                for precision, rate in facts.flops.items()
            }
        tiers = {"gpu": TierSpec(**gpu)} if gpu else None
        if ram is not None and s < ram_servers:
            tiers = (tiers or {"gpu": TierSpec()}) | {
                "ram": TierSpec(capacity=spelled(ram, "bytes"))
            }
        servers.append(ServerSpec(name=name, device=facts.name, tiers=tiers))
    return servers


def _links(
    rng: np.random.Generator,
    names: Sequence[str],
    edges: Sequence[tuple[int, int]],
    bandwidth: tuple[float, float],
    latency: NDArray[np.float64],
) -> list[LinkSpec]:
    rates = _log_uniform(rng, bandwidth, len(edges))
    return [
        LinkSpec(
            between=(names[a], names[b]),
            bandwidth=spelled(float(rates[k]), "bytes/s"),
            latency=spelled(float(latency[k]), "s"),
        )
        for k, (a, b) in enumerate(edges)
    ]


def _names(count: int, prefix: str = "s") -> list[str]:
    width = max(2, len(str(count)))
    return [f"{prefix}{n + 1:0{width}d}" for n in range(count)]


def star(rng: np.random.Generator, given: dict[str, Any], **kind: Any) -> Cluster:
    """Lay a star: the first server is linked to every other."""
    names = _names(given["servers"])
    servers = draw_servers(rng, names, **kind)
    edges = [(0, s) for s in range(1, len(names))]
    latency = _log_uniform(rng, given["latency"], len(edges))
    links = _links(rng, names, edges, given["bandwidth"], latency)
    return Cluster(
        spec=ClusterSpec(servers=servers, links=links), levels=("server",) * len(names)
    )


def metro(rng: np.random.Generator, given: dict[str, Any], **kind: Any) -> Cluster:
    """Lay a metropolitan network: neighbours are linked, and all are connected."""
    if given["sites"] is None:
        names = _names(given["servers"])
        radius = given["radius_km"] * np.sqrt(rng.random(len(names)))
        angle = 2 * math.pi * rng.random(len(names))
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    else:
        points = np.array(given["sites"], dtype=np.float64)
        names = _names(len(points))
    servers = draw_servers(rng, names, **kind)
    edges, length = _neighbours(points, given["neighbours"])
    low, high = given["latency"]
    longest = max(float(length.max(initial=0.0)), 1e-12)
    latency = low + (high - low) * length / longest
    links = _links(rng, names, edges, given["bandwidth"], latency)
    return Cluster(
        spec=ClusterSpec(servers=servers, links=links), levels=("server",) * len(names)
    )


def _neighbours(
    points: NDArray[np.float64], count: int
) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """Link a spanning tree and the nearest neighbours of each point."""
    far = np.hypot(*(points[:, None, :] - points[None, :, :]).transpose(2, 0, 1))
    graph = nx.Graph()
    graph.add_nodes_from(range(len(points)))
    for a in range(len(points)):
        for b in range(a + 1, len(points)):
            graph.add_edge(a, b, weight=float(f"{far[a, b]:.9g}"))
    chosen = {(min(e), max(e)) for e in nx.minimum_spanning_edges(graph, data=False)}
    for a in range(len(points)):
        near = [b for b in np.argsort(far[a], kind="stable").tolist() if b != a]
        chosen |= {(min(a, b), max(a, b)) for b in near[:count]}
    edges = sorted(chosen)
    return edges, np.array([far[a, b] for a, b in edges], dtype=np.float64)


def device_edge_cloud(
    rng: np.random.Generator, given: dict[str, Any], **kind: Any
) -> Cluster:
    """Lay a tree: devices hang on edge servers, edge servers on one cloud."""
    del kind["devices"]
    edge_names = _names(given["edges"], "edge")
    device_names = [
        f"{edge}-{name}"
        for edge in edge_names
        for name in _names(given["devices_per_edge"], "dev")
    ]
    names = ["cloud", *edge_names, *device_names]
    servers: list[ServerSpec] = []
    for level, members in (
        ("cloud", ["cloud"]),
        ("edge", edge_names),
        ("device", device_names),
    ):
        own = dict(kind)
        if level != "edge":
            own["ram"] = None
        servers += draw_servers(rng, members, devices=given[f"{level}_devices"], **own)
    up = [(0, 1 + e) for e in range(len(edge_names))]
    per = given["devices_per_edge"]
    down = [(1 + n // per, 1 + len(edge_names) + n) for n in range(len(device_names))]
    links = []
    for edges, which in ((up, "cloud"), (down, "device")):
        latency = _log_uniform(rng, given[f"{which}_latency"], len(edges))
        links += _links(rng, names, edges, given[f"{which}_bandwidth"], latency)
    levels = ("cloud",) + ("edge",) * len(edge_names) + ("device",) * len(device_names)
    return Cluster(spec=ClusterSpec(servers=servers, links=links), levels=levels)


def topology(rng: np.random.Generator, given: dict[str, Any], **kind: Any) -> Cluster:
    """Lay a real network, by its name in the collection of topohub."""
    graph = _real_network(given["network"])
    nodes = list(graph.nodes)
    if given["servers"] is not None:
        if given["servers"] > len(nodes):
            raise InstanceError(
                f"parameters.servers: got {given['servers']}, expected at most "
                f"{len(nodes)}, the nodes of {given['network']!r}"
            )
        graph, nodes = _core(graph, given["servers"])
    names = []
    for n, node in enumerate(nodes):
        label = str(graph.nodes[node].get("name") or f"n{n + 1}")
        label = "-".join(label.split()).lower() or f"n{n + 1}"
        names.append(label if label not in names else f"{label}-{n + 1}")
    servers = draw_servers(rng, names, **kind)
    at = {node: n for n, node in enumerate(nodes)}
    edges = sorted({(min(at[a], at[b]), max(at[a], at[b])) for a, b in graph.edges})
    edges = [edge for edge in edges if edge[0] != edge[1]]
    # Light in fibre takes 5 us per km; 0.1 ms for the equipment at both ends.
    length = [float(graph.edges[nodes[a], nodes[b]].get("dist", 0)) for a, b in edges]
    latency = 1e-4 + 5e-6 * np.array(length, dtype=np.float64)
    links = _links(rng, names, edges, given["bandwidth"], latency)
    return Cluster(
        spec=ClusterSpec(servers=servers, links=links), levels=("server",) * len(names)
    )


def _real_network(name: str) -> nx.Graph:
    try:
        import topohub
    except ImportError as exc:
        raise SolverUnavailableError(
            "the family 'topology' needs topohub, which is not installed: "
            "pip install 'meldopt[topology]'"
        ) from exc
    try:
        with warnings.catch_warnings():
            # topohub 1.5 leaves the file of a network to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            data = topohub.get(name)
    except KeyError as exc:
        raise InstanceError(
            f"parameters.network: got {name!r}, expected a network of topohub such as "
            "'sndlib/polska' or 'topozoo/Abilene'"
        ) from exc
    graph = nx.Graph(nx.node_link_graph(data, edges="edges"))
    if not nx.is_connected(graph):
        raise InstanceError(
            f"parameters.network: got {name!r}, which is not connected, expected a "
            "connected network"
        )
    return graph


def _core(graph: nx.Graph, count: int) -> tuple[nx.Graph, list[Any]]:
    """Keep a connected part: breadth first from the node with the most links."""
    start = max(graph.nodes, key=lambda node: (graph.degree[node], str(node)))
    order = [start, *(v for _, v in nx.bfs_edges(graph, start))]
    kept = set(order[:count])
    nodes = [node for node in graph.nodes if node in kept]
    return graph.subgraph(nodes), nodes

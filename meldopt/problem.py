"""Instance -> Problem: the arrays that every solver reads.

Nothing here is of size demands x experts x places x formats: the coefficients of a
share factorise into a network part per (demand, layer, server), a work part per
(expert, place, format) and a loss per (application, expert, format), and are put
together where they are used. Symbols are those of the design (``docs/problem.md``):

======== ==========================================================================
axis     meaning
======== ==========================================================================
L        MoE layers
N        routed experts of all layers, in order of (layer, expert)
S, V, P  servers, places (server, tier), processors
B        formats
G, Q     applications, demands (application, home)
K        directed links
M        segments of a loss curve
======== ==========================================================================
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .tolerance import FEASIBILITY, FLOOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

TERMS = (
    "serial",
    "parallel",
    "fluid",
    "bottleneck",
    "traffic",
    "energy",
    "quality",
    "pair",
)
"""Terms of the objective, in the order of every report."""


def _freeze(instance: Any) -> None:
    """Make every array of a dataclass read-only and refuse wrong types of number."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if isinstance(value, np.ndarray):
            if value.dtype not in (np.float64, np.int64, np.bool_):
                raise TypeError(f"{field.name}: got {value.dtype}")
            copy = np.array(value)
            copy.flags.writeable = False
            object.__setattr__(instance, field.name, copy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Names of what the axes of a problem count, for files and people."""

    servers: tuple[str, ...]
    places: tuple[tuple[str, str], ...]  # (server, tier)
    processors: tuple[str, ...]
    formats: tuple[str, ...]
    applications: tuple[str, ...]
    demands: tuple[tuple[str, str], ...]  # (application, home)
    links: tuple[tuple[str, str], ...]  # (from, to)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountRow:
    """Bounds on the number of copies in a product set."""

    name: str
    experts: NDArray[np.int64]
    places: NDArray[np.int64]
    formats: NDArray[np.int64]
    lower: int | None
    upper: int | None

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UniformGroup:
    """Experts whose copies share one format."""

    name: str
    experts: NDArray[np.int64]

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCap:
    """A cap in tokens/s on a sum of transfer budgets; None stands for all.

    ``link`` is the index of a directed link: the sum then runs over the pairs whose
    way out crosses it. Otherwise the sum is over the pair (``from_server``,
    ``to_server``).
    """

    layer: int | None
    from_server: int | None
    to_server: int | None
    link: int | None
    max_tokens_per_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The checked, indexed side of an instance. Build it with `build_problem`.

    Every array is read-only float64, int64 or bool.
    """

    name: str
    instance_digest: str
    labels: Labels
    dataflow: Literal["home", "roam"]

    # -- model -------------------------------------------------------------------
    layer_start: NDArray[np.int64]  # (L+1,) first expert of each layer
    layer_ids: NDArray[np.int64]  # (L,) number of the layer in the model
    layer_of: NDArray[np.int64]  # (N,)
    flop: NDArray[np.float64]  # (N,) work of one call in FLOP, 2 x parameters
    size_bytes: NDArray[np.float64]  # (N, B)
    bits_per_weight: NDArray[np.float64]  # (B,)
    bytes_out: float  # of one call on its way there
    bytes_back: float  # and back
    fuse_factor: float  # phi: bytes of a fused call / bytes of a call

    # -- cluster -----------------------------------------------------------------
    server_of: NDArray[np.int64]  # (V,) places are sorted by server
    processor_of: NDArray[np.int64]  # (V,)
    processor_server: NDArray[np.int64]  # (P,)
    capacity_bytes: NDArray[np.float64]  # (V,)
    reserve_bytes: NDArray[np.float64]  # (V,)
    s_per_byte: NDArray[np.float64]  # (V,) 1 / (read x reuse)
    s_per_flop: NDArray[np.float64]  # (V, B) 1 / compute; inf: cannot run
    power_w: NDArray[np.float64]  # (V,) active power of the place
    link_from: NDArray[np.int64]  # (K,)
    link_to: NDArray[np.int64]  # (K,)
    link_bandwidth: NDArray[np.float64]  # (K,) bytes/s
    link_joule_per_byte: NDArray[np.float64]  # (K,)
    route_links: tuple[tuple[NDArray[np.int64], ...], ...]  # [S][S] links crossed
    route_latency: NDArray[np.float64]  # (S, S) s; inf: no route
    route_s_per_byte: NDArray[np.float64]  # (S, S) 1 / slowest bandwidth; 0 inside
    distance: NDArray[np.float64]  # (S, S) cost of a pair, roam; s unless given

    # -- workload ----------------------------------------------------------------
    rate: NDArray[np.float64]  # (Q,) tokens/s
    application_of: NDArray[np.int64]  # (Q,)
    home_of: NDArray[np.int64]  # (Q,)
    source: NDArray[np.int64]  # (Q, L) server that calls of a layer leave from
    sink: NDArray[np.int64]  # (Q, L) and return to
    calls: NDArray[np.float64]  # (G, N) expected calls per token
    format_loss: NDArray[np.float64]  # (G, N, B) nats per call
    prune_width: NDArray[np.float64]  # (G, L, M)
    prune_loss: NDArray[np.float64]  # (G, L, M) nats per call
    fuse_width: NDArray[np.float64]  # (G, L, M)
    fuse_loss: NDArray[np.float64]  # (G, L, M) nats per call
    similar: NDArray[np.int64]  # (J, 2) expert i is answered by expert j
    similar_loss: NDArray[np.float64]  # (G, J) nats per call
    pairs: NDArray[np.int64]  # (R, 2) ordered pairs of experts, roam
    pair_weight: NDArray[np.float64]  # (G, R) traversals per token
    entry: NDArray[np.float64]  # (G, N) traversals home -> expert per token
    exit: NDArray[np.float64]  # (G, N) traversals expert -> home per token
    sample_experts: NDArray[np.int64]  # (T, L, k) expert of all N; -1: none
    sample_demand: NDArray[np.int64]  # (T,) demand of each sampled token

    # -- rows --------------------------------------------------------------------
    busy: float  # rho of processors
    link_busy: float  # rho of links
    quality_budget: NDArray[np.float64]  # (G,) nats per token; inf: none
    latency_target: NDArray[np.float64]  # (G,) s; inf: none
    trusted: NDArray[np.bool_]  # (G, S)
    failure_sets: tuple[NDArray[np.int64], ...]  # servers that fail together
    count_rows: tuple[CountRow, ...]
    uniform_groups: tuple[UniformGroup, ...]
    budget_caps: tuple[BudgetCap, ...]
    max_copies: int | None
    allow_missing: bool
    allowed: NDArray[np.bool_]  # (V, B) what a place can run at all
    forbidden: NDArray[np.int64]  # (F, 3) copies (expert, place, format) set to 0
    pinned: NDArray[np.int64]  # (F, 3) copies set to 1

    weights: NDArray[np.float64]  # (len(TERMS),) of the objective

    def __post_init__(self) -> None:
        _freeze(self)

    # -- sizes -------------------------------------------------------------------
    @property
    def num_layers(self) -> int:
        """Number of MoE layers."""
        return len(self.layer_start) - 1

    @property
    def num_experts(self) -> int:
        """Number of routed experts of all layers."""
        return len(self.layer_of)

    @property
    def num_servers(self) -> int:
        """Number of servers."""
        return len(self.labels.servers)

    @property
    def num_places(self) -> int:
        """Number of places."""
        return len(self.server_of)

    @property
    def num_formats(self) -> int:
        """Number of formats."""
        return int(self.size_bytes.shape[1])

    @property
    def num_applications(self) -> int:
        """Number of applications."""
        return len(self.calls)

    @property
    def num_demands(self) -> int:
        """Number of demands."""
        return len(self.rate)

    def weight_of(self, term: str) -> float:
        """Weight of a term in the objective."""
        return float(self.weights[TERMS.index(term)])

    def replace(self, **changes: Any) -> Problem:
        """Return a copy with some fields changed; checks nothing."""
        return dataclasses.replace(self, **changes)

    # -- derived -----------------------------------------------------------------
    @cached_property
    def total_rate(self) -> float:
        """Tokens per second of all demands; 1 when there is no traffic at all."""
        total = float(self.rate.sum())
        return total if total > 0 else 1.0

    @cached_property
    def application_rate(self) -> NDArray[np.float64]:
        """Tokens per second of each application; (G,)."""
        rates: NDArray[np.float64] = np.bincount(
            self.application_of, weights=self.rate, minlength=self.num_applications
        ).astype(np.float64)
        return rates

    @cached_property
    def demand_weight(self) -> NDArray[np.float64]:
        """Share of each demand in all tokens, rate / total rate; (Q,)."""
        share: NDArray[np.float64] = self.rate / self.total_rate
        return share

    @cached_property
    def application_weight(self) -> NDArray[np.float64]:
        """Share of each demand in the tokens of its application; (Q,)."""
        of = self.application_rate[self.application_of]
        share: NDArray[np.float64] = np.divide(
            self.rate, of, out=np.zeros_like(self.rate), where=of > 0
        )
        return share

    @cached_property
    def round_trip_s(self) -> NDArray[np.float64]:
        """Latency there and back per (demand, layer, server); inf: no route."""
        trip: NDArray[np.float64] = (
            self.route_latency[self.source] + self.route_latency.T[self.sink]
        )
        return trip

    @cached_property
    def transfer_s(self) -> NDArray[np.float64]:
        """Time of the bytes of one call both ways per (demand, layer, server)."""
        time: NDArray[np.float64] = (
            self.bytes_out * self.route_s_per_byte[self.source]
            + self.bytes_back * self.route_s_per_byte.T[self.sink]
        )
        return time

    @cached_property
    def reachable(self) -> NDArray[np.bool_]:
        """Which servers may serve a demand in a layer: routed and trusted; (Q,L,S)."""
        trusted = self.trusted[self.application_of][:, None, :]
        reach: NDArray[np.bool_] = np.isfinite(self.round_trip_s) & trusted
        return reach

    @cached_property
    def remote(self) -> NDArray[np.bool_]:
        """Whether a server is not at the home of a demand in a layer; (Q,L,S)."""
        servers = np.arange(self.num_servers)
        away: NDArray[np.bool_] = servers != self.source[:, :, None]
        return away

    @cached_property
    def crossed_bytes(self) -> NDArray[np.float64]:
        """Bytes of one call summed over the links crossed; (Q, L, S)."""
        hops = np.array(
            [[len(links) for links in row] for row in self.route_links], dtype=float
        )
        crossed: NDArray[np.float64] = (
            self.bytes_out * hops[self.source] + self.bytes_back * hops.T[self.sink]
        )
        return crossed

    @cached_property
    def crossed_joule(self) -> NDArray[np.float64]:
        """Energy of the links for one call; (Q, L, S)."""
        per_byte = self.route_joule_per_byte
        joule: NDArray[np.float64] = (
            self.bytes_out * per_byte[self.source]
            + self.bytes_back * per_byte.T[self.sink]
        )
        return joule

    @cached_property
    def route_joule_per_byte(self) -> NDArray[np.float64]:
        """Energy of one byte on a route; (S, S)."""
        return np.array(
            [
                [float(self.link_joule_per_byte[links].sum()) for links in row]
                for row in self.route_links
            ],
            dtype=np.float64,
        ).reshape(self.num_servers, self.num_servers)

    @cached_property
    def room_bytes(self) -> NDArray[np.float64]:
        """Capacity less reserve of each place; (V,)."""
        room: NDArray[np.float64] = self.capacity_bytes - self.reserve_bytes
        return room

    @cached_property
    def largest_bytes(self) -> NDArray[np.float64]:
        """Size of the largest copy that the judge lets a place hold; (V,)."""
        room = self.room_bytes
        largest: NDArray[np.float64] = room + np.maximum(
            FLOOR, FEASIBILITY * np.abs(room)
        )
        return largest

    @cached_property
    def needed(self) -> NDArray[np.bool_]:
        """Which experts some demand calls, or a roaming token passes; (N,)."""
        apps = np.unique(self.application_of)  # an application may have no demand
        passed = np.maximum(self.entry[apps], self.exit[apps])
        used: NDArray[np.bool_] = np.max(
            np.maximum(self.calls[apps], passed) > 0, axis=0
        )
        weighted = (self.pair_weight[apps] > 0).any(axis=0)
        used[self.pairs[weighted].ravel()] = True
        return used

    @cached_property
    def places_of(self) -> tuple[NDArray[np.int64], ...]:
        """Places of each server."""
        return tuple(
            np.flatnonzero(self.server_of == s).astype(np.int64)
            for s in range(self.num_servers)
        )

    @cached_property
    def group_of(self) -> NDArray[np.int64]:
        """Similarity group of each expert: its smallest member; (N,)."""
        group = np.arange(self.num_experts)
        for i, j in self.similar:
            low, high = sorted((group[i], group[j]))
            group[group == high] = low
        return group.astype(np.int64)

    def work_s(
        self,
        experts: NDArray[np.int64],
        places: NDArray[np.int64],
        formats: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Seconds of one call by given copies; three index arrays of one shape.

        ``work[i, v, b] = 2 parameters / compute[v, b] + size[i, b] / (read[v] reuse)``
        """
        work: NDArray[np.float64] = (
            self.flop[experts] * self.s_per_flop[places, formats]
            + self.size_bytes[experts, formats] * self.s_per_byte[places]
        )
        return work

    def copy_allowed(self, *, fits: bool = True) -> NDArray[np.bool_]:
        """Which copies may exist, (N, V, B).

        A copy may exist if the tier runs the format, it is not forbidden, and (with
        ``fits``) it is not larger than the place. Only exact models of small problems
        ask for this array; it is the one dense thing, a bool for each possible copy.
        """
        allowed = np.broadcast_to(
            self.allowed, (self.num_experts, *self.allowed.shape)
        ).copy()
        if fits:
            allowed &= self.size_bytes[:, None, :] <= self.largest_bytes[:, None]
        if len(self.forbidden):
            allowed[tuple(self.forbidden.T)] = False
        return allowed

"""The families of instances, and how their parts are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from meldopt import catalogue
from meldopt.builder import build_problem
from meldopt.errors import CatalogueError, InstanceError
from meldopt.files import FORMAT_VERSION
from meldopt.instance import (
    ApplicationSpec,
    ClusterSpec,
    DemandSpec,
    Instance,
    InstanceSpec,
    LimitsSpec,
    ModelSpec,
    ObjectiveSpec,
    TierSpec,
    WorkloadSpec,
)

from . import cluster as shapes
from .digits import rounded
from .family import Family, Parameter
from .losses import (
    FUSE_WIDTHS,
    PRUNE_WIDTHS,
    format_losses,
    fuse_curve,
    prune_curve,
)
from .paths import paths, sampled_tokens
from .plant import Tightness, plant
from .popularity import OTHERWISE, PUBLISHED, popularity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan

Spec = TypeVar("Spec", bound=msgspec.Struct)

_MODEL = {
    "model": Parameter(
        kind="text", default="mixtral-8x7b", help="name in the catalogue"
    ),
    "layers": Parameter(
        kind="int", default=None, low=1, help="keep only so many MoE layers"
    ),
    "formats": Parameter(
        kind="texts",
        default=["int8-g128", "int4-g64", "int3-g64", "int2-g64"],
        help="storage formats, names in the catalogue",
    ),
    "backbone_bits": Parameter(
        kind="number", default=16.0, low=0.0, help="bits per weight of the backbone"
    ),
    "dataflow": Parameter(kind="text", default="home", help="'home' or 'roam'"),
}

_ROUTING = {
    "domains": Parameter(
        kind="texts", default=None, help="kinds of text; none: one per application"
    ),
    "skew": Parameter(
        kind="range",
        default=None,
        low=1.0,
        help="busiest over mean calls, range over layers; none: as published",
    ),
    "drift": Parameter(
        kind="number",
        default=None,
        low=0.0,
        high=1.0,
        help="mean total variation between domains; none: as published",
    ),
    "dependence": Parameter(
        kind="number",
        default=None,
        low=0.0,
        high=1.0,
        help="normalised mutual information from layer to layer (roam, samples); "
        "none: as published",
    ),
    "loss_scale": Parameter(
        kind="number", default=1.0, low=0.0, help="factor on the losses of formats"
    ),
    "curve_scale": Parameter(
        kind="number",
        default=1.0,
        low=0.0,
        help="factor on the losses of pruning and fusion",
    ),
    "curve_spread": Parameter(
        kind="number",
        default=0.3,
        low=0.0,
        high=5.0,
        help="log-normal spread over layers of the losses of pruning and fusion",
    ),
    "curve_layers": Parameter(
        kind="int",
        default=None,
        low=0,
        help="how many layers, the least sensitive, may prune or fuse; none: all",
    ),
    "prune": Parameter(
        kind="numbers",
        default=list(PRUNE_WIDTHS),
        low=0.0,
        high=1.0,
        help="widths of the segments of pruning, shares of calls; []: no pruning",
    ),
    "fuse": Parameter(
        kind="numbers",
        default=list(FUSE_WIDTHS),
        low=0.0,
        high=1.0,
        help="widths of the segments of fusion, shares of tokens; []: no fusion",
    ),
    "similar": Parameter(
        kind="int",
        default=0,
        low=0,
        high=4,
        help="experts of a similarity group; 0: none",
    ),
    "similar_loss": Parameter(
        kind="quantity",
        default="20 mnats",
        unit="nats",
        low=0.0,
        help="loss per call of a similar expert's answer, for a model of one layer",
    ),
    "samples": Parameter(
        kind="int", default=0, low=0, help="sampled tokens for 'parallel' and 'fluid'"
    ),
}

_DEMAND = {
    "applications": Parameter(
        kind="int", default=2, low=1, help="number of applications"
    ),
    "homes": Parameter(
        kind="homes",
        default="all",
        help="where requests enter: 'all', a level, how many, or names of servers",
    ),
    "rate": Parameter(
        kind="range",
        default=None,
        unit="tokens/s",
        low=0.0,
        help="range of a demand's rate; none: from load",
    ),
    "load": Parameter(
        kind="number",
        default=0.25,
        low=0.0,
        help="share of what processors and links can do, if rate is none",
    ),
    "uneven": Parameter(
        kind="number",
        default=8.0,
        low=1.0,
        help="largest over smallest rate of a demand, if rate is none",
    ),
    "quality": Parameter(
        kind="range",
        default=["40 mnats", "80 mnats"],
        unit="nats",
        low=0.0,
        help="range of quality budgets",
    ),
}

_LIMITS = {
    "reuse": Parameter(
        kind="number", default=1.0, low=1.0, help="tokens that share one reading"
    ),
    "busy": Parameter(
        kind="number", default=0.8, low=0.0, help="busy share of processors and links"
    ),
    "coverage": Parameter(
        kind="flag", default=False, help="every expert survives any one server"
    ),
    "objective": Parameter(
        kind="table", default={"serial": 1.0}, help="weights of the terms"
    ),
    "tightness": Parameter(
        kind="number",
        default=None,
        low=0.0,
        high=1.0,
        help="set the caps around a planted plan with this slack; none: do not",
    ),
    "tight_links": Parameter(
        kind="int",
        default=2,
        low=0,
        help="links made tight, with tightness; fewer if traffic leaves narrow ones",
    ),
}

_DEVICES = {
    "devices": Parameter(
        kind="texts",
        default=["rtx-4090", "l4", "rtx-3090", "rtx-4070"],
        help="devices that are drawn from, names in the catalogue",
    ),
}

_SERVERS = {
    "memory": Parameter(
        kind="range",
        default=None,
        unit="bytes",
        low=1.0,
        help="range of memory of a server; none: the device's",
    ),
    "speed": Parameter(
        kind="range",
        default=[1.0, 1.0],
        low=1e-6,
        help="range of a factor on the device's read and compute rates",
    ),
    "ram": Parameter(
        kind="quantity",
        default=None,
        unit="bytes",
        low=1.0,
        help="size of a second tier; none: no second tier",
    ),
    "ram_servers": Parameter(
        kind="int", default=1, low=0, help="how many servers have a second tier"
    ),
    "fit": Parameter(
        kind="number",
        default=1.6,
        low=0.0,
        help="scale all memory so that the experts in the second smallest format "
        "fit so many times; 0: keep it as it is",
    ),
}

_LINKS = {
    "bandwidth": Parameter(
        kind="range",
        default=["200 Mbit/s", "1 Gbit/s"],
        unit="bytes/s",
        low=1.0,
        help="range of bandwidth of a link",
    ),
    "latency": Parameter(
        kind="range",
        default=["0.3 ms", "3 ms"],
        unit="s",
        low=0.0,
        help="range of one-way latency of a link",
    ),
}

_COMMON = {**_MODEL, **_ROUTING, **_DEMAND, **_LIMITS}

_Shape = Callable[..., shapes.Cluster]

_SHAPES: dict[str, tuple[str, dict[str, Parameter], _Shape]] = {
    "star": (
        "One server in the middle, linked to every other.",
        {
            "servers": Parameter(kind="int", default=4, low=1, help="how many"),
            **_DEVICES,
            **_SERVERS,
            **_LINKS,
        },
        shapes.star,
    ),
    "metro": (
        "Servers in a city: placed in a disc or on given sites, linked to their "
        "neighbours, latency by distance.",
        {
            "servers": Parameter(kind="int", default=6, low=1, help="how many"),
            "sites": Parameter(
                kind="points",
                default=None,
                help="positions [x, y] in km instead of random ones",
            ),
            "radius_km": Parameter(
                kind="number", default=10.0, low=0.001, help="radius of the disc"
            ),
            "neighbours": Parameter(
                kind="int",
                default=2,
                low=0,
                help="links to so many nearest servers, beside a spanning tree",
            ),
            **_DEVICES,
            **_SERVERS,
            **_LINKS,
        },
        shapes.metro,
    ),
    "device-edge-cloud": (
        "A tree: small devices hang on edge servers, edge servers on one cloud.",
        {
            "edges": Parameter(kind="int", default=2, low=1, help="edge servers"),
            "devices_per_edge": Parameter(
                kind="int", default=2, low=1, help="devices on each edge server"
            ),
            "cloud_devices": Parameter(
                kind="texts", default=["a100-sxm"], help="device of the cloud"
            ),
            "edge_devices": Parameter(
                kind="texts", default=["l4", "rtx-4090"], help="devices of the edge"
            ),
            "device_devices": Parameter(
                kind="texts",
                default=["jetson-orin-32", "rtx-3060"],
                help="devices of the devices",
            ),
            "cloud_bandwidth": Parameter(
                kind="range",
                default=["1 Gbit/s", "10 Gbit/s"],
                unit="bytes/s",
                low=1.0,
                help="range of bandwidth between edge and cloud",
            ),
            "cloud_latency": Parameter(
                kind="range",
                default=["5 ms", "20 ms"],
                unit="s",
                low=0.0,
                help="range of latency between edge and cloud",
            ),
            "device_bandwidth": Parameter(
                kind="range",
                default=["100 Mbit/s", "500 Mbit/s"],
                unit="bytes/s",
                low=1.0,
                help="range of bandwidth between device and edge",
            ),
            "device_latency": Parameter(
                kind="range",
                default=["1 ms", "5 ms"],
                unit="s",
                low=0.0,
                help="range of latency between device and edge",
            ),
            **_SERVERS,
        },
        shapes.device_edge_cloud,
    ),
    "topology": (
        "A real network by its name in topohub (extra 'topology'), latency by length.",
        {
            "network": Parameter(
                kind="text", default="sndlib/polska", help="name in topohub"
            ),
            "servers": Parameter(
                kind="int",
                default=None,
                low=1,
                help="keep so many nodes around the best connected; none: all",
            ),
            **_DEVICES,
            **_SERVERS,
            "bandwidth": _LINKS["bandwidth"],
        },
        shapes.topology,
    ),
}

_EXPLICIT = {
    "cluster": Parameter(
        kind="table", default=None, help="the cluster, as an instance file has it"
    ),
    "workload": Parameter(
        kind="table",
        default=None,
        help="applications and demands, as an instance file has them; none: drawn",
    ),
    "limits": Parameter(
        kind="table", default=None, help="limits, as an instance file has them"
    ),
}


def _families() -> dict[str, Family]:
    made = {
        name: Family(
            name=name,
            description=description,
            parameters=MappingProxyType({**own, **_COMMON}),
        )
        for name, (description, own, _) in _SHAPES.items()
    }
    made["explicit"] = Family(
        name="explicit",
        description="A cluster that is written out, a model and a drawn profile.",
        parameters=MappingProxyType({**_EXPLICIT, **_COMMON}),
    )
    return dict(sorted(made.items()))


_FAMILIES: Mapping[str, Family] = MappingProxyType(_families())


def families() -> Mapping[str, Family]:
    """Return the families that `generate` knows, by name, sorted."""
    return _FAMILIES


def generate(
    family: str,
    *,
    name: str,
    seed: int,
    parameters: Mapping[str, Any] | None = None,
    source: str = "",
) -> Instance:
    """Make an instance.

    Parameters
    ----------
    family
        One of `families`.
    name
        Name of the instance.
    seed
        A whole number; the same family, name, seed and parameters give the same
        instance, digest and all.
    parameters
        Parameters of the family; what is left out has its default.
    source
        Where it came from, for messages; the name unless given.

    Returns
    -------
    Instance
        Ready for `meldopt.build_problem`.

    Raises
    ------
    InstanceError
        For an unknown family or parameter, a value of a wrong kind, or one that
        cannot be met.
    SolverUnavailableError
        If the family ``topology`` is asked for without topohub.
    """
    instance, tightness = _draw(family, name, seed, parameters or {}, source)
    return instance if tightness is None else plant(instance, tightness)[0]


def generate_with_plan(
    family: str,
    *,
    name: str,
    seed: int,
    parameters: Mapping[str, Any] | None = None,
    source: str = "",
) -> tuple[Instance, Plan]:
    """Make a tight instance together with the plan that was planted in it.

    As `generate`; ``tightness`` must be among the parameters.
    """
    instance, tightness = _draw(family, name, seed, parameters or {}, source)
    if tightness is None:
        raise InstanceError(
            "parameters.tightness: missing, expected a slack; only a tight instance "
            "has a planted plan"
        )
    return plant(instance, tightness)


def _draw(
    family: str, name: str, seed: int, parameters: Mapping[str, Any], source: str
) -> tuple[Instance, Tightness | None]:
    if family not in _FAMILIES:
        raise InstanceError(
            f"family: got {family!r}, expected one of {', '.join(_FAMILIES)}"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InstanceError(f"seed: got {seed!r}, expected a whole number >= 0")
    where = f"{source or name}: "
    try:
        given = _FAMILIES[family].read(parameters)
        maker = _Maker(family, name, seed, given, source)
        instance = maker.make()
    except InstanceError as exc:
        text = str(exc)
        raise InstanceError(text if text.startswith(where) else where + text) from exc
    tightness = None
    if given["tightness"] is not None:
        tightness = Tightness(slack=given["tightness"], links=given["tight_links"])
    return instance, tightness


class _Maker:
    """Puts one instance together; every part draws from a stream of its own."""

    def __init__(
        self, family: str, name: str, seed: int, given: dict[str, Any], source: str
    ) -> None:
        self.family, self.name, self.given, self.source = family, name, given, source
        streams = np.random.default_rng(seed).spawn(7)
        (
            self.of_cluster,
            self.of_calls,
            self.of_losses,
            self.of_curves,
            self.of_paths,
            self.of_samples,
            self.of_demands,
        ) = streams
        try:
            self.facts = catalogue.model(given["model"])
            self.formats = [catalogue.format_named(f) for f in given["formats"]]
        except CatalogueError as exc:
            raise InstanceError(f"parameters: {exc}") from exc
        self.layers = self.facts.moe_layers
        if given["layers"] is not None:
            if given["layers"] > self.layers:
                raise InstanceError(
                    f"parameters.layers: got {given['layers']}, expected at most "
                    f"{self.layers}, the MoE layers of {self.facts.name}"
                )
            self.layers = given["layers"]
        if given["dataflow"] not in ("home", "roam"):
            raise InstanceError(
                f"parameters.dataflow: got {given['dataflow']!r}, expected 'home' or "
                "'roam'"
            )
        self.roam = given["dataflow"] == "roam"
        self.written = given.get("workload")
        count = given["applications"]
        if self.written is not None:
            count = len(self.written.get("applications", [])) or 1
        self.domains = given["domains"] or _names("domain", count)

    def make(self) -> Instance:
        given = self.given
        cluster = self.cluster()
        arrays = self.profile()
        homes = self.homes(cluster)
        spec = InstanceSpec(
            format_version=FORMAT_VERSION,
            name=self.name,
            about={"family": self.family},
            dataflow=given["dataflow"],
            model=self.model(),
            formats=list(given["formats"]),
            cluster=self.fitted(cluster.spec, homes),
            workload=self.workload(homes),
            limits=self.limits(),
            objective=_convert(given["objective"], ObjectiveSpec, "objective"),
        )
        instance = Instance(spec=spec, arrays=arrays, source=self.source or self.name)
        if given["rate"] is None and self.written is None:
            instance = self.loaded(instance)
        return instance

    # -- model and profile -----------------------------------------------------------
    def model(self) -> ModelSpec:
        changes: dict[str, Any] = {}
        if self.layers != self.facts.moe_layers:
            changes["layers"] = self.layers
            changes["layer_ids"] = list(self.facts.layer_ids[: self.layers])
        if self.given["backbone_bits"] != 16.0:
            size = self.facts.backbone_parameters * self.given["backbone_bits"] / 8
            changes["backbone"] = shapes.spelled(size, "bytes")
        if len(self.domains) > 1 or self.written is not None:
            changes["domains"] = list(self.domains)
        return ModelSpec(catalogue=self.facts.name, **changes)

    def profile(self) -> dict[str, NDArray[Any]]:
        given, facts = self.given, self.facts
        known = PUBLISHED.get(facts.name, OTHERWISE)
        skew = given["skew"]
        if skew is None:
            most = facts.experts / facts.top_k
            skew = tuple(min(end, 0.9 * most + 0.1) for end in known.skew)
        calls = popularity(
            self.of_calls,
            domains=len(self.domains),
            layers=self.layers,
            experts=facts.experts,
            top_k=facts.top_k,
            skew=skew,
            drift=known.drift if given["drift"] is None else given["drift"],
        )
        dependence = (
            known.dependence if given["dependence"] is None else given["dependence"]
        )
        arrays: dict[str, NDArray[Any]] = {
            "calls": calls.reshape(len(self.domains), -1),
            "loss": format_losses(
                self.of_losses,
                calls,
                [fact.bits_per_weight for fact in self.formats],
                scale=given["loss_scale"],
            ),
        }
        curves = self.of_curves.spawn(3)
        if not self.roam:
            for kind, draw, rng in (
                ("prune", prune_curve, curves[0]),
                ("fuse", fuse_curve, curves[1]),
            ):
                if given[kind]:
                    curve = draw(
                        rng,
                        layers=self.layers,
                        top_k=facts.top_k,
                        scale=given["curve_scale"],
                        spread=given["curve_spread"],
                        widths=given[kind],
                        kept=given["curve_layers"],
                    )
                    arrays[f"{kind}_width"] = curve.width
                    arrays[f"{kind}_loss"] = curve.loss
            if given["similar"] > 1:
                arrays |= self.similar(curves[2])
        else:
            found = paths(self.of_paths, calls, facts.top_k, dependence=dependence)
            arrays |= {
                "pairs": found.pairs,
                "pair_weight": found.weight,
                "entry": found.entry,
                "exit": found.exit,
            }
        if given["samples"]:
            chosen, domain = sampled_tokens(
                self.of_samples,
                calls,
                facts.top_k,
                count=given["samples"],
                dependence=dependence,
            )
            arrays |= {"sample_experts": chosen, "sample_domain": domain}
        return arrays

    def similar(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Group experts at random; any of a group may answer for another."""
        size, experts = self.given["similar"], self.facts.experts
        pairs = []
        for layer in range(self.layers):
            order = rng.permutation(experts) + layer * experts
            for first in range(0, experts - experts % size, size):
                group = sorted(order[first : first + size].tolist())
                pairs += [(i, j) for i in group for j in group if i != j]
        spread = np.exp(0.5 * rng.standard_normal((1, len(pairs))))
        loss = self.given["similar_loss"] / self.layers * spread
        return {
            "similar": np.array(pairs, dtype=np.int64).reshape(-1, 2),
            "similar_loss": rounded(loss),
        }

    # -- cluster ---------------------------------------------------------------------
    def cluster(self) -> shapes.Cluster:
        given = self.given
        if self.family == "explicit":
            if given["cluster"] is None:
                raise InstanceError(
                    "parameters.cluster: missing, expected servers and links"
                )
            spec = _convert(given["cluster"], ClusterSpec, "cluster")
            return shapes.Cluster(spec=spec, levels=("server",) * len(spec.servers))
        return _SHAPES[self.family][2](
            self.of_cluster,
            given,
            devices=given.get("devices"),
            memory=given["memory"],
            speed=given["speed"],
            ram=given["ram"],
            ram_servers=given["ram_servers"],
        )

    def homes(self, cluster: shapes.Cluster) -> list[str]:
        names = [server.name for server in cluster.spec.servers]
        wanted = self.given["homes"]
        if self.family == "device-edge-cloud" and wanted == "all":
            wanted = "device"
        if isinstance(wanted, int):
            if wanted > len(names):
                raise InstanceError(
                    f"parameters.homes: got {wanted}, expected at most {len(names)}"
                )
            picked = self.of_demands.permutation(len(names))[:wanted]
            return [names[n] for n in sorted(picked.tolist())]
        if isinstance(wanted, list):
            for name in wanted:
                if name not in names:
                    raise InstanceError(
                        f"parameters.homes: got {name!r}, expected servers: "
                        f"{', '.join(names[:8])}"
                    )
            return list(dict.fromkeys(wanted))
        if wanted == "all":
            return names
        if wanted not in cluster.levels:
            levels = ", ".join(repr(x) for x in dict.fromkeys(cluster.levels))
            raise InstanceError(
                f"parameters.homes: got {wanted!r}, expected 'all' or {levels}"
            )
        return [
            name
            for name, level in zip(names, cluster.levels, strict=True)
            if level == wanted
        ]

    def fitted(self, cluster: ClusterSpec, homes: list[str]) -> ClusterSpec:
        """Scale the memory of the first tiers so that the experts fit ``fit`` times."""
        fit = self.given.get("fit", 0.0)
        if not fit:
            return cluster
        bits = sorted(fact.bits_per_weight for fact in self.formats)
        experts = self.layers * self.facts.experts
        each = self.facts.parameters_per_expert * bits[min(1, len(bits) - 1)] / 8
        backbone = self.facts.backbone_parameters * self.given["backbone_bits"] / 8
        weight = [_capacity(server) for server in cluster.servers]
        servers = []
        for server, part in zip(cluster.servers, weight, strict=True):
            room = fit * each * experts * part / sum(weight)
            if server.name in homes:
                room += backbone
            tiers = dict(server.tiers or {"gpu": TierSpec()})
            tiers["gpu"] = msgspec.structs.replace(
                tiers["gpu"], capacity=shapes.spelled(room, "bytes")
            )
            servers.append(msgspec.structs.replace(server, tiers=tiers))
        return msgspec.structs.replace(cluster, servers=servers)

    # -- workload and limits -----------------------------------------------------------
    def workload(self, homes: list[str]) -> WorkloadSpec:
        given = self.given
        if self.written is not None:
            return _convert(self.written, WorkloadSpec, "workload")
        count = given["applications"]
        names = _names("app", count)
        draw = self.of_demands.random(count)
        low, high = given["quality"]
        budgets = np.exp(
            np.log(max(low, 1e-12)) + draw * np.log(high / max(low, 1e-12))
        )
        applications = [
            ApplicationSpec(
                name=names[g],
                domain=self.domains[g % len(self.domains)]
                if len(self.domains) > 1
                else None,
                quality_budget=f"{budgets[g] * 1e3:.4g} mnats",
            )
            for g in range(count)
        ]
        low, high = given["rate"] or (1.0, given["uneven"])
        demands = []
        for home in homes:
            rates = low * (max(high, 1e-12) / max(low, 1e-12)) ** (
                self.of_demands.random(count)
            )
            demands += [
                DemandSpec(
                    application=names[g], home=home, rate=f"{rates[g]:.4g} tokens/s"
                )
                for g in range(count)
            ]
        return WorkloadSpec(applications=applications, demands=demands)

    def limits(self) -> LimitsSpec:
        given = self.given
        if given.get("limits") is not None:
            return _convert(given["limits"], LimitsSpec, "limits")
        return LimitsSpec(
            busy=given["busy"],
            reuse=given["reuse"],
            coverage="any-server" if given["coverage"] else None,
        )

    def loaded(self, instance: Instance) -> Instance:
        """Scale rates to a share of what processors and links could do."""
        problem = build_problem(instance)
        bits = problem.num_formats // 2
        call_bytes = float(problem.size_bytes[:, bits].mean())
        per_flop = problem.s_per_flop[:, bits]
        work = float(problem.flop.mean()) * per_flop + call_bytes * problem.s_per_byte
        fast: dict[int, float] = {}
        for v, p in enumerate(problem.processor_of.tolist()):
            fast[p] = min(fast.get(p, np.inf), float(work[v]))
        calls = float(problem.calls[0].sum())
        able = sum(1 / time for time in fast.values() if 0 < time < np.inf) / calls
        most = problem.busy * able if able else np.inf
        moved = problem.crossed_bytes.mean() * calls
        if moved > 0:
            most = min(
                most, problem.link_busy * float(problem.link_bandwidth.sum()) / moved
            )
        if not np.isfinite(most):
            return instance
        factor = self.given["load"] * most / problem.total_rate
        demands = [
            DemandSpec(
                application=d.application,
                home=d.home,
                rate=f"{float(rate) * factor:.4g} tokens/s",
            )
            for d, rate in zip(
                instance.spec.workload.demands, problem.rate, strict=True
            )
        ]
        return instance.replace(
            workload=msgspec.structs.replace(instance.spec.workload, demands=demands)
        )


_KNOWN_NAMES = {
    "domain": ("prose", "code", "math", "dialogue", "law", "medicine"),
    "app": ("chat", "coding", "tutor", "calls", "contracts", "triage"),
}


def _names(kind: str, count: int) -> list[str]:
    known = _KNOWN_NAMES[kind]
    return [known[n] if n < len(known) else f"{kind}-{n + 1}" for n in range(count)]


def _capacity(server: Any) -> float:
    from meldopt.units import parse_quantity

    tier = (server.tiers or {}).get("gpu")
    if tier is not None and tier.capacity is not None:
        return parse_quantity(tier.capacity, "bytes")
    return catalogue.device(server.device).memory_bytes


def _convert(value: Mapping[str, Any], kind: type[Spec], name: str) -> Spec:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        text, _, place = str(exc).partition(" - at `$")
        raise InstanceError(f"parameters.{name}{place.rstrip('`')}: {text}") from exc

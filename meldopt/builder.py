"""The problem builder: an instance, checked line by line, becomes a `Problem`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import networkx as nx
import numpy as np

from . import catalogue
from .errors import CatalogueError, InstanceError
from .problem import (
    TERMS,
    BudgetCap,
    CountRow,
    Labels,
    Problem,
    UniformGroup,
)
from .units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from .instance import CopySpec, CountSpec, FormatSpec, Instance, ServerSpec

MAX_GROUP = 4
"""Largest similarity group: a group is one block of the decomposition."""

DISK_READ = 2e9
"""Bytes/s of a disk tier that says nothing; an NVMe drive of the cheaper kind."""

RAM_READ = 25e9
"""Bytes/s of a RAM tier whose device has no host link; PCIe 4.0 x16 in practice."""

MAX_EXPERTS = 1_000_000
"""Experts of all layers; more is a typo, and would take all memory."""

PROFILE_ARRAYS = (
    "calls",
    "parameters",
    "size",
    "loss",
    "kl",
    "kl_calls",
    "prune_width",
    "prune_loss",
    "fuse_width",
    "fuse_loss",
    "similar",
    "similar_loss",
    "pairs",
    "pair_weight",
    "entry",
    "exit",
    "sample_experts",
    "sample_domain",
)
"""Every array that a model profile may hold; ``docs/files.md`` says what each is."""


def build_problem(instance: Instance) -> Problem:
    """Check an instance and index it.

    Parameters
    ----------
    instance
        From `meldopt.read_instance`, a generator, or written in Python.

    Returns
    -------
    Problem
        Arrays with the axes of `meldopt.problem`.

    Raises
    ------
    InstanceError
        In one line: where in the instance, got, expected.
    """
    return _Builder(instance).build()


@dataclass(slots=True)
class _Model:
    layer_start: NDArray[np.int64]
    layer_of: NDArray[np.int64]
    layer_ids: NDArray[np.int64]
    top_k: float
    parameters: NDArray[np.float64]
    bytes_out: float
    bytes_back: float
    backbone: float
    context: float


@dataclass(slots=True)
class _Places:
    server: list[int]
    names: list[tuple[str, str]]
    processor: list[int]
    processors: list[str]
    processor_server: list[int]
    capacity: list[float]
    s_per_byte: list[float]
    s_per_flop: list[list[float]]
    runs: list[list[bool]]
    power: list[float]
    reserve: list[float]


class _Builder:
    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.spec = instance.spec

    # -- errors and look-ups -------------------------------------------------------
    def fail(self, place: str, message: str) -> NoReturn:
        raise InstanceError(f"{self.instance.source}: $.{place}: {message}")

    def number(
        self,
        value: float | str,
        unit: str,
        place: str,
        *,
        low: float = 0.0,
        strict: bool = False,
    ) -> float:
        try:
            number = parse_quantity(value, unit)
        except ValueError as exc:
            self.fail(place, str(exc))
        return self.bounded(number, place, low=low, strict=strict, got=value)

    def bounded(
        self,
        number: float,
        place: str,
        *,
        low: float = 0.0,
        high: float = math.inf,
        strict: bool = False,
        got: object = None,
    ) -> float:
        shown = number if got is None else got
        if not math.isfinite(number):
            self.fail(place, f"got {shown!r}, expected a finite number")
        if number < low or (strict and number == low):
            self.fail(
                place, f"got {shown!r}, expected {'>' if strict else '>='} {low:g}"
            )
        if number > high:
            self.fail(place, f"got {shown!r}, expected <= {high:g}")
        return number

    def index(self, names: Sequence[str], name: str, place: str, kind: str) -> int:
        try:
            return names.index(name)
        except ValueError:
            known = ", ".join(repr(known) for known in names[:8])
            more = ", …" if len(names) > 8 else ""
            self.fail(place, f"got {name!r}, expected a {kind}: {known}{more}")

    def unique(self, names: Sequence[str], place: str) -> None:
        seen: set[str] = set()
        for position, name in enumerate(names):
            if not name:
                self.fail(f"{place}[{position}].name", "got '', expected a name")
            if name in seen:
                self.fail(
                    f"{place}[{position}].name",
                    f"got {name!r} twice, expected every name once",
                )
            seen.add(name)

    # -- the whole -----------------------------------------------------------------
    def build(self) -> Problem:
        spec = self.spec
        if not spec.name or "\n" in spec.name:
            self.fail("name", f"got {spec.name!r}, expected a name on one line")
        for array in self.instance.arrays:
            if array not in PROFILE_ARRAYS:
                known = ", ".join(PROFILE_ARRAYS)
                self.fail(
                    f"model.profile.{array}", f"unknown array, expected one of: {known}"
                )
        if not spec.cluster.servers:
            self.fail("cluster.servers", "got none, expected at least one server")
        self.unique([server.name for server in spec.cluster.servers], "cluster.servers")
        self.servers = [server.name for server in spec.cluster.servers]
        self.formats = self.read_formats()
        self.model = model = self.read_model()
        self.bounded(spec.model.calibration, "model.calibration")
        self.num_experts = len(model.layer_of)
        self.num_layers = len(model.layer_ids)
        size = self.read_sizes()
        places = self.read_places()
        links, bandwidth, joule, routes, latency, per_byte = self.read_links()
        applications, demands = self.read_workload()
        homes = [self.index(self.servers, d.home, "", "server") for d in demands]
        source, sink = self.read_hosts(homes)
        self.check_routes(latency, source, sink, demands)
        self.reserve(places, homes)
        calls, mixes = self.read_calls(applications)
        loss = self.read_losses(mixes, calls)
        prune_width, prune_loss = self.read_curve("prune", mixes)
        fuse_width, fuse_loss = self.read_curve("fuse", mixes)
        similar, similar_loss = self.read_similar(mixes)
        pairs, pair_weight, entry, exit_ = self.read_pairs(mixes)
        names = [application.name for application in applications]
        application_of = [names.index(demand.application) for demand in demands]
        rate = [
            self.number(d.rate, "tokens/s", f"workload.demands[{q}].rate")
            for q, d in enumerate(demands)
        ]
        samples, sample_demand = self.read_samples(application_of, rate, mixes)
        limits = spec.limits
        busy = self.bounded(limits.busy, "limits.busy", strict=True)
        link_busy = (
            busy
            if limits.link_busy is None
            else self.bounded(limits.link_busy, "limits.link_busy", strict=True)
        )
        fuse_factor = self.bounded(
            spec.model.fuse_factor, "model.fuse_factor", high=1.0
        )
        if limits.copies is not None and limits.copies < 1:
            self.fail("limits.copies", f"got {limits.copies}, expected at least 1")
        allowed = np.array(places.runs, dtype=np.bool_)
        forbidden = self.read_copies(limits.forbid, "limits.forbid", places)
        self.check_places(allowed, forbidden)
        roam = spec.dataflow == "roam"
        if roam:
            prune_width, prune_loss = prune_width[..., :0], prune_loss[..., :0]
            fuse_width, fuse_loss = fuse_width[..., :0], fuse_loss[..., :0]
            similar, similar_loss = similar[:0], similar_loss[:, :0]
        return Problem(
            name=spec.name,
            instance_digest=self.instance.digest(),
            labels=Labels(
                servers=tuple(self.servers),
                places=tuple(places.names),
                processors=tuple(places.processors),
                formats=tuple(f.name for f in self.formats),
                applications=tuple(names),
                demands=tuple((d.application, d.home) for d in demands),
                links=tuple((self.servers[a], self.servers[b]) for a, b in links),
            ),
            dataflow=spec.dataflow,
            layer_start=model.layer_start,
            layer_ids=model.layer_ids,
            layer_of=model.layer_of,
            flop=2.0 * model.parameters,
            size_bytes=size,
            bits_per_weight=np.array(
                [f.bits_per_weight for f in self.formats], dtype=np.float64
            ),
            bytes_out=model.bytes_out,
            bytes_back=model.bytes_back,
            fuse_factor=fuse_factor,
            server_of=np.array(places.server, dtype=np.int64),
            processor_of=np.array(places.processor, dtype=np.int64),
            processor_server=np.array(places.processor_server, dtype=np.int64),
            capacity_bytes=np.array(places.capacity, dtype=np.float64),
            reserve_bytes=np.array(places.reserve, dtype=np.float64),
            s_per_byte=np.array(places.s_per_byte, dtype=np.float64),
            s_per_flop=np.array(places.s_per_flop, dtype=np.float64),
            power_w=np.array(places.power, dtype=np.float64),
            link_from=np.array([a for a, _ in links], dtype=np.int64),
            link_to=np.array([b for _, b in links], dtype=np.int64),
            link_bandwidth=np.array(bandwidth, dtype=np.float64),
            link_joule_per_byte=np.array(joule, dtype=np.float64),
            route_links=routes,
            route_latency=latency,
            route_s_per_byte=per_byte,
            distance=self.read_distance(latency, per_byte),
            rate=np.array(rate, dtype=np.float64),
            application_of=np.array(application_of, dtype=np.int64),
            home_of=np.array(homes, dtype=np.int64),
            source=source,
            sink=sink,
            calls=calls,
            format_loss=loss,
            prune_width=prune_width,
            prune_loss=prune_loss,
            fuse_width=fuse_width,
            fuse_loss=fuse_loss,
            similar=similar,
            similar_loss=similar_loss,
            pairs=pairs,
            pair_weight=pair_weight,
            entry=entry,
            exit=exit_,
            sample_experts=samples,
            sample_demand=sample_demand,
            busy=busy,
            link_busy=link_busy,
            quality_budget=np.array(
                [
                    math.inf
                    if a.quality_budget is None
                    else self.number(
                        a.quality_budget,
                        "nats",
                        f"workload.applications[{g}].quality_budget",
                    )
                    for g, a in enumerate(applications)
                ],
                dtype=np.float64,
            ),
            latency_target=np.array(
                [
                    math.inf
                    if a.latency_target is None
                    else self.number(
                        a.latency_target,
                        "s",
                        f"workload.applications[{g}].latency_target",
                    )
                    for g, a in enumerate(applications)
                ],
                dtype=np.float64,
            ),
            trusted=self.read_trust(applications, homes, application_of),
            failure_sets=self.read_failures(),
            count_rows=self.read_counts(places),
            uniform_groups=self.read_uniform(),
            budget_caps=self.read_caps(links),
            # Tokens that roam find one copy of an expert unless the instance says more.
            max_copies=(limits.copies or 1) if roam else limits.copies,
            allow_missing=limits.allow_missing,
            allowed=allowed,
            forbidden=forbidden,
            pinned=self.read_copies(limits.pin, "limits.pin", places, one=True),
            weights=self.read_weights(len(sample_demand)),
        )

    # -- formats and model -----------------------------------------------------------
    def read_formats(self) -> list[catalogue.FormatFacts]:
        if not self.spec.formats:
            self.fail("formats", "got none, expected at least one format")
        facts: list[catalogue.FormatFacts] = []
        for position, written in enumerate(self.spec.formats):
            facts.append(self.read_format(written, f"formats[{position}]"))
        self.unique([fact.name for fact in facts], "formats")
        return facts

    def read_format(
        self, written: str | FormatSpec, place: str
    ) -> catalogue.FormatFacts:
        name = written if isinstance(written, str) else written.name
        bits = None if isinstance(written, str) else written.bits_per_weight
        precision = None if isinstance(written, str) else written.precision
        if bits is None or precision is None:
            try:
                known = catalogue.format_named(name)
            except CatalogueError as exc:
                if bits is None:
                    self.fail(place, str(exc))
                known = None
            bits = known.bits_per_weight if bits is None and known else bits
            precision = precision or (known.precision if known else "bf16")
        assert bits is not None
        self.bounded(bits, f"{place}.bits_per_weight", strict=True)
        return catalogue.FormatFacts(
            name=name,
            bits_per_weight=bits,
            precision=precision,
            source="instance",
            confidence="high",
            note="",
        )

    def read_model(self) -> _Model:
        written = self.spec.model
        facts: catalogue.ModelFacts | None = None
        if written.catalogue is not None:
            try:
                facts = catalogue.model(written.catalogue)
            except CatalogueError as exc:
                self.fail("model.catalogue", str(exc))
        layers, experts = written.layers, written.experts
        top_k, hidden = written.top_k, written.hidden_size
        if facts is not None:
            layers = facts.moe_layers if layers is None else layers
            experts = facts.experts if experts is None else experts
            top_k = facts.top_k if top_k is None else top_k
            hidden = facts.hidden_size if hidden is None else hidden
        if layers is None or experts is None:
            self.fail(
                "model", "got no layers and experts, expected them or a catalogue name"
            )
        if layers > MAX_EXPERTS:
            self.fail("model.layers", f"got {layers}, expected at most {MAX_EXPERTS}")
        per_layer = [experts] * layers if isinstance(experts, int) else list(experts)
        if len(per_layer) != layers or layers < 1 or min(per_layer) < 1:
            self.fail(
                "model.experts",
                f"got {len(per_layer)} layers of {min(per_layer, default=0)} or more "
                f"experts, expected {layers} layers (at least one) of at least one",
            )
        if sum(per_layer) > MAX_EXPERTS:
            self.fail(
                "model.experts",
                f"got {sum(per_layer)} experts in all, expected at most {MAX_EXPERTS}",
            )
        if top_k is None:
            self.fail("model.top_k", "missing, expected calls per token and layer")
        self.bounded(top_k, "model.top_k", strict=True)
        start = np.concatenate([[0], np.cumsum(per_layer)]).astype(np.int64)
        num = int(start[-1])
        parameters = self.array("parameters", (num,))
        if parameters is None:
            each = written.parameters_per_expert
            if each is None:
                each = float(facts.parameters_per_expert) if facts else 0.0
            self.bounded(each, "model.parameters_per_expert")
            parameters = np.full(num, each, dtype=np.float64)
        self.nonnegative("parameters", parameters)
        state = self.bounded(hidden or 0, "model.hidden_size") * self.bounded(
            written.activation_bits, "model.activation_bits"
        )
        out, back = (
            state / 8
            if value is None
            else self.number(value, "bytes", f"model.{field}")
            for value, field in (
                (written.bytes_out, "bytes_out"),
                (written.bytes_back, "bytes_back"),
            )
        )
        backbone = 0.0
        if written.backbone is not None:
            backbone = self.number(written.backbone, "bytes", "model.backbone")
        elif facts is not None:
            backbone = 2.0 * facts.backbone_parameters
        ids = written.layer_ids
        if ids is None:
            ids = list(facts.layer_ids) if facts and facts.moe_layers == layers else []
            ids = ids or list(range(layers))
        if len(ids) != layers:
            self.fail(
                "model.layer_ids", f"got {len(ids)} numbers, expected {layers} of them"
            )
        return _Model(
            layer_start=start,
            layer_of=np.repeat(np.arange(layers), per_layer).astype(np.int64),
            layer_ids=np.array(ids, dtype=np.int64),
            top_k=float(top_k),
            parameters=parameters,
            bytes_out=out,
            bytes_back=back,
            backbone=backbone,
            context=self.number(written.context, "bytes", "model.context"),
        )

    # -- profile arrays --------------------------------------------------------------
    def array(
        self,
        name: str,
        shape: tuple[int | None, ...],
        *,
        experts_axis: int | None = None,
    ) -> NDArray[np.float64] | None:
        """Return a profile array as float64 of the shape asked for; None if absent.

        ``None`` in the shape is any length. A (…, L, E, …) array is taken where
        (…, N, …) is asked for when all layers have the same number of experts.
        """
        raw = self.instance.arrays.get(name)
        if raw is None:
            return None
        array = raw.astype(np.float64)
        if experts_axis is not None and array.ndim == len(shape) + 1:
            a = experts_axis
            if array.shape[a : a + 2] == (
                self.num_layers,
                self.num_experts // self.num_layers,
            ):
                array = array.reshape(
                    *array.shape[:a], self.num_experts, *array.shape[a + 2 :]
                )
        fits = array.ndim == len(shape) and all(
            want is None or want == got
            for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = tuple("any" if want is None else want for want in shape)
            self.fail(
                f"model.profile.{name}",
                f"got shape {raw.shape}, expected {wanted}".replace("'", ""),
            )
        if not np.isfinite(array).all():
            where = tuple(int(n) for n in np.argwhere(~np.isfinite(array))[0])
            self.fail(
                f"model.profile.{name}{list(where)}",
                f"got {array[where]}, expected a finite number",
            )
        return array

    def nonnegative(self, name: str, array: NDArray[np.float64]) -> None:
        if (array < 0).any():
            where = tuple(int(n) for n in np.argwhere(array < 0)[0])
            self.fail(
                f"model.profile.{name}{list(where)}",
                f"got {array[where]:g}, expected >= 0",
            )

    def read_sizes(self) -> NDArray[np.float64]:
        size = self.array("size", (self.num_experts, len(self.formats)), experts_axis=0)
        if size is None:
            bits = np.array([f.bits_per_weight for f in self.formats])
            size = self.model.parameters[:, None] * bits[None, :] / 8.0
        self.nonnegative("size", size)
        return size

    def domains(self) -> list[str]:
        names = self.spec.model.domains
        if names is None:
            calls = self.instance.arrays.get("calls")
            count = 1 if calls is None or calls.ndim < 2 else calls.shape[0]
            names = ["all"] if count == 1 else [f"domain-{d}" for d in range(count)]
        return names

    def read_calls(
        self, applications: Sequence[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return calls per application (G, N) and domain mixes (G, D)."""
        domains = self.domains()
        calls = self.array("calls", (len(domains), self.num_experts), experts_axis=1)
        if calls is None:
            # Nothing measured: every expert of a layer is as likely as any other.
            width = np.diff(self.model.layer_start)[self.model.layer_of]
            calls = np.tile(self.model.top_k / width, (len(domains), 1))
        self.nonnegative("calls", calls)
        for layer in range(self.num_layers):
            part = slice(*self.model.layer_start[layer : layer + 2])
            sums = calls[:, part].sum(axis=1)
            off = np.abs(sums - self.model.top_k) > 1e-6 * self.model.top_k
            if off.any():
                d = int(np.argmax(off))
                self.fail(
                    f"model.profile.calls[{d}]",
                    f"got {sums[d]:.9g} calls per token in layer {layer}, expected "
                    f"top_k = {self.model.top_k:g}",
                )
        self.domain_calls = calls
        mixes = np.zeros((len(applications), len(domains)))
        for g, application in enumerate(applications):
            place = f"workload.applications[{g}].domain"
            mix = application.domain
            if mix is None:
                if len(domains) > 1:
                    self.fail(place, f"missing, expected one of {domains}")
                mix = domains[0]
            for name, weight in ({mix: 1.0} if isinstance(mix, str) else mix).items():
                mixes[g, self.index(domains, name, place, "domain")] = self.bounded(
                    weight, f"{place}.{name}"
                )
            total = mixes[g].sum()
            if total <= 0:
                self.fail(place, "got weights that add to 0, expected some domain")
            mixes[g] /= total
        return mixes @ calls, mixes

    def by_domain(
        self, name: str, shape: tuple[int | None, ...], *, experts: bool = False
    ) -> NDArray[np.float64] | None:
        """Return an array with a leading axis of domains; a length of 1 is all."""
        count = len(self.domains())
        raw = self.instance.arrays.get(name)
        lead = 1 if raw is not None and raw.shape[:1] == (1,) else count
        array = self.array(name, (lead, *shape), experts_axis=1 if experts else None)
        if array is not None and lead == 1:
            array = np.repeat(array, count, axis=0)
        return array

    def read_losses(
        self, mixes: NDArray[np.float64], calls: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return nats per call by application, (G, N, B)."""
        names = [f.name for f in self.formats]
        columns = self.spec.model.loss_formats or names
        loss = self.by_domain("loss", (self.num_experts, len(columns)), experts=True)
        kl = self.by_domain("kl", (self.num_experts, len(columns)), experts=True)
        if loss is not None and kl is not None:
            self.fail("model.profile", "got both 'loss' and 'kl', expected one of them")
        if kl is not None:
            loss = self.per_call(kl)
        if loss is None:
            return np.zeros((len(mixes), self.num_experts, len(names)))
        pick = [
            self.index(columns, name, "model.loss_formats", "measured format")
            for name in names
        ]
        return self.mixed(loss[:, :, pick], mixes) * self.spec.model.calibration

    def per_call(self, kl: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn KL in nats per token into nats per call.

        Experts that were never called while measuring get the stated fallback, or the
        largest loss per call of their layer and format.
        """
        times = self.by_domain("kl_calls", (self.num_experts,), experts=True)
        if times is None:
            times = self.domain_calls
        self.nonnegative("kl_calls", times)
        called = times > 0
        loss = np.divide(
            kl, times[..., None], out=np.zeros_like(kl), where=called[..., None]
        )
        written = self.spec.model.fallback_loss
        for layer in range(self.num_layers):
            part = slice(*self.model.layer_start[layer : layer + 2])
            for d in range(len(kl)):
                missing = ~called[d, part]
                if not missing.any():
                    continue
                if written is not None:
                    fallback: Any = self.number(
                        written, "nats", "model.fallback_loss", strict=True
                    )
                elif missing.all():
                    self.fail(
                        "model.fallback_loss",
                        f"missing, but no expert of layer {layer} was called when "
                        f"domain {d} was measured; expected nats per call",
                    )
                else:
                    fallback = loss[d, part][~missing].max(axis=0)
                loss[d, part][missing] = fallback
        return loss

    def mixed(
        self, loss: NDArray[np.float64], mixes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Mix losses per call (D, N, B) over domains, weighted by their calls."""
        share = mixes[:, :, None] * self.domain_calls[None]  # (G, D, N)
        total = share.sum(axis=1, keepdims=True)
        share = np.where(total > 0, share / np.where(total > 0, total, 1.0), 0.0)
        share = np.where(total > 0, share, mixes[:, :, None])
        loss_of: NDArray[np.float64] = np.einsum("gdn,dnb->gnb", share, loss)
        return loss_of

    def read_curve(
        self, name: str, mixes: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return width and loss per call of the segments of a curve, (G, L, M)."""
        raw = self.instance.arrays.get(f"{name}_width")
        if raw is None:
            empty = np.zeros((len(mixes), self.num_layers, 0))
            return empty, empty
        segments = raw.shape[-1] if raw.ndim else 0
        width = self.by_domain(f"{name}_width", (self.num_layers, segments))
        loss = self.by_domain(f"{name}_loss", (self.num_layers, segments))
        if width is None or loss is None:
            self.fail(f"model.profile.{name}_loss", f"missing beside {name}_width")
        self.nonnegative(f"{name}_width", width)
        self.nonnegative(f"{name}_loss", loss)
        if (np.diff(loss, axis=-1) < 0).any():
            self.fail(
                f"model.profile.{name}_loss",
                "got a segment that loses less than the one before, expected growing "
                "losses (a convex curve)",
            )
        if (width.sum(axis=-1) > 1 + 1e-9).any():
            self.fail(
                f"model.profile.{name}_width",
                f"got widths that add to {width.sum(axis=-1).max():g}, expected at "
                "most 1",
            )
        calibration = self.spec.model.calibration
        return (
            np.einsum("gd,dlm->glm", mixes, width),
            np.einsum("gd,dlm->glm", mixes, loss) * calibration,
        )

    def read_similar(
        self, mixes: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        raw = self.array("similar", (None, 2))
        if raw is None:
            return np.zeros((0, 2), dtype=np.int64), np.zeros((len(mixes), 0))
        similar = self.expert_pairs("similar", raw)
        loss = self.by_domain("similar_loss", (len(similar),))
        if loss is None:
            self.fail("model.profile.similar_loss", "missing beside similar")
        self.nonnegative("similar_loss", loss)
        layer = self.model.layer_of[similar]
        if (layer[:, 0] != layer[:, 1]).any() or (similar[:, 0] == similar[:, 1]).any():
            self.fail(
                "model.profile.similar",
                "got a pair of two layers or of one expert, expected two experts of "
                "one layer",
            )
        graph = nx.Graph()
        graph.add_edges_from(similar.tolist())
        for group in nx.connected_components(graph):
            if len(group) > MAX_GROUP:
                self.fail(
                    "model.profile.similar",
                    f"got a group of {len(group)} experts ({sorted(group)[:5]}…), "
                    f"expected groups of at most {MAX_GROUP}",
                )
        return similar, mixes @ loss * self.spec.model.calibration

    def expert_pairs(self, name: str, raw: NDArray[np.float64]) -> NDArray[np.int64]:
        pairs = raw.astype(np.int64)
        if len(pairs) and (pairs.min() < 0 or pairs.max() >= self.num_experts):
            self.fail(
                f"model.profile.{name}",
                f"got expert {pairs.min() if pairs.min() < 0 else pairs.max()}, "
                f"expected 0 to {self.num_experts - 1}",
            )
        if len({tuple(pair) for pair in pairs.tolist()}) < len(pairs):
            self.fail(f"model.profile.{name}", "got a pair twice, expected it once")
        return pairs

    def read_pairs(
        self, mixes: NDArray[np.float64]
    ) -> tuple[
        NDArray[np.int64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
    ]:
        empty = np.zeros((len(mixes), self.num_experts))
        raw = self.array("pairs", (None, 2))
        pairs = np.zeros((0, 2), dtype=np.int64)
        weight = np.zeros((len(mixes), 0))
        if raw is not None:
            pairs = self.expert_pairs("pairs", raw)
            found = self.by_domain("pair_weight", (len(pairs),))
            if found is None:
                self.fail("model.profile.pair_weight", "missing beside pairs")
            self.nonnegative("pair_weight", found)
            weight = mixes @ found
        ends = []
        for name in ("entry", "exit"):
            end = self.by_domain(name, (self.num_experts,), experts=True)
            if end is not None:
                self.nonnegative(name, end)
            ends.append(empty if end is None else mixes @ end)
        return pairs, weight, ends[0], ends[1]

    def read_samples(
        self,
        application_of: list[int],
        rate: list[float],
        mixes: NDArray[np.float64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Read sampled tokens and give each a demand, in proportion to the rates.

        A token of domain d belongs to a demand whose application holds d; within
        those, tokens are dealt so that every demand has its share (largest remainder).
        """
        raw = self.array("sample_experts", (None, self.num_layers, None))
        if raw is None:
            width = max(1, round(self.model.top_k))
            return (
                np.zeros((0, self.num_layers, width), dtype=np.int64),
                np.zeros(0, dtype=np.int64),
            )
        chosen = raw.astype(np.int64)
        per_layer = np.diff(self.model.layer_start)
        if ((chosen < -1) | (chosen >= per_layer[None, :, None])).any():
            self.fail(
                "model.profile.sample_experts",
                "got an expert that its layer does not have, expected 0 to E - 1",
            )
        chosen = np.where(
            chosen >= 0, chosen + self.model.layer_start[None, :-1, None], -1
        )
        domain = self.array("sample_domain", (len(chosen),))
        domains = np.zeros(len(chosen), dtype=np.int64)
        if domain is not None:
            domains = domain.astype(np.int64)
            if (
                len(domains)
                and not 0 <= domains.min() <= domains.max() < mixes.shape[1]
            ):
                self.fail(
                    "model.profile.sample_domain",
                    f"got {domains.min()} to {domains.max()}, expected 0 to "
                    f"{mixes.shape[1] - 1}",
                )
        weight = np.array(rate)[:, None] * mixes[application_of]  # (Q, D)
        given = np.zeros_like(weight)
        demand = np.zeros(len(chosen), dtype=np.int64)
        keep = np.ones(len(chosen), dtype=bool)
        for t, d in enumerate(domains):
            if weight[:, d].sum() <= 0:
                keep[t] = False
                continue
            q = int(np.argmax(weight[:, d] / (given[:, d] + 1)))
            given[q, d] += 1
            demand[t] = q
        chosen, demand = chosen[keep], demand[keep]
        # A share of an expert that is never called is no variable of any model.
        app = np.array(application_of, dtype=np.int64)[demand]
        calls = (mixes @ self.domain_calls)[app[:, None, None], chosen]
        for t, layer, slot in np.argwhere((chosen >= 0) & (calls <= 0)):
            self.fail(
                "model.profile.sample_experts",
                f"got expert {chosen[t, layer, slot] - self.model.layer_start[layer]} "
                f"of layer {layer}, which 'calls' says is never called, expected "
                "calls > 0 of every sampled expert",
            )
        return chosen, demand

    # -- cluster -----------------------------------------------------------------------
    def read_places(self) -> _Places:
        places = _Places([], [], [], [], [], [], [], [], [], [], [])
        for s, server in enumerate(self.spec.cluster.servers):
            self.read_server(s, server, places)
        return places

    def read_server(self, s: int, server: ServerSpec, places: _Places) -> None:
        where = f"cluster.servers[{s}]"
        device: catalogue.DeviceFacts | None = None
        if server.device is not None:
            try:
                device = catalogue.device(server.device)
            except CatalogueError as exc:
                self.fail(f"{where}.device", str(exc))
        tiers = server.tiers
        if tiers is None:
            if device is None:
                self.fail(where, "got neither device nor tiers, expected one of them")
            from .instance import TierSpec

            tiers = {"gpu": TierSpec()}
        if not tiers:
            self.fail(f"{where}.tiers", "got none, expected at least one tier")
        first = len(places.server)
        reuse = self.bounded(self.spec.limits.reuse, "limits.reuse", low=1.0)
        for name, tier in tiers.items():
            place = f"{where}.tiers.{name}"
            own = device if name == "gpu" else None
            if tier.capacity is not None:
                capacity = self.number(tier.capacity, "bytes", f"{place}.capacity")
            elif own is not None:
                capacity = own.memory_bytes
            else:
                self.fail(f"{place}.capacity", "missing, expected a size")
            if tier.read is not None:
                read = self.number(tier.read, "bytes/s", f"{place}.read", strict=True)
            elif own is not None:
                read = own.read_bytes_per_s
            elif name == "ram" and device is not None:
                read = device.host_link_bytes_per_s or RAM_READ
            elif name == "disk" and device is not None:
                read = DISK_READ
            elif device is None:
                read = math.inf
            else:
                self.fail(f"{place}.read", "missing, expected a rate in bytes/s")
            precisions: dict[str, float] = dict(device.flops) if device else {}
            for key, value in (tier.compute or {}).items():
                precisions[key] = self.number(
                    value, "FLOP/s", f"{place}.compute.{key}", strict=True
                )
            free = device is None and not tier.compute  # no arithmetic is modelled
            runs, per_flop = [], []
            for fact in self.formats:
                speed = precisions.get(fact.name, precisions.get(fact.precision))
                can = free or speed is not None
                if tier.formats is not None:
                    can = can and fact.name in tier.formats
                runs.append(can)
                per_flop.append(0.0 if free else 1.0 / speed if speed else math.inf)
            for position, name_ in enumerate(tier.formats or []):
                self.index(
                    [f.name for f in self.formats],
                    name_,
                    f"{place}.formats[{position}]",
                    "format of the instance",
                )
            processor = f"{server.name}/{tier.processor or 'processor'}"
            if processor not in places.processors:
                places.processors.append(processor)
                places.processor_server.append(s)
            places.server.append(s)
            places.names.append((server.name, name))
            places.processor.append(places.processors.index(processor))
            places.capacity.append(capacity)
            places.s_per_byte.append(1.0 / (read * reuse))
            places.s_per_flop.append(per_flop)
            places.runs.append(runs)
            places.power.append(
                self.number(tier.power, "W", f"{place}.power")
                if tier.power is not None
                else device.power_w
                if device
                else 0.0
            )
            places.reserve.append(0.0)
        places.reserve[first] += self.number(
            server.reserve, "bytes", f"{where}.reserve"
        )

    def reserve(self, places: _Places, homes: list[int]) -> None:
        """Set the backbone and the replicated context apart on the first tiers."""
        first = {s: v for v, s in reversed(list(enumerate(places.server)))}
        hosts = self.spec.workload.hosts
        if hosts:
            held = [self.servers.index(host) for host in hosts[: self.num_layers]]
            for s in sorted(set(held)):
                part = self.model.backbone * held.count(s) / self.num_layers
                places.reserve[first[s]] += part
        else:
            for s in sorted(set(homes)):
                places.reserve[first[s]] += self.model.backbone
        if self.spec.dataflow == "roam":
            for s in range(len(self.servers)):
                places.reserve[first[s]] += self.model.context

    def read_links(
        self,
    ) -> tuple[
        list[tuple[int, int]],
        list[float],
        list[float],
        tuple[tuple[NDArray[np.int64], ...], ...],
        NDArray[np.float64],
        NDArray[np.float64],
    ]:
        links: list[tuple[int, int]] = []
        bandwidth: list[float] = []
        latency: list[float] = []
        joule: list[float] = []
        for k, link in enumerate(self.spec.cluster.links):
            where = f"cluster.links[{k}]"
            if link.between is not None and link.from_ is None and link.to is None:
                ends = [link.between, link.between[::-1]]
                field = "between"
            elif (
                link.between is None and link.from_ is not None and link.to is not None
            ):
                ends = [(link.from_, link.to)]
                field = "from"
            else:
                self.fail(where, "expected either 'between' or both 'from' and 'to'")
            rate = self.number(
                link.bandwidth, "bytes/s", f"{where}.bandwidth", strict=True
            )
            delay = self.number(link.latency, "s", f"{where}.latency")
            energy = self.number(link.energy, "J/B", f"{where}.energy")
            for one, other in ends:
                a = self.index(self.servers, one, f"{where}.{field}", "server")
                b = self.index(self.servers, other, f"{where}.{field}", "server")
                if a == b:
                    self.fail(where, f"got {one!r} twice, expected two servers")
                if (a, b) in links:
                    self.fail(
                        where,
                        f"got a second link from {one!r} to {other!r}, expected one",
                    )
                links.append((a, b))
                bandwidth.append(rate)
                latency.append(delay)
                joule.append(energy)
        return (links, bandwidth, joule, *self.route(links, bandwidth, latency))

    def route(
        self,
        links: list[tuple[int, int]],
        bandwidth: list[float],
        latency: list[float],
    ) -> tuple[
        tuple[tuple[NDArray[np.int64], ...], ...],
        NDArray[np.float64],
        NDArray[np.float64],
    ]:
        """Find the minimum-latency path of each pair; fewer links break ties."""
        num = len(self.servers)
        graph = nx.DiGraph()
        graph.add_nodes_from(range(num))
        # A hop costs a picosecond more: equal latencies take the fewest links.
        for k in sorted(range(len(links)), key=lambda k: links[k]):
            graph.add_edge(*links[k], weight=latency[k] + 1e-12, index=k)
        time = np.full((num, num), math.inf)
        per_byte = np.zeros((num, num))
        routes: list[tuple[NDArray[np.int64], ...]] = []
        for s in range(num):
            paths = nx.single_source_dijkstra_path(graph, s)
            row = []
            for t in range(num):
                path = paths.get(t, [])
                crossed = [
                    graph.edges[edge]["index"] for edge in nx.utils.pairwise(path)
                ]
                if path:
                    time[s, t] = sum(latency[k] for k in crossed)
                    per_byte[s, t] = max((1 / bandwidth[k] for k in crossed), default=0)
                row.append(np.array(crossed, dtype=np.int64))
            routes.append(tuple(row))
        return tuple(routes), time, per_byte

    def read_distance(
        self, latency: NDArray[np.float64], per_byte: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        written = self.spec.cluster.distance
        if written is None:
            distance: NDArray[np.float64] = latency + self.model.bytes_out * per_byte
            return distance
        num = len(self.servers)
        if [len(row) for row in written] != [num] * num:
            self.fail("cluster.distance", f"expected {num} rows of {num} numbers")
        distance = np.array(written, dtype=np.float64)
        if not np.isfinite(distance).all() or (distance < 0).any():
            self.fail("cluster.distance", "got a negative number, expected none")
        return distance

    def check_routes(
        self,
        latency: NDArray[np.float64],
        source: NDArray[np.int64],
        sink: NDArray[np.int64],
        demands: Sequence[Any],
    ) -> None:
        """Refuse a cluster in which a home cannot reach a server and return."""
        for q in range(len(demands)):
            for s, name in enumerate(self.servers):
                there = np.isfinite(latency[source[q], s]).all()
                back = np.isfinite(latency[s, sink[q]]).all()
                if not (there and back):
                    self.fail(
                        "cluster.links",
                        f"got no route between home {demands[q].home!r} and server "
                        f"{name!r}, expected a connected graph",
                    )
        if self.spec.dataflow == "roam" and not np.isfinite(latency).all():
            s, t = np.argwhere(~np.isfinite(latency))[0]
            if self.spec.cluster.distance is None:
                self.fail(
                    "cluster.links",
                    f"got no route from {self.servers[s]!r} to {self.servers[t]!r}, "
                    "expected a connected graph",
                )

    # -- workload ----------------------------------------------------------------------
    def read_workload(self) -> tuple[Sequence[Any], Sequence[Any]]:
        workload = self.spec.workload
        applications, demands = workload.applications, workload.demands
        if not applications:
            self.fail("workload.applications", "got none, expected at least one")
        if not demands:
            self.fail("workload.demands", "got none, expected at least one")
        self.unique([a.name for a in applications], "workload.applications")
        seen: set[tuple[str, str]] = set()
        names = [a.name for a in applications]
        for q, demand in enumerate(demands):
            where = f"workload.demands[{q}]"
            self.index(names, demand.application, f"{where}.application", "application")
            self.index(self.servers, demand.home, f"{where}.home", "server")
            key = (demand.application, demand.home)
            if key in seen:
                self.fail(where, f"got {key} twice, expected it once")
            seen.add(key)
        total = sum(
            self.number(d.rate, "tokens/s", f"workload.demands[{q}].rate")
            for q, d in enumerate(demands)
        )
        if total <= 0:
            self.fail("workload.demands", "got no traffic at all, expected a rate > 0")
        return applications, demands

    def read_hosts(
        self, homes: list[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        layers = self.num_layers
        hosts = self.spec.workload.hosts
        own = np.repeat(np.array(homes, dtype=np.int64)[:, None], layers, axis=1)
        if hosts is None:
            return own, own
        if len(hosts) not in (layers, layers + 1):
            self.fail(
                "workload.hosts",
                f"got {len(hosts)} servers, expected one for each of {layers} layers "
                "(and one more to say where the last returns)",
            )
        held = [
            self.index(self.servers, name, f"workload.hosts[{layer}]", "server")
            for layer, name in enumerate(hosts)
        ]
        source = np.tile(np.array(held[:layers], dtype=np.int64), (len(homes), 1))
        last = own[:, :1] if len(held) == layers else np.full((len(homes), 1), held[-1])
        return source, np.concatenate([source[:, 1:], last], axis=1).astype(np.int64)

    def read_trust(
        self, applications: Sequence[Any], homes: list[int], application_of: list[int]
    ) -> NDArray[np.bool_]:
        trusted = np.ones((len(applications), len(self.servers)), dtype=np.bool_)
        for g, application in enumerate(applications):
            if application.trusted is None:
                continue
            where = f"workload.applications[{g}].trusted"
            trusted[g] = False
            for position, name in enumerate(application.trusted):
                trusted[
                    g, self.index(self.servers, name, f"{where}[{position}]", "server")
                ] = True
            for position, name in enumerate(self.spec.workload.hosts or []):
                if not trusted[g, self.servers.index(name)]:
                    self.fail(
                        where,
                        f"got a list without {name!r}, workload.hosts[{position}], "
                        "which sees every token; expected every host to be trusted",
                    )
            for home, owner in zip(homes, application_of, strict=True):
                if owner == g and not trusted[g, home]:
                    self.fail(
                        where,
                        f"got a list without {self.servers[home]!r}, a home of "
                        f"{application.name!r}, expected every home to be trusted",
                    )
        return trusted

    # -- rows -------------------------------------------------------------------
    def read_failures(self) -> tuple[NDArray[np.int64], ...]:
        coverage = self.spec.limits.coverage
        if coverage is None:
            return ()
        if coverage == "any-server":
            return tuple(np.array([s]) for s in range(len(self.servers)))
        sets = []
        for position, names in enumerate(coverage):
            where = f"limits.coverage[{position}]"
            if not names:
                self.fail(where, "got no server, expected at least one")
            sets.append(
                np.array(
                    sorted(
                        {self.index(self.servers, n, where, "server") for n in names}
                    ),
                    dtype=np.int64,
                )
            )
        return tuple(sets)

    def experts_of(
        self,
        layers: Iterable[int] | None,
        experts: Iterable[int] | None,
        where: str,
    ) -> NDArray[np.int64]:
        start = self.model.layer_start
        found: list[int] = []
        for layer in range(self.num_layers) if layers is None else layers:
            if not 0 <= layer < self.num_layers:
                self.fail(
                    f"{where}.layers",
                    f"got {layer}, expected 0 to {self.num_layers - 1}",
                )
            width = int(start[layer + 1] - start[layer])
            for expert in range(width) if experts is None else experts:
                if not 0 <= expert < width:
                    self.fail(
                        f"{where}.experts", f"got {expert}, expected 0 to {width - 1}"
                    )
                found.append(int(start[layer]) + expert)
        return np.unique(np.array(found, dtype=np.int64))

    def read_counts(self, places: _Places) -> tuple[CountRow, ...]:
        rows: list[CountRow] = []
        written = self.spec.limits.count
        self.unique([row.name for row in written], "limits.count")
        for position, row in enumerate(written):
            rows.extend(self.read_count(row, f"limits.count[{position}]", places))
        return tuple(rows)

    def read_count(
        self, row: CountSpec, where: str, places: _Places
    ) -> Iterable[CountRow]:
        if row.min is None and row.max is None:
            self.fail(where, "got neither min nor max, expected one of them")
        low, high = row.min, row.max
        if (low or 0) < 0 or (high is not None and high < (low or 0)):
            self.fail(where, f"got min {low} and max {high}, expected 0 <= min <= max")
        names = [f.name for f in self.formats]
        formats = np.array(
            range(len(names))
            if row.formats is None
            else sorted(
                {
                    self.index(names, f, f"{where}.formats", "format")
                    for f in row.formats
                }
            ),
            dtype=np.int64,
        )
        layer_sets: list[list[int] | None] = (
            [[layer] for layer in range(self.num_layers)]
            if row.layers == "each"
            else [None if row.layers is None else list(row.layers)]
        )
        server_sets: list[list[str]] = (
            [[server] for server in self.servers]
            if row.servers == "each"
            else [self.servers if row.servers is None else list(row.servers)]
        )
        for servers in server_sets:
            for server in servers:
                self.index(self.servers, server, f"{where}.servers", "server")
        for layers in layer_sets:
            if row.experts == "each":
                sets = [np.array([i]) for i in self.experts_of(layers, None, where)]
            else:
                sets = [self.experts_of(layers, row.experts, where)]
            for experts in sets:
                for servers in server_sets:
                    chosen = [
                        v
                        for v, (server, tier) in enumerate(places.names)
                        if server in servers
                        and (row.tiers is None or tier in row.tiers)
                    ]
                    parts = [row.name]
                    if row.layers == "each" and layers:
                        parts.append(f"layer {layers[0]}")
                    if row.experts == "each":
                        layer = int(self.model.layer_of[experts[0]])
                        expert = int(experts[0] - self.model.layer_start[layer])
                        parts.append(f"expert ({layer}, {expert})")
                    if row.servers == "each":
                        parts.append(servers[0])
                    yield CountRow(
                        name=", ".join(parts),
                        experts=experts,
                        places=np.array(chosen, dtype=np.int64),
                        formats=formats,
                        lower=low,
                        upper=high,
                    )

    def read_uniform(self) -> tuple[UniformGroup, ...]:
        groups = []
        self.unique([row.name for row in self.spec.limits.uniform], "limits.uniform")
        for position, row in enumerate(self.spec.limits.uniform):
            where = f"limits.uniform[{position}]"
            layer_sets: list[list[int] | None] = (
                [[layer] for layer in range(self.num_layers)]
                if row.layers == "each"
                else [None if row.layers is None else list(row.layers)]
            )
            for layers in layer_sets:
                label = (
                    f", layer {layers[0]}" if row.layers == "each" and layers else ""
                )
                groups.append(
                    UniformGroup(
                        name=row.name + label,
                        experts=self.experts_of(layers, row.experts, where),
                    )
                )
        return tuple(groups)

    def read_caps(self, links: list[tuple[int, int]]) -> tuple[BudgetCap, ...]:
        caps = []
        for position, row in enumerate(self.spec.limits.budgets):
            where = f"limits.budgets[{position}]"
            limit = self.number(row.max, "tokens/s", f"{where}.max")
            link = None
            if row.link is not None:
                if row.from_ is not None or row.to is not None:
                    self.fail(where, "got a link and a pair, expected one of them")
                ends = tuple(
                    self.index(self.servers, name, f"{where}.link", "server")
                    for name in row.link
                )
                if ends not in links:
                    self.fail(f"{where}.link", f"got {row.link}, expected a link")
                link = links.index((ends[0], ends[1]))
            one, other = (
                None
                if name is None
                else self.index(self.servers, name, where, "server")
                for name in (row.from_, row.to)
            )
            if link is None and one is None and other is None:
                self.fail(where, "got no from, to or link, expected one of them")
            if row.layer == "each":
                layers: list[int | None] = list(range(self.num_layers))
            else:
                layers = [row.layer]
                if row.layer is not None and not 0 <= row.layer < self.num_layers:
                    self.fail(
                        f"{where}.layer",
                        f"got {row.layer}, expected 0 to {self.num_layers - 1}",
                    )
            caps += [
                BudgetCap(
                    layer=layer,
                    from_server=one,
                    to_server=other,
                    link=link,
                    max_tokens_per_s=limit,
                )
                for layer in layers
            ]
        return tuple(caps)

    def read_copies(
        self,
        written: Sequence[CopySpec],
        where: str,
        places: _Places,
        *,
        one: bool = False,
    ) -> NDArray[np.int64]:
        """Expand patterns of copies; ``one`` asks for exactly one copy each."""
        names = [f.name for f in self.formats]
        found: set[tuple[int, int, int]] = set()
        for position, row in enumerate(written):
            at = f"{where}[{position}]"
            if row.server is not None:
                self.index(self.servers, row.server, f"{at}.server", "server")
            experts = self.experts_of(
                None if row.layer is None else [row.layer],
                None if row.expert is None else [row.expert],
                at,
            )
            chosen = [
                v
                for v, (server, tier) in enumerate(places.names)
                if row.server in (None, server) and row.tier in (None, tier)
            ]
            formats = (
                range(len(names))
                if row.format is None
                else [self.index(names, row.format, f"{at}.format", "format")]
            )
            if not chosen:
                self.fail(f"{at}.tier", f"got {row.tier!r}, expected a tier")
            if one and len(experts) * len(chosen) * len(formats) != 1:
                self.fail(
                    at, "expected one copy: layer, expert, server, tier and format"
                )
            found.update(
                (int(i), v, b) for i in experts for v in chosen for b in formats
            )
        return np.array(sorted(found), dtype=np.int64).reshape(-1, 3)

    def check_places(
        self, allowed: NDArray[np.bool_], forbidden: NDArray[np.int64]
    ) -> None:
        """Refuse an expert that no place may hold in any format, whatever its room."""
        if self.spec.limits.allow_missing:
            return
        runs = allowed[forbidden[:, 1], forbidden[:, 2]]
        lost = np.bincount(forbidden[runs, 0], minlength=self.num_experts)
        gone = np.flatnonzero(lost >= allowed.sum())
        if len(gone):
            layer = int(self.model.layer_of[gone[0]])
            expert = int(gone[0] - self.model.layer_start[layer])
            self.fail(
                "limits.forbid" if allowed.any() else "cluster.servers",
                f"got no place that may hold expert {expert} of layer {layer} in any "
                "format, expected one",
            )

    def read_weights(self, num_samples: int) -> NDArray[np.float64]:
        objective = self.spec.objective
        weights = np.array([getattr(objective, term) for term in TERMS])
        for term, weight in zip(TERMS, weights, strict=True):
            self.bounded(float(weight), f"objective.{term}")
        if not weights.any():
            self.fail("objective", "got no weight, expected at least one term > 0")
        roam = self.spec.dataflow == "roam"
        for term in ("parallel", "fluid") if roam else ("pair",):
            if weights[TERMS.index(term)] > 0:
                self.fail(
                    f"objective.{term}",
                    f"got a weight, but dataflow {self.spec.dataflow!r} has no such "
                    "term",
                )
        if (weights[TERMS.index("parallel")] or weights[TERMS.index("fluid")]) and (
            not num_samples
        ):
            self.fail(
                "model.profile.sample_experts",
                "missing, or no token is of a domain in use; expected sampled tokens "
                "for the term 'parallel' or 'fluid'",
            )
        return weights.astype(np.float64)

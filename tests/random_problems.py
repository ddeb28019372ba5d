"""Small random instances with every row and feature switched on and off.

Limits are drawn around a random plan (the witness), so that most instances are feasible
and tight; with ``infeasible`` some limit lies well under what the witness needs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from hypothesis import strategies as st
from oracle import copy_sets

from meldopt.builder import build_problem
from meldopt.instance import (
    ApplicationSpec,
    BudgetSpec,
    ClusterSpec,
    CopySpec,
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
    UniformSpec,
    WorkloadSpec,
)
from meldopt.plan import Plan
from meldopt.score import score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

HUGE = 1e15
"""A capacity that binds nothing."""

CHANCE = {
    "integers": 0.3,  # small whole numbers instead of realistic magnitudes
    "multi_hop": 0.3,  # a line or a one-way ring instead of all pairs
    "asymmetric": 0.4,  # each direction of a link has its own numbers
    "two_tiers": 0.3,
    "shared_processor": 0.3,  # tiers of a server share one, else each its own
    "sizes": 0.2,  # an array of sizes instead of parameters x bits
    "signed_loss": 0.1,
    "prune": 0.4,
    "fuse": 0.4,
    "similar": 0.3,
    "hosts": 0.2,
    "samples": 0.3,
    "zero_rate": 0.2,
    "uncalled": 0.2,
    "memory": 0.7,
    "compute": 0.4,
    "link": 0.4,
    "budgets": 0.3,
    "quality": 0.4,
    "latency": 0.3,
    "trust": 0.2,
    "coverage": 0.15,
    "count": 0.3,
    "uniform": 0.2,
    "pin": 0.2,
    "forbid": 0.3,
    "max_copies": 0.4,
    "allow_missing": 0.15,
    "distance": 0.4,  # roam: a matrix instead of transfer times
    "infeasible": 0.1,
}
"""Switches, and how often each is on when nothing is said."""

TERMS_OF = {
    "home": ("serial", "bottleneck", "traffic", "energy", "quality", "fluid"),
    "roam": ("serial", "bottleneck", "traffic", "energy", "quality", "pair"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A random instance with its problem and the plan its limits are drawn around."""

    instance: Instance
    problem: Problem
    witness: Plan
    switches: dict[str, Any]


def random_instance(seed: int, **switches: Any) -> Instance:
    """Make a small instance.

    Parameters
    ----------
    seed
        Decides everything that the switches leave open.
    switches
        Any of `CHANCE` as True or False; ``dataflow``; ``terms``, a tuple of names of
        terms to weigh; ``placements``, about how many placements there may be.
    """
    return random_case(seed, **switches).instance


def instances(**switches: Any) -> st.SearchStrategy[Instance]:
    """Strategy of small instances."""
    return cases(**switches).map(lambda case: case.instance)


def cases(**switches: Any) -> st.SearchStrategy[Case]:
    """Strategy of small instances with their problems and witnesses."""
    return st.integers(0, 2**32 - 1).map(lambda seed: random_case(seed, **switches))


def random_case(seed: int, **switches: Any) -> Case:
    """Make a small instance with its problem and a plan that it is built around."""
    for attempt in range(100):
        maker = _Maker(np.random.default_rng([seed, attempt]), dict(switches))
        case = maker.make()
        if case is not None:
            return case
    raise RuntimeError(f"seed {seed}: no witness for {switches}")


class _Maker:
    def __init__(self, rng: np.random.Generator, asked: dict[str, Any]) -> None:
        self.rng = rng
        unknown = set(asked) - set(CHANCE) - {"dataflow", "terms", "placements"}
        if unknown:
            raise ValueError(f"unknown switches: {sorted(unknown)}")
        on: dict[str, Any] = {
            name: bool(rng.random() < p) for name, p in CHANCE.items()
        }
        on["dataflow"] = "roam" if rng.random() < 0.3 else "home"
        on["placements"] = 20_000
        on |= asked
        self.roam = on["dataflow"] == "roam"
        if "terms" not in on:
            names = [
                name
                for name in TERMS_OF[on["dataflow"]]
                if name != "fluid" or on["samples"]
            ]
            count = min(len(names), 1 + int(rng.integers(3)))
            on["terms"] = tuple(rng.choice(names, count, replace=False).tolist())
        if "fluid" in on["terms"] or "parallel" in on["terms"]:
            on["samples"] = True
        if self.roam:
            for name in ("prune", "fuse", "similar", "samples", "coverage", "hosts"):
                on[name] = bool(asked.get(name, False))
        self.on = on

    # -- numbers -------------------------------------------------------------------
    def number(self, low: float, high: float, small: tuple[int, int]) -> float:
        """Log-uniform in a realistic range, or a small whole number."""
        if self.on["integers"]:
            return float(self.rng.integers(small[0], small[1] + 1))
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def sub(self, items: list[Any], at_least: int = 1) -> list[Any]:
        """Return a random subset, in order."""
        count = int(self.rng.integers(at_least, len(items) + 1))
        keep = sorted(self.rng.choice(len(items), count, replace=False).tolist())
        return [items[k] for k in keep]

    # -- parts -----------------------------------------------------------------------
    def shape(self) -> None:
        rng, on = self.rng, self.on
        tiers = 2 if on["two_tiers"] else 1
        for attempt in itertools.count():
            if attempt % 20 == 0:
                self.experts = rng.integers(2, 4, int(rng.integers(1, 4))).tolist()
            self.num_servers = int(rng.integers(2, 4))
            num_formats = int(rng.integers(1, 4))
            if self.roam or (on["max_copies"] and not on["coverage"]):
                self.max_copies = 1
            elif on["max_copies"]:
                self.max_copies = 2
            else:
                self.max_copies = self.num_servers
            each = self.num_servers * tiers * num_formats
            if self.max_copies > 1:
                each = (1 + tiers * num_formats) ** self.num_servers
            if each ** sum(self.experts) <= on["placements"]:
                break
        self.servers = [f"s{n}" for n in range(self.num_servers)]
        self.formats = ["w8", "w4", "w2"][:num_formats]
        self.num_experts = sum(self.experts)
        self.start = np.concatenate([[0], np.cumsum(self.experts)])
        self.num_domains = int(rng.integers(1, 3))

    def model(self) -> ModelSpec:
        rng = self.rng
        self.top_k = int(rng.integers(1, min(self.experts) + 1))
        kind = rng.random()
        return ModelSpec(
            domains=[f"d{n}" for n in range(self.num_domains)],
            layers=len(self.experts),
            experts=list(self.experts),
            top_k=float(self.top_k),
            parameters_per_expert=self.number(1e6, 5e8, (1, 9)),
            bytes_out=self.number(2e3, 2e4, (1, 3)),
            bytes_back=self.number(2e3, 2e4, (0, 3)),
            backbone=self.number(1e6, 1e9, (0, 4)) if kind < 0.5 else 0.0,
            context=self.number(1e6, 1e8, (0, 2)) if kind < 0.3 else 0.0,
            fuse_factor=float(rng.choice([0.0, 0.25, 0.5])),
            calibration=float(rng.choice([1.0, 0.5])),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        rng, on = self.rng, self.on
        num, layers, doms = self.num_experts, len(self.experts), self.num_domains
        parts = []
        for width in self.experts:
            weight = rng.dirichlet(np.full(width, 2.0), size=doms)
            if on["integers"]:
                weight = np.full((doms, width), 1.0 / width)
            if on["uncalled"] and rng.random() < 0.6 and width > 1:
                weight[:, int(rng.integers(width))] = 0.0
                weight /= weight.sum(axis=1, keepdims=True)
            parts.append(weight * self.top_k)
        calls = np.concatenate(parts, axis=1)
        arrays: dict[str, NDArray[Any]] = {"calls": calls}
        if on["sizes"]:
            arrays["size"] = np.array(
                [
                    [self.number(1e6, 1e9, (1, 9)) for _ in self.formats]
                    for _ in range(num)
                ]
            )
        scale = np.array([1.0, 3.0, 10.0])[: len(self.formats)]
        if on["integers"]:
            loss = rng.integers(0, 4, (doms, num, len(scale))).astype(float)
        else:
            loss = 1e-4 * scale * rng.uniform(0.2, 2.0, (doms, num, len(scale)))
        if on["signed_loss"]:
            loss *= rng.choice([-1.0, 1.0], loss.shape)
        if rng.random() < 0.7:
            arrays["loss"] = loss
        elif (calls > 0).any(axis=0).all():
            arrays["kl"] = loss * calls[:, :, None]
            arrays["kl_calls"] = calls
        unit = 1.0 if on["integers"] else 1e-4
        for name in ("prune", "fuse"):
            if not on[name]:
                continue
            segments = int(rng.integers(1, 3))
            width = rng.uniform(0.05, 0.5, (doms, layers, segments))
            if name == "prune" and (on["allow_missing"] or rng.random() < 0.3):
                width /= width.sum(axis=-1, keepdims=True)  # all calls may go
            if name == "fuse" and rng.random() < 0.3:
                width[..., 0] = 0.0
            growing = np.sort(rng.uniform(0.5, 20.0, width.shape), axis=-1) * unit
            arrays[f"{name}_width"], arrays[f"{name}_loss"] = width, growing
        if on["similar"]:
            pairs = [
                pair
                for a, b in itertools.pairwise(self.start.tolist())
                for pair in itertools.permutations(range(a, b), 2)
            ]
            chosen = self.sub(pairs)
            arrays["similar"] = np.array(chosen)
            arrays["similar_loss"] = unit * rng.uniform(0.1, 5.0, (doms, len(chosen)))
        if on["samples"]:
            tokens = int(rng.integers(2, 5))
            experts = np.full((tokens, layers, self.top_k), -1)
            for t, layer in itertools.product(range(tokens), range(layers)):
                called = np.flatnonzero(calls[0, slice(*self.start[layer : layer + 2])])
                count = min(len(called), self.top_k)
                experts[t, layer, :count] = rng.choice(called, count, replace=False)
            if rng.random() < 0.3:
                experts[0, 0, 0] = -1
            arrays["sample_experts"] = experts
            # All of the first domain, which some demand surely has.
            arrays["sample_domain"] = np.zeros(tokens, dtype=np.int64)
        if self.roam:
            self.paths(arrays)
        return arrays

    def paths(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Pairs along the layers and inside some, entry and exit."""
        rng, doms = self.rng, self.num_domains
        pairs = []
        for layer in range(len(self.experts)):
            mine = range(*self.start[layer : layer + 2].tolist())
            if layer:
                before = range(*self.start[layer - 1 : layer + 1].tolist())
                pairs += list(itertools.product(before, mine))
            pairs += [
                pair for pair in itertools.permutations(mine, 2) if rng.random() < 0.3
            ]
        pairs = [pair for pair in pairs if rng.random() < 0.8]
        if rng.random() < 0.2 and self.num_experts > 2:
            back = (self.num_experts - 1, 0)  # any two experts may be a pair
            pairs = [pair for pair in pairs if pair != back] + [back]
        whole = self.on["integers"]
        weight = rng.uniform(0.0, 1.0, (doms, len(pairs)))
        weight *= rng.random(weight.shape) < 0.8
        entry = np.zeros((doms, self.num_experts))
        entry[:, : self.experts[0]] = rng.uniform(0, 1, (doms, self.experts[0]))
        exits = np.zeros((doms, self.num_experts))
        last = int(self.start[-2])
        exits[:, last:] = rng.uniform(0, 1, (doms, self.experts[-1]))
        if pairs:
            arrays["pairs"] = np.array(pairs)
            arrays["pair_weight"] = np.ceil(3 * weight) if whole else weight
        arrays["entry"] = np.ceil(2 * entry) if whole else entry
        arrays["exit"] = np.ceil(2 * exits) if whole else exits

    def cluster(self) -> ClusterSpec:
        rng, on = self.rng, self.on
        servers = []
        for name in self.servers:
            tiers = {}
            for tier in ("gpu", "ram")[: 2 if on["two_tiers"] else 1]:
                runs = self.formats if rng.random() < 0.7 else self.sub(self.formats)
                slow = 1.0 if tier == "gpu" else 0.1
                tiers[tier] = TierSpec(
                    capacity=HUGE,
                    read=slow * self.number(1e9, 1e11, (1, 20)),
                    compute={b: slow * self.number(1e11, 1e13, (1, 20)) for b in runs},
                    formats=None if rng.random() < 0.5 else list(self.formats),
                    processor=None if on["shared_processor"] else tier,
                    power=self.number(10, 400, (0, 5)),
                )
            servers.append(ServerSpec(name=name, tiers=tiers))
        pairs = list(itertools.combinations(self.servers, 2))
        directed = [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
        links = []
        num = self.num_servers
        if on["multi_hop"] and num > 2:
            order = rng.permutation(num).tolist()
            ring = [
                (self.servers[order[n]], self.servers[order[(n + 1) % num]])
                for n in range(num)
            ]
            if rng.random() < 0.5:
                directed = ring  # one way round
            else:
                pairs = ring[:-1]
                directed = pairs + [(b, a) for a, b in pairs]
        if on["asymmetric"] or (len(directed) == num and on["multi_hop"]):
            links = [self.link(None, a, b) for a, b in directed]
        else:
            links = [self.link((a, b), None, None) for a, b in pairs]
        distance = None
        if self.roam and on["distance"]:
            distance = [
                [
                    0.0
                    if s == t and rng.random() < 0.7
                    else self.number(1e-5, 1e-1, (0, 5))
                    for t in range(num)
                ]
                for s in range(num)
            ]
        return ClusterSpec(servers=servers, links=links, distance=distance)

    def link(
        self, between: tuple[str, str] | None, one: str | None, other: str | None
    ) -> LinkSpec:
        return LinkSpec(
            between=between,
            from_=one,
            to=other,
            bandwidth=self.number(1e6, 1e9, (1, 6)),
            latency=self.number(1e-5, 1e-2, (0, 3)),
            energy=self.number(1e-9, 1e-6, (0, 2)),
        )

    def workload(self) -> WorkloadSpec:
        rng, on = self.rng, self.on
        names = ["chat", "code"][: int(rng.integers(1, 3))]
        hosts = None
        if on["hosts"]:
            count = len(self.experts) + int(rng.integers(2))
            hosts = rng.choice(self.servers, count).tolist()
        keys = list(itertools.product(names, self.servers))
        count = min(len(keys), int(rng.integers(1, 4)))
        picked = rng.choice(len(keys), count, replace=False).tolist()
        demands = [
            DemandSpec(
                application=keys[n][0],
                home=keys[n][1],
                rate=self.number(0.5, 50, (1, 4)),
            )
            for n in sorted(picked)
        ]
        if on["zero_rate"] and len(demands) > 1:
            demands[0] = msgspec.structs.replace(demands[0], rate=0.0)
        applications = []
        for name in names:
            homes = {d.home for d in demands if d.application == name}
            homes |= set(hosts or ())
            trusted = None
            if on["trust"] and rng.random() < 0.8:
                trusted = [
                    s for s in self.servers if s in homes or rng.random() < 0.4
                ] or None
            mix: str | dict[str, float] | None = "d0"
            if self.num_domains == 2 and rng.random() < 0.5:
                mix = {"d0": 1.0, "d1": float(rng.integers(1, 4))}
            applications.append(ApplicationSpec(name=name, domain=mix, trusted=trusted))
        return WorkloadSpec(applications=applications, demands=demands, hosts=hosts)

    # -- the whole -------------------------------------------------------------------
    def make(self) -> Case | None:
        rng, on = self.rng, self.on
        self.shape()
        model = self.model()
        self.kept_arrays = arrays = self.arrays()
        uniform = []
        if on["uniform"]:
            uniform = [
                UniformSpec(name="same", layers="each" if rng.random() < 0.5 else [0])
            ]
        coverage: Any = None
        if on["coverage"]:
            coverage = (
                "any-server"
                if rng.random() < 0.5
                else [[name] for name in self.servers[:1]]
            )
        spec = InstanceSpec(
            format_version=1,
            name="random",
            dataflow="roam" if self.roam else "home",
            model=model,
            formats=[
                FormatSpec(name=name, bits_per_weight=bits)
                for name, bits in zip(self.formats, (8.0, 4.5, 2.25), strict=False)
            ],
            cluster=self.cluster(),
            workload=self.workload(),
            limits=LimitsSpec(
                busy=1e12,
                link_busy=1e12,
                reuse=float(rng.choice([1.0, 4.0])),
                copies=self.max_copies if on["max_copies"] else None,
                allow_missing=on["allow_missing"],
                coverage=coverage,
                uniform=uniform,
            ),
        )
        loose = build_problem(Instance(spec=spec, arrays=arrays))
        witness = self.witness(loose)
        if witness is None:
            return None
        spec = self.tighten(spec, loose, witness)
        instance = Instance(spec=spec, arrays=arrays)
        problem = build_problem(instance)
        return Case(
            instance=instance,
            problem=problem,
            witness=Plan.of(problem, witness.copies, **witness.arrays()),
            switches=on,
        )

    def witness(self, problem: Problem) -> Plan | None:
        rng = self.rng
        sets = [
            copy_sets(problem, i, single=self.roam) for i in range(problem.num_experts)
        ]
        if not all(sets):
            return None
        for _ in range(30):
            held = [options[int(rng.integers(len(options)))] for options in sets]
            if any(
                len({b for i in group.experts.tolist() for _, _, b in held[i]}) > 1
                for group in problem.uniform_groups
            ):
                continue
            plan = random_plan(problem, np.array(sorted(sum(held, ())), int), rng)
            if score(problem, plan).feasible:
                return plan
        return None

    def tighten(
        self, spec: InstanceSpec, problem: Problem, witness: Plan
    ) -> InstanceSpec:
        """Draw every limit around the witness."""
        rng, on = self.rng, self.on
        judged = score(problem, witness)
        value = {(row.row, row.where): row.value for row in judged.rows}
        replace = msgspec.structs.replace
        wanted = [
            name
            for name in ("memory", "compute", "link", "quality", "latency", "budgets")
            if on[name]
        ]
        broken = str(rng.choice(wanted)) if on["infeasible"] and wanted else ""

        def slack(row: str) -> float:
            if row == broken:
                return 0.4
            return float(rng.choice([1.0 + 1e-4, 1.02, 1.2, 2.0]))

        # Memory.
        smallest = float(problem.size_bytes.min())
        servers = list(spec.cluster.servers)
        if on["memory"]:
            for n, server in enumerate(servers):
                tiers = dict(server.tiers or {})
                for tier in tiers:
                    v = problem.labels.places.index((server.name, tier))
                    used = value["memory", f"{server.name}/{tier}"]
                    room = used * slack("memory")
                    if not used:
                        room = smallest * float(rng.choice([0.5, 1.0, 2.5]))
                    elif on["integers"] and broken != "memory":
                        room = used + float(rng.integers(0, 3)) * smallest
                    tiers[tier] = replace(
                        tiers[tier], capacity=float(problem.reserve_bytes[v]) + room
                    )
                servers[n] = replace(server, tiers=tiers)
        limits = spec.limits
        # Processors and links share one factor each: scale it to the busiest.
        busiest = max(x for (row, _), x in value.items() if row == "compute")
        fullest = max(
            (
                x / float(problem.link_bandwidth[k])
                for k, x in enumerate(
                    value["link", " -> ".join(ends)] for ends in problem.labels.links
                )
            ),
            default=0.0,
        )
        if on["compute"] and busiest > 0:
            limits = replace(limits, busy=busiest * slack("compute"))
        if on["link"] and fullest > 0:
            limits = replace(limits, link_busy=fullest * slack("link"))
        # Applications.
        applications = list(spec.workload.applications)
        loose = problem.replace(
            quality_budget=np.full(problem.num_applications, 1e12),
            latency_target=np.full(problem.num_applications, 1e12),
        )
        means = {(row.row, row.where): row.value for row in score(loose, witness).rows}
        for g, application in enumerate(applications):
            if on["quality"] and rng.random() < 0.8:
                nats = means["quality", application.name]
                applications[g] = replace(
                    applications[g],
                    quality_budget=max(nats, 1e-5) * slack("quality"),
                )
            if on["latency"] and rng.random() < 0.8:
                seconds = means["latency", application.name]
                applications[g] = replace(
                    applications[g], latency_target=seconds * slack("latency")
                )
        limits = self.tighten_copies(spec, limits, problem, witness)
        if on["budgets"]:
            limits = replace(
                limits, budgets=self.tighten_budgets(spec, problem, witness, slack)
            )
        weights = {}
        for term in on["terms"]:
            size = abs(judged.terms.get(term, 0.0))
            share = float(rng.integers(1, 4))
            weights[term] = share if on["integers"] else share / (size or 1.0)
        return replace(
            spec,
            cluster=replace(spec.cluster, servers=servers),
            workload=replace(spec.workload, applications=applications),
            limits=limits,
            objective=ObjectiveSpec(**weights),
        )

    def tighten_budgets(
        self, spec: InstanceSpec, problem: Problem, witness: Plan, slack: Any
    ) -> list[BudgetSpec]:
        rng = self.rng
        links = [
            ends
            for link in spec.cluster.links
            for ends in (
                [link.between, link.between[::-1]]
                if link.between
                else [(link.from_, link.to)]
            )
        ]
        caps = []
        for _ in range(int(rng.integers(1, 3))):
            layer: Any = (
                None if rng.random() < 0.4 else int(rng.integers(len(self.experts)))
            )
            ends: dict[str, Any]
            if rng.random() < 0.4:
                ends = {"link": tuple(links[int(rng.integers(len(links)))])}
            else:
                one, other = rng.choice(self.servers, 2, replace=False).tolist()
                ends = {"from_": one, "to": other}
                if rng.random() < 0.3:
                    del ends["to" if rng.random() < 0.5 else "from_"]
            caps.append(BudgetSpec(layer=layer, max=HUGE, **ends))
        capped = build_problem(
            Instance(
                spec=msgspec.structs.replace(
                    spec, limits=msgspec.structs.replace(spec.limits, budgets=caps)
                ),
                arrays=self.kept_arrays,
            )
        )
        plan = Plan.of(capped, witness.copies, **witness.arrays())
        rows = [row for row in score(capped, plan).rows if row.row == "budget"]
        return [
            msgspec.structs.replace(cap, max=row.value * slack("budgets"))
            for cap, row in zip(caps, rows, strict=True)
        ]

    def tighten_copies(
        self,
        spec: InstanceSpec,
        limits: LimitsSpec,
        problem: Problem,
        witness: Plan,
    ) -> LimitsSpec:
        """Draw count rows, pins and forbids that the witness satisfies."""
        rng, on = self.rng, self.on
        replace = msgspec.structs.replace
        copies = witness.copies.tolist()
        if on["count"]:
            rows = []
            for n in range(int(rng.integers(1, 3))):
                layer = int(rng.integers(len(self.experts)))
                formats = self.sub(self.formats) if rng.random() < 0.6 else None
                servers = self.sub(self.servers) if rng.random() < 0.6 else None
                inside = sum(
                    problem.layer_of[i] == layer
                    and (formats is None or self.formats[b] in formats)
                    and (
                        servers is None
                        or self.servers[int(problem.server_of[v])] in servers
                    )
                    for i, v, b in copies
                )
                low = int(inside) if rng.random() < 0.7 else None
                high = (
                    int(inside) + int(rng.integers(2)) if rng.random() < 0.6 else None
                )
                if low is None and high is None:
                    continue
                rows.append(
                    CountSpec(
                        name=f"count {n}",
                        layers=[layer],
                        formats=formats,
                        servers=servers,
                        min=low,
                        max=high,
                    )
                )
            limits = replace(limits, count=rows)

        def spelled(i: int, v: int, b: int) -> CopySpec:
            layer = int(problem.layer_of[i])
            server, tier = problem.labels.places[v]
            return CopySpec(
                layer=layer,
                expert=i - int(self.start[layer]),
                server=server,
                tier=tier,
                format=self.formats[b],
            )

        if on["pin"] and copies:
            limits = replace(
                limits, pin=[spelled(*copies[int(rng.integers(len(copies)))])]
            )
        if on["forbid"]:
            held = {tuple(copy) for copy in copies}
            rest = [
                copy
                for i in range(problem.num_experts)
                for copy in itertools.product(
                    [i], range(problem.num_places), range(problem.num_formats)
                )
                if copy not in held
            ]
            if rest:
                picked = rng.choice(len(rest), min(len(rest), 3), replace=False)
                limits = replace(
                    limits, forbid=[spelled(*rest[n]) for n in sorted(picked.tolist())]
                )
        return limits


def random_plan(
    problem: Problem, copies: NDArray[np.int64], rng: np.random.Generator
) -> Plan:
    """Draw shares for fixed copies: some by the default rule, some mixed at random."""
    copies = copies.reshape(-1, 3)
    if problem.dataflow == "roam":
        return Plan.of(problem, copies)
    rows: dict[str, list[tuple[int, ...]]] = {
        name: [] for name in ("served", "fused", "substituted", "pruned")
    }
    values: dict[str, list[float]] = {name: [] for name in rows}

    def put(name: str, row: tuple[int, ...], share: float) -> None:
        rows[name].append(row)
        values[name].append(share)

    similar = {tuple(pair) for pair in problem.similar.tolist()}
    for q in range(problem.num_demands):
        g = int(problem.application_of[q])
        for i in range(problem.num_experts):
            layer = int(problem.layer_of[i])
            src, snk = int(problem.source[q, layer]), int(problem.sink[q, layer])
            serving, answering = [], []
            for c, (j, v, _) in enumerate(copies.tolist()):
                s = int(problem.server_of[v])
                routed = np.isfinite(
                    problem.route_latency[src, s] + problem.route_latency[s, snk]
                )
                if j == i and routed and problem.trusted[g, s]:
                    serving.append(c)
                elif (i, j) in similar and s == src:
                    answering.append(c)
            if serving and rng.random() < 0.5:
                continue  # the default rule
            left = 1.0
            widths = problem.prune_width[g, layer].tolist()
            for m, width in enumerate(widths):
                last = not serving and not answering
                share = width if last else width * float(rng.random())
                if share > 1e-6:
                    put("pruned", (q, i, m), share)
                    left -= share
            options = [("served", c) for c in serving]
            options += [("substituted", c) for c in answering]
            if not options:
                continue
            parts = rng.dirichlet(np.ones(len(options))) * left
            for (name, c), share in zip(options, parts.tolist(), strict=True):
                if share <= 1e-6:
                    continue
                put(name, (q, i, c), share)
                v = int(copies[c, 1])
                if name == "served" and problem.server_of[v] != src:
                    for m, width in enumerate(problem.fuse_width[g, layer].tolist()):
                        part = width * share * float(rng.random())
                        if part > 1e-6:
                            put("fused", (q, i, v, m), part)
    shares: dict[str, Any] = {}
    for name, width_ in (
        ("served", 3),
        ("fused", 4),
        ("substituted", 3),
        ("pruned", 3),
    ):
        shares[name] = np.array(rows[name], dtype=np.int64).reshape(-1, width_)
        shares[f"{name}_share"] = np.array(values[name], dtype=np.float64)
    return Plan.of(problem, copies, **shares)

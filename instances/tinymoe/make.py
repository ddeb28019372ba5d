"""Make the instances of the tiny measured MoE model.

    MELDOPT_DATA=… python instances/tinymoe/make.py

Reads ``tinymoe/`` of the data for development (the recordings of a model that this
project trained) and writes ``edge-4`` (home) and ``roam-3`` (roam) with their profiles.
``README.md`` says how each number came about.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt import build_problem, write_instance
from meldopt.instance import (
    ApplicationSpec,
    ClusterSpec,
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
    from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MELDOPT_DATA", FOLDER.parents[2] / "shared" / "data"))

FORMATS: list[str | FormatSpec] = [
    "bf16",
    "int4-g32",
    FormatSpec(name="int3-g32", bits_per_weight=4.0, precision="bf16"),
    "int2-g32",
]
SEQUENCES = 40  # recorded of each domain
CALIBRATION = (0, 5, 16, 27, 39)  # those that the KL was measured on
SENSITIVITY = (0, 5, 11, 16, 22, 27, 33, 39)  # those of quant_delta, drop and fuse
SAMPLES = 40  # tokens of each domain for the term `parallel`
DROPPED = (0.25, 0.5, 0.75)  # fractions of tokens whose smaller call is dropped
COSINES = (0.95, 0.9, 0.8)  # thresholds of fusion
SIMILAR = 0.25  # least CKA of two experts that answer for each other

ABOUT = {
    "source": "a small MoE language model trained for this project; tinymoe/README.md",
    "licence": "Apache-2.0",
}


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What was recorded of the model: D domains, L layers, E experts, T tokens."""

    domains: list[str]
    experts: NDArray[np.int64]  # (T, L, 2), largest gate first
    domain: NDArray[np.int64]  # (T,)
    sequence: NDArray[np.int64]  # (T,) within the domain
    kl: NDArray[np.float64]  # (L, E, 3) nats per token at 4, 3 and 2 bits
    removal: NDArray[np.float64]  # (L, E) loss increase without the expert
    cka: NDArray[np.float64]  # (L, E, E)
    drop: dict[str, Any]
    fuse: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and experts of a layer."""
        return self.kl.shape[:2]


def read() -> Recorded:
    """Read the recordings."""
    folder = DATA / "tinymoe"
    with np.load(folder / "trace.npz") as trace:
        experts = trace["expert_ids"].astype(np.int64)
        domain = trace["domain"].astype(np.int64)
        sequence = trace["sequence"].astype(np.int64) % SEQUENCES
        domains = [str(name) for name in trace["domain_names"]]
    with np.load(folder / "kl.npz") as measured:
        if measured["bits"].tolist() != [4, 3, 2]:
            raise SystemExit("kl.npz: expected bits 4, 3, 2")
        kl = np.maximum(measured["kl"].astype(np.float64), 0.0)
    with np.load(folder / "matrices.npz") as matrices:
        removed = matrices["quant_bits"].tolist().index(0)
        removal = matrices["quant_delta"][:, :, removed].astype(float).mean(axis=-1)
        cka = matrices["output_cka"].astype(np.float64)
    profile = json.loads((folder / "profile.json").read_text())
    return Recorded(
        domains=domains,
        experts=experts,
        domain=domain,
        sequence=sequence,
        kl=kl,
        removal=removal,
        cka=cka,
        drop=profile["drop"],
        fuse=profile["fuse"],
    )


def calls_of(
    recorded: Recorded, tokens: NDArray[np.bool_], slots: tuple[int, ...] = (0, 1)
) -> NDArray[np.float64]:
    """Count calls of each expert per token, of some tokens and gates; (L, E)."""
    num_l, num_e = recorded.shape
    chosen = recorded.experts[tokens][:, :, list(slots)]
    return np.array(
        [np.bincount(chosen[:, n].ravel(), minlength=num_e) for n in range(num_l)]
    ) / float(len(chosen))


def rising(slopes: list[float], widths: list[float]) -> NDArray[np.float64]:
    """Pool adjacent segments whose losses fall: the convex curve of least squares."""
    groups: list[tuple[float, float, int]] = []
    for slope, width in zip(slopes, widths, strict=True):
        groups.append((slope, width, 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (a, u, m), (b, v, n) = groups[-2:]
            groups[-2:] = [((a * u + b * v) / (u + v), u + v, m + n)]
    return np.concatenate([np.full(n, slope) for slope, _, n in groups])


def prune_curve(
    recorded: Recorded,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width in calls and loss per call of dropping the smallest gates; (1, L, M)."""
    at = [recorded.drop["r"].index(r) for r in DROPPED]
    table = np.array(recorded.drop["per_layer"])[:, at]  # (L, M) nats per token
    # The first quarter is within noise of nothing: no layer below the mean of layers.
    table[:, 0] = np.maximum(table[:, 0], table[:, 0].mean())
    tokens = np.diff([0.0, *DROPPED])  # a token drops one of its two calls
    loss = np.array(
        [
            rising((np.diff([0.0, *row]) / tokens).tolist(), tokens.tolist())
            for row in table
        ]
    )
    width = np.tile(tokens / 2, (len(table), 1))
    return width[None], loss[None]


def fuse_curve(
    recorded: Recorded,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width in calls and loss per call of fusing similar tokens; (1, L, M)."""
    width, loss = [], []
    for row in recorded.fuse["per_layer"]:
        steps = {step["threshold"]: step for step in row}
        share = np.diff([0.0, *(steps[c]["fused_fraction"] for c in COSINES)])
        nats = np.diff([0.0, *(steps[c]["delta_loss"] for c in COSINES)])
        width.append(share)
        loss.append(rising((nats / (2 * share)).tolist(), share.tolist()))
    return np.array(width)[None], np.array(loss)[None]


def similar(recorded: Recorded) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of experts of largest CKA, each in one; (J, 2) and nats per call (1, J)."""
    num_l, num_e = recorded.shape
    tokens = np.isin(recorded.sequence, SENSITIVITY)
    each = recorded.removal / np.maximum(calls_of(recorded, tokens), 1e-9)
    pairs, loss = [], []
    for layer in range(num_l):
        # Where removing an expert seemed to help, the median of its layer stands.
        typical = np.median(each[layer])
        cost = np.where(each[layer] > 0, each[layer], typical)
        taken: set[int] = set()
        above = np.argwhere(np.triu(recorded.cka[layer], 1) >= SIMILAR)
        for i, j in sorted(
            above.tolist(), key=lambda ij: -recorded.cka[layer, ij[0], ij[1]]
        ):
            if taken & {i, j}:
                continue
            taken |= {i, j}
            for one, other in ((i, j), (j, i)):
                pairs.append((layer * num_e + one, layer * num_e + other))
                loss.append(cost[one] * (1 - recorded.cka[layer, i, j]))
    order = np.argsort([one * 1000 + other for one, other in pairs])
    return np.array(pairs)[order], np.array(loss)[order][None]


def samples(recorded: Recorded) -> dict[str, NDArray[np.int64]]:
    """Evenly spaced tokens of each domain."""
    picked = []
    for d in range(len(recorded.domains)):
        tokens = np.flatnonzero(recorded.domain == d)
        picked.append(tokens[np.linspace(0, len(tokens) - 1, SAMPLES).astype(int)])
    chosen = np.concatenate(picked)
    return {
        "sample_experts": recorded.experts[chosen],
        "sample_domain": recorded.domain[chosen],
    }


def losses(recorded: Recorded) -> dict[str, NDArray[np.float64]]:
    """KL by format, measured over all domains, and the calls it was measured on."""
    num_l, num_e = recorded.shape
    exact = np.zeros((num_l, num_e, 1))  # what is stored is what was measured against
    kl = np.concatenate([exact, recorded.kl], axis=2).reshape(1, num_l * num_e, -1)
    tokens = np.isin(recorded.sequence, CALIBRATION)
    return {"kl": kl, "kl_calls": calls_of(recorded, tokens).reshape(1, -1)}


def calls(recorded: Recorded) -> NDArray[np.float64]:
    """Count calls per token of each domain; (D, N)."""
    return np.array(
        [
            calls_of(recorded, recorded.domain == d).ravel()
            for d in range(len(recorded.domains))
        ]
    )


def paths(recorded: Recorded) -> dict[str, NDArray[Any]]:
    """Traversals of a roaming token: on to the next layer, and gathering in a layer."""
    num_l, num_e = recorded.shape
    num_d = len(recorded.domains)
    num_n = num_l * num_e
    table = np.zeros((num_d, num_n, num_n))
    first, second = recorded.experts[..., 0], recorded.experts[..., 1]
    for d in range(num_d):
        mine = recorded.domain == d
        count = float(mine.sum())
        for layer in range(num_l):
            here = layer * num_e + first[mine, layer]
            other = layer * num_e + second[mine, layer]
            np.add.at(table[d], (other, here), 1 / count)
            if layer:
                before = (layer - 1) * num_e + first[mine, layer - 1]
                np.add.at(table[d], (before, here), 1 / count)
                np.add.at(table[d], (before, other), 1 / count)
    pairs = np.argwhere(table.sum(axis=0) > 0)
    last = np.zeros((num_d, num_n))
    for d in range(num_d):
        tokens = recorded.domain == d
        last[d, -num_e:] = calls_of(recorded, tokens, (0,))[-1]
    entry = calls(recorded)
    entry[:, num_e:] = 0.0
    return {
        "pairs": pairs,
        "pair_weight": table[:, pairs[:, 0], pairs[:, 1]],
        "entry": entry,
        "exit": last,
    }


def model(recorded: Recorded, **changes: Any) -> ModelSpec:
    """Describe the model as it was built (`config_A.json`)."""
    num_l, num_e = recorded.shape
    arguments: dict[str, Any] = {
        "layers": num_l,
        "experts": num_e,
        "top_k": 2.0,
        "parameters_per_expert": 73728.0,  # 3 x 192 x 128
        "hidden_size": 192,
        "backbone": 2.0 * (8379072 - num_l * num_e * 73728),  # fp16
        "domains": recorded.domains,
        "loss_formats": ["bf16", "int4-g32", "int3-g32", "int2-g32"],
    }
    return ModelSpec(**(arguments | changes))


def server(name: str, capacity: str, read: str, flops: str, power: str) -> ServerSpec:
    """Make a small computer with one memory."""
    tier = TierSpec(capacity=capacity, read=read, compute={"bf16": flops}, power=power)
    return ServerSpec(name=name, tiers={"ram": tier})


APPLICATIONS = {
    "writing": {"prose_en": 1.0},
    "coding": {"python": 0.6, "c_header": 0.4},
    "manuals": {"man_en": 0.5, "man_de": 0.5},
}


def workload(
    budgets: dict[str, str], demands: list[tuple[str, str, float]]
) -> WorkloadSpec:
    """Three applications with their domains and budgets."""
    return WorkloadSpec(
        applications=[
            ApplicationSpec(name=name, domain=mix, quality_budget=budgets[name])
            for name, mix in APPLICATIONS.items()
        ],
        demands=[
            DemandSpec(application=name, home=home, rate=f"{rate:g} tokens/s")
            for name, home, rate in demands
        ],
    )


def edge(recorded: Recorded) -> Instance:
    """Four small computers on radio links, home dataflow, everything allowed."""
    prune_width, prune_loss = prune_curve(recorded)
    fuse_width, fuse_loss = fuse_curve(recorded)
    pairs, pair_loss = similar(recorded)
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name="tinymoe-edge-4",
            about=ABOUT | {"note": "four small computers; formats, copies, all curves"},
            model=model(recorded),
            formats=FORMATS,
            cluster=ClusterSpec(
                servers=[
                    server("attic", "3840 KiB", "60 MB/s", "1 GFLOP/s", "3 W"),
                    server("bench", "3520 KiB", "40 MB/s", "600 MFLOP/s", "2 W"),
                    server("cellar", "640 KiB", "25 MB/s", "300 MFLOP/s", "0.6 W"),
                    server("door", "1152 KiB", "120 MB/s", "2 GFLOP/s", "5 W"),
                ],
                links=[
                    LinkSpec(
                        between=("attic", "bench"),
                        bandwidth="1 Mbit/s",
                        latency="3 ms",
                        energy="1 uJ/B",
                    ),
                    LinkSpec(
                        between=("attic", "door"),
                        bandwidth="800 kbit/s",
                        latency="1.5 ms",
                        energy="1 uJ/B",
                    ),
                    LinkSpec(
                        between=("bench", "cellar"),
                        bandwidth="500 kbit/s",
                        latency="4 ms",
                        energy="2 uJ/B",
                    ),
                    LinkSpec(
                        between=("bench", "door"),
                        bandwidth="600 kbit/s",
                        latency="2.5 ms",
                        energy="1 uJ/B",
                    ),
                ],
            ),
            workload=workload(
                {"writing": "40 mnats", "coding": "30 mnats", "manuals": "35 mnats"},
                [
                    ("writing", "attic", 70),
                    ("coding", "bench", 50),
                    ("manuals", "attic", 20),
                    ("manuals", "bench", 30),
                ],
            ),
            objective=ObjectiveSpec(serial=1.0),
        ),
        arrays={
            "calls": calls(recorded),
            **losses(recorded),
            "prune_width": prune_width,
            "prune_loss": prune_loss,
            "fuse_width": fuse_width,
            "fuse_loss": fuse_loss,
            "similar": pairs,
            "similar_loss": pair_loss,
            **samples(recorded),
        },
    )


def roam(recorded: Recorded) -> Instance:
    """Three small computers, context replicated, one copy of each expert."""
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name="tinymoe-roam-3",
            about=ABOUT | {"note": "tokens stay where their expert is; one copy each"},
            dataflow="roam",
            model=model(recorded, context="288 KiB"),
            formats=FORMATS,
            cluster=ClusterSpec(
                servers=[
                    server("attic", "4480 KiB", "60 MB/s", "1 GFLOP/s", "3 W"),
                    server("bench", "4096 KiB", "40 MB/s", "600 MFLOP/s", "2 W"),
                    server("door", "1664 KiB", "120 MB/s", "2 GFLOP/s", "5 W"),
                ],
                links=[
                    LinkSpec(
                        between=("attic", "bench"), bandwidth="2 Mbit/s", latency="3 ms"
                    ),
                    LinkSpec(
                        between=("attic", "door"),
                        bandwidth="1 Mbit/s",
                        latency="1.5 ms",
                    ),
                    LinkSpec(
                        between=("bench", "door"),
                        bandwidth="1 Mbit/s",
                        latency="2.5 ms",
                    ),
                ],
            ),
            workload=workload(
                {"writing": "30 mnats", "coding": "25 mnats", "manuals": "30 mnats"},
                [
                    ("writing", "attic", 10),
                    ("coding", "bench", 8),
                    ("manuals", "bench", 4),
                ],
            ),
            limits=LimitsSpec(copies=1),
            objective=ObjectiveSpec(serial=1.0),
        ),
        arrays={"calls": calls(recorded), **losses(recorded), **paths(recorded)},
    )


def main() -> None:
    """Write both instances."""
    recorded = read()
    for name, instance in (("edge-4", edge(recorded)), ("roam-3", roam(recorded))):
        build_problem(instance)  # refuse to write what does not build
        write_instance(instance, FOLDER / f"{name}.json")


if __name__ == "__main__":
    main()

"""What is frozen: how every generated instance of the library was made.

`FROZEN` names family, seed and parameters of each; ``make.py freeze`` makes them. The
first ones stand here one by one, the others are a grid: cluster x model x traffic x
tightness. README.md says what each axis means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """How a bundled instance was generated.

    Attributes
    ----------
    seed, parameters, family
        As `meldopt.generate.generate` takes them.
    recipe
        Keep no arrays: reading generates them again.
    zipf
        Rates of the homes follow Zipf's law, 1 / rank, in the order of the servers.
    before
        Name of the instance that this one is a shifted twin of: the same model, cluster
        and rates, but half of the text of each application is of the next one's domain.
    """

    seed: int
    parameters: dict[str, Any] = field(default_factory=dict)
    family: str = "metro"
    recipe: bool = False
    zipf: bool = False
    before: str | None = None

    @property
    def planted(self) -> bool:
        """Whether a plan is planted in it."""
        return self.parameters.get("tightness") is not None


EDGE = {"radius_km": 15.0, "tightness": 0.004, "tight_links": 2}

CAMPUS = {
    "servers": [
        {
            "name": "lab",
            "device": "rtx-4090",
            "tiers": {"gpu": {"capacity": "20 GiB"}, "ram": {"capacity": "64 GiB"}},
        },
        {"name": "hall", "device": "jetson-orin-64"},
        {"name": "roof", "device": "l4"},
        {"name": "van", "device": "rtx-3060", "reserve": "2 GiB"},
    ],
    "links": [
        {"between": ["lab", "hall"], "bandwidth": "1 Gbit/s", "latency": "0.6 ms"},
        {"between": ["lab", "roof"], "bandwidth": "10 Gbit/s", "latency": "0.2 ms"},
        {"between": ["hall", "van"], "bandwidth": "80 Mbit/s", "latency": "9 ms"},
    ],
}

_FIRST: dict[str, Frozen] = {
    "mixtral-8x7b/campus-4": Frozen(
        family="explicit",
        seed=4,
        parameters={
            "model": "mixtral-8x7b",
            "domains": ["prose", "python"],
            "cluster": CAMPUS,
            "workload": {
                "applications": [
                    {"name": "chat", "domain": "prose", "quality_budget": "0.03 nats"},
                    {
                        "name": "code",
                        "domain": "python",
                        "quality_budget": "0.01 nats",
                        "latency_target": "180 ms",
                    },
                ],
                "demands": [
                    {"application": "chat", "home": "hall", "rate": "12 tokens/s"},
                    {"application": "chat", "home": "van", "rate": "3 tokens/s"},
                    {"application": "code", "home": "lab", "rate": "20 tokens/s"},
                ],
            },
            "coverage": True,
        },
    ),
    "mixtral-8x7b/star-3": Frozen(
        family="star",
        seed=3,
        parameters={"servers": 3, "coverage": False, "fit": 2.5},
    ),
    "mixtral-8x7b/cloud-7": Frozen(
        family="device-edge-cloud",
        seed=7,
        parameters={"fit": 2.0, "quality": ["50 mnats", "90 mnats"]},
    ),
    "mixtral-8x7b/metro-4": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "mixtral-8x7b",
            "servers": 4,
            "devices": ["rtx-4090", "l4", "rtx-4070", "jetson-orin-32"],
            "neighbours": 1,
            "fit": 1.5,
            "bandwidth": ["200 Mbit/s", "2 Gbit/s"],
            "latency": ["0.5 ms", "4 ms"],
            "quality": ["50 mnats", "80 mnats"],
            "curve_scale": 4.0,
            "curve_layers": 1,
            "prune": [0.03],
            "fuse": [0.3],
            "reuse": 8.0,
            "tightness": 0.0005,
        },
    ),
    "mixtral-8x7b/metro-10": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "mixtral-8x7b",
            "servers": 10,
            "devices": ["rtx-4090", "l4", "rtx-4070", "jetson-orin-32", "rtx-3060"],
            "ram": "16 GiB",
            "ram_servers": 2,
            "fit": 2.4,
            "bandwidth": ["100 Mbit/s", "1 Gbit/s"],
            "latency": ["0.2 ms", "3 ms"],
            "quality": ["30 mnats", "60 mnats"],
            "curve_scale": 4.0,
            "reuse": 16.0,
            "tight_links": 4,
        },
    ),
    "olmoe-1b-7b/metro-6": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "olmoe-1b-7b",
            "servers": 6,
            "devices": ["jetson-orin-nano-8", "rtx-3060", "jetson-orin-nx-16"],
            "fit": 1.8,
            "bandwidth": ["200 Mbit/s", "2 Gbit/s"],
            "latency": ["0.3 ms", "3 ms"],
            "quality": ["20 mnats", "50 mnats"],
            "curve_scale": 4.0,
            "reuse": 4.0,
        },
    ),
    "gpt-oss-20b/metro-8": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "gpt-oss-20b",
            "formats": ["int8-g128", "mxfp4", "int3-g64", "int2-g64"],
            "servers": 8,
            "devices": ["rtx-4090", "jetson-orin-nx-16", "rtx-3060", "a2"],
            "applications": 3,
            "ram": "8 GiB",
            "ram_servers": 1,
            "fit": 1.8,
            "bandwidth": ["200 Mbit/s", "2 Gbit/s"],
            "latency": ["0.2 ms", "3 ms"],
            "quality": ["15 mnats", "40 mnats"],
            "curve_scale": 4.0,
            "reuse": 8.0,
        },
    ),
    "qwen3-30b-a3b/metro-10": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "qwen3-30b-a3b",
            "servers": 10,
            "devices": ["rtx-4090", "l4", "rtx-3060", "jetson-orin-32"],
            "fit": 1.8,
            "bandwidth": ["500 Mbit/s", "4 Gbit/s"],
            "latency": ["0.2 ms", "3 ms"],
            "quality": ["20 mnats", "50 mnats"],
            "curve_scale": 8.0,
            "curve_layers": 12,
            "ram": "4 GiB",
            "ram_servers": 2,
        },
    ),
    "deepseek-v3/metro-16": Frozen(
        seed=1,
        recipe=True,
        parameters=EDGE
        | {
            "model": "deepseek-v3",
            "backbone_bits": 8.0,
            "formats": ["int6-g64", "int4-g64", "int3-g64", "int2-g64"],
            "servers": 16,
            "devices": ["l40s", "rtx-pro-6000-server", "a100-pcie", "rtx-a6000"],
            "fit": 1.3,
            "bandwidth": ["1 Gbit/s", "4 Gbit/s"],
            "latency": ["0.1 ms", "2 ms"],
            "quality": ["30 mnats", "60 mnats"],
            "curve_scale": 8.0,
            "curve_layers": 6,
            "reuse": 8.0,
            "ram": "32 GiB",
            "ram_servers": 2,
            "tight_links": 4,
        },
    ),
    "kimi-k2/metro-32": Frozen(
        seed=1,
        recipe=True,
        parameters=EDGE
        | {
            "model": "kimi-k2",
            "backbone_bits": 8.0,
            "formats": ["int6-g64", "int4-g64", "int3-g64", "int2-g64"],
            "servers": 32,
            "devices": ["l40s", "rtx-pro-6000-server", "a100-pcie", "rtx-a6000"],
            "fit": 1.15,
            "bandwidth": ["1 Gbit/s", "4 Gbit/s"],
            "latency": ["0.1 ms", "2 ms"],
            "quality": ["30 mnats", "60 mnats"],
            "curve_scale": 8.0,
            "curve_layers": 3,
            "reuse": 8.0,
            "ram": "16 GiB",
            "ram_servers": 2,
            "tight_links": 6,
        },
    ),
}


# -- the grid: cluster x model x traffic x tightness -----------------------------------

TIGHTNESS = {"loose": 0.25, "medium": 0.05, "tight": 0.005}
"""Slack of the caps around the planted plan."""

TRAFFIC: dict[str, dict[str, Any]] = {
    "even": {"skew": [1.05, 1.3], "drift": 0.03, "uneven": 1.0},
    "zipf": {"skew": [2.0, 5.0], "drift": 0.1, "uneven": 2.0},
    "domains": {
        "applications": 3,
        "skew": [2.2, 4.5],
        "drift": 0.3,
        "uneven": 20.0,
    },
}
"""Experts all alike and homes all alike; few busy experts and few busy homes; three
applications that call different experts, mixed differently at each home."""

_FEW = (
    "mixtral-8x7b",
    "dbrx",
    "granite-3-1b-a400m",
    "granite-3.1-3b-a800m",
    "phi-mini-moe",
    "phi-3.5-moe",
)
"""Models with few experts for each call, whose busiest are less busy over the mean: at
most four times where there are four experts for a call."""


def _traffic(kind: str, model: str) -> dict[str, Any]:
    """Return parameters of a kind of traffic that a model can have."""
    made = dict(TRAFFIC[kind])
    if kind != "even" and model in _FEW:
        made["skew"] = [1.8, 3.2]
    return made


SITES = [[0.0, 0.0], [0.3, 0.2], [-0.4, 0.1], [0.1, -0.5], [0.7, -0.3], [-0.2, 0.8]]
"""Buildings of a campus, in km."""

_SMALL = ["jetson-orin-nano-8", "rtx-3060", "jetson-orin-nx-16", "a2"]
_MIDDLE = ["rtx-4090", "l4", "rtx-4070", "jetson-orin-32"]
_LARGE = ["l40s", "rtx-pro-6000-server", "a100-pcie", "rtx-a6000"]

_NO_CURVES: dict[str, Any] = {"prune": [], "fuse": []}
"""Nothing is pruned or fused: plans of large instances stay small files."""

CLUSTERS: dict[str, dict[str, Any]] = {
    "campus": {
        "family": "metro",
        "sites": SITES,
        "neighbours": 1,
        "bandwidth": ["80 Mbit/s", "10 Gbit/s"],
        "latency": ["0.1 ms", "2 ms"],
    },
    "metro": {
        "family": "metro",
        "radius_km": 15.0,
        "bandwidth": ["100 Mbit/s", "2 Gbit/s"],
        "latency": ["0.2 ms", "3 ms"],
    },
    "network": {"family": "topology", "bandwidth": ["500 Mbit/s", "10 Gbit/s"]},
    "tree": {"family": "device-edge-cloud", "edges": 3, "devices_per_edge": 2},
    "star": {
        "family": "star",
        "bandwidth": ["100 Mbit/s", "1 Gbit/s"],
        "latency": ["0.3 ms", "8 ms"],
    },
}
"""Shapes of clusters, with parameters of the generator."""

GRID = (
    # cluster, short name, model, variants, seed, parameters
    ("campus", "phi-mini", "phi-mini-moe", "even-loose domains-tight", 11, _SMALL, {}),
    ("campus", "gpt-oss", "gpt-oss-20b", "even-tight domains-medium", 12, _SMALL, {}),
    ("campus", "granite", "granite-3-1b-a400m", "zipf-medium zipf-tight", 13, _SMALL,
     _NO_CURVES),
    ("campus", "mixtral", "mixtral-8x7b", "even-medium domains-loose", 14, _MIDDLE,
     {"ram": "16 GiB", "ram_servers": 2}),
    ("metro", "lfm2-8", "lfm2-8b-a1b", "zipf-loose domains-tight", 21, _SMALL,
     {"servers": 8}),
    ("metro", "olmoe-8", "olmoe-1b-7b", "even-medium zipf-tight domains-loose", 22,
     _SMALL, {"servers": 8}),
    ("metro", "v2-lite-6", "deepseek-v2-lite", "zipf-medium domains-tight", 23,
     _SMALL, {"servers": 6}),
    ("metro", "ernie-10", "ernie-4.5-21b-a3b", "even-loose zipf-tight", 24, _MIDDLE,
     {"servers": 10, "ram": "4 GiB", "ram_servers": 3}),
    ("network", "abilene-12-gpt-oss", "gpt-oss-20b", "zipf-medium zipf-tight", 31,
     _MIDDLE, {"network": "sndlib/abilene"}),
    ("network", "polska-12-lfm2", "lfm2-8b-a1b", "even-medium domains-tight", 32,
     _SMALL, {"network": "sndlib/polska"}),
    ("network", "germany-17-mixtral", "mixtral-8x7b", "domains-loose zipf-tight", 33,
     _MIDDLE, {"network": "sndlib/nobel-germany"}),
    ("network", "geant-10-granite", "granite-3-1b-a400m", "domains-medium even-tight",
     34, _SMALL, {"network": "sndlib/geant", "servers": 10}),
    ("network", "newyork-16-olmoe", "olmoe-1b-7b", "zipf-medium", 35, _SMALL,
     {"network": "sndlib/newyork"}),
    ("tree", "qwen1.5", "qwen1.5-moe-a2.7b", "zipf-medium domains-tight", 41, None,
     {}),
    ("tree", "phi-3.5", "phi-3.5-moe", "even-loose domains-tight", 42, None, {}),
    ("tree", "granite", "granite-3.1-3b-a800m", "zipf-tight even-medium", 43, None,
     {"edges": 2, "devices_per_edge": 3}),
    ("star", "dbrx-4", "dbrx", "zipf-loose zipf-tight", 51, _LARGE, {"servers": 4}),
    ("star", "mixtral-5", "mixtral-8x7b", "domains-medium domains-tight", 52, _MIDDLE,
     {"servers": 5}),
    ("large", "gpt-oss-120b-metro-8", "gpt-oss-120b", "zipf-medium", 61, _LARGE,
     {"servers": 8} | _NO_CURVES),
    ("large", "glm-4.5-air-polska-12", "glm-4.5-air", "domains-tight", 62, _LARGE,
     {"network": "sndlib/polska"} | _NO_CURVES),
    ("large", "deepseek-v2-star-6", "deepseek-v2", "even-loose", 63, _LARGE,
     {"servers": 6} | _NO_CURVES),
)  # fmt: skip


def _grid() -> dict[str, Frozen]:
    made = {}
    for cluster, short, model, variants, seed, devices, more in GRID:
        shape = cluster
        if cluster == "large":
            shape = next(s for s in ("metro", "star", "polska") if s in short)
            shape = "network" if shape == "polska" else shape
        for variant in variants.split():
            traffic, tightness = variant.split("-")
            own: dict[str, Any] = dict(CLUSTERS[shape])
            family = own.pop("family")
            own |= _traffic(traffic, model) | more
            if devices is not None:
                own["devices"] = devices
            made[f"{cluster}/{short}-{variant}"] = Frozen(
                family=family,
                seed=seed,
                recipe=True,
                zipf=traffic == "zipf",
                parameters=own
                | {
                    "model": model,
                    "fit": 1.8,
                    "reuse": 8.0,
                    "quality": ["20 mnats", "50 mnats"],
                    "curve_scale": 4.0,
                    "tightness": TIGHTNESS[tightness],
                },
            )
    return made


# -- shifted twins ---------------------------------------------------------------------


def _drift() -> dict[str, Frozen]:
    twins = {
        "olmoe-metro-6": ("metro", "olmoe-1b-7b", 71, {"servers": 6}, _SMALL),
        "gpt-oss-star-5": ("star", "gpt-oss-20b", 72, {"servers": 5}, _SMALL),
        "mixtral-campus-6": ("campus", "mixtral-8x7b", 73, {}, _MIDDLE),
    }
    made = {}
    for name, (shape, model, seed, more, devices) in twins.items():
        own = dict(CLUSTERS[shape])
        family = own.pop("family")
        before = f"drift/{name}-before"
        made[before] = Frozen(
            family=family,
            seed=seed,
            recipe=True,
            parameters=own
            | _traffic("domains", model)
            | {
                "model": model,
                "devices": devices,
                "fit": 1.8,
                "reuse": 8.0,
                "quality": ["30 mnats", "60 mnats"],
                "curve_scale": 4.0,
                "tightness": 0.25,
                "tight_links": 0,
            }
            | more,
        )
        made[f"drift/{name}-after"] = Frozen(seed=seed, recipe=True, before=before)
    return made


# -- the settings of two papers --------------------------------------------------------


def hetroute_cluster(seed: int) -> dict[str, Any]:
    """Draw ten servers and their links within the ranges of HetRoute.

    GPU 18 to 120 TFLOP/s with 12 to 48 GB, host memory 96 to 512 GB behind 12 to
    64 GB/s, links 0.8 to 10 Gbit/s and 0.3 to 22 ms. The paper gives no read rate of
    GPU memory: 8 bytes for each 1,000 FLOP here, as its cards have; and no graph: all
    pairs are linked.
    """
    rng = np.random.default_rng(seed)

    def drawn(low: float, high: float, count: int) -> list[float]:
        draw = rng.random(count)
        return [
            float(f"{math.exp(math.log(low) + d * math.log(high / low)):.3g}")
            for d in draw
        ]

    count = 10
    flops, gpu, ram, bus = (
        drawn(18, 120, count),
        drawn(12, 48, count),
        drawn(96, 512, count),
        drawn(12, 64, count),
    )
    servers = []
    for s in range(count):
        compute = {"bf16": f"{flops[s]:g} TFLOP/s"}
        servers.append(
            {
                "name": f"s{s + 1:02d}",
                "tiers": {
                    "gpu": {
                        "capacity": f"{gpu[s]:g} GB",
                        "read": f"{8 * flops[s]:g} GB/s",
                        "compute": compute,
                    },
                    "ram": {
                        "capacity": f"{ram[s]:g} GB",
                        "read": f"{bus[s]:g} GB/s",
                        "compute": compute,
                    },
                },
            }
        )
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    rates, delays = drawn(0.8, 10, len(pairs)), drawn(0.3, 22, len(pairs))
    links = [
        {
            "between": [servers[a]["name"], servers[b]["name"]],
            "bandwidth": f"{rate:g} Gbit/s",
            "latency": f"{delay:g} ms",
        }
        for (a, b), rate, delay in zip(pairs, rates, delays, strict=True)
    ]
    return {"servers": servers, "links": links}


def _hetroute() -> dict[str, Frozen]:
    """Return HetRoute's setting, and what its studies vary.

    ``r`` is the redundancy (copies of all experts over experts), ``q`` the quality
    budget in per mille of perplexity: ln(1 + q / 1000) nats. 1,490 tokens/s are its
    40 requests/s; ``busy`` is its 80 requests/s. At 156 ms a token 232 tokens are under
    way, of which ``reuse`` call one expert.
    """
    models = {
        "mixtral": ("mixtral-8x7b", 256, 58.0),
        "qwen": ("qwen1.5-moe-a2.7b", 1440, 15.0),
    }
    variants = (
        ("mixtral-r1-q20", "mixtral", 1.0, 20, 1490),
        ("mixtral-r2-q20", "mixtral", 2.0, 20, 1490),
        ("mixtral-r3-q20", "mixtral", 3.0, 20, 1490),
        ("mixtral-r2-q5", "mixtral", 2.0, 5, 1490),
        ("mixtral-r2-q30", "mixtral", 2.0, 30, 1490),
        ("mixtral-r2-q20-busy", "mixtral", 2.0, 20, 2980),
        ("qwen-r2-q20", "qwen", 2.0, 20, 1490),
        ("qwen-r2-q20-busy", "qwen", 2.0, 20, 2980),
    )
    made = {}
    names = ("wikitext", "squad", "gsm8k")
    for name, short, redundancy, budget, tokens in variants:
        model, experts, reuse = models[short]
        cluster = hetroute_cluster(81)
        rng = np.random.default_rng(82)
        parts = np.exp(rng.random((10, 3)) * math.log(4))
        parts = tokens * parts / parts.sum()
        made[f"hetroute/{name}"] = Frozen(
            family="explicit",
            seed=81,
            recipe=True,
            parameters={
                "model": model,
                "formats": ["bf16", "int8-g128", "int4-g64"],
                "domains": list(names),
                "prune": [],
                "fuse": [],
                "similar": 2,
                "cluster": cluster,
                "workload": {
                    "applications": [
                        {
                            "name": app,
                            "domain": app,
                            "quality_budget": f"{1e3 * math.log1p(budget / 1e3):.4g}"
                            " mnats",
                        }
                        for app in names
                    ],
                    "demands": [
                        {
                            "application": app,
                            "home": server["name"],
                            "rate": f"{parts[s, g]:.4g} tokens/s",
                        }
                        for s, server in enumerate(cluster["servers"])
                        for g, app in enumerate(names)
                    ],
                },
                "limits": {
                    "busy": 0.8,
                    "reuse": reuse,
                    "count": [
                        {
                            "name": "full-precision",
                            "layers": "each",
                            "experts": "each",
                            "formats": ["bf16"],
                            "min": 1,
                        },
                        {"name": "redundancy", "max": round(redundancy * experts)},
                    ],
                },
            },
        )
    return made


def _prism() -> dict[str, Frozen]:
    """Return Prism's setting: 1, 1 and 2 GPUs of 40 GB as three servers.

    Links of 500 Mbit/s; memory capped to 70 % (Mixtral) or 30 % (DeepSeek-V2-Lite).
    The paper stores 16 bits only; ``bits`` lets the plan choose. Latency of a link
    (0.5 ms) and tokens per request (256) are ours: a request comes every 10 s
    (``bigbench``) or 20 s (``multidata``) at each server.
    """
    made = {}
    for short, model, cap, formats in (
        ("mixtral", "mixtral-8x7b", 0.7, ["bf16"]),
        ("mixtral-bits", "mixtral-8x7b", 0.7, ["bf16", "int8-g128", "int4-g64"]),
        ("v2-lite", "deepseek-v2-lite", 0.3, ["bf16"]),
        ("v2-lite-bits", "deepseek-v2-lite", 0.3, ["bf16", "int8-g128", "int4-g64"]),
    ):
        for task, gap_s, drift in (("bigbench", 10.0, 0.15), ("multidata", 20.0, 0.3)):
            card = {
                "capacity": f"{40 * cap:g} GB",
                "read": "1555 GB/s",
                "compute": {"bf16": "312 TFLOP/s"},
            }
            servers: list[dict[str, Any]] = [
                {"name": "one", "tiers": {"gpu": card}},
                {"name": "two", "tiers": {"gpu": card}},
                {
                    "name": "double",
                    "tiers": {
                        f"gpu{n}": card | {"processor": f"gpu{n}"} for n in (0, 1)
                    },
                },
            ]
            names = [server["name"] for server in servers]
            links = [
                {"between": [a, b], "bandwidth": "500 Mbit/s", "latency": "0.5 ms"}
                for a, b in (("one", "two"), ("one", "double"), ("two", "double"))
            ]
            tasks = [f"{task}-{n + 1}" for n in range(3)]
            made[f"prism/{short}-{task}"] = Frozen(
                family="explicit",
                seed=91,
                recipe=True,
                parameters={
                    "model": model,
                    "formats": formats,
                    "domains": tasks,
                    "drift": drift if short.startswith("v2") else drift / 2,
                    "prune": [],
                    "fuse": [],
                    "cluster": {"servers": servers, "links": links},
                    "workload": {
                        "applications": [
                            {"name": t, "domain": t, "quality_budget": "20 mnats"}
                            for t in tasks
                        ],
                        "demands": [
                            {
                                "application": t,
                                "home": home,
                                "rate": f"{256 / gap_s:g} tokens/s",
                            }
                            for t, home in zip(tasks, names, strict=True)
                        ],
                    },
                    "limits": {"busy": 0.8},
                },
            )
    return made


# -- roaming tokens --------------------------------------------------------------------


def exflow_cluster(nodes: int, cards: int) -> dict[str, Any]:
    """Write nodes of GPUs where a hop costs 1 inside a node and 2 between nodes."""
    names = [f"n{n}g{g}" for n in range(nodes) for g in range(cards)]
    node = [n for n in range(nodes) for _ in range(cards)]
    hops = [
        [
            0.0 if a == b else 1.0 if node[a] == node[b] else 2.0
            for b in range(len(node))
        ]
        for a in range(len(node))
    ]
    links = [
        {
            "between": [names[a], names[b]],
            "bandwidth": "300 GB/s" if node[a] == node[b] else "25 GB/s",
            "latency": "5 us" if node[a] == node[b] else "10 us",
        }
        for a in range(len(names))
        for b in range(a)
    ]
    return {
        "servers": [{"name": name, "device": "a100-sxm"} for name in names],
        "links": links,
        "distance": hops,
    }


def _roam() -> dict[str, Frozen]:
    """Return ExFlow's setting (equal slots, one format, hops), and unequal servers."""
    made = {}
    for name, model, experts, nodes, cards, dependence in (
        ("exflow-mixtral-4", "mixtral-8x7b", 8, 1, 4, 0.3),
        ("exflow-mixtral-8", "mixtral-8x7b", 8, 2, 4, 0.3),
        ("exflow-olmoe-4", "olmoe-1b-7b", 64, 1, 4, 0.2),
    ):
        cluster = exflow_cluster(nodes, cards)
        slots = experts // (nodes * cards)
        made[f"roam/{name}"] = Frozen(
            family="explicit",
            seed=101,
            recipe=True,
            parameters={
                "model": model,
                "dataflow": "roam",
                "formats": ["bf16"],
                "domains": ["prose"],
                "cluster": cluster,
                "workload": {
                    "applications": [{"name": "chat", "domain": "prose"}],
                    "demands": [
                        {
                            "application": "chat",
                            "home": server["name"],
                            "rate": "1 tokens/s",
                        }
                        for server in cluster["servers"]
                    ],
                },
                "dependence": dependence,
                "limits": {
                    "copies": 1,
                    "reuse": 64.0,
                    "count": [
                        {
                            "name": "slots",
                            "layers": "each",
                            "servers": "each",
                            "min": slots,
                            "max": slots,
                        }
                    ],
                },
                "objective": {"pair": 1.0},
            },
        )
    for name, model, family, seed, more in (
        ("mixtral-star-4", "mixtral-8x7b", "star", 102, {"servers": 4}),
        ("mixtral-metro-6", "mixtral-8x7b", "metro", 103, {"servers": 6}),
        ("phi-mini-star-4", "phi-mini-moe", "star", 104, {"servers": 4}),
        ("gpt-oss-star-3", "gpt-oss-20b", "star", 105, {"servers": 3}),
    ):
        made[f"roam/{name}"] = Frozen(
            family=family,
            seed=seed,
            recipe=True,
            parameters={
                "model": model,
                "dataflow": "roam",
                "fit": 1.3,
                "reuse": 8.0,
                "load": 0.1,
                "quality": ["40 mnats", "60 mnats"],
            }
            | more,
        )
    return made


FROZEN: dict[str, Frozen] = (
    _FIRST | _grid() | _drift() | _hetroute() | _prism() | _roam()
)
"""By name."""

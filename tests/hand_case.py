"""Three servers in a line, small numbers: everything about it can be done by hand.

::

    a  ──  b   10 B/s, 1 s each way            two layers of two experts, top-1
    b  ──> c    5 B/s, 2 s                     a call sends 2 bytes and returns 4
    c  ──> b    2 B/s, 3 s                     10 parameters, 20 FLOP an expert

Seconds of work of one call, flop / compute + size / read:

====== ============================ ============================
place  full (10 bytes)              half (5 bytes)
====== ============================ ============================
a      20 / 20 + 10 / 10 = 2        20 / 40 + 5 / 10 = 1
b      20 / 10 + 10 / 20 = 2.5      20 / 20 + 5 / 20 = 1.25
c      cannot run it                20 / 10 + 5 / 5  = 3
====== ============================ ============================

Round trip and bytes both ways: from a to b 2 + 0.6 s, from a to c 7 + 2.4 s; from c to
a 7 + 1.8 s, from c to b 5 + 1.8 s (out and back take different links, and the slowest
link of a route sets its rate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.instance import Instance, InstanceSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCUMENT: dict[str, Any] = {
    "format_version": 1,
    "name": "by hand",
    "model": {
        "layers": 2,
        "experts": 2,
        "top_k": 1.0,
        "parameters_per_expert": 10.0,
        "bytes_out": 2.0,
        "bytes_back": 4.0,
        "fuse_factor": 0.25,
        "profile": {
            "calls": [[0.75, 0.25, 0.5, 0.5]],
            "loss": [[[0.0, 0.1], [0.0, 0.2], [0.0, 0.3], [0.0, 0.4]]],
            "prune_width": [[[0.2, 0.1], [0.2, 0.1]]],
            "prune_loss": [[[0.5, 1.0], [0.5, 1.0]]],
            "fuse_width": [[[0.5], [0.5]]],
            "fuse_loss": [[[0.05], [0.05]]],
            "similar": [[1, 0]],
            "similar_loss": [[0.7]],
        },
    },
    "formats": [
        {"name": "full", "bits_per_weight": 8.0},
        {"name": "half", "bits_per_weight": 4.0},
    ],
    "cluster": {
        "servers": [
            {
                "name": "a",
                "tiers": {
                    "gpu": {
                        "capacity": 20.0,
                        "read": 10.0,
                        "compute": {"full": 20.0, "half": 40.0},
                        "power": 10.0,
                    }
                },
            },
            {
                "name": "b",
                "tiers": {
                    "gpu": {
                        "capacity": 20.0,
                        "read": 20.0,
                        "compute": {"full": 10.0, "half": 20.0},
                        "power": 20.0,
                    }
                },
            },
            {
                "name": "c",
                "tiers": {
                    "ram": {
                        "capacity": 20.0,
                        "read": 5.0,
                        "compute": {"half": 10.0},
                        "power": 5.0,
                    }
                },
            },
        ],
        "links": [
            {"between": ["a", "b"], "bandwidth": 10.0, "latency": 1.0, "energy": 0.5},
            {
                "from": "b",
                "to": "c",
                "bandwidth": 5.0,
                "latency": 2.0,
                "energy": 0.25,
            },
            {
                "from": "c",
                "to": "b",
                "bandwidth": 2.0,
                "latency": 3.0,
                "energy": 0.125,
            },
        ],
    },
    "workload": {
        "applications": [{"name": "chat"}],
        "demands": [
            {"application": "chat", "home": "a", "rate": 3.0},
            {"application": "chat", "home": "c", "rate": 1.0},
        ],
    },
    "limits": {"busy": 100.0, "link_busy": 100.0},
}

FULL, HALF = 0, 1
A, B, C = 0, 1, 2


def document() -> dict[str, Any]:
    """Return a fresh copy of the document, to be changed at will."""
    copy: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    return copy


def instance_of(written: dict[str, Any]) -> Instance:
    """Turn a document in plain values into an instance, without a file."""
    written = dict(written, model=dict(written["model"]))
    profile = written["model"].pop("profile", {})
    return Instance(
        spec=msgspec.convert(written, InstanceSpec),
        arrays={name: np.array(value) for name, value in profile.items()},
        source="hand.json",
    )


def changed(**parts: Any) -> Instance:
    """Return the instance with keys of `limits`, `objective`, … merged in."""
    written = document()
    for name, part in parts.items():
        if isinstance(part, dict):
            written.setdefault(name, {}).update(part)
        else:
            written[name] = part
    return instance_of(written)


def copies(*rows: Sequence[int]) -> np.ndarray:
    """Return sorted copies (expert, place, format)."""
    return np.array(sorted(map(tuple, rows)), dtype=np.int64).reshape(-1, 3)

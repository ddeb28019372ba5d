"""What the tests of published methods share: small instances that read at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.instance import Instance, InstanceSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meldopt.problem import Problem

LARGE = 1e6
"""A capacity that binds nothing here."""


def _listed(value: float | Sequence[float]) -> list[float]:
    return [value] * 9 if isinstance(value, int | float) else list(value)


def _tiers(value: float | Sequence[float]) -> list[float]:
    return [value] if isinstance(value, int | float) else list(value)


def slotted_problem(
    calls: Sequence[Sequence[float]],
    slots: Sequence[float | Sequence[float]],
    *,
    rates: Sequence[tuple[int, float]] = ((0, 1.0),),
    copies: int | None = None,
    compute: Sequence[float | Sequence[float]] | None = None,
    runs: Sequence[Sequence[str]] | None = None,
    formats: Sequence[tuple[str, float]] = (("full", 8.0),),
    links: Sequence[tuple[int, int, float]] | None = None,
    dataflow: str = "home",
    profile: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> Problem:
    """Build a problem of servers with slots for experts of 10 bytes.

    Parameters
    ----------
    calls
        Calls per token of each expert, layer by layer; (L, E).
    slots
        Experts in the first format that each server holds; a sequence by tier.
    rates
        Home and tokens/s of each demand; one application.
    copies
        Limit on the copies of an expert.
    compute
        FLOP/s of each server, as ``slots``; a call takes 20 FLOP. 1000 if None.
    runs
        Formats that each server runs; all if None.
    formats
        Names and bits per weight; an expert has 10 weights.
    links
        Pairs and latency; a chain of 1 ms if None. Bandwidth 1e6 bytes/s.
    dataflow
        Home or roam.
    profile
        Further arrays of the model profile.
    limits
        Limits of the instance beside ``copies``.
    extra
        More of the instance, top level.
    """
    layers, experts = len(calls), len(calls[0])
    num = len(slots)
    kinds = [name for name, _ in formats]
    chain = [(s, s + 1, 1e-3) for s in range(num - 1)]
    names = [f"s{s}" for s in range(num)]
    document: dict[str, Any] = {
        "format_version": 1,
        "name": "slotted",
        "dataflow": dataflow,
        "model": {
            "layers": layers,
            "experts": experts,
            "top_k": float(np.sum(calls[0])),
            "parameters_per_expert": 10.0,
            "bytes_out": 1.0,
            "bytes_back": 1.0,
            "profile": {},
        },
        "formats": [
            {"name": name, "bits_per_weight": bits, "precision": "bf16"}
            for name, bits in formats
        ],
        "cluster": {
            "servers": [
                {
                    "name": name,
                    "tiers": {
                        f"t{t}": {
                            "capacity": size * 10.0 * formats[0][1] / 8.0,
                            "read": LARGE,
                            "compute": {
                                kind: _listed(
                                    1000.0 if compute is None else compute[s]
                                )[t]
                                for kind in (kinds if runs is None else runs[s])
                            },
                        }
                        for t, size in enumerate(_tiers(slots[s]))
                    },
                }
                for s, name in enumerate(names)
            ],
            "links": [
                {
                    "between": [names[a], names[b]],
                    "bandwidth": 1e6,
                    "latency": latency,
                }
                for a, b, latency in (chain if links is None else links)
            ],
        },
        "workload": {
            "applications": [{"name": "chat"}],
            "demands": [
                {"application": "chat", "home": names[home], "rate": rate}
                for home, rate in rates
            ],
        },
        "limits": {
            **({} if copies is None else {"copies": copies}),
            "busy": LARGE,
            "link_busy": LARGE,
            **(limits or {}),
        },
        "objective": {"serial": 1.0},
        **(extra or {}),
    }
    arrays = {
        "calls": np.array(calls, dtype=float).reshape(1, -1),
        "loss": np.zeros((1, layers * experts, len(formats))),
        **{name: np.array(value) for name, value in (profile or {}).items()},
    }
    document["model"]["profile"] = {
        name: value.tolist() for name, value in arrays.items()
    }
    return build_problem(
        Instance(spec=msgspec.convert(document, InstanceSpec), arrays=arrays)
    )

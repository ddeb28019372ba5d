"""Read the measured kernel tables as batches to fit and to judge."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from meldopt.catalogue import device as facts_of_device
from meldopt.replay.fit import Batches, Rates
from tests.benchmarks.kernel_routing import Routed, routed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FILES = {
    "l40s": "moe_times_l40s.csv.gz",
    "a100-sxm": "moe_times_a100_sxm.csv.gz",
}
CACHE_BYTES = {"l40s": 96e6, "a100-sxm": 40e6}

CLASSES = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8-block",
    "int4_wo": "weight-only",
    "w4a16_mxfp4": "weight-only",
}
_BITS = {
    "bfloat16": 16.0,
    "fp8": 8.0,
    "fp8_block": 8.0 + 32.0 / 128**2,  # an fp32 scale for a block of 128 x 128
    "int4_wo": 4.25,  # as int4-g128 of the catalogue
    "w4a16_mxfp4": 4.25,  # groups of 32 with an 8-bit scale
}
_MATRICES = 3
_HIDDEN_BYTES = 2  # of a number of the hidden state

Shape = tuple[int, int, int, int]
"""Hidden size, inner size, experts, top-k."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Rows of one device and class of formats; arrays of shape (n,).

    ``ranks`` devices share the experts of a row, which times one of them; ``arriving``
    are all calls of the tokens that call an expert of this one, ``all_calls`` those of
    all tokens. ``shape`` counts in ``shapes``, the shapes of all tables in order.
    """

    device: str
    format_class: str
    kernel: str
    shapes: tuple[Shape, ...]
    batches: Batches
    shape: NDArray[np.int64]
    dtype: NDArray[np.str_]
    tokens: NDArray[np.int64]
    ranks: NDArray[np.int64]
    arriving: NDArray[np.float64]
    all_calls: NDArray[np.float64]

    def take(self, rows: NDArray[np.bool_]) -> Table:
        """Return some of the rows."""
        names = ("shape", "dtype", "tokens", "ranks", "arriving", "all_calls")
        return replace(
            self,
            batches=self.batches.take(rows),
            **{name: getattr(self, name)[rows] for name in names},
        )


def rates_of(table: Table) -> Rates:
    """Return the catalogue's peak rates for the device and formats of a table."""
    facts = facts_of_device(table.device)
    precision = "fp8" if table.format_class.startswith("fp8") else "bf16"
    return Rates(
        read_bytes_per_s=facts.read_bytes_per_s,
        flops=facts.flops[precision],
        cache_bytes=CACHE_BYTES[table.device],
    )


def read_tables(folder: Path, *, several_ranks: bool = False) -> list[Table]:
    """Read all tables; by default only the rows of a device with all experts."""
    grouped: dict[tuple[str, str], list[dict[str, str]]] = {}
    for device, file in FILES.items():
        with gzip.open(folder / "hardware" / file, "rt", newline="") as stream:
            for row in csv.DictReader(stream):
                if several_ranks or row["moe_ep_size"] == "1":
                    key = (device, CLASSES[row["moe_dtype"]])
                    grouped.setdefault(key, []).append(row)
    every = {_shape_of(row) for group in grouped.values() for row in group}
    shapes = tuple(sorted(every))
    memo: dict[tuple[int, int, int, int, str], Routed] = {}
    return [
        _table(device, format_class, grouped[device, format_class], shapes, memo)
        for device, format_class in sorted(grouped)
    ]


def _shape_of(row: dict[str, str]) -> Shape:
    return (
        int(row["hidden_size"]),
        int(row["inter_size"]),
        int(row["num_experts"]),
        int(row["topk"]),
    )


def _table(
    device: str,
    format_class: str,
    rows: list[dict[str, str]],
    shapes: tuple[Shape, ...],
    memo: dict[tuple[int, int, int, int, str], Routed],
) -> Table:
    routes = []
    for row in rows:
        _, _, experts, top_k = _shape_of(row)
        tokens, ranks = int(row["num_tokens"]), int(row["moe_ep_size"])
        key = (tokens, experts, top_k, ranks, row["distribution"])
        if key not in memo:
            memo[key] = routed(*key)
        routes.append(memo[key])
    hidden, inner, _, top_k_of = np.array([_shape_of(row) for row in rows]).T
    parameters = 1.0 * _MATRICES * hidden * inner
    bits = np.array([_BITS[row["moe_dtype"]] for row in rows])
    tokens_of = np.array([int(row["num_tokens"]) for row in rows])
    return Table(
        device=device,
        format_class=format_class,
        kernel=", ".join(sorted({row["kernel"] for row in rows})),
        shapes=shapes,
        batches=Batches(
            calls=np.array([route.calls for route in routes]),
            touched=np.array([route.touched for route in routes]),
            flop=2.0 * parameters,
            size_bytes=parameters * bits / 8,
            hidden_bytes=1.0 * hidden * _HIDDEN_BYTES,
            seconds=np.array([1e-3 * float(row["latency_ms"]) for row in rows]),
        ),
        shape=np.array([shapes.index(_shape_of(row)) for row in rows]),
        dtype=np.array([row["moe_dtype"] for row in rows]),
        tokens=tokens_of,
        ranks=np.array([int(row["moe_ep_size"]) for row in rows]),
        arriving=np.array([route.arriving for route in routes]),
        all_calls=1.0 * tokens_of * top_k_of,
    )

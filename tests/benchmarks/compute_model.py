"""Fit the compute model to measured kernels, judge it on other shapes, print the error.

``python -m tests.benchmarks.compute_model [--write] [--data FOLDER]``

Rows are split by model shape (hidden size, inner size, experts, top-k): every third
shape, in their order, is held back in all formats and on both devices, and only the
others are fitted. Beside it stand a split by random rows, each shape held back in turn,
the errors of peak rates, of one round set of numbers and of the values of another
device, and rows of a device that shares the experts with others. ``--write`` puts the
fitted values into the catalogue.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from meldopt.catalogue.compute import ComputeFacts
from meldopt.replay.fit import Efficiency, fit, predict, relative_error
from tests.benchmarks.kernel_tables import Table, rates_of, read_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "meldopt" / "catalogue" / "data" / "compute.json"

SOURCE = (
    "ai-dynamo/aiconfigurator "
    "aic-core/src/aiconfigurator_core/systems/data/{}/moe_perf.parquet"
)
PATHS = {"l40s": "l40s/moe/vllm/0.24.0", "a100-sxm": "a100_sxm/moe/sglang/0.5.10"}
COMMIT = "095f58a51c4ca8e61b66ec108d86f223f8d559ce"
LICENSE = "Apache-2.0"

DIGITS = 4  # of a fitted value, in the file
PEAK = Efficiency(
    read_efficiency=1.0, flop_efficiency=1.0, exposed=1.0, overhead_s=0.0, passes=0.0
)
PLAIN = Efficiency(
    read_efficiency=0.8, flop_efficiency=0.5, exposed=1.0, overhead_s=25e-6, passes=0.0
)
"""One round set of numbers for all devices and formats, additive; for comparison."""
TOKENS = ((1, 16), (17, 256), (257, 16384))


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Median and 90th percentile of relative errors, over how many rows."""

    rows: int
    median: float
    p90: float

    @classmethod
    def of(cls, errors: NDArray[np.float64]) -> Error | None:
        """Summarise errors, if there are any."""
        if not len(errors):
            return None
        return cls(
            rows=len(errors),
            median=float(np.median(errors)),
            p90=float(np.quantile(errors, 0.9)),
        )

    def __str__(self) -> str:
        return f"{self.rows:6} {100 * self.median:6.1f} {100 * self.p90:6.1f}"


def held_back(table: Table) -> NDArray[np.bool_]:
    """Say which rows are of the shapes that no fit sees."""
    return np.asarray(table.shape % 3 == 1)


def efficiency_of(facts: ComputeFacts) -> Efficiency:
    """Return the fitted values of facts."""
    return Efficiency(**{name: getattr(facts, name) for name in Efficiency.__slots__})


def fitted(table: Table) -> Efficiency:
    """Fit the rows of a table; the values are rounded as the file has them."""
    found = fit(rates_of(table), table.batches)
    names = Efficiency.__slots__
    return Efficiency(
        **{name: float(f"{getattr(found, name):.{DIGITS}g}") for name in names}
    )


def errors(efficiency: Efficiency, table: Table) -> NDArray[np.float64]:
    """Return the relative error of each row."""
    return relative_error(efficiency, rates_of(table), table.batches)


def by_random_rows(table: Table) -> Error | None:
    """Fit two thirds of the rows at random, judge on the rest."""
    held = np.random.default_rng(0).random(len(table.batches)) < 1 / 3
    return Error.of(errors(fitted(table.take(~held)), table.take(held)))


def each_shape_in_turn(table: Table) -> Error | None:
    """Hold each shape back in turn; the errors of all of them together."""
    found = []
    for shape in np.unique(table.shape):
        here = table.shape == shape
        found.append(errors(fitted(table.take(~here)), table.take(here)))
    return Error.of(np.concatenate(found))


def reads_from_memory(table: Table) -> NDArray[np.bool_]:
    """Say which rows read at least twice the cache."""
    read = table.batches.touched * table.batches.size_bytes
    return np.asarray(read >= 2 * rates_of(table).cache_bytes)


def with_ranks(efficiency: Efficiency, table: Table) -> tuple[str, Error | None]:
    """Judge rows where the device holds a part of the experts.

    Such rows also time what an engine does with calls that belong elsewhere, which no
    server of a replay receives. SGLang's kernels work through every call of a token
    that calls one expert of the device. vLLM's move the hidden state of every call
    through memory, so often as fits best on the shapes that are not held back.
    """
    held = held_back(table)
    if "sglang" in table.kernel:
        batches = replace(table.batches, calls=table.arriving)
        some = replace(table, batches=batches).take(held)
        return "several ranks, all calls of a token", Error.of(errors(efficiency, some))
    rates = rates_of(table)
    seconds = table.batches.seconds
    moved = (table.all_calls - table.batches.calls) * table.batches.hidden_bytes
    here = predict(efficiency, rates, table.batches)

    def error(passes: float) -> NDArray[np.float64]:
        time = here + passes * moved / rates.read_bytes_per_s
        return np.asarray(np.abs(time / seconds - 1.0))

    candidates = np.geomspace(0.5, 50.0, 61).tolist()
    best = min(candidates, key=lambda passes: float(np.median(error(passes)[~held])))
    return f"several ranks, {best:.1f} passes elsewhere", Error.of(error(best)[held])


def with_values_of_others(
    table: Table, tables: Sequence[Table]
) -> list[tuple[str, Error | None]]:
    """Judge a table by fits of its class on other devices, as a fallback does."""
    held = table.take(held_back(table))
    lines = []
    for other in tables:
        if other.format_class == table.format_class and other.device != table.device:
            seen = other.take((other.ranks == 1) & ~held_back(other))
            lines.append(
                (f"values of {other.device}", Error.of(errors(fitted(seen), held)))
            )
    return lines


def facts_of(table: Table) -> ComputeFacts:
    """Fit and judge one table."""
    held = held_back(table)
    efficiency = fitted(table.take(~held))
    judged = Error.of(errors(efficiency, table.take(held)))
    if judged is None:
        raise ValueError(f"{table.device} {table.format_class}: no shape is held back")
    return ComputeFacts(
        device=table.device,
        format_class=table.format_class,
        **{name: getattr(efficiency, name) for name in Efficiency.__slots__},
        rows=int((~held).sum()),
        held_out_rows=judged.rows,
        held_out_median=round(judged.median, 4),
        held_out_p90=round(judged.p90, 4),
        kernel=table.kernel,
        source=SOURCE.format(PATHS[table.device]),
        commit=COMMIT,
        license=LICENSE,
    )


def lines_of(table: Table, facts: ComputeFacts) -> list[tuple[str, Error | None]]:
    """Return what is reported of one table, errors by what they are over."""
    efficiency = efficiency_of(facts)
    held = table.take(held_back(table))

    def of(rows: NDArray[np.bool_]) -> Error | None:
        return Error.of(errors(efficiency, held.take(rows)))

    lines = [
        ("fitted shapes", Error.of(errors(efficiency, table.take(~held_back(table))))),
        ("held-back shapes", Error.of(errors(efficiency, held))),
    ]
    for dtype in np.unique(held.dtype).tolist():
        lines.append((f"  {dtype}", of(held.dtype == dtype)))
        for shape in np.unique(held.shape[held.dtype == dtype]).tolist():
            name = " x ".join(map(str, table.shapes[shape]))
            rows = (held.dtype == dtype) & (held.shape == shape)
            lines.append((f"    {name}", of(rows)))
    for low, high in TOKENS:
        rows = (held.tokens >= low) & (held.tokens <= high)
        lines.append((f"  {low} to {high} tokens", of(rows)))
    from_memory = reads_from_memory(held)
    lines += [
        ("  read from memory", of(from_memory)),
        ("  read from the cache in part", of(~from_memory)),
        ("random rows", by_random_rows(table)),
        ("each shape in turn", each_shape_in_turn(table)),
        ("peak rates, held-back shapes", Error.of(errors(PEAK, held))),
        ("  1 token", Error.of(errors(PEAK, held.take(held.tokens == 1)))),
        ("0.8, 0.5, 25 us, held-back shapes", Error.of(errors(PLAIN, held))),
        ("  1 token", Error.of(errors(PLAIN, held.take(held.tokens == 1)))),
    ]
    return lines


def report(tables: Sequence[Table]) -> list[ComputeFacts]:
    """Print all errors in percent, and return the facts of the catalogue."""
    found = []
    for every in tables:
        table = every.take(every.ranks == 1)
        facts = facts_of(table)
        found.append(facts)
        print(
            f"\n{table.device} {table.format_class} ({table.kernel})\n"
            f"  read {facts.read_efficiency:.3f}  flop {facts.flop_efficiency:.3f}  "
            f"exposed {facts.exposed:.2f}  overhead {1e6 * facts.overhead_s:.1f} us  "
            f"passes {facts.passes:.2f}\n"
            f"  {'error in %':<38}   rows median    p90"
        )
        lines = lines_of(table, facts)
        lines.append(with_ranks(efficiency_of(facts), every.take(every.ranks > 1)))
        lines += with_values_of_others(table, tables)
        for what, error in lines:
            if error is not None:
                print(f"  {what:<38} {error}")
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("MELDOPT_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    facts = report(read_tables(given.data, several_ranks=True))
    if given.write:
        text = msgspec.json.format(msgspec.json.encode(facts), indent=2)
        OUTPUT.write_bytes(text + b"\n")
        print(f"\nwritten: {OUTPUT}")


if __name__ == "__main__":
    main()

"""How well devices run batches of experts: efficiencies fitted to measured kernels.

Peak rates say little of what a kernel reaches. Each fit here belongs to a device and a
class of formats, and carries the error that it has on model shapes that it did not see.
``python -m tests.benchmarks.compute_model`` makes the file anew; docs/compute-model.md
says how.
"""

from __future__ import annotations

from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Literal

import msgspec

from meldopt.errors import CatalogueError

from ._table import read_table
from .devices import device
from .formats import format_named

if TYPE_CHECKING:
    from .formats import FormatFacts

FormatClass = Literal["bf16", "fp8", "fp8-block", "weight-only", "int8"]
"""Formats that run in the same kind of kernel.

``weight-only``: fewer bits than the arithmetic, unpacked on the way to it.
"""

_PLAIN_BITS = 12.0  # with as many bits or more, weights are taken to be unpacked


class ComputeFacts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One fit. Rates are those of `DeviceFacts` times the efficiency.

    Attributes
    ----------
    device, format_class
        What it is of; ``device`` is none in a fallback.
    read_efficiency, flop_efficiency
        Rate reached ÷ peak rate, of reading weights and of arithmetic; in (0, 1].
    exposed
        Share of the shorter of reading and computing that the longer does not hide:
        1 adds the two, 0 hides the shorter.
    overhead_s
        Seconds of a batch beside that: launches, sorting of tokens, reductions.
    passes
        How often the hidden state of a call goes through the memory of the device.
    rows, held_out_rows
        Measurements in the fit, and measurements of other model shapes.
    held_out_median, held_out_p90
        Relative error of the time on the latter: ``|predicted / measured − 1|``.
    kernel, source, commit, license
        What was measured, and where the measurements are from.
    """

    device: str | None
    format_class: str
    read_efficiency: float
    flop_efficiency: float
    exposed: float
    overhead_s: float
    passes: float
    rows: int
    held_out_rows: int
    held_out_median: float | None
    held_out_p90: float | None
    kernel: str
    source: str
    commit: str
    license: str

    @property
    def fallback(self) -> bool:
        """Whether this is no fit but the median of fits of other devices."""
        return self.device is None


NEUTRAL = ComputeFacts(
    device=None,
    format_class="any",
    read_efficiency=1.0,
    flop_efficiency=1.0,
    exposed=1.0,
    overhead_s=0.0,
    passes=0.0,
    rows=0,
    held_out_rows=0,
    held_out_median=None,
    held_out_p90=None,
    kernel="",
    source="by definition",
    commit="",
    license="",
)
"""Rates as they are stated, reading and computing one after the other, no overhead."""


@cache
def compute_fits() -> tuple[ComputeFacts, ...]:
    """Return all fits."""
    return read_table("compute.json", tuple[ComputeFacts, ...])


def class_of(fact: FormatFacts) -> FormatClass:
    """Return the class of a format of the catalogue."""
    if fact.precision == "fp8":
        return "fp8-block" if "block" in fact.name else "fp8"
    if fact.precision == "int8":
        return "int8"
    return "bf16" if fact.bits_per_weight >= _PLAIN_BITS else "weight-only"


def class_named(name: str, bits_per_weight: float) -> FormatClass:
    """Return the class of a format by its name; one unknown here goes by its bits."""
    try:
        return class_of(format_named(name))
    except CatalogueError:
        return "bf16" if bits_per_weight >= _PLAIN_BITS else "weight-only"


@cache
def compute_facts(device_name: str, format_class: FormatClass) -> ComputeFacts:
    """Return the fit of a device and a class of formats, or a fallback.

    The fallback is the median, number by number, of the fits of that class on other
    devices; of all fits of the device if no device has one of that class; else of all
    fits. `ComputeFacts.fallback` marks it, and it has no error to state.

    Raises
    ------
    CatalogueError
        If the catalogue has no such device.
    """
    device(device_name)
    fits = compute_fits()
    same = [fit for fit in fits if fit.format_class == format_class]
    for fit in same:
        if fit.device == device_name:
            return fit
    near = same or [fit for fit in fits if fit.device == device_name] or list(fits)
    return ComputeFacts(
        device=None,
        format_class=format_class,
        read_efficiency=median(fit.read_efficiency for fit in near),
        flop_efficiency=median(fit.flop_efficiency for fit in near),
        exposed=median(fit.exposed for fit in near),
        overhead_s=median(fit.overhead_s for fit in near),
        passes=median(fit.passes for fit in near),
        rows=0,
        held_out_rows=0,
        held_out_median=None,
        held_out_p90=None,
        kernel="",
        source="median of " + ", ".join(f"{f.device} {f.format_class}" for f in near),
        commit="",
        license="",
    )

"""Devices: memory, rates and power of what a server may have inside."""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec

from ._table import Confidence, find, read_table


class DeviceFacts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One device. Rates are peaks; measured ones are lower.

    Attributes
    ----------
    name
        As instances spell it, e.g. ``"rtx-4090"``.
    title
        The name people read.
    kind
        ``"gpu"`` (a card with memory of its own), ``"edge"`` (a small computer),
        ``"cpu"`` (a server processor) or ``"phone"``.
    memory_bytes
        Memory that weights may sit in, bytes; all of it, nothing reserved.
    read_bytes_per_s
        Peak rate of that memory, bytes/s.
    flops
        Peak dense rate in FLOP/s by precision, among ``"bf16"``, ``"fp8"`` and
        ``"int8"`` (integer operations counted alike). ``"bf16"`` is always there; where
        hardware has only fp16, that rate stands for it and the note says so.
    host_link_bytes_per_s
        Rate between the device and the memory of its host, one way, bytes/s; none for
        unified memory.
    unified_memory
        Whether device and host share one memory.
    power_w
        Power under load, W.
    source, confidence, note
        Where the numbers are from and how far to trust them; the confidence is that of
        the weakest number unless the note singles it out.
    """

    name: str
    title: str
    kind: Literal["gpu", "edge", "cpu", "phone"]
    memory_bytes: float
    read_bytes_per_s: float
    flops: dict[str, float]
    host_link_bytes_per_s: float | None
    unified_memory: bool
    power_w: float
    source: str
    confidence: Confidence
    note: str = ""


@cache
def devices() -> tuple[DeviceFacts, ...]:
    """Return all devices."""
    return read_table("devices.json", tuple[DeviceFacts, ...])


def device(name: str) -> DeviceFacts:
    """Return the device of that name.

    Raises
    ------
    CatalogueError
        If the catalogue has no such device; the message names the nearest.
    """
    return find("device", name, devices())

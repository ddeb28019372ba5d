"""Storage formats of weights: what a weight costs and in which arithmetic it runs."""

from __future__ import annotations

from functools import cache

import msgspec

from ._table import Confidence, find, read_table


class FormatFacts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """How weights are stored.

    Attributes
    ----------
    name
        As instances spell it, e.g. ``"int4-g64"``: integers of 4 bits in groups of 64.
    bits_per_weight
        Effective bits, **including** scales and zero-points: ``"int4-g64"`` has 4.5
        (an fp16 scale and an fp16 minimum for each group).
    precision
        The arithmetic it computes in, a key of `DeviceFacts.flops`: weight-only formats
        are unpacked and run in ``"bf16"``; ``"fp8"`` and ``"int8"`` need hardware.
    source, confidence, note
        Where the fact is from and how far to trust it.
    """

    name: str
    bits_per_weight: float
    precision: str
    source: str
    confidence: Confidence
    note: str = ""


@cache
def formats() -> tuple[FormatFacts, ...]:
    """Return all formats: plain types, integer groups, 4-bit floats, GGUF types."""
    return read_table("formats.json", tuple[FormatFacts, ...])


def format_named(name: str) -> FormatFacts:
    """Return the format of that name.

    Raises
    ------
    CatalogueError
        If the catalogue has no such format; the message names the nearest.
    """
    return find("format", name, formats())

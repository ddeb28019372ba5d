"""Quantities as people write them: ``"24 GiB"``, ``"1 Gbit/s"``, ``"2 ms"``.

Each kind of quantity has one base unit (seconds, bytes, bytes/s, tokens/s, FLOP/s,
nats, watts, joules per byte); a bare number is in the base unit.
"""

from __future__ import annotations

import math
import re

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SMALL = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9}


def _scaled(prefixes: dict[str, float], unit: str, factor: float) -> dict[str, float]:
    return {prefix + unit: scale * factor for prefix, scale in prefixes.items()}


_SIZE = _scaled(_DECIMAL | _BINARY, "B", 1.0) | {"bytes": 1.0, "byte": 1.0}
UNITS: dict[str, dict[str, float]] = {
    "s": _scaled(_SMALL, "s", 1.0) | {"min": 60.0, "h": 3600.0},
    "bytes": _SIZE,
    "bytes/s": {f"{unit}/s": factor for unit, factor in _SIZE.items()}
    | _scaled(_DECIMAL, "bit/s", 0.125),
    "tokens/s": {"tokens/s": 1.0, "token/s": 1.0, "tokens/min": 1 / 60},
    "FLOP/s": _scaled(_DECIMAL, "FLOP/s", 1.0) | _scaled(_DECIMAL, "FLOPS", 1.0),
    "nats": {"nats": 1.0, "nat": 1.0, "mnats": 1e-3},
    "W": _scaled(_DECIMAL | _SMALL, "W", 1.0),
    "J/B": _scaled(_SMALL, "J/B", 1.0) | _scaled(_SMALL, "J/bit", 8.0),
}
"""Kinds of quantities by base unit, each with its spellings and their factors."""

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)")


def parse_quantity(value: float | str, unit: str) -> float:
    """Turn a quantity as written into a float in its base unit.

    Parameters
    ----------
    value
        A number in the base unit, or text such as ``"24 GiB"``.
    unit
        The base unit, a key of `UNITS`.

    Returns
    -------
    float
        The quantity in ``unit``; finite.

    Raises
    ------
    ValueError
        With ``got …, expected …`` when the text is no such quantity.
    """
    spellings = UNITS[unit]
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"got {value!r}, expected a number with a unit of {unit}")
        number, spelled = float(match[1]), match[2].strip()
        if spelled not in spellings:
            known = ", ".join(repr(name) for name in list(spellings)[:6])
            raise ValueError(
                f"got {value!r}, expected a quantity in {unit} (units: {known}, …)"
            )
        number *= spellings[spelled]
    else:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"got {value!r}, expected a finite number")
    return number


def format_bytes(value: float) -> str:
    """Write a size for people, in binary multiples."""
    for unit, scale in (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20)):
        if abs(value) >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value / 2.0**10:.4g} KiB" if abs(value) >= 1024 else f"{value:.4g} B"


def format_seconds(value: float) -> str:
    """Write a duration for people."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value / 1e-9:.4g} ns" if value else "0 s"

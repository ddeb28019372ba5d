"""Quantities as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meldopt.units import UNITS, format_bytes, format_seconds, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("24 GiB", "bytes", 24 * 1024**3),
        ("24GB", "bytes", 24e9),
        ("512 bytes", "bytes", 512.0),
        ("1 Gbit/s", "bytes/s", 1e9 / 8),
        ("100 MiB/s", "bytes/s", 100 * 1024**2),
        ("2 ms", "s", 2e-3),
        ("3 µs", "s", 3e-6),
        ("1.5 min", "s", 90.0),
        (" .5 h ", "s", 1800.0),
        ("12 tokens/s", "tokens/s", 12.0),
        ("120 tokens/min", "tokens/s", 2.0),
        ("82.6 TFLOP/s", "FLOP/s", 82.6e12),
        ("30 mnats", "nats", 0.03),
        ("1e-2 nats", "nats", 0.01),
        ("0.3 kW", "W", 300.0),
        ("2 nJ/bit", "J/B", 16e-9),
        ("-4 GiB", "bytes", -4 * 1024**3),
    ],
)
def test_units_scale_to_the_base_unit(text: str, unit: str, expected: float) -> None:
    """Every kind of unit has the factor that its name says."""
    assert parse_quantity(text, unit) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        ("24 GX", "bytes", "got '24 GX', expected a quantity in bytes"),
        ("24", "bytes", "got '24', expected a quantity in bytes"),
        ("1 Gbit/s", "bytes", "expected a quantity in bytes"),
        ("2 MS", "s", "expected a quantity in s"),
        ("GiB", "bytes", "got 'GiB', expected a number with a unit of bytes"),
        ("", "s", "got '', expected a number with a unit of s"),
        ("nan s", "s", "expected a number with a unit of s"),
        ("inf s", "s", "expected a number with a unit of s"),
        ("1e999 s", "s", "got '1e999 s', expected a finite number"),
        ("1e308 PB", "bytes", "expected a finite number"),
        (math.nan, "s", "got nan, expected a finite number"),
        (-math.inf, "s", "got -inf, expected a finite number"),
        (10**400, "s", "expected a finite number"),
    ],
)
def test_what_is_no_quantity_is_refused(
    value: float | str, unit: str, message: str
) -> None:
    """Wrong units, missing units, huge numbers and NaN say got and expected."""
    with pytest.raises(ValueError, match="got") as caught:
        parse_quantity(value, unit)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    number=st.floats(0, 1e6, allow_nan=False),
    spelled=st.sampled_from(
        [(unit, name) for unit, names in UNITS.items() for name in names]
    ),
)
def test_text_and_number_agree(number: float, spelled: tuple[str, str]) -> None:
    """Text with any known spelling is the number times the factor of the spelling."""
    unit, name = spelled
    factor = UNITS[unit][name]
    assert parse_quantity(f"{number!r} {name}", unit) == number * factor
    assert parse_quantity(number * factor, unit) == number * factor


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 B"),
        (1023.0, "1023 B"),
        (1536.0, "1.5 KiB"),
        (24 * 2.0**30, "24 GiB"),
        (-3 * 2.0**40, "-3 TiB"),
    ],
)
def test_sizes_are_written_in_binary_multiples(value: float, text: str) -> None:
    """Sizes for people take the largest binary unit that keeps them above one."""
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 s"), (2.5, "2.5 s"), (0.002, "2 ms"), (3e-6, "3 µs"), (4e-9, "4 ns")],
)
def test_durations_are_written_in_fitting_units(value: float, text: str) -> None:
    """Durations for people take the largest unit that keeps them above one."""
    assert format_seconds(value) == text

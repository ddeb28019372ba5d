"""Integer formats round as their stored form decodes."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.catalogue import formats
from meldopt.errors import ProfilingError
from meldopt.profiling.quantize import IntegerFormat, format_of, quantized


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_effective_bits_are_those_of_the_catalogue() -> None:
    """Scale and minimum of each group count as the catalogue counts them."""
    known = {fact.name: fact.bits_per_weight for fact in formats()}
    for name in ("int8-g128", "int4-g32", "int4-g64", "int3-g64", "int2-g32"):
        assert format_of(name).bits_per_weight == known[name]
        assert format_of(name).name == name


def test_by_hand() -> None:
    """Two bits between 0 and 3 in steps of 1; 0.4 goes to 0, 1.6 to 2."""
    form = IntegerFormat(bits=2, group=4)
    weight = np.array([[0.0, 0.4, 1.6, 3.0]], dtype=np.float32)
    assert quantized(weight, form).tolist() == [[0.0, 0.0, 2.0, 3.0]]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_error_is_at_most_half_a_step(bits: int) -> None:
    """Every weight moves by half a step of its group, up to the rounding of scale and
    minimum to fp16; a group holds at most 2^bits values."""
    weight = matrix(8, 64)
    rounded = quantized(weight, IntegerFormat(bits=bits, group=32))
    groups = weight.reshape(8, 2, 32)
    step = np.ptp(groups, axis=-1) / (2**bits - 1)
    slack = np.abs(groups).max() * 2.0**-10
    error = np.abs(rounded - weight).reshape(8, 2, 32).max(axis=-1)
    assert (error <= step / 2 + 2 * slack).all()
    for group in rounded.reshape(-1, 32):
        assert len(np.unique(group)) <= 2**bits


def test_the_axis_is_the_input_dimension() -> None:
    """Groups along the first axis of a matrix are groups along the last of its
    transpose: layouts do not change what is stored."""
    weight = matrix(64, 6)
    form = format_of("int3-g32")
    assert np.array_equal(
        quantized(weight, form, axis=0), quantized(weight.T.copy(), form).T
    )


def test_a_short_last_group() -> None:
    """Weights beyond the last whole group are a group of their own."""
    weight = matrix(3, 40)
    form = format_of("int4-g32")
    rounded = quantized(weight, form)
    assert rounded.shape == weight.shape
    alone = quantized(weight[:, 32:], IntegerFormat(bits=4, group=8))
    assert np.array_equal(rounded[:, 32:], alone)


def test_more_bits_are_closer() -> None:
    """The squared error falls with every bit."""
    weight = matrix(16, 96)
    errors = [
        float(
            ((quantized(weight, IntegerFormat(bits=b, group=32)) - weight) ** 2).sum()
        )
        for b in (2, 3, 4, 5, 6, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_a_constant_group_stays() -> None:
    """A group without spread has scale 0 and decodes to its minimum, in fp16."""
    weight = np.full((1, 32), 0.5, dtype=np.float32)
    assert np.array_equal(quantized(weight, format_of("int2-g32")), weight)


@pytest.mark.parametrize("name", ["bf16", "int1-g32", "int9-g32", "int4-g0", "int4"])
def test_other_formats_are_refused(name: str) -> None:
    """What cannot be measured is refused in one line."""
    with pytest.raises(ProfilingError, match="expected intB-gG") as caught:
        format_of(name)
    assert "\n" not in str(caught.value)

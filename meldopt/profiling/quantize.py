"""Integer formats with groups: what a matrix becomes when it is stored in one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import ProfilingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME = re.compile(r"int([2-8])-g(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerFormat:
    """Integers of ``bits`` bits in groups of ``group`` along the input dimension.

    Each group has a scale and a minimum in fp16, as the integer formats of the
    catalogue do.
    """

    bits: int
    group: int

    @property
    def name(self) -> str:
        """Its name, as instances spell it: ``int4-g32``."""
        return f"int{self.bits}-g{self.group}"

    @property
    def bits_per_weight(self) -> float:
        """Effective bits of a weight in whole groups, scale and minimum included."""
        return self.bits + 32 / self.group


def format_of(name: str) -> IntegerFormat:
    """Return the integer format of a name such as ``int4-g32``.

    Raises
    ------
    ProfilingError
        If it is none that can be measured.
    """
    match = _NAME.fullmatch(name)
    if match is None or int(match[2]) < 1:
        raise ProfilingError(
            f"format: got {name!r}, expected intB-gG with 2 to 8 bits, such as int4-g32"
        )
    return IntegerFormat(bits=int(match[1]), group=int(match[2]))


def quantized(
    weight: NDArray[np.float32], form: IntegerFormat, *, axis: int = -1
) -> NDArray[np.float32]:
    """Round a matrix to what its stored form decodes to.

    Asymmetric round-to-nearest between the minimum and the maximum of each group.

    Parameters
    ----------
    weight
        A matrix of any shape.
    form
        The format.
    axis
        The input dimension, which groups run along; the last group may be short.

    Returns
    -------
    ndarray of float32, of the shape of ``weight``
    """
    rows = np.moveaxis(weight, axis, -1)
    length = rows.shape[-1]
    padded = -length % form.group
    # The last value once more leaves the range of a short group as it is.
    grouped = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, padded)], mode="edge")
    grouped = grouped.reshape(*rows.shape[:-1], -1, form.group)
    low = grouped.min(axis=-1, keepdims=True)
    span = grouped.max(axis=-1, keepdims=True) - low
    scale = (span / (2**form.bits - 1)).astype(np.float16).astype(np.float32)
    low = low.astype(np.float16).astype(np.float32)
    steps = np.zeros_like(grouped)
    np.divide(grouped - low, scale, out=steps, where=scale > 0)
    steps = np.clip(np.rint(steps), 0, 2**form.bits - 1)
    decoded = (steps * scale + low).reshape(*rows.shape[:-1], -1)[..., :length]
    return np.ascontiguousarray(np.moveaxis(decoded, -1, axis), dtype=np.float32)

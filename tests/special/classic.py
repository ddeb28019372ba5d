"""Readers of the classic instances that are not part of the project."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from special.builders import (
    generalised_assignment,
    quadratic_assignment,
    task_allocation,
)

if TYPE_CHECKING:
    from meldopt.instance import Instance


def data_folder(*parts: str) -> Path:
    """Return a folder of the data for tests, or skip the test without it."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("MELDOPT_DATA", default)).joinpath(*parts)
    if not folder.is_dir():
        pytest.skip("no data for tests: set MELDOPT_DATA")
    return folder


def _best(file: str) -> dict[str, str]:
    with (data_folder("classic") / "best.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["file"] == file:
                return row
    raise KeyError(file)


def published(file: str) -> float:
    """Return the published value of a classic instance."""
    return float(_best(file)["best"])


def published_assignment(file: str) -> list[int]:
    """Return a published assignment: the place of each item."""
    return [int(place) for place in _best(file)["assignment"].split()]


def _numbers(file: str) -> list[float]:
    return [float(x) for x in (data_folder("classic") / file).read_text().split()]


class _Reader:
    """Numbers of a file, taken block by block."""

    def __init__(self, file: str) -> None:
        self.numbers = np.array(_numbers(file))
        self.at = 0

    def take(self, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        block = self.numbers[self.at : self.at + size].reshape(shape)
        self.at += size
        return block

    def count(self) -> int:
        return int(self.take(1)[0])


def read_gap(file: str) -> Instance:
    """Read a generalised-assignment instance."""
    r = _Reader(file)
    m, n = r.count(), r.count()
    return generalised_assignment(file, r.take(m, n), r.take(m, n), r.take(m))


def read_ctap(file: str) -> Instance:
    """Read a task-allocation instance; execution costs stand processor by processor."""
    r = _Reader(file)
    n, m = r.count(), r.count()
    execution = r.take(m, n).T
    communication = np.zeros((n, n))
    communication[np.triu_indices(n, 1)] = r.take(n * (n - 1) // 2)
    return task_allocation(file, execution, communication, r.take(n), r.take(m))


def read_gqap(file: str) -> Instance:
    """Read a generalised quadratic assignment instance."""
    r = _Reader(file)
    n, m, fee = r.count(), r.count(), r.take(1)[0]
    flow, distance, cost = r.take(n, n), r.take(m, m), r.take(n, m)
    return quadratic_assignment(file, fee * flow, distance, cost, r.take(n), r.take(m))


def read_qap(file: str) -> Instance:
    """Read a quadratic assignment instance: as many sites as facilities."""
    r = _Reader(file)
    n = r.count()
    one, other = r.take(n, n), r.take(n, n)
    nothing, each = np.zeros((n, n)), np.ones(n)
    return quadratic_assignment(file, one, other, nothing, each, each)

"""When requests arrive, and how long they are: drawn, or from a table of real ones."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import FileFormatError, InstanceError
from meldopt.files import read_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
"""Columns that a request table must have, in any order."""

LONGEST = 1_000_000
"""Most tokens of a drawn prompt or output."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestTable:
    """Arrivals and lengths of requests, in order of arrival.

    Attributes
    ----------
    arrival_s
        (R,), not falling.
    prompt_tokens, output_tokens
        (R,); at least one token of output.
    """

    arrival_s: NDArray[np.float64]  # (R,)
    prompt_tokens: NDArray[np.int64]  # (R,)
    output_tokens: NDArray[np.int64]  # (R,)

    def __len__(self) -> int:
        return len(self.arrival_s)

    def first(self, count: int) -> RequestTable:
        """Return the first requests; the table starts again after its end."""
        size = len(self)
        index = np.arange(count) % size
        # The gap between the end and a new start is that of a mean arrival.
        period = float(self.arrival_s[-1] - self.arrival_s[0]) * size / max(size - 1, 1)
        turn = np.arange(count) // size
        return RequestTable(
            arrival_s=self.arrival_s[index] + turn * period,
            prompt_tokens=self.prompt_tokens[index],
            output_tokens=self.output_tokens[index],
        )

    def at_rate(self, rate_per_s: float) -> RequestTable:
        """Stretch time so that as many requests arrive in a second; starts at 0."""
        return RequestTable(
            arrival_s=at_rate(self.arrival_s, rate_per_s),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )


def poisson(
    rng: np.random.Generator, count: int, rate_per_s: float
) -> NDArray[np.float64]:
    """Draw arrivals that do not depend on each other, in seconds; (count,)."""
    return bursty(rng, count, rate_per_s, 1.0)


def bursty(
    rng: np.random.Generator, count: int, rate_per_s: float, cv: float
) -> NDArray[np.float64]:
    """Draw arrivals with gamma-distributed gaps, in seconds; (count,).

    Parameters
    ----------
    rng
        Where randomness comes from.
    count
        How many.
    rate_per_s
        Mean arrivals per second.
    cv
        Standard deviation of the gaps over their mean: 1 is a Poisson process, more
        means bursts, less a steadier stream, 0 a clock.

    Raises
    ------
    InstanceError
        If the rate is not above 0, or ``cv`` is negative.
    """
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise InstanceError(
            f"rate of requests: got {rate_per_s:g} 1/s, expected more than 0"
        )
    if not (math.isfinite(cv) and cv >= 0):
        raise InstanceError(f"cv of arrivals: got {cv:g}, expected 0 or more")
    if cv == 0:
        gaps = np.full(count, 1 / rate_per_s)
    elif cv == 1:
        gaps = rng.exponential(1 / rate_per_s, count)
    else:
        gaps = rng.gamma(1 / cv**2, cv**2 / rate_per_s, count)
    arrivals: NDArray[np.float64] = np.cumsum(gaps)
    return arrivals


def at_rate(arrival_s: NDArray[np.float64], rate_per_s: float) -> NDArray[np.float64]:
    """Stretch arrivals to a mean rate, from 0 s on; (R,).

    The rate is that of the gaps: (R - 1) over the time between first and last.
    """
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise InstanceError(
            f"rate of requests: got {rate_per_s:g} 1/s, expected more than 0"
        )
    since: NDArray[np.float64] = arrival_s - arrival_s[0]
    span = float(since[-1])
    if span <= 0:
        return since
    stretched: NDArray[np.float64] = since * ((len(since) - 1) / rate_per_s / span)
    return stretched


def lengths(
    rng: np.random.Generator, count: int, mean: float, cv: float, *, least: int = 1
) -> NDArray[np.int64]:
    """Draw numbers of tokens, log-normal and rounded; (count,).

    Parameters
    ----------
    rng
        Where randomness comes from.
    count
        How many.
    mean, cv
        Mean, and standard deviation over mean, before rounding.
    least
        No length is smaller: 1 for outputs, 0 for prompts.

    Raises
    ------
    InstanceError
        If the mean is below ``least`` or above `LONGEST`, or ``cv`` is negative.
    """
    if not least <= mean <= LONGEST:
        raise InstanceError(
            f"mean length: got {mean:g} tokens, expected {least} to {LONGEST}"
        )
    if not (math.isfinite(cv) and cv >= 0):
        raise InstanceError(f"cv of lengths: got {cv:g}, expected 0 or more")
    if mean == 0:
        return np.zeros(count, dtype=np.int64)
    sigma = math.sqrt(math.log1p(cv**2))
    drawn = mean * np.exp(sigma * rng.standard_normal(count) - sigma**2 / 2)
    return np.clip(np.rint(drawn), least, LONGEST).astype(np.int64)


def read_requests(path: str | Path) -> RequestTable:
    """Read a table of requests: ``.csv`` or ``.csv.gz`` with a line of names.

    Parameters
    ----------
    path
        Has the columns `COLUMNS`; others are left alone.

    Raises
    ------
    FileFormatError
        In one line that names the file and the line in it.
    """
    path = Path(path)
    data = read_bytes(path)
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as exc:
            raise FileFormatError(f"{path}: cannot be unpacked: {exc}") from exc
    try:
        rows = csv.reader(data.decode("utf-8-sig").splitlines())
        names = [name.strip() for name in next(rows, [])]
        for column in COLUMNS:
            if column not in names:
                raise FileFormatError(
                    f"{path}: line 1: got columns {names}, expected {column!r}"
                )
        at = [names.index(column) for column in COLUMNS]
        table: list[tuple[float, int, int]] = []
        for number, row in enumerate(rows, start=2):
            if row:
                table.append(_row(row, at, f"{path}: line {number}"))
    except UnicodeDecodeError as exc:
        raise FileFormatError(f"{path}: is not UTF-8 text") from exc
    except csv.Error as exc:
        raise FileFormatError(f"{path}: is no table: {exc}") from exc
    if not table:
        raise FileFormatError(f"{path}: got no requests, expected at least one")
    arrival = np.array([row[0] for row in table])
    falls = np.flatnonzero(np.diff(arrival) < 0)
    if len(falls):
        n = int(falls[0]) + 1
        raise FileFormatError(
            f"{path}: request {n}: arrival_s: got {arrival[n]:g} after "
            f"{arrival[n - 1]:g}, expected requests in order of arrival"
        )
    return RequestTable(
        arrival_s=arrival,
        prompt_tokens=np.array([row[1] for row in table], dtype=np.int64),
        output_tokens=np.array([row[2] for row in table], dtype=np.int64),
    )


def _row(row: list[str], at: list[int], place: str) -> tuple[float, int, int]:
    values = []
    for n, name, least in zip(at, COLUMNS, (0, 0, 1), strict=True):
        text = row[n].strip() if n < len(row) else ""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        whole = name == "arrival_s" or value.is_integer()
        if not (math.isfinite(value) and value >= least and whole):
            kind = "a number of seconds" if name == "arrival_s" else "a whole number"
            raise FileFormatError(
                f"{place}: {name}: got {text!r}, expected {kind}, {least} or more"
            )
        values.append(value)
    return values[0], int(values[1]), int(values[2])

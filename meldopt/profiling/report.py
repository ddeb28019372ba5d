"""A recording for people: tables of what was measured, with errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.errors import ProfilingError

from .sampling import Estimate, over_domains
from .simhash import cosine_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Cell = str | float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: its title, the names of its columns, its rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def tables(folder: Path) -> list[Table]:
    """Read a recording and put it into tables.

    Parameters
    ----------
    folder
        As `write_recording` fills it. Losses are in nats per token.

    Raises
    ------
    ProfilingError
        If it is no recording.
    """
    for name in ("about.json", "measured.npz"):
        if not (folder / name).is_file():
            raise ProfilingError(f"{folder}: got no {name}, expected a recording")
    about: dict[str, Any] = json.loads((folder / "about.json").read_text("utf-8"))
    with np.load(folder / "measured.npz") as found:
        arrays: dict[str, NDArray[Any]] = dict(found)
    figures = about["figures"]
    return [
        _formats(figures, arrays),
        _curve("pruning the smallest gates of one layer", "prune", figures, arrays),
        _curve("fusing by signature in one layer", "fuse", figures, arrays),
        _curve("fusing by cosine in one layer", "fuse_cosine", figures, arrays),
        _answers(figures, arrays),
        _held_out(figures),
        _additivity(figures),
        _similarity(arrays),
    ]


def _mean(arrays: dict[str, NDArray[Any]], kind: str, split: str = "plan") -> Estimate:
    return over_domains(
        Estimate(
            mean=arrays[f"{split}_{kind}_kl"].astype(np.float64),
            error=arrays[f"{split}_{kind}_error"].astype(np.float64),
        )
    )


def _formats(figures: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Table:
    kl = _mean(arrays, "format")
    rows = []
    for number, name in enumerate(figures["scope"]["formats"]):
        mean, error = kl.mean[:, number], kl.error[:, number]
        seen = mean > 0
        rows.append(
            (
                name,
                figures["bits_per_weight"][name],
                _digits(mean.mean()),
                _digits(np.median(mean)),
                _digits(mean.max()),
                _percent(np.median(error[seen] / mean[seen])),
                _digits(mean.sum()),
            )
        )
    return Table(
        title="one expert in a format",
        columns=("format", "bits", "mean", "median", "largest", "error", "sum"),
        rows=tuple(rows),
    )


def _curve(
    title: str, kind: str, figures: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> Table:
    share = arrays[f"plan_{kind}_share"].astype(np.float64)
    found = _mean(arrays, kind)
    strength = {
        "prune": "prune_shares",
        "fuse": "distances",
        "fuse_cosine": "cosines",
    }[kind]
    others = slice(1, None) if len(share) > 1 else slice(None)
    rows = []
    for column, at in enumerate(figures["scope"][strength][: share.shape[1]]):
        loss, error = found.mean[:, column], found.error[:, column]
        label = f"{at} bits (cos {cosine_of(at):.3f})" if kind == "fuse" else at
        rows.append(
            (
                label,
                _percent(share[0, column]),
                _plus_minus(loss[0], error[0]),
                _percent(share[others, column].mean()),
                _digits(loss[others].mean()),
                _percent(np.median(error[others] / np.maximum(loss[others], 1e-30))),
            )
        )
    return Table(
        title=title,
        columns=("at", "share, first", "loss, first", "share", "loss", "error"),
        rows=tuple(rows),
    )


def _answers(figures: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Table:
    found = _mean(arrays, "similar")
    smallest = _mean(arrays, "format").mean[:, -1]
    expert = arrays["pairs_answered"][:, 0]
    ratio = found.mean / np.maximum(smallest[expert], 1e-30)
    seen = found.mean > 0
    return Table(
        title="all calls of one expert answered by the most similar one",
        columns=("pairs", "mean", "median", "error", "÷ its smallest format, median"),
        rows=(
            (
                len(found.mean),
                _digits(found.mean.mean()),
                _digits(np.median(found.mean)),
                _percent(np.median(found.error[seen] / found.mean[seen])),
                _digits(np.median(ratio[seen])),
            ),
        ),
    )


def _held_out(figures: dict[str, Any]) -> Table:
    rows = []
    for kind, one in figures["held_out"].items():
        own, pooled = (
            _percent(one[key]) if key in one else None
            for key in ("error_from_own_domain", "error_from_all_domains")
        )
        rows.append(
            (
                kind,
                one["number"],
                _digits(one["ratio"]),
                _digits(one["rank_correlation"]),
                _percent(one["within_two_errors"]),
                own,
                pooled,
            )
        )
    return Table(
        title="the same on unseen text",
        columns=(
            "change",
            "number",
            "sum ÷ sum before",
            "rank correlation",
            "within 2 errors",
            "by domain from its own",
            "from all",
        ),
        rows=tuple(rows),
    )


def _additivity(figures: dict[str, Any]) -> Table:
    return Table(
        title="many changes at once, on unseen text",
        columns=("plans", "number", "sum of single", "together", "ratio", "rank"),
        rows=tuple(
            (
                kind,
                one["plans"],
                _digits(one["sum_of_single_kl"]),
                _plus_minus(one["kl_together"], one["error"]),
                _digits(one["together_over_sum"]),
                _digits(one["rank_correlation"]),
            )
            for kind, one in figures["additivity"].items()
        ),
    )


def _similarity(arrays: dict[str, NDArray[Any]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in ("weight_cosine", "output_cosine", "output_cka", "answer_error"):
        table = arrays[name].astype(np.float64)
        off = ~np.eye(table.shape[1], dtype=bool)
        pairs = table[:, off]
        rows.append(
            (
                name.replace("_", " "),
                *(_digits(f(pairs)) for f in (np.nanmin, np.nanmean, np.nanmax)),
            )
        )
    return Table(
        title="pairs of experts of a layer",
        columns=("similarity", "smallest", "mean", "largest"),
        rows=tuple(rows),
    )


def _digits(value: Any) -> float | None:
    return None if value is None else float(f"{float(value):.3g}")


def _percent(value: Any) -> str:
    return f"{100 * float(value):.1f} %"


def _plus_minus(value: Any, error: Any) -> str:
    return f"{_digits(value):g} ± {float(f'{float(error):.2g}'):g}"

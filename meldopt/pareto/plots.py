"""A picture of a front (extra ``plot``): points, and where better plans may be."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import FileFormatError
from meldopt.files import write_bytes
from meldopt.replay.plots import COLOURS, MUTED, STYLE, SUFFIXES, need_matplotlib

from .front import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from .front import Front

SAMPLES = 400
"""Heights at which the proven limit is drawn."""


def plot_front(front: Front, target: str | Path, *, title: str) -> Path:
    """Draw a front: its points, what is proved impossible and what is not.

    Parameters
    ----------
    front
        With two points or more, or one.
    target
        A file ``.svg``, ``.png`` or ``.pdf``; the same front gives the same bytes.
    title
        Over the picture.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    FileFormatError
        If the front has no point, or the target is not such a file or not writable.
    """
    check_target(target)
    path = Path(target)
    if not front.points:
        raise FileFormatError(f"{path}: the front has no point, nothing to draw")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw(axes, front)
        axes.set_title(title)
        data = BytesIO()
        kind = path.suffix[1:]
        stamp = {"svg": "Date", "pdf": "CreationDate"}.get(kind)
        figure.savefig(
            data, format=kind, dpi=150, metadata={stamp: None} if stamp else {}
        )
    write_bytes(path, data.getvalue())
    return path


def check_target(target: str | Path) -> None:
    """Refuse, before any work, a picture that cannot be drawn."""
    need_matplotlib()
    if Path(target).suffix not in SUFFIXES:
        raise FileFormatError(
            f"{target}: got a picture of this name, expected one in "
            f"{', '.join(SUFFIXES)}"
        )


def _draw(axes: Axes, front: Front) -> None:
    x = np.array([point.first for point in front.points])
    y = np.array([point.second for point in front.points])
    left, right = _margins(x)
    low, high = _margins(y)
    heights = np.linspace(low, high, SAMPLES)
    limit = _limits(front, heights)
    # Stairs: right of and above a point no plan is needed.
    stairs_x = np.concatenate([[x[0]], np.repeat(x[1:], 2), [right]])
    stairs_y = np.concatenate([np.repeat(y, 2)])
    reached = np.array([x[y <= h].min() if (y <= h).any() else right for h in heights])
    shut = np.clip(limit, left, right)
    axes.fill_betweenx(
        heights,
        left,
        shut,
        color=MUTED,
        alpha=0.45,
        linewidth=0,
        label="no plan (proved)",
    )
    axes.fill_betweenx(
        heights,
        np.minimum(shut, reached),
        reached,
        color=COLOURS[4],
        alpha=0.3,
        linewidth=0,
        label="not decided",
    )
    axes.plot(
        np.concatenate([[x[0]], stairs_x]),
        np.concatenate([[high], stairs_y]),
        color=COLOURS[0],
        linewidth=1.0,
    )
    for capped, marker, label in (
        (False, "o", "plan by a weighted sum"),
        (True, "D", "plan by a cap"),
    ):
        chosen = [
            n for n, p in enumerate(front.points) if (p.cap is not None) == capped
        ]
        if chosen:
            axes.plot(
                x[chosen],
                y[chosen],
                marker,
                color=COLOURS[0],
                markersize=5,
                label=label,
            )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    for name, term in zip(("xlabel", "ylabel"), front.terms, strict=True):
        axes.set(**{name: f"{term} ({UNITS[term]})"})
    axes.legend(loc="upper right")


def _margins(values: NDArray[np.float64]) -> tuple[float, float]:
    width = float(values.max() - values.min()) or 0.2 * abs(float(values[0])) or 1.0
    return float(values.min()) - 0.12 * width, float(values.max()) + 0.12 * width


def _limits(front: Front, heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what is proved of the first term at each height."""
    found = [front.certificate.first_above(float(height)) for height in heights]
    return np.array(
        [1e300 if math.isinf(f) and f > 0 else max(f, -1e300) for f in found]
    )

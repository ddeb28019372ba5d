"""Pictures of a comparison (extra ``plot``): profiles, gaps, ranks, ratios.

Style and colours are those of `meldopt.replay.plots`. Up to `SHOWN` solvers have lines
of their own; more are told apart in a chart with a row for each, never by colour.
"""

from __future__ import annotations

import math
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.replay.plots import COLOURS, DASHES, MUTED, STYLE, need_matplotlib

from .statistics import cliques

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from .profiles import GapCurves, Profile
    from .statistics import Friedman

PICTURES = ("svg", "pdf", "png")
"""Formats of pictures."""

SHOWN = 8
"""Solvers with lines of their own; the others are grey, and all are in the chart."""

MANY = 60
"""Longest chart; of more solvers the first are shown."""

TOP = 3.6
"""Height of a panel of lines, in inches."""

_PLACES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

ROW = 0.19
"""Height of a row of a chart, in inches."""


def picture(draw: Callable[[], Figure], kind: str) -> bytes:
    """Draw a figure and return the bytes of its file, always the same.

    Parameters
    ----------
    draw
        Makes the figure; called with the style of the project.
    kind
        One of `PICTURES`.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    need_matplotlib()
    import matplotlib as mpl

    none: dict[str, Any] = {"CreationDate": None, "Producer": None, "Creator": None}
    blank: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "png": {"Software": None},
    }
    out = BytesIO()
    with mpl.rc_context(STYLE):
        draw().savefig(out, format=kind, dpi=130, metadata=blank.get(kind, none))
    return out.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that no window will ever show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def cut(name: str, length: int = 28) -> str:
    """Shorten a name."""
    return name if len(name) <= length else name[: length - 1] + "…"


def styles() -> Any:
    """Return pairs of a colour and a dash, no two alike among the first `SHOWN`."""
    return zip(cycle(COLOURS), cycle(DASHES), strict=False)


# -- curves ----------------------------------------------------------------------------


def draw_profile(profile: Profile) -> Figure:
    """Draw a performance profile: lines of the best, and a chart of all if many."""
    figure, top, bottom = _halves(7.6, len(profile.labels))
    axes = top.subplots()
    _lines(axes, profile.labels, profile.tau, profile.share)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("share of the cases")
    _ratio_axis(axes, profile.tau)
    if bottom is not None:
        chart = bottom.subplots()
        _chart(chart, profile.labels, profile.tau, profile.share, "share of the cases")
        _ratio_axis(chart, profile.tau)
    return figure


def draw_gaps(curves: GapCurves) -> Figure:
    """Draw mean gaps over time: of the plans, and of what runs know themselves."""
    figure, top, bottom = _halves(9.6, len(curves.labels))
    left, right = top.subplots(1, 2, sharey=True)
    proved: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(curves.proof), axis=1)
    for axes, title, table, shown in (
        (left, "To the best bound of any run", curves.plan, None),
        (right, "To the run's own bound", curves.proof, proved),
    ):
        axes.set_title(title)
        _lines(
            axes,
            curves.labels,
            curves.time_s,
            table,
            kept=shown,
            legend=axes is right,
        )
        _time_axis(axes)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(_percents())
    left.set_ylabel("mean gap")
    if not proved.any():
        right.text(
            0.5, 0.5, "no run proved a bound", ha="center", transform=right.transAxes
        )
    if bottom is not None:
        chart = bottom.subplots()
        _chart(
            chart,
            curves.labels,
            curves.time_s,
            curves.plan,
            "mean gap to the best bound",
            reverse=True,
        )
        _time_axis(chart)
    return figure


def _height(rows: int) -> float:
    """Return the height of a chart in inches."""
    return 0.9 + ROW * min(rows, MANY)


def _halves(width: float, rows: int) -> tuple[Figure, Any, Any]:
    """Make a figure for lines, and of many solvers a lower half for the chart."""
    if rows <= SHOWN:
        figure = new_figure(width, TOP)
        return figure, figure, None
    figure = new_figure(width, TOP + _height(rows))
    both: Any = figure.subfigures(2, 1, height_ratios=[TOP, _height(rows)])
    return figure, both[0], both[1]


def _lines(
    axes: Axes,
    labels: Sequence[str],
    x: NDArray[np.float64],
    table: NDArray[np.float64],
    *,
    kept: NDArray[np.bool_] | None = None,
    legend: bool = True,
) -> None:
    """Draw a line for each of the first labels, and grey ones for the others."""
    for n, (label, (colour, dash)) in enumerate(zip(labels, styles(), strict=False)):
        first = n < SHOWN
        if kept is not None and not kept[n]:
            if first:  # in the legend all the same: it is that of both panels
                axes.plot([], [], color=colour, ls=dash, lw=1.6, label=cut(label))
            continue
        axes.step(
            x,
            table[n],
            where="post",
            color=colour if first else MUTED,
            ls=dash if first else "-",
            lw=1.6 if first else 0.7,
            zorder=3 if first else 2,
            label=cut(label) if first else None,
        )
    others = len(labels) - SHOWN
    if others > 0:
        axes.plot([], [], color=MUTED, lw=0.7, label=f"{others} others, below")
    axes.set_xlim(x[0], x[-1])
    if legend and len(labels):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _chart(
    axes: Axes,
    labels: Sequence[str],
    x: NDArray[np.float64],
    table: NDArray[np.float64],
    what: str,
    *,
    reverse: bool = False,
) -> None:
    """Draw a row for each label, coloured by its value: dark is good."""
    shown = table[:MANY]
    rows = np.arange(len(shown) + 1) - 0.5
    edges = np.append(x, x[-1])
    mesh = axes.pcolormesh(
        edges,
        rows,
        shown,
        cmap="viridis" if reverse else "viridis_r",
        vmin=0,
        vmax=1,
        rasterized=True,
    )
    names = [cut(name) for name in labels[:MANY]]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(x[0], x[-1])
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
    bar.set_label(what)
    bar.ax.yaxis.set_major_formatter(_percents())
    bar.outline.set_visible(False)


def _ratio_axis(axes: Axes, tau: NDArray[np.float64]) -> None:
    """Label an axis of factors; logarithmic if it reaches far."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if tau[-1] > 3:
        axes.set_xscale("log")
        ticks = [one for one in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if one <= tau[-1]]
        axes.set_xticks(ticks)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(_no_ticks())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.set_xlabel("within this factor of the best")


def _time_axis(axes: Axes) -> None:
    """Label an axis of seconds with plain numbers, few enough to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("s since the start")


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _percents() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=0, symbol=" %")


# -- ranks -----------------------------------------------------------------------------


def draw_ranks(labels: Sequence[str], found: Friedman) -> Figure:
    """Draw a critical-difference diagram.

    Labels hang on an axis of mean ranks, half of them on each side; a bar joins those
    whose mean ranks are not told apart.
    """
    order = np.argsort(found.mean_rank, kind="stable")
    mean = found.mean_rank[order]
    names = [cut(labels[k]) for k in order]
    num = len(names)
    bars = cliques(mean, found.distance)
    lanes = _lanes(bars)
    low, high = 1.0, float(num)
    half = (num + 1) // 2
    depth = 0.5 + 0.32 * (max(lanes, default=-1) + 1)
    bottom = depth + 0.6 * half + 0.2
    figure = new_figure(8.4, 0.9 + 0.36 * bottom)
    axes = figure.subplots()
    axes.set_xlim(low - 0.02 * num, high + 0.02 * num)
    axes.set_ylim(bottom, -1.9)
    axes.axis("off")
    axes.plot([low, high], [0, 0], color="black", lw=1.2, clip_on=False)
    step = max(1, round(num / 12))
    for tick in range(1, num + 1, step):
        axes.plot([tick, tick], [0, -0.22], color="black", lw=1)
        axes.text(tick, -0.3, str(tick), ha="center", va="bottom", fontsize=8)
    wide = min(found.distance, high - low)
    axes.plot([low, low + wide], [-1.35, -1.35], color="black", lw=1.2)
    for end in (low, low + wide):
        axes.plot([end, end], [-1.2, -1.5], color="black", lw=1.2)
    axes.text(
        low + wide + 0.012 * num,
        -1.35,
        f"critical distance {found.distance:.2f}"
        + ("" if wide == found.distance else ", longer than the axis"),
        va="center",
        fontsize=8,
    )
    for (first, last), lane in zip(bars, lanes, strict=True):
        y = 0.4 + 0.32 * lane
        pad = 0.004 * num
        axes.plot(
            [mean[first] - pad, mean[last] + pad],
            [y, y],
            color="black",
            lw=3.2,
            solid_capstyle="butt",
            zorder=4,
        )
    for n, (rank, name) in enumerate(zip(mean, names, strict=True)):
        left = n < half
        level = depth + 0.6 * (n if left else num - 1 - n)
        edge = low - 0.02 * num if left else high + 0.02 * num
        axes.plot([rank, rank, edge], [0, level, level], color="#7a7a7a", lw=0.7)
        axes.plot([rank], [0], ".", color=COLOURS[0], ms=5, zorder=5)
        text = f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}"
        axes.annotate(
            text,
            (edge, level),
            xytext=(-4 if left else 4, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    return figure


def _lanes(bars: Sequence[tuple[int, int]]) -> list[int]:
    """Put bars into as few lanes as keep them apart."""
    ends: list[int] = []
    lanes = []
    for first, last in bars:
        lane = next((n for n, end in enumerate(ends) if end < first), len(ends))
        ends[lane : lane + 1] = [last]
        lanes.append(lane)
    return lanes


# -- ratios ----------------------------------------------------------------------------


def draw_ratios(
    labels: Sequence[str],
    panels: Sequence[tuple[str, Sequence[tuple[float, float, float] | None]]],
    what: str,
) -> Figure:
    """Draw mean ratios with their intervals: a panel for each family.

    Parameters
    ----------
    labels
        Of the rows, best first.
    panels
        Name, and (mean, low, high) of each label; nan ends where there is no interval,
        None where there is no mean.
    what
        Label of the axis.
    """
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(
        2.0 + 2.5 * across + 0.8 * (across == 1),
        (0.95 + max(ROW * len(labels), 0.5)) * down,
    )
    grid: Any = figure.subplots(down, across, squeeze=False, sharey=True)
    rows = np.arange(len(labels))
    for axes, (name, marks) in zip(grid.flat, panels, strict=False):
        axes.set_title(cut(name, 30))
        reach = [end for mark in marks if mark for end in mark if np.isfinite(end)]
        for row, mark in zip(rows, marks, strict=True):
            if mark is None:
                axes.text(
                    0.5,
                    row,
                    "not solved",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="#7a7a7a",
                    transform=axes.get_yaxis_transform(),
                )
                continue
            mean, low, high = mark
            axes.plot([low, high], [row, row], color=COLOURS[0], lw=1.4)
            axes.plot([mean], [row], "o", color=COLOURS[0], ms=4)
        axes.axvline(1.0, color="black", lw=0.8, ls=":")
        axes.set_yticks(rows, [cut(label) for label in labels], fontsize=7.5)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlabel(what, fontsize=8)
        _ratio_ticks(axes, reach)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    return figure


def _ratio_ticks(axes: Axes, reach: Sequence[float]) -> None:
    """Scale an axis of ratios; 1 is always on it, and few places are labelled."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    low, high = min([1.0, *reach]), max([1.0, *reach])
    if low > 0 and high > 4 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.15, high * 1.15)
        ticks = [one for one in _PLACES if low / 1.15 <= one <= high * 1.15]
        while len(ticks) > 5:
            ticks = [one for one in ticks if one == 1] + ticks[1::2]
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        wide = max(high - low, 1e-4)
        axes.set_xlim(low - 0.06 * wide, high + 0.06 * wide)
        rough = wide / 3
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        first = -math.floor((1 - low) / step + 0.06)
        last = math.floor((high - 1) / step + 0.06)
        ticks = [1 + n * step for n in range(first, last + 1)]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.tick_params(axis="x", labelsize=7.5)

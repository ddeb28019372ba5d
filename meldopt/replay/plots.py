"""Pictures of a replay (extra ``plot``): latencies, loads over time, a map.

The same replay gives the same bytes. Colours are those of Okabe and Ito and the map
``viridis``, which people with colour-blind eyes tell apart; lines differ in dashes too.
"""

from __future__ import annotations

from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from meldopt.errors import FileFormatError, MissingExtraError
from meldopt.files import write_bytes

from .report import AnalyticReport, EventReport, busiest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .analytic import Analytic
    from .records import Records
    from .report import LinkReport, Load, ProcessorReport, Spread

PICTURES = ("latency", "utilisation", "map")
"""Names of the files in a folder; the analytic mode has no load over time."""

SUFFIXES = (".png", ".svg", ".pdf")
"""One picture of everything; any other name is a folder."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":")
MUTED = "#b0b0b0"

SHOWN = 6
"""Lines of their own; a grey band reaches from the least to the most of the others."""

STEPS = 64
"""Bins of a load over time; finer ones are joined, so that lines can be read."""

POINTS = 2000
"""Points of a distribution; more are thinned."""

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "meldopt",
}


def need_matplotlib() -> None:
    """Refuse in one line where the extra is not installed.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "plots: matplotlib is not installed: pip install 'meldopt[plot]'"
        )


def plot_events(
    problem: Problem, records: Records, report: EventReport, target: str | Path
) -> list[Path]:
    """Draw a run of the event mode.

    Parameters
    ----------
    problem, records, report
        What was replayed, what happened, and what `report_events` made of it.
    target
        A file ``.png``, ``.svg`` or ``.pdf`` for one picture, else a folder for one
        file each.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    FileFormatError
        If the target is not writable.
    """
    inside = records.arrival_s >= report.warm_up.until_s
    of = records.application[inside]
    names = problem.labels.applications
    every, goal = report.all, report.all.goodput
    first, later = (goal.ttft_s, goal.tpot_s) if goal else (None, None)
    panels = [
        _Times(title, values[inside], of, names, spread, target_s)
        for title, values, spread, target_s in (
            ("Time to first token", records.ttft_s, every.ttft_s, first),
            ("Time per output token", records.tpot_s, every.tpot_s, later),
            ("Arrival to last token", records.latency_s, every.latency_s, None),
        )
    ]
    return _Picture(problem, panels, "requests", report).write(Path(target))


def plot_analytic(
    problem: Problem, times: Analytic, report: AnalyticReport, target: str | Path
) -> list[Path]:
    """Draw a run of the analytic mode; parameters as in `plot_events`."""
    of = problem.application_of[times.demand]
    names = problem.labels.applications
    panels = [
        _Times(title, values, of, names, spread, None)
        for title, values, spread in (
            ("Calls one after the other", times.serial_s, report.all.serial_s),
            ("Calls side by side", times.parallel_s, report.all.parallel_s),
        )
    ]
    return _Picture(problem, panels, "tokens", report).write(Path(target))


class _Times:
    """Values of one panel of the distribution, by application."""

    def __init__(
        self,
        title: str,
        values: NDArray[np.float64],
        of: NDArray[np.int64],
        names: Sequence[str],
        spread: Spread,
        target_s: float | None,
    ) -> None:
        kept = np.isfinite(values)
        self.title, self.values, self.of = title, values[kept], of[kept]
        self.names, self.spread, self.target_s = names, spread, target_s

    def draw(self, axes: Axes, what: str, *, legend: bool) -> None:
        axes.set_title(self.title)
        axes.set_ylabel(f"share of {what}")
        axes.set_ylim(0, 1)
        if not len(self.values):
            _say(axes, f"no {what}")
            return
        top = float(self.values.max())
        scale, unit = _unit(self.spread.p50 or top)
        spread = self.spread
        marks = [
            f"{name} {_short(value, scale)}"
            for name, value in (
                ("all: p50", spread.p50),
                ("p95", spread.p95),
                ("p99", spread.p99),
                ("target", self.target_s),
            )
            if value is not None
        ]
        axes.set_xlabel(f"{unit}    {', '.join(marks)}")
        used = np.unique(self.of)
        styles = zip(cycle(COLOURS), cycle(DASHES), strict=False)
        for g, (colour, dash) in zip(used.tolist(), styles, strict=False):
            mine = self.values[self.of == g] * scale
            label = _cut(self.names[g])
            axes.step(*_steps(mine), color=colour, ls=dash, lw=1.5, label=label)
        if len(used) > 1:
            every = _steps(self.values * scale)
            axes.step(*every, color="black", lw=1.0, label="all")
        low = float(self.values[self.values > 0].min(initial=top))
        if top > 50 * low > 0:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        if self.target_s is not None and self.target_s <= top:
            axes.axvline(self.target_s * scale, color="black", ls=":", lw=1)
            axes.annotate(
                "target",
                (self.target_s * scale, 0.02),
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
        if legend:
            axes.legend(loc="lower right")


class _Picture:
    """Panels of one replay, and how they are put on pages."""

    def __init__(
        self,
        problem: Problem,
        panels: list[_Times],
        what: str,
        report: EventReport | AnalyticReport,
    ) -> None:
        self.problem, self.panels, self.what, self.report = (
            problem,
            panels,
            what,
            report,
        )

    def write(self, target: Path) -> list[Path]:
        need_matplotlib()
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            if target.suffix.lower() in SUFFIXES:
                return [self.one(target)]
            pages: dict[str, Figure] = {
                "latency": self.latency(),
                "map": self.alone(),
            }
            if isinstance(self.report, EventReport):
                pages["utilisation"] = self.utilisation()
            try:
                target.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise FileFormatError(
                    f"{target}: cannot be made: {exc.strerror}"
                ) from exc
            return [
                _save(pages[name], target / f"{name}.png")
                for name in PICTURES
                if name in pages
            ]

    def one(self, target: Path) -> Path:
        """Draw everything on one page."""
        loads = isinstance(self.report, EventReport)
        figure = _figure(12, 8.5 if loads else 7.5)
        halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.6])
        top, bottom = halves
        self.distributions(top.subplots(1, len(self.panels)))
        if loads:
            left, right = bottom.subfigures(1, 2, width_ratios=[1, 1])
            self.loads(left.subplots(2, 1, sharex=True))
            self.map(right.subplots())
        else:
            self.map(bottom.subplots())
        figure.suptitle(self.problem.name, fontsize=12)
        return _save(figure, target)

    def latency(self) -> Figure:
        figure = _figure(4 * len(self.panels), 3.4)
        self.distributions(figure.subplots(1, len(self.panels)))
        return figure

    def distributions(self, axes: NDArray[Any]) -> None:
        for n, (panel, one) in enumerate(zip(self.panels, axes.flat, strict=True)):
            panel.draw(one, self.what, legend=n == 0)

    def utilisation(self) -> Figure:
        figure = _figure(9, 5.5)
        self.loads(figure.subplots(2, 1, sharex=True))
        return figure

    def alone(self) -> Figure:
        figure = _figure(7.5, 6)
        self.map(figure.subplots())
        return figure

    def loads(self, axes: NDArray[Any]) -> None:
        """Draw the load of processors and of links over time."""
        report = self.report
        assert isinstance(report, EventReport)
        links = [f"{one.source} → {one.target}" for one in report.links]
        _loads(
            axes[0],
            "Processors",
            [one.name.removesuffix("/processor") for one in report.processors],
            report.over_time.processors,
            busiest(report.processors),
            report,
        )
        _loads(
            axes[1],
            "Links",
            links,
            report.over_time.links,
            busiest(report.links),
            report,
        )
        axes[1].set_xlabel("s    (shaded: not in the means)")

    def map(self, axes: Axes) -> None:
        """Draw servers and links, coloured by load."""
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        report, labels = self.report, self.problem.labels
        load = dict.fromkeys(labels.servers, 0.0)
        processors: Sequence[ProcessorReport | Load] = report.processors
        links: Sequence[LinkReport | Load] = report.links
        for p, one in enumerate(processors):
            name = labels.servers[int(self.problem.processor_server[p])]
            load[name] = max(load[name], one.utilisation or 0.0)
        graph = nx.DiGraph()
        graph.add_nodes_from(labels.servers)
        for link in links:
            graph.add_edge(link.source, link.target, load=link.utilisation or 0.0)
        carried = nx.get_edge_attributes(graph, "load")
        top = _nice(max([*load.values(), *carried.values(), 0.0]))
        shade: Any = ScalarMappable(Normalize(0, top), colormaps["viridis_r"])
        place = _layout(graph)
        homes = {labels.servers[h] for h in self.problem.home_of.tolist()}
        crowd = len(graph)
        size = float(np.clip(9000 / crowd, 300, 1300))
        nx.draw_networkx_edges(
            graph,
            place,
            ax=axes,
            edge_color=[shade.to_rgba(value) for value in carried.values()],
            width=[1.2 + 3.5 * value / top for value in carried.values()],
            connectionstyle="arc3,rad=0.12",
            arrowsize=11 if crowd <= 16 else 7,
            node_size=int(size),
        )
        for shape, mine in (
            ("s", [name for name in labels.servers if name in homes]),
            ("o", [name for name in labels.servers if name not in homes]),
        ):
            nx.draw_networkx_nodes(
                graph,
                place,
                nodelist=mine,
                ax=axes,
                node_shape=shape,
                node_size=int(size),
                node_color=[shade.to_rgba(load[name]) for name in mine],
                edgecolors="black",
                linewidths=0.8,
            )
        for name, (x, y) in place.items():
            red, green, blue, _ = shade.to_rgba(load[name])
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            text = _cut(name, 12)
            if crowd <= 20:
                text += f"\n{100 * load[name]:.0f} %"
            axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                fontsize=8 if crowd <= 12 else 6.5,
                color="white" if dark else "black",
            )
        axes.set_title("Servers and links by load")
        axes.margins(0.12)
        axes.set_axis_off()
        several = len(report.processors) > len(labels.servers)
        axes.annotate(
            "squares: homes" + ("; of several processors the busiest" * several),
            (0.5, 0.0),
            xycoords="axes fraction",
            ha="center",
            va="top",
            fontsize=8,
        )
        bar = axes.figure.colorbar(shade, ax=axes, shrink=0.75, pad=0.02)
        bar.set_label("busy share of the time")


def _loads(
    axes: Axes,
    title: str,
    names: list[str],
    table: list[list[float]],
    order: list[int],
    report: EventReport,
) -> None:
    axes.set_title(title)
    axes.set_ylabel("busy share")
    width = report.over_time.bin_s
    size = len(table[0]) if table else 0
    if not size:
        _say(axes, f"no {title.lower()}")
        return
    joined = -(-size // STEPS)
    starts = np.arange(0, size, joined)
    counts = np.diff(starts, append=size)
    rows = np.add.reduceat(np.array(table), starts, axis=1) / counts
    edges = np.append(starts, size) * width
    styles = list(zip(COLOURS, cycle(DASHES), strict=False))
    others = rows[order[SHOWN:]]
    for n, (colour, dash) in zip(order, styles, strict=False):
        load: Any = report.processors[n] if title == "Processors" else report.links[n]
        label = f"{_cut(names[n])}  {100 * (load.utilisation or 0.0):.0f} %"
        axes.stairs(
            rows[n], edges, color=colour, ls=dash, lw=1.4, label=label, baseline=None
        )
    if len(others):
        axes.stairs(
            others.max(axis=0),
            edges,
            baseline=others.min(axis=0),
            color=MUTED,
            fill=True,
            zorder=1,
            label=f"{len(others)} others",
        )
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, min(1.05, max(1.1 * float(rows.max()), 0.05)))
    start, stop = report.window_s
    for low, high in ((0.0, start), (stop, edges[-1])):
        if high > low:
            axes.axvspan(low, high, color="#f1f1f1", zorder=0, lw=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="mean load")


def _layout(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Place the servers; always the same for the same links."""
    plain = graph.to_undirected()
    if len(plain) > 1 and nx.is_connected(plain):
        places = nx.kamada_kawai_layout(plain)
    else:
        places = nx.circular_layout(plain)
    return {name: (float(x), float(y)) for name, (x, y) in places.items()}


def _figure(width: float, height: float) -> Figure:
    """Make a figure that no window will ever show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    """Write a figure without the date, so that the bytes are the same again."""
    blank = {".png": {"Software": None}, ".svg": {"Date": None}}
    none: dict[str, Any] = {"CreationDate": None, "Producer": None, "Creator": None}
    suffix = path.suffix.lower()
    drawn = BytesIO()
    figure.savefig(drawn, format=suffix[1:], dpi=130, metadata=blank.get(suffix, none))
    write_bytes(path, drawn.getvalue())
    return path


def _steps(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distribution function of values as a staircase."""
    ordered = np.sort(values)
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    if len(ordered) > POINTS:
        at = np.linspace(0, len(ordered) - 1, POINTS).astype(np.int64)
        ordered, share = ordered[at], share[at]
    return np.append(ordered[:1], ordered), np.append(0.0, share)


def _unit(value: float) -> tuple[float, str]:
    """Return the factor and the name of a unit of time that suits a value."""
    for factor, name in ((1.0, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return factor, name
    return 1e6, "µs"


def _nice(value: float) -> float:
    """Round a load up to the end of a scale."""
    for end in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        if value <= end:
            return end
    return max(1.0, value)


def _short(value: float, scale: float) -> str:
    text = f"{value * scale:.3g}"
    return f"{value * scale:.0f}" if "e+" in text else text


def _cut(name: str, length: int = 24) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)

"""Pictures of plans (extra ``plot``): placements, links, fronts of one instance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from meldopt.replay.plots import COLOURS, MUTED
from meldopt.units import format_bytes

from .plots import SHOWN, cut, new_figure, styles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from .placement import Placement

MARKS = "osD^vP*X"
"""Marks of the first solvers, one for each."""


_SIZES = ((7.0, 2.4), (7.0, 5.6), (9.0, 7.4))
"""Of maps with few, some and many servers."""


def draw_placement(placement: Placement) -> Figure:
    """Draw copies and bits as heat maps of servers × layers, and what servers carry."""
    num = len(placement.servers)
    tall = 0.75 + max(0.22 * num, 0.8)
    figure = new_figure(10.5, 2 * tall)
    grid: Any = figure.subplots(
        2, 2, width_ratios=[max(2.2, min(6.0, 0.16 * len(placement.layers))), 1.0]
    )
    most = int(placement.copies.max(initial=1))
    _heat(
        grid[0, 0],
        placement,
        np.where(placement.copies > 0, placement.copies, np.nan),
        "Copies (white: none)",
        "viridis_r",
        (1, max(most, 2)),
        whole=True,
    )
    known = placement.bits[np.isfinite(placement.bits)]
    ends = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    _heat(
        grid[1, 0],
        placement,
        placement.bits,
        "Mean bits per weight (white: no copy)",
        "cividis",
        ends if ends[0] < ends[1] else (ends[0] - 1, ends[0] + 1),
        whole=False,
    )
    for axes, values, title in (
        (grid[0, 1], placement.memory, "Memory used"),
        (grid[1, 1], placement.busy, "Busy"),
    ):
        _bars(axes, placement, values, title)
    return figure


def _heat(
    axes: Axes,
    placement: Placement,
    table: NDArray[np.float64],
    title: str,
    colours: str,
    ends: tuple[float, float],
    *,
    whole: bool,
) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    image = axes.imshow(
        np.ma.masked_invalid(table),
        cmap=colours,
        vmin=ends[0],
        vmax=ends[1],
        aspect="auto",
        interpolation="nearest",
    )
    num, layers = table.shape
    _server_names(axes, placement)
    every = max(1, round(layers / 16))
    shown = range(0, layers, every)
    axes.set_xticks(shown, [str(placement.layers[n]) for n in shown], fontsize=7)
    axes.set_xlabel("layer", fontsize=8)
    axes.grid(visible=False)
    if num * layers <= 150:
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                axes.text(
                    column,
                    row,
                    f"{value:.0f}" if whole else f"{value:.1f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=_readable(image, float(value)),
                )
    bar = axes.figure.colorbar(
        image, ax=axes, pad=0.01, fraction=0.05, ticks=MaxNLocator(4, integer=whole)
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)


def _readable(image: Any, value: float) -> str:
    red, green, blue, _ = image.cmap(image.norm(value))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"


def _server_names(axes: Axes, placement: Placement) -> None:
    num = len(placement.servers)
    small = 7.5 if num <= 16 else 6
    axes.set_yticks(
        range(num), [cut(name, 16) for name in placement.servers], fontsize=small
    )
    axes.set_ylim(num - 0.5, -0.5)


def _bars(
    axes: Axes, placement: Placement, values: NDArray[np.float64], title: str
) -> None:
    from matplotlib.ticker import PercentFormatter

    known = np.nan_to_num(values)
    over = known > 1 + 1e-6
    axes.set_title(title)
    axes.barh(
        np.arange(len(values)),
        known,
        height=0.7,
        color=[COLOURS[1] if bad else COLOURS[0] for bad in over],
    )
    axes.axvline(1.0, color="black", lw=0.8, ls=":")
    axes.set_xlim(0, max(1.05, float(known.max(initial=0.0)) * 1.05))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("of the limit", fontsize=8)
    _server_names(axes, placement)


# -- links -----------------------------------------------------------------------------


def draw_links(placement: Placement) -> Figure:
    """Draw servers and links; wide and dark links are near their limit."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    num = len(placement.servers)
    figure = new_figure(*_SIZES[sum(num > most for most in (3, 12))])
    axes = figure.subplots()
    graph = nx.DiGraph()
    graph.add_nodes_from(placement.servers)
    for source, target, load in placement.links:
        graph.add_edge(source, target, load=0.0 if np.isnan(load) else load)
    loads = nx.get_edge_attributes(graph, "load")
    busy = np.nan_to_num(placement.busy)
    top = max([1.0, *loads.values(), *busy.tolist()])
    # Without its yellow end, which is hard to see as a thin line on white.
    visible = ListedColormap(colormaps["viridis_r"](np.linspace(0.2, 1.0, 256)))
    shade: Any = ScalarMappable(Normalize(0, top), visible)
    where = server_layout(graph)
    size = float(np.clip(9000 / max(num, 1), 240, 1300))
    idle = [edge for edge, load in loads.items() if load <= 0]
    used = [edge for edge, load in loads.items() if load > 0]
    for edges, colour, width, heads in (
        (idle, MUTED, 0.5, 6),
        (
            used,
            [shade.to_rgba(loads[edge]) for edge in used],
            [0.9 + 4.0 * loads[edge] / top for edge in used],
            10 if num <= 16 else 7,
        ),
    ):
        if edges:
            nx.draw_networkx_edges(
                graph,
                where,
                edgelist=edges,
                ax=axes,
                edge_color=colour,
                width=width,
                connectionstyle="arc3,rad=0.12",
                arrowsize=heads,
                node_size=int(size),
            )
    for shape, mine in (
        ("s", [name for name in placement.servers if name in placement.homes]),
        ("o", [name for name in placement.servers if name not in placement.homes]),
    ):
        at = [placement.servers.index(name) for name in mine]
        nx.draw_networkx_nodes(
            graph,
            where,
            nodelist=mine,
            ax=axes,
            node_shape=shape,
            node_size=int(size),
            node_color=[shade.to_rgba(busy[s]) for s in at],
            edgecolors="black",
            linewidths=0.8,
        )
    for s, name in enumerate(placement.servers):
        red, green, blue, _ = shade.to_rgba(busy[s])
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        lines = _broken(cut(name, 16)) + ([f"{100 * busy[s]:.0f} %"] * (num <= 20))
        # A letter is about 0.6 of its size wide; all must fit into the mark.
        fits = 0.95 * math.sqrt(size) / (0.6 * max(map(len, lines)))
        axes.text(
            *where[name],
            "\n".join(lines),
            ha="center",
            va="center",
            fontsize=min(8.0, fits),
            color="white" if dark else "black",
        )
    axes.margins(0.12)
    axes.set_axis_off()
    bar = figure.colorbar(shade, ax=axes, shrink=0.75, pad=0.02)
    bar.set_label("load as a part of the limit")
    bar.outline.set_visible(False)
    return figure


def _broken(name: str) -> list[str]:
    """Break a long name in two, behind a hyphen if there is one."""
    if len(name) <= 8:
        return [name]
    at = name.rfind("-", 0, len(name) - 1) + 1 or len(name) // 2
    return [name[:at], name[at:]]


def server_layout(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Place the servers; always the same for the same links."""
    plain = graph.to_undirected()
    connected = len(plain) > 1 and nx.is_connected(plain)
    complete = connected and nx.density(plain) > 0.9
    places = (
        nx.kamada_kawai_layout(plain)
        if connected and not complete
        else nx.circular_layout(plain)
    )
    return {name: (float(x), float(y)) for name, (x, y) in places.items()}


# -- fronts ----------------------------------------------------------------------------


def draw_front(
    labels: Sequence[str],
    points: NDArray[np.float64],
    front: NDArray[np.bool_],
    names: tuple[str, str],
) -> Figure:
    """Draw latency against quality loss; the size of a mark is memory.

    Parameters
    ----------
    labels
        Of each point.
    points
        Latency, quality loss, and bytes (nan: unknown) of each plan; (points, 3).
    front
        Which are on the front.
    names
        Labels of the two axes.
    """
    figure = new_figure(8.4, 4.4)
    axes = figure.subplots()
    order = list(dict.fromkeys(labels))
    # Solvers with a plan on the front come first: they have marks of their own.
    best = [one for one in order if any(front[n] for n in _of(labels, one))]
    order = best + [one for one in order if one not in best]
    size = _sizes(points[:, 2])
    looks = zip(styles(), MARKS, strict=False)
    for one, ((colour, _), mark) in zip(order, looks, strict=False):
        at = _of(labels, one)
        axes.scatter(
            points[at, 0],
            points[at, 1],
            s=size[at],
            marker=mark,
            facecolors=[colour if front[n] else "none" for n in at],
            edgecolors=colour,
            linewidths=1.2,
            label=cut(one),
            zorder=3,
        )
    others = [n for n, label in enumerate(labels) if label not in order[:SHOWN]]
    if others:
        axes.scatter(
            points[others, 0],
            points[others, 1],
            s=size[others],
            marker="o",
            facecolors=[MUTED if front[n] else "none" for n in others],
            edgecolors=MUTED,
            label=f"{len(order) - SHOWN} others",
            zorder=2,
        )
    flat = _flat_front(points[:, :2])
    if len(flat) > 1:
        axes.step(flat[:, 0], flat[:, 1], where="post", color="black", lw=0.8, ls=":")
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.margins(0.08)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    for handle in legend.legend_handles:
        handle.set_sizes([36.0])  # type: ignore[union-attr]
    known = points[np.isfinite(points[:, 2]), 2]
    if len(known):
        axes.annotate(
            f"size of a mark: memory, {format_bytes(known.min())} to "
            f"{format_bytes(known.max())}",
            (0.0, 1.01),
            xycoords="axes fraction",
            va="bottom",
            fontsize=8,
        )
    return figure


def _of(labels: Sequence[str], label: str) -> list[int]:
    return [n for n, one in enumerate(labels) if one == label]


def _sizes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn bytes into areas of marks; unknown ones are small."""
    sizes = np.full(len(values), 30.0)
    known = np.isfinite(values)
    if known.any() and np.ptp(values[known]) > 0:
        part = (values[known] - values[known].min()) / np.ptp(values[known])
        sizes[known] = 25 + 110 * part
    return sizes


def _flat_front(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the front of the two axes alone, from left to right."""
    from .profiles import pareto_front

    mine = np.unique(points[pareto_front(points)], axis=0)
    return mine[np.argsort(mine[:, 0])]

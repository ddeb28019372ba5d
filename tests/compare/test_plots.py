from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import numpy as np
import pytest
from run_records import many, record

from meldopt.compare.figures import ratio_panels
from meldopt.compare.plots import (
    SHOWN,
    draw_gaps,
    draw_profile,
    draw_ranks,
    draw_ratios,
    picture,
)
from meldopt.compare.profiles import gap_curves, performance_profile
from meldopt.compare.standing import best_bounds, standing
from meldopt.compare.statistics import friedman
from meldopt.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from meldopt.compare.records import RunRecord

pytest.importorskip("matplotlib")

FEW = [
    record(f"f/{name}", label, value * (n + 1), bound=0.5)
    for name in "abc"
    for n, (label, value) in enumerate((("x", 1.0), ("y_1", 1.5), ("z", 1.2)))
]
MANY = many(30, 6, 1)


def words(drawn: bytes) -> str:
    """Return the comments of an SVG: matplotlib writes each text that it draws."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.fromstring(drawn.decode("utf-8"), parser=parser)
    return "\n".join(one.text or "" for one in root.iter() if callable(one.tag))


def profile_of(records: list[RunRecord]) -> Callable[[], Figure]:
    found = standing(records)
    profile = performance_profile(found.ratio[found.complete], found.labels)
    return lambda: draw_profile(profile)


def gaps_of(records: list[RunRecord]) -> Callable[[], Figure]:
    curves = gap_curves(records, best_bounds(records))
    return lambda: draw_gaps(curves)


def ranks_of(records: list[RunRecord]) -> Callable[[], Figure]:
    found = standing(records)
    tested = friedman(found.value[found.complete])
    assert tested is not None
    return lambda: draw_ranks(found.labels, tested)


def ratios_of(records: list[RunRecord]) -> Callable[[], Figure]:
    found = standing(records)
    panels, order = ratio_panels(found)
    labels = [found.labels[k] for k in order]
    return lambda: draw_ratios(labels, panels, "ratio to the best")


PICTURES = [profile_of, gaps_of, ranks_of, ratios_of]


@pytest.mark.parametrize("make", PICTURES)
def test_same_results_same_bytes(
    make: Callable[[list[RunRecord]], Callable[[], Figure]],
) -> None:
    """No date, no random names: a picture can be compared."""
    draw = make(FEW)
    assert picture(draw, "svg") == picture(draw, "svg")
    assert picture(draw, "pdf").startswith(b"%PDF")
    assert picture(draw, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("make", PICTURES)
def test_thirty_solvers_are_all_named(
    make: Callable[[list[RunRecord]], Callable[[], Figure]],
) -> None:
    """Every solver has a row or a label of its own, however many there are."""
    text = words(picture(make(MANY), "svg"))
    for label in standing(MANY).labels:
        assert label in text


@pytest.mark.parametrize("make", [profile_of, gaps_of])
def test_few_have_lines_and_many_are_grey(
    make: Callable[[list[RunRecord]], Callable[[], Figure]],
) -> None:
    """No two solvers share colour and dash: beyond the first ones they are grey."""
    import matplotlib as mpl

    with mpl.rc_context():
        axes = make(MANY)().axes[0]
        looks = [
            (line.get_color(), line.get_linestyle())
            for line in axes.lines
            if line.get_linewidth() > 1
        ]
        legend = axes.get_legend() or make(MANY)().axes[1].get_legend()
    assert len(looks) == len(set(looks)) == SHOWN
    assert legend is not None
    assert legend.get_texts()[-1].get_text() == "22 others, below"


def test_the_legend_names_who_never_proved() -> None:
    """Both panels share a legend: it names solvers that only one of them shows."""
    runs = [record("f/a", "x", 2.0, bound=1.0), record("f/a", "y", 3.0)]
    right = gaps_of(runs)().axes[1]
    legend = right.get_legend()
    assert legend is not None
    assert {one.get_text() for one in legend.get_texts()} == {"x", "y"}
    assert sum(len(line.get_xdata()) > 0 for line in right.lines) == 1


def test_no_texts_of_the_diagram_overlap() -> None:
    """Names of a critical-difference diagram stay apart, of 30 solvers too."""
    figure = ranks_of(MANY)()
    figure.draw_without_rendering()
    texts = [one for one in figure.axes[0].texts if "method" in one.get_text()]
    assert len(texts) == 30
    boxes = [one.get_window_extent() for one in texts]
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[n + 1 :])
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_bars_are_those_of_nemenyi() -> None:
    """Three labels at ranks 1, 2 and 3 over 100 cases: all told apart, no bar."""
    values = np.array([[1.0, 2.0, 3.0]] * 100)
    tested = friedman(values)
    assert tested is not None
    thick = [
        line
        for line in draw_ranks(["a", "b", "c"], tested).axes[0].lines
        if line.get_linewidth() > 3
    ]
    assert thick == []
    # Over two cases the critical distance is 2.34: one bar over all.
    tested = friedman(values[:2])
    assert tested is not None
    (bar,) = [
        line
        for line in draw_ranks(["a", "b", "c"], tested).axes[0].lines
        if line.get_linewidth() > 3
    ]
    left, right = bar.get_xdata()
    assert left < 1 < 3 < right


def test_ratios_show_who_solved_nothing() -> None:
    """A family without a solved case says so instead of drawing a mean."""
    runs = [*FEW, record("g/d", "x", 1.0), record("g/d", "y_1", None)]
    assert "not solved" in words(picture(ratios_of(runs), "svg"))


@pytest.mark.parametrize("value", [1.0, 1.00001, 1.7, 2500.0])
def test_one_is_on_every_axis_of_ratios(value: float) -> None:
    """Axes begin at the best, and have places to read, however far they reach."""
    panel = ("all", [(1.0, 1.0, 1.0), (value, value, value)])
    axes = draw_ratios(["a", "b"], [panel], "ratio").axes[0]
    low, high = axes.get_xlim()
    assert low < 1 <= value < high
    assert 1 in axes.get_xticks()
    assert len(axes.get_xticks()) <= 8


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib one line says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'meldopt\[plot\]'"):
        picture(profile_of(FEW), "svg")

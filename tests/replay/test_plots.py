from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from replay_cases import drawn_trace

from meldopt.builder import build_problem
from meldopt.errors import FileFormatError, MissingExtraError
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import read_plan
from meldopt.replay.analytic import Analytic, replay_analytic
from meldopt.replay.analytic_report import report_analytic
from meldopt.replay.event_report import report_events
from meldopt.replay.events import replay_events
from meldopt.replay.match import match
from meldopt.replay.plots import need_matplotlib, plot_analytic, plot_events
from meldopt.replay.report import AnalyticReport, EventReport

if TYPE_CHECKING:
    from pathlib import Path

    from meldopt.problem import Problem
    from meldopt.replay.records import Records

Ran = tuple["Problem", "Records", EventReport, Analytic, AnalyticReport]


@pytest.fixture(scope="module")
def ran() -> Ran:
    """Return both modes on the tiny model."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    plan = read_plan(best_plan("tinymoe/edge-4") or "", problem)
    trace = drawn_trace(problem, 4, requests=60, rate=3.0)
    found = match(problem, trace)
    records = replay_events(problem, plan, trace, found)
    report = report_events(problem, records, tpot_s=0.1)
    times = replay_analytic(problem, plan, trace, found)
    alone = report_analytic(problem, plan, trace, found, times)
    return problem, records, report, times, alone


def words(path: Path) -> str:
    """Return the comments of an SVG: matplotlib writes each text that it draws."""
    root = ET.fromstring(
        path.read_text(encoding="utf-8"),
        parser=ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)),
    )
    return "\n".join(one.text or "" for one in root.iter() if callable(one.tag))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib one line says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'meldopt\[plot\]'"):
        need_matplotlib()


def test_one_picture_says_everything(ran: Ran, tmp_path: Path) -> None:
    """Axes have units, and every application, home and link is named."""
    pytest.importorskip("matplotlib")
    problem, records, report, _, _ = ran
    (path,) = plot_events(problem, records, report, tmp_path / "all.svg")
    text = words(path)
    for name in (*problem.labels.applications, *problem.labels.servers):
        assert name in text
    for label in (
        "Time to first token",
        "share of requests",
        "busy share",
        "busy share of the time",
        "ms    all: p50",
        "target 100",
        "bench → door",
    ):
        assert label in text, label


def test_folders(ran: Ran, tmp_path: Path) -> None:
    """A name without a known ending is a folder with a file for each picture."""
    pytest.importorskip("matplotlib")
    problem, records, report, times, alone = ran
    made = plot_events(problem, records, report, tmp_path / "events")
    assert [path.name for path in made] == [
        "latency.png",
        "utilisation.png",
        "map.png",
    ]
    made = plot_analytic(problem, times, alone, tmp_path / "alone")
    assert [path.name for path in made] == ["latency.png", "map.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_bytes(ran: Ran, tmp_path: Path, ending: str) -> None:
    """A picture drawn twice is the same file."""
    pytest.importorskip("matplotlib")
    problem, records, report, times, alone = ran
    one, other = tmp_path / f"one.{ending}", tmp_path / f"other.{ending}"
    plot_events(problem, records, report, one)
    plot_events(problem, records, report, other)
    assert one.read_bytes() == other.read_bytes()
    plot_analytic(problem, times, alone, one)
    assert one.read_bytes() != other.read_bytes()


def test_nothing_to_draw(ran: Ran, tmp_path: Path) -> None:
    """A run that ended before anything was done is drawn as empty."""
    pytest.importorskip("matplotlib")
    problem, records, _, _, _ = ran
    never = np.full(records.num_requests, np.nan)
    empty = replace(
        records,
        first_token_s=never,
        finish_s=never,
        processor_busy_s=records.processor_busy_s[:, :1] * 0,
        link_busy_s=records.link_busy_s[:, :1] * 0,
        bin_tokens=records.bin_tokens[:, :1] * 0,
    )
    report = report_events(problem, empty)
    (path,) = plot_events(problem, empty, report, tmp_path / "none.svg")
    assert words(path).count("no requests") == 3


def test_long_names_and_many_servers(ran: Ran, tmp_path: Path) -> None:
    """Names are shortened, and the lines of many resources become a band."""
    pytest.importorskip("matplotlib")
    problem, records, report, _, _ = ran
    long = replace(problem.labels, applications=tuple(c * 60 for c in ("a", "b", "c")))
    (path,) = plot_events(
        problem.replace(labels=long), records, report, tmp_path / "long.svg"
    )
    text = words(path)
    assert "a" * 60 not in text
    assert "a" * 20 in text
    assert "2 others" in text  # of eight links


def test_where_it_cannot_be_written(ran: Ran, tmp_path: Path) -> None:
    """A folder that cannot be made is refused in one line."""
    pytest.importorskip("matplotlib")
    problem, records, report, _, _ = ran
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError, match="cannot be made"):
        plot_events(problem, records, report, tmp_path / "file")

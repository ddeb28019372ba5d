"""``meldopt replay``: tables, JSON, pictures, refusals and interruptions."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from replay_cases import drawn_trace
from traces import FAULTS, random_parts, write_raw

from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.replay import events
from meldopt.trace import write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Invoke

INSTANCE = "tinymoe/edge-4"


def written(folder: Path, name: str = "day.trace", **changes: Any) -> Path:
    """Write a trace drawn for the tiny model."""
    problem = build_problem(read_instance(INSTANCE))
    trace = drawn_trace(problem, 3, **({"requests": 60, "rate": 1.0} | changes))
    write_trace(folder / name, trace.header, trace.requests, trace.chunks())
    return folder / name


@pytest.fixture
def trace(here: Path) -> Path:
    """Return a trace of the tiny model."""
    return written(here)


def test_tables(run: Invoke, trace: Path) -> None:
    """Latencies of every application, loads, bytes by cause and energy are printed."""
    done = run("replay", INSTANCE, "best", trace, "--tpot", 0.5)
    assert done.exit_code == 0, done.stderr
    for text in (
        "first token",
        "per output token",
        "writing",
        "all",
        "lost calls",
        "in target",
        "attic",
        "bench -> door",
        "out-prefill",
        "kept off by fusion",
        "expert calls: served",
        "J/token",
    ):
        assert text in done.stdout, text
    assert done.stderr == ""


def test_json_is_the_file(run: Invoke, here: Path, trace: Path) -> None:
    """``-o`` writes what ``--json`` prints; it says what was replayed and how."""
    options = ("--json", "-o", "out.json", "--set", "lanes=2", "--compute", "neutral")
    done = run("replay", INSTANCE, "best", trace, *options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("json_version") == 1
    assert found == json.loads((here / "out.json").read_text(encoding="utf-8"))
    assert found["mode"] == "events"
    assert found["options"]["lanes"] == 2
    assert found["options"]["compute"] == "neutral"
    assert found["trace"]["digest"].startswith("sha256:")
    assert found["instance"]["name"] == "tinymoe-edge-4"
    assert found["all"]["ttft_s"]["p99"] >= found["all"]["ttft_s"]["p50"] > 0
    assert "report written to out.json" in done.stderr


def test_pace_and_targets(run: Invoke, trace: Path) -> None:
    """Faster arrivals wait longer, and fewer of them keep a target."""
    shares, waits = [], []
    for scale in (0.1, 5):
        done = run(
            *("replay", INSTANCE, "best", trace, "--json", "--warm-up", "0"),
            *("--rate-scale", scale, "--ttft", 0.2),
        )
        found = json.loads(done.stdout)
        assert found["options"]["rate_scale"] == scale
        waits.append(found["all"]["ttft_s"]["mean"])
        shares.append(found["all"]["goodput"]["share"])
    assert waits[0] < waits[1]
    assert shares[0] > shares[1]


def test_analytic(run: Invoke, trace: Path) -> None:
    """Tokens alone: both terms, losses and loads at the instance's rates."""
    done = run("replay", INSTANCE, "best", trace, "--mode", "analytic")
    assert done.exit_code == 0, done.stderr
    for text in ("serial", "parallel", "backbone adds", "busiest", "terms on this"):
        assert text in done.stdout
    found = json.loads(
        run("replay", INSTANCE, "best", trace, "--mode", "analytic", "--json").stdout
    )
    assert found["mode"] == "analytic"
    assert "options" not in found
    assert found["terms"]["serial"] == pytest.approx(found["all"]["serial_s"]["mean"])


def test_scenario(run: Invoke, here: Path, trace: Path) -> None:
    """A server that fails loses calls or requests, and the report says so."""
    failure = {"server": "door", "at": 5}
    document = {"format_version": 1, "failures": [failure]}
    (here / "bad-day.json").write_text(json.dumps(document))
    options = ("--scenario", "bad-day.json", "--json")
    found = json.loads(run("replay", INSTANCE, "best", trace, *options).stdout)
    assert found["options"]["scenario"] == "bad-day.json"
    calm = json.loads(run("replay", INSTANCE, "best", trace, "--json").stdout)
    assert calm["lost_calls"] == 0
    assert found["lost_calls"] == found["calls"]["lost"] > 0
    failure["server"] = "x"
    (here / "bad-day.json").write_text(json.dumps(document))
    done = run("replay", INSTANCE, "best", trace, *options)
    assert done.exit_code == 2
    assert "bad-day.json: $.failures[0].server: got 'x'" in done.stderr


def test_names_can_be_mapped(run: Invoke, here: Path) -> None:
    """Applications and homes of another name are mapped, or spread."""
    problem = build_problem(read_instance(INSTANCE))
    drawn = drawn_trace(problem, 3, requests=10)
    from msgspec.structs import replace

    names = dict(zip(drawn.header.applications, ("a", "b", "c"), strict=True))
    header = replace(drawn.header, applications=tuple(names.values()))
    write_trace(here / "x.npz", header, drawn.requests, drawn.chunks())
    done = run("replay", INSTANCE, "best", "x.npz")
    assert done.exit_code == 2
    assert "$.applications[0]: got 'a'" in done.stderr
    mapped = [f"--application={new}={old}" for old, new in names.items()]
    assert run("replay", INSTANCE, "best", "x.npz", *mapped).exit_code == 0
    assert run("replay", INSTANCE, "best", "x.npz", *mapped, "--spread").exit_code == 0
    assert run("replay", INSTANCE, "best", "x.npz", "--home", "attic").exit_code == 2


def test_plots(run: Invoke, here: Path, trace: Path) -> None:
    """Pictures are drawn into one file or a folder, in both modes."""
    pytest.importorskip("matplotlib")
    for mode, name in (("events", "one.svg"), ("analytic", "two.png")):
        options = ("--mode", mode, "--plot", name)
        done = run("replay", INSTANCE, "best", trace, *options)
        assert done.exit_code == 0, done.stderr
        assert f"picture written to {name}" in done.stderr
        assert (here / name).stat().st_size > 10_000
    done = run("replay", INSTANCE, "best", trace, "--plot", "pictures", "-q")
    assert done.stderr == ""
    assert len(list((here / "pictures").iterdir())) == 3


def test_without_the_extra(
    run: Invoke, trace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without matplotlib one line says what to install, before anything is run."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    done = run("replay", INSTANCE, "best", trace, "--plot", "x.png", "-o", "x.json")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'meldopt[plot]'" in done.stderr
    assert not (here / "x.json").exists()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("mode", ["events", "analytic"])
def test_bad_traces(run: Invoke, here: Path, fault: str, mode: str) -> None:
    """Every fault of a trace is one line and exit code 2, in both modes."""
    edit, _ = FAULTS[fault]
    write_raw(here / "bad.npz", edit(random_parts(1)))
    done = run("replay", INSTANCE, "best", "bad.npz", "--mode", mode)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("mode", ["events", "analytic"])
def test_faults_in_the_tokens(run: Invoke, here: Path, mode: str) -> None:
    """What only the stream of tokens shows is refused in one line as well."""
    path = written(here, "bad.npz")
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["experts"] = arrays["experts"].copy()
    arrays["experts"][50, 2] = 16
    np.savez(path, **arrays)
    done = run("replay", INSTANCE, "best", path, "--mode", mode)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "token 50, layer 2: expert: got 16, expected 0 to 15" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope.json",), "no such file"),
        (("best", "nope.trace"), "nope.trace"),
        (("--rate-scale", "0"), "expected above 0"),
        (("--warm-up", "1"), "expected auto, or less than 1"),
        (("--set", "lanes=0"), "lanes: got 0"),
        (("--set", "lanes=two"), "lanes: got 'two', expected int"),
        (("--set", "engine=1"), "engine: expected one of max_batch"),
        (("--spread", "--home", "a=b"), "exclude each other"),
        (("--application", "x"), "expected NAME=OTHER"),
        (("--mode", "analytic", "--ttft", "1"), "--ttft: has no meaning"),
        (("--mode", "analytic", "--set", "lanes=2"), "--set: has no meaning"),
        (("--scenario", "nope.json"), "nope.json: no such file"),
        (("-o", "no/where.json"), "its folder does not exist"),
    ],
)
def test_refusals(
    run: Invoke, trace: Path, arguments: tuple[str, ...], message: str
) -> None:
    """What makes no sense is refused before anything is replayed."""
    if arguments[0].startswith("-"):
        arguments = ("best", str(trace), *arguments)
    elif len(arguments) == 1:
        arguments = (*arguments, str(trace))
    done = run("replay", INSTANCE, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_no_best_plan(run: Invoke, tight: Path, trace: Path) -> None:
    """Only a bundled instance has a best plan."""
    done = run("replay", tight, "best", trace)
    assert done.exit_code == 2
    assert "no bundled instance with a best plan" in done.stderr


def test_plan_of_another_instance(run: Invoke, here: Path, trace: Path) -> None:
    """A plan is replayed for its own instance only."""
    from meldopt.library import best_plan

    other = best_plan("tinymoe/roam-3")
    done = run("replay", INSTANCE, other, trace)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_interrupted(
    run: Invoke,
    here: Path,
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    """A signal ends the replay while a kernel goes on; nothing is written."""
    over = threading.Event()

    def kernel(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)
        over.wait(60)

    monkeypatch.setattr(events, "replay_events", kernel)
    done = run("replay", INSTANCE, "best", trace, "-o", "out.json", "--json")
    over.set()
    assert done.exit_code == code
    assert done.stderr == "interrupted: no results\n"
    assert done.stdout == ""
    assert not (here / "out.json").exists()

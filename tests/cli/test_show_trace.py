"""``meldopt show`` of a trace, and ``meldopt generate trace``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from traces import FAULTS, made, random_parts, write_raw

from meldopt.cli._show_trace import BLOCKS, heat_map
from meldopt.trace import read_trace, write_trace
from meldopt.trace_stats import trace_statistics

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Invoke


@pytest.fixture(params=["drawn.trace", "drawn.npz"])
def trace(request: pytest.FixtureRequest, here: Path) -> Path:
    """Return a small trace, as a folder and as a file."""
    path = here / request.param
    write_trace(path, *made(random_parts(1, requests=60, signature_bits=16)))
    return path


# -- show ------------------------------------------------------------------------------


def test_show_a_trace(run: Invoke, trace: Path) -> None:
    """The text names what there is, a line per layer, and draws a row for each."""
    done = run("show", trace)
    assert done.exit_code == 0, done.stderr
    found = trace_statistics(read_trace(trace))
    assert "trace drawn" in done.stdout
    assert f"{found.tokens} tokens recorded of 60 requests" in done.stdout
    assert "signatures of 16 bits" in done.stdout
    assert "homes hall, lab, van" in done.stdout
    for name in ("chat", "code"):
        assert name in done.stdout
    for skew in found.skew:
        assert f"{skew:.2f}" in done.stdout
    picture = [
        line for line in done.stdout.splitlines() if set(line[7:]) & set(BLOCKS[1:])
    ]
    widths = [len(line[7:]) for line in picture if line[4].isdigit()]
    assert widths == [4, 6, 3]
    assert "\x1b" not in done.stdout  # works without colour


def test_show_a_trace_as_json(run: Invoke, trace: Path) -> None:
    """The JSON holds the same statistics as the library, null where there is none."""
    done = run("show", trace, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    found = trace_statistics(read_trace(trace))
    assert document["tokens"] == found.tokens
    assert document["requests"] == 60
    assert document["digest"] == read_trace(trace).digest()
    assert [one["name"] for one in document["applications"]] == ["chat", "code"]
    assert sum(one["tokens"] for one in document["applications"]) == found.tokens
    layers = document["layers"]
    assert [one["skew"] for one in layers] == found.skew.tolist()
    assert layers[0]["hit"] is None
    assert [one["hit"] for one in layers[1:]] == found.hit[1:].tolist()
    assert [len(one["calls"]) for one in layers] == [4, 6, 3]


def test_one_application_is_compared_with_none(run: Invoke, here: Path) -> None:
    """Where only one application has tokens it differs from no other, not from it."""
    header, table, arrays = random_parts(3)
    table["application"] = np.zeros(len(table["arrival_s"]), dtype=np.int64)
    write_trace(here / "x.trace", *made((header, table, arrays)))
    done = run("show", "x.trace")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    chat = next(line for line in lines if line[:1] == ["chat"])
    assert chat[-2:] == ["–", "–"]
    drift = json.loads(run("show", "x.trace", "--json").stdout)["applications"]
    assert drift[0]["drift"] == [0.0, None]


def test_the_map_is_by_layer_and_expert() -> None:
    """Blocks rise with the calls; more experts than columns share one by their mean."""
    calls = np.array([[0.0, 0.01, 0.5, 1.0], [1.0, 0.25, 0.0, 0.0]])
    lines = list(heat_map(calls, (4, 2), (3, 5)))
    assert lines[1] == "    3  ·▁▄█"
    assert lines[2] == "    5  █▂"
    many = np.zeros((1, 256))
    many[0, :4] = 1.0
    many[0, 4:6] = 1.0
    lines = list(heat_map(many, (256,), (0,)))
    assert "of each 4 experts" in lines[0]
    assert lines[1] == "    0  █▄" + "·" * 62


@pytest.mark.parametrize("kind", ["x.trace", "x.npz"])
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_traces_are_refused(run: Invoke, here: Path, fault: str, kind: str) -> None:
    """Every bad trace is one line on standard error and exit code 2."""
    change, line = FAULTS[fault]
    write_raw(here / kind, change(random_parts(5)))
    done = run("show", kind)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {kind}")
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [one.name for one in here.iterdir()] == [kind]


def test_what_is_no_trace_is_refused(run: Invoke, here: Path, trace: Path) -> None:
    """Other arrays, an empty folder, nothing and half a file are refused."""
    np.savez(here / "x.npz", experts=np.zeros(3))
    (here / "empty").mkdir()
    (here / "short.npz").write_bytes(b"PK\x03\x04 and no more")
    for name, line in (
        ("x.npz", "header: missing"),
        ("empty", "holds no trace.json"),
        ("no.trace", "no such file"),
        ("short.npz", "truncated"),
    ):
        done = run("show", name)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {name}")
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_newer_trace_is_refused(run: Invoke, here: Path) -> None:
    """A trace of a later version of the format says so."""
    write_trace(here / "x.trace", *made(random_parts(2)))
    head = here / "x.trace" / "trace.json"
    document = json.loads(head.read_text())
    head.write_text(json.dumps({**document, "format_version": 2}))
    done = run("show", "x.trace")
    assert done.exit_code == 2
    assert "the file is newer than this meldopt" in done.stderr


# -- generate --------------------------------------------------------------------------


def test_generate_a_trace(run: Invoke, here: Path) -> None:
    """A trace of an instance has about so many tokens at the rate of its demands."""
    arguments = ("--tokens", 20_000, "--seed", 3, "-o", "x.trace")
    done = run("generate", "trace", "tinymoe/edge-4", *arguments)
    assert done.exit_code == 0, done.stderr
    found = read_trace(here / "x.trace")
    assert found.header.name == "tinymoe-edge-4-3"
    assert found.num_tokens == pytest.approx(20_000, rel=0.4)
    statistics = trace_statistics(found)
    tokens_per_s = statistics.requests_per_s * (
        statistics.prompt_tokens + statistics.output_tokens
    )
    assert tokens_per_s == pytest.approx(170, rel=0.5)  # the rates of the demands
    assert found.header.signature_bits == 0


def test_generate_takes_what_it_is_told(run: Invoke, here: Path) -> None:
    """Requests, lengths, rate, bursts, signatures and outputs alone are obeyed."""
    done = run(
        *("generate", "trace", "tinymoe/roam-3", "--requests", 400),
        *("--tokens", 8000, "--rate", 2, "--arrivals", "bursty", "--cv", 2),
        *("--length-cv", 0, "--outputs-only", "--signatures", 8, "--name", "mine"),
        *("-o", "x.npz", "--json"),
    )
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["requests"] == 400
    assert document["tokens"] == 8000
    found = read_trace(here / "x.npz")
    assert document["digest"] == found.digest()
    assert found.header.name == "mine"
    assert found.header.signature_bits == 8
    assert not found.header.prompt_recorded
    assert (found.requests.output_tokens == 20).all()
    statistics = trace_statistics(found)
    assert statistics.requests_per_s == pytest.approx(2, rel=0.5)
    assert statistics.gap_cv == pytest.approx(2, rel=0.3)


def test_generate_from_a_table_of_requests(run: Invoke, here: Path) -> None:
    """Arrivals and lengths are those of the table, which starts again as needed."""
    (here / "r.csv").write_text(
        "arrival_s,prompt_tokens,output_tokens\n0,30,10\n1,5,5\n3,40,10\n"
    )
    arguments = ("generate", "trace", "tinymoe/edge-4", "--arrivals", "r.csv")
    done = run(*arguments, "--tokens", 160, "-o", "x.trace")
    assert done.exit_code == 0, done.stderr
    requests = read_trace(here / "x.trace").requests
    assert requests.arrival_s.tolist() == [0.0, 1.0, 3.0, 4.5, 5.5]
    assert requests.prompt_tokens.tolist() == [30, 5, 40, 30, 5]
    done = run(*arguments, "--requests", 3, "--rate", 4, "-o", "x.trace")
    assert done.exit_code == 0, done.stderr
    requests = read_trace(here / "x.trace").requests
    assert requests.arrival_s == pytest.approx([0.0, 1 / 6, 0.5])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nothing", "-o", "x.trace"), "no such file"),
        (("tinymoe/edge-4", "-o", "x.json"), "expected NAME.trace or NAME.npz"),
        (("tinymoe/edge-4", "-o", "gone/x.trace"), "its folder does not exist"),
        (("tinymoe/edge-4", "-o", "x.npz", "--rate", "0"), "rate of requests: got 0"),
        (("tinymoe/edge-4", "-o", "x.npz", "--prompt", "-3"), "mean length: got -3"),
        (("tinymoe/edge-4", "-o", "x.npz", "--prompt", "-64"), "mean length: got -64"),
        (("tinymoe/edge-4", "-o", "x.npz", "--prompt", "nan"), "mean length: got nan"),
        (("tinymoe/edge-4", "-o", "x.npz", "--seed", "-1"), "--seed"),
        (("tinymoe/edge-4", "-o", "x.npz", "--repeat", "1"), "repeat: got 1"),
        (("tinymoe/edge-4", "-o", "x.npz", "--arrivals", "r.csv"), "no such file"),
        (
            ("tinymoe/edge-4", "-o", "x.npz", "--arrivals", "r.csv", "--prompt", "3"),
            "its own",
        ),
        (("tinymoe/edge-4",), "-o"),
    ],
)
def test_generate_refuses(
    run: Invoke, here: Path, arguments: tuple[str, ...], line: str
) -> None:
    """Bad input is exit code 2 and words, and nothing is written."""
    done = run("generate", "trace", *arguments)
    assert done.exit_code == 2
    assert line in done.stderr
    assert not list(here.iterdir())


def test_generate_helps_with_traces(run: Invoke) -> None:
    """The help of the families names traces, and traces have a help of their own."""
    text = " ".join(run("generate", "--help").stdout.split())
    assert "generate trace INSTANCE" in text
    assert "Commands: trace" in text
    done = run("generate", "trace", "--help")
    assert done.exit_code == 0
    assert "--arrivals" in done.stdout


def test_the_schema_of_a_trace(run: Invoke) -> None:
    """The schema of the header names its keys."""
    schema = json.loads(run("schema", "trace").stdout)
    keys = schema["$defs"]["TraceHeader"]["properties"]
    header, _, _ = random_parts(0)
    assert set(msgspec.to_builtins(header)) == set(keys)

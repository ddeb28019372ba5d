"""``meldopt import``: from a recording to a trace to a profile, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from traces import made, random_parts

from meldopt.builder import build_problem
from meldopt.files import read_arrays
from meldopt.importers import TRACE_FORMATS, trace_importer
from meldopt.instance import read_instance
from meldopt.trace import read_trace, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Invoke


@pytest.fixture
def recording(here: Path) -> Path:
    """Return a recording of two domains of four sequences of eight tokens."""
    rng = np.random.default_rng(1)
    tokens, layers, experts = 64, 2, 5
    gates = np.sort(rng.dirichlet([1, 1], (tokens, layers)), axis=2)[:, :, ::-1]
    np.savez(
        here / "recorded.npz",
        expert_ids=rng.random((tokens, layers, experts))
        .argsort(axis=2)[:, :, :2]
        .astype(np.uint8),
        gate_weights=gates.astype(np.float16),
        domain=np.repeat([0, 1], 32),
        sequence=np.repeat(np.arange(8), 8),
        domain_names=np.array(["prose", "code"]),
    )
    return here / "recorded.npz"


@pytest.fixture
def trace(here: Path) -> Path:
    """Return a trace of two applications, three homes and unequal layers."""
    write_trace(here / "drawn.trace", *made(random_parts(5, requests=20)))
    return here / "drawn.trace"


def instance_with(document: dict[str, Any], here: Path) -> Path:
    """Write the smallest instance that has the section of a profile."""
    names = document["model"]["domains"]
    value = {
        "format_version": 1,
        "name": "made",
        "model": {**document["model"], "hidden_size": 8},
        "formats": ["bf16"],
        "cluster": {
            "servers": [{"name": "lab", "tiers": {"ram": {"capacity": "1 GiB"}}}]
        },
        "workload": {
            "applications": [{"name": name, "domain": name} for name in names],
            "demands": [
                {"application": name, "home": "lab", "rate": "1 tokens/s"}
                for name in names
            ],
        },
    }
    (here / "made.json").write_text(json.dumps(value))
    return here / "made.json"


def test_from_a_recording_to_an_instance(
    run: Invoke, here: Path, recording: Path
) -> None:
    """A recording becomes a trace, the trace a profile, and an instance reads it."""
    done = run("import", "trace", recording, "-o", "mine.trace", "--rate", 2, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["requests"], said["tokens"]) == (8, 64)
    assert read_trace(here / "mine.trace").header.digest == said["digest"]

    done = run("import", "profile", "mine.trace", "-o", "mine.npz", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [one["name"] for one in said["domains"]] == ["prose", "code"]
    assert all(0 < error < 1 for error in said["relative_error"].values())
    about = json.loads((here / "mine.about.json").read_text())
    assert about["model"] == said["model"]
    assert about["notes"] == [
        line.removeprefix("note: ") for line in done.stderr.splitlines()
    ]
    problem = build_problem(read_instance(instance_with(about, here)))
    assert np.array_equal(problem.calls, read_arrays(here / "mine.npz")["calls"])


def test_people_get_a_table(run: Invoke, here: Path, trace: Path) -> None:
    """Without --json domains are a table on standard output, notes go to the other."""
    done = run("import", "profile", trace, "-o", "out.npz")
    assert done.exit_code == 0, done.output
    assert "chat" in done.stdout
    assert "error of calls" in done.stdout
    assert "the fallback 0.14 nats" in done.stderr
    assert "written to out.npz" in done.stderr
    names = {path.name for path in here.glob("out*")}
    assert names == {"out.npz", "out.statistics.npz", "out.about.json"}


def test_the_same_trace_gives_the_same_bytes(
    run: Invoke, here: Path, trace: Path
) -> None:
    """Importing twice writes the same three files."""
    for folder in ("a", "b"):
        (here / folder).mkdir()
        done = run("import", "profile", trace, "-o", here / folder / "p.npz")
        assert done.exit_code == 0, done.output
    for name in ("p.npz", "p.statistics.npz", "p.about.json"):
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes()


def test_options_reach_the_estimate(run: Invoke, here: Path, trace: Path) -> None:
    """Applications, demands, segments and the rest are those asked for."""
    done = run(
        *("import", "profile", trace, "-o", "out.npz", "--application", "code"),
        *("--by", "demand", "--phase", "output", "--samples", 3, "--no-paths"),
        *("--prune-shares", "0.1,0.4", "--prune-scale", "0.5", "--json"),
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert all(one["name"].startswith("code@") for one in said["domains"])
    arrays = read_arrays(here / "out.npz")
    assert "pairs" not in arrays
    assert arrays["prune_width"].shape[2] == 2
    assert len(arrays["sample_experts"]) <= 3 * len(said["domains"])
    assert not any("fallback" in note for note in said["notes"])
    done = run("import", "profile", trace, "-o", "out.npz", "--prune-shares", "none")
    assert done.exit_code == 0, done.output
    assert "prune_width" not in read_arrays(here / "out.npz")


def test_measured_losses_come_from_a_profile(
    run: Invoke, here: Path, trace: Path
) -> None:
    """Losses of another profile of the model are in the new one."""
    kl = np.full((1, 13, 1), 0.25)
    np.savez(here / "measured.npz", kl=kl, calls=np.full((1, 13), 0.5))
    done = run(
        "import", "profile", trace, "-o", "out.npz", "--measured", "measured.npz"
    )
    assert done.exit_code == 0, done.output
    assert np.array_equal(read_arrays(here / "out.npz")["kl"], kl)
    assert "formats" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("profile", "none.trace", "-o", "o.npz"), "none.trace: no such file"),
        (("profile", "drawn.trace", "-o", "o.json"), "o.json: got this name"),
        (("profile", "drawn.trace", "-o", "no/o.npz"), "its folder does not exist"),
        (
            ("profile", "drawn.trace", "-o", "o.npz", "--model", "mixtral-8x7b"),
            "MoE layers: got 3, expected 32 of mixtral-8x7b",
        ),
        (
            ("profile", "drawn.trace", "-o", "o.npz", "--model", "none"),
            "'none'",
        ),
        (
            ("profile", "drawn.trace", "-o", "o.npz", "--application", "mail"),
            "application: got 'mail', expected one of chat, code",
        ),
        (
            ("profile", "drawn.trace", "-o", "o.npz", "--measured", "none.npz"),
            "none.npz: no such file",
        ),
        (("profile", "text.npz", "-o", "o.npz"), "text.npz: "),
        (("profile", "one.npz", "-o", "one.npz"), "one.npz: is the trace"),
        (("trace", "none.npz", "-o", "o.trace"), "none.npz: no such file"),
        (("trace", "text.npz", "-o", "o.trace"), "text.npz: is no readable .npz"),
        (("trace", "recorded.npz", "-o", "o.txt"), "o.txt: got this name"),
        (("trace", "recorded.npz", "-o", "recorded.npz"), "is the source"),
        (
            ("trace", "recorded.npz", "-o", "o.trace", "--experts", "2"),
            "expert: got",
        ),
        (
            ("trace", "recorded.npz", "-o", "o.trace", "--arrivals", "none.csv"),
            "none.csv: no such file",
        ),
    ],
)
@pytest.mark.usefixtures("trace", "recording")
def test_bad_input_is_one_line(
    run: Invoke, here: Path, arguments: tuple[str, ...], message: str
) -> None:
    """What cannot be read, does not fit or cannot be written is one line, exit 2."""
    (here / "text.npz").write_text("no archive")
    write_trace(here / "one.npz", *made(random_parts(6)))
    before = sorted(path.name for path in here.iterdir())
    done = run("import", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    "option",
    [
        ("--prune-shares", "0.2,0.1"),
        ("--prune-shares", "many"),
        ("--distances", "70"),
        ("--distances", "1.5"),
        ("--window", "0"),
        ("--fuse-scale", "-1"),
    ],
)
def test_bad_options_are_refused(
    run: Invoke, here: Path, trace: Path, option: tuple[str, str]
) -> None:
    """Numbers that make no sense end the command before the trace is read."""
    done = run("import", "profile", trace, "-o", "o.npz", *option)
    assert done.exit_code == 2
    assert not list(here.glob("o.*"))


def test_formats_are_loaded_by_name() -> None:
    """Every format of recordings names a function that is there."""
    for name in TRACE_FORMATS:
        assert callable(trace_importer(name))
    with pytest.raises(KeyError):
        trace_importer("no such format")

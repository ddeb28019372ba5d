"""``meldopt profile``: what it says without the extra, and from text to a recording."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

if TYPE_CHECKING:
    from .conftest import Invoke


@pytest.mark.parametrize(
    "arguments",
    [("corpus", "out"), ("train", "corpus", "out"), ("record", "m", "t", "-o", "out")],
)
def test_without_the_extra(
    run: Invoke,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    """One line says what to install, the exit code is 2 and nothing is written."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    done = run("profile", *arguments)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'meldopt[profile]'" in done.stderr
    assert not (here / "out").exists()


def test_show_a_recording(run: Invoke) -> None:
    """Every table is printed, without the extra; as JSON it is the same."""
    folder = ROOT / "instances" / "tinymoe" / "a"
    done = run("profile", "show", folder)
    assert done.exit_code == 0, done.stderr
    found = json.loads(run("profile", "show", folder, "--json").stdout)
    assert len(found["tables"]) == 8
    for table in found["tables"]:
        assert table["title"] in done.stdout
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_show_what_is_no_recording(run: Invoke, here: Path) -> None:
    """A folder that is no recording is refused in one line."""
    done = run("profile", "show", here)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "expected a recording" in done.stderr


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip without the extra."""
    for name in ("torch", "transformers", "tokenizers", "safetensors"):
        pytest.importorskip(name)


@pytest.fixture
def text(here: Path) -> Path:
    """Return a folder of text of two domains."""
    folder = here / "text"
    folder.mkdir()
    words = {"digits": "0123456789", "letters": "abcdefghij"}
    for seed, split in enumerate(("train", "plan", "test")):
        rng = np.random.default_rng(seed)
        for name, characters in words.items():
            drawn = "".join(rng.choice(list(characters + " "), 3000))
            (folder / f"{name}.{split}.txt").write_text(drawn)
    (folder / "corpus.json").write_text(json.dumps({name: {} for name in words}))
    return folder


@pytest.mark.filterwarnings("ignore")  # those of transformers
@pytest.mark.usefixtures("installed")
def test_train_and_record(run: Invoke, here: Path, text: Path) -> None:
    """A model that is trained for two steps is recorded; what was done is said."""
    from meldopt.profiling.tokenizer import train_tokenizer

    train_tokenizer(text, vocabulary=300)
    done = run("profile", "train", text, "model", "--steps", 2)
    assert done.exit_code == 0, done.stderr
    log = json.loads((here / "model" / "train_log.json").read_text())
    assert log["steps_done"] == 2
    done = run(
        *("profile", "record", "model", text, "-o", "out", "--licence", "none"),
        *("--sequences", 2, "--measured", 2, "--length", 16),
        *("--format", "int4-g32", "--format", "int2-g32"),
    )
    assert done.exit_code == 0, done.stderr
    about = json.loads((here / "out" / "about.json").read_text())
    assert about["licence"] == "none"
    assert about["model"]["experts"] == [16] * 6
    assert about["training"]["steps_done"] == 2
    assert set(about["versions"]) >= {"torch", "transformers", "meldopt"}
    with np.load(here / "out" / "profile.npz") as profile:
        np.testing.assert_allclose(profile["calls"].reshape(2, 6, 16).sum(axis=-1), 2.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("no-such-model-here", "text"), "cannot be loaded"),
        (("m", "text", "--format", "int4"), "expected intB-gG"),
        (("m", "text", "--check-format", "int5-g32"), "formats measured"),
        (("m", "text", "--measured", "20"), "at most --sequences 16"),
    ],
)
def test_bad_input(
    run: Invoke, text: Path, monkeypatch: Any, arguments: tuple[str, ...], says: str
) -> None:
    """Exit code 2, and the last line says what was expected."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("profile", "record", *arguments, "-o", "out")
    assert done.exit_code == 2
    assert says in done.stderr.strip().splitlines()[-1]

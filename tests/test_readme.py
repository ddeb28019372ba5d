"""What the README shows works: its library example and its commands."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from meldopt.cli import main
from meldopt.library import instance_names

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def test_library_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library example gives what the README says, and is ten lines or fewer."""
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestParser().get_examples(README.read_text(encoding="utf-8"))
    assert 0 < len(found) <= 10
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert (failed, tried) == (0, len(found))


def commands() -> Iterator[tuple[str, str]]:
    """Yield page and line of each command that the pages show."""
    for page in (README, *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
            for line in block.splitlines():
                if line.startswith("$ meldopt "):
                    yield page.name, line.removeprefix("$ ").partition(" #")[0]


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_commands(page: str, line: str) -> None:
    """Every command that a page shows exists, and so do its options."""
    _, name, *words = shlex.split(line)
    with click.Context(main) as context:
        command = main.get_command(context, name)
        assert command is not None, f"{page}: {line}"
        parsed = command.make_context(name, words, parent=context)
    instance = parsed.params.get("instance")
    if instance and not instance.isupper():
        assert instance in instance_names()


def test_make_targets() -> None:
    """Every make target that the pages name is there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M))
    for page in (README, ROOT / "CONTRIBUTING.md"):
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:\$ |`)make ([a-z-]+)", text))
        assert named
        assert named <= targets, page.name

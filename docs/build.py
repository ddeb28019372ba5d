"""Write the generated pages of the documentation and check every link.

``python docs/build.py`` writes the command-line reference to ``docs/cli.md`` and the
JSON Schemas of the file formats to ``build/docs/schema``, then checks that every
relative link in the Markdown files of this repository leads somewhere. ``--check``
writes nothing and fails if ``docs/cli.md`` is not what the command line says today.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click
from click.testing import CliRunner

from meldopt.cli import main as meldopt

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CLI_PAGE = ROOT / "docs" / "cli.md"
SCHEMAS = ROOT / "build" / "docs" / "schema"
WIDTH = 80  # of the help texts, whatever the terminal is

_FENCE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$", re.M | re.S)
_CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
_LINK = re.compile(
    r"\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+[\"'][^)]*)?\)"
)
_REFERENCE = re.compile(r"^ {0,3}\[[^\]\n]+\]:\s*<?([^\s<>]+)>?", re.M)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
_ANCHOR = re.compile(r"<a\s[^>]*(?:id|name)=[\"']([^\"']+)", re.I)


def cli_page() -> str:
    """Return the command-line reference as Markdown, made from the help texts."""
    parts = [
        "# The command line",
        "<!-- Written by `make docs` from the help texts; edit those instead. -->",
    ]
    for path, text in _help_texts(meldopt, "meldopt", None):
        level = "##" if " " in path else "#"
        heading = [] if level == "#" else [f"{level} `{path}`"]
        parts += [*heading, f"```text\n{text.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _help_texts(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    """Yield path and help text of a command and, in order, of those below it."""
    with click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
    ) as context:
        yield context.command_path, command.get_help(context)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                if found is not None and not found.hidden:
                    yield from _help_texts(found, child, context)


def schemas() -> dict[str, str]:
    """Return the JSON Schema of each file format, as ``meldopt schema`` prints it."""
    with click.Context(meldopt) as context:
        command = meldopt.get_command(context, "schema")
    if command is None:
        raise SystemExit("docs/build.py: meldopt has no command 'schema'")
    kinds = [
        str(kind)
        for parameter in command.params
        if isinstance(parameter, click.Argument)
        and isinstance(parameter.type, click.Choice)
        for kind in parameter.type.choices
    ]
    texts = {}
    for kind in kinds:
        result = CliRunner().invoke(meldopt, ["schema", kind], catch_exceptions=False)
        if result.exit_code != 0:
            raise SystemExit(f"docs/build.py: 'meldopt schema {kind}': {result.output}")
        json.loads(result.stdout)
        texts[kind] = result.stdout
    if not texts:
        raise SystemExit("docs/build.py: 'meldopt schema' names no file format")
    return texts


def markdown_files(root: Path) -> list[Path]:
    """Return all Markdown files below a folder, but for those that builds made."""
    skipped = {"build", "dist", "node_modules"}
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(
            part in skipped or part.startswith(".")
            for part in path.relative_to(root).parts[:-1]
        )
    )


def broken_links(files: list[Path], root: Path) -> list[str]:
    """Return one line for each relative link that leads nowhere or out of the root."""
    problems = []
    for path in files:
        text = _blank(_CODE, _blank(_FENCE, path.read_text(encoding="utf-8")))
        matches = [*_LINK.finditer(text), *_REFERENCE.finditer(text)]
        for match in sorted(matches, key=lambda found: found.start()):
            target = unquote(match.group(1))
            if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", target):
                continue  # a web or mail address
            line = text.count("\n", 0, match.start()) + 1
            problem = _problem(path, target, root)
            if problem:
                problems.append(f"{path.relative_to(root)}:{line}: {target}: {problem}")
    return problems


def _problem(source: Path, target: str, root: Path) -> str | None:
    """Say what is wrong with a relative link, or nothing."""
    name, _, anchor = target.partition("#")
    if not name and not anchor:
        return "an empty link"
    if name.startswith("/"):
        return "an absolute path; write it relative to the page"
    path = (source.parent / name).resolve() if name else source
    if not path.is_relative_to(root):
        return "leads out of the repository"
    if not path.exists():
        return "no such file"
    if anchor and path.suffix == ".md" and anchor not in _anchors(path):
        return "no such heading"
    return None


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown file, made of its headings as GitHub does."""
    text = _blank(_FENCE, path.read_text(encoding="utf-8"))
    anchors = set(_ANCHOR.findall(text))
    seen: Counter[str] = Counter()
    for heading in _HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Remove what matches and keep the lines, so that line numbers stay true."""
    return pattern.sub(lambda match: "\n" * match.group().count("\n"), text)


def main() -> int:
    """Write or check the generated pages, then check the links."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check

    problems = []
    page = cli_page()
    if not check:
        CLI_PAGE.write_text(page, encoding="utf-8")
        SCHEMAS.mkdir(parents=True, exist_ok=True)
        for kind, text in schemas().items():
            (SCHEMAS / f"{kind}.schema.json").write_text(text, encoding="utf-8")
    elif not CLI_PAGE.exists() or CLI_PAGE.read_text(encoding="utf-8") != page:
        problems.append("docs/cli.md is not what the command line says: make docs")

    files = markdown_files(ROOT)
    problems += broken_links(files, ROOT)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"docs: {len(files)} Markdown files, every relative link leads somewhere")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

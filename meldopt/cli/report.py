"""``meldopt report``: tables, statistics and pictures of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meldopt.errors import FileFormatError

from ._options import json_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meldopt.compare.figures import Picture
    from meldopt.compare.markup import Table
    from meldopt.compare.report import Report, Tell

TEXTS = ("md", "csv", "latex")
PICTURES = ("svg", "pdf", "png")
FORMATS = (*TEXTS, "html", *PICTURES)


@click.command("report")
@click.argument("source", metavar="FOLDER|RESULTS.jsonl")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="Write this; may be repeated. Default: html and md with -o, else md.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    help="Write files into this folder; without it one text format is printed.",
)
@click.option(
    "--against",
    metavar="LABEL",
    help="Measure every solver against this one, by family, and test only pairs with "
    "it.",
)
@click.option(
    "--table",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this table of md, csv and latex; may be repeated. Printed csv: "
    "'results' unless given.",
)
@click.option(
    "--plans/--no-plans",
    default=True,
    help="Read the plans again and draw placements, links and fronts (default).",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on standard error.")
def command(
    source: str,
    formats: tuple[str, ...],
    output: str | None,
    against: str | None,
    names: tuple[str, ...],
    as_json: bool,
    *,
    plans: bool,
    quiet: bool,
) -> None:
    """Report a comparison: tables, statistics, pictures, one HTML page.

    FOLDER is what 'meldopt compare' wrote. Plans that break a row are listed with what
    they break and never ranked.

    Tables: summary, against, replay-mean, replay-p99, progress, frozen, ranks, pairs,
    results, instances, solvers, violations, failures; as CSV also fronts and runs.
    """
    from meldopt.compare.report import TABLES, build_report

    for name in names:
        if name not in TABLES:
            raise click.UsageError(
                f"--table: got {name!r}, expected one of {', '.join(TABLES)}"
            )
        if name == "against" and against is None:
            raise click.UsageError("--table against: needs --against LABEL")
    if as_json and (formats or output is not None):
        raise click.UsageError("--json excludes --format and -o")
    if not formats:
        formats = ("md",) if output is None else ("html", "md")
    wanted = dict.fromkeys(formats)
    _check(wanted, output, names, as_json=as_json)
    read = (
        any(kind in wanted for kind in ("html", *PICTURES))
        or ("csv" in wanted and output is not None)
        or "fronts" in names
    )

    tell = _teller(quiet=quiet)
    report = build_report(source, against=against, plans=plans and read, tell=tell)
    if as_json:
        from ._output import print_json

        print_json(_document(report, names))
        return
    if output is None:
        (kind,) = wanted
        _print(report, kind, names, tell)
        return
    written = _write(report, list(wanted), Path(output), names, tell)
    if not quiet:
        click.echo(f"{len(written)} files written to {output}", err=True)
        for path in written:
            if path.suffix == ".html":
                click.echo(f"page: {path}", err=True)


def _check(
    wanted: Iterable[str], output: str | None, names: tuple[str, ...], *, as_json: bool
) -> None:
    """Refuse what cannot be written, before any work is done."""
    kinds = list(wanted)
    if any(kind in PICTURES for kind in kinds):
        from meldopt.replay.plots import need_matplotlib

        need_matplotlib()
    if output is None:
        if as_json:
            return
        if len(kinds) > 1 or kinds[0] in PICTURES:
            raise click.UsageError("-o: expected a folder to write files into")
        if kinds[0] == "csv" and len(names) > 1:
            raise click.UsageError("--table: got several for one CSV, expected one")
        return
    from meldopt.files import check_writable

    path = Path(output)
    if path.exists() and not path.is_dir():
        raise FileFormatError(f"{path}: is a file, expected a folder to write into")
    check_writable(path / "report.md" if path.is_dir() else path)


def _teller(*, quiet: bool) -> Tell:
    import sys

    if quiet or not sys.stderr.isatty():
        return lambda _: None
    return lambda line: click.echo(f"report: {line}", err=True)


def _tables(report: Report, names: tuple[str, ...], *, every: bool) -> list[Table]:
    from meldopt.compare.report import LOOSE

    return [
        table
        for name, table in report.tables.items()
        if (name in names if names else table.rows and (every or name not in LOOSE))
    ]


def _markdown(
    report: Report, names: tuple[str, ...], pictures: Mapping[str, str] | None = None
) -> str:
    """Write Markdown; ``pictures`` are files by the names of pictures."""
    from meldopt.compare.markup import to_markdown

    def shown(which: Iterable[Picture], level: str) -> list[str]:
        return [
            f"{level} {one.title}\n\n![{one.title}]({pictures[one.name]})\n\n"
            f"{one.caption}\n"
            for one in which
            if pictures is not None and one.name in pictures
        ]

    parts = []
    if not names:
        parts += [f"# {report.title}", ""]
        parts += [f"- **{key}**: {value}" for key, value in report.facts]
        parts += [""] if report.facts else ["No run has ended yet.", ""]
        parts += [f"> {line}\n" for line in report.warnings]
    parts += [to_markdown(table) for table in _tables(report, names, every=False)]
    parts += shown(report.pictures, "##")
    for chapter in report.chapters:
        if drawn := shown(chapter.pictures, "###"):
            parts += [f"## {chapter.name}\n", *drawn]
    return "\n".join(parts).rstrip("\n") + "\n"


def _print(report: Report, kind: str, names: tuple[str, ...], tell: Tell) -> None:
    from meldopt.compare.markup import to_csv, to_latex

    if kind == "md":
        text = _markdown(report, names)
    elif kind == "latex":
        tables = _tables(report, names, every=False)
        text = "\n".join(to_latex(table) for table in tables)
    elif kind == "csv":
        tables = _tables(report, names or ("results",), every=False)
        text = "".join(to_csv(table) for table in tables)
    else:
        text = _page(report, tell)
    click.echo(text, nl=False)


def _page(report: Report, tell: Tell) -> str:
    from importlib.util import find_spec

    from meldopt.compare.page import to_html

    drawn = find_spec("matplotlib") is not None
    if not drawn:
        click.echo(
            "warning: page without pictures: matplotlib is not installed: pip install "
            "'meldopt[plot]'",
            err=True,
        )
    return to_html(report, pictures=drawn, tell=tell)


def _write(
    report: Report,
    kinds: list[str],
    folder: Path,
    names: tuple[str, ...],
    tell: Tell,
) -> list[Path]:
    """Write what is wanted; return the files."""
    from meldopt.compare.markup import to_csv, to_latex
    from meldopt.compare.plots import picture
    from meldopt.files import write_bytes

    files: dict[str, bytes] = {}
    drawn = [
        *report.pictures,
        *(one for chapter in report.chapters for one in chapter.pictures),
    ]
    for kind in kinds:
        if kind in PICTURES:
            for one in drawn:
                files[f"{one.name}.{kind}"] = picture(one.draw, kind)
    for kind in kinds:
        if kind == "html":
            files["report.html"] = _page(report, tell).encode()
        elif kind == "md":
            shown = {
                one.name: f"{one.name}.{which}"
                for one in drawn
                for which in ("png", "svg")
                if f"{one.name}.{which}" in files
            }
            files["report.md"] = _markdown(report, names, shown).encode()
        elif kind == "csv":
            for table in _tables(report, names, every=True):
                files[f"{table.name}.csv"] = to_csv(table).encode()
        elif kind == "latex":
            for table in _tables(report, names, every=False):
                files[f"{table.name}.tex"] = to_latex(table).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise FileFormatError(f"{folder}: cannot be made: {exc.strerror}") from exc
    for name, data in files.items():
        write_bytes(folder / name, data)
    return [folder / name for name in files]


def _document(report: Report, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "title": report.title,
        "facts": dict(report.facts),
        "warnings": list(report.warnings),
        "tables": {
            table.name: [
                dict(zip((column.name for column in table.columns), row, strict=True))
                for row in table.rows
            ]
            for table in _tables(report, names, every=False)
        },
    }

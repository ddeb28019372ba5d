from __future__ import annotations

import csv
import importlib.util
import io
import json
from typing import TYPE_CHECKING

import pytest
from run_records import many, record, write_records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    Invoke = Callable[..., Result]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return the folder of a comparison of five solvers."""
    return write_records(tmp_path / "results", many(5, 4, 1))


def test_markdown_is_printed(run: Invoke, results: Path) -> None:
    """Without anything it prints Markdown, of a folder or of its file."""
    done = run("report", results)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("# 5 solvers on 4 instances\n")
    assert "## Summary by family" in done.stdout
    assert "## Mean ranks" in done.stdout
    assert run("report", results / "RESULTS.jsonl").stdout == done.stdout


def test_one_csv_is_printed(run: Invoke, results: Path) -> None:
    """Printed CSV is one table that a program reads: a row for each case and solver."""
    done = run("report", results, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 20
    assert {row["solver"] for row in rows} >= {"method-00", "method-04"}
    runs = run("report", results, "--format", "csv", "--table", "runs")
    assert len(runs.stdout.splitlines()) == 21


def test_one_table(run: Invoke, results: Path) -> None:
    """A named table is printed alone, without facts, even if it has no rows."""
    done = run("report", results, "--table", "ranks")
    assert done.stdout.startswith("## Mean ranks\n")
    assert done.stdout.count("## ") == 1
    done = run("report", results, "--table", "frozen")
    assert done.stdout.rstrip().endswith("None.")
    done = run("report", results, "--format", "latex", "--table", "summary")
    assert done.stdout.startswith("\\begin{table}")


def test_json(run: Invoke, results: Path) -> None:
    """One object with facts and tables; what failed or is unknown is null."""
    done = run("report", results, "--json")
    document = json.loads(done.stdout)
    assert document["json_version"] == 1
    assert document["title"] == "5 solvers on 4 instances"
    assert document["tables"]["ranks"][0]["mean rank"] >= 1
    assert "runs" not in document["tables"]


def test_files_are_written(run: Invoke, results: Path, tmp_path: Path) -> None:
    """Every format at once; Markdown shows the pictures that were written with it."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    formats = [
        part
        for kind in ("md", "csv", "latex", "html", "svg")
        for part in ("--format", kind)
    ]
    done = run("report", results, *formats, "-o", out, "--no-plans")
    assert done.exit_code == 0, done.stderr
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "report.md",
        "report.html",
        "summary.csv",
        "summary.tex",
        "runs.csv",
        "profile.svg",
        "ranks.svg",
        "gap-over-time.svg",
    }
    assert "runs.tex" not in names
    text = (out / "report.md").read_text()
    assert "![Performance profile](profile.svg)" in text
    assert f"{len(names)} files written to {out}" in done.stderr
    assert done.stdout == ""
    assert run("report", results, "--format", "md", "-o", out, "-q").stderr == ""


def test_same_files_again(run: Invoke, results: Path, tmp_path: Path) -> None:
    """The same results give the same bytes."""
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        run("report", results, "-o", tmp_path / name, "--no-plans")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_against(run: Invoke, results: Path) -> None:
    """Ratios to one solver by family, and tests of its pairs only."""
    done = run("report", results, "--against", "method-00")
    assert "## Against method-00" in done.stdout
    pairs = run(
        "report",
        results,
        "--against",
        "method-00",
        "--table",
        "pairs",
        "--format",
        "csv",
    )
    rows = list(csv.DictReader(io.StringIO(pairs.stdout)))
    assert len(rows) == 4
    assert {row["second"] for row in rows} == {"method-00"}


def test_no_run_yet(run: Invoke, tmp_path: Path) -> None:
    """A comparison that has just begun is no error."""
    folder = write_records(tmp_path, [])
    for arguments in ([], ["--format", "latex"], ["--format", "csv"], ["--json"]):
        done = run("report", folder, *arguments)
        assert done.exit_code == 0, done.stderr
    assert "No run has ended yet." in run("report", folder).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "nobody"], "got solver 'nobody', expected one of: method-00"),
        (["--format", "svg"], "-o: expected a folder"),
        (["--format", "md", "--format", "csv"], "-o: expected a folder"),
        (["--format", "word"], "'word' is not one of"),
        (["--table", "nothing"], "--table: got 'nothing', expected one of summary"),
        (["--table", "against"], "needs --against LABEL"),
        (
            ["--format", "csv", "--table", "ranks", "--table", "pairs"],
            "got several for one CSV",
        ),
    ],
)
def test_bad_arguments(
    run: Invoke, results: Path, arguments: list[str], message: str
) -> None:
    """What makes no sense is refused with exit code 2, and nothing is printed."""
    done = run("report", results, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_json_is_no_file(run: Invoke, results: Path, tmp_path: Path) -> None:
    """JSON is printed alone; with files wanted it is refused, in JSON too."""
    done = run("report", results, "--json", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "--json excludes --format and -o" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_such_comparison(run: Invoke, tmp_path: Path) -> None:
    """A folder without results, and no folder at all, are refused in one line."""
    for path in (tmp_path, tmp_path / "nowhere"):
        done = run("report", path)
        assert done.exit_code == 2
        assert "expected the folder of a comparison" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_broken_line_is_named(run: Invoke, tmp_path: Path) -> None:
    """A line that is no record is named by its number."""
    folder = write_records(tmp_path, [record("f/a", "x", 1.0)])
    with (folder / "RESULTS.jsonl").open("a") as file:
        file.write('{"key": 1}\n')
    done = run("report", folder)
    assert done.exit_code == 2
    assert "line 2" in done.stderr


def test_output_must_be_a_folder(run: Invoke, results: Path, tmp_path: Path) -> None:
    """A file in its place is refused before any work."""
    target = tmp_path / "file"
    target.write_text("mine")
    done = run("report", results, "-o", target)
    assert done.exit_code == 2
    assert "is a file, expected a folder" in done.stderr
    assert target.read_text() == "mine"


def test_without_matplotlib(
    run: Invoke, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables need no extra; a page does without pictures and says so."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "matplotlib" else found(name, *rest),
    )
    out = tmp_path / "out"
    done = run("report", results, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert "page without pictures: matplotlib is not installed" in done.stderr
    page = (out / "report.html").read_text()
    assert "<img" not in page
    assert "pip install 'meldopt[plot]'" in page
    done = run("report", results, "-o", out, "--format", "svg")
    assert done.exit_code == 2
    assert "meldopt[plot]" in done.stderr

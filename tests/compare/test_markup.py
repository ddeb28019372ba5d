from __future__ import annotations

import csv
import io
import math
import re

import pytest

from meldopt.compare.markup import (
    LONG,
    Column,
    Table,
    escape_latex,
    text_of,
    to_csv,
    to_latex,
    to_markdown,
)

NASTY = "50% a_b & {c} $d# ~e^f\\ <g> | [h] – ≤"


def table(rows: list[tuple[object, ...]]) -> Table:
    """Return a table with a column of text, of numbers and of percents."""
    return Table(
        name="odd-names",
        title="Odd & names",
        caption="Of 5 %.",
        columns=(Column("a_b"), Column("x", "number"), Column("gap", "percent")),
        rows=tuple(rows),  # type: ignore[arg-type]
    )


def check_latex(text: str) -> None:
    """Check that environments and braces balance, and that nothing is left raw."""
    stack: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    bare = re.sub(r"\\[\\{}%&_#$]", "", text)
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~^|]", re.sub(r"\$[^$]*\$", "", bare).replace(r"\#", ""))
    body = text.split(r"\midrule")[-1].split(r"\bottomrule")[0]
    columns = re.search(r"\\begin\{(?:tabular|longtable)\}\{(\w+)\}", text)
    assert columns is not None
    for line in body.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            cells = re.sub(r"\\&", "", line).count("&") + 1
            assert cells == len(columns.group(1)), line


def test_latex_of_odd_names() -> None:
    """Every special character is escaped; the table balances."""
    text = to_latex(table([(NASTY, 1.5, 0.25), ("[start", math.inf, None)]))
    check_latex(text)
    assert r"a\_b" in text
    assert r"25.00 \%" in text
    assert r"50\% a\_b \& \{c\} \$d\# \textasciitilde{}e\textasciicircum{}f" in text
    assert "\n{[}start & failed & --" in text
    assert r"\label{tab:odd-names}" in text
    assert r"\toprule" in text


def test_long_tables_break_over_pages() -> None:
    """One row more than fits makes a longtable, with its head on every page."""
    short = to_latex(table([("x", 1.0, 0.1)] * LONG))
    long = to_latex(table([("x", 1.0, 0.1)] * (LONG + 1)))
    assert "longtable" not in short
    assert long.count(r"a\_b") == 2
    check_latex(long)


def test_latex_of_nothing() -> None:
    """An empty table is still one that compiles."""
    text = to_latex(table([]))
    assert r"\multicolumn{3}{l}{none} \\" in text


def test_escapes_are_whole() -> None:
    """Escaping is character by character: nothing is escaped twice."""
    assert escape_latex(r"\_") == r"\textbackslash{}\_"


def test_markdown_of_odd_names() -> None:
    """A bar in a name does not open a cell, nor do stars or underscores markup."""
    text = to_markdown(table([("a|b *c* _d_", 1.5, 0.0001), ("y\nz", None, None)]))
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    assert r"a\|b \*c\* \_d\_" in rows[2]
    assert "0.01 %" in rows[2]
    assert "y z" in rows[3]
    assert rows[1].startswith("| ---")
    assert re.match(r"\| -+ \| -+: \| -+: \|", rows[1])


def test_markdown_of_nothing() -> None:
    """An empty table says so."""
    assert to_markdown(table([])).rstrip().endswith("None.")


def test_csv_holds_raw_values() -> None:
    """Numbers read back exactly; unknown is empty, failed is inf."""
    rows: list[tuple[object, ...]] = [
        ('say "x", y', 0.1 + 0.2, math.inf),
        (None, None, 1),
        ("", math.nan, -0.5),
    ]
    read = list(csv.reader(io.StringIO(to_csv(table(rows)))))
    assert read[0] == ["a_b", "x", "gap"]
    assert read[1][0] == 'say "x", y'
    assert float(read[1][1]) == 0.1 + 0.2
    assert float(read[1][2]) == math.inf
    assert read[2:] == [["", "", "1"], ["", "", "-0.5"]]


@pytest.mark.parametrize(
    ("cell", "kind", "text"),
    [
        (None, "number", "–"),
        (math.nan, "ratio", "–"),
        (math.inf, "ratio", "failed"),
        (0.0, "percent", "0 %"),
        (0.00001234, "percent", "0.0012 %"),
        (0.1234, "percent", "12.34 %"),
        (1.0, "ratio", "1.0000"),
        (1234.4, "ratio", "1234"),
        (3, "integer", "3"),
        (0.00001, "p", "< 0.0001"),
        (0.05, "p", "0.0500"),
        (12.25, "seconds", "12.25"),
        (1234.4, "seconds", "1234"),
        (1234567.0, "number", "1.23457e+06"),
    ],
)
def test_cells_for_people(cell: float | None, kind: str, text: str) -> None:
    """Digits are as many as say something."""
    assert text_of(cell, kind) == text  # type: ignore[arg-type]


def test_columns_that_say_nothing_go() -> None:
    """A column without a value on any row is left out; of no rows all stay."""
    assert [one.name for one in table([("x", None, 0.0)]).without_empty().columns] == [
        "a_b",
        "gap",
    ]
    assert len(table([]).without_empty().columns) == 3

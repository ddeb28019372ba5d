"""A table, and how it is written: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "integer", "number", "ratio", "percent", "seconds", "p"]
"""What the cells of a column hold; percent: a fraction, shown in percent."""

Cell = str | int | float | None
"""None is unknown or does not apply; inf is a failure."""

NOTHING = "–"
"""What an empty cell says to people; CSV leaves it empty."""

LONG = 40
"""Rows of a LaTeX table that still fit on a page; longer ones are ``longtable``."""


@dataclass(frozen=True, slots=True)
class Column:
    """Name of a column and what is in it."""

    name: str
    kind: Kind = "text"

    @property
    def right(self) -> bool:
        """Whether it is aligned to the right."""
        return self.kind != "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a name for files, a title, and a caption that says how to read it.

    Attributes
    ----------
    name
        Of its files; letters and ``-``.
    title, caption
        For people.
    columns, rows
        Of equal length.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def without_empty(self) -> Table:
        """Leave out columns that say nothing on any row."""
        kept = [
            n
            for n, _ in enumerate(self.columns)
            if not self.rows or any(row[n] not in (None, "") for row in self.rows)
        ]
        return Table(
            name=self.name,
            title=self.title,
            caption=self.caption,
            columns=tuple(self.columns[n] for n in kept),
            rows=tuple(tuple(row[n] for n in kept) for row in self.rows),
        )


def text_of(cell: Cell, kind: Kind) -> str:
    """Write a cell for people."""
    if cell is None or cell == "":
        return NOTHING
    if isinstance(cell, str):
        return cell
    if math.isnan(cell):
        return NOTHING
    if math.isinf(cell):
        return "failed" if cell > 0 else NOTHING
    if kind == "integer":
        return f"{cell:.0f}"
    if kind == "percent":
        return _percent(float(cell))
    if kind == "ratio":
        return f"{cell:.4f}" if abs(cell) < 100 else f"{cell:.4g}"
    if kind == "seconds":
        return f"{cell:.2f}" if cell < 100 else f"{cell:.0f}"
    if kind == "p":
        return "< 0.0001" if cell < 1e-4 else f"{cell:.4f}"
    return f"{cell:.6g}"


def _percent(fraction: float) -> str:
    if fraction == 0:
        return "0 %"
    percent = 100 * fraction
    if abs(percent) < 0.1:
        return f"{percent:.2g} %"
    return f"{percent:.2f} %" if abs(percent) < 1000 else f"{percent:.3g} %"


# -- Markdown --------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """Write a table as Markdown, with its title and caption."""
    lines = [f"## {_plain(table.title)}", ""]
    if table.caption:
        lines += [_plain(table.caption), ""]
    if not table.rows:
        return "\n".join([*lines, "None.", ""])
    cells = [[_plain(column.name) for column in table.columns]]
    cells += [
        [
            _plain(text_of(cell, column.kind))
            for cell, column in zip(row, table.columns, strict=True)
        ]
        for row in table.rows
    ]
    widths = [max(3, *(len(row[n]) for row in cells)) for n in range(len(cells[0]))]
    rule = [
        "-" * (width - 1) + ":" if column.right else "-" * width
        for width, column in zip(widths, table.columns, strict=True)
    ]
    for n, row in enumerate([cells[0], rule, *cells[1:]]):
        padded = [
            text.rjust(width) if column.right and n != 1 else text.ljust(width)
            for text, width, column in zip(row, widths, table.columns, strict=True)
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """Escape what Markdown would read in a cell."""
    return re.sub(r"([|\\`*_<\[])", r"\\\1", " ".join(text.split()))


# -- CSV -------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """Write a table as CSV: a header, then raw values; no text where nothing is known.

    Fractions stay fractions; what failed is ``inf``.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in table.columns])
    for row in table.rows:
        writer.writerow([_raw(cell) for cell in row])
    return out.getvalue()


def _raw(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return repr(cell) if isinstance(cell, float) else str(cell)


# -- LaTeX -----------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "–": "--",
    "−": r"$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "→": r"$\to$",
    "µ": r"$\mu$",
    "φ": r"$\varphi$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
    "…": r"\ldots{}",
    "[": "{[}",  # behind \\ it would open an optional argument
    "]": "{]}",
}


def escape_latex(text: str) -> str:
    """Write text so that LaTeX shows it as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    r"""Write a table for LaTeX with booktabs, and longtable if it is long.

    To be used by ``\input`` in a document with ``\usepackage{booktabs,longtable}``.
    """
    shape = "".join("r" if column.right else "l" for column in table.columns)
    head = " & ".join(escape_latex(column.name) for column in table.columns) + r" \\"
    body = [
        " & ".join(
            escape_latex(text_of(cell, column.kind))
            for cell, column in zip(row, table.columns, strict=True)
        )
        + r" \\"
        for row in table.rows
    ]
    if not table.rows:
        body = [rf"\multicolumn{{{len(table.columns)}}}{{l}}{{none}} \\"]
    caption = escape_latex(f"{table.title}. {table.caption}".strip())
    label = rf"\label{{tab:{table.name}}}"
    if len(body) > LONG:
        lines = [
            rf"\begin{{longtable}}{{{shape}}}",
            rf"\caption{{{caption}}}{label} \\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endfirsthead",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *body,
            r"\end{longtable}",
        ]
    else:
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}{label}",
            rf"\begin{{tabular}}{{{shape}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"

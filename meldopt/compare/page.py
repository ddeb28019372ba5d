"""One HTML page with everything, that needs no network and no script.

Pictures are SVG inside of the page. The script sorts tables and shows one instance at a
time; without it every table and instance is there, in order.
"""

from __future__ import annotations

import base64
import math
from html import escape
from typing import TYPE_CHECKING

from meldopt import __version__

from .markup import text_of
from .plots import picture
from .report import LOOSE, Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .figures import Picture
    from .markup import Cell, Column, Table
    from .report import Chapter, Tell

OPEN_ROWS = 40
"""Longest table that is open at first; longer ones are folded."""

LONG_TEXT = 40
"""Longest text of a cell that is not wrapped."""

_STYLE = """
:root { --ink: #1c1c1c; --muted: #5d5d5d; --line: #dcdcdc; --head: #f4f4f2;
  --accent: #0072b2; --bad: #b3470b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.2rem 1.4rem 4rem;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  color: var(--ink); background: #fff; }
h1 { font-size: 1.7rem; margin: .4rem 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; padding-top: .6rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .3rem; }
p, figcaption { max-width: 52rem; }
figcaption, .caption { color: var(--muted); font-size: .9rem; margin: .2rem 0 .6rem; }
figure { margin: .6rem 0 1.6rem; }
figure img { max-width: 100%; height: auto; display: block; }
nav a { margin-right: 1.1em; white-space: nowrap; }
a { color: var(--accent); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem;
  margin: .6rem 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; margin: .3rem 0 .8rem;
  font-variant-numeric: tabular-nums; }
th { background: var(--head); text-align: left; vertical-align: bottom;
  border-bottom: 1.5px solid var(--ink); position: sticky; top: 0; }
th, td { padding: .22rem .6rem; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 14rem; max-width: 26rem;
  overflow-wrap: anywhere; }
td.number, th.number { text-align: right; }
tbody tr:hover { background: #f7fafc; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
summary { cursor: pointer; color: var(--accent); margin: .3rem 0; }
.warning { border-left: 4px solid var(--bad); background: #fdf3ec; padding: .5rem .9rem;
  margin: .5rem 0; }
.picker { margin: .6rem 0 1rem; }
select { font: inherit; padding: .15rem .4rem; max-width: 100%; }
footer { margin-top: 3rem; color: var(--muted); font-size: .85rem; }
@media print { th { position: static; } .picker { display: none; } }
"""

_SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach(one => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => {
        const cell = row.cells[column];
        return "v" in cell.dataset ? Number(cell.dataset.v)
          : head.classList.contains("number") ? NaN : cell.textContent;
      };
      const rows = [...body.rows].map(row => [value(row), row]);
      rows.sort(([a], [b]) => {
        if (typeof a === "string") return (up ? 1 : -1) * a.localeCompare(b);
        if (Number.isNaN(a) || Number.isNaN(b))
          return Number.isNaN(a) - Number.isNaN(b);
        return up ? (a > b) - (a < b) : (b > a) - (b < a);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
const chapters = [...document.querySelectorAll("section.chapter")];
if (chapters.length > 1) {
  const picker = document.querySelector(".picker");
  const list = document.createElement("select");
  list.id = "instance";
  for (const one of chapters)
    list.append(new Option(one.dataset.name, one.id));
  list.append(new Option("all instances", "all"));
  const show = () => {
    for (const one of chapters)
      one.hidden = list.value !== "all" && one.id !== list.value;
  };
  const follow = () => {
    const id = location.hash.slice(1);
    if (chapters.some(one => one.id === id)) {
      list.value = id;
      show();
      document.getElementById(id).scrollIntoView();
    }
  };
  const label = document.createElement("label");
  label.append("Show ", list);
  picker.replaceChildren(label);
  list.addEventListener("change", show);
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", () => chapters.forEach(one => one.hidden = false));
  addEventListener("afterprint", show);
  show();
  follow();
}
"""

_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)
"""What a browser may load: nothing but what is in the page."""


def to_html(
    report: Report, *, pictures: bool = True, tell: Tell = lambda _: None
) -> str:
    """Write a report as one page.

    Parameters
    ----------
    report
        As `meldopt.compare.report.build_report` makes it.
    pictures
        Whether to draw; without, the page says how to get them.
    tell
        Called with a line on what is being drawn.

    Raises
    ------
    MissingExtraError
        If pictures are wanted and matplotlib is not installed.
    """
    body = [
        f"<h1>{escape(report.title)}</h1>",
        *(f'<p class="warning">{_prose(line)}</p>' for line in report.warnings),
        _contents(report),
        *_overview(report),
        *_results(report, pictures=pictures),
        *_chapters(report.chapters, tell, pictures=pictures),
        *_unranked(report),
        f"<footer>meldopt {escape(__version__)}. How to read every figure, and the "
        "rules for failures and ties: docs/reports.md.</footer>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(report.title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            f"<script>{_SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


# -- sections --------------------------------------------------------------------------

_COMPARED = ("solvers", "instances")
_UNRANKED = ("violations", "failures")


def _said(report: Report, names: Iterable[str]) -> list[str]:
    """Return which of these tables say anything."""
    return [
        name for name in names if name in report.tables and report.tables[name].rows
    ]


def _contents(report: Report) -> str:
    links = [("compared", "What was compared")]
    if any(table.rows for table in report.tables.values()):
        links.append(("results", "Results"))
    if report.chapters:
        links.append(("instances", "By instance"))
    if any(_said(report, _UNRANKED)):
        links.append(("unranked", "Not ranked"))
    return (
        "<nav>"
        + " ".join(f'<a href="#{at}">{text}</a>' for at, text in links)
        + ("</nav>")
    )


def _overview(report: Report) -> Iterable[str]:
    yield '<h2 id="compared">What was compared</h2>'
    if report.facts:
        yield "<dl>"
        for key, value in report.facts:
            yield f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>"
        yield "</dl>"
    else:
        yield "<p>No run has ended yet.</p>"
    for name in _said(report, _COMPARED):
        yield _table(report.tables[name])


def _results(report: Report, *, pictures: bool) -> Iterable[str]:
    elsewhere = (*_COMPARED, *_UNRANKED, *LOOSE)
    names = [name for name in _said(report, report.tables) if name not in elsewhere]
    if not names and not report.pictures:
        return
    yield '<h2 id="results">Results</h2>'
    if report.pictures and not pictures:
        yield (
            '<p class="warning">Without pictures: matplotlib is not installed. '
            "<code>pip install 'meldopt[plot]'</code>, then make the report again.</p>"
        )
    if "summary" in names:
        yield _table(report.tables["summary"])
        names.remove("summary")
    if pictures:
        for one in report.pictures:
            yield _figure(one)
    for name in names:
        yield _table(report.tables[name])


def _chapters(
    listed: Sequence[Chapter], tell: Tell, *, pictures: bool
) -> Iterable[str]:
    if not listed:
        return
    yield '<h2 id="instances">By instance</h2>'
    if len(listed) > 1:
        links = " ".join(
            f'<a href="#instance-{n}">{escape(one.name)}</a>'
            for n, one in enumerate(listed, 1)
        )
        yield f'<nav class="picker">{links}</nav>'
    for n, one in enumerate(listed, 1):
        name = escape(one.name, quote=True)
        yield f'<section class="chapter" id="instance-{n}" data-name="{name}">'
        yield f"<h3>{name}</h3>"
        for note in one.notes:
            yield f'<p class="caption">{escape(note)}</p>'
        yield _table(one.results, headed=False)
        if pictures and one.pictures:
            tell(f"drawing {one.name} ({n} of {len(listed)})")
            for drawn in one.pictures:
                yield _figure(drawn)
        yield "</section>"


def _unranked(report: Report) -> Iterable[str]:
    names = _said(report, _UNRANKED)
    if names:
        yield '<h2 id="unranked">Not ranked</h2>'
    for name in names:
        yield _table(report.tables[name])


# -- parts -----------------------------------------------------------------------------


def _figure(one: Picture) -> str:
    drawn = base64.b64encode(picture(one.draw, "svg")).decode("ascii")
    return (
        f"<figure><h3>{escape(one.title)}</h3>"
        f'<img alt="{escape(one.title, quote=True)}" '
        f'src="data:image/svg+xml;base64,{drawn}">'
        f"<figcaption>{_prose(one.caption)}</figcaption></figure>"
    )


def _table(table: Table, *, headed: bool = True) -> str:
    head = "".join(
        f'<th scope="col" class="{_side(column)}">{escape(column.name)}</th>'
        for column in table.columns
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            _cell(cell, column) for cell, column in zip(row, table.columns, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    drawn = (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )
    if len(table.rows) > OPEN_ROWS:
        drawn = f"<details><summary>{len(table.rows)} rows</summary>{drawn}</details>"
    title = f"<h3>{escape(table.title)}</h3>" if headed else ""
    caption = f'<p class="caption">{_prose(table.caption)}</p>' if table.caption else ""
    return f"{title}{caption}{drawn}"


def _prose(text: str) -> str:
    """Escape text, and keep a number and its percent sign together."""
    return escape(text).replace(" %", "\u00a0%")


def _side(column: Column) -> str:
    return "number" if column.right else "text"


def _cell(cell: Cell, column: Column) -> str:
    text = escape(text_of(cell, column.kind))
    if column.right and isinstance(cell, int | float) and not math.isnan(cell):
        raw = "Infinity" if math.isinf(cell) else repr(cell)
        return f'<td class="number" data-v="{raw}">{text}</td>'
    kind = "long" if len(text) > LONG_TEXT else _side(column)
    return f'<td class="{kind}">{text}</td>'

"""How commands print: JSON objects, tables, and numbers for people."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

JSON_VERSION = 1
"""Version of the JSON that commands print; keys are added without a new one."""

PIPE_WIDTH = 160
"""Columns of tables where nobody says how wide the output is."""


def console(*, stderr: bool = False) -> Console:
    """Return a console that writes names as they are and never cuts a piped table."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object; numbers that JSON does not know become null."""
    document = _finite({"json_version": JSON_VERSION, **value})
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    to: Console,
    title: str = "",
) -> None:
    """Print a table; columns whose name starts with ``>`` are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if title:  # a title of the table itself would be wrapped at its width
        to.print(f"  {title}")
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            Text(column.removeprefix(">")),
            justify="right" if right else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    to.print(table)


def percent(fraction: float | None, digits: int = 1) -> str:
    """Write a fraction for people."""
    if fraction is None or not math.isfinite(fraction):
        return "–"
    rounded = round(100 * fraction, digits) + 0.0  # never "-0.0"
    return f"{rounded:.{digits}f} %"


def gap_percent(gap: float | None) -> str:
    """Write a gap for people: enough digits to see that it is not zero."""
    if gap is None:
        return "–"
    if gap == 0:
        return "0 %"
    return f"{100 * gap:.2g} %" if gap < 0.01 else f"{100 * gap:.2f} %"


def number(value: float | None) -> str:
    """Write a number for people."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.6g}"

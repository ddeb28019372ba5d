"""What a solve shows while it works: a live line, or plain lines in a pipe."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Self

from meldopt.gap import relative_gap

from ._output import console, gap_percent, number

if TYPE_CHECKING:
    from types import TracebackType

    from rich.live import Live
    from rich.text import Text

    from meldopt.solver import Progress

QUIET_S = 1.0
"""Seconds between two plain lines, unless a plan appears for the first time."""


class StatusLine:
    """A line on standard error that is rewritten on a terminal, and added to a pipe."""

    def __init__(self, *, shown: bool) -> None:
        self._console = console(stderr=True) if shown else None
        self._live: Live | None = None
        self._told = -math.inf

    def __enter__(self) -> Self:
        if self._console is not None and self._console.is_terminal:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._render, console=self._console, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _render(self) -> Text:
        raise NotImplementedError("override _render in the subclass")


class LiveLine(StatusLine):
    """Objective, bound, gap and time on standard error.

    On a terminal one line is rewritten; elsewhere a line is added when something
    changed, at most one per second.
    """

    def __init__(self, label: str, *, shown: bool) -> None:
        super().__init__(shown=shown)
        self._label = label
        self._started = perf_counter()
        self._last: Progress | None = None
        self._printed: tuple[float, float | None] | None = None

    def __call__(self, progress: Progress) -> None:
        """Take a report of the solver."""
        first = self._last is None or (
            math.isinf(self._last.objective) and math.isfinite(progress.objective)
        )
        self._last = progress
        if self._console is None or self._live is not None:
            return
        now = perf_counter()
        state = (progress.objective, progress.bound)
        if state != self._printed and (first or now - self._told >= QUIET_S):
            self._told, self._printed = now, state
            self._console.print(self._text(progress.elapsed_s), soft_wrap=True)

    def _render(self) -> Text:
        from rich.text import Text

        return Text(self._text(perf_counter() - self._started))

    def _text(self, elapsed_s: float) -> str:
        objective = math.inf if self._last is None else self._last.objective
        bound = None if self._last is None else self._last.bound
        return (
            f"{self._label}  {elapsed_s:7.1f} s  objective {number(objective)}  "
            f"bound {number(bound)}  gap {gap_percent(relative_gap(objective, bound))}"
        )

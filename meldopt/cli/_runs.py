"""What a comparison shows while it works: runs done, and the time left."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from ._live import StatusLine
from ._output import number

if TYPE_CHECKING:
    from rich.text import Text

    from meldopt.compare.runner import Progress

QUIET_S = 5.0
"""Seconds between two plain lines; the last one is always shown."""


class RunsLine(StatusLine):
    """Runs done of all, runs that failed and time left, on standard error.

    On a terminal one line is rewritten; elsewhere a line is added now and then.
    """

    def __init__(self, *, shown: bool) -> None:
        super().__init__(shown=shown)
        self._progress: Progress | None = None
        self._printed = -1

    @property
    def done(self) -> int:
        """Runs that are complete."""
        return 0 if self._progress is None else self._progress.done

    def __call__(self, progress: Progress) -> None:
        """Take how far the comparison is."""
        self._progress = progress
        if self._console is None or self._live is not None:
            return
        now = perf_counter()
        last = progress.done == progress.total
        due = last or now - self._told >= QUIET_S
        if progress.done != self._printed and due:
            self._told, self._printed = now, progress.done
            self._console.print(self._text(), soft_wrap=True)

    def _render(self) -> Text:
        from rich.text import Text

        return Text(self._text())

    def _text(self) -> str:
        progress = self._progress
        if progress is None:
            return "starting"
        parts = [f"{progress.done} of {progress.total} runs"]
        if progress.kept:
            parts.append(f"{progress.kept} from before")
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if progress.running:
            parts.append(f"{progress.running} running")
            parts.append(f"{_duration(progress.left_s)} left")
        last = progress.last
        if last is not None:
            parts.append(
                f"last: {last.label} on {last.instance}: {last.status}"
                + (f" {number(last.objective)}" if last.objective is not None else "")
            )
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    """Write a time for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"

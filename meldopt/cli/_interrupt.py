"""Ctrl-C and SIGTERM during a solve: the best plan is kept."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

GIVE_UP = 3
"""How many signals end the process without waiting for the plan."""


@dataclass(slots=True)
class Interruption:
    """Which signal came first, and how many came."""

    signal: int | None = None
    count: int = 0

    @property
    def exit_code(self) -> int | None:
        """128 plus the signal, as shells say it; none if there was no signal."""
        return None if self.signal is None else 128 + self.signal


@contextlib.contextmanager
def interruptions() -> Iterator[Interruption]:
    """Raise `KeyboardInterrupt` in the block for SIGINT and for SIGTERM alike.

    The library knows only `KeyboardInterrupt`; which signal it was decides the exit
    code.
    """
    seen = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        seen.signal = number if seen.signal is None else seen.signal
        seen.count += 1
        if seen.count >= GIVE_UP:
            os._exit(128 + number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield seen  # only the main thread may handle signals
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

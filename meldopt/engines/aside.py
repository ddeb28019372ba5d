"""Engines run in a thread of their own, so that Ctrl-C reaches us and not them."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, TypeVar

from meldopt.errors import SolverError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

Found = TypeVar("Found")


def run_aside(
    engine: str,
    work: Callable[[], Found],
    tick: Callable[[bool], None],
    *,
    period_s: float,
    patience_s: float | None = None,
) -> tuple[Found | None, bool]:
    """Call ``work`` in another thread and wait for its end, whatever comes.

    Parameters
    ----------
    engine
        Who works, for messages.
    work
        Runs to its end in a daemon thread.
    tick
        Called in this thread every ``period_s`` seconds while ``work`` runs, and at
        once when it was interrupted; is told whether there was an interruption, by
        a signal or by a `KeyboardInterrupt` of its own. What it must do then is end
        ``work``, as often as it is asked to.
    patience_s
        How long ``work`` may take after an interruption (None: as long as it likes).

    Returns
    -------
    found, interrupted
        What ``work`` returned, None if it was given up; whether it was interrupted.

    Raises
    ------
    SolverError
        ``work`` raised an exception.
    """
    found: list[Found] = []
    failure: list[Exception] = []
    # Not a join: interrupted, that takes a running thread for ended (Python 3.11).
    done = threading.Event()

    def target() -> None:
        try:
            found.append(work())
        except Exception as exc:
            failure.append(exc)
        finally:
            done.set()

    interrupted = threading.Event()
    asked_for = 0.0
    with _noted(interrupted):
        threading.Thread(target=target, daemon=True).start()
        while not done.wait(period_s):
            asked_for += period_s if interrupted.is_set() else 0.0
            if patience_s is not None and asked_for > patience_s:
                return None, True
            try:
                tick(interrupted.is_set())
            except KeyboardInterrupt:
                interrupted.set()
    if failure:
        raise SolverError(f"{engine} failed: {failure[0]}") from failure[0]
    return found[0], interrupted.is_set()


@contextlib.contextmanager
def _noted(interrupted: threading.Event) -> Iterator[None]:
    """Note in the block what would have raised `KeyboardInterrupt`.

    A flag can come at any moment; an exception between the start of a thread and the
    wait for it would leave an engine running that nobody waits for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def handle(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        assert callable(handler)
        try:
            handler(number, frame)
        except KeyboardInterrupt:
            interrupted.set()

    ours = [number for number, handler in before.items() if callable(handler)]
    try:
        for number in ours:
            signal.signal(number, handle)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])

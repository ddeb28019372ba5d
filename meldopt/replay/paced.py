"""The same trace at another pace, and telling how far it has been read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meldopt.trace import Trace
from meldopt.trace.records import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meldopt.trace import Chunk

PARTS = 200
"""Chunks that a trace is cut into, so that progress is seen."""

LEAST, MOST = 1024, 65536
"""Tokens of such a chunk."""


def paced(
    trace: Trace, scale: float = 1.0, on_tokens: Callable[[int], None] | None = None
) -> Trace:
    """Return the trace with requests that come ``scale`` times as fast.

    Parameters
    ----------
    trace
        Is not copied.
    scale
        Above 0; arrivals are divided by it.
    on_tokens
        Told, as the tokens stream, how many there were in all passes so far.

    Raises
    ------
    ValueError
        If the scale is not a number above 0.
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale: got {scale}, expected a number above 0")
    size = min(max(trace.num_tokens // PARTS, LEAST), MOST)
    done = 0

    def source() -> Iterator[Chunk]:
        nonlocal done
        # At its own pace the digest still holds, and the new trace checks it.
        whole = trace.source() if scale == 1.0 else trace.chunks()
        for chunk in cut(whole, size):
            yield chunk
            done += len(chunk)
            if on_tokens is not None:
                on_tokens(done)

    header, requests = trace.header, trace.requests
    if scale != 1.0:
        header = msgspec.structs.replace(header, digest="")
        table = requests.arrays()
        requests = type(requests)(**(table | {"arrival_s": requests.arrival_s / scale}))
    return Trace(
        header=header,
        requests=requests,
        source=source,
        place=trace.place,
        path=trace.path,
    )

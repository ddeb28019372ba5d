"""Other traces made of traces: some of the requests, or several traces at once.

Both stream from the traces that they are made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.errors import TraceError

from .records import REQUEST_ARRAYS, Chunk, Requests, TraceHeader, cut
from .stream import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray


def sliced(trace: Trace, requests: ArrayLike | None, tokens: int | None) -> Trace:
    """Keep some of the requests; see `meldopt.trace.slice_trace`."""
    count = trace.num_requests
    keep = np.ones(count, dtype=bool)
    if requests is not None:
        chosen = np.asarray(requests)
        if chosen.dtype.kind == "b":
            if chosen.shape != (count,):
                raise TraceError(
                    f"{trace.place}: mask of requests: got shape {chosen.shape}, "
                    f"expected {(count,)}"
                )
            keep = chosen.copy()
        else:
            chosen = chosen.astype(np.int64)
            outside = (chosen < 0) | (chosen >= count)
            if outside.any():
                raise TraceError(
                    f"{trace.place}: request: got {chosen[np.argmax(outside)]}, "
                    f"expected 0 to {count - 1}"
                )
            keep = np.zeros(count, dtype=bool)
            keep[chosen] = True
    if not keep.any():
        raise TraceError(f"{trace.place}: requests: got none, expected at least one")
    rows = trace.rows()
    if tokens is not None:
        if tokens < 1:
            raise TraceError(f"{trace.place}: tokens: got {tokens}, expected 1 or more")
        index = np.flatnonzero(keep)
        fits = np.cumsum(rows[index]) <= tokens
        fits[0] = True
        keep[index[~fits]] = False
    number = np.cumsum(keep) - 1  # of each kept request in the slice

    def source() -> Iterator[Chunk]:
        for chunk in trace.chunks():
            mine = keep[chunk.token_request]
            if not mine.any():
                continue
            part = chunk if mine.all() else chunk.take(mine)
            yield Chunk(
                experts=part.experts,
                gates=part.gates,
                token_request=number[part.token_request],
                signature=part.signature,
            )

    return _derived(
        trace.header,
        trace.requests.take(keep),
        int(rows[keep].sum()),
        source,
        trace.place,
    )


def merged(traces: Iterable[Trace]) -> Trace:
    """Interleave traces by arrival; see `meldopt.trace.merge_traces`."""
    parts = list(traces)
    if not parts:
        raise TraceError("merging: got no traces, expected at least one")
    first = parts[0].header
    for part in parts[1:]:
        for name in (
            "experts",
            "top_k",
            "layers",
            "signature_bits",
            "prompt_recorded",
        ):
            got, expected = getattr(part.header, name), getattr(first, name)
            if got != expected:
                raise TraceError(
                    f"{part.place}: {name}: got {got}, expected {expected} as in "
                    f"{parts[0].place}"
                )
    applications = tuple(
        dict.fromkeys(name for part in parts for name in part.header.applications)
    )
    homes = tuple(dict.fromkeys(name for part in parts for name in part.header.homes))
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in REQUEST_ARRAYS}
    for part in parts:
        table = part.requests.arrays()
        for name, names, united in (
            ("application", part.header.applications, applications),
            ("home", part.header.homes, homes),
        ):
            table[name] = np.array([united.index(one) for one in names])[table[name]]
        for name, column in table.items():
            columns[name].append(column)
    order = np.argsort(np.concatenate(columns["arrival_s"]), kind="stable")
    requests = Requests(
        **{name: np.concatenate(column)[order] for name, column in columns.items()}
    )
    origin = np.concatenate([np.full(p.num_requests, n) for n, p in enumerate(parts)])
    rows = np.concatenate([part.rows() for part in parts])[order]

    def source() -> Iterator[Chunk]:
        return cut(_interleaved(parts, origin[order], rows), first.chunk_rows)

    header = msgspec.structs.replace(first, applications=applications, homes=homes)
    return _derived(
        header,
        requests,
        int(rows.sum()),
        source,
        " + ".join(part.place for part in parts),
    )


def _interleaved(
    parts: list[Trace], origin: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[Chunk]:
    """Yield the rows of requests one after another, each from its trace."""
    streams = [part.chunks() for part in parts]
    held: list[Chunk | None] = [None] * len(parts)
    at = [0] * len(parts)
    start = 0
    while start < len(origin):
        stop = start + 1
        while stop < len(origin) and origin[stop] == origin[start]:
            stop += 1
        n = int(origin[start])
        request = np.repeat(np.arange(start, stop), rows[start:stop])
        done = 0
        while done < len(request):
            chunk = held[n]
            if chunk is None or at[n] == len(chunk):
                held[n], at[n] = next(streams[n]), 0
                continue
            take = min(len(request) - done, len(chunk) - at[n])
            part = chunk.take(slice(at[n], at[n] + take))
            yield Chunk(
                experts=part.experts,
                gates=part.gates,
                token_request=request[done : done + take],
                signature=part.signature,
            )
            done += take
            at[n] += take
        start = stop


def _derived(
    header: TraceHeader,
    requests: Requests,
    tokens: int,
    source: Callable[[], Iterable[Chunk]],
    place: str,
) -> Trace:
    size = header.chunk_rows
    done = msgspec.structs.replace(
        header,
        tokens=tokens,
        requests=len(requests),
        chunks=-(-tokens // size),
        digest="",
    )
    return Trace(
        header=done,
        requests=requests,
        source=lambda: cut(source(), size),
        place=place,
    )

"""A trace: requests, and tokens that stream from a file, from memory or from others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from meldopt.errors import TraceError

from .checks import Check, check_header, check_requests
from .records import Chunk, Requests, TraceHeader, cut, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(kw_only=True, eq=False)
class _Known:
    """What a first pass over the tokens found out."""

    rows: NDArray[np.int64] | None = None  # (R,)
    digest: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Requests, and tokens that stream.

    Attributes
    ----------
    header, requests
        Checked when the trace is made.
    source
        Starts a new stream of chunks, each time it is called.
    place
        Where it came from, for messages.
    path
        Its file or folder, if it has one.
    """

    header: TraceHeader
    requests: Requests
    source: Callable[[], Iterable[Chunk]]
    place: str = ""
    path: Path | None = None
    _known: _Known = field(default_factory=_Known, repr=False)

    def __post_init__(self) -> None:
        if not self.place:
            object.__setattr__(self, "place", self.header.name)
        check_header(self.header, self.place)
        check_requests(self.header, self.requests, self.place)

    @classmethod
    def of(cls, header: TraceHeader, requests: Requests, chunk: Chunk) -> Trace:
        """Make a trace of tokens that are in memory.

        Raises
        ------
        TraceError
            If there is anything that no trace may hold.
        """
        check_header(header, header.name)
        check_requests(header, requests, header.name)
        check = Check(header, requests, header.name, hashing=True)
        chunk = check.take(chunk)
        check.finish()
        size = header.chunk_rows
        done = msgspec.structs.replace(
            header,
            chunks=-(-len(chunk) // size),
            tokens=len(chunk),
            requests=len(requests),
            digest=check.digest(),
        )
        return cls(
            header=done,
            requests=requests,
            source=lambda: cut([chunk], size),
            _known=_Known(rows=check.rows, digest=done.digest),
        )

    @property
    def num_tokens(self) -> int:
        """Recorded tokens."""
        return self.header.tokens

    @property
    def num_requests(self) -> int:
        """Requests."""
        return len(self.requests)

    def chunks(self) -> Iterator[Chunk]:
        """Stream the tokens; the first whole pass checks everything.

        Raises
        ------
        TraceError
            At the first fault, or at the end if the digest is not the header's.
        """
        if self._known.rows is not None:
            check = Check(self.header, self.requests, self.place, hashing=False)
            for chunk in self.source():
                yield check.typed(chunk)
            return
        hashing = bool(self.header.digest)
        check = Check(self.header, self.requests, self.place, hashing=hashing)
        for chunk in self.source():
            yield check.take(chunk)
        self._learn(check)

    def _learn(self, check: Check) -> None:
        check.finish()
        if check.tokens != self.header.tokens:
            raise TraceError(
                f"{self.place}: $.tokens: got {self.header.tokens}, but there are "
                f"{check.tokens}"
            )
        if self.header.digest:
            found = check.digest()
            if found != self.header.digest:
                raise TraceError(
                    f"{self.place}: got digest {found}, expected "
                    f"{self.header.digest} as its header says"
                )
            self._known.digest = found
        self._known.rows = check.rows

    def rows(self) -> NDArray[np.int64]:
        """Count the recorded tokens of each request, (R,); may need a pass."""
        if self._known.rows is None:
            for _ in self.chunks():
                pass
        assert self._known.rows is not None
        return self._known.rows

    def digest(self) -> str:
        """Return the digest; a slice or a merged trace needs a pass for it."""
        if self.header.digest:
            return self.header.digest
        if self._known.digest is None:
            check = Check(self.header, self.requests, self.place, hashing=True)
            for chunk in self.source():
                check.take(chunk)
            self._learn(check)
            self._known.digest = check.digest()
        return self._known.digest

    def load(self) -> Chunk:
        """Return all tokens at once."""
        return joined(self.chunks())


def read_trace(path: str | Path) -> Trace:
    """Read a trace: a folder ``NAME.trace`` or a file ``NAME.npz``.

    Tokens are read, and checked, when they are asked for.

    Parameters
    ----------
    path
        A path, or the name of a bundled trace such as ``tinymoe/a``.

    Raises
    ------
    TraceError
        If it is missing, malformed, truncated or newer than this release.
    """
    from .files import read

    return read(path)


def write_trace(
    path: str | Path,
    header: TraceHeader,
    requests: Requests,
    chunks: Iterable[Chunk],
) -> TraceHeader:
    """Write a trace, streaming; it appears whole and correct, or not at all.

    Parameters
    ----------
    path
        ``NAME.trace`` for a folder of chunks, ``NAME.npz`` for one file.
    header
        Its counts and digest are filled in.
    requests, chunks
        What to write; the cut into chunks is made anew.

    Returns
    -------
    TraceHeader
        The header as written.

    Raises
    ------
    TraceError
        If there is anything that no trace may hold, or the target is not writable.
    """
    from .files import write

    return write(path, header, requests, chunks)


def slice_trace(
    trace: Trace, *, requests: ArrayLike | None = None, tokens: int | None = None
) -> Trace:
    """Keep some of the requests, whole, with their arrivals.

    Parameters
    ----------
    trace
        Is not copied: the slice streams from it.
    requests
        Which to keep, a mask (R,) or indexes in any order; all if None.
    tokens
        Of those keep the first, as many as have so many recorded tokens together, but
        at least one.

    Raises
    ------
    TraceError
        If nothing is left, or a request does not exist.
    """
    from .edit import sliced

    return sliced(trace, requests, tokens)


def merge_traces(traces: Iterable[Trace]) -> Trace:
    """Interleave traces of one model by arrival; names are united.

    Requests that arrive at the same time keep the order of the traces.

    Raises
    ------
    TraceError
        If there are none, or they are not of one model.
    """
    from .edit import merged

    return merged(traces)

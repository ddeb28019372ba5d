"""Arrays of the event mode: what kernels read, and what they change.

Everything is an array of numbers or of records; there is no object for an event, a
message or a token. Sizes are those of `Problem`, and

======== ==========================================================================
axis     meaning
======== ==========================================================================
R        requests
H        engines: batches of homes that may be in flight, ``lanes`` for each home
W        tokens in the window of the trace that is in memory
O, C     options of shares, copies of the plan
======== ==========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 256
"""Bins of time; when time runs out of them, pairs are joined and the width doubles."""

OUT, BACK = 0, 1
"""Directions of a message."""

PREFILL, DECODE = 0, 1
"""Phases of a token."""

KEPT, FUSED, ANSWERED, DROPPED, LOST = range(5)
"""What became of a call: sent as it is, sent fused, answered by a similar expert at
home, pruned, or lost because no copy could be reached."""

FATES = ("served", "fused", "substituted", "pruned", "lost")
"""Names of these, in reports. A call that is fused is not in ``served``."""

WAITING, RUNNING, FINISHED, FAILED = range(4)
"""States of a request."""

KEY = np.dtype(
    [
        ("start", "i8"),  # options that are not pruned: start to stop
        ("stop", "i8"),
        ("prune", "f8"),  # share that is pruned
        ("prune_loss", "f8"),  # nats a call
    ]
)
OPTION = np.dtype(
    [
        ("share", "f8"),  # of what is not pruned
        ("edge", "f8"),  # sum of shares as `score` adds them
        ("credit", "f8"),  # how far what it got is behind its share
        ("fused", "f8"),  # part that travels fused
        ("loss", "f8"),  # nats a call
        ("fuse_loss", "f8"),
        ("copy", "i8"),
        ("similar", "i8"),  # 1: of a similar expert
    ]
)
COPY = np.dtype(
    [
        ("place", "i8"),
        ("server", "i8"),
        ("format", "i8"),
        ("flop", "f8"),
        ("bytes", "f8"),
        ("work", "f8"),  # of one call alone
        ("loss_row", "i8"),  # expert x formats + format, in format_loss
        ("stamp", "i8"),  # of the step and layer that touched it last
    ]
)
LINK = np.dtype(
    [
        ("free", "f8"),  # when what was sent so far is through
        ("s_per_byte", "f8"),
        ("latency", "f8"),
        ("table", "i8"),  # first entry of its table of bandwidths
        ("entries", "i8"),
        ("period", "f8"),  # after which the table starts again; 0: never
        ("busy", "f8"),
        ("stamp", "i8"),  # of the step and layer whose messages it served last
        ("before", "f8"),  # when it was free before the first of them
    ]
)
REQUEST = np.dtype(
    [
        ("arrival", "f8"),
        ("demand", "i8"),
        ("prompt", "i8"),
        ("output", "i8"),
        ("row", "i8"),  # first recorded token
        ("rows", "i8"),
        ("prompt_done", "i8"),
        ("output_done", "i8"),
        ("begun", "f8"),
        ("first", "f8"),
        ("finish", "f8"),
        ("lost", "i8"),
        ("next", "i8"),  # behind it in the queue of its home
        ("state", "i8"),
    ]
)
ENGINE = np.dtype(
    [
        ("home", "i8"),
        ("running", "i8"),
        ("busy", "i8"),
        ("tokens", "i8"),
        ("calls", "i8"),
        ("layer", "i8"),
        ("pending", "i8"),
        ("end", "f8"),
        ("epoch", "i8"),
    ]
)
MESSAGE = np.dtype(
    [
        ("engine", "i8"),
        ("epoch", "i8"),
        ("layer", "i8"),
        ("server", "i8"),
        ("visits", "i8"),  # tokens that travel
        ("source", "i8"),
        ("sink", "i8"),
        ("hop", "i8"),
        ("out", "f8"),  # bytes
        ("back", "f8"),
        ("tail", "f8"),  # when its last byte arrives
        ("stamp", "i8"),  # of its step and layer
    ]
)
PLACE = np.dtype(
    [
        ("processor", "i8"),
        ("busy", "f8"),
        ("backbone", "f8"),
        ("saved", "f8"),  # seconds of work of fused calls
    ]
)
FAILURE = np.dtype([("server", "i8"), ("at", "f8"), ("until", "f8")])
SIM = np.dtype(
    [
        ("now", "f8"),
        ("sequence", "i8"),
        ("heap", "i8"),
        ("next", "i8"),  # request that arrives next
        ("complete", "i8"),  # requests whose tokens are in memory
        ("oldest", "i8"),  # first request that has not finished
        ("base", "i8"),  # number of the window's first token
        ("width", "f8"),  # of a bin, s
        ("free", "i8"),  # message slots
        ("stamp", "i8"),
        ("steps", "i8"),
        ("events", "i8"),
        ("calls", "i8"),
        ("short", "i8"),  # calls that budgets fuse, but that had no partner
        ("distance", "i8"),  # bits that fused tokens differ from their partners in
        ("partners", "i8"),
    ]
)


class Tables(NamedTuple):
    """What kernels read."""

    layer: NDArray[np.int64]  # (L,) position in the trace
    layer_start: NDArray[np.int64]  # (L + 1,)
    keys: NDArray[np.void]  # (Q N,)
    copy_start: NDArray[np.int64]  # (N + 1,) copies of an expert
    net: NDArray[np.float64]  # (Q, L, S) s of one call there and back
    format_loss: NDArray[np.float64]  # (G, N B)
    application: NDArray[np.int64]  # (Q,)
    home: NDArray[np.int64]  # (Q,)
    nearest: NDArray[np.int64]  # (G, S, N) copy that a roaming token takes
    source: NDArray[np.int64]  # (S, L) by home
    sink: NDArray[np.int64]  # (S, L)
    first_engine: NDArray[np.int64]  # (S,) of a home; -1: none
    first_place: NDArray[np.int64]  # (S + 1,)
    route_start: NDArray[np.int64]  # (S S + 1,)
    route_links: NDArray[np.int64]
    latency: NDArray[np.float64]  # (S, S)
    speed: NDArray[np.float64]  # (V, B, 5) of the compute model
    backbone: NDArray[np.float64]  # (S, 2) s of a layer; and s for each token
    table_time: NDArray[np.float64]  # tables of bandwidths
    table_rate: NDArray[np.float64]
    failures: NDArray[np.void]
    bytes_out: float
    bytes_back: float
    phi: float
    roam: bool
    top_k: int
    step_tokens: int
    max_batch: int
    lanes: int
    hashed: bool
    partners: bool  # a fused token needs one
    siblings: bool  # messages of one step and layer wait for each other
    prompt_recorded: bool


class State(NamedTuple):
    """What kernels change."""

    sim: NDArray[np.void]  # (1,)
    options: NDArray[np.void]  # (O,)
    copies: NDArray[np.void]  # (C,)
    links: NDArray[np.void]  # (K,)
    places: NDArray[np.void]  # (V,)
    free: NDArray[np.float64]  # (P,) when a processor is through
    down: NDArray[np.int64]  # (S,)
    requests: NDArray[np.void]  # (R,)
    queue: NDArray[np.int64]  # (S, 2) first and last request that waits; -1: none
    engines: NDArray[np.void]  # (H,)
    running: NDArray[np.int64]  # (H, max_batch, 2) requests, and tokens in the step
    token: NDArray[np.int64]  # (H, tokens, 4) request, row, phase, server (roam)
    call: NDArray[np.int32]  # (H, calls, 6): token, server, option, fate, key, copy
    call_loss: NDArray[np.float64]  # (H, calls)
    messages: NDArray[np.void]
    message_work: NDArray[np.float64]  # (messages, places of a server)
    slots: NDArray[np.int64]  # free ones
    # of a layer of roaming tokens
    flow: NDArray[np.int64]  # (H, 2 directions, S, S) tokens
    expected: NDArray[np.int64]  # (H, S) messages that are not there yet
    server_work: NDArray[np.float64]  # (H, S, places of a server)
    heap_time: NDArray[np.float64]
    heap_code: NDArray[np.int64]  # (heap, 2) sequence, and what
    prune_carry: NDArray[np.float64]  # (L, Q, S)
    fuse_carry: NDArray[np.float64]  # (L, Q, S)
    # scratch of a step and layer
    batch: NDArray[np.float64]  # (V, B, 4) calls, experts, FLOP, bytes
    used: NDArray[np.int64]  # (S,)
    visit: NDArray[np.int64]  # (S, 2) stamp of the token, fused
    visits: NDArray[np.int64]  # (S, 2, 2) by phase and fused
    order: NDArray[np.uint64]  # (calls,)
    ranked: NDArray[np.uint64]  # (tokens,)
    # results
    counts: NDArray[np.int64]  # (fates, L, Q, S + 1)
    sent: NDArray[np.int64]  # (2 directions, 2 phases, 2 fused, S, S) tokens
    by_call: NDArray[np.int64]  # (2 directions, 2 fused, S, S) calls
    tokens: NDArray[np.int64]  # (2 phases, Q)
    loss: NDArray[np.float64]  # (Q,) nats
    processor_bins: NDArray[np.float64]  # (P, BINS) busy seconds
    link_bins: NDArray[np.float64]  # (K, BINS)
    token_bins: NDArray[np.float64]  # (2 phases, BINS)


class Window(NamedTuple):
    """Tokens in memory, of consecutive requests."""

    experts: NDArray[np.uint16]  # (W, L, k)
    gates: NDArray[np.uint16]  # (W, L, k) bits of the float16: the order is the same
    signature: NDArray[np.uint64]  # (W, L), or (0, L)


def zeros(count: int, dtype: np.dtype[Any]) -> NDArray[np.void]:
    """Make records of nothing; at least one, so that none is an empty array."""
    made: NDArray[np.void] = np.zeros(max(count, 1), dtype=dtype)
    return made

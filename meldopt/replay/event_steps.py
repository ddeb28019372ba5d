"""Steps of an engine: which tokens run next, and what a step brings out."""

from __future__ import annotations

from typing import Any

from .compiled import part
from .event_kernels import note
from .event_state import DECODE, FINISHED, PREFILL, RUNNING


def _enqueue(y: Any, home: Any, r: Any) -> None:
    y.requests[r].next = -1
    if y.queue[home, 0] < 0:
        y.queue[home, 0] = r
    else:
        y.requests[y.queue[home, 1]].next = r
    y.queue[home, 1] = r


def _put(x: Any, y: Any, g: Any, n: Any, r: Any, position: Any, phase: Any) -> None:
    request = y.requests[r]
    y.token[g, n, 0] = r
    y.token[g, n, 1] = request.row + position % request.rows
    y.token[g, n, 2] = phase


put: Any = part(_put)


def _form(x: Any, y: Any, g: Any, now: Any) -> bool:
    """Fill the next step of an engine: decode first, then prompts, then new requests.

    Returns
    -------
    bool
        Whether there is anything to do.
    """
    engine = y.engines[g]
    home = engine.home
    n = 0
    for j in range(engine.running):
        r = y.running[g, j, 0]
        request = y.requests[r]
        y.running[g, j, 1] = 0
        if request.prompt_done < request.prompt:
            continue
        # The prompt gave the first token of the output; it is what comes in now.
        position = request.output_done - (1 if request.prompt > 0 else 0)
        if x.prompt_recorded:
            position += request.prompt
        put(x, y, g, n, r, position, DECODE)
        y.running[g, j, 1] = 1
        n += 1
    j = 0
    while n < x.step_tokens:
        if j >= engine.running:
            r = y.queue[home, 0]
            if r < 0 or engine.running >= x.max_batch:
                break
            y.queue[home, 0] = y.requests[r].next
            request = y.requests[r]
            request.state = RUNNING
            request.begun = now
            y.running[g, j, 0] = r
            y.running[g, j, 1] = 0
            engine.running += 1
            if request.prompt == 0:
                put(x, y, g, n, r, 0, DECODE)
                y.running[g, j, 1] = 1
                n += 1
        r = y.running[g, j, 0]
        request = y.requests[r]
        take = min(request.prompt - request.prompt_done, x.step_tokens - n)
        for position in range(request.prompt_done, request.prompt_done + take):
            put(x, y, g, n, r, position, PREFILL)
            n += 1
        if take > 0:
            y.running[g, j, 1] = take
        j += 1
    engine.tokens = n
    engine.layer = 0
    engine.busy = 1 if n > 0 else 0
    return n > 0


def _close(x: Any, y: Any, g: Any, now: Any) -> None:
    """End a step: tokens come out, requests finish."""
    engine = y.engines[g]
    sim = y.sim[0]
    sim.steps += 1
    note(y, y.token_bins[0], now, now)  # time may have run out of bins
    at = int(now / sim.width)
    for n in range(engine.tokens):
        phase = y.token[g, n, 2]
        y.tokens[phase, y.requests[y.token[g, n, 0]].demand] += 1
        y.token_bins[phase, at] += 1
    kept = 0
    for j in range(engine.running):
        r, take = y.running[g, j, 0], y.running[g, j, 1]
        request = y.requests[r]
        if take > 0:
            out = True
            if request.prompt_done < request.prompt:
                request.prompt_done += take
                out = request.prompt_done == request.prompt
            if out and request.output_done < request.output:
                if request.output_done == 0:
                    request.first = now
                request.output_done += 1
            if out and request.output_done >= request.output:
                request.finish = now
                request.state = FINISHED
                continue
        y.running[g, kept, 0] = r
        kept += 1
    engine.running = kept
    engine.busy = 0


enqueue: Any = part(_enqueue)
form: Any = part(_form)
close: Any = part(_close)

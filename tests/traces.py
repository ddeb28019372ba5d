"""Small traces for tests: drawn at random, and wrong in every way that is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.files import arrays_to_bytes
from meldopt.trace import Chunk, Requests, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

Parts = tuple[TraceHeader, dict[str, Any], dict[str, Any]]
"""Header, columns of the request table, arrays of tokens."""


def random_parts(
    seed: int,
    *,
    requests: int = 7,
    experts: tuple[int, ...] = (4, 6, 3),
    top_k: int = 2,
    signature_bits: int = 0,
    prompt_recorded: bool = True,
) -> Parts:
    """Draw a trace in parts."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 5, requests)
    output = rng.integers(1, 6, requests)
    rows = prompt + output if prompt_recorded else rng.integers(1, output + 1)
    tokens = int(rows.sum())
    chosen = np.stack(
        [rng.random((tokens, count)).argsort(axis=1)[:, :top_k] for count in experts],
        axis=1,
    )
    header = TraceHeader(
        name="drawn",
        about={"seed": seed},
        applications=("chat", "code"),
        homes=("hall", "lab", "van"),
        experts=experts,
        top_k=top_k,
        signature_bits=signature_bits,
        prompt_recorded=prompt_recorded,
    )
    table = {
        "arrival_s": np.sort(rng.random(requests).round(2)),
        "application": rng.integers(0, 2, requests),
        "home": rng.integers(0, 3, requests),
        "prompt_tokens": prompt,
        "output_tokens": output,
    }
    arrays: dict[str, Any] = {
        "experts": chosen.astype(np.uint8 if max(experts) <= 256 else np.uint16),
        "gates": -np.sort(-rng.random(chosen.shape), axis=2).astype(np.float16),
        "token_request": np.repeat(np.arange(requests), rows),
    }
    if signature_bits:
        drawn = rng.integers(
            0, 1 << min(signature_bits, 62), (tokens, len(experts)), dtype=np.int64
        )
        arrays["signature"] = drawn.astype(np.uint64)
    return header, table, arrays


def made(parts: Parts) -> tuple[TraceHeader, Requests, list[Chunk]]:
    """Turn parts into what `write_trace` takes, in two chunks."""
    header, table, arrays = parts
    chunk = Chunk(**arrays)
    half = len(chunk) // 2
    return (
        header,
        Requests(**table),
        [chunk.take(slice(0, half)), chunk.take(slice(half, None))],
    )


def write_raw(path: Path, parts: Parts) -> None:
    """Write parts as a trace without any check; the digest is a wrong one."""
    header, table, arrays = parts
    header = msgspec.structs.replace(
        header,
        chunks=1,
        tokens=len(arrays["token_request"]),
        requests=len(table["arrival_s"]),
        digest="sha256:" + "0" * 64,
    )
    text = msgspec.json.encode(header)
    if path.name.endswith(".npz"):
        packed = {"header": np.frombuffer(text, dtype=np.uint8), **table, **arrays}
        path.write_bytes(arrays_to_bytes(packed))
        return
    path.mkdir()
    (path / "trace.json").write_bytes(text)
    (path / "requests.npz").write_bytes(arrays_to_bytes(table))
    (path / "chunk-00000.npz").write_bytes(arrays_to_bytes(arrays))


# -- faults ----------------------------------------------------------------------------


def changed(array: NDArray[Any], index: tuple[int, ...], value: Any) -> NDArray[Any]:
    """Return a copy of an array with one entry changed."""
    copy = array.copy()
    copy[index] = value
    return copy


def _header(**changes: Any) -> Callable[[Parts], Parts]:
    return lambda parts: (
        msgspec.structs.replace(parts[0], **changes),
        parts[1],
        parts[2],
    )


def _table(name: str, request: int, value: float) -> Callable[[Parts], Parts]:
    return lambda parts: (
        parts[0],
        {**parts[1], name: changed(parts[1][name], (request,), value)},
        parts[2],
    )


def _tokens(name: str, edit: Callable[[Any], Any]) -> Callable[[Parts], Parts]:
    return lambda parts: (
        parts[0],
        parts[1],
        {**parts[2], name: edit(parts[2].get(name))},
    )


def _entry(name: str, index: tuple[int, ...], value: Any) -> Callable[[Parts], Parts]:
    return _tokens(name, lambda array: changed(array, index, value))


def _without(parts: Parts, *, requests: bool) -> Parts:
    table = {key: one[:0] for key, one in parts[1].items()} if requests else parts[1]
    return parts[0], table, {name: array[:0] for name, array in parts[2].items()}


FAULTS: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "expert too high": (
        _entry("experts", (3, 2, 0), 3),
        "token 3, layer 2: expert: got 3, expected 0 to 2",
    ),
    "expert twice": (
        _tokens("experts", lambda a: changed(a, (5, 1), a[5, 1, 0])),
        "token 5, layer 1: expert: got",
    ),
    "a layer too many": (
        _tokens("experts", lambda a: np.concatenate([a, a[:, :1]], axis=1)),
        "experts: got shape",
    ),
    "a layer too few": (_header(experts=(4, 6)), "experts: got shape"),
    "ids that are no integers": (
        _tokens("experts", lambda a: a.astype(np.float32)),
        "experts: got float32, expected u1",
    ),
    "gate NaN": (
        _entry("gates", (1, 0, 1), np.nan),
        "token 1, layer 0: gates: got",
    ),
    "gate infinite": (
        _entry("gates", (1, 0, 0), np.inf),
        "token 1, layer 0: gates: got",
    ),
    "gate negative": (
        _entry("gates", (2, 1, 1), -0.25),
        "token 2, layer 1: gates: got",
    ),
    "gates rising": (
        _entry("gates", (4, 0), [0.25, 0.5]),
        "token 4, layer 0: gates: got [0.25, 0.5], expected the largest first",
    ),
    "requests unsorted": (
        _table("arrival_s", 2, 1000.0),
        "request 3: arrival_s: got",
    ),
    "arrival NaN": (
        _table("arrival_s", 2, np.nan),
        "request 2: arrival_s: got nan, expected 0 s or more",
    ),
    "application out of range": (
        _table("application", 1, 2),
        "request 1: application: got 2, expected 0 to 1",
    ),
    "home out of range": (
        _table("home", 0, -1),
        "request 0: home: got -1, expected 0 to 2",
    ),
    "no output": (
        _table("output_tokens", 4, 0),
        "request 4: output_tokens: got 0, expected 1 or more",
    ),
    "token of no request": (
        _entry("token_request", (-1,), 7),
        "request: got 7, expected 0 to 6",
    ),
    "tokens in another order": (
        _entry("token_request", (-1,), 0),
        "expected tokens in the order of their requests",
    ),
    "request without tokens": (
        _tokens("token_request", lambda a: np.where(a == 3, 2, a)),
        "request 3: got no tokens, expected at least one",
    ),
    "last request without tokens": (
        _tokens("token_request", lambda a: np.where(a == 6, 5, a)),
        "request 6: got no tokens, expected at least one",
    ),
    "fewer rows than tokens": (
        _table("output_tokens", 6, 50),
        "request 6: got",
    ),
    "signature not announced": (
        lambda parts: (
            parts[0],
            parts[1],
            {**parts[2], "signature": parts[2]["experts"][:, :, 0].astype(np.uint64)},
        ),
        "signature: got an array, expected none",
    ),
    "signature missing": (
        _header(signature_bits=8),
        "signature: missing, expected 8 bits",
    ),
    "no requests": (
        lambda parts: _without(parts, requests=True),
        "requests: got none, expected at least one",
    ),
    "no tokens": (
        lambda parts: _without(parts, requests=False),
        "tokens: got none, expected at least one",
    ),
    "layers out of order": (
        _header(layer_ids=(3, 2, 4)),
        "$.layer_ids: got [3, 2, 4], expected rising numbers",
    ),
    "application named twice": (
        _header(applications=("chat", "chat")),
        "$.applications[1]: got 'chat' again",
    ),
    "more chosen than there are": (
        _header(top_k=4),
        "$.experts[2]: got 3, expected top_k = 4",
    ),
}
"""How to break the trace of `random_parts`, and what the one line then says."""

"""Recordings of routing, turned into traces: arrays of a model's router, no arrivals.

Two layouts of ``.npz`` are known by the names of their arrays:

- sequences with every token (tinymoe): ``expert_ids`` and ``gate_weights`` (T, L, K),
  ``domain`` and ``sequence`` (T,), ``domain_names``;
- generated tokens of prompts (gpt-oss-20b): ``experts`` and ``gates`` (T, L, K),
  ``token_prompt`` (T,), and for each prompt ``prompt_set``, ``prompt_category`` and
  ``prompt_tokens``.

Nobody recorded when requests came: arrivals are drawn or taken from a table, and the
requests come in a random order. Homes are left to the replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.errors import FileFormatError, TraceError
from meldopt.files import read_arrays
from meldopt.generate.arrivals import at_rate, bursty, read_requests
from meldopt.trace import ANY_HOME, Chunk, Requests, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

PROMPT_SETS = ("mmlu_dev", "mmlu_validation", "gpqa_main")
"""Sets of prompts of the recording of gpt-oss-20b, by number."""

_SEQUENCES = ("expert_ids", "gate_weights", "domain", "sequence", "domain_names")
_PROMPTS = (
    "experts",
    "gates",
    "token_prompt",
    "prompt_set",
    "prompt_category",
    "prompt_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """Tokens of a recording, in the order of their requests."""

    experts: NDArray[Any]  # (T, L, K), largest gate first
    gates: NDArray[Any]  # (T, L, K)
    request: NDArray[np.int64]  # (T,) 0 … R - 1, not falling
    application: NDArray[np.int64]  # (R,)
    applications: tuple[str, ...]
    prompt_tokens: NDArray[np.int64]  # (R,)
    prompt_recorded: bool

    @property
    def rows(self) -> NDArray[np.int64]:
        """Recorded tokens of each request, (R,)."""
        return np.bincount(self.request, minlength=len(self.application))


def read_recording(
    path: str | Path, *, prompt_share: float = 0.5, by: str = "set"
) -> Recording:
    """Read a recording of a known layout.

    Parameters
    ----------
    path
        An ``.npz``.
    prompt_share
        How much of a recorded sequence is prompt, where the recording does not say: at
        least one token is output.
    by
        What the application of a prompt is: its ``"set"`` or its ``"category"``.

    Raises
    ------
    FileFormatError
        If it cannot be read, or has another layout.
    """
    path = Path(path)
    arrays = read_arrays(path)
    if not 0 <= prompt_share <= 1:
        raise FileFormatError(
            f"{path}: prompt share: got {prompt_share:g}, expected 0 to 1"
        )
    if by not in ("set", "category"):
        raise FileFormatError(f"{path}: by: got {by!r}, expected 'set' or 'category'")
    try:
        if set(_SEQUENCES) <= set(arrays):
            return _sequences(arrays, prompt_share)
        if set(_PROMPTS) <= set(arrays):
            return _prompts(arrays, by)
    except (ValueError, IndexError, TypeError) as exc:
        raise FileFormatError(f"{path}: arrays do not fit together: {exc}") from exc
    raise FileFormatError(
        f"{path}: got arrays {sorted(arrays)}, expected a recording: "
        f"{', '.join(_SEQUENCES)}; or {', '.join(_PROMPTS)}"
    )


def _sequences(arrays: Mapping[str, NDArray[Any]], prompt_share: float) -> Recording:
    names = tuple(str(name) for name in arrays["domain_names"])
    domain = arrays["domain"].astype(np.int64)
    sequence = arrays["sequence"].astype(np.int64)
    new = np.ones(len(sequence), dtype=bool)
    new[1:] = (np.diff(sequence) != 0) | (np.diff(domain) != 0)
    request = np.cumsum(new) - 1
    rows = np.bincount(request)
    prompt = np.minimum(np.floor(rows * prompt_share).astype(np.int64), rows - 1)
    return Recording(
        experts=arrays["expert_ids"],
        gates=arrays["gate_weights"],
        request=request,
        application=domain[new],
        applications=names,
        prompt_tokens=prompt,
        prompt_recorded=True,
    )


def _prompts(arrays: Mapping[str, NDArray[Any]], by: str) -> Recording:
    group = arrays[f"prompt_{by}"].astype(np.int64)
    names: tuple[str, ...] = PROMPT_SETS
    if by == "category":
        names = tuple(f"category-{n}" for n in range(int(group.max()) + 1))
    used, number = np.unique(group, return_inverse=True)
    return Recording(
        experts=arrays["experts"],
        gates=arrays["gates"],
        request=arrays["token_prompt"].astype(np.int64),
        application=number.astype(np.int64),
        applications=tuple(names[n] for n in used),
        prompt_tokens=arrays["prompt_tokens"].astype(np.int64),
        prompt_recorded=False,
    )


def import_recording(
    path: str | Path,
    *,
    seed: int,
    arrivals: str | Path = "poisson",
    rate_per_s: float | None = None,
    cv: float = 3.0,
    prompt_share: float = 0.5,
    by: str = "set",
    experts: int | None = None,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[TraceHeader, Requests, Iterator[Chunk]]:
    """Turn a recording into what `meldopt.trace.write_trace` writes.

    Parameters
    ----------
    path, prompt_share, by
        As in `read_recording`.
    seed
        Of the order of requests and of drawn arrivals.
    arrivals
        ``"poisson"``, ``"bursty"``, or the path of a request table, whose arrivals are
        used and whose lengths are not.
    rate_per_s
        Requests per second; 1 if None, of a table its own.
    cv
        Of bursty gaps: standard deviation over mean.
    experts
        Experts of a layer; the highest id and 1 if None.
    name
        Of the trace; that of the file if None.
    about
        Source, licence, note.

    Returns
    -------
    tuple of TraceHeader, Requests and iterator of Chunk

    Raises
    ------
    FileFormatError
        If the recording or the table cannot be read; TraceError if the recording holds
        what no trace may hold, at the latest while the chunks are written.
    """
    path = Path(path)
    recording = read_recording(path, prompt_share=prompt_share, by=by)
    count = len(recording.application)
    rows = recording.rows
    if not count or not len(recording.request):
        raise TraceError(f"{path}: got no tokens, expected at least one")
    if (np.diff(recording.request) < 0).any() or len(rows) != count or not rows.all():
        raise TraceError(
            f"{path}: got tokens out of order or requests without any, expected the "
            "tokens of one request after the other"
        )
    if recording.experts.ndim != 3:
        raise TraceError(
            f"{path}: experts: got {recording.experts.ndim} axes, expected 3 (tokens, "
            "layers, top_k)"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    prompt = recording.prompt_tokens[order]
    output = rows[order] - (prompt if recording.prompt_recorded else 0)
    requests = Requests(
        arrival_s=_arrivals(rng, count, arrivals, rate_per_s, cv),
        application=recording.application[order],
        home=np.zeros(count, dtype=np.int64),
        prompt_tokens=prompt,
        output_tokens=output,
    )
    num_l, top_k = recording.experts.shape[1:]
    width = int(recording.experts.max(initial=0)) + 1
    header = TraceHeader(
        name=name or path.stem,
        about={"note": f"recording {path.name}", **(about or {})},
        applications=recording.applications,
        homes=(ANY_HOME,),
        experts=(width if experts is None else experts,) * num_l,
        top_k=top_k,
        prompt_recorded=recording.prompt_recorded,
    )
    header = msgspec.structs.replace(header, tokens=int(rows.sum()), requests=count)
    return header, requests, _chunks(recording, order, header.chunk_rows)


def _arrivals(
    rng: np.random.Generator,
    count: int,
    arrivals: str | Path,
    rate_per_s: float | None,
    cv: float,
) -> NDArray[np.float64]:
    if arrivals in ("poisson", "bursty"):
        rate = 1.0 if rate_per_s is None else rate_per_s
        return bursty(rng, count, rate, 1.0 if arrivals == "poisson" else cv)
    times = read_requests(arrivals).first(count).arrival_s
    return times if rate_per_s is None else at_rate(times, rate_per_s)


def _chunks(
    recording: Recording, order: NDArray[np.int64], size: int
) -> Iterator[Chunk]:
    """Yield the tokens of requests in another order."""
    rows = recording.rows
    start = np.cumsum(rows) - rows
    index = np.concatenate([np.arange(start[n], start[n] + rows[n]) for n in order])
    request = np.repeat(np.arange(len(order)), rows[order])
    for first in range(0, len(index), size):
        block = index[first : first + size]
        yield Chunk(
            experts=recording.experts[block],
            gates=recording.gates[block],
            token_request=request[first : first + size],
        )

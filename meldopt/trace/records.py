"""What a trace is made of: its header, the table of requests, and chunks of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.errors import TraceError
from meldopt.files import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

MAX_EXPERTS = 65536
"""Most experts of a layer: ids are stored in 16 bits."""

MAX_SIGNATURE_BITS = 64

ANY_HOME = "*"
"""Name of the home of requests whose home was not recorded: replay spreads them."""

TOKEN_ARRAYS = ("experts", "gates", "signature", "token_request")
"""Arrays with a row for each token, in the order of the digest."""

REQUEST_ARRAYS = (
    "application",
    "arrival_s",
    "home",
    "output_tokens",
    "prompt_tokens",
)
"""Arrays with an entry for each request, in the order of the digest."""

_CHUNK_BYTES = 32 << 20
_CHUNK_ROWS = 65536
_LEAST_ROWS = 1024


class TraceHeader(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
):
    """What a trace says about itself; the JSON document of a trace.

    Attributes
    ----------
    name, about
        Name on one line; source, licence and note, not part of the digest.
    applications, homes
        Names that the request table counts on; a home that was not recorded is
        `ANY_HOME`.
    experts
        Experts of each MoE layer, L entries.
    top_k
        Experts that a token calls in a layer.
    layer_ids
        Number of each MoE layer in the model; 0, 1, … if none.
    signature_bits
        Bits of the signatures of hidden states; 0 if there are none.
    prompt_recorded
        Whether a request has a row for each token of its prompt (first) and output, or
        for at most its output tokens. Then token j takes row j modulo the rows.
    chunks, tokens, requests
        How many there are; filled in by what makes the trace.
    digest
        Of everything but ``about`` and the cut into chunks.
    """

    format_version: int = FORMAT_VERSION
    name: str
    about: dict[str, Any] = {}
    applications: tuple[str, ...]
    homes: tuple[str, ...]
    experts: tuple[int, ...]
    top_k: int
    layer_ids: tuple[int, ...] | None = None
    signature_bits: int = 0
    prompt_recorded: bool
    chunks: int = 0
    tokens: int = 0
    requests: int = 0
    digest: str = ""

    @property
    def num_layers(self) -> int:
        """MoE layers, L."""
        return len(self.experts)

    @property
    def layers(self) -> tuple[int, ...]:
        """Number of each MoE layer in the model."""
        if self.layer_ids is None:
            return tuple(range(self.num_layers))
        return self.layer_ids

    @property
    def expert_type(self) -> np.dtype[Any]:
        """Type that expert ids are stored in."""
        return np.dtype("<u1" if max(self.experts) <= 256 else "<u2")

    @property
    def chunk_rows(self) -> int:
        """Tokens of a chunk, so that it takes about 32 MiB."""
        row = self.num_layers * self.top_k * (self.expert_type.itemsize + 2) + 8
        if self.signature_bits:
            row += self.num_layers * 8
        return max(_LEAST_ROWS, min(_CHUNK_ROWS, _CHUNK_BYTES // row))


def _frozen(values: ArrayLike, kind: Any, name: str, axes: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != axes:
        raise TraceError(f"{name}: got {array.ndim} axes, expected {axes}")
    wanted = np.dtype(kind)
    if array.dtype != wanted:
        if array.dtype.kind not in "iufb" or (
            array.dtype.kind == "f" and wanted.kind != "f"
        ):
            raise TraceError(f"{name}: got {array.dtype}, expected {wanted}")
        array = array.astype(wanted)
    elif array.flags.writeable:
        array = array.copy()
    array.flags.writeable = False
    return array


@dataclass(frozen=True, kw_only=True, eq=False)
class Requests:
    """The request table, in order of arrival.

    Attributes
    ----------
    arrival_s
        Not falling, (R,).
    application, home
        Indexes of the header's names, (R,).
    prompt_tokens, output_tokens
        (R,)
    """

    arrival_s: NDArray[np.float64]  # (R,)
    application: NDArray[np.int64]  # (R,)
    home: NDArray[np.int64]  # (R,)
    prompt_tokens: NDArray[np.int64]  # (R,)
    output_tokens: NDArray[np.int64]  # (R,)

    def __post_init__(self) -> None:
        for name in REQUEST_ARRAYS:
            kind = np.float64 if name == "arrival_s" else np.int64
            array = _frozen(getattr(self, name), kind, f"requests: {name}", 1)
            object.__setattr__(self, name, array)
            if len(array) != len(self.arrival_s):
                raise TraceError(
                    f"requests: {name}: got {len(array)} entries, expected "
                    f"{len(self.arrival_s)} like arrival_s"
                )

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, index: NDArray[Any]) -> Requests:
        """Return some of the requests, by mask or index."""
        return Requests(**{name: getattr(self, name)[index] for name in REQUEST_ARRAYS})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name."""
        return {name: getattr(self, name) for name in REQUEST_ARRAYS}


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Some consecutive tokens.

    Attributes
    ----------
    experts
        Ids within the layer, largest gate first, uint8 or uint16 (T, L, K).
    gates
        float16 (T, L, K), not rising along K.
    token_request
        Request of each token, (T,), not falling over the whole trace.
    signature
        Signature of the hidden state before each layer, uint64 (T, L), or None.
    """

    experts: NDArray[Any]  # (T, L, K)
    gates: NDArray[np.float16]  # (T, L, K)
    token_request: NDArray[np.int64]  # (T,)
    signature: NDArray[np.uint64] | None = None  # (T, L)

    def __len__(self) -> int:
        return len(self.token_request)

    def take(self, index: Any) -> Chunk:
        """Return some of the tokens, by mask, index or slice."""
        return Chunk(
            experts=self.experts[index],
            gates=self.gates[index],
            token_request=self.token_request[index],
            signature=None if self.signature is None else self.signature[index],
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, without a signature that is not there."""
        found = {name: getattr(self, name) for name in TOKEN_ARRAYS}
        return {name: array for name, array in found.items() if array is not None}


def joined(chunks: Iterable[Chunk]) -> Chunk:
    """Put chunks together; there must be at least one."""
    parts = list(chunks)
    if len(parts) == 1:
        return parts[0]
    names = parts[0].arrays()
    return Chunk(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in names
        }
    )


def cut(chunks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """Cut or join chunks so that each but the last has ``size`` tokens."""
    waiting: list[Chunk] = []
    count = 0
    for chunk in chunks:
        start = 0
        while count + len(chunk) - start >= size:
            stop = start + size - count
            part = (
                chunk if stop - start == len(chunk) else chunk.take(slice(start, stop))
            )
            yield joined([*waiting, part])
            waiting, count, start = [], 0, stop
        if start < len(chunk):
            waiting.append(chunk.take(slice(start, None)) if start else chunk)
            count += len(chunk) - start
    if waiting:
        yield joined(waiting)

"""What no trace may hold: every fault of a header, a table of requests or tokens.

Tokens are checked chunk by chunk as they stream; the first fault ends the stream in one
line that says where it is.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.errors import TraceError
from meldopt.files import digest

from .records import (
    MAX_EXPERTS,
    MAX_SIGNATURE_BITS,
    TOKEN_ARRAYS,
    Chunk,
    Requests,
    TraceHeader,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WITHOUT_SIGNATURE = tuple(name for name in TOKEN_ARRAYS if name != "signature")


def check_header(header: TraceHeader, place: str) -> None:
    """Refuse a header that makes no sense.

    Raises
    ------
    TraceError
        In one line that begins with ``place``.
    """

    def refuse(where: str, got: object, expected: str) -> None:
        raise TraceError(f"{place}: $.{where}: got {got}, expected {expected}")

    if not header.name.strip() or len(header.name.splitlines()) > 1:
        refuse("name", repr(header.name), "text on one line")
    for where in ("applications", "homes"):
        names = getattr(header, where)
        if not names:
            refuse(where, "no names", "at least one")
        for n, name in enumerate(names):
            if not name.strip() or len(name.splitlines()) > 1:
                refuse(f"{where}[{n}]", repr(name), "text on one line")
            if name in names[:n]:
                refuse(f"{where}[{n}]", f"{name!r} again", "another name")
    if header.top_k < 1:
        refuse("top_k", header.top_k, "1 or more")
    if not header.experts:
        refuse("experts", "no layers", "at least one")
    for layer, count in enumerate(header.experts):
        if not header.top_k <= count <= MAX_EXPERTS:
            refuse(
                f"experts[{layer}]",
                count,
                f"top_k = {header.top_k} to {MAX_EXPERTS}",
            )
    ids = header.layer_ids
    if ids is not None:
        if len(ids) != header.num_layers:
            refuse("layer_ids", f"{len(ids)} layers", f"{header.num_layers}")
        if ids[0] < 0 or any(a >= b for a, b in pairwise(ids)):
            refuse("layer_ids", list(ids), "rising numbers of 0 or more")
    if not 0 <= header.signature_bits <= MAX_SIGNATURE_BITS:
        refuse("signature_bits", header.signature_bits, "0 to 64")


def check_requests(header: TraceHeader, requests: Requests, place: str) -> None:
    """Refuse a request table that is empty, unsorted or out of range."""
    if not len(requests):
        raise TraceError(f"{place}: requests: got none, expected at least one")

    def refuse(name: str, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            n = int(np.argmax(bad))
            got = getattr(requests, name)[n].item()
            raise TraceError(
                f"{place}: request {n}: {name}: got {got:g}, expected {expected}"
                if isinstance(got, float)
                else f"{place}: request {n}: {name}: got {got}, expected {expected}"
            )

    arrival = requests.arrival_s
    refuse("arrival_s", ~(np.isfinite(arrival) & (arrival >= 0)), "0 s or more")
    falls = np.zeros(len(arrival), dtype=bool)
    falls[1:] = arrival[1:] < arrival[:-1]
    refuse("arrival_s", falls, "no less than of the request before: sort by arrival")
    for name, names in (
        ("application", header.applications),
        ("home", header.homes),
    ):
        values = getattr(requests, name)
        refuse(
            name,
            (values < 0) | (values >= len(names)),
            f"0 to {len(names) - 1}, an index of the header's {len(names)}",
        )
    refuse("prompt_tokens", requests.prompt_tokens < 0, "0 or more")
    refuse("output_tokens", requests.output_tokens < 1, "1 or more")


class Check:
    """Checks chunks as they pass; counts rows, and fingerprints them if asked to."""

    def __init__(
        self, header: TraceHeader, requests: Requests, place: str, *, hashing: bool
    ) -> None:
        self.header = header
        self.requests = requests
        self.place = place
        self.tokens = 0
        self.rows = np.zeros(len(requests), dtype=np.int64)
        self._last = -1  # request of the last token
        names = TOKEN_ARRAYS if header.signature_bits else _WITHOUT_SIGNATURE
        self._hashes = {name: hashlib.sha256() for name in names} if hashing else {}

    def take(self, chunk: Chunk) -> Chunk:
        """Check a chunk and return it in the types of the file format."""
        chunk = self.typed(chunk)
        if len(chunk):
            self._check_requests(chunk.token_request)
            self._check_experts(chunk.experts)
            self._check_gates(chunk.gates)
            if chunk.signature is not None:
                self._check_signature(chunk.signature)
        self.tokens += len(chunk)
        for name, state in self._hashes.items():
            state.update(np.ascontiguousarray(getattr(chunk, name)).data)
        return chunk

    def finish(self) -> None:
        """Check what only the end shows."""
        if not self.tokens:
            raise TraceError(f"{self.place}: tokens: got none, expected at least one")
        if self._last < len(self.requests) - 1:
            self._no_rows(self._last + 1)
        longest = self.requests.output_tokens
        if self.header.prompt_recorded:
            longest = longest + self.requests.prompt_tokens
            bad, expected = self.rows != longest, "one for each token of prompt and"
        else:
            bad, expected = self.rows > longest, "at most one for each token of the"
        if bad.any():
            n = int(np.argmax(bad))
            raise TraceError(
                f"{self.place}: request {n}: got {self.rows[n]} rows of tokens, "
                f"expected {expected} output: {longest[n]}"
            )

    def digest(self) -> str:
        """Return the digest of all that passed.

        Of the arrays of tokens their own SHA-256 takes part, with type and shape:
        one pass is enough, and the cut into chunks makes no difference.
        """
        head = self.header
        shape = (self.tokens, head.num_layers, head.top_k)
        rows = {
            "experts": (head.expert_type.str, shape),
            "gates": ("<f2", shape),
            "signature": ("<u8", shape[:2]),
            "token_request": ("<i8", shape[:1]),
        }
        plain = msgspec.structs.replace(
            head,
            about={},
            chunks=0,
            digest="",
            tokens=self.tokens,
            requests=len(self.requests),
        )
        value = {
            "header": plain,
            "tokens": {
                name: [rows[name][0], rows[name][1], state.hexdigest()]
                for name, state in self._hashes.items()
            },
        }
        return digest(value, self.requests.arrays())

    def _refuse(self, token: int, layer: int | None, what: str) -> None:
        where = f"token {self.tokens + token}"
        if layer is not None:
            where += f", layer {layer}"
        raise TraceError(f"{self.place}: {where}: {what}")

    def typed(self, chunk: Chunk) -> Chunk:
        """Return a chunk in the types of the file format, its shapes checked."""
        head = self.header
        size = len(np.atleast_1d(chunk.token_request))
        shape = (size, head.num_layers, head.top_k)
        bits = head.signature_bits
        wanted: dict[str, tuple[tuple[int, ...], str, str]] = {
            "experts": (shape, "u", head.expert_type.str),
            "gates": (shape, "f", "<f2"),
            "token_request": (shape[:1], "iu", "<i8"),
        }
        if bits:
            wanted["signature"] = (shape[:2], "u", "<u8")
        elif chunk.signature is not None:
            raise TraceError(
                f"{self.place}: signature: got an array, expected none: "
                "signature_bits is 0"
            )
        typed = {}
        for name, (expected, kinds, kind) in wanted.items():
            array = getattr(chunk, name)
            if array is None:
                raise TraceError(
                    f"{self.place}: signature: missing, expected {bits} bits for each "
                    "token and layer"
                )
            if array.shape != expected:
                raise TraceError(
                    f"{self.place}: {name}: got shape {array.shape}, expected "
                    f"{expected} (tokens, layers, top_k)"
                )
            if array.dtype.kind not in kinds or array.dtype.itemsize > (
                8 if name in ("token_request", "signature") else 2
            ):
                raise TraceError(
                    f"{self.place}: {name}: got {array.dtype}, expected {kind[1:]}"
                )
            if name == "experts" and array.dtype.itemsize > head.expert_type.itemsize:
                # Ids that do not fit would wrap around: look before they are cut.
                self._check_experts(array)
            typed[name] = array.astype(kind, copy=False)
        return Chunk(**typed)

    def _check_requests(self, request: NDArray[np.int64]) -> None:
        count = len(self.requests)
        if request.min() < 0 or request.max() >= count:
            token = int(np.argmax((request < 0) | (request >= count)))
            self._refuse(
                token,
                None,
                f"request: got {request[token]}, expected 0 to {count - 1}",
            )
        before = np.concatenate([[self._last], request[:-1]])
        step = request - before
        if step.min() < 0:
            token = int(np.argmax(step < 0))
            self._refuse(
                token,
                None,
                f"request: got {request[token]} after {before[token]}, expected "
                "tokens in the order of their requests",
            )
        if step.max() > 1:
            self._no_rows(int(before[np.argmax(step > 1)]) + 1)
        low = int(request[0])
        here = np.bincount(request - low)
        self.rows[low : low + len(here)] += here
        self._last = int(request[-1])

    def _no_rows(self, request: int) -> None:
        raise TraceError(
            f"{self.place}: request {request}: got no tokens, expected at least one"
        )

    def _check_experts(self, experts: NDArray[Any]) -> None:
        top_k = self.header.top_k
        most = np.array(self.header.experts)
        if experts.max(initial=0) >= most.min():
            high = experts.max(axis=2) >= most
            if high.any():
                token, layer = (int(n) for n in np.argwhere(high)[0])
                self._refuse(
                    token,
                    layer,
                    f"expert: got {experts[token, layer].max()}, expected 0 to "
                    f"{most[layer] - 1}",
                )
        for a in range(top_k):
            for b in range(a + 1, top_k):
                same = experts[:, :, a] == experts[:, :, b]
                if same.any():
                    token, layer = (int(n) for n in np.argwhere(same)[0])
                    self._refuse(
                        token,
                        layer,
                        f"expert: got {experts[token, layer, a]} twice, expected "
                        f"{top_k} different ones",
                    )

    def _check_gates(self, gates: NDArray[np.float16]) -> None:
        # The bits of a half that is neither negative nor NaN are ordered like it.
        bits = gates.view(np.uint16)
        if bits.max() >= 0x7C00:
            bad = ~(np.isfinite(gates) & (gates >= 0)).all(axis=2)
            if bad.any():
                token, layer = (int(n) for n in np.argwhere(bad)[0])
                self._refuse(
                    token,
                    layer,
                    f"gates: got {gates[token, layer].tolist()}, expected finite "
                    "numbers of 0 or more",
                )
        for k in range(1, self.header.top_k):
            rises = gates[:, :, k] > gates[:, :, k - 1]
            if rises.any():
                token, layer = (int(n) for n in np.argwhere(rises)[0])
                self._refuse(
                    token,
                    layer,
                    f"gates: got {gates[token, layer].tolist()}, expected the largest "
                    "first",
                )

    def _check_signature(self, signature: NDArray[np.uint64]) -> None:
        bits = self.header.signature_bits
        if bits < MAX_SIGNATURE_BITS and int(signature.max()) >> bits:
            high = (signature >> np.uint64(bits)) > 0
            token, layer = (int(n) for n in np.argwhere(high)[0])
            self._refuse(
                token,
                layer,
                f"signature: got {signature[token, layer]:#x}, expected {bits} bits",
            )

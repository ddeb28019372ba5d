"""What may be done to a model, one change at a time, and undone.

A change is a context: inside it the model behaves changed. Each names the MoE layer
that it starts in, so that what runs before may be taken from the unchanged model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from .quantize import IntegerFormat, quantized
from .simhash import distances, signatures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .hooks import Call, MoeLayer


class Change(Protocol):
    """One change of a model."""

    @property
    def layer(self) -> int:
        """First MoE layer that it changes."""

    def made(self, layers: list[MoeLayer]) -> AbstractContextManager[None]:
        """Make the change, for as long as the context lasts."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An expert is stored in a format."""

    layer: int
    expert: int
    form: IntegerFormat

    @contextmanager
    def made(self, layers: list[MoeLayer]) -> Iterator[None]:
        """See `Change.made`."""
        matrices = layers[self.layer].weights(self.expert)
        kept = [matrix.clone() for matrix, _ in matrices]
        try:
            for matrix, axis in matrices:
                rounded = quantized(matrix.float().numpy(), self.form, axis=axis)
                matrix.copy_(torch.from_numpy(rounded))
            yield
        finally:
            for (matrix, _), before in zip(matrices, kept, strict=True):
                matrix.copy_(before)


@dataclass(frozen=True, kw_only=True)
class Substituted:
    """A similar expert of the layer answers all calls of an expert."""

    layer: int
    expert: int
    other: int

    @contextmanager
    def made(self, layers: list[MoeLayer]) -> Iterator[None]:
        """See `Change.made`."""
        layer = layers[self.layer]

        def answer(call: Call) -> Tensor:
            ids = call.experts.masked_fill(call.experts == self.expert, self.other)
            return layer.run(call.hidden, ids, call.gates)

        with layer.attached(answer):
            yield


@dataclass(kw_only=True)
class Pruned:
    """Calls of small gates are dropped, never the largest of a token.

    The other gates of the token stay as they are. ``dropped`` and ``calls`` count over
    all passes.
    """

    layer: int
    below: float
    dropped: int = 0
    calls: int = 0

    @contextmanager
    def made(self, layers: list[MoeLayer]) -> Iterator[None]:
        """See `Change.made`."""
        layer = layers[self.layer]

        def answer(call: Call) -> Tensor:
            small = call.gates < self.below
            small[:, 0] = False
            self.dropped += int(small.sum())
            self.calls += small.numel()
            gates = call.gates.masked_fill(small, 0.0)
            return layer.run(call.hidden, call.experts, gates)

        with layer.attached(answer):
            yield


@dataclass(kw_only=True)
class Fused:
    """Tokens with similar hidden states share the output of an expert.

    Among the calls of an expert in a batch, in order: the first is a leader; a call
    whose state is similar to that of leaders takes the output of the first of them,
    with its own gate; any other is a new leader. A batch is a run of ``batch`` tokens
    of the pass.

    Attributes
    ----------
    cosine
        Least cosine of the hidden states; or
    distance
        largest number of bits that their signatures (of ``normals``) differ in.
    fused, calls
        Counts over all passes.
    """

    layer: int
    batch: int
    cosine: float | None = None
    distance: int | None = None
    normals: NDArray[np.float32] | None = None
    fused: int = 0
    calls: int = 0

    @contextmanager
    def made(self, layers: list[MoeLayer]) -> Iterator[None]:
        """See `Change.made`."""
        layer = layers[self.layer]

        def answer(call: Call) -> Tensor:
            leader = self._leaders(call)
            own = np.arange(len(leader))[:, None]
            self.fused += int((leader != own).sum())
            self.calls += leader.size
            total = torch.zeros_like(call.hidden)
            for slot in range(leader.shape[1]):
                states = call.hidden[torch.from_numpy(leader[:, slot])]
                at = slice(slot, slot + 1)
                total += layer.run(states, call.experts[:, at], call.gates[:, at])
            return total

        with layer.attached(answer):
            yield

    def _leaders(self, call: Call) -> NDArray[np.int64]:
        """Token whose state each call takes, (T, K)."""
        experts = call.experts.numpy()
        states = call.hidden.float().numpy()
        leader = np.tile(np.arange(len(experts))[:, None], experts.shape[1])
        for start in range(0, len(experts), self.batch):
            rows = slice(start, start + self.batch)
            similar = self._similar(states[rows])
            for expert in np.unique(experts[rows]):
                token, slot = np.nonzero(experts[rows] == expert)
                of = first_similar(similar[np.ix_(token, token)])
                leader[start + token, slot] = start + token[of]
        return leader

    def _similar(self, states: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say which pairs of tokens of a batch are similar enough; (T, T)."""
        if self.cosine is not None:
            length = np.linalg.norm(states, axis=1, keepdims=True)
            unit = states / np.maximum(length, 1e-30)
            return np.asarray(unit @ unit.T >= self.cosine)
        assert self.normals is not None
        assert self.distance is not None
        signed = signatures(states, self.normals)
        return distances(signed[:, None], signed[None]) <= self.distance


def first_similar(similar: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Choose the leader of each of n calls, in order; (n, n) -> (n,).

    A call follows the first leader that it is similar to, or leads itself.
    """
    of = np.arange(len(similar))
    leads = np.zeros(len(similar), dtype=bool)
    for call in range(len(similar)):
        near = np.flatnonzero(similar[call] & leads)
        if len(near):
            of[call] = near[0]
        else:
            leads[call] = True
    return of


@dataclass(frozen=True, kw_only=True)
class Together:
    """Several changes at once."""

    changes: tuple[Change, ...]

    @property
    def layer(self) -> int:
        """First layer that any of them changes."""
        return min(change.layer for change in self.changes)

    @contextmanager
    def made(self, layers: list[MoeLayer]) -> Iterator[None]:
        """See `Change.made`; two that replace one layer's output exclude each other."""
        with ExitStack() as stack:
            for change in self.changes:
                stack.enter_context(change.made(layers))
            yield

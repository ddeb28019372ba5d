"""How alike the experts of a layer are: in weights, in outputs, up to a rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .hooks import MoeLayer


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """Similarity of the experts of one layer, each (E, E), 1 on the diagonal.

    Attributes
    ----------
    weight_cosine
        Cosine of all weights of two experts, one long vector each.
    output_cosine
        Mean over the probes of the cosine of the outputs.
    output_cka
        Linear centred kernel alignment of the outputs, which no rotation changes.
    answer_error
        Not a similarity: row i, column j is the squared output error when j answers
        the probes for i, ÷ the squared output of i.
    """

    weight_cosine: NDArray[np.float32]
    output_cosine: NDArray[np.float32]
    output_cka: NDArray[np.float32]
    answer_error: NDArray[np.float32]


def similarity(layer: MoeLayer, probes: Tensor) -> Similarity:
    """Compare the experts of a layer on hidden states that enter it.

    Parameters
    ----------
    layer
        The layer.
    probes
        Hidden states, (T, hidden).
    """
    with torch.no_grad():
        flat = torch.stack(
            [
                torch.cat([matrix.float().flatten() for matrix, _ in layer.weights(e)])
                for e in range(layer.num_experts)
            ]
        )
        outputs = torch.stack(
            [layer.output(e, probes).float() for e in range(layer.num_experts)]
        )
        error = torch.stack(
            [
                ((outputs - one) ** 2).sum(dim=(1, 2)) / one.square().sum()
                for one in outputs
            ]
        )
        unit = torch.nn.functional.normalize(outputs, dim=-1)
        cosine = torch.einsum("eth,fth->ef", unit, unit) / len(probes)
        weights = torch.nn.functional.normalize(flat, dim=1)
        return Similarity(
            weight_cosine=(weights @ weights.T).numpy(),
            output_cosine=cosine.numpy(),
            output_cka=_alignment(outputs),
            answer_error=error.numpy(),
        )


def _alignment(outputs: Tensor) -> NDArray[np.float32]:
    """Linear CKA of all pairs; (E, T, hidden) -> (E, E)."""
    centred = outputs - outputs.mean(dim=1, keepdim=True)
    num_e = len(centred)
    table = np.zeros((num_e, num_e))
    for one in range(num_e):
        cross = torch.einsum("th,fti->fhi", centred[one], centred[: one + 1])
        table[one, : one + 1] = cross.square().sum(dim=(1, 2)).numpy()
    table = table + np.tril(table, -1).T
    norm = np.sqrt(np.maximum(np.diag(table), 1e-30))
    aligned: NDArray[np.float64] = table / (norm[:, None] * norm)
    return aligned.astype(np.float32)


def matched(error: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Match experts in pairs, the most alike first, each in one pair at most.

    Parameters
    ----------
    error
        ``answer_error`` of a layer, (E, E).

    Returns
    -------
    list of (int, int)
        Ordered pairs in both directions: the first may be answered by the second.
    """
    both = np.maximum(error, error.T)
    pairs = [(float(both[i, j]), i, j) for i, j in np.argwhere(np.triu(both, 1) > 0)]
    taken: set[int] = set()
    found = []
    for _, i, j in sorted(pairs):
        if not taken & {i, j}:
            taken |= {i, j}
            found += [(int(i), int(j)), (int(j), int(i))]
    return sorted(found)

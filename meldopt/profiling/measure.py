"""The quality loss of changes: KL divergence in nats per token, sequence by sequence.

For each batch of sequences the unchanged model runs once and the outputs of its decoder
layers are kept. A changed model then starts at the layer that it changes first. Nothing
of the size of the text is held: memory is that of one batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from meldopt.errors import ProfilingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .changes import Change
    from .hooks import MoeLayer

OnProgress = Callable[[str], None]


def divergence(
    reference: Tensor, changed: Tensor, probability: Tensor | None = None
) -> Tensor:
    """KL(reference ‖ changed) of two tables of log-probabilities over the last axis.

    Summed as p·(exp(d) − 1 − d) with d the difference of the logarithms, which adds
    nothing (both sum to 1), is never negative, and keeps small divergences exact.

    Parameters
    ----------
    reference, changed
        Log-probabilities, (..., V).
    probability
        exp(reference), if it is at hand.
    """
    gap = changed - reference
    terms = torch.expm1(gap).sub_(gap)
    terms *= reference.exp() if probability is None else probability
    return terms.sum(dim=-1)


def measure(
    model: nn.Module,
    layers: list[MoeLayer],
    sequences: NDArray[np.int64],
    changes: Sequence[Change],
    *,
    batch: int = 10,
    on_progress: OnProgress | None = None,
) -> NDArray[np.float64]:
    """Measure what each change costs on each sequence.

    Parameters
    ----------
    model
        A causal language model of transformers, in evaluation mode.
    layers
        Its MoE layers (`moe_layers`).
    sequences
        Token ids, (R, length).
    changes
        What is changed, one at a time.
    batch
        Sequences that run together.
    on_progress
        Is told a line after each batch.

    Returns
    -------
    ndarray of float64, shape (C, R)
        Mean KL divergence over the tokens of a sequence, nats per token.
    """
    losses = np.zeros((len(changes), len(sequences)))
    with torch.no_grad():
        for start in range(0, len(sequences), batch):
            rows = torch.from_numpy(sequences[start : start + batch])
            with _outputs_kept(model, layers) as outputs:
                reference = _log_probabilities(model, rows)
            probability = reference.exp()
            for number, change in enumerate(changes):
                with (
                    _resumed(model, layers[change.layer], outputs),
                    change.made(layers),
                ):
                    changed = _log_probabilities(model, rows)
                loss = divergence(reference, changed, probability)
                means = loss.double().mean(dim=-1).numpy()
                losses[number, start : start + batch] = means
            if on_progress is not None:
                on_progress(
                    f"{len(changes)} changes on {start + len(rows)} of "
                    f"{len(sequences)} sequences"
                )
    return losses


def cross_entropy(
    model: nn.Module, sequences: NDArray[np.int64], *, batch: int = 10
) -> NDArray[np.float64]:
    """Cross entropy of the next token of each sequence, nats per token; (R,)."""
    losses = []
    with torch.no_grad():
        for start in range(0, len(sequences), batch):
            rows = torch.from_numpy(sequences[start : start + batch])
            said = _log_probabilities(model, rows[:, :-1])
            true = said.gather(-1, rows[:, 1:, None])
            losses.append(-true.double().mean(dim=(1, 2)).numpy())
    return np.concatenate(losses)


def _log_probabilities(model: nn.Module, rows: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=rows, use_cache=False).logits
    return logits.float().log_softmax(dim=-1)


# -- resuming in the middle ------------------------------------------------------------


def _decoder_layers(model: nn.Module, layer: MoeLayer) -> list[Any]:
    """Return the decoder layers of the stack that an MoE layer is in."""
    match = re.match(r"(.*?)\.(\d+)\.", layer.name)
    if match is None:
        raise ProfilingError(f"{layer.name}: got no number, expected a decoder layer")
    stack: Any = model.get_submodule(match[1])
    return [*stack]


@contextmanager
def _outputs_kept(model: nn.Module, layers: list[MoeLayer]) -> Iterator[list[Any]]:
    """Keep what the decoder layers return in a pass."""
    stack = _decoder_layers(model, layers[0])
    outputs: list[Any] = [None] * len(stack)

    def keeper(number: int) -> Callable[..., None]:
        def keep(_: Any, __: Any, output: Any) -> None:
            outputs[number] = output

        return keep

    with ExitStack() as hooks:
        for number, decoder in enumerate(stack):
            handle = decoder.register_forward_hook(keeper(number))
            hooks.callback(handle.remove)
        yield outputs


@contextmanager
def _resumed(model: nn.Module, layer: MoeLayer, outputs: list[Any]) -> Iterator[None]:
    """Let the decoder layers before that of an MoE layer return what was kept."""

    def returning(output: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: output

    stack = _decoder_layers(model, layer)[: layer.layer_id]
    try:
        for number, decoder in enumerate(stack):
            decoder.forward = returning(outputs[number])
        yield
    finally:
        for decoder in stack:
            vars(decoder).pop("forward", None)

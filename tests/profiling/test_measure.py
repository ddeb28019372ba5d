"""Changes change what they say, cost what they should, and are undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiling.tiny_families import FAMILIES, tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from meldopt.profiling.changes import (  # noqa: E402
    Fused,
    Pruned,
    Quantized,
    Substituted,
    Together,
)
from meldopt.profiling.hooks import moe_layers, recorded  # noqa: E402
from meldopt.profiling.measure import divergence, measure  # noqa: E402
from meldopt.profiling.quantize import format_of  # noqa: E402
from meldopt.profiling.simhash import planes  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers

TEXT = np.random.default_rng(0).integers(3, 60, (4, 12))


def logits(model: Any, rows: Any = TEXT) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(rows), use_cache=False).logits


def called(model: Any, layer: int, *, least: int = 1) -> int:
    """An expert of a layer that is called at least so often."""
    with recorded(moe_layers(model)) as calls:
        logits(model)
    counts = torch.bincount(calls[layer].experts.flatten())
    assert counts.max() >= least
    return int(counts.argmax())


@pytest.mark.parametrize("family", FAMILIES)
def test_resuming_equals_a_whole_pass(family: str) -> None:
    """KL measured from the changed layer on equals KL of two whole passes, and the
    model is afterwards what it was."""
    model = tiny_model(family)
    layers = moe_layers(model)
    before = logits(model)
    expert = called(model, len(layers) - 1)
    change = Quantized(layer=len(layers) - 1, expert=expert, form=format_of("int2-g32"))
    found, again = measure(model, layers, TEXT, [change, change], batch=3)
    assert np.array_equal(found, again)  # what is kept of the model is not touched
    with change.made(layers):
        after = logits(model)
    expected = divergence(before.log_softmax(dim=-1), after.log_softmax(dim=-1)).mean(
        dim=1
    )
    assert float(expected.max()) > 1e-7  # 2 bits are not nothing
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-2, atol=1e-9)
    assert torch.equal(logits(model), before)


def test_divergence_is_the_textbook_one() -> None:
    """The stable sum equals Σ p (log p − log q), and is zero only for equals."""
    one = torch.randn(3, 7, dtype=torch.float64).log_softmax(dim=-1)
    other = torch.randn(3, 7, dtype=torch.float64).log_softmax(dim=-1)
    plain = (one.exp() * (one - other)).sum(dim=-1)
    torch.testing.assert_close(divergence(one, other), plain)
    assert float(divergence(one, one).abs().max()) == 0.0


def test_nothing_changed_costs_nothing() -> None:
    """An expert that answers for itself, calls of no gate below 0 and tokens fused
    only with themselves cost exactly or nearly nothing."""
    model = tiny_model("olmoe")
    layers = moe_layers(model)
    normals = planes(32)
    changes = [
        Substituted(layer=0, expert=2, other=2),
        Pruned(layer=1, below=0.0),
        Fused(layer=1, batch=12, cosine=1.1),
        Fused(layer=0, batch=1, distance=64, normals=normals),
    ]
    found = measure(model, layers, TEXT, changes)
    assert found.max() < 1e-9


def test_pruning_everything_small_keeps_the_first() -> None:
    """Below an infinite gate every call but the first of a token is dropped."""
    model = tiny_model("olmoe")
    layers = moe_layers(model)
    change = Pruned(layer=0, below=np.inf)
    with recorded(layers[:1]) as calls:
        logits(model)
    call = calls[0]
    with torch.no_grad():
        first = layers[0].run(call.hidden, call.experts[:, :1], call.gates[:, :1])
    seen: list[Any] = []
    with change.made(layers):
        handle = layers[0].parent.register_forward_hook(
            lambda _, __, output: seen.append(output)
        )
        logits(model)
        handle.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    torch.testing.assert_close(output.reshape(first.shape), first)
    assert change.dropped == 2 * TEXT.size  # OLMoE here calls three experts
    assert change.calls == 3 * TEXT.size


def test_fusing_everything_takes_the_first_token() -> None:
    """If all states count as similar, every call of an expert takes the output for the
    first token of the batch that called it."""
    model = tiny_model("mixtral")
    layers = moe_layers(model)
    change = Fused(layer=0, batch=TEXT.size, cosine=-1.1)
    with recorded(layers[:1]) as calls:
        logits(model)
    call = calls[0]
    expected = torch.zeros_like(call.hidden)
    distinct = 0
    with torch.no_grad():
        for expert in range(4):
            token, slot = torch.nonzero(call.experts == expert, as_tuple=True)
            if len(token):
                distinct += 1
                leader = layers[0].output(expert, call.hidden[token.min()][None])
                expected[token] += call.gates[token, slot, None] * leader
    seen: list[Any] = []
    with change.made(layers):
        handle = layers[0].parent.register_forward_hook(
            lambda _, __, output: seen.append(output)
        )
        logits(model)
        handle.remove()
    torch.testing.assert_close(seen[0].reshape(expected.shape), expected)
    assert change.calls == 2 * TEXT.size
    assert change.fused == change.calls - distinct


def test_together_adds_up_changes() -> None:
    """Two experts quantized together differ from the model as both in turn do."""
    model = tiny_model("qwen3_moe")
    layers = moe_layers(model)
    form = format_of("int3-g32")
    both = [Quantized(layer=0, expert=expert, form=form) for expert in (0, 1)]
    before = logits(model)
    with both[0].made(layers), both[1].made(layers):
        expected = logits(model)
    together = Together(changes=tuple(both))
    with together.made(layers):
        assert torch.equal(logits(model), expected)
    assert together.layer == 0
    assert not torch.equal(expected, before)
    assert torch.equal(logits(model), before)

"""The hooks read what a model really does, in every family."""

from __future__ import annotations

from typing import Any

import pytest
from profiling.tiny_families import COMMON, FAMILIES, tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from meldopt.errors import ProfilingError  # noqa: E402
from meldopt.profiling.hooks import MoeLayer, moe_layers, recorded  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers

every_family = pytest.mark.parametrize("family", FAMILIES)


def tokens(seed: int = 1) -> Any:
    """Two short sequences."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 60, (2, 12), generator=generator)


def run(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=tokens(), use_cache=False).logits


def routed_outputs(model: Any, layers: list[MoeLayer]) -> list[Any]:
    """What the experts of each layer gave in a pass, read without our hooks."""
    outputs: list[Any] = []

    def keep(module: Any, _: Any, output: Any) -> None:
        if type(module).__name__ == "Llama4TextExperts":  # a row for every expert
            output = output.reshape(module.num_experts, -1, output.shape[-1]).sum(0)
        outputs.append(output.reshape(-1, output.shape[-1]))

    handles = [layer.experts.register_forward_hook(keep) for layer in layers]
    run(model)
    for handle in handles:
        handle.remove()
    return outputs


def plain_expert(family: str, layer: MoeLayer, expert: int, states: Any) -> Any:
    """Compute an expert from its weights, by the formula of its family."""
    silu = torch.nn.functional.silu
    matrices = [
        matrix if axis == 0 else matrix.T for matrix, axis in layer.weights(expert)
    ]
    if family == "dbrx":
        gate, up, down = matrices
        return (silu(states @ gate) * (states @ up)) @ down
    both, down = matrices
    mixed = states @ both
    if family == "gpt_oss":
        experts = layer.experts
        mixed = mixed + experts.gate_up_proj_bias[expert]
        gate, up = mixed[:, ::2].clamp(max=7.0), mixed[:, 1::2].clamp(-7.0, 7.0)
        inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        return inner @ down + experts.down_proj_bias[expert]
    gate, up = mixed.chunk(2, dim=-1)
    return (silu(gate) * up) @ down


@every_family
def test_the_choice_explains_the_output(family: str) -> None:
    """Experts and gates captured by the hooks, put into the formula of the family, give
    what the model's own experts gave: sum of gate × expert(x)."""
    model = tiny_model(family)
    layers = moe_layers(model)
    with recorded(layers) as calls:
        run(model)
    for layer, call, output in zip(
        layers, calls, routed_outputs(model, layers), strict=True
    ):
        total = torch.zeros_like(output)
        with torch.no_grad():
            for slot in range(call.experts.shape[1]):
                for expert in range(layer.num_experts):
                    mine = call.experts[:, slot] == expert
                    states, gate = call.hidden[mine], call.gates[mine, slot, None]
                    if family == "llama4":  # the gate scales what goes in
                        total[mine] += plain_expert(
                            family, layer, expert, gate * states
                        )
                    else:
                        total[mine] += gate * plain_expert(
                            family, layer, expert, states
                        )
        assert output.abs().max() > 0.1  # there is something to explain
        torch.testing.assert_close(total, output, rtol=1e-4, atol=1e-5)


@every_family
def test_gates_descend_and_experts_differ(family: str) -> None:
    """A call lists each expert once, largest gate first, as a trace requires."""
    model = tiny_model(family)
    with recorded(moe_layers(model)) as calls:
        run(model)
    for call in calls:
        assert (call.gates.diff(dim=1) <= 0).all()
        ordered = call.experts.sort(dim=1).values
        assert (ordered.diff(dim=1) > 0).all()


@every_family
def test_layers_are_numbered_like_the_model(family: str) -> None:
    """MoE layers come in order; dense layers in front or between are left out."""
    layer_ids = [layer.layer_id for layer in moe_layers(tiny_model(family))]
    expected = {
        "deepseek_v2": [1, 2],
        "deepseek_v3": [1, 2],
        "glm4_moe": [1, 2],
        "jamba": [1, 3],
        "lfm2_moe": [1, 2, 3],
        "qwen3_next": [0, 1, 2, 3],
    }
    assert layer_ids == expected.get(family, [0, 1])


@every_family
def test_answering_the_same_changes_nothing(family: str) -> None:
    """A callback that answers with the call itself leaves the logits alone, and one
    that answers with nothing does not."""
    model = tiny_model(family)
    layer = moe_layers(model)[0]
    before = run(model)
    with layer.attached(lambda call: layer.run(call.hidden, call.experts, call.gates)):
        same = run(model)
    with layer.attached(lambda call: torch.zeros_like(call.hidden)):
        other = run(model)
    torch.testing.assert_close(same, before, rtol=1e-4, atol=1e-4)
    assert (other - before).abs().max() > 1e-2
    torch.testing.assert_close(run(model), before)  # and it is gone afterwards


@every_family
def test_weights_are_views_of_one_expert(family: str) -> None:
    """Halving the last matrix of an expert halves its output (up to its bias) and
    touches no other expert."""
    model = tiny_model(family)
    layer = moe_layers(model)[-1]
    states = torch.randn(5, COMMON["hidden_size"])
    with torch.no_grad():
        before = [layer.output(expert, states) for expert in range(layer.num_experts)]
        layer.weights(1)[-1][0].mul_(0.5)
        after = [layer.output(expert, states) for expert in range(layer.num_experts)]
        bias = getattr(layer.experts, "down_proj_bias", None)
        fixed = 0.0 if bias is None else bias[1]
    torch.testing.assert_close(after[1] - fixed, 0.5 * (before[1] - fixed))
    for expert in {*range(layer.num_experts)} - {1}:
        assert torch.equal(after[expert], before[expert])


def test_logits_do_not_tell_the_choice() -> None:
    """In DeepSeek-V3 the top-k of the router's logits is not what is called: it sees
    neither the correction bias nor the limit on groups."""
    model = tiny_model("deepseek_v3")
    layers = moe_layers(model)
    logits: list[Any] = []
    handle = layers[0].parent.gate.register_forward_hook(
        lambda _, __, output: logits.append(output)
    )
    with recorded(layers) as calls:
        run(model)
    handle.remove()
    chosen = calls[0].experts.sort(dim=1).values
    assert torch.equal(chosen, logits[0][2].sort(dim=1).values)  # the router's third
    guessed = logits[0][0].topk(2, dim=-1).indices.sort(dim=1).values
    assert (guessed == chosen).all(dim=1).float().mean() < 0.8


def test_a_dense_model_is_refused() -> None:
    """A model without experts is refused in one line that says what was looked for."""
    config = transformers.LlamaConfig(**COMMON)
    with pytest.raises(ProfilingError, match="expected an MoE model") as caught:
        moe_layers(transformers.LlamaForCausalLM(config))
    assert "\n" not in str(caught.value)


def test_two_passes_are_refused() -> None:
    """A record holds one pass; a second is refused, not mixed in."""
    model = tiny_model("olmoe")

    def twice() -> None:
        with recorded(moe_layers(model)):
            run(model)
            run(model)

    with pytest.raises(ProfilingError, match="second call"):
        twice()

"""Router hooks: the experts that a token really called, and its gates, in any model.

What a router chose is read where it is used: at the input of the module that holds the
experts. Top-k of ``output_router_logits`` is not the choice where a router adds a bias,
limits groups or applies a sigmoid (DeepSeek-V3, GLM-4, Ernie 4.5 and others).

In transformers 5 that module takes (hidden states, expert ids, gates) in nearly all
families; `MoeLayer` is that case. Families of another shape are subclasses. An expert
alone is run by the same module with every token sent to it, so that this code knows
nothing of activations, biases or layouts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meldopt.errors import ProfilingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What went into the experts of a layer, in gate order.

    Attributes
    ----------
    hidden
        Hidden states that enter the layer, (T, hidden).
    experts
        Experts called, (T, K), the largest gate first; ties keep the router's order.
    gates
        Weights that the outputs are summed with, (T, K), float32.
    """

    hidden: Tensor
    experts: Tensor
    gates: Tensor


OnCall = Callable[[Call], Tensor | None]
"""Is told a call; may return what the experts give instead, (T, hidden)."""


class MoeLayer:
    """An MoE layer of a model: its experts, and what calls them.

    Attributes
    ----------
    name
        Path of the module of the experts in the model.
    layer_id
        Number of the decoder layer in the model.
    experts
        The module.
    num_experts
        How many experts it holds.
    """

    def __init__(self, name: str, experts: Any, parent: Any) -> None:
        self.name = name
        self.experts = experts
        self.parent = parent
        numbers = re.findall(r"(?:^|\.)(\d+)(?:\.|$)", name)
        self.layer_id = int(numbers[0]) if numbers else 0
        self.num_experts = _count(experts, name)

    @contextmanager
    def attached(self, on_call: OnCall) -> Iterator[None]:
        """Call back on every pass, and let the callback replace what comes out."""

        def hook(_: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
            hidden, experts, gates = _arguments(self.experts, args, kwargs)
            answer = on_call(_ordered(hidden, experts, gates))
            return None if answer is None else answer.reshape(output.shape)

        handle = self.experts.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def run(self, hidden: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """Sum gate × expert for given choices, past all hooks; (T, hidden)."""
        out = self.experts.forward(hidden, experts, gates.to(hidden.dtype))
        return self._flat(out)

    def output(self, expert: int, hidden: Tensor) -> Tensor:
        """Return the output of one expert for hidden states, gate 1; (T, hidden)."""
        ids = torch.full((len(hidden), 1), expert, device=hidden.device)
        return self.run(hidden, ids, hidden.new_ones(len(hidden), 1))

    def weights(self, expert: int) -> list[tuple[Tensor, int]]:
        """Matrices of one expert, views of the model's own, with their input axis.

        Raises
        ------
        ProfilingError
            If the module keeps no weights by expert.
        """
        transposed = bool(getattr(self.experts, "is_transposed", False))
        found = [
            (parameter.data[expert], 0 if transposed else -1)
            for _, parameter in self.experts.named_parameters()
            if parameter.ndim == 3 and len(parameter) == self.num_experts
        ]
        if not found:
            raise ProfilingError(
                f"{self.name}: got no weights by expert, expected matrices stacked "
                f"along a first dimension of {self.num_experts}"
            )
        return found

    def _flat(self, out: Tensor) -> Tensor:
        return out.reshape(-1, out.shape[-1])


class _Dbrx(MoeLayer):
    """DBRX: three matrices, each with the rows of all experts below each other."""

    def weights(self, expert: int) -> list[tuple[Tensor, int]]:
        """See `MoeLayer.weights`."""
        mlp = self.experts.mlp
        axes = {"w1": -1, "v1": -1, "w2": 0}  # states @ w2, but states @ w1.T
        shape = (self.num_experts, -1, mlp.hidden_size)
        return [
            (getattr(mlp, name).data.view(shape)[expert], axis)
            for name, axis in axes.items()
        ]


class _Llama4(MoeLayer):
    """Llama 4: the gate scales what enters an expert, and every expert sees all."""

    @contextmanager
    def attached(self, on_call: OnCall) -> Iterator[None]:
        """See `MoeLayer.attached`; the choice is what the router gives a score."""
        routed: list[tuple[Tensor, Tensor]] = []

        def on_router(_: Any, args: Any, output: Any) -> None:
            routed[:] = [(args[0].reshape(-1, args[0].shape[-1]), output[0])]

        def on_experts(_: Any, __: Any, output: Tensor) -> Tensor | None:
            hidden, scores = routed.pop()
            gates, experts = scores.topk(self.parent.top_k, dim=-1)
            answer = on_call(_ordered(hidden, experts, gates))
            if answer is None:
                return None
            # The block adds up over experts: the answer stands for the first of them.
            spread = torch.zeros_like(output)
            spread[: len(hidden)] = answer
            return spread

        handles = [
            self.parent.router.register_forward_hook(on_router),
            self.experts.register_forward_hook(on_experts),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, hidden: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """See `MoeLayer.run`; here it is the sum of expert(gate × hidden)."""
        total = torch.zeros_like(hidden)
        for slot in range(experts.shape[1]):
            # A token that calls an expert twice is two calls, so slot by slot.
            scores = hidden.new_zeros(len(hidden), self.num_experts)
            scores.scatter_(1, experts[:, slot : slot + 1], gates[:, slot : slot + 1])
            entered = hidden[None] * scores.T[..., None]
            out = self.experts.forward(entered.reshape(-1, hidden.shape[-1]))
            total += out.reshape(self.num_experts, *hidden.shape).sum(dim=0)
        return total

    def weights(self, expert: int) -> list[tuple[Tensor, int]]:
        """See `MoeLayer.weights`; the input comes first."""
        return [(matrix, 0) for matrix, _ in super().weights(expert)]


_SHAPES: dict[str, type[MoeLayer]] = {
    "DbrxExperts": _Dbrx,
    "Llama4TextExperts": _Llama4,
}
"""Families whose experts are not called or stored like the others."""


def moe_layers(model: nn.Module) -> list[MoeLayer]:
    """Find the MoE layers of a model, in order.

    Raises
    ------
    ProfilingError
        If there are none, or none of a shape that is known.
    """
    found = []
    modules = dict(model.named_modules())
    for name, module in modules.items():
        parent = modules.get(name.rpartition(".")[0])
        shape = _SHAPES.get(type(module).__name__)
        if shape is not None:
            found.append(shape(name, module, parent))
        elif name.rpartition(".")[2] == "experts" and _takes_a_choice(module):
            found.append(MoeLayer(name, module, parent))
    if not found:
        raise ProfilingError(
            f"{type(model).__name__}: got no module 'experts' that is called with "
            "hidden states, expert ids and gates, expected an MoE model of "
            "transformers 5"
        )
    return found


@contextmanager
def recorded(layers: list[MoeLayer]) -> Iterator[list[Call]]:
    """Record the calls of a pass, one for each layer, in order.

    Raises
    ------
    ProfilingError
        After the pass, if a layer did not run exactly once or names an expert that
        holds no weights.
    """
    calls: dict[int, Call] = {}
    record: list[Call] = []

    def keeper(number: int) -> OnCall:
        def keep(call: Call) -> None:
            if number in calls:
                raise ProfilingError(
                    f"{layers[number].name}: got a second call in one pass, expected "
                    "one (record pass by pass)"
                )
            calls[number] = call

        return keep

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.enter_context(layer.attached(keeper(number)))
        yield record
    for number, layer in enumerate(layers):
        if number not in calls:
            raise ProfilingError(f"{layer.name}: got no call, expected one in a pass")
        largest = int(calls[number].experts.max())
        if largest >= layer.num_experts:
            raise ProfilingError(
                f"{layer.name}: got expert {largest}, expected less than "
                f"{layer.num_experts} (experts without weights are not supported)"
            )
        record.append(calls[number])


def _takes_a_choice(module: nn.Module) -> bool:
    """Say whether a module is called with hidden states, expert ids and gates."""
    names = list(inspect.signature(module.forward).parameters)
    return len(names) >= 3 and any(
        parameter.ndim == 3 for parameter in module.parameters()
    )


def _arguments(module: nn.Module, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """Hidden states, expert ids and gates of a call of the experts."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    hidden, experts, gates = list(bound.arguments.values())[:3]
    return hidden.reshape(-1, hidden.shape[-1]), experts, gates


def _ordered(hidden: Tensor, experts: Tensor, gates: Tensor) -> Call:
    gates = gates.detach().float()
    order = gates.argsort(dim=-1, descending=True, stable=True)
    return Call(
        hidden=hidden.detach(),
        experts=experts.detach().gather(-1, order).long(),
        gates=gates.gather(-1, order),
    )


def _count(experts: nn.Module, name: str) -> int:
    count = getattr(experts, "num_experts", None)
    if not isinstance(count, int):
        sizes = [len(p) for p in experts.parameters() if p.ndim == 3]
        if not sizes:
            raise ProfilingError(f"{name}: got no count of experts, expected one")
        count = sizes[0]
    return count

"""What a model is, in the words of an instance: the facts beside a recording."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .hooks import moe_layers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def describe(model: nn.Module) -> dict[str, Any]:
    """Return shape and sizes of a model."""
    layers = moe_layers(model)
    of_expert = [
        sum(matrix.numel() for matrix, _ in layer.weights(0)) for layer in layers
    ]
    total = sum(parameter.numel() for parameter in model.parameters())
    routed = sum(
        count * layer.num_experts
        for count, layer in zip(of_expert, layers, strict=True)
    )
    config: Any = model.config
    return {
        "class": type(model).__name__,
        "layers": len(layers),
        "layer_ids": [layer.layer_id for layer in layers],
        "experts": [layer.num_experts for layer in layers],
        "hidden_size": config.hidden_size,
        "parameters": total,
        "parameters_per_expert": of_expert[0]
        if len(set(of_expert)) == 1
        else of_expert,
        "backbone_parameters": total - routed,
    }


def found_beside(folder: Path, file: str) -> dict[str, Any] | None:
    """Return a JSON document that lies in a folder; None if there is none."""
    path = folder / file
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found

"""Models: the shapes of published Mixture-of-Experts language models."""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec

from ._table import Confidence, find, read_table


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of one model.

    Attributes
    ----------
    name
        As instances spell it, e.g. ``"mixtral-8x7b"``.
    title
        The name people read.
    layers, moe_layers, dense_layers
        Layers in all, and how many of them have routed experts or none.
    layer_ids
        Number, in the model, of each MoE layer; ascending, zero-based.
    experts, shared_experts, top_k
        Of one MoE layer: routed experts, shared experts, routed experts per token.
    hidden_size, expert_in_size, moe_intermediate
        Widths: of the hidden state, of what an expert reads, and inside an expert.
    matrices_per_expert
        3 for gated experts (gate, up, down).
    parameters_per_expert
        ``expert_in_size · moe_intermediate · matrices_per_expert``; biases left out.
    routed_parameters
        Parameters of all routed experts of the model.
    total_parameters
        Parameters of the whole text model: the estimate from its shapes, most of them
        rounded to 10 million, where there is one; else the advertised total, whose
        coarser rounding spoils the difference to `routed_parameters`.
    total_is
        What `total_parameters` is: ``"estimated"`` or ``"advertised"``.
    advertised_parameters
        The total that its makers state, rounded as they do; none if not known.
    backbone_parameters
        ``total_parameters − routed_parameters``: attention, shared experts, dense
        layers, routers, norms and embeddings. Positive.
    source, confidence, note
        Where the shape is from and how far to trust it.
    """

    name: str
    title: str
    layers: int
    moe_layers: int
    dense_layers: int
    layer_ids: tuple[int, ...]
    experts: int
    shared_experts: int
    top_k: int
    hidden_size: int
    expert_in_size: int
    moe_intermediate: int
    matrices_per_expert: int
    parameters_per_expert: int
    routed_parameters: int
    total_parameters: int
    total_is: Literal["advertised", "estimated"]
    advertised_parameters: int | None
    backbone_parameters: int
    source: str
    confidence: Confidence
    note: str = ""


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says of a model; the rest of `ModelFacts` follows from it."""

    name: str
    title: str
    layers: int
    moe_layers: int
    first_moe_layer: int
    moe_layer_step: int = 1
    experts: int
    shared_experts: int
    top_k: int
    hidden_size: int
    expert_in_size: int
    moe_intermediate: int
    matrices_per_expert: int
    total_parameters: int
    total_is: Literal["advertised", "estimated"] = "estimated"
    advertised_parameters: int | None = None
    source: str
    confidence: Confidence
    note: str = ""

    def facts(self) -> ModelFacts:
        each = self.expert_in_size * self.moe_intermediate * self.matrices_per_expert
        routed = each * self.experts * self.moe_layers
        ids = tuple(range(self.first_moe_layer, self.layers, self.moe_layer_step))
        return ModelFacts(
            name=self.name,
            title=self.title,
            layers=self.layers,
            moe_layers=self.moe_layers,
            dense_layers=self.layers - self.moe_layers,
            layer_ids=ids,
            experts=self.experts,
            shared_experts=self.shared_experts,
            top_k=self.top_k,
            hidden_size=self.hidden_size,
            expert_in_size=self.expert_in_size,
            moe_intermediate=self.moe_intermediate,
            matrices_per_expert=self.matrices_per_expert,
            parameters_per_expert=each,
            routed_parameters=routed,
            total_parameters=self.total_parameters,
            total_is=self.total_is,
            advertised_parameters=self.advertised_parameters,
            backbone_parameters=self.total_parameters - routed,
            source=self.source,
            confidence=self.confidence,
            note=self.note,
        )


@cache
def models() -> tuple[ModelFacts, ...]:
    """Return all models."""
    return tuple(row.facts() for row in read_table("models.json", tuple[_Row, ...]))


def model(name: str) -> ModelFacts:
    """Return the model of that name.

    Raises
    ------
    CatalogueError
        If the catalogue has no such model; the message names the nearest.
    """
    return find("model", name, models())

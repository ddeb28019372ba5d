"""Recording the routing of a model: a pass over text becomes a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from meldopt.trace import ANY_HOME, Chunk, Requests, Trace, TraceHeader

from .hooks import MoeLayer, recorded
from .simhash import BITS, planes, signatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE_SEED = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """Token sequences of several domains.

    Attributes
    ----------
    domains
        Names, D.
    tokens
        Token ids, (R, length).
    domain
        Domain of each sequence, (R,).
    """

    domains: tuple[str, ...]
    tokens: NDArray[np.int64]
    domain: NDArray[np.int64]

    def spread(self, count: int) -> NDArray[np.int64]:
        """Choose evenly spread sequences of each domain, at most so many of each."""
        rows = []
        for number in range(len(self.domains)):
            mine = np.flatnonzero(self.domain == number)
            kept = min(count, len(mine))
            rows.append(mine[np.linspace(0, len(mine) - 1, kept).astype(np.int64)])
        return np.sort(np.concatenate(rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class Routing:
    """What was recorded of a model.

    Attributes
    ----------
    trace
        Experts, gates and signatures, a request for each sequence.
    probes
        Hidden states that enter each layer, from tokens spread over the text.
    """

    trace: Trace
    probes: list[torch.Tensor]


def record_routing(
    model: nn.Module,
    layers: list[MoeLayer],
    text: Text,
    *,
    name: str,
    about: dict[str, Any],
    prompt: float = 0.5,
    batch: int = 10,
    probes: int = 768,
) -> Routing:
    """Run a model over text and record what every token calls.

    Every sequence is a request; an application is a domain. The text was not generated
    by the model but read by it. Requests have no home and arrive once a second:
    nothing of either was measured.

    Parameters
    ----------
    model
        In evaluation mode.
    layers
        Its MoE layers.
    text
        What it reads.
    name, about
        Of the trace.
    prompt
        Share of a sequence that counts as the prompt.
    batch
        Sequences that run together.
    probes
        Tokens whose hidden states are kept.

    Returns
    -------
    Routing
    """
    num_r, length = text.tokens.shape
    every = max(1, num_r * length // probes)
    normals: list[NDArray[np.float32]] = []
    experts: list[NDArray[np.int64]] = []
    gates: list[NDArray[np.float32]] = []
    signed: list[NDArray[np.uint64]] = []
    kept: list[list[torch.Tensor]] = [[] for _ in layers]
    with torch.no_grad():
        for start in range(0, num_r, batch):
            rows = torch.from_numpy(text.tokens[start : start + batch])
            with recorded(layers) as calls:
                model(input_ids=rows, use_cache=False)
            if not normals:
                normals = [
                    planes(call.hidden.shape[-1], seed=SIGNATURE_SEED) for call in calls
                ]
            experts.append(np.stack([call.experts.numpy() for call in calls], axis=1))
            gates.append(np.stack([call.gates.numpy() for call in calls], axis=1))
            states = [call.hidden.float() for call in calls]
            signed.append(
                np.stack(
                    [
                        signatures(state.numpy(), normal)
                        for state, normal in zip(states, normals, strict=True)
                    ],
                    axis=1,
                )
            )
            first = -start * length % every
            for keep, call in zip(kept, calls, strict=True):
                keep.append(call.hidden[first::every].clone())
    num_prompt = min(length - 1, max(1, round(prompt * length)))
    header = TraceHeader(
        name=name,
        about={
            "note": "text that the model read, not wrote; arrivals and homes were not "
            "recorded: one request a second, from anywhere"
        }
        | about,
        applications=text.domains,
        homes=(ANY_HOME,),
        experts=tuple(layer.num_experts for layer in layers),
        top_k=experts[0].shape[-1],
        layer_ids=tuple(layer.layer_id for layer in layers),
        signature_bits=BITS,
        prompt_recorded=True,
    )
    requests = Requests(
        arrival_s=np.arange(num_r, dtype=np.float64),
        application=text.domain,
        home=np.zeros(num_r, dtype=np.int64),
        prompt_tokens=np.full(num_r, num_prompt),
        output_tokens=np.full(num_r, length - num_prompt),
    )
    chunk = Chunk(
        experts=np.concatenate(experts).astype(header.expert_type),
        gates=np.concatenate(gates).astype(np.float16),
        token_request=np.repeat(np.arange(num_r), length),
        signature=np.concatenate(signed),
    )
    return Routing(
        trace=Trace.of(header, requests, chunk),
        probes=[torch.cat(keep) for keep in kept],
    )

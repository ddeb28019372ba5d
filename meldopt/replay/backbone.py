"""Time of what is no routed expert: attention, shared experts, router, embeddings.

No decision moves it, so no term counts it; in event mode it takes its turn on the
processor of its host. It is read once a layer and step, and computes 2 FLOP a
parameter and token, at 2 bytes a parameter. Attention over the context (the KV cache)
is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt import catalogue
from meldopt.units import parse_quantity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.instance import Instance, ServerSpec
    from meldopt.problem import Problem

PRECISION = "bf16"
"""What the backbone computes in."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backbone:
    """Seconds of the backbone in a layer, for each server that may host it.

    Attributes
    ----------
    step_s
        Of one reading of its weights, (S,).
    token_s
        Of the arithmetic of one token, (S,).
    reuse
        ``limits.reuse`` of the instance: the rates of its problem count it, but the
        event mode counts itself who shares a reading.
    """

    step_s: NDArray[np.float64]  # (S,)
    token_s: NDArray[np.float64]  # (S,)
    reuse: float = 1.0

    @classmethod
    def none(cls, problem: Problem, *, reuse: float = 1.0) -> Backbone:
        """Return a backbone that takes no time."""
        nothing = np.zeros(problem.num_servers)
        return cls(step_s=nothing, token_s=nothing, reuse=reuse)


def backbone_of(instance: Instance, problem: Problem) -> Backbone:
    """Time the backbone of an instance on the first tier of each server.

    The backbone of the whole model is spread evenly over its MoE layers.
    """
    model, reuse = instance.spec.model, instance.spec.limits.reuse
    size = 0.0
    if model.backbone is not None:
        size = parse_quantity(model.backbone, "bytes")
    elif model.catalogue is not None:
        size = 2.0 * catalogue.model(model.catalogue).backbone_parameters
    each = size / problem.num_layers
    first = np.searchsorted(problem.server_of, np.arange(problem.num_servers))
    per_flop = np.array(
        [_s_per_flop(server) for server in instance.spec.cluster.servers]
    )
    return Backbone(
        step_s=each * problem.s_per_byte[first] * reuse,
        token_s=each * per_flop,  # 2 FLOP a parameter, 2 bytes a parameter
        reuse=reuse,
    )


def _s_per_flop(server: ServerSpec) -> float:
    """Return 1 ÷ FLOP/s of a server's first tier; 0 where no arithmetic is modelled."""
    rates: dict[str, float] = {}
    if server.device is not None:
        rates.update(catalogue.device(server.device).flops)
    own = next(iter((server.tiers or {}).values()), None)
    for name, rate in ((own and own.compute) or {}).items():
        rates[name] = parse_quantity(rate, "FLOP/s")
    if not rates:
        return 0.0
    # Rates written for formats only: the slowest stands for full precision.
    return 1.0 / rates.get(PRECISION, min(rates.values()))

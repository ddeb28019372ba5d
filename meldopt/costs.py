"""Cost of a share under the linear terms of the objective, factorised.

``serial``, ``traffic``, ``energy`` and ``quality`` are sums over shares. One second
of network, one second of work and one nat each have a price here; a share costs

    weight[q, i] (net[q, l, s] + work[i, v, b] work_price[v] + nat loss[g, i, b])

with ``weight[q, i] = rate[q] / total rate x calls[g, i]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearCosts:
    """Prices of the parts of a share.

    Attributes
    ----------
    net
        Of one served call, without its work; (Q, L, S), inf where it may not go.
    saved
        What a fused call saves of it; (Q, L, S).
    work_price
        Of one second of work at a place; (V,).
    nat
        Of one nat.
    """

    net: NDArray[np.float64]
    saved: NDArray[np.float64]
    work_price: NDArray[np.float64]
    nat: float


def linear_costs(problem: Problem) -> LinearCosts:
    """Price the parts of a share by the weights of the objective (`home`)."""
    serial, traffic, energy = (
        problem.weight_of(term) for term in ("serial", "traffic", "energy")
    )
    moved = (
        serial * problem.transfer_s
        + traffic * problem.crossed_bytes
        + energy * problem.crossed_joule
    )
    reach = problem.reachable
    trip = np.where(reach, problem.round_trip_s, 0.0)
    return LinearCosts(
        net=np.where(reach, serial * trip + moved, np.inf),
        saved=(1 - problem.fuse_factor) * moved * problem.remote,
        work_price=serial + energy * problem.power_w,
        nat=problem.weight_of("quality"),
    )

"""Roaming tokens: in each layer the token goes to where its primary expert answers.

The primary expert of a layer is the one with the largest gate. From where the token is,
its state goes to every expert that it calls, each at the copy nearest to it, and what
they answer is gathered at the primary's. That is what `paths` of an instance describe:
pairs from a primary to each expert of the next layer and from each expert to the
primary of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from meldopt.errors import PlanError

from .compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem

prange: Any = numba.prange


def nearest_copies(problem: Problem, plan: Plan) -> NDArray[np.int64]:
    """Return the copy of an expert that a token at a server takes, (G, S, N).

    The copy at the least distance; untrusted ones only if there are no others, and
    the first among equals.

    Raises
    ------
    PlanError
        If an expert has no copy: a trace may call any.
    """
    expert, place, _ = plan.copies.T
    server = problem.server_of[place]
    start = np.searchsorted(expert, np.arange(problem.num_experts + 1))
    shape = (problem.num_applications, problem.num_servers, problem.num_experts)
    nearest = np.full(shape, -1, dtype=np.int64)
    gone = np.diff(start) == 0
    if gone.any():
        i = int(np.argmax(gone))
        layer = int(problem.layer_of[i])
        raise PlanError(
            f"copies: got none of layer {layer}, expert "
            f"{i - problem.layer_start[layer]}, expected one"
        )
    for g in range(problem.num_applications):
        trusted = problem.trusted[g, server]
        for i in range(problem.num_experts):
            mine = np.arange(start[i], start[i + 1])
            if len(mine) < 2:
                nearest[g, :, i] = mine[0] if len(mine) else -1
                continue
            cost = problem.distance[:, server[mine]]
            if trusted[mine].any():
                cost = np.where(trusted[mine], cost, np.inf)
            nearest[g, :, i] = mine[np.argmin(cost, axis=1)]
    return nearest


class RoamTables:
    """What the kernel looks up: made once, used for every chunk."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.nearest = nearest_copies(problem, plan)
        self.server = problem.server_of[plan.copies[:, 1]]
        self.work = problem.work_s(*plan.copies.T)

    def chunk(
        self,
        experts: NDArray[np.uint16],
        demand: NDArray[np.int64],
        layer: NDArray[np.int64],
        first_token: int,
        serial: NDArray[np.float64],
        parallel: NDArray[np.float64],
    ) -> None:
        """Fill in `serial` and `parallel` of consecutive tokens; (T,), (T,)."""
        problem = self.problem
        _walk(
            experts,
            problem.application_of[demand],
            problem.home_of[demand],
            layer,
            problem.layer_start,
            self.nearest,
            self.server,
            self.work,
            problem.distance,
            serial,
            parallel,
        )


def _walks(
    experts: Any,
    application: Any,
    home: Any,
    layer: Any,
    layer_start: Any,
    nearest: Any,
    server: Any,
    copy_work: Any,
    distance: Any,
    serial: Any,
    parallel: Any,
) -> None:
    num_t, num_k = len(home), experts.shape[2]
    num_l = len(layer)
    blocks = max(1, min(64, num_t // 256))
    for block in prange(blocks):
        work = np.zeros(distance.shape[0])
        seen = np.full(distance.shape[0], -1)
        for t in range(num_t * block // blocks, num_t * (block + 1) // blocks):
            g, at = application[t], home[t]
            total, sides = 0.0, 0.0
            for l in range(num_l):  # noqa: E741
                row, first = layer[l], layer_start[l]
                stamp = t * num_l + l
                primary = server[nearest[g, at, first + experts[t, row, 0]]]
                slowest = 0.0
                for k in range(num_k):
                    c = nearest[g, at, first + experts[t, row, k]]
                    s = server[c]
                    way = distance[at, s]
                    total += way + copy_work[c]
                    if k:
                        total += distance[s, primary]
                    if seen[s] != stamp:
                        seen[s] = stamp
                        work[s] = 0.0
                    work[s] += copy_work[c]
                    if s != primary:
                        way += distance[s, primary]
                    slowest = max(slowest, way + work[s])
                sides += slowest
                at = primary
            end = distance[at, home[t]]
            serial[t] = total + end
            parallel[t] = sides + end


_walk: Any = kernel(_walks, parallel=True)

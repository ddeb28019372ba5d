"""LPLB: replicas as EPLB places them, and a linear programme that shares out the calls.

Each redundant expert is an edge from the server of its original; tokens move along the
edges, no more than the expert has, so that the busiest server has least to do. DeepSeek
solves it for every batch with an interior-point method on the GPU; here it is solved
for the mean traffic, layer by layer, by HiGHS.

Decides: placement, copies, shares.
Ignores: homes, network, and every row but memory.
Gaps filled: the published topologies (cube, hypercube, torus) are those of equal GPUs;
here the edges are where EPLB puts the replicas. Servers differ in speed, so that
seconds of work are balanced, not tokens. The same part of an expert's calls goes to a
copy from every demand. It is the mean over the traffic: batches have no place in a
plan.

References
----------
.. [1] DeepSeek-AI (2025). Linear-Programming-Based Load Balancer.
   https://github.com/deepseek-ai/LPLB
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .eplb import balanced_replicas
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

LEAST_SHARE = 1e-9
"""Shares below this are left out, and the others raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LplbParams(BaselineParams):
    """Parameters of `LplbSolver`.

    Attributes
    ----------
    redundant
        Redundant experts of a layer; -1: as many as memory holds.
    """

    redundant: int = -1


def least_makespan(
    work: NDArray[np.float64],
    expert: NDArray[np.int64],
    server: NDArray[np.int64],
) -> tuple[NDArray[np.float64], float]:
    """Share out the work of experts over their copies so that no server has much.

    ``min t`` such that the shares of an expert sum to one and
    ``sum of work x share <= t`` on every server.

    Parameters
    ----------
    work
        Seconds if the copy gets all calls of its expert; (C,).
    expert, server
        Of each copy; (C,).

    Returns
    -------
    tuple of ndarray and float
        Share of each copy, (C,), and the work of the busiest server.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    num = len(work)
    _, row = np.unique(expert, return_inverse=True)
    _, device = np.unique(server, return_inverse=True)
    scale = float(work.max(initial=0.0)) or 1.0
    column = np.arange(num)
    load = coo_array(
        (
            np.append(work / scale, np.full(device.max() + 1, -1.0)),
            (
                np.append(device, np.arange(device.max() + 1)),
                np.append(column, np.full(device.max() + 1, num)),
            ),
        )
    )
    whole = coo_array((np.ones(num), (row, column)), shape=(row.max() + 1, num + 1))
    found = linprog(
        np.append(np.zeros(num), 1.0),
        A_ub=load.tocsr(),
        b_ub=np.zeros(device.max() + 1),
        A_eq=whole.tocsr(),
        b_eq=np.ones(row.max() + 1),
        bounds=(0.0, None),
        method="highs-ds",
    )
    share = np.where(found.x[:num] < LEAST_SHARE, 0.0, found.x[:num])
    share = share / np.bincount(row, share)[row]
    return share, float(np.bincount(device, share * work).max())


class LplbSolver(Baseline):
    """EPLB's replicas, and shares that leave the busiest server least to do."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="lplb",
        summary="EPLB's replicas, and shares that leave the busiest server least to do",
        citation="DeepSeek LPLB, https://github.com/deepseek-ai/LPLB",
        decides=("placement", "copies", "shares"),
        sees=("memory", "calls", "work"),
        dataflows=("home",),
        params=LplbParams,
        packages=("scipy",),
    )
    params: LplbParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Place by EPLB, then share out layer by layer while there is time."""
        expert, server = balanced_replicas(view, redundant=self.params.redundant)
        key = np.unique(expert * problem.num_servers + server)
        expert, server = np.divmod(key, problem.num_servers)
        check.keep(Decision(expert=expert, server=server))
        shared = np.bincount(expert, minlength=problem.num_experts)[expert] > 1
        load, work = view.load[expert], view.work[expert, server]
        busy = np.where(load > 0, load * work, 0.0)
        rows, shares = [], []
        layer_of = problem.layer_of[expert]
        for layer in np.unique(layer_of[shared]).tolist():
            if check.spent():
                break
            mine = np.flatnonzero((layer_of == layer) & np.isfinite(busy))
            share, _ = least_makespan(busy[mine], expert[mine], server[mine])
            used = shared[mine] & (share > 0)
            rows.append(mine[used])
            shares.append(share[used])
        row = np.concatenate([*rows, np.zeros(0, dtype=np.int64)])
        share = np.concatenate([*shares, np.zeros(0)])
        demand = np.repeat(np.arange(problem.num_demands), len(row))
        return Decision(
            expert=expert,
            server=server,
            served=np.stack([demand, np.tile(row, problem.num_demands)], axis=1),
            served_share=np.tile(share, problem.num_demands),
        )

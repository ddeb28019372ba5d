"""Longest processing time first: balance the work of every layer.

The experts of a layer in order of their work, each to the server that would be done
first. On equal servers this is Graham's rule, at most 4/3 - 1/(3P) of the best
makespan; on unequal ones, the greedy rule of Ibarra and Kim.

Decides: placement.
Ignores: homes, network, and every row but memory.
Gaps filled: layers run one after the other, so each is balanced by itself; a server may
fill, up to any layer, the part of its memory that the layers so far are of the model.
Where no server has that much, any with room; where none has room, the one with most.

References
----------
.. [1] Graham, R. L. (1969). Bounds on multiprocessing timing anomalies. *SIAM J. Appl.
   Math.* 17(2), 416-429.
.. [2] Ibarra, O. H., Kim, C. E. (1977). Heuristic algorithms for scheduling independent
   tasks on nonidentical processors. *J. ACM* 24(2), 280-289.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.tolerance import FEASIBILITY

from .complete import Decision
from .method import Baseline, BaselineInfo, Budget, baseline_info

if TYPE_CHECKING:
    from meldopt.problem import Problem

    from .view import View


class LptSolver(Baseline):
    """Experts of a layer by work, each to the server that is done first."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="lpt",
        summary="experts of a layer by work, each to the server that is done first",
        citation="Graham 1969, SIAM J. Appl. Math. 17(2); Ibarra and Kim 1977",
        decides=("placement",),
        sees=("memory", "calls", "work"),
    )

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Balance layer by layer."""
        server = np.zeros(problem.num_experts, dtype=np.int64)
        used = np.zeros(problem.num_servers)
        slack = 0.5 * FEASIBILITY * view.room
        size = np.where(np.isfinite(view.size), view.size, 0.0)
        total = np.maximum(size.sum(axis=0), 1e-300)
        seen = np.zeros(problem.num_servers)
        busy = view.load[:, None] * view.work  # (N, S) seconds per second
        busy[np.isnan(busy)] = np.inf  # never called where nothing runs
        for layer in range(problem.num_layers):
            experts = view.experts(layer)
            seen += size[experts].sum(axis=0)
            quota = view.room * seen / total
            done = np.zeros(problem.num_servers)
            # On unequal servers the least work of an expert says how long it is.
            order = experts[np.argsort(-busy[experts].min(axis=1), kind="stable")]
            for i in order.tolist():
                end = done + busy[i]
                for limit in (quota, view.room):
                    fits = used + view.size[i] <= limit + slack
                    if fits.any():
                        s = int(np.argmin(np.where(fits, end, np.inf)))
                        break
                else:
                    s = int(np.argmax(view.room - used))
                server[i] = s
                done[s] = end[s]
                used[s] += view.size[i, s]
        return Decision(server=server)

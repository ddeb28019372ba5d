"""Random placement: the reference that every placement should beat.

Each expert, in random order, goes to a server drawn at random from those that still
have room.

Decides: placement.
Ignores: everything but memory.
Gaps filled: papers use it without saying how memory is kept; here a server is drawn
only while the expert fits, and if none has room the one with most is taken.

References
----------
.. [1] A baseline of SmartMoE, Prism (arXiv 2508.12851) and MoETuner (arXiv 2502.06643).
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


class RandomSolver(Baseline):
    """One copy of each expert on a random server that has room."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="random",
        summary="one copy of each expert on a random server that has room",
        citation="folklore; a baseline of Prism, arXiv 2508.12851",
        decides=("placement",),
        sees=("memory",),
    )

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Draw a server for each expert."""
        left, slack = view.room.copy(), 0.5 * FEASIBILITY * view.room
        server = np.zeros(problem.num_experts, dtype=np.int64)
        draws = rng.random(problem.num_experts)
        for i, draw in zip(
            rng.permutation(problem.num_experts).tolist(), draws.tolist(), strict=True
        ):
            fits = np.flatnonzero(view.size[i] <= left + slack)
            if len(fits):
                server[i] = fits[int(draw * len(fits))]
            else:
                server[i] = np.argmax(left)
            left[server[i]] -= view.size[i, server[i]]
        return Decision(server=server)

"""One format for all experts, the one of most bits that fits.

The baseline of the papers that choose bit-widths: "Uniform" of LLM-PQ ([1]_) lowers the
precision of all layers from the most bits until the model fits; PMQ, GEMQ and MxMoE
compare with one width for all as well.

Decides: formats (one for all).
Ignores: calls, losses, work and every row but memory.
Gaps filled: the memory is that of all servers together, and a format fits if the common
placement keeps the memory of every place; if no format fits, the smallest is taken.

References
----------
.. [1] Zhao, J., et al. (2024). LLM-PQ: Serving LLM on Heterogeneous Clusters with
   Phase-Aware Partition and Adaptive Quantization. *PPoPP (poster)*.
   https://arxiv.org/abs/2403.01136
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, Budget, baseline_info
from .widths import packs, usable

if TYPE_CHECKING:
    from meldopt.problem import Problem

    from .view import View


class UniformSolver(Baseline):
    """One format for all experts, the one of most bits that fits."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="uniform",
        summary="one format for all experts, the one of most bits that fits",
        citation="the uniform baseline of LLM-PQ, arXiv 2403.01136",
        decides=("formats",),
        sees=("memory",),
    )

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Take the first format, from the most bits down, that fits."""
        formats = usable(problem).tolist()
        if not formats:
            return None
        total = problem.size_bytes.sum(axis=0)
        chosen = min(formats, key=lambda b: float(total[b]))
        check.keep(Decision(format=np.full(problem.num_experts, chosen)))
        for b in formats:
            every = np.full(problem.num_experts, b, dtype=np.int64)
            if total[b] <= view.room.sum() and packs(problem, view, every):
                chosen = b
                break
            if check.step():
                break
        return Decision(format=np.full(problem.num_experts, chosen, dtype=np.int64))

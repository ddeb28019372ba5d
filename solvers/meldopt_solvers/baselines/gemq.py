"""GEMQ: one multiple-choice knapsack over the experts of all layers.

The widths of all experts share one budget ([1]_)::

    min  sum c[l,i,k] x[l,i,k],   sum_k x = 1,   sum b_k x <= B

with c the error that width k of expert i makes in the output of layer l, weighted by
the squared gradients of the loss: a second-order estimate of the loss itself. The
authors solve it with a commercial engine; here it is solved exactly as well
(`meldopt_solvers.baselines.knapsack`). ``required`` adds their optional constraints: in
each layer at least one expert at the most bits and one at the second most.

Decides: formats.
Ignores: servers, routes, work, and the quality budget of each application.
Gaps filled: memory is that of all servers together, and less is budgeted for if the
common placement cannot fill it (`widths.fitted`). c is the loss of the instance, nats
per token, mean over applications by rate. Routers are not fine-tuned and c is not
measured again at lower widths: one step, not the paper's descent from 2.5 to 1.5 bits.
If the budget does not allow what is required, the second width is given up, then the
first.

References
----------
.. [1] Deng, J., Wang, S., Wang, D., Liu, Z., Chen, T., Yang, H., & Hu, J. (2026). GEMQ:
   Global Expert-Level Mixed-Precision Quantization for MoE LLMs. *ICML*.
   https://arxiv.org/abs/2605.23078
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .widths import allocate, fitted, loss_per_token, usable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class GemqParams(BaselineParams):
    """Parameters of `GemqSolver`.

    Attributes
    ----------
    required
        Whether each layer holds an expert of each of the two widest formats.
    """

    required: bool = False


class GemqSolver(Baseline):
    """Formats of all layers at once, by loss: one exact knapsack."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="gemq",
        summary="bits of all layers at once, by loss: one exact knapsack",
        citation="GEMQ, arXiv 2605.23078",
        decides=("formats",),
        sees=("memory", "calls", "losses"),
        terms=("quality",),
        params=GemqParams,
    )
    params: GemqParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Choose formats for all experts."""
        formats = usable(problem)
        if not len(formats):
            return None
        loss = loss_per_token(problem)
        required = formats[:2].tolist() if self.params.required else ()

        def bits(memory: float) -> NDArray[np.int64]:
            return allocate(
                loss,
                problem.size_bytes,
                memory,
                formats,
                required=required,
                group=problem.layer_of,
            )

        return Decision(format=fitted(problem, view, check, bits))

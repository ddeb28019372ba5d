"""Contiguous expert parallelism: what engines do by default.

Of ``P`` servers, server ``s`` holds the experts ``s E / P`` to ``(s + 1) E / P`` of
every layer. vLLM calls it linear placement, and GShard's successors split a layer so.

Decides: placement.
Ignores: everything but the number of experts and servers.
Gaps filled: where E is not a multiple of P the first servers hold one more, as in vLLM.
With ``by_memory`` a server that cannot hold its part holds what fits, and the others
share the rest: engines expect equal devices and say nothing of unequal ones.

References
----------
.. [1] vLLM, ``ParallelConfig.expert_placement_strategy = "linear"``,
   https://docs.vllm.ai/en/latest/serving/expert_parallel_deployment/
.. [2] Lepikhin, D., et al. (2021). GShard: Scaling Giant Models with Conditional
   Computation and Automatic Sharding. *ICLR*. https://arxiv.org/abs/2006.16668
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParams(BaselineParams):
    """Parameters of `ContiguousSolver` and `RoundRobinSolver`.

    Attributes
    ----------
    by_memory
        Whether a server that cannot hold its equal part holds what fits.
    """

    by_memory: bool = False


def parts_of_layers(view: View, *, by_memory: bool) -> NDArray[np.int64]:
    """Return how many experts of each layer each server holds; (L, S)."""
    if by_memory:
        from .slots import layer_slots

        return layer_slots(view)
    num = view.problem.num_servers
    sizes = np.diff(view.problem.layer_start)[:, None]
    parts: NDArray[np.int64] = sizes // num + (np.arange(num) < sizes % num)
    return parts


class ContiguousSolver(Baseline):
    """Equal runs of consecutive experts of every layer, one for each server."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="contiguous",
        summary="equal runs of consecutive experts of every layer, one for each server",
        citation="vLLM, expert_placement_strategy='linear'; GShard, arXiv 2006.16668",
        decides=("placement",),
        params=EngineParams,
    )
    params: EngineParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Cut every layer into runs."""
        parts = parts_of_layers(view, by_memory=self.params.by_memory)
        servers = np.tile(np.arange(problem.num_servers), problem.num_layers)
        return Decision(server=np.repeat(servers, parts.ravel()))

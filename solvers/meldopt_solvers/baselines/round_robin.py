"""Round-robin expert parallelism: the other default of engines.

Expert ``e`` of every layer lies on server ``e mod P``, so that neighbours in a layer,
which often belong to one routing group, are spread.

Decides: placement.
Ignores: everything but the number of experts and servers.
Gaps filled: every layer begins at the first server, as in vLLM. With ``by_memory`` the
turns of a server that holds what it can are left out, the last ones first.

References
----------
.. [1] vLLM, ``ParallelConfig.expert_placement_strategy = "round_robin"``,
   https://docs.vllm.ai/en/latest/serving/expert_parallel_deployment/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .contiguous import EngineParams, parts_of_layers
from .method import Baseline, BaselineInfo, Budget, baseline_info

if TYPE_CHECKING:
    from meldopt.problem import Problem

    from .view import View


class RoundRobinSolver(Baseline):
    """Experts of every layer dealt to the servers in turn."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="round_robin",
        summary="experts of every layer dealt to the servers in turn",
        citation="vLLM, expert_placement_strategy='round_robin'",
        decides=("placement",),
        params=EngineParams,
    )
    params: EngineParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Deal the experts of every layer."""
        server = []
        for parts in parts_of_layers(view, by_memory=self.params.by_memory):
            turns = np.concatenate([np.arange(count) for count in parts])
            owner = np.repeat(np.arange(len(parts)), parts)
            server.append(owner[np.lexsort((owner, turns))])
        return Decision(server=np.concatenate(server))

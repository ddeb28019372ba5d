"""Pre-loading mixed-precision quantization (PMQ) of MC-MoE: bits per block.

In each block (MoE layer) an integer programme gives each expert one width ([1]_, and
the authors' released solver and allocations)::

    min   sum_ij  phi_i^alpha  w_i^beta  eps_ij^gamma  x_ij
    s.t.  sum_ij bits_j x_ij <= budget of the block,   sum_j x_ij = 1
          at least one expert at the most bits, and one at the second most

with phi the frequency of an expert, w its gate weight (both add to one in a block) and
eps its error at a width. The paper says alpha = beta = 1, gamma = 2; the released code
takes 1, 1.5 and 1, and those reproduce the released allocations of Mixtral-8x7B, all 32
blocks at 12, 16 and 20 bits: they are the defaults. ``odp`` adds online dynamic pruning
(ODP): the second expert of a token is dropped when the ratio of its gate to the first
one's is below the median, except for the 2 % of tokens that matter most.

Decides: formats, block by block; with ``odp`` pruned shares.
Ignores: servers, routes, work, the quality budget, what blocks could lend each other.
Gaps filled: memory is that of all servers together, each block gets its part by size,
and less is budgeted for if the common placement cannot fill it (`widths.fitted`). eps
is the loss per call. Gate weights are not part of an instance: the code's w is the sum
of gates over tokens, which for equal mean gates is the frequency. A width of which a
block cannot hold one within its budget is not required of it, the second first. ODP:
the median ratio drops half of the last choices but for the 2 %, 0.49 of the calls of
rank k, so 0.49 / k of all calls of a layer (the paper has k = 2), each expert alike and
the cheapest segments of the curve first; never more than the curve has.

References
----------
.. [1] Huang, W., et al. (2025). MC-MoE: Mixture Compressor for Mixture-of-Experts LLMs
   Gains More. *ICLR*. https://arxiv.org/abs/2410.06270
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.solver import needed

from .complete import Decision, place_by_time
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .widths import allocate, fitted, loss_per_call, usable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion

    from .view import View

DROPPED = 0.5
"""Part of the tokens whose gate ratio is below its median."""

PROTECTED = 0.02
"""Part of the tokens that ODP never prunes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PmqParams(BaselineParams):
    """Parameters of `PmqSolver`.

    Attributes
    ----------
    alpha, beta, gamma
        Exponents of the frequency, the gate weight and the error.
    required
        Whether each block holds an expert of each of the two widest formats.
    odp
        Whether calls are pruned as well.
    """

    alpha: float = 1.0
    beta: float = 1.5
    gamma: float = 1.0
    required: bool = True
    odp: bool = False


class PmqSolver(Baseline):
    """Formats per block by frequency, gate weight and error: exact knapsacks."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="pmq",
        summary="bits per block by frequency, gate weight and error",
        citation="MC-MoE (PMQ, ODP), arXiv 2410.06270",
        decides=("formats", "pruning"),
        sees=("memory", "calls", "losses"),
        params=PmqParams,
    )
    params: PmqParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Choose formats for each block; prune if asked to."""
        formats = usable(problem)
        if not len(formats):
            return None
        p = self.params
        error = loss_per_call(problem)
        blocks = [view.experts(layer) for layer in range(problem.num_layers)]
        costs = [
            surrogate(
                view.load[block],
                view.load[block],
                error[block],
                alpha=p.alpha,
                beta=p.beta,
                gamma=p.gamma,
            )
            for block in blocks
        ]
        whole = problem.size_bytes[:, formats[0]]

        def bits(memory: float) -> NDArray[np.int64]:
            chosen = np.zeros(problem.num_experts, dtype=np.int64)
            for block, cost in zip(blocks, costs, strict=True):
                part = memory * float(whole[block].sum() / max(whole.sum(), 1e-300))
                chosen[block] = allocate(
                    cost,
                    problem.size_bytes[block],
                    part,
                    formats,
                    required=formats[:2].tolist() if p.required else (),
                )
            return chosen

        chosen = fitted(problem, view, check, bits)
        if not p.odp:
            return Decision(format=chosen)
        place = place_by_time(
            problem, view, np.arange(problem.num_experts, dtype=np.int64), chosen
        )
        return dataclasses.replace(prune(problem), format=chosen, place=place)

    def solve(
        self,
        problem: Problem,
        /,
        *,
        stop: StopCriterion,
        seed: int,
        start: Plan | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Solve a problem; see `meldopt.solver.Solver`."""
        result = super().solve(
            problem, stop=stop, seed=seed, start=start, on_progress=on_progress
        )
        if not self.params.odp and "pruning" in needed(problem):
            return dataclasses.replace(result, ignored=(*result.ignored, "pruning"))
        return result


def surrogate(
    frequency: NDArray[np.float64],
    gate: NDArray[np.float64],
    error: NDArray[np.float64],
    *,
    alpha: float = 1.0,
    beta: float = 1.5,
    gamma: float = 1.0,
) -> NDArray[np.float64]:
    """Return what the experts of one block cost at each width, as PMQ sees it.

    Parameters
    ----------
    frequency, gate
        Calls and gate weight of each expert, in any unit; (E,).
    error
        Of each expert at each width, not negative where ``gamma`` is not whole; (E, B).
    alpha, beta, gamma
        Exponents.

    Returns
    -------
    ndarray of float64, shape (E, B)
        Frequency and gate weight are made to add to one first.
    """
    phi = frequency / max(float(frequency.sum()), 1e-300)
    weight = gate / max(float(gate.sum()), 1e-300)
    cost: NDArray[np.float64] = (phi**alpha * weight**beta)[:, None] * error**gamma
    return cost


def prune(problem: Problem) -> Decision:
    """Return the shares of ODP, for a decision of one copy of each expert in order."""
    served, served_share, pruned, pruned_share = [], [], [], []
    for q, g in enumerate(problem.application_of.tolist()):
        calls = problem.calls[g]
        k = np.bincount(problem.layer_of, calls, problem.num_layers)
        # Nothing is dropped where only one expert is called: there is no second.
        target = np.where(k > 1.0, DROPPED * (1.0 - PROTECTED) / np.maximum(k, 1.0), 0)
        width = problem.prune_width[g]  # (L, M)
        before = np.cumsum(width, axis=1) - width
        share = np.clip(target[:, None] - before, 0.0, width)  # (L, M)
        of = share[problem.layer_of]  # (N, M)
        i, n = np.nonzero((of > 0.0) & (calls > 0.0)[:, None])
        pruned.append(np.stack([np.full(len(i), q), i, n], axis=1))
        pruned_share.append(of[i, n])
        i = np.unique(i)
        served.append(np.stack([np.full(len(i), q), i], axis=1))
        served_share.append(1.0 - of[i].sum(axis=1))
    if not served:
        return Decision()
    return Decision(
        served=np.concatenate(served).astype(np.int64),
        served_share=np.concatenate(served_share),
        pruned=np.concatenate(pruned).astype(np.int64),
        pruned_share=np.concatenate(pruned_share),
    )

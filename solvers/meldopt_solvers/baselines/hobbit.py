"""Hot experts in many bits, cold ones in few: HOBBIT and D2MoE, planned ahead.

HOBBIT ([1]_) keeps two copies of every expert in reach, one of many bits and one of
few, and loads the small one when an expert that matters little is missing; its cache
favours experts that are used often in many bits. As a plan made ahead that is a rule of
popularity: experts in order of calls per second get many bits while memory lasts, and
the rest get few. D2MoE ([2]_) nests the widths of an expert in one code, and loads the
bits that most tokens ask for first under a memory budget ("hottest expert bit first"):
``nested`` does so with all widths of the instance.

Decides: formats.
Ignores: losses, servers, routes, work, and every row but memory.
Gaps filled: both decide token by token, by gate; a plan is made ahead, by calls per
second over all demands and layers. Memory is that of all servers together, and less is
budgeted for if the common placement cannot fill it (`widths.fitted`). The many bits are
the most that the instance has; the few are the most, below them, in which all experts
fit (HOBBIT: float16 with int4, or int8 with int2). Copies are not kept twice. In D2MoE
the widths that tokens ask for depend on the requests; here each is asked for equally
often, so that of W widths the n-th step up is used by (W - n) / W of the calls.

References
----------
.. [1] Tang, P., et al. (2024). HOBBIT: A Mixed Precision Expert Offloading System for
   Fast MoE Inference. https://arxiv.org/abs/2411.01433
.. [2] Wang, H., Zhou, Q., Hong, Z., & Guo, S. (2025). D2MoE: Dual Routing and Dynamic
   Scheduling for Efficient On-Device MoE-based LLM Serving. *MobiCom*.
   https://arxiv.org/abs/2504.15299
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .widths import fitted, total, usable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class HobbitParams(BaselineParams):
    """Parameters of `HobbitSolver`.

    Attributes
    ----------
    nested
        Whether all widths are used, as in D2MoE; else the two of HOBBIT.
    """

    nested: bool = False


class HobbitSolver(Baseline):
    """Many bits for the most called experts, few for the rest."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="hobbit",
        summary="many bits for the most called experts, few for the rest",
        citation="HOBBIT, arXiv 2411.01433; D2MoE, arXiv 2504.15299",
        decides=("formats",),
        sees=("memory", "calls"),
        params=HobbitParams,
    )
    params: HobbitParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Raise the most called experts while memory lasts."""
        formats = usable(problem)
        if not len(formats):
            return None

        rule = hottest_bits_first if self.params.nested else hottest_first

        def bits(memory: float) -> NDArray[np.int64]:
            return rule(view.load, problem.size_bytes, memory, formats)

        return Decision(format=fitted(problem, view, check, bits))


def hottest_first(
    load: NDArray[np.float64],
    size: NDArray[np.float64],
    budget: float,
    formats: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Give the most called experts many bits and the rest few, as HOBBIT does.

    Parameters
    ----------
    load
        Calls per second; (N,).
    size
        Bytes in each format; (N, B).
    budget
        Bytes of all experts together.
    formats
        Those that may be chosen, the one of most bits first.

    Returns
    -------
    ndarray of int64, shape (N,)
        Formats; all the few bits if even those exceed the budget.
    """
    fits = size[:, formats[1:]].sum(axis=0) <= budget
    low = formats[1 + int(fits.argmax())] if fits.any() else formats[-1]
    order = np.argsort(-load, kind="stable")
    chosen = np.full(len(load), low, dtype=np.int64)
    more = (size[:, formats[0]] - size[:, low])[order]
    # Sums cut the order: no colder, smaller expert takes the place of one that is out.
    chosen[order[total(size, chosen) + np.cumsum(more) <= budget]] = formats[0]
    return chosen


def hottest_bits_first(
    load: NDArray[np.float64],
    size: NDArray[np.float64],
    budget: float,
    formats: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Raise widths step by step, the steps that most calls use first, as D2MoE does.

    Parameters and result are those of `hottest_first`.
    """
    ladder = formats[::-1]  # from few bits to many
    step = np.arange(1, len(ladder))
    heat = load[:, None] * (len(ladder) - step) / len(ladder)  # (N, W - 1)
    level = np.zeros(len(load), dtype=np.int64)
    left = budget - total(size, ladder[level])
    for flat in np.argsort(-heat, axis=None, kind="stable").tolist():
        i, n = divmod(flat, len(step))
        if level[i] != n:
            continue  # the step below did not fit
        more = float(size[i, ladder[n + 1]] - size[i, ladder[n]])
        if more <= left:
            level[i] = n + 1
            left -= more
    return ladder[level]

"""MxMoE: bits of each layer by loss and time together.

In each layer, schemes are chosen for the experts so that ([1]_)::

    min  L^r T^(1-r),  that is  r log L + (1 - r) log T
    L = sum of losses,   T = sum of kernel times,   sum of bytes <= budget

with r = 0.75. The authors hand a product (or its logarithm) to a commercial engine.
Here it is solved exactly: r log L + (1 - r) log T is concave and grows with both, so
its minimum over all allocations is at a corner of their convex hull in the plane of
(L, T), and each corner minimises u L + v T within the budget for some u, v >= 0: a
multiple-choice knapsack. Corners are found between neighbours, as by Aneja and Nair
([2]_); pairs between which no corner can be better are left out.

Decides: formats, layer by layer.
Ignores: servers, routes, the quality budget, what layers could lend each other.
Gaps filled: a scheme is a format of the instance, one for the three matrices of an
expert (the paper has one for each, with gate and up alike); no tiles. L is nats per
token. The time of an expert is its calls per token times the work of a call, mean over
servers by room, each in its fastest tier that runs the format: the paper has one
device. Memory is that of all servers together, each layer gets its part by size, and
less is budgeted for if the common placement cannot fill it (`widths.fitted`). Losses
and times below 1e-6 of the largest allocation's count as that much, as logarithms need
something.

References
----------
.. [1] Duanmu, H., et al. (2025). MxMoE: Mixed-precision Quantization for MoE with
   Accuracy and Performance Co-Design. *ICML*. https://arxiv.org/abs/2505.05799
.. [2] Aneja, Y. P., & Nair, K. P. K. (1979). Bicriteria transportation problem.
   *Management Science*, 25(1). https://doi.org/10.1287/mnsc.25.1.73
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .knapsack import choose
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .widths import fitted, loss_per_token, smallest, usable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

LEAST = 1e-6
"""Part of the largest loss or time that counts instead of anything smaller."""

SIDE = 1e-7
"""Weight of the other measure where one is minimised alone: it decides among equals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MxmoeParams(BaselineParams):
    """Parameters of `MxmoeSolver`.

    Attributes
    ----------
    r
        Exponent of the loss, from 0 (time alone) to 1 (loss alone).
    """

    r: float = 0.75

    def __post_init__(self) -> None:
        if not 0.0 <= self.r <= 1.0:
            raise ValueError(f"r: got {self.r!r}, expected 0 to 1")


class MxmoeSolver(Baseline):
    """Formats per layer by the product of powers of loss and time, exactly."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="mxmoe",
        summary="bits per layer by loss and time together",
        citation="MxMoE, arXiv 2505.05799",
        decides=("formats",),
        sees=("memory", "calls", "losses", "work"),
        params=MxmoeParams,
    )
    params: MxmoeParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Choose formats for each layer."""
        formats = usable(problem)
        if not len(formats):
            return None
        loss, time = loss_per_token(problem), time_per_token(problem, view)
        whole = problem.size_bytes[:, formats[0]]

        def bits(memory: float) -> NDArray[np.int64]:
            chosen = smallest(problem.size_bytes, formats)
            for layer in range(problem.num_layers):
                one = view.experts(layer)
                part = memory * float(whole[one].sum() / max(whole.sum(), 1e-300))
                found = allocate_pair(
                    loss[one][:, formats],
                    time[one][:, formats],
                    problem.size_bytes[one][:, formats],
                    part,
                    self.params.r,
                )
                if found is not None:
                    chosen[one] = formats[found]
            return chosen

        return Decision(format=fitted(problem, view, check, bits))


def time_per_token(problem: Problem, view: View) -> NDArray[np.float64]:
    """Return seconds per token of each expert in each format; (N, B).

    Calls per token times the work of a call, mean over servers by room; inf where no
    server with room runs the format.
    """
    experts = np.arange(problem.num_experts)
    total = np.zeros((problem.num_experts, problem.num_formats))
    weight = np.zeros(problem.num_formats)
    for s, places in enumerate(problem.places_of):
        for b in np.flatnonzero(problem.allowed[places].any(axis=0)).tolist():
            runs = places[problem.allowed[places, b]]
            work = np.stack(
                [
                    problem.work_s(
                        experts, np.full(len(experts), v), np.full(len(experts), b)
                    )
                    for v in runs.tolist()
                ]
            )
            total[:, b] += float(view.room[s]) * work.min(axis=0)
            weight[b] += float(view.room[s])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(weight > 0, total / weight, np.inf)
    calls = view.load / problem.total_rate
    time: NDArray[np.float64] = np.where(np.isfinite(mean), calls[:, None], 1.0) * mean
    return time


def allocate_pair(
    loss: NDArray[np.float64],
    time: NDArray[np.float64],
    size: NDArray[np.float64],
    budget: float,
    r: float,
) -> NDArray[np.int64] | None:
    """Choose a column for each expert so that ``L^r T^(1-r)`` is least, exactly.

    Parameters
    ----------
    loss, time
        Of each expert in each column, not negative; (E, B).
    size
        Likewise; (E, B).
    budget
        Largest sum of sizes.
    r
        Exponent of the loss.

    Returns
    -------
    ndarray of int64, shape (E,), or None
        None if nothing is within the budget.
    """
    return _Corners(loss, time, size, budget, r).search()


class _Corners:
    """Corners of the hull of all allocations in the plane of loss and time."""

    def __init__(
        self,
        loss: NDArray[np.float64],
        time: NDArray[np.float64],
        size: NDArray[np.float64],
        budget: float,
        r: float,
    ) -> None:
        # In parts of the largest: then weights of both are of one kind.
        self.loss = _scaled(loss)
        self.time = _scaled(time)
        self.size, self.budget, self.r = size, budget, r
        self.best: tuple[float, NDArray[np.int64] | None] = (math.inf, None)

    def value(self, point: tuple[float, float]) -> float:
        """Return ``r log L + (1 - r) log T``."""
        loss, time = (max(x, LEAST) for x in point)
        return self.r * math.log(loss) + (1.0 - self.r) * math.log(time)

    def corner(self, u: float, v: float) -> tuple[float, float] | None:
        """Minimise ``u L + v T`` within the budget; keep the best; return (L, T)."""
        cost = np.where(np.isfinite(self.time), u * self.loss + v * self.time, np.inf)
        found = choose(cost, self.size, self.budget)
        if found is None:
            return None
        rows = np.arange(len(self.loss))
        point = (
            float(self.loss[rows, found.choice].sum()),
            float(self.time[rows, found.choice].sum()),
        )
        value = self.value(point)
        if value < self.best[0]:
            self.best = value, found.choice
        return point

    def search(self) -> NDArray[np.int64] | None:
        """Go from the two ends of the hull inwards."""
        first, last = self.corner(1.0, SIDE), self.corner(SIDE, 1.0)
        if first is None or last is None:
            return None
        # Each end comes with the line below which nothing lies: u L + v T >= w.
        ends = [(first, (1.0, SIDE), last, (SIDE, 1.0))]
        while ends:
            one, line, other, line_ = ends.pop()
            u, v = one[1] - other[1], other[0] - one[0]
            if u <= 0.0 or v <= 0.0:
                continue
            apex = _meet(one, line, other, line_)
            if self.value(apex) >= self.best[0]:
                continue
            between = self.corner(u, v)
            assert between is not None
            here = u * one[0] + v * one[1]
            if u * between[0] + v * between[1] >= here - 1e-12 * abs(here):
                continue
            ends.append((one, line, between, (u, v)))
            ends.append((between, (u, v), other, line_))
        return self.best[1]


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide by the sum of the largest of each expert."""
    finite = np.where(np.isfinite(values), values, 0.0)
    largest = float(finite.max(axis=1, initial=0.0).sum())
    scaled: NDArray[np.float64] = values / largest if largest > 0 else values
    return scaled


def _meet(
    one: tuple[float, float],
    line: tuple[float, float],
    other: tuple[float, float],
    line_: tuple[float, float],
) -> tuple[float, float]:
    """Return where two lines through two points meet: nothing between lies below."""
    (a, b), (c, d) = line, line_
    determinant = a * d - b * c
    if abs(determinant) < 1e-15:
        return min(one[0], other[0]), min(one[1], other[1])
    p, q = a * one[0] + b * one[1], c * other[0] + d * other[1]
    meet = ((p * d - b * q) / determinant, (a * q - p * c) / determinant)
    # Rounding must not lift it above the ends.
    return min(max(meet[0], 0.0), other[0]), min(max(meet[1], 0.0), one[1])

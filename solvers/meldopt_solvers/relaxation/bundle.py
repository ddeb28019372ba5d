"""Prices by a bundle method: cuts by layer, a linear master, a box round the best.

The Lagrangian is a sum of concave functions, one for each layer, and each evaluation
gives a cut of each. Their sum is maximised over a box round the best point, whose sides
grow where the last step ended on them and did well, and shrink where it did badly. It
ends when even the cuts promise next to nothing, and not because the box is small.

References
----------
.. [1] Lemaréchal, C. (2001). Lagrangian relaxation. In *Computational Combinatorial
   Optimization*, LNCS 2241.
.. [2] Marsten, R. E., Hogan, W. W., & Blankenship, J. W. (1975). The boxstep method for
   large-scale optimization. *Operations Research* 23(3).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.engines.highs import empty_highs

from .pricing import NODES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .pricing import Lagrangian, Point

FREE = 1e30
"""What HiGHS takes for infinite."""

LEAST_PRICE = 0.02
"""A side of the box is at least that of a price this part of the mean one."""

WIDEST, NARROWEST = 1.0, 1e-5
"""Sides of the box, relative to a price."""

GROWTH = 4.0
"""Of a side on which a good step ended."""

TINY = 1e-12
"""Objectives below this count as this."""

STRIDE = 7
"""From one layer to the next, the sample begins so much later in the order."""

OLD = 25
"""Cuts that were not tight for so many masters are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A stratified part of the blocks that stands for all.

    Attributes
    ----------
    skip
        Blocks that are left out; (Y,).
    weight
        What each layer counts for; (L,).
    """

    skip: NDArray[np.bool_]
    weight: NDArray[np.float64]


def draw_sample(lagrangian: Lagrangian, part: int) -> Sample:
    """Take one of ``part`` blocks of each layer, evenly over their traffic.

    From layer to layer another one of each ``part`` neighbours is taken: traffic is
    skewed, and always the middle one would stand for too little.
    """
    problem, blocks = lagrangian.problem, lagrangian.blocks
    traffic = problem.rate @ problem.calls[problem.application_of]
    mass = np.add.reduceat(traffic[blocks.member], blocks.start[:-1])
    skip = np.ones(len(mass), dtype=np.bool_)
    weight = np.ones(problem.num_layers)
    for layer in range(problem.num_layers):
        low, high = blocks.layer_start[layer : layer + 2]
        order = low + np.argsort(-mass[low:high], kind="stable")
        first = (STRIDE * layer + part // 2) % part
        taken = order[first::part] if len(order) > first else order
        skip[taken] = False
        weight[layer] = len(order) / max(len(taken), 1)
    return Sample(skip=skip, weight=weight)


def members(lagrangian: Lagrangian, sample: Sample) -> NDArray[np.bool_]:
    """Say which experts are in a sample, (N,)."""
    blocks = lagrangian.blocks
    taken = np.zeros(len(blocks.member), dtype=np.bool_)
    taken[blocks.member] = np.repeat(~sample.skip, np.diff(blocks.start))
    return taken


class Master:
    """The cuts so far as a linear programme in HiGHS."""

    def __init__(self, lagrangian: Lagrangian) -> None:
        self.lagrangian = lagrangian
        self.num_l = lagrangian.problem.num_layers
        rows, cells = lagrangian.num_rows, lagrangian.num_cells
        self.num = rows + cells
        self.highs: Any = empty_highs()
        layers = np.arange(self.num_l, dtype=np.int32)
        self.highs.addVars(
            self.num_l, np.full(self.num_l, -FREE), np.full(self.num_l, FREE)
        )
        self.highs.addVars(self.num, np.zeros(self.num), np.full(self.num, FREE))
        self.highs.changeColsCost(self.num_l, layers, np.full(self.num_l, -1.0))
        columns = self.num_l + np.arange(rows, dtype=np.int32)
        self.highs.changeColsCost(rows, columns, lagrangian.back)
        self.columns = self.num_l + np.arange(self.num, dtype=np.int32)
        if cells:
            width = cells // self.num_l
            for layer in range(self.num_l):
                at = self.num_l + rows + layer * width
                index = np.arange(at, at + width, dtype=np.int32)
                self.highs.addRow(1.0, 1.0, width, index, np.ones(width))
        self.fixed = self.num_l if cells else 0
        self.promised = np.inf  # by the last solve
        self.age: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.layer: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # of each cut
        self.source: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # its point
        self.weight: NDArray[np.float64] = np.zeros(0)  # its dual
        self.option: dict[int, NDArray[np.int16]] = {}  # of each point still in use

    def add(self, point: Point, weight: NDArray[np.float64] | None = None) -> None:
        """Add the cuts of a point: value of each layer <= its own plus its slope."""
        scale = np.ones(self.num_l) if weight is None else weight
        rows = self.lagrangian.num_rows
        width = point.cell_use.shape[1]
        slope = point.use * scale[:, None]
        upper = point.parts * scale - slope @ point.prices[:rows]
        starts, index, value = [0], [], []
        for layer in range(self.num_l):
            used = np.flatnonzero(slope[layer])
            index.append(np.append(layer, self.num_l + used))
            value.append(np.append(1.0, -slope[layer, used]))
            if width:
                first = rows + layer * width
                cells = scale[layer] * point.cell_use[layer]
                upper[layer] -= cells @ point.prices[first : first + width]
                index.append(self.num_l + first + np.arange(width))
                value.append(-cells)
            starts.append(starts[-1] + 1 + len(used) + width)
        self.highs.addRows(
            self.num_l,
            np.full(self.num_l, -FREE),
            upper,
            starts[-1],
            np.array(starts[:-1], dtype=np.int32),
            np.concatenate(index).astype(np.int32),
            np.concatenate(value),
        )
        number = len(self.option) and max(self.option) + 1
        self.option[number] = point.option.astype(np.int16)
        layers = np.arange(self.num_l, dtype=np.int64)
        self.age = np.append(self.age, np.zeros_like(layers))
        self.layer = np.append(self.layer, layers)
        self.source = np.append(self.source, np.full_like(layers, number))
        self.weight = np.append(self.weight, np.zeros(self.num_l))

    def solve(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float] | None:
        """Return the best prices in a box and what the cuts promise there."""
        self.highs.changeColsBounds(self.num, self.columns, lower, upper)
        self.highs.run()
        solution = self.highs.getSolution()
        if not solution.value_valid or not solution.dual_valid:
            return None
        self.promised = -float(self.highs.getInfo().objective_function_value)
        self.weight = np.abs(np.array(solution.row_dual)[self.fixed :])
        self.age = np.where(self.weight > 0, 0, self.age + 1)
        found = np.array(solution.col_value)[self.num_l :]
        self._forget()
        return found, self.promised

    def _forget(self) -> None:
        old = np.flatnonzero(self.age > OLD)
        if len(old) > len(self.age) // 3:
            self.highs.deleteRows(len(old), (old + self.fixed).astype(np.int32))
            for name in ("age", "layer", "source", "weight"):
                setattr(self, name, np.delete(getattr(self, name), old))
            for number in set(self.option) - set(self.source.tolist()):
                del self.option[number]

    def mixture(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the options of each expert from the points that the cuts mix.

        The duals of the cuts of a layer are weights of the points they came from. The
        mix keeps every row (up to the box), and so nearly does a draw of many experts.
        Each point gets its share of a layer's blocks, within one.
        """
        blocks = self.lagrangian.blocks
        first = next(iter(self.option.values()))
        found = first.astype(np.int64)
        for layer in range(self.num_l):
            cuts = np.flatnonzero((self.layer == layer) & (self.weight > 0))
            if not len(cuts):
                continue
            low, high = blocks.layer_start[layer : layer + 2]
            ends = np.cumsum(self.weight[cuts])
            at = (np.arange(high - low) + rng.random()) / (high - low) * ends[-1]
            chosen = np.searchsorted(ends, at).clip(max=len(cuts) - 1)
            for block, k in zip(rng.permutation(high - low) + low, chosen, strict=True):
                of = blocks.member[blocks.start[block] : blocks.start[block + 1]]
                found[of] = self.option[int(self.source[cuts[k]])][of]
        return found


def _unit(
    lagrangian: Lagrangian, prices: NDArray[np.float64], worth: float
) -> NDArray[np.float64]:
    """Return what a side of one is for each price; (R + C,)."""
    rows = lagrangian.num_rows
    mean = max(float(prices[:rows].sum()), worth) / max(rows, 1)
    unit = np.maximum(prices, LEAST_PRICE * mean)
    unit[rows:] = 1.0
    return unit


def maximise(
    lagrangian: Lagrangian,
    start: NDArray[np.float64],
    *,
    tolerance: float,
    spent: Callable[[Point], bool],
    sample: Sample | None = None,
    box: float = 0.3,
    rounds: int = 500,
    rng: np.random.Generator | None = None,
    master: Master | None = None,
    rough: bool = False,
    radius: float | None = None,
    known: Point | None = None,
    scale: float = 0.0,
    nodes: int = NODES,
) -> Point:
    """Raise the Lagrangian from some prices.

    Parameters
    ----------
    lagrangian
        What is maximised.
    start
        Prices to begin at; (R + C,).
    tolerance
        Gain that the cuts promise, relative to the value, at which it ends.
    spent
        Told the best point after each evaluation, says whether to end.
    sample
        Blocks to look at; the point returned is then no bound.
    box
        First half side of the box, relative to each price.
    rounds
        Evaluations at most.
    rng
        Where given, the options of the point returned are drawn from those of all
        points that the last master mixed: together they keep the rows, nearly.
    master
        Cuts known already; it gets the new ones.
    rough
        Go by the costs of the choices found: where the Lagrangian is focused.
    radius
        How far prices may go from where they began, relative to each; no limit if none.
    known
        The point at ``start``, where its cuts are in ``master`` already.
    scale
        What the objective may come to, if that is known to be more than the value.
    nodes
        Sets of copies looked at for a block, at most.

    Returns
    -------
    Point
        The best found.
    """
    rows = lagrangian.num_rows
    skip = None if sample is None else sample.skip
    weight = np.ones(lagrangian.problem.num_layers) if sample is None else sample.weight

    def value_of(point: Point) -> float:
        if sample is None and not rough:
            return point.value
        return float(weight @ point.parts - lagrangian.back @ point.prices[:rows])

    best = lagrangian.at(start, skip=skip, nodes=nodes) if known is None else known
    master = Master(lagrangian) if master is None else master
    if known is None:
        master.add(best, weight)
    value = value_of(best)
    half = np.full(master.num, box)
    top = max(abs(value) if np.isfinite(value) else 0.0, scale, TINY)
    least, most = np.zeros(master.num), np.full(master.num, np.inf)
    if radius is not None:
        side = radius * _unit(lagrangian, best.prices, max(scale - value, 1e-3 * top))
        least, most = np.maximum(best.prices - side, 0.0), best.prices + side
    done = spent(best)
    for _ in range(rounds):
        if done or not np.isfinite(value):
            break
        centre = best.prices
        # The prices make up for what is between the value and a plan.
        unit = _unit(lagrangian, centre, max(scale - value, 1e-3 * top))
        widest = np.maximum(top / unit, WIDEST)  # no row is worth more than all
        side = half * unit
        lower = np.maximum(centre - side, least)
        upper = np.minimum(centre + side, most)
        solved = master.solve(lower, upper)
        if solved is None:
            break
        prices, promised = solved
        held = ((prices <= lower) & (lower > least)) | (
            (prices >= upper) & (upper < most)
        )
        gain = promised - value
        if gain <= tolerance * abs(value):
            if (half >= widest)[held].all():
                break
            half = np.where(held, np.minimum(half * 4.0, widest), half)
            continue
        point = lagrangian.at(prices, skip=skip, nodes=nodes)
        master.add(point, weight)
        new = value_of(point)
        if new > value + 0.1 * gain:
            grows = held & (new > value + 0.5 * gain)
            half = np.where(grows, np.minimum(half * GROWTH, widest), half)
            best, value = point, new
        else:
            if new > value:
                best, value = point, new
            half = np.maximum(half * 0.5, NARROWEST)
        done = spent(best)
    if rng is not None and master.weight.any():
        return dataclasses.replace(best, option=master.mixture(rng))
    return best

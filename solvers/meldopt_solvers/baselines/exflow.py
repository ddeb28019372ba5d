"""ExFlow: experts that follow each other on one server, by integer programming.

With the context of a token replicated everywhere, the token stays where its expert is,
and only a change of server between two layers costs a transfer. ExFlow places the
experts of all layers, as many of a layer on every server, so that tokens change least.

Decides: placement.
Ignores: homes, network, work, losses, all experts of a token but its primary one, and
every row but memory; no copies.
Gaps filled:

- Tokens with the same two experts share one term, weighted by how many they are: the
  model then has at most (L - 1) E^2 terms, whatever the trace, and the same optimum.
- The original hands Gurobi 5,000 tokens more at a time, with 60 s and the last solution
  as a start, and no gap. Here every layer in turn is placed best for its two neighbours
  (a linear assignment to slots, exact) until that gains nothing, from a greedy chain
  and from up to ``restarts`` perturbed placements; small models are then given to
  HiGHS, up to ``most_rows`` rows, for ``nodes`` nodes and an eighth of the time left at
  most. If it does not prove the optimum, "exact placement" is listed as ignored.
- Nodes first, then GPUs inside them, is the original's order on clusters of two levels.
  Servers here are one level: one hop between any two.
- Equal numbers of experts per layer and server where memory holds them; else slots by
  memory (`meldopt_solvers.baselines.slots`).

References
----------
.. [1] Yao, J. et al. (2024). Exploiting Inter-Layer Expert Affinity for Accelerating
   Mixture-of-Experts Model Inference. *IPDPS*. arXiv:2401.08383.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from meldopt.formulations.linear import LinearBuilder

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .programme import part_of_time, solve_programme
from .slots import layer_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from meldopt.formulations.linear import LinearModel
    from meldopt.problem import Problem

    from .view import View

    Spent = Callable[[float], bool]

    Labels = list[NDArray[np.int64]]
    """Server of each expert, layer by layer."""


PLACE_WORK = 5e-10
"""Deterministic work of placing a layer, for the cube of its experts."""

LEAST_GAIN = 1e-4
"""A sweep that gains less than this part of the hops is the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExflowParams(BaselineParams):
    """Parameters of `ExflowSolver`.

    Attributes
    ----------
    restarts
        Perturbed placements that are descended from at most, beside the greedy chain.
    effort
        Deterministic work, about seconds, after which no restart begins.
    most_rows
        Rows of the integer programme up to which it is given to HiGHS.
    nodes
        Branch-and-bound nodes at most.
    """

    restarts: int = 200
    effort: float = 2.0
    most_rows: int = 1_000
    nodes: int = 100


class ExflowSolver(Baseline):
    """Fewest changes of server between consecutive layers."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="exflow",
        summary="fewest changes of server between layers, equal numbers on each server",
        citation="ExFlow, arXiv 2401.08383",
        decides=("placement",),
        sees=("calls", "transitions", "memory"),
        params=ExflowParams,
        packages=("highspy",),
    )
    params: ExflowParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Descend from several placements; prove or improve the best one if small."""
        params = self.params
        slots = layer_slots(view)
        moves = [view.transitions(layer) for layer in range(problem.num_layers - 1)]
        labels = search(
            moves,
            slots,
            rng,
            restarts=params.restarts,
            effort=params.effort,
            spent=check.step,
            keep=lambda found: check.keep(Decision(server=np.concatenate(found))),
        )
        exact = hops(moves, labels) <= 0.0
        rows = problem.num_servers * sum(np.count_nonzero(table) for table in moves)
        if not exact and rows <= params.most_rows and not check.spent():
            labels, exact = prove(
                moves,
                slots,
                labels,
                nodes=params.nodes,
                spent=part_of_time(check),
            )
        if not exact:
            view.estimated.add("exact placement")
        return Decision(server=np.concatenate(labels))


def hops(moves: Sequence[NDArray[np.float64]], labels: Labels) -> float:
    """Return the transitions between different servers, per second."""
    return float(
        sum(
            table[here[:, None] != there[None, :]].sum()
            for table, here, there in zip(moves, labels, labels[1:], strict=False)
        )
    )


def assigned(gain: NDArray[np.float64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give experts to the slots of servers at the largest gain.

    Parameters
    ----------
    gain
        Of each expert on each server, (E, S).
    slots
        Experts of each server, (S,); they sum to E.

    Returns
    -------
    ndarray of int64, shape (E,)
        Server of each expert.
    """
    of_slot = np.repeat(np.arange(len(slots)), slots)
    experts, chosen = linear_sum_assignment(gain[:, of_slot], maximize=True)
    server = np.empty(len(experts), dtype=np.int64)
    server[experts] = of_slot[chosen]
    return server


def chain(
    moves: Sequence[NDArray[np.float64]],
    slots: NDArray[np.int64],
    first: NDArray[np.int64],
) -> Labels:
    """Place layer after layer, each best for the layer before it."""
    labels, servers = [first], np.arange(slots.shape[1])
    for table, free in zip(moves, slots[1:], strict=True):
        labels.append(assigned(table.T @ (labels[-1][:, None] == servers), free))
    return labels


def descend(
    moves: Sequence[NDArray[np.float64]],
    slots: NDArray[np.int64],
    labels: Labels,
    spent: Spent,
    *,
    layers: Iterable[int] | None = None,
) -> Labels:
    """Place each layer best for its two neighbours, while that gains.

    Parameters
    ----------
    moves
        Transitions from layer to layer, L - 1 times (E, E of the next).
    slots
        Experts of each layer on each server, (L, S).
    labels
        Where to begin; is not changed.
    spent
        Asked before every sweep, with the work done since it was asked; ends it.
    layers
        Where something may have changed; everywhere if None.
    """
    labels, servers = list(labels), np.arange(slots.shape[1])
    stale = np.zeros(len(labels), dtype=bool)
    stale[list(range(len(labels)) if layers is None else layers)] = True
    value = hops(moves, labels)
    order, work = range(len(labels)), 0.0
    while stale.any() and not spent(work):
        work = 0.0
        for layer in order:
            if not stale[layer]:
                continue
            stale[layer] = False
            gain = np.zeros((len(labels[layer]), len(servers)))
            if layer > 0:
                gain += moves[layer - 1].T @ (labels[layer - 1][:, None] == servers)
            if layer < len(moves):
                gain += moves[layer] @ (labels[layer + 1][:, None] == servers)
            experts = np.arange(len(gain))
            work += PLACE_WORK * len(gain) ** 3
            better = assigned(gain, slots[layer])
            now, then = gain[experts, labels[layer]].sum(), gain[experts, better].sum()
            if then > now * (1 + 1e-12):
                labels[layer] = better
                stale[max(layer - 1, 0)] = layer > 0
                stale[layer + 1 : layer + 2] = True
        found = hops(moves, labels)
        if not found < value * (1 - LEAST_GAIN):
            break
        value, order = found, order[::-1]
    return labels


def search(
    moves: Sequence[NDArray[np.float64]],
    slots: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    restarts: int,
    spent: Spent,
    effort: float = math.inf,
    keep: Callable[[Labels], None] = lambda found: None,
) -> Labels:
    """Descend from a greedy chain, and from perturbations of the best placement.

    A perturbation draws the placement of one layer anew and chains some of the layers
    after it. Each better placement is given to ``keep``.
    """
    done = 0.0

    def counted(work: float) -> bool:
        nonlocal done
        done += work
        return spent(work)

    first = np.repeat(np.arange(slots.shape[1]), slots[0])
    begun = chain(moves, slots, first)
    keep(begun)
    best = descend(moves, slots, begun, counted)
    keep(best)
    value = hops(moves, best)
    for _ in range(restarts):
        if value <= 0.0 or done >= effort or spent(0.0):
            break
        at = int(rng.integers(len(best)))
        end = int(rng.integers(at, len(best)))
        drawn = rng.permutation(best[at])
        window = chain(moves[at:end], slots[at : end + 1], drawn)
        labels = best[:at] + window + best[end + 1 :]
        layers = range(max(at - 1, 0), min(end + 2, len(best)))
        labels = descend(moves, slots, labels, counted, layers=layers)
        found = hops(moves, labels)
        if found < value:
            best, value = labels, found
            keep(best)
    return best


def prove(
    moves: Sequence[NDArray[np.float64]],
    slots: NDArray[np.int64],
    labels: Labels,
    *,
    nodes: int | None,
    spent: Callable[[], bool] = lambda: False,
) -> tuple[Labels, bool]:
    """Hand the integer programme to HiGHS, from a known placement.

    Returns
    -------
    tuple of list and bool
        The best placement, and whether it is proved to be optimal.
    """
    model, start = placement_model(moves, slots, labels)
    outcome = solve_programme(model, start, gap=1e-6, nodes=nodes, spent=spent)
    if outcome.x is not None:
        chosen = outcome.x[: int(slots.sum()) * slots.shape[1]]
        server = chosen.reshape(-1, slots.shape[1]).argmax(axis=1).astype(np.int64)
        better = np.split(server, np.cumsum(slots.sum(axis=1))[:-1])
        if hops(moves, better) < hops(moves, labels):
            labels = better
    return labels, outcome.status == "optimal"


def placement_model(
    moves: Sequence[NDArray[np.float64]],
    slots: NDArray[np.int64],
    labels: Labels,
) -> tuple[LinearModel, NDArray[np.float64]]:
    """Return the integer programme, and a solution of it from labels.

    ``min sum R[l, e, f] w[l, e, f]`` with ``w[l, e, f] >= x[l, e, s] - x[l + 1, f, s]``
    for every server s; that the negative holds too follows from the sum over servers.
    Where servers have equal slots in all layers, the first expert is on the first of
    them: any other placement is one of these with servers renamed.
    """
    num_s = slots.shape[1]
    first = np.concatenate([[0], np.cumsum(slots.sum(axis=1))])
    experts = np.arange(first[-1])
    i, s = (axis.ravel() for axis in np.indices((len(experts), num_s)))
    upper = np.ones(len(i))
    if len(slots) and (slots == slots[:, :1]).all():
        upper[1:num_s] = 0.0
        labels = _renamed(labels, num_s)
    build = LinearBuilder()
    x = build.add_columns("x", [i, s], upper=upper, integer=True)
    sources, targets, weights = [], [], []
    for layer, table in enumerate(moves):
        e, f = np.nonzero(table)
        sources.append(first[layer] + e)
        targets.append(first[layer + 1] + f)
        weights.append(table[e, f])
    source = np.concatenate([np.zeros(0, dtype=np.int64), *sources])
    target = np.concatenate([np.zeros(0, dtype=np.int64), *targets])
    weight = np.concatenate([np.zeros(0), *weights])
    w = build.add_columns("w", [source, target], upper=1.0, cost=weight)
    build.add_rows("one", [experts], [(i, x.range, 1.0)], lower=1, upper=1)
    layer_of = np.repeat(np.arange(len(slots)), slots.sum(axis=1))
    build.add_rows(
        "slots",
        list(np.divmod(np.arange(slots.size), num_s)),
        [(layer_of[i] * num_s + s, x.range, 1.0)],
        lower=slots.ravel(),
        upper=slots.ravel(),
    )
    pair, at = (axis.ravel() for axis in np.indices((len(source), num_s)))
    row = np.arange(len(pair))
    build.add_rows(
        "change",
        [source[pair], target[pair], at],
        [
            (row, x.start + source[pair] * num_s + at, 1.0),
            (row, x.start + target[pair] * num_s + at, -1.0),
            (row, w.start + pair, -1.0),
        ],
        upper=0,
    )
    server = np.concatenate(labels)
    start = np.zeros(build.num_columns)
    start[x.start + experts * num_s + server] = 1.0
    start[w.range] = server[source] != server[target]
    return build.build(), start


def _renamed(labels: Labels, num: int) -> Labels:
    """Exchange the names of two servers so that the first expert is on the first."""
    name = np.arange(num)
    own = int(labels[0][0])
    name[[0, own]] = own, 0
    return [name[label] for label in labels]

"""Hypergraph partitioning of the trace: every token is a net over its experts.

In a hypergraph whose vertices are the experts of a layer and whose nets are the sets
that tokens call, the connectivity of a net is the number of devices that a token is
sent to. A partition of least connectivity is what Occult and GRACE-MoE look for by way
of pairs; this one takes whole tokens, and a partitioner made for it.

Decides: placement.
Ignores: homes, network, work, losses, transitions, and every row but memory; no copies.
Gaps filled:

- Mt-KaHyPar [1]_ (extra ``partition``) with its deterministic preset, one thread, and
  the objective km1, connectivity less one. Nets are the distinct sets of the sampled
  tokens, weighted by their rate. Without samples they are pairs: for each expert the
  ``pairs`` others that it is called with most.
- Where Mt-KaHyPar is not installed (or once the budget is spent) groups are spectral
  clusters of the common calls, brought to their sizes and improved by exchanges;
  "mtkahypar" is then listed among what was ignored.
- Blocks have the sizes of the slots of servers (`meldopt_solvers.baselines.slots`);
  those of one size go to those servers that take the least time for their calls, by the
  common rule of placement.

References
----------
.. [1] Gottesbüren, L., Heuer, T., Maas, N., Sanders, P., Schlag, S. (2024). Scalable
   High-Quality Hypergraph Partitioning. *ACM Transactions on Algorithms* 20(1).
   https://doi.org/10.1145/3626527
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .complete import Decision
from .grouping import exchange, fit_sizes, ranked, spectral_groups
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .slots import layer_slots, match_groups, time_of_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

LARGEST_WEIGHT = 100_000
"""Weights of nets are whole numbers up to this; Mt-KaHyPar sums them in 32 bits."""

LARGEST_SUM = 1_000_000_000
"""Of the weights of all pins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HypergraphParams(BaselineParams):
    """Parameters of `HypergraphSolver`.

    Attributes
    ----------
    partitioner
        ``"auto"``: Mt-KaHyPar if it is installed; or ``"spectral"``.
    pairs
        Nets of each expert where there are no sampled tokens.
    """

    partitioner: str = "auto"
    pairs: int = 16

    def __post_init__(self) -> None:
        if self.partitioner not in ("auto", "spectral"):
            raise ValueError(
                f"partitioner: got {self.partitioner!r}, expected 'auto' or 'spectral'"
            )


class HypergraphSolver(Baseline):
    """Least devices per token, by partitioning the hypergraph of sampled tokens."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="hypergraph",
        summary="least servers per token, by partitioning the hypergraph of tokens",
        citation="Mt-KaHyPar, doi 10.1145/3626527, on the nets of a routing trace",
        decides=("placement",),
        sees=("calls", "coactivation", "memory"),
        params=HypergraphParams,
        packages=("mtkahypar", "scipy"),
    )
    params: HypergraphParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Partition layer by layer; give blocks of one size their servers."""
        slots, servers = layer_slots(view), []
        engine = None if self.params.partitioner == "spectral" else mt_kahypar()
        seed = int(rng.integers(2**31))
        for layer in range(problem.num_layers):
            together = view.coactivation(layer)
            if engine is None or check.over:
                view.estimated.add("mtkahypar")
                label = spectral_blocks(together, slots[layer])
            else:
                if view.coactivation_source == "samples":
                    nets, weight = token_nets(problem, layer)
                else:
                    nets, weight = pair_nets(together, self.params.pairs)
                label = partition(engine, nets, weight, slots[layer], seed)
            fits = slots[layer][:, None] == slots[layer][None, :]
            cost = time_of_groups(view, layer, label, problem.num_servers)
            servers.append(match_groups(cost, fits)[label])
            check.step()
        return Decision(server=np.concatenate(servers))


def token_nets(
    problem: Problem, layer: int
) -> tuple[list[list[int]], NDArray[np.float64]]:
    """Return the distinct sets of experts that sampled tokens call in a layer.

    Returns
    -------
    tuple of list and ndarray of float64
        Nets of experts of the layer, counted from 0, and tokens per second of each.
    """
    called = np.sort(problem.sample_experts[:, layer], axis=1)
    sets, which = np.unique(called, axis=0, return_inverse=True)
    tokens = np.bincount(problem.sample_demand, minlength=problem.num_demands)
    rate = (problem.rate / np.maximum(tokens, 1))[problem.sample_demand]
    weight = np.bincount(which.ravel(), rate, len(sets)).astype(np.float64)
    first = int(problem.layer_start[layer])
    nets = [[int(i) - first for i in row if i >= 0] for row in sets]
    kept = [n for n, net in enumerate(nets) if len(net) > 1 and weight[n] > 0]
    return [nets[n] for n in kept], weight[kept]


def pair_nets(
    together: NDArray[np.float64], most: int
) -> tuple[list[list[int]], NDArray[np.float64]]:
    """Return, as nets, the pairs that each expert is called with most.

    Parameters
    ----------
    together
        Common calls, (E, E), symmetric.
    most
        Pairs of each expert.
    """
    order = np.argsort(-together, axis=1, kind="stable")[:, :most]
    chosen = np.zeros(together.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    i, j = np.nonzero(np.triu((chosen | chosen.T) & (together > 0), 1))
    return np.stack([i, j], axis=1).tolist(), together[i, j]


def whole_weights(weight: NDArray[np.float64], pins: int) -> NDArray[np.int64]:
    """Scale weights of nets to whole numbers of at least 1 that 32 bits can sum.

    Parameters
    ----------
    weight
        Of each net, positive.
    pins
        Experts of the largest net.
    """
    total = float(weight.sum()) * pins
    scale = min(LARGEST_WEIGHT / weight.max(), LARGEST_SUM / total)
    whole: NDArray[np.int64] = np.maximum(np.rint(weight * scale), 1).astype(np.int64)
    return whole


@functools.cache
def mt_kahypar() -> Any:
    """Return Mt-KaHyPar's module and its initialiser; None if it is not installed."""
    try:
        import mtkahypar
    except ImportError:
        return None
    return mtkahypar, mtkahypar.initialize(1, False)


def partition(
    engine: Any,
    nets: list[list[int]],
    weight: NDArray[np.float64],
    slots: NDArray[np.int64],
    seed: int,
) -> NDArray[np.int64]:
    """Partition experts into blocks of given sizes with Mt-KaHyPar.

    Parameters
    ----------
    engine
        From `mt_kahypar`.
    nets, weight
        Experts of each net, and its weight.
    slots
        Experts of each block, (S,).
    seed
        Of the partitioner.

    Returns
    -------
    ndarray of int64, shape (E,)
        Block of each expert.
    """
    blocks = np.flatnonzero(slots > 0)
    num = int(slots.sum())
    if len(blocks) < 2 or not nets:
        return np.repeat(np.arange(len(slots)), slots)
    module, begin = engine
    module.set_seed(seed)
    context = begin.context_from_preset(module.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(len(blocks), 0.03, module.Objective.KM1)
    context.logging = False
    context.set_individual_target_block_weights(slots[blocks].tolist())
    whole = whole_weights(weight, max(map(len, nets))).tolist()
    graph = begin.create_hypergraph(context, num, len(nets), nets, [1] * num, whole)
    label = blocks[np.array(graph.partition(context).get_partition(), dtype=np.int64)]
    # What it leaves out of balance is moved where it costs least in pairs of nets.
    size = np.bincount(label, minlength=len(slots))
    if (size == slots).all():
        return label
    return fit_sizes(label, slots, slots, clique(nets, weight, num))


def clique(
    nets: list[list[int]], weight: NDArray[np.float64], num: int
) -> NDArray[np.float64]:
    """Return how much weight of nets any two experts share, (num, num)."""
    shared = np.zeros((num, num))
    for net, tokens in zip(nets, weight.tolist(), strict=True):
        shared[np.ix_(net, net)] += tokens
    np.fill_diagonal(shared, 0.0)
    return shared


def spectral_blocks(
    together: NDArray[np.float64], slots: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Cluster experts by their common calls into blocks of given sizes."""
    blocks = np.flatnonzero(slots > 0)
    label = ranked(spectral_groups(together, len(blocks)), slots[blocks])
    label = fit_sizes(label, slots[blocks], slots[blocks], together)
    return blocks[exchange(label, together)]


def connectivity(
    nets: list[list[int]], weight: NDArray[np.float64], label: NDArray[np.int64]
) -> float:
    """Return km1: blocks of each net less one, summed by weight."""
    return float(
        sum(
            (len(np.unique(label[net])) - 1) * tokens
            for net, tokens in zip(nets, weight.tolist(), strict=True)
        )
    )

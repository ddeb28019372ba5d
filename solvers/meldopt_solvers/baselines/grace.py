"""GRACE-MoE: spectral groups of sizes that may differ, and copies of what is hot.

Experts of a layer that are called together are gathered by spectral clustering. Groups
may be larger or smaller than the mean by a part r of it, and r is where more freedom
stops to bring more common calls inside groups for the unevenness that it costs. Then
the busiest experts of the busiest group are copied to the least busy GPUs.

Decides: placement, copies.
Ignores: homes, network, work, losses, transitions, and every row but memory and the
limit of copies.
Gaps filled:

- Servers are the GPUs of one node: the upper of the two levels, groups of any size for
  nodes, has no counterpart here.
- Clusters are brought to the allowed sizes by moves that cost least in common calls.
- The knee of r = 0, 1/10, ..., 1 is the point farthest from the chord of (unevenness,
  common calls inside), both scaled to their range.
- Sizes are counted from the slots of a server (`meldopt_solvers.baselines.slots`),
  equal where memory allows; a group is never larger than what memory leaves.
- Groups go to those servers that take the least time for their calls, by the common
  rule of placement, where memory has room for their size.
- Layers are given copies in order of the busiest group over the mean, while memory
  lasts. Locality-aware routing is the default rule of shares; its weighted round robin
  among remote copies is not modelled.

References
----------
.. [1] Han, Y. et al. (2025). GRACE-MoE: Grouping and Replication with Locality-Aware
   Routing for Efficient Distributed MoE Inference. arXiv:2509.25041.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .grouping import fit_sizes, inside, ranked, spectral_groups
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .slots import layer_slots, match_groups, time_of_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

RATIOS = tuple(tenth / 10 for tenth in range(11))
"""Parts of the mean size by which groups may differ from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraceParams(BaselineParams):
    """Parameters of `GraceSolver`.

    Attributes
    ----------
    ratio
        Part of the mean size by which groups may differ; at the knee if None.
    copies
        Whether hot experts get copies, where the instance allows more than one.
    """

    ratio: float | None = None
    copies: bool = True


class GraceSolver(Baseline):
    """Spectral groups with controlled sizes, and dynamic replication."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="grace",
        summary="spectral groups of controlled sizes, copies of the hot experts",
        citation="GRACE-MoE, arXiv 2509.25041",
        decides=("placement", "copies"),
        sees=("calls", "coactivation", "memory"),
        params=GraceParams,
    )
    params: GraceParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Group and place layer by layer; then copy, the most uneven layers first."""
        num_s = problem.num_servers
        slots = layer_slots(view)
        spare = np.maximum(view.slots - slots.sum(axis=0), 0)
        servers: list[NDArray[np.int64]] = []
        for layer in range(problem.num_layers):
            together = view.coactivation(layer)
            most = slots[layer] + spare
            if self.params.ratio is None:
                label = knee(together, slots[layer], most)
            else:
                label = groups(together, slots[layer], most, self.params.ratio)
            size = np.bincount(label, minlength=num_s)
            cost = time_of_groups(view, layer, label, num_s)
            server = match_groups(cost, size[:, None] <= most[None, :])[label]
            servers.append(server)
            spare = most - np.bincount(server, minlength=num_s)
            check.step()
        server = np.concatenate(servers)
        expert = np.arange(problem.num_experts)
        check.keep(Decision(expert=expert, server=server))
        if self.params.copies and view.max_copies > 1 and not check.over:
            extra = replicas(view, server)
            expert = np.concatenate([expert, extra[:, 0]])
            server = np.concatenate([server, extra[:, 1]])
        return Decision(expert=expert, server=server)


def groups(
    together: NDArray[np.float64],
    slots: NDArray[np.int64],
    most: NDArray[np.int64],
    ratio: float,
) -> NDArray[np.int64]:
    """Cluster a layer into groups that differ from their slots by a part at most.

    Parameters
    ----------
    together
        Common calls, (E, E), symmetric.
    slots
        Slots of each group, (S,); they sum to E.
    most
        What each group may have whatever the ratio, (S,); at least its slots.
    ratio
        Part of its slots by which a group may be smaller or larger.

    Returns
    -------
    ndarray of int64, shape (E,)
        Group of each expert.
    """
    label = ranked(spectral_groups(together, len(slots)), slots)
    return fit_sizes(label, *limits(slots, most, ratio), together)


def limits(
    slots: NDArray[np.int64], most: NDArray[np.int64], ratio: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the least and the most experts of each group."""
    least = np.ceil(slots * (1 - ratio) - 1e-9).astype(np.int64)
    upper = np.floor(slots * (1 + ratio) + 1e-9).astype(np.int64)
    return least, np.minimum(upper, most)


def knee(
    together: NDArray[np.float64], slots: NDArray[np.int64], most: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the groups at the knee of common calls inside over unevenness of sizes.

    Parameters
    ----------
    together, slots, most
        As of `groups`.
    """
    label = ranked(spectral_groups(together, len(slots)), slots)
    found = []
    # From the freest down, each from the one before: few moves are left to be made.
    for ratio in reversed(RATIOS):
        label = fit_sizes(label, *limits(slots, most, ratio), together)
        found.append(label)
    found.reverse()
    gain = np.array([inside(together, label) for label in found])
    uneven = np.array(
        [
            float(np.std(np.bincount(label, minlength=len(slots)) - slots))
            for label in found
        ]
    )
    return found[knee_of(uneven, gain)]


def knee_of(cost: NDArray[np.float64], gain: NDArray[np.float64]) -> int:
    """Return the point farthest above the chord from least to most cost, scaled.

    The last one of equals, so that of a straight line it is the end; the first point of
    the most gain if cost or gain is the same everywhere.
    """
    spans = float(np.ptp(cost)), float(np.ptp(gain))
    if spans[0] <= 0 or spans[1] <= 0:
        return int(np.argmax(gain))
    height = (gain - gain.min()) / spans[1] - (cost - cost.min()) / spans[0]
    return int(np.flatnonzero(height >= height.max() - 1e-9)[-1])


def replicas(view: View, server: NDArray[np.int64]) -> NDArray[np.int64]:
    """Copy the busiest experts of the busiest group of each layer.

    With W the calls of groups, ``n = min(max(1, floor(Wmax / Wmean)), S - 1)`` servers
    of least calls each receive the busiest experts of the busiest group, until these
    have more than ``Wmax n / (n + 1)`` calls together.

    Parameters
    ----------
    view
        Calls, sizes and room.
    server
        Server of each expert, (N,).

    Returns
    -------
    ndarray of int64, shape (R, 2)
        Expert and server of each copy.
    """
    problem = view.problem
    num_s = problem.num_servers
    expert = np.arange(problem.num_experts)
    left = view.slots - np.bincount(server, minlength=num_s)
    calls = np.zeros((problem.num_layers, num_s))
    np.add.at(calls, (view.layer_of, server), view.load)
    mean = calls.mean(axis=1)
    uneven = np.divide(calls.max(axis=1), mean, out=np.ones_like(mean), where=mean > 0)
    copies: list[tuple[int, int]] = []
    for layer in np.argsort(-uneven, kind="stable").tolist():
        busiest = int(np.argmax(calls[layer]))
        number = number_of_copies(float(uneven[layer]), num_s, view.max_copies)
        idle = np.argsort(calls[layer], kind="stable")
        chosen = [int(s) for s in idle if s != busiest][:number]
        mine = expert[(view.layer_of == layer) & (server == busiest)]
        hot = hot_experts(view.load[mine], len(chosen))
        for e in mine[hot].tolist():
            for s in chosen:
                if left[s] > 0:
                    copies.append((e, s))
                    left[s] -= 1
    return np.array(copies, dtype=np.int64).reshape(-1, 2)


def number_of_copies(uneven: float, num_servers: int, max_copies: int) -> int:
    """Return the further copies that hot experts get: the unevenness, rounded down."""
    return max(0, min(max(1, int(uneven)), num_servers - 1, max_copies - 1))


def hot_experts(load: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """Return the busiest experts that have more than n / (n + 1) of the calls."""
    if number < 1 or load.sum() <= 0:
        return np.zeros(0, dtype=np.int64)
    order = np.argsort(-load, kind="stable")
    enough = np.cumsum(load[order]) > load.sum() * number / (number + 1)
    return order[: int(np.argmax(enough)) + 1]

"""Occult: experts that a token calls together, on one device.

A token is sent once to every device that holds some of its experts, so communication is
proportional to the number of devices that its experts sit on. Occult spreads seeds that
are seldom called together over the devices (farthest-point sampling), and lets groups
grow by what is called with their members.

Decides: placement.
Ignores: homes, network, work, losses, transitions, and every row but memory; no copies.
Collaborative pruning, which replaces experts on other devices and needs fine-tuning, is
not part of a placement; nor is C2R [2]_, which changes the router.
Gaps filled:

- The pair that is called together most is on the first device; the seed of each next
  one is the expert with the least mean of common calls with all placed before. The
  first device is one with the most slots; one with a single slot has one of the pair.
- Of all groups with free slots, the one grows whose mean common calls with an expert
  are highest.
- Equal numbers of experts per layer and server where memory holds them; else slots by
  memory (`meldopt_solvers.baselines.slots`).
- Devices are alike in the paper. Groups of one size go to those servers that take the
  least time for their calls, by the common rule of placement.

References
----------
.. [1] Luo, S. et al. (2025). Occult: Optimizing Collaborative Communications across
   Experts for Accelerated Parallel MoE Training and Inference. *ICML*.
   arXiv:2505.13345.
.. [2] Zhang, M. et al. (2025). Advancing MoE Efficiency: A Collaboration-Constrained
   Routing (C2R) Strategy for Better Expert Parallelism Design. *NAACL*.
   arXiv:2504.01337.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, Budget, baseline_info
from .slots import layer_slots, match_groups, time_of_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View


class OccultSolver(Baseline):
    """Groups grown around distant seeds of the co-activation graph of each layer."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="occult",
        summary="groups grown around distant seeds of what tokens call together",
        citation="after Occult, arXiv 2505.13345",
        decides=("placement",),
        sees=("calls", "coactivation", "memory"),
    )

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Group the experts of each layer; give groups of one size their servers."""
        slots, servers = layer_slots(view), []
        for layer in range(problem.num_layers):
            label = grow(view.coactivation(layer), slots[layer])
            fits = slots[layer][:, None] == slots[layer][None, :]
            cost = time_of_groups(view, layer, label, problem.num_servers)
            servers.append(match_groups(cost, fits)[label])
            check.step()
        return Decision(server=np.concatenate(servers))


def seeds(together: NDArray[np.float64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Start every group: the closest pair in the first, distant experts in the others.

    Parameters
    ----------
    together
        Common calls, (E, E), symmetric, zero on the diagonal.
    slots
        Experts of each group, (S,); they sum to E. Groups without slots have no seed.

    Returns
    -------
    ndarray of int64, shape (E,)
        Group of each seed; -1 for all other experts.
    """
    label = np.full(len(together), -1, dtype=np.int64)
    order = np.argsort(-slots, kind="stable")
    total = np.zeros(len(together))  # common calls with all that are placed
    for number, group in enumerate(order[: np.count_nonzero(slots)].tolist()):
        if number:
            chosen = [int(np.argmin(np.where(label < 0, total, np.inf)))]
        else:
            pair = np.unravel_index(int(np.argmax(together)), together.shape)
            chosen = [int(e) for e in dict.fromkeys(pair)][: int(slots[group])]
        label[chosen] = group
        total += together[chosen].sum(axis=0)
    return label


def grow(together: NDArray[np.float64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Grow a group around each seed, by the highest mean of common calls.

    Parameters
    ----------
    together, slots
        As of `seeds`.

    Returns
    -------
    ndarray of int64, shape (E,)
        Group of each expert.
    """
    label, num = seeds(together, slots), len(slots)
    placed = label >= 0
    size = np.bincount(label[placed], minlength=num)
    shared = together[:, placed] @ np.eye(num)[label[placed]]
    for _ in range(int((~placed).sum())):
        mean = shared / np.maximum(size, 1)
        mean = np.where((label < 0)[:, None] & (size < slots)[None, :], mean, -1.0)
        e, c = np.unravel_index(int(np.argmax(mean)), mean.shape)
        label[e] = c
        shared[:, c] += together[:, e]
        size[c] += 1
    return label

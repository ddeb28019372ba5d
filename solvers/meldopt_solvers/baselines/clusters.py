"""Clusters of experts whose calls are even: the first integer programme of MoETuner.

As many clusters as there are servers, of sizes within bounds; least is the sum of the
absolute deviations of their calls from the mean. Longest-processing-time-first with
exchanges finds good ones, and HiGHS better ones where that is not enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.formulations.linear import LinearBuilder

from .programme import solve_programme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.formulations.linear import LinearModel

    from .programme import Spent


class ClusterSizes:
    """Sizes that clusters may have, so that over all layers they fill their slots.

    Parameters
    ----------
    slots
        Of each layer and cluster, (L, S).
    spread
        How far a cluster may be ahead of or behind its slots after any layer.
    """

    def __init__(self, slots: NDArray[np.int64], spread: int) -> None:
        self.slots = slots
        self.spread = spread
        self._ahead = np.zeros(slots.shape[1], dtype=np.int64)
        later = np.cumsum(slots[::-1], axis=0)[::-1]
        self._later = np.vstack([later[1:], np.zeros_like(slots[:1])])

    def limits(self, layer: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the least and the most experts of each cluster in a layer, (S,).

        Clusters of the sizes of the slots less what they are ahead are always among
        them: nobody may be further ahead than its slots of later layers can make up.
        """
        last = layer == len(self.slots) - 1
        behind = 0 if last else self.spread
        ahead = np.minimum(self.spread, self._later[layer])
        base = self.slots[layer] - self._ahead
        least, most = np.maximum(base - behind, 0), base + ahead
        filled = np.maximum(least, (self.slots[layer] > 0) & (most > 0))
        if filled.sum() <= self.slots[layer].sum():
            least = filled  # nobody is empty
        return least, most

    def take(self, layer: int, label: NDArray[np.int64]) -> None:
        """Note the clusters of a layer."""
        size = np.bincount(label, minlength=len(self._ahead))
        self._ahead += size - self.slots[layer]


def balanced_clusters(
    load: NDArray[np.float64],
    least: NDArray[np.int64],
    most: NDArray[np.int64],
    *,
    gap: float,
    balanced: float,
    nodes: int | None,
    spent: Spent = lambda: False,
) -> tuple[NDArray[np.int64], bool]:
    """Gather experts into clusters whose calls deviate least from their mean.

    Parameters
    ----------
    load
        Calls of each expert, (E,).
    least, most
        Experts that a cluster may have, (S,).
    gap
        Relative gap at which to stop.
    balanced
        Sum of deviations, as a part of all calls, at which to stop.
    nodes
        Branch-and-bound nodes at most; no limit if None.
    spent
        Asked while HiGHS runs; ends it.

    Returns
    -------
    tuple of ndarray of int64, shape (E,), and bool
        Cluster of each expert, and whether the deviation is as asked for.
    """
    label = exchanged(load, longest_first(load, least, most), len(least))
    found = deviation(load, label, len(least))
    bound = least_deviation(load, least, most)
    if found - bound <= max(gap * found, balanced * float(load.sum())):
        return label, True
    if spent():
        return label, False
    model, start = clusters_model(load, least, most, label)
    outcome = solve_programme(model, start, gap=gap, nodes=nodes, spent=spent)
    if outcome.x is None:
        return label, False
    chosen = outcome.x[: len(load) * len(least)].reshape(len(load), len(least))
    better = chosen.argmax(axis=1).astype(np.int64)
    if deviation(load, better, len(least)) < found:
        label = better
    return label, outcome.status == "optimal"


def deviation(load: NDArray[np.float64], label: NDArray[np.int64], num: int) -> float:
    """Return the sum of the absolute deviations of clusters from their mean."""
    calls = np.bincount(label, load, num)
    return float(np.abs(calls - load.sum() / num).sum())


def least_deviation(
    load: NDArray[np.float64], least: NDArray[np.int64], most: NDArray[np.int64]
) -> float:
    """Return a lower bound of `deviation`.

    What clusters have above the mean others lack, so twice the larger of: what experts
    have above the mean, each alone in its cluster; what the idlest experts that fill
    clusters have above it; and what the busiest lack to it in small clusters.
    """
    mean = float(load.sum()) / len(least)
    rising = np.concatenate([[0.0], np.cumsum(np.sort(load))])
    falling = np.concatenate([[0.0], np.cumsum(np.sort(load)[::-1])])
    above = max(
        float(np.maximum(load - mean, 0.0).sum()),
        float(np.maximum(rising[np.minimum(least, len(load))] - mean, 0.0).sum()),
    )
    below = np.maximum(mean - falling[np.minimum(most, len(load))], 0.0).sum()
    return 2.0 * max(above, float(below))


def longest_first(
    load: NDArray[np.float64], least: NDArray[np.int64], most: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Give each expert, busiest first, to the least busy cluster that may have more.

    Clusters that lack experts go first when no more are left than are lacking.
    """
    label = np.empty(len(load), dtype=np.int64)
    calls, size = np.zeros(len(least)), np.zeros(len(least), dtype=np.int64)
    left = len(load)
    for e in np.argsort(-load, kind="stable").tolist():
        lacking = np.maximum(least - size, 0)
        usable = lacking > 0 if lacking.sum() >= left else size < most
        c = int(np.argmin(np.where(usable, calls, np.inf)))
        label[e] = c
        calls[c] += load[e]
        size[c] += 1
        left -= 1
    return label


def exchanged(
    load: NDArray[np.float64], label: NDArray[np.int64], num: int
) -> NDArray[np.int64]:
    """Exchange experts of two clusters while that brings their calls nearer the mean.

    Each time the pair that gains most: one of the busiest cluster and any other, else
    one of the idlest, else any two.
    """
    label = label.copy()
    mean = float(load.sum()) / num
    calls = np.bincount(label, load, num)
    everyone = np.arange(len(load))
    for _ in range(20 * len(load)):
        off = calls - mean
        for ones in (
            np.flatnonzero(label == np.argmax(calls)),
            np.flatnonzero(label == np.argmin(calls)),
            everyone,
        ):
            if not len(ones):
                continue  # an empty cluster has nothing to give
            one = off[label[ones]][:, None]
            moved = load[ones][:, None] - load[None, :]
            other = off[label][None, :]
            gain = np.abs(one) + np.abs(other)
            gain -= np.abs(one - moved) + np.abs(other + moved)
            gain[label[ones][:, None] == label[None, :]] = 0.0
            a, f = np.unravel_index(int(np.argmax(gain)), gain.shape)
            if gain[a, f] > 1e-9 * mean:
                e = ones[a]
                calls[label[e]] -= moved[a, f]
                calls[label[f]] += moved[a, f]
                label[[e, f]] = label[[f, e]]
                break
        else:
            break
    return label


def clusters_model(
    load: NDArray[np.float64],
    least: NDArray[np.int64],
    most: NDArray[np.int64],
    label: NDArray[np.int64],
) -> tuple[LinearModel, NDArray[np.float64]]:
    """Return the first ILP, and a solution of it from labels.

    ``min sum d[c]`` with ``d[c] >= |T[c] - mean|``, ``T[c] = sum_e load[e] x[e, c]``.
    Calls are in units of the mean of a cluster.
    """
    num_e, num_c = len(load), len(least)
    mean = float(load.sum()) / num_c
    unit = load / mean
    e, c = (axis.ravel() for axis in np.indices((num_e, num_c)))
    build = LinearBuilder()
    x = build.add_columns("x", [e, c], upper=1.0, integer=True)
    d = build.add_columns("d", [np.arange(num_c)], cost=1.0)
    build.add_rows("one", [np.arange(num_e)], [(e, x.range, 1.0)], lower=1, upper=1)
    clusters = np.arange(num_c)
    build.add_rows("size", [clusters], [(c, x.range, 1.0)], lower=least, upper=most)
    build.add_rows(
        "above", [clusters], [(c, x.range, unit[e]), (clusters, d.range, -1.0)], upper=1
    )
    build.add_rows(
        "below", [clusters], [(c, x.range, unit[e]), (clusters, d.range, 1.0)], lower=1
    )
    build.add_rows(
        "bound",
        [np.zeros(1)],
        [(np.zeros(num_c, dtype=np.int64), d.range, 1.0)],
        lower=least_deviation(unit, least, most),
    )
    start = np.zeros(build.num_columns)
    start[x.start + np.arange(num_e) * num_c + label] = 1.0
    start[d.range] = np.abs(np.bincount(label, unit, num_c) - 1.0)
    return build.build(), start

"""Groups of experts with much in common: spectral clustering, sizes, exchanges.

All work on a symmetric matrix of what experts of one layer have in common (how often a
token calls both), and on labels: the group of each expert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from numpy.typing import NDArray


def spectral_groups(weight: NDArray[np.float64], num: int) -> NDArray[np.int64]:
    """Cluster experts by the leading eigenvectors of their normalised common calls.

    Labels come from a pivoted QR decomposition of the eigenvectors, not from k-means:
    nothing is random [2]_.

    Parameters
    ----------
    weight
        What two experts have in common, (E, E), symmetric, non-negative.
    num
        Groups; some may stay empty.

    Returns
    -------
    ndarray of int64, shape (E,)
        Group of each expert, 0 to ``num`` - 1.

    References
    ----------
    .. [1] Ng, A. Y., Jordan, M. I., Weiss, Y. (2001). On Spectral Clustering: Analysis
       and an Algorithm. *NIPS*.
    .. [2] Damle, A., Minden, V., Ying, L. (2019). Simple, direct and efficient
       multi-way spectral clustering. *Information and Inference* 8(1).
    """
    size = len(weight)
    if num >= size:
        return np.arange(size, dtype=np.int64)
    if num == 1:
        return np.zeros(size, dtype=np.int64)
    degree = weight.sum(axis=1)
    # An expert with nobody in common stands alone.
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1.0)), 0.0)
    affinity = scale[:, None] * weight * scale[None, :]
    _, vectors = scipy.linalg.eigh(affinity, subset_by_index=[size - num, size - 1])
    _, pivots = scipy.linalg.qr(vectors.T, pivoting=True, mode="r")[-2:]
    left, _, right = scipy.linalg.svd(vectors[pivots[:num]].T)
    label: NDArray[np.int64] = np.abs(vectors @ (left @ right)).argmax(axis=1)
    return label


def ranked(label: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rename clusters so that the largest has the most slots, and so on.

    Parameters
    ----------
    label
        Cluster of each expert, (E,), below S.
    slots
        Of each group, (S,).
    """
    size = np.bincount(label, minlength=len(slots))
    name = np.empty(len(slots), dtype=np.int64)
    name[np.argsort(-size, kind="stable")] = np.argsort(-slots, kind="stable")
    return name[label]


def common(
    weight: NDArray[np.float64], label: NDArray[np.int64], num: int
) -> NDArray[np.float64]:
    """Return what each expert has in common with each group, (E, num)."""
    return weight @ np.eye(num)[label]


def inside(weight: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Return the part of what experts have in common that stays inside groups."""
    total = float(weight.sum())
    if total <= 0:
        return 1.0
    return float(weight[label[:, None] == label[None, :]].sum()) / total


def fit_sizes(
    label: NDArray[np.int64],
    least: NDArray[np.int64],
    most: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Move experts until every group has a size that it may have.

    Again and again the move that costs least in common calls: out of a group that is
    too large, or into one that is too small.

    Parameters
    ----------
    label
        Group of each expert, (E,).
    least, most
        Sizes that a group may have, (num,); the least sum to at most E, the most to at
        least E.
    weight
        What two experts have in common, (E, E).

    Returns
    -------
    ndarray of int64, shape (E,)
        Labels.

    Raises
    ------
    ValueError
        If no groups have such sizes.
    """
    if (least > most).any() or not least.sum() <= len(label) <= most.sum():
        raise ValueError(
            f"sizes: got {least.tolist()} to {most.tolist()}, expected bounds for "
            f"{len(label)} experts"
        )
    label, num = label.copy(), len(least)
    shared = common(weight, label, num)
    size = np.bincount(label, minlength=num)
    experts = np.arange(len(label))
    while (size > most).any() or (size < least).any():
        over, under = size > most, size < least
        leave = over if over.any() else size > least
        enter = under if under.any() else size < most
        gain = shared - shared[experts, label][:, None]
        gain = np.where(leave[label][:, None] & enter[None, :], gain, -np.inf)
        gain[experts, label] = -np.inf
        e, to = np.unravel_index(int(np.argmax(gain)), gain.shape)
        came = label[e]
        label[e] = to
        size[came] -= 1
        size[to] += 1
        shared[:, came] -= weight[:, e]
        shared[:, to] += weight[:, e]
    return label


def exchange(
    label: NDArray[np.int64], weight: NDArray[np.float64], *, rounds: int = 1000
) -> NDArray[np.int64]:
    """Exchange pairs of experts while that brings common calls inside groups.

    Each time the pair that gains most, as Kernighan and Lin do; sizes stay.

    Parameters
    ----------
    label
        Group of each expert, (E,).
    weight
        What two experts have in common, (E, E), zero on the diagonal.
    rounds
        Exchanges at most.

    Returns
    -------
    ndarray of int64, shape (E,)
        Labels.
    """
    label, num = label.copy(), int(label.max(initial=0)) + 1
    shared = common(weight, label, num)
    experts = np.arange(len(label))
    least = 1e-12 * float(weight.sum())
    for _ in range(rounds):
        go = shared[:, label] - shared[experts, label][:, None]  # e to the group of f
        gain = go + go.T - 2.0 * weight
        gain[label[:, None] == label[None, :]] = -np.inf
        e, f = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if not gain[e, f] > least:
            break
        a, b = label[e], label[f]
        label[e], label[f] = b, a
        moved = weight[:, f] - weight[:, e]
        shared[:, a] += moved
        shared[:, b] -= moved
    return label

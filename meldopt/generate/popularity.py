"""How often each expert is called: skewed, and different from domain to domain.

The popularity of a layer is log-normal, ``exp(sigma * base + delta * own)``, scaled so
that the layer's calls add to ``top_k`` with no expert called more than once per token.
``sigma`` (by layer) and ``delta`` (for all) are found by bisection so that the
statistics asked for come out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import InstanceError

from .digits import rounded, rounded_to_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS = 26  # of a bisection: as fine as the digits that are kept
_WIDEST = 8.0  # standard deviation of log-popularity at which a search ends
_MISSED = 0.05  # relative distance from a target that is called out of reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Published statistics of the routing of one model.

    Attributes
    ----------
    skew
        Range over layers of busiest over mean calls.
    drift
        Mean total variation between the calls of two domains.
    dependence
        Normalised mutual information of the first choice of a layer and a call of the
        next.
    """

    skew: tuple[float, float]
    drift: float
    dependence: float


PUBLISHED = {
    "mixtral-8x7b": Statistics(skew=(1.09, 1.99), drift=0.078, dependence=0.1),
    "olmoe-1b-7b": Statistics(skew=(2.5, 4.1), drift=0.24, dependence=0.07),
    "gpt-oss-20b": Statistics(skew=(1.95, 3.72), drift=0.3, dependence=0.2),
    "deepseek-v3": Statistics(skew=(3.1, 10.0), drift=0.2, dependence=0.1),
}
"""Measured on public routing counts (``docs/generate.md`` names them)."""

OTHERWISE = Statistics(skew=(1.9, 4.1), drift=0.2, dependence=0.1)
"""For models of which nothing is published: the middle of those above."""


def popularity(
    rng: np.random.Generator,
    *,
    domains: int,
    layers: int,
    experts: int,
    top_k: int,
    skew: tuple[float, float],
    drift: float,
) -> NDArray[np.float64]:
    """Draw calls per token that have the skew and drift asked for.

    Parameters
    ----------
    rng
        Where randomness comes from.
    domains, layers, experts, top_k
        Sizes; ``top_k`` calls per token and layer.
    skew
        Range of busiest over mean calls, of the mean over domains; the layers' own
        values are spread log-uniformly.
    drift
        Mean total variation between two domains, a share of all calls.

    Returns
    -------
    ndarray of float64, shape (D, L, E)
        Calls per token; each (domain, layer) adds to ``top_k``.

    Raises
    ------
    InstanceError
        If no popularity has these statistics.
    """
    base = rng.standard_normal((layers, experts))
    own = rng.standard_normal((domains, layers, experts))
    own = own - own.mean(axis=0)  # what all domains share is the base
    low, high = np.log(skew[0]), np.log(skew[1])
    wanted = np.exp(low + (high - low) * rng.random(layers))
    most = experts / top_k
    if skew[1] > most * (1 + 1e-9):
        raise InstanceError(
            f"parameters.skew: got {skew[1]:g}, expected at most experts / top_k = "
            f"{most:g}"
        )

    def calls(delta: float) -> NDArray[np.float64]:
        sigma = _spread(base, own * delta, top_k, wanted)
        return _calls(sigma[:, None] * base + delta * own, top_k)

    delta = 0.0
    if domains > 1 and drift > 0:
        lower, upper = 0.0, _WIDEST
        for _ in range(_STEPS):
            middle = (lower + upper) / 2
            if total_variation(calls(middle)) < drift:
                lower = middle
            else:
                upper = middle
        delta = float(rounded(np.array([upper]))[0])
    found = rounded_to_sum(calls(delta), float(top_k), most=1.0)
    _check(found, wanted, drift if domains > 1 else 0.0)
    return found


def busiest_over_mean(calls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the skew of each layer, of the mean over domains; (D, L, E) -> (L,)."""
    pooled = calls.mean(axis=0)
    skew: NDArray[np.float64] = pooled.max(axis=1) / pooled.mean(axis=1)
    return skew


def total_variation(calls: NDArray[np.float64]) -> float:
    """Return the mean total variation between two domains, over layers and pairs."""
    pairs = list(itertools.combinations(range(len(calls)), 2))
    if not pairs:
        return 0.0
    share = calls / calls.sum(axis=2, keepdims=True)
    distances = [0.5 * np.abs(share[a] - share[b]).sum(axis=1).mean() for a, b in pairs]
    return float(np.mean(distances))


def _calls(log_weight: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    """Scale weights to calls: each row adds to ``top_k``, nothing exceeds 1."""
    weight = np.exp(log_weight - log_weight.max(axis=-1, keepdims=True))
    capped = np.zeros(weight.shape, dtype=bool)
    while True:
        free = np.where(capped, 0.0, weight).sum(axis=-1, keepdims=True)
        left = top_k - capped.sum(axis=-1, keepdims=True)
        scale = np.divide(left, free, out=np.zeros_like(free), where=free > 0)
        calls = np.where(capped, 1.0, weight * scale)
        over = calls > 1.0
        if not over.any():
            return calls
        capped |= over


def _spread(
    base: NDArray[np.float64],
    shift: NDArray[np.float64],
    top_k: int,
    wanted: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Find by bisection the sigma of each layer that gives the skew wanted; (L,)."""
    lower, upper = np.zeros(len(base)), np.full(len(base), _WIDEST)
    for _ in range(_STEPS):
        middle = (lower + upper) / 2
        got = busiest_over_mean(_calls(middle[:, None] * base + shift, top_k))
        lower = np.where(got < wanted, middle, lower)
        upper = np.where(got < wanted, upper, middle)
    return rounded(upper)


def _check(
    calls: NDArray[np.float64], wanted: NDArray[np.float64], drift: float
) -> None:
    skew = busiest_over_mean(calls)
    worst = int(np.argmax(np.abs(skew - wanted) / wanted))
    if abs(skew[worst] - wanted[worst]) > _MISSED * wanted[worst]:
        raise InstanceError(
            f"parameters.skew: got {wanted[worst]:.4g} for layer {worst}, but with a "
            f"drift of {drift:g} it comes to {skew[worst]:.4g}; expected more skew or "
            "less drift"
        )
    got = total_variation(calls)
    if abs(got - drift) > _MISSED * max(drift, 0.01):
        raise InstanceError(
            f"parameters.drift: got {drift:g}, but with this skew at most {got:.4g} "
            "can be reached; expected more skew or less drift"
        )

"""How far tokens travel under a placement: hops between layers, servers of a layer.

Two yardsticks of the literature, with what a placement that knows nothing would give.
ExFlow [1]_ counts the hops of a token that goes from its expert of one layer to its
expert of the next; Occult [2]_ counts the distinct devices that the experts of a token
in one layer sit on, to which communication is proportional.

References
----------
.. [1] Yao, J. et al. (2024). Exploiting Inter-Layer Expert Affinity for Accelerating
   Mixture-of-Experts Model Inference. *IPDPS*. arXiv:2401.08383.
.. [2] Luo, S. et al. (2025). Occult: Optimizing Collaborative Communications across
   Experts for Accelerated Parallel MoE Training and Inference. *ICML*.
   arXiv:2505.13345.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import PlanError
from .score import Flows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from .plan import Plan
    from .problem import Problem
    from .trace import Trace


def hops_per_token(
    paths: NDArray[np.int64],
    server_of: NDArray[np.int64],
    *,
    distance: NDArray[np.float64] | None = None,
    weight: NDArray[np.float64] | None = None,
) -> float:
    """Return the mean hops of tokens that walk from expert to expert through layers.

    Parameters
    ----------
    paths
        Expert of each token in each layer (its primary one), of all N experts; -1:
        none, which adds no hop; (T, L).
    server_of
        Server of each expert, (N,); or as each token sees it, (T, N). -1: none.
    distance
        Hops between servers, (S, S); 1 between any two and 0 inside one if None.
    weight
        Weight of each token in the mean, (T,); all alike if None.

    Returns
    -------
    float
        Hops summed over the transitions of a token, mean over tokens; 0 without tokens.
    """
    return _mean(_hops(_located(paths, server_of), distance), weight)


def devices_per_token(
    experts: NDArray[np.int64],
    server_of: NDArray[np.int64],
    *,
    weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the mean number of servers that hold the experts of a token, by layer.

    Parameters
    ----------
    experts
        Experts of each token in each layer, of all N experts; -1: none; (T, L, k).
    server_of
        Server of each expert, (N,); or as each token sees it, (T, N). -1: none.
    weight
        Weight of each token in the mean, (T,); all alike if None.

    Returns
    -------
    ndarray of float64, shape (L,)
        Distinct servers; 0 without tokens.
    """
    count = _devices(_located(experts, server_of))  # (T, L)
    return np.array(
        [_mean(count[:, layer], weight) for layer in range(count.shape[1])],
        dtype=np.float64,
    )


def uniform_hops_per_token(counts: ArrayLike) -> float:
    """Return the hops to expect if every expert of a layer is called alike.

    Parameters
    ----------
    counts
        Experts of each layer on each server, (L, S).

    Returns
    -------
    float
        Sum over transitions of the chance that two experts, drawn independently, sit on
        different servers. For S equal servers it is (L - 1) (1 - 1/S): 23.25 for the 31
        transitions of Mixtral on 4, 27.125 on 8.
    """
    share = np.asarray(counts, dtype=np.float64)
    total = share.sum(axis=1, keepdims=True)
    share = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
    return float((1.0 - (share[:-1] * share[1:]).sum(axis=1)).sum())


def uniform_devices_per_token(counts: ArrayLike, top_k: int) -> float:
    """Return the servers to expect if a token calls any ``top_k`` experts of a layer.

    Parameters
    ----------
    counts
        Experts of the layer on each server, (S,).
    top_k
        Experts that a token calls, all different.

    Returns
    -------
    float
        Sum over servers of the chance that one of its experts is called,
        1 - C(E - n, k) / C(E, k): 3.659 for 8 of 64 experts on 4 equal servers.

    Raises
    ------
    ValueError
        If there are fewer experts than that.
    """
    held = np.asarray(counts, dtype=np.int64)
    total = int(held.sum())
    if not 0 <= top_k <= total:
        raise ValueError(f"top_k: got {top_k}, expected 0 to {total}, the experts")
    missed = np.ones(len(held))
    for j in range(top_k):
        missed *= np.maximum(total - held - j, 0) / (total - j)
    return float((1.0 - missed).sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affinity:
    """What `plan_affinity` found.

    Attributes
    ----------
    hops
        Hops of a token over all transitions, from primary to primary expert.
    uniform_hops
        The same to expect if every expert were called alike.
    devices
        Distinct servers of the experts of a token in each layer, (L,).
    uniform_devices
        The same to expect if every set of experts were called alike, (L,).
    """

    hops: float
    uniform_hops: float
    devices: NDArray[np.float64]  # (L,)
    uniform_devices: NDArray[np.float64]  # (L,)

    @property
    def devices_per_token(self) -> float:
        """Distinct servers of a token, mean over layers."""
        return float(self.devices.mean()) if len(self.devices) else 0.0


def main_servers(problem: Problem, plan: Plan) -> NDArray[np.int64]:
    """Return the server that answers most of each expert's calls, by demand; (Q, N).

    The first among equals; -1 where nobody answers.
    """
    flows = Flows(problem, plan)
    num_s = problem.num_servers
    key = (flows.q * problem.num_experts + flows.i) * num_s + flows.server
    keys, row = np.unique(key[flows.share > 0], return_inverse=True)
    share = np.bincount(row, flows.share[flows.share > 0], len(keys))
    pair, server = np.divmod(keys, num_s)
    # Ascending in share, and descending in server: the last one of a pair is written.
    order = np.lexsort((-server, share))
    main = np.full(problem.num_demands * problem.num_experts, -1, dtype=np.int64)
    main[pair[order]] = server[order]
    return main.reshape(problem.num_demands, problem.num_experts)


def plan_affinity(
    problem: Problem,
    plan: Plan,
    tokens: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]] | None = None,
    *,
    distance: NDArray[np.float64] | None = None,
) -> Affinity:
    """Measure hops and servers per token of a plan on tokens.

    An expert counts where most of the demand's calls of it are answered. Demands that
    have tokens are weighted by their rates.

    Parameters
    ----------
    problem, plan
        Of either dataflow. In `home` a token takes no hops; they say then what it would
        take if it walked.
    tokens
        Chunks of tokens: experts of all N, the primary first, -1: none, (T, L, k), and
        the demand of each token, (T,). The sampled tokens of the problem if None.
    distance
        Hops between servers, (S, S); 1 between any two if None.

    Raises
    ------
    PlanError
        If there are no tokens.
    """
    if tokens is None:
        tokens = [(problem.sample_experts, problem.sample_demand)]
    located = main_servers(problem, plan)
    num_q, num_l = problem.num_demands, problem.num_layers
    count, hops = np.zeros(num_q), np.zeros(num_q)
    devices, called = np.zeros((num_q, num_l)), np.zeros(num_l)
    for experts, demand in tokens:
        at = _located(experts, located[demand])
        count += np.bincount(demand, minlength=num_q)
        hops += np.bincount(demand, _hops(at[:, :, 0], distance), num_q)
        np.add.at(devices, demand, _devices(at))
        called += (experts >= 0).sum(axis=(0, 2))
    if not count.any():
        raise PlanError(
            f"{problem.name}: got no tokens, expected some to measure hops and servers "
            "per token on"
        )
    seen = count > 0
    part = np.where(seen, problem.rate, 0.0)
    part = part / part.sum() if part.any() else count / count.sum()
    per_token = np.divide(part, count, out=np.zeros(num_q), where=seen)
    top_k = np.rint(called / count.sum()).astype(np.int64)
    uniform_hops, uniform_devices = 0.0, np.zeros(num_l)
    for q in np.flatnonzero(seen).tolist():
        held = _held(problem, located[q])
        uniform_hops += part[q] * uniform_hops_per_token(held)
        for layer, row in enumerate(held):
            few = min(int(top_k[layer]), int(row.sum()))
            uniform_devices[layer] += part[q] * uniform_devices_per_token(row, few)
    return Affinity(
        hops=float(per_token @ hops),
        uniform_hops=float(uniform_hops),
        devices=per_token @ devices,
        uniform_devices=uniform_devices,
    )


def trace_tokens(
    problem: Problem,
    trace: Trace,
    layer: NDArray[np.int64],
    request_demand: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Stream the tokens of a trace as `plan_affinity` takes them.

    Parameters
    ----------
    problem, trace
        Of one model.
    layer
        Position in the trace of each layer of the problem, (L,).
    request_demand
        Demand of each request, (R,). `meldopt.replay.match.match` says both.

    Yields
    ------
    tuple of ndarray of int64
        Experts of all N of the tokens of a chunk, (T, L, k), and their demands, (T,).
    """
    first = problem.layer_start[None, :-1, None]
    for chunk in trace.chunks():
        experts = first + chunk.experts[:, layer].astype(np.int64)
        yield experts, request_demand[chunk.token_request]


def _held(problem: Problem, server_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the experts of each layer on each server, (L, S)."""
    counts = np.zeros((problem.num_layers, problem.num_servers), dtype=np.int64)
    held = server_of >= 0
    np.add.at(counts, (problem.layer_of[held], server_of[held]), 1)
    return counts


def _located(
    experts: NDArray[np.int64], server_of: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the server of each expert; -1 where there is no expert."""
    experts = np.asarray(experts, dtype=np.int64)
    server_of = np.asarray(server_of, dtype=np.int64)
    if server_of.ndim == 1:
        at = server_of[experts]
    else:
        token = np.arange(len(experts)).reshape(-1, *(1,) * (experts.ndim - 1))
        at = server_of[token, experts]
    return np.where(experts >= 0, at, -1)


def _hops(
    at: NDArray[np.int64], distance: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the hops of each token from its servers in each layer, (T,)."""
    here, there = at[:, :-1], at[:, 1:]
    if distance is None:
        far = (here != there).astype(np.float64)
    else:
        far = np.asarray(distance, dtype=np.float64)[here, there]
    hops: NDArray[np.float64] = np.where((here >= 0) & (there >= 0), far, 0.0).sum(
        axis=1
    )
    return hops


def _devices(at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many servers differ in each layer of each token, (T, L)."""
    at = np.sort(at, axis=2)
    new = np.ones(at.shape, dtype=bool)
    new[:, :, 1:] = at[:, :, 1:] != at[:, :, :-1]
    count: NDArray[np.float64] = (new & (at >= 0)).sum(axis=2, dtype=np.float64)
    return count


def _mean(values: NDArray[np.float64], weight: NDArray[np.float64] | None) -> float:
    if not len(values):
        return 0.0
    return float(np.average(values, weights=weight))

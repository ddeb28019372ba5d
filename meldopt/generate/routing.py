"""How an instance's tokens choose experts: weights that reproduce its own statistics.

What is reproduced: the calls of every domain exactly; activation paths (first choice of
a layer to each call of the next) and co-activation (first choice to the other calls of
its layer) where the instance has ``pairs``, or ``sample_experts`` to estimate them
from. The law is the one closest to independence that has these statistics: an
exponential family, fitted by iterative scaling. Without either, layers and calls depend
on each other only in that a token calls no expert twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import InstanceError

from .drawing import expected, inclusion, tails_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.instance import Instance
    from meldopt.problem import Problem

    Tables = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

FIRST = 1.5
"""First choices are more skewed than calls: their exponent where nothing is known."""

WIDEST = 64
"""Most experts of a layer for which dependence is estimated from sampled tokens."""

_PRIOR = 0.5  # sampled calls that independence is worth, for each entry of a table
_MOST = 1 - 1e-7  # an expert that is called always has no finite weight
_ROUNDS = 400
_LAYER_ROUNDS = 300  # of the slower scaling of two tables
_LOOK = 25  # rounds after which it must be closer by a fifth to go on
_CLOSE = 1e-6  # calls per token


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routing:
    """What draws tokens of an instance.

    Attributes
    ----------
    domains, mixes
        Names, and share of each domain in an application's tokens, (G, D).
    counts, top_k
        Experts of each layer, (L,), and calls of a token in a layer.
    calls
        Calls per token, (D, L, E); 0 beyond a layer's experts.
    alone, order, first, paths, inside
        Arrays of `meldopt.generate.drawing.draw`.
    fuse_width
        Share of calls in each segment of fusion, (D, L, M).
    gate_loss
        Width and loss of the segments of pruning, (D, L, M) each.
    """

    domains: tuple[str, ...]
    mixes: NDArray[np.float64]  # (G, D)
    counts: NDArray[np.int64]  # (L,)
    top_k: int
    calls: NDArray[np.float64]  # (D, L, E)
    alone: NDArray[np.float64]  # (D, L, E + 1, K + 1)
    order: NDArray[np.float64]  # (D, L, E)
    first: NDArray[np.float64]  # (D, L, E, E) or (0, 0, 0, 0)
    paths: NDArray[np.float64]
    inside: NDArray[np.float64]
    fuse_width: NDArray[np.float64]  # (D, L, M)
    prune_width: NDArray[np.float64]  # (D, L, M)
    prune_loss: NDArray[np.float64]  # (D, L, M)

    @property
    def coupled(self) -> bool:
        """Whether paths and co-activation are those of the instance."""
        return len(self.first) > 0


def routing_of(instance: Instance, problem: Problem) -> Routing:
    """Fit the routing of an instance.

    Parameters
    ----------
    instance, problem
        The same instance, as files hold it and checked.

    Raises
    ------
    InstanceError
        If a token calls no whole number of experts.
    """
    domains, mixes = _domains(instance)
    counts = np.diff(problem.layer_start)
    num_d, num_l, num_e = len(domains), len(counts), int(counts.max())
    calls = np.zeros((num_d, num_l, num_e))
    flat = _by_domain(instance, "calls", num_d)
    for layer, count in enumerate(counts):
        start = problem.layer_start[layer]
        if flat is None:  # nothing measured: every expert is as likely as any other
            per = float(problem.calls[0, start : start + count].sum())
            calls[:, layer, :count] = per / count
        else:
            table = flat.reshape(num_d, -1)
            calls[:, layer, :count] = table[:, start : start + count]
    each = float(calls[0, 0].sum())
    top_k = round(each)
    if abs(each - top_k) > 1e-6 or top_k < 1:
        raise InstanceError(
            f"{instance.name}: $.model.top_k: got {each:g}, expected a whole number: "
            "a token of a trace calls so many experts"
        )
    if calls.max() > 1 + 1e-9:
        raise InstanceError(
            f"{instance.name}: model.profile.calls: got {calls.max():g} calls per "
            "token of one expert, expected at most 1"
        )
    alone = np.zeros((num_d, num_l, num_e + 1, top_k + 1))
    for d in range(num_d):
        for layer, count in enumerate(counts):
            weight = set_weights(calls[d, layer, :count], top_k)
            alone[d, layer, : count + 1] = tails_of(weight, top_k)
    tables = _joint(instance, problem, calls, counts, top_k)
    none = np.zeros((0, 0, 0, 0))
    first, paths, inside = (
        (none, none, none) if tables is None else _fitted(calls, counts, top_k, tables)
    )
    empty = np.zeros((num_d, num_l, 0))
    curves = [
        _by_domain(instance, name, num_d)
        for name in ("fuse_width", "prune_width", "prune_loss")
    ]
    return Routing(
        domains=domains,
        mixes=mixes,
        counts=counts,
        top_k=top_k,
        calls=calls,
        alone=alone,
        order=np.maximum(calls, 1e-12) ** FIRST,
        first=first,
        paths=paths,
        inside=inside,
        fuse_width=empty if curves[0] is None else curves[0],
        prune_width=empty if curves[1] is None else curves[1],
        prune_loss=empty if curves[2] is None else curves[2],
    )


def set_weights(calls: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    """Find weights of experts so that sets of ``top_k`` have these calls; (E,).

    Parameters
    ----------
    calls
        Calls per token, at most 1 each, that add to ``top_k``.
    """
    if top_k == len(calls):
        return np.ones(len(calls))
    wanted = np.minimum(calls, _MOST)
    odds = wanted / (1 - wanted)
    weight: NDArray[np.float64] = odds / max(float(odds.mean()), 1e-300)
    for _ in range(_ROUNDS):
        _, got = inclusion(weight, top_k, -1)
        if np.abs(got - wanted).max() < _CLOSE * 1e-3:
            break
        got = np.clip(got, 1e-300, 1 - 1e-12)
        # Half the step: with few experts a whole one goes to and fro for ever.
        step = np.sqrt(odds * (1 - got) / got)
        weight = np.where(wanted > 0, weight * step, 0.0)
        weight /= weight.mean()
    return weight


# -- what the instance says ------------------------------------------------------------


def _domains(instance: Instance) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return the names of domains, and their mix in each application, (G, D)."""
    calls = instance.arrays.get("calls")
    names = instance.spec.model.domains
    if names is None:
        count = 1 if calls is None or calls.ndim < 2 else calls.shape[0]
        names = ["all"] if count == 1 else [f"domain-{d}" for d in range(count)]
    applications = instance.spec.workload.applications
    mixes = np.zeros((len(applications), len(names)))
    for g, application in enumerate(applications):
        mix = application.domain
        if mix is None:
            mix = names[0]
        for name, weight in ({mix: 1.0} if isinstance(mix, str) else mix).items():
            mixes[g, names.index(name)] = weight
        mixes[g] /= mixes[g].sum()
    return tuple(names), mixes


def _by_domain(instance: Instance, name: str, count: int) -> NDArray[np.float64] | None:
    """Return a profile array with a row for each domain; None if it is not there."""
    raw = instance.arrays.get(name)
    if raw is None:
        return None
    array = raw.astype(np.float64)
    if len(array) == 1 and count > 1:
        array = np.repeat(array, count, axis=0)
    return array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Joint:
    """What is to be reproduced beside the calls."""

    primary: NDArray[np.float64]  # (D, L, E) how often the first choice
    paths: NDArray[np.float64]  # (D, L, E, E) first choice before, call; row 0 of 0
    inside: NDArray[np.float64]  # (D, L, E, E) first choice, other call


def _joint(
    instance: Instance,
    problem: Problem,
    calls: NDArray[np.float64],
    counts: NDArray[np.int64],
    top_k: int,
) -> _Joint | None:
    """Collect paths and co-activation from pairs or from sampled tokens."""
    if len(problem.pairs):
        raw, prior = _from_pairs(instance, problem, calls), 0.0
    elif len(instance.arrays.get("sample_experts", ())) and counts.max() <= WIDEST:
        raw = _from_samples(instance, calls, top_k)
        prior = counts.max() * _PRIOR
    else:
        return None
    primary, paths, inside = raw
    num_d, num_l, _ = calls.shape
    for d in range(num_d):
        for layer in range(num_l):
            share = _primary(primary[d, layer], calls[d, layer], prior)
            primary[d, layer] = share
            others = np.maximum(calls[d, layer] - share, 0.0)
            if top_k > 1:
                apart = share[:, None] * others[None, :]
                np.fill_diagonal(apart, 0.0)
                inside[d, layer] = _scaled(
                    _shrunk(inside[d, layer], apart, prior),
                    (top_k - 1) * share,
                    others,
                    share,
                )
            before = np.eye(1, len(share))[0] if layer == 0 else primary[d, layer - 1]
            apart = before[:, None] * calls[d, layer][None, :]
            paths[d, layer] = _scaled(
                _shrunk(paths[d, layer], apart, prior if layer else 1.0),
                top_k * before,
                calls[d, layer],
                before,
            )
    return _Joint(primary=primary, paths=paths, inside=inside)


def _from_pairs(
    instance: Instance, problem: Problem, calls: NDArray[np.float64]
) -> Tables:
    """Sort the pairs of a roaming token into paths and gathering."""
    num_d, num_l, num_e = calls.shape
    weight = _by_domain(instance, "pair_weight", num_d)
    leave = _by_domain(instance, "exit", num_d)
    assert weight is not None
    paths = np.zeros((num_d, num_l, num_e, num_e))
    inside = np.zeros((num_d, num_l, num_e, num_e))
    layer = problem.layer_of[problem.pairs]
    local = problem.pairs - problem.layer_start[layer]
    onward = layer[:, 1] == layer[:, 0] + 1
    a, b = local[onward].T
    paths[:, layer[onward, 1], a, b] = weight[:, onward]
    gather = layer[:, 1] == layer[:, 0]
    other, first = local[gather].T
    inside[:, layer[gather, 0], first, other] = weight[:, gather]
    # The first choice gathers the others, goes on from its layer, or leaves from it.
    primary = inside.sum(axis=3)
    onto = np.zeros_like(primary)
    onto[:, :-1] = paths[:, 1:].sum(axis=3)
    if leave is not None:
        table = leave.reshape(num_d, -1)
        start = problem.layer_start[-2]
        onto[:, -1, : table.shape[1] - start] = table[:, start:]
    primary = np.where(primary.sum(axis=2, keepdims=True) > 0, primary, onto)
    return primary, paths, inside


def _from_samples(instance: Instance, calls: NDArray[np.float64], top_k: int) -> Tables:
    """Count paths and co-activation of sampled tokens, of all domains together.

    Few tokens are sampled: what one domain has of them would be noise. The calls of a
    domain stay its own.
    """
    num_d, num_l, num_e = calls.shape
    chosen = instance.arrays["sample_experts"].astype(np.int64)
    whole = (chosen >= 0).all(axis=(1, 2)) & (chosen.shape[2] == top_k)
    chosen = chosen[whole]
    primary = np.zeros((num_l, num_e))
    paths = np.zeros((num_l, num_e, num_e))
    inside = np.zeros((num_l, num_e, num_e))
    for layer in range(num_l):
        first = chosen[:, layer, 0]
        np.add.at(primary[layer], first, 1.0)
        for slot in range(top_k):
            other = chosen[:, layer, slot]
            if slot:
                np.add.at(inside[layer], (first, other), 1.0)
            if layer:
                np.add.at(paths[layer], (chosen[:, layer - 1, 0], other), 1.0)
    return (
        np.repeat(primary[None], num_d, axis=0),
        np.repeat(paths[None], num_d, axis=0),
        np.repeat(inside[None], num_d, axis=0),
    )


def _shrunk(
    table: NDArray[np.float64], apart: NDArray[np.float64], prior: float
) -> NDArray[np.float64]:
    """Mix counts with what independence would give, worth ``prior`` calls a row."""
    if not table.sum() > 0:
        return apart
    if prior <= 0:
        return table
    rows = len(table)
    return table + apart * (prior * rows / max(float(apart.sum()), 1e-300))


def _primary(
    counted: NDArray[np.float64], calls: NDArray[np.float64], prior: float
) -> NDArray[np.float64]:
    """Return how often each expert is the first choice: adds to 1, within calls."""
    guess = calls**FIRST
    guess = guess / guess.sum()
    if counted.sum() > 0:
        guess = counted + prior * guess
    lower, upper = 0.0, 1.0
    while np.minimum(upper * guess, calls).sum() < 1 - 1e-12 and upper < 1e15:
        upper *= 2
    for _ in range(100):
        middle = (lower + upper) / 2
        if np.minimum(middle * guess, calls).sum() < 1:
            lower = middle
        else:
            upper = middle
    share = np.minimum(upper * guess, calls)
    result: NDArray[np.float64] = share / share.sum()
    return result


def _scaled(
    table: NDArray[np.float64],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    most: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Scale rows and columns to given sums (iterative proportional fitting).

    No entry may exceed ``most`` of its row: a token calls no expert twice.
    """
    for _ in range(_ROUNDS):
        have = table.sum(axis=1)
        table = table * _ratio(rows, have)[:, None]
        table = np.minimum(table, most[:, None])
        table = table * _ratio(columns, table.sum(axis=0))
        over = float((table - most[:, None]).max())
        off = float(np.abs(table.sum(axis=1) - rows).max())
        if max(over, off) < _CLOSE * 1e-3:
            break
    return table


def _fitted(
    calls: NDArray[np.float64],
    counts: NDArray[np.int64],
    top_k: int,
    joint: _Joint,
) -> Tables:
    """Find the weights that reproduce paths and co-activation (`draw`)."""
    num_d, num_l, num_e = calls.shape
    first = np.zeros((num_d, num_l, num_e, num_e))
    paths = np.zeros_like(first)
    inside = np.zeros_like(first)
    for d in range(num_d):
        for layer, count in enumerate(counts):
            rows = 1 if layer == 0 else int(counts[layer - 1])
            before = (
                np.ones(1) if layer == 0 else joint.primary[d, layer - 1, :rows].copy()
            )
            found = _scaled_layer(
                joint.paths[d, layer, :rows, :count],
                joint.inside[d, layer, :count, :count],
                before,
                top_k,
            )
            first[d, layer, :rows, :count] = np.cumsum(found[0], axis=1)
            paths[d, layer, :rows, :count] = found[1]
            inside[d, layer, :count, :count] = found[2]
    return first, paths, inside


def _scaled_layer(
    paths: NDArray[np.float64],
    inside: NDArray[np.float64],
    before: NDArray[np.float64],
    top_k: int,
) -> Tables:
    """Fit one layer by iterative scaling of its two tables in turn."""
    follow = (paths > 0).astype(np.float64)
    beside = (inside > 0).astype(np.float64) if top_k > 1 else np.ones_like(inside)
    first = np.zeros_like(paths)
    # Steps of 1 / top_k and 1 / (top_k - 1) are sure to converge; twice as long ones
    # mostly do, in half the rounds: taken until one leads away.
    pace, last = 2.0, np.inf
    looked = np.inf
    for n in range(_LAYER_ROUNDS):
        after, together, first = expected(follow, beside, before, top_k)
        off = float(np.abs(after - paths).max())
        follow *= _ratio(paths, after) ** min(1.0, pace / top_k)
        # Only ratios within a row count: keep numbers near 1.
        follow /= np.maximum(follow.max(axis=1, keepdims=True), 1e-300)
        if top_k > 1:
            after, together, first = expected(follow, beside, before, top_k)
            off = max(off, float(np.abs(together - inside).max()))
            beside *= _ratio(inside, together) ** min(1.0, pace / (top_k - 1))
            beside /= max(float(beside.max()), 1e-300)
        if off < _CLOSE:
            break
        if off > last:
            pace = 1.0
        last = off
        if n % _LOOK == _LOOK - 1:
            if off > 0.8 * looked:
                break
            looked = off
    _, _, first = expected(follow, beside, before, top_k)
    # A first choice that never was before still needs a row to draw from.
    empty = ~(first.sum(axis=1) > 0)
    if empty.any():
        follow[empty] = paths.sum(axis=0) > 0
        first[empty] = first.sum(axis=0)
    return first, follow, beside


def _ratio(
    wanted: NDArray[np.float64], got: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.divide(wanted, got, out=np.zeros_like(wanted), where=got > 0)

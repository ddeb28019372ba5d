"""Director: replicas of a layer by an LP of the slowest server, rounded at random.

The time of a layer is that of its busiest server plus that of its busiest transfer,
and the model takes the sum over layers. Replicas take slots; the calls of an expert are
split over its replicas. For a target of the time of a layer, the relaxation says
whether fractions of replicas reach it; bisection finds the least such target, and the
fractions are rounded at random, again and again, to whole replicas.

Decides: placement, copies and shares.
Ignores: formats, tiers, losses and every row but memory; homes count in the means over
    all calls, and a split is the same for all demands. Its predictor of the next
    layers' load, and moves hidden in compute windows, are no part of a plan.
Gaps filled: slots of a server are shared equally among layers. In the relaxation a
    replica takes as much of a slot as the part of the calls that it serves, so that a
    layer is an LP of one fraction for each expert and server. The transfer time of a
    server is the time its calls spend on the way, both ways. Experts with one fraction
    keep it; each other draws a server with odds in proportion to its fractions, and
    takes further servers of its support while slots last, those with odds of their
    fraction first; then the calls are split anew, by the same LP on the replicas there
    are. The best of ``rounds`` draws at every target that the relaxation reaches is
    kept; for it the slots left are relaxed and rounded again while that gains. Where
    slots do not hold all experts, the largest servers get more: the plan then breaks
    memory.

References
----------
.. [1] Director (2026). *IEEE INFOCOM*. https://arxiv.org/abs/2607.08782, LP
   relaxation, bisection and iterative randomised rounding; after secondary summaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import sparse

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .prism import allot_slots
from .slimcaching import fastest_work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

NOTHING = 1e-7
"""Fraction of the calls of an expert that counts as none."""

EVALUATION = 1e-5
"""Deterministic work of a column of an LP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorParams(BaselineParams):
    """Parameters of `DirectorSolver`.

    Attributes
    ----------
    tolerance
        Relative width of the bisection at which it ends.
    rounds
        Roundings of each relaxation.
    """

    tolerance: float = 0.02
    rounds: int = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Calls of a layer over servers.

    Attributes
    ----------
    part
        Fraction of the calls of each expert that each server serves; (E, S).
    seconds
        Time of the layer: the busiest server plus the busiest transfer.
    """

    part: NDArray[np.float64]
    seconds: float


class Relaxation:
    """The linear programme of one layer: fractions of calls on servers.

    Parameters
    ----------
    compute, transfer
        Seconds that all calls of an expert would take on a server, and on the way to
        it; (E, S).
    allowed
        Which expert may be where; (E, S).
    slots
        Free slots of each server; (S,).
    held
        Replicas that exist and need no slot; none if None; (E, S).
    """

    def __init__(
        self,
        compute: NDArray[np.float64],
        transfer: NDArray[np.float64],
        allowed: NDArray[np.bool_],
        slots: NDArray[np.int64],
        held: NDArray[np.bool_] | None = None,
    ) -> None:
        from meldopt.engines.highs import empty_highs

        self.expert, self.server = np.nonzero(allowed)
        self.shape = allowed.shape
        num_e, num_s = self.shape
        num = len(self.expert)
        load = [one[self.expert, self.server] for one in (compute, transfer)]
        peak = max(max(one.max(initial=0.0) for one in load), 1e-300)
        self.scale = 1.0 / peak
        self.compute, self.transfer = load
        each, cols = np.arange(num_s), np.arange(num)
        rows = [self.expert, num_e + self.server, num_e + num_s + self.server]
        values = [np.ones(num), load[0] * self.scale, load[1] * self.scale]
        rows += [num_e + each, num_e + num_s + each]
        values += [-np.ones(num_s), -np.ones(num_s)]
        at = [cols, cols, cols, np.full(num_s, num), np.full(num_s, num + 1)]
        upper = [np.ones(num_e), np.zeros(2 * num_s)]
        new = cols if held is None else cols[~held[self.expert, self.server]]
        rows.append(num_e + 2 * num_s + self.server[new])
        values.append(np.ones(len(new)))
        at.append(new)
        upper.append(slots.astype(float))
        # The last row is the target: slowest server plus slowest transfer.
        self.target_row = sum(len(one) for one in upper)
        rows.append(np.full(2, self.target_row))
        values.append(np.ones(2))
        at.append(np.array([num, num + 1]))
        upper.append(np.array([np.inf]))
        matrix = sparse.csc_array(
            (
                np.concatenate(values),
                (np.concatenate(rows), np.concatenate(at)),
            ),
            shape=(self.target_row + 1, num + 2),
        )
        lower = np.full(self.target_row + 1, -np.inf)
        lower[:num_e] = 1.0
        self.highs = empty_highs()
        self.num = num
        _pass(self.highs, matrix, lower, np.concatenate(upper))

    def reach(self, target: float) -> Split | None:
        """Return fractions that keep a target; none if there are none."""
        self.highs.changeRowBounds(self.target_row, -np.inf, target * self.scale)
        return self._solve()

    def least(self) -> Split | None:
        """Return the fractions of least time; none if some expert may be nowhere."""
        self.highs.changeRowBounds(self.target_row, -np.inf, np.inf)
        return self._solve()

    def _solve(self) -> Split | None:
        self.highs.run()
        name = self.highs.modelStatusToString(self.highs.getModelStatus())
        if name != "Optimal":
            return None
        part = np.zeros(self.shape)
        values = np.array(self.highs.getSolution().col_value[: self.num])
        values[values < NOTHING] = 0.0
        part[self.expert, self.server] = values
        part /= np.maximum(part.sum(axis=1, keepdims=True), NOTHING)
        mine = part[self.expert, self.server]
        seconds = sum(
            float(np.bincount(self.server, mine * load, self.shape[1]).max(initial=0.0))
            for load in (self.compute, self.transfer)
        )
        return Split(part=part, seconds=seconds)


def _pass(
    highs: Any,
    matrix: sparse.csc_array,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
) -> None:
    """Hand the model to HiGHS: columns not negative, the last two cost 1.

    The cost keeps a basis dual feasible when the target moves, so that the next
    question is answered from it.
    """
    import highspy

    lp = highspy.HighsLp()
    num_rows, num_cols = matrix.shape
    lp.num_col_, lp.num_row_ = num_cols, num_rows
    lp.col_cost_ = np.append(np.zeros(num_cols - 2), [1.0, 1.0])
    lp.col_lower_, lp.col_upper_ = np.zeros(num_cols), np.full(num_cols, np.inf)
    lp.row_lower_, lp.row_upper_ = lower, upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = matrix.indptr.astype(np.int32)
    lp.a_matrix_.index_ = matrix.indices.astype(np.int32)
    lp.a_matrix_.value_ = matrix.data
    highs.passModel(lp)


def round_replicas(
    part: NDArray[np.float64],
    slots: NDArray[np.int64],
    rng: np.random.Generator,
    max_copies: int,
) -> NDArray[np.bool_]:
    """Round fractions to whole replicas within slots.

    Parameters
    ----------
    part
        Of the calls of each expert on each server; rows add to 1; (E, S).
    slots
        Of each server, enough for all experts; (S,).
    rng
        Of the draws.
    max_copies
        Of an expert.

    Returns
    -------
    ndarray of bool, shape (E, S)
        Every expert has a replica. Whole fractions stay; others draw a server, then
        further ones of their support while slots last.
    """
    held = part > 1.0 - NOTHING
    left = slots - held.sum(axis=0)
    torn = np.flatnonzero(~held.any(axis=1))
    for e in rng.permutation(torn):
        odds = np.where(left > 0, part[e], 0.0)
        if odds.sum() <= 0:  # its servers are full
            odds = np.where(left > 0, 1.0, 0.0)
        s = int(rng.choice(len(odds), p=odds / odds.sum()))
        held[e, s] = True
        left[s] -= 1
    return more_replicas(part, held, slots, rng, max_copies)


def more_replicas(
    part: NDArray[np.float64],
    held: NDArray[np.bool_],
    slots: NDArray[np.int64],
    rng: np.random.Generator,
    max_copies: int,
) -> NDArray[np.bool_]:
    """Add replicas where fractions ask for them, while slots last.

    Parameters
    ----------
    part, slots, rng, max_copies
        See `round_replicas`.
    held
        Replicas that there are, within slots; (E, S).

    Returns
    -------
    ndarray of bool, shape (E, S)
        Those drawn with odds of their fraction come first, in random order.
    """
    held = held.copy()
    left = slots - held.sum(axis=0)
    e, s = np.nonzero((part > NOTHING) & ~held)
    drawn = rng.random(len(e)) < part[e, s]
    order = np.lexsort((rng.permutation(len(e)), ~drawn))
    count = held.sum(axis=1)
    for n in order.tolist():
        if left[s[n]] > 0 and count[e[n]] < max_copies:
            held[e[n], s[n]] = True
            left[s[n]] -= 1
            count[e[n]] += 1
    return held


def even_replicas(
    compute: NDArray[np.float64],
    transfer: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    slots: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Place one replica of each expert, heavy ones first, where the layer grows least.

    Returns
    -------
    ndarray of bool, shape (E, S)
        Something to begin the bisection with.
    """
    held = np.zeros(allowed.shape, dtype=bool)
    busy, way, left = np.zeros(len(slots)), np.zeros(len(slots)), slots.copy()
    weight = np.where(allowed, compute + transfer, 0.0).max(axis=1, initial=0.0)
    for e in np.argsort(-weight, kind="stable").tolist():
        grown = np.maximum(busy + compute[e], busy.max()) + np.maximum(
            way + transfer[e], way.max()
        )
        fits = allowed[e] & (left > 0)
        # What may be nowhere with a slot goes anywhere with one.
        price = np.where(fits if fits.any() else left > 0, grown, np.inf)
        s = int(np.argmin(price))
        held[e, s] = True
        busy[s] += compute[e, s]
        way[s] += transfer[e, s]
        left[s] -= 1
    return held


def place_layer(
    compute: NDArray[np.float64],
    transfer: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    slots: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    tolerance: float,
    rounds: int,
    max_copies: int,
) -> tuple[Split, float]:
    """Bisect on the target of a layer; round, relax what is left, and round again.

    Parameters
    ----------
    compute, transfer
        Seconds that all calls of an expert would take on a server, and on the way;
        (E, S), finite.
    allowed
        Which expert may be where; (E, S).
    slots
        Of each server, enough for all experts; (S,).
    rng
        Of the roundings.
    tolerance, rounds
        See `DirectorParams`.
    max_copies
        Of an expert.

    Returns
    -------
    split : Split
        The best rounding; a server holds a replica of what it serves a part of.
    target : float
        The least target that the relaxation is known to miss, or 0: no placement of
        these slots is faster.
    """
    none_free = np.zeros_like(slots)

    def judge(held: NDArray[np.bool_]) -> Split:
        split = Relaxation(compute, transfer, held, none_free, held).least()
        assert split is not None  # every expert has a replica
        return split

    held = even_replicas(compute, transfer, allowed, slots)
    best = judge(held)
    relaxation = Relaxation(compute, transfer, allowed, slots)
    low, high = 0.0, best.seconds
    while high - low > tolerance * high:
        target = 0.5 * (low + high)
        relaxed = relaxation.reach(target)
        if relaxed is None:
            low = target
            continue
        high = min(target, relaxed.seconds)
        for _ in range(rounds):
            tried = round_replicas(relaxed.part, slots, rng, max_copies)
            found = judge(tried)
            if found.seconds < best.seconds:
                best, held = found, tried
    while best.seconds > low * (1 + tolerance):
        free = slots - held.sum(axis=0)
        new = allowed & (free > 0) & (held.sum(axis=1) < max_copies)[:, None]
        relaxed = Relaxation(compute, transfer, held | new, free, held).least()
        if relaxed is None:
            break
        held = more_replicas(relaxed.part, held, slots, rng, max_copies)
        found, before = judge(held), best.seconds
        best = found if found.seconds < before else best
        if not found.seconds < before * (1 - tolerance / 10):
            break
    return best, low


class DirectorSolver(Baseline):
    """Replicas by LP, bisection and randomised rounding, layer by layer."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="director",
        summary="replicas by an LP of the slowest server, rounded at random",
        citation="Director, arXiv 2607.08782 (INFOCOM 2026), LP rounding of min-max",
        decides=("placement", "copies", "shares"),
        sees=("memory", "calls", "homes", "network", "work"),
        params=DirectorParams,
        packages=("highspy",),
    )
    params: DirectorParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Place layer after layer."""
        params = self.params
        width = np.diff(problem.layer_start)
        slots = allot_slots(
            np.ones((problem.num_servers, problem.num_layers)) * width,
            view.slots,
            width,
        )
        work = fastest_work(problem, view)
        parts = []
        # Where slots are missing anyway there is nothing to relax.
        ended = int(view.slots.sum()) < problem.num_experts
        for layer in range(problem.num_layers):
            mine = view.experts(layer)
            compute, transfer, allowed = layer_times(problem, view, work, layer)
            enough = enough_slots(slots[:, layer], len(mine))
            ended = ended or check.step(EVALUATION * compute.size)
            if ended:  # the rest of the layers without relaxation
                held = even_replicas(compute, transfer, allowed, enough)
                parts.append(held.astype(float))
                continue
            split, _ = place_layer(
                compute,
                transfer,
                allowed,
                enough,
                rng,
                tolerance=params.tolerance,
                rounds=params.rounds,
                max_copies=view.max_copies,
            )
            parts.append(split.part)
        return split_decision(problem, np.concatenate(parts))


def enough_slots(slots: NDArray[np.int64], num_experts: int) -> NDArray[np.int64]:
    """Return slots for every expert: where some lack, the largest server has them."""
    slots = slots.copy()
    slots[np.argmax(slots)] += max(num_experts - int(slots.sum()), 0)
    return slots


def layer_times(
    problem: Problem, view: View, work: NDArray[np.float64], layer: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the seconds of all calls of the experts of a layer by server.

    Parameters
    ----------
    problem, view
        What is solved, and the attempt.
    work
        Seconds of a call; (N, S).
    layer
        Of the instance.

    Returns
    -------
    compute, transfer : ndarray of float64, shape (E, S)
        On the server, and on the way there and back; 0 where it may not be.
    allowed : ndarray of bool, shape (E, S)
        Where the format runs and every demand that calls the expert has a route.
    """
    mine = view.experts(layer)
    mass = problem.rate[:, None] * problem.calls[problem.application_of][:, mine]
    net = problem.round_trip_s[:, layer] + problem.transfer_s[:, layer]
    routed = np.isfinite(net)  # (Q, S)
    lost = (mass > 0).astype(float).T @ ~routed > 0
    allowed = np.isfinite(work[mine]) & ~lost
    compute = view.load[mine, None] * np.where(allowed, work[mine], 0.0)
    transfer = mass.T @ np.where(routed, net, 0.0)
    return compute, np.where(allowed, transfer, 0.0), allowed


def split_decision(problem: Problem, part: NDArray[np.float64]) -> Decision:
    """Write down replicas and, for experts with several, the split of their calls.

    Parameters
    ----------
    problem
        What is solved.
    part
        Of the calls of each expert on each server; (N, S).
    """
    expert, server = np.nonzero(part > NOTHING)
    share = part[expert, server]
    share = share / np.bincount(expert, share, problem.num_experts)[expert]
    several = np.bincount(expert, minlength=problem.num_experts)[expert] > 1
    row = np.flatnonzero(several)
    called = problem.calls[problem.application_of][:, expert[row]] > 0  # (Q, rows)
    q, at = np.nonzero(called)
    return Decision(
        expert=expert,
        server=server,
        served=np.stack([q, row[at]], axis=1),
        served_share=share[row[at]],
    )

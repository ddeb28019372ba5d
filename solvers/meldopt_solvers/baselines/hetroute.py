"""HetRoute: replicas in any format, added by what they gain in a simulated router.

One full-precision replica of every expert is placed first. Then the router is
simulated; the replica (server, tier, format) that lowers the unified cost most, less
the price of its memory, is added, until none gains or the redundancy is reached. Inside
each server the replicas that save most reading time keep the fast tier.

The simulated router sends the calls of a demand to the replica of least unified cost:
delay, reading of the weights, waiting and quality. Replicas that would break the
quality budget of an application are refused.

Decides: placement, copies, formats, tiers, shares and substitution.
Ignores: links and budgets as rows, latency targets, coverage, counts and pins. A server
    that may not see the tokens counts as one without a route. The run-time router
    chooses for the whole set of experts of a token at once, with beam search and an
    aggregator one layer ahead, and adapts its weights; a plan can only say where the
    calls of a demand go on average.
Gaps filled: where memory does not hold one replica of every expert in the largest
    format, the largest that fits stands for full precision; every format that fits is
    tried, and the one of least unified cost (within the quality budget first) is kept.
    A call waits work / (1 - u) - work at a processor of busy share u, u at most 0.95; u
    moves half of the way in each simulation. The router is simulated again after each
    tenth of the experts was added (after each replica in small problems), not after
    each replica. The prices of memory and quality are not published: 0 unless set. A
    similar expert at home answers calls in order of time saved per nat, while the
    budget lasts.

References
----------
.. [1] HetRoute (2026). https://arxiv.org/abs/2608.00577, offline placement and online
   routing; after secondary summaries of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.tolerance import FEASIBILITY

from .complete import Decision, place_by_time
from .facility import take_by_saving
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .substitution import substitutes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

BUSIEST = 0.95
"""Busy share from which waiting does not grow: it must stay finite."""

BATCHES = 10
"""Simulations while as many replicas as there are experts are added."""

UNANSWERED = 1e12
"""Seconds that a call saves which nothing could answer before."""

EVALUATION = 3e-9
"""Deterministic work of one cost of one demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HetRouteParams(BaselineParams):
    """Parameters of `HetRouteSolver`.

    Attributes
    ----------
    redundancy
        Replicas, in the mean of all experts, at which adding ends; published: 2.
    quality_budget
        Nats per token that every application may lose at most, beside what the instance
        allows; none: only that.
    memory_price
        Seconds of calls per second that a byte must save.
    quality_price
        Seconds that a nat counts for in the router.
    substitution
        Whether similar experts at home may answer calls.
    """

    redundancy: float = 2.0
    quality_budget: float | None = None
    memory_price: float = 0.0
    quality_price: float = 0.0
    substitution: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routing:
    """Where the simulated router sends the calls.

    Attributes
    ----------
    chosen
        Copy that answers a demand's calls of an expert; (Q, N).
    cost
        Unified cost of one such call in seconds, inf if none can answer; (Q, N).
    loss
        Nats of one such call; (Q, N).
    """

    chosen: NDArray[np.int64]
    cost: NDArray[np.float64]
    loss: NDArray[np.float64]


class Router:
    """The simulated router: unified costs, waiting that follows the load.

    Parameters
    ----------
    problem
        What is solved.
    price
        Seconds that a nat counts for.
    """

    def __init__(self, problem: Problem, price: float) -> None:
        self.problem, self.price = problem, price
        net = problem.round_trip_s + problem.transfer_s
        self.net = np.where(problem.reachable, net, np.inf)  # (Q, L, S)
        self.calls = problem.calls[problem.application_of]  # (Q, N)
        self.mass = problem.rate[:, None] * self.calls
        self.slower = np.ones(problem.num_places)  # by waiting

    def cost(
        self,
        experts: NDArray[np.int64],
        places: NDArray[np.int64],
        formats: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Return the unified cost of a call of each demand by each copy; (Q, C) s."""
        problem = self.problem
        work = problem.work_s(experts, places, formats) * self.slower[places]
        layer, server = problem.layer_of[experts], problem.server_of[places]
        cost: NDArray[np.float64] = self.net[:, layer, server] + work
        if self.price:
            cost += self.price * self.loss(experts, formats)
        return cost

    def loss(
        self, experts: NDArray[np.int64], formats: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the nats of a call of each demand by each copy; (Q, C)."""
        problem = self.problem
        loss: NDArray[np.float64] = problem.format_loss[:, experts, formats]
        return loss[problem.application_of]

    def route(self, copies: NDArray[np.int64]) -> Routing:
        """Send every call to its cheapest copy.

        Parameters
        ----------
        copies
            Expert, place and format, sorted by expert, each expert at least once.
        """
        experts, places, formats = copies.T
        first = np.flatnonzero(np.diff(experts, prepend=-1))
        cost = self.cost(experts, places, formats)
        least = np.minimum.reduceat(cost, first, axis=1)
        hit = cost == least[:, experts]
        number = np.where(hit, np.arange(len(copies)), len(copies))
        chosen = np.minimum.reduceat(number, first, axis=1)
        loss = np.take_along_axis(self.loss(experts, formats), chosen, axis=1)
        return Routing(chosen=chosen, cost=least, loss=loss)

    def settle(self, copies: NDArray[np.int64], routing: Routing) -> None:
        """Let waiting follow the load of a routing, half of the way."""
        problem = self.problem
        work = problem.work_s(*copies.T)
        mass = np.where(np.isfinite(routing.cost), self.mass, 0.0)
        seconds = np.bincount(
            problem.processor_of[copies[routing.chosen, 1]].ravel(),
            (mass * work[routing.chosen]).ravel(),
            len(problem.processor_server),
        )
        before = 1.0 - 1.0 / self.slower
        busy = np.minimum(seconds, BUSIEST)[problem.processor_of]
        self.slower = 1.0 / (1.0 - 0.5 * (before + busy))

    def lost(self, loss: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the nats per token of each application; ``loss`` is (Q, N); (G,)."""
        problem = self.problem
        per_demand = problem.application_weight * (self.calls * loss).sum(axis=1)
        lost: NDArray[np.float64] = np.bincount(
            problem.application_of, per_demand, problem.num_applications
        ).astype(np.float64)
        return lost

    def total(self, routing: Routing) -> float:
        """Return the unified cost of all calls, in seconds per second."""
        counted = self.mass > 0
        return float((self.mass[counted] * routing.cost[counted]).sum())


class Replicas:
    """Replicas that grow one by one, with the routing that goes with them.

    Parameters
    ----------
    router
        Costs of calls.
    copies
        At least one of each expert; (C, 3).
    budget
        Nats per token of each application; (G,).
    max_copies
        Of an expert.
    """

    def __init__(
        self,
        router: Router,
        copies: NDArray[np.int64],
        budget: NDArray[np.float64],
        max_copies: int,
    ) -> None:
        problem = self.problem = router.problem
        self.router, self.budget, self.max_copies = router, budget, max_copies
        self.copies = copies[np.lexsort(copies.T[::-1])]
        self.count = np.bincount(copies[:, 0], minlength=problem.num_experts)
        self.holds = np.zeros((problem.num_experts, problem.num_servers), dtype=bool)
        self.holds[copies[:, 0], problem.server_of[copies[:, 1]]] = True
        self.left = problem.largest_bytes - np.bincount(
            copies[:, 1],
            problem.size_bytes[copies[:, 0], copies[:, 2]],
            problem.num_places,
        )
        ways = np.argwhere(problem.allowed)
        self.option_place, self.option_format = ways.T
        self.simulate()

    def simulate(self) -> None:
        """Run the router on what there is."""
        routing = self.router.route(self.copies)
        self.router.settle(self.copies, routing)
        self.routing = self.router.route(self.copies)
        self.now, self.loss = self.routing.cost.copy(), self.routing.loss.copy()
        self.lost = self.router.lost(self.loss)

    def savings(self, price: float) -> NDArray[np.float64]:
        """Return what each possible replica would save; (O, N) s/s."""
        problem, router = self.problem, self.router
        experts = np.arange(problem.num_experts)
        table = np.zeros((len(self.option_place), problem.num_experts))
        for o, (v, b) in enumerate(
            zip(self.option_place.tolist(), self.option_format.tolist(), strict=True)
        ):
            cost = router.cost(experts, np.full_like(experts, v), experts * 0 + b)
            table[o] = (router.mass * saved(self.now, cost)).sum(axis=0)
            table[o] -= price * problem.size_bytes[:, b]
            table[o, ~self.may_hold(experts, v, b)] = 0.0
        return table

    def may_hold(self, experts: NDArray[np.int64], v: int, b: int) -> NDArray[np.bool_]:
        """Say which experts may get a replica at a place in a format."""
        problem = self.problem
        free: NDArray[np.bool_] = ~self.holds[experts, problem.server_of[v]]
        free &= problem.size_bytes[experts, b] <= self.left[v]
        free &= self.count[experts] < self.max_copies
        return free

    def saving(self, i: int, o: int, price: float) -> float:
        """Return what one replica would save now; 0 if it may not be."""
        v, b = int(self.option_place[o]), int(self.option_format[o])
        if not self.may_hold(np.array([i]), v, b)[0]:
            return 0.0
        cost = self.router.cost(np.array([i]), np.array([v]), np.array([b]))[:, 0]
        gain = float(self.router.mass[:, i] @ saved(self.now[:, i], cost))
        return gain - price * float(self.problem.size_bytes[i, b])

    def add(self, i: int, o: int) -> bool:
        """Add a replica, unless an application would lose more than its budget."""
        problem, router = self.problem, self.router
        v, b = int(self.option_place[o]), int(self.option_format[o])
        at = np.array([i]), np.array([v]), np.array([b])
        cost, loss = router.cost(*at)[:, 0], router.loss(at[0], at[2])[:, 0]
        moved = cost < self.now[:, i]
        more = np.bincount(
            problem.application_of,
            problem.application_weight
            * router.calls[:, i]
            * np.where(moved, loss - self.loss[:, i], 0.0),
            problem.num_applications,
        )
        if ((more > 0) & (self.lost + more > self.budget)).any():
            return False
        self.now[moved, i], self.loss[moved, i] = cost[moved], loss[moved]
        self.lost = self.lost + more
        self.holds[i, problem.server_of[v]] = True
        self.count[i] += 1
        self.left[v] -= problem.size_bytes[i, b]
        return True

    def grow(self, most: int, batch: int, price: float) -> int:
        """Add the replicas that save most, up to a number, on one simulation."""
        most = min(batch, most)
        table = self.savings(price)
        keep = max(4 * most, 1000)
        floor = 0.0
        if table.size > keep:
            floor = float(np.partition(table, table.size - keep, axis=None)[-keep])
        o, i = np.nonzero(table > max(floor, 0.0))
        if not len(o):  # so many alike that none is above the floor
            o, i = np.nonzero(table > 0)
            floor = 0.0
        added: list[tuple[int, int, int]] = []
        candidates = take_by_saving(
            i, o, table[o, i], lambda i, o: self.saving(i, o, price)
        )
        for expert, option, gain in candidates:
            if len(added) >= most or (gain < floor and added):
                break
            if self.add(expert, option):
                v, b = self.option_place[option], self.option_format[option]
                added.append((expert, int(v), int(b)))
        if added:
            copies = np.concatenate([self.copies, np.array(added, dtype=np.int64)])
            self.copies = copies[np.lexsort(copies.T[::-1])]
        return len(added)

    def choose_tiers(self) -> None:
        """Keep in the fast tiers the replicas that save most reading time there."""
        problem = self.problem
        copies = self.copies.copy()
        calls = np.bincount(
            self.routing.chosen.ravel(), self.router.mass.ravel(), len(copies)
        )
        for s, places in enumerate(problem.places_of):
            if len(places) < 2:
                continue
            mine = np.flatnonzero(problem.server_of[copies[:, 1]] == s)
            i, b = copies[mine, 0][:, None], copies[mine, 2][:, None]
            v = np.broadcast_to(places, (len(mine), len(places)))
            runs = problem.allowed[v, b]
            work = np.where(runs, problem.work_s(i, v, b), np.inf)
            slowest = np.where(np.isfinite(work), work, -np.inf).max(axis=1)
            gain = calls[mine] * (slowest - work.min(axis=1))
            left = problem.largest_bytes[places].copy()
            for n in np.argsort(-gain, kind="stable").tolist():
                size = problem.size_bytes[copies[mine[n], 0], copies[mine[n], 2]]
                ways = np.argsort(work[n], kind="stable")
                t = next((t for t in ways if size <= left[t]), -1)
                if t < 0 or not math.isfinite(work[n, t]):
                    break  # they do not pack: leave this server as it is
                left[t] -= size
                copies[mine[n], 1] = places[t]
            else:
                self.left[places] = left
                continue
            copies[mine] = self.copies[mine]
        self.copies = copies


class HetRouteSolver(Baseline):
    """Replicas, formats and tiers by what they gain in a simulated router."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="hetroute",
        summary="replicas in any format by their gain in a simulated router",
        citation="HetRoute, arXiv 2608.00577, offline placement",
        decides=(
            "placement",
            "copies",
            "formats",
            "tiers",
            "shares",
            "substitution",
        ),
        sees=(
            "memory",
            "quality",
            "trust",
            "calls",
            "homes",
            "network",
            "work",
            "losses",
        ),
        params=HetRouteParams,
    )
    params: HetRouteParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Grow replicas on each base format that fits; keep the cheapest."""
        params = self.params
        budget = problem.quality_budget
        if params.quality_budget is not None:
            budget = np.minimum(budget, params.quality_budget)
        formats = [b for b in self.bases(problem) if fits(problem, view, b)]
        best: tuple[tuple[float, float], Replicas] | None = None
        for b in formats or self.bases(problem)[-1:]:
            replicas = Replicas(
                Router(problem, params.quality_price),
                covering(problem, view, b),
                budget,
                view.max_copies,
            )
            self.grow(replicas, check)
            over = np.maximum(replicas.lost - budget * (1 + FEASIBILITY), 0.0)
            value = float(over.sum()), replicas.router.total(replicas.routing)
            if best is None or value < best[0]:
                best = value, replicas
                check.keep(self.shares(replicas, budget))
            if check.spent():
                break
        assert best is not None
        return self.shares(best[1], budget)

    def bases(self, problem: Problem) -> list[int]:
        """Return the formats that may stand for full precision, largest first."""
        order = np.argsort(-problem.size_bytes.sum(axis=0), kind="stable")
        return [int(b) for b in order if problem.allowed[:, b].any()]

    def grow(self, replicas: Replicas, check: Budget) -> None:
        """Simulate, add and choose tiers until the redundancy is reached."""
        problem, params = replicas.problem, self.params
        num = problem.num_experts
        batch = max(1, num // BATCHES) if num > 100 else 1
        evaluations = len(replicas.option_place) * problem.num_demands * num
        while not check.step(EVALUATION * evaluations):
            most = math.floor(params.redundancy * num + 1e-9) - len(replicas.copies)
            if most <= 0:
                break
            if not replicas.grow(most, batch, params.memory_price):
                break
            replicas.simulate()
            replicas.choose_tiers()
        replicas.choose_tiers()
        replicas.simulate()

    def shares(self, replicas: Replicas, budget: NDArray[np.float64]) -> Decision:
        """Write down where the router sends the calls."""
        problem, copies, routing = replicas.problem, replicas.copies, replicas.routing
        called = replicas.router.calls > 0
        answered = np.zeros((0, 3), dtype=np.int64)
        if self.params.substitution:
            answered = substitutes(
                problem,
                copies,
                routing.cost,
                routing.loss,
                budget - replicas.lost,
                self.params.quality_price,
            )
            called[answered[:, 0], answered[:, 1]] = False
        # An expert with one copy follows the default rule: nothing to say.
        called = called & (replicas.count > 1) & np.isfinite(routing.cost)
        q, i = np.nonzero(called)
        return Decision(
            expert=copies[:, 0],
            place=copies[:, 1],
            format=copies[:, 2],
            served=np.stack([q, routing.chosen[q, i]], axis=1),
            served_share=np.ones(len(q)),
            substituted=answered,
            substituted_share=np.ones(len(answered)),
        )


def saved(now: NDArray[np.float64], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the seconds that a call saves; a call that nobody answers comes first."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.maximum(now - cost, 0.0), nan=0.0, posinf=UNANSWERED)


def covering(problem: Problem, view: View, format_: int) -> NDArray[np.int64]:
    """Return one copy of each expert, in a format where it runs; (N, 3)."""
    experts = np.arange(problem.num_experts)
    asked = np.full(problem.num_experts, format_, dtype=np.int64)
    place = place_by_time(problem, view, experts, asked)
    stored = np.where(
        problem.allowed[place, format_],
        format_,
        view.stored[problem.server_of[place], format_],
    )
    return np.stack([experts, place, stored], axis=1).astype(np.int64)


def fits(problem: Problem, view: View, format_: int) -> bool:
    """Say whether one replica of every expert fits in a format."""
    copies = covering(problem, view, format_)
    used = np.bincount(
        copies[:, 1], problem.size_bytes[copies[:, 0], copies[:, 2]], problem.num_places
    )
    runs = problem.allowed[copies[:, 1], copies[:, 2]].all()
    return bool(runs and (used <= problem.largest_bytes).all())

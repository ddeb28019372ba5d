"""MoETuner: two integer programmes, balanced clusters and then their GPUs.

The first, one for each layer, gathers the experts into as many clusters as there are
GPUs so that the calls of the clusters deviate least from their mean, in the sum of
absolute deviations. The second gives the clusters of each layer to the GPUs, one each,
with as many experts on a GPU over all layers as the slots say, so that the slowest pair
of GPUs takes the least time to pass on its tokens, summed over transitions.

Decides: placement.
Ignores: homes, work, losses, latency of links, and every row but memory; no copies.
Gaps filled:

- HiGHS in place of Gurobi 12; the published MIP gap of 0.025. A layer is not given to
  HiGHS if longest-processing-time-first with exchanges is already as near to the bound,
  or deviates by less than ``balanced`` of the calls: near zero no relative gap closes.
- An ILP has a budget of branch-and-bound nodes, so that a run can be repeated; those of
  a kind take an eighth of the time left at most. "exact clusters" is listed as ignored
  if that is not enough for a layer.
- The linearised second ILP has one row for each (transition, cluster, GPU, GPU) in
  place of one for each two clusters and two GPUs: the clusters of a layer are on
  different GPUs, so the sum over the next layer's clusters is the entry that counts.
- Above ``most_rows`` such rows (the original times out there), and whenever HiGHS ends
  with nothing better, its start is returned: layer after layer the cheapest assignment
  to what the layer before has, then exchanges of equal clusters while they gain. Unless
  that is optimal within the gap, "exact cluster placement" is listed as ignored.
- GPUs are the servers. Where memory cannot hold equal numbers, slots go by memory
  (`meldopt_solvers.baselines.slots`). The paper asks for no empty cluster, and for
  equal numbers on GPUs over all layers; here a cluster may be ``spread`` experts ahead
  of its slots or behind them after any layer, so that those numbers can come out.

References
----------
.. [1] Go, S., Mahajan, D. (2025). MoETuner: Optimized Mixture of Expert Serving with
   Balanced Expert Placement and Token Routing. arXiv:2502.06643.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from meldopt.formulations.linear import LinearBuilder

from .clusters import ClusterSizes, balanced_clusters
from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .programme import part_of_time, solve_programme
from .slots import layer_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from meldopt.formulations.linear import LinearModel
    from meldopt.problem import Problem

    from .programme import Spent
    from .view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class MoetunerParams(BaselineParams):
    """Parameters of `MoetunerSolver`.

    Attributes
    ----------
    gap
        Relative MIP gap of both ILPs.
    balanced
        Sum of deviations, as a part of all calls, that needs no ILP.
    spread
        Experts by which a cluster may differ from its slots in a layer.
    nodes
        Branch-and-bound nodes of each ILP at most.
    most_rows
        Rows of the second ILP up to which it is given to HiGHS.
    """

    gap: float = 0.025
    balanced: float = 2e-3
    spread: int = 1
    nodes: int = 50
    most_rows: int = 5_000


class MoetunerSolver(Baseline):
    """Balanced clusters of each layer by an ILP, then their servers by another."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="moetuner",
        summary="two ILPs: balanced clusters of each layer, then clusters to servers",
        citation="MoETuner, arXiv 2502.06643",
        decides=("placement",),
        sees=("calls", "transitions", "network", "memory"),
        params=MoetunerParams,
        packages=("highspy",),
    )
    params: MoetunerParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision:
        """Build the clusters layer by layer, then place them."""
        params, num_s = self.params, problem.num_servers
        # Without HiGHS first: something to keep if Ctrl-C ends the programmes.
        labels, _ = self.clusters(view, lambda: True)
        check.keep(Decision(server=np.concatenate(labels)))
        labels, exact = self.clusters(view, part_of_time(check), check.step)
        check.keep(Decision(server=np.concatenate(labels)))
        if not exact:
            view.estimated.add("exact clusters")
        passed = [
            _passed_on(view.transitions(layer), labels[layer], labels[layer + 1], num_s)
            for layer in range(problem.num_layers - 1)
        ]
        sizes = np.stack([np.bincount(label, minlength=num_s) for label in labels])
        server, exact = place_clusters(
            passed,
            problem.bytes_out * problem.route_s_per_byte,
            np.isfinite(problem.route_latency),
            sizes,
            gap=params.gap,
            nodes=params.nodes,
            most_rows=params.most_rows,
            spent=part_of_time(check),
            keep=lambda found: check.keep(_decision(found, labels)),
        )
        if not exact:
            view.estimated.add("exact cluster placement")
        return _decision(server, labels)

    def clusters(
        self, view: View, spent: Spent, step: Callable[[], bool] = lambda: False
    ) -> tuple[list[NDArray[np.int64]], bool]:
        """Return the cluster of each expert, layer by layer, and whether it is exact.

        Parameters
        ----------
        view
            Of the attempt.
        spent
            Asked before and while HiGHS runs; then it does not.
        step
            Called after each layer.
        """
        params = self.params
        slots = layer_slots(view)
        bounds = ClusterSizes(slots, params.spread)
        labels: list[NDArray[np.int64]] = []
        every = True
        for layer in range(len(slots)):
            least, most = bounds.limits(layer)
            label, exact = balanced_clusters(
                view.load[view.experts(layer)],
                least,
                most,
                gap=params.gap,
                balanced=params.balanced,
                nodes=params.nodes,
                spent=spent,
            )
            every = every and exact
            bounds.take(layer, label)
            labels.append(label)
            step()
        return labels, every


def _decision(
    server: NDArray[np.int64], labels: Sequence[NDArray[np.int64]]
) -> Decision:
    """Put the experts of clusters on the servers of these, (L, S)."""
    return Decision(
        server=np.concatenate(
            [server[layer, label] for layer, label in enumerate(labels)]
        )
    )


def _passed_on(
    moves: NDArray[np.float64],
    label: NDArray[np.int64],
    after: NDArray[np.int64],
    num: int,
) -> NDArray[np.float64]:
    """Sum transitions of experts over clusters, (S, S)."""
    return np.asarray(np.eye(num)[label].T @ moves @ np.eye(num)[after])


def place_clusters(
    passed: Sequence[NDArray[np.float64]],
    s_per_token: NDArray[np.float64],
    reachable: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    *,
    gap: float,
    nodes: int | None,
    most_rows: int,
    spent: Spent = lambda: False,
    keep: Callable[[NDArray[np.int64]], None] = lambda found: None,
) -> tuple[NDArray[np.int64], bool]:
    """Give the clusters of each layer to servers, one each.

    Least is the sum over transitions of the time that the slowest pair of servers takes
    to pass on its tokens.

    Parameters
    ----------
    passed
        Tokens from clusters of a layer to those of the next, L - 1 times (S, S).
    s_per_token
        Seconds of a token from server to server, (S, S); 0 inside.
    reachable
        Which server can pass tokens to which, (S, S).
    sizes
        Experts of each cluster, (L, S); on a server they sum to those of the clusters
        of its number.
    gap, nodes, most_rows, spent
        As in `MoetunerParams`.
    keep
        Given the servers with which HiGHS begins.

    Returns
    -------
    tuple of ndarray of int64, shape (L, S), and bool
        Server of each cluster, and whether it is optimal within the gap.
    """
    num_l, num_s = sizes.shape
    finite = s_per_token[reachable]
    far = 10.0 * float(finite.max(initial=0.0)) or 1.0
    cost = np.where(reachable, s_per_token, far)
    np.fill_diagonal(cost, 0.0)
    server = np.tile(np.arange(num_s), (num_l, 1))
    if num_l < 2 or num_s < 2:
        return server, True
    server = swapped(passed, cost, sizes, chained(passed, cost, sizes), spent)
    keep(server)
    rows = (num_l - 1) * num_s * num_s * (num_s - 1)
    if slowest(passed, cost, server) <= 0.0:
        return server, True
    if rows > most_rows or spent():
        return server, False
    model, start = servers_model(passed, cost, sizes, server)
    outcome = solve_programme(model, start, gap=gap, nodes=nodes, spent=spent)
    if outcome.x is not None:
        chosen = outcome.x[: num_l * num_s * num_s].reshape(num_l, num_s, num_s)
        better = chosen.argmax(axis=2).astype(np.int64)
        if slowest(passed, cost, better) < slowest(passed, cost, server):
            server = better
    return server, outcome.status == "optimal"


def slowest(
    passed: Sequence[NDArray[np.float64]],
    cost: NDArray[np.float64],
    server: NDArray[np.int64],
) -> float:
    """Return the objective of the second ILP: the slowest pairs, summed."""
    return sum(
        float((moves * cost[np.ix_(server[layer], server[layer + 1])]).max())
        for layer, moves in enumerate(passed)
    )


def chained(
    passed: Sequence[NDArray[np.float64]],
    cost: NDArray[np.float64],
    sizes: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Place layer after layer, at the least summed time from the layer before.

    Only servers whose own cluster has the same size are open to a cluster, so that
    every server keeps its number of experts.
    """
    num_s = sizes.shape[1]
    server = np.tile(np.arange(num_s), (len(sizes), 1))
    for layer, moves in enumerate(passed):
        # Time from clusters c of the layer before to cluster d if that is on server s.
        time = moves.T @ cost[server[layer]]  # (d, s)
        size = sizes[layer + 1]
        never = 1e6 * (float(time.max()) or 1.0)
        open_ = size[:, None] == size[None, :]
        rows, columns = linear_sum_assignment(np.where(open_, time, never))
        server[layer + 1, rows] = columns
    return server


def swapped(
    passed: Sequence[NDArray[np.float64]],
    cost: NDArray[np.float64],
    sizes: NDArray[np.int64],
    server: NDArray[np.int64],
    spent: Spent,
) -> NDArray[np.int64]:
    """Exchange the servers of two clusters of one size in a layer while that gains."""
    server = server.copy()
    num_l, num_s = sizes.shape

    def time_around(layer: int) -> float:
        return sum(
            float((passed[at] * cost[np.ix_(server[at], server[at + 1])]).max())
            for at in (layer - 1, layer)
            if 0 <= at < num_l - 1
        )

    for _ in range(50):
        gained = False
        for layer in range(num_l):
            if spent():
                return server
            now = time_around(layer)
            for c in range(num_s):
                for d in range(c + 1, num_s):
                    if sizes[layer, c] != sizes[layer, d]:
                        continue
                    server[layer, [c, d]] = server[layer, [d, c]]
                    then = time_around(layer)
                    if then < now * (1 - 1e-9):
                        now, gained = then, True
                    else:
                        server[layer, [c, d]] = server[layer, [d, c]]
        if not gained:
            break
    return server


def servers_model(
    passed: Sequence[NDArray[np.float64]],
    cost: NDArray[np.float64],
    sizes: NDArray[np.int64],
    server: NDArray[np.int64],
) -> tuple[LinearModel, NDArray[np.float64]]:
    """Return the second ILP, and a solution of it from servers of clusters.

    ``min sum z[l]`` with, for each cluster c of layer l and servers g and h,
    ``z[l] >= sum_d R[l,c,d] cost[g,h] y[l+1,d,h] - M (1 - y[l,c,g])`` and M the largest
    of the coefficients. Times are in units of the objective of the given solution.
    """
    num_l, num_s = sizes.shape
    unit = slowest(passed, cost, server)
    layer, c, g = (axis.ravel() for axis in np.indices((num_l, num_s, num_s)))
    build = LinearBuilder()
    y = build.add_columns("y", [layer, c, g], upper=1.0, integer=True)
    z = build.add_columns("z", [np.arange(num_l - 1)], cost=1.0)
    build.add_rows(
        "cluster",
        list(np.divmod(np.arange(num_l * num_s), num_s)),
        [(layer * num_s + c, y.range, 1.0)],
        lower=1,
        upper=1,
    )
    build.add_rows(
        "server",
        list(np.divmod(np.arange(num_l * num_s), num_s)),
        [(layer * num_s + g, y.range, 1.0)],
        lower=1,
        upper=1,
    )
    total = sizes.sum(axis=0)
    build.add_rows(
        "experts", [np.arange(num_s)], [(g, y.range, sizes[layer, c])],
        lower=total, upper=total,
    )  # fmt: skip
    first, second = np.nonzero(~np.eye(num_s, dtype=bool))
    pair_cost = cost[first, second] / unit
    pairs = len(first)
    for at, moves in enumerate(passed):
        row = np.arange(num_s * pairs)
        mine, pair = np.divmod(row, pairs)
        most = moves.max(axis=1)[mine] * pair_cost[pair]
        own = y.start + (at * num_s + mine) * num_s + first[pair]
        next_ = (
            y.start
            + ((at + 1) * num_s + np.arange(num_s))[None, :] * num_s
            + second[pair][:, None]
        )
        build.add_rows(
            "slowest",
            [np.full(len(row), at), mine, first[pair], second[pair]],
            [
                (row, np.full(len(row), z.start + at), -1.0),
                (row, own, most),
                (
                    np.repeat(row, num_s),
                    next_.ravel(),
                    (moves[mine] * pair_cost[pair][:, None]).ravel(),
                ),
            ],
            upper=most,
        )
    start = np.zeros(build.num_columns)
    start[
        y.start
        + (np.arange(num_l)[:, None] * num_s + np.arange(num_s)[None, :]) * num_s
        + server
    ] = 1.0
    for at, moves in enumerate(passed):
        times = moves * cost[np.ix_(server[at], server[at + 1])]
        start[z.start + at] = float(times.max()) / unit
    return build.build(), start

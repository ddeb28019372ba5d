"""Similar experts at home answer calls that are dear: HetRoute and OrderMoE allow it.

Both substitute at run time, token by token, while the quality budget of the token
lasts. A plan says which part of the calls: here a (demand, expert) is answered by its
best similar expert at home or not at all, in order of time saved per nat, until the
budget of the application is used up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem


def substitutes(
    problem: Problem,
    copies: NDArray[np.int64],
    cost: NDArray[np.float64],
    loss: NDArray[np.float64],
    left: NDArray[np.float64],
    price: float = 0.0,
) -> NDArray[np.int64]:
    """Choose the calls that a similar expert at home answers.

    Parameters
    ----------
    problem
        With similar pairs, or without: then nothing is substituted.
    copies
        Expert, place and format; (C, 3).
    cost
        Seconds of a call that is served; (Q, N).
    loss
        Nats of a call that is served; (Q, N).
    left
        Nats per token that each application may still lose; (G,).
    price
        Seconds that a nat counts for in the choice.

    Returns
    -------
    ndarray of int64, shape (U, 3)
        Demand, expert that is called, row of ``copies`` that answers, in that order.
    """
    if problem.dataflow == "roam" or not len(problem.similar):
        return np.zeros((0, 3), dtype=np.int64)
    row = np.full((problem.num_experts, problem.num_servers), -1, dtype=np.int64)
    row[copies[:, 0], problem.server_of[copies[:, 1]]] = np.arange(len(copies))
    called, other = problem.similar.T
    layer = problem.layer_of[called]
    answer = row[other, problem.source[:, layer]]  # (Q, J)
    q, pair = np.nonzero(answer >= 0)
    c = answer[q, pair]
    i, app = called[pair], problem.application_of[q]
    work = problem.work_s(copies[c, 0], copies[c, 1], copies[c, 2])
    new = problem.similar_loss[app, pair]
    new = new + problem.format_loss[app, copies[c, 0], copies[c, 2]]
    more = new - loss[q, i]  # nats a call
    saved = cost[q, i] - work - price * more
    calls = problem.calls[app, i]
    nats = problem.application_weight[q] * calls * more  # a token
    worth = (saved > 0) & (calls > 0) & (problem.rate[q] > 0)
    q, i, c, app, saved, nats, more = (
        part[worth] for part in (q, i, c, app, saved, nats, more)
    )
    with np.errstate(divide="ignore"):
        order = np.where(more > 0, saved / np.maximum(more, 1e-300), np.inf)
    left = left.copy()
    taken: dict[tuple[int, int], int] = {}
    for n in np.lexsort((c, i, q, -saved, -order)).tolist():
        key = int(q[n]), int(i[n])
        if key not in taken and nats[n] <= left[app[n]]:
            taken[key] = int(c[n])
            left[app[n]] -= nats[n]
    rows = [(*key, copy) for key, copy in sorted(taken.items())]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)

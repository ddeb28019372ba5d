"""What a method leaves open is completed by the same rules for all.

1. *Placement*, of methods that decide formats only: in order of calls, each expert goes
   to the place with room that has the least mean time over demands; one copy each.
2. *Formats*: a copy has the uniform format of the attempt. What a server does not run
   is stored in its next smaller format (`meldopt_solvers.baselines.view.format_on`).
3. *Tiers*: inside a server the copies with the most calls per byte go first; each to
   the fastest tier that has room and runs its format.
4. *Shares*: each demand uses its copy of least time, the default rule of a plan.

Where nothing has room the copy goes where most room is left: the plan then breaks
`memory`, and the judge says by how much. Copies of one expert on one server are merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from meldopt.plan import Plan
from meldopt.tolerance import FEASIBILITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View


def _none(width: int) -> NDArray[np.int64]:
    return np.zeros((0, width), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """What a method decides; one entry of each array for each copy, in any order.

    Attributes
    ----------
    expert
        Expert of each copy; all experts in order if None; (C,).
    server
        Server of each copy; None if ``place`` says it, or if the placement is left to
        the common rule (then one copy of each expert); (C,).
    place
        Place of each copy, for methods that decide tiers; (C,).
    format
        Format of each copy; that of the attempt if None; (C,).
    served, served_share
        Demand, copy (row of this decision) and the share it serves; (A, 2). A (demand,
        expert) that is in no table of shares uses its copy of least time; one that is
        in any must be described completely. Shares do not exist in `roam`: there they
        are left out.
    substituted, substituted_share
        Demand, expert, copy of the similar expert that answers, share; (U, 3).
    pruned, pruned_share
        Demand, expert, segment, share that is dropped; (D, 3).
    """

    expert: NDArray[np.int64] | None = None
    server: NDArray[np.int64] | None = None
    place: NDArray[np.int64] | None = None
    format: NDArray[np.int64] | None = None
    served: NDArray[np.int64] = field(default_factory=lambda: _none(2))
    served_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    substituted: NDArray[np.int64] = field(default_factory=lambda: _none(3))
    substituted_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    pruned: NDArray[np.int64] = field(default_factory=lambda: _none(3))
    pruned_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def complete(problem: Problem, view: View, decision: Decision) -> Plan:
    """Turn a decision into a plan by the common rules.

    Parameters
    ----------
    problem
        What is solved.
    view
        Of the attempt in which the method decided.
    decision
        What it decided.

    Returns
    -------
    Plan
        It may break any row; only the judge says.
    """
    expert = (
        np.arange(problem.num_experts) if decision.expert is None else decision.expert
    ).astype(np.int64)
    place, server, format_ = decision.place, decision.server, decision.format
    if place is None and server is None:
        place = place_by_time(problem, view, expert, format_)
    if place is not None:
        server = problem.server_of[place]
    assert server is not None
    format_ = _formats(problem, view, server, place, format_)
    # The first copy of an expert on a server stands for those that follow. Places are
    # sorted by server, so that the order of keys is that of copies.
    key = expert * problem.num_servers + server
    _, first, merged = np.unique(key, return_index=True, return_inverse=True)
    expert, server, format_ = expert[first], server[first], format_[first]
    if place is None:
        place = place_in_tiers(problem, view, expert, server, format_)
    else:
        place = place[first].astype(np.int64)
    copies = np.stack([expert, place, format_], axis=1)
    copy_of = merged.ravel()  # of each row of the decision
    return Plan.of(problem, copies, **_shares(problem, decision, copy_of))


def _formats(
    problem: Problem,
    view: View,
    server: NDArray[np.int64],
    place: NDArray[np.int64] | None,
    asked: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    if asked is None:
        stored = view.format_at[server]
        asked = np.full(len(server), max(view.format, 0))
    else:
        stored = view.stored[server, asked]
    if place is not None:
        # A tier may run what was asked for although another one does not.
        stored = np.where(problem.allowed[place, asked], asked, stored)
    return np.where(stored >= 0, stored, asked).astype(np.int64)


def place_by_time(
    problem: Problem,
    view: View,
    expert: NDArray[np.int64],
    format_: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Place one copy of each expert where its mean time is least, busy ones first.

    Parameters
    ----------
    problem, view
        What is solved, and the attempt.
    expert
        Each at most once; (C,).
    format_
        Asked-for format of each; that of the attempt if None; (C,).

    Returns
    -------
    ndarray of int64, shape (C,)
        Places.
    """
    num, num_v = problem.num_experts, problem.num_places
    asked = np.full(num, max(view.format, 0), dtype=np.int64)
    if format_ is not None:
        asked[expert] = format_
    time = np.concatenate(
        [
            view.mean_time(
                layer,
                None if format_ is None else asked[view.experts(layer)],
            )
            for layer in range(problem.num_layers)
        ]
    ).reshape(num, num_v)
    if format_ is None:
        stored = np.broadcast_to(view.format_at, (num, problem.num_servers))
    else:
        stored = view.stored[:, asked].T
    at = stored[:, problem.server_of]  # (N, V)
    runs = (at >= 0) & problem.allowed[np.arange(num_v), np.maximum(at, 0)]
    size = np.take_along_axis(problem.size_bytes, np.maximum(at, 0), axis=1)
    left = problem.room_bytes.copy()
    slack = _slack(problem)
    place = np.zeros(num, dtype=np.int64)
    for i in expert[np.argsort(-view.load[expert], kind="stable")].tolist():
        cost = np.where(runs[i] & (size[i] <= left + slack), time[i], np.inf)
        v = int(np.argmin(cost))
        if not np.isfinite(cost[v]):
            fits = runs[i] if runs[i].any() else np.ones(num_v, dtype=bool)
            v = int(np.argmax(np.where(fits, left, -np.inf)))
        place[i] = v
        left[v] -= size[i, v]
    return place[expert]


def place_in_tiers(
    problem: Problem,
    view: View,
    expert: NDArray[np.int64],
    server: NDArray[np.int64],
    format_: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Give copies tiers: most calls per byte first, to the fastest that has room.

    The calls of an expert count in equal parts for its copies.

    Parameters
    ----------
    problem, view
        What is solved, and the attempt.
    expert, server, format_
        Of each copy; an expert at most once on a server; (C,).

    Returns
    -------
    ndarray of int64, shape (C,)
        Places.
    """
    first = np.array([places[0] for places in problem.places_of], dtype=np.int64)
    place = first[server]
    size = problem.size_bytes[expert, format_]
    count = np.bincount(expert, minlength=problem.num_experts)
    dense = view.load[expert] / count[expert] / np.maximum(size, 1e-300)
    left = problem.room_bytes.copy()
    slack = _slack(problem)
    order = np.lexsort((expert, -dense))
    for s, places in enumerate(problem.places_of):
        if len(places) < 2:
            continue
        mine = order[server[order] == s]
        v = np.broadcast_to(places, (len(mine), len(places)))
        work = problem.work_s(expert[mine, None], v, format_[mine, None])
        runs = problem.allowed[v, format_[mine, None]]
        rank = np.argsort(np.where(runs, work, np.inf), axis=1, kind="stable")
        for c, ways, fits in zip(mine.tolist(), rank.tolist(), runs, strict=True):
            usable = [int(places[t]) for t in ways if fits[t]] or places.tolist()
            for chosen in usable:
                if size[c] <= left[chosen] + slack[chosen]:
                    break
            else:
                chosen = max(usable, key=lambda one: left[one])
            place[c] = chosen
            left[chosen] -= size[c]
    return place


def _slack(problem: Problem) -> NDArray[np.float64]:
    """Bytes by which the judge still lets a place be over-full, well inside; (V,)."""
    slack: NDArray[np.float64] = 0.5 * FEASIBILITY * np.abs(problem.room_bytes)
    return slack


def _shares(
    problem: Problem, decision: Decision, copy_of: NDArray[np.int64]
) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
    """Turn tables of shares of a decision into those of a plan, equal rows summed."""
    if problem.dataflow == "roam":
        return {}
    tables: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {}
    assert (
        decision.server is not None
        or decision.place is not None
        or not (len(decision.served) + len(decision.substituted))
    ), "shares need copies that the method placed"
    expert = (
        np.arange(problem.num_experts) if decision.expert is None else decision.expert
    )
    demand, row = decision.served.T
    served = np.stack([demand, expert[row], copy_of[row]], axis=1)
    substituted = decision.substituted.copy()
    substituted[:, 2] = copy_of[decision.substituted[:, 2]]
    for name, index, share in (
        ("served", served, decision.served_share),
        ("substituted", substituted, decision.substituted_share),
        ("pruned", decision.pruned, decision.pruned_share),
    ):
        rows, at = np.unique(index, axis=0, return_inverse=True)
        tables[name] = rows.astype(np.int64)
        tables[f"{name}_share"] = np.bincount(at.ravel(), share, len(rows))
    return tables

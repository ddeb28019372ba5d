"""What a plan looks like: copies and bits by layer and server, loads of links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """A plan as people look at it.

    Attributes
    ----------
    servers, homes
        Names; homes are servers where requests enter.
    copies
        Copies by server and layer; (servers, layers).
    bits
        Mean bits per weight of these copies, nan where there is none.
    layers
        Numbers of the layers in the model.
    memory, busy
        By server: bytes of its tiers used of those that are free for experts, and the
        busy share of its busiest processor, both as a part of the limit; nan without a
        limit.
    links
        (from, to, load as a part of the limit).
    bytes
        Size of all copies.
    """

    servers: tuple[str, ...]
    homes: tuple[str, ...]
    copies: NDArray[np.int64]
    bits: NDArray[np.float64]
    layers: tuple[int, ...]
    memory: NDArray[np.float64]
    busy: NDArray[np.float64]
    links: tuple[tuple[str, str, float], ...]
    bytes: float


def placement_of(problem: Problem, plan: Plan) -> Placement:
    """Look at a plan.

    Parameters
    ----------
    problem, plan
        The plan belongs to the problem.
    """
    expert, place, format_ = plan.copies.T
    server, layer = problem.server_of[place], problem.layer_of[expert]
    shape = (problem.num_servers, problem.num_layers)
    copies = np.zeros(shape, dtype=np.int64)
    np.add.at(copies, (server, layer), 1)
    bits = np.zeros(shape)
    np.add.at(bits, (server, layer), problem.bits_per_weight[format_])
    bits = np.divide(bits, copies, out=np.full(shape, np.nan), where=copies > 0)
    judged = score(problem, plan)
    rows = {
        name: [row for row in judged.rows if row.row == name]
        for name in ("memory", "compute", "link")
    }
    used, room = np.zeros((2, problem.num_servers))
    for v, row in enumerate(rows["memory"]):
        used[problem.server_of[v]] += row.value
        room[problem.server_of[v]] += max(row.limit, 0.0)
    busy = np.zeros(problem.num_servers)
    for p, row in enumerate(rows["compute"]):
        s = problem.processor_server[p]
        busy[s] = max(busy[s], _part(row.value, row.limit))
    names = problem.labels.servers
    homes = dict.fromkeys(names[h] for h in problem.home_of.tolist())
    return Placement(
        servers=names,
        homes=tuple(homes),
        copies=copies,
        bits=bits,
        layers=tuple(problem.layer_ids.tolist()),
        memory=np.array([_part(u, r) for u, r in zip(used, room, strict=True)]),
        busy=busy,
        links=tuple(
            (*problem.labels.links[k], _part(row.value, row.limit))
            for k, row in enumerate(rows["link"])
        ),
        bytes=plan_bytes(problem, plan),
    )


def _part(value: float, limit: float) -> float:
    if limit > 0:
        return float(value / limit)
    return float("nan") if value > 0 else 0.0


def plan_bytes(problem: Problem, plan: Plan) -> float:
    """Return the size of all copies of a plan."""
    return float(problem.size_bytes[plan.copies[:, 0], plan.copies[:, 2]].sum())

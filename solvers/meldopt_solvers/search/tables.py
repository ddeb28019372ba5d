"""Problem -> `Tables`: the arrays of a problem as the search kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernels import NONE, Tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from meldopt.problem import Problem

MAX_SEGMENTS = 62
"""Segments of a loss curve that the search uses: a set of them is one integer."""

NO_LIMIT = 2**40
"""More copies than there can be."""


def csr(rows: Sequence[Iterable[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and concatenated entries of lists of integers."""
    lists = [list(row) for row in rows]
    start = np.concatenate([[0], np.cumsum([len(row) for row in lists])])
    flat = np.array([value for row in lists for value in row], dtype=np.int64)
    return start.astype(np.int64), flat


def uniform_group_of(problem: Problem) -> NDArray[np.int64]:
    """Return the uniform group of each expert, (N,); groups that overlap are one."""
    root = np.full(problem.num_experts, NONE, dtype=np.int64)
    for number, group in enumerate(problem.uniform_groups):
        met = [r for r in np.unique(root[group.experts]).tolist() if r >= 0]
        root[group.experts] = number
        for other in met:
            root[root == other] = number
    names, compact = np.unique(root, return_inverse=True)
    shift = 1 if len(names) and names[0] == NONE else 0
    found: NDArray[np.int64] = (compact.ravel() - shift).astype(np.int64)
    return found


def _by_layer(array: NDArray[Any]) -> NDArray[Any]:
    """(Q, L, S) -> (L, S, Q)."""
    return np.ascontiguousarray(np.moveaxis(array, 0, 2))


def _curve(problem: Problem, curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """(G, L, M) -> (L, M, Q)."""
    spread = curve[problem.application_of][:, :, :MAX_SEGMENTS]
    return np.ascontiguousarray(np.moveaxis(spread, 0, 2))


def cap_rows(
    problem: Problem, first: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the caps that a call of a layer from one server to another counts in."""
    from meldopt.score import budget_pairs

    num, layers = problem.num_servers, problem.num_layers
    if not problem.budget_caps:
        return np.zeros(layers * num * num + 1, np.int64), np.zeros(0, np.int64)
    lists: list[list[int]] = [[] for _ in range(layers * num * num)]
    for n, cap in enumerate(problem.budget_caps):
        pairs = budget_pairs(problem, cap)
        for layer in range(layers) if cap.layer is None else [cap.layer]:
            for a, b in pairs:
                lists[(layer * num + a) * num + b].append(first + n)
    return csr(lists)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountTables:
    """Count rows by expert: ``row[start[i]:start[i + 1]]`` are those of expert i."""

    start: NDArray[np.int64]  # (N+1,)
    row: NDArray[np.int64]
    option: NDArray[np.bool_]  # (R, O)
    lower: NDArray[np.int64]  # (R,)
    upper: NDArray[np.int64]  # (R,)


def count_tables(
    problem: Problem, place: NDArray[np.int64], format_: NDArray[np.int64]
) -> CountTables:
    """Index the count rows of a problem by expert and option."""
    rows = problem.count_rows
    lists: list[list[int]] = [[] for _ in range(problem.num_experts)]
    option = np.zeros((len(rows), len(place)), dtype=np.bool_)
    for r, row in enumerate(rows):
        for i in row.experts.tolist():
            lists[i].append(r)
        option[r] = np.isin(place, row.places) & np.isin(format_, row.formats)
    start, flat = csr(lists)
    return CountTables(
        start=start,
        row=flat,
        option=option,
        lower=np.array([row.lower or 0 for row in rows], dtype=np.int64),
        upper=np.array(
            [NO_LIMIT if row.upper is None else row.upper for row in rows],
            dtype=np.int64,
        ),
    )


def _offsets(problem: Problem) -> NDArray[np.int64]:
    cells = problem.num_layers * problem.num_servers
    sizes = [
        problem.num_places,
        len(problem.processor_server),
        len(problem.link_from),
        len(problem.budget_caps),
        problem.num_applications,
        problem.num_applications,
        cells if problem.weight_of("bottleneck") else 0,
        1,
    ]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def objective_weights(
    problem: Problem, at: NDArray[np.int64], serial: float
) -> NDArray[np.float64]:
    """Return the weight of each load in the objective, (X,), with that of `serial`."""
    weight = np.zeros(int(at[-1]))
    total = problem.total_rate
    energy = problem.weight_of("energy") / total
    weight[at[0] : at[1]] = energy * problem.power_w
    weight[at[2] : at[3]] = (
        problem.weight_of("traffic") / total + energy * problem.link_joule_per_byte
    )
    weight[at[4] : at[5]] = problem.weight_of("quality") / total
    weight[at[5] : at[6]] = serial / total
    return weight


def serial_weight(problem: Problem) -> float:
    """Weight of ``serial``, with the sampled terms at what they come to per call.

    ``parallel`` and ``fluid`` lie between serial / k and serial; the search follows
    serial in their place, and plans are compared by what `score` says.
    """
    width = max(1, problem.sample_experts.shape[2])
    sampled = problem.weight_of("parallel") + problem.weight_of("fluid")
    return float(problem.weight_of("serial") + sampled / width)


def build_tables(problem: Problem, *, never: float) -> Tables:
    """Lay out the arrays of a problem with the `home` dataflow.

    Parameters
    ----------
    problem
        What is to be solved.
    never
        Cost of a call that nothing answers, in units of the objective per call.
    """
    used = [
        (v, b)
        for v in range(problem.num_places)
        for b in range(problem.num_formats)
        if problem.allowed[v, b]
    ]
    options = np.array(used, dtype=np.int64).reshape(-1, 2)
    place, format_ = options[:, 0].copy(), options[:, 1].copy()
    option_at = np.full((problem.num_places, problem.num_formats), NONE, np.int64)
    option_at[place, format_] = np.arange(len(options))
    usable = np.ascontiguousarray(problem.copy_allowed()[:, place, format_])
    at = _offsets(problem)
    objective = objective_weights(problem, at, serial_weight(problem))
    objective[at[7]] = never
    cap_start, cap_row = cap_rows(problem, int(at[3]))
    num = problem.num_experts
    route_start, route_link = csr(
        [links.tolist() for row in problem.route_links for links in row]
    )
    order = np.lexsort((problem.similar[:, 1], problem.similar[:, 0]))
    similar = problem.similar[order]
    similar_start = np.searchsorted(similar[:, 0], np.arange(num + 1))
    back = np.argsort(similar[:, 1], kind="stable")
    pins: list[list[int]] = [[] for _ in range(num)]
    for i, v, b in problem.pinned.tolist():
        if option_at[v, b] != NONE:
            pins[i].append(int(option_at[v, b]))
            usable[i, option_at[v, b]] = True
    pin_start, pin_option = csr(pins)
    fails = np.zeros((len(problem.failure_sets), problem.num_servers), dtype=np.bool_)
    for f, servers in enumerate(problem.failure_sets):
        fails[f, servers] = True
    counts = count_tables(problem, place, format_)
    reach = problem.reachable
    room = problem.room_bytes
    typical = float(problem.size_bytes.mean()) if problem.size_bytes.size else 1.0
    return Tables(
        layer_of=problem.layer_of.copy(),
        app_of=problem.application_of.copy(),
        rate=problem.rate.copy(),
        calls=problem.calls.copy(),
        source=np.ascontiguousarray(problem.source.T),
        sink=np.ascontiguousarray(problem.sink.T),
        place=place,
        format=format_,
        server=problem.server_of[place],
        usable=usable,
        size=problem.size_bytes.copy(),
        flop=problem.flop.copy(),
        s_per_byte=problem.s_per_byte.copy(),
        s_per_flop=np.where(problem.allowed, problem.s_per_flop, 0.0),
        loss=problem.format_loss.copy(),
        trip=_by_layer(np.where(reach, problem.round_trip_s, 0.0)),
        transfer=_by_layer(np.where(reach, problem.transfer_s, 0.0)),
        reach=_by_layer(reach),
        processor=problem.processor_of.copy(),
        prune_width=_curve(problem, problem.prune_width),
        prune_loss=_curve(problem, problem.prune_loss),
        fuse_width=_curve(problem, problem.fuse_width),
        fuse_loss=_curve(problem, problem.fuse_loss),
        route_start=route_start,
        route_link=route_link,
        cap_start=cap_start,
        cap_row=cap_row,
        similar_start=similar_start.astype(np.int64),
        similar_to=np.ascontiguousarray(similar[:, 1]),
        similar_loss=np.ascontiguousarray(problem.similar_loss[:, order]),
        asked_start=np.searchsorted(similar[back, 1], np.arange(num + 1)).astype(
            np.int64
        ),
        asked_by=np.ascontiguousarray(similar[back, 0]),
        room=room.copy(),
        memory_norm=np.maximum(room, typical),
        pin_start=pin_start,
        pin_option=pin_option,
        fails=fails,
        count_start=counts.start,
        count_row=counts.row,
        count_option=counts.option,
        count_lower=counts.lower,
        count_upper=counts.upper,
        group_of=uniform_group_of(problem),
        objective=objective,
        at=at,
        may_miss=bool(problem.allow_missing),
        fuse_factor=float(problem.fuse_factor),
        bytes_out=float(problem.bytes_out),
        bytes_back=float(problem.bytes_back),
        bottleneck=float(problem.weight_of("bottleneck") / problem.total_rate),
        never=float(never),
    )

"""Problem x Trace: which layer, demand and home of the one is which of the other.

Names decide: applications by their own name, else by the domain of an application of
the instance; homes by the name of their server. Layers go by their numbers in the
model. What does not fit is refused in one line; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from meldopt.errors import TraceError
from meldopt.trace import ANY_HOME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from meldopt.instance import Instance
    from meldopt.problem import Problem
    from meldopt.trace import Chunk, Trace

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """How a trace meets a problem.

    Attributes
    ----------
    layer
        Position in the trace of each layer of the problem, (L,).
    request_demand
        Demand of each request, (R,).
    """

    layer: NDArray[np.int64]  # (L,)
    request_demand: NDArray[np.int64]  # (R,)


def match(
    problem: Problem,
    trace: Trace,
    *,
    instance: Instance | None = None,
    applications: Mapping[str, str] | None = None,
    homes: Mapping[str, str] | Literal["spread"] | None = None,
) -> Match:
    """Say what the names of a trace are in a problem.

    Parameters
    ----------
    problem, trace
        Must be of one model: layers, experts and top-k agree.
    instance
        Of the problem; says which domains its applications are of. Requests of a
        domain that several of them hold are dealt in proportion.
    applications
        Application of the instance for names of the trace; others go by name.
    homes
        Server for names of homes of the trace, or ``"spread"``. Requests of a home
        that is spread, and of one that was not recorded (``"*"``), go to the demands
        of their application in proportion to rate. Unless given, homes go by name if
        they all are servers, and are spread if none is.

    Raises
    ------
    TraceError
        If they do not fit.
    """
    found = _Match(problem, trace)
    return Match(
        layer=found.layers(),
        request_demand=found.demands(
            _applications(problem, trace, instance, applications or {}),
            _homes(problem, trace, homes),
        ),
    )


class _Match:
    """Look-ups that fail in one line."""

    def __init__(self, problem: Problem, trace: Trace) -> None:
        self.problem, self.trace = problem, trace

    def layers(self) -> NDArray[np.int64]:
        """Return the position in the trace of each layer of the problem, (L,)."""
        problem, header, place = self.problem, self.trace.header, self.trace.place
        if header.layer_ids is None:
            if header.num_layers != problem.num_layers:
                raise TraceError(
                    f"{place}: $.experts: got {header.num_layers} layers, expected "
                    f"{problem.num_layers} as in {problem.name}"
                )
            layer = np.arange(problem.num_layers, dtype=np.int64)
        else:
            at = {number: n for n, number in enumerate(header.layer_ids)}
            gone = [n for n in problem.layer_ids.tolist() if n not in at]
            if gone:
                raise TraceError(
                    f"{place}: $.layer_ids: got no layer {gone[0]}, expected those of "
                    f"{problem.name}"
                )
            layer = np.array([at[n] for n in problem.layer_ids.tolist()], np.int64)
        for position, experts in zip(
            layer.tolist(), np.diff(problem.layer_start).tolist(), strict=True
        ):
            if header.experts[position] != experts:
                raise TraceError(
                    f"{place}: $.experts[{position}]: got {header.experts[position]}, "
                    f"expected {experts} as in {problem.name}"
                )
        total = np.add.reduceat(problem.calls, problem.layer_start[:-1], axis=1)
        asked = np.unique(problem.application_of)
        for g in asked.tolist():
            wrong = np.abs(total[g] - header.top_k) > 1e-3 * header.top_k
            if wrong.any():
                at_layer = int(np.argmax(wrong))
                raise TraceError(
                    f"{place}: $.top_k: got {header.top_k}, expected "
                    f"{total[g, at_layer]:.6g} calls in layer {at_layer} as in "
                    f"{problem.name}"
                )
        return layer

    def demands(
        self,
        applications: list[dict[int, float]],
        homes: list[int | None],
    ) -> NDArray[np.int64]:
        """Return the demand of each request, (R,)."""
        problem, requests = self.problem, self.trace.requests
        demand = np.full(len(requests), -1, dtype=np.int64)
        key = requests.application * len(homes) + requests.home
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        for mine in np.split(order, starts[1:]):
            if not len(mine):
                continue
            a, h = divmod(int(key[mine[0]]), len(homes))
            home = homes[h]
            weight = applications[a]
            options = np.flatnonzero(
                np.isin(problem.application_of, list(weight))
                & ((problem.home_of == home) if home is not None else True)
            )
            if not len(options):
                header = self.trace.header
                raise TraceError(
                    f"{self.trace.place}: got requests of {header.applications[a]!r} "
                    f"at {header.homes[h]!r}, expected a demand of {problem.name}"
                )
            of = problem.application_of[options].tolist()
            rate = problem.rate[options] * np.array([weight[g] for g in of])
            demand[mine] = _dealt(options, rate, len(mine))
        return demand


def _dealt(
    options: NDArray[np.int64], weight: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Deal ``count`` requests to demands by weight, evenly over time."""
    if weight.sum() <= 0:
        weight = np.ones(len(weight))
    edge = np.cumsum(weight / weight.sum())
    # Multiples of the golden ratio fill [0, 1) evenly from the first on.
    draw = np.mod((np.arange(count) + 0.5) * _GOLDEN, 1.0)
    which = np.minimum(np.searchsorted(edge, draw, "right"), len(options) - 1)
    return np.asarray(options[which], dtype=np.int64)


def _applications(
    problem: Problem,
    trace: Trace,
    instance: Instance | None,
    given: Mapping[str, str],
) -> list[dict[int, float]]:
    """Return the applications that each one of the trace may be, with weights."""
    names = problem.labels.applications
    of_domain: dict[str, dict[int, float]] = {}
    if instance is not None:
        for g, spec in enumerate(instance.spec.workload.applications):
            mix = {spec.domain: 1.0} if isinstance(spec.domain, str) else spec.domain
            for domain, part in (mix or {}).items():
                if part > 0:
                    of_domain.setdefault(domain, {})[g] = part
    _known(given, trace.header.applications, f"{trace.place}: $.applications")
    found: list[dict[int, float]] = []
    for position, name in enumerate(trace.header.applications):
        wanted = given.get(name, name)
        if wanted in names:
            found.append({names.index(wanted): 1.0})
        elif name not in given and name in of_domain:
            found.append(of_domain[name])
        elif not (trace.requests.application == position).any():
            found.append({})
        else:
            raise TraceError(
                f"{trace.place}: $.applications[{position}]: got {wanted!r}, expected "
                f"an application or a domain of {problem.name}: {', '.join(names)}"
            )
    return found


def _homes(
    problem: Problem,
    trace: Trace,
    given: Mapping[str, str] | Literal["spread"] | None,
) -> list[int | None]:
    """Return the server of each home of the trace; None where requests spread."""
    names = problem.labels.servers
    written = trace.header.homes
    if given == "spread":
        return [None] * len(written)
    named = dict(given or {})
    _known(named, written, f"{trace.place}: $.homes")
    if not named and not any(name in names for name in written):
        return [None] * len(written)
    found: list[int | None] = []
    for position, name in enumerate(written):
        wanted = named.get(name, name)
        if wanted == ANY_HOME:
            found.append(None)
        elif wanted in names:
            found.append(names.index(wanted))
        else:
            raise TraceError(
                f"{trace.place}: $.homes[{position}]: got {wanted!r}, expected a "
                f"server of {problem.name}: {', '.join(names)}"
            )
    return found


def _known(given: Mapping[str, str], names: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in names:
            raise TraceError(f"{where}: got no {name!r}, expected it: it is mapped")


def token_chunks(
    trace: Trace, found: Match
) -> Iterator[tuple[Chunk, NDArray[np.uint16], NDArray[np.int64]]]:
    """Stream the tokens of a trace with their experts in 16 bits and their demands."""
    for chunk in trace.chunks():
        experts = np.ascontiguousarray(chunk.experts, dtype=np.uint16)
        yield chunk, experts, found.request_demand[chunk.token_request]


def trace_problem(problem: Problem, trace: Trace, found: Match) -> Problem:
    """Return the problem with the trace's own statistics in place of its profile's.

    Each demand becomes an application of its own, so that what its tokens called is
    kept apart; rates are the demands' shares of the tokens, with the same sum. In
    `roam` the pairs are those of tokens that walk from primary to primary. Plans of
    the problem are plans of this one. Needs one pass over the trace.
    """
    num_q, num_n = problem.num_demands, problem.num_experts
    first = problem.layer_start[None, :-1, None]
    calls, entry, exit_ = np.zeros((3, num_q * num_n))
    pairs: dict[int, int] = {}  # (demand, expert, expert) -> traversals
    tokens = np.zeros(num_q)
    for _, experts, demand in token_chunks(trace, found):
        tokens += np.bincount(demand, minlength=num_q)
        expert = first + experts[:, found.layer, :]
        key = demand[:, None, None] * num_n + expert
        calls += np.bincount(key.ravel(), minlength=len(calls))
        if problem.dataflow == "roam":
            entry += np.bincount(key[:, 0].ravel(), minlength=len(entry))
            exit_ += np.bincount(key[:, -1, 0], minlength=len(exit_))
            onward = key[:, :-1, :1] * num_n + expert[:, 1:]
            gathered = key[:, :, 1:] * num_n + expert[:, :, :1]
            both = np.concatenate([onward.ravel(), gathered.ravel()])
            for pair, count in zip(*np.unique(both, return_counts=True), strict=True):
                pairs[int(pair)] = pairs.get(int(pair), 0) + int(count)
    per_token = 1 / np.maximum(tokens, 1)[:, None]
    of = problem.application_of
    split: dict[str, Any] = {
        name: getattr(problem, name)[of]
        for name in (
            "format_loss",
            "prune_width",
            "prune_loss",
            "fuse_width",
            "fuse_loss",
            "similar_loss",
            "quality_budget",
            "latency_target",
            "trusted",
        )
    }
    split["pairs"], split["pair_weight"] = _listed(pairs, num_n, per_token)
    names = tuple(" at ".join(demand) for demand in problem.labels.demands)
    return problem.replace(
        labels=replace(problem.labels, applications=names),
        calls=calls.reshape(num_q, num_n) * per_token,
        entry=entry.reshape(num_q, num_n) * per_token,
        exit=exit_.reshape(num_q, num_n) * per_token,
        rate=tokens / tokens.sum() * problem.total_rate,
        application_of=np.arange(num_q, dtype=np.int64),
        **split,
    )


def _listed(
    found: dict[int, int], num_n: int, per_token: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs that were found, and traversals per token of each demand."""
    key = np.array(sorted(found), dtype=np.int64)
    count = np.array([found[k] for k in key.tolist()], dtype=np.float64)
    demand, pair = np.divmod(key, num_n * num_n)
    which, index = np.unique(pair, return_inverse=True)
    weight = np.zeros((len(per_token), len(which)))
    weight[demand, index.ravel()] = count
    return np.stack(np.divmod(which, num_n), axis=1), weight * per_token

"""Another workload for an instance: that of a trace, or of a demand set.

What was planned for one workload can then be judged on another, with the same model and
the same cluster. The result is an instance like any other: it can be written, solved,
replayed.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.errors import FileFormatError, TraceError
from meldopt.files import decode, read_bytes
from meldopt.instance import (
    ApplicationSpec,
    DemandSpec,
    Instance,
    WorkloadSpec,
    read_instance,
)
from meldopt.library import bundled_trace, locate
from meldopt.replay.match import match, token_chunks, trace_problem
from meldopt.trace import read_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem
    from meldopt.replay.match import Match
    from meldopt.trace import Trace


class DemandSet(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """A workload without model and cluster, as a file.

    ``applications`` and ``demands`` are those of the section ``workload`` of an
    instance; their domains are of the profile of the instance that they are put into.
    """

    format_version: int
    name: str
    applications: list[ApplicationSpec]
    demands: list[DemandSpec]


class _Kind(msgspec.Struct):
    demands: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


Workload = Instance | DemandSet | Path
"""What stands after ``--train`` and ``--test``: an instance, a demand set, or the path
of a trace."""


def read_workload(name: str) -> Workload:
    """Read an instance or a demand set, or find a trace.

    Parameters
    ----------
    name
        A path, or the name of a bundled instance or trace.

    Raises
    ------
    FileFormatError
        If it is none of them.
    """
    path = Path(name)
    if path.is_dir() or path.name.endswith(".npz"):
        return path
    if not path.exists():
        trace = bundled_trace(name)
        if trace is not None:
            return trace
    found = locate(name)
    data = read_bytes(found)
    try:
        kind = msgspec.json.decode(data, type=_Kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_instance(name)  # says what is wrong with it
    if kind.demands is not msgspec.UNSET:
        return decode(data, DemandSet, str(found))
    return read_instance(name)


def with_demands(instance: Instance, demands: DemandSet, *, source: str) -> Instance:
    """Return an instance with the applications and demands of a set.

    Raises
    ------
    InstanceError
        From the builder, if they do not fit the model or the cluster.
    """
    workload = WorkloadSpec(
        applications=demands.applications,
        demands=demands.demands,
        hosts=instance.spec.workload.hosts,
    )
    return Instance(
        spec=msgspec.structs.replace(
            instance.spec,
            name=f"{instance.name} @ {demands.name}",
            workload=workload,
        ),
        arrays=instance.arrays,
        source=source,
    )


def with_trace(instance: Instance, trace: Trace, *, name: str) -> Instance:
    """Return an instance whose calls and rates are those of a trace.

    Applications, homes, losses, limits and the sum of all rates stay; demands share the
    rates as they share the tokens of the trace. If its requests name domains of the
    instance, calls (in `roam`, pairs too) are counted by domain, and applications mix
    domains as before. Else they are counted by application, which becomes a domain of
    its own. What has no token in the trace keeps its calls. As many sampled tokens as
    the instance had are drawn evenly from the trace.

    Parameters
    ----------
    instance
        Says all the rest.
    trace
        Is read twice.
    name
        Of the trace, for the name of the instance.

    Raises
    ------
    TraceError
        If the trace is not of the model, names other applications or homes, or holds
        no token.
    """
    problem = build_problem(instance)
    found = match(problem, trace, instance=instance)
    if not trace.num_tokens:
        raise TraceError(f"{trace.place}: holds no token, expected some to plan for")
    domains = _domains_of(instance, trace)
    if domains is None:
        instance = _by_application(instance, problem)
        domains = [str(one.domain) for one in instance.spec.workload.applications]
        group = problem.application_of[found.request_demand]
    else:
        at = [
            domains.index(one) if one in domains else -1
            for one in trace.header.applications
        ]
        group = np.array(at, dtype=np.int64)[trace.requests.application]
    samples, tokens = _samples(problem, trace, found, group)
    rate = tokens / tokens.sum() * problem.total_rate
    workload = instance.spec.workload
    return Instance(
        spec=msgspec.structs.replace(
            instance.spec,
            name=f"{instance.name} @ {name}",
            model=msgspec.structs.replace(
                instance.spec.model, profile=None, digest=None, domains=domains
            ),
            workload=msgspec.structs.replace(
                workload,
                demands=[
                    msgspec.structs.replace(demand, rate=one)
                    for demand, one in zip(workload.demands, rate.tolist(), strict=True)
                ],
            ),
        ),
        arrays={
            **_without_routing(instance, problem, len(domains)),
            **_counted(instance, problem, trace, found, group, len(domains)),
            **samples,
        },
        source=f"{instance.source} @ {trace.place}",
    )


ROUTING = (
    "calls",
    "entry",
    "exit",
    "pairs",
    "pair_weight",
    "sample_experts",
    "sample_domain",
)
"""Arrays of a profile that a trace takes the place of."""


def _domains_of(instance: Instance, trace: Trace) -> list[str] | None:
    """Return the domains of an instance, if the requests of a trace name them all."""
    domains = instance.spec.model.domains
    names = {one.name for one in instance.spec.workload.applications}
    used = {
        trace.header.applications[n]
        for n in np.unique(trace.requests.application).tolist()
    }
    if domains is None or used & names or not used <= set(domains):
        return None
    return list(domains)


def _by_application(instance: Instance, problem: Problem) -> Instance:
    """Return the same instance with a domain for each application."""
    spec = instance.spec
    arrays: dict[str, NDArray[Any]] = {
        "calls": problem.calls,
        "loss": problem.format_loss,
        "prune_width": problem.prune_width,
        "prune_loss": problem.prune_loss,
        "fuse_width": problem.fuse_width,
        "fuse_loss": problem.fuse_loss,
        "similar": problem.similar,
        "similar_loss": problem.similar_loss,
        "pairs": problem.pairs,
        "pair_weight": problem.pair_weight,
        "entry": problem.entry,
        "exit": problem.exit,
    }
    for key in ("parameters", "size"):
        if key in instance.arrays:
            arrays[key] = instance.arrays[key]
    if not problem.format_loss.any():
        del arrays["loss"]
    domains = [one.name for one in spec.workload.applications]
    return Instance(
        spec=msgspec.structs.replace(
            spec,
            model=msgspec.structs.replace(
                spec.model,
                profile=None,
                digest=None,
                domains=domains,
                loss_formats=None,
                calibration=1.0,  # it is in the losses already
                fallback_loss=None,
            ),
            workload=msgspec.structs.replace(
                spec.workload,
                applications=[
                    msgspec.structs.replace(one, domain=one.name)
                    for one in spec.workload.applications
                ],
            ),
        ),
        # What is empty says nothing, and has no shape in JSON.
        arrays={key: value for key, value in arrays.items() if value.size},
        source=instance.source,
    )


def _without_routing(
    instance: Instance, problem: Problem, domains: int
) -> dict[str, NDArray[Any]]:
    """Return the profile that stays; KL keeps the calls that it was measured with."""
    kept = {key: one for key, one in instance.arrays.items() if key not in ROUTING}
    if "kl" in kept and "kl_calls" not in kept:
        kept["kl_calls"] = _calls_of(instance, problem, domains)
    return kept


def _calls_of(
    instance: Instance, problem: Problem, domains: int
) -> NDArray[np.float64]:
    """Return the calls of the profile, (D, N)."""
    calls = instance.arrays.get("calls")
    if calls is None:  # every expert of a layer alike
        return np.repeat(problem.calls[:1], domains, axis=0)
    return np.asarray(calls, dtype=np.float64).reshape(domains, problem.num_experts)


def _counted(
    instance: Instance,
    problem: Problem,
    trace: Trace,
    found: Match,
    group: NDArray[np.int64],
    domains: int,
) -> dict[str, NDArray[Any]]:
    """Count calls and pairs by domain; ``group`` is the domain of each request."""
    # The counting is that of replay, with domains where it has demands.
    labels = replace(problem.labels, demands=(("", ""),) * domains)
    counted = trace_problem(
        problem.replace(
            labels=labels,
            rate=np.ones(domains),
            application_of=np.zeros(domains, dtype=np.int64),
        ),
        trace,
        replace(found, request_demand=group),
    )
    seen = counted.rate > 0
    calls = _calls_of(instance, problem, domains).copy()
    calls[seen] = counted.calls[seen]
    for a, b in itertools.pairwise(problem.layer_start.tolist()):
        part = calls[:, a:b]  # counts over tokens add to top_k, but for rounding
        part *= problem.calls[0, a:b].sum() / part.sum(axis=1, keepdims=True)
    arrays: dict[str, NDArray[Any]] = {"calls": calls}
    if problem.dataflow == "roam":
        for name, new in (("entry", counted.entry), ("exit", counted.exit)):
            ends = instance.arrays.get(name)
            shape = (domains, problem.num_experts)
            old = (
                np.zeros(shape)
                if ends is None
                else np.broadcast_to(
                    np.asarray(ends, dtype=np.float64).reshape(-1, shape[1]), shape
                )
            )
            arrays[name] = np.where(seen[:, None], new, old)
        arrays |= {"pairs": counted.pairs, "pair_weight": counted.pair_weight}
    return arrays


def _samples(
    problem: Problem, trace: Trace, found: Match, group: NDArray[np.int64]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Draw as many tokens as the problem has, evenly, and count those of demands."""
    count = min(len(problem.sample_experts), trace.num_tokens)
    wanted = (np.arange(count) * trace.num_tokens) // max(count, 1)
    tokens = np.zeros(problem.num_demands, dtype=np.int64)
    experts, domains, begun = [], [], 0
    for chunk, chosen, demand in token_chunks(trace, found):
        tokens += np.bincount(demand, minlength=problem.num_demands)
        mine = wanted[(wanted >= begun) & (wanted < begun + len(demand))] - begun
        experts.append(chosen[mine][:, found.layer, :].astype(np.int64))
        domains.append(group[chunk.token_request[mine]])
        begun += len(demand)
    if not count:
        return {}, tokens
    return {
        "sample_experts": np.concatenate(experts),
        "sample_domain": np.concatenate(domains),
    }, tokens


def on_workload(base: Instance | None, workload: Workload, name: str) -> Instance:
    """Return what is planned or judged on: the base with the workload in place.

    Parameters
    ----------
    base
        Says model and cluster; may be None if the workload is an instance.
    workload
        From `read_workload`.
    name
        Of the workload, as given.

    Raises
    ------
    FileFormatError
        If a trace or a demand set has no instance that it belongs to.
    """
    if isinstance(workload, Instance):
        return workload
    if base is None:
        raise FileFormatError(
            f"{name}: is no instance, expected an INSTANCE whose workload it replaces"
        )
    if isinstance(workload, DemandSet):
        return with_demands(base, workload, source=f"{base.source} @ {name}")
    return with_trace(base, read_trace(workload), name=name)

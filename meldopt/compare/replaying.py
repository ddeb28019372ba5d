"""Replay of a plan on a trace, as numbers of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .records import ReplayRecord

if TYPE_CHECKING:
    from meldopt.instance import Instance
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.replay.backbone import Backbone
    from meldopt.replay.match import Match
    from meldopt.replay.report import Spread
    from meldopt.trace import Trace


def replay_plan(
    instance: Instance,
    problem: Problem,
    plan: Plan,
    path: str,
    mode: Literal["analytic", "events"],
) -> ReplayRecord:
    """Replay a plan with the settings that ``meldopt replay`` has by default.

    Parameters
    ----------
    instance, problem
        That the plan belongs to.
    plan
        Feasible or not.
    path
        Of the trace, or the name of a bundled one.
    mode
        Of the replay.

    Raises
    ------
    TraceError
        If the trace cannot be read, or is not of the model.
    """
    from meldopt.replay.backbone import backbone_of
    from meldopt.replay.match import match
    from meldopt.trace import read_trace

    trace = read_trace(path)
    found = match(problem, trace, instance=instance)
    backbone = backbone_of(instance, problem)
    if mode == "analytic":
        return _analytic(problem, plan, trace, found, backbone)
    return _events(instance, problem, plan, trace, found, backbone)


def _analytic(
    problem: Problem, plan: Plan, trace: Trace, found: Match, backbone: Backbone | None
) -> ReplayRecord:
    from meldopt.replay.analytic import replay_analytic
    from meldopt.replay.analytic_report import report_analytic

    times = replay_analytic(problem, plan, trace, found)
    report = report_analytic(problem, plan, trace, found, times, backbone)
    facts = {
        "tokens": float(report.tokens),
        "backbone_s": report.all.backbone_s,
        "quality_loss_nats": report.all.quality_loss,
        "processor_utilisation_max": max(
            (one.utilisation for one in report.processors), default=None
        ),
        "link_utilisation_max": max(
            (one.utilisation for one in report.links), default=None
        ),
        **_spread("serial", report.all.serial_s),
        **{f"term_{name}": value for name, value in report.terms.items()},
    }
    return _record("analytic", trace, report.all.parallel_s, facts)


def _events(
    instance: Instance,
    problem: Problem,
    plan: Plan,
    trace: Trace,
    found: Match,
    backbone: Backbone | None,
) -> ReplayRecord:
    from meldopt.replay.compute import ComputeModel
    from meldopt.replay.event_report import report_events
    from meldopt.replay.events import replay_events

    compute = ComputeModel.fitted(
        problem,
        [server.device for server in instance.spec.cluster.servers],
        reuse=instance.spec.limits.reuse,
    )
    records = replay_events(
        problem, plan, trace, found, backbone=backbone, compute=compute
    )
    report = report_events(problem, records)
    everyone, goodput = report.all, report.all.goodput
    facts = {
        "tokens": float(report.tokens),
        "requests": float(everyone.requests),
        "unfinished": float(everyone.unfinished),
        "settled": float(report.warm_up.settled),
        "quality_loss_nats": everyone.quality_loss,
        "lost_calls": float(report.lost_calls),
        "requests_per_s": report.throughput.requests_per_s,
        "output_tokens_per_s": report.throughput.output_tokens_per_s,
        "joule_per_token": report.energy.joule_per_token,
        "link_bytes": sum(report.bytes_by_cause.values()),
        "goodput_share": None if goodput is None else goodput.share,
        "processor_utilisation_max": max(
            (one.utilisation or 0.0 for one in report.processors), default=None
        ),
        "link_utilisation_max": max(
            (one.utilisation or 0.0 for one in report.links), default=None
        ),
        **_spread("ttft", everyone.ttft_s),
        **_spread("tpot", everyone.tpot_s),
    }
    return _record("events", trace, everyone.latency_s, facts)


def _spread(name: str, spread: Spread) -> dict[str, float | None]:
    return {
        f"{name}_{part}_s": getattr(spread, part)
        for part in ("mean", "p50", "p95", "p99")
    }


def _record(
    mode: Literal["analytic", "events"],
    trace: Trace,
    spread: Spread,
    facts: dict[str, float | None],
) -> ReplayRecord:
    facts |= {"mean_low_s": spread.low, "mean_high_s": spread.high}
    return ReplayRecord(
        mode=mode,
        digest=trace.header.digest,
        mean_s=spread.mean,
        p50_s=spread.p50,
        p95_s=spread.p95,
        p99_s=spread.p99,
        facts={name: value for name, value in facts.items() if value is not None},
    )

"""What ``meldopt replay`` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from meldopt.problem import Problem
    from meldopt.replay.report import (
        AnalyticReport,
        EventReport,
        GroupReport,
        Report,
        Spread,
    )

MOST = 12
"""Links in the table; the busiest first."""


def show_report(problem: Problem, report: Report) -> None:
    """Print a report as tables."""
    from meldopt.replay.report import EventReport

    from ._output import console

    out = console()
    if isinstance(report, EventReport):
        _show_events(problem, report, out)
    else:
        _show_analytic(problem, report, out)


# -- event mode ------------------------------------------------------------------------


def _show_events(problem: Problem, report: EventReport, out: Console) -> None:
    from meldopt.units import format_seconds

    from ._output import number

    every = report.all
    warm = report.warm_up
    start, stop = report.window_s
    out.print(
        f"{problem.name}: {report.requests} requests, {report.tokens} tokens in "
        f"{format_seconds(report.end_s)}"
    )
    out.print(
        f"counted: {every.requests} requests that came from {start:.4g} to {stop:.4g} s"
        f" (warm-up of {warm.requests}, {warm.rule})"
    )
    if not warm.settled:
        out.print(
            "  not settled: waits still changed in the second half; the run is too "
            "short, or overloaded"
        )
    _show_latencies(report, out)
    rate = report.throughput
    out.print(
        f"throughput {number(rate.output_tokens_per_s)} output tokens/s, "
        f"{number(rate.prompt_tokens_per_s)} prompt tokens/s, "
        f"{number(rate.requests_per_s)} requests/s"
    )
    _show_groups(report, out)
    _show_processors(report, out)
    _show_links(report, out)
    _show_totals(report, out)


def _show_latencies(report: EventReport, out: Console) -> None:
    from ._output import print_table

    rows = []
    for group in _groups(report):
        for name, spread in (
            ("first token", group.ttft_s),
            ("per output token", group.tpot_s),
            ("to the end", group.latency_s),
        ):
            rows.append((group.name, name, spread.count, *_times(spread)))
    print_table(
        ("application", "time", ">requests", ">mean", ">±", ">p50", ">p95", ">p99"),
        rows,
        to=out,
        title="latency; ± is the half of the 95 % interval of the mean",
    )


def _groups(report: EventReport) -> list[GroupReport]:
    """Return the applications and all of them; only one of the two if they agree."""
    used = [one for one in report.applications if one.requests]
    return used if len(used) == 1 else [*used, report.all]


def _times(spread: Spread) -> tuple[str, ...]:
    half = None
    if spread.mean is not None and spread.high is not None:
        half = spread.high - spread.mean
    return tuple(
        _seconds(one) for one in (spread.mean, half, spread.p50, spread.p95, spread.p99)
    )


def _seconds(value: float | None) -> str:
    from meldopt.units import format_seconds

    return "–" if value is None else format_seconds(float(f"{value:.3g}"))


def _show_groups(report: EventReport, out: Console) -> None:
    from ._output import number, percent, print_table

    goals = any(group.goodput for group in _groups(report))
    columns = ["application", ">requests", ">unfinished", ">tokens"]
    columns += [">loss (nats/token)", ">budget", ">lost calls"]
    if goals:
        columns += [">in target", ">±", ">goodput (requests/s)", ">tokens/s"]
    rows = []
    for group in _groups(report):
        row: list[object] = [
            group.name,
            group.requests,
            group.unfinished,
            group.tokens,
            number(group.quality_loss),
            number(group.quality_budget),
            group.lost_calls,
        ]
        good = group.goodput
        if good is not None:
            half = None
            if good.low is not None and good.high is not None:
                half = (good.high - good.low) / 2
            row += [percent(good.share), percent(half)]
            row += [number(good.requests_per_s), number(good.output_tokens_per_s)]
        elif goals:
            row += ["–"] * 4
        rows.append(row)
    print_table(columns, rows, to=out)


def _show_processors(report: EventReport, out: Console) -> None:
    from ._output import percent, print_table

    print_table(
        ("processor", ">busy", ">peak", ">experts", ">backbone", ">energy"),
        [
            (
                one.name.removesuffix("/processor"),
                percent(one.utilisation),
                percent(one.peak),
                _seconds(one.expert_s),
                _seconds(one.backbone_s),
                f"{one.joule:.4g} J",
            )
            for one in report.processors
        ],
        to=out,
    )


def _show_links(report: EventReport, out: Console) -> None:
    from meldopt.replay.report import busiest
    from meldopt.units import format_bytes

    from ._output import percent, print_table

    order = busiest(report.links)
    if not order:
        return
    causes = [name for name, size in report.bytes_by_cause.items() if size]
    print_table(
        (
            "link",
            ">busy",
            ">peak",
            ">bytes",
            *(f">{name}" for name in causes),
            ">kept off by fusion",
        ),
        [
            (
                f"{one.source} -> {one.target}",
                percent(one.utilisation),
                percent(one.peak),
                format_bytes(one.bytes),
                *(format_bytes(one.bytes_by_cause[name]) for name in causes),
                format_bytes(one.saved_bytes),
            )
            for one in (report.links[n] for n in order[:MOST])
        ],
        to=out,
        title=f"links: the busiest {min(MOST, len(order))} of {len(order)}",
    )


def _show_totals(report: EventReport, out: Console) -> None:
    from ._output import number, percent

    total = sum(report.calls.values())
    parts = ", ".join(
        f"{name} {percent(count / total if total else None, 2)}"
        for name, count in report.calls.items()
        if count
    )
    out.print(f"{total} expert calls: {parts}")
    energy = report.energy
    out.print(
        f"energy {number(energy.joule)} J ({number(energy.joule_per_token)} J/token): "
        f"experts {number(energy.experts_joule)}, backbone "
        f"{number(energy.backbone_joule)}, links {number(energy.links_joule)}"
    )


# -- analytic mode ---------------------------------------------------------------------


def _show_analytic(problem: Problem, report: AnalyticReport, out: Console) -> None:
    from ._output import number, percent, print_table

    out.print(
        f"{problem.name}: {report.tokens} tokens of {report.requests} requests, "
        f"{report.expert_calls} expert calls, each token alone"
    )
    used = [one for one in report.applications if one.tokens]
    groups = used if len(used) == 1 else [*used, report.all]
    rows = []
    for group in groups:
        for name, spread in (
            ("serial", group.serial_s),
            ("parallel", group.parallel_s),
        ):
            rows.append((group.name, name, spread.count, *_times(spread)))
    print_table(
        ("application", "term", ">tokens", ">mean", ">±", ">p50", ">p95", ">p99"),
        rows,
        to=out,
        title="seconds per token; ± is the half of the 95 % interval of the mean",
    )
    print_table(
        ("application", ">backbone adds", ">loss (nats/token)", ">budget"),
        [
            (
                one.name,
                _seconds(one.backbone_s),
                number(one.quality_loss),
                number(one.quality_budget),
            )
            for one in groups
        ],
        to=out,
    )
    from meldopt.replay.report import busiest

    for what, loads in (("processor", report.processors), ("link", report.links)):
        if loads:
            order = busiest(loads)
            print_table(
                (what, ">busy"),
                [
                    (
                        loads[n].name.removesuffix("/processor"),
                        percent(loads[n].utilisation),
                    )
                    for n in order[:MOST]
                ],
                to=out,
                title=f"{what}s at the rates of the instance: the busiest "
                f"{min(MOST, len(order))} of {len(order)}",
            )
    terms = "  ".join(f"{name} {number(one)}" for name, one in report.terms.items())
    out.print(f"terms on this trace: {terms}")

"""What a plan decides, for people: per server, link and application, by format."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from meldopt.result import weighted_terms
from meldopt.score import score, transfer_budgets
from meldopt.units import format_bytes, format_seconds

from ._output import number, percent, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.score import Row, Score

MAX_ROWS = 20
"""Longest table of links; the busiest are shown."""

UNITS = {
    "serial": "s/token",
    "parallel": "s/token",
    "fluid": "s/token",
    "bottleneck": "s/token",
    "traffic": "B/token",
    "energy": "J/token",
    "quality": "nats/token",
    "pair": "s/token",
}
"""Units of the terms of the objective."""

ROW_UNITS = {
    "memory": "B",
    "compute": "of a processor",
    "link": "B/s",
    "budget": "tokens/s",
    "quality": "nats/token",
    "latency": "s/token",
}
"""Units of rows; those of the other rows count things."""


def print_plan_summary(
    problem: Problem, plan: Plan, judged: Score, *, to: Console
) -> None:
    """Print what a plan uses and what it is worth."""
    print_terms(problem, judged, to=to)
    print_servers(problem, plan, judged, to=to)
    print_links(judged, to=to)
    print_applications(problem, plan, to=to)
    print_formats(problem, plan, to=to)
    print_tokens(problem, plan, to=to)


def print_terms(problem: Problem, judged: Score, *, to: Console) -> None:
    """Print every term of the objective; its weight where it has one."""
    weighted = set(weighted_terms(problem))
    print_table(
        ("term", ">value", "unit", ">weight"),
        [
            (
                name,
                number(value),
                UNITS[name],
                number(problem.weight_of(name)) if name in weighted else "",
            )
            for name, value in judged.terms.items()
        ],
        to=to,
    )


def _rows(judged: Score, row: str) -> list[Row]:
    return [one for one in judged.rows if one.row == row]


def print_servers(problem: Problem, plan: Plan, judged: Score, *, to: Console) -> None:
    """Print memory by tier and the busy share of the processor of each place."""
    memory = _rows(judged, "memory")
    compute = _rows(judged, "compute")
    copies = np.bincount(plan.copies[:, 1], minlength=problem.num_places)
    lines = []
    for v, (server, tier) in enumerate(problem.labels.places):
        used, room = memory[v].value, memory[v].limit
        busy = compute[int(problem.processor_of[v])]
        lines.append(
            (
                server,
                tier,
                int(copies[v]),
                format_bytes(used),
                format_bytes(room),
                percent(used / room if room > 0 else None),
                percent(busy.value),
                percent(busy.limit, 0),
            )
        )
    print_table(
        ("server", "tier", ">copies", ">used", ">room", ">full", ">busy", ">limit"),
        lines,
        to=to,
    )


def print_links(judged: Score, *, to: Console) -> None:
    """Print the load of each directed link against its cap, busiest first."""
    links = sorted(
        _rows(judged, "link"),
        key=lambda row: -row.value / row.limit if row.limit else -math.inf,
    )
    used = [row for row in links if row.value > 0]
    if not used:
        return
    print_table(
        ("link", ">load", ">cap", ">share of cap"),
        [
            (
                row.where,
                f"{format_bytes(row.value)}/s",
                f"{format_bytes(row.limit)}/s",
                percent(row.value / row.limit if row.limit else None),
            )
            for row in used[:MAX_ROWS]
        ],
        to=to,
    )
    unseen = len(used) - MAX_ROWS
    idle = len(links) - len(used)
    notes = [f"{unseen} more in use"] if unseen > 0 else []
    notes += [f"{idle} idle"] if idle else []
    if notes:
        to.print(f"  links: {', '.join(notes)}")


def print_applications(problem: Problem, plan: Plan, *, to: Console) -> None:
    """Print quality spent of its budget and latency against its target."""
    # Only a limit makes a row; where there is none, one that never binds does.
    huge = np.full(problem.num_applications, np.finfo(np.float64).max)
    judged = score(problem.replace(quality_budget=huge, latency_target=huge), plan)
    lines = []
    for g, (spent, slow) in enumerate(
        zip(_rows(judged, "quality"), _rows(judged, "latency"), strict=True)
    ):
        budget = float(problem.quality_budget[g])
        target = float(problem.latency_target[g])
        lines.append(
            (
                problem.labels.applications[g],
                f"{problem.application_rate[g]:g} tokens/s",
                f"{spent.value:.4g} nats",
                f"{budget:.4g} nats" if math.isfinite(budget) else "none",
                percent(spent.value / budget if budget > 0 else None),
                format_seconds(slow.value),
                format_seconds(target) if math.isfinite(target) else "none",
            )
        )
    print_table(
        (
            "application",
            ">rate",
            ">quality spent",
            ">budget",
            ">share",
            ">latency",
            ">target",
        ),
        lines,
        to=to,
    )


def print_formats(problem: Problem, plan: Plan, *, to: Console) -> None:
    """Print copies and bytes by format."""
    expert, _, format_ = plan.copies.T
    num = problem.num_formats
    copies = np.bincount(format_, minlength=num)
    size = np.bincount(
        format_, weights=problem.size_bytes[expert, format_], minlength=num
    )
    print_table(
        ("format", ">bits/weight", ">copies", ">share", ">bytes"),
        [
            (
                name,
                f"{problem.bits_per_weight[b]:g}",
                int(copies[b]),
                percent(copies[b] / max(plan.num_copies, 1)),
                format_bytes(size[b]),
            )
            for b, name in enumerate(problem.labels.formats)
        ],
        to=to,
    )
    held = len(np.unique(expert))
    to.print(
        f"  {plan.num_copies} copies of {held} experts"
        + (
            f"; {problem.num_experts - held} experts have none"
            if held < problem.num_experts
            else ""
        )
    )


def print_tokens(problem: Problem, plan: Plan, *, to: Console) -> None:
    """Print what becomes of the calls that would cross between servers."""
    budgets = transfer_budgets(problem, plan)
    if not budgets:
        to.print("  no call crosses between servers")
        return
    budgets_meant = []
    for entry in budgets:
        # kept calls cross whole and fused ones count phi, so the sum follows.
        weight = entry.kept + problem.fuse_factor * entry.fused
        budgets_meant.append(entry.tokens_per_s / weight if weight > 0 else math.nan)
    meant = np.array(budgets_meant)
    known = np.isfinite(meant)
    total = float(meant[known].sum())
    crossing = sum(entry.tokens_per_s for entry in budgets)
    parts = []
    if total > 0:
        for name in ("kept", "fused", "pruned"):
            shares = np.array([getattr(entry, name) for entry in budgets])
            part = float((shares[known] * meant[known]).sum())
            parts.append(f"{percent(part / total)} {name}")
    to.print(
        f"  transfer budgets: {len(budgets)} of (layer, from, to), "
        f"{crossing:.4g} calls/s cross"
        + (f"; of the calls meant to cross {', '.join(parts)}" if parts else "")
    )


def print_violations(judged: Score, *, to: Console) -> None:
    """Print the rows that a plan breaks, by name and amount."""
    by_row = {(row.row, row.where): row for row in judged.rows}
    print_table(
        ("row", "where", ">over by", ">value", ">limit", "unit"),
        [
            (
                one.row,
                one.where,
                number(one.amount),
                number(by_row[one.row, one.where].value),
                number(by_row[one.row, one.where].limit),
                ROW_UNITS.get(one.row, ""),
            )
            for one in judged.violations
        ],
        to=to,
        title="broken rows",
    )


def print_tightest(judged: Score, *, to: Console, count: int = 8) -> None:
    """Print the rows with the least relative slack."""
    from meldopt.score import worst_rows

    print_table(
        ("row", "where", ">value", ">limit", ">slack"),
        [
            (
                row.row,
                row.where,
                number(row.value),
                number(row.limit),
                percent(row.relative_slack),
            )
            for row in worst_rows(
                [row for row in judged.rows if row.row in ROW_UNITS], count
            )
        ],
        to=to,
        title="tightest rows",
    )

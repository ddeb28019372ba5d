"""``meldopt show``: an instance, a plan or a trace, for people."""

from __future__ import annotations

import string
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import json_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from meldopt.plan import PlanFile
    from meldopt.problem import Problem


@click.command("show")
@click.argument("file", metavar="FILE")
@json_option
def command(file: str, as_json: bool) -> None:
    """Show an instance, a plan or a trace, for people.

    FILE is a path, "-" for standard input (no trace), or the name of a bundled instance
    or trace.

    The map of a plan has a line per layer and a column per server: how many copies of
    the layer sit there, and a letter for the format that most of them have. The picture
    of a trace has a line per layer and a block per expert: the higher, the busier.
    """
    from meldopt.library import locate

    if file == "-":
        data, source, folder = sys.stdin.buffer.read(), "<stdin>", Path()
    else:
        trace = _trace(file)
        if trace is not None:
            from ._show_trace import show_trace

            show_trace(trace, as_json=as_json)
            return
        from meldopt.files import read_bytes

        found = locate(file)
        data, source, folder = read_bytes(found), str(found), found.parent
    if _is_plan(data):
        _show_plan(data, source, as_json=as_json)
        return
    from meldopt.builder import build_problem
    from meldopt.instance import parse_instance

    problem = build_problem(parse_instance(data, source, folder))
    if as_json:
        from ._output import print_json

        print_json(_instance_document(problem))
    else:
        _show_instance(problem)


def _trace(file: str) -> Path | None:
    """Return where a trace lies, if that is what the name is of."""
    path = Path(file)
    if path.name.endswith((".trace", ".npz")) or path.is_dir():
        return path  # reading it says what is wrong
    if path.exists():
        return None
    from meldopt.library import bundled_trace

    return bundled_trace(file)


def _is_plan(data: bytes) -> bool:
    import msgspec

    try:
        return "copies" in msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # reading it as an instance says what is wrong


# -- instances -------------------------------------------------------------------------


def _instance_document(problem: Problem) -> dict[str, Any]:
    return {
        "name": problem.name,
        "digest": problem.instance_digest,
        "dataflow": problem.dataflow,
        "layers": problem.num_layers,
        "experts": problem.num_experts,
        "servers": list(problem.labels.servers),
        "formats": list(problem.labels.formats),
        "applications": list(problem.labels.applications),
        "demands": problem.num_demands,
        "rate_tokens_per_s": float(problem.rate.sum()),
        "room_bytes": float(problem.room_bytes.sum()),
        "smallest_bytes": float(problem.size_bytes.min(axis=1).sum()),
        "objective": {
            name: problem.weight_of(name) for name in _weighted_terms(problem)
        },
    }


def _weighted_terms(problem: Problem) -> tuple[str, ...]:
    from meldopt.result import weighted_terms

    return weighted_terms(problem)


def _show_instance(problem: Problem) -> None:
    from meldopt.units import format_bytes

    from ._output import console, percent

    out = console()
    room = float(problem.room_bytes.clip(min=0).sum())
    out.print(f"{problem.name}  ({problem.instance_digest[:19]}…)")
    out.print(
        f"{problem.num_layers} layers, {problem.num_experts} experts, "
        f"{float(problem.calls[0].sum()) / problem.num_layers:g} calls per token and "
        f"layer, dataflow {problem.dataflow}"
    )
    for b, name in enumerate(problem.labels.formats):
        size = float(problem.size_bytes[:, b].sum())
        out.print(
            f"  one copy of everything in {name} ({problem.bits_per_weight[b]:g} "
            f"bits): {format_bytes(size)}, {percent(size / room if room else None, 0)} "
            "of the room"
        )
    _show_servers(problem, out)
    _show_links(problem, out)
    _show_workload(problem, out)
    _show_limits(problem, out)


def _show_servers(problem: Problem, out: Console) -> None:
    import numpy as np

    from meldopt.units import format_bytes, format_seconds

    from ._output import print_table

    largest = int(np.argmax(problem.size_bytes[:, 0]))
    lines = []
    for v, (server, tier) in enumerate(problem.labels.places):
        runs = np.flatnonzero(problem.allowed[v])
        work = [
            float(problem.work_s(*(np.array([n]) for n in (largest, v, b)))[0])
            for b in runs
        ]
        read = problem.s_per_byte[v]
        lines.append(
            (
                server,
                tier,
                format_bytes(problem.capacity_bytes[v]),
                format_bytes(problem.reserve_bytes[v]),
                "∞" if read == 0 else f"{format_bytes(1 / read)}/s",
                " – ".join(dict.fromkeys(map(format_seconds, (min(work), max(work)))))
                if work
                else "runs nothing",
                ", ".join(problem.labels.formats[b] for b in runs)
                if len(runs) < problem.num_formats
                else "all",
            )
        )
    print_table(
        ("server", "tier", ">capacity", ">reserve", ">read", ">one call", "formats"),
        lines,
        to=out,
    )


def _show_links(problem: Problem, out: Console) -> None:
    from meldopt.units import format_seconds

    from ._output import print_table

    names = problem.labels.servers
    directed = {
        (int(a), int(b)): k
        for k, (a, b) in enumerate(zip(problem.link_from, problem.link_to, strict=True))
    }
    lines = []
    for (a, b), k in directed.items():
        back = directed.get((b, a))
        rate = problem.link_bandwidth
        both = back is not None and rate[back] == rate[k]
        if both and a > b:
            continue
        # The latency of a link is that of the route where the link is the route.
        own = problem.route_links[a][b].tolist() == [k]
        lines.append(
            (
                f"{names[a]} {'<->' if both else '->'} {names[b]}",
                f"{8 * rate[k] / 1e9:.4g} Gbit/s",
                format_seconds(problem.route_latency[a, b]) if own else "–",
            )
        )
    if lines:
        print_table(("link", ">bandwidth", ">latency"), lines, to=out)


def _show_workload(problem: Problem, out: Console) -> None:
    import numpy as np

    from meldopt.units import format_seconds

    from ._output import print_table

    lines = []
    for g, name in enumerate(problem.labels.applications):
        mine = np.flatnonzero(problem.application_of == g)
        budget, target = problem.quality_budget[g], problem.latency_target[g]
        trusted = problem.trusted[g]
        lines.append(
            (
                name,
                f"{problem.application_rate[g]:g}",
                ", ".join(
                    f"{problem.labels.demands[q][1]} {problem.rate[q]:g}" for q in mine
                ),
                "none" if np.isinf(budget) else f"{budget:g} nats",
                "none" if np.isinf(target) else format_seconds(target),
                "all"
                if trusted.all()
                else ", ".join(
                    problem.labels.servers[s] for s in np.flatnonzero(trusted)
                ),
            )
        )
    print_table(
        (
            "application",
            ">tokens/s",
            "homes",
            ">quality budget",
            ">latency target",
            "trusts",
        ),
        lines,
        to=out,
    )


def _show_limits(problem: Problem, out: Console) -> None:
    parts = [f"processors at most {problem.busy:g} busy, links {problem.link_busy:g}"]
    if problem.max_copies is not None:
        parts.append(f"at most {problem.max_copies} copies of an expert")
    if problem.allow_missing:
        parts.append("experts may be missing")
    for count, what in (
        (len(problem.failure_sets), "failure sets to survive"),
        (len(problem.count_rows), "count rows"),
        (len(problem.uniform_groups), "groups of one format"),
        (len(problem.budget_caps), "caps on transfer budgets"),
        (len(problem.pinned), "pinned copies"),
        (len(problem.forbidden), "forbidden copies"),
        (problem.prune_width.shape[2], "segments of pruning"),
        (problem.fuse_width.shape[2], "segments of fusion"),
        (len(problem.similar), "pairs of similar experts"),
        (len(problem.pairs), "pairs of experts"),
        (len(problem.sample_demand), "sampled tokens"),
    ):
        if count:
            parts.append(f"{count} {what}")
    out.print("  " + "; ".join(parts))
    weights = ", ".join(
        f"{problem.weight_of(name):g} × {name}" for name in _weighted_terms(problem)
    )
    out.print(f"  minimise {weights or 'nothing: any feasible plan will do'}")


# -- plans -----------------------------------------------------------------------------


def _show_plan(data: bytes, source: str, *, as_json: bool) -> None:
    from meldopt.files import decode
    from meldopt.plan import PlanFile

    from ._output import console, print_json

    plan = decode(data, PlanFile, source)
    formats = Counter(copy.format for copy in plan.copies)
    if as_json:
        print_json(
            {
                "instance": {
                    "name": plan.instance.name,
                    "digest": plan.instance.digest,
                },
                "copies": len(plan.copies),
                "copies_by_format": dict(sorted(formats.items())),
                "status": plan.status,
                "solver": plan.solver,
                "objective": plan.objective,
                "bound": plan.bound,
                "gap": plan.gap,
                "terms": plan.terms,
                "seed": plan.seed,
            }
        )
        return
    _show_plan_text(plan, formats, console())


def _show_plan_text(plan: PlanFile, formats: Counter[str], out: Console) -> None:
    from ._output import gap_percent, number, percent, print_table

    experts = len({(copy.layer, copy.expert) for copy in plan.copies})
    out.print(f"plan for {plan.instance.name}  ({plan.instance.digest[:19]}…)")
    out.print(
        f"{plan.status or 'status unknown'}, by {plan.solver or 'an unknown solver'}: "
        f"objective {number(plan.objective)}  bound {number(plan.bound)}  "
        f"gap {gap_percent(plan.gap)}"
    )
    out.print(f"{len(plan.copies)} copies of {experts} experts")
    if plan.terms:
        out.print("  ".join(f"{key} {number(val)}" for key, val in plan.terms.items()))
    letters = dict(
        zip(
            sorted(formats, key=lambda name: (-formats[name], name)),
            string.ascii_lowercase + string.ascii_uppercase,
            strict=False,
        )
    )
    if not plan.copies:
        return
    print_table(
        ("letter", "format", ">copies", ">share"),
        [
            (
                letters.get(name, "?"),
                name,
                count,
                percent(count / len(plan.copies)),
            )
            for name, count in formats.most_common()
        ],
        to=out,
    )
    for line in heat_map(plan, letters):
        out.print(line, soft_wrap=True, no_wrap=True)
    _show_budgets(plan, out)


def heat_map(plan: PlanFile, letters: dict[str, str]) -> Iterable[str]:
    """Yield the lines of the map layers × servers of a plan.

    A cell holds the number of copies and the letter of the commonest format.
    """
    servers = list(dict.fromkeys(sorted(copy.server for copy in plan.copies)))
    cells: dict[tuple[int, str], Counter[str]] = {}
    for copy in plan.copies:
        cells.setdefault((copy.layer, copy.server), Counter())[copy.format] += 1
    texts = {}
    for key, found in cells.items():
        name, _ = min(found.items(), key=lambda item: (-item[1], item[0]))
        texts[key] = f"{found.total()}{letters.get(name, '?')}"
    wide = max(map(len, [*texts.values(), *servers]))
    short = max(map(len, texts.values()))
    if (wide + 1) * len(servers) <= 100:
        yield "layer " + " ".join(f"{name:>{wide}}" for name in servers)
    else:  # names would not fit: number the columns instead
        wide = max(short, len(str(len(servers))))
        for n, name in enumerate(servers):
            yield f"  column {n}: {name}"
        yield "layer " + " ".join(f"{n:>{wide}}" for n in range(len(servers)))
    for layer in range(max(layer for layer, _ in cells) + 1):
        row = (f"{texts.get((layer, name), '·'):>{wide}}" for name in servers)
        yield f"{layer:>5} " + " ".join(row)


def _show_budgets(plan: PlanFile, out: Console, count: int = 10) -> None:
    from ._output import percent, print_table

    if not plan.budgets:
        return
    largest = sorted(plan.budgets, key=lambda one: -one.tokens_per_s)[:count]
    print_table(
        (">layer", "from", "to", ">tokens/s", ">kept", ">fused", ">pruned"),
        [
            (
                one.layer,
                one.from_,
                one.to,
                f"{one.tokens_per_s:.4g}",
                percent(one.kept),
                percent(one.fused),
                percent(one.pruned),
            )
            for one in largest
        ],
        to=out,
        title=f"transfer budgets: the largest {len(largest)} of {len(plan.budgets)}",
    )

"""Tables that list what there is: instances, solvers, plans on fronts, runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meldopt.gap import relative_gap
from meldopt.tolerance import allowed

from .markup import Cell, Table
from .standing import REPLAY
from .tables import columns_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meldopt.library import IndexEntry

    from .plans import Weighed
    from .records import RunRecord
    from .standing import Bound


def instances_table(
    records: Sequence[RunRecord],
    bounds: Mapping[str, Bound],
    index: Mapping[str, IndexEntry],
) -> Table:
    """Return the instances with their sizes, best plans and best bounds."""
    library = {entry.digest: entry.best for entry in index.values()}
    rows: list[tuple[Cell, ...]] = []
    for record in {record.instance_digest: record for record in records}.values():
        digest = record.instance_digest
        ranked = [
            (run.objective, run.label)
            for run in records
            if run.instance_digest == digest
            and run.ranked
            and run.objective is not None
        ]
        value = min((objective for objective, _ in ranked), default=None)
        equal = dict.fromkeys(
            label
            for objective, label in ranked
            if value is not None and objective - value <= allowed(value)
        )
        bound = bounds.get(digest)
        known = library.get(digest)
        rows.append(
            (
                record.instance,
                record.dataflow,
                record.layers,
                record.experts,
                record.servers,
                record.demands,
                record.formats,
                value,
                _and_more(list(equal)),
                None if bound is None else bound.value,
                "" if bound is None else bound.by,
                relative_gap(
                    math.inf if value is None else value,
                    None if bound is None else bound.value,
                ),
                None if known is None else known.objective,
                None if known is None else known.bound,
                digest.removeprefix("sha256:")[:12],
            )
        )
    return Table(
        name="instances",
        title="Instances",
        caption=(
            "The best plan is that of any run here; the best bound is the largest "
            "certified one of any run and of the bundled library. Experts count all "
            "layers."
        ),
        columns=columns_of(
            ("instance", "text"),
            ("dataflow", "text"),
            ("layers", "integer"),
            ("experts", "integer"),
            ("servers", "integer"),
            ("demands", "integer"),
            ("formats", "integer"),
            ("best objective", "number"),
            ("by", "text"),
            ("best bound", "number"),
            ("proved by", "text"),
            ("gap", "percent"),
            ("library objective", "number"),
            ("library bound", "number"),
            ("digest", "text"),
        ),
        rows=tuple(rows),
    ).without_empty()


def _and_more(names: Sequence[str]) -> str:
    """Write the first of equal ones, and how many more there are."""
    if len(names) < 2:
        return "".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def solvers_table(records: Sequence[RunRecord], citations: Mapping[str, str]) -> Table:
    """Return the solvers: what each label is, what it could not see, its source.

    Parameters
    ----------
    citations
        By name of the solver.
    """
    rows: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(record.label for record in records):
        mine = [record for record in records if record.label == label]
        one = mine[0]
        ignored = dict.fromkeys(name for record in mine for name in record.ignored)
        rows.append(
            (
                label,
                one.solver,
                next((record.kind for record in mine if record.kind), ""),
                ", ".join(f"{key}={value}" for key, value in one.options.items()),
                ", ".join(ignored),
                len(mine),
                citations.get(one.solver, ""),
            )
        )
    return Table(
        name="solvers",
        title="Solvers",
        caption=(
            "Ignored: what some instance offers or asks for and the solver does not "
            "use or honour."
        ),
        columns=columns_of(
            ("label", "text"),
            ("solver", "text"),
            ("kind", "text"),
            ("options", "text"),
            ("ignored", "text"),
            ("runs", "integer"),
            ("source", "text"),
        ),
        rows=tuple(rows),
    ).without_empty()


def fronts_table(fronts: Sequence[Weighed]) -> Table:
    """Return the plans of all instances on the axes of their fronts, for programs."""
    rows: list[tuple[Cell, ...]] = []
    for one in fronts:
        for record, point, kept in zip(
            one.records, one.points.tolist(), one.front.tolist(), strict=True
        ):
            rows.append(
                (
                    record.instance,
                    record.instance_digest,
                    record.label,
                    record.seed,
                    one.term,
                    *point,
                    "yes" if kept else "no",
                )
            )
    return Table(
        name="fronts",
        title="Latency, quality loss and memory",
        caption="Plans that keep every row; equal ones of a solver once.",
        columns=columns_of(
            ("instance", "text"),
            ("instance_digest", "text"),
            ("solver", "text"),
            ("seed", "integer"),
            ("latency term", "text"),
            ("latency s", "number"),
            ("quality nats", "number"),
            ("bytes", "number"),
            ("on the front", "text"),
        ),
        rows=tuple(rows),
    )


def runs_table(records: Sequence[RunRecord]) -> Table:
    """Return every run with its terms, for programs: one row for each record."""
    terms = dict.fromkeys(name for record in records for name in record.terms)
    fields = [
        (trace, name)
        for trace in dict.fromkeys(name for one in records for name in one.replay)
        for name in REPLAY
    ]
    rows: list[tuple[Cell, ...]] = []
    for one in records:
        replayed: list[Cell] = [
            getattr(one.replay[trace], name) if trace in one.replay else None
            for trace, name in fields
        ]
        rows.append(
            (
                one.instance,
                one.instance_digest,
                one.family,
                one.train,
                one.label,
                one.solver,
                one.seed,
                one.time_limit_s,
                one.work,
                one.status,
                one.stop_reason,
                one.objective,
                one.bound,
                one.gap,
                len(one.violations),
                one.runtime_s,
                one.cpu_s,
                one.memory_bytes,
                one.plan,
                one.error,
                *(one.terms.get(name) for name in terms),
                *replayed,
            )
        )
    return Table(
        name="runs",
        title="Runs",
        caption="Every run, as it was recorded.",
        columns=columns_of(
            ("instance", "text"),
            ("instance_digest", "text"),
            ("family", "text"),
            ("train", "text"),
            ("label", "text"),
            ("solver", "text"),
            ("seed", "integer"),
            ("time_limit_s", "number"),
            ("work", "number"),
            ("status", "text"),
            ("stop_reason", "text"),
            ("objective", "number"),
            ("bound", "number"),
            ("gap", "number"),
            ("violations", "integer"),
            ("runtime_s", "number"),
            ("cpu_s", "number"),
            ("memory_bytes", "integer"),
            ("plan", "text"),
            ("error", "text"),
            *((f"term {name}", "number") for name in terms),
            *((f"{trace} {name}", "number") for trace, name in fields),
        ),
        rows=tuple(rows),
    )

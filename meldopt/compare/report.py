"""Everything that a report of a comparison says: facts, tables, pictures, warnings.

Made once, then written by `meldopt.compare.markup` (Markdown, CSV, LaTeX),
`meldopt.compare.page` (HTML) and `meldopt.compare.plots` (pictures). The same results
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import MeldoptError
from meldopt.library import read_index
from meldopt.units import format_bytes

from .contrasts import (
    against_table,
    frozen_table,
    pairs_table,
    progress_table,
    ranks_table,
)
from .figures import count_of, overall_pictures, plan_pictures
from .listings import fronts_table, instances_table, runs_table, solvers_table
from .plans import InstancePlans
from .profiles import gap_curves
from .records import read_records
from .standing import best_bounds, contradictions, standing
from .statistics import friedman, wilcoxon_pairs
from .tables import failures_table, results_table, summary_table, violations_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meldopt.library import IndexEntry

    from .figures import Picture
    from .markup import Table
    from .plans import Weighed
    from .records import RunRecord
    from .standing import Bound, Standing

Tell = Callable[[str], None]
"""Takes a line on what is being done."""

REPLAYED = ("mean_s", "p99_s")
"""Measures of replay that are summarised."""

TABLES = (
    "summary",
    "against",
    "replay-mean",
    "replay-p99",
    "progress",
    "frozen",
    "ranks",
    "pairs",
    "results",
    "instances",
    "solvers",
    "violations",
    "failures",
    "fronts",
    "runs",
)
"""Names of all tables, in the order of a report; not every report has each."""

LOOSE = ("fronts", "runs")
"""Tables for programs: written as CSV only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """What is said of one instance."""

    name: str
    results: Table
    front: Weighed | None
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a comparison says.

    Attributes
    ----------
    title
        One line.
    facts
        (what, value): seeds, limits, machines, versions.
    warnings
        What a reader must know first: contradictions, runs that are missing.
    tables
        By name, in the order of `TABLES`; some have no rows.
    pictures
        Of all instances together.
    chapters
        One for each instance.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    tables: Mapping[str, Table]
    pictures: tuple[Picture, ...]
    chapters: tuple[Chapter, ...]


def build_report(
    source: str | Path,
    *,
    against: str | None = None,
    plans: bool = True,
    index: Mapping[str, IndexEntry] | None = None,
    tell: Tell = lambda _: None,
) -> Report:
    """Make the report of a comparison.

    Parameters
    ----------
    source
        Folder of the comparison, or its ``RESULTS.jsonl``.
    against
        Label that the others are measured against; tests of pairs are then only of
        those with it.
    plans
        Whether plans are read again and drawn.
    index
        Of the bundled library, for its bounds; read unless given.
    tell
        Called with a line on what is being done.

    Raises
    ------
    FileFormatError
        If there is no such comparison, or a line of it is no record.
    MeldoptError
        If no run has the label ``against``.
    """
    records = read_records(source)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    index = read_index() if index is None else index
    bounds = best_bounds(records, index)
    objective = standing(records)
    if against is not None and records:
        objective.column(against)  # refuses what no run has
    replays = [standing(records, name) for name in REPLAYED]
    replays = [one for one in replays if one.cases]

    tell("tests and means")
    ranked = np.flatnonzero(objective.ever_ranked).tolist()
    labels = [objective.labels[k] for k in ranked]
    found = friedman(objective.value[objective.complete][:, ranked])
    reference = None if against is None or not records else objective.column(against)
    curves = gap_curves(records, bounds)
    chapters = _chapters(records, bounds, folder, against, tell, plans=plans)
    tables = [
        summary_table(objective, bounds),
        *([against_table([objective, *replays], against)] if against else []),
        *(summary_table(one, bounds) for one in replays),
        progress_table(curves),
        frozen_table(objective),
        ranks_table(labels, found),
        pairs_table(
            objective.labels,
            wilcoxon_pairs(objective.value, reference),
            found,
            ranked,
        ),
        results_table(objective, bounds),
        instances_table(records, bounds, index),
        solvers_table(records, _citations(records)),
        violations_table(records),
        failures_table(records),
        fronts_table([one.front for one in chapters if one.front is not None]),
        runs_table(records),
    ]
    by_name = {one.name: one for one in tables}
    return Report(
        title=_title(records),
        facts=_facts(records),
        warnings=tuple(_warnings(records, objective, bounds)),
        tables={name: by_name[name] for name in TABLES if name in by_name},
        pictures=tuple(
            overall_pictures(objective, replays, curves, labels, found)
            if records
            else ()
        ),
        chapters=tuple(chapters),
    )


# -- words -----------------------------------------------------------------------------


def _title(records: Sequence[RunRecord]) -> str:
    if not records:
        return "A comparison without runs"
    solvers = len({record.label for record in records})
    instances = len({record.instance_digest for record in records})
    return f"{count_of(solvers, 'solver')} on {count_of(instances, 'instance')}"


def _facts(records: Sequence[RunRecord]) -> tuple[tuple[str, str], ...]:
    if not records:
        return ()

    def listed(values: Sequence[object]) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))

    machines = dict.fromkeys(
        f"{one.machine.cpu}, {count_of(one.machine.cores, 'core')}, "
        f"{format_bytes(one.machine.memory_bytes)}, {one.machine.system}, Python "
        f"{one.machine.python}"
        for one in records
    )
    versions: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.versions.items():
            versions.setdefault(name, {})[version] = None
    limits = [
        " and ".join(
            ([] if one.time_limit_s is None else [f"{one.time_limit_s:g} s"])
            + ([] if one.work is None else [f"work {one.work:g}"])
        )
        or "none"
        for one in records
    ]
    finished = sorted(record.finished for record in records)
    facts = [
        ("runs", str(len(records))),
        ("families", listed(sorted({one.family or "(none)" for one in records}))),
        ("seeds", listed(sorted({one.seed for one in records}))),
        ("limits", listed(limits)),
        (
            "threads",
            listed(["all" if one.threads is None else one.threads for one in records]),
        ),
        (
            "planned on",
            listed([one.train for one in records if one.train is not None]),
        ),
        ("traces", listed([name for one in records for name in one.replay])),
        ("machines", "; ".join(machines)),
        (
            "versions",
            ", ".join(
                f"{name} {' / '.join(found)}" for name, found in versions.items()
            ),
        ),
        ("finished", f"{finished[0]} to {finished[-1]}"),
    ]
    return tuple((key, value) for key, value in facts if value)


def _warnings(
    records: Sequence[RunRecord], objective: Standing, bounds: Mapping[str, Bound]
) -> list[str]:
    lines = contradictions(records, bounds)
    missing = int(np.isnan(objective.value).sum())
    if missing:
        lines.append(
            f"{count_of(missing, 'pair')} of a case and a solver "
            f"{'was' if missing == 1 else 'were'} not run: ranks and profiles are over "
            f"the {count_of(int(objective.complete.sum()), 'case')} that every solver "
            "was run on"
        )
    never = [
        label
        for label, ever in zip(objective.labels, objective.ever_ranked, strict=True)
        if not ever
    ]
    if never:
        lines.append(f"not ranked, since no plan kept every row: {', '.join(never)}")
    return lines


def _citations(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return what the solvers that are installed say of their source."""
    from meldopt.registry import load_solver

    found = {}
    for name in dict.fromkeys(record.solver for record in records):
        try:
            info = load_solver(name).info
        except MeldoptError:
            continue
        found[name] = info.citation or ""
    return found


# -- instances -------------------------------------------------------------------------


def _chapters(
    records: Sequence[RunRecord],
    bounds: Mapping[str, Bound],
    folder: Path,
    against: str | None,
    tell: Tell,
    *,
    plans: bool,
) -> list[Chapter]:
    by_digest: dict[str, list[RunRecord]] = {}
    for record in records:
        by_digest.setdefault(record.instance_digest, []).append(record)
    names = _unique({digest: runs[0].instance for digest, runs in by_digest.items()})
    chapters = []
    for n, (digest, runs) in enumerate(by_digest.items()):
        if plans:
            tell(f"plans of {names[digest]} ({n + 1} of {len(by_digest)})")
        mine = results_table(standing(runs), bounds, alone=True)
        front, pictures, notes = (
            plan_pictures(InstancePlans(folder, runs), n + 1, against)
            if plans
            else (None, [], [])
        )
        chapters.append(
            Chapter(
                name=names[digest],
                results=mine,
                front=front,
                pictures=tuple(pictures),
                notes=tuple(notes),
            )
        )
    return chapters


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """Tell instances of one name apart by their digests."""
    given = list(names.values())
    return {
        digest: name
        if given.count(name) == 1
        else f"{name} ({digest.removeprefix('sha256:')[:8]})"
        for digest, name in names.items()
    }

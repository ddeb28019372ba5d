"""Who stands where: records by case and label, the best of each case, the ratios to it.

A *case* is what two runs must share to be compared: the instance that plans are judged
on, what they were planned on, the limits and, for a measure of replay, the trace. A
*label* is a solver with its options. Seeds are repetitions inside of both.

Rules, which every table and picture follows:

- A run counts if its plan keeps every row. Any other counts as infinite, whatever its
  objective.
- What a label is worth on a case is the median over its seeds.
- The best of a case is the least such value of any label. The ratio to it is
  ``1 + (value - best) / |best|``, that is ``value / best`` where the best is positive.
- Values within the tolerance of `meldopt.tolerance` of one another are equal.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import MeldoptError
from meldopt.tolerance import allowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from meldopt.library import IndexEntry

    from .records import RunRecord

OBJECTIVE = "objective"
"""The measure of the model: the objective of the plan, by `meldopt.score`."""

REPLAY = ("mean_s", "p50_s", "p95_s", "p99_s")
"""Measures of a replay; a case is then an instance with a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What runs must share to be compared."""

    instance: str
    digest: str
    family: str
    train: str | None
    train_digest: str | None
    shares: str
    time_limit_s: float | None
    work: float | None
    trace: str | None = None

    @property
    def limit(self) -> str:
        """The limits, for people."""
        parts = [] if self.time_limit_s is None else [f"{self.time_limit_s:g} s"]
        parts += [] if self.work is None else [f"work {self.work:g}"]
        return ", ".join(parts) or "none"

    @property
    def planned_on(self) -> str:
        """Name of the instance planned on, and of the rule of the shares if it says."""
        if self.train is None:
            return ""
        return self.train if self.shares == "own" else f"{self.train} ({self.shares})"


def case_of(record: RunRecord, trace: str | None = None) -> Case:
    """Return the case that a run belongs to, or its replay on a trace."""
    return Case(
        instance=record.instance,
        digest=record.instance_digest,
        family=record.family,
        train=record.train,
        train_digest=record.train_digest,
        shares=record.shares,
        time_limit_s=record.time_limit_s,
        work=record.work,
        trace=trace,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one label did on one case.

    Attributes
    ----------
    value
        Median over the seeds; inf if that is a run that may not be ranked.
    spread
        Least and largest finite value; None if no run may be ranked.
    """

    case: Case
    label: str
    runs: tuple[RunRecord, ...]
    value: float
    spread: tuple[float, float] | None

    @property
    def ranked(self) -> bool:
        """Whether the median run keeps every row."""
        return math.isfinite(self.value)

    @property
    def statuses(self) -> Counter[str]:
        """Number of runs by status."""
        return Counter(run.status for run in self.runs)

    @property
    def runtime_s(self) -> float:
        """Median of the seconds of its runs."""
        return statistics.median(run.runtime_s for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The best certified bound of an instance and who proved it."""

    value: float
    by: str


@dataclass(frozen=True, eq=False)
class Standing:
    """Cases, labels, and what each label is worth on each case.

    Attributes
    ----------
    cases, labels
        In the order of the records.
    entries
        By (index of the case, index of the label); what was not run is missing.
    """

    measure: str
    cases: tuple[Case, ...]
    labels: tuple[str, ...]
    entries: Mapping[tuple[int, int], Entry]

    @cached_property
    def value(self) -> NDArray[np.float64]:
        """Median over seeds, (cases, labels); inf: failed, nan: not run."""
        table = np.full((len(self.cases), len(self.labels)), np.nan)
        for at, entry in self.entries.items():
            table[at] = entry.value
        return table

    @cached_property
    def best(self) -> NDArray[np.float64]:
        """Least value of each case; inf if every label failed."""
        best: NDArray[np.float64] = np.fmin.reduce(self.value, axis=1, initial=np.inf)
        return best

    @cached_property
    def ratio(self) -> NDArray[np.float64]:
        """Ratio to the best, (cases, labels); inf: failed, nan: not run."""
        ratio = ratio_to(self.value, self.best[:, None])
        return np.where(np.isinf(self.value), np.inf, ratio)  # also where all failed

    @cached_property
    def complete(self) -> NDArray[np.bool_]:
        """Cases that every label was run on and that some label solved."""
        every: NDArray[np.bool_] = np.logical_and.reduce(~np.isnan(self.value), axis=1)
        return every & np.isfinite(self.best)

    @cached_property
    def ever_ranked(self) -> NDArray[np.bool_]:
        """Labels with a value on some case; the others are not ranked at all."""
        some: NDArray[np.bool_] = np.logical_or.reduce(np.isfinite(self.value), axis=0)
        return some

    @property
    def families(self) -> tuple[str, ...]:
        """Families of the cases, in their order."""
        return tuple(dict.fromkeys(case.family for case in self.cases))

    def of_family(self, family: str | None) -> NDArray[np.bool_]:
        """Say which cases belong to a family; None stands for all."""
        return np.array(
            [family is None or case.family == family for case in self.cases],
            dtype=np.bool_,
        )

    def column(self, label: str) -> int:
        """Return the index of a label.

        Raises
        ------
        MeldoptError
            If no record has it.
        """
        if label not in self.labels:
            raise MeldoptError(
                f"got solver {label!r}, expected one of: {', '.join(self.labels)}"
            )
        return self.labels.index(label)


def ratio_to(
    value: NDArray[np.float64], reference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ``1 + (value - reference) / |reference|``; exactly 1 within tolerance.

    Of a failed value it is inf, of a failed reference alone 0, of two failures 1; nan
    where either was not run. At a reference of 0 anything larger is inf.
    """
    value, reference = np.broadcast_arrays(value, reference)
    ratio = np.full(value.shape, np.nan)
    for at in np.ndindex(value.shape):
        mine, other = float(value[at]), float(reference[at])
        if math.isnan(mine) or math.isnan(other):
            continue
        if math.isinf(mine) or math.isinf(other):
            ratio[at] = 1.0 if mine == other else math.inf if mine > other else 0.0
        elif abs(mine - other) <= allowed(other):
            ratio[at] = 1.0
        elif other == 0:
            ratio[at] = math.inf if mine > other else 0.0
        else:
            ratio[at] = max(0.0, 1 + (mine - other) / abs(other))
    return ratio


def standing(
    records: Iterable[RunRecord], measure: str = OBJECTIVE, *, trained: bool = True
) -> Standing:
    """Put records in order.

    Parameters
    ----------
    records
        As `meldopt.compare.records.read_records` returns them.
    measure
        What is compared: `OBJECTIVE` or one of `REPLAY`.
    trained
        Whether plans made on another instance than the one judged on are cases too.
    """
    chosen = [record for record in records if trained or record.train is None]
    groups: dict[tuple[Case, str], list[tuple[RunRecord, float]]] = {}
    for record, case, value in _values(chosen, measure):
        groups.setdefault((case, record.label), []).append((record, value))
    cases = tuple(dict.fromkeys(case for case, _ in groups))
    labels = tuple(dict.fromkeys(label for _, label in groups))
    where = {case: c for c, case in enumerate(cases)}
    column = {label: k for k, label in enumerate(labels)}
    entries = {}
    for (case, label), runs in groups.items():
        finite = [value for _, value in runs if math.isfinite(value)]
        entries[where[case], column[label]] = Entry(
            case=case,
            label=label,
            runs=tuple(record for record, _ in runs),
            value=statistics.median(value for _, value in runs),
            spread=(min(finite), max(finite)) if finite else None,
        )
    return Standing(measure, cases, labels, entries)


def _values(
    records: Sequence[RunRecord], measure: str
) -> Iterator[tuple[RunRecord, Case, float]]:
    """Return the cases that each run belongs to, and its value there."""
    if measure == OBJECTIVE:
        for record in records:
            yield record, case_of(record), _finite(record, record.objective)
        return
    traces: dict[Case, dict[str, None]] = {}
    for record in records:
        traces.setdefault(case_of(record), {}).update(dict.fromkeys(record.replay))
    for record in records:
        for trace in traces[case_of(record)]:
            found = record.replay.get(trace)
            if found is not None:
                value = getattr(found, measure)
            elif record.ranked:
                continue  # not replayed on this trace, or not yet
            else:
                value = None  # there was nothing to replay
            yield record, case_of(record, trace), _finite(record, value)


def _finite(record: RunRecord, value: float | None) -> float:
    """Return a value that counts: inf if the run may not be ranked."""
    if not record.ranked or value is None or not math.isfinite(value):
        return math.inf
    return float(value)


def best_bounds(
    records: Sequence[RunRecord], index: Mapping[str, IndexEntry] | None = None
) -> dict[str, Bound]:
    """Return the best certified bound of each instance, by digest.

    Parameters
    ----------
    records
        The bound of every run counts, also of one whose own plan failed: it is a proof
        about the instance.
    index
        Of the bundled library; its bounds count where the digest is the same.
    """
    found: dict[str, Bound] = {}

    def offer(digest: str | None, value: float | None, by: str) -> None:
        if digest is None or value is None or not math.isfinite(value):
            return
        # A larger bound within rounding takes nobody's proof away.
        if digest not in found or value - found[digest].value > allowed(value):
            found[digest] = Bound(value=value, by=by)

    for record in records:
        offer(record.instance_digest, record.bound, record.label)
        if record.trained is not None:
            offer(record.train_digest, record.trained.bound, record.label)
    wanted = set(found) | {record.instance_digest for record in records}
    for entry in (index or {}).values():
        if entry.digest in wanted and entry.best is not None:
            by = f"library ({entry.best.solver})"
            offer(entry.digest, entry.best.bound, by)
    return found


def contradictions(
    records: Sequence[RunRecord], bounds: Mapping[str, Bound]
) -> list[str]:
    """Return claims that cannot both be true, one line each; empty is as it must be.

    A plan that keeps every row below a certified bound, or of an instance that was
    proved infeasible, means that a solver or the judge is wrong.
    """
    lines = {}
    barren = {
        record.instance_digest: record.label
        for record in records
        if record.status == "infeasible" and record.train is None
    }
    for record in records:
        if not record.ranked or record.objective is None:
            continue
        digest = record.instance_digest
        bound = bounds.get(digest)
        if bound is not None and bound.value - record.objective > allowed(
            record.objective
        ):
            lines[digest, "bound", record.label] = (
                f"{record.instance}: the bound {bound.value:.9g} of {bound.by} is "
                f"above the objective {record.objective:.9g} of {record.label}"
            )
        if digest in barren:
            lines[digest, "infeasible", record.label] = (
                f"{record.instance}: {barren[digest]} proved that there is no plan, "
                f"but {record.label} has one"
            )
    return list(lines.values())

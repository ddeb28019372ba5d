"""The plans of a comparison, read again: what they weigh, which is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.errors import FileFormatError, MeldoptError
from meldopt.files import read_bytes
from meldopt.instance import read_instance
from meldopt.library import locate
from meldopt.plan import CopyEntry, read_plan
from meldopt.result import weighted_terms

from .folder import Folder, file_digest
from .placement import placement_of
from .profiles import pareto_front

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .placement import Placement
    from .records import RunRecord

TIMES = ("parallel", "fluid", "bottleneck", "pair", "serial")
"""Terms that are a latency; of those that the objective weighs, the first is drawn."""


class _Copies(msgspec.Struct):
    """What of a plan file is weighed; the rest is skipped unread."""

    copies: list[CopyEntry]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighed:
    """Plans of an instance on the three axes of a front.

    Attributes
    ----------
    records
        One for each point: plans that keep every row, equal ones once.
    points
        Latency, quality loss, bytes of all copies (nan: plan not readable); (points,
        3).
    term
        Which latency.
    """

    records: tuple[RunRecord, ...]
    points: NDArray[np.float64]
    term: str

    @property
    def bytes_known(self) -> bool:
        """Whether the bytes of every plan are known."""
        return bool(np.isfinite(self.points[:, 2]).all())

    @property
    def front(self) -> NDArray[np.bool_]:
        """Which plans no other dominates: in all axes, or in two without the bytes."""
        return pareto_front(self.points if self.bytes_known else self.points[:, :2])


class InstancePlans:
    """The plans that were judged on one instance.

    Parameters
    ----------
    folder
        Of the comparison.
    records
        Those of one ``instance_digest``.

    Attributes
    ----------
    problem
        The instance, or None if it cannot be read any more; ``reason`` says why.
    """

    def __init__(self, folder: Path, records: Sequence[RunRecord]) -> None:
        self._folder = Folder(folder)
        self.records = tuple(records)
        self.reason = ""
        self.problem = self._problem(records[0])

    def _problem(self, record: RunRecord) -> Problem | None:
        kept = self._folder.instance(record.instance_digest)
        try:
            problem = build_problem(
                read_instance(kept if kept.is_file() else locate(record.instance))
            )
        except MeldoptError as exc:
            self.reason = f"the instance cannot be read: {exc}"
            return None
        if problem.instance_digest != record.instance_digest:
            self.reason = "the instance has changed since the runs"
            return None
        return problem

    def best(self, label: str | None = None) -> RunRecord | None:
        """Return the best run that has a plan, of one label or of all."""
        mine = [
            record
            for record in self.records
            if record.ranked
            and record.plan is not None
            and record.objective is not None
            and (label is None or record.label == label)
        ]
        return min(mine, key=lambda one: one.objective or 0.0, default=None)

    def placement(self, record: RunRecord) -> Placement:
        """Read the plan of a run and look at it.

        Raises
        ------
        MeldoptError
            If it cannot be read, or belongs to another instance.
        """
        path = self._folder.plan(record)
        if self.problem is None or path is None:
            raise FileFormatError(self.reason or "the run has no plan")
        self._check(path, record)
        return placement_of(self.problem, read_plan(path, self.problem))

    def _check(self, path: Path, record: RunRecord) -> None:
        """Refuse a plan file that is not the one that was judged.

        Then nothing in it needs to be checked again.
        """
        if file_digest(path) != record.plan_digest:
            raise FileFormatError(f"{path}: is not the plan that was judged")

    def weighed(self) -> Weighed:
        """Return the plans on the axes of a front."""
        term = self._time_term()
        chosen: dict[object, tuple[RunRecord, tuple[float, float, float]]] = {}
        for record in self.records:
            time, loss = record.terms.get(term), record.terms.get("quality")
            if not record.ranked or time is None or loss is None:
                continue
            key = record.label, record.plan_digest or record.key
            if key not in chosen:
                chosen[key] = record, (time, loss, self._bytes(record))
        return Weighed(
            records=tuple(record for record, _ in chosen.values()),
            points=np.array([point for _, point in chosen.values()]).reshape(-1, 3),
            term=term,
        )

    def _time_term(self) -> str:
        if self.problem is None:
            return "serial"
        weighted = weighted_terms(self.problem)
        return next((term for term in TIMES if term in weighted), "serial")

    def _bytes(self, record: RunRecord) -> float:
        path, problem = self._folder.plan(record), self.problem
        if path is None or problem is None:
            return float("nan")
        try:
            self._check(path, record)
            copies = msgspec.json.decode(read_bytes(path), type=_Copies).copies
        except (MeldoptError, msgspec.DecodeError):
            return float("nan")
        format_of = {name: b for b, name in enumerate(problem.labels.formats)}
        expert = [int(problem.layer_start[one.layer]) + one.expert for one in copies]
        format_ = [format_of[one.format] for one in copies]
        return float(problem.size_bytes[expert, format_].sum())

"""A plan: copies, shares and what is known about them; and the placement JSON.

In memory a `Plan` indexes the axes of its `Problem` and carries the labels to write
itself; the file names servers, tiers and formats so that it reads without meldopt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, dataclass_transform

import msgspec
import numpy as np

from .errors import FileFormatError, PlanError
from .files import (
    FORMAT_VERSION,
    arrays_to_bytes,
    check_writable,
    decode,
    digest,
    read_arrays,
    read_bytes,
    write_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .problem import Labels, Problem

INLINE_SHARES = 400
"""Plans with more shares than this keep them in an ``.npz`` beside the JSON."""


def _none(width: int) -> NDArray[np.int64]:
    return np.zeros((0, width), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What a solver returns.

    A (demand, expert) that stands in none of ``served``, ``substituted`` and
    ``pruned`` follows the default rule: its whole share goes to the copy of least
    time. One that stands in any of them is described there completely.

    Attributes
    ----------
    copies
        Expert, place and format of each copy, sorted; (C, 3).
    served, served_share
        Demand, expert, copy (an index of ``copies``) and the share it serves; (A, 3).
    fused, fused_share
        Demand, expert, place, segment and the share that travels fused; (F, 4).
    substituted, substituted_share
        Demand, expert, copy of the similar expert that answers, share; (U, 3).
    pruned, pruned_share
        Demand, expert, segment, share that is dropped; (D, 3).
    record
        What is known about the plan: objective, bound, solver and so on.
    """

    instance_name: str
    instance_digest: str
    labels: Labels
    layer_start: NDArray[np.int64]
    copies: NDArray[np.int64]
    served: NDArray[np.int64] = field(default_factory=lambda: _none(3))
    served_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    fused: NDArray[np.int64] = field(default_factory=lambda: _none(4))
    fused_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    substituted: NDArray[np.int64] = field(default_factory=lambda: _none(3))
    substituted_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    pruned: NDArray[np.int64] = field(default_factory=lambda: _none(3))
    pruned_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order = np.lexsort(self.copies.T[::-1]) if len(self.copies) else None
        if order is not None and (np.diff(order) < 0).any():
            raise PlanError("copies: expected them sorted by expert, place and format")
        for table, shares, width in (
            ("served", "served_share", 3),
            ("fused", "fused_share", 4),
            ("substituted", "substituted_share", 3),
            ("pruned", "pruned_share", 3),
        ):
            index = np.array(getattr(self, table), dtype=np.int64).reshape(-1, width)
            value = np.array(getattr(self, shares), dtype=np.float64)
            if value.shape != (len(index),) or not np.isfinite(value).all():
                raise PlanError(f"{shares}: expected {len(index)} finite numbers")
            index.flags.writeable = value.flags.writeable = False
            object.__setattr__(self, table, index)
            object.__setattr__(self, shares, value)
        copies = np.array(self.copies, dtype=np.int64).reshape(-1, 3)
        copies.flags.writeable = False
        object.__setattr__(self, "copies", copies)

    @classmethod
    def of(
        cls,
        problem: Problem,
        copies: NDArray[np.int64],
        **tables: Any,
    ) -> Plan:
        """Make a plan of a problem from sorted copies and tables of shares."""
        return cls(
            instance_name=problem.name,
            instance_digest=problem.instance_digest,
            labels=problem.labels,
            layer_start=problem.layer_start,
            copies=copies,
            **tables,
        )

    @property
    def num_copies(self) -> int:
        """Number of copies."""
        return len(self.copies)

    def with_record(self, record: Mapping[str, Any]) -> Plan:
        """Return the plan with another record."""
        return replace(self, record=dict(record))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the tables of shares by name."""
        return {
            name: getattr(self, name)
            for table in ("served", "fused", "substituted", "pruned")
            for name in (table, f"{table}_share")
        }


# -- the file --------------------------------------------------------------------------


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,)
)
class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in a plan file."""


class InstanceRef(_File, kw_only=True):
    """Which instance a plan belongs to."""

    name: str
    digest: str


class CopyEntry(_File, kw_only=True):
    """One copy: expert ``(layer, expert)`` at ``(server, tier)`` in ``format``."""

    layer: int
    expert: int
    server: str
    tier: str
    format: str


class ServedEntry(_File, kw_only=True, omit_defaults=True):
    """A share served by the copy on a server; what of it is fused, by segment."""

    server: str
    share: float
    fused: list[float] = []


class SubstitutedEntry(_File, kw_only=True):
    """A share answered by a similar expert at the home of the layer."""

    expert: int
    share: float


class ShareEntry(_File, kw_only=True, omit_defaults=True):
    """How the calls of one expert by one demand are answered."""

    application: str
    home: str
    layer: int
    expert: int
    served: list[ServedEntry] = []
    substituted: list[SubstitutedEntry] = []
    pruned: list[float] = []


class BudgetEntry(_File, kw_only=True, rename={"from_": "from"}):
    """A transfer budget and what becomes of the tokens that it was made for.

    ``kept``, ``fused`` and ``pruned`` are shares of the tokens that would have gone
    from one server to the other; ``tokens_per_s`` is what crosses.
    """

    layer: int
    from_: str
    to: str
    tokens_per_s: float
    kept: float
    fused: float
    pruned: float


class PlanFile(_File, kw_only=True, omit_defaults=True):
    """The placement JSON."""

    format_version: int
    instance: InstanceRef
    about: dict[str, Any] = {}
    copies: list[CopyEntry]
    shares: list[ShareEntry] = []
    shares_file: str | None = None
    shares_digest: str | None = None
    budgets: list[BudgetEntry] = []
    terms: dict[str, float] = {}
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    status: str | None = None
    solver: str | None = None
    options: dict[str, Any] = {}
    seed: int | None = None
    versions: dict[str, str] = {}


_RECORD = (
    "terms",
    "objective",
    "bound",
    "gap",
    "status",
    "solver",
    "options",
    "seed",
    "versions",
)


def _place_of_expert(plan: Plan, i: int) -> tuple[int, int]:
    layer = int(np.searchsorted(plan.layer_start, i, side="right")) - 1
    return layer, i - int(plan.layer_start[layer])


def plan_to_file(
    plan: Plan, *, budgets: list[BudgetEntry], stem: str
) -> tuple[PlanFile, dict[str, NDArray[Any]]]:
    """Turn a plan into its document and the arrays that go beside it, if any."""
    labels = plan.labels
    copies = []
    for i, v, b in plan.copies.tolist():
        layer, expert = _place_of_expert(plan, i)
        server, tier = labels.places[v]
        copies.append(
            CopyEntry(
                layer=layer,
                expert=expert,
                server=server,
                tier=tier,
                format=labels.formats[b],
            )
        )
    arrays: dict[str, NDArray[Any]] = {}
    shares: list[ShareEntry] = []
    count = sum(
        len(table) for table in (plan.served, plan.fused, plan.substituted, plan.pruned)
    )
    if count > INLINE_SHARES:
        arrays = plan.arrays()
    elif count:
        shares = _share_entries(plan)
    record = {key: plan.record[key] for key in _RECORD if key in plan.record}
    for key in ("objective", "bound", "gap"):  # JSON has no inf
        if record.get(key) is not None and not np.isfinite(record[key]):
            del record[key]
    if "terms" in record:
        record["terms"] = {
            term: value for term, value in record["terms"].items() if np.isfinite(value)
        }
    return (
        PlanFile(
            format_version=FORMAT_VERSION,
            instance=InstanceRef(name=plan.instance_name, digest=plan.instance_digest),
            copies=copies,
            shares=shares,
            shares_file=f"{stem}.npz" if arrays else None,
            shares_digest=digest(None, arrays) if arrays else None,
            budgets=budgets,
            **record,
        ),
        arrays,
    )


def _share_entries(plan: Plan) -> list[ShareEntry]:
    labels = plan.labels
    keys: dict[tuple[int, int], None] = {}
    for table in (plan.served, plan.substituted, plan.pruned):
        for q, i in table[:, :2].tolist():
            keys[q, i] = None
    served: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for (q, i, c), share in zip(
        plan.served.tolist(), plan.served_share.tolist(), strict=True
    ):
        served.setdefault((q, i), []).append((c, share))
    # What is fused of a share that follows the default rule needs the share written.
    held = {(i, v): c for c, (i, v, _) in enumerate(plan.copies.tolist())}
    for q, i, v in np.unique(plan.fused[:, :3], axis=0).tolist():
        if (q, i) not in keys and (i, v) in held:
            served.setdefault((q, i), []).append((held[i, v], 1.0))
    keys.update(dict.fromkeys(served))
    fused: dict[tuple[int, int, int], dict[int, float]] = {}
    for (q, i, v, m), share in zip(
        plan.fused.tolist(), plan.fused_share.tolist(), strict=True
    ):
        parts = fused.setdefault((q, i, v), {})
        parts[m] = parts.get(m, 0.0) + share
    other: dict[tuple[int, int], list[SubstitutedEntry]] = {}
    for (q, i, c), share in zip(
        plan.substituted.tolist(), plan.substituted_share.tolist(), strict=True
    ):
        answering = _place_of_expert(plan, int(plan.copies[c, 0]))[1]
        other.setdefault((q, i), []).append(
            SubstitutedEntry(expert=answering, share=share)
        )
    pruned: dict[tuple[int, int], dict[int, float]] = {}
    for (q, i, n), share in zip(
        plan.pruned.tolist(), plan.pruned_share.tolist(), strict=True
    ):
        parts = pruned.setdefault((q, i), {})
        parts[n] = parts.get(n, 0.0) + share
    entries = []
    for q, i in sorted(keys):
        layer, expert = _place_of_expert(plan, i)
        rows = []
        for c, share in served.get((q, i), []):
            v = int(plan.copies[c, 1])
            rows.append(
                ServedEntry(
                    server=labels.places[v][0],
                    share=share,
                    # Once, should a share be listed twice.
                    fused=_dense(fused.pop((q, i, v), {})),
                )
            )
        application, home = labels.demands[q]
        entries.append(
            ShareEntry(
                application=application,
                home=home,
                layer=layer,
                expert=expert,
                served=rows,
                substituted=other.get((q, i), []),
                pruned=_dense(pruned.get((q, i), {})),
            )
        )
    return entries


def _dense(parts: dict[int, float]) -> list[float]:
    return [parts.get(m, 0.0) for m in range(max(parts) + 1)] if parts else []


def write_plan(plan: Plan, path: str | Path, *, problem: Problem | None = None) -> None:
    """Write a plan as placement JSON, atomically; ``-`` is standard output.

    Parameters
    ----------
    plan
        What to write. The same plan gives the same bytes.
    path
        Target; many shares go to an ``.npz`` of the same stem beside it.
    problem
        With it the transfer budgets of the plan are written as well; a plan that
        `meldopt.solve` returned carries them in its record already.
    """
    budgets = list(plan.record.get("budgets", []))
    if problem is not None:
        from .score import transfer_budgets

        budgets = transfer_budgets(problem, plan)
    to_stdout = str(path) == "-"
    path = Path(path)
    file, arrays = plan_to_file(
        plan, budgets=budgets, stem=path.name.removesuffix(".json")
    )
    if to_stdout and arrays:
        file = msgspec.structs.replace(
            file, shares=_share_entries(plan), shares_file=None, shares_digest=None
        )
    text = msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
    if to_stdout:
        import sys

        sys.stdout.buffer.write(text)
        return
    check_writable(path)
    if arrays:
        write_bytes(
            path.parent / f"{path.name.removesuffix('.json')}.npz",
            arrays_to_bytes(arrays),
        )
    write_bytes(path, text)


def read_plan(path: str | Path, problem: Problem) -> Plan:
    """Read a placement JSON and index it by a problem.

    Raises
    ------
    FileFormatError
        If the file or its ``.npz`` cannot be read as a plan.
    PlanError
        If it belongs to another instance or names what the instance does not have.
    """
    path = Path(path)
    file = decode(read_bytes(path), PlanFile, str(path))
    arrays: dict[str, NDArray[Any]] = {}
    if file.shares_file is not None:
        arrays = read_arrays(path.parent / file.shares_file)
        if digest(None, arrays) != file.shares_digest:
            raise FileFormatError(
                f"{path.parent / file.shares_file}: got digest "
                f"{digest(None, arrays)}, expected {file.shares_digest}"
            )
    return plan_from_file(file, problem, source=str(path), arrays=arrays)


def plan_from_file(
    file: PlanFile,
    problem: Problem,
    *,
    source: str,
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> Plan:
    """Index a plan document by a problem."""
    if file.instance.digest != problem.instance_digest:
        raise PlanError(
            f"{source}: $.instance: got a plan for {file.instance.name!r} "
            f"({file.instance.digest[:18]}…), expected {problem.name!r} "
            f"({problem.instance_digest[:18]}…)"
        )
    reader = _Reader(problem, source)
    rows = sorted(
        (
            reader.expert(c.layer, c.expert, f"copies[{n}]"),
            reader.place(c.server, c.tier, f"copies[{n}]"),
            reader.format(c.format, f"copies[{n}]"),
        )
        for n, c in enumerate(file.copies)
    )
    for one, other in pairwise(rows):
        if one == other:
            raise PlanError(f"{source}: $.copies: got a copy twice, expected it once")
    copies = np.array(rows, dtype=np.int64).reshape(-1, 3)
    tables = (
        reader.tables(arrays, len(copies))
        if arrays
        else reader.shares(file.shares, copies)
    )
    record = {
        key: getattr(file, key)
        for key in _RECORD
        if getattr(file, key) not in (None, {}, [])
    }
    if file.budgets:
        record["budgets"] = file.budgets
    return Plan.of(problem, copies, **tables).with_record(record)


class _Reader:
    """Look-ups that fail in one line."""

    def __init__(self, problem: Problem, source: str) -> None:
        self.problem, self.source = problem, source
        self.places = {name: v for v, name in enumerate(problem.labels.places)}
        self.formats = {name: b for b, name in enumerate(problem.labels.formats)}
        self.demands = {name: q for q, name in enumerate(problem.labels.demands)}

    def fail(self, where: str, message: str) -> Any:
        raise PlanError(f"{self.source}: $.{where}: {message}")

    def expert(self, layer: int, expert: int, where: str) -> int:
        start = self.problem.layer_start
        if not 0 <= layer < self.problem.num_layers:
            self.fail(
                f"{where}.layer",
                f"got {layer}, expected 0 to {self.problem.num_layers - 1}",
            )
        width = int(start[layer + 1] - start[layer])
        if not 0 <= expert < width:
            self.fail(f"{where}.expert", f"got {expert}, expected 0 to {width - 1}")
        return int(start[layer]) + expert

    def place(self, server: str, tier: str, where: str) -> int:
        found = self.places.get((server, tier))
        if found is None:
            known = server in self.problem.labels.servers
            got = f"tier {tier!r} of server {server!r}" if known else repr(server)
            self.fail(where, f"got {got}, expected a place of the instance")
        assert found is not None
        return found

    def format(self, name: str, where: str) -> int:
        found = self.formats.get(name)
        if found is None:
            self.fail(
                f"{where}.format",
                f"got {name!r}, expected one of {list(self.formats)}",
            )
        assert found is not None
        return found

    def tables(
        self, arrays: Mapping[str, NDArray[Any]], num_copies: int
    ) -> dict[str, NDArray[Any]]:
        problem = self.problem
        segments = problem.fuse_width.shape[2], problem.prune_width.shape[2]
        queries = (problem.num_demands, problem.num_experts)
        tables: dict[str, NDArray[Any]] = {}
        for name, limit in (
            ("served", (*queries, num_copies)),
            ("fused", (*queries, problem.num_places, segments[0])),
            ("substituted", (*queries, num_copies)),
            ("pruned", (*queries, segments[1])),
        ):
            index = arrays.get(name)
            share = arrays.get(f"{name}_share")
            if index is None or share is None:
                raise FileFormatError(f"{self.source}: shares: no array {name!r}")
            if index.shape != (len(share), len(limit)) or index.dtype.kind != "i":
                raise FileFormatError(
                    f"{self.source}: shares: {name}: got shape {index.shape}, "
                    f"expected ({len(share)}, {len(limit)}) integers"
                )
            if len(index) and ((index < 0) | (index >= np.array(limit))).any():
                self.fail(f"shares.{name}", "got an index out of range")
            tables[name], tables[f"{name}_share"] = index, share
        return tables

    def shares(
        self, entries: list[ShareEntry], copies: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        problem = self.problem
        at: dict[tuple[int, int], int] = {}
        for c, (i, v, _) in enumerate(copies.tolist()):
            at[i, int(problem.server_of[v])] = c
        rows: dict[str, list[tuple[int, ...]]] = {
            name: [] for name in ("served", "fused", "substituted", "pruned")
        }
        values: dict[str, list[float]] = {name: [] for name in rows}
        servers = list(problem.labels.servers)
        for n, entry in enumerate(entries):
            where = f"shares[{n}]"
            q = self.demands.get((entry.application, entry.home))
            if q is None:
                self.fail(
                    where,
                    f"got {(entry.application, entry.home)}, expected a demand",
                )
            assert q is not None
            i = self.expert(entry.layer, entry.expert, where)
            for row in entry.served:
                s = servers.index(row.server) if row.server in servers else -1
                c = at.get((i, s), -1)
                if c < 0:
                    self.fail(
                        f"{where}.served",
                        f"got {row.server!r}, which holds no copy of the expert",
                    )
                rows["served"].append((q, i, c))
                values["served"].append(row.share)
                for m, share in enumerate(row.fused):
                    if m >= problem.fuse_width.shape[2]:
                        self.fail(f"{where}.served.fused", "got too many segments")
                    if share:
                        rows["fused"].append((q, i, int(copies[c, 1]), m))
                        values["fused"].append(share)
            home = int(problem.source[q, entry.layer])
            for other in entry.substituted:
                j = self.expert(entry.layer, other.expert, where)
                c = at.get((j, home), -1)
                if c < 0:
                    self.fail(
                        f"{where}.substituted",
                        f"got expert {other.expert}, which has no copy at the home",
                    )
                rows["substituted"].append((q, i, c))
                values["substituted"].append(other.share)
            for m, share in enumerate(entry.pruned):
                if m >= problem.prune_width.shape[2]:
                    self.fail(f"{where}.pruned", "got too many segments")
                if share:
                    rows["pruned"].append((q, i, m))
                    values["pruned"].append(share)
        tables: dict[str, NDArray[Any]] = {}
        for name, width in (
            ("served", 3),
            ("fused", 4),
            ("substituted", 3),
            ("pruned", 3),
        ):
            tables[name] = np.array(rows[name], dtype=np.int64).reshape(-1, width)
            tables[f"{name}_share"] = np.array(values[name], dtype=np.float64)
        return tables

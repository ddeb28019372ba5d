"""Records on disk: whole lines, one writer, the last line of a key."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from documents import documents
from hypothesis import given

from meldopt.compare.records import (
    RECORD_VERSION,
    RESULTS,
    MachineRecord,
    RecordWriter,
    RunRecord,
    read_records,
)
from meldopt.errors import FileFormatError

if TYPE_CHECKING:
    from pathlib import Path

Make = Callable[..., RunRecord]


@pytest.fixture
def make() -> Make:
    """Return a function that makes records."""

    def record(key: str, **changes: Any) -> RunRecord:
        fields: dict[str, Any] = {
            "key": key,
            "solve": key,
            "instance": "family/one",
            "instance_digest": "sha256:1",
            "family": "family",
            "dataflow": "home",
            "layers": 2,
            "experts": 8,
            "servers": 3,
            "demands": 2,
            "formats": 1,
            "solver": "steady",
            "kind": "search",
            "label": "steady",
            "options": {"first": "greedy"},
            "seed": 0,
            "threads": 1,
            "time_limit_s": 1.0,
            "work": None,
            "train": None,
            "train_digest": None,
            "shares": "own",
            "status": "feasible",
            "stop_reason": "criterion",
            "error": None,
            "objective": 2.0,
            "bound": 1.0,
            "gap": 0.5,
            "terms": {"serial": 2.0},
            "violations": [],
            "ignored": [],
            "trained": None,
            "history": [(0.5, 2.0, None)],
            "runtime_s": 1.0,
            "cpu_s": 1.0,
            "memory_bytes": 1,
            "replay": {},
            "plan": None,
            "plan_digest": None,
            "versions": {},
            "machine": MachineRecord(
                cpu="", cores=1, memory_bytes=1, python="3", system="Linux"
            ),
            "finished": "2026-01-01T00:00:00+00:00",
        }
        return RunRecord(**fields | changes)

    return record


@given(documents(RunRecord))
def test_any_record_survives_its_line(record: RunRecord) -> None:
    """What is encoded as a line decodes to the same record."""
    line = msgspec.json.encode(record)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=RunRecord) == record


def test_the_last_line_of_a_key_wins_in_the_first_place(
    tmp_path: Path, make: Make
) -> None:
    """Records come in the order of their first lines, with their last values."""
    with RecordWriter(tmp_path) as writer:
        for key, value in (("a", 3.0), ("b", 2.0), ("a", 1.0)):
            writer.append(make(key, objective=value))
    found = read_records(tmp_path)
    assert [(one.key, one.objective) for one in found] == [("a", 1.0), ("b", 2.0)]


@pytest.mark.parametrize("kept", [0, 1, 300])
def test_a_torn_line_is_left_out_and_cut_off(
    tmp_path: Path, make: Make, kept: int
) -> None:
    """What a power cut leaves of the last line does not harm those around it."""
    with RecordWriter(tmp_path) as writer:
        writer.append(make("a"))
        writer.append(make("b"))
    path = tmp_path / RESULTS
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + second[:kept])
    assert [one.key for one in read_records(tmp_path)] == ["a"]
    with RecordWriter(tmp_path) as writer:
        assert writer.cut_bytes == kept
        writer.append(make("c"))
    assert [one.key for one in read_records(tmp_path)] == ["a", "c"]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    """A torn first line, longer than one reading of the tail, is cut off whole."""
    (tmp_path / RESULTS).write_bytes(b"x" * 100_000)
    with RecordWriter(tmp_path) as writer:
        assert writer.cut_bytes == 100_000
    assert read_records(tmp_path) == []


def test_a_full_disk_is_one_line_and_costs_one_record(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a line is written and then no more; the file goes on without it."""

    def half(file: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    write = os.write
    with RecordWriter(tmp_path) as writer:
        writer.append(make("a"))
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", half)
            with pytest.raises(FileFormatError, match=r"RESULTS\.jsonl: cannot be wri"):
                writer.append(make("b"))
    with RecordWriter(tmp_path) as writer:
        writer.append(make("c"))
    assert [one.key for one in read_records(tmp_path)] == ["a", "c"]


def test_two_writers_are_refused(tmp_path: Path, make: Make) -> None:
    """The second comparison in a folder is told so; it may write after the first."""
    second = RecordWriter(tmp_path)
    with RecordWriter(tmp_path), pytest.raises(FileFormatError, match="another comp"):
        second.__enter__()
    with RecordWriter(tmp_path) as writer:
        writer.append(make("a"))


def test_a_broken_line_is_named(tmp_path: Path, make: Make) -> None:
    """A line in the middle that is no record is refused with its number."""
    path = tmp_path / RESULTS
    whole = msgspec.json.encode(make("a")) + b"\n"
    path.write_bytes(whole + b'{"key": 3}\n' + whole)
    with pytest.raises(FileFormatError, match=r"RESULTS\.jsonl: line 2: "):
        read_records(tmp_path)


def test_a_newer_line_is_refused(tmp_path: Path, make: Make) -> None:
    """A file of a later release is not read wrongly."""
    record = make("a", format_version=RECORD_VERSION + 1)
    (tmp_path / RESULTS).write_bytes(msgspec.json.encode(record) + b"\n")
    with pytest.raises(FileFormatError, match="newer than this meldopt"):
        read_records(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    """Any other folder is not taken for a comparison without runs."""
    with pytest.raises(FileFormatError, match="expected the folder of a comparison"):
        read_records(tmp_path)


def test_only_feasible_plans_are_ranked(make: Make) -> None:
    """Violating plans have an objective, and are never ranked all the same."""
    assert make("a", status="optimal").ranked
    assert make("a", status="feasible").ranked
    for status in ("violating", "infeasible", "unknown", "crashed", "hung", "refused"):
        assert not make("a", status=status).ranked

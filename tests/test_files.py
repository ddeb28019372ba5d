"""Reading is strict, writing is atomic, digests see everything."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meldopt.errors import FileFormatError
from meldopt.files import (
    FORMAT_VERSION,
    arrays_to_bytes,
    canonical_json,
    check_writable,
    decode,
    digest,
    read_arrays,
    read_bytes,
    write_arrays,
    write_bytes,
)

if TYPE_CHECKING:
    from pathlib import Path


class _Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    name: str
    sizes: list[float] = []


def _refused(data: bytes) -> str:
    with pytest.raises(FileFormatError) as caught:
        decode(data, _Document, "some.json")
    message = str(caught.value)
    assert message.startswith("some.json: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[1, 2]", "$: Expected `object`, got `array`"),
        (b"\xff\xfe{}", "is not"),
        (b"{}", "missing required field `format_version`"),
        (b'{"format_version": "1"}', "$.format_version: Expected `int`, got `str`"),
        (b'{"format_version": 1}', "missing required field `name`"),
        (b'{"format_version": 1, "name": 3}', "$.name: Expected `str`, got `int`"),
        (
            b'{"format_version": 1, "name": "a", "nmae": 1}',
            "contains unknown field `nmae`",
        ),
        (
            b'{"format_version": 1, "name": "a", "sizes": [1, "x"]}',
            "$.sizes[1]: Expected `float`, got `str`",
        ),
        (
            b'{"format_version": 1, "name": "a", "sizes": [1e999]}',
            "$.sizes[0]: Number out of range",
        ),
        (b'{"format_version": 1, "name": "a", "sizes": [NaN]}', "is not valid JSON"),
        (b'{"format_version": 0, "name": "a"}', "$.format_version: got 0, expected 1"),
        (
            b'{"format_version": 99, "unheard_of": 1}',
            "$.format_version: got 99, expected at most 1: the file is newer",
        ),
        (b'{"format_version": 1, "name": ' + b"[" * 100_000, "nested too deep"),
    ],
)
def test_bad_documents_are_refused_in_one_line(data: bytes, message: str) -> None:
    """Each refusal names the file, the place in it, what was got and expected."""
    assert message in _refused(data)


def test_a_good_document_is_decoded() -> None:
    """Strictness does not stand in the way of a right document."""
    data = b'{"format_version": 1, "name": "a", "sizes": [1, 2.5]}'
    read = decode(data, _Document, "x")
    assert read == _Document(format_version=1, name="a", sizes=[1.0, 2.5])


def test_reading_names_what_is_wrong_with_the_path(tmp_path: Path) -> None:
    """A directory and a missing file are refused by name."""
    with pytest.raises(FileFormatError, match="got a directory, expected a file"):
        read_bytes(tmp_path)
    with pytest.raises(FileFormatError, match=r"gone\.json: no such file"):
        read_bytes(tmp_path / "gone.json")


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails half-way the old file is whole and nothing else is left."""
    path = tmp_path / "plan.json"
    write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        FileFormatError, match=r"plan\.json: cannot be written: No spac"
    ):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while writing goes through, and leaves no temporary file."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "plan.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_usual_permissions(tmp_path: Path) -> None:
    """The temporary file's private mode does not stay on the result."""
    umask = os.umask(0o022)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("target", [".", "no/such/folder.json"])
def test_unwritable_targets_are_found_before_work(tmp_path: Path, target: str) -> None:
    """A directory and a target in a missing folder are refused at once."""
    with pytest.raises(FileFormatError, match=r"directory|folder does not exist"):
        check_writable(tmp_path / target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    """No write permission is an error of the same kind."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FileFormatError, match="cannot be written"):
            check_writable(tmp_path / "plan.json")
        with pytest.raises(FileFormatError, match="cannot be written"):
            write_bytes(tmp_path / "plan.json", b"")
    finally:
        tmp_path.chmod(0o700)


# -- arrays ----------------------------------------------------------------------------

_ARRAYS = st.dictionaries(
    st.sampled_from(["calls", "loss", "size", "similar"]),
    hnp.arrays(
        dtype=st.sampled_from([np.float64, np.int64, np.float32, np.uint8, np.bool_]),
        shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
    ),
    max_size=3,
)


@given(arrays=_ARRAYS)
def test_arrays_survive_the_archive(
    arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Names, dtypes, shapes and bytes come back, NaN included; bytes are stable."""
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    write_arrays(path, arrays)
    back = read_arrays(path)
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
    assert digest(None, back) == digest(None, arrays)
    assert arrays_to_bytes(dict(reversed(arrays.items()))) == path.read_bytes()


def _archive() -> bytes:
    rng = np.random.default_rng(0)
    return arrays_to_bytes({"loss": rng.random((40, 8)), "calls": rng.random((3, 40))})


@pytest.mark.parametrize("kept", [0, 10, 1000, -30])
def test_truncated_archives_are_refused(tmp_path: Path, kept: int) -> None:
    """However much of an .npz is missing, the refusal is the same one line."""
    path = tmp_path / "cut.npz"
    path.write_bytes(_archive()[:kept])
    with pytest.raises(FileFormatError, match=r"cut\.npz: is no readable \.npz"):
        read_arrays(path)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    """A flipped byte anywhere is found or harmless, never another kind of error."""
    whole = _archive()
    good = read_arrays(_written(tmp_path, whole))
    refused = 0
    for place in range(0, len(whole), 37):
        data = bytearray(whole)
        data[place] ^= 0xFF
        try:
            back = read_arrays(_written(tmp_path, bytes(data)))
        except FileFormatError:
            refused += 1
            continue
        for name in set(back) & set(good):
            np.testing.assert_array_equal(back[name], good[name])
    assert refused > 50


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "a.npz"
    path.write_bytes(data)
    return path


def test_other_numpy_files_are_refused(tmp_path: Path) -> None:
    """Neither a bare .npy nor pickled objects pass for an archive of arrays."""
    bare = io.BytesIO()
    np.save(bare, np.zeros(3))
    objects = io.BytesIO()
    np.savez(objects, calls=np.array([{}], dtype=object))
    for data in (bare.getvalue(), objects.getvalue()):
        with pytest.raises(FileFormatError, match=r"is no readable \.npz"):
            read_arrays(_written(tmp_path, data))
    with pytest.raises(FileFormatError, match="got a directory"):
        read_arrays(tmp_path)
    with pytest.raises(FileFormatError, match="no such file"):
        read_arrays(tmp_path / "gone.npz")


# -- digests ---------------------------------------------------------------------------


def test_digest_sees_everything() -> None:
    """Value, name, dtype, shape and content each change the digest."""
    base = {"a": np.arange(6, dtype=np.int64)}
    seen = {
        digest(None, base),
        digest({}, base),
        digest(None, {"b": base["a"]}),
        digest(None, {"a": base["a"].astype(np.float64)}),
        digest(None, {"a": base["a"].reshape(2, 3)}),
        digest(None, {"a": base["a"] + 1}),
        digest(None, base | {"b": np.zeros(0)}),
        digest(None, {}),
    }
    assert len(seen) == 8
    assert all(len(text) == len("sha256:") + 64 for text in seen)


def test_digest_does_not_see_the_order_or_the_machine() -> None:
    """Order of keys and arrays, byte order and memory layout do not matter."""
    a, b = np.arange(6.0).reshape(2, 3), np.ones(2)
    want = digest({"x": 1, "y": 2}, {"a": a, "b": b})
    assert digest({"y": 2, "x": 1}, {"b": b, "a": a}) == want
    assert digest({"x": 1, "y": 2}, {"a": np.asfortranarray(a), "b": b}) == want
    assert digest({"x": 1, "y": 2}, {"a": a.astype(">f8"), "b": b}) == want


def test_canonical_json_is_sorted_and_tight() -> None:
    """Canonical JSON has sorted keys and no white space."""
    assert canonical_json({"b": [1, 2.0], "a": None}) == b'{"a":null,"b":[1,2.0]}'
    assert FORMAT_VERSION == 1

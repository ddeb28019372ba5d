"""The corpus: splits that share nothing, plain pages, R data bases, no packages."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from meldopt.errors import ProfilingError
from meldopt.profiling import corpus

if TYPE_CHECKING:
    from pathlib import Path


def documents(count: int) -> list[tuple[str, str]]:
    return [(f"name{n}", f"document {n} " * 60) for n in range(count)]


def test_splits_share_no_document() -> None:
    """Every document is in one split; a tenth of 40 is in each that is held back."""
    parts = corpus._split(documents(40), 10**9, 0.1)
    assert {split: len(texts) for split, texts in parts.items()} == {
        "train": 32,
        "plan": 4,
        "test": 4,
    }
    everything = [text for texts in parts.values() for text in texts]
    assert len(set(everything)) == 40


def test_the_order_of_files_does_not_matter() -> None:
    """Documents are ordered by a hash of their names: what a folder lists first does
    not decide what is trained on."""
    parts = corpus._split(documents(40), 5000, 0.1)
    assert corpus._split(documents(40)[::-1], 5000, 0.1) == parts
    assert sum(len(texts) for texts in parts.values()) < 40  # the size was the limit


def test_a_page_becomes_plain() -> None:
    """Macros, fonts and escapes of a manual page go; its words stay."""
    page = (
        '.\\" a comment\n.TH OPEN 2\n.SH NAME\nopen \\- open a file\n'
        ".SH DESCRIPTION\n.PP\nThe\n.BR open ()\ncall uses \\fBflags\\fP.\n"
        '.IP "first item" 4\ntext\n.de XX\n'
    )
    plain = corpus.plain_page(page)
    assert "open - open a file" in plain
    assert "open()\ncall uses flags." in plain
    assert "first item\ntext" in plain
    assert "\nDESCRIPTION\n" in plain
    for gone in ("comment", "\\f", ".BR", ".PP", "XX"):
        assert gone not in plain


def strings(*values: bytes) -> bytes:
    """An R character vector in XDR, after a header."""
    packed = b"".join(struct.pack(">Ii", 9, len(value)) + value for value in values)
    return b"X\n" + struct.pack(">Ii", 16, len(values)) + packed


def test_records_of_an_r_data_base() -> None:
    """The three ways in which R compresses a record are read, one after the other."""
    one, two, three = strings(b"a", b"bc"), strings(b"d"), strings("Ä".encode(), b"")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    blob = b"".join(
        struct.pack(">I", len(raw)) + kind + packed
        for raw, kind, packed in (
            (one, b"", zlib.compress(one)),
            (two, b"2", bz2.compress(two)),
            (three, b"Z", lzma.compress(three, lzma.FORMAT_RAW, filters=filters)),
        )
    )
    assert list(corpus._character_vectors(blob)) == [["a", "bc"], ["d"], ["Ä", ""]]


def test_a_package_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Debian's tools the corpus is refused in one line."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProfilingError, match="expected a Debian package") as caught:
        corpus.write_corpus(tmp_path / "corpus")
    assert "\n" not in str(caught.value)


def test_no_corpus(tmp_path: Path) -> None:
    """A folder that is no corpus is named."""
    with pytest.raises(ProfilingError, match=r"corpus\.json"):
        corpus.domain_names(tmp_path)

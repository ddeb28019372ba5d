"""A small corpus of five domains from freely licensed text that packages carry.

The text comes from the standard library of the running Python and from Debian packages,
read where they are installed and else fetched with ``apt-get download`` and unpacked
(which needs no root). What a corpus holds so depends on the versions of these; they are
written beside it.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import platform
import re
import struct
import subprocess
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meldopt.errors import ProfilingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPLITS = ("train", "plan", "test")
"""Training; what losses and routing are measured on; what neither has seen."""

SEPARATOR = "\0"
"""Between documents in the files of a corpus."""

_DOCUMENT_CHARACTERS = 60_000  # longer ones are cut: no file fills a domain
_SHORTEST = 300
_CHAPTER_CHARACTERS = 20_000
_LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|site-packages|dist-packages|lib2to3|turtledemo|encodings"
    r"|pydoc_data)/"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A kind of text: what it is, which packages carry it, under which licence."""

    name: str
    text: str
    packages: tuple[str, ...]
    licence: str


DOMAINS = (
    Domain(
        name="prose_en",
        text="six novels of Jane Austen",
        packages=("r-cran-janeaustenr",),
        licence="public domain (package: MIT)",
    ),
    Domain(
        name="python",
        text="standard library of CPython",
        packages=(),
        licence="PSF-2.0",
    ),
    Domain(
        name="c_header",
        text="headers of glibc and of the Linux kernel",
        packages=("libc6-dev", "linux-libc-dev"),
        licence="LGPL-2.1-or-later; GPL-2.0 WITH Linux-syscall-note",
    ),
    Domain(
        name="man_en",
        text="Linux man-pages, sections 2 to 7",
        packages=("manpages", "manpages-dev"),
        licence="Linux-man-pages-copyleft, GPL-2.0-or-later, BSD, MIT (by page)",
    ),
    Domain(
        name="man_de",
        text="German manual pages",
        packages=("manpages-de",),
        licence="GPL-3.0-or-later (translations; originals by page)",
    ),
)
"""The domains of the project's own models, in the order of their numbers."""


def write_corpus(
    folder: Path, *, bytes_per_domain: int = 4_200_000, held_back: float = 0.05
) -> dict[str, Any]:
    """Collect the text and write it, by domain and split.

    Parameters
    ----------
    folder
        Gets ``DOMAIN.SPLIT.txt``, ``corpus.json`` and, where packages had to be
        fetched, ``packages/``.
    bytes_per_domain
        Text kept of a domain, all splits together.
    held_back
        Share of the documents of each of the splits ``plan`` and ``test``. Splits
        share no document.

    Returns
    -------
    dict
        What ``corpus.json`` holds: sources, licences, versions and sizes by domain.

    Raises
    ------
    ProfilingError
        If a package is neither installed whole nor to be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {}
    for domain in DOMAINS:
        packages = {name: _unpack(name, folder) for name in domain.packages}
        documents = _documents(domain.name, [files for _, files in packages.values()])
        parts = _split(documents, bytes_per_domain, held_back)
        for split, texts in parts.items():
            path = folder / f"{domain.name}.{split}.txt"
            path.write_text(SEPARATOR.join(texts), encoding="utf-8")
        versions = {name: version for name, (version, _) in packages.items()}
        facts[domain.name] = {
            "text": domain.text,
            "licence": domain.licence,
            "versions": versions or {"python": platform.python_version()},
            "documents": {split: len(texts) for split, texts in parts.items()},
            "bytes": {
                split: sum(len(text.encode()) for text in texts)
                for split, texts in parts.items()
            },
        }
    text = json.dumps(facts, indent=1) + "\n"
    (folder / "corpus.json").write_text(text, encoding="utf-8")
    return facts


def read_documents(folder: Path, domain: str, split: str) -> list[str]:
    """Read the documents of a domain and split of a corpus."""
    text = (folder / f"{domain}.{split}.txt").read_text(encoding="utf-8")
    return text.split(SEPARATOR)


def domain_names(folder: Path) -> list[str]:
    """Names of the domains of a corpus, in order."""
    path = folder / "corpus.json"
    if not path.is_file():
        raise ProfilingError(f"{folder}: got no corpus.json, expected a corpus")
    return list(json.loads(path.read_text(encoding="utf-8")))


def _split(
    documents: list[tuple[str, str]], bytes_kept: int, held_back: float
) -> dict[str, list[str]]:
    """Cut, order by a hash of the name, fill up, and part into splits."""
    ordered = sorted(documents, key=lambda named: _hash(named[0]))
    texts: list[str] = []
    size = 0
    for _, text in ordered:
        if size >= bytes_kept:
            break
        if len(text) > _SHORTEST:
            texts.append(text[:_DOCUMENT_CHARACTERS].replace(SEPARATOR, " "))
            size += len(texts[-1].encode())
    num_held = max(1, int(len(texts) * held_back))
    return {
        "train": texts[2 * num_held :],
        "plan": texts[:num_held],
        "test": texts[num_held : 2 * num_held],
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- packages --------------------------------------------------------------------------


def _unpack(package: str, folder: Path) -> tuple[str, list[Path]]:
    """Return version and files of a Debian package, installed or fetched."""
    listed = _run(["dpkg-query", "--listfiles", package], missing="")
    paths = [Path(line) for line in listed.splitlines()]
    # Container images often leave documentation out of what they install.
    if paths and all(path.exists() for path in paths):
        version = _run(["dpkg-query", "--show", "--showformat=${Version}", package])
        return version, [path for path in paths if path.is_file()]
    fetched = folder / "packages"
    fetched.mkdir(exist_ok=True)
    if not list(fetched.glob(f"{package}_*.deb")):
        _run(["apt-get", "download", "--quiet", package], folder=fetched)
    archive = sorted(fetched.glob(f"{package}_*.deb"))[-1]
    root = fetched / package
    _run(["dpkg-deb", "--extract", str(archive.resolve()), str(root.resolve())])
    version = _run(["dpkg-deb", "--field", str(archive.resolve()), "Version"])
    return version.strip(), sorted(path for path in root.rglob("*") if path.is_file())


def _run(
    command: list[str], *, folder: Path | None = None, missing: str | None = None
) -> str:
    """Run a command and return what it prints; ``missing`` if it fails, if given."""
    try:
        done = subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        if missing is not None:
            return missing
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise ProfilingError(
            f"{' '.join(command)}: got {said[-1] if said else 'nothing'!r}, expected "
            "a Debian package (the corpus is made of them)"
        ) from error
    return done.stdout


# -- documents -------------------------------------------------------------------------


def _documents(domain: str, packages: list[list[Path]]) -> list[tuple[str, str]]:
    """Return (name, text) of every document of a domain."""
    files = [path for paths in packages for path in paths]
    readers: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        "prose_en": lambda: _novels(files),
        "python": _python,
        "c_header": lambda: _headers(files),
        "man_en": lambda: _pages(files, re.compile(r"/man/man[2-7]/")),
        "man_de": lambda: _pages(files, re.compile(r"/man/de/man[1-8]/")),
    }
    return list(readers[domain]())


def _python() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _LEFT_OUT.search(path.as_posix()):
            name = path.relative_to(root).as_posix()
            yield name, path.read_text(encoding="utf-8", errors="replace")


def _headers(files: list[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        if path.suffix == ".h" and not path.is_symlink():
            text = path.read_text(encoding="utf-8", errors="replace")
            # The banner with the licence repeats in every file.
            text = re.sub(r"\A\s*/\* SPDX.*?\*/\s*", "", text, flags=re.S)
            text = re.sub(r"\A\s*/\*.*?\*/\s*", "", text, flags=re.S)
            yield path.as_posix().partition("/include/")[2], text


def _pages(files: list[Path], where: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for path in files:
        if not where.search(path.as_posix()) or path.is_symlink():
            continue
        if path.suffix != ".gz":
            continue
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        if len(text) < 2 * _SHORTEST or text.startswith(".so") or _hash(text) in seen:
            continue
        seen.add(_hash(text))
        yield path.name, plain_page(text)


_DROPPED = (
    *(".ig", ".de", ".nr", ".ds", ".if", ".ie", ".el", ".so", ".tr", ".ta"),
    *(".hw", ".ad", ".nh", "'\\\""),
)
_BREAKS = (".TP", ".PP", ".IP", ".LP", ".P")
_MACRO = re.compile(r"^\.\s*[A-Za-z]{1,3}\b ?")
_CHARACTERS = {
    "\\-": "-",
    "\\(aq": "'",
    "\\(dq": '"',
    "\\(em": "--",
    "\\(en": "-",
    "\\(bu": "*",
    "\\(co": "(c)",
    "\\(lq": '"',
    "\\(rq": '"',
    "\\(Bq": '"',
    "\\(ti": "~",
    "\\(ha": "^",
    "\\(ga": "`",
    "\\~": " ",
    "\\ ": " ",
    "\\e": "\\",
}


def plain_page(text: str) -> str:
    """Turn the source of a manual page into plain text, well enough to learn from."""
    lines: list[str] = []
    for line in re.sub(r"^[.']\\\".*\n", "", text, flags=re.M).split("\n"):
        if line.startswith(_DROPPED):
            continue
        if line.startswith((".SH", ".SS")):
            lines += ["", line[3:].strip().strip('"')]
        elif line.split(" ")[0] in _BREAKS:
            lines.append("")
            words = line.split('"')[1:2] or line.split(" ")[1:2]
            lines += [word for word in words if line.startswith(".IP")]
        elif line.startswith("."):
            alternating = re.match(r"^\.(BR|RB|IR|RI|BI|IB)\s", line)
            line = _MACRO.sub("", line)
            if alternating and '"' not in line:
                line = re.sub(r"(?<!\\) (?=\S)", "", line)
            elif alternating:
                line = line.replace('" ', "").replace(' "', "")
            lines += [line] if line.strip() else []
        else:
            lines.append(line)
    page = "\n".join(lines)
    page = re.sub(r"\\f[A-Z]|\\f\(..|\\f\[[^\]]*\]|\\[&%|^/,c]|\\s[+-]?\d", "", page)
    for escape, character in _CHARACTERS.items():
        page = page.replace(escape, character)
    return re.sub(r"\n{3,}", "\n\n", page)


def _novels(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Cut the novels into pieces, so that every split holds text of each."""
    (path,) = [file for file in files if file.match("data/*.rdb")]
    books = [book for book in _character_vectors(path.read_bytes()) if len(book) > 500]
    for number, lines in enumerate(sorted(books, key=lambda book: _hash(book[0]))):
        text = "\n".join(lines)
        for start in range(0, len(text), _CHAPTER_CHARACTERS):
            yield f"{number}#{start}", text[start : start + _CHAPTER_CHARACTERS]


def _character_vectors(blob: bytes) -> Iterator[list[str]]:
    """Read the first character vector of each record of an R lazy-load data base.

    A record is its inflated size (4 bytes, big-endian), then ``2`` and a bzip2 stream,
    ``Z`` and a raw LZMA2 stream, or a zlib stream; inside is R's XDR serialisation.
    """
    at = 0
    while at < len(blob):
        kind = blob[at + 4 : at + 5]
        start = at + 5
        unpack: Any
        if kind == b"2":
            unpack = bz2.BZ2Decompressor()
        elif kind == b"Z":
            filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
            unpack = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters)
        else:
            unpack, start = zlib.decompressobj(), at + 4
        raw = unpack.decompress(blob[start:])
        at = len(blob) - len(unpack.unused_data) if unpack.eof else len(blob)
        yield _first_vector(raw)


def _first_vector(raw: bytes) -> list[str]:
    """Strings of the first STRSXP (type 16) of a serialised R object; empty if none."""
    at = raw.find(b"\x00\x00\x00\x10")
    if at < 0:
        return []
    (count,) = struct.unpack_from(">i", raw, at + 4)
    at += 8
    strings: list[str] = []
    for _ in range(count):
        if at + 8 > len(raw):
            break
        flags, length = struct.unpack_from(">Ii", raw, at)
        if flags & 0xFF != 9:  # CHARSXP
            break
        at += 8
        strings.append(raw[at : at + max(length, 0)].decode("utf-8", "replace"))
        at += max(length, 0)
    return strings

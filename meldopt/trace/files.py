"""How a trace lies on disk: a folder of chunks, or one ``.npz``.

``NAME.trace/`` holds ``trace.json`` (the header), ``requests.npz`` and the tokens in
``chunk-00000.npz``, ``chunk-00001.npz`` … ``NAME.npz`` holds the same arrays in one
archive, the header as bytes in an array of its own. Either way rows of tokens are read
from the archives as they are needed.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.errors import FileFormatError, TraceError
from meldopt.files import (
    arrays_to_bytes,
    check_writable,
    decode,
    read_bytes,
    write_bytes,
)

from .checks import Check, check_header, check_requests
from .records import (
    REQUEST_ARRAYS,
    TOKEN_ARRAYS,
    Chunk,
    Requests,
    TraceHeader,
    cut,
)
from .stream import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

HEADER = "trace.json"
REQUESTS = "requests.npz"
HEADER_ARRAY = "header"

_COPY_BYTES = 1 << 20
_HALF_READ = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,  # a way of packing that zipfile does not know
    RuntimeError,  # a password
)


def chunk_name(number: int) -> str:
    """Return the name of the file of a chunk."""
    return f"chunk-{number:05d}.npz"


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what is wrong with a file into what is wrong with a trace."""
    try:
        yield
    except TraceError:
        raise
    except FileFormatError as exc:
        raise TraceError(str(exc)) from exc


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileFormatError:
        raise
    except _HALF_READ as exc:
        raise TraceError(
            f"{path}: is no readable .npz (truncated, or not arrays): {exc}"
        ) from exc


# -- reading ---------------------------------------------------------------------------


class _Rows:
    """Reads an array of an archive row by row; ``stack`` closes it."""

    def __init__(
        self, archive: zipfile.ZipFile, name: str, path: Path, stack: ExitStack
    ) -> None:
        if f"{name}.npy" not in archive.namelist():
            raise TraceError(f"{path}: {name}: missing, expected an array")
        self._stream = stack.enter_context(archive.open(f"{name}.npy"))
        version = np.lib.format.read_magic(self._stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise TraceError(f"{path}: {name}: got .npy version {version}")
        self.shape, fortran, self.dtype = read(self._stream)
        if self.dtype.hasobject:
            raise TraceError(f"{path}: {name}: got objects, expected numbers")
        if fortran and len(self.shape) > 1:
            raise TraceError(f"{path}: {name}: got columns first, expected rows first")
        if not self.shape:
            raise TraceError(f"{path}: {name}: got a single value, expected an array")
        self._row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def read(self, count: int) -> NDArray[Any]:
        """Return the next rows."""
        wanted = count * self._row
        data = self._stream.read(wanted)
        if len(data) != wanted:
            raise EOFError("it ends early")
        array = np.frombuffer(data, dtype=self.dtype)
        return array.reshape(count, *self.shape[1:])


def _tokens(path: Path) -> Iterator[Chunk]:
    """Stream the rows of tokens of one archive."""
    with _reading(path), ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        names = [
            name
            for name in TOKEN_ARRAYS
            if name != "signature" or "signature.npy" in archive.namelist()
        ]
        rows = {name: _Rows(archive, name, path, stack) for name in names}
        count = rows["token_request"].shape[0]
        for name, one in rows.items():
            if one.shape[0] != count:
                raise TraceError(
                    f"{path}: {name}: got {one.shape[0]} tokens, expected {count} "
                    "like token_request"
                )
        # Blocks need not be the chunks of the header: small enough is enough.
        width = sum(
            one.dtype.itemsize * int(np.prod(one.shape[1:])) for one in rows.values()
        )
        size = max(1, min(65536, (32 << 20) // max(width, 1)))
        for start in range(0, count, size):
            block = {
                name: one.read(min(size, count - start)) for name, one in rows.items()
            }
            yield Chunk(**block)


def _array(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    with ExitStack() as stack:
        rows = _Rows(archive, name, path, stack)
        return rows.read(rows.shape[0])


def _requests(path: Path) -> Requests:
    with _reading(path), zipfile.ZipFile(path) as archive:
        columns = {name: _array(archive, name, path) for name in REQUEST_ARRAYS}
    try:
        return Requests(**columns)
    except TraceError as exc:
        raise TraceError(f"{path}: {exc}") from exc


def read(path: str | Path) -> Trace:
    """Read a trace; see `meldopt.trace.read_trace`."""
    from meldopt.library import locate_trace

    with _one_line():
        found = locate_trace(path)
        if found.is_dir():
            return _read_folder(found)
        return _read_file(found)


def _read_folder(path: Path) -> Trace:
    head = path / HEADER
    if not head.is_file():
        raise TraceError(f"{path}: holds no {HEADER}, expected the folder of a trace")
    header = decode(read_bytes(head), TraceHeader, str(head))
    check_header(header, str(head))
    if not (path / REQUESTS).is_file():
        raise TraceError(f"{path}: holds no {REQUESTS}")
    requests = _requests(path / REQUESTS)

    def source() -> Iterator[Chunk]:
        for number in range(header.chunks):
            file = path / chunk_name(number)
            if not file.is_file():
                raise TraceError(
                    f"{path}: holds no {file.name}, expected {header.chunks} chunks"
                )
            yield from _tokens(file)

    return _read_trace(path, header, requests, source)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as exc:
        raise TraceError(f"{path}: cannot be read: {exc.strerror}") from exc


def _read_file(path: Path) -> Trace:
    with _opened(path) as stream:
        if not stream.read(4).startswith(b"PK"):
            raise TraceError(
                f"{path}: is no .npz, expected a trace (NAME.trace or NAME.npz)"
            )
    with _reading(path), zipfile.ZipFile(path) as archive:
        data = _array(archive, HEADER_ARRAY, path).tobytes()
    header = decode(data, TraceHeader, str(path))
    requests = _requests(path)
    return _read_trace(path, header, requests, lambda: _tokens(path))


def _read_trace(
    path: Path, header: TraceHeader, requests: Requests, source: Any
) -> Trace:
    if header.requests != len(requests):
        raise TraceError(
            f"{path}: $.requests: got {header.requests}, but there are {len(requests)}"
        )
    if not header.digest:
        raise TraceError(f"{path}: $.digest: missing, expected the digest of the trace")
    return Trace(
        header=header, requests=requests, source=source, place=str(path), path=path
    )


# -- writing ---------------------------------------------------------------------------


def check_target(path: str | Path) -> Path:
    """Refuse a target that no trace can be written to, before any work is done."""
    target = Path(path)
    with _one_line():
        if target.name.endswith(".npz"):
            check_writable(target)
        elif target.name.endswith(".trace"):
            _check_folder(target)
        else:
            raise TraceError(
                f"{target}: got this name, expected NAME.trace or NAME.npz"
            )
    return target


def _check_folder(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise TraceError(f"{path}: is no folder, expected one to write a trace to")
    if path.is_dir() and any(path.iterdir()) and not (path / HEADER).is_file():
        raise TraceError(f"{path}: is a folder of something else, not a trace")
    if not path.parent.is_dir():
        raise TraceError(f"{path}: its folder does not exist")
    try:
        Path(tempfile.mkdtemp(prefix=".meldopt-", dir=path.parent)).rmdir()
    except OSError as exc:
        raise TraceError(f"{path}: cannot be written: {exc.strerror}") from exc


def write(
    path: str | Path,
    header: TraceHeader,
    requests: Requests,
    chunks: Iterable[Chunk],
) -> TraceHeader:
    """Write a trace; see `meldopt.trace.write_trace`."""
    target = check_target(path)
    check_header(header, str(target))
    check_requests(header, requests, str(target))
    with _one_line():
        try:
            if target.name.endswith(".npz"):
                return _write_file(target, header, requests, chunks)
            return _write_folder(target, header, requests, chunks)
        except OSError as exc:
            raise TraceError(f"{target}: cannot be written: {exc.strerror}") from exc


def _done(check: Check, chunks: int) -> TraceHeader:
    check.finish()
    return msgspec.structs.replace(
        check.header,
        chunks=chunks,
        tokens=check.tokens,
        requests=len(check.requests),
        digest=check.digest(),
    )


def _write_folder(
    target: Path, header: TraceHeader, requests: Requests, chunks: Iterable[Chunk]
) -> TraceHeader:
    check = Check(header, requests, str(target), hashing=True)
    made = Path(tempfile.mkdtemp(prefix=".meldopt-", dir=target.parent))
    try:
        count = 0
        for chunk in cut((check.take(one) for one in chunks), header.chunk_rows):
            write_bytes(made / chunk_name(count), arrays_to_bytes(chunk.arrays()))
            count += 1
        done = _done(check, count)
        write_bytes(made / REQUESTS, arrays_to_bytes(requests.arrays()))
        text = msgspec.json.format(msgspec.json.encode(done), indent=1)
        write_bytes(made / HEADER, text + b"\n")
        umask = os.umask(0)
        os.umask(umask)
        made.chmod(0o777 & ~umask)
        _replace(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return done


def _replace(made: Path, target: Path) -> None:
    """Put a new folder in the place of an old one."""
    if not target.is_dir():
        made.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=".meldopt-", dir=target.parent))
    try:
        target.rename(old / "old")
        try:
            made.rename(target)
        except BaseException:
            (old / "old").rename(target)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write_file(
    target: Path, header: TraceHeader, requests: Requests, chunks: Iterable[Chunk]
) -> TraceHeader:
    check = Check(header, requests, str(target), hashing=True)
    target = target.resolve() if target.is_symlink() else target
    with ExitStack() as stack:
        # An archive takes one array after the other: rows wait in a file for each.
        spools: dict[str, IO[bytes]] = {}
        kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        for chunk in cut((check.take(one) for one in chunks), header.chunk_rows):
            for name, array in chunk.arrays().items():
                if name not in spools:
                    spools[name] = stack.enter_context(
                        tempfile.TemporaryFile(dir=target.parent)
                    )
                    kinds[name] = (array.dtype.str, array.shape[1:])
                spools[name].write(np.ascontiguousarray(array).data)
        done = _done(check, 1)
        small = {
            **requests.arrays(),
            HEADER_ARRAY: np.frombuffer(msgspec.json.encode(done), dtype=np.uint8),
        }
        handle, name = tempfile.mkstemp(prefix=".meldopt-", dir=target.parent)
        made = Path(name)
        try:
            with os.fdopen(handle, "w+b") as stream:
                with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                    for key in sorted([*small, *spools]):
                        info = zipfile.ZipInfo(
                            f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0)
                        )
                        info.compress_type = zipfile.ZIP_DEFLATED
                        with archive.open(info, "w", force_zip64=True) as member:
                            if key in small:
                                np.lib.format.write_array(
                                    member, small[key], allow_pickle=False
                                )
                                continue
                            kind, shape = kinds[key]
                            np.lib.format.write_array_header_1_0(
                                member,
                                {
                                    "descr": kind,
                                    "fortran_order": False,
                                    "shape": (done.tokens, *shape),
                                },
                            )
                            spools[key].seek(0)
                            shutil.copyfileobj(spools[key], member, _COPY_BYTES)
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            made.chmod(0o666 & ~umask)
            made.replace(target)
        finally:
            made.unlink(missing_ok=True)
    return done

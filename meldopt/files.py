"""Reading and writing of files: strict, atomic, with digests.

Every file that meldopt reads is refused in one line that names the file, the place in
it, what was got and what was expected; every file that it writes appears whole or not
at all.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

T = TypeVar("T")

FORMAT_VERSION = 1
"""Version of the instance and plan files that this release writes."""


class _Versioned(msgspec.Struct):
    format_version: int


def read_bytes(path: Path) -> bytes:
    """Read a whole file, turning every failure into a `FileFormatError`."""
    if path.is_dir():
        raise FileFormatError(f"{path}: got a directory, expected a file")
    try:
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise FileFormatError(f"{path}: no such file") from exc
    except OSError as exc:
        raise FileFormatError(f"{path}: cannot be read: {exc.strerror}") from exc


def decode(data: bytes, kind: type[T], source: str) -> T:
    """Decode a versioned JSON document strictly.

    Raises
    ------
    FileFormatError
        If the document is no JSON, newer than this release, has missing or unknown
        keys, or values of a wrong type.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).format_version
    except UnicodeDecodeError as exc:
        raise FileFormatError(f"{source}: is not UTF-8 text") from exc
    except msgspec.ValidationError as exc:
        raise FileFormatError(f"{source}: {_place(exc)}") from exc
    except msgspec.DecodeError as exc:
        raise FileFormatError(f"{source}: is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise FileFormatError(f"{source}: is nested too deep") from exc
    if version > FORMAT_VERSION:
        raise FileFormatError(
            f"{source}: $.format_version: got {version}, expected at most "
            f"{FORMAT_VERSION}: the file is newer than this meldopt"
        )
    if version < 1:
        raise FileFormatError(
            f"{source}: $.format_version: got {version}, expected 1 or more"
        )
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as exc:
        raise FileFormatError(f"{source}: {_place(exc)}") from exc


def _place(exc: Exception) -> str:
    """Put the place in front: ``$.a.b: Expected `int`, got `str```."""
    text, _, place = str(exc).partition(" - at `")
    return f"{place.rstrip('`')}: {text}" if place else f"$: {text}"


def check_writable(path: Path) -> None:
    """Refuse a target that cannot be written, before any work is done."""
    if path.is_dir():
        raise FileFormatError(f"{path}: is a directory, expected a file to write")
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise FileFormatError(f"{path}: cannot be written: Permission denied")
        return
    parent = _followed(path).parent
    if not parent.is_dir():
        raise FileFormatError(f"{path}: its folder does not exist")
    try:
        handle, name = tempfile.mkstemp(prefix=".meldopt-", dir=parent)
    except OSError as exc:
        raise FileFormatError(f"{path}: cannot be written: {exc.strerror}") from exc
    os.close(handle)
    Path(name).unlink()


def _is_special(path: Path) -> bool:
    """Say whether a path is a device or a pipe, which a rename would destroy."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _followed(path: Path) -> Path:
    """Return what a symbolic link names; any other path as it is."""
    return path.resolve() if path.is_symlink() else path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary file, fsync, rename.

    A device or a pipe is written to as it is; a symbolic link is followed.
    """
    if _is_special(path):
        try:
            path.write_bytes(data)
        except OSError as exc:
            raise FileFormatError(f"{path}: cannot be written: {exc.strerror}") from exc
        return
    path = _followed(path)
    try:
        handle, name = tempfile.mkstemp(prefix=".meldopt-", dir=path.parent)
    except OSError as exc:
        raise FileFormatError(f"{path}: cannot be written: {exc.strerror}") from exc
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise FileFormatError(f"{path}: cannot be written: {exc.strerror}") from exc
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz``; pickled objects are refused."""
    import io

    import numpy as np

    # From memory: numpy leaves the file open when it is no archive.
    data = io.BytesIO(read_bytes(path))
    try:
        with np.load(data, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        TypeError,  # a .npy instead
        zipfile.BadZipFile,
        zlib.error,
    ) as exc:
        raise FileFormatError(
            f"{path}: is no readable .npz (truncated, or not arrays): {exc}"
        ) from exc


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a compressed ``.npz`` with the same bytes every time."""
    write_bytes(path, arrays_to_bytes(arrays))


def arrays_to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Pack arrays as ``.npz`` bytes; sorted names and a fixed date in the archive."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(
                member, np.ascontiguousarray(arrays[name]), allow_pickle=False
            )
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def canonical_json(value: object) -> bytes:
    """Encode a value as JSON with sorted keys and no white space."""
    return msgspec.json.encode(value, order="sorted")


def digest(value: object, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Fingerprint a JSON value and named arrays.

    SHA-256 over the canonical JSON, then for each array in order of its name: name,
    dtype, shape and the little-endian bytes in C order.
    """
    import numpy as np

    state = hashlib.sha256(canonical_json(value))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        state.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        state.update(array.tobytes())
    return f"sha256:{state.hexdigest()}"

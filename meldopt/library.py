"""The bundled instances: found by name, with or without a checkout."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .errors import FileFormatError
from .files import FORMAT_VERSION, decode, read_bytes, write_bytes

_PACKAGE = Path(__file__).parent


def instances_folder() -> Path | None:
    """Return the folder of bundled instances: in the wheel, or in the checkout."""
    for folder in (_PACKAGE / "_instances", _PACKAGE.parent / "instances"):
        if (folder / "index.json").is_file():
            return folder
    return None


def locate(name: str | Path) -> Path:
    """Turn a path or the name of a bundled instance into the path of its file.

    A path that exists wins; else ``family/name`` is looked up in the library.

    Raises
    ------
    FileFormatError
        If there is neither such a path nor such a name.
    """
    path = Path(name)
    if path.exists():
        return path
    folder = instances_folder()
    if folder is not None and not path.is_absolute() and ".." not in path.parts:
        bundled = folder / f"{name}.json"
        if bundled.is_file():
            return bundled
    raise FileFormatError(
        f"{name}: no such file, and no bundled instance of that name "
        "('meldopt instances' lists them)"
    )


def locate_trace(name: str | Path) -> Path:
    """Turn a path or the name of a bundled trace into the path of it.

    A path that exists wins; else ``family/name`` is looked up in the library, where
    the file is ``name.trace.npz``.

    Raises
    ------
    FileFormatError
        If there is neither such a path nor such a name.
    """
    path = Path(name)
    if path.exists():
        return path
    bundled = bundled_trace(name)
    if bundled is None:
        raise FileFormatError(
            f"{name}: no such file, and no bundled trace of that name"
        )
    return bundled


def bundled_trace(name: str | Path) -> Path | None:
    """Return the file of the bundled trace ``family/name``, if there is one."""
    path = Path(name)
    folder = instances_folder()
    if folder is None or path.is_absolute() or ".." in path.parts:
        return None
    bundled = folder / f"{name}.trace.npz"
    return bundled if bundled.is_file() else None


def checkout_folder() -> Path | None:
    """Return the folder of the instances of a checkout; None in an installed wheel."""
    folder = instances_folder()
    inside = folder is not None and folder.parent == _PACKAGE
    return None if inside else folder


def instance_names() -> list[str]:
    """Names of all bundled instances, sorted."""
    folder = instances_folder()
    if folder is None:
        return []
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.glob("*/*.json")
        if path.parent.name != "best"
    )


def best_plan(name: str) -> Path | None:
    """Return the path of the best plan known of a bundled instance, if there is one."""
    folder = instances_folder()
    if folder is None:
        return None
    path = folder / "best" / f"{name}.plan.json"
    return path if path.is_file() else None


# -- the index -------------------------------------------------------------------------


class BestEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best plan known of an instance: what it is worth and who found it.

    ``bound`` is None when nothing was proved; ``solver`` is ``"planted"`` for the plan
    that the generator set the caps around. ``date`` is ISO 8601.
    """

    objective: float
    bound: float | None
    solver: str
    seed: int | None
    version: str
    date: str
    time_limit_s: float | None = None


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bundled instance: its digest, its sizes and the best plan known."""

    digest: str
    model: str | None = None  # name in the catalogue
    dataflow: str
    layers: int
    experts: int  # of all layers
    servers: int
    demands: int
    formats: int
    recipe: bool
    best: BestEntry | None


class Index(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The index of the bundled instances, ``index.json``; sorted by name."""

    format_version: int
    instances: dict[str, IndexEntry]


def read_index(folder: Path | None = None) -> dict[str, IndexEntry]:
    """Read the index of the bundled instances, by name; empty without a library.

    Parameters
    ----------
    folder
        The library's folder; found by itself unless given.

    Raises
    ------
    FileFormatError
        If the index cannot be read as one.
    """
    folder = instances_folder() if folder is None else folder
    if folder is None:
        return {}
    path = folder / "index.json"
    return decode(read_bytes(path), Index, str(path)).instances


def write_index(entries: dict[str, IndexEntry], folder: Path) -> None:
    """Write ``index.json`` of a library's folder: sorted, a line for each fact."""
    index = Index(
        format_version=FORMAT_VERSION, instances=dict(sorted(entries.items()))
    )
    text = msgspec.json.format(msgspec.json.encode(index), indent=1)
    write_bytes(folder / "index.json", text + b"\n")

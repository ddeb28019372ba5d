"""The bundled instances: found by name, with or without a checkout."""

from __future__ import annotations

from pathlib import Path

from .errors import FileFormatError

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

"""The folder of a comparison: results, plans, and a copy of every instance.

====================== ==============================================================
``RESULTS.jsonl``      a line for each run (`meldopt.compare.records`)
``instances/``         every instance that was planned or judged on, by its digest
``plans/``             the plan of every run that has one, by its key
``logs/``              what the processes of crashed and hung runs said
====================== ==============================================================
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from meldopt.errors import FileFormatError
from meldopt.files import read_bytes, write_bytes

if TYPE_CHECKING:
    from meldopt.instance import Instance

    from .records import RunRecord

SHORT = 16
"""Hexadecimal digits of a digest or key that name a file."""


def short(digest: str) -> str:
    """Return the part of ``sha256:…`` that names files."""
    return digest.removeprefix("sha256:")[:SHORT]


def file_digest(path: Path) -> str:
    """Return ``sha256:…`` over the bytes of a file.

    Raises
    ------
    FileFormatError
        If it cannot be read.
    """
    return f"sha256:{hashlib.sha256(read_bytes(path)).hexdigest()}"


class Folder:
    """Where everything of a comparison is.

    Parameters
    ----------
    path
        Need not exist before `prepare`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def instance(self, digest: str) -> Path:
        """Return the file of an instance, for `meldopt.instance.read_instance`."""
        return self.path / "instances" / f"{short(digest)}.json"

    def plan(self, record: RunRecord) -> Path | None:
        """Return the file of the plan of a record, for `meldopt.plan.read_plan`."""
        return None if record.plan is None else self.path / record.plan

    def plan_name(self, key: str) -> str:
        """Return where the plan of a key is, relative to the folder."""
        return f"plans/{short(key)}.plan.json"

    # -- writing -----------------------------------------------------------------------
    def prepare(self) -> None:
        """Make the folder.

        Raises
        ------
        FileFormatError
            If it cannot be made, or is something else.
        """
        try:
            for part in ("instances", "plans"):
                (self.path / part).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise FileFormatError(
                f"{self.path}: cannot be a folder of results: {exc.strerror}"
            ) from exc

    def keep_instance(self, instance: Instance, digest: str) -> None:
        """Write an instance, unless it is there."""
        from meldopt.instance import write_instance

        if not self.instance(digest).is_file():  # the arrays are written before it
            write_instance(instance, self.instance(digest))

    def keep_plan(self, key: str, document: bytes, arrays: bytes | None) -> str:
        """Write a plan that was made elsewhere; return where, relative to the folder.

        Parameters
        ----------
        key
            Of the record.
        document, arrays
            Bytes of the placement JSON, and of the ``.npz`` that it names.
        """
        name = self.plan_name(key)
        path = self.path / name
        if arrays is not None:
            write_bytes(path.with_name(arrays_name(path.name)), arrays)
        write_bytes(path, document)
        return name

    def keep_log(self, key: str, text: bytes) -> None:
        """Write what the process of a failed run said."""
        if text:
            folder = self.path / "logs"
            folder.mkdir(exist_ok=True)
            write_bytes(folder / f"{short(key)}.txt", text)


def arrays_name(plan_name: str) -> str:
    """Return the name of the arrays beside a plan, as `meldopt.plan` names them."""
    return f"{plan_name.removesuffix('.json')}.npz"

"""Files of a recording: two traces, a profile, all measurements, and what they are."""

from __future__ import annotations

import io
import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.errors import ProfilingError
from meldopt.files import write_bytes
from meldopt.trace import write_trace

from .corpus import SEPARATOR, domain_names
from .routing import Text
from .tokenizer import windows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from .survey import Survey

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def read_text(
    folder: Path, split: str, tokenizer: Any, *, sequences: int, length: int
) -> Text:
    """Read a split of a corpus as evenly spaced sequences of tokens.

    Sequences of the domains follow each other in turn, as requests would.

    Parameters
    ----------
    folder
        Holds ``DOMAIN.SPLIT.txt``; without ``corpus.json`` the names of the files say
        which domains there are.
    split
        ``plan`` or ``test``.
    tokenizer
        Of the model, from transformers.
    sequences, length
        Sequences of each domain, and tokens of each.

    Raises
    ------
    ProfilingError
        If there is no such text, or too little.
    """
    names = _domains(folder, split)
    rows = []
    for name in names:
        path = folder / f"{name}.{split}.txt"
        if not path.is_file():
            raise ProfilingError(f"{path}: no such file")
        documents = path.read_text(encoding="utf-8").split(SEPARATOR)
        ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        tokens: list[int] = []
        for ids in tokenizer(documents, add_special_tokens=False)["input_ids"]:
            tokens += [*ids, *ends]
        try:
            rows.append(windows(np.array(tokens, dtype=np.int64), sequences, length))
        except ProfilingError as error:
            raise ProfilingError(f"{path}: {error}") from error
    return Text(
        domains=tuple(names),
        tokens=np.stack(rows, axis=1).reshape(-1, length),
        domain=np.tile(np.arange(len(names)), sequences),
    )


def _domains(folder: Path, split: str) -> list[str]:
    if (folder / "corpus.json").is_file():
        return domain_names(folder)
    end = f".{split}.txt"
    names = sorted(path.name.removesuffix(end) for path in folder.glob(f"*{end}"))
    if not names:
        raise ProfilingError(f"{folder}: got no DOMAIN{end}, expected at least one")
    return names


def write_recording(folder: Path, found: Survey, about: dict[str, Any]) -> None:
    """Write a recording into a folder.

    Parameters
    ----------
    folder
        Gets ``plan.trace.npz``, ``test.trace.npz``, ``profile.npz`` (arrays of an
        instance's profile), ``measured.npz`` and ``about.json``.
    found
        What was measured.
    about
        Source, licence and note.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, trace in (("plan", found.plan), ("test", found.test)):
        path = folder / f"{split}.trace.npz"
        write_trace(path, trace.header, trace.requests, trace.chunks())
    write_bytes(folder / "profile.npz", _packed(found.profile))
    write_bytes(folder / "measured.npz", _packed(found.measured))
    document = _finite(about | {"figures": found.figures})
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_bytes(folder / "about.json", text.encode())


def versions() -> dict[str, str]:
    """Return the versions that a recording depends on."""
    return {name: version(name) for name in PACKAGES} | {
        "python": platform.python_version(),
        "meldopt": version("meldopt"),
    }


def _finite(value: Any) -> Any:
    """Put null where a number is not defined, which JSON cannot say."""
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()

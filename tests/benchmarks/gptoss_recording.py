"""The public routing of gpt-oss-20b, turned into the archive that the table reads.

``python -m tests.benchmarks.gptoss_recording CLONE FOLDER``

CLONE is a clone of github.com/AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting at the
commit below (Apache-2.0). Writes ``FOLDER/gptoss20b/routing.npz``: experts and gates of
each generated token, and the set, the subject and the length of its prompt; no text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.files import write_arrays
from meldopt.importers.recordings import PROMPT_SETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMMIT = "72b368f60045221f21eeb65debb27d58de92e565"


def read_example(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float16], int]:
    """Return experts and gates of the generated tokens, and the prompt's tokens."""
    steps = json.loads(path.read_text(encoding="utf-8"))["router_data"]
    tokens = {
        int(name.removeprefix("token_")): layers
        for step in steps
        for name, layers in step.items()
    }
    experts, gates = [], []
    for number in sorted(tokens):
        layers = tokens[number]
        rows = [layers[f"layer_{n}"] for n in range(len(layers))]
        experts.append([row["selected_experts"] for row in rows])
        gates.append([row["selected_probs"] for row in rows])
    # The first generated token has the number of tokens before it.
    return np.array(experts, np.uint8), np.array(gates, np.float16), min(tokens)


def convert(clone: Path) -> dict[str, NDArray[Any]]:
    """Read the examples of all sets, in the order of their names."""
    paths = [
        (n, path)
        for n, name in enumerate(PROMPT_SETS)
        for path in sorted((clone / "data" / name).glob("*/*_examples.json"))
    ]
    subjects = sorted({path.parent.name for _, path in paths})
    read = [read_example(path) for _, path in paths]
    return {
        "experts": np.concatenate([experts for experts, _, _ in read]),
        "gates": np.concatenate([gates for _, gates, _ in read]),
        "token_prompt": np.repeat(
            np.arange(len(read), dtype=np.int32), [len(one[0]) for one in read]
        ),
        "prompt_set": np.array([n for n, _ in paths], np.uint8),
        "prompt_category": np.array(
            [subjects.index(path.parent.name) for _, path in paths], np.uint8
        ),
        "prompt_tokens": np.array([length for _, _, length in read], np.int32),
    }


if __name__ == "__main__":
    target = Path(sys.argv[2]) / "gptoss20b"
    target.mkdir(parents=True, exist_ok=True)
    write_arrays(target / "routing.npz", convert(Path(sys.argv[1])))

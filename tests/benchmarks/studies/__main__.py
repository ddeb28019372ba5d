"""The studies of docs/studies.md: ``python -m tests.benchmarks.studies a|b|c|d|e``.

Each prints the Markdown that the page shows. A study that compares keeps its runs in a
folder, as ``meldopt compare`` does: the same command does what is missing, and
``meldopt report FOLDER`` says more of it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.studies import drift, papers, published, switched
from tests.benchmarks.studies.setting import Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STUDIES: dict[str, Callable[[Setting], str]] = {
    "a": switched.run,
    "b": papers.hetroute,
    "c": papers.prism,
    "d": published.run,
    "e": drift.run,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one study and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--time-limit", type=float, default=6.0, metavar="SECONDS")
    parser.add_argument("--work", type=float, help="deterministic, in place of time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--instances", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--folder", type=Path, help="default: build/studies/STUDY")
    parser.add_argument("--data", type=Path, help="public data; default: $MELDOPT_DATA")
    given = parser.parse_args(arguments)
    data = given.data or Path(os.environ.get("MELDOPT_DATA", "/nowhere"))
    setting = Setting(
        folder=given.folder or Path("build/studies") / given.study,
        time_limit_s=given.time_limit,
        work=given.work,
        seed=given.seed,
        instances=tuple(given.instances),
        data=data if data.is_dir() else None,
    )
    print(STUDIES[given.study](setting))


if __name__ == "__main__":
    main()

"""Re-score the best plans of all bundled instances: ``make instances-check``.

For every instance: its digest and sizes are those of the index, its best plan is
feasible and worth what the index says, and no bound is above it. The seven hard
instances are hard: at the best plan several memories, a link, a processor and a quality
budget are tight, and several formats, several copies, pruning and fusion are in use.
``meldopt instances check`` does the same without the hard ones, also in a wheel.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meldopt.best import check_instance
from meldopt.library import IndexEntry, read_index

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.score import Score

FOLDER = Path(__file__).parent

HARD = (
    "deepseek-v3/metro-16",
    "gpt-oss-20b/metro-8",
    "kimi-k2/metro-32",
    "mixtral-8x7b/metro-10",
    "mixtral-8x7b/metro-4",
    "olmoe-1b-7b/metro-6",
    "qwen3-30b-a3b/metro-10",
)
"""Frozen, and never loosened to meet a gap."""

TIGHT = 0.01  # relative slack below which a row of a hard instance counts as tight


def check(name: str, entry: IndexEntry, folder: Path = FOLDER) -> list[str]:
    """Return what is wrong with an instance and its best plan; [] if all is well."""
    checked = check_instance(name, entry, folder)
    found = list(checked.found)
    if checked.plan is None or checked.score is None:
        return found + (["best plan: missing"] if name in HARD else [])
    if name in HARD:
        found += hardness(checked.problem, checked.plan, checked.score)
    return found


def hardness(problem: Problem, plan: Plan, judged: Score) -> list[str]:
    """Return which conditions of a hard instance do not hold at a plan."""
    tight = [row for row in judged.rows if row.limit and row.relative_slack < TIGHT]
    servers = {row.where.split("/")[0] for row in tight if row.row == "memory"}
    counts = {
        "servers with tight memory": (len(servers), 2),
        "tight links": (sum(row.row == "link" for row in tight), 1),
        "tight processors": (sum(row.row == "compute" for row in tight), 1),
        "tight quality budgets": (sum(row.row == "quality" for row in tight), 1),
        "formats in use": (len(np.unique(plan.copies[:, 2])), 2),
        "experts with several copies": (
            int((np.bincount(plan.copies[:, 0]) > 1).sum()),
            1,
        ),
        "pruned shares": (int((plan.pruned_share > 0).sum()), 1),
        "fused shares": (int((plan.fused_share > 0).sum()), 1),
        "homes": (len(np.unique(problem.home_of)), problem.num_servers),
    }
    found = [
        f"{what}: got {got}, expected at least {least}"
        for what, (got, least) in counts.items()
        if got < least
    ]
    mixes = np.zeros((problem.num_servers, problem.num_applications))
    np.add.at(mixes, (problem.home_of, problem.application_of), problem.rate)
    mixes /= np.maximum(mixes.sum(axis=1, keepdims=True), 1e-300)
    if len(np.unique(mixes.round(4), axis=0)) < problem.num_servers:
        found.append("domain mixes: got two homes with the same one")
    return found


def main() -> int:
    """Check the instances named, or all of them; the number of bad ones is the code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    index = read_index(FOLDER)
    present = {
        path.relative_to(FOLDER).with_suffix("").as_posix()
        for path in FOLDER.glob("*/*.json")
    }
    bad = 0
    for name in given.names or sorted(present | set(index) | set(HARD)):
        if name not in index or name not in present:
            found = ["is not in the index" if name in present else "has no file"]
        else:
            found = check(name, index[name])
        best = index[name].best if name in index else None
        worth = "no plan" if best is None else f"objective {best.objective:.6g}"
        print(f"{name}: {'; '.join(found) if found else f'ok, {worth}'}", flush=True)
        bad += bool(found)
    return min(bad, 100)


if __name__ == "__main__":
    sys.exit(main())

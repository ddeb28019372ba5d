"""Study e: plans made on one workload and judged on others.

The copies of a plan stay, its shares are decided again on the workload that it is
judged on: by the default rule, or the best ones (`meldopt compare --reroute`). Beside
them stands the plan of the same method for that workload, and one that knows nothing of
any workload: what is left of the gain over it is what a frozen plan keeps.

Bundled: the pairs ``drift/*``, before and after half of the text of every application
became that of another domain. With a folder of public data: how often DeepSeek-V3
called its experts in four workloads, on a small cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.compare.contrasts import frozen_table
from meldopt.compare.markup import Table
from meldopt.compare.standing import standing
from meldopt.compare.tables import columns_of
from meldopt.compare.trials import Library
from meldopt.instance import Instance, InstanceSpec

from .setting import JOINT, chosen, facts, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from meldopt.compare.markup import Cell
    from meldopt.compare.records import RunRecord

    from .setting import Setting

TWINS = ("drift/mixtral-campus-6",)
"""Of each: ``-before`` and ``-after``."""

BLIND = "round_robin"
"""A method whose plan does not depend on the calls."""

COUNTED = ("prism", "eplb", "lpt", BLIND)
"""Methods that are compared on counts, beside the joint plan."""

MENDED = ("prism[repair=true]", "eplb[repair=true]")
"""Methods that are compared on the pairs; most of their own plans break rows."""

RECORDED = "deepseek-v3/expert_counts.npz"
LAYERS = 4
"""Layers of the 58 that are used: the first ones; more take longer and say the same."""


# -- DeepSeek-V3 -----------------------------------------------------------------------


def counted_instance(name: str, counts: NDArray[np.int64]) -> Instance:
    """Put counts of experts into a small cluster.

    Six servers on links of 1 Gbit/s and 1 ms, all homes of equal rate, with memory for
    one and a half copies of the model in one format; 2 TB/s of memory, and 100 TFLOP/s.

    Parameters
    ----------
    name
        Of the instance.
    counts
        Choices of each expert, (L, E).
    """
    layers, experts = counts.shape
    parameters, bits = 3 * 7168 * 2048, 8.0
    slots = 1.5 * layers * experts / 6
    servers = [f"s{n + 1}" for n in range(6)]
    calls = 8 * counts / counts.sum(axis=1, keepdims=True)
    document: dict[str, Any] = {
        "format_version": 1,
        "name": name,
        "model": {
            "layers": layers,
            "experts": experts,
            "top_k": 8.0,
            "parameters_per_expert": float(parameters),
            "hidden_size": 7168,
            "profile": {},
        },
        "formats": [{"name": "fp8", "bits_per_weight": bits, "precision": "fp8"}],
        "cluster": {
            "servers": [
                {
                    "name": one,
                    "tiers": {
                        "gpu": {
                            "capacity": slots * parameters * bits / 8,
                            "read": "2 TB/s",
                            "compute": {"fp8": "100 TFLOP/s"},
                        }
                    },
                }
                for one in servers
            ],
            "links": [
                {"between": [a, b], "bandwidth": "1 Gbit/s", "latency": "1 ms"}
                for n, a in enumerate(servers)
                for b in servers[n + 1 :]
            ],
        },
        "workload": {
            "applications": [{"name": "all"}],
            "demands": [
                {"application": "all", "home": one, "rate": 1.0} for one in servers
            ],
        },
    }
    return Instance(
        spec=msgspec.convert(document, InstanceSpec),
        arrays={
            "calls": calls.reshape(1, -1),
            "loss": np.zeros((1, layers * experts, 1)),
        },
    )


def recorded(setting: Setting) -> list[Path] | None:
    """Write an instance for each recorded workload; None without the data."""
    if setting.data is None or not (setting.data / RECORDED).is_file():
        return None
    from pathlib import Path

    with np.load(setting.data / RECORDED) as counts:
        return [
            Path(
                setting.kept(
                    counted_instance(f"deepseek-v3/{name}", counts[name][:LAYERS])
                )
            )
            for name in sorted(counts)
        ]


# -- the study -------------------------------------------------------------------------


def run(setting: Setting) -> str:
    """Plan on each workload, judge on all."""
    parts = []
    everything: list[RunRecord] = []
    for twin in chosen(setting, TWINS):
        names = [f"{twin}-before", f"{twin}-after"]
        records = _crossed(setting, names, [JOINT, *MENDED], reroute=True)
        everything += records
        parts.append(shown(frozen_table(standing(records))))
    files = recorded(setting)
    if files is None:
        parts.append(
            f"DeepSeek-V3 is left out: there is no {RECORDED} in a folder of data.\n"
        )
    else:
        records = _crossed(setting, [str(one) for one in files], [JOINT, *COUNTED])
        everything += records
        parts += [shown(kept_table(records, term)) for term in ("serial", "bottleneck")]
    return "\n".join([facts(setting, everything), "", *parts])


def _crossed(
    setting: Setting,
    names: Sequence[str],
    solvers: Sequence[str],
    *,
    reroute: bool = False,
) -> list[RunRecord]:
    """Plan on every workload and judge on every one."""
    library = Library()
    return setting.compare(
        library,
        library.trials([], train=names, test=names),
        solvers,
        reroute=reroute,
    )


def kept_table(records: Sequence[RunRecord], term: str = "serial") -> Table:
    """Return what plans of one workload save on another against the blind plan.

    Parameters
    ----------
    records
        Plans made on each workload and judged on each.
    term
        That is compared, whatever the objective is.
    """
    value = {
        (one.label, one.train or one.instance, one.instance): one.terms[term]
        for one in records
        if one.ranked and term in one.terms
    }
    names = list(dict.fromkeys(one.instance for one in records))
    labels = list(dict.fromkeys(one.label for one in records))
    rows: list[tuple[Cell, ...]] = []
    for label in labels:
        if label == BLIND:
            continue
        for train in names:
            cells: list[Cell] = []
            for test in names:
                mine = value.get((label, train, test))
                blind = value.get((BLIND, test, test))
                if mine is None or blind is None:
                    cells.append(None)
                else:
                    cells.append(round(1 - mine / blind, 9))
            rows.append((label, train.rpartition("/")[2], *cells))
    return Table(
        name=f"kept-{term}",
        title=f"DeepSeek-V3, planned on one workload, judged on others: {term}",
        caption=(
            f"The term {term}, saved against {BLIND} on the workload judged on "
            "(columns), by plans made on that of the row."
        ),
        columns=columns_of(
            ("solver", "text"),
            ("planned on", "text"),
            *((name.rpartition("/")[2], "percent") for name in names),
        ),
        rows=tuple(rows),
    )

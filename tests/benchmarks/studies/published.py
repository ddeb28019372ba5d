"""Study d: what papers print, computed anew, with the functions that the solvers use.

No solve and no limit: arrays in, numbers out. What needs data that is not part of the
project is left out with a line when it is absent.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from meldopt import __version__
from meldopt.affinity import (
    devices_per_token,
    hops_per_token,
    uniform_devices_per_token,
    uniform_hops_per_token,
)
from meldopt.builder import build_problem
from meldopt.compare.markup import Table
from meldopt.compare.tables import columns_of
from meldopt.instance import read_instance
from meldopt.trace import read_trace
from meldopt_solvers.baselines.eplb import rebalance_experts
from meldopt_solvers.baselines.exflow import search
from meldopt_solvers.baselines.occult import grow
from meldopt_solvers.baselines.pmq import surrogate
from meldopt_solvers.baselines.prism import (
    calls_seen,
    flow_optimum,
    remote_calls,
    two_stages,
)
from meldopt_solvers.baselines.view import View
from meldopt_solvers.baselines.widths import allocate

from .setting import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from meldopt.compare.markup import Cell

    from .setting import Setting

EPLB_LOADS = (
    (90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86),
    (20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27),
)
"""README of EPLB, "Interface and Example": 4 groups, 2 nodes, 8 GPUs, 16 replicas."""

EPLB_PUBLISHED = (
    (5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1),
    (7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1),
)

PMQ_FACTORS, PMQ_BITS = "mixtral-8x7b/mcmoe_factors.npz", "mixtral-8x7b/mcmoe_bits.npz"
GPT_OSS = "gptoss20b/routing.npz"

RESTARTS = 20
"""Descents of ExFlow."""

SYNTHETIC = 30
"""Draws on which Prism's two stages are measured."""


# -- tokens ----------------------------------------------------------------------------


def recordings(data: Path | None) -> dict[str, tuple[NDArray[np.int64], ...]]:
    """Return recorded tokens to place with, and others to measure on; (T, L, k)."""
    found = {
        f"tinymoe {model}": tuple(
            read_trace(f"tinymoe/{model}/{part}").load().experts.astype(np.int64)
            for part in ("plan", "test")
        )
        for model in ("a", "b")
    }
    if data is not None and (data / GPT_OSS).is_file():
        with np.load(data / GPT_OSS) as arrays:
            experts = arrays["experts"].astype(np.int64)
            even = arrays["token_prompt"] % 2 == 0
        found["gpt-oss-20b"] = experts[even], experts[~even]
    return found


def numbered(experts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Number experts through all layers; (T, L, k) of one layer each."""
    layer = np.arange(experts.shape[1])[None, :, None]
    return experts + width * layer


# -- one table each --------------------------------------------------------------------


def eplb_table() -> Table:
    """Return whether EPLB's worked example comes out."""
    found = rebalance_experts(np.array(EPLB_LOADS), 16, 4, 2, 8)
    rows = tuple(
        (n, " ".join(map(str, theirs)), " ".join(map(str, ours)), _equal(theirs, ours))
        for n, (theirs, ours) in enumerate(
            zip(EPLB_PUBLISHED, found.tolist(), strict=True)
        )
    )
    return Table(
        name="eplb",
        title="EPLB, the worked example",
        caption="Experts of the 16 slots of each layer, as published and as computed.",
        columns=columns_of(
            ("layer", "integer"), ("published", "text"), ("ours", "text"), ("", "text")
        ),
        rows=rows,
    )


def exflow_table(data: Path | None) -> Table:
    """Return hops per token: uniform expectations, and placements on recordings."""
    rows: list[tuple[Cell, ...]] = [
        ("Mixtral, uniform", 4, 23.25, uniform_hops_per_token(np.full((32, 4), 2))),
        ("Mixtral, uniform", 8, 27.125, uniform_hops_per_token(np.full((32, 8), 1))),
        ("Mixtral, the authors' placement", 4, 17.495, None),
        ("Mixtral, the authors' placement", 8, 22.166, None),
    ]
    rows = [(*row, None, None, None) for row in rows]
    for name, (planned, held_out) in recordings(data).items():
        width = int(max(planned.max(), held_out.max())) + 1
        layers = planned.shape[1]
        paths = planned[:, :, 0]
        moves = []
        for here, there in pairwise(range(layers)):
            table = np.zeros((width, width))
            np.add.at(table, (paths[:, here], paths[:, there]), 1.0)
            moves.append(table)
        for devices in (4, 8):
            slots = np.full((layers, devices), width // devices)
            labels = search(
                moves,
                slots,
                np.random.default_rng(0),
                restarts=RESTARTS,
                spent=lambda _: False,
            )
            place = np.concatenate(labels)
            own, other = (
                hops_per_token(numbered(part, width)[:, :, 0], place)
                for part in (planned, held_out)
            )
            uniform = uniform_hops_per_token(slots)
            rows.append((name, devices, None, uniform, own, other, other / uniform - 1))
    return Table(
        name="exflow",
        title="ExFlow, hops a token",
        caption=(
            "Changes of device from first choice to first choice. Uniform: to expect "
            "if experts were called alike. Planned: of the placement on the tokens "
            "that it was made with; held out: on others; saved: of held out against "
            "uniform. Published placements save 24.8 % on 4 and 18.3 % on 8 devices."
        ),
        columns=columns_of(
            ("routing", "text"),
            ("devices", "integer"),
            ("published", "number"),
            ("uniform", "number"),
            ("planned", "number"),
            ("held out", "number"),
            ("saved", "percent"),
        ),
        rows=tuple(rows),
    )


def occult_table(data: Path | None) -> Table:
    """Return devices a token: the uniform expectation, and groups on recordings."""
    rows: list[tuple[Cell, ...]] = [
        (
            "OLMoE, top 8 of 64, uniform",
            4,
            None,
            uniform_devices_per_token([16] * 4, 8),
            None,
            None,
        ),
        ("OLMoE, as published", 4, 3.02, None, 3.68, None),
    ]
    for name, (planned, held_out) in recordings(data).items():
        width = int(max(planned.max(), held_out.max())) + 1
        slots = np.full(4, width // 4)
        place = []
        for layer in range(planned.shape[1]):
            called = np.zeros((len(planned), width))
            np.put_along_axis(called, planned[:, layer], 1.0, axis=1)
            together = called.T @ called
            np.fill_diagonal(together, 0.0)
            place.append(grow(together, slots))
        layers, top_k = planned.shape[1:]
        default = np.tile(np.repeat(np.arange(4), width // 4), layers)
        before, after = (
            float(devices_per_token(numbered(held_out, width), where).mean())
            for where in (default, np.concatenate(place))
        )
        uniform = uniform_devices_per_token(slots, top_k)
        rows.append((name, 4, after, uniform, before, after / before - 1))
    return Table(
        name="occult",
        title="Occult, devices a token",
        caption=(
            "Distinct devices of the experts that a token calls in a layer, mean over "
            "layers and held-out tokens. Published: 3.68 by default, 3.02 placed "
            "(-17.9 %); the uniform expectation is recomputed."
        ),
        columns=columns_of(
            ("routing", "text"),
            ("devices", "integer"),
            ("placed", "number"),
            ("uniform", "number"),
            ("contiguous", "number"),
            ("change", "percent"),
        ),
        rows=tuple(rows),
    )


def pmq_table(data: Path | None) -> Table | None:
    """Return how many published allocations come out; None without the data."""
    if data is None or not (data / PMQ_FACTORS).is_file():
        return None
    with np.load(data / PMQ_FACTORS) as arrays:
        factors = dict(arrays)
    with np.load(data / PMQ_BITS) as arrays:
        known = dict(arrays)
    width = np.tile(factors["bits"].astype(np.float64), (8, 1))
    rows = []
    for beta in (1.5, 1.0):
        for bits in (12, 16, 20):
            agree = 0
            for layer in range(32):
                cost = surrogate(
                    factors["frequency"][layer],
                    factors["gate_weight"][layer],
                    factors["loss"][layer],
                    beta=beta,
                )
                chosen = allocate(
                    cost, width, float(bits), np.array([2, 1, 0]), required=(2, 1)
                )
                same = factors["bits"][chosen] == known[f"bits_{bits}"][layer]
                agree += int(same.all())
            rows.append((beta, bits, 32, agree))
    return Table(
        name="pmq",
        title="PMQ, released allocations of Mixtral-8x7B",
        caption=(
            "Blocks whose widths are those released. The released code has the "
            "exponent 1.5 of the gate weight, the paper 1."
        ),
        columns=columns_of(
            ("exponent", "number"),
            ("bits a block", "integer"),
            ("blocks", "integer"),
            ("equal", "integer"),
        ),
        rows=tuple(rows),
    )


def prism_table() -> Table:
    """Return what Prism's two stages lose against the optimum of their own proxy."""
    gaps = []
    for seed in range(SYNTHETIC):
        rng = np.random.default_rng(seed)
        servers, layers = int(rng.integers(3, 7)), int(rng.integers(3, 7))
        experts = int(rng.choice([4, 8, 16]))
        seen = np.concatenate(
            [rng.dirichlet(np.full(experts, 0.5), size=servers) for _ in range(layers)],
            axis=1,
        )
        total = layers * experts
        even = -(-total // servers)
        capacity = rng.integers(even, 3 * even // 2 + 1, size=servers)
        gap = _proxy_gap(seen, capacity, np.arange(layers + 1) * experts)
        if gap is not None:
            gaps.append(gap)
    rows: list[tuple[Cell, ...]] = [
        (f"{len(gaps)} drawn", float(np.mean(gaps)), max(gaps))
    ]
    for name in (
        "prism/mixtral-bigbench",
        "prism/mixtral-multidata",
        "prism/v2-lite-bigbench",
        "prism/v2-lite-multidata",
    ):
        problem = build_problem(read_instance(name))
        view = View(problem, 0)
        gap = _proxy_gap(calls_seen(view), view.slots, problem.layer_start)
        rows.append((name, gap, gap))
    return Table(
        name="prism-proxy",
        title="Prism, two stages against the flow",
        caption=(
            "Remote calls of the two stages over the least possible, which a min-cost "
            "flow finds and proves. Drawn: 3 to 6 servers, 3 to 6 layers of 4 to 16 "
            "experts, Dirichlet(0.5) loads, memory for 1 to 1.5 copies of all. The "
            "instances are those of study c, in 16 bits."
        ),
        columns=columns_of(
            ("loads", "text"), ("mean excess", "percent"), ("most", "percent")
        ),
        rows=tuple(rows),
    )


def _proxy_gap(
    seen: NDArray[np.float64], capacity: NDArray[np.int64], start: NDArray[np.int64]
) -> float | None:
    best = flow_optimum(seen, capacity)
    if best is None:
        return None
    return best.gap(remote_calls(seen, two_stages(seen, capacity, start)))


def _equal(theirs: Sequence[int], ours: Sequence[int]) -> str:
    return "equal" if list(theirs) == list(ours) else "differs"


def run(setting: Setting) -> str:
    """Compute everything."""
    parts = [f"No solves; meldopt {__version__}, numpy {np.__version__}.", ""]
    parts.append(shown(eplb_table()))
    parts.append(shown(exflow_table(setting.data)))
    parts.append(shown(occult_table(setting.data)))
    allocations = pmq_table(setting.data)
    parts.append(
        f"PMQ is left out: there is no {PMQ_FACTORS} in a folder of data.\n"
        if allocations is None
        else shown(allocations)
    )
    parts.append(shown(prism_table()))
    return "\n".join(parts)

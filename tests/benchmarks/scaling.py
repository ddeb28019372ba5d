"""How time and memory to a certified gap grow with experts and servers.

    python -m tests.benchmarks.scaling [--largest N] [--limit S] [--loose] [SIZE...]

A size is written EXPERTSxSERVERS, as in 1024x16; without any, those of the table in
docs/scaling.md run. Instances are generated: layers of the shape of DeepSeek-V3 (256
experts, 8 of them per token), as many as the size needs, on servers of a city, with
the rows of `deepseek-v3/metro-16`; the smallest has those of Mixtral 8x7B. Each run is
a process of its own. Markdown goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

SMALLEST = 256
"""Experts up to which layers are those of Mixtral 8x7B, and not of DeepSeek-V3."""

SIZES: tuple[tuple[int, int], ...] = (
    (256, 4),
    (1024, 6),
    (4096, 10),
    (14848, 16),
    (32768, 32),
    (100096, 64),
)
"""Experts and servers, growing together."""

SERVERS = 16
"""Of the sizes whose slope in experts is printed."""

SLOPE: tuple[tuple[int, int], ...] = tuple(
    (experts, SERVERS) for experts in (1024, 4096, 14848, 32768)
)

GAP = 0.01

SEED = 1
"""Of instances (or the first after it that can be planted), and of `auto`."""

PARAMETERS: dict[str, Any] = {
    "radius_km": 15.0,
    "tightness": 0.004,
    "tight_links": 4,
    "backbone_bits": 8.0,
    "formats": ["int6-g64", "int4-g64", "int3-g64", "int2-g64"],
    "devices": ["l40s", "rtx-pro-6000-server", "a100-pcie", "rtx-a6000"],
    "fit": 1.3,
    "bandwidth": ["1 Gbit/s", "4 Gbit/s"],
    "latency": ["0.1 ms", "2 ms"],
    "quality": ["30 mnats", "60 mnats"],
    "curve_scale": 8.0,
    "reuse": 8.0,
    "ram": "32 GiB",
    "ram_servers": 2,
}
"""Those of `deepseek-v3/metro-16`; one layer of ten may prune and fuse."""


def measure(experts: int, servers: int, limit: float, loose: bool) -> dict[str, Any]:
    """Generate, solve with `auto` until the gap, and say what it took."""
    import resource
    import time
    from unittest import mock

    import msgspec

    from meldopt import build_problem, catalogue
    from meldopt.errors import InstanceError
    from meldopt.generate import generate
    from meldopt.solver import AnyOf, MaxRuntime, TargetGap, make_solver

    model = "mixtral-8x7b" if experts <= SMALLEST else "deepseek-v3"
    known = catalogue.model(model)
    layers = -(-experts // known.experts)
    # No model has this many layers: more of the same.
    first = known.layer_ids[0]
    deep = msgspec.structs.replace(
        known, moe_layers=layers, layer_ids=tuple(range(first, first + layers))
    )
    begun = time.perf_counter()
    parameters = PARAMETERS | {
        "model": model,
        "servers": servers,
        "curve_layers": max(layers // 10, 1),
    }
    if loose:
        parameters |= {"tightness": None}
    name = f"scaling-{experts}-{servers}"
    with mock.patch.object(catalogue, "model", return_value=deep):
        for seed in range(SEED, SEED + 20):
            try:
                instance = generate(
                    "metro", name=name, seed=seed, parameters=parameters
                )
            except InstanceError:  # no caps fit the planted plan: another seed
                continue
            break
        problem = build_problem(instance)
    generated = time.perf_counter() - begun
    progress = f"{experts}x{servers}: generated in {generated:.0f} s"
    print(progress, file=sys.stderr, flush=True)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, cpu = time.perf_counter(), time.process_time()
    result = make_solver("auto").solve(
        problem, stop=AnyOf(MaxRuntime(limit), TargetGap(GAP)), seed=SEED
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "experts": problem.num_experts,
        "servers": servers,
        "seed": seed,
        "demands": problem.num_demands,
        "wall": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        "gap": result.gap if result.feasible else None,
        "bound": result.bound,
        "feasible": result.feasible,
        "peak": after / 2**20,
        "before": before / 2**20,
        "generated": generated,
        "by": dict(result.params or {}).get("found_by"),
    }


def run(experts: int, servers: int, limit: float, *, loose: bool) -> dict[str, Any]:
    """Measure in a new process."""
    argument = json.dumps([experts, servers, limit, loose])
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scaling", "--one", argument],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
        check=False,
    )
    if done.returncode:
        print(f"{experts}x{servers}: failed", file=sys.stderr)
        return {"experts": experts, "servers": servers, "gap": None}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def row(found: dict[str, Any], limit: float) -> str:
    """Return a line of the table."""
    gap = found["gap"]
    reached = gap is not None and gap <= GAP
    seconds = "" if reached else f"> {limit:g} s: "

    def figure(key: str, unit: str, digits: str = ".0f") -> str:
        value = found.get(key)
        return "–" if value is None else f"{value:{digits}} {unit}"

    cells = [
        f"{found['experts']:,}",
        str(found["servers"]),
        seconds + figure("wall", "s"),
        figure("cpu", "s"),
        "–" if gap is None else f"{100 * gap:.2f} %",
        figure("peak", "GiB", ".1f"),
    ]
    return "| " + " | ".join(cells) + " |"


def slope(found: list[dict[str, Any]], key: str) -> float | None:
    """Return the log-log slope in experts of those that reached the gap."""
    done = [f for f in found if f["gap"] is not None and f["gap"] <= GAP]
    if len(done) < 2:
        return None
    x = np.log([f["experts"] for f in done])
    y = np.log([f[key] for f in done])
    return float(np.polyfit(x, y, 1)[0])


def size(text: str) -> tuple[int, int]:
    """Read EXPERTSxSERVERS."""
    experts, _, servers = text.partition("x")
    try:
        return int(experts), int(servers)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected EXPERTSxSERVERS"
        ) from None


def main(arguments: list[str]) -> int:
    """Run the sizes and print the table."""
    parser = argparse.ArgumentParser(prog="scaling", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=size, metavar="SIZE")
    parser.add_argument("--largest", type=int, default=None, help="experts, at most")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of a run")
    parser.add_argument(
        "--loose",
        action="store_true",
        help="caps as drawn, none set around a planted plan: quickly made",
    )
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        print(json.dumps(measure(*json.loads(given.one))))
        return 0
    sizes = given.sizes or list(dict.fromkeys(SIZES + SLOPE))
    if given.largest is not None:
        sizes = [each for each in sizes if each[0] <= given.largest]
    print("| experts | servers | time | CPU | gap | memory |")
    print("|---:|---:|---:|---:|---:|---:|")
    found = []
    for experts, servers in sizes:
        found.append(run(experts, servers, given.limit, loose=given.loose))
        print(row(found[-1], given.limit), flush=True)
    fixed = [f for f in found if (f["experts"], f["servers"]) in SLOPE]
    for key, label in (("wall", "time"), ("cpu", "CPU")):
        value = slope(fixed, key)
        if value is not None:
            print(f"\nslope of {label} in experts at {SERVERS} servers: {value:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

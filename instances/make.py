"""Make the bundled instances and their index.

    python instances/make.py freeze NAME…     generate instances and their planted plans
    python instances/make.py best NAME PLAN   keep a plan if it is the best one known
    python instances/make.py polish NAME…     improve the shares of the best plans by LP
    python instances/make.py index            write index.json from what is there

Frozen instances are not made again unless ``--force`` is given: their digests, and the
plans and bounds that were found for them, are what people compare with.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import meldopt
from meldopt import build_problem, read_instance, read_plan, score, write_instance
from meldopt.files import (
    FORMAT_VERSION,
    arrays_to_bytes,
    write_bytes,
)
from meldopt.gap import relative_gap
from meldopt.generate import families, generate, generate_with_plan
from meldopt.instance import Instance, RecipeFile, RecipeSpec
from meldopt.library import BestEntry, IndexEntry, read_index, write_index
from meldopt.plan import Plan, plan_to_file, write_plan

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.score import Score

FOLDER = Path(__file__).parent
LARGE = 2000  # experts from which on best plans are written without white space
ABOUT = {
    "licence": "Apache-2.0",
    "note": "Popularity drawn to match published statistics; losses are synthetic "
    "magnitudes in line with published tables. See instances/README.md.",
}


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """How a bundled instance was generated.

    ``recipe`` instances keep no arrays: reading generates them again.
    """

    seed: int
    parameters: dict[str, Any] = field(default_factory=dict)
    family: str = "metro"
    recipe: bool = False

    @property
    def planted(self) -> bool:
        """Whether a plan is planted in it."""
        return self.parameters.get("tightness") is not None


EDGE = {"radius_km": 15.0, "tightness": 0.004, "tight_links": 2}

CAMPUS = {
    "servers": [
        {
            "name": "lab",
            "device": "rtx-4090",
            "tiers": {"gpu": {"capacity": "20 GiB"}, "ram": {"capacity": "64 GiB"}},
        },
        {"name": "hall", "device": "jetson-orin-64"},
        {"name": "roof", "device": "l4"},
        {"name": "van", "device": "rtx-3060", "reserve": "2 GiB"},
    ],
    "links": [
        {"between": ["lab", "hall"], "bandwidth": "1 Gbit/s", "latency": "0.6 ms"},
        {"between": ["lab", "roof"], "bandwidth": "10 Gbit/s", "latency": "0.2 ms"},
        {"between": ["hall", "van"], "bandwidth": "80 Mbit/s", "latency": "9 ms"},
    ],
}

FROZEN: dict[str, Frozen] = {
    "mixtral-8x7b/campus-4": Frozen(
        family="explicit",
        seed=4,
        parameters={
            "model": "mixtral-8x7b",
            "domains": ["prose", "python"],
            "cluster": CAMPUS,
            "workload": {
                "applications": [
                    {"name": "chat", "domain": "prose", "quality_budget": "0.03 nats"},
                    {
                        "name": "code",
                        "domain": "python",
                        "quality_budget": "0.01 nats",
                        "latency_target": "180 ms",
                    },
                ],
                "demands": [
                    {"application": "chat", "home": "hall", "rate": "12 tokens/s"},
                    {"application": "chat", "home": "van", "rate": "3 tokens/s"},
                    {"application": "code", "home": "lab", "rate": "20 tokens/s"},
                ],
            },
            "coverage": True,
        },
    ),
    "mixtral-8x7b/star-3": Frozen(
        family="star",
        seed=3,
        parameters={"servers": 3, "coverage": False, "fit": 2.5},
    ),
    "mixtral-8x7b/cloud-7": Frozen(
        family="device-edge-cloud",
        seed=7,
        parameters={"fit": 2.0, "quality": ["50 mnats", "90 mnats"]},
    ),
    "mixtral-8x7b/metro-4": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "mixtral-8x7b",
            "servers": 4,
            "devices": ["rtx-4090", "l4", "rtx-4070", "jetson-orin-32"],
            "neighbours": 1,
            "fit": 1.5,
            "bandwidth": ["200 Mbit/s", "2 Gbit/s"],
            "latency": ["0.5 ms", "4 ms"],
            "quality": ["50 mnats", "80 mnats"],
            "curve_scale": 4.0,
            "curve_layers": 1,
            "prune": [0.03],
            "fuse": [0.3],
            "reuse": 8.0,
            "tightness": 0.0005,
        },
    ),
    "mixtral-8x7b/metro-10": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "mixtral-8x7b",
            "servers": 10,
            "devices": ["rtx-4090", "l4", "rtx-4070", "jetson-orin-32", "rtx-3060"],
            "ram": "16 GiB",
            "ram_servers": 2,
            "fit": 2.4,
            "bandwidth": ["100 Mbit/s", "1 Gbit/s"],
            "latency": ["0.2 ms", "3 ms"],
            "quality": ["30 mnats", "60 mnats"],
            "curve_scale": 4.0,
            "reuse": 16.0,
            "tight_links": 4,
        },
    ),
    "olmoe-1b-7b/metro-6": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "olmoe-1b-7b",
            "servers": 6,
            "devices": ["jetson-orin-nano-8", "rtx-3060", "jetson-orin-nx-16"],
            "fit": 1.8,
            "bandwidth": ["200 Mbit/s", "2 Gbit/s"],
            "latency": ["0.3 ms", "3 ms"],
            "quality": ["20 mnats", "50 mnats"],
            "curve_scale": 4.0,
            "reuse": 4.0,
        },
    ),
    "gpt-oss-20b/metro-8": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "gpt-oss-20b",
            "formats": ["int8-g128", "mxfp4", "int3-g64", "int2-g64"],
            "servers": 8,
            "devices": ["rtx-4090", "jetson-orin-nx-16", "rtx-3060", "a2"],
            "applications": 3,
            "ram": "8 GiB",
            "ram_servers": 1,
            "fit": 1.8,
            "bandwidth": ["200 Mbit/s", "2 Gbit/s"],
            "latency": ["0.2 ms", "3 ms"],
            "quality": ["15 mnats", "40 mnats"],
            "curve_scale": 4.0,
            "reuse": 8.0,
        },
    ),
    "qwen3-30b-a3b/metro-10": Frozen(
        seed=1,
        parameters=EDGE
        | {
            "model": "qwen3-30b-a3b",
            "servers": 10,
            "devices": ["rtx-4090", "l4", "rtx-3060", "jetson-orin-32"],
            "fit": 1.8,
            "bandwidth": ["500 Mbit/s", "4 Gbit/s"],
            "latency": ["0.2 ms", "3 ms"],
            "quality": ["20 mnats", "50 mnats"],
            "curve_scale": 8.0,
            "curve_layers": 12,
            "ram": "4 GiB",
            "ram_servers": 2,
        },
    ),
    "deepseek-v3/metro-16": Frozen(
        seed=1,
        recipe=True,
        parameters=EDGE
        | {
            "model": "deepseek-v3",
            "backbone_bits": 8.0,
            "formats": ["int6-g64", "int4-g64", "int3-g64", "int2-g64"],
            "servers": 16,
            "devices": ["l40s", "rtx-pro-6000-server", "a100-pcie", "rtx-a6000"],
            "fit": 1.3,
            "bandwidth": ["1 Gbit/s", "4 Gbit/s"],
            "latency": ["0.1 ms", "2 ms"],
            "quality": ["30 mnats", "60 mnats"],
            "curve_scale": 8.0,
            "curve_layers": 6,
            "reuse": 8.0,
            "ram": "32 GiB",
            "ram_servers": 2,
            "tight_links": 4,
        },
    ),
    "kimi-k2/metro-32": Frozen(
        seed=1,
        recipe=True,
        parameters=EDGE
        | {
            "model": "kimi-k2",
            "backbone_bits": 8.0,
            "formats": ["int6-g64", "int4-g64", "int3-g64", "int2-g64"],
            "servers": 32,
            "devices": ["l40s", "rtx-pro-6000-server", "a100-pcie", "rtx-a6000"],
            "fit": 1.15,
            "bandwidth": ["1 Gbit/s", "4 Gbit/s"],
            "latency": ["0.1 ms", "2 ms"],
            "quality": ["30 mnats", "60 mnats"],
            "curve_scale": 8.0,
            "curve_layers": 3,
            "reuse": 8.0,
            "ram": "16 GiB",
            "ram_servers": 2,
            "tight_links": 6,
        },
    ),
}


def path_of(name: str) -> Path:
    """Return the file of an instance."""
    return FOLDER / f"{name}.json"


def plan_of(name: str) -> Path:
    """Return the file of its best plan."""
    return FOLDER / "best" / f"{name}.plan.json"


def freeze(name: str, *, force: bool) -> None:
    """Generate an instance and write it, with its planted plan if it has one."""
    if path_of(name).exists() and not force:
        raise SystemExit(f"{name}: is frozen; --force makes it again")
    made = FROZEN[name]
    arguments = {
        "name": name.replace("/", "-"),
        "seed": made.seed,
        "parameters": made.parameters,
    }
    plan = None
    if made.planted:
        instance, plan = generate_with_plan(made.family, **arguments)
    else:
        instance = generate(made.family, **arguments)
    about = ABOUT | {"generator": f"python instances/make.py freeze {name}"}
    path_of(name).parent.mkdir(parents=True, exist_ok=True)
    if made.recipe:
        write_recipe(instance, made, about, path_of(name))
    else:
        write_instance(instance.replace(about=about), path_of(name), inline_below=0)
    again = read_instance(path_of(name))
    if again.digest() != instance.digest():
        raise SystemExit(f"{name}: reads back with another digest")
    problem = build_problem(again)
    if plan is None:
        for old in plan_of(name).parent.glob(f"{path_of(name).stem}.plan.*"):
            old.unlink()  # of another instance, of the same name
        entries = read_index(FOLDER)
        entries[name] = entry_of(name, again, problem, None)
        write_index(entries, FOLDER)
    else:
        plan = Plan.of(problem, plan.copies, **plan.arrays())
        keep(name, problem, plan, solver="planted", seed=made.seed, force=True)


def write_recipe(
    instance: Instance, made: Frozen, about: dict[str, Any], path: Path
) -> None:
    """Write a recipe: the caps are spelled out, only the profile is drawn again."""
    kept = tuple(families()["explicit"].parameters)
    spec = instance.spec
    drawn = ("applications", "homes", "rate", "load", "uneven", "quality", "tightness")
    parameters = {
        key: value
        for key, value in made.parameters.items()
        if key in kept and key not in (*drawn, "tight_links", "reuse", "busy")
    }
    parameters |= {
        "cluster": msgspec.to_builtins(spec.cluster),
        "workload": msgspec.to_builtins(spec.workload),
        "limits": msgspec.to_builtins(spec.limits),
    }
    file = RecipeFile(
        format_version=FORMAT_VERSION,
        name=instance.name,
        about=about,
        recipe=RecipeSpec(family="explicit", seed=made.seed, parameters=parameters),
        digest=instance.digest(),
    )
    text = msgspec.json.format(msgspec.json.encode(file), indent=1)
    write_bytes(path, text + b"\n")


def keep(
    name: str,
    problem: Problem,
    plan: Plan,
    *,
    solver: str,
    seed: int | None,
    bound: float | None = None,
    time_limit: float | None = None,
    force: bool = False,
) -> None:
    """Write a plan as the best one known, if it is, and say so in the index."""
    judged = score(problem, plan)
    if not judged.feasible:
        worst = judged.violations[0]
        raise SystemExit(f"{name}: the plan breaks {worst.row} {worst.where}")
    entries = read_index(FOLDER) if (FOLDER / "index.json").exists() else {}
    old = entries[name].best if name in entries else None
    known = old.bound if old is not None and not force else None
    bounds = [value for value in (bound, known) if value is not None]
    best = max(bounds) if bounds else None
    better = old is None or force or judged.objective < old.objective
    if not better and best == old.bound:
        print(f"{name}: {judged.objective:.9g} is not better than {old.objective:.9g}")
        return
    if better:
        entry = BestEntry(
            objective=judged.objective,
            bound=best,
            solver=solver,
            seed=seed,
            version=meldopt.__version__,
            date=datetime.date.today().isoformat(),
            time_limit_s=time_limit,
        )
    else:  # only its bound is news
        plan = read_plan(plan_of(name), problem)
        judged = score(problem, plan)
        entry = msgspec.structs.replace(old, bound=best)
    write_best(name, problem, plan.with_record(record_of(entry, judged)))
    entries[name] = entry_of(name, read_instance(path_of(name)), problem, entry)
    write_index(entries, FOLDER)
    print(f"{name}: objective {entry.objective:.9g}, bound {entry.bound}")


def record_of(entry: BestEntry, judged: Score) -> dict[str, Any]:
    """Return what the file of a best plan says about it."""
    record: dict[str, Any] = {
        "terms": dict(judged.terms),
        "objective": judged.objective,
        "solver": entry.solver,
        "versions": {"meldopt": entry.version},
    }
    if entry.bound is not None:
        record["bound"] = entry.bound
        record["gap"] = relative_gap(judged.objective, entry.bound)
    if entry.seed is not None:
        record["seed"] = entry.seed
    return record


def write_best(name: str, problem: Problem, plan: Plan) -> None:
    """Write a best plan; large ones without white space and budgets."""
    path = plan_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name.removesuffix(".json") + ".npz")
    beside.unlink(missing_ok=True)
    if problem.num_experts < LARGE:
        write_plan(plan, path, problem=problem)
        return
    file, arrays = plan_to_file(plan, budgets=[], stem=path.name.removesuffix(".json"))
    if arrays:
        write_bytes(beside, arrays_to_bytes(arrays))
    write_bytes(path, msgspec.json.encode(file) + b"\n")


def entry_of(
    name: str, instance: Instance, problem: Problem, best: BestEntry | None
) -> IndexEntry:
    """Describe an instance for the index."""
    recipe = b'"recipe"' in path_of(name).read_bytes()
    return IndexEntry(
        digest=instance.digest(),
        dataflow=problem.dataflow,
        layers=problem.num_layers,
        experts=problem.num_experts,
        servers=problem.num_servers,
        demands=problem.num_demands,
        formats=problem.num_formats,
        recipe=recipe,
        best=best,
    )


def index() -> None:
    """Write the index: what is known of a plan that has not changed is kept."""
    path = FOLDER / "index.json"
    old = read_index(FOLDER) if path.exists() else {}
    entries = {}
    for file in sorted(FOLDER.glob("*/*.json")):
        name = file.relative_to(FOLDER).with_suffix("").as_posix()
        instance = read_instance(file)
        problem = build_problem(instance)
        best = old[name].best if name in old else None
        if plan_of(name).exists():
            plan = read_plan(plan_of(name), problem)
            objective = score(problem, plan).objective
            if best is None or abs(best.objective - objective) > 1e-9 * abs(objective):
                best = BestEntry(
                    objective=objective,
                    bound=plan.record.get("bound"),
                    solver=plan.record.get("solver", "unknown"),
                    seed=plan.record.get("seed"),
                    version=plan.record.get("versions", {}).get(
                        "meldopt", meldopt.__version__
                    ),
                    date=datetime.date.today().isoformat(),
                )
        else:
            best = None
        entries[name] = entry_of(name, instance, problem, best)
    write_index(entries, FOLDER)
    planned = sum(entry.best is not None for entry in entries.values())
    print(f"{len(entries)} instances, {planned} with a plan")


def best(name: str, file: Path, time_limit: float | None) -> None:
    """Keep a plan that some solver wrote, if it is the best one known."""
    problem = build_problem(read_instance(path_of(name)))
    plan = read_plan(file, problem)
    keep(
        name,
        problem,
        plan,
        solver=plan.record.get("solver", "unknown"),
        seed=plan.record.get("seed"),
        bound=plan.record.get("bound"),
        time_limit=time_limit,
    )


def polish(name: str) -> None:
    """Keep the copies of the best plan and take the best shares, by an LP."""
    from meldopt.formulations.shares import best_shares

    problem = build_problem(read_instance(path_of(name)))
    plan = read_plan(plan_of(name), problem)
    better = best_shares(problem, plan.copies)
    if better is not None:
        solver = f"{plan.record.get('solver', 'unknown')} + shares"
        keep(name, problem, better, solver=solver, seed=plan.record.get("seed"))


def main() -> None:
    """Run one of the commands above."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("freeze")
    made.add_argument("names", nargs="+", choices=sorted(FROZEN), metavar="NAME")
    made.add_argument("--force", action="store_true")
    better = commands.add_parser("best")
    better.add_argument("name")
    better.add_argument("plan", type=Path)
    better.add_argument("--time-limit", type=float)
    polished = commands.add_parser("polish")
    polished.add_argument("names", nargs="+")
    commands.add_parser("index")
    given = parser.parse_args()
    if given.command == "freeze":
        for name in given.names:
            freeze(name, force=given.force)
    elif given.command == "best":
        best(given.name, given.plan, given.time_limit)
    elif given.command == "polish":
        for name in given.names:
            polish(name)
    else:
        index()


if __name__ == "__main__":
    sys.exit(main())

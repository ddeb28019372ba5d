"""Make the bundled instances and their index.

    python instances/make.py freeze NAME…     generate instances and planted plans
    python instances/make.py solve NAME…      run solvers, keep best plans and bounds
    python instances/make.py best NAME PLAN   keep a plan if it is the best known
    python instances/make.py polish NAME…     improve the shares of best plans by LP
    python instances/make.py index            write index.json from what is there

NAME may be a pattern such as 'metro/*'; without one, ``freeze`` makes what is not there
yet and ``solve`` takes all. Frozen instances are not made again unless ``--force`` is
given: their digests, and the plans and bounds that were found for them, are what people
compare with. ``solve`` starts each solver from the best plan known.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from frozen import FROZEN, Frozen

import meldopt
from meldopt import best as library
from meldopt import (
    build_problem,
    read_instance,
    read_plan,
    score,
    solve,
    write_instance,
)
from meldopt.errors import MeldoptError
from meldopt.files import FORMAT_VERSION, write_bytes
from meldopt.gap import is_closed, relative_gap
from meldopt.generate import families, generate, generate_with_plan
from meldopt.instance import Instance, RecipeFile, RecipeSpec
from meldopt.library import BestEntry, read_index, write_index
from meldopt.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meldopt.problem import Problem

FOLDER = Path(__file__).parent
ABOUT = {
    "licence": "Apache-2.0",
    "note": "Popularity drawn to match published statistics; losses are synthetic "
    "magnitudes in line with published tables. See instances/README.md.",
}


def path_of(name: str) -> Path:
    """Return the file of an instance."""
    return library.instance_path(FOLDER, name)


def plan_of(name: str) -> Path:
    """Return the file of its best plan."""
    return library.plan_path(FOLDER, name)


def freeze(name: str, *, force: bool) -> None:
    """Generate an instance and write it, with its planted plan if it has one."""
    if path_of(name).exists() and not force:
        raise SystemExit(f"{name}: is frozen; --force makes it again")
    made = FROZEN[name]
    instance, plan = drawn(name, made)
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
        entries[name] = library.entry_of(path_of(name), again, problem, None)
        write_index(entries, FOLDER)
        print(f"{name}: {problem.num_experts} experts, no plan", flush=True)
    else:
        plan = Plan.of(problem, plan.copies, **plan.arrays())
        keep(name, problem, plan, solver="planted", seed=made.seed, force=True)


def drawn(name: str, made: Frozen) -> tuple[Instance, Plan | None]:
    """Generate an instance, and the plan that is planted in it if there is one."""
    label = name.replace("/", "-")
    if made.before is not None:
        return shifted(label, FROZEN[made.before], made.before), None
    family, parameters = made.family, made.parameters
    if made.zipf:  # the rates are known once the cluster is, the caps only after that
        loose = {key: value for key, value in parameters.items() if key != "tightness"}
        spec = generate(family, name=label, seed=made.seed, parameters=loose).spec
        family, parameters = "explicit", explicit(made)
        parameters |= {
            "tightness": made.parameters["tightness"],
            "cluster": msgspec.to_builtins(spec.cluster),
            "workload": by_rank(msgspec.to_builtins(spec.workload)),
            "limits": msgspec.to_builtins(spec.limits),
        }
    if made.planted:
        return generate_with_plan(
            family, name=label, seed=made.seed, parameters=parameters
        )
    return generate(family, name=label, seed=made.seed, parameters=parameters), None


def by_rank(workload: dict[str, Any]) -> dict[str, Any]:
    """Let the rates of the homes follow Zipf's law; each keeps its mix."""
    rates = [float(demand["rate"].split()[0]) for demand in workload["demands"]]
    homes = [demand["home"] for demand in workload["demands"]]
    order = list(dict.fromkeys(homes))
    of = {home: 0.0 for home in order}
    for home, rate in zip(homes, rates, strict=True):
        of[home] += rate
    harmonic = sum(1 / (rank + 1) for rank in range(len(order)))
    want = {home: sum(rates) / harmonic / (rank + 1) for rank, home in enumerate(order)}
    demands = [
        demand | {"rate": f"{rate * want[home] / of[home]:.4g} tokens/s"}
        for demand, home, rate in zip(workload["demands"], homes, rates, strict=True)
    ]
    return workload | {"demands": demands}


def shifted(label: str, made: Frozen, before: str) -> Instance:
    """Generate the twin of a recipe: half of all text is of the next domain."""
    file = msgspec.json.decode(path_of(before).read_bytes(), type=RecipeFile)
    parameters = dict(file.recipe.parameters)
    applications = parameters["workload"]["applications"]
    domains = [application["domain"] for application in applications]
    shifted = [
        application | {"domain": {mine: 0.5, domains[(n + 1) % len(domains)]: 0.5}}
        for n, (application, mine) in enumerate(zip(applications, domains, strict=True))
    ]
    parameters["workload"] = parameters["workload"] | {"applications": shifted}
    return generate("explicit", name=label, seed=made.seed, parameters=parameters)


def explicit(made: Frozen) -> dict[str, Any]:
    """Return the parameters that still say something once the caps are written out."""
    kept = tuple(families()["explicit"].parameters)
    told = ("applications", "homes", "rate", "load", "uneven", "quality", "tightness")
    return {
        key: value
        for key, value in made.parameters.items()
        if key in kept and key not in (*told, "tight_links", "reuse", "busy")
    }


def write_recipe(
    instance: Instance, made: Frozen, about: dict[str, Any], path: Path
) -> None:
    """Write a recipe: the caps are spelled out, only the profile is drawn again."""
    spec = instance.spec
    source = made if made.before is None else FROZEN[made.before]
    parameters = explicit(source) | {
        "cluster": msgspec.to_builtins(spec.cluster),
        "workload": msgspec.to_builtins(spec.workload),
        "limits": msgspec.to_builtins(spec.limits),
    }
    file = RecipeFile(
        format_version=FORMAT_VERSION,
        name=instance.name,
        about=about,
        recipe=RecipeSpec(family="explicit", seed=source.seed, parameters=parameters),
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
    """Write a plan as the best one known, if it is, and say so."""
    try:
        verdict = library.keep(
            name,
            problem,
            plan,
            folder=FOLDER,
            solver=solver,
            seed=seed,
            bound=bound,
            time_limit=time_limit,
            force=force,
        )
    except MeldoptError as exc:
        raise SystemExit(str(exc)) from exc
    print(f"{name}: {verdict.text()}, bound {verdict.bound} ({solver})", flush=True)


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
        entries[name] = library.entry_of(file, instance, problem, best)
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


def solve_all(
    names: Sequence[str],
    solvers: Sequence[str],
    *,
    time_limit: float,
    seed: int,
    open_only: bool,
    gap: float | None = None,
) -> None:
    """Run solvers, each from the best plan known; keep the best plan and bound of any.

    A solver that cannot honour an instance, finds nothing or fails is skipped with a
    line; so are, with ``open_only``, instances whose gap is closed, or no more than
    ``gap``, at which solvers end.
    """
    for name in names:
        problem = build_problem(read_instance(path_of(name)))
        for solver in solvers:
            known = read_index(FOLDER)[name].best
            if open_only and known is not None and closed(known, gap):
                break
            start = read_plan(plan_of(name), problem) if known is not None else None
            try:
                result = solve(
                    problem,
                    solver,
                    time_limit=time_limit,
                    gap=gap,
                    seed=seed,
                    start=start,
                )
            except MeldoptError as exc:
                print(f"{name}: {solver}: {exc}", file=sys.stderr, flush=True)
                continue
            plan = result.plan if result.feasible else start
            if plan is None:
                print(f"{name}: {result.status} by {solver}", flush=True)
                continue
            keep(
                name,
                problem,
                plan,
                solver=solver,
                seed=seed,
                bound=result.bound,
                time_limit=time_limit,
            )


def closed(known: BestEntry, gap: float | None) -> bool:
    """Say whether nothing, or no more than a gap, is left between plan and bound."""
    left = relative_gap(known.objective, known.bound)
    near = gap is not None and left is not None and left <= gap
    return near or is_closed(known.objective, known.bound)


def matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names that any of the patterns matches; all without a pattern."""
    found = [
        name
        for name in names
        if not patterns or any(fnmatch.fnmatchcase(name, one) for one in patterns)
    ]
    if not found:
        raise SystemExit(f"no instance is called {' or '.join(patterns)}")
    return found


def main() -> None:
    """Run one of the commands above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("freeze")
    made.add_argument("names", nargs="*", metavar="NAME")
    made.add_argument("--force", action="store_true")
    solved = commands.add_parser("solve")
    solved.add_argument("names", nargs="*", metavar="NAME")
    solved.add_argument("-s", "--solvers", default="auto,lns")
    solved.add_argument("-t", "--time-limit", type=float, default=60.0)
    solved.add_argument("--seed", type=int, default=0)
    solved.add_argument(
        "--open", action="store_true", help="skip what is proved, within --gap"
    )
    solved.add_argument("--gap", type=float, help="relative, at which solvers end")
    better = commands.add_parser("best")
    better.add_argument("name")
    better.add_argument("plan", type=Path)
    better.add_argument("--time-limit", type=float)
    polished = commands.add_parser("polish")
    polished.add_argument("names", nargs="+")
    commands.add_parser("index")
    given = parser.parse_args()
    if given.command == "freeze":
        there = [] if given.names else [n for n in FROZEN if path_of(n).exists()]
        for name in matching(given.names, [n for n in FROZEN if n not in there]):
            freeze(name, force=given.force)
    elif given.command == "solve":
        solve_all(
            matching(given.names, sorted(read_index(FOLDER))),
            given.solvers.split(","),
            time_limit=given.time_limit,
            seed=given.seed,
            open_only=given.open,
            gap=given.gap,
        )
    elif given.command == "best":
        best(given.name, given.plan, given.time_limit)
    elif given.command == "polish":
        for name in matching(given.names, sorted(read_index(FOLDER))):
            polish(name)
    else:
        index()


if __name__ == "__main__":
    sys.exit(main())

"""The documentation says what the code does: keys, defaults, symbols, examples."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from meldopt import instance as instance_module
from meldopt import plan as plan_module
from meldopt.builder import PROFILE_ARRAYS, build_problem
from meldopt.errors import InstanceError
from meldopt.formulations.milp import TIGHTENINGS, build_milp
from meldopt.instance import parse_instance
from meldopt.plan import Plan
from meldopt.problem import TERMS, Problem
from meldopt.score import score
from meldopt.solver import solver_infos
from meldopt.testing import contract_instance, single_copy_plans
from meldopt.trace import TraceHeader
from meldopt.trace import records as trace_module
from meldopt.units import UNITS, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "The document": instance_module.InstanceSpec,
    "`model`": instance_module.ModelSpec,
    "A format": instance_module.FormatSpec,
    "`cluster`": instance_module.ClusterSpec,
    "A server": instance_module.ServerSpec,
    "A tier": instance_module.TierSpec,
    "A link": instance_module.LinkSpec,
    "`workload`": instance_module.WorkloadSpec,
    "An application": instance_module.ApplicationSpec,
    "A demand": instance_module.DemandSpec,
    "`limits`": instance_module.LimitsSpec,
    "A count row": instance_module.CountSpec,
    "A uniform group": instance_module.UniformSpec,
    "A pinned or forbidden copy": instance_module.CopySpec,
    "A cap on transfer budgets": instance_module.BudgetSpec,
    "`objective`": instance_module.ObjectiveSpec,
    "The trace header": TraceHeader,
    "Recipe": instance_module.RecipeFile,
    "`recipe`": instance_module.RecipeSpec,
    "The plan document": plan_module.PlanFile,
    "`instance` of a plan": plan_module.InstanceRef,
    "A copy": plan_module.CopyEntry,
    "A share": plan_module.ShareEntry,
    "A served share": plan_module.ServedEntry,
    "A substituted share": plan_module.SubstitutedEntry,
    "A transfer budget": plan_module.BudgetEntry,
}
"""Heading in ``docs/files.md`` of each kind of object in a file."""


def section(page: str, heading: str) -> str:
    """Return the text under a heading, up to the next one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blank = re.sub(r"^```.*?^```", _same_lines, text, flags=re.M | re.S)
    start = re.search(rf"^#+ {re.escape(heading)}$", blank, re.M)
    assert start is not None, f"{page} has no heading {heading!r}"
    rest = re.search(r"^#+ ", blank[start.end() :], re.M)
    end = len(blank) if rest is None else start.end() + rest.start()
    return text[start.end() : end]


def _same_lines(match: re.Match[str]) -> str:
    """Blank a code block and keep every position."""
    return re.sub(r"[^\n]", " ", match.group())


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    found = re.search(r"^(\|.*\n)+", section(page, heading), re.M)
    lines = [] if found is None else found.group().splitlines()
    assert len(lines) > 2, f"{page}, {heading}: no table"
    return [
        [
            cell.strip().replace("\\|", "|")
            for cell in re.split(r"(?<!\\)\|", line)[1:-1]
        ]
        for line in lines[2:]
    ]


def names(cell: str) -> list[str]:
    """Return the names in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yield the code blocks of a page in a language."""
    for match in re.finditer(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S
    ):
        yield match.group(1)


# -- files ---------------------------------------------------------------------------


@pytest.mark.parametrize("heading", SECTIONS)
def test_keys_of_files(heading: str) -> None:
    """Each table of keys has exactly the keys of the code, with their defaults."""
    documented = {}
    for key, _, default, *_ in table("files.md", heading):
        documented[names(key)[0]] = default
    coded = {}
    for field in msgspec.structs.fields(SECTIONS[heading]):
        value = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            value = field.default_factory()
        if value is msgspec.NODEFAULT:
            coded[field.encode_name] = "required"
        elif value is None:
            coded[field.encode_name] = "none"
        else:
            encoded = json.loads(msgspec.json.encode(value))
            coded[field.encode_name] = f"`{json.dumps(encoded)}`"
    assert documented == coded


def test_every_file_object_is_documented() -> None:
    """No kind of object that a file may hold is missing from the page."""
    coded = {
        kind
        for module in (instance_module, plan_module, trace_module)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, msgspec.Struct)
        and kind.__module__ == module.__name__
        and not kind.__name__.startswith("_")
    }
    assert set(SECTIONS.values()) == coded


def full_profile(*, per_token: bool) -> dict[str, Any]:
    """Return a profile with every array, the loss given in one way or the other."""
    base = contract_instance("roam").arrays
    curve = np.full((1, 2, 1), 0.1)
    profile = {
        **base,
        "parameters": np.full(4, 8.0),
        "size": np.full((4, 2), 8.0),
        "prune_width": curve,
        "prune_loss": curve,
        "fuse_width": curve,
        "fuse_loss": curve,
        "similar": np.array([[0, 1]]),
        "similar_loss": np.full((2, 1), 0.1),
        "sample_experts": np.zeros((3, 2, 1), dtype=np.int64),
        "sample_domain": np.array([0, 1, 1]),
    }
    if per_token:
        profile["kl"] = profile.pop("loss")
        profile["kl_calls"] = base["calls"]
    return profile


def test_profile_arrays() -> None:
    """The page lists every array that the builder reads, and it refuses any other."""
    documented = [names(row[0])[0] for row in table("files.md", "Profile")]
    assert sorted(documented) == sorted(PROFILE_ARRAYS)
    spec = contract_instance("loose").spec
    profiles = full_profile(per_token=False), full_profile(per_token=True)
    assert set(documented) == set(profiles[0]) | set(profiles[1])
    for profile in profiles:
        build_problem(instance_module.Instance(spec=spec, arrays=profile))
        for name in (*profile, "no_such_array"):
            # No array is a scalar: one that is read is refused.
            wrong = instance_module.Instance(
                spec=spec, arrays={**profile, name: np.array(0.5)}
            )
            with pytest.raises(InstanceError, match=re.escape(f"profile.{name}")):
                build_problem(wrong)


def test_plan_arrays() -> None:
    """The page lists every array of a plan, with as many columns as it has."""
    plan = single_copy_plans(build_problem(contract_instance("loose")))[0]
    arrays = plan.arrays()
    rows = table("files.md", "Arrays of a plan")
    assert sorted(names(row[0])[0] for row in rows) == sorted(arrays)
    for cell, shape, columns in rows:
        array = arrays[names(cell)[0]]
        width = shape.split(", ")[1:]
        assert [str(size) for size in array.shape[1:]] == width
        assert len(columns.split(", ")) == (int(width[0]) if width else 1)


def test_units() -> None:
    """The page lists every kind of quantity, and each spelling that it shows works."""
    rows = table("files.md", "Files")
    assert {names(row[1])[0] for row in rows} == set(UNITS)
    for _, unit, spellings in rows:
        for spelling in names(spellings):
            if spelling == "/s":  # any size with it
                continue
            assert parse_quantity(f"1 {spelling}", names(unit)[0]) > 0


def test_examples_of_files() -> None:
    """The instance on the page builds, and the plan on it has the documented shape."""
    example, plan = blocks(DOCS / "files.md", "json")
    problem = build_problem(parse_instance(example.encode(), "example", DOCS))
    assert problem.num_servers == 2
    file = msgspec.json.decode(plan.encode(), type=plan_module.PlanFile)
    assert file.budgets[0].kept == 0.7


def test_example_of_an_error() -> None:
    """The error on the page is the one that the builder raises."""
    example = next(blocks(DOCS / "files.md", "json"))
    document = json.loads(example)
    document["cluster"]["servers"][1]["tiers"] = {"gpu": {"capacity": "24 GX"}}
    instance = parse_instance(json.dumps(document).encode(), "campus.json", DOCS)
    with pytest.raises(InstanceError) as caught:
        build_problem(instance)
    assert f"      {caught.value}\n" in (DOCS / "files.md").read_text(encoding="utf-8")


# -- the problem -----------------------------------------------------------------------


def symbols() -> dict[str, tuple[str, str]]:
    """Return shape and unit of each symbol on the page."""
    text = section("problem.md", "Symbols")
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            for name in names(cells[0]):
                assert name not in found, f"{name} stands twice"
                found[name] = (cells[1], cells[2])
    return found


def test_symbols_are_attributes() -> None:
    """The symbols of the page are exactly the arrays and properties of `Problem`."""
    fields = {field.name for field in dataclasses.fields(Problem)}
    derived = {
        name
        for name, value in vars(Problem).items()
        if isinstance(value, cached_property)
    }
    assert set(symbols()) == fields | derived


@pytest.mark.parametrize("kind", ["loose", "roam"])
def test_shapes_of_symbols(kind: str) -> None:
    """Every symbol has the shape that the page says."""
    problem = build_problem(contract_instance(kind))
    size = {
        "L": problem.num_layers,
        "L+1": problem.num_layers + 1,
        "N": problem.num_experts,
        "S": problem.num_servers,
        "V": problem.num_places,
        "P": len(problem.labels.processors),
        "B": problem.num_formats,
        "G": problem.num_applications,
        "Q": problem.num_demands,
        "K": len(problem.labels.links),
        "J": len(problem.similar),
        "R": len(problem.pairs),
        "T": len(problem.sample_demand),
        "2": 2,
        "3": 3,
    }
    for name, (shape, _) in symbols().items():
        value = getattr(problem, name)
        if not shape:
            assert not isinstance(value, np.ndarray) or name == "weights", name
            continue
        axes = shape.split(", ")
        assert value.ndim == len(axes), name
        for axis, got in zip(axes, value.shape, strict=True):
            assert axis in ("M", "k", "F") or size[axis] == got, (name, axis)


def test_terms() -> None:
    """The page defines every term of the objective, in order."""
    assert tuple(names(row[0])[0] for row in table("problem.md", "Terms")) == TERMS


def rows_seen() -> set[str]:
    """Return the names of all rows of instances that ask for every one of them."""
    found: set[str] = set()
    for kind in ("loose", "roam"):
        base = contract_instance(kind)
        document: dict[str, Any] = json.loads(msgspec.json.encode(base.spec))
        names_ = [server["name"] for server in document["cluster"]["servers"]]
        copy = {"layer": 0, "expert": 0, "server": names_[0], "tier": "gpu"}
        document["limits"] = document.get("limits", {}) | {
            "copies": 1,
            "coverage": "any-server",
            "count": [{"name": "slots", "max": 9}],
            "uniform": [{"name": "layer", "layers": "each"}],
            "pin": [{**copy, "format": "wide"}],
            "forbid": [{**copy, "format": "narrow"}],
            "budgets": [{"from": names_[0], "max": 5}],
        }
        for application in document["workload"]["applications"]:
            application |= {"latency_target": 9, "trusted": names_[:1] + names_[2:]}
        spec = msgspec.convert(document, instance_module.InstanceSpec)
        problem = build_problem(instance_module.Instance(spec=spec, arrays=base.arrays))
        plan = Plan.of(problem, single_copy_plans(problem)[0].copies)
        found |= {row.row for row in score(problem, plan).rows}
    return found


def test_rows() -> None:
    """The page lists exactly the rows that `score` reports."""
    documented = [name for row in table("problem.md", "Rows") for name in names(row[0])]
    assert len(documented) == len(set(documented))
    assert set(documented) == rows_seen()


# -- formulations and solvers ----------------------------------------------------------


def test_tightenings() -> None:
    """The page explains every inequality that tightens, and the code has each."""
    rows = table("formulations.md", "What tightens the relaxation")
    assert [names(row[0])[0] for row in rows] == list(TIGHTENINGS)


@pytest.mark.parametrize("kind", ["loose", "roam"])
def test_families_of_rows(kind: str) -> None:
    """Columns and rows of the model are families that the page lists."""
    model = build_milp(build_problem(contract_instance(kind))).model
    for heading, blocks_ in (
        ("Columns", model.columns),
        ("Rows", model.rows),
    ):
        documented = {
            name for row in table("formulations.md", heading) for name in names(row[0])
        }
        assert {block.name for block in blocks_} <= documented


def test_solvers() -> None:
    """The page has a section for each solver, with its parameters and defaults."""
    for name, info in solver_infos().items():
        page = "baselines.md" if info.kind == "baseline" else "solvers.md"
        text = section(page, f"`{name}`")
        shown = {
            names(cells[0])[0]: cells[1]
            for line in text.splitlines()
            if line.startswith("| `")
            for cells in [[cell.strip() for cell in line.split("|")[1:-1]]]
        }
        fields = () if info.params is None else dataclasses.fields(info.params)
        coded = {
            field.name: "none"
            if field.default is None
            else f"`{json.dumps(field.default)}`"
            for field in fields
            if field.init
        }
        assert shown == coded, name


# -- code blocks -----------------------------------------------------------------------

PAGES = [page for page in sorted(DOCS.glob("*.md")) if any(blocks(page, "python"))]


def test_there_is_python_to_run() -> None:
    """At least one page has Python, so that the next test cannot be empty."""
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of a page runs, block after block in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": f"docs_{page.stem}"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec", dont_inherit=True), namespace)


# -- the house -----------------------------------------------------------------------


def test_tree_of_the_house() -> None:
    """The page names every module and folder of the core, and no other."""
    tree = next(blocks(DOCS / "architecture.md", "text"))
    core = tree.partition("solvers/meldopt_solvers/")[0].splitlines()[1:]
    shown = {
        name for line in core for name in re.split(r"\s{2,}", line.strip())[0].split()
    }
    package = ROOT / "meldopt"
    there = {
        path.name for path in package.glob("*.py") if not path.name.startswith("_")
    } | {
        f"{path.name}/"
        for path in package.iterdir()
        if (path / "__init__.py").is_file()
    }
    assert shown == there


def imports_of(path: Path) -> set[str]:
    """Return the modules of meldopt that a file imports, type checking left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    here = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: -node.level]) if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0].startswith("meldopt")}


def test_arrows_run_one_way() -> None:
    """Modules of the core import from the floors that the page says, and no solver."""
    floors = list(blocks(DOCS / "architecture.md", "text"))[2].splitlines()
    floor = {name: -n for n, line in enumerate(floors) for name in line.split()}
    named = {
        path.stem
        for path in (ROOT / "meldopt").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert set(floor) == {name for name in named if not name.startswith("_")}
    for path in sorted((ROOT / "meldopt").rglob("*.py")):
        parts = path.relative_to(ROOT / "meldopt").with_suffix("").parts
        if parts[0].startswith("_"):
            continue
        for name in imports_of(path):
            assert not name.startswith("meldopt_solvers"), path
            target = name.split(".")[1:2]
            if not target or target[0] not in floor:
                continue
            if (parts[0], target[0]) == ("instance", "generate"):
                continue
            assert floor[target[0]] <= floor[parts[0]], f"{path} imports {name}"

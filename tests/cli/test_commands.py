"""The other commands, the help, and what is imported for it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import msgspec
import pytest

import meldopt
from meldopt import catalogue
from meldopt.builder import build_problem
from meldopt.cli import COMMANDS, main
from meldopt.instance import InstanceSpec, read_instance
from meldopt.plan import write_plan
from meldopt.score import score
from meldopt.testing import best_single_copy, contract_instance, single_copy_plans

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Invoke

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def plan(tight: Path, here: Path) -> Path:
    """Return the file of a feasible plan for the tight instance."""
    problem = build_problem(read_instance(tight))
    best = best_single_copy(problem)
    assert best is not None
    write_plan(best, here / "good.plan.json", problem=problem)
    return here / "good.plan.json"


@pytest.fixture
def broken(tight: Path, here: Path) -> Path:
    """Return the file of a plan that breaks a memory row."""
    problem = build_problem(read_instance(tight))
    plan = next(
        plan
        for plan in single_copy_plans(problem)
        if any(one.row == "memory" for one in score(problem, plan).violations)
    )
    write_plan(plan, here / "bad.plan.json", problem=problem)
    return here / "bad.plan.json"


# -- the whole -------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(run: Invoke, command: str) -> None:
    """Each command has a help text whose first line fits into the list of commands."""
    done = run(command, "--help")
    assert done.exit_code == 0
    assert command in done.stdout
    listed = run("--help").stdout
    with click.Context(main) as context:
        found = main.get_command(context, command)
    assert found is not None
    first = found.get_short_help_str(limit=200)
    assert first in listed


def test_help_imports_nothing_heavy() -> None:
    """The help answers at once because no numerical package is imported for it."""
    code = (
        "import sys\n"
        "from meldopt.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numpy', 'scipy', 'networkx', 'msgspec', 'rich', 'numba', 'ortools',"
        " 'pulp', 'highspy', 'meldopt_solvers'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_version(run: Invoke) -> None:
    """--version names the release."""
    done = run("--version")
    assert (done.exit_code, meldopt.__version__ in done.stdout) == (0, True)


def test_an_unknown_command(run: Invoke) -> None:
    """A command that does not exist is bad input."""
    assert run("frobnicate").exit_code == 2
    with click.Context(main) as context:
        assert main.get_command(context, "frobnicate") is None


def test_a_warning_is_one_line(spawn: Spawn) -> None:
    """A plug-in that cannot be loaded is one line, and the rest is listed."""
    process = spawn("solvers")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "toy" in stdout
    (line,) = [line for line in stderr.splitlines() if "engineless" in line]
    assert line.startswith("warning: solver 'engineless'")


def test_an_odd_terminal_is_no_reason_to_fail(spawn: Spawn, tight: Path) -> None:
    """Where the terminal knows only ASCII, other characters are replaced."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "meldopt", "show", str(tight)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"contract-tight" in done.stdout


# -- check -----------------------------------------------------------------------------


def test_check_a_good_plan(run: Invoke, tight: Path, plan: Path) -> None:
    """A feasible plan passes, with terms and the tightest rows."""
    done = run("check", tight, plan)
    assert done.exit_code == 0, done.output
    assert "feasible" in done.stdout
    assert "tightest rows" in done.stdout
    result = json.loads(run("check", tight, plan, "--json").stdout)
    assert (result["status"], result["violations"]) == ("feasible", [])


def test_check_a_broken_plan(run: Invoke, tight: Path, broken: Path) -> None:
    """A plan that breaks rows fails with the rows by name, place and amount."""
    done = run("check", tight, broken, "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert result["status"] == "violating"
    problem = build_problem(read_instance(tight))
    judged = score(problem, meldopt.read_plan(broken, problem))
    assert result["violations"] == [
        {"row": one.row, "where": one.where, "amount": one.amount}
        for one in judged.violations
    ]
    shown = run("check", tight, broken)
    assert shown.exit_code == 1
    assert "memory" in shown.stdout
    quiet = run("check", tight, broken, "-q")
    assert (quiet.exit_code, quiet.output) == (1, "")


def test_check_a_plan_for_another_instance(
    run: Invoke, infeasible: Path, plan: Path
) -> None:
    """A plan is bad input for an instance that it was not made for."""
    done = run("check", infeasible, plan)
    assert done.exit_code == 2
    assert "got a plan for 'contract-tight'" in done.stderr


@dataclass
class Relaxation:
    """Stands for `meldopt.check.Relaxation`."""

    row: str = "quality"
    where: str = "chat"
    amount: float = 9.0
    unit: str = "nats"
    relative: float = 0.5


@dataclass
class Explanation:
    """Stands for `meldopt.check.Explanation`."""

    feasible: bool | None
    relaxations: tuple[Relaxation, ...] = ()
    proved: bool = True
    reasons: tuple[str, ...] = ("because of this",)


@pytest.mark.parametrize(
    ("found", "status", "code", "words"),
    [
        (Explanation(True), "feasible", 0, "valid and feasible"),
        (Explanation(None, proved=False), "unknown", 1, "no plan was found"),
        (Explanation(False, (Relaxation(),)), "infeasible", 1, "smallest relaxation"),
        (
            Explanation(False, (Relaxation(),), proved=False),
            "infeasible",
            1,
            "a smaller one may exist",
        ),
    ],
)
def test_check_an_instance(
    run: Invoke,
    tight: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: Explanation,
    status: str,
    code: int,
    words: str,
) -> None:
    """What the explainer finds decides the exit code and is printed."""
    check = importlib.import_module("meldopt.check")
    monkeypatch.setattr(check, "explain", lambda problem, time_limit: found)
    done = run("check", tight)
    assert (done.exit_code, words in done.stdout) == (code, True)
    assert "because of this" in done.stdout
    assert ("9 nats" in done.stdout) == bool(found.relaxations)
    done = run("check", tight, "--json")
    assert done.exit_code == code
    result = json.loads(done.stdout)
    assert (result["status"], result["proved"]) == (status, found.proved)
    assert len(result["relaxations"]) == len(found.relaxations)
    assert result["reasons"] == ["because of this"]


def test_check_explains_an_infeasible_instance(run: Invoke, infeasible: Path) -> None:
    """An instance without a plan fails and names what to relax."""
    done = run("check", infeasible, "--json")
    assert done.exit_code == 1, done.output
    result = json.loads(done.stdout)
    assert result["status"] == "infeasible"
    # No server holds the smallest copy of an expert: some memory has to grow.
    relaxed = {one["row"]: one["amount"] for one in result["relaxations"]}
    assert relaxed["memory"] > 0


# -- show ------------------------------------------------------------------------------


def test_show_an_instance(run: Invoke, tight: Path) -> None:
    """An instance is shown with servers, links, applications and formats."""
    done = run("show", tight)
    assert done.exit_code == 0
    words = ("contract-tight", "a <-> b", "chat", "wide", "narrow", "gpu", "1 × serial")
    assert [word for word in words if word not in done.stdout] == []
    facts = json.loads(run("show", tight, "--json").stdout)
    assert (facts["layers"], facts["experts"]) == (2, 4)
    assert facts["servers"] == ["a", "b", "c"]


def test_show_a_plan(run: Invoke, tight: Path, plan: Path) -> None:
    """A plan is shown without its instance, as a map of layers and servers."""
    tight.unlink()
    done = run("show", plan)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    head = next(line for line in lines if line.startswith("layer "))
    assert head.split() == ["layer", "a", "b", "c"]
    first = lines[lines.index(head) + 1].split()
    # The best plan has expert 0 on b (narrow) and expert 1 on c (wide) in layer 0.
    assert [first[0], first[1]] == ["0", "·"]
    assert {cell[0] for cell in first[2:]} == {"1"}
    facts = json.loads(run("show", plan, "--json").stdout)
    assert facts["copies"] == 4
    assert sum(facts["copies_by_format"].values()) == 4


def test_show_reads_standard_input(run: Invoke, tight: Path, plan: Path) -> None:
    """FILE may be '-', for an instance and for a plan."""
    done = run("show", "-", stdin=tight.read_bytes())
    assert "chat" in done.stdout
    done = run("show", "-", stdin=plan.read_bytes())
    assert "plan for contract-tight" in done.stdout


def test_show_nonsense(run: Invoke, here: Path) -> None:
    """A file that is neither instance nor plan says what is wrong with it."""
    (here / "x.json").write_text("[1]")
    done = run("show", "x.json")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: x.json")


# -- generate --------------------------------------------------------------------------


def test_generate_a_recipe_and_an_instance(run: Invoke, here: Path) -> None:
    """The recipe and the whole instance are the same instance."""
    arguments = ("generate", "metro", "--servers", 3, "--seed", 4, "-p", "layers=2")
    recipe = run(*arguments)
    assert recipe.exit_code == 0, recipe.output
    (here / "recipe.json").write_text(recipe.stdout)
    assert run(*arguments, "-o", "whole.json").exit_code == 0
    assert run(*arguments, "--recipe", "-o", "again.json").exit_code == 0
    assert (here / "again.json").read_text() == recipe.stdout
    whole = read_instance(here / "whole.json")
    assert read_instance(here / "recipe.json").digest() == whole.digest()
    assert len(whole.spec.cluster.servers) == 3
    assert whole.name == "metro-4"


def test_generate_reports_as_json(run: Invoke, here: Path) -> None:
    """--json says what was written, and needs standard output for itself."""
    arguments = ("generate", "metro", "-p", "layers=1", "--name", "mine", "--json")
    done = run(*arguments, "-o", "x.json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["digest"] == read_instance(here / "x.json").digest()
    assert facts["name"] == "mine"
    assert run(*arguments).exit_code == 2


def test_generate_lists_families(run: Invoke) -> None:
    """Without a family the families are listed; --parameters lists those of one."""
    assert "metro" in run("generate").stdout
    assert "bandwidth" in run("generate", "metro", "--parameters").stdout
    families = json.loads(run("generate", "--json").stdout)["families"]
    metro = next(one for one in families if one["name"] == "metro")
    assert "servers" in {one["name"] for one in metro["parameters"]}
    assert run("generate", "nothing", "--parameters").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("metro", "-p", "serverz=3"),
        ("metro", "--servers", "many"),
        ("metro", "--model", "gpt-nothing"),
        ("metro", "-o", "nowhere/x.json"),
    ],
)
def test_generate_refuses(run: Invoke, here: Path, arguments: tuple[str, ...]) -> None:
    """Unknown families, parameters and values are one line and exit 2."""
    done = run("generate", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


# -- lists -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("models", [one.name for one in catalogue.models()]),
        ("devices", [one.name for one in catalogue.devices()]),
        ("formats", [one.name for one in catalogue.formats()]),
    ],
)
def test_the_catalogue(run: Invoke, command: str, names: list[str]) -> None:
    """Everything in the catalogue is listed, and each fact can be shown whole."""
    done = run(command)
    assert done.exit_code == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert set(names) <= listed
    facts = json.loads(run(command, "--json").stdout)[command]
    assert [one["name"] for one in facts] == names
    one = json.loads(run(command, names[0], "--json").stdout)
    assert one["source"]
    assert names[0] in run(command, names[0]).stdout
    assert run(command, "nothing-such").exit_code == 2


@pytest.mark.usefixtures("plugins")
def test_a_solver_and_its_parameters(run: Invoke) -> None:
    """`solvers NAME` lists capabilities and parameters with their defaults."""
    shown = run("solvers", "toy").stdout
    assert "threads" in shown
    assert "roam" in shown
    facts = json.loads(run("solvers", "toy", "--json").stdout)
    assert facts["kind"] == "search"
    assert {"name": "threads", "type": "int", "default": 1} in facts["parameters"]
    assert run("solvers", "nothing").exit_code == 2


def test_instances(
    run: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundled instances are listed with the best that is known of them."""
    from meldopt import library

    folder = tmp_path / "instances"
    (folder / "tiny").mkdir(parents=True)
    (folder / "best" / "tiny").mkdir(parents=True)
    (folder / "index.json").write_text("{}")
    spec = msgspec.json.encode(contract_instance("tight").spec)
    for name in ("one", "two"):
        (folder / "tiny" / f"{name}.json").write_bytes(spec)
    (folder / "best" / "tiny" / "one.plan.json").write_text(
        '{"objective": 2.5, "bound": 2.5, "gap": 0.0, "solver": "milp", "copies": []}'
    )
    monkeypatch.setattr(library, "instances_folder", lambda: folder)
    done = run("instances")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["tiny/one", "2.5", "2.5", "0", "%", "milp"] in lines
    assert ["tiny/two", "–", "–", "–"] in lines
    known = json.loads(run("instances", "--json").stdout)["instances"]
    assert [one["name"] for one in known] == ["tiny/one", "tiny/two"]
    assert known[1]["best_plan"] is None
    monkeypatch.setattr(library, "instances_folder", lambda: None)
    assert run("instances").exit_code == 2


@pytest.mark.parametrize("kind", ["instance", "plan", "recipe"])
def test_schemas(run: Invoke, kind: str) -> None:
    """Each kind of file has a schema that names its version field."""
    done = run("schema", kind)
    assert done.exit_code == 0
    schema = json.loads(done.stdout)
    root = schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    assert "format_version" in root["required"]
    assert root["additionalProperties"] is False
    if kind == "instance":
        assert run("schema").stdout == done.stdout
        names = {field.encode_name for field in msgspec.structs.fields(InstanceSpec)}
        assert set(root["properties"]) == names


# -- errors as JSON --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "no-such-file.json"), "no-such-file.json"),
        (("solve", "tiny/dozen", "-t", "soon"), "got 'soon'"),
        (("solve", "tiny/dozen", "-s", "nobody"), "nobody"),
        (("nonsense",), "nonsense"),
    ],
)
def test_errors_are_json_where_json_is_asked_for(
    run: Invoke, here: Path, arguments: tuple[str, ...], words: str
) -> None:
    """With `--json` an error is one object on stdout beside the line on stderr."""
    done = run(*arguments, "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["status"] == "error"
    assert words in found["error"]
    assert "\n" not in found["error"]
    assert words in done.stderr
    assert run(*arguments).stdout == ""


def test_json_behind_two_dashes_is_an_argument(run: Invoke, here: Path) -> None:
    """What stands behind `--` asks for nothing."""
    done = run("check", "--", "--json")
    assert done.exit_code == 2
    assert done.stdout == ""

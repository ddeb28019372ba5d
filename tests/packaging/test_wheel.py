"""The wheel works by itself: built from the sdist, installed elsewhere, no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import meldopt

ROOT = Path(__file__).resolve().parents[2]
INSTANCE = "mixtral-8x7b/metro-4"
EXAMPLE = ROOT / "examples" / "third_party_solver"
SOLVERS = {"auto", "cpsat", "greedy", "local", "milp", "sequential"}
COMMANDS_EXIT_S = 300  # a hung command fails the test instead of the whole run

# With --dist loadgroup the builds are made once, on one worker.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def _run(
    *command: str | Path, cwd: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command as a stranger would and check its exit code."""
    hidden = ("PYTHON", "MELDOPT", "VIRTUAL_ENV", "COV")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(hidden)
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMANDS_EXIT_S,
        check=False,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution of the checkout and unpack it."""
    folder = tmp_path_factory.mktemp("sdist")
    _run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "sdist",
        "-d",
        folder,
        cwd=ROOT,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        opened.extractall(folder, **safe)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the unpacked source distribution, not from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        folder,
        cwd=sdist,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of the solver that lives in a distribution of its own."""
    folder = tmp_path_factory.mktemp("example")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    _run(*build, cwd=EXAMPLE)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def scripts(
    wheel: Path, example: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Install the wheels into a new environment and return its folder of scripts.

    No network: the dependencies are those of the running environment, reached through
    a path file. Folders named in such a file are searched after the environment's own,
    and path files inside them, that of an editable install among them, are not read.
    """
    home = tmp_path_factory.mktemp("elsewhere") / "env"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        python,
    ]
    _run(*pip, "install", "--no-index", "--no-deps", wheel, example, cwd=home)
    (site_packages,) = home.glob("lib/python*/site-packages")
    ours = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site_packages / "dependencies.pth").write_text("\n".join(ours) + "\n")
    return home / "bin"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Return an empty folder outside the checkout."""
    assert not tmp_path.resolve().is_relative_to(ROOT)
    assert not list(tmp_path.iterdir())
    return tmp_path


def test_sdist_is_complete(sdist: Path) -> None:
    """The source distribution holds what a build and a test run need."""
    needed = [
        *("pyproject.toml", "Makefile", "constraints.txt", "LICENSE", "README.md"),
        *("CHANGELOG.md", "CITATION.cff", "docs/build.py", "meldopt/__init__.py"),
        *("solvers/meldopt_solvers/__init__.py", "tests/packaging/test_wheel.py"),
        "instances/index.json",
    ]
    assert [name for name in needed if not (sdist / name).is_file()] == []


def test_wheel_holds_packages_and_instances_only(wheel: Path) -> None:
    """The wheel has both packages, typed, and the instances, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {
        "meldopt",
        "meldopt_solvers",
        f"meldopt-{meldopt.__version__}.dist-info",
    }
    assert {"meldopt/py.typed", "meldopt_solvers/py.typed"} <= names
    assert f"meldopt-{meldopt.__version__}.dist-info/licenses/LICENSE" in names
    assert f"meldopt/_instances/{INSTANCE}.json" in names
    assert "meldopt/_instances/index.json" in names
    bundled = {name for name in names if name.startswith("meldopt/_instances/")}
    assert not {name for name in bundled if name.endswith((".py", ".pyc"))}


def test_the_installed_copy_is_the_one_that_runs(scripts: Path, empty: Path) -> None:
    """Both packages are imported from the new environment, the checkout is not seen."""
    code = (
        "import json, sys, meldopt, meldopt_solvers as solvers;"
        "print(json.dumps([meldopt.__file__, solvers.__file__, sys.path]))"
    )
    done = _run(scripts / "python", "-c", code, cwd=empty)
    core, solvers, path = json.loads(done.stdout)
    home = scripts.parent
    assert Path(core).is_relative_to(home)
    assert Path(solvers).is_relative_to(home)
    assert ROOT not in [Path(entry).resolve() for entry in path if entry]
    assert ROOT / "solvers" not in [Path(entry).resolve() for entry in path if entry]


def test_the_command_knows_version_solvers_and_instances(
    scripts: Path, empty: Path
) -> None:
    """The console script lists what the wheel brought."""
    command = scripts / "meldopt"
    assert meldopt.__version__ in _run(command, "--version", cwd=empty).stdout
    listed = _run(command, "solvers", cwd=empty).stdout
    assert {name for name in SOLVERS if name not in listed} == set()
    assert INSTANCE in _run(command, "instances", cwd=empty).stdout


def test_a_bundled_instance_is_solved_by_name(scripts: Path, empty: Path) -> None:
    """A real instance is solved from an empty folder, and the plan passes the check."""
    command = scripts / "meldopt"
    solve = [command, "solve", INSTANCE, "-s", "greedy", "-t", "20"]
    done = _run(*solve, "-o", "plan.json", "--json", cwd=empty)

    result = json.loads(done.stdout)
    assert result["status"] in {"feasible", "optimal"}
    assert result["solver"] == "greedy"

    plan = json.loads((empty / "plan.json").read_text(encoding="utf-8"))
    assert plan["format_version"] == 1
    assert plan["instance"]["name"] == INSTANCE.replace("/", "-")
    keys = {"layer", "expert", "server", "tier", "format"}
    assert plan["copies"]
    assert all(keys <= copy.keys() for copy in plan["copies"])
    # Mixtral 8x7B has 32 layers of 8 experts; each needs a copy.
    experts = {(copy["layer"], copy["expert"]) for copy in plan["copies"]}
    assert len(experts) == 32 * 8

    _run(command, "check", INSTANCE, "plan.json", cwd=empty)
    # Many shares go to an .npz beside the plan; nothing else is left behind.
    left = {path.name for path in empty.iterdir()}
    assert left - {"plan.npz"} == {"plan.json"}
    assert ("plan.npz" in left) == ("shares_file" in plan)


def test_a_solver_of_another_distribution_is_compared(
    scripts: Path, empty: Path
) -> None:
    """The example runs beside ours by its name, and the same score judges it."""
    command = scripts / "meldopt"
    assert "calls-first" in _run(command, "solvers", cwd=empty).stdout
    compare = [command, "compare", "tiny/copies", "mixtral-8x7b/star-3"]
    _run(*compare, "-s", "calls-first,greedy", "-t", "20", "-o", "out", cwd=empty)
    lines = (empty / "out" / "RESULTS.jsonl").read_text(encoding="utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    ours = {run["instance"]: run for run in runs if run["solver"] == "greedy"}
    theirs = {run["instance"]: run for run in runs if run["solver"] == "calls-first"}
    assert set(ours) == set(theirs) == {"tiny/copies", "mixtral-8x7b/star-3"}
    for name, run in theirs.items():
        assert run["status"] in {"feasible", "violating", "optimal"}
        assert run["objective"] >= ours[name]["bound"]
    # It places one copy of each expert, and says so where more are allowed.
    assert "copies" in theirs["mixtral-8x7b/star-3"]["ignored"]

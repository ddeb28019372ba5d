"""``meldopt solve``: results, files, refusals and interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meldopt.builder import build_problem
from meldopt.cli import _interrupt
from meldopt.instance import read_instance
from meldopt.plan import read_plan
from meldopt.score import score

if TYPE_CHECKING:
    from .conftest import Invoke

Spawn = Callable[..., subprocess.Popen[str]]

KEYS = {
    "status",
    "stop_reason",
    "solver",
    "objective",
    "bound",
    "gap",
    "runtime_s",
    "terms",
    "seed",
    "ignored",
    "violations",
    "instance",
    "versions",
    "plan",
}

pytestmark = pytest.mark.usefixtures("plugins")


def test_json_is_one_object(run: Invoke, tight: Path) -> None:
    """`--json` prints one object with all that the design promises, and exits 0."""
    done = run("solve", tight, "-s", "toy", "--seed", 3, "--json", "--work", 2000)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result.keys() >= KEYS
    problem = build_problem(read_instance(tight))
    assert result["status"] == "feasible"
    assert result["seed"] == 3
    assert result["instance"] == {
        "name": "contract-tight",
        "digest": problem.instance_digest,
    }
    gap = (result["objective"] - result["bound"]) / result["objective"]
    assert result["gap"] == pytest.approx(gap)
    assert result["terms"]["serial"] == pytest.approx(result["objective"])
    assert result["ignored"] == ["copies"]
    assert result["plan"] is None


def test_people_get_a_summary(run: Invoke, tight: Path) -> None:
    """The summary names servers, links, applications, formats; the gap in percent."""
    done = run("solve", tight, "-s", "toy")
    assert done.exit_code == 0
    words = (
        "serial",
        "a  ",
        "gpu",
        "a -> b",
        "chat",
        "code",
        "wide",
        "narrow",
        "copies",
    )
    assert [word for word in words if word not in done.stdout] == []
    last = done.stdout.splitlines()[-1]
    assert last.startswith("objective ")
    assert "gap" in last
    assert "%" in last
    assert "not used or honoured by toy: copies" in done.stdout


def test_nothing_is_written_unless_asked(run: Invoke, tight: Path, here: Path) -> None:
    """Without -o a finished solve leaves no file."""
    before = sorted(here.iterdir())
    assert run("solve", tight, "-s", "toy").exit_code == 0
    assert sorted(here.iterdir()) == before


def test_the_plan_is_written_and_feasible(run: Invoke, tight: Path, here: Path) -> None:
    """-o writes the placement that the summary speaks of."""
    done = run("solve", tight, "-s", "toy", "-o", "p.json", "--json")
    assert done.exit_code == 0
    problem = build_problem(read_instance(tight))
    plan = read_plan(here / "p.json", problem)
    assert score(problem, plan).feasible
    result = json.loads(done.stdout)
    assert result["plan"] == "p.json"
    assert plan.record["objective"] == result["objective"]


def test_the_plan_can_go_to_standard_output(run: Invoke, tight: Path) -> None:
    """With -o - standard output holds the placement JSON and nothing else."""
    done = run("solve", tight, "-s", "toy", "-o", "-")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["instance"]["name"] == "contract-tight"
    assert "objective" in done.stderr


def test_two_streams_cannot_share_standard_output(run: Invoke, tight: Path) -> None:
    """--json and -o - together are refused."""
    done = run("solve", tight, "-s", "toy", "-o", "-", "--json")
    assert done.exit_code == 2
    assert "--json" in done.stderr


def test_an_instance_on_standard_input(run: Invoke, tight: Path) -> None:
    """INSTANCE may be '-'."""
    done = run("solve", "-", "-s", "toy", "--json", stdin=tight.read_bytes())
    assert done.exit_code == 0
    assert json.loads(done.stdout)["status"] == "feasible"


def test_quiet_prints_nothing(run: Invoke, tight: Path) -> None:
    """-q leaves the exit code and the plan."""
    done = run("solve", tight, "-s", "toy", "-q", "-o", "p.json")
    assert (done.exit_code, done.output) == (0, "")


def test_progress_goes_to_standard_error(run: Invoke, tight: Path) -> None:
    """In a pipe progress is plain lines with objective, bound, gap and time."""
    done = run("solve", tight, "-s", "toy", "--json")
    line = done.stderr.splitlines()[0]
    assert all(word in line for word in ("toy", " s ", "objective", "bound", "gap"))
    assert "\x1b" not in done.stderr


def test_a_start_is_never_made_worse(run: Invoke, tight: Path) -> None:
    """--start reaches the solver: a spent budget returns the start."""
    assert run("solve", tight, "-s", "toy", "-o", "p.json").exit_code == 0
    best = json.loads(Path("p.json").read_text())["objective"]
    done = run("solve", tight, "-s", "toy", "--work", 1, "--start", "p.json", "--json")
    assert json.loads(done.stdout)["objective"] == best


def test_the_same_budget_writes_the_same_bytes(run: Invoke, tight: Path) -> None:
    """Input, seed and deterministic budget decide the file, byte for byte."""
    for name in ("one.json", "two.json"):
        assert run(
            "solve", tight, "-s", "toy", "--work", 900, "-o", name
        ).exit_code in (0, 1)
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


# -- exit code 1 -----------------------------------------------------------------------


def test_nothing_found_is_exit_1(run: Invoke, tight: Path) -> None:
    """Without a plan the status says unknown and nothing is written."""
    done = run("solve", tight, "-s", "empty", "--json", "-o", "p.json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert result["status"] == "unknown"
    assert result["objective"] is None
    assert result["gap"] is None
    assert not Path("p.json").exists()
    assert run("solve", tight, "-s", "empty").exit_code == 1


def test_a_violating_plan_is_exit_1(run: Invoke, tight: Path) -> None:
    """A plan that breaks rows is shown with the rows, by name and amount."""
    arguments = ("solve", tight, "-s", "toy", "--work", 1)  # the first plan breaks rows
    done = run(*arguments, "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert result["status"] == "violating"
    assert result["gap"] is None
    assert result["violations"]
    assert all(one["amount"] > 0 for one in result["violations"])
    shown = run(*arguments)
    assert shown.exit_code == 1
    assert "broken rows" in shown.stdout
    assert result["violations"][0]["where"] in shown.stdout


def test_infeasible_is_exit_1(run: Invoke, infeasible: Path) -> None:
    """An instance that is proved to have no plan says so, and what to ask next."""
    done = run("solve", infeasible, "-s", "milp", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["status"] == "infeasible"
    assert "meldopt check" in run("solve", infeasible, "-s", "milp").stdout


# -- exit code 2 -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-s", "toi"), "got solver 'toi'; did you mean 'toy'"),
        (("-s", "engineless"), "needs 'no_such_engine', which is not installed"),
        (("-s", "toy", "-o", "nowhere/p.json"), "its folder does not exist"),
        (("-s", "toy", "-o", "."), "is a directory"),
        (("-s", "toy", "--write-model", "nowhere/m.mps"), "its folder does not exist"),
        (("-s", "toy", "--write-model", "m.txt"), "expected a name in .mps or .lp"),
        (("-s", "toy", "--set", "speed=3"), "got option 'speed'; it has: wait"),
        (("-s", "toy", "--set", "threads=many"), "option 'threads'"),
        (("-s", "toy", "--set", "threads"), "expected KEY=VALUE"),
        (("-s", "toy", "--config", "no.toml"), "no.toml: cannot be read"),
        (("-s", "toy", "--start", "no.json"), "no.json: no such file"),
        (("-s", "toy", "--gap", "lots"), "expected a fraction or a percentage"),
        (("-s", "toy", "-t", "-1"), "expected a number of 0 or more"),
        (("-s", "toy", "-t", "nan"), "expected a number of 0 or more"),
        (("-s", "toy", "--work", "-3"), "expected a number of 0 or more"),
        (("-s", "toy", "--threads", "0"), "0 is not in the range"),
        (("-s", "toy", "--frobnicate"), "No such option"),
    ],
)
def test_bad_input_is_exit_2(
    run: Invoke, tight: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Bad input is refused in a line that says what was got, without a traceback."""
    done = run("solve", tight, *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_an_unwritable_target_is_seen_before_solving(run: Invoke, tight: Path) -> None:
    """The target is refused first: the solver that would fail is never called."""
    done = run("solve", tight, "-s", "toy", "--set", "fail=x", "-o", "nowhere/p.json")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr


def test_no_such_instance(run: Invoke, here: Path) -> None:
    """A name that is neither a file nor bundled is one line and exit 2."""
    done = run("solve", "no/such", "-s", "toy")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: no/such: no such file")
    assert len(done.stderr.splitlines()) == 1


def test_an_uninstalled_checkout(
    run: Invoke, tight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty registry the hint says how to install the project."""
    import importlib.metadata

    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group: importlib.metadata.EntryPoints(),
    )
    for arguments in (("solve", tight), ("solvers",)):
        done = run(*arguments)
        assert done.exit_code == 2
        assert "make install" in done.stderr


# -- exit code 3 -----------------------------------------------------------------------


def test_an_engine_that_fails_is_exit_3(run: Invoke, tight: Path) -> None:
    """A crash of an engine is one line; one of ours shows where."""
    done = run("solve", tight, "-s", "toy", "--set", "fail=engine")
    assert done.exit_code == 3
    assert done.stderr == "error: the engine of toy crashed\n"
    done = run("solve", tight, "-s", "toy", "--set", "fail=surprise")
    assert done.exit_code == 3
    assert "RuntimeError: surprise" in done.stderr


# -- parameters ------------------------------------------------------------------------


def test_set_wins_over_config_wins_over_default(run: Invoke, tight: Path) -> None:
    """Parameters: the command line beats the file, the file beats the default."""
    Path("p.toml").write_text("scale = 2.0\nthreads = 3\n")
    done = run(
        *("solve", tight, "-s", "toy", "--json"),
        *("--config", "p.toml", "--set", "threads=4"),
    )
    options = json.loads(done.stdout)["options"]
    assert (options["scale"], options["threads"], options["wait"]) == (2.0, 4, False)


def test_threads_reach_the_solver(run: Invoke, tight: Path) -> None:
    """--threads is a parameter where there is one, and listed as ignored elsewhere."""
    done = run("solve", tight, "-s", "toy", "--threads", 2, "--json")
    assert json.loads(done.stdout)["options"]["threads"] == 2
    done = run("solve", tight, "-s", "empty", "--threads", 2, "--json")
    assert "threads" in json.loads(done.stdout)["ignored"]


def test_a_broken_config_is_refused(run: Invoke, tight: Path) -> None:
    """A file that is no TOML is named."""
    Path("p.toml").write_text("scale = = 2\n")
    done = run("solve", tight, "-s", "toy", "--config", "p.toml")
    assert done.exit_code == 2
    assert "p.toml: is not valid TOML" in done.stderr


@pytest.mark.parametrize("suffix", ["mps", "lp"])
def test_the_model_is_written_without_solving(
    run: Invoke, tight: Path, suffix: str
) -> None:
    """--write-model writes a model that names its rows, and calls no solver."""
    target = Path(f"m.{suffix}")
    done = run(
        *("solve", tight, "-s", "toy", "--set", "fail=x", "--write-model", target)
    )
    assert done.exit_code == 0, done.output
    assert "memory" in target.read_text()


# -- interruptions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
@pytest.mark.parametrize("output", [None, "mine.json"])
def test_a_signal_keeps_the_best_plan(
    spawn: Spawn, tight: Path, here: Path, number: int, code: int, output: str | None
) -> None:
    """Ctrl-C and SIGTERM in the middle of a solve: the best plan is written."""
    process = spawn(
        *("solve", tight, "-s", "toy", "--set", "wait=true", "-t", "inf", "--json"),
        *(() if output is None else ("-o", output)),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "objective 0." in line:  # there is a plan now
            break
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    result = json.loads(stdout)
    assert result["stop_reason"] == "interrupted"
    path = here / (output or "contract-tight.plan.json")
    assert path.name == result["plan"]
    problem = build_problem(read_instance(tight))
    assert score(problem, read_plan(path, problem)).feasible
    assert "Traceback" not in stderr


def test_the_first_signal_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Impatient people lose nothing: only the third signal ends the process."""
    gone: list[int] = []
    monkeypatch.setattr(_interrupt.os, "_exit", gone.append)
    before = signal.getsignal(signal.SIGTERM)
    with _interrupt.interruptions() as seen:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    assert seen.exit_code == 143
    assert gone == [130]
    assert signal.getsignal(signal.SIGTERM) is before
    with _interrupt.interruptions() as quiet:
        pass
    assert quiet.exit_code is None


def test_a_closed_pipe_is_no_traceback(spawn: Spawn, tight: Path) -> None:
    """Whoever stops reading our output gets no traceback."""
    for arguments in (("solve", tight, "-s", "toy"), ("models",), ("schema", "plan")):
        process = spawn(*arguments)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        process.wait(timeout=60)
        process.stderr.close()


def test_a_terminal_gets_a_live_line(spawn: Spawn, tight: Path) -> None:
    """On a terminal one line is rewritten, and it is gone at the end."""
    reader, terminal = os.openpty()
    process = spawn(*("solve", tight, "-s", "toy", "--json"), stderr=terminal)
    stdout, _ = process.communicate(timeout=60)
    os.close(terminal)
    shown = b""
    while chunk := _read(reader):
        shown += chunk
    os.close(reader)
    assert process.returncode == 0
    assert json.loads(stdout)["status"] == "feasible"
    assert b"objective" in shown
    assert b"\x1b[2K" in shown  # the line was erased


def _read(descriptor: int) -> bytes:
    """Read from a terminal whose other end may be gone."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""

"""The bundled instances: in step with their index, small ones re-scored."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from meldopt import build_problem, read_instance, read_plan, score
from meldopt.files import arrays_to_bytes, read_arrays
from meldopt.generate import generate_with_plan
from meldopt.library import (
    BestEntry,
    best_plan,
    instance_names,
    read_index,
    write_index,
)
from meldopt.plan import Plan

FOLDER = Path(__file__).resolve().parents[1] / "instances"
SMALL_EXPERTS = 1100  # instances of so many experts are re-scored here, others by make
GRID = (
    "campus",
    "drift",
    "hetroute",
    "metro",
    "network",
    "prism",
    "roam",
    "star",
    "tree",
)  # of these families the smallest one is


def _script(name):
    spec = importlib.util.spec_from_file_location(
        f"instances_{name}", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(FOLDER))  # the scripts stand beside each other
check = _script("check")
frozen = _script("frozen")
INDEX = read_index(FOLDER)


def _sample():
    """Names of the small instances; of the families of the grid one for each."""
    small = {name: e.experts for name, e in INDEX.items() if e.experts <= SMALL_EXPERTS}
    least = {
        family: min((n for n in small if n.startswith(f"{family}/")), key=small.get)
        for family in GRID
    }
    return [n for n in small if least.get(n.split("/")[0], n) == n]


def test_the_index_lists_what_is_there():
    """Every file is in the index and every entry has a file and a plan or none."""
    assert sorted(INDEX) == instance_names()
    for name, entry in INDEX.items():
        assert (entry.best is not None) == (best_plan(name) is not None), name


def test_the_seven_hard_ones_are_there():
    """All seven have a plan, and no row of them was loosened without the check."""
    assert set(check.HARD) <= set(INDEX)
    assert len(check.HARD) == 7
    for name in check.HARD:
        assert INDEX[name].best is not None, name


@pytest.mark.parametrize("name", _sample())
def test_small_instances_pass_the_check(name):
    """Digest, sizes, feasibility, objective and hardness are as the index says."""
    assert check.check(name, INDEX[name]) == []


def test_the_index_is_written_sorted_and_reads_back(tmp_path):
    """The same entries give the same bytes, whatever their order."""
    write_index(dict(reversed(list(INDEX.items()))), tmp_path)
    written = (tmp_path / "index.json").read_text()
    assert read_index(tmp_path) == INDEX
    assert list(json.loads(written)["instances"]) == sorted(INDEX)


BEYOND_TOY = 256  # experts


def test_the_library_is_beyond_toys():
    """Sixty instances and more have 256 experts or more, in ten documented families."""
    large = [name for name, entry in INDEX.items() if entry.experts >= BEYOND_TOY]
    assert len(large) >= 60
    assert sum(INDEX[name].experts >= 3000 for name in large) >= 4
    readme = (FOLDER / "README.md").read_text()
    for family in {name.split("/")[0] for name in large}:
        assert f"`{family}" in readme, family


def test_what_is_frozen_says_how_it_was_made():
    """Every recipe is one that the script makes again: model, seed and parameters."""
    make = _script("make")
    for name, entry in INDEX.items():
        if name in frozen.FROZEN:
            assert entry.model == _model(name), name
        if not entry.recipe:
            continue
        made = frozen.FROZEN[name]
        made = frozen.FROZEN[made.before] if made.before else made
        recipe = json.loads((FOLDER / f"{name}.json").read_text())["recipe"]
        drawn = ("cluster", "workload", "limits")  # as they came out
        told = {k: v for k, v in recipe["parameters"].items() if k not in drawn}
        wanted = {
            key: value
            for key, value in make.explicit(made).items()
            if key not in drawn and value is not None
        }
        assert (recipe["seed"], told) == (made.seed, wanted), name


def _model(name):
    made = frozen.FROZEN[name]
    source = frozen.FROZEN[made.before] if made.before else made
    return source.parameters.get("model", "mixtral-8x7b")


def test_twins_differ_in_their_texts_alone():
    """A shifted twin has the cluster, the rates and the caps of its sister."""
    for name, made in frozen.FROZEN.items():
        if made.before is None:
            continue
        before, after = (
            json.loads((FOLDER / f"{one}.json").read_text())["recipe"]
            for one in (made.before, name)
        )
        assert before["seed"] == after["seed"]
        one, two = before["parameters"], after["parameters"]
        assert one["cluster"] == two["cluster"]
        assert one["limits"] == two["limits"]
        assert one["workload"]["demands"] == two["workload"]["demands"]
        domains = [a["domain"] for a in one["workload"]["applications"]]
        mixes = [a["domain"] for a in two["workload"]["applications"]]
        assert [set(mix.values()) for mix in mixes] == [{0.5}] * len(domains)
        for n, mix in enumerate(mixes):
            assert set(mix) == {domains[n], domains[(n + 1) % len(domains)]}


def test_homes_follow_zipf():
    """The rates of the homes of an instance with busy homes fall as 1 / rank."""
    make = _script("make")
    workload = {
        "demands": [
            {"application": app, "home": home, "rate": f"{rate} tokens/s"}
            for home, rates in (("a", (1, 2)), ("b", (3, 3)), ("c", (1, 1)))
            for app, rate in zip(("x", "y"), rates, strict=True)
        ]
    }
    rates = [float(d["rate"].split()[0]) for d in make.by_rank(workload)["demands"]]
    # 11 tokens/s by 1 : 1/2 : 1/3 are 6, 3 and 2; each home keeps its mix.
    assert rates == [2.0, 4.0, 1.5, 1.5, 1.0, 1.0]


@pytest.fixture(name="library")
def _library(tmp_path):
    """A library of one hard instance, to be spoilt."""
    name = "mixtral-8x7b/metro-4"
    for folder in ("mixtral-8x7b", "best/mixtral-8x7b"):
        (tmp_path / folder).mkdir(parents=True)
        for path in (FOLDER / folder).glob("metro-4.*"):
            shutil.copy(path, tmp_path / folder)
    return name, tmp_path


def test_the_check_notices_a_wrong_objective(library):
    """An index that promises more than the plan is worth is refused."""
    name, folder = library
    entry = INDEX[name]
    better = msgspec.structs.replace(
        entry,
        best=msgspec.structs.replace(entry.best, objective=entry.best.objective / 2),
    )
    assert any("objective: got" in line for line in check.check(name, better, folder))
    assert check.check(name, entry, folder) == []


def test_the_check_notices_a_bound_above_the_objective(library):
    """A bound above a feasible objective is a bug, never a result."""
    name, folder = library
    entry = INDEX[name]
    wrong = msgspec.structs.replace(
        entry, best=msgspec.structs.replace(entry.best, bound=entry.best.objective * 2)
    )
    assert any("bound: got" in line for line in check.check(name, wrong, folder))


def test_the_check_notices_a_plan_that_is_gone(library):
    """An entry with a plan but no file is refused."""
    name, folder = library
    (folder / "best" / f"{name}.plan.json").unlink()
    found = check.check(name, INDEX[name], folder)
    assert "best plan: missing" in found


def test_loose_plans_are_not_hard():
    """With twice the slack asked for no row is tight and the conditions fail."""
    made, plan = generate_with_plan(
        "star",
        name="loose",
        seed=1,
        parameters={"layers": 3, "servers": 3, "tightness": 0.5},
    )
    problem = build_problem(made)
    found = check.hardness(problem, plan, score(problem, plan))
    assert any("tight memory: got 0" in line for line in found)
    assert any("quality budgets: got 0" in line for line in found)


def test_a_best_plan_is_kept_only_if_it_is_better(library, monkeypatch, capsys):
    """A worse plan changes nothing; a plan of another instance is refused."""
    make = _script("make")
    name, folder = library
    monkeypatch.setattr(make, "FOLDER", folder)
    write_index({name: INDEX[name]}, folder)
    problem = build_problem(read_instance(folder / f"{name}.json"))
    path = folder / "best" / f"{name}.plan.json"
    before = path.read_bytes()
    make.best(name, path, None)
    assert path.read_bytes() == before
    assert "is not better" in capsys.readouterr().out
    plan = read_plan(path, problem)
    missing = Plan.of(problem, plan.copies[1:])
    with pytest.raises(SystemExit, match="the plan breaks"):
        make.keep(name, problem, missing, solver="test", seed=0)


def test_the_same_arrays_pack_to_the_same_bytes():
    """Arrays beside an instance do not depend on the time of writing."""
    path = FOLDER / "mixtral-8x7b" / "metro-4.npz"
    assert arrays_to_bytes(read_arrays(path)) == path.read_bytes()


def test_solve_keeps_the_best_of_all_solvers(tmp_path, monkeypatch, capsys):
    """The first plan comes from one solver, the proof from another; both are kept."""
    make = _script("make")
    name = "tiny/quality"
    (tmp_path / "tiny").mkdir()
    shutil.copy(FOLDER / f"{name}.json", tmp_path / "tiny")
    unsolved = msgspec.structs.replace(INDEX[name], best=None)
    write_index({name: unsolved}, tmp_path)
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    make.solve_all([name], ["greedy", "milp"], time_limit=20, seed=0, open_only=True)
    best = read_index(tmp_path)[name].best
    assert best.objective == pytest.approx(INDEX[name].best.objective, rel=1e-6)
    assert best.bound == pytest.approx(best.objective, rel=1e-6)
    assert check.check(name, read_index(tmp_path)[name], tmp_path) == []
    assert "is the first plan known" in capsys.readouterr().out
    # What is proved is not solved again.
    make.solve_all([name], ["greedy"], time_limit=20, seed=0, open_only=True)
    assert capsys.readouterr().out == ""


def test_near_enough_counts_as_closed():
    """With a gap what is that near to proved is left alone; without a bound nothing."""
    make = _script("make")

    def known(bound):
        return BestEntry(
            objective=1.0, bound=bound, solver="auto", seed=0, version="0", date=""
        )

    assert make.closed(known(1.0), None)
    assert not make.closed(known(0.998), None)
    assert make.closed(known(0.998), 0.002 + 1e-12)
    assert not make.closed(known(0.997), 0.002)
    assert not make.closed(known(None), 0.002)


def test_patterns_name_instances():
    """Patterns match whole names; one that matches nothing is refused."""
    make = _script("make")
    names = ["metro/a", "metro/b", "star/a"]
    assert make.matching(["metro/*"], names) == ["metro/a", "metro/b"]
    assert make.matching([], names) == names
    with pytest.raises(SystemExit, match="tree"):
        make.matching(["tree/*"], names)

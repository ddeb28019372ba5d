"""Names of solvers on the command line become methods with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meldopt.compare.grid import Limit, Subject, Trial, grid
from meldopt.compare.methods import read_methods
from meldopt.errors import SolverNotFoundError, UnsupportedFeatureError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("wild")


def labels(*texts: str, **options: object) -> list[str]:
    """Return the labels of what was read."""
    return [one.label for one in read_methods(texts, **options)[0]]  # type: ignore[arg-type]


def test_names_are_separated_by_commas_and_taken_once() -> None:
    """A name that stands twice is one method; the order is that of the names."""
    assert labels("wild,steady", "steady") == ["wild", "steady"]


def test_parameters_in_brackets_make_methods_of_their_own() -> None:
    """Each set of parameters is a label, with its keys sorted; values are JSON."""
    methods, _ = read_methods(["wild,wild[mode=exit],wild[mode=hang, log=x]"])
    assert [one.label for one in methods] == [
        "wild",
        "wild[mode=exit]",
        "wild[log=x,mode=hang]",
    ]
    assert methods[2].options == {"mode": "hang", "log": "x"}
    assert {one.kind for one in methods} == {"search"}


def test_common_parameters_are_in_the_label() -> None:
    """A parameter set for all runs of a solver is seen; brackets win over it."""
    settings = {"wild": {"mode": "exit"}}
    assert labels("steady,wild,wild[mode=hang]", settings=settings) == [
        "steady",
        "wild[mode=exit]",
        "wild[mode=hang]",
    ]


def test_repair_makes_a_second_row_of_baselines_only() -> None:
    """A baseline is run with and without repair, any other solver once."""
    methods, notes = read_methods(["steady,wild"], repair=True)
    assert [one.label for one in methods] == ["steady", "steady + repair", "wild"]
    assert methods[1].options == {"repair": True}
    assert notes == []


def test_a_solver_that_cannot_be_loaded_is_a_method() -> None:
    """Its runs are refused later; the others are compared all the same."""
    methods, _ = read_methods(["engineless,steady"])
    assert [(one.label, one.kind) for one in methods] == [
        ("engineless", ""),
        ("steady", "baseline"),
    ]


@pytest.mark.parametrize(
    "text", ["steady,,wild", "wild[mode", "wild]", "[mode=exit]", "wild[mode]"]
)
def test_what_is_no_list_of_solvers_is_refused(text: str) -> None:
    """Brackets and commas that do not fit are one clear line."""
    with pytest.raises(UnsupportedFeatureError, match="solvers: got"):
        read_methods([text])


def test_unknown_names_and_parameters_are_refused() -> None:
    """Nothing is run before all solvers and parameters are known."""
    with pytest.raises(SolverNotFoundError, match="steady"):
        read_methods(["stedy"])
    with pytest.raises(UnsupportedFeatureError, match="'speed'"):
        read_methods(["steady[speed=3]"])
    with pytest.raises(UnsupportedFeatureError, match="which is not compared"):
        read_methods(["steady"], {"wild": {"mode": "exit"}})


def test_the_grid_has_every_run_once_and_whole_rounds_first() -> None:
    """Seeds are outermost; what decides the plan decides whether runs are the same."""
    methods, _ = read_methods(["steady,wild"])
    one, two = (Subject(name=name, digest=f"sha256:{name}") for name in "ab")
    trials = [Trial(planned=one, judged=(one,)), Trial(planned=two, judged=(two,))]
    limits = [Limit(time_limit_s=seconds, work=None) for seconds in (1.0, 2.0)]
    runs = grid([*trials, trials[0]], methods, limits, [0, 1])
    assert len(runs) == 2 * 2 * 2 * 2
    assert len({run.solve for run in runs}) == len(runs)
    assert [run.seed for run in runs] == [0] * 8 + [1] * 8
    again = grid(trials, methods, limits, [0, 1])
    assert [run.solve for run in again] == [run.solve for run in runs]


def test_one_plan_is_made_once_for_all_that_it_is_judged_on() -> None:
    """Two trials with one train instance share the solve and differ in keys."""
    methods, _ = read_methods(["steady"])
    one, two, three = (Subject(name=name, digest=f"sha256:{name}") for name in "abc")
    trials = [
        Trial(planned=one, judged=(two,)),
        Trial(planned=one, judged=(three, two)),
    ]
    (run,) = grid(trials, methods, [Limit(time_limit_s=1.0, work=None)], [0])
    assert run.trial.judged == (two, three)
    assert run.rules(two, reroute=False) == ("default",)
    assert run.rules(two, reroute=True) == ("default", "best")
    assert run.rules(one, reroute=True) == ("own",)
    keys = {run.key(two, "default"), run.key(three, "default"), run.key(two, "best")}
    assert len(keys) == 3


def test_families_are_what_stands_before_the_slash(tmp_path: Path) -> None:
    """Another workload behind an instance's name does not change its family."""
    named = {"a/b": "a", "b": "", "a/b @ c/d": "a", "b @ c/d": ""}
    for name, family in named.items():
        assert Subject(name=name, digest="").family == family

"""Plans keep what they say through their files, and belong to one instance."""

from __future__ import annotations

import io
import pickle
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from documents import documents
from hand_case import FULL, HALF, A, B, C, changed, copies
from hypothesis import given
from random_problems import Case, cases, random_case

import meldopt.plan as plan_module
from meldopt.builder import build_problem
from meldopt.errors import FileFormatError, PlanError
from meldopt.files import decode
from meldopt.plan import Plan, PlanFile, read_plan, write_plan
from meldopt.score import score, transfer_budgets

if TYPE_CHECKING:
    from pathlib import Path

    from meldopt.problem import Problem

HELD = copies((0, A, FULL), (0, C, HALF), (1, B, HALF), (2, C, HALF), (3, A, HALF))


def problem_by_hand() -> Problem:
    return build_problem(changed())


def mixed_plan(problem: Problem) -> Plan:
    """Return a plan by hand in which demand 0 answers expert 1 in every way."""
    return Plan.of(
        problem,
        HELD,
        served=np.array([[0, 1, 2]]),
        served_share=np.array([0.5]),
        fused=np.array([[0, 1, B, 0]]),
        fused_share=np.array([0.25]),
        substituted=np.array([[0, 1, 0]]),
        substituted_share=np.array([0.2]),
        pruned=np.array([[0, 1, 0], [0, 1, 1]]),
        pruned_share=np.array([0.2, 0.1]),
    )


def assert_same_plan(problem: Problem, one: Plan, other: Plan) -> None:
    np.testing.assert_array_equal(one.copies, other.copies)
    before, after = score(problem, one), score(problem, other)
    assert after.terms == pytest.approx(before.terms, rel=1e-12)
    assert [row.where for row in after.rows] == [row.where for row in before.rows]
    for row, again in zip(before.rows, after.rows, strict=True):
        assert again.value == pytest.approx(row.value, rel=1e-9, abs=1e-15), row


# -- round trips -----------------------------------------------------------------------


@given(case=cases())
def test_plans_survive_their_files(
    case: Case, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A re-read plan has the same copies, terms and rows, and writes the same bytes."""
    folder = tmp_path_factory.mktemp("plan")
    path = folder / "x.plan.json"
    plan = case.witness.with_record({"seed": 3, "objective": 1.5, "gap": None})
    write_plan(plan, path, problem=case.problem)
    again = read_plan(path, case.problem)
    assert_same_plan(case.problem, plan, again)
    assert again.record["seed"] == 3
    assert again.record["objective"] == 1.5
    # Once indexed from a file the tables are in the order of the file: stable bytes.
    write_plan(again, folder / "y.plan.json", problem=case.problem)
    third = read_plan(folder / "y.plan.json", case.problem)
    write_plan(third, folder / "z.plan.json", problem=case.problem)
    assert (folder / "z.plan.json").read_bytes() == (
        folder / "y.plan.json"
    ).read_bytes()


@given(case=cases(dataflow="home", prune=True, fuse=True, similar=True))
def test_many_shares_go_beside_the_document(
    case: Case, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Shares in an .npz come back bit for bit, and the document names their digest."""
    path = tmp_path_factory.mktemp("plan") / "x.plan.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "INLINE_SHARES", 0)
        write_plan(case.witness, path)
    held = bool(sum(len(table) for table in case.witness.arrays().values()))
    assert path.with_name("x.plan.npz").exists() == held
    again = read_plan(path, case.problem)
    for name, array in case.witness.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


@given(file=documents(PlanFile, format_version=1))
def test_any_plan_document_survives_json(file: PlanFile) -> None:
    """Whatever the types of the placement JSON admit is read back as written."""
    text = msgspec.json.encode(file)
    assert msgspec.json.encode(decode(text, PlanFile, "x")) == msgspec.json.encode(
        msgspec.convert(msgspec.to_builtins(file), PlanFile)
    )


@given(case=cases())
def test_plans_survive_pickling(case: Case) -> None:
    """A plan travels to another process unharmed."""
    assert_same_plan(
        case.problem, case.witness, pickle.loads(pickle.dumps(case.witness))
    )


def test_the_document_reads_without_meldopt(tmp_path: Path) -> None:
    """Names, not numbers: servers, tiers, formats, shares and budgets by hand."""
    problem = problem_by_hand()
    path = tmp_path / "x.plan.json"
    write_plan(mixed_plan(problem), path, problem=problem)
    read = msgspec.json.decode(path.read_bytes())
    assert read["format_version"] == 1
    assert read["instance"] == {
        "name": "by hand",
        "digest": problem.instance_digest,
    }
    assert read["copies"][1] == {
        "layer": 0,
        "expert": 0,
        "server": "c",
        "tier": "ram",
        "format": "half",
    }
    assert read["shares"] == [
        {
            "application": "chat",
            "home": "a",
            "layer": 0,
            "expert": 1,
            "served": [{"server": "b", "share": 0.5, "fused": [0.25]}],
            "substituted": [{"expert": 0, "share": 0.2}],
            "pruned": [0.2, 0.1],
        }
    ]
    # Demand 0 would send 0.75 calls/s of expert 1 to b: half is served there (half of
    # that fused, which counts a quarter), three tenths are pruned.
    first = read["budgets"][0]
    assert (first["layer"], first["from"], first["to"]) == (0, "a", "b")
    assert first["tokens_per_s"] == pytest.approx(0.75 * (0.25 + 0.25 * 0.25))
    assert first["kept"] == pytest.approx(0.25 / 0.8)
    assert first["fused"] == pytest.approx(0.25 / 0.8)
    assert first["pruned"] == pytest.approx(0.3 / 0.8)
    assert {(b["layer"], b["from"], b["to"]) for b in read["budgets"]} == {
        (0, "a", "b"),
        (0, "c", "b"),
        (1, "a", "c"),
        (1, "c", "a"),
    }
    # No date, no runtime: the same plan gives the same bytes.
    write_plan(mixed_plan(problem), tmp_path / "y.json", problem=problem)
    assert (tmp_path / "y.json").read_bytes() == path.read_bytes()
    # The budgets stay with the plan when it is read and written without the problem.
    write_plan(read_plan(path, problem), tmp_path / "z.json")
    assert msgspec.json.decode((tmp_path / "z.json").read_bytes()) == read


def test_what_is_fused_of_a_default_share_is_kept(tmp_path: Path) -> None:
    """A fused part of a share that follows the default rule survives the file."""
    problem = problem_by_hand()
    plan = Plan.of(
        problem,
        HELD,
        fused=np.array([[0, 1, B, 0]]),
        fused_share=np.array([0.5]),
    )
    assert score(problem, plan).feasible
    write_plan(plan, tmp_path / "x.json")
    assert_same_plan(problem, plan, read_plan(tmp_path / "x.json", problem))


def test_a_dash_is_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` writes one document to standard output, shares in it however many."""

    class Stdout:
        buffer = io.BytesIO()

    problem = problem_by_hand()
    monkeypatch.setattr(sys, "stdout", Stdout)
    monkeypatch.setattr(plan_module, "INLINE_SHARES", 0)
    write_plan(mixed_plan(problem), "-", problem=problem)
    read = msgspec.json.decode(Stdout.buffer.getvalue())
    assert "shares_file" not in read
    assert len(read["shares"]) == 1


# -- refusals --------------------------------------------------------------------------


def document(folder: Path) -> tuple[Path, dict[str, Any], Problem]:
    problem = problem_by_hand()
    path = folder / "x.json"
    write_plan(mixed_plan(problem), path, problem=problem)
    return path, msgspec.json.decode(path.read_bytes()), problem


def _put(where: str, **values: Any) -> Any:
    return lambda d: d[where][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["instance"].update(digest="sha256:0123", name="other"),
            "$.instance: got a plan for 'other' (sha256:0123…), expected 'by hand' (",
        ),
        (
            _put("copies", server="d"),
            "$.copies[0]: got 'd', expected a place of the instance",
        ),
        (
            _put("copies", tier="disk"),
            "$.copies[0]: got tier 'disk' of server 'a', expected a place",
        ),
        (
            _put("copies", format="fp99"),
            "$.copies[0].format: got 'fp99', expected one of ['full', 'half']",
        ),
        (_put("copies", layer=2), "$.copies[0].layer: got 2, expected 0 to 1"),
        (_put("copies", expert=-1), "$.copies[0].expert: got -1, expected 0 to 1"),
        (
            lambda d: d["copies"].append(d["copies"][0]),
            "$.copies: got a copy twice, expected it once",
        ),
        (
            _put("shares", home="b"),
            "$.shares[0]: got ('chat', 'b'), expected a demand",
        ),
        (_put("shares", expert=7), "$.shares[0].expert: got 7, expected 0 to 1"),
        (
            _put("shares", served=[{"server": "a", "share": 1.0}]),
            "$.shares[0].served: got 'a', which holds no copy of the expert",
        ),
        (
            _put("shares", served=[{"server": "zzz", "share": 1.0}]),
            "$.shares[0].served: got 'zzz', which holds no copy of the expert",
        ),
        (
            _put("shares", substituted=[{"expert": 1, "share": 1.0}]),
            "$.shares[0].substituted: got expert 1, which has no copy at the home",
        ),
        (
            _put("shares", pruned=[0.0, 0.0, 0.5]),
            "$.shares[0].pruned: got too many segments",
        ),
        (
            lambda d: d["shares"][0]["served"][0].update(fused=[0.0, 0.1]),
            "$.shares[0].served.fused: got too many segments",
        ),
    ],
)
def test_plans_that_do_not_fit_are_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    """A plan for another instance or with unknown names is one line with its place."""
    path, read, problem = document(tmp_path)
    change(read)
    path.write_bytes(msgspec.json.encode(read))
    with pytest.raises(PlanError) as caught:
        read_plan(path, problem)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=2), "$.format_version: got 2, expected at"),
        (lambda d: d.pop("copies"), "missing required field `copies`"),
        (lambda d: d.update(date="today"), "contains unknown field `date`"),
        (
            lambda d: d["shares"][0]["served"][0].update(share="half"),
            "$.shares[0].served[0].share: Expected `float`, got `str`",
        ),
    ],
)
def test_documents_that_are_no_plans_are_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    """A newer version and unknown, missing or mistyped keys name their place."""
    path, read, problem = document(tmp_path)
    change(read)
    path.write_bytes(msgspec.json.encode(read))
    with pytest.raises(FileFormatError) as caught:
        read_plan(path, problem)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_beside_the_document_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing, truncated or exchanged .npz of shares is refused."""
    monkeypatch.setattr(plan_module, "INLINE_SHARES", 0)
    path, _, problem = document(tmp_path)
    npz = tmp_path / "x.npz"
    whole = npz.read_bytes()
    npz.write_bytes(whole[:-30])
    with pytest.raises(FileFormatError, match=r"x\.npz: is no readable \.npz"):
        read_plan(path, problem)
    other = random_case(3, dataflow="home", prune=True).witness
    write_plan(other, tmp_path / "other.json")
    npz.write_bytes((tmp_path / "other.npz").read_bytes())
    with pytest.raises(FileFormatError, match=r"x\.npz: got digest sha256:\w+, expect"):
        read_plan(path, problem)
    npz.unlink()
    with pytest.raises(FileFormatError, match=r"x\.npz: no such file"):
        read_plan(path, problem)


def test_unreadable_paths_are_refused(tmp_path: Path) -> None:
    """A folder and a missing file are each one line; so is an unwritable target."""
    problem = problem_by_hand()
    with pytest.raises(FileFormatError, match="got a directory, expected a file"):
        read_plan(tmp_path, problem)
    with pytest.raises(FileFormatError, match="no such file"):
        read_plan(tmp_path / "gone.json", problem)
    with pytest.raises(FileFormatError, match="is a directory"):
        write_plan(mixed_plan(problem), tmp_path)
    with pytest.raises(FileFormatError, match="folder does not exist"):
        write_plan(mixed_plan(problem), tmp_path / "no" / "x.json")


def test_tables_are_checked_and_frozen() -> None:
    """Unsorted copies and wrong tables are no plan; arrays are read-only."""
    problem = problem_by_hand()
    with pytest.raises(PlanError, match="copies: expected them sorted"):
        Plan.of(problem, HELD[::-1])
    with pytest.raises(PlanError, match="served_share: expected 1 finite numbers"):
        Plan.of(problem, HELD, served=np.array([[0, 1, 2]]))
    with pytest.raises(PlanError, match="pruned_share: expected 1 finite numbers"):
        Plan.of(
            problem,
            HELD,
            pruned=np.array([[0, 1, 0]]),
            pruned_share=np.array([np.nan]),
        )
    plan = mixed_plan(problem)
    assert plan.num_copies == 5
    with pytest.raises(ValueError, match="read-only"):
        plan.copies[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        plan.served_share[0] = 1.0


def test_score_refuses_a_plan_of_another_instance() -> None:
    """The judge does not mix instances up."""
    plan = mixed_plan(problem_by_hand())
    other = build_problem(changed(limits={"busy": 50.0}))
    with pytest.raises(PlanError, match=r"got a plan for 'by hand' \(sha256:"):
        score(other, plan)
    with pytest.raises(PlanError, match="got a plan for"):
        transfer_budgets(other, plan)

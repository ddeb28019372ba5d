"""The studies run, on what is quick, and their parts do what they say."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from meldopt import build_problem, read_instance, solve

switched = importlib.import_module("tests.benchmarks.studies.switched")
papers = importlib.import_module("tests.benchmarks.studies.papers")
published = importlib.import_module("tests.benchmarks.studies.published")
drift = importlib.import_module("tests.benchmarks.studies.drift")
setting = importlib.import_module("tests.benchmarks.studies.setting")
main = importlib.import_module("tests.benchmarks.studies.__main__").main


def small(tmp_path, *instances):
    """Return a setting of tiny deterministic limits."""
    return setting.Setting(folder=tmp_path / "kept", work=20.0, instances=instances)


# -- a ---------------------------------------------------------------------------------


def test_parts_are_switched_off():
    """What is left has one copy, no reductions, or one format, and the same losses."""
    whole = read_instance("tinymoe/edge-4")
    problem = build_problem(whole)
    assert build_problem(switched.one_copy(whole)).max_copies == 1
    plain = build_problem(switched.no_reductions(whole))
    assert problem.prune_loss.shape[2] > 0
    assert plain.prune_loss.shape[2] == plain.fuse_loss.shape[2] == 0
    assert not len(plain.similar)
    single = build_problem(switched.one_format(whole, "int3-g32"))
    assert single.labels.formats == ("int3-g32",)
    b = problem.labels.formats.index("int3-g32")
    assert (single.format_loss[:, :, 0] == problem.format_loss[:, :, b]).all()


def test_formats_are_those_in_which_the_model_fits():
    """The model does not fit in 16 bits, and loses too much in two."""
    whole = read_instance("tinymoe/edge-4")
    assert switched.fitting_formats(whole) == ["int3-g32", "int2-g32"]
    alone = switched.no_reductions(switched.one_format(whole, "int2-g32"))
    assert switched.loses_too_much(alone)
    assert (switched.PLACEMENT, "int2-g32") not in switched.edits(whole)


@pytest.mark.parametrize("name", ["tiny/quality", "tiny/pruning", "tiny/substitution"])
def test_what_has_a_plan_does_not_lose_too_much(name):
    """The quick bound rules nothing out that an exact solver finds."""
    for made in switched.edits(read_instance(name)).values():
        assert not switched.loses_too_much(made)
    whole = read_instance(name)
    for form in build_problem(whole).labels.formats:
        single = switched.one_format(whole, form)
        if switched.loses_too_much(single):
            result = solve(build_problem(single), "milp", time_limit=30, seed=0)
            assert result.status.value == "infeasible"


def test_study_a(tmp_path, capsys):
    """The optimum with two copies is below that with one, and both are proved."""
    folder = str(tmp_path / "kept")
    main(["a", "--work", "20", "--instances", "tiny/quality", "--folder", folder])
    said = capsys.readouterr().out
    (line,) = [one for one in said.splitlines() if one.startswith("| tiny/quality")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "0 %"
    ratio, _, proved = cells[5].partition(" (≥ ")
    assert float(ratio) == float(proved.rstrip(")")) > 1.0


# -- b and c ---------------------------------------------------------------------------


def test_published_ratios_are_of_one_paper():
    """HetRoute saves 28.1 and 59.0 % against Prism and EdgeShard, Prism 30.6 %."""
    name = "hetroute/mixtral-r2-q20"
    values = papers.HETROUTE_PUBLISHED
    assert 1 - values[name, "hetroute"] / values[name, "prism"] == pytest.approx(
        0.281, abs=1e-3
    )
    assert 1 - values[name, "hetroute"] / values[name, "edgeshard"] == pytest.approx(
        0.59, abs=1e-3
    )
    name = "prism/v2-lite-bigbench"
    values = papers.PRISM_PUBLISHED
    assert 1 - values[name, "prism"] / values[name, "eplb"] == pytest.approx(
        0.306, abs=1e-3
    )


def test_study_c(tmp_path):
    """Every method has a row with a replay; the joint plan is nowhere worse."""
    said = papers.prism(small(tmp_path, "tiny/memory"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in said.splitlines()
        if line.startswith("| tiny/memory")
    ]
    by = {row[1]: row for row in rows if row[2] in ("feasible", "optimal")}
    assert {"prism", "eplb", "auto"} <= set(by)
    assert all(float(by["auto"][3]) <= float(row[3]) for row in by.values())
    assert float(by["prism"][6]) > 0


# -- d ---------------------------------------------------------------------------------


def test_study_d(tmp_path, monkeypatch):
    """What was published comes out; what needs other data is left out with a line."""
    monkeypatch.setattr(published, "RESTARTS", 0)
    monkeypatch.setattr(published, "SYNTHETIC", 3)
    assert [row[-1] for row in published.eplb_table().rows] == ["equal", "equal"]
    hops = published.exflow_table(None).rows
    assert [row[2] for row in hops[:2]] == [row[3] for row in hops[:2]]
    assert all(row[5] < row[3] for row in hops[4:])
    devices = published.occult_table(None).rows
    assert devices[0][3] == pytest.approx(3.659, abs=1e-3)
    said = published.run(small(tmp_path))
    assert "PMQ is left out" in said
    assert "prism/mixtral-bigbench" in said


# -- e ---------------------------------------------------------------------------------


def test_frozen_plans_lose_their_gains(tmp_path):
    """Replicas for the experts of one workload are of little use to another."""
    now = small(tmp_path)
    busy = np.ones((2, 12), dtype=np.int64)
    counts = {"first": busy + 99 * (np.arange(12) < 3), "last": busy + 0}
    counts["last"] = busy + 99 * (np.arange(12) >= 9)
    names = [
        now.kept(drift.counted_instance(f"counted/{name}", count))
        for name, count in counts.items()
    ]
    records = drift._crossed(now, names, ["prism", drift.BLIND])
    rows = {row[1]: row[2:] for row in drift.kept_table(records).rows}
    assert rows["first"][0] > rows["first"][1]
    assert rows["last"][1] > rows["last"][0]


def test_without_data_there_is_nothing_recorded(tmp_path):
    """The study of DeepSeek-V3 needs data that is not part of the project."""
    assert drift.recorded(small(tmp_path)) is None

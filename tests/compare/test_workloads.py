"""Another workload for an instance, and plans that stay when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from replay_cases import drawn_trace

from meldopt.builder import build_problem
from meldopt.compare.frozen import check_same_axes, freeze
from meldopt.compare.trials import Library
from meldopt.compare.workloads import (
    DemandSet,
    on_workload,
    read_workload,
    with_demands,
    with_trace,
)
from meldopt.errors import FileFormatError, PlanError, TraceError
from meldopt.instance import Instance, read_instance, write_instance
from meldopt.plan import Plan
from meldopt.replay.match import match, trace_problem
from meldopt.score import score
from meldopt.testing import contract_instance, single_copy_plans
from meldopt.trace import Trace, write_trace

if TYPE_CHECKING:
    from pathlib import Path

SAME = (
    "format_loss",
    "prune_width",
    "prune_loss",
    "fuse_width",
    "fuse_loss",
    "similar",
    "similar_loss",
    "size_bytes",
    "flop",
    "quality_budget",
    "source",
    "capacity_bytes",
)
"""Arrays that no trace changes."""


def instances() -> list[Instance]:
    """Return instances of both dataflows, with all kinds of losses."""
    return [
        contract_instance("loose"),
        contract_instance("roam"),
        read_instance("tinymoe/edge-4"),
    ]


@pytest.mark.parametrize("instance", instances(), ids=lambda one: one.name)
def test_calls_and_rates_are_those_of_the_trace(instance: Instance) -> None:
    """The new instance has the statistics that replay counts in the trace.

    The drawn trace names applications; `trace_problem` counts by demand, so the
    reference is its mean over the demands of an application.
    """
    problem = build_problem(instance)
    trace = drawn_trace(problem, 1, requests=30)
    made = with_trace(instance, trace, name="drawn")
    there = build_problem(made)
    counted = trace_problem(problem, trace, match(problem, trace, instance=instance))
    for name in SAME:
        np.testing.assert_allclose(
            getattr(there, name), getattr(problem, name), rtol=1e-12, err_msg=name
        )
    np.testing.assert_allclose(there.rate, counted.rate, rtol=1e-12)
    for g in range(problem.num_applications):
        of = np.flatnonzero(problem.application_of == g)
        if not counted.rate[of].sum():
            np.testing.assert_allclose(there.calls[g], problem.calls[g])
            continue
        weight = counted.rate[of] / counted.rate[of].sum()
        for name in ("calls", "entry", "exit"):
            expected = weight @ getattr(counted, name)[of]
            np.testing.assert_allclose(
                getattr(there, name)[g], expected, rtol=1e-9, atol=1e-12, err_msg=name
            )
    assert made.name == f"{instance.name} @ drawn"
    assert len(there.sample_experts) <= len(problem.sample_experts)
    assert (len(there.sample_experts) > 0) == (len(problem.sample_experts) > 0)
    check_same_axes(problem, there)


def test_a_trace_by_domain_keeps_the_mix_of_applications(tmp_path: Path) -> None:
    """Requests that name domains are counted by domain; the result can be written.

    The applications of edge-4 mix the five domains that its traces name.
    """
    instance = read_instance("tinymoe/edge-4")
    trace = read_workload("tinymoe/a/plan")
    made = on_workload(instance, trace, "plan")
    problem, there = build_problem(instance), build_problem(made)
    assert made.spec.model.domains == instance.spec.model.domains
    assert made.spec.workload.applications == instance.spec.workload.applications
    assert not np.allclose(there.calls, problem.calls)
    assert there.total_rate == pytest.approx(problem.total_rate)
    write_instance(made, tmp_path / "made.json")
    assert read_instance(tmp_path / "made.json").digest() == made.digest()


def test_what_was_measured_as_kl_stays_per_call() -> None:
    """KL divided by the calls of its measurement does not change with the trace."""
    before = contract_instance("loose")
    workload = before.spec.workload  # applications with other names than the domains
    workload = msgspec.structs.replace(
        workload,
        applications=[
            msgspec.structs.replace(one, name=f"my {one.name}")
            for one in workload.applications
        ],
        demands=[
            msgspec.structs.replace(one, application=f"my {one.application}")
            for one in workload.demands
        ],
    )
    before = before.replace(workload=workload)
    arrays = dict(before.arrays)
    arrays["kl"] = np.repeat(arrays.pop("loss"), 2, axis=0) * arrays["calls"][..., None]
    instance = Instance(spec=before.spec, arrays=arrays)
    problem = build_problem(instance)
    trace = drawn_trace(problem, 0, requests=10)
    header = msgspec.structs.replace(
        trace.header, applications=("prose", "code"), digest=""
    )
    by_domain = Trace(
        header=header,
        requests=trace.requests,
        source=trace.source,
        place="drawn",
        path=None,
    )
    made = with_trace(instance, by_domain, name="drawn")
    assert "kl" in made.arrays
    there = build_problem(made)
    np.testing.assert_allclose(there.format_loss, problem.format_loss, rtol=1e-12)
    assert not np.allclose(there.calls, problem.calls)


def test_a_trace_of_another_model_is_refused() -> None:
    """Layers and experts of trace and instance must agree."""
    trace = drawn_trace(build_problem(read_instance("tinymoe/edge-4")), 0, requests=3)
    with pytest.raises(TraceError, match="expected 2"):
        with_trace(contract_instance("loose"), trace, name="drawn")


def test_a_demand_set_is_put_in(tmp_path: Path) -> None:
    """A demand set replaces applications and demands, and nothing else."""
    instance = contract_instance("loose")
    demands = DemandSet(
        format_version=1,
        name="night",
        applications=instance.spec.workload.applications[:1],
        demands=instance.spec.workload.demands[:1],
    )
    path = tmp_path / "night.json"
    path.write_bytes(msgspec.json.encode(demands))
    read = read_workload(str(path))
    assert read == demands
    made = on_workload(instance, read, "night")
    assert made.digest() == with_demands(instance, demands, source="").digest()
    problem = build_problem(made)
    assert (problem.num_applications, problem.num_demands) == (1, 1)
    with pytest.raises(FileFormatError, match="expected an INSTANCE"):
        on_workload(None, read, "night")


def test_a_frozen_plan_keeps_its_copies_by_name() -> None:
    """Servers and formats in another order: the same copies, the same objective."""
    one = contract_instance("loose")
    cluster = msgspec.structs.replace(
        one.spec.cluster, servers=list(reversed(one.spec.cluster.servers))
    )
    model = msgspec.structs.replace(
        one.spec.model, loss_formats=[fmt.name for fmt in one.spec.formats]
    )
    other = one.replace(
        cluster=cluster, model=model, formats=list(reversed(one.spec.formats))
    )
    here, there = build_problem(one), build_problem(other)
    for plan in single_copy_plans(here)[::97]:
        moved = freeze(plan, here, there)
        assert score(there, moved).objective == pytest.approx(
            score(here, plan).objective, rel=1e-12
        )
        names = [
            {
                (i, problem.labels.places[v], problem.labels.formats[b])
                for i, v, b in of.copies.tolist()
            }
            for problem, of in ((here, plan), (there, moved))
        ]
        assert names[0] == names[1]


def test_shares_of_a_frozen_plan_follow_the_default_rule() -> None:
    """What a solver decided about shares is not carried over."""
    problem = build_problem(contract_instance("loose"))
    copies = single_copy_plans(problem)[0].copies
    plan = Plan.of(
        problem,
        copies,
        served=np.array([[0, 0, 0]], dtype=np.int64),
        served_share=np.array([1.0]),
    )
    assert len(freeze(plan, problem, problem).served) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": ["wide"]}, "formats: 'narrow' is missing"),
        ({"servers": ["a", "b", "x"]}, "places: 'c gpu' is missing"),
        ({"experts": 3}, r"experts of the layers: got \[3, 3\], expected \[2, 2\]"),
    ],
)
def test_other_axes_are_refused(change: dict[str, object], message: str) -> None:
    """Plans of another model or cluster cannot be judged: one clear line."""
    one = contract_instance("loose")
    document = msgspec.to_builtins(one.spec)
    arrays = dict(one.arrays)
    if "formats" in change:
        document["formats"] = document["formats"][:1]
        arrays["loss"] = arrays["loss"][:, :, :1]
    if "servers" in change:
        document["cluster"]["servers"][2]["name"] = "x"
        document["cluster"]["links"][1]["between"] = ["b", "x"]
        document["workload"]["demands"][1]["home"] = "x"
    if "experts" in change:
        document["model"]["experts"] = 3
        arrays = {}
    other = Instance(spec=msgspec.convert(document, type(one.spec)), arrays=arrays)
    with pytest.raises(PlanError, match=message):
        check_same_axes(build_problem(one), build_problem(other))


def test_trials_of_train_and_test(tmp_path: Path) -> None:
    """Every train set meets every test set; a side that is not given is INSTANCE."""
    library = Library()
    (plain,) = library.trials(["tinymoe/edge-4"])
    assert plain.planned.name == "tinymoe/edge-4"
    assert plain.judged == (plain.planned,)
    (tested,) = library.trials(["tinymoe/edge-4"], [], ["tinymoe/a/test"])
    assert tested.planned == plain.planned
    assert [one.name for one in tested.judged] == ["tinymoe/edge-4 @ tinymoe/a/test"]
    assert [one.family for one in tested.judged] == ["tinymoe"]
    (trained,) = library.trials(["tinymoe/edge-4"], ["tinymoe/a/test"], [])
    assert trained.planned == tested.judged[0]
    assert trained.judged == (plain.planned,)
    both = library.trials(
        ["tinymoe/edge-4"],
        ["tinymoe/a/plan", "tinymoe/a/test"],
        ["tinymoe/a/plan", "tinymoe/a/test"],
    )
    assert len(both) == 2
    assert both[0].judged == both[1].judged == (both[0].planned, both[1].planned)


def test_trials_that_make_no_sense_are_refused() -> None:
    """What has no instance, or one too many, is one clear line."""
    library = Library()
    with pytest.raises(FileFormatError, match="got no instance"):
        library.trials([])
    with pytest.raises(FileFormatError, match="expected an INSTANCE"):
        library.trials([], ["tinymoe/a/test"], [])
    with pytest.raises(FileFormatError, match="has no part"):
        library.trials(["tiny/memory"], ["tiny/link"], ["tiny/link"])
    with pytest.raises(FileFormatError, match="no bundled instance has such a name"):
        library.trials(["nothing/*"])
    with pytest.raises(PlanError, match="cannot judge plans of"):
        library.trials(["tiny/memory"], [], ["tinymoe/edge-4"])


def test_patterns_are_of_bundled_names(tmp_path: Path) -> None:
    """A pattern stands for the bundled instances that it matches, sorted, each once."""
    names = [one.planned.name for one in Library().trials(["tiny/c*", "tiny/copies"])]
    assert names == ["tiny/compute", "tiny/copies", "tiny/count", "tiny/coverage"]
    write_instance(contract_instance("loose"), tmp_path / "one.json")
    write_instance(contract_instance("tight"), tmp_path / "two.json")
    paths = [str(tmp_path / name) for name in ("one.json", "two.json", "one.json")]
    assert [one.planned.name for one in Library().trials(paths)] == [
        "contract-loose",
        "contract-tight",
    ]


def test_a_trace_is_found_by_path(tmp_path: Path) -> None:
    """A folder or an archive is a trace, whatever it is called."""
    problem = build_problem(contract_instance("loose"))
    trace = drawn_trace(problem, 0, requests=3)
    for name in ("t.npz", "t.trace"):
        write_trace(tmp_path / name, trace.header, trace.requests, trace.chunks())
        assert read_workload(str(tmp_path / name)) == tmp_path / name
    with pytest.raises(FileFormatError, match="no such file"):
        read_workload(str(tmp_path / "other.json"))

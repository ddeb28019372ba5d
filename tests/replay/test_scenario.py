from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import Case, cases, random_plan
from replay_cases import drawn_trace, plain_plan, star

from meldopt.builder import build_problem
from meldopt.errors import FileFormatError
from meldopt.instance import read_instance
from meldopt.replay.backbone import Backbone
from meldopt.replay.events import Settings, replay_events
from meldopt.replay.match import match
from meldopt.replay.scenario import Scenario, course_of, read_scenario

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.replay.records import Records
    from meldopt.trace import Trace


def _run(
    problem: Problem, plan: Plan, trace: Trace, written: dict[str, Any], **more: Any
) -> Records:
    scenario = msgspec.convert(written, Scenario)
    found = match(problem, trace)
    return replay_events(problem, plan, trace, found, scenario=scenario, **more)


def _one_way(arrivals: list[float], **more: Any) -> tuple[Problem, Plan, Trace]:
    """Requests of home a whose only call crosses the slow link: 1000 bytes."""
    problem = star()
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(
        problem,
        1,
        requests=len(arrivals),
        arrivals=arrivals,
        demand=0,
        **({"prompt": 0, "output": 1} | more),
    )
    return problem, plan, trace


SLOW: dict[str, Any] = {"from": "hub", "to": "far"}


def test_bandwidth_follows_its_table() -> None:
    """A message takes as long as the rates say that hold while it is sent."""
    case = _one_way([0, 1, 2, 5, 20])
    table = SLOW | {
        "times": ["1 s", 2, 3, 5.05],
        "bandwidth": ["500 B/s", 0, 1000, "20 kB/s"],
    }
    run = _run(*case, {"bandwidth": [table]})
    # At 0: 10 kB/s. At 1: 500 bytes until 2, nothing until 3, 500 in 0.5 s. At 2: it
    # waits until 3.5, then 1 s. At 5: 50 bytes, then 950 at 20 kB/s.
    expected = [0.1, 2.5, 2.5, 0.05 + 0.0475, 0.05]
    assert run.latency_s == pytest.approx(expected, abs=1e-6)
    busy = dict(zip(run.labels.links, run.link_busy_total_s, strict=True))
    assert busy["hub", "far"] == pytest.approx(0.1 + 2.5 + 1 + 0.0975 + 0.05)
    assert busy["far", "hub"] == 0


def test_a_table_that_repeats() -> None:
    """The same second of every two is slow, however late it is."""
    case = _one_way([0.25, 1.25, 100.25, 101.25, 102.95])
    table = {
        "between": ["hub", "far"],
        "times": [0, 1],
        "bandwidth": ["10 kB/s", "2 kB/s"],
        "repeat": "2 s",
    }
    run = _run(*case, {"bandwidth": [table]})
    # The last sends 500 bytes in 50 ms at the old rate, and 500 at the new one.
    expected = [0.1, 0.5, 0.1, 0.5, 0.05 + 0.25]
    assert run.latency_s == pytest.approx(expected, abs=1e-6)


def test_calls_go_to_another_copy() -> None:
    """While a server is down the copy of least time that is left answers."""
    problem = star()
    plan = plain_plan(problem, [(0, 2, 0), (0, 3, 0)])  # the hub is nearer
    arrivals = np.arange(10) + 0.5
    trace = drawn_trace(
        problem, 1, requests=10, prompt=0, output=1, arrivals=arrivals, demand=0
    )
    down = {"failures": [{"server": "hub", "at": 3, "until": "7 s"}]}
    run = _run(problem, plan, trace, down)
    far = (arrivals > 3) & (arrivals < 7)
    assert run.latency_s == pytest.approx(np.where(far, 0.1, 0.0), abs=1e-6)
    assert run.fate("served")[0, 0].tolist() == [0, 0, 6, 4, 0]
    assert run.fate("lost").sum() == 0


def test_calls_are_lost_without_another_copy() -> None:
    """The only copy is down: the call is lost, counted, and the token goes on."""
    case = _one_way([0, 2, 4])
    run = _run(*case, {"failures": [{"server": "far", "at": 1, "until": 3}]})
    assert run.lost_calls.tolist() == [0, 1, 0]
    assert run.fate("lost")[0, 0, 3] == 1
    assert run.fate("served")[0, 0, 3] == 2
    assert run.latency_s == pytest.approx([0.1, 0, 0.1], abs=1e-6)
    assert not run.failed.any()


def test_calls_in_flight_are_lost() -> None:
    """A server that fails while a call is on its way, or computed, does not answer."""
    problem, plan, trace = _one_way([0, 10])
    slow = problem.replace(s_per_byte=np.full(4, 0.1))  # 1 s an expert
    for at, back in ((0.05, 0.1), (0.6, 0.6)):
        fails = {"failures": [{"server": "far", "at": at, "until": 5}]}
        run = _run(slow, plan, trace, fails)
        assert run.lost_calls.tolist() == [1, 0]
        assert run.latency_s == pytest.approx([back, 1.1], abs=1e-6)
        assert run.counts.sum() == run.calls == 2
        assert run.fate("served").sum() == 1
        assert run.place_busy_s.sum() == pytest.approx(1 + max(at - 0.1, 0), abs=1e-6)


def test_what_reaches_a_server_that_is_down_takes_none_of_its_time() -> None:
    """Calls that arrive meanwhile are lost at once; the next one finds it idle."""
    problem, plan, trace = _one_way([0, 0, 0.31])
    slow = problem.replace(s_per_byte=np.full(4, 0.1))  # 1 s an expert
    more = {"settings": Settings(lanes=3, max_batch=1)}
    # They are on the link until 0.1, 0.2 and 0.41.
    fails = {"failures": [{"server": "far", "at": 0.05, "until": 0.3}]}
    run = _run(slow, plan, trace, fails, **more)
    assert run.lost_calls.tolist() == [1, 1, 0]
    assert run.latency_s == pytest.approx([0.1, 0.2, 1.1], abs=1e-6)
    assert run.place_busy_s.tolist() == pytest.approx([0, 0, 0, 1])
    gone = {"failures": [{"server": "far", "at": 0.05}]}
    run = _run(slow, plan, trace, gone, **more)
    assert run.lost_calls.tolist() == [1, 1, 1]
    assert run.latency_s == pytest.approx([0.1, 0.2, 0], abs=1e-6)
    assert run.place_busy_s.tolist() == [0, 0, 0, 0]


def test_a_home_fails_and_returns() -> None:
    """Running requests are gone with their context; those that wait come later."""
    problem, plan, trace = _one_way([0, 0.5, 1.5, 4], prompt=0, output=20)
    step = np.zeros(problem.num_servers)
    step[0] = 0.1
    run = _run(
        problem,
        plan,
        trace,
        {"failures": [{"server": "a", "at": 1, "until": 2}]},
        settings=Settings(max_batch=1),
        backbone=Backbone(step_s=step, token_s=0 * step),
    )
    assert run.failed.tolist() == [True, False, False, False]
    assert run.finished.tolist() == [False, True, True, True]
    assert np.isnan(run.finish_s[0])
    # A pass takes 0.1 s of backbone and 0.1 s of link, 20 of them 4 s.
    assert run.begun_s == pytest.approx([0, 2, 6, 10], abs=1e-5)
    assert run.finish_s[1:] == pytest.approx([6, 10, 14], abs=1e-5)
    assert run.counts.sum() == run.calls


def test_a_home_that_stays_down() -> None:
    """Its requests never finish; those of the other home do."""
    problem = star()
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(problem, 1, requests=20, arrivals=np.arange(20.0))
    run = _run(problem, plan, trace, {"failures": [{"server": "a", "at": 0.5}]})
    late = run.arrival_s > 0
    assert (run.finished[late] == (run.home[late] == 1)).all()
    assert 0 < run.finished.sum() < 20


def test_the_mix_drifts() -> None:
    """From then on applications come as the mix says, each with its own requests."""
    problem = star(
        workload={
            "applications": [{"name": "chat"}, {"name": "code"}],
            "demands": [
                {"application": "chat", "home": "a", "rate": 3.0},
                {"application": "code", "home": "b", "rate": 1.0},
            ],
        }
    )
    plan = plain_plan(problem, [(0, 3, 0)])
    trace = drawn_trace(problem, 1, requests=400, arrivals=np.arange(400.0))
    written = {"drift": [{"at": 200, "mix": {"chat": 0.1, "code": 0.9}}]}
    run = _run(problem, plan, trace, written)
    assert run.application[:200].tolist() == trace.requests.application[:200].tolist()
    assert (run.application[200:] == 1).mean() == pytest.approx(0.9, abs=0.01)
    # Users stay where they are: new pairs of application and home appear.
    assert run.home.tolist() == trace.requests.home.tolist()
    assert run.labels.demands[2:] == (("chat", "b"), ("code", "a"))
    assert run.finished.all()
    course = course_of(
        msgspec.convert(written, Scenario),
        problem,
        trace.requests.arrival_s,
        match(problem, trace).request_demand,
    )
    assert course.body[:200].tolist() == list(range(200))
    of = trace.requests.application[course.body]
    assert of.tolist() == run.application.tolist()


def test_users_move() -> None:
    """Half of a home's requests enter at another, where there was no demand before."""
    problem = star()
    plan = plain_plan(problem, [(0, 2, 0), (0, 3, 0)])
    trace = drawn_trace(problem, 1, requests=100, arrivals=np.arange(100.0), demand=0)
    moves = [
        {"at": 50, "from": "a", "to": "hub", "share": 0.5},
        {"at": 90, "from": "hub", "to": "b", "application": "chat"},
    ]
    run = _run(problem, plan, trace, {"moves": moves})
    counts = [np.bincount(run.home[n : n + 50], minlength=4) for n in (0, 50)]
    assert counts[0].tolist() == [50, 0, 0, 0]
    assert counts[1].tolist() == [25, 5, 20, 0]
    assert run.labels.demands[2] == ("chat", "hub")
    assert run.fate("served")[0, 2].tolist() == [0, 0, 20 * 6, 0, 0]
    assert run.finished.all()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"failures": [{"server": "moon", "at": 1}]},
            r"\$.failures\[0\].server: got 'moon', expected a server: a, b, hub, far",
        ),
        (
            {"failures": [{"server": "a", "at": 2, "until": 1}]},
            r"\$.failures\[0\].until: got 1.0, expected later than 2.0",
        ),
        (
            {"failures": [{"server": "a", "at": 0}, {"server": "a", "at": 5}]},
            r"\$.failures: got 'a' failing at 5.0 s",
        ),
        (
            {"failures": [{"server": "a", "at": "2 bytes"}]},
            r"\$.failures\[0\].at: got '2 bytes'",
        ),
        (
            {"failures": [{"server": "a", "at": -1}]},
            r"\$.failures\[0\].at: got -1.0, expected 0 or more",
        ),
        (
            {"bandwidth": [{"from": "a", "to": "b", "times": [0], "bandwidth": [1]}]},
            r"\$.bandwidth\[0\]: got a -> b, expected a link",
        ),
        (
            {"bandwidth": [SLOW | {"times": [0, 1], "bandwidth": [1]}]},
            r"\$.bandwidth\[0\]: got 2 times and 1 bandwidths",
        ),
        (
            {"bandwidth": [SLOW | {"times": [1, 1], "bandwidth": [1, 2]}]},
            r"\$.bandwidth\[0\].times: got 1.0 after 1.0",
        ),
        (
            {"bandwidth": [SLOW | {"times": [0, 1], "bandwidth": [1, 0]}]},
            r"\$.bandwidth\[0\].bandwidth: got 0 for ever",
        ),
        (
            {"bandwidth": [SLOW | {"times": [1], "bandwidth": [1], "repeat": 3}]},
            r"\$.bandwidth\[0\].repeat: got 3.0",
        ),
        (
            {"bandwidth": [{"from": "a", "times": [0], "bandwidth": [1]}]},
            r"\$.bandwidth\[0\]: got no link, expected either between",
        ),
        (
            {"bandwidth": [SLOW | {"times": [0], "bandwidth": [1]}] * 2},
            r"\$.bandwidth\[1\]: got hub -> far twice",
        ),
        (
            {"drift": [{"at": 0, "mix": {"music": 1}}]},
            r"\$.drift\[0\].mix: got 'music', expected one of chat",
        ),
        (
            {"drift": [{"at": 0, "mix": {"chat": 0}}]},
            r"\$.drift\[0\].mix: got no weights",
        ),
        (
            {"drift": [{"at": 1, "mix": {"chat": 1}}, {"at": 1, "mix": {"chat": 1}}]},
            r"\$.drift: got 1.0 s after 1.0 s",
        ),
        (
            {"moves": [{"at": 0, "from": "a", "to": "b", "share": 2}]},
            r"\$.moves\[0\].share: got 2.0, expected 0 to 1",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(written: dict[str, Any], message: str) -> None:
    """One line says where in the scenario, what was got, and what was expected."""
    case = _one_way([0, 1])
    with pytest.raises(FileFormatError, match=rf"^scenario: {message}") as caught:
        _run(*case, written)
    assert "\n" not in str(caught.value)


def test_a_move_to_a_home_without_trust() -> None:
    """Tokens of an application may not enter where they may not be seen."""
    problem, plan, trace = _one_way([0, 1])
    trusted = np.array([[True, True, False, True]])
    with pytest.raises(FileFormatError, match="'hub' as a home of 'chat'"):
        _run(
            problem.replace(trusted=trusted),
            plan,
            trace,
            {"moves": [{"at": 0, "from": "a", "to": "hub"}]},
        )


def test_a_drift_to_what_the_trace_does_not_have() -> None:
    """Requests of an application come from the trace, so it must have some."""
    problem = star(
        workload={
            "applications": [{"name": "chat"}, {"name": "code"}],
            "demands": [
                {"application": "chat", "home": "a", "rate": 1.0},
                {"application": "code", "home": "b", "rate": 1.0},
            ],
        }
    )
    trace = drawn_trace(problem, 1, requests=3, demand=0)
    with pytest.raises(FileFormatError, match="'code', of which the trace has none"):
        _run(
            problem,
            plain_plan(problem, [(0, 3, 0)]),
            trace,
            {"drift": [{"at": 0, "mix": {"code": 1}}]},
        )


def test_files_are_read_strictly(tmp_path: Path) -> None:
    """What is written is read back; an unknown key, or a newer version, is not."""
    path = tmp_path / "storm.json"
    written = {
        "format_version": 1,
        "about": {"note": "a storm"},
        "failures": [{"server": "a", "at": "3 s", "until": "1 min"}],
        "moves": [{"at": 0, "from": "a", "to": "b"}],
    }
    path.write_bytes(msgspec.json.encode(written))
    scenario = read_scenario(path)
    assert scenario == msgspec.convert(written, Scenario)
    path.write_bytes(msgspec.json.encode(scenario))
    assert read_scenario(path) == scenario
    for change, message in (
        ({"storms": []}, "unknown field `storms`"),
        ({"format_version": 2}, "newer than this meldopt"),
        ({"failures": [{"server": "a"}]}, r"\$.failures\[0\]"),
    ):
        path.write_bytes(msgspec.json.encode(written | change))
        with pytest.raises(FileFormatError, match=message):
            read_scenario(path)
    with pytest.raises(FileFormatError, match="no such file"):
        read_scenario(tmp_path / "none.json")


def test_the_scenario_of_the_documentation() -> None:
    """The example of docs/replay.md runs on the instance that the page uses."""
    text = (Path(__file__).parents[2] / "docs" / "replay.md").read_text("utf-8")
    written = text.split("```json\n")[1].split("```")[0]
    scenario = msgspec.json.decode(written, type=Scenario)
    problem = build_problem(read_instance("tinymoe/edge-4"))
    plan = plain_plan(problem, [(i, i % problem.num_places, 0) for i in range(96)])
    arrivals = np.arange(0.0, 900.0, 3.0)
    trace = drawn_trace(problem, 1, requests=len(arrivals), arrivals=arrivals)
    found = match(problem, trace)
    run = replay_events(problem, plan, trace, found, scenario=scenario)
    down = (run.arrival_s > 300) & (run.arrival_s < 480)
    assert (run.lost_calls[down & (run.home != 1)] > 0).any()
    late = run.arrival_s > 600
    names = run.labels.applications
    assert {names[g] for g in run.application[late].tolist()} == {"coding", "writing"}
    assert run.counts.sum() == run.calls


@settings(max_examples=20)
@given(
    cases(dataflow="home", uncalled=False, prune=True, fuse=True, hosts=False),
    st.integers(0, 1000),
)
def test_nothing_is_lost_in_a_storm(case: Case, seed: int) -> None:
    """Whatever fails and returns: every request ends, every call has one fate."""
    problem = case.problem
    rng = np.random.default_rng(seed)
    plan = random_plan(problem, case.witness.copies, rng)
    trace = drawn_trace(problem, seed, requests=40, prompt=4, output=5, rate=50.0)
    found = match(problem, trace)
    calm = replay_events(problem, plan, trace, found)
    failures = []
    for name in problem.labels.servers:
        times = np.sort(rng.uniform(0, calm.end_s, 6))
        failures += [
            {"server": name, "at": float(at), "until": float(until)}
            for at, until in times.reshape(3, 2)
        ]
    run = _run(
        problem,
        plan,
        trace,
        {"failures": failures},
        settings=Settings(max_batch=4, step_tokens=6, lanes=2),
    )
    assert (run.finished ^ run.failed).all()
    assert run.calls == run.counts.sum()
    assert (run.counts >= 0).all()
    assert run.fate("lost").sum() <= run.calls
    assert run.lost_calls.sum() == run.fate("lost").sum()
    k = trace.header.top_k * problem.num_layers
    assert run.calls >= run.tokens.sum() * k  # and those of steps broken off
    assert (run.latency_s[run.finished] >= 0).all()  # 0: all its calls were lost
    assert (run.processor_utilisation <= 1 + 1e-9).all()

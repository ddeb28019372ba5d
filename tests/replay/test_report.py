from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from replay_cases import drawn_trace, sample_trace, star
from scipy import stats

from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import read_plan
from meldopt.replay.analytic import replay_analytic
from meldopt.replay.analytic_report import report_analytic
from meldopt.replay.backbone import backbone_of
from meldopt.replay.event_report import report_events
from meldopt.replay.events import replay_events
from meldopt.replay.match import match, trace_problem
from meldopt.replay.paced import paced
from meldopt.replay.report import EventReport, to_document
from meldopt.replay.steady import interval, mser, sample
from meldopt.score import score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.replay.records import Records


def tinymoe() -> tuple[Problem, Plan]:
    """Return the instance of the tiny model and its best plan."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    path = best_plan("tinymoe/edge-4")
    assert path is not None
    return problem, read_plan(path, problem)


@pytest.fixture(scope="module")
def ran() -> tuple[Problem, Records]:
    """Return a run with queues: 120 requests of the tiny model."""
    problem, plan = tinymoe()
    trace = drawn_trace(problem, 4, requests=120, prompt=4, output=6, rate=3.0)
    backbone = backbone_of(read_instance("tinymoe/edge-4"), problem)
    return problem, replay_events(
        problem, plan, trace, match(problem, trace), backbone=backbone
    )


# -- the start of a run, and intervals -------------------------------------------------


def plain_mser(values: NDArray[np.float64]) -> int:
    """MSER-5 as it is written down, cut by cut."""
    groups = [values[n : n + 5].mean() for n in range(0, len(values) - 4, 5)]
    best, least = 0, np.inf
    for cut in range(len(groups) // 2 + 1):
        left = np.array(groups[cut:])
        error = ((left - left.mean()) ** 2).sum() / len(left) ** 2
        if error < least * (1 - 1e-12):
            best, least = cut, error
    return 5 * best


@pytest.mark.parametrize("seed", range(10))
def test_mser_is_its_definition(seed: int) -> None:
    """The running sums find the cut that the definition finds."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1e3, 1.0, 333) + 9 * np.exp(-np.arange(333) / 20) * (seed % 3)
    assert mser(values) == plain_mser(values)


def test_mser_cuts_the_start() -> None:
    """A start that is far off is cut, a steady run is not, nor a short one."""
    rng = np.random.default_rng(1)
    values = rng.normal(10.0, 1.0, 1000)
    values[:100] -= 8.0
    assert 100 <= mser(values) <= 150
    assert mser(np.full(200, 3.0)) == 0
    assert mser(np.arange(49.0)) == 0
    assert mser(np.zeros(0)) == 0
    assert mser(np.arange(1000.0)) == 500  # it never settles: the most there is


def test_intervals_cover() -> None:
    """Of correlated values the interval holds the true mean about as often as it says;
    one that took them for independent would not."""
    rng = np.random.default_rng(2)
    hit = naive = 0
    for _ in range(300):
        values = np.empty(4000)
        values[0] = rng.normal()
        noise = rng.normal(size=4000)
        for n in range(1, 4000):
            values[n] = 0.8 * values[n - 1] + noise[n]
        low, high = interval(values)
        hit += low <= 0 <= high
        naive += abs(values.mean()) <= 1.96 * values.std() / np.sqrt(4000)
    assert 0.90 <= hit / 300 <= 0.98
    assert naive / 300 < 0.75


def test_interval_by_hand() -> None:
    """Five batches of five: Student's t with 4 degrees of freedom."""
    values = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 5)
    low, high = interval(values)
    half = stats.t.ppf(0.975, 4) * np.sqrt(2.5) / np.sqrt(5)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert np.isnan(interval(values[:24])).all()


def test_sample_leaves_out_what_is_not_there() -> None:
    """Values that are not finite do not count; without any, nothing is known."""
    found = sample(np.array([np.nan, 1.0, np.inf, 3.0]))
    assert (found.count, found.mean, found.quantiles[0]) == (2, 2.0, 2.0)
    assert np.isnan(sample(np.full(3, np.nan)).mean)


# -- event mode ------------------------------------------------------------------------


def test_numbers_are_those_of_the_records(ran: tuple[Problem, Records]) -> None:
    """Means, quantiles, sums and shares are what numpy says of the arrays."""
    problem, records = ran
    report = report_events(problem, records, warm_up=0.25)
    start = records.arrival_s[30]
    assert report.window_s == (start, records.arrival_s[-1])
    assert report.warm_up.requests == 30
    for group, name in zip(
        report.applications, problem.labels.applications, strict=True
    ):
        mine = records.application == problem.labels.applications.index(name)
        mine &= records.arrival_s >= start
        assert group.requests == mine.sum() > 0
        for spread, values in (
            (group.ttft_s, records.ttft_s),
            (group.tpot_s, records.tpot_s),
            (group.latency_s, records.latency_s),
        ):
            assert spread.mean == pytest.approx(values[mine].mean())
            assert spread.p95 == pytest.approx(np.quantile(values[mine], 0.95))
            assert spread.p99 == pytest.approx(np.quantile(values[mine], 0.99))
    assert sum(group.requests for group in report.applications) == report.all.requests
    assert report.all.latency_s.mean == pytest.approx(records.latency_s[30:].mean())
    assert sum(report.calls.values()) == records.calls
    assert report.bytes_by_cause == pytest.approx(
        dict(
            zip(
                report.links[0].bytes_by_cause,
                records.link_bytes.sum(axis=0).tolist(),
                strict=True,
            )
        )
    )
    assert sum(one.bytes for one in report.links) == pytest.approx(
        sum(report.bytes_by_cause.values())
    )
    assert report.energy.joule == pytest.approx(
        sum(one.joule for one in report.processors)
        + sum(one.joule for one in report.links)
    )
    assert report.energy.joule_per_token == pytest.approx(
        report.energy.joule / records.tokens.sum()
    )


def test_loads_add_up(ran: tuple[Problem, Records]) -> None:
    """Over the whole run mean load x time is the busy time of each resource."""
    problem, records = ran
    report = report_events(problem, records, warm_up=0.0)
    width = report.over_time.bin_s
    for row, one in zip(report.over_time.processors, report.processors, strict=True):
        assert sum(row) * width == pytest.approx(one.expert_s + one.backbone_s)
        assert one.peak == max(row)
    for row, link in zip(report.over_time.links, report.links, strict=True):
        assert sum(row) * width == pytest.approx(link.busy_s)
    start, stop = report.window_s
    assert start == records.arrival_s[0]
    covered = sum(
        max(0.0, min(stop, (n + 1) * width) - max(start, n * width)) * load
        for n, load in enumerate(report.over_time.processors[0][:-1])
    )
    assert stop < (len(report.over_time.processors[0]) - 1) * width
    assert report.processors[0].utilisation == pytest.approx(covered / (stop - start))


def test_throughput_counts_the_window(ran: tuple[Problem, Records]) -> None:
    """Requests per second are the ends within the window; tokens those that came."""
    problem, records = ran
    report = report_events(problem, records, warm_up=0.0)
    start, stop = records.arrival_s[[0, -1]]
    ended = (records.finish_s <= stop).sum()
    assert report.throughput.requests_per_s == pytest.approx(ended / (stop - start))
    total = sum(report.over_time.output_tokens_per_s) * report.over_time.bin_s
    assert total == pytest.approx(records.tokens[1].sum())
    assert report.throughput.output_tokens_per_s is not None
    assert report.throughput.output_tokens_per_s * (stop - start) <= total


def test_goodput(ran: tuple[Problem, Records]) -> None:
    """A request is good if it keeps every target that is set; without any none is."""
    problem, records = ran
    assert report_events(problem, records).all.goodput is None
    ttft = float(np.median(records.ttft_s))
    tpot = float(np.median(records.tpot_s))
    for targets, good in (
        ({"ttft_s": ttft}, records.ttft_s <= ttft),
        ({"tpot_s": tpot}, records.tpot_s <= tpot),
        (
            {"ttft_s": ttft, "tpot_s": tpot},
            (records.ttft_s <= ttft) & (records.tpot_s <= tpot),
        ),
    ):
        report = report_events(problem, records, warm_up=0.0, **targets)
        found = report.all.goodput
        assert found is not None
        assert found.share == pytest.approx(good.mean())
        assert 0 < good.mean() < 1
        length = report.window_s[1] - report.window_s[0]
        assert found.requests_per_s == pytest.approx(good.sum() / length)
        assert found.output_tokens_per_s == pytest.approx(6 * good.sum() / length)
        assert found.low is not None
        assert found.low <= good.mean() <= (found.high or 0)


def test_latency_targets_of_applications(ran: tuple[Problem, Records]) -> None:
    """Without targets of the caller an application's own is one of its TPOT."""
    problem, records = ran
    target = float(np.median(records.tpot_s[records.application == 0]))
    own = problem.replace(latency_target=np.array([target, np.inf, np.inf]))
    report = report_events(own, records, warm_up=0.0)
    first, second = report.applications[0].goodput, report.applications[1].goodput
    assert first is not None
    assert first.tpot_s == target
    mine = records.application == 0
    assert first.share == pytest.approx((records.tpot_s[mine] <= target).mean())
    assert second is None
    every = report.all.goodput
    assert every is not None
    assert every.tpot_s is None  # applications differ
    assert every.share == pytest.approx((~mine | (records.tpot_s <= target)).mean())


def test_losses_stand_beside_budgets(ran: tuple[Problem, Records]) -> None:
    """The loss of an application is the records' own, its budget the instance's."""
    problem, records = ran
    report = report_events(problem, records)
    for g, group in enumerate(report.applications):
        assert group.quality_loss == pytest.approx(records.quality_loss[g])
        assert group.quality_budget == problem.quality_budget[g]
    mean = records.loss_nats.sum() / records.tokens.sum()
    assert report.all.quality_loss == pytest.approx(mean)


def numbers(value: Any) -> list[Any]:
    """Return every number in a document."""
    if isinstance(value, dict):
        return [one for item in value.values() for one in numbers(item)]
    if isinstance(value, list | tuple):
        return [one for item in value for one in numbers(item)]
    return [value] if isinstance(value, float) else []


def test_json_knows_every_number(ran: tuple[Problem, Records]) -> None:
    """A report is strict JSON, with null for what is not known."""
    problem, records = ran
    document = to_document(report_events(problem, records))
    assert document["mode"] == "events"
    assert np.isfinite(numbers(document)).all()
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(
        json.dumps(document)
    )


def one_home(**changes: Any) -> tuple[Problem, Plan]:
    """Return the star with its only expert far away."""
    from replay_cases import plain_plan

    problem = star(**changes)
    far = problem.labels.servers.index("far")
    return problem, plain_plan(problem, [(0, far, 0)])


def test_one_request() -> None:
    """A run of one request has no window of arrivals, and no intervals."""
    problem, plan = one_home()
    trace = drawn_trace(problem, 1, requests=1, prompt=0, output=1, top_k=1)
    records = replay_events(problem, plan, trace, match(problem, trace))
    report = report_events(problem, records)
    assert report.window_s == (records.arrival_s[0], records.end_s)
    assert report.all.requests == 1
    # One bin of time holds it, and all the time before: its load is not known.
    assert report.links[0].utilisation is None
    assert report.throughput.output_tokens_per_s is None
    assert sum(one.peak or 0.0 for one in report.links) > 0
    assert report.all.tpot_s.count == 0
    assert report.all.tpot_s.mean is None
    assert report.all.ttft_s.low is None
    assert report.warm_up.rule.startswith("none")
    assert np.isfinite(numbers(to_document(report))).all()


def test_all_at_once() -> None:
    """Requests that all come at time 0 are counted over the whole run."""
    problem, plan = one_home()
    trace = drawn_trace(
        problem, 1, requests=60, prompt=0, output=2, top_k=1, arrivals=np.zeros(60)
    )
    records = replay_events(problem, plan, trace, match(problem, trace))
    report = report_events(problem, records)
    assert report.window_s == (0.0, records.end_s)
    assert report.throughput.requests_per_s == pytest.approx(60 / records.end_s)
    assert report.throughput.output_tokens_per_s == pytest.approx(120 / records.end_s)


def test_overload_is_called_unsettled() -> None:
    """Where waits grow to the end, the report says that it did not settle."""
    problem, plan = one_home()
    trace = drawn_trace(
        problem, 1, requests=400, prompt=0, output=1, top_k=1, rate=100.0
    )
    records = replay_events(problem, plan, trace, match(problem, trace))
    report = report_events(problem, records)
    assert not report.warm_up.settled
    light = drawn_trace(problem, 1, requests=400, prompt=0, output=1, top_k=1, rate=1.0)
    quiet = replay_events(problem, plan, light, match(problem, light))
    assert report_events(problem, quiet).warm_up.settled


def test_one_home_that_drowns() -> None:
    """An overload that the other home hides from the mean is seen in what comes out."""
    problem, plan = one_home()
    trace = drawn_trace(problem, 1, requests=400, prompt=0, output=1, top_k=1, rate=1.0)
    records = replay_events(problem, plan, trace, match(problem, trace))
    assert report_events(problem, records, warm_up=0.0).warm_up.settled
    late = records.finish_s + np.where(records.demand == 0, 1e4, 0.0)
    half = replace(
        records,
        finish_s=late,
        end_s=float(late.max()),
        bin_tokens=records.bin_tokens / 2,
    )
    assert not report_events(problem, half, warm_up=0.0).warm_up.settled


def test_wrong_warm_up(ran: tuple[Problem, Records]) -> None:
    """All of a run cannot be its warm-up."""
    with pytest.raises(ValueError, match="expected 0 to less than 1"):
        report_events(*ran, warm_up=1.0)


# -- analytic mode ---------------------------------------------------------------------


def test_analytic_is_the_score() -> None:
    """Loads, losses and terms are those of `score` on the trace's own statistics."""
    problem, plan = tinymoe()
    trace = drawn_trace(problem, 3, requests=80)
    found = match(problem, trace)
    times = replay_analytic(problem, plan, trace, found)
    report = report_analytic(problem, plan, trace, found, times)
    judged = score(trace_problem(problem, trace, found), plan)
    rows = {(row.row, row.where): row.value for row in judged.rows}
    for one in report.processors:
        assert one.utilisation == pytest.approx(rows["compute", one.name])
    for one, bandwidth in zip(report.links, problem.link_bandwidth, strict=True):
        assert one.bytes_per_s == pytest.approx(rows["link", one.name])
        assert one.utilisation == pytest.approx(rows["link", one.name] / bandwidth)
    assert report.all.quality_loss == pytest.approx(judged.terms["quality"])
    assert report.terms["serial"] == pytest.approx(judged.terms["serial"])
    assert report.terms["serial"] == pytest.approx(report.all.serial_s.mean)
    assert report.terms["parallel"] == report.all.parallel_s.mean
    assert sum(one.tokens for one in report.applications) == report.tokens
    assert report.all.backbone_s == 0.0
    assert np.isfinite(numbers(to_document(report))).all()


def test_analytic_losses_are_those_of_events() -> None:
    """Both modes estimate the same loss where shares are whole."""
    problem, _ = tinymoe()
    plan = read_plan(best_plan("tinymoe/edge-4") or "", problem)
    whole = type(plan).of(problem, plan.copies)
    trace = drawn_trace(problem, 3, requests=40, rate=1.0)
    found = match(problem, trace)
    records = replay_events(problem, whole, trace, found)
    times = replay_analytic(problem, whole, trace, found)
    alone = report_analytic(problem, whole, trace, found, times)
    report: EventReport = report_events(problem, records)
    for one, other in zip(alone.applications, report.applications, strict=True):
        assert one.quality_loss == pytest.approx(other.quality_loss, rel=0.2)


# -- pace ------------------------------------------------------------------------------


def test_pace() -> None:
    """Requests come as many times as fast; nothing else changes, and it is told."""
    problem, _ = tinymoe()
    trace = sample_trace(problem)
    told: list[int] = []
    fast = paced(trace, 4.0, told.append)
    assert fast.requests.arrival_s.tolist() == (trace.requests.arrival_s / 4).tolist()
    assert (fast.load().experts == trace.load().experts).all()
    assert told[-1] == trace.num_tokens
    same = paced(trace)
    assert same.digest() == trace.digest()
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="expected a number above 0"):
            paced(trace, scale)

"""Waiting times against queueing theory, and against Lindley's recursion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from replay_cases import drawn_trace, plain_plan, star

from meldopt.replay.backbone import Backbone
from meldopt.replay.events import Settings, replay_events
from meldopt.replay.match import match

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = 300_000
OPEN = Settings(max_batch=1, step_tokens=1, lanes=100)
"""Homes that send each request on at once, so that arrivals at a link stay Poisson."""


def _arrivals(rate: float, seed: int) -> NDArray[np.float64]:
    """Poisson arrivals whose gaps are all the quantiles, in a random order.

    Their mean is then exact, which leaves less of the error of a finite sample.
    """
    order = np.random.default_rng(seed).permutation(COUNT)
    return np.cumsum(-np.log1p(-(order + 0.5) / COUNT) / rate)


def _waits(
    arrivals: NDArray[np.float64], service: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Waiting times of a single server, by Lindley's recursion."""
    total = np.concatenate([[0.0], np.cumsum(service)[:-1]])
    walk = total - arrivals  # the wait is how far it is above its lowest point
    waits: NDArray[np.float64] = walk - np.minimum.accumulate(walk)
    return waits


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_is_m_d_1(load: float) -> None:
    """The processor of a home under Poisson arrivals: load D / (2 (1 - load))."""
    service = 0.1
    problem = star()
    arrivals = _arrivals(load / service, 1)
    trace = drawn_trace(
        problem, 1, requests=COUNT, prompt=0, output=1, arrivals=arrivals, demand=0
    )
    step = np.full(problem.num_servers, service)
    run = replay_events(
        problem,
        plain_plan(problem, [(0, 0, 0)]),
        trace,
        match(problem, trace),
        settings=Settings(max_batch=1, step_tokens=1),
        backbone=Backbone(step_s=step, token_s=0 * step),
    )
    waits = run.begun_s - run.arrival_s
    theory = load * service / (2 * (1 - load))
    assert waits.mean() == pytest.approx(theory, rel=0.02)
    # The expert itself takes 10 ns, which the recursion knows and theory does not.
    exact = _waits(arrivals, run.finish_s - run.begun_s)
    assert waits == pytest.approx(exact, abs=1e-6)


def test_one_server_is_m_g_1() -> None:
    """Requests of 1, 2 or 6 tokens: Pollaczek and Khinchine say the mean wait."""
    problem = star()
    tokens = np.random.default_rng(3).choice([1, 2, 6], COUNT, p=[0.5, 0.3, 0.2])
    service = 0.1
    mean, square = 2.3 * service, 8.9 * service**2
    rate = 0.5 / mean
    trace = drawn_trace(
        problem,
        1,
        requests=COUNT,
        prompt=0,
        output=tokens,
        arrivals=_arrivals(rate, 4),
        demand=0,
    )
    step = np.full(problem.num_servers, service)
    run = replay_events(
        problem,
        plain_plan(problem, [(0, 0, 0)]),
        trace,
        match(problem, trace),
        settings=Settings(max_batch=1, step_tokens=1),
        backbone=Backbone(step_s=step, token_s=0 * step),
    )
    waits = run.begun_s - run.arrival_s
    theory = rate * square / (2 * (1 - rate * mean))
    assert waits.mean() == pytest.approx(theory, rel=0.02)


def test_two_homes_share_a_link() -> None:
    """Both wait as in one M/D/1 queue with the summed rate, arrival by arrival."""
    problem = star()
    service, load = 0.1, 0.6
    arrivals = _arrivals(load / service, 6)
    trace = drawn_trace(
        problem, 7, requests=COUNT, prompt=0, output=1, arrivals=arrivals
    )
    run = replay_events(
        problem,
        plain_plan(problem, [(0, 3, 0)]),
        trace,
        match(problem, trace),
        settings=OPEN,
    )
    waits = run.latency_s - service
    theory = load * service / (2 * (1 - load))
    for home in (0, 1):
        mine = run.home == home
        assert 0.4 < mine.mean() < 0.6
        assert waits[mine].mean() == pytest.approx(theory, rel=0.02)
    exact = _waits(arrivals, np.full(COUNT, service))
    # 1 ns on the fast links, and 10 ns for the expert.
    assert waits == pytest.approx(exact, abs=1e-6)
    assert run.link_busy_total_s.max() == pytest.approx(COUNT * service)


def test_two_homes_share_a_processor() -> None:
    """The same at the server of an expert, reached over fast links."""
    problem = star(model={"bytes_out": 0.0})
    problem = problem.replace(s_per_byte=np.full(problem.num_places, 0.01))
    service, load = 0.1, 0.5  # 10 bytes of weights, read anew for each call
    arrivals = _arrivals(load / service, 8)
    trace = drawn_trace(
        problem, 9, requests=COUNT, prompt=0, output=1, arrivals=arrivals
    )
    run = replay_events(
        problem,
        plain_plan(problem, [(0, 3, 0)]),
        trace,
        match(problem, trace),
        settings=OPEN,
    )
    waits = run.latency_s - service
    theory = load * service / (2 * (1 - load))
    for home in (0, 1):
        assert waits[run.home == home].mean() == pytest.approx(theory, rel=0.02)
    assert waits == pytest.approx(_waits(arrivals, np.full(COUNT, service)), abs=1e-6)

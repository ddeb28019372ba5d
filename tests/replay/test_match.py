from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from replay_cases import header_of, star

from meldopt.builder import build_problem
from meldopt.errors import TraceError
from meldopt.instance import read_instance
from meldopt.replay.match import match, trace_problem
from meldopt.trace import ANY_HOME, Chunk, Requests, Trace

if TYPE_CHECKING:
    from meldopt.problem import Problem


def _trace(problem: Problem, *, count: int = 8, **changes: Any) -> Trace:
    """Return requests of one token that go round applications and homes."""
    k = round(float(problem.calls[0][: problem.layer_start[1]].sum()))
    header = header_of(problem, k, **changes)
    numbers = np.arange(count)
    experts = np.zeros((count, header.num_layers, header.top_k), dtype=np.uint8)
    experts += np.arange(header.top_k, dtype=np.uint8)
    return Trace.of(
        header,
        Requests(
            arrival_s=numbers.astype(np.float64),
            application=numbers % len(header.applications),
            home=numbers // len(header.applications) % len(header.homes),
            prompt_tokens=0 * numbers,
            output_tokens=0 * numbers + 1,
        ),
        Chunk(
            experts=experts,
            gates=np.ones(experts.shape, dtype=np.float16),
            token_request=numbers,
        ),
    )


@pytest.fixture(scope="module")
def tinymoe() -> Problem:
    return build_problem(read_instance("tinymoe/edge-4"))


def test_homes_by_name() -> None:
    """Requests go to the demand of their application at the server of that name."""
    problem = star()
    found = match(problem, _trace(problem, homes=("b", "a")))
    assert found.request_demand.tolist() == [1, 0] * 4


def test_homes_by_a_mapping() -> None:
    """A mapping names the server; what it leaves out goes by its own name."""
    problem = star()
    trace = _trace(problem, homes=("north", "a"))
    found = match(problem, trace, homes={"north": "b"})
    assert found.request_demand.tolist() == [1, 0] * 4
    with pytest.raises(TraceError, match=r"\$.homes\[0\]: got 'north', expected a ser"):
        match(problem, trace)
    with pytest.raises(TraceError, match="got no 'south', expected it: it is mapped"):
        match(problem, trace, homes={"south": "b"})


def test_homes_that_were_not_recorded_are_spread() -> None:
    """In proportion to rate, evenly from the first request on."""
    problem = star().replace(rate=np.array([3.0, 1.0]))
    for homes in ((ANY_HOME,), ("north", "south")):
        found = match(problem, _trace(problem, count=400, homes=homes))
        first = found.request_demand == 0
        assert first.mean() == pytest.approx(0.75, abs=0.01)
        assert first[:40].mean() == pytest.approx(0.75, abs=0.06)
    forced = match(problem, _trace(problem, count=400, homes=("a",)), homes="spread")
    assert (forced.request_demand == 1).any()


def test_applications_by_name_domain_and_mapping(tinymoe: Problem) -> None:
    """A domain stands for the applications that hold it; a mapping, for any name."""
    instance = read_instance("tinymoe/edge-4")
    names = tinymoe.labels.applications

    def given(name: str, **more: Any) -> set[str]:
        trace = _trace(tinymoe, applications=(name,), homes=(ANY_HOME,), count=200)
        found = match(tinymoe, trace, **more)
        of = tinymoe.application_of[found.request_demand]
        return {names[g] for g in of.tolist()}

    for name in names:
        assert given(name) == {name}
        assert given("x", applications={"x": name}) == {name}
    for app in instance.spec.workload.applications:
        assert isinstance(app.domain, dict)
        for domain in app.domain:
            holding = {
                other.name
                for other in instance.spec.workload.applications
                if isinstance(other.domain, dict) and domain in other.domain
            }
            assert given(domain, instance=instance) == holding
    with pytest.raises(TraceError, match=r"\$.applications\[0\]: got 'x', expected an"):
        given("x", instance=instance)


def test_an_application_without_demand_at_a_home() -> None:
    """The line names the pair that the instance does not have."""
    problem = star()
    with pytest.raises(TraceError, match="requests of 'chat' at 'far', expected a dem"):
        match(problem, _trace(problem, homes=("far",)))


def test_layers_by_their_numbers(tinymoe: Problem) -> None:
    """Layers of the trace are found by number, in any surroundings."""
    experts = tuple([16] * 8)
    names: dict[str, Any] = {"experts": experts, "homes": (ANY_HOME,)}
    trace = _trace(tinymoe, **names, layer_ids=tuple(range(8)))
    numbers = tinymoe.layer_ids.tolist()
    assert match(tinymoe, trace).layer.tolist() == numbers
    moved = _trace(tinymoe, **names, layer_ids=tuple(range(1, 9)))
    with pytest.raises(TraceError, match=r"\$.layer_ids: got no layer 0"):
        match(tinymoe, moved)
    plain = _trace(tinymoe, homes=(ANY_HOME,), layer_ids=None)
    assert match(tinymoe, plain).layer.tolist() == list(range(6))
    with pytest.raises(TraceError, match=r"\$.experts: got 8 layers, expected 6"):
        match(tinymoe, _trace(tinymoe, **names, layer_ids=None))


def test_experts_and_top_k_agree(tinymoe: Problem) -> None:
    """Another number of experts, or of calls, is another model."""
    other = (16, 16, 8, 16, 16, 16)
    with pytest.raises(TraceError, match=r"\$.experts\[2\]: got 8, expected 16"):
        match(tinymoe, _trace(tinymoe, experts=other))
    wide = tinymoe.replace(calls=2 * tinymoe.calls)
    with pytest.raises(TraceError, match=r"\$.top_k: got 2, expected 4 calls in lay"):
        match(wide, _trace(tinymoe))


def test_the_trace_s_own_statistics() -> None:
    """Calls and rates are those of the tokens, demand by demand."""
    problem = star(model={"experts": 3, "top_k": 2.0})
    trace = _trace(problem, homes=("a", "b"), count=6)
    own = trace_problem(problem, trace, match(problem, trace))
    assert own.rate.tolist() == [1.0, 1.0]
    assert own.calls.tolist() == [[1.0, 1.0, 0.0]] * 2
    assert own.application_of.tolist() == [0, 1]
    assert own.labels.applications == ("chat at a", "chat at b")
    assert own.total_rate == problem.total_rate


def test_an_empty_trace_is_refused() -> None:
    """A trace without tokens is no trace."""
    problem = star()
    with pytest.raises(TraceError) as caught:
        _trace(problem, count=0)
    assert "\n" not in str(caught.value)

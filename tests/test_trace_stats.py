"""Statistics of traces agree with counting by hand and with plain loops."""

from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import made, random_parts

from meldopt.trace import Chunk, Requests, Trace, TraceHeader, slice_trace
from meldopt.trace.records import cut, joined
from meldopt.trace_stats import trace_statistics


def _trace(experts, request, *, width=4, application=None, arrival=None):
    """Make a trace of given experts (T, L, K)."""
    experts = np.array(experts, dtype=np.uint8)
    request = np.array(request)
    count = int(request.max()) + 1
    rows = np.bincount(request)
    top_k = experts.shape[2]
    gates = np.tile(np.linspace(0.75, 0.25, top_k), (*experts.shape[:2], 1))
    return Trace.of(
        TraceHeader(
            name="by-hand",
            applications=("a", "b"),
            homes=("h",),
            experts=(width,) * experts.shape[1],
            top_k=top_k,
            prompt_recorded=True,
        ),
        Requests(
            arrival_s=np.arange(float(count)) if arrival is None else arrival,
            application=np.zeros(count, int) if application is None else application,
            home=np.zeros(count, int),
            prompt_tokens=rows - 1,
            output_tokens=np.ones(count, int),
        ),
        Chunk(experts=experts, gates=gates.astype(np.float16), token_request=request),
    )


def test_requests_are_counted():
    """Three arrivals at 0, 1 and 4 s are 2 gaps in 4 s: 0.5 a second, mean gap 2 s."""
    trace = _trace(
        [[[0]]] * 6,
        [0, 0, 1, 1, 1, 2],
        application=np.array([0, 1, 1]),
        arrival=np.array([0.0, 1.0, 4.0]),
    )
    found = trace_statistics(trace)
    assert (found.requests, found.tokens) == (3, 6)
    assert (found.duration_s, found.requests_per_s) == (4.0, 0.5)
    assert found.gap_cv == 0.5  # gaps 1 and 3: deviation 1, mean 2
    assert found.prompt_tokens == 1.0  # 1, 2 and 0
    assert found.output_tokens == 1.0
    assert found.application_requests.tolist() == [1, 2]
    assert found.application_tokens.tolist() == [2, 4]


def test_one_request_has_no_rate():
    """A single request, and requests at the same time, have no arrival rate."""
    for request in ([0, 0], [0, 1]):
        trace = _trace([[[0]], [[1]]], request, arrival=np.zeros(max(request) + 1))
        found = trace_statistics(trace)
        assert found.requests_per_s is None
        assert found.gap_cv is None
        assert found.duration_s == 0.0


def test_skew_entropy_and_drift():
    """Calls 3, 1, 0, 0 of four: skew 3, entropy of (3/4, 1/4) over log 4; halves."""
    found = trace_statistics(_trace([[[0]], [[0]], [[0]], [[1]]], [0, 0, 0, 0]))
    assert found.calls.tolist() == [[0.75, 0.25, 0.0, 0.0]]
    assert found.skew.tolist() == [3.0]
    wanted = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(4)
    assert found.entropy == pytest.approx([wanted])
    assert found.drift.tolist() == [0.5]  # (1, 0) and (1/2, 1/2)


def test_applications_that_share_nothing_are_as_far_as_can_be():
    """Total variation between applications with other experts is 1, with itself 0."""
    trace = _trace([[[0]], [[0]], [[1]]], [0, 0, 1], application=np.array([0, 1]))
    found = trace_statistics(trace)
    assert found.application_drift.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert found.application_calls[1, 0].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_an_application_without_tokens_has_no_drift():
    """Where there is nothing to compare the answer is not a number, not a guess."""
    found = trace_statistics(_trace([[[0]], [[1]]], [0, 0]))
    assert np.isnan(found.application_drift[0, 1])
    assert np.isnan(found.application_calls[1]).all()


def test_paths_that_always_hold_are_always_hit():
    """Layer 1 repeats layer 0 plus one: path hits are sure, popularity gets 1 of 4."""
    first = np.tile(np.arange(4), 8)
    experts = np.stack([first, (first + 1) % 4], axis=1)[:, :, None]
    found = trace_statistics(_trace(experts, np.zeros(32, int)))
    assert np.isnan(found.hit[0])
    assert found.hit[1] == 1.0
    assert found.hit_popular[1] == 0.25
    assert found.hit_chance[1] == 0.25


def test_paths_are_learnt_from_the_first_half_only():
    """A path that changes in the middle is not predicted by what came after."""
    experts = np.zeros((16, 2, 1), dtype=int)
    experts[8:, 1] = 3
    found = trace_statistics(_trace(experts, np.zeros(16, int)))
    assert found.hit[1] == 0.0
    assert found.hit_popular[1] == 0.0


def test_tokens_in_common_are_counted_inside_requests():
    """Two pairs of neighbours in a request share 2 and 1 of 2; across none counts."""
    experts = [[[0, 1]], [[1, 0]], [[1, 2]], [[1, 2]]]
    found = trace_statistics(_trace(experts, [0, 0, 0, 1]))
    assert found.common.tolist() == [0.75]
    # Two random tokens: sum of squared calls over k, calls 1/2, 1, 1/2.
    assert found.common_chance == pytest.approx([(0.25 + 1 + 0.25) / 2])
    assert found.gates.tolist() == [0.75, 0.25]


@given(seed=st.integers(0, 10**6), size=st.integers(1, 40))
def test_the_cut_into_chunks_changes_nothing(seed, size):
    """Statistics are the same in whatever chunks the tokens come."""
    header, requests, chunks = made(random_parts(seed, requests=12))
    trace = Trace.of(header, requests, joined(chunks))
    whole = trace_statistics(trace)
    pieces = trace_statistics(
        Trace(
            header=trace.header,
            requests=requests,
            source=lambda: cut([joined(chunks)], size),
        )
    )
    for name in whole.__dataclass_fields__:
        one, other = getattr(whole, name), getattr(pieces, name)
        if name == "gates":  # sums of halves in another order
            assert one == pytest.approx(other, rel=1e-12)
        else:
            assert np.array_equal(one, other, equal_nan=name in _NAN), name


_NAN = {
    *("application_calls", "application_drift", "hit", "hit_popular"),
    *("hit_chance", "common", "drift"),
}


def test_layers_may_differ_in_width():
    """Chance, skew and entropy are those of each layer's own experts."""
    found = trace_statistics(
        Trace.of(
            *(lambda h, r, c: (h, r, joined(c)))(
                *made(random_parts(3, requests=400, experts=(4, 6, 3)))
            )
        )
    )
    assert found.hit_chance[1:] == pytest.approx([2 / 6, 2 / 3])
    assert found.skew == pytest.approx(np.ones(3), abs=0.15)
    assert found.entropy == pytest.approx(np.ones(3), abs=0.01)
    assert found.calls[0, 4:].tolist() == [0.0, 0.0]
    assert found.calls[2, 3:].tolist() == [0.0, 0.0, 0.0]


def test_one_token_is_a_trace():
    """The shortest trace has statistics; what needs two tokens is not a number."""
    found = trace_statistics(_trace([[[2]]], [0]))
    assert found.skew.tolist() == [4.0]
    assert np.isnan(found.drift).all()
    assert np.isnan(found.common).all()
    assert found.entropy.tolist() == [0.0]


def test_a_slice_has_statistics_of_its_own():
    """Statistics of a slice are those of its tokens."""
    trace = _trace([[[0]], [[1]], [[1]]], [0, 1, 2])
    found = trace_statistics(slice_trace(trace, requests=[1, 2]))
    assert found.calls.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_memory_does_not_grow_with_the_tokens():
    """A trace three times as long is counted in the same memory."""

    def peak(chunks: int) -> int:
        size = 20_000
        rng = np.random.default_rng(0)
        experts = rng.random((size, 4, 16)).argsort(axis=2)[:, :, :2].astype(np.uint8)
        gates = np.full(experts.shape, 0.5, dtype=np.float16)
        header = TraceHeader(
            name="long",
            applications=("a",),
            homes=("h",),
            experts=(16,) * 4,
            top_k=2,
            prompt_recorded=True,
        )
        trace = Trace(
            header=msgspec.structs.replace(header, tokens=size * chunks),
            requests=Requests(
                arrival_s=np.arange(float(chunks)),
                application=np.zeros(chunks, int),
                home=np.zeros(chunks, int),
                prompt_tokens=np.zeros(chunks, int),
                output_tokens=np.full(chunks, size),
            ),
            source=lambda: (
                Chunk(experts=experts, gates=gates, token_request=np.full(size, n))
                for n in range(chunks)
            ),
        )
        tracemalloc.start()
        assert trace_statistics(trace).tokens == size * chunks
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(9) < 1.2 * peak(3)

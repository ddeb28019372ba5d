"""What a trace says, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.profiling.statistics import (
    calls,
    calls_by_sequence,
    gate_quantiles,
    rising,
)
from meldopt.trace import ANY_HOME, Chunk, Requests, Trace, TraceHeader


def small() -> Trace:
    """Two layers of 3 and 2 experts, top 2; two domains of two requests of two tokens.

    Layer 0 of token t calls experts (t, t + 1) modulo 3, layer 1 calls (0, 1) in even
    tokens and (1, 0) in odd ones.
    """
    token = np.arange(8)
    first = np.stack([token % 3, (token + 1) % 3], axis=1)
    second = np.stack([token % 2, 1 - token % 2], axis=1)
    gate = np.linspace(0.6, 0.95, 8)
    gates = np.stack([gate, 1 - gate], axis=1)
    header = TraceHeader(
        name="small",
        applications=("prose", "code"),
        homes=(ANY_HOME,),
        experts=(3, 2),
        top_k=2,
        prompt_recorded=True,
    )
    requests = Requests(
        arrival_s=np.arange(4.0),
        application=np.array([0, 1, 0, 1]),
        home=np.zeros(4, dtype=np.int64),
        prompt_tokens=np.ones(4, dtype=np.int64),
        output_tokens=np.ones(4, dtype=np.int64),
    )
    chunk = Chunk(
        experts=np.stack([first, second], axis=1).astype(np.uint8),
        gates=np.stack([gates, gates], axis=1).astype(np.float16),
        token_request=np.repeat(np.arange(4), 2),
    )
    return Trace.of(header, requests, chunk)


def test_calls_of_a_sequence() -> None:
    """Request 0 has tokens 0 and 1: expert 1 of layer 0 twice, 0 and 2 once; both of
    layer 1 in both."""
    found = calls_by_sequence(small())
    assert found.shape == (5, 4)
    assert found[:, 0].tolist() == [0.5, 1.0, 0.5, 1.0, 1.0]


def test_calls_add_to_top_k() -> None:
    """Calls of a domain add to 2 in each layer; the errors are batch means."""
    found = calls(small())
    assert found.mean.shape == (5, 2)
    np.testing.assert_allclose(found.mean[:3].sum(axis=0), 2.0)
    np.testing.assert_allclose(found.mean[3:].sum(axis=0), 2.0)
    # Domain 0 has tokens 0, 1, 4, 5: expert 0 is called by 0 and by 5, 1 by 0, 1, 4.
    assert found.mean[:3, 0].tolist() == [0.5, 0.75, 0.75]
    assert found.error[3:].tolist() == [[0, 0], [0, 0]]


def test_quantiles_leave_out_the_largest_gate() -> None:
    """A quarter of all calls of a top-2 layer is half of the smaller gates."""
    trace = small()
    smaller = trace.load().gates[:, 0, 1].astype(np.float64)
    found = gate_quantiles(trace, (0.25, 0.5))
    assert found.shape == (2, 2)
    assert found[0, 0] == pytest.approx(np.median(smaller))
    assert found[0, 1] == pytest.approx(smaller.max())


def test_rising_pools_what_falls() -> None:
    """Segments 3 and 1 of widths 1 and 3 become 1.5 both: the area stays, the order is
    mended, and what rises already is left alone."""
    slope, width = np.array([3.0, 1.0, 4.0]), np.array([1.0, 3.0, 2.0])
    found = rising(slope, width)
    assert found.tolist() == [1.5, 1.5, 4.0]
    assert found @ width == slope @ width
    assert rising(found, width).tolist() == found.tolist()

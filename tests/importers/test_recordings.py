"""Recordings of routing become traces with the same tokens."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.errors import FileFormatError, TraceError
from meldopt.importers.recordings import (
    PROMPT_SETS,
    import_recording,
    read_recording,
)
from meldopt.trace import ANY_HOME, read_trace, write_trace
from meldopt.trace_stats import trace_statistics


def _sequences(tokens=12, **changes):
    rng = np.random.default_rng(1)
    experts = rng.random((tokens, 3, 5)).argsort(axis=2)[:, :, :2].astype(np.uint8)
    return {
        "expert_ids": experts,
        "gate_weights": np.full(experts.shape, 0.5, dtype=np.float16),
        "domain": np.repeat([0, 1, 1], tokens // 3),
        "sequence": np.repeat([0, 1, 2], tokens // 3),
        "domain_names": np.array(["prose", "code"]),
        "loss": np.zeros(tokens),  # other arrays are left alone
        **changes,
    }


def _prompts(**changes):
    rng = np.random.default_rng(2)
    experts = rng.random((10, 3, 5)).argsort(axis=2)[:, :, :2].astype(np.uint8)
    return {
        "experts": experts,
        "gates": np.full(experts.shape, 0.5, dtype=np.float16),
        "token_prompt": np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2]),
        "prompt_set": np.array([0, 2, 2]),
        "prompt_category": np.array([7, 1, 7]),
        "prompt_tokens": np.array([20, 30, 40]),
        **changes,
    }


def _written(tmp_path, arrays, **options):
    np.savez(tmp_path / "recording.npz", **arrays)
    parts = import_recording(tmp_path / "recording.npz", **{"seed": 0, **options})
    write_trace(tmp_path / "x.trace", *parts)
    return read_trace(tmp_path / "x.trace")


def test_sequences_become_requests(tmp_path):
    """Each sequence is a request, its domain the application, its tokens in order."""
    arrays = _sequences()
    trace = _written(tmp_path, arrays, prompt_share=0.3)
    assert trace.header.applications == ("prose", "code")
    assert trace.header.homes == (ANY_HOME,)
    assert trace.header.experts == (5, 5, 5)
    assert trace.requests.prompt_tokens.tolist() == [1, 1, 1]
    assert trace.requests.output_tokens.tolist() == [3, 3, 3]
    chunk = trace.load()
    found = [chunk.experts[chunk.token_request == n] for n in range(3)]
    order = [
        next(
            m
            for m in range(3)
            if np.array_equal(arrays["expert_ids"][4 * m : 4 * m + 4], one)
        )
        for one in found
    ]
    assert sorted(order) == [0, 1, 2]
    assert trace.requests.application.tolist() == [[0, 1, 1][m] for m in order]


def test_a_sequence_keeps_a_token_of_output(tmp_path):
    """However much of a sequence is prompt, its last token is output."""
    trace = _written(tmp_path, _sequences(), prompt_share=1.0)
    assert trace.requests.output_tokens.tolist() == [1, 1, 1]


def test_prompts_become_requests_of_outputs(tmp_path):
    """Generated tokens are outputs; prompts have their length and no rows."""
    trace = _written(tmp_path, _prompts())
    assert not trace.header.prompt_recorded
    assert trace.header.applications == (PROMPT_SETS[0], PROMPT_SETS[2])
    found = sorted(
        zip(
            trace.requests.prompt_tokens.tolist(),
            trace.requests.output_tokens.tolist(),
            trace.requests.application.tolist(),
            strict=True,
        )
    )
    assert found == [(20, 3, 0), (30, 2, 1), (40, 5, 1)]
    assert trace.rows().tolist() == trace.requests.output_tokens.tolist()
    by_category = _written(tmp_path, _prompts(), by="category")
    assert by_category.header.applications == ("category-1", "category-7")


def test_arrivals_are_drawn_or_taken(tmp_path):
    """Arrivals are Poisson, bursty or a table's, scaled if a rate is given."""
    (tmp_path / "r.csv").write_text(
        "arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,1,1\n3,1,1\n"
    )
    taken = _written(tmp_path, _prompts(), arrivals=tmp_path / "r.csv")
    assert taken.requests.arrival_s.tolist() == [0.0, 1.0, 3.0]
    taken = _written(
        tmp_path, _prompts(), arrivals=str(tmp_path / "r.csv"), rate_per_s=4.0
    )
    assert taken.requests.arrival_s == pytest.approx([0.0, 1 / 6, 0.5])
    one = _written(tmp_path, _prompts(), seed=1)
    again = _written(tmp_path, _prompts(), seed=1)
    other = _written(tmp_path, _prompts(), seed=2)
    assert one.digest() == again.digest() != other.digest()
    bursty = _written(tmp_path, _prompts(), seed=1, arrivals="bursty")
    assert not np.array_equal(bursty.requests.arrival_s, one.requests.arrival_s)


def test_experts_may_be_more_than_were_called(tmp_path):
    """The number of experts can be told: rare ones may never have been called."""
    trace = _written(tmp_path, _prompts(), experts=8, name="mine", about={"by": "me"})
    assert trace.header.experts == (8, 8, 8)
    assert trace.header.name == "mine"
    assert trace.header.about["by"] == "me"
    with pytest.raises(TraceError, match="expected 0 to 3"):
        _written(tmp_path, _prompts(), experts=4)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"calls": np.ones(3)}, "expected a recording"),
        (_sequences(domain=np.zeros(5, int)), "do not fit together"),
        (_prompts(token_prompt=np.array([0] * 9 + [2])), "requests without any"),
        (_prompts(token_prompt=np.array([1] * 5 + [0] * 5)), "out of order"),
        (_prompts(experts=np.zeros((10, 3), np.uint8)), "got 2 axes"),
        (_prompts(experts=np.full((10, 3, 2), 4, np.uint8)), "got 4 twice"),
        (_prompts(gates=np.full((10, 3, 2), np.nan, np.float16)), "gates: got"),
        (_sequences(0), "got no tokens"),
    ],
)
def test_wrong_recordings_are_refused(tmp_path, arrays, line):
    """Other arrays, other lengths, disorder and bad values are one line."""
    with pytest.raises(FileFormatError, match=line) as caught:
        _written(tmp_path, arrays)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "x.trace").exists()


def test_options_are_checked(tmp_path):
    """A share beyond 1 and another kind of application are refused."""
    np.savez(tmp_path / "r.npz", **_prompts())
    with pytest.raises(FileFormatError, match="prompt share: got 2"):
        read_recording(tmp_path / "r.npz", prompt_share=2.0)
    with pytest.raises(FileFormatError, match="by: got 'colour'"):
        read_recording(tmp_path / "r.npz", by="colour")


@pytest.mark.parametrize(
    ("file", "requests", "tokens", "skew"),
    [
        ("tinymoe/trace.npz", 200, 51_200, (1.6, 3.3)),
        ("gptoss20b/routing.npz", 271, 76_937, (1.95, 3.72)),
    ],
)
def test_real_recordings(data_folder, file, requests, tokens, skew):
    """Both real recordings pass every check and show the skew that was published."""
    path = data_folder / file
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    from meldopt.trace import Trace
    from meldopt.trace.records import joined

    header, table, chunks = import_recording(path, seed=0)
    trace = Trace.of(header, table, joined(chunks))
    assert (trace.num_requests, trace.num_tokens) == (requests, tokens)
    found = trace_statistics(trace)
    assert found.skew.min() == pytest.approx(skew[0], abs=0.05)
    assert found.skew.max() == pytest.approx(skew[1], abs=0.05)
    if "gptoss" in file:  # as its notes say: 44 % in common, 12.5 % by chance
        assert found.common.mean() == pytest.approx(0.44, abs=0.005)
        assert found.hit_chance[1] == 0.125

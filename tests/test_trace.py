"""Traces: what is written is read again, faults are refused, slices and mergers fit."""

from __future__ import annotations

import json
import tracemalloc
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import FAULTS, made, random_parts, write_raw

from meldopt.errors import FileFormatError, TraceError
from meldopt.trace import (
    Chunk,
    Requests,
    Trace,
    TraceHeader,
    merge_traces,
    read_trace,
    slice_trace,
    write_trace,
)
from meldopt.trace.records import cut, joined

KINDS = ("x.trace", "x.npz")


def _trace(seed=0, **changes):
    header, requests, chunks = made(random_parts(seed, **changes))
    return Trace.of(header, requests, joined(chunks))


def _same(one: Chunk, other: Chunk) -> bool:
    mine, theirs = one.arrays(), other.arrays()
    return list(mine) == list(theirs) and all(
        mine[name].dtype == theirs[name].dtype
        and np.array_equal(mine[name], theirs[name])
        for name in mine
    )


# -- round trips -----------------------------------------------------------------------


@given(
    seed=st.integers(0, 10**6),
    requests=st.integers(1, 30),
    experts=st.lists(st.integers(3, 300), min_size=1, max_size=4),
    top_k=st.integers(1, 3),
    bits=st.sampled_from([0, 1, 16, 64]),
    prompts=st.booleans(),
    kind=st.sampled_from(KINDS),
)
def test_what_is_written_is_read(
    tmp_path_factory, seed, requests, experts, top_k, bits, prompts, kind
):
    """A trace that is read again holds the same values, types, header and digest."""
    parts = random_parts(
        seed,
        requests=requests,
        experts=tuple(experts),
        top_k=top_k,
        signature_bits=bits,
        prompt_recorded=prompts,
    )
    header, table, chunks = made(parts)
    path = tmp_path_factory.mktemp("traces") / kind
    written = write_trace(path, header, table, chunks)
    found = read_trace(path)
    assert found.header == written
    assert written.digest == Trace.of(header, table, joined(chunks)).header.digest
    assert (written.tokens, written.requests) == (len(joined(chunks)), requests)
    assert _same(found.load(), joined(chunks))
    assert _same(found.load(), joined(chunks))  # the second pass checks nothing
    for name, column in table.arrays().items():
        assert np.array_equal(getattr(found.requests, name), column)
    assert np.array_equal(found.rows(), np.bincount(parts[2]["token_request"]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_trace_is_the_same_bytes(tmp_path, kind):
    """Writing twice, over the old one or elsewhere, gives the same bytes."""
    parts = made(random_parts(1))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_trace(tmp_path / folder / kind, *parts)
    write_trace(tmp_path / "b" / kind, *parts)
    files = sorted(one for one in (tmp_path / "a").rglob("*") if one.is_file())
    assert files
    for one in files:
        other = tmp_path / "b" / one.relative_to(tmp_path / "a")
        assert one.read_bytes() == other.read_bytes()
    assert len(list((tmp_path / "b").iterdir())) == 1  # nothing is left over


def test_the_digest_does_not_depend_on_the_cut_or_on_about(tmp_path):
    """Chunks and the free block are no part of the digest; a gate and a name are."""
    header, table, chunks = made(random_parts(2))
    whole = joined(chunks)
    digest = Trace.of(header, table, whole).header.digest
    cuts = cut([whole], 3)
    assert write_trace(tmp_path / "x.npz", header, table, cuts).digest == digest
    renamed = msgspec.structs.replace(header, about={"note": "another"})
    assert Trace.of(renamed, table, whole).header.digest == digest
    renamed = msgspec.structs.replace(header, name="another")
    assert Trace.of(renamed, table, whole).header.digest != digest
    gates = whole.gates.copy()
    gates[0, 0, 0] = 1.5
    other = Chunk(experts=whole.experts, gates=gates, token_request=whole.token_request)
    assert Trace.of(header, table, other).header.digest != digest


def test_more_than_256_experts_are_stored_wide(tmp_path):
    """Ids are uint8 up to 256 experts of a layer, uint16 above, whatever comes in."""
    for count, kind in ((256, np.uint8), (257, np.uint16)):
        header, table, arrays = random_parts(3, experts=(count,), top_k=1)
        arrays["experts"] = np.full(arrays["experts"].shape, count - 1, np.uint16)
        path = tmp_path / f"{count}.npz"
        write_trace(path, *made((header, table, arrays)))
        assert read_trace(path).load().experts.dtype == kind
        assert int(read_trace(path).load().experts.max()) == count - 1


def test_chunks_are_cut_anew(tmp_path):
    """The files of a folder hold as many tokens as the header's size of a chunk."""
    header, table, arrays = random_parts(4, requests=900, experts=(3,) * 4)
    size = 1024

    class Small(TraceHeader, frozen=True, kw_only=True):
        @property
        def chunk_rows(self) -> int:
            return size

    small = Small(**{f: getattr(header, f) for f in header.__struct_fields__})
    done = write_trace(tmp_path / "x.trace", *made((small, table, arrays)))
    tokens = len(arrays["token_request"])
    assert done.chunks == -(-tokens // size) > 1
    sizes = [
        len(np.load(tmp_path / "x.trace" / f"chunk-{n:05d}.npz")["experts"])
        for n in range(done.chunks)
    ]
    assert sizes[:-1] == [size] * (done.chunks - 1)
    assert sum(sizes) == tokens
    assert _same(read_trace(tmp_path / "x.trace").load(), Chunk(**arrays))


# -- faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_on_reading(tmp_path, fault, kind):
    """Every fault of a file is one line that names the file and the place in it."""
    change, line = FAULTS[fault]
    path = tmp_path / kind
    write_raw(path, change(random_parts(5)))
    with pytest.raises(TraceError) as caught:
        read_trace(path).load()
    text = str(caught.value)
    assert text.startswith(str(path))
    assert line in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_not_written(tmp_path, fault, kind):
    """What may not be in a trace is not written, and an old trace stays as it was."""
    change, _ = FAULTS[fault]
    path = tmp_path / kind
    old = write_trace(path, *made(random_parts(6)))
    with pytest.raises(TraceError):
        write_trace(path, *made(change(random_parts(5))))
    assert read_trace(path).digest() == old.digest
    read_trace(path).load()
    assert [one.name for one in tmp_path.iterdir()] == [kind]


def test_outputs_may_have_fewer_rows_but_not_more(tmp_path):
    """Without prompts a request has at most as many rows as output tokens."""
    header, table, arrays = random_parts(7, prompt_recorded=False)
    trace = _trace(7, prompt_recorded=False)
    assert (trace.rows() <= trace.requests.output_tokens).all()
    table = {**table, "output_tokens": np.maximum(trace.rows() - 1, 1)}
    with pytest.raises(TraceError, match="at most one for each token of the output"):
        write_trace(tmp_path / "x.npz", *made((header, table, arrays)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_value_breaks_the_digest(tmp_path, kind):
    """A trace whose values are others than those it was written with is refused."""
    write_raw(tmp_path / kind, random_parts(8))
    with pytest.raises(TraceError, match=r"got digest sha256:.*expected sha256:0000"):
        read_trace(tmp_path / kind).load()


def test_a_truncated_archive_is_refused(tmp_path):
    """A file cut anywhere is refused in one line, however much of it there is."""
    write_trace(tmp_path / "x.npz", *made(random_parts(9, requests=40)))
    data = (tmp_path / "x.npz").read_bytes()
    for size in (0, 3, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "x.npz").write_bytes(data[:size])
        with pytest.raises(TraceError) as caught:
            read_trace(tmp_path / "x.npz").load()
        assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_archive_is_refused(tmp_path):
    """Bytes that changed inside an archive are found, by checksum or by digest."""
    write_trace(tmp_path / "x.npz", *made(random_parts(9, requests=40)))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    for place in range(100, len(data) - 1000, 997):
        broken = data.copy()
        broken[place] ^= 0xFF
        (tmp_path / "x.npz").write_bytes(broken)
        with pytest.raises(TraceError):
            read_trace(tmp_path / "x.npz").load()


def test_a_truncated_array_is_refused(tmp_path):
    """An array that ends before its shape says so is refused."""
    path = tmp_path / "x.trace"
    write_trace(path, *made(random_parts(10)))
    chunk = path / "chunk-00000.npz"
    with zipfile.ZipFile(chunk) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["gates.npy"] = parts["gates.npy"][:-2]
    with zipfile.ZipFile(chunk, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(TraceError, match="it ends early"):
        read_trace(path).load()


def test_a_folder_that_lacks_something_is_refused(tmp_path):
    """A folder without header, requests or a chunk says what it lacks."""
    (tmp_path / "empty.trace").mkdir()
    with pytest.raises(TraceError, match=r"holds no trace\.json"):
        read_trace(tmp_path / "empty.trace")
    for name in ("requests.npz", "chunk-00000.npz"):
        path = tmp_path / f"without-{name}.trace"
        write_trace(path, *made(random_parts(11)))
        (path / name).unlink()
        with pytest.raises(TraceError, match=f"holds no {name}"):
            read_trace(path).load()


def test_other_files_are_refused(tmp_path):
    """What is no trace at all is refused in one line: arrays, text, nothing, a .npy."""
    np.savez(tmp_path / "profile.npz", calls=np.ones(3))
    with pytest.raises(TraceError, match="header: missing"):
        read_trace(tmp_path / "profile.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.ones(3))
    for name in ("text.npz", "one.npy"):
        with pytest.raises(TraceError, match=r"is no \.npz"):
            read_trace(tmp_path / name)
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "nothing.trace")


def test_objects_in_an_archive_are_not_loaded(tmp_path):
    """Pickled objects are refused, not run."""
    path = tmp_path / "x.trace"
    write_trace(path, *made(random_parts(12)))
    np.savez(path / "chunk-00000.npz", experts=np.array([{}]), allow_pickle=True)
    with pytest.raises(TraceError) as caught:
        read_trace(path).load()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("format_version", 2, "newer than this meldopt"),
        ("format_version", "x", "Expected `int`"),
        ("top_k", 2.5, "Expected `int`"),
        ("colour", "red", "unknown field"),
        ("tokens", 3, "$.tokens: got 3, but there are"),
        ("requests", 3, "$.requests: got 3, but there are 7"),
        ("digest", "", "$.digest: missing"),
        ("name", "two\nlines", "$.name: got"),
        ("homes", [], "$.homes: got no names"),
        ("signature_bits", 65, "$.signature_bits: got 65, expected 0 to 64"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path, key, value, line):
    """Newer versions, wrong types, unknown keys and wrong counts are one line each."""
    path = tmp_path / "x.trace"
    write_trace(path, *made(random_parts(13)))
    head = json.loads((path / "trace.json").read_text())
    (path / "trace.json").write_text(json.dumps({**head, key: value}))
    with pytest.raises(TraceError) as caught:
        read_trace(path).load()
    assert line in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_targets_are_refused_before_any_work(tmp_path):
    """A folder of something else, a missing parent and another suffix are refused."""
    header, table, _ = made(random_parts(14))

    def chunks():
        pytest.fail("asked for tokens")
        yield

    (tmp_path / "mine.trace").mkdir()
    (tmp_path / "mine.trace" / "letter.txt").write_text("keep me")
    (tmp_path / "file.trace").write_text("keep me")
    for name, line in (
        ("mine.trace", "is a folder of something else"),
        ("file.trace", "is no folder"),
        ("gone/x.trace", "its folder does not exist"),
        ("gone/x.npz", "its folder does not exist"),
        ("x.json", r"expected NAME\.trace or NAME\.npz"),
    ):
        with pytest.raises(TraceError, match=line):
            write_trace(tmp_path / name, header, table, chunks())
    assert (tmp_path / "mine.trace" / "letter.txt").read_text() == "keep me"


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    """Whatever ends the stream of tokens, no half a trace is left."""
    header, table, chunks = made(random_parts(15))

    def broken():
        yield chunks[0]
        raise KeyboardInterrupt

    for kind in KINDS:
        with pytest.raises(KeyboardInterrupt):
            write_trace(tmp_path / kind, header, table, broken())
    assert not list(tmp_path.iterdir())


def test_columns_of_unequal_length_are_refused():
    """A request table is as long in every column, of the right type and axes."""
    _, table, _ = random_parts(16)
    for name, value, line in (
        ("home", table["home"][:-1], "got 6 entries, expected 7"),
        ("home", table["home"] + 0.5, "home: got float64"),
        ("home", table["home"][:, None], "got 2 axes"),
    ):
        with pytest.raises(TraceError, match=line):
            Requests(**{**table, name: value})


def test_a_trace_error_is_an_error_of_a_file():
    """Who catches errors of files catches those of traces."""
    assert issubclass(TraceError, FileFormatError)


def test_a_bundled_trace_is_found_by_name(tmp_path, monkeypatch):
    """``family/name`` is a trace of the library, unless there is such a path."""
    monkeypatch.setattr("meldopt.library.instances_folder", lambda: tmp_path)
    (tmp_path / "family").mkdir()
    path = tmp_path / "family" / "one.trace.npz"
    done = write_trace(path, *made(random_parts(25)))
    assert read_trace("family/one").digest() == done.digest
    for name in ("family/two", "../family/one", "family/one.trace"):
        with pytest.raises(TraceError, match="no such file, and no bundled trace"):
            read_trace(name)


# -- slices and mergers ----------------------------------------------------------------


def test_a_slice_holds_the_rows_of_its_requests():
    """A mask and indexes keep the same whole requests, renumbered, with arrivals."""
    trace = _trace(17, requests=20, signature_bits=16)
    keep = np.array([3, 4, 11, 19])
    mask = np.isin(np.arange(20), keep)
    whole = trace.load()
    for chosen in (keep, keep[::-1], mask):
        part = slice_trace(trace, requests=chosen)
        loaded = part.load()
        rows = np.isin(whole.token_request, keep)
        assert np.array_equal(loaded.experts, whole.experts[rows])
        assert np.array_equal(loaded.signature, whole.signature[rows])
        assert np.array_equal(keep[loaded.token_request], whole.token_request[rows])
        assert np.array_equal(part.requests.arrival_s, trace.requests.arrival_s[keep])
        assert part.header.tokens == len(loaded)
        assert np.array_equal(part.rows(), trace.rows()[keep])


def test_a_slice_of_tokens_keeps_whole_requests_from_the_start():
    """So many tokens are the most leading requests that fit, and at least one."""
    trace = _trace(18, requests=20)
    ends = np.cumsum(trace.rows())
    for tokens in (1, int(ends[4]), int(ends[4]) + 1, int(ends[-1]), 10**9):
        part = slice_trace(trace, tokens=tokens)
        expected = max(1, int((ends <= tokens).sum()))
        assert part.num_requests == expected
        assert part.num_tokens == ends[expected - 1] == len(part.load())


def test_a_slice_may_be_written(tmp_path):
    """What a slice says of itself is what its file says."""
    part = slice_trace(_trace(19, requests=20), requests=[2, 3, 7])
    done = write_trace(tmp_path / "x.trace", part.header, part.requests, part.chunks())
    assert done.digest == part.digest() == read_trace(tmp_path / "x.trace").digest()


def test_impossible_slices_are_refused():
    """Nothing, what is not there, and a mask of another length are refused."""
    trace = _trace(20)
    for chosen, line in (
        ([], "got none"),
        ([7], "got 7, expected 0 to 6"),
        ([-1], "got -1, expected 0 to 6"),
        (np.ones(3, dtype=bool), "got shape"),
        (np.zeros(7, dtype=bool), "got none"),
    ):
        with pytest.raises(TraceError, match=line):
            slice_trace(trace, requests=chosen)
    with pytest.raises(TraceError, match="tokens: got 0"):
        slice_trace(trace, tokens=0)


@given(seed=st.integers(0, 10**6), cuts=st.integers(1, 4))
def test_merging_slices_gives_the_whole_back(seed, cuts):
    """Slices that share out the requests merge to the trace they are of."""
    rng = np.random.default_rng(seed)
    header, table, arrays = random_parts(seed, requests=25)
    # Different arrivals: requests at the same time would come in another order.
    table["arrival_s"] = np.arange(25.0)
    trace = Trace.of(header, Requests(**table), Chunk(**arrays))
    part = rng.integers(0, cuts, 25)
    slices = [
        slice_trace(trace, requests=part == n) for n in range(cuts) if (part == n).any()
    ]
    merged = merge_traces(slices)
    assert merged.digest() == trace.header.digest
    assert _same(merged.load(), trace.load())


def test_merging_unites_names():
    """Applications and homes are matched by name, and new ones come last."""
    one, other = _trace(21), _trace(22)
    renamed = msgspec.structs.replace(
        other.header, applications=("code", "maths"), homes=("van", "roof", "hall")
    )
    other = Trace.of(renamed, other.requests, other.load())
    merged = merge_traces([one, other])
    assert merged.header.applications == ("chat", "code", "maths")
    assert merged.header.homes == ("hall", "lab", "van", "roof")

    def names(trace):
        return sorted(
            zip(
                trace.requests.arrival_s,
                [trace.header.applications[g] for g in trace.requests.application],
                [trace.header.homes[h] for h in trace.requests.home],
                trace.rows().tolist(),
                strict=True,
            )
        )

    assert names(merged) == sorted(names(one) + names(other))
    assert merged.num_tokens == one.num_tokens + other.num_tokens == len(merged.load())


def test_traces_of_two_models_do_not_merge():
    """Other layers, another top k, signatures or prompts: refused, naming the trace."""
    one = _trace(23)
    for changes, line in (
        ({"experts": (4, 6, 5)}, "experts: got"),
        ({"top_k": 1}, "top_k: got 1, expected 2"),
        ({"signature_bits": 4}, "signature_bits: got 4, expected 0"),
        ({"prompt_recorded": False}, "prompt_recorded: got False, expected True"),
    ):
        with pytest.raises(TraceError, match=line):
            merge_traces([one, _trace(24, **changes)])
    with pytest.raises(TraceError, match="got no traces"):
        merge_traces([])


# -- streaming -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_trace(tmp_path, kind):
    """Writing and reading a long trace needs no more memory than a short one."""

    def peak(chunks: int) -> tuple[int, int]:
        size, layers, top_k = 20_000, 8, 4
        rng = np.random.default_rng(0)
        experts = np.tile(np.arange(top_k, dtype=np.uint8), (size, layers, 1))
        gates = -np.sort(-rng.random(experts.shape), axis=2).astype(np.float16)
        header = TraceHeader(
            name="long",
            applications=("a",),
            homes=("h",),
            experts=(16,) * layers,
            top_k=top_k,
            prompt_recorded=True,
        )
        requests = Requests(
            arrival_s=np.arange(float(chunks)),
            application=np.zeros(chunks, int),
            home=np.zeros(chunks, int),
            prompt_tokens=np.zeros(chunks, int),
            output_tokens=np.full(chunks, size),
        )
        stream = (
            Chunk(
                experts=experts, gates=gates, token_request=np.full(size, n, np.int64)
            )
            for n in range(chunks)
        )
        tracemalloc.start()
        write_trace(tmp_path / kind, header, requests, stream)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        tokens = sum(len(chunk) for chunk in read_trace(tmp_path / kind).chunks())
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert tokens == size * chunks
        return written, read

    short, long = peak(8), peak(24)
    assert long[0] < 1.2 * short[0]
    assert long[1] < 1.2 * short[1]

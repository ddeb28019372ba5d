"""Drawn traces have the statistics of their instance, and arrivals those asked for."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise

import msgspec
import numpy as np
import pytest

from meldopt.builder import build_problem
from meldopt.errors import FileFormatError, InstanceError
from meldopt.generate import generate
from meldopt.generate.arrivals import (
    LONGEST,
    RequestTable,
    at_rate,
    bursty,
    lengths,
    poisson,
    read_requests,
)
from meldopt.generate.drawing import inclusion
from meldopt.generate.routing import routing_of, set_weights
from meldopt.generate.traces import gate_quantiles, prefix_bits, synthetic_trace
from meldopt.instance import Instance, read_instance
from meldopt.testing import contract_instance
from meldopt.trace.records import joined

TOKENS = 60_000


def _table(requests=600, prompt=60, output=40):
    return RequestTable(
        arrival_s=np.arange(float(requests)),
        prompt_tokens=np.full(requests, prompt),
        output_tokens=np.full(requests, output),
    )


def _instance(name, **arrays):
    found = read_instance(name)
    if not arrays:
        return found
    return Instance(spec=found.spec, arrays={**found.arrays, **arrays})


def _without(instance, *names):
    kept = {key: one for key, one in instance.arrays.items() if key not in names}
    return Instance(spec=instance.spec, arrays=kept)


def _tokens_of(trace):
    """Return application of each token, and its experts."""
    chunk = trace.load()
    return trace.requests.application[chunk.token_request], chunk.experts.astype(int)


# Five standard errors: of some thousand compared numbers about none is further off.
def _within(got, wanted, tokens, *, extra=1e-3):
    error = np.sqrt(np.maximum(wanted * (1 - np.minimum(wanted, 1)), 0) / tokens)
    return np.all(np.abs(got - wanted) <= 5 * error + extra)


# -- marginals, paths, co-activation ---------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tinymoe/edge-4", "tinymoe/roam-3", "gpt-oss-20b/metro-8"]
)
def test_calls_are_those_of_the_instance(name):
    """Each application calls each expert as often as the instance says."""
    instance = _instance(name)
    problem = build_problem(instance)
    requests = 600 if "tinymoe" in name else 100
    trace = synthetic_trace(instance, _table(requests), seed=1)
    application, experts = _tokens_of(trace)
    for g in range(problem.num_applications):
        mine = experts[application == g]
        for layer in range(problem.num_layers):
            start, stop = problem.layer_start[layer : layer + 2]
            got = np.bincount(mine[:, layer].ravel(), minlength=stop - start)
            wanted = problem.calls[g, start:stop]
            # Domains come in whole requests: their mix is off by one request at most.
            slack = 2 * 100 / len(mine)
            assert _within(got / len(mine), wanted, len(mine), extra=slack)


def test_paths_and_gathering_are_those_of_the_instance():
    """Pairs are traversed as often as the instance says: path, co-activation, ends."""
    instance = _instance("tinymoe/roam-3")
    problem = build_problem(instance)
    trace = synthetic_trace(instance, _table(900), seed=2)
    application, experts = _tokens_of(trace)
    num_l, num_e = problem.num_layers, 16
    for g in range(problem.num_applications):
        mine = experts[application == g]
        got = np.zeros((num_l * num_e, num_l * num_e))
        for layer in range(num_l):
            first = layer * num_e + mine[:, layer, 0]
            other = layer * num_e + mine[:, layer, 1]
            np.add.at(got, (other, first), 1.0)
            if layer:
                before = (layer - 1) * num_e + mine[:, layer - 1, 0]
                np.add.at(got, (before, first), 1.0)
                np.add.at(got, (before, other), 1.0)
        wanted = np.zeros_like(got)
        wanted[tuple(problem.pairs.T)] = problem.pair_weight[g]
        assert (got[wanted == 0] == 0).all()
        assert _within(got / len(mine), wanted, len(mine), extra=200 / len(mine))
        leave = np.bincount(mine[:, -1, 0], minlength=num_e) / len(mine)
        assert _within(
            leave, problem.exit[g, -num_e:], len(mine), extra=200 / len(mine)
        )
        # A trace without dependence would be far off: the test can fail.
        calls = problem.calls[g]
        apart = calls[:num_e, None] / 2 * calls[None, num_e : 2 * num_e]
        between = got[:num_e, num_e : 2 * num_e] / len(mine)
        assert not _within(between, apart, len(mine), extra=200 / len(mine))


def test_paths_of_four_calls_are_those_of_the_instance():
    """With four calls a layer, too, pairs and calls are those of the instance."""
    instance = generate(
        "metro",
        name="roaming",
        seed=1,
        parameters={"model": "gpt-oss-20b", "layers": 3, "dataflow": "roam"},
    )
    problem = build_problem(instance)
    trace = synthetic_trace(instance, _table(500), seed=2)
    application, experts = _tokens_of(trace)
    for g in range(problem.num_applications):
        mine = experts[application == g] + problem.layer_start[None, :-1, None]
        got = np.zeros((96, 96))
        for layer in range(3):
            first = mine[:, layer, :1]
            np.add.at(got, (mine[:, layer, 1:], first), 1 / len(mine))
            if layer:
                before = mine[:, layer - 1, :1]
                np.add.at(got, (before, mine[:, layer]), 1 / len(mine))
        wanted = np.zeros_like(got)
        wanted[tuple(problem.pairs.T)] = problem.pair_weight[g]
        # Tables at the border of what is possible are fitted to a few thousandths.
        assert _within(got, wanted, len(mine), extra=0.004)
        calls = np.bincount(mine.ravel(), minlength=96) / len(mine)
        assert _within(calls, problem.calls[g], len(mine), extra=0.002)
        apart = problem.calls[g, :32, None] / 4 * problem.calls[g, None, 32:64]
        assert not _within(got[:32, 32:64], apart, len(mine), extra=0.004)


def test_sampled_tokens_leave_their_mark():
    """Layers depend on each other as in sampled tokens; without any they do not."""
    instance = _instance("tinymoe/edge-4")
    sample = instance.arrays["sample_experts"]

    def dependence(one):
        application, experts = _tokens_of(synthetic_trace(one, _table(), seed=3))
        tables = np.zeros((2, 16, 16))
        # The first application has one domain: no mix that layers would depend by.
        for table, chosen in zip(
            tables, (experts[application == 0], sample), strict=True
        ):
            for slot in range(2):
                np.add.at(table, (chosen[:, 2, 0], chosen[:, 3, slot]), 1.0)
        tables /= tables.sum(axis=(1, 2), keepdims=True)
        excess = [t - t.sum(axis=1)[:, None] * t.sum(axis=0)[None, :] for t in tables]
        return float(np.corrcoef(excess[0].ravel(), excess[1].ravel())[0, 1])

    with_samples = dependence(instance)
    without = dependence(_without(instance, "sample_experts", "sample_domain"))
    assert with_samples > 0.5
    assert abs(without) < 0.3


def test_no_token_calls_an_expert_twice_and_layers_may_differ():
    """Layers of unequal width are drawn within their own experts, all of them."""
    spec = read_instance("tinymoe/edge-4").spec
    model = msgspec.structs.replace(
        spec.model,
        profile=None,
        digest=None,
        domains=None,
        loss_formats=None,
        experts=[3, 2, 9, 5, 4, 7],
    )
    applications = [
        msgspec.structs.replace(one, domain=None) for one in spec.workload.applications
    ]
    workload = msgspec.structs.replace(spec.workload, applications=applications)
    instance = Instance(
        spec=msgspec.structs.replace(spec, model=model, workload=workload)
    )
    trace = synthetic_trace(instance, _table(40), seed=4)
    experts = trace.load().experts  # loading checks ids and repeats
    assert trace.header.experts == (3, 2, 9, 5, 4, 7)
    for layer, count in enumerate(trace.header.experts):
        assert np.array_equal(np.unique(experts[:, layer]), np.arange(count))


@pytest.mark.parametrize(
    ("calls", "top_k"),
    [
        ([0.5, 0.5, 0.5, 0.5], 2),
        ([1.0, 0.6, 0.3, 0.1, 0.0], 2),
        ([0.97, 0.9, 0.6, 0.4, 0.1, 0.03], 3),
        ([0.2, 0.8], 1),
        ([1.0, 1.0], 2),
    ],
)
def test_weights_of_sets_give_the_calls(calls, top_k):
    """Sets drawn with the weights found hold each expert as often as it is called."""
    calls = np.array(calls)
    _, share = inclusion(set_weights(calls, top_k), top_k, -1)
    assert share == pytest.approx(calls, abs=1e-6)


def test_inclusion_is_that_of_all_sets():
    """Chances of being in a set agree with counting every set."""
    weight = np.array([0.3, 2.0, 1.1, 0.7, 5.0])
    for size in (1, 2, 3):
        sets = [s for s in combinations(range(5), size) if 2 not in s]
        mass = np.array([np.prod(weight[list(one)]) for one in sets])
        share = [mass[[e in one for one in sets]].sum() for e in range(5)]
        total, got = inclusion(weight, size, 2)
        assert total == pytest.approx(mass.sum())
        assert got == pytest.approx(np.array(share) / mass.sum())


def test_top_k_of_a_trace_is_whole():
    """A token calls so many experts: an instance with 1.5 calls has no traces."""
    spec = read_instance("tinymoe/edge-4").spec
    model = msgspec.structs.replace(spec.model, profile=None, digest=None, top_k=1.5)
    instance = Instance(spec=msgspec.structs.replace(spec, model=model))
    with pytest.raises(InstanceError, match=r"\$\.model\.top_k: got 1\.5"):
        synthetic_trace(instance, _table(2), seed=0)


# -- gates -----------------------------------------------------------------------------


def test_gates_follow_the_curve_of_pruning():
    """In each segment of pruning gates are as the square roots of its losses."""
    instance = _instance("tinymoe/edge-4")
    routing = routing_of(instance, build_problem(instance))
    trace = synthetic_trace(instance, _table(), seed=5)
    gates = trace.load().gates.astype(np.float64)
    assert gates.mean() == pytest.approx(0.5, abs=0.005)
    for layer in range(6):
        width, loss = routing.prune_width[0, layer], routing.prune_loss[0, layer]
        # The curve is the same in all domains, so are the quantiles.
        mine = np.sort(gates[:, layer].ravel())
        ends = np.concatenate([[0.0], np.cumsum(width)])
        cuts = np.round(ends * len(mine)).astype(int)
        means = [mine[a:b].mean() for a, b in pairwise(cuts)]
        ratio = np.array(means) / np.sqrt(loss)
        assert ratio == pytest.approx(np.full(len(ratio), ratio.mean()), rel=0.05)
        assert loss[-1] > loss[0]  # the ratio is not trivially the same


def test_gates_without_a_curve_still_fall():
    """Without pruning gates are log-normal: falling along a token, mean 1 ÷ top_k."""
    instance = _without(_instance("tinymoe/edge-4"), "prune_width", "prune_loss")
    routing = routing_of(instance, build_problem(instance))
    table = gate_quantiles(routing)
    assert (np.diff(table, axis=2) >= 0).all()
    assert table.mean(axis=2) == pytest.approx(np.full(table.shape[:2], 0.5), abs=1e-6)
    gates = synthetic_trace(instance, _table(20), seed=6).load().gates
    assert (gates[:, :, 0] >= gates[:, :, 1]).all()
    assert (gates[:, :, 0] > gates[:, :, 1]).any()


# -- signatures ------------------------------------------------------------------------


def test_as_many_tokens_are_alike_as_the_widths_say():
    """Tokens share prefixes with the one before them as often as calls can fuse."""
    instance = _instance("tinymoe/edge-4")
    routing = routing_of(instance, build_problem(instance))
    trace = synthetic_trace(instance, _table(), seed=7, signature_bits=64)
    chunk = trace.load()
    same = chunk.token_request[1:] == chunk.token_request[:-1]
    differ = (chunk.signature[1:] ^ chunk.signature[:-1])[same]
    prefixes = trace.header.about["signature_prefix_bits"]
    assert prefixes == list(prefix_bits(64, 3)) == [51, 38, 26]
    alike = (chunk.experts[1:] == chunk.experts[:-1]).all(axis=2)[same]
    widths = np.cumsum(routing.fuse_width[0], axis=1)  # the same in all domains
    for layer in range(6):
        for m, bits in enumerate(prefixes):
            shared = differ[:, layer] >> np.uint64(64 - bits) == 0
            assert _within(shared.mean(), widths[layer, m], same.sum(), extra=0)
            assert alike[shared, layer].all()  # who is alike calls the same


def test_repeats_keep_the_calls():
    """Tokens that repeat others leave calls and paths as they are, with more noise."""
    instance = _instance("tinymoe/roam-3")
    problem = build_problem(instance)
    trace = synthetic_trace(instance, _table(), seed=8, repeat=0.5)
    application, experts = _tokens_of(trace)
    request = trace.load().token_request
    same = (experts[1:] == experts[:-1]).all(axis=(1, 2))[request[1:] == request[:-1]]
    assert 0.5 - 0.02 < same.mean() < 0.5 + 0.02
    for g in range(problem.num_applications):
        mine = experts[application == g]
        got = np.bincount(mine[:, 3].ravel(), minlength=16) / len(mine)
        wanted = problem.calls[g, 48:64]
        assert _within(got, wanted, len(mine) / 3, extra=200 / len(mine))
    for repeat in (-0.1, 1.0, float("nan")):
        with pytest.raises(InstanceError, match="repeat: got"):
            synthetic_trace(instance, _table(2), seed=8, repeat=repeat)


# -- requests --------------------------------------------------------------------------


def test_requests_belong_to_demands_by_rate():
    """Applications and homes go together as in the demands, as often as their rates."""
    instance = _instance("tinymoe/edge-4")
    problem = build_problem(instance)
    trace = synthetic_trace(instance, _table(20_000, 0, 1), seed=9)
    head, requests = trace.header, trace.requests
    names = [
        (head.applications[g], head.homes[h])
        for g, h in zip(requests.application, requests.home, strict=True)
    ]
    assert set(names) == set(problem.labels.demands)
    for demand, rate in zip(problem.labels.demands, problem.rate, strict=True):
        share = rate / problem.rate.sum()
        assert _within(names.count(demand) / len(names), share, len(names), extra=0)


def test_the_mix_of_domains_is_kept_request_by_request():
    """The tokens of an application are of its domains as its weights say."""
    instance = _instance("tinymoe/edge-4")
    trace = synthetic_trace(instance, _table(), seed=10)
    domain = trace.source.__self__.domain
    rows = trace.rows()
    for g, mix in enumerate(routing_of(instance, build_problem(instance)).mixes):
        mine = trace.requests.application == g
        share = np.bincount(domain[mine], weights=rows[mine], minlength=5)
        assert np.abs(share - mix * rows[mine].sum()).max() <= rows.max()


def test_rows_are_those_that_are_recorded():
    """With prompts there is a row for every token, without them one per output."""
    instance = _instance("tinymoe/edge-4")
    for recorded, rows in ((True, 100), (False, 40)):
        trace = synthetic_trace(instance, _table(5), seed=11, prompt_recorded=recorded)
        assert trace.header.prompt_recorded == recorded
        assert (trace.rows() == rows).all()


def test_a_seed_is_a_trace():
    """The same seed draws the same tokens whatever the chunks, another seed others."""
    instance = _instance("tinymoe/edge-4")
    table = _table(120)
    one = synthetic_trace(instance, table, seed=12, signature_bits=32)
    drawn = one.source.__self__
    small = joined(replace(drawn, size=1000).chunks()).arrays()
    for name, array in one.load().arrays().items():
        assert np.array_equal(array, small[name])
    again = synthetic_trace(instance, table, seed=12, signature_bits=32)
    assert again.digest() == one.digest()
    name = one.header.name
    other = synthetic_trace(instance, table, seed=13, signature_bits=32, name=name)
    assert other.digest() != one.digest()


def test_two_processes_draw_the_same_bytes(tmp_path):
    """Nothing depends on the hash seed of the process."""
    files = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.npz"
        subprocess.run(
            [
                *(sys.executable, "-m", "meldopt", "generate", "trace"),
                *("tinymoe/roam-3", "--tokens", "3000", "--signatures", "16"),
                *("--arrivals", "bursty", "--name", "x", "-o", str(path)),
            ],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_an_instance_without_traffic_has_no_traces():
    """Requests belong to demands: with no rate above 0 there are none."""
    found = contract_instance("tight")
    demands = [
        msgspec.structs.replace(one, rate=0.0) for one in found.spec.workload.demands
    ]
    workload = msgspec.structs.replace(found.spec.workload, demands=demands)
    with pytest.raises(InstanceError, match="got no traffic"):
        synthetic_trace(found.replace(workload=workload), _table(2), seed=0)


# -- arrivals --------------------------------------------------------------------------


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_rate_and_the_variation(cv):
    """Gaps between arrivals have the mean and the cv asked for."""
    times = bursty(np.random.default_rng(1), 200_000, 4.0, cv)
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(0.25, rel=5 * max(cv, 1e-9) / 200_000**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-6)


def test_poisson_counts_vary_as_their_mean():
    """In a Poisson stream the variance of counts per second is their mean."""
    times = poisson(np.random.default_rng(2), 100_000, 5.0)
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.05)


def test_lengths_have_mean_and_variation():
    """Lengths are whole, at least the least, and as long on average as asked for."""
    drawn = lengths(np.random.default_rng(3), 200_000, 100.0, 0.8)
    assert drawn.dtype == np.int64
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(100.0, rel=0.01)
    assert drawn.std() / drawn.mean() == pytest.approx(0.8, rel=0.03)
    assert (lengths(np.random.default_rng(3), 5, 7.0, 0.0) == 7).all()
    assert (lengths(np.random.default_rng(3), 5, 0.0, 1.0, least=0) == 0).all()


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda rng: poisson(rng, 3, 0.0), "rate of requests: got 0"),
        (lambda rng: poisson(rng, 3, float("nan")), "rate of requests: got nan"),
        (lambda rng: bursty(rng, 3, 1.0, -1.0), "cv of arrivals: got -1"),
        (lambda rng: lengths(rng, 3, 0.5, 1.0), "mean length: got 0.5"),
        (lambda rng: lengths(rng, 3, 2.0 * LONGEST, 1.0), "mean length: got 2e\\+06"),
        (lambda rng: lengths(rng, 3, 5.0, -2.0), "cv of lengths: got -2"),
        (lambda _: at_rate(np.arange(3.0), -1.0), "rate of requests: got -1"),
    ],
)
def test_impossible_arrivals_are_refused(call, line):
    """A rate of nothing, negative variation and lengths out of range are refused."""
    with pytest.raises(InstanceError, match=line):
        call(np.random.default_rng(0))


def test_a_table_is_read_whatever_its_columns(tmp_path):
    """Columns come in any order, others are left alone; gzip is seen by its content."""
    text = "model,output_tokens,arrival_s,prompt_tokens\na,3,0.5,10\n\nb,4,2,0\n"
    (tmp_path / "x.csv").write_text(text)
    (tmp_path / "y").write_bytes(gzip.compress(text.encode()))
    for name in ("x.csv", "y"):
        table = read_requests(tmp_path / name)
        assert table.arrival_s.tolist() == [0.5, 2.0]
        assert table.prompt_tokens.tolist() == [10, 0]
        assert table.output_tokens.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "line 1: got columns"),
        ("arrival_s,prompt_tokens\n1,2\n", "expected 'output_tokens'"),
        ("arrival_s,prompt_tokens,output_tokens\n", "got no requests"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2\n", "line 2: output_tokens"),
        ("arrival_s,prompt_tokens,output_tokens\n1,x,3\n", "prompt_tokens: got 'x'"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2.5,3\n", "got '2.5'"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2,0\n", "1 or more"),
        ("arrival_s,prompt_tokens,output_tokens\nnan,2,1\n", "arrival_s: got 'nan'"),
        (
            "arrival_s,prompt_tokens,output_tokens\n5,2,1\n4,2,1\n",
            "request 1: arrival_s: got 4 after 5",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, line):
    """Missing columns, words, fractions, no outputs and disorder are one line each."""
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(FileFormatError) as caught:
        read_requests(tmp_path / "x.csv")
    assert line in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "x.csv"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_truncated_table_is_refused(tmp_path):
    """A gzip that ends early, and bytes that are no text, are refused."""
    data = gzip.compress(b"arrival_s,prompt_tokens,output_tokens\n0,1,1\n" * 100)
    (tmp_path / "x.csv.gz").write_bytes(data[:-12])
    with pytest.raises(FileFormatError, match="cannot be unpacked"):
        read_requests(tmp_path / "x.csv.gz")
    (tmp_path / "y.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="is not UTF-8"):
        read_requests(tmp_path / "y.csv")


def test_a_table_starts_again_after_its_end():
    """More requests than there are repeat the table, a mean gap after its last."""
    table = RequestTable(
        arrival_s=np.array([1.0, 2.0, 5.0]),
        prompt_tokens=np.array([1, 2, 3]),
        output_tokens=np.array([4, 5, 6]),
    )
    longer = table.first(5)
    assert longer.arrival_s.tolist() == [1.0, 2.0, 5.0, 7.0, 8.0]
    assert longer.prompt_tokens.tolist() == [1, 2, 3, 1, 2]
    assert table.first(2).arrival_s.tolist() == [1.0, 2.0]
    scaled = longer.at_rate(2.0).arrival_s
    assert scaled[0] == 0
    assert 4 / scaled[-1] == pytest.approx(2.0)
    assert np.diff(scaled) / np.diff(longer.arrival_s) == pytest.approx(
        np.full(4, scaled[-1] / 7)
    )


def test_the_azure_table_is_what_its_notes_say(data_folder):
    """The table of Azure's code service: 8,819 requests in 3,436 s, means as noted."""
    path = data_folder / "requests" / "azure_code_2023.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    table = read_requests(path)
    assert len(table) == 8819
    assert table.arrival_s[-1] == pytest.approx(3436, abs=1)
    assert table.prompt_tokens.mean() == pytest.approx(2048, abs=1)
    assert table.output_tokens.mean() == pytest.approx(27.9, abs=0.05)

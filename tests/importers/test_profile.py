"""Profiles imported from traces: counted by hand, and from an instance and back."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import made, random_parts

import meldopt.importers.counts as counts
from meldopt.builder import build_problem
from meldopt.errors import CatalogueError, FileFormatError, InstanceError, TraceError
from meldopt.files import read_arrays
from meldopt.generate.arrivals import RequestTable
from meldopt.generate.traces import synthetic_trace
from meldopt.importers.curves import FUSE_SCALE, PRUNE_SCALE
from meldopt.importers.profile import (
    ProfileFiles,
    Settings,
    TraceProfile,
    profile_of,
    write_profile,
)
from meldopt.importers.recordings import import_recording
from meldopt.instance import (
    ApplicationSpec,
    ClusterSpec,
    DemandSpec,
    Instance,
    InstanceSpec,
    ModelSpec,
    ServerSpec,
    TierSpec,
    WorkloadSpec,
    read_instance,
    write_instance,
)
from meldopt.trace import Chunk, Requests, Trace
from meldopt.trace.records import joined

WIDE = Settings(prune_shares=(0.1, 0.3), distances=(1, 3, 6), window=3, samples=4)


def trace_of(seed: int, **changes: Any) -> Trace:
    """Draw a small trace in memory."""
    header, requests, chunks = made(random_parts(seed, **changes))
    return Trace.of(header, requests, joined(chunks))


def instance_of(trace: Trace, found: TraceProfile) -> Instance:
    """Put a profile into an instance: one server, a demand of each domain."""
    return Instance(
        spec=InstanceSpec(
            format_version=1,
            name="imported",
            model=ModelSpec(**found.model, hidden_size=8),
            formats=["bf16"],
            cluster=ClusterSpec(
                servers=[
                    ServerSpec(name="lab", tiers={"ram": TierSpec(capacity="1 TiB")})
                ]
            ),
            workload=WorkloadSpec(
                applications=[
                    ApplicationSpec(name=name, domain=name) for name in found.domains
                ],
                demands=[
                    DemandSpec(application=name, home="lab", rate=1.0)
                    for name in found.domains
                ],
            ),
        ),
        arrays=found.arrays,
    )


# -- by hand ---------------------------------------------------------------------------


def batch_mean(values: list[float], sizes: list[int]) -> tuple[float, float]:
    """Ratio of sums over requests and its standard error, from the definition."""
    mean = sum(values) / sum(sizes)
    if len(values) < 2:
        return mean, float("nan")
    spread = sum((v - mean * n) ** 2 for v, n in zip(values, sizes, strict=True))
    factor = len(values) / (len(values) - 1)
    return mean, (factor * spread) ** 0.5 / sum(sizes)


def events_of(trace: Trace, settings: Settings, cuts: Any) -> list[dict[Any, float]]:
    """Say, token by token, what it adds to which estimate."""
    chunk = trace.load()
    experts = chunk.experts.tolist()
    gates = chunk.gates.astype(float).tolist()
    start = [0, *np.cumsum(trace.header.experts).tolist()]
    top_k = trace.header.top_k
    leaders: dict[Any, list[int]] = {}
    found: list[dict[Any, float]] = []
    for t, row in enumerate(experts):
        request = int(chunk.token_request[t])
        place = t - int(np.searchsorted(chunk.token_request, request))
        event: dict[Any, float] = {}

        def count(*key: Any, value: float = 1.0, into: Any = event) -> None:
            into[key] = into.get(key, 0.0) + value

        for layer, chosen in enumerate(row):
            ids = [start[layer] + e for e in chosen]
            total = sum(gates[t][layer])
            for slot, i in enumerate(ids):
                count("calls", i)
                if layer == 0:
                    count("entry", i)
                else:
                    count("pair", start[layer - 1] + row[layer - 1][0], i)
                if slot:
                    count("pair", i, ids[0])
                    gate = gates[t][layer][slot]
                    below = [m for m, cut in enumerate(cuts[layer]) if gate <= cut]
                    if below:
                        count("prune", layer, below[0], value=1 / top_k)
                        share = gate / total if total > 0 else 1 / top_k
                        count("mass", layer, below[0], value=share)
            for i, j in combinations(sorted(chosen), 2):
                count("together", layer, i, j)
            if chunk.signature is not None:
                mine = int(chunk.signature[t, layer])
                follows = []
                for m, limit in enumerate(settings.distances):
                    number = 0
                    for e in chosen:
                        key = (request, place // settings.window, layer, m, e)
                        led = leaders.setdefault(key, [])
                        if any((mine ^ one).bit_count() <= limit for one in led):
                            number += 1
                        else:
                            led.append(mine)
                    follows.append(number)
                for m, number in enumerate(follows):
                    more = number - (follows[m - 1] if m else 0)
                    if more:
                        count("fuse", layer, m, value=more / top_k)
        count("exit", start[-2] + row[-1][0])
        found.append(event)
    return found


def by_hand(
    trace: Trace, settings: Settings, cuts: Any
) -> dict[Any, list[tuple[float, float]]]:
    """Estimate everything, key by key, for each application with tokens."""
    chunk = trace.load()
    events = events_of(trace, settings, cuts)
    owner = trace.requests.application[chunk.token_request].tolist()
    keys = {key for event in events for key in event}
    found: dict[Any, list[tuple[float, float]]] = {key: [] for key in keys}
    for g in sorted(set(owner)):
        requests = sorted(
            {
                int(r)
                for r, of in zip(chunk.token_request, owner, strict=True)
                if of == g
            }
        )
        mine = [
            [events[t] for t in np.flatnonzero(chunk.token_request == r)]
            for r in requests
        ]
        for key in keys:
            values = [sum(event.get(key, 0.0) for event in one) for one in mine]
            found[key].append(batch_mean(values, [len(one) for one in mine]))
    return found


def entries(found: TraceProfile) -> dict[Any, tuple[Any, Any]]:
    """Name every estimate that is not 0 as `by_hand` does: means and errors, (D,)."""
    arrays, stats = found.arrays, found.statistics
    table: dict[Any, tuple[Any, Any]] = {}
    for name in ("calls", "entry", "exit"):
        for i in range(arrays[name].shape[1]):
            table[name, i] = (arrays[name][:, i], stats[f"{name}_se"][:, i])
    for r, (i, j) in enumerate(arrays["pairs"].tolist()):
        table["pair", i, j] = (
            arrays["pair_weight"][:, r],
            stats["pair_weight_se"][:, r],
        )
    for name, key in (("prune_width", "prune"), ("fuse_width", "fuse")):
        for layer, m in np.ndindex(*arrays.get(name, np.zeros((1, 0, 0))).shape[1:]):
            table[key, layer, m] = (
                arrays[name][:, layer, m],
                stats[f"{name}_se"][:, layer, m],
            )
    for layer, m in np.ndindex(*stats.get("prune_mass", np.zeros((1, 0, 0))).shape[1:]):
        table["mass", layer, m] = (
            stats["prune_mass"][:, layer, m],
            stats["prune_mass_se"][:, layer, m],
        )
    both = stats.get("coactivation", np.zeros((1, 0, 0, 0)))
    for layer, i, j in np.ndindex(*both.shape[1:]):
        if i < j:
            table["together", layer, i, j] = (
                both[:, layer, i, j],
                stats["coactivation_se"][:, layer, i, j],
            )
    return table


UGLY: dict[str, dict[str, Any]] = {
    "plain": {"requests": 9},
    "signatures": {"requests": 12, "signature_bits": 8, "experts": (3, 3, 2)},
    "every expert is called": {"experts": (3, 3), "top_k": 3},
    "one call": {"top_k": 1, "experts": (4, 1, 2)},
    "one expert, one layer": {"top_k": 1, "experts": (1,)},
    "one request": {"requests": 1},
    "outputs only": {"prompt_recorded": False, "requests": 11},
    "experts never called": {"experts": (400, 3), "requests": 5},
}


@pytest.mark.parametrize("kind", UGLY)
@pytest.mark.parametrize("seed", range(3))
def test_all_estimates_and_errors_are_those_of_the_definition(
    kind: str, seed: int
) -> None:
    """Means and standard errors agree with counting in plain Python, cell by cell."""
    trace = trace_of(seed, **UGLY[kind])
    found = profile_of(trace, WIDE)
    cuts = found.statistics.get(
        "prune_threshold", np.zeros((trace.header.num_layers, 0))
    )
    wanted = by_hand(trace, WIDE, cuts)
    got = entries(found)
    # Distances are no nested sets of followers: what is clipped is compared summed up.
    narrow = {key for key in wanted if key[0] == "fuse"}
    assert set(wanted) - narrow <= set(got)
    for key, (mean, error) in got.items():
        if key[0] == "fuse":
            continue
        hand = wanted.get(key)
        if hand is None:
            assert not mean.any()
            continue
        assert mean == pytest.approx([m for m, _ in hand], abs=1e-12)
        assert error == pytest.approx([e for _, e in hand], abs=1e-7, nan_ok=True)
    if "fuse_width" in found.arrays:
        shape = found.arrays["fuse_width"].shape
        steps = np.zeros(shape)
        for _, layer, m in narrow:
            steps[:, layer, m] = [one for one, _ in wanted["fuse", layer, m]]
        total = np.maximum.accumulate(np.cumsum(steps, axis=2), axis=2)
        assert np.cumsum(found.arrays["fuse_width"], axis=2) == pytest.approx(total)
        assert total.max() > 0


@given(st.integers(0, 10_000), st.data())
def test_whatever_the_trace_the_builder_takes_the_profile(
    seed: int, data: st.DataObject
) -> None:
    """Calls add to top k, widths to at most 1, losses grow: an instance builds."""
    top_k = data.draw(st.integers(1, 3))
    experts = tuple(data.draw(st.lists(st.integers(top_k, 5), min_size=1, max_size=3)))
    trace = trace_of(
        seed,
        requests=data.draw(st.integers(1, 6)),
        experts=experts,
        top_k=top_k,
        signature_bits=data.draw(st.sampled_from([0, 1, 64])),
        prompt_recorded=data.draw(st.booleans()),
    )
    settings = Settings(
        by=data.draw(st.sampled_from(["application", "demand"])),
        samples=data.draw(st.integers(0, 3)),
        window=data.draw(st.integers(1, 9)),
        distances=data.draw(st.sampled_from([(), (0,), (2, 4, 7, 11)])),
        paths=data.draw(st.booleans()),
    )
    found = profile_of(trace, settings)
    problem = build_problem(instance_of(trace, found))
    assert problem.num_experts == sum(experts)
    assert len(problem.sample_experts) == len(found.arrays.get("sample_experts", ()))
    assert int(found.tokens.sum()) == trace.num_tokens
    for name, array in found.statistics.items():
        assert np.isfinite(array).all() or (found.requests == 1).any(), name


def test_equal_gates_are_one_segment() -> None:
    """If all gates tie, the first segment holds all but the largest, the rest none."""
    header, table, arrays = random_parts(1, top_k=3, experts=(5, 5))
    arrays["gates"] = np.full_like(arrays["gates"], 0.25)
    _, requests, chunks = made((header, table, arrays))
    found = profile_of(Trace.of(header, requests, joined(chunks)))
    assert found.arrays["prune_width"][0, 0] == pytest.approx([2 / 3, 0, 0, 0])
    third = PRUNE_SCALE / 9
    assert found.arrays["prune_loss"][0, 0] == pytest.approx([third] * 4)
    assert found.statistics["prune_mass"][0, 0] == pytest.approx([2 / 3, 0, 0, 0])


def test_gates_of_zero_lose_nothing_and_do_not_spoil_shares() -> None:
    """Tokens whose gates are all 0, or minus 0, count as any: no NaN, no loss of 0."""
    header, table, arrays = random_parts(2, top_k=2)
    arrays["gates"] = np.full_like(arrays["gates"], -0.0)
    _, requests, chunks = made((header, table, arrays))
    found = profile_of(Trace.of(header, requests, joined(chunks)))
    assert found.statistics["prune_mass"][0, 0, 0] == pytest.approx(0.5)
    assert np.isfinite(found.arrays["prune_loss"]).all()


def test_the_cut_into_chunks_makes_no_difference() -> None:
    """Chunks of one token give the very arrays that one chunk gives."""
    trace = trace_of(3, requests=20, signature_bits=6)
    whole = profile_of(trace, WIDE)
    chunk = trace.load()
    single = Trace(
        header=trace.header,
        requests=trace.requests,
        source=lambda: (chunk.take(slice(t, t + 1)) for t in range(len(chunk))),
    )
    parts = profile_of(single, WIDE)
    for mine, other in (
        (whole.arrays, parts.arrays),
        (whole.statistics, parts.statistics),
    ):
        assert list(mine) == list(other)
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name])


# -- from an instance and back ---------------------------------------------------------


def table(requests: int, prompt: int = 60, output: int = 40) -> RequestTable:
    return RequestTable(
        arrival_s=np.arange(float(requests)),
        prompt_tokens=np.full(requests, prompt),
        output_tokens=np.full(requests, output),
    )


def close(got: Any, wanted: Any, error: Any, slack: Any = 0.0) -> bool:
    """Within five standard errors: of thousands of numbers hardly one is further."""
    return bool((np.abs(got - wanted) <= 5 * error + slack).all())


def test_the_loop_closes_over_a_drawn_trace() -> None:
    """A trace drawn from an instance gives back its calls, paths, ends and errors."""
    instance = read_instance("tinymoe/roam-3")
    problem = build_problem(instance)
    trace = synthetic_trace(instance, table(900), seed=21)
    found = profile_of(trace)
    arrays, stats = found.arrays, found.statistics
    assert found.domains == problem.labels.applications
    # A domain is off its mix by a request at most; what never came has no error.
    slack = 2 * 100 / found.tokens[:, None] + 5e-4
    for name in ("calls", "entry", "exit"):
        wanted = getattr(problem, name)
        assert close(arrays[name], wanted, stats[f"{name}_se"], slack), name
    size = (problem.num_applications, problem.num_experts, problem.num_experts)
    wanted, got, error = np.zeros(size), np.zeros(size), np.zeros(size)
    wanted[:, *problem.pairs.T] = problem.pair_weight
    got[:, *arrays["pairs"].T] = arrays["pair_weight"]
    error[:, *arrays["pairs"].T] = stats["pair_weight_se"]
    assert (got[wanted == 0] == 0).all()
    assert close(got, wanted, error, slack[..., None])
    # The errors are not merely wide: most means are off by about one of them.
    sure = error > 1e-3
    apart = ((got - wanted)[sure] / error[sure]) ** 2
    assert 0.5 < apart.mean() < 2
    problem = build_problem(
        Instance(
            spec=msgspec.structs.replace(
                instance.spec,
                model=msgspec.structs.replace(
                    instance.spec.model, domains=list(found.domains)
                ),
                workload=msgspec.structs.replace(
                    instance.spec.workload,
                    applications=[
                        msgspec.structs.replace(one, domain=one.name)
                        for one in instance.spec.workload.applications
                    ],
                ),
            ),
            arrays={
                **arrays,
                "kl": instance.arrays["kl"][:1],
                "kl_calls": arrays["calls"],
            },
        )
    )
    assert problem.pair_weight == pytest.approx(arrays["pair_weight"])


def test_the_curves_of_an_instance_come_back() -> None:
    """Widths of pruning and fusion are those of the instance, and so are the losses."""
    instance = read_instance("tinymoe/edge-4")
    problem = build_problem(instance)
    trace = synthetic_trace(instance, table(300), seed=22, signature_bits=64)
    ends = tuple(np.cumsum(problem.prune_width[0, 0]).tolist())
    found = profile_of(
        trace, Settings(prune_shares=ends, paths=False), measured=instance.arrays
    )
    arrays, stats = found.arrays, found.statistics
    assert stats["fuse_prefix"].tolist() == [51, 38, 26]
    # The first token of a request is like none before it.
    wanted = problem.fuse_width * 99 / 100
    assert close(arrays["fuse_width"], wanted, stats["fuse_width_se"])
    assert close(
        arrays["prune_width"], problem.prune_width, stats["prune_width_se"], 1e-3
    )
    assert np.array_equal(arrays["fuse_loss"], instance.arrays["fuse_loss"])
    assert arrays["prune_loss"][0] == pytest.approx(problem.prune_loss[0], rel=0.05)


def test_independent_tokens_have_the_errors_of_counting() -> None:
    """With requests of one token the error is that of a share, sqrt(p (1 - p) / n)."""
    instance = read_instance("tinymoe/edge-4")
    trace = synthetic_trace(instance, table(4000, 0, 1), seed=23)
    found = profile_of(trace, Settings(paths=False))
    calls, error = found.arrays["calls"], found.statistics["calls_se"]
    count = found.requests[:, None]
    assert error == pytest.approx(np.sqrt(calls * (1 - calls) / (count - 1)), abs=1e-9)


def test_dependent_tokens_have_larger_errors() -> None:
    """Repeated tokens bring less news than as many new ones: errors say so."""
    instance = read_instance("tinymoe/edge-4")
    errors = [
        profile_of(
            synthetic_trace(instance, table(200), seed=24, repeat=repeat),
            Settings(paths=False),
        ).statistics["calls_se"]
        for repeat in (0.0, 0.9)
    ]
    assert errors[1].mean() > 2 * errors[0].mean()


# -- a real model ----------------------------------------------------------------------


def test_the_tiny_model_gives_the_committed_profile(data_folder: Any) -> None:
    """The recordings of the tiny model give the calls and paths of its instances."""
    path = data_folder / "tinymoe" / "trace.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    header, requests, chunks = import_recording(path, seed=5)
    found = profile_of(Trace.of(header, requests, joined(chunks)))
    committed = read_instance("tinymoe/roam-3")
    assert list(found.domains) == committed.spec.model.domains
    for name in ("calls", "pairs", "pair_weight", "entry", "exit"):
        assert found.arrays[name] == pytest.approx(
            committed.arrays[name].reshape(found.arrays[name].shape), abs=1e-12
        )
    sample = read_instance("tinymoe/edge-4").arrays
    assert found.arrays["sample_experts"].shape == sample["sample_experts"].shape
    assert np.array_equal(found.arrays["sample_domain"], sample["sample_domain"])
    # Texts differ: errors are larger than those of as many independent tokens.
    calls, error = found.arrays["calls"], found.statistics["calls_se"]
    independent = np.sqrt(calls * (1 - calls) / found.tokens[:, None])
    assert (error > independent).mean() > 0.9


# -- which tokens ----------------------------------------------------------------------


def test_prompts_and_outputs_add_to_all() -> None:
    """Calls of all tokens are those of prompts and of outputs, weighted by tokens."""
    trace = trace_of(6, requests=30)
    parts = {
        phase: profile_of(trace, Settings(phase=phase))
        for phase in ("all", "prompt", "output")
    }
    summed = sum(
        parts[phase].arrays["calls"] * parts[phase].tokens[:, None]
        for phase in ("prompt", "output")
    )
    whole = parts["all"]
    assert summed / whole.tokens[:, None] == pytest.approx(whole.arrays["calls"])
    assert parts["output"].tokens.sum() == trace.requests.output_tokens.sum()


def test_without_recorded_prompts_there_is_no_such_phase() -> None:
    """A trace of outputs has no tokens of prompts: one line says so."""
    trace = trace_of(7, prompt_recorded=False)
    with pytest.raises(TraceError, match="no tokens of the phase 'prompt'"):
        profile_of(trace, Settings(phase="prompt"))
    assert profile_of(trace, Settings(phase="output")).tokens.sum() == trace.num_tokens


def test_domains_by_demand_are_applications_at_homes() -> None:
    """Each application at a home is a domain; together they are the application."""
    trace = trace_of(8, requests=40)
    found = profile_of(trace, Settings(by="demand"))
    assert set(found.domains) <= {
        f"{a}@{h}" for a in ("chat", "code") for h in ("hall", "lab", "van")
    }
    whole = profile_of(trace)
    for g, name in enumerate(whole.domains):
        mine = [n for n, one in enumerate(found.domains) if one.startswith(f"{name}@")]
        mean = np.average(
            found.arrays["calls"][mine], axis=0, weights=found.tokens[mine]
        )
        assert mean == pytest.approx(whole.arrays["calls"][g])


def test_applications_without_requests_are_no_domains() -> None:
    """An application that only has a name is left out, and numbers move up."""
    header, requests, chunks = made(random_parts(9))
    header = msgspec.structs.replace(header, applications=("none", "chat", "code"))
    shifted = Requests(**{**requests.arrays(), "application": requests.application + 1})
    found = profile_of(Trace.of(header, shifted, joined(chunks)))
    assert found.domains == ("chat", "code")
    plain = profile_of(trace_of(9))
    assert np.array_equal(found.arrays["calls"], plain.arrays["calls"])


def test_samples_are_spread_evenly() -> None:
    """Of n tokens of a domain those at evenly spaced places are kept, each once."""
    trace = trace_of(10, requests=50)
    found = profile_of(trace, Settings(samples=5))
    chunk = trace.load()
    owner = trace.requests.application[chunk.token_request]
    for d in range(2):
        mine = np.flatnonzero(owner == d)
        chosen = mine[np.linspace(0, len(mine) - 1, 5).astype(int)]
        got = found.arrays["sample_experts"][found.arrays["sample_domain"] == d]
        assert np.array_equal(got, chunk.experts[chosen])
    tiny = profile_of(trace_of(11, requests=1), Settings(samples=1000))
    assert len(tiny.arrays["sample_experts"]) == tiny.tokens[0]


# -- losses ----------------------------------------------------------------------------


def test_losses_are_the_stated_fallback_unless_measured_or_given() -> None:
    """Without a measured scale the fallback is used and named; a given one wins."""
    trace = trace_of(12, requests=30, signature_bits=64)
    plain = profile_of(trace)
    assert any(f"the fallback {PRUNE_SCALE:g} nats" in note for note in plain.notes)
    assert any(f"the fallback {FUSE_SCALE:g} nats" in note for note in plain.notes)
    assert any("every format costs nothing" in note for note in plain.notes)
    double = profile_of(
        trace, Settings(prune_scale=2 * PRUNE_SCALE, fuse_scale=2 * FUSE_SCALE)
    )
    for name in ("prune_loss", "fuse_loss"):
        assert (plain.arrays[name][..., -1] > 0).all()
        assert double.arrays[name] == pytest.approx(2 * plain.arrays[name])
    assert not any("fallback" in note for note in double.notes)


def test_measured_losses_are_taken_over() -> None:
    """KL, its calls and similar experts are copied; KL without calls keeps its own."""
    trace = trace_of(13, requests=20)
    num_n = sum(trace.header.experts)
    measured = {
        "calls": np.full((1, num_n), 0.3),
        "kl": np.full((1, num_n, 2), 0.01),
        "similar": np.array([[0, 1], [1, 0]]),
        "similar_loss": np.full((1, 2), 0.2),
    }
    found = profile_of(trace, measured=measured)
    for name in ("kl", "similar", "similar_loss"):
        assert np.array_equal(found.arrays[name], measured[name])
    assert np.array_equal(found.arrays["kl_calls"], measured["calls"])
    assert not np.array_equal(found.arrays["calls"], np.tile(measured["calls"], (2, 1)))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("kl", (1, 5, 2), r"kl: got shape \(1, 5, 2\), expected one of 3 layers"),
        ("kl", (5, 13, 2), "kl: got 5 domains, expected 1 or the 2 of the trace"),
        ("prune_width", (1, 2, 4), r"prune_width: got shape \(1, 2, 4\)"),
        ("prune_width", (1, 3, 4), r"prune_loss: got shape None by layer"),
        ("calls", (13,), r"calls: got shape \(13,\)"),
    ],
)
def test_profiles_of_other_models_are_refused(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    """What was measured of a model with other layers or experts fits no trace."""
    with pytest.raises(FileFormatError, match=message):
        profile_of(trace_of(14), measured={name: np.ones(shape)})


def test_measured_segments_must_be_those_of_the_trace() -> None:
    """Losses of fusion belong to distances: another number of them is refused."""
    trace = trace_of(15, signature_bits=64)
    measured = {"fuse_width": np.full((1, 3, 2), 0.1), "fuse_loss": np.ones((1, 3, 2))}
    with pytest.raises(FileFormatError, match="got 2 segments, expected 4"):
        profile_of(trace, measured=measured)
    plain = profile_of(trace_of(15), measured=measured)  # no signatures: all of it
    assert np.array_equal(plain.arrays["fuse_width"], measured["fuse_width"])


# -- refusals and files ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune_shares": (0.2, 0.1)}, "shares of pruning: got"),
        ({"prune_shares": (1.0,)}, "shares of pruning: got"),
        ({"prune_shares": (float("nan"),)}, "shares of pruning: got"),
        ({"distances": (3, 3)}, "distances: got"),
        ({"distances": (65,)}, "distances: got"),
        ({"window": 0}, "window: got 0"),
        ({"samples": -1}, "samples: got -1"),
        ({"prune_scale": 0.0}, "prune_scale: got 0"),
        ({"fuse_scale": float("inf")}, "fuse_scale: got inf"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    """Settings that make no sense are refused when they are made."""
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_the_catalogue_says_what_fits() -> None:
    """A trace of another shape than the named model is refused; an unknown name too."""
    trace = trace_of(16)
    with pytest.raises(TraceError, match="MoE layers: got 3, expected 32 of mixtral"):
        profile_of(trace, model="mixtral-8x7b")
    with pytest.raises(CatalogueError):
        profile_of(trace, model="no-such-model")
    shape = trace_of(17, experts=(8,) * 32, top_k=2)
    assert profile_of(shape, model="mixtral-8x7b").model["catalogue"] == "mixtral-8x7b"


def test_layers_of_other_numbers_are_named() -> None:
    """Numbers of MoE layers in the model, and unequal layers, go into the section."""
    header, requests, chunks = made(random_parts(18))
    header = msgspec.structs.replace(header, layer_ids=(1, 3, 5))
    found = profile_of(Trace.of(header, requests, joined(chunks)))
    assert found.model["layer_ids"] == [1, 3, 5]
    assert found.model["experts"] == [4, 6, 3]


def test_too_large_tables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that would take too much memory are refused before they are counted."""
    monkeypatch.setattr(counts, "MOST_BYTES", 1000)
    with pytest.raises(TraceError, match="leave paths out"):
        profile_of(trace_of(19))
    assert "pairs" not in profile_of(trace_of(19), Settings(paths=False)).arrays


def test_wrong_prefixes_are_refused() -> None:
    """A drawn trace says how many leading bits are shared: numbers that fall."""
    header, requests, chunks = made(random_parts(20, signature_bits=8))
    about = {"signature_prefix_bits": [3, 9]}
    header = msgspec.structs.replace(header, about=about)
    with pytest.raises(InstanceError, match="signature_prefix_bits: got"):
        profile_of(Trace.of(header, requests, joined(chunks)))


def test_faults_of_a_trace_end_the_import() -> None:
    """A token that no trace may hold stops the count in one line."""
    header, requests, chunks = made(random_parts(21))
    bad = chunks[1].experts.copy()
    bad[0, 0] = bad[0, 0, 0]
    broken = Chunk(
        experts=bad, gates=chunks[1].gates, token_request=chunks[1].token_request
    )
    trace = Trace(
        header=msgspec.structs.replace(
            header, tokens=sum(map(len, chunks)), requests=len(requests)
        ),
        requests=requests,
        source=lambda: [chunks[0], broken],
    )
    with pytest.raises(TraceError, match="twice, expected 2 different ones"):
        profile_of(trace)


def test_files_are_read_back(tmp_path: Any) -> None:
    """What is written is what was found, and the section has the digest of the file."""
    trace = trace_of(22, signature_bits=16)
    found = profile_of(trace)
    files = ProfileFiles.of(tmp_path / "mine.npz")
    document = write_profile(found, files, about={"source": "test"})
    again = read_arrays(files.profile)
    assert sorted(again) == sorted(found.arrays)
    for name, array in again.items():
        assert array.dtype in (np.float64, np.int64)
        assert np.array_equal(array, found.arrays[name])
    assert sorted(read_arrays(files.statistics)) == sorted(found.statistics)
    section = document["model"]
    assert section["profile"] == "mine.npz"
    instance = instance_of(trace, found)
    (tmp_path / "other").mkdir()
    write_instance(instance, tmp_path / "other" / "mine.json", inline_below=0)
    assert (
        read_instance(tmp_path / "other" / "mine.json").spec.model.digest
        == (section["digest"])
    )


def test_targets_are_checked() -> None:
    """The name of a target ends in .npz; its folder exists."""
    for name in ("mine.json", ".npz", "no/such/folder/mine.npz"):
        with pytest.raises(FileFormatError):
            ProfileFiles.of(name)

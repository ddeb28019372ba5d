"""Every family makes instances that build, the same ones every time."""

from __future__ import annotations

import json
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

from meldopt import build_problem, read_instance, score
from meldopt.errors import FileFormatError, InstanceError, SolverUnavailableError
from meldopt.generate import families, generate, generate_with_plan

SMALL = {"layers": 3, "homes": "all"}
CLUSTER = {
    "servers": [
        {"name": "a", "device": "rtx-4090"},
        {"name": "b", "device": "l4", "reserve": "1 GiB"},
    ],
    "links": [{"between": ["a", "b"], "bandwidth": "1 Gbit/s", "latency": "1 ms"}],
}
OWN = {"explicit": {"cluster": CLUSTER}, "topology": {"servers": 5}}


def _make(family, seed=1, **parameters):
    return generate(
        family,
        name="made",
        seed=seed,
        parameters=SMALL | OWN.get(family, {}) | parameters,
    )


def _families():
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name == "topology" and not _has_topohub(), reason="topohub is absent"
            ),
        )
        for name in families()
    ]


def _has_topohub():
    from importlib.util import find_spec

    return find_spec("topohub") is not None


@pytest.mark.parametrize("family", _families())
def test_every_family_builds_with_its_defaults(family):
    """Defaults make a connected cluster with room for the experts."""
    problem = build_problem(_make(family))
    assert problem.num_layers == 3
    assert (problem.room_bytes > 0).all()
    smallest = problem.size_bytes.min(axis=1).sum()
    assert problem.room_bytes.sum() > smallest
    assert problem.rate.sum() > 0


@pytest.mark.parametrize("family", _families())
@pytest.mark.parametrize("dataflow", ["home", "roam"])
def test_a_seed_decides_everything(family, dataflow):
    """The same seed gives the same digest, another seed another."""
    one = _make(family, dataflow=dataflow).digest()
    assert _make(family, dataflow=dataflow).digest() == one
    assert _make(family, seed=2, dataflow=dataflow).digest() != one


def test_two_processes_agree():
    """Digests do not depend on the hash seed of the process, planted plans neither."""
    code = (
        "from meldopt.generate import *\n"
        "for flow in ('home', 'roam'):\n"
        "    print(generate('metro', name='m', seed=3, parameters={'layers': 3,"
        " 'dataflow': flow, 'samples': 20}).digest())\n"
        "made, plan = generate_with_plan('metro', name='m', seed=3, parameters="
        "{'layers': 4, 'servers': 3, 'tightness': 0.01})\n"
        "print(made.digest(), plan.copies.tolist())\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "OMP_NUM_THREADS": "1"}
            | _python_path(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "7")
    }
    assert len(printed) == 1
    assert printed.pop().count("sha256:") == 3


def _python_path():
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


def test_all_floats_have_six_digits():
    """Numbers of the profile are short; only the one that mends a sum is longer."""
    arrays = _make("metro", samples=5).arrays
    for name in ("loss", "prune_loss", "fuse_loss"):
        for value in arrays[name].ravel().tolist():
            assert value == float(f"{value:.6g}"), name
    long = [
        value
        for value in arrays["calls"].ravel().tolist()
        if value != float(f"{value:.6g}")
    ]
    assert len(long) <= 2 * 3, "one for each domain and layer"


def test_metro_is_connected_and_latency_follows_distance():
    """Sites on a line: every latency is in the range, the longest link slowest."""
    sites = [[0, 0], [1, 0], [3, 0], [7, 0]]
    made = _make("metro", sites=sites, neighbours=0, latency=["1 ms", "2 ms"])
    links = made.spec.cluster.links
    graph = nx.Graph([link.between for link in links])
    assert len(links) == 3
    assert nx.is_connected(graph)
    problem = build_problem(made)
    direct = {
        labels: problem.route_latency[a, b]
        for labels, a, b in zip(
            problem.labels.links, problem.link_from, problem.link_to, strict=True
        )
    }
    assert direct["s01", "s02"] == pytest.approx(1.25e-3)
    assert direct["s03", "s04"] == pytest.approx(2e-3)


def test_metro_respects_ranges():
    """Memory, bandwidth and speed stay within what was given."""
    made = _make(
        "metro",
        servers=8,
        fit=0,
        homes=2,
        memory=["8 GiB", "16 GiB"],
        bandwidth=["100 Mbit/s", "200 Mbit/s"],
        devices=["l4"],
        speed=[0.5, 2.0],
    )
    problem = build_problem(made)
    gib = problem.capacity_bytes / 2**30
    assert 7.99 <= gib.min() < gib.max() <= 16.01
    mbit = problem.link_bandwidth * 8 / 1e6
    assert 99.9 <= mbit.min() < mbit.max() <= 200.1
    factor = 1 / (problem.s_per_byte * 300e9)
    assert 0.49 <= factor.min() < factor.max() <= 2.01
    assert len(np.unique(problem.home_of)) == 2


def test_a_tree_has_its_levels():
    """Two edges of three devices and a cloud: requests enter at the devices."""
    made = generate(
        "device-edge-cloud",
        name="tree",
        seed=1,
        parameters={"layers": 2, "edges": 2, "devices_per_edge": 3},
    )
    problem = build_problem(made)
    assert problem.num_servers == 9
    assert len(made.spec.cluster.links) == 8
    homes = {problem.labels.servers[h] for h in problem.home_of}
    assert homes == {name for name in problem.labels.servers if "-dev" in name}


def test_a_second_tier_where_it_is_asked_for():
    """So many servers have RAM of the size given, beside their first tier."""
    problem = build_problem(_make("star", ram="16 GiB", ram_servers=2))
    tiers = [tier for _, tier in problem.labels.places]
    assert tiers.count("ram") == 2
    assert tiers.count("gpu") == 4


def test_similarity_groups_and_samples_are_optional():
    """Groups of three in layers of eight leave two alone; samples are as many."""
    made = _make("star", similar=3, samples=12)
    problem = build_problem(made)
    assert len(problem.similar) == 3 * 2 * 6
    assert len(problem.sample_experts) == 12
    assert build_problem(_make("star")).similar.size == 0


def test_an_explicit_workload_is_kept():
    """Applications, demands and limits stand in the instance as they were given."""
    workload = {
        "applications": [{"name": "chat", "domain": "prose", "quality_budget": 0.1}],
        "demands": [{"application": "chat", "home": "a", "rate": "2 tokens/s"}],
    }
    made = _make(
        "explicit",
        domains=["prose", "code"],
        workload=workload,
        limits={"busy": 0.5, "coverage": "any-server"},
    )
    problem = build_problem(made)
    assert problem.rate.tolist() == [2.0]
    assert problem.busy == 0.5
    assert len(problem.failure_sets) == 2
    calls = np.asarray(made.arrays["calls"]).reshape(2, -1)
    assert problem.calls[0] == pytest.approx(calls[0])


@pytest.mark.parametrize(
    ("family", "parameters", "message"),
    [
        ("metro", {"server": 4}, r"parameters\.server: got an unknown .*'servers'"),
        ("metro", {"servers": "four"}, r"parameters\.servers: got 'four', expected a"),
        (
            "metro",
            {"servers": True},
            r"parameters\.servers: got True, expected a whole",
        ),
        ("metro", {"servers": 0}, r"parameters\.servers: got 0, expected >= 1"),
        ("metro", {"drift": 1.5}, r"parameters\.drift: got 1.5, expected 0 to 1"),
        ("metro", {"drift": float("nan")}, r"parameters\.drift: got nan, expected a"),
        ("metro", {"bandwidth": "fast"}, r"parameters\.bandwidth: got 'fast', expec"),
        (
            "metro",
            {"latency": ["2 ms", "1 ms"]},
            r"latency: got .*, expected \[low, hi",
        ),
        ("metro", {"latency": [1, 2, 3]}, r"parameters\.latency: got \[1, 2, 3\]"),
        ("metro", {"sites": [[1, 2, 3]]}, r"parameters\.sites: got \[1, 2, 3\], exp"),
        ("metro", {"devices": ["warp-9"]}, r"parameters\.devices: unknown device"),
        ("metro", {"devices": []}, r"parameters\.devices: got \[\], expected a list"),
        ("metro", {"model": "gpt-9"}, r"parameters: unknown model 'gpt-9'"),
        ("metro", {"layers": 99}, r"parameters\.layers: got 99, expected at most 32"),
        ("metro", {"dataflow": "fly"}, r"parameters\.dataflow: got 'fly', expected 'h"),
        ("metro", {"homes": ["x"]}, r"parameters\.homes: got 'x', expected servers"),
        ("metro", {"homes": 99}, r"parameters\.homes: got 99, expected at most 6"),
        ("metro", {"homes": "moon"}, r"parameters\.homes: got 'moon', expected 'all'"),
        ("metro", {"prune": [0.6, 0.6]}, r"parameters\.prune: got .* at most 1"),
        ("metro", {"model": None}, r"parameters\.model: got None, expected text"),
        ("metro", {"objective": {"speed": 1.0}}, r"parameters\.objective.*speed"),
        ("metro", {"tightness": 0.01, "dataflow": "roam"}, r"parameters\.tightness"),
        ("explicit", {"cluster": None}, r"parameters\.cluster: missing, expected serv"),
        ("explicit", {"cluster": {"servers": 3}}, r"parameters\.cluster\.servers: Ex"),
        ("ring", {}, r"family: got 'ring', expected one of device-edge-cloud"),
    ],
)
def test_bad_parameters_are_named(family, parameters, message):
    """Errors name the parameter, what was got and what was expected, in one line."""
    with pytest.raises(InstanceError, match=message) as caught:
        _make(family, **parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_a_seed_is_a_whole_number(seed):
    """Anything else would not be reproducible."""
    with pytest.raises(InstanceError, match=r"seed: got .*, expected a whole number"):
        generate("star", name="x", seed=seed, parameters={})


def test_topohub_is_asked_for_by_name(monkeypatch):
    """Without the extra the error says what to install."""
    monkeypatch.setitem(sys.modules, "topohub", None)
    with pytest.raises(SolverUnavailableError, match=r"pip install 'meldopt\[topology"):
        generate("topology", name="x", seed=1, parameters={})


def test_a_real_network_is_laid():
    """Poland's network of sndlib: 12 cities, 18 links, latency by length."""
    pytest.importorskip("topohub")
    made = generate("topology", name="pl", seed=1, parameters={"layers": 2})
    problem = build_problem(made)
    assert problem.num_servers == 12
    assert len(problem.link_from) == 36
    assert "gdansk" in problem.labels.servers
    with pytest.raises(InstanceError, match=r"parameters\.network: got 'no/where'"):
        generate("topology", name="x", seed=1, parameters={"network": "no/where"})


def test_a_recipe_is_read_and_its_digest_verified(tmp_path):
    """A recipe file generates its instance on reading; a wrong digest is refused."""
    made = _make("star", seed=5)
    document = {
        "format_version": 1,
        "name": "made",
        "about": {"note": "free"},
        "recipe": {"family": "star", "seed": 5, "parameters": SMALL},
        "digest": made.digest(),
    }
    path = tmp_path / "star.json"
    path.write_text(json.dumps(document))
    assert read_instance(path).digest() == made.digest()
    document["recipe"]["seed"] = 6
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=r"digest: got sha256:.*the recipe makes"):
        read_instance(path)


@pytest.mark.parametrize("name", sorted(families()))
def test_families_describe_themselves(name):
    """Every family and parameter has a line for people, and valid defaults."""
    family = families()[name]
    assert family.description.endswith(".")
    read = family.read({})
    assert set(read) == set(family.parameters)
    for parameter in family.parameters.values():
        assert parameter.help
        assert "\n" not in parameter.help


def test_a_plan_needs_tightness():
    """Only a tight instance has a planted plan."""
    with pytest.raises(InstanceError, match=r"parameters\.tightness: missing"):
        generate_with_plan("star", name="x", seed=1, parameters={})


def test_generate_alone_gives_the_tight_instance():
    """With tightness `generate` gives the instance that belongs to the plan."""
    parameters = {"layers": 4, "servers": 3, "tightness": 0.01}
    made, plan = generate_with_plan("star", name="t", seed=2, parameters=parameters)
    alone = generate("star", name="t", seed=2, parameters=parameters)
    assert alone.digest() == made.digest()
    assert score(build_problem(alone), plan).feasible

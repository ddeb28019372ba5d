"""Instance -> Problem: arrays computed by hand, and every bad input in one line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hand_case import changed, document, instance_of
from hypothesis import given
from random_problems import instances

from meldopt import catalogue
from meldopt.builder import build_problem
from meldopt.errors import InstanceError
from meldopt.problem import TERMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from meldopt.instance import Instance
    from meldopt.problem import Problem


def built(change: Callable[[dict[str, Any]], Any] | None = None) -> Problem:
    written = document()
    if change is not None:
        change(written)
    return build_problem(instance_of(written))


# -- arrays by hand --------------------------------------------------------------------


def test_model_arrays() -> None:
    """Layers, work and sizes follow from layers, experts and parameters."""
    problem = built()
    assert problem.layer_start.tolist() == [0, 2, 4]
    assert problem.layer_of.tolist() == [0, 0, 1, 1]
    assert problem.layer_ids.tolist() == [0, 1]
    assert problem.flop.tolist() == [20.0] * 4
    assert problem.size_bytes.tolist() == [[10.0, 5.0]] * 4
    assert problem.bits_per_weight.tolist() == [8.0, 4.0]
    assert (problem.bytes_out, problem.bytes_back) == (2.0, 4.0)


def test_cluster_arrays() -> None:
    """Places, rates and what a tier can run follow from tiers."""
    problem = built()
    assert problem.labels.places == (("a", "gpu"), ("b", "gpu"), ("c", "ram"))
    assert problem.s_per_byte.tolist() == [0.1, 0.05, 0.2]
    np.testing.assert_allclose(
        problem.s_per_flop, [[1 / 20, 1 / 40], [1 / 10, 1 / 20], [math.inf, 1 / 10]]
    )
    assert problem.allowed.tolist() == [[True, True], [True, True], [False, True]]
    assert problem.power_w.tolist() == [10.0, 20.0, 5.0]
    # The work of one call, as the table in hand_case has it.
    places = np.array([[0, 0], [1, 1], [2, 2]])
    formats = np.array([[0, 1]] * 3)
    np.testing.assert_allclose(
        problem.work_s(np.zeros_like(places), places, formats),
        [[2.0, 1.0], [2.5, 1.25], [math.inf, 3.0]],
    )


def test_routes() -> None:
    """Latencies add up along the route, its slowest link sets its rate."""
    problem = built()
    # Links in order of the file: a->b, b->a, b->c, c->b.
    assert [links.tolist() for links in problem.route_links[0]] == [[], [0], [0, 2]]
    assert [links.tolist() for links in problem.route_links[2]] == [[3, 1], [3], []]
    assert problem.route_latency.tolist() == [[0, 1, 3], [1, 0, 2], [4, 3, 0]]
    np.testing.assert_allclose(
        problem.route_s_per_byte, [[0, 0.1, 0.2], [0.1, 0, 0.2], [0.5, 0.5, 0]]
    )
    # From a: there and back. From c: out over the slow link, back over the fast one.
    assert problem.round_trip_s[:, 0].tolist() == [[0, 2, 7], [7, 5, 0]]
    np.testing.assert_allclose(
        problem.transfer_s[:, 0],
        [
            [0, 2 * 0.1 + 4 * 0.1, 2 * 0.2 + 4 * 0.5],
            [2 * 0.5 + 4 * 0.2, 2 * 0.5 + 4 * 0.2, 0],
        ],
    )
    # Bytes over every link crossed: a to c crosses two out and two back.
    assert problem.crossed_bytes[:, 0].tolist() == [[0, 6, 12], [12, 6, 0]]
    # 0.5 J/B between a and b, 0.25 to c, 0.125 from c.
    np.testing.assert_allclose(
        problem.crossed_joule[0, 0],
        [0, 2 * 0.5 + 4 * 0.5, 2 * (0.5 + 0.25) + 4 * (0.125 + 0.5)],
    )
    # Transfer time is the distance of roam unless the instance says otherwise.
    np.testing.assert_allclose(
        problem.distance, [[0, 1.2, 3.4], [1.2, 0, 2.4], [5.0, 4.0, 0]]
    )


def test_equal_latencies_take_the_fewest_links() -> None:
    """Without any latency the direct link is the route."""
    links = [
        {"between": ["a", "b"], "bandwidth": 10.0},
        {"between": ["b", "c"], "bandwidth": 10.0},
        {"between": ["a", "c"], "bandwidth": 1.0},
    ]
    problem = built(lambda d: d["cluster"].update(links=links))
    assert problem.route_links[0][2].tolist() == [4]


def test_workload_arrays() -> None:
    """Demands, weights and reach follow from the workload."""
    problem = built()
    assert problem.rate.tolist() == [3.0, 1.0]
    assert problem.home_of.tolist() == [0, 2]
    assert problem.source.tolist() == [[0, 0], [2, 2]]
    assert problem.sink.tolist() == [[0, 0], [2, 2]]
    assert problem.demand_weight.tolist() == [0.75, 0.25]
    assert problem.calls.tolist() == [[0.75, 0.25, 0.5, 0.5]]
    assert problem.reachable.all()
    assert problem.weight_of("serial") == 1.0
    assert problem.weights.sum() == 1.0


def test_hosts_split_the_backbone() -> None:
    """With hosts calls leave from the host of the layer and return to the next."""
    problem = built(
        lambda d: (
            d["workload"].update(hosts=["b", "c"]),
            d["model"].update(backbone=8.0),
        )
    )
    assert problem.source.tolist() == [[1, 2], [1, 2]]
    assert problem.sink.tolist() == [[2, 0], [2, 2]]  # the last returns to the home
    assert problem.reserve_bytes.tolist() == [0.0, 4.0, 4.0]
    # From b to a and on to c: 1 + 3 s. To b itself: 0 there, 2 on the way to c.
    assert problem.round_trip_s[0, 0].tolist() == [4.0, 2.0, 2.0]
    last = built(lambda d: d["workload"].update(hosts=["b", "c", "a"]))
    assert last.sink.tolist() == [[2, 0], [2, 0]]


def test_reserves() -> None:
    """Backbone at homes, context everywhere in roam, and what a server sets apart."""

    def change(d: dict[str, Any]) -> None:
        d["model"].update(backbone=3.0, context=2.0)
        d["cluster"]["servers"][1].update(reserve=5.0)

    assert built(change).reserve_bytes.tolist() == [3.0, 5.0, 3.0]

    def roam(d: dict[str, Any]) -> None:
        change(d)
        d.update(dataflow="roam")

    assert built(roam).reserve_bytes.tolist() == [5.0, 7.0, 5.0]
    assert built(roam).room_bytes.tolist() == [15.0, 13.0, 15.0]


def test_mixed_domains() -> None:
    """An application of several domains has their mean, losses weighted by calls."""

    def change(d: dict[str, Any]) -> None:
        d["model"]["domains"] = ["prose", "code"]
        d["model"]["profile"] = {
            "calls": [[0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.0, 1.0]],
            "loss": [[[0.0, 0.4]] * 4, [[0.0, 0.8]] * 4],
            "prune_width": [[[0.2], [0.2]], [[0.4], [0.4]]],
            "prune_loss": [[[1.0], [1.0]], [[3.0], [3.0]]],
        }
        d["workload"]["applications"] = [
            {"name": "chat", "domain": {"prose": 1.0, "code": 3.0}}
        ]

    problem = built(change)
    np.testing.assert_allclose(problem.calls, [[0.375, 0.625, 0.125, 0.875]])
    # Expert 0: 0.25 x 0.75 calls of prose, 0.75 x 0.25 of code: half and half. Expert
    # 2 is never called in code: prose alone.
    np.testing.assert_allclose(problem.format_loss[0, 0], [0.0, 0.6])
    np.testing.assert_allclose(problem.format_loss[0, 2], [0.0, 0.4])
    np.testing.assert_allclose(problem.prune_width[0], [[0.35], [0.35]])
    np.testing.assert_allclose(problem.prune_loss[0], [[2.5], [2.5]])


def test_kl_becomes_loss_per_call() -> None:
    """KL per token is divided by calls per token; never-called experts fall back."""

    def change(d: dict[str, Any]) -> None:
        profile = d["model"]["profile"]
        del profile["loss"]
        profile["kl"] = [[[0.0, 0.3], [0.0, 0.2], [0.0, 0.1], [0.0, 0.0]]]
        profile["kl_calls"] = [[0.75, 0.25, 1.0, 0.0]]
        d["model"]["calibration"] = 0.5

    # 0.3 / 0.75, 0.2 / 0.25, 0.1 / 1, and the largest of layer 1; times one half.
    np.testing.assert_allclose(
        built(change).format_loss[0, :, 1], [0.2, 0.4, 0.05, 0.05]
    )

    def stated(d: dict[str, Any]) -> None:
        change(d)
        d["model"]["fallback_loss"] = "20 mnats"

    np.testing.assert_allclose(built(stated).format_loss[0, 3], [0.01, 0.01])
    # Calibration reaches every loss.
    np.testing.assert_allclose(built(change).prune_loss[0, 0], [0.25, 0.5])
    np.testing.assert_allclose(built(change).fuse_loss[0, 0], [0.025])
    np.testing.assert_allclose(built(change).similar_loss[0], [0.35])


def test_samples_are_dealt_by_rate() -> None:
    """Sampled tokens go to demands in proportion to rates, experts are numbered."""

    def change(d: dict[str, Any]) -> None:
        d["model"]["profile"]["sample_experts"] = [[[0], [1]]] * 4

    problem = built(change)
    assert problem.sample_experts.tolist() == [[[0], [3]]] * 4
    # Rates 3 and 1: largest remainder gives three tokens to a and one to c.
    assert problem.sample_demand.tolist() == [0, 0, 0, 1]


def test_layered_arrays_are_taken_too() -> None:
    """(…, L, E, …) is accepted where (…, N, …) is asked for."""

    def change(d: dict[str, Any]) -> None:
        profile = d["model"]["profile"]
        profile["calls"] = np.array(profile["calls"]).reshape(1, 2, 2)
        profile["loss"] = np.array(profile["loss"]).reshape(1, 2, 2, 2)

    np.testing.assert_array_equal(built(change).calls, built().calls)
    np.testing.assert_array_equal(built(change).format_loss, built().format_loss)


def test_rows_are_spread_out() -> None:
    """`each` makes a row for each; names say which; sets are index lists."""
    problem = build_problem(
        changed(
            limits={
                "count": [
                    {"name": "slots", "servers": "each", "layers": "each", "max": 1},
                    {"name": "one", "experts": [0], "formats": ["full"], "min": 1},
                ],
                "uniform": [{"name": "same", "layers": "each"}],
                "budgets": [
                    {"layer": "each", "from": "a", "to": "b", "max": 1.0},
                    {"link": ["b", "c"], "max": 2.0},
                    {"to": "c", "max": 3.0},
                ],
                "forbid": [{"layer": 0, "server": "b"}],
                "pin": [
                    {
                        "layer": 1,
                        "expert": 1,
                        "server": "c",
                        "tier": "ram",
                        "format": "half",
                    }
                ],
                "coverage": "any-server",
            }
        )
    )
    names = [row.name for row in problem.count_rows]
    assert names[0] == "slots, layer 0, a"
    assert len(names) == 7
    assert problem.count_rows[5].experts.tolist() == [2, 3]
    assert problem.count_rows[5].places.tolist() == [2]
    one = problem.count_rows[6]
    assert (one.experts.tolist(), one.formats.tolist()) == ([0, 2], [0])
    assert (one.lower, one.upper) == (1, None)
    assert [group.experts.tolist() for group in problem.uniform_groups] == [
        [0, 1],
        [2, 3],
    ]
    caps = [
        (cap.layer, cap.from_server, cap.to_server, cap.link, cap.max_tokens_per_s)
        for cap in problem.budget_caps
    ]
    assert caps == [
        (0, 0, 1, None, 1.0),
        (1, 0, 1, None, 1.0),
        (None, None, None, 2, 2.0),
        (None, None, 2, None, 3.0),
    ]
    assert problem.forbidden.tolist() == [[0, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1]]
    assert problem.pinned.tolist() == [[3, 2, 1]]
    assert [servers.tolist() for servers in problem.failure_sets] == [[0], [1], [2]]


def test_sets_hold_each_member_once() -> None:
    """A layer or format named twice does not count copies twice."""
    row = {"name": "n", "layers": [0, 0], "formats": ["half", "half"], "max": 1}
    problem = build_problem(changed(limits={"count": [row]}))
    assert problem.count_rows[0].experts.tolist() == [0, 1]
    assert problem.count_rows[0].formats.tolist() == [1]


def test_catalogue_names_stand_for_numbers() -> None:
    """Model, device and format come from the catalogue; what is written wins."""
    facts = catalogue.model("mixtral-8x7b")
    device = catalogue.device("rtx-4090")

    def change(d: dict[str, Any]) -> None:
        d["model"] = {"catalogue": "mixtral-8x7b", "top_k": 3}
        d["formats"] = ["int8-g128", {"name": "int4-g64", "bits_per_weight": 5.0}]
        servers = d["cluster"]["servers"]
        servers[0] = {"name": "a", "device": "rtx-4090"}
        servers[1] = {
            "name": "b",
            "device": "rtx-4090",
            "tiers": {"gpu": {"capacity": "1 GiB"}, "ram": {"capacity": "64 GiB"}},
        }
        servers[2] = {"name": "c", "tiers": {"ram": {"capacity": "64 GiB"}}}

    problem = built(change)
    assert problem.num_experts == facts.moe_layers * facts.experts
    assert problem.flop[0] == 2.0 * facts.parameters_per_expert
    assert problem.calls.sum() == pytest.approx(3 * facts.moe_layers)
    assert problem.bytes_out == 2.0 * facts.hidden_size
    assert problem.bits_per_weight[1] == 5.0
    assert problem.capacity_bytes.tolist() == [
        device.memory_bytes,
        2.0**30,
        2.0**36,
        2.0**36,
    ]
    assert problem.s_per_byte[0] == 1 / device.read_bytes_per_s
    assert problem.s_per_byte[2] > problem.s_per_byte[1]  # RAM is read over the bus
    # A server without device or numbers computes and reads in no time.
    assert problem.s_per_byte[3] == 0.0
    assert problem.s_per_flop[3].tolist() == [0.0, 0.0]
    backbone = 2.0 * facts.backbone_parameters
    assert problem.reserve_bytes.tolist() == [backbone, 0.0, 0.0, backbone]


def test_reuse_shares_one_reading() -> None:
    """With reuse 4 reading the weights costs a quarter."""
    problem = build_problem(changed(limits={"reuse": 4.0}))
    np.testing.assert_allclose(problem.s_per_byte, [0.025, 0.0125, 0.05])


@given(instance=instances())
def test_every_array_is_read_only_and_of_its_type(instance: Instance) -> None:
    """Problems hold read-only float64, int64 and bool of the shapes they document."""
    problem = build_problem(instance)
    for field in type(problem).__dataclass_fields__:
        value = getattr(problem, field)
        if isinstance(value, np.ndarray):
            assert value.dtype in (np.float64, np.int64, np.bool_), field
            assert not value.flags.writeable, field
    q, g, n = problem.num_demands, problem.num_applications, problem.num_experts
    s, v, b = problem.num_servers, problem.num_places, problem.num_formats
    layers = problem.num_layers
    for name, shape in {
        "layer_of": (n,),
        "size_bytes": (n, b),
        "s_per_flop": (v, b),
        "route_latency": (s, s),
        "source": (q, layers),
        "calls": (g, n),
        "format_loss": (g, n, b),
        "similar_loss": (g, len(problem.similar)),
        "pair_weight": (g, len(problem.pairs)),
        "trusted": (g, s),
        "allowed": (v, b),
        "weights": (len(TERMS),),
    }.items():
        assert getattr(problem, name).shape == shape, name
    # Calls add to top_k in each layer: nobody's routing is lost in mixing.
    for layer in range(layers):
        part = slice(*problem.layer_start[layer : layer + 2])
        np.testing.assert_allclose(
            problem.calls[:, part].sum(axis=1), instance.spec.model.top_k
        )


# -- bad input -------------------------------------------------------------------------


def _server(d: dict[str, Any], n: int = 0) -> dict[str, Any]:
    server: dict[str, Any] = d["cluster"]["servers"][n]
    return server


def _gpu(d: dict[str, Any]) -> dict[str, Any]:
    tier: dict[str, Any] = _server(d)["tiers"]["gpu"]
    return tier


def _profile(**arrays: Any) -> Callable[[dict[str, Any]], None]:
    return lambda d: d["model"]["profile"].update(
        {name: np.array(value) for name, value in arrays.items()}
    )


def _limits(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda d: d["limits"].update(parts)


def _bad_count(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return _limits(count=[{"name": "n", **parts}])


_ALL = [[[0.0, 0.1]] * 4]

BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no name": (lambda d: d.update(name=""), "$.name: got '', expected a name"),
    "two-line name": (lambda d: d.update(name="a\nb"), "$.name: got 'a\\nb'"),
    # -- cluster
    "no servers": (
        lambda d: d["cluster"].update(servers=[]),
        "$.cluster.servers: got none, expected at least one server",
    ),
    "duplicate server": (
        lambda d: _server(d, 1).update(name="a"),
        "$.cluster.servers[1].name: got 'a' twice, expected every name once",
    ),
    "nameless server": (
        lambda d: _server(d).update(name=""),
        "$.cluster.servers[0].name: got '', expected a name",
    ),
    "unknown device": (
        lambda d: _server(d).update(device="abacus"),
        "$.cluster.servers[0].device: ",
    ),
    "no tiers": (
        lambda d: _server(d).update(tiers={}),
        "$.cluster.servers[0].tiers: got none, expected at least one tier",
    ),
    "neither device nor tiers": (
        lambda d: _server(d).pop("tiers"),
        "$.cluster.servers[0]: got neither device nor tiers, expected one of them",
    ),
    "wrong unit": (
        lambda d: _gpu(d).update(capacity="24 GX"),
        "$.cluster.servers[0].tiers.gpu.capacity: got '24 GX', expected a quantity in "
        "bytes",
    ),
    "unit of another kind": (
        lambda d: _gpu(d).update(read="10 ms"),
        "$.cluster.servers[0].tiers.gpu.read: got '10 ms', expected a quantity in "
        "bytes/s",
    ),
    "negative capacity": (
        lambda d: _gpu(d).update(capacity=-1.0),
        "$.cluster.servers[0].tiers.gpu.capacity: got -1.0, expected >= 0",
    ),
    "huge capacity": (
        lambda d: _gpu(d).update(capacity="1e999 GiB"),
        "$.cluster.servers[0].tiers.gpu.capacity: got '1e999 GiB', expected a finite "
        "number",
    ),
    "infinite capacity": (
        lambda d: _gpu(d).update(capacity=math.inf),
        "$.cluster.servers[0].tiers.gpu.capacity: got inf, expected a finite number",
    ),
    "NaN capacity": (
        lambda d: _gpu(d).update(capacity=math.nan),
        "$.cluster.servers[0].tiers.gpu.capacity: got nan, expected a finite number",
    ),
    "missing capacity": (
        lambda d: _gpu(d).pop("capacity"),
        "$.cluster.servers[0].tiers.gpu.capacity: missing, expected a size",
    ),
    "no speed": (
        lambda d: _gpu(d)["compute"].update(full=0.0),
        "$.cluster.servers[0].tiers.gpu.compute.full: got 0.0, expected > 0",
    ),
    "no reading": (
        lambda d: _gpu(d).update(read=0.0),
        "$.cluster.servers[0].tiers.gpu.read: got 0.0, expected > 0",
    ),
    "format of no instance": (
        lambda d: _gpu(d).update(formats=["fp99"]),
        "$.cluster.servers[0].tiers.gpu.formats[0]: got 'fp99', expected a format",
    ),
    "negative reserve": (
        lambda d: _server(d).update(reserve="-1 B"),
        "$.cluster.servers[0].reserve: got '-1 B', expected >= 0",
    ),
    "negative power": (
        lambda d: _gpu(d).update(power=-1.0),
        "$.cluster.servers[0].tiers.gpu.power: got -1.0, expected >= 0",
    ),
    "link without bandwidth": (
        lambda d: d["cluster"]["links"][0].update(bandwidth=0.0),
        "$.cluster.links[0].bandwidth: got 0.0, expected > 0",
    ),
    "negative latency": (
        lambda d: d["cluster"]["links"][1].update(latency="-2 ms"),
        "$.cluster.links[1].latency: got '-2 ms', expected >= 0",
    ),
    "link to nowhere": (
        lambda d: d["cluster"]["links"][1].update(to="d"),
        "$.cluster.links[1].from: got 'd', expected a server: 'a', 'b', 'c'",
    ),
    "link to itself": (
        lambda d: d["cluster"]["links"][0].update(between=["a", "a"]),
        "$.cluster.links[0]: got 'a' twice, expected two servers",
    ),
    "second link": (
        lambda d: d["cluster"]["links"].append(d["cluster"]["links"][1]),
        "$.cluster.links[3]: got a second link from 'b' to 'c', expected one",
    ),
    "link of both kinds": (
        lambda d: d["cluster"]["links"][0].update({"from": "a"}),
        "$.cluster.links[0]: expected either 'between' or both 'from' and 'to'",
    ),
    "graph not connected": (
        lambda d: d["cluster"].update(links=d["cluster"]["links"][:1]),
        "$.cluster.links: got no route between home 'a' and server 'c', expected a "
        "connected graph",
    ),
    "no way back": (
        lambda d: d["cluster"].update(links=d["cluster"]["links"][:2]),
        "$.cluster.links: got no route between home 'a' and server 'c'",
    ),
    "distance of another shape": (
        lambda d: d["cluster"].update(distance=[[0.0, 1.0]]),
        "$.cluster.distance: expected 3 rows of 3 numbers",
    ),
    "negative distance": (
        lambda d: d["cluster"].update(distance=[[0.0, -1.0, 0.0]] * 3),
        "$.cluster.distance: got a negative number",
    ),
    # -- formats and model
    "no formats": (lambda d: d.update(formats=[]), "$.formats: got none, expected"),
    "duplicate format": (
        lambda d: d["formats"][1].update(name="full"),
        "$.formats[1].name: got 'full' twice",
    ),
    "unknown format": (lambda d: d.update(formats=["fp99"]), "$.formats[0]: "),
    "no bits": (
        lambda d: d["formats"][0].update(bits_per_weight=0.0),
        "$.formats[0].bits_per_weight: got 0.0, expected > 0",
    ),
    "unknown model": (
        lambda d: d["model"].update(catalogue="gpt-99"),
        "$.model.catalogue: ",
    ),
    "no layers": (
        lambda d: d["model"].update(layers=0),
        "$.model.experts: got 0 layers",
    ),
    "layers do not match": (
        lambda d: d["model"].update(experts=[2, 2, 2]),
        "$.model.experts: got 3 layers of 2 or more experts, expected 2 layers",
    ),
    "empty layer": (
        lambda d: d["model"].update(experts=[4, 0]),
        "$.model.experts: got 2 layers of 0 or more experts",
    ),
    "no shape": (
        lambda d: (d["model"].pop("layers"), d["model"].pop("experts")),
        "$.model: got no layers and experts, expected them or a catalogue name",
    ),
    "missing top_k": (
        lambda d: d["model"].pop("top_k"),
        "$.model.top_k: missing, expected calls per token and layer",
    ),
    "zero top_k": (
        lambda d: d["model"].update(top_k=0.0),
        "$.model.top_k: got 0.0, expected > 0",
    ),
    "zero top_k of a known model": (
        lambda d: d.update(model={"catalogue": "mixtral-8x7b", "top_k": 0}),
        "$.model.top_k: got 0.0, expected > 0",
    ),
    "negative parameters": (
        lambda d: d["model"].update(parameters_per_expert=-1.0),
        "$.model.parameters_per_expert: got -1.0, expected >= 0",
    ),
    "negative hidden size": (
        lambda d: d["model"].update(hidden_size=-8),
        "$.model.hidden_size: got -8, expected >= 0",
    ),
    "negative bytes": (
        lambda d: d["model"].update(bytes_out="-2 kB"),
        "$.model.bytes_out: got '-2 kB', expected >= 0",
    ),
    "fusing adds bytes": (
        lambda d: d["model"].update(fuse_factor=1.5),
        "$.model.fuse_factor: got 1.5, expected <= 1",
    ),
    "negative calibration": (
        lambda d: (
            d["model"].update(calibration=-1.0),
            d["model"]["profile"].pop("loss"),
        ),
        "$.model.calibration: got -1.0, expected >= 0",
    ),
    "layer ids": (
        lambda d: d["model"].update(layer_ids=[1, 2, 3]),
        "$.model.layer_ids: got 3 numbers, expected 2 of them",
    ),
    # -- profile
    "unknown array": (
        _profile(callz=[1.0]),
        "$.model.profile.callz: unknown array, expected one of: calls",
    ),
    "wrong shape": (
        _profile(calls=[[0.75, 0.25, 1.0]]),
        "$.model.profile.calls: got shape (1, 3), expected (1, 4)",
    ),
    "NaN calls": (
        _profile(calls=[[0.75, math.nan, 0.5, 0.5]]),
        "$.model.profile.calls[0, 1]: got nan, expected a finite number",
    ),
    "negative calls": (
        _profile(calls=[[1.25, -0.25, 0.5, 0.5]]),
        "$.model.profile.calls[0, 1]: got -0.25, expected >= 0",
    ),
    "calls do not add up": (
        _profile(calls=[[0.75, 0.25, 0.5, 0.6]]),
        "$.model.profile.calls[0]: got 1.1 calls per token in layer 1, expected top_k",
    ),
    "negative size": (
        _profile(size=[[10.0, 5.0]] * 3 + [[10.0, -5.0]]),
        "$.model.profile.size[3, 1]: got -5, expected >= 0",
    ),
    "infinite loss": (
        _profile(loss=[[[0.0, math.inf]] * 4]),
        "$.model.profile.loss[0, 0, 1]: got inf, expected a finite number",
    ),
    "loss and kl": (
        _profile(kl=_ALL),
        "$.model.profile: got both 'loss' and 'kl', expected one of them",
    ),
    "unmeasured format": (
        lambda d: d["model"].update(loss_formats=["full", "quarter"]),
        "$.model.loss_formats: got 'half', expected a measured format",
    ),
    "nothing measured": (
        lambda d: (
            d["model"]["profile"].pop("loss"),
            _profile(kl=_ALL, kl_calls=[[0.75, 0.25, 0.0, 0.0]])(d),
        ),
        "$.model.fallback_loss: missing, but no expert of layer 1 was called",
    ),
    "zero fallback": (
        lambda d: (
            d["model"].update(fallback_loss=0.0),
            d["model"]["profile"].pop("loss"),
            _profile(kl=_ALL, kl_calls=[[1.0, 0.0, 1.0, 0.0]])(d),
        ),
        "$.model.fallback_loss: got 0.0, expected > 0",
    ),
    "curve not convex": (
        _profile(prune_loss=[[[1.0, 0.5], [0.5, 1.0]]]),
        "$.model.profile.prune_loss: got a segment that loses less",
    ),
    "curve too wide": (
        _profile(fuse_width=[[[0.5], [1.5]]]),
        "$.model.profile.fuse_width: got widths that add to 1.5, expected at most 1",
    ),
    "half a curve": (
        lambda d: d["model"]["profile"].pop("fuse_loss"),
        "$.model.profile.fuse_loss: missing beside fuse_width",
    ),
    "negative width": (
        _profile(prune_width=[[[0.2, -0.1], [0.2, 0.1]]]),
        "$.model.profile.prune_width[0, 0, 1]: got -0.1, expected >= 0",
    ),
    "similar across layers": (
        _profile(similar=[[1, 2]]),
        "$.model.profile.similar: got a pair of two layers or of one expert",
    ),
    "similar to itself": (
        _profile(similar=[[1, 1]]),
        "$.model.profile.similar: got a pair of two layers or of one expert",
    ),
    "similar to nothing": (
        _profile(similar=[[1, 4]]),
        "$.model.profile.similar: got expert 4, expected 0 to 3",
    ),
    "similar twice": (
        _profile(similar=[[1, 0], [1, 0]], similar_loss=[[0.1, 0.1]]),
        "$.model.profile.similar: got a pair twice, expected it once",
    ),
    "sample of no expert": (
        _profile(sample_experts=[[[0], [2]]]),
        "$.model.profile.sample_experts: got an expert that its layer does not have",
    ),
    "sample of an expert never called": (
        _profile(calls=[[1.0, 0.0, 0.5, 0.5]], sample_experts=[[[0], [1]], [[1], [0]]]),
        "$.model.profile.sample_experts: got expert 1 of layer 0, which 'calls' says "
        "is never called",
    ),
    "sample of no domain": (
        _profile(sample_experts=[[[0], [1]]], sample_domain=[3]),
        "$.model.profile.sample_domain: got 3 to 3, expected 0 to 0",
    ),
    # -- workload
    "no applications": (
        lambda d: d["workload"].update(applications=[]),
        "$.workload.applications: got none, expected at least one",
    ),
    "no demands": (
        lambda d: d["workload"].update(demands=[]),
        "$.workload.demands: got none, expected at least one",
    ),
    "zero demand": (
        lambda d: [row.update(rate=0.0) for row in d["workload"]["demands"]],
        "$.workload.demands: got no traffic at all, expected a rate > 0",
    ),
    "negative rate": (
        lambda d: d["workload"]["demands"][1].update(rate="-3 tokens/s"),
        "$.workload.demands[1].rate: got '-3 tokens/s', expected >= 0",
    ),
    "duplicate application": (
        lambda d: d["workload"]["applications"].append({"name": "chat"}),
        "$.workload.applications[1].name: got 'chat' twice",
    ),
    "duplicate demand": (
        lambda d: d["workload"]["demands"][1].update(home="a"),
        "$.workload.demands[1]: got ('chat', 'a') twice, expected it once",
    ),
    "demand of nothing": (
        lambda d: d["workload"]["demands"][0].update(application="chess"),
        "$.workload.demands[0].application: got 'chess', expected a application",
    ),
    "home nowhere": (
        lambda d: d["workload"]["demands"][0].update(home="d"),
        "$.workload.demands[0].home: got 'd', expected a server: 'a', 'b', 'c'",
    ),
    "unknown domain": (
        lambda d: d["workload"]["applications"][0].update(domain="prose"),
        "$.workload.applications[0].domain: got 'prose', expected a domain: 'all'",
    ),
    "weightless domains": (
        lambda d: d["workload"]["applications"][0].update(domain={"all": 0.0}),
        "$.workload.applications[0].domain: got weights that add to 0",
    ),
    "negative budget": (
        lambda d: d["workload"]["applications"][0].update(quality_budget="-1 nats"),
        "$.workload.applications[0].quality_budget: got '-1 nats', expected >= 0",
    ),
    "latency in bytes": (
        lambda d: d["workload"]["applications"][0].update(latency_target="5 GB"),
        "$.workload.applications[0].latency_target: got '5 GB', expected a quantity",
    ),
    "untrusted home": (
        lambda d: d["workload"]["applications"][0].update(trusted=["a", "b"]),
        "$.workload.applications[0].trusted: got a list without 'c', a home of 'chat'",
    ),
    "untrusted host": (
        lambda d: (
            d["workload"]["applications"][0].update(trusted=["a", "c"]),
            d["workload"].update(hosts=["a", "b"]),
        ),
        "$.workload.applications[0].trusted: got a list without 'b', workload.hosts[1]",
    ),
    "hosts do not match": (
        lambda d: d["workload"].update(hosts=["a"]),
        "$.workload.hosts: got 1 servers, expected one for each of 2 layers",
    ),
    "host nowhere": (
        lambda d: d["workload"].update(hosts=["a", "d"]),
        "$.workload.hosts[1]: got 'd', expected a server",
    ),
    # -- limits
    "never busy": (_limits(busy=0.0), "$.limits.busy: got 0.0, expected > 0"),
    "negative link limit": (
        _limits(link_busy=-0.5),
        "$.limits.link_busy: got -0.5, expected >",
    ),
    "reuse below one": (_limits(reuse=0.5), "$.limits.reuse: got 0.5, expected >= 1"),
    "no copies": (_limits(copies=0), "$.limits.copies: got 0, expected at least 1"),
    "empty failure": (
        _limits(coverage=[[]]),
        "$.limits.coverage[0]: got no server, expected at least one",
    ),
    "failure of nothing": (
        _limits(coverage=[["a"], ["d"]]),
        "$.limits.coverage[1]: got 'd', expected a server",
    ),
    "boundless count": (
        _bad_count(),
        "$.limits.count[0]: got neither min nor max, expected one of them",
    ),
    "contrary count": (
        _bad_count(min=2, max=1),
        "$.limits.count[0]: got min 2 and max 1, expected 0 <= min <= max",
    ),
    "count of no layer": (
        _bad_count(layers=[2], max=1),
        "$.limits.count[0].layers: got 2, expected 0 to 1",
    ),
    "count of no expert": (
        _bad_count(experts=[-1], max=1),
        "$.limits.count[0].experts: got -1, expected 0 to 1",
    ),
    "count of no format": (
        _bad_count(formats=["fp99"], max=1),
        "$.limits.count[0].formats: got 'fp99', expected a format: 'full', 'half'",
    ),
    "duplicate count": (
        _limits(count=[{"name": "n", "max": 1}] * 2),
        "$.limits.count[1].name: got 'n' twice",
    ),
    "vague pin": (
        _limits(pin=[{"layer": 0, "expert": 0, "server": "a"}]),
        "$.limits.pin[0]: expected one copy: layer, expert, server, tier and format",
    ),
    "pin on no tier": (
        _limits(pin=[{"server": "a", "tier": "disk"}]),
        "$.limits.pin[0].tier: got 'disk', expected a tier",
    ),
    "expert without a place": (
        _limits(forbid=[{"layer": 1, "expert": 0}]),
        "$.limits.forbid: got no place that may hold expert 0 of layer 1 in any format",
    ),
    "no place runs anything": (
        lambda d: [
            tier.update(formats=[])
            for server in d["cluster"]["servers"]
            for tier in server["tiers"].values()
        ],
        "$.cluster.servers: got no place that may hold expert 0 of layer 0",
    ),
    "cap of nothing": (
        _limits(budgets=[{"max": 1.0}]),
        "$.limits.budgets[0]: got no from, to or link, expected one of them",
    ),
    "cap of no link": (
        _limits(budgets=[{"link": ["a", "c"], "max": 1.0}]),
        "$.limits.budgets[0].link: got ('a', 'c'), expected a link",
    ),
    "cap of both kinds": (
        _limits(budgets=[{"link": ["a", "b"], "to": "b", "max": 1.0}]),
        "$.limits.budgets[0]: got a link and a pair, expected one of them",
    ),
    "negative cap": (
        _limits(budgets=[{"to": "b", "max": -1.0}]),
        "$.limits.budgets[0].max: got -1.0, expected >= 0",
    ),
    "cap of no layer": (
        _limits(budgets=[{"to": "b", "layer": 2, "max": 1.0}]),
        "$.limits.budgets[0].layer: got 2, expected 0 to 1",
    ),
    # -- objective
    "no objective": (
        lambda d: d.update(objective={"serial": 0.0}),
        "$.objective: got no weight, expected at least one term > 0",
    ),
    "negative weight": (
        lambda d: d.update(objective={"serial": -1.0}),
        "$.objective.serial: got -1.0, expected >= 0",
    ),
    "pair at home": (
        lambda d: d.update(objective={"pair": 1.0}),
        "$.objective.pair: got a weight, but dataflow 'home' has no such term",
    ),
    "parallel without samples": (
        lambda d: d.update(objective={"parallel": 1.0}),
        "$.model.profile.sample_experts: missing",
    ),
    "fluid with samples of other domains": (
        lambda d: (
            d.update(objective={"fluid": 1.0}),
            d["model"].update(domains=["x", "y"], profile={"calls": [[0.5] * 4] * 2}),
            d["workload"]["applications"][0].update(domain="x"),
            _profile(sample_experts=[[[0], [0]]], sample_domain=[1])(d),
        ),
        "$.model.profile.sample_experts: missing, or no token is of a domain in use",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_with_its_place(name: str) -> None:
    """Each bad instance is refused with file, place, got and expected in one line."""
    change, message = BAD[name]
    with pytest.raises(InstanceError) as caught:
        built(change)
    text = str(caught.value)
    assert text.startswith(f"hand.json: {message}")
    assert "\n" not in text

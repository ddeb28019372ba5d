from __future__ import annotations

import msgspec
import numpy as np
import pytest
from replay_cases import STAR

from meldopt.builder import build_problem
from meldopt.catalogue import device, model
from meldopt.instance import Instance, InstanceSpec, read_instance
from meldopt.replay.backbone import Backbone, backbone_of


def test_a_backbone_by_hand() -> None:
    """Bytes over the layers at the read rate; 1 FLOP a byte at the rate of bf16."""
    written = msgspec.json.decode(msgspec.json.encode(STAR))
    written["model"] |= {"layers": 4, "backbone": "8 kB"}
    written["limits"]["reuse"] = 2.0
    servers = written["cluster"]["servers"]
    servers[0]["tiers"]["gpu"] |= {
        "read": 1000.0,
        "compute": {"full": 10.0, "bf16": 500.0},
    }
    servers[1]["tiers"]["gpu"]["compute"] = {"full": 10.0}
    instance = Instance(spec=msgspec.convert(written, InstanceSpec))
    problem = build_problem(instance)
    found = backbone_of(instance, problem)
    assert found.reuse == 2.0
    # A reading is one reading, whatever the problem shares it among.
    assert found.step_s == pytest.approx([2.0, 2e-6, 2e-6, 2e-6])
    assert found.token_s == pytest.approx([4.0, 200.0, 0.0, 0.0])


def test_the_backbone_of_a_catalogue_model() -> None:
    """Mixtral on catalogue devices: 2 bytes a parameter, read and computed once."""
    instance = read_instance("mixtral-8x7b/metro-4")
    problem = build_problem(instance)
    found = backbone_of(instance, problem)
    size = 2 * model("mixtral-8x7b").backbone_parameters / problem.num_layers
    for s, server in enumerate(instance.spec.cluster.servers):
        assert server.device is not None
        facts = device(server.device)
        assert found.step_s[s] == pytest.approx(size / facts.read_bytes_per_s)
        assert found.token_s[s] == pytest.approx(size / facts.flops["bf16"])


def test_no_backbone_takes_no_time() -> None:
    """`none` is all zeros, with the reuse that is given."""
    problem = build_problem(read_instance("mixtral-8x7b/metro-4"))
    found = Backbone.none(problem, reuse=3.0)
    assert not found.step_s.any()
    assert not found.token_s.any()
    assert found.reuse == 3.0
    assert isinstance(found.step_s, np.ndarray)

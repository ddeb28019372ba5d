"""A whole recording of a tiny random model, from text to an instance that builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from profiling.tiny_families import tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from meldopt import build_problem  # noqa: E402
from meldopt.instance import (  # noqa: E402
    ApplicationSpec,
    ClusterSpec,
    DemandSpec,
    Instance,
    InstanceSpec,
    ModelSpec,
    ServerSpec,
    TierSpec,
    WorkloadSpec,
)
from meldopt.profiling.recording import write_recording  # noqa: E402
from meldopt.profiling.report import tables  # noqa: E402
from meldopt.profiling.routing import Text  # noqa: E402
from meldopt.profiling.survey import Scope, Survey, survey  # noqa: E402
from meldopt.trace import read_trace  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers

FORMATS = ("int4-g32", "int2-g32")


def text(seed: int) -> Text:
    """Six sequences of two domains that use different tokens."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(3 + 28 * (n % 2), 31 + 28 * (n % 2), 24) for n in range(6)]
    return Text(domains=("low", "high"), tokens=np.array(rows), domain=np.arange(6) % 2)


@pytest.fixture(scope="module")
def found() -> Survey:
    return survey(
        tiny_model("olmoe"),
        text(0),
        text(1),
        Scope(formats=FORMATS, checked=FORMATS[1:], sequences=2, joint=4, batch=4),
        name="tiny",
        about={},
    )


def test_the_profile_builds_an_instance(found: Survey) -> None:
    """An instance takes the arrays as they are; losses rise with fewer bits."""
    model: dict[str, Any] = {
        "layers": 2,
        "experts": 8,
        "top_k": 3.0,
        "parameters_per_expert": 3.0 * 32 * 48,
        "hidden_size": 32,
        "backbone": 1e4,
        "domains": ["low", "high"],
        "loss_formats": ["bf16", *FORMATS],
    }
    tier = TierSpec(
        capacity="1 MiB", read="1 GB/s", compute={"bf16": "1 GFLOP/s"}, power="1 W"
    )
    instance = Instance(
        spec=InstanceSpec(
            format_version=1,
            name="tiny",
            model=ModelSpec(**model),
            formats=["bf16", *FORMATS],
            cluster=ClusterSpec(servers=[ServerSpec(name="one", tiers={"ram": tier})]),
            workload=WorkloadSpec(
                applications=[ApplicationSpec(name="a", domain="low")],
                demands=[DemandSpec(application="a", home="one", rate="1 tokens/s")],
            ),
        ),
        arrays=dict(found.profile),
    )
    problem = build_problem(instance)
    np.testing.assert_allclose(problem.calls.sum(axis=1), 2 * 3.0)
    loss = problem.format_loss[0]
    assert (loss[:, 0] == 0).all()
    assert (loss[:, 1:] > 0).all()
    assert loss[:, 2].sum() > loss[:, 1].sum()
    assert (problem.prune_width > 0).any()
    assert len(problem.similar) == 2 * 8  # every expert in one pair, both ways


def test_errors_come_with_everything(found: Survey) -> None:
    """Each estimate of a loss has an error of its shape, by domain, on both texts."""
    kinds = ("format", "prune", "fuse", "fuse_cosine", "similar")
    for split in ("plan", "test"):
        for kind in kinds:
            mean = found.measured[f"{split}_{kind}_kl"]
            error = found.measured[f"{split}_{kind}_error"]
            assert mean.shape == error.shape
            assert mean.shape[-1] == 2
            assert (mean >= 0).all()
    assert found.measured["plan_format_kl"].shape == (16, 2, 2)
    assert found.measured["test_format_kl"].shape == (16, 1, 2)


def test_shares_grow_with_strength(found: Survey) -> None:
    """More is pruned and fused from segment to segment, in each layer."""
    for kind in ("prune", "fuse", "fuse_cosine"):
        share = found.measured[f"plan_{kind}_share"]
        assert (np.diff(share, axis=1) >= 0).all()
        assert share.max() <= 1.0


def test_mixed_plans_are_compared(found: Survey) -> None:
    """Every kind of mixed plan has its sum, its joint loss and their ratio; what was
    measured of single changes is not touched by measuring them together."""
    additive = found.figures["additivity"]
    assert set(additive) == {"all int4-g32", "all int2-g32", "formats"} | {
        "formats and all else"
    }
    for one in additive.values():
        assert one["kl_together"] > 0
        assert one["together_over_sum"] > 0


def test_files_of_a_recording(found: Survey, tmp_path: Path) -> None:
    """Both traces are read back equal, and the arrays are those of the survey."""
    write_recording(tmp_path / "out", found, {"licence": "none"})
    for split in ("plan", "test"):
        trace = read_trace(tmp_path / "out" / f"{split}.trace.npz")
        assert trace.digest() == getattr(found, split).digest()
        assert trace.header.signature_bits == 64
        assert trace.num_tokens == 6 * 24
    with np.load(tmp_path / "out" / "profile.npz") as arrays:
        assert set(arrays) == set(found.profile)
        assert np.array_equal(arrays["kl"], found.profile["kl"])


def test_the_same_text_gives_the_same_bytes(found: Survey, tmp_path: Path) -> None:
    """A second run of everything writes the same profile and traces."""
    again = survey(
        tiny_model("olmoe"),
        text(0),
        text(1),
        Scope(formats=FORMATS, checked=FORMATS[1:], sequences=2, joint=4, batch=4),
        name="tiny",
        about={},
    )
    assert again.plan.digest() == found.plan.digest()
    for name, array in found.profile.items():
        assert np.array_equal(again.profile[name], array), name


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("mixtral", {"num_experts_per_tok": 1, "num_hidden_layers": 1}),
        ("llama4", {}),
        ("gpt_oss", {}),
        ("jamba", {}),
    ],
)
def test_other_models(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    """Transposed weights, gates on the input, dense layers between, and one layer that
    calls one expert, where nothing can be pruned: a recording of each is shown."""
    found = survey(
        tiny_model(family, **more),
        text(0),
        text(1),
        Scope(formats=FORMATS, checked=FORMATS[1:], sequences=2, joint=2, batch=4),
        name=family,
        about={},
    )
    write_recording(tmp_path / "out", found, {})
    assert len(tables(tmp_path / "out")) == 8
    assert ("prune_width" in found.profile) == (found.plan.header.top_k > 1)
    assert found.profile["kl"][0, :, 1:].sum(axis=0).min() > 0

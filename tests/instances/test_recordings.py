"""The recordings of the project's own models hold together."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meldopt.importers.profile import profile_of
from meldopt.profiling.statistics import calls
from meldopt.trace import Trace, read_trace

FOLDER = Path(__file__).resolve().parents[2] / "instances" / "tinymoe"
MODELS = sorted(path.parent.name for path in FOLDER.glob("*/about.json"))

every_model = pytest.mark.parametrize("model", MODELS)


@cache
def about(model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / model / "about.json").read_text())
    return found


@cache
def trace(model: str, split: str) -> Trace:
    return read_trace(FOLDER / model / f"{split}.trace.npz")


@cache
def arrays(model: str, file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / model / f"{file}.npz") as found:
        return dict(found)


def test_both_models_are_here() -> None:
    """The recordings that the docs speak of are in the library."""
    assert MODELS == ["a", "b"]


@every_model
@pytest.mark.parametrize("split", ["plan", "test"])
def test_traces_are_what_about_says(model: str, split: str) -> None:
    """A trace passes every check, has the shape of the model and all its domains."""
    header = trace(model, split).header
    shape = about(model)["model"]
    assert trace(model, split).load().experts.shape == (
        header.tokens,
        shape["layers"],
        shape["top_k"],
    )
    assert list(header.experts) == shape["experts"]
    assert list(header.applications) == list(about(model)["corpus"])
    assert header.signature_bits == 64
    counts = np.bincount(trace(model, split).requests.application)
    assert len(set(counts.tolist())) == 1


@every_model
def test_the_profile_is_counted_in_the_trace(model: str) -> None:
    """Calls, paths and samples of the profile are those of the trace ``plan``, counted
    in two ways."""
    profile = arrays(model, "profile")
    plan = trace(model, "plan")
    np.testing.assert_allclose(profile["calls"], calls(plan).mean.T, atol=1e-12)
    counted = profile_of(plan).arrays
    for name in ("calls", "pairs", "pair_weight", "entry", "exit", "sample_experts"):
        np.testing.assert_allclose(profile[name], counted[name], atol=1e-12)


@every_model
def test_losses_are_sane(model: str) -> None:
    """KL divergences are not negative, fall with every bit in sum, and have errors."""
    profile, measured = arrays(model, "profile"), arrays(model, "measured")
    kl = profile["kl"][0]
    assert (kl >= 0).all()
    assert (np.diff(kl.sum(axis=0)) > 0).all()  # bf16, int8, int4, int3, int2
    for kind in ("format", "prune", "fuse", "fuse_cosine", "similar"):
        for split in ("plan", "test"):
            error = measured[f"{split}_{kind}_error"]
            assert error.shape == measured[f"{split}_{kind}_kl"].shape
            assert np.isfinite(error).all()
    for kind in ("prune", "fuse"):
        assert (np.diff(profile[f"{kind}_loss"], axis=-1) >= 0).all()
        assert (profile[f"{kind}_width"].sum(axis=-1) <= 1).all()


@every_model
def test_losses_hold_on_unseen_text(model: str) -> None:
    """What was measured on one text ranks the changes on the other: a rank correlation
    of at least 0.8 for the smallest format, pruning and fusion."""
    held_out = about(model)["figures"]["held_out"]
    for kind in ("int2-g32", "prune", "fuse"):
        assert held_out[kind]["rank_correlation"] > 0.8, kind


@every_model
def test_it_says_how_far_training_went(model: str) -> None:
    """Updates done, versions, licence and sources are beside the numbers."""
    facts = about(model)
    assert 0 < facts["training"]["steps_done"] <= facts["training"]["recipe"]["steps"]
    assert facts["licence"] == "Apache-2.0"
    assert set(facts["versions"]) >= {"torch", "transformers", "numpy", "meldopt"}
    assert all("licence" in domain for domain in facts["corpus"].values())

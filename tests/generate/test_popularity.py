"""Popularity has the skew and the drift that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.errors import InstanceError
from meldopt.generate.popularity import (
    PUBLISHED,
    busiest_over_mean,
    popularity,
    total_variation,
)


def _draw(seed: int = 0, **changes):
    given = {
        "domains": 2,
        "layers": 12,
        "experts": 32,
        "top_k": 4,
        "skew": (2.0, 3.7),
        "drift": 0.25,
    }
    return popularity(np.random.default_rng(seed), **(given | changes))


@pytest.mark.parametrize(
    ("experts", "top_k", "skew", "drift"),
    [
        (8, 2, (1.09, 1.99), 0.078),
        (32, 4, (1.95, 3.72), 0.3),
        (64, 8, (2.5, 4.1), 0.24),
        (256, 8, (3.1, 10.0), 0.2),
    ],
)
def test_skew_and_drift_come_out(experts, top_k, skew, drift):
    """Published pairs of skew and drift are reached within the tolerance stated."""
    calls = _draw(experts=experts, top_k=top_k, skew=skew, drift=drift)
    got = busiest_over_mean(calls)
    assert got.min() >= skew[0] * 0.95
    assert got.max() <= skew[1] * 1.05
    assert got.max() > 1.3 * got.min(), "layers differ in skew"
    assert total_variation(calls) == pytest.approx(drift, rel=0.05)


def test_calls_of_a_layer_add_to_top_k_and_none_exceeds_one():
    """A token calls k different experts, so no expert more than once."""
    calls = _draw(experts=16, top_k=8, skew=(1.9, 2.0), drift=0.05)
    assert calls.sum(axis=2) == pytest.approx(8.0, abs=1e-12)
    assert calls.max() <= 1.0
    assert calls.min() > 0.0
    assert (calls > 0.9).any(), "the cap of one call is near for some expert"


def test_a_skew_of_one_number_holds_for_every_layer():
    """A range of no width gives every layer the same skew."""
    calls = _draw(skew=(2.5, 2.5))
    assert busiest_over_mean(calls) == pytest.approx(2.5, rel=1e-3)


def test_one_domain_has_no_drift():
    """With one domain there is nothing to differ from."""
    assert total_variation(_draw(domains=1)) == 0.0


def test_another_seed_gives_other_numbers_and_the_same_statistics():
    """The seed decides who is popular, not how popular the busiest is."""
    one, other = _draw(seed=1), _draw(seed=2)
    assert not np.allclose(one, other)
    assert total_variation(one) == pytest.approx(total_variation(other), rel=0.05)


def test_a_skew_beyond_the_cap_is_refused():
    """The busiest of 32 experts has at most 8 times the mean when 4 are called."""
    with pytest.raises(InstanceError, match=r"skew: got 9, expected at most .*= 8"):
        _draw(skew=(2.0, 9.0))


def test_a_drift_that_the_skew_forbids_is_refused():
    """Nearly flat popularity cannot differ much between domains."""
    with pytest.raises(InstanceError, match=r"parameters\.(skew|drift): got"):
        _draw(skew=(1.05, 1.1), drift=0.6)


def test_the_published_figures_are_those_of_the_data(data_folder):
    """Skew of Mixtral and drift of DeepSeek-V3 agree with the public counts."""
    found = np.load(data_folder / "mixtral-8x7b" / "popularity.npz")["counts"]
    share = found / found.sum(axis=2, keepdims=True)
    skew = share.max(axis=2) * share.shape[2]
    low, high = PUBLISHED["mixtral-8x7b"].skew
    assert low == pytest.approx(skew.min(), abs=0.01)
    assert high == pytest.approx(skew.max(), abs=0.01)
    assert PUBLISHED["mixtral-8x7b"].drift == pytest.approx(
        total_variation(found.astype(float)), abs=0.001
    )
    counts = np.load(data_folder / "deepseek-v3" / "expert_counts.npz")
    pair = np.stack([counts["decode_in500out1500"], counts["prefill_in512"]])
    assert PUBLISHED["deepseek-v3"].drift == pytest.approx(
        total_variation(pair.astype(float)), abs=0.02
    )

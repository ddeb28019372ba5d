"""Synthetic losses have the magnitudes that the documentation states."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.generate.losses import (
    FUSE_NATS,
    PRUNE_QUARTER,
    format_losses,
    fuse_curve,
    prune_curve,
    uniform_loss,
)
from meldopt.generate.popularity import popularity

BITS = (8.25, 4.5, 3.5, 2.5)


@pytest.fixture(name="calls")
def _calls():
    return popularity(
        np.random.default_rng(1),
        domains=2,
        layers=24,
        experts=32,
        top_k=4,
        skew=(2.0, 3.5),
        drift=0.2,
    )


def test_uniform_formats_cost_what_is_published():
    """0.01 nats at 4.5 bits, 0.05 at 3.5, 0.3 at 2.5, a quarter a bit beyond."""
    assert uniform_loss(4.5) == pytest.approx(0.01)
    assert uniform_loss(3.5) == pytest.approx(0.05)
    assert uniform_loss(2.5) == pytest.approx(0.3)
    assert uniform_loss(6.5) == pytest.approx(0.01 / 16)
    assert uniform_loss(16.0) == 0.0
    assert uniform_loss(1.6) > uniform_loss(2.0) > 0.3


def test_losses_add_to_the_uniform_loss(calls):
    """Calls times loss per call, summed, is the loss of a uniform format."""
    loss = format_losses(np.random.default_rng(2), calls, BITS, scale=1.0)
    pooled = calls.mean(axis=0).ravel()
    for b, bits in enumerate(BITS):
        # The widest format may lose less than stated for experts where noise would
        # have made it worse than a narrower one; that is the tolerance here.
        assert pooled @ loss[0, :, b] == pytest.approx(uniform_loss(bits), rel=0.02)


def test_fewer_bits_never_lose_less(calls):
    """Losses are ordered by bits for every expert, in whatever order formats come."""
    loss = format_losses(np.random.default_rng(2), calls, BITS[::-1], scale=1.0)
    assert (np.diff(loss[0], axis=1) <= 0).all()


def test_first_layers_and_popular_experts_lose_as_published(calls):
    """First layers lose more; popular experts lose more in all and less a call."""
    loss = format_losses(np.random.default_rng(2), calls, BITS, scale=1.0)[0, :, 2]
    by_layer = loss.reshape(24, 32).mean(axis=1)
    assert by_layer[0] > 2 * by_layer[-1]
    pooled = calls.mean(axis=0)
    for layer in range(24):
        per_call = loss.reshape(24, 32)[layer]
        assert np.corrcoef(np.log(per_call), np.log(pooled[layer]))[0, 1] < 0
        total = per_call * pooled[layer]
        assert np.corrcoef(np.log(total), np.log(pooled[layer]))[0, 1] > 0


def test_pruning_a_quarter_of_the_calls_costs_what_was_measured():
    """The first segments of the curve, 0.25 of all calls, add to 0.004 nats."""
    curve = prune_curve(
        np.random.default_rng(3),
        layers=10,
        top_k=2,
        scale=1.0,
        spread=0.5,
        widths=(0.1, 0.15, 0.2),
    )
    spent = (curve.width * 2 * curve.loss).sum(axis=(0, 1))
    assert spent[:2].sum() == pytest.approx(PRUNE_QUARTER, rel=1e-5)
    assert (np.diff(curve.loss, axis=2) > 0).all(), "convex"


def test_fusing_costs_what_was_measured_and_the_first_layer_most():
    """0.001 nats for cosines of 0.98, 0.010 for 0.95; the first layer is sensitive."""
    curve = fuse_curve(
        np.random.default_rng(3), layers=10, top_k=2, scale=1.0, spread=0.0
    )
    spent = np.cumsum((curve.width * 2 * curve.loss).sum(axis=(0, 1)))
    assert spent == pytest.approx(FUSE_NATS, rel=1e-5)
    assert curve.loss[0, 0, 0] > 3 * curve.loss[0, 1:, 0].max()


def test_only_the_least_sensitive_layers_keep_a_curve():
    """Layers without a curve have segments of no width."""
    curve = prune_curve(
        np.random.default_rng(3), layers=10, top_k=2, scale=1.0, spread=1.0, kept=3
    )
    open_ = curve.width[0].sum(axis=1) > 0
    assert open_.sum() == 3
    assert curve.loss[0, open_, 0].max() < curve.loss[0, ~open_, 0].min()

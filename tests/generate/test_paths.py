"""Activation paths and sampled tokens agree with the calls they are drawn for."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.errors import InstanceError
from meldopt.generate.paths import normalised_information, paths, sampled_tokens
from meldopt.generate.popularity import popularity

LAYERS, EXPERTS, TOP_K = 5, 16, 2


@pytest.fixture(name="calls")
def _calls():
    return popularity(
        np.random.default_rng(1),
        domains=2,
        layers=LAYERS,
        experts=EXPERTS,
        top_k=TOP_K,
        skew=(1.5, 2.5),
        drift=0.2,
    )


def _table(found, kind):
    """Sum the weights of pairs to dense tables between (or inside) layers."""
    layer = found.pairs // EXPERTS
    step = layer[:, 1] - layer[:, 0]
    mine = step == kind
    table = np.zeros((len(found.weight), LAYERS, EXPERTS, EXPERTS))
    for d in range(len(found.weight)):
        np.add.at(
            table[d],
            (layer[mine, 1], *(found.pairs[mine] % EXPERTS).T),
            found.weight[d, mine],
        )
    return table


@pytest.mark.parametrize("dependence", [0.0, 0.1, 0.3])
def test_marginals_of_paths_are_the_calls(calls, dependence):
    """What arrives at an expert from the layer before is its calls."""
    found = paths(np.random.default_rng(2), calls, TOP_K, dependence=dependence)
    between = _table(found, 1)
    assert between[:, 1:].sum(axis=2) == pytest.approx(calls[:, 1:], rel=1e-4)
    leaving = between[:, 1:].sum(axis=3) / TOP_K
    assert leaving == pytest.approx(found.primary[:, :-1], rel=1e-4)


def test_gathering_brings_all_calls_to_the_first_choice(calls):
    """Inside a layer every call but the first choice's own goes to the first choice."""
    found = paths(np.random.default_rng(2), calls, TOP_K, dependence=0.1)
    inside = _table(found, 0)
    assert inside.sum(axis=3) == pytest.approx(calls - found.primary, rel=1e-4)
    assert inside.sum(axis=2) == pytest.approx(found.primary * (TOP_K - 1), rel=1e-4)


def test_first_choices_are_a_part_of_the_calls(calls):
    """First choices add to one a layer, never exceed the calls, and are more skewed."""
    found = paths(np.random.default_rng(2), calls, TOP_K, dependence=0.0)
    assert found.primary.sum(axis=2) == pytest.approx(1.0)
    assert (found.primary <= calls + 1e-9).all()
    assert (found.primary.max(axis=2) > calls.max(axis=2) / TOP_K).all()


def test_tokens_enter_at_the_first_layer_and_leave_at_the_last(calls):
    """Entry is every call of the first layer; exit the last layer's first choice."""
    found = paths(np.random.default_rng(2), calls, TOP_K, dependence=0.0)
    entry = found.entry.reshape(2, LAYERS, EXPERTS)
    leave = found.exit.reshape(2, LAYERS, EXPERTS)
    assert entry[:, 0] == pytest.approx(calls[:, 0], rel=1e-5)
    assert leave[:, -1] == pytest.approx(found.primary[:, -1], rel=1e-5)
    assert not entry[:, 1:].any()
    assert not leave[:, :-1].any()


@pytest.mark.parametrize("wanted", [0.05, 0.2, 0.4])
def test_dependence_comes_out(calls, wanted):
    """The normalised mutual information between layers is what was asked for."""
    found = paths(np.random.default_rng(2), calls, TOP_K, dependence=wanted)
    got = normalised_information(_table(found, 1)[:, 1:])
    assert got == pytest.approx(wanted, rel=0.01)


def test_a_dependence_out_of_reach_is_refused(calls):
    """A layer cannot say more about the next than all there is to know."""
    with pytest.raises(InstanceError, match=r"dependence: got 0.99, expected at most"):
        paths(np.random.default_rng(2), calls, TOP_K, dependence=0.99)


def test_normalised_information_of_known_tables():
    """0 for independent choices, 1 for a permutation."""
    assert normalised_information(np.ones((3, 4, 4))) == pytest.approx(0.0, abs=1e-12)
    assert normalised_information(np.eye(4)[None]) == pytest.approx(1.0)


def test_sampled_tokens_call_experts_as_often_as_the_calls_say(calls):
    """Frequencies in many samples are near the calls, no expert twice in a layer."""
    chosen, domain = sampled_tokens(
        np.random.default_rng(3), calls, TOP_K, count=8000, dependence=0.2
    )
    assert (np.diff(np.sort(chosen, axis=2), axis=2) > 0).all()
    for d in range(2):
        for layer in range(LAYERS):
            mine = chosen[domain == d, layer]
            got = np.bincount(mine.ravel(), minlength=EXPERTS) / len(mine)
            assert np.abs(got - calls[d, layer]).max() < 0.04

"""The lazy greedy of savings takes what the plain greedy takes."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt_solvers.baselines.facility import take_by_saving


@pytest.mark.parametrize("seed", range(5))
def test_lazy_is_plain(seed):
    """Each step takes the largest saving of all, though few are computed anew."""
    rng = np.random.default_rng(seed)
    cost = rng.random((6, 5, 4))  # of a demand for an expert at an option
    now = np.full((6, 5), 1.0)

    def saving(i, o):
        return float(np.maximum(now[:, i] - cost[:, i, o], 0.0).sum())

    candidates = [(i, o) for i in range(5) for o in range(4)]
    i, o = np.array(candidates).T
    first = np.array([saving(*one) for one in candidates])
    left = set(candidates)
    for i_, o_, gain in take_by_saving(i, o, first, saving):
        assert gain == pytest.approx(max(saving(*one) for one in left))
        left.remove((i_, o_))
        now[:, i_] = np.minimum(now[:, i_], cost[:, i_, o_])
    assert max((saving(*one) for one in left), default=0.0) <= 0.0


def test_what_saves_nothing_never_comes():
    """Neither what saves nothing at the start nor what saves nothing later."""
    taken = list(
        take_by_saving(
            np.array([0, 1, 2]),
            np.array([0, 0, 0]),
            np.array([0.0, 3.0, 2.0]),
            lambda i, o: 3.0 if i == 1 else 0.0,
        )
    )
    assert taken == [(1, 0, 3.0)]

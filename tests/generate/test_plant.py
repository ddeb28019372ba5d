"""Planted plans fit their caps closely, and nothing much better fits them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt import build_problem, score
from meldopt.generate import generate, generate_with_plan
from meldopt.generate.priced import Pricer, Prices

TIGHT = {
    "layers": 6,
    "servers": 4,
    "latency": ["0.5 ms", "4 ms"],
    "curve_scale": 4.0,
    "reuse": 8.0,
    "tightness": 0.005,
}


@pytest.fixture(name="planted", scope="module")
def _planted():
    made, plan = generate_with_plan("metro", name="t", seed=1, parameters=TIGHT)
    problem = build_problem(made)
    return problem, plan, score(problem, plan)


def test_a_planted_plan_is_feasible_and_worth_what_it_says(planted):
    """The judge accepts the plan; the recorded objective is its own."""
    _, plan, judged = planted
    assert judged.feasible
    assert plan.record["objective"] == judged.objective


def test_caps_are_close_around_the_plan(planted):
    """Memory, quality, a processor and a link have under one percent slack."""
    _, _, judged = planted
    slack = {}
    for row in judged.rows:
        slack.setdefault(row.row, []).append(row.relative_slack)
    assert max(slack["memory"]) < 0.01
    assert max(slack["quality"]) < 0.01
    assert min(slack["compute"]) < 0.01
    assert min(slack["link"]) < 0.01


def test_several_decisions_are_in_use(planted):
    """Formats, copies, pruning and fusion: none of them is idle in the plan."""
    _, plan, _ = planted
    assert len(np.unique(plan.copies[:, 2])) >= 2
    assert (np.bincount(plan.copies[:, 0]) > 1).any()
    assert (plan.pruned_share > 0).any()
    assert (plan.fused_share > 0).any()


def _prices(problem, rng):
    return Prices(
        memory=rng.uniform(0.5, 2.0, problem.num_places) * 2e-11,
        compute=rng.uniform(0, 1e-3, len(problem.processor_server)),
        link=rng.uniform(0, 1e-10, len(problem.link_from)),
        quality=rng.uniform(0.3, 1.0, problem.num_applications),
    )


def _enumerated(pricer, priced, e):
    """Return the least priced cost of one expert over all sets of copies."""
    choices = [
        [None, *np.flatnonzero(pricer.server == s)]
        for s in range(pricer.problem.num_servers)
    ]
    best = np.inf
    for combination in itertools.product(*choices):
        options = [o for o in combination if o is not None]
        if options:
            least = priced.unit[e][:, options].min(axis=1)[None]
            cost = float(pricer.answered(least, priced, np.array([e]))[0])
            best = min(best, cost + priced.open[e, options].sum())
    return best


def test_the_search_is_near_the_best_plan_at_prices():
    """Over 72 experts and 4 drawn prices the search loses under 0.1 % in all."""
    made = generate("metro", name="t", seed=2, parameters={"layers": 3, "servers": 3})
    problem = build_problem(made)
    pricer = Pricer(problem)
    found = best = 0.0
    for seed in range(4):
        prices = _prices(problem, np.random.default_rng(seed))
        link = pricer.link_price(prices)
        for layer in range(3):
            priced = pricer.layer(layer, prices, link)
            chosen = pricer.search(priced)
            rows = np.arange(len(chosen))
            found += pricer.value(priced, chosen, rows).sum()
            best += sum(_enumerated(pricer, priced, e) for e in rows)
    assert best <= found * (1 + 1e-9)
    assert found <= best * 1.001


def test_the_compiled_search_agrees():
    """The compiled search reaches the same cost as the one by arrays."""
    made = generate("metro", name="t", seed=2, parameters={"layers": 2, "servers": 4})
    problem = build_problem(made)
    prices = _prices(problem, np.random.default_rng(5))
    pricer = Pricer(problem)
    link = pricer.link_price(prices)
    priced = pricer.layer(0, prices, link)
    rows = np.arange(len(priced.experts))
    plain = pricer.value(priced, pricer.search(priced), rows)
    pricer.compiled = True
    quick = pricer.value(priced, pricer.search(priced), rows)
    assert quick == pytest.approx(plain, rel=2e-2)
    assert quick.sum() == pytest.approx(plain.sum(), rel=2e-3)


def test_usage_is_what_the_judge_finds():
    """What the pricer says a plan takes is what its rows say."""
    made = generate("metro", name="t", seed=3, parameters={"layers": 3, "servers": 4})
    problem = build_problem(made)
    usage, chosen = Pricer(problem).plan(_prices(problem, np.random.default_rng(0)))
    judged = score(problem, chosen.plan(problem))
    rows = {}
    for row in judged.rows:
        rows.setdefault(row.row, []).append(row.value)
    assert usage.memory == pytest.approx(np.array(rows["memory"]), rel=1e-9)
    assert usage.compute == pytest.approx(np.array(rows["compute"]), rel=1e-9)
    assert usage.link == pytest.approx(np.array(rows["link"]), rel=1e-9)
    assert usage.quality == pytest.approx(np.array(rows["quality"]), rel=1e-9)


def test_the_planted_plan_is_near_optimal(planted):
    """The bound of the plan's own prices is within a few percent of its worth.

    A local search from the planted copies with exact shares gains little; here the
    shares alone are made optimal, which must not gain more than the slack is worth.
    """
    from meldopt.formulations.shares import best_shares

    problem, plan, judged = planted
    better = best_shares(problem, plan.copies)
    assert better is not None
    gained = 1 - score(problem, better).objective / judged.objective
    assert -1e-6 <= gained < 0.03

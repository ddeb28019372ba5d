"""The compute model: what it says, how it is fitted, and how wrong it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_instance

from meldopt import build_problem
from meldopt.catalogue.compute import class_named, compute_facts, compute_fits
from meldopt.errors import CatalogueError, InstanceError
from meldopt.replay.compute import KINDS, ComputeModel, batch_time
from meldopt.replay.fit import Batches, Efficiency, Rates, fit, predict, relative_error
from tests.benchmarks import compute_model, kernel_routing, kernel_tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

RATES = Rates(read_bytes_per_s=1e12, flops=2e14, cache_bytes=5e7)
TRUE = Efficiency(
    read_efficiency=0.8,
    flop_efficiency=0.45,
    exposed=0.4,
    overhead_s=3e-5,
    passes=4.0,
)


def problem_of(seed: int) -> Problem:
    """Make a small problem."""
    return build_problem(random_instance(seed, dataflow="home"))


def some_batches(num: int, seed: int) -> Batches:
    """Make batches from one call to thousands; seconds are still zero."""
    rng = np.random.default_rng(seed)
    calls = np.round(np.exp(rng.uniform(0.0, 11.0, num)))
    parameters = np.exp(rng.uniform(15.0, 19.0, num))
    return Batches(
        calls=calls,
        touched=np.minimum(calls, np.round(np.exp(rng.uniform(0.0, 5.0, num)))),
        flop=2 * parameters,
        size_bytes=2 * parameters,
        hidden_bytes=rng.choice([4096.0, 8192.0, 14336.0], num),
        seconds=np.zeros(num),
    )


def row_of(efficiency: Efficiency, hidden_bytes: float) -> NDArray[np.float64]:
    """Write an efficiency as a row of `ComputeModel.table`."""
    return np.array(
        [
            1 / (RATES.read_bytes_per_s * efficiency.read_efficiency),
            1 / (RATES.flops * efficiency.flop_efficiency),
            efficiency.exposed,
            efficiency.overhead_s,
            efficiency.passes * hidden_bytes / RATES.read_bytes_per_s,
        ]
    )


@pytest.mark.parametrize("seed", range(8))
def test_neutral_is_the_work_of_the_problem(seed: int) -> None:
    """One call under the neutral model takes what `Problem.work_s` says, exactly."""
    problem = problem_of(seed)
    table = ComputeModel.neutral(problem).table
    copies = np.argwhere(problem.copy_allowed(fits=False))
    assert len(copies)
    experts, places, formats = copies.T
    work = problem.work_s(experts, places, formats)
    for expected, (i, v, b) in zip(work, copies, strict=True):
        flop, size = problem.flop[i], problem.size_bytes[i, b]
        assert batch_time(table[v, b], 1.0, 1.0, flop, size) == expected


def test_neutral_adds_calls_and_experts() -> None:
    """The neutral time is calls x arithmetic + experts touched x reading."""
    problem = problem_of(0)
    i, v, b = np.argwhere(problem.copy_allowed(fits=False))[0]
    flop, size = float(problem.flop[i]), float(problem.size_bytes[i, b])
    row = ComputeModel.neutral(problem).table[v, b]
    expected = 7 * flop * problem.s_per_flop[v, b]
    expected += 3 * size * problem.s_per_byte[v]
    assert batch_time(row, 7.0, 3.0, flop, size) == pytest.approx(expected, rel=1e-15)


def test_reuse_is_counted_once() -> None:
    """With the instance's reuse given, reading costs the rate of the tier itself."""
    problem = problem_of(0)
    model = ComputeModel.neutral(problem, reuse=4.0)
    expected = np.broadcast_to(4 * problem.s_per_byte[:, None], model.s_per_byte.shape)
    assert np.array_equal(model.s_per_byte, expected)


def test_an_empty_batch_takes_no_time() -> None:
    """A server without calls does not even launch a kernel."""
    assert batch_time(row_of(TRUE, 8192.0), 0.0, 0.0, 1e9, 1e9) == 0.0


@given(
    calls=st.integers(1, 10**5),
    touched=st.integers(1, 512),
    parameters=st.floats(1e4, 1e9),
    exposed=st.floats(0.0, 1.0),
    more=st.floats(1.0, 10.0),
)
def test_more_never_takes_less(
    calls: int, touched: int, parameters: float, exposed: float, more: float
) -> None:
    """Time grows with calls, experts touched, arithmetic and bytes, each alone."""
    row = row_of(replace(TRUE, exposed=exposed), 8192.0)
    asked = [float(calls), float(touched), 2 * parameters, 2 * parameters]
    time = batch_time(row, *asked)
    for position in range(4):
        larger = list(asked)
        larger[position] *= more
        assert batch_time(row, *larger) >= time


def test_kernels_compute_the_same() -> None:
    """Compiled into a kernel, `batch_time` gives what Python gives, bit by bit."""

    @numba.njit
    def times(rows, calls, touched, flop, size):  # type: ignore[no-untyped-def]
        out = np.empty(len(calls))
        for at in range(len(calls)):
            out[at] = batch_time(rows[at], calls[at], touched[at], flop[at], size[at])
        return out

    batches = some_batches(50, seed=1)
    rows = np.array([row_of(TRUE, hidden) for hidden in batches.hidden_bytes])
    asked = (batches.calls, batches.touched, batches.flop, batches.size_bytes)
    compiled = times(rows, *asked)
    assert compiled.tolist() == [batch_time(*one) for one in zip(rows, *asked)]  # noqa: B905


def test_fit_and_replay_have_one_formula() -> None:
    """What is fitted is what `batch_time` computes, once no set fits in the cache."""
    batches = some_batches(50, seed=2)
    expected = predict(TRUE, replace(RATES, cache_bytes=0.0), batches)
    asked = (batches.calls, batches.touched, batches.flop, batches.size_bytes)
    for at, seconds in enumerate(expected):
        row = row_of(TRUE, batches.hidden_bytes[at])
        found = batch_time(row, *(array[at] for array in asked))
        assert found == pytest.approx(seconds, rel=1e-12)


def test_fit_recovers_what_made_the_times() -> None:
    """From times with 5 % noise and a few outliers, the true values come back."""
    batches = some_batches(600, seed=3)
    rng = np.random.default_rng(4)
    seconds = predict(TRUE, RATES, batches) * np.exp(rng.normal(0.0, 0.05, 600))
    seconds[:20] *= 3.0
    found = fit(RATES, replace(batches, seconds=seconds))
    assert found.read_efficiency == pytest.approx(TRUE.read_efficiency, rel=0.03)
    assert found.flop_efficiency == pytest.approx(TRUE.flop_efficiency, rel=0.03)
    assert found.exposed == pytest.approx(TRUE.exposed, abs=0.1)
    assert found.overhead_s == pytest.approx(TRUE.overhead_s, rel=0.15)
    assert found.passes == pytest.approx(TRUE.passes, rel=0.3)


def test_fit_refuses_what_it_cannot_use() -> None:
    """Too few rows and times that are not positive are named."""
    batches = some_batches(600, seed=3)
    with pytest.raises(ValueError, match=r"seconds: got 0\.0, expected > 0"):
        fit(RATES, batches)
    with pytest.raises(ValueError, match="batches: got 3, expected >= 5"):
        fit(RATES, batches.take(np.arange(3)))


def test_kind_says_where_the_numbers_are_from() -> None:
    """A device with a fit, one without, and a server written by hand are told apart."""
    problem = problem_of(0)
    assert problem.num_servers >= 2
    devices: list[str | None] = [None] * problem.num_servers
    devices[0], devices[1] = "a100-sxm", "jetson-orin-64"
    model = ComputeModel.fitted(problem, devices)
    for v, server in enumerate(problem.server_of.tolist()):
        for b, name in enumerate(problem.labels.formats):
            of = class_named(name, float(problem.bits_per_weight[b]))
            has_fit = server == 0 and of in ("bf16", "weight-only")
            expected = "fitted" if has_fit else "fallback" if server < 2 else "neutral"
            assert KINDS[model.kind[v, b]] == expected
    neutral = model.kind == KINDS.index("neutral")
    assert (model.overhead_s[neutral] == 0).all()
    assert (model.overhead_s[~neutral] > 0).all()
    slower = model.s_per_byte / problem.s_per_byte[:, None]
    assert (slower[neutral] == 1).all()
    assert (slower[~neutral] > 1).all()


def test_fitted_rates_are_the_problems_times_efficiency() -> None:
    """A fitted row has the catalogue's numbers on the rates of the problem."""
    problem = problem_of(0)
    model = ComputeModel.fitted(problem, ["l40s"] * problem.num_servers)
    name, bits = problem.labels.formats[0], float(problem.bits_per_weight[0])
    facts = compute_facts("l40s", class_named(name, bits))
    assert model.s_per_byte[0, 0] == problem.s_per_byte[0] / facts.read_efficiency
    assert model.s_per_flop[0, 0] == problem.s_per_flop[0, 0] / facts.flop_efficiency
    assert model.exposed[0, 0] == facts.exposed
    assert model.overhead_s[0, 0] == facts.overhead_s
    same = problem.processor_of == problem.processor_of[0]
    hidden = facts.passes * problem.bytes_out * problem.s_per_byte[same].min()
    assert model.s_per_call[0, 0] == pytest.approx(hidden, rel=1e-15)


def test_wrong_devices_are_refused() -> None:
    """A device that the catalogue lacks, or one too few, is named."""
    problem = problem_of(0)
    with pytest.raises(CatalogueError, match="unknown device 'l4o'"):
        ComputeModel.fitted(problem, ["l4o"] * problem.num_servers)
    with pytest.raises(InstanceError, match=r"devices: got 0, expected \d"):
        ComputeModel.fitted(problem, [])


@pytest.mark.parametrize(
    ("name", "bits", "expected"),
    [
        ("bf16", 16.0, "bf16"),
        ("fp8-block128", 8.0, "fp8-block"),
        ("int8-w8a8", 8.0, "int8"),
        ("int8-g128", 8.25, "weight-only"),
        ("mxfp4", 4.25, "weight-only"),
        ("no-such-format", 5.0, "weight-only"),
        ("no-such-format", 32.0, "bf16"),
    ],
)
def test_classes_of_formats(name: str, bits: float, expected: str) -> None:
    """Formats are put with those that run in the same kind of kernel."""
    assert class_named(name, bits) == expected


def test_fallback_is_the_median_of_the_class() -> None:
    """A device without a fit gets the middle of what others reach, and no error."""
    facts = compute_facts("rtx-4090", "bf16")
    others = [
        fit.read_efficiency for fit in compute_fits() if fit.format_class == "bf16"
    ]
    assert facts.fallback
    assert facts.held_out_median is None
    assert facts.read_efficiency == pytest.approx(np.median(others))


def test_shipped_fits_meet_the_target() -> None:
    """Each fit of the catalogue errs by less than 15 % on shapes that it never saw."""
    fits = compute_fits()
    assert len({(fit.device, fit.format_class) for fit in fits}) == len(fits) == 6
    for found in fits:
        assert found.held_out_rows > 0
        assert found.held_out_median is not None
        assert found.held_out_median < 0.15
        assert 0 < found.read_efficiency <= 1
        assert 0 < found.flop_efficiency <= 1
        assert 0 <= found.exposed <= 1
        assert 0 < found.overhead_s < 1e-3


def test_shipped_values_have_the_error_that_they_state(data_folder: Path) -> None:
    """Fitted anew from the real tables, values and held-out errors are the shipped."""
    tables = kernel_tables.read_tables(data_folder)
    shipped = {(fit.device, fit.format_class): fit for fit in compute_fits()}
    assert {(table.device, table.format_class) for table in tables} == set(shipped)
    for table in tables:
        facts = shipped[table.device, table.format_class]
        held = table.take(compute_model.held_back(table))
        rates = kernel_tables.rates_of(table)
        efficiency = compute_model.efficiency_of(facts)
        error = relative_error(efficiency, rates, held.batches)
        assert len(error) == facts.held_out_rows
        assert np.median(error) == pytest.approx(facts.held_out_median, abs=1e-4)
        assert np.quantile(error, 0.9) == pytest.approx(facts.held_out_p90, abs=1e-4)
        again = fit(rates, table.take(~compute_model.held_back(table)).batches)
        assert again.read_efficiency == pytest.approx(facts.read_efficiency, rel=0.01)
        assert again.flop_efficiency == pytest.approx(facts.flop_efficiency, rel=0.01)


def test_the_page_shows_the_shipped_values() -> None:
    """The table of docs/compute-model.md is the catalogue's, fit by fit."""
    page = Path(__file__).parents[2] / "docs" / "compute-model.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    for found in compute_fits():
        assert found.held_out_median is not None
        assert found.held_out_p90 is not None
        cells = [
            f"`{found.device}`",
            f"`{found.format_class}`",
            f"{found.read_efficiency:.2f}",
            f"{found.flop_efficiency:.2f}",
            f"{found.exposed:.2f}",
            f"{1e6 * found.overhead_s:.0f} µs",
            f"{found.passes:.1f}",
            str(found.rows),
            str(found.held_out_rows),
            f"{100 * found.held_out_median:.1f}",
            f"{100 * found.held_out_p90:.1f}",
        ]
        assert f"| {' | '.join(cells)} |" in lines


@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(2, 128, 8), (300, 16, 2)])
def test_power_law_routing_is_possible(
    tokens: int, experts: int, top_k: int, ranks: int
) -> None:
    """Drawn calls add to tokens x top-k, and no expert has more calls than tokens."""
    generator = np.random.default_rng(0)
    for exponent in (1.01, 1.2):
        calls = kernel_routing.power_law_calls(
            tokens, experts, top_k, exponent, generator, ranks
        )
        assert calls.sum() == tokens * top_k
        assert 0 <= calls.min() <= calls.max() <= tokens


@pytest.mark.parametrize("tokens", [1, 3, 16, 100])
def test_balanced_routing_touches_all_it_can(tokens: int) -> None:
    """Balanced tokens touch min(experts, tokens x top-k) experts, none twice."""
    choices = kernel_routing.balanced_choices(tokens, 128, 8)
    assert all(len(set(row)) == 8 for row in choices.tolist())
    route = kernel_routing.routed(tokens, 128, 8, 1, "balanced")
    assert route.touched == min(128, 8 * tokens)
    assert route.calls == route.arriving == 8 * tokens

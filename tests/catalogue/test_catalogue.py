"""The catalogue: complete, consistent, and true where the truth is known."""

from __future__ import annotations

import csv
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meldopt import catalogue
from meldopt.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MELDOPT_DATA", ROOT.parent / "shared" / "data"))
Facts = catalogue.ModelFacts | catalogue.DeviceFacts | catalogue.FormatFacts
TABLES: dict[str, Callable[[], tuple[Facts, ...]]] = {
    "model": catalogue.models,
    "device": catalogue.devices,
    "format": catalogue.formats,
}


@pytest.mark.parametrize(("kind", "least"), [("model", 30), ("device", 24)])
def test_is_large_enough(kind: str, least: int) -> None:
    """The catalogue covers the models and devices that people ask for."""
    assert len(TABLES[kind]()) >= least


@pytest.mark.parametrize("kind", TABLES)
def test_names_are_unique_slugs(kind: str) -> None:
    """A name is lower-case, safe in a shell, and means one row."""
    names = [fact.name for fact in TABLES[kind]()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(?:[-._][a-z0-9]+)*", name) for name in names)


@pytest.mark.parametrize("kind", TABLES)
def test_every_row_says_where_it_is_from(kind: str) -> None:
    """Each fact has a source and a confidence, and no path of our machines."""
    for fact in TABLES[kind]():
        assert fact.source, fact.name
        assert fact.confidence in {"high", "medium", "low"}
        assert not re.search(r"/(?:work|tmp|home)/", fact.source + fact.note)
        if fact.source.startswith("from memory"):
            assert fact.confidence == "low", fact.name


@pytest.mark.parametrize("kind", TABLES)
def test_tables_are_read_once(kind: str) -> None:
    """Asking twice gives the same objects: the file is read once."""
    assert TABLES[kind]() is TABLES[kind]()


def test_models_are_consistent() -> None:
    """Counts, products and sums of every model agree with each other."""
    for fact in catalogue.models():
        assert fact.layers == fact.moe_layers + fact.dense_layers
        assert len(fact.layer_ids) == fact.moe_layers > 0
        assert sorted(set(fact.layer_ids)) == list(fact.layer_ids)
        assert fact.layer_ids[0] >= 0
        assert fact.layer_ids[-1] == fact.layers - 1
        assert 0 < fact.top_k < fact.experts
        assert fact.shared_experts >= 0
        assert fact.parameters_per_expert == (
            fact.expert_in_size * fact.moe_intermediate * fact.matrices_per_expert
        )
        assert fact.routed_parameters == (
            fact.parameters_per_expert * fact.experts * fact.moe_layers
        )
        assert fact.total_parameters == (
            fact.routed_parameters + fact.backbone_parameters
        )
        # At least the embedding of a small vocabulary, at most a quarter of the model.
        assert fact.backbone_parameters > 30_000 * fact.hidden_size, fact.name
        assert fact.backbone_parameters < fact.total_parameters / 4, fact.name
        if fact.advertised_parameters is not None:
            assert fact.total_parameters == pytest.approx(
                fact.advertised_parameters, rel=0.03
            ), fact.name


def test_known_models() -> None:
    """Numbers that the model cards and papers state come out."""
    mixtral = catalogue.model("mixtral-8x7b")
    assert (mixtral.layers, mixtral.experts, mixtral.top_k) == (32, 8, 2)
    assert mixtral.parameters_per_expert == 176_160_768  # 3 x 4096 x 14336
    assert mixtral.backbone_parameters == pytest.approx(1.6e9, rel=0.01)
    assert mixtral.layer_ids == tuple(range(32))

    deepseek = catalogue.model("deepseek-v3")
    assert (deepseek.moe_layers, deepseek.dense_layers) == (58, 3)
    assert deepseek.layer_ids == tuple(range(3, 61))
    assert deepseek.moe_layers * deepseek.experts == 14_848
    assert deepseek.total_parameters == pytest.approx(671e9, rel=1e-3)

    maverick = catalogue.model("llama-4-maverick")
    assert maverick.layer_ids == tuple(range(1, 48, 2))

    for name in ("kimi-k2", "olmoe-1b-7b", "qwen3-30b-a3b", "gpt-oss-20b"):
        assert catalogue.model(name).name == name


def test_devices_are_physical() -> None:
    """Rates are positive, sane to each other, and every device computes in bf16."""
    for fact in catalogue.devices():
        numbers = (fact.memory_bytes, fact.read_bytes_per_s, fact.power_w)
        assert all(math.isfinite(n) and n > 0 for n in numbers), fact.name
        assert 2**32 <= fact.memory_bytes <= 2**40, fact.name
        assert 1e10 <= fact.read_bytes_per_s <= 1e13, fact.name
        assert "bf16" in fact.flops
        assert fact.flops.keys() <= {"bf16", "fp8", "int8"}
        assert all(1e11 <= rate <= 1e16 for rate in fact.flops.values()), fact.name
        assert fact.unified_memory == (fact.host_link_bytes_per_s is None), fact.name
        if fact.host_link_bytes_per_s is not None:
            assert 0 < fact.host_link_bytes_per_s < fact.read_bytes_per_s, fact.name


def test_devices_of_the_design_exist() -> None:
    """The devices that documentation and the bundled instances name are here."""
    l4 = catalogue.device("l4")
    assert l4.memory_bytes == 24 * 2**30
    assert l4.read_bytes_per_s == 300e9
    assert l4.flops == {"bf16": 121e12, "fp8": 242e12, "int8": 242e12}
    assert l4.host_link_bytes_per_s == 32e9
    for name in ("rtx-4090", "jetson-orin-64", "rtx-3060", "a100-sxm"):
        assert catalogue.device(name).name == name


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("bf16", 16.0),
        ("int8-g128", 8 + 32 / 128),  # an fp16 scale and an fp16 minimum a group
        ("int4-g64", 4 + 32 / 64),
        ("int4-g128", 4 + 32 / 128),
        ("int3-g64", 3 + 32 / 64),
        ("int2-g64", 2 + 32 / 64),
        ("mxfp4", 4 + 8 / 32),
        ("nvfp4", 4 + 8 / 16),
        # GGUF: 256 weights of b bits, scales and minima of 8 or 16 blocks, fp16 scales.
        ("q8_0", 8 + 16 / 32),
        ("q6_k", 6 + (16 * 8 + 16) / 256),
        ("q5_k", 5 + (8 * 12 + 32) / 256),
        ("q4_k", 4 + (8 * 12 + 32) / 256),
        ("q3_k", 3 + (16 * 6 + 16) / 256),
        ("q2_k", 2 + (16 * 8 + 32) / 256),
        ("iq2_xxs", 2 + 16 / 256),
    ],
)
def test_bits_per_weight(name: str, bits: float) -> None:
    """Effective bits count the weights and all of their scales."""
    assert catalogue.format_named(name).bits_per_weight == bits


def test_formats_run_somewhere() -> None:
    """Every format computes in a precision that some device has."""
    rates = {key for device in catalogue.devices() for key in device.flops}
    for fact in catalogue.formats():
        assert 1 < fact.bits_per_weight <= 16
        assert fact.precision in rates, fact.name
    assert catalogue.format_named("fp8").precision == "fp8"
    assert catalogue.format_named("int8-w8a8").precision == "int8"
    assert catalogue.format_named("int4-g64").precision == "bf16"


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (
            catalogue.device,
            "rtx-409",
            "unknown device 'rtx-409': did you mean 'rtx-4090'? "
            "('meldopt devices' lists all)",
        ),
        (
            catalogue.device,
            "jetson-orin",
            "unknown device 'jetson-orin': did you mean 'jetson-orin-32' or "
            "'jetson-orin-64'? ('meldopt devices' lists all)",
        ),
        (
            catalogue.model,
            "Mixtral-8x7B",
            "unknown model 'Mixtral-8x7B': did you mean 'mixtral-8x7b'? "
            "('meldopt models' lists all)",
        ),
        (
            catalogue.format_named,
            "???",
            "unknown format '???' ('meldopt formats' lists all)",
        ),
    ],
)
def test_unknown_name_suggests_the_nearest(
    find: Callable[[str], Facts], name: str, message: str
) -> None:
    """An unknown name is a lookup error of one line, with the nearest names if any."""
    with pytest.raises(CatalogueError) as caught:
        find(name)
    assert str(caught.value) == message
    assert isinstance(caught.value, LookupError)


def test_import_is_light() -> None:
    """Listing the catalogue loads no numerical library."""
    code = (
        "import sys, meldopt.catalogue as c; c.models(), c.devices(), c.formats(); "
        "print({'numpy', 'scipy', 'ortools', 'pulp', 'networkx', 'numba'} "
        "& set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def _rows(file: str) -> list[dict[str, str]]:
    path = DATA / file
    if not path.is_file():
        pytest.skip(f"{file} of MELDOPT_DATA is not here")
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_agrees_with_the_model_table() -> None:
    """Models are those of the table they were made from, number by number."""
    known = {fact.title: fact for fact in catalogue.models()}
    rows = _rows("models/models.csv")
    assert {row["model"] for row in rows} == known.keys()
    for row in rows:
        fact = known[row["model"]]
        assert fact.layers == int(row["layers"])
        assert fact.moe_layers == int(row["moe_layers"])
        assert fact.experts == int(row["routed_experts"])
        assert fact.shared_experts == int(row["shared_experts"])
        assert fact.top_k == int(row["top_k"])
        assert fact.hidden_size == int(row["hidden_size"])
        assert fact.parameters_per_expert / 1e6 == pytest.approx(
            float(row["params_per_expert_M"]), abs=0.0006
        )
        assert fact.routed_parameters / 1e9 == pytest.approx(
            float(row["routed_params_B"]), abs=0.0051
        )
        if row["est_total_B"]:
            assert fact.total_parameters == round(float(row["est_total_B"]) * 1e9)


def test_agrees_with_the_device_table() -> None:
    """Devices that share a memory rate and size with the table share its link."""
    by_memory = {
        (fact.memory_bytes, fact.read_bytes_per_s, fact.power_w): fact
        for fact in catalogue.devices()
    }
    for row in _rows("hardware/devices.csv"):
        key = (
            float(round(float(row["memory_GiB"]) * 2**30)),
            float(row["memory_GB_per_s"]) * 1e9,
            float(row["power_W"]),
        )
        fact = by_memory[key]
        if row["bf16_TFLOPS"]:
            assert fact.flops["bf16"] == pytest.approx(float(row["bf16_TFLOPS"]) * 1e12)
        if row["pcie_GB_per_s"]:
            assert fact.host_link_bytes_per_s == float(row["pcie_GB_per_s"]) * 1e9

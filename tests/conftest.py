"""What all tests share: the folder of test data, and how hypothesis behaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every machine and in every run: a red test stays red.
settings.register_profile(
    "meldopt",
    deadline=None,
    derandomize=True,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("meldopt")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of data outside the project; skip the test without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MELDOPT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set MELDOPT_DATA")
    return folder

"""One thread a process, so that parallel test processes share two cores; float64 and a fixed Hypothesis profile."""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402 - numpy must not be imported before the lines above

from tests.fresh import FreshProcesses  # noqa: E402

settings.register_profile(
    "project", max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")


@pytest.fixture(scope="session")
def fresh() -> Iterator[FreshProcesses]:
    """Processes for scripts, one each."""
    processes = FreshProcesses(Path(__file__).parents[1])
    yield processes
    processes.close()

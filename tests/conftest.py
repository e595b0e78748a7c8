"""One thread a process, so that parallel test processes share two cores; float64 and a fixed Hypothesis profile."""

import gc
import os
import sys

gc.disable()  # until everything is imported, of which nothing is garbage
# what is compiled is kept, in the processes of tests too: otherwise each compiles torch anew, for ten seconds
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402 - numpy must not be imported before the lines above

from tests.fresh import FreshProcesses  # noqa: E402

TESTS = Path(__file__).parent

# the same few examples at every run of `make test`; `make slow` draws many and others each time
settings.register_profile(
    "project", max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("thorough", settings.get_profile("project"), max_examples=300, derandomize=False)
settings.load_profile("project")

# the files that take longest, which come first, so that no process of several is left alone with one at the end; the two that
# need the built site are apart, so that the second does not wait for the first to build it
LONGEST = (
    "docs/test_site.py",
    "test_docs.py",
    "sims/test_compare.py",
    "ufm/compare/test_selection.py",
    "test_architecture.py",
    "docs/test_pages_in_browser.py",
    "manifolds/test_geoopt.py",
    "ufm/flow/test_command.py",
    "ufm/compare/test_controls.py",
    "sims/test_sweeps.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others in their order."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    assert all(path.exists() for path in places), places
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: it is looked through for garbage no more."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshProcesses]:
    """Processes for scripts, one each."""
    here = tmp_path_factory.getbasetemp()
    shared = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here
    processes = FreshProcesses(Path(__file__).parents[1], shared / "fork_server")
    yield processes
    processes.close()

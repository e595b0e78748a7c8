"""One thread a process, so that parallel test processes share two cores; Hypothesis draws the same examples everywhere."""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import HealthCheck, settings  # noqa: E402 - numpy must not be imported before the lines above
from hypothesis.internal.conjecture import providers  # noqa: E402

settings.register_profile(
    "project", max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")

# Hypothesis also tries constants of the modules that happen to be imported, which depends on the tests that ran before in the same
# process: with it the same commit may pass on one machine and fail on another. No setting turns it off, derandomize neither.
assert hasattr(providers, "is_local_module_file")
providers.is_local_module_file = lambda path: False

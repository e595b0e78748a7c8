"""What a run of unequal classes costs, told before anything is computed."""

import os

STATES, COPIES = 31, 4  # the stages of a step, its interpolant and temporaries; states and vectors at a time, on their way out
SLOPES, PRODUCTS, RATE = 1200, 3, 4e10  # of a tenfold growth; m x m times m x C in each; operations a second of one core


def check_memory(C: int, P: int, times: int) -> None:
    """Raise ValueError where C unequal classes in P features, kept at `times`, need more memory than the machine has."""
    K, machine = min(C - 1, P), machine_memory()
    needed = bytes_of_run(C, P, times)
    if needed <= machine:
        return
    hours = SLOPES * 2 * PRODUCTS * K * K * C / RATE / 3600
    raise ValueError(
        f"{C} unequal classes in P = {P} features at {times} times need about {needed / 1e9:.3g} GB and {hours:.1g} hours, this "
        f"machine has {machine / 1e9:.3g} GB: keep fewer times, classes or features (their leading principal components), "
        "or make the classes equal, whose law is closed"
    )


def bytes_of_run(C: int, P: int, times: int) -> int:
    """Memory of an integration of C unequal classes in P features with its states and vectors at `times`, in float64."""
    K = min(C - 1, P)
    return 8 * K * (STATES * C + COPIES * times * (C + P))


def machine_memory() -> float:
    """Bytes of the machine; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")

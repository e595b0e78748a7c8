"""The memory that a run of unequal classes needs, checked before anything is computed."""

from ufm.memory import free_memory, in_words

STATES, COPIES = 31, 4  # the stages of a step, its interpolant and temporaries; states and vectors at a time, on their way out
SLOPES, PRODUCTS, RATE = 1200, 3, 4e10  # of a tenfold growth; m x m times m x C in each; operations a second of one core


def check_run_cost(C: int, P: int, times: int) -> None:
    """Raise ValueError where C unequal classes in P features, kept at `times`, need more memory than is free."""
    needed, free, K = bytes_of_run(C, P, times), free_memory(), min(C - 1, P)
    if free is None or needed <= free:
        return
    hours = SLOPES * 2 * PRODUCTS * K * K * C / RATE / 3600
    raise ValueError(
        f"{C} unequal classes in P = {P} features at {times} times need about {in_words(needed)} and {hours:.1g} hours, with "
        f"{in_words(free)} of memory free: keep fewer times, classes or features (their leading principal components), "
        "or make the classes equal, whose law is closed"
    )


def bytes_of_run(C: int, P: int, times: int) -> int:
    """Memory of an integration of C unequal classes in P features with its states and vectors at `times`, in float64."""
    K = min(C - 1, P)
    return 8 * K * (STATES * C + COPIES * times * (C + P))

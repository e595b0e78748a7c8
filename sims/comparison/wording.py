"""What a comparison says in words: outcomes, the epochs compared and how they were chosen, what a reader is warned of."""

from collections.abc import Sequence

import numpy as np

from sims.comparison.analysis import Choice, Group, as_options
from ufm.compare.outcome import NAMED, REFUTED, UNDECIDED, Selection
from ufm.compare.window import FRACTION, Window

GROUPS_DIFFER = "groups differ"


def label(selection: Selection) -> str:
    """The model's name, or the outcome: undecided with those that are left, refuted, or not compared."""
    return outcome_in_words(selection.outcome, selection.name, selection.compatible)


def outcome_in_words(outcome: str, name: str | None, compatible: Sequence[str]) -> str:
    """The same from the parts of a selection."""
    if outcome == NAMED:
        return name or NAMED
    if outcome == REFUTED:
        return "refuted (every model)"
    return f"{outcome} ({', '.join(compatible) or 'no model'} left)" if outcome == UNDECIDED else outcome


def overall(groups: Sequence[Group]) -> tuple[str | None, str, str]:
    """The verdict on all groups (the model's name or None), its outcome and its reason; groups that disagree have none."""
    first = groups[0].selection
    if len(groups) == 1:
        return first.name or None, first.outcome, first.reason
    if all((group.selection.name, group.selection.outcome) == (first.name, first.outcome) for group in groups):
        return first.name or None, first.outcome, f"all {len(groups)} groups of runs agree"
    differ = ", ".join(f"{group.name}: {label(group.selection)}" for group in groups)
    return None, GROUPS_DIFFER, f"the groups of runs differ: {differ}"


def left_in_all(groups: Sequence[Group]) -> list[str]:
    """The models that no group refutes."""
    return [name for name in groups[0].selection.compatible if all(name in group.selection.compatible for group in groups)]


def epochs_compared(window: Window, choice: Choice) -> str:
    """Which epochs of a run were compared and what chose them."""
    if window.compared is None:
        return as_options(window.reason)
    t = window.compared.t
    if choice.from_epoch == "zero-error":
        start = "from zero training error on"
    elif choice.from_epoch is not None:
        start = "from the epoch given"
    else:
        start = f"from the entry to the central path, L_perp below {choice.fraction:g} L_LS"
    end = "" if choice.to_epoch is None else f", to {choice.to_epoch:g} as given"
    return f"epochs {t[0]:g} to {t[-1]:g} ({len(t)} measured), {start}{end}"


def off_the_central_path(window: Window, fraction: float) -> str:
    """A warning where a run is compared before it is on the central path, or where that is not known; "" otherwise."""
    if window.compared is None:
        return ""
    ratio = float(window.ratio[np.flatnonzero(window.epochs == window.compared.t[0])[0]])
    if np.isnan(ratio):
        return "L_perp is not known (no classifier, or no lambda), nor whether the epochs compared are on the central path"
    if ratio < fraction:
        return ""
    return (
        f"the epochs compared start off the central path: L_perp / L_LS is {ratio:.3g} there, {fraction:g} counts as on it. "
        "Every model but joint has the classifier at least squares"
    )


def choices_reminder(choice: Choice, choices: int) -> str:
    """What to say of epochs that were chosen by hand; "" where they were not, or where more than one choice is declared."""
    by_hand = choice.from_epoch is not None or choice.to_epoch is not None or choice.fraction != FRACTION
    if not by_hand or choices > 1:
        return ""
    return (
        "the epochs were chosen by hand, and the choice can decide the verdict: where several were tried, say how many, and more "
        "evidence is asked for"
    )

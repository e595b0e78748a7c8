"""What the options mean that several commands have: one type, one help text, and the default where a command has no other."""

from collections.abc import Callable, Sequence
from typing import Any

SHARED: dict[str, dict[str, Any]] = {
    "seed": {"type": int, "default": 0, "help": "seed of everything random"},
    "device": {"default": "cpu", "help": "torch device that computes: cpu, cuda, cuda:1, ..., or auto, a GPU where there is one"},
    "json": {"action": "store_true", "help": "JSON on standard output instead of text, one object per line"},
    "quiet": {"action": "store_true", "help": "no progress and no table"},
    "threads": {"type": int, "help": "CPU threads; a different number may change the last bits"},
    "lambda": {
        "type": float,
        "dest": "lam",
        "help": "weight decay of the loss (Eq. 2), as --ridge of ufm.flow; C wd / 2 for MSELoss",
    },
    "epochs": {"type": int, "help": "epochs of the training, to which its schedule is scaled"},
    "measured": {"type": int, "nargs": "+", "help": "epochs that are measured"},
    "data-dir": {"help": "folder with the official files, or an archive of it (.zip, .tar.gz, .tar.xz)"},
    "hub": {"help": "Hugging Face dataset, or a folder with one, to use instead"},
    "per-class": {"type": int, "help": "training examples per class"},
    "test-per-class": {"type": int, "help": "test examples per class"},
}


def shared_option(name: str, without: str | None = None, **changed: Any) -> dict[str, Any]:
    """The settings of a shared option for `add_argument`; `without` says in words what happens where it is not given."""
    settings = SHARED[name] | changed
    return settings if without is None else settings | {"help": f"{settings['help']} (default: {without})"}


def device_of(asked: str) -> str:
    """The torch device that was asked for, with `auto` a GPU where there is one. Raises ValueError where it cannot be used."""
    if asked == "cpu":
        return asked
    import torch

    there = torch.cuda.is_available()
    if asked == "auto":
        return "cuda" if there else "cpu"
    if asked == "cuda" and not there:
        raise ValueError("device cuda: torch finds no GPU here, use cpu")
    try:
        valueless = torch.zeros(1, dtype=torch.float64, device=asked).is_meta
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {asked!r} cannot be used: {str(error).splitlines()[0]}") from error
    if valueless:
        raise ValueError(f"device {asked!r} cannot be used: its tensors have no values; use cpu or a device that computes")
    return asked


def refuse_lost_values(error: Callable[[str], object], arguments: Sequence[str]) -> None:
    """End with the parser's error at values that would be lost: none at all, and `--option=--`.

    An empty name would stand for the working directory or the default, and comes from a variable of the shell that is not set.
    `--` Python's parser takes for the end of the options.
    """
    for argument in arguments:
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            error(f"{argument or 'an argument'} is empty: is a variable of the shell not set?")
        if argument == "--":
            return
        if argument.startswith("-") and argument.endswith("=--"):
            error(f"{argument}: '--' is no value; write ./-- for a file of that name")

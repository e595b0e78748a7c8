"""Every field of a training configuration as an option of a command line, and back."""

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from sims.training.protocol import TrainConfig, load_config, protocol
from ufm.options import SHARED

CELL = {"dataset": "digits", "net": "mlp", "loss": "mse"}  # the default one
OWN_OPTIONS = (*CELL, "epochs")  # options with a meaning of their own
RESET = object()  # the value of an option that sets a field of the configuration back to None
WORDS = {"per_class": "all", "test_per_class": "all", "pad_to": "none", "data_dir": "none", "hub": "none"}  # how it is written
HELP = {
    "optimizer": "sgd, adam or lbfgs",
    "momentum": "of sgd",
    "weight_decay": "of all weights, in the gradient",
    "batch_size": "examples per batch",
    "drop_last": "leave out the last batch of an epoch where it is short",
    "decays": "epochs after which the rate is decayed",
    "decay_factor": "factor of the rate then",
    "stem": "first convolution: 3x3, or 7x7 with pooling",
    "lr_grid": "learning rates of a search",
    "lr": "learning rate (default: the tuned one of the protocol)",
    "pad_to": "pad images with zeros to this side, or none",
    "normalization": "subtract mean and divide by deviation of every channel or pixel",
    "random_labels": "permute the training labels",
    "width": "factor on all channels",
    "batch_norm": "batch normalisation",
    "sync_batch_norm": "batch normalisation over the whole batch instead of the share of each process",
    "head_norm": "VGG: batch normalisation where its dropout was",
    "memory_efficient": "DenseNet: recompute activations in the backward pass, for a fraction of the memory",
    "fixed_etf": "fix the classifier to a simplex ETF",
    "feature_decay": "penalty on features; weight decay is then the classifier's alone",
    "rescale_true": "k of Hui & Belkin",
    "rescale_target": "M of Hui & Belkin",
    "robustness": "test images attacked with DeepFool, 0 for none",
    "save_features": "measured epochs whose features are written",
    "velocity": "measured epochs whose next step is compared with the gradient of the features and with the network's own kernel",
    "tf32": "GPU: products of float32 in TF32, with 10 bits of mantissa",
    "deterministic": "kernels that give the same bits every time, slower on a GPU",
    "mixed_precision": "no, fp16 or bf16",
}


def add_fields(p: argparse.ArgumentParser) -> None:
    """Add every field that has no option of its own; None, the default of each, leaves the field as it is."""
    for field in fields(TrainConfig):
        if field.name not in OWN_OPTIONS:
            _add_field(p, field.name, field.type)


def config_of(args: argparse.Namespace) -> TrainConfig:
    """The configuration asked for: the file or the cell, scaled, with the options given put over it."""
    cell = {name: getattr(args, name) for name in CELL if getattr(args, name) is not None}
    if args.config is not None and cell:
        raise ValueError(f"--config says what to train, and --{next(iter(cell))} says it too: give one of them")
    config = protocol(**CELL | cell) if args.config is None else load_config(Path(args.config))
    if args.epochs is not None:
        config = config.scaled(args.epochs)
    names = [field.name for field in fields(TrainConfig) if field.name not in OWN_OPTIONS]
    given: dict[str, Any] = {}
    values: dict[str, Any] = {name: getattr(args, name) for name in names}
    for name, value in values.items():
        if value is not None:
            value = None if value is RESET else value
            changed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value}
            given |= changed
    config = replace(config, **given)
    if args.search and args.lr is not None:
        raise ValueError(f"--search looks for the learning rate that --lr {args.lr:g} gives: leave one of them out")
    return config if args.search else replace(config, lr=config.rate)


def _add_field(p: argparse.ArgumentParser, name: str, kind: Any) -> None:
    """The option of one field of the configuration; None, its default, leaves the field as it is."""
    option, default = f"--{name.replace('_', '-')}", getattr(TrainConfig(), name)
    text = SHARED[spelling]["help"] if (spelling := option.removeprefix("--")) in SHARED else HELP[name]
    if "default" not in text:
        shown = f"{default[0]} ... {default[-1]}" if isinstance(default, tuple) and default else default
        text += f" (default: the cell's, else {shown if shown not in (None, ()) else WORDS.get(name, 'none')})"
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if kind is bool:
        p.add_argument(option, action=argparse.BooleanOptionalAction, help=text, default=None)
    elif get_args(kind):
        p.add_argument(option, type=get_args(kind)[0], nargs="+", help=text)
    else:
        p.add_argument(option, type=_or_word(kind, WORDS[name]) if name in WORDS else kind, help=text)


def _or_word(kind: type, word: str) -> Callable[[str], object]:
    """What turns the text of an option into its type, or the word into RESET."""

    def parse(text: str) -> object:
        return RESET if text == word else kind(text)

    parse.__name__ = f"{kind.__name__} or {word!r}"  # argparse names it where it fails
    return parse

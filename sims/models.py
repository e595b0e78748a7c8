"""`python -m sims.models`: the models of the neural-collapse literature, simulated and compared with their theory."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sims.command import Failure, Parser, print_json, run_command
from ufm.files.json_objects import JsonObject
from ufm.models import MODEL_NAMES, model_class
from ufm.models.references import bibtex
from ufm.options import device_of
from ufm.output import say, show

if TYPE_CHECKING:
    from ufm.models.base import Model

LARGEST_SEED = 2**62  # generators take seeds below 2^63; restarts and sweeps add to them


def sizes(text: str) -> tuple[int, ...]:
    """Class sizes as they are typed: 6,4,2."""
    return tuple(int(part) for part in text.split(","))


OPTIONS: dict[str, tuple[Callable[[str], object], str]] = {
    "C": (int, "classes"),
    "N": (int, "examples per class (of the smaller classes where sizes differ)"),
    "P": (int, "features (neurons of ergen-pilanci)"),
    "lambda_w": (float, "weight decay of W, as --lambda of sims.measure (of the norm rho in poggio-liao)"),
    "lambda_h": (float, "weight decay of H"),
    "lambda_b": (float, "weight decay of the bias"),
    "temperature": (float, "factor of the logits"),
    "energy_h": (float, "bound on the mean squared norm of the features"),
    "energy_w": (float, "bound on the mean squared norm of the classifiers"),
    "majority": (int, "number of larger classes"),
    "imbalance": (float, "their size over that of the others, at least 1"),
    "sizes": (sizes, "examples of every class, as in 6,4,2, in place of majority and imbalance"),
    "beta": (float, "weight decay of ergen-pilanci"),
    "scale": (float, "size of the start (of the largest omega in central-path)"),
    "layers": (int, "linear layers of deep-linear and deep-ce"),
    "targets": (str, "targets of mse-any-target: regression, encodings, noisy-labels or classes"),
    "bias": (str, "bias of mse-any-target: free or none"),
    "noise": (float, "share of wrong labels of mse-any-target's noisy-labels"),
    "weight_decay": (float, "weight decay of W and H in joint-decay"),
    "smoothing": (float, "share delta of a label spread over all classes in label-smoothing"),
    "gamma": (float, "exponent of the focal loss"),
    "kernel_diagonal": (float, "kernel of block-kernel: an example with itself"),
    "kernel_class": (float, "kernel of block-kernel: examples of one class"),
    "kernel_other": (float, "kernel of block-kernel: examples of different classes"),
    "flow": (str, "flow of central-path: renormalized or embedded"),
    "optimizer": (str, "solver, where a model has several; `list` names them"),
}


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.models", description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="{list,run,all,cite}", help="what to do")
    common = {"extra": "models", "shared": ("seed", "device", "json", "quiet")}
    commands.add_parser("list", help="names, papers, options and solvers", shared=("json",))
    one = commands.add_parser("run", help="one model: measured and predicted values, collapse over time", **common)
    one.add_argument("name", metavar="NAME", help=", ".join(MODEL_NAMES))
    for name, (kind, text) in OPTIONS.items():
        one.add_argument(option(name), dest=name, type=kind, help=f"{text} (default: the model's)", metavar=kind.__name__.upper())
    one.add_argument("--out", type=Path, metavar="DIR", help="write NAME.json and the figure models-NAME.png there (default: no)")
    cite = commands.add_parser("cite", help="BibTeX of the papers of a model")
    cite.add_argument("name", metavar="NAME", help=", ".join(MODEL_NAMES))
    every = commands.add_parser("all", help="all models: one table, and a figure for each; resumes", **common)
    every.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for figures, reports and models.md")
    return p


def option(name: str) -> str:
    """The command-line spelling of a parameter."""
    return "--" + name.replace("_", "-")


def owned(name: str) -> set[str]:
    """The parameters that a model has."""
    cls = model_class(name)
    return {f.name for f in fields(cls)} - (set() if cls.solvers else {"optimizer"})


def build_model(name: str, given: Mapping[str, Any]) -> "Model":
    """The model with the given parameters. Raises ValueError for one that it does not have, with the reason."""
    cls = model_class(name)
    foreign = sorted(given.keys() - owned(name))
    if foreign:
        having = [other for other in MODEL_NAMES if foreign[0] in owned(other)]
        raise ValueError(f"{name} has no {option(foreign[0])}: {cls.facts.needs}; models with it: {', '.join(having)}")
    return cls(**given)


def description(name: str) -> JsonObject:
    """What `list` says of a model."""
    cls = model_class(name)
    facts = {part: getattr(cls.facts, part) for part in ("paper", "loss", "constraint", "domain")}
    options = [option(field) for field in OPTIONS if field in owned(name)]
    return {"name": name, **facts, "options": options, "solvers": list(cls.solvers)}


def as_block(entry: JsonObject) -> str:
    """The same as text."""
    solvers = f"\n  solvers: {', '.join(entry['solvers'])}" if entry["solvers"] else ""
    words = f"  {entry['paper']}\n  {entry['loss']}; {entry['constraint']}\n  domain: {entry['domain']}"
    return f"{entry['name']}\n{words}\n  options: {' '.join(entry['options'])}{solvers}"


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that torch's and numpy's generators do not both take, restarts added."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"--seed {seed}: must be between 0 and {LARGEST_SEED}")


def run_one(args: argparse.Namespace) -> None:
    """`run`: solve, print, and write where asked."""
    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    model = build_model(args.name, given)
    model.check_domain()
    check_seed(args.seed)
    device = device_of(args.device)
    from sims.gallery.gallery import as_json, as_text, check_folder, save_report
    from ufm.models.base import simulate

    try:
        model.predicted()  # a theory may refuse parameters of its domain: before a folder is made
    except ArithmeticError as error:
        raise ValueError(f"the prediction of {args.name} leaves the range of float64 at these parameters ({error})") from error
    if args.out is not None:
        check_folder(args.out)
    report = simulate(model, args.seed, device)
    if args.out is not None:
        save_report(report, args.out)
    if args.json or not args.quiet:
        print_json(as_json(report)) if args.json else show(as_text(report))


def run_all(args: argparse.Namespace) -> None:
    """`all`: the gallery."""
    check_seed(args.seed)
    device = device_of(args.device)
    from sims.gallery.gallery import check_folder, make_gallery, markdown_table

    check_folder(args.out)
    reports = make_gallery(args.out, args.seed, device, partial(say, quiet=args.quiet))
    if args.json:
        for report in reports:
            print_json(report)
    elif not args.quiet:
        show(markdown_table(reports).removesuffix("\n"))


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`, 1 where a solve failed."""

    def work(args: argparse.Namespace) -> None:
        try:
            match args.command:
                case "list":
                    for entry in map(description, MODEL_NAMES):
                        print_json(entry) if args.json else show(as_block(entry))
                case "cite":
                    show(bibtex(args.name))
                case "run":
                    run_one(args)
                case "all":
                    run_all(args)
        except RuntimeError as error:
            raise Failure(" ".join(str(error).split())) from error

    return run_command(parser(), work, argv, "what was finished is kept in --out", only_with_out=True)


if __name__ == "__main__":
    sys.exit(main())

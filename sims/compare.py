"""`python -m sims.compare RUN [RUN ...] --out DIR`: which models do measured features follow from where they are?"""

import argparse
import sys
from pathlib import Path

from sims.command import Parser, print_json, run_command
from sims.comparison.analysis import Choice, Group, analyse, as_options
from sims.comparison.runs import Observed, load_observed
from sims.comparison.wording import choices_reminder, epochs_compared, label, off_the_central_path, overall
from sims.page import check_jinja2
from ufm.compare.exponent import EXPONENTS
from ufm.compare.models import MODELS
from ufm.compare.outcome import NOT_COMPARED, Selection, Support
from ufm.compare.verdict import LawRule
from ufm.compare.window import FRACTION
from ufm.files.store import check_folder_writable
from ufm.output import printable, show


def parser() -> Parser:
    """The command line."""
    rule = LawRule()
    p = Parser(prog="python -m sims.compare", description=__doc__, shared=("seed", "json", "quiet"))
    p.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="folders of sims.train, of ufm.monitor's RunLog or of features-EPOCH.npz, .npz of ufm.flow (controls) or "
        "sims.measure; runs that differ by their seed alone are judged together",
    )
    p.add_argument("--out", required=True, metavar="DIR", help="folder of report.html and report.json")
    p.add_argument(
        "--fraction",
        type=float,
        default=FRACTION,
        help="central path: L_perp is below this fraction of L_LS (default %(default)s)",
    )
    p.add_argument(
        "--from-epoch",
        type=_epoch_or_rule,
        metavar="E",
        help="first epoch compared; zero-error: that of each run (default: the entry to the central path)",
    )
    p.add_argument("--to-epoch", type=float, metavar="E", help="leave later epochs out (default: none)")
    p.add_argument(
        "--group",
        nargs="+",
        action="append",
        metavar=("NAME", "RUN"),
        help="runs to judge together, under a name (default: those whose configurations differ by the seed alone)",
    )
    p.add_argument("--choices", type=int, default=1, help="number of choices of epochs that were tried (default 1)")
    p.add_shared("lambda", "the run's or the files'; a run with a classifier that does not say it needs --from-epoch")
    p.add_argument("--level", type=float, default=rule.level, help="of the bootstrap intervals (default %(default)s)")
    p.add_argument(
        "--tolerance",
        type=float,
        default=rule.tolerance,
        help="of the description by the closed laws: rms relative error of omega that one may leave even with a trend; the "
        "verdict's is fixed (default %(default)s)",
    )
    return p


def summary_lines(groups: list[Group], choice: Choice) -> str:
    """Of every group of runs: verdict, reason, epochs compared, each model; then the exponent, which describes; and the notes."""
    lines: list[str] = []
    for group in groups:
        selection, v = group.selection, group.verdict
        lines.append(f"{group.name}: {label(selection)}")
        if selection.outcome != NOT_COMPARED:  # whose reasons are those of its runs
            lines.append(f"  {selection.reason}")
        for run, comparison in zip(group.runs, group.comparisons, strict=True):
            lines.append(f"  {run.name}: {epochs_compared(comparison.window, choice)}")
        for name, support in selection.support.items():
            lines += [f"  model {name}: {_state(name, support, selection)}", f"    {MODELS[name].statement}"]
        if v.exponent is not None:
            left = ", ".join(f"{name} {law.fit.rms:.2%}" for name, law in v.evidence.items())
            interval = f"{v.exponent.value:.2f} ({v.exponent.low:.2f} to {v.exponent.high:.2f})"
            lines.append(f"  description: exponent p = {interval}; laws: {_laws()}; no verdict rests on it")
            lines.append(f"  description: left unexplained of omega: {left}")
        lines += [f"  {note}" for note in group.entry_notes]
        for run, comparison in zip(group.runs, group.comparisons, strict=True):
            warning = "" if run.kind == "simulated" else off_the_central_path(comparison.window, choice.fraction)
            notes = (*run.notes, *comparison.window.notes, *((f"warning: {warning}",) if warning else ()))
            lines += [f"  {run.name}: {note}" for note in notes]
    return "\n".join(map(printable, lines))


def _state(name: str, support: Support, selection: Selection) -> str:
    if support.missing:
        return support.missing
    p_values = f"p-values {support.p_rival:.2g} against rivals, {support.p_free:.2g} against free paths"
    state = f"{'refuted' if support.refuted else 'compatible'} ({p_values}; refuted at {selection.threshold:.2g})"
    if support.negligible:
        state += f", not refuted: the rms left of log omega, {support.rms:.2g}, is at most {selection.tolerance:g}"
    model = MODELS[name]
    if support.parameter is not None:
        bound = ", at the bound of the range" if model.at_bound(support.parameter) else ""
        state += f", {model.parameter} = {support.parameter:.3g}{bound}"
    return state


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 whatever the verdict; exit codes as in `sims.command`."""
    return run_command(parser(), compare_runs, argv, "files of the report already written stay")


def _loaded(path: Path, args: argparse.Namespace) -> Observed:
    try:
        return load_observed(path, args.lam, args.from_epoch is None)
    except ValueError as error:
        raise ValueError(as_options(str(error))) from error


def compare_runs(args: argparse.Namespace) -> None:
    """Check the options, judge the runs, write the report and print the verdict."""
    out = Path(args.out)
    if args.lam is not None and not 0 <= args.lam < float("inf"):
        raise ValueError(f"--lambda {args.lam}: it must be finite and not negative")
    _check_ranges(args)
    named = {name: members for name, *members in args.group or ()}
    names = [*args.runs, *(run for members in named.values() for run in members)]
    if not names:
        raise ValueError("no run is given: name a RUN, or a --group NAME RUN ...")
    if len({Path(name).resolve() for name in names}) < len(names):
        raise ValueError("a run is named twice: it would count as two seeds and narrow the interval")
    rule = LawRule(level=args.level, tolerance=args.tolerance, seed=args.seed)
    choice = Choice(args.fraction, args.from_epoch, args.to_epoch)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; a folder is needed")
    check_folder_writable(out)
    check_jinja2()
    paths = {name: [str(Path(run)) for run in members] for name, members in named.items()}
    runs = [_loaded(Path(name), args) for name in names]
    groups = analyse(runs, choice, rule, paths, args.choices)
    from sims.comparison.report import write_report

    report = write_report(groups, choice, rule, out, args.choices)
    if args.json:
        print_json(report)
        return
    name, outcome, reason = overall(groups)
    reminder = choices_reminder(choice, args.choices)
    if not args.quiet:
        show(summary_lines(groups, choice))
    if reminder:
        show(f"note: {reminder} (--choices)")
    said = not args.quiet and outcome == NOT_COMPARED and len(groups) == 1
    why = "" if said else f" ({reason})"
    show(f"verdict: {name or outcome}{why}; see {printable(str(out / 'report.html'))}")


def _check_ranges(args: argparse.Namespace) -> None:
    """Raise ValueError for numbers out of range."""
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: it cannot be negative")
    if args.choices < 1:
        raise ValueError(f"--choices {args.choices}: at least 1 way to choose the epochs was taken")
    for option, value in (("from", args.from_epoch), ("to", args.to_epoch)):
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise ValueError(f"--{option}-epoch {value}: it must be finite")


def _epoch_or_rule(text: str) -> float | str:
    try:
        return text if text == "zero-error" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor zero-error") from error


def _laws() -> str:
    return ", ".join(f"{law.name} {p:g}" for law, p in EXPONENTS.items())


if __name__ == "__main__":
    sys.exit(main())

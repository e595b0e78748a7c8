"""`python -m sims.study --out DIR`: train several networks with several seeds and ask which model each kind follows.

Every run is a folder of `sims.train` under DIR/runs, resumed if it was interrupted and skipped if it is finished; the
comparisons follow, one report for each choice of epochs, with a table for docs.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from sims.command import Parser, parse_share, print_json, run_command
from sims.comparison.analysis import Choice, Group, analyse
from sims.comparison.wording import label
from sims.page import check_jinja2
from sims.training.protocol import LOSS_FUNCTIONS, TrainConfig, protocol
from ufm.compare.outcome import NOT_COMPARED
from ufm.compare.verdict import LawRule
from ufm.files.json_objects import JsonObject
from ufm.laws.singular_value_dynamics import LAWS
from ufm.output import say, show

CHOICES = {
    "on the central path": Choice(),
    "from zero training error on": Choice(from_epoch="zero-error"),
    "from the first epoch on": Choice(from_epoch=1.0),
}
PICTURED = "from zero training error on"
FASHION = "fashionmnist-mlp"


def configurations(loss: str, seed: int, data_dir: str | None) -> Iterator[tuple[str, TrainConfig]]:
    """The kinds of runs by name: the shipped MLPs, a narrow one with and without weight decay, and a small ResNet18."""
    digits = replace(protocol("digits", "mlp", loss), robustness=0, seed=seed)
    yield "digits-mlp", digits
    yield "digits-mlp-narrow", replace(digits, width=0.25)
    yield "digits-mlp-no-decay", replace(digits, width=0.25, weight_decay=0.0)
    yield "digits-resnet18", replace(digits, net="resnet18", width=0.125).scaled(120)
    if data_dir is not None:
        fashion = protocol("fashionmnist", "mlp", "mse")
        yield FASHION, replace(fashion, loss=loss, robustness=0, data_dir=data_dir, seed=seed)


def train_all(out: Path, seeds: range, data_dir: str | None, share: tuple[int, int], quiet: bool = False) -> list[Path]:
    """Train what is missing of this share (k, of n) of the runs, and return the folders of all of them that are finished."""
    if data_dir is not None:  # wrong files are told before hours of training, not after
        from sims.training.data import load

        load(dict(configurations(LOSS_FUNCTIONS[0], seeds[0], data_dir))[FASHION].data)
    wanted = [
        (out / "runs" / f"{name}-{loss}-seed{seed}", config)
        for seed in seeds
        for loss in LOSS_FUNCTIONS
        for name, config in configurations(loss, seed, data_dir)
    ]
    for position, (path, config) in enumerate(wanted):
        if position % share[1] == share[0] and not finished(path, config):
            from sims.train import train

            began = time.monotonic()
            train(config, path, cpu=True)
            if not quiet:
                say(f"{path.name}, {position + 1} of {len(wanted)}: {time.monotonic() - began:.0f} s")
    return [path for path, config in wanted if finished(path, config)]


def finished(path: Path, config: TrainConfig) -> bool:
    """Whether a folder holds this run, to its last epoch; where the data were does not matter."""
    from sims.training.folder import load_run

    if not (path / "trajectory.npz").exists():
        return False
    stored, record = load_run(path)
    same = asdict(replace(stored, data_dir=None)) == asdict(replace(config, data_dir=None))
    return same and int(record.epochs[-1]) == config.epochs


def exponent_table(columns: dict[str, list[Group]]) -> str:
    """Two tables in Markdown, a row a kind of run: its exponent for every choice of epochs, and what the laws leave for one."""
    names = list(dict.fromkeys(group.name for groups in columns.values() for group in groups))
    lines = ["| exponent, verdict | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = [_exponent(next(group for group in groups if group.name == name)) for groups in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"| left unexplained of omega, {PICTURED} | " + " | ".join(LAWS) + " | rotated at the end |"]
    lines.append("|---" * (len(LAWS) + 2) + "|")
    for group in columns[PICTURED]:
        evidence = group.verdict.evidence
        left = [f"{evidence[law].fit.rms:.1%}" if law in evidence else "-" for law in LAWS]
        ends = [member.frozen.rotated[-1] for member in group.comparisons if member.frozen and member.frozen.rotated is not None]
        rotated = f"{min(ends):.0%} to {max(ends):.0%}" if ends else "-"
        lines.append(f"| {group.name} | " + " | ".join([*left, rotated]) + " |")
    return "\n".join(lines) + "\n"


def _exponent(group: Group) -> str:
    compared = sum(member.window.compared is not None for member in group.comparisons)
    if group.selection.outcome == NOT_COMPARED:
        return f"{NOT_COMPARED}: {compared} of {len(group.runs)} runs get there"
    p = group.verdict.exponent
    return label(group.selection) if p is None else f"{p.value:.2f} ({p.low:.2f} to {p.high:.2f}), {label(group.selection)}"


def report(paths: list[Path], out: Path) -> dict[str, list[Group]]:
    """One report a choice of epochs, the figures, and the table; returns the groups of runs by choice of epochs."""
    from sims.comparison.report import write_report
    from sims.comparison.runs import load_observed
    from ufm.files.store import write_text

    runs = [load_observed(path) for path in paths]
    columns = {}
    for title, choice in CHOICES.items():
        columns[title] = analyse(runs, choice, LawRule())
        write_report(columns[title], choice, LawRule(), out / title.replace(" ", "-"))
    draw_exponents(columns, out)
    write_text(out / "study.md", exponent_table(columns))
    return columns


def verdict_row(group: Group) -> JsonObject:
    """The models that survive on a group, and its exponent with the interval, null where there is none, as a description."""
    p = group.verdict.exponent
    exponent = None if p is None else {"value": p.value, "low": p.low, "high": p.high}
    selection = group.selection
    verdict = {"verdict": selection.name or None, "outcome": selection.outcome, "compatible": list(selection.compatible)}
    return {**verdict, "exponent": exponent}


def draw_exponents(columns: dict[str, list[Group]], out: Path) -> None:
    """The exponents of all runs, and the first run from its zero training error on, as PNG for a page."""
    from sims.comparison import figures as drawing
    from ufm.files.plot import save_figure

    figures = {"exponents": drawing.exponent_figure(columns)}
    group = columns[PICTURED][0]
    if group.comparisons[0].window.compared is not None:
        figures |= {
            "drift": drawing.drift_figure(group.comparisons[0]),
            "clock": drawing.clock_figure(group),
            "vectors": drawing.vectors_figure(group),
            "spectra": drawing.spectra_figure(group),
        }
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, out / f"{name}.png")


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.study", description=__doc__, shared=("seed", "json", "quiet"))
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the runs and the reports; resumes an interrupted study")
    p.add_shared("data-dir", "none: digits alone, without Fashion-MNIST")
    p.add_argument("--seeds", type=int, default=5, help="runs of every kind, from --seed and the seeds that follow it")
    p.add_argument("--share", default="1/1", metavar="K/N", help="train the K-th of N shares, to run N commands side by side")
    p.add_shared("threads", default=1)
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), study, argv, "repeat the command to go on")


def study(args: argparse.Namespace) -> None:
    """Train what is missing, and report: the table, or with `--json` one line a kind of run."""
    out, share = Path(args.out), parse_share(args.share)
    if args.seeds < 1 or args.threads < 1:
        raise ValueError(f"--seeds {args.seeds} --threads {args.threads}: at least 1 of each is needed")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: it cannot be negative")
    check_jinja2()
    import torch

    torch.set_num_threads(args.threads)
    paths = train_all(out, range(args.seed, args.seed + args.seeds), args.data_dir, share, args.quiet)
    if share[1] > 1:
        return
    columns = report(paths, out)
    if args.json:
        for title, groups in columns.items():
            for group in groups:
                print_json({"epochs": title, "runs": group.name, **verdict_row(group)})
    elif not args.quiet:
        show(exponent_table(columns))


if __name__ == "__main__":
    sys.exit(main())

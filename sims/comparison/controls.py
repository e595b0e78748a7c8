"""`python -m sims.comparison.controls --out FILE.jsonl`: how often the comparison names, leaves open and refutes what is known.

Runs of every model are made from known starts, clocks and noise and judged. Cases are drawn from a grid by a stated seed; a file
of one line a case is gone on with where it was left. Beside each stands an oracle: whether a likelihood ratio that knows the
noise exceeds 100 against every rival.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from manifolds.linalg import root_of_spectrum
from sims.command import Parser, parse_share, print_json, run_command
from sims.comparison.control_features import TrueRun, exponential, features_seen, symmetric_noise
from sims.comparison.control_starts import start_of_case, with_means
from ufm.compare.coordinates import Entry, frame_of, log_gram
from ufm.compare.likelihood import Path as Predicted
from ufm.compare.likelihood import most_likely_clock, predicted_from
from ufm.compare.models import MODELS, available, motions
from ufm.compare.motions import trace
from ufm.compare.noise import RHOS, Noise
from ufm.compare.outcome import Measured, Rule
from ufm.compare.predicted import PredictedRun, predict
from ufm.compare.selection import judge_predicted
from ufm.files.json_objects import JsonObject, read_limited_text
from ufm.files.store import check_writable, write_text
from ufm.output import show

Drawn = TypeVar("Drawn")
ORACLE = float(np.log(100))
TRUE = ("renormalized", "embedded", "unnormalized", "kernel")
TRUE_IF_STORED = (*TRUE, "joint", "layer")
FEATURES = 1  # of a case's draw, that of the errors of its later features: runs, clocks and noise are drawn without them
TRUE_PARAMETERS = {"kernel": 4.0, "joint": 1.0}


@dataclass(frozen=True)
class Case:
    """A true model and how it is seen: C classes, P features, T epochs, growth of the geometric mean of omega, relative noise and
    its correlation rho, spread of the standard deviations within classes (anisotropy), sizes of the classes, number of runs.
    """

    model: str
    C: int = 10
    T: int = 20
    growth: float = 3.0
    noise: float = 0.01
    rho: float = 0.0
    anisotropy: float = 0.0
    unequal: bool = False
    runs: int = 1
    u: float = 1.0
    stored: bool = False  # W, b and the layer below, so that `joint` and `layer` are predicted too

    @property
    def P(self) -> int:
        """Features: twice the classes, 120 for 100."""
        return min(2 * self.C, self.C + 20)


def make(case: Case, seed: int) -> list[Measured]:
    """The runs of a case: errors of `noise` on every log omega, and as much rotation of every vector, the start included."""
    return [run for run, _ in _made(case, seed)]


def _made(case: Case, seed: int) -> list[tuple[Measured, TrueRun]]:
    rng = np.random.default_rng(_seed_words(case, seed))
    return [_run_case(case, rng) for _ in range(case.runs)]


def _seed_words(case: Case, seed: int) -> list[int]:
    return [seed, case.C, case.T, TRUE_IF_STORED.index(case.model)]


def _run_case(case: Case, rng: np.random.Generator) -> tuple[Measured, TrueRun]:
    entry = start_of_case(case, rng)
    gram = entry.gram()
    frame = frame_of(gram)
    value = TRUE_PARAMETERS.get(case.model)
    ((_, motion),) = motions(case.model, gram, entry.counts, entry, None if value is None else (value,))
    first = log_gram(gram, frame)
    end = float(np.diagonal(first).mean() + np.log(case.growth))
    Y, times = trace(motion, frame, np.inf, end + 0.1, 0.01)
    level = np.diagonal(Y, axis1=1, axis2=2).mean(1)
    wanted = level[0] + np.log(case.growth) * np.linspace(0, 1, case.T) ** np.exp(rng.uniform(-0.7, 0.7))
    place = np.interp(wanted, level, np.arange(len(level)))
    low = np.minimum(place.astype(int), len(level) - 2)
    share = (place - low)[:, None, None]
    noisy = _with_noise((1 - share) * Y[low] + share * Y[low + 1], case, rng)
    return _seen(noisy, frame, entry), TrueRun(entry, value, np.interp(place, np.arange(len(level)), times), noisy, frame)


def _with_noise(Y: np.ndarray, case: Case, rng: np.random.Generator) -> np.ndarray:
    """exp(Y) N exp(Y), N = exp(2 noise E) with E of `symmetric_noise`. log of it halved."""
    E = symmetric_noise(len(Y), Y.shape[1], case.rho, rng)
    half, middle = exponential(Y), exponential(2 * case.noise * E)
    return log_gram(half @ middle @ half, np.eye(Y.shape[1]))


def _seen(Y: np.ndarray, frame: np.ndarray, entry: Entry) -> Measured:
    """omega, V and the entry's statistics of Y: class means that have the SNR seen in the Sigma_W there is."""
    q = np.sqrt(entry.priors)
    scaled = frame @ exponential(Y)  # (T, C, K): a square root of G
    _, omega, Vt = np.linalg.svd(scaled.swapaxes(-1, -2) / q, full_matrices=False)
    values, E = np.linalg.eigh(entry.sigma_w)
    white = root_of_spectrum(values, E) @ (entry.M * q) @ frame  # (P, K): its polar factor carries the start
    U, _, Wt = np.linalg.svd(white, full_matrices=False)
    M = (E * np.sqrt(values)) @ E.T @ (U @ Wt) @ scaled[0].T / q
    return Measured(np.arange(1.0, len(Y) + 1), omega, Vt.swapaxes(-1, -2), entry.counts, with_means(entry, M))


def oracle(case: Case, states: Sequence[PredictedRun]) -> bool:
    """Whether the true model is 100 times as likely as every rival that does not contain it, the noise being known."""
    total = dict.fromkeys(states[0].paths, 0.0)
    for name in total:
        values = range(len(states[0].paths[name]))
        total[name] = max(sum(_likelihood(state, state.paths[name][k], case) for state in states) for k in values)
    rivals = [total[name] for name in total if name != case.model and case.model not in MODELS[name].contains]
    return total[case.model] - max(rivals) > ORACLE


def _likelihood(state: PredictedRun, path: Predicted, case: Case) -> float:
    sigma = case.noise * np.where(state.kinds == 0, 1.0, np.sqrt(1 / int((state.kinds == 0).sum())))
    y, start = state.given
    fitted = most_likely_clock(predicted_from(path, start), y, 1 / sigma[None] ** 2)
    return _known_log_likelihood(fitted.r[0], Noise(path, fitted, state.kinds, state.tolerance), case.rho)


def _known_log_likelihood(r: np.ndarray, noise: Noise, rho: float) -> float:
    """Log likelihood of residuals (T, m) at the sizes of noise that `noise` was built with."""
    which = int(abs(RHOS - rho).argmin())
    squares = noise._whitened(r[None])[1][which, 0] / noise.sigma**2
    return float(-0.5 * squares.sum() - noise.log_det[which])


def drawn_case(seed: int, number: int, stored: bool = False) -> Case:
    """Case `number` that a seed draws of the grid; every second one has a growth of at least 3, 12 epochs or more and 1 %.

    With a stored classifier and layer below, C is 3 or 10 and runs are one or two.
    """
    rng = np.random.default_rng([seed, number])
    clear = number % 2 == 0

    def one(values: Sequence[Drawn], shares: Sequence[float] | None = None) -> Drawn:
        return values[int(rng.choice(len(values), p=shares))]

    return Case(
        model=one(TRUE_IF_STORED if stored else TRUE),
        C=one((3, 10, 100), (0.5, 0.5, 0.0) if stored else (0.46, 0.5, 0.04)),
        T=one((12, 20, 60) if clear else (4, 6, 12, 60)),
        growth=one((3.0, 10.0, 30.0) if clear else (1.2, 1.5, 3.0, 30.0)),
        noise=0.01 if clear else one((0.01, 0.02, 0.03)),
        rho=one((0.0, 0.7, 0.95)),
        anisotropy=one((0.0, 0.7)),
        unequal=one((False, True)),
        runs=one((1, 2, 5), (0.8, 0.2, 0.0) if stored else (0.7, 0.2, 0.1)),
        stored=stored,
    )


def judged(case: Case, seed: int) -> JsonObject:
    """One case, judged: outcome, name, whether the true model was refuted, and whether the oracle could tell."""
    made, rule = _made(case, seed), Rule(seed=seed)
    runs = [run for run, _ in made]
    rng = np.random.default_rng([*_seed_words(case, seed), FEATURES])
    seen = [features_seen(case, true, rng) for _, true in made]
    names = [name for name, missing in available(runs[0].entry).items() if not missing]
    states = predict(runs, names, rule.tolerance)
    selection = judge_predicted(states, dict.fromkeys(names, ""), rule, seen)
    return {
        **asdict(case),
        "case_seed": seed,
        "outcome": selection.outcome,
        "name": selection.name,
        "compatible": list(selection.compatible),
        "true_refuted": selection.support[case.model].refuted,
        "oracle": oracle(case, states),
    }


def parser() -> Parser:
    """The command line."""
    p = Parser("python -m sims.comparison.controls", ("seed", "json", "quiet"), description=__doc__)
    p.add_argument("--out", required=True, metavar="FILE.jsonl", help="one line per case; an existing file is continued")
    p.add_argument("--cases", type=int, default=400, help="drawn from the grid")
    p.add_argument("--stored", action="store_true", help="with W, b and the layer below: `joint` and `layer` are candidates, too")
    p.add_argument(
        "--share",
        default="1/1",
        metavar="K/N",
        help="judge the K-th of N shares, to run N commands side by side, each with a file of its own; all lines in one file are "
        "what one command makes",
    )
    p.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time and print the rates so far")
    p.add_argument("--write", metavar="PAGE.md", help="put the rates between the marks of this page (default: print them)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), judge_cases, argv, "repeat the command to go on")


def judge_cases(args: argparse.Namespace) -> None:
    """Judge the cases that are missing, then print the rates or write them into a page."""
    from sims.comparison.control_rates import rates, rates_table, written
    from sims.comparison.lines import append_line, read_lines, stopwatch

    out, elapsed, (which, of) = Path(args.out), stopwatch(), parse_share(args.share)
    if args.write:
        check_writable(Path(args.write), out)
        written(read_limited_text(Path(args.write)), "", args.stored)  # the marks are there, before anything is judged
    lines = read_lines(out)
    if any(line["draw"][0] != args.seed or line.get("stored", False) != args.stored for line in lines):
        raise ValueError(f"{out} holds cases of another seed than {args.seed} or another --stored: choose another file, or those")
    done = {line["draw"][1] for line in lines}
    for number in range(args.cases):
        if elapsed() > args.seconds:
            break
        if number not in done and number // 2 % of == which:  # a clear case and one that is not cost each share as much
            lines.append({"draw": [args.seed, number], **judged(drawn_case(args.seed, number, args.stored), number)})
            append_line(out, lines[-1])
    table = rates_table(lines) if lines else "no case was judged\n"
    if args.write:
        page = Path(args.write)
        write_text(page, written(read_limited_text(page), table, args.stored))
    if args.json:
        print_json({"file": str(out), "rates": rates(lines)})
    elif not (args.quiet or args.write):
        show(table.removesuffix("\n"))


if __name__ == "__main__":
    sys.exit(main())

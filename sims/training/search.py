"""The learning rate as Papyan, Han & Donoho (2020) chose theirs: of 25, the one with the best test error at the last epoch."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sims.sweeps import sweep
from sims.training.folder import CONFIG, SEARCH
from sims.training.protocol import GRID, TrainConfig
from sims.training.session import Run, train_run
from ufm.distributed import world_size
from ufm.files.store import write_text
from ufm.files.write_lock import write_lock

RUNS_OF_SEARCH = "search"  # folder of the runs of a search
DIVERGED = "training diverged"  # how the message of a run begins that went to infinity
CHECKPOINTS = 10  # of a run of the search, evenly over its epochs


@dataclass(frozen=True)
class Tried:
    """One rate: the errors of the last epoch, or why there are none."""

    lr: float
    test_error: float | None
    train_error: float | None
    error: str | None = None


def search(
    config: TrainConfig, out: Path, cpu: bool, threads: int, engine: str, jobs: int, progress: Callable[[str], None]
) -> TrainConfig:
    """The configuration with the best rate of its grid, every rate trained in a folder of `out`/search, which resumes.

    The best has the smallest test error at the last epoch, of several the smallest rate; a run that diverges has none. The table
    is `out`/search.json. Raises ValueError for a given rate, for several processes, for a folder with a run of its own, where
    runs failed otherwise, or all diverged, and where another command has the folder.
    """
    if world_size() > 1:
        raise ValueError("a search trains many runs at the same time: start it in one process, and give the number of runs there")
    if (out / CONFIG).exists() and not (out / RUNS_OF_SEARCH).exists():
        raise ValueError(f"{out} has a run that no search was made for: search in another folder")
    runs = {f"lr-{lr:g}": _run_at_rate(config, lr, out, cpu, threads) for lr in config.lr_grid or GRID}
    out.mkdir(parents=True, exist_ok=True)
    with write_lock(out):  # each of two searches would meet runs that the other one trains, and fail
        outcomes = sweep(train_run, runs, engine, jobs, progress)
    tried = []
    for name, outcome in outcomes.items():
        rate, record = runs[name].config.rate, outcome.value
        if record is not None:
            tried.append(Tried(rate, float(record.arrays["test_error"][-1]), float(record.arrays["train_error"][-1])))
        else:
            tried.append(Tried(rate, None, None, outcome.error))
    failed = [row for row in tried if row.error is not None and not row.error.startswith(DIVERGED)]
    if failed:
        reason = f"{failed[0].lr:g}: {failed[0].error}"
        raise ValueError(f"{len(failed)} of {len(tried)} runs of the search failed ({reason}); repeat it to go on with them")
    chosen = best(tried)
    rule = "smallest test error at the last epoch, of several the smallest rate (Papyan, Han & Donoho 2020)"
    table = {"rule": rule, "epochs": config.epochs, "chosen": chosen, "tried": [asdict(row) for row in tried]}
    write_text(out / SEARCH, json.dumps(table, indent=1) + "\n")
    progress(f"learning rate {chosen:g} of {len(tried)}: {rule}; table in {out / SEARCH}")
    return replace(config, lr=chosen)


def best(tried: list[Tried]) -> float:
    """The rate with the smallest test error, of several the smallest. Raises ValueError where all diverged."""
    ends = [(row.test_error, row.lr) for row in tried if row.test_error is not None]
    if not ends:
        raise ValueError(f"training diverged at all {len(tried)} rates: give a smaller lr_grid")
    return min(ends)[1]


def _run_at_rate(config: TrainConfig, lr: float, out: Path, cpu: bool, threads: int) -> Run:
    """The run of a rate: it is measured where it is stored, ten times, without attacks and without features."""
    measured = sorted({-(-k * config.epochs // CHECKPOINTS) for k in range(1, CHECKPOINTS + 1)})
    alone = replace(config, lr=lr, lr_grid=(), measured=tuple(measured), save_features=(), robustness=0)
    return Run(alone, out / RUNS_OF_SEARCH / f"lr-{lr:g}", cpu, threads)

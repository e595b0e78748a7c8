"""The numbers that a tracker of experiments has stored are those that were logged: read back from the tracker's own files.

TensorBoard is in the tests of every day. Weights & Biases (0.31.0, 60 MB) and trackio (0.43.0, which needs pillow < 13) are not
installed with them: `pip install wandb trackio` elsewhere, then -m slow. Their place is taken by lists in test_logs.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from ufm.monitor.logs import StepLog, TensorBoardLog

EPOCHS: list[tuple[int, dict[str, float]]] = [(1, {"nc1": 0.5, "nc3": math.nan}), (4, {"nc1": 0.25, "nc3": 1.5})]


def test_tensorboard_has_the_numbers_at_their_epochs(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tensorboard deprecates of its own is not ours
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log = TensorBoardLog(writer)
        for epoch, values in EPOCHS:
            log(epoch, values)
    stored: Any = EventAccumulator(str(tmp_path))
    stored.Reload()
    assert sorted(stored.Tags()["scalars"]) == ["collapse/nc1", "collapse/nc3"]
    assert [(event.step, event.value) for event in stored.Scalars("collapse/nc1")] == [(1, 0.5), (4, 0.25)]
    assert [(event.step, event.value) for event in stored.Scalars("collapse/nc3")] == [(4, 1.5)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_offline_has_the_numbers_beside_those_of_the_training(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    run = wandb.init(mode="offline", project="collapse", dir=str(tmp_path), settings=wandb.Settings(console="off"))
    log = StepLog(run.log)
    for epoch, values in EPOCHS:
        run.log({"loss": 1.0 / epoch})  # a step of the training's own: the epoch must not be taken for the step
        log(epoch, values)
    stored = dict(run.summary)
    run.finish()
    assert {name: stored[name] for name in ("epoch", "collapse/nc1", "collapse/nc3", "loss")} == {
        "epoch": 4,
        "collapse/nc1": 0.25,
        "collapse/nc3": 1.5,
        "loss": 0.25,
    }
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trackio_has_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed")
    trackio.init(project="collapse", name="run")
    log = StepLog(trackio.log)
    for epoch, values in EPOCHS:
        log(epoch, values)
    trackio.finish()
    from trackio.sqlite_storage import SQLiteStorage  # type: ignore[missing-import]

    rows = [{k: v for k, v in row.items() if k not in ("timestamp", "step")} for row in SQLiteStorage.get_logs("collapse", "run")]
    assert rows == [{"epoch": 1, "collapse/nc1": 0.5}, {"epoch": 4, "collapse/nc1": 0.25, "collapse/nc3": 1.5}]

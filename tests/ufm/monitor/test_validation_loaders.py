"""Measured on the way through validation: the first loader counts, and no validation at all is said."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from tests.ufm.monitor.test_callbacks import Module, examples
from ufm.monitor.logs import CsvLog
from ufm.monitor.tables import read_csv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what this library deprecates of its own is not ours
    import pytorch_lightning as pl

    from ufm.monitor.lightning_callback import NeuralCollapseCallback


class OneOrMore(Module):
    def validation_step(self, *args: Any, **kwargs: Any) -> None:
        super().validation_step(*args)


def fit(tmp_path: Path, callback: NeuralCollapseCallback, loaders: list[DataLoader] | None) -> None:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(OneOrMore(), DataLoader(examples(), 20), loaders)


@pytest.mark.filterwarnings("ignore")
def test_batches_of_further_validation_loaders_are_neither_counted_nor_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = NeuralCollapseCallback(layer="net.4", on="validation", logs=[CsvLog(tmp_path / "log.csv")])
    caught: list[int] = []
    end = NeuralCollapseCallback.on_validation_batch_end

    def watched_end(self: NeuralCollapseCallback, *args: object, **kwargs: object) -> None:
        end(self, *args, **kwargs)  # type: ignore[arg-type]
        assert self.watched is not None
        caught.append(sum(len(batches) for batches in self.watched._caught.values()))

    monkeypatch.setattr(NeuralCollapseCallback, "on_validation_batch_end", watched_end)
    fit(tmp_path, callback, [DataLoader(examples(), 16), DataLoader(examples(), 16)])
    assert read_csv(tmp_path / "log.csv")["examples"].tolist() == [60.0]
    assert max(caught[-8:]) == 0  # the sanity check before catches nothing


def test_a_training_without_validation_says_that_nothing_was_measured(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(tmp_path, NeuralCollapseCallback(layer="net.4", on="validation"), None)
    assert any("no validation pass was measured: give the trainer validation data" in str(one.message) for one in said)

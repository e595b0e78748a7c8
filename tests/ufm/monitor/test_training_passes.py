"""The callbacks measure the examples and the inputs of the training, at its epochs, and never end it."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tests.ufm.monitor.test_callbacks import ForClassification, Module, Rows, examples, fit, network
from ufm.monitor import watch
from ufm.monitor.logs import CsvLog, RunLog
from ufm.monitor.schedule import Schedule, in_order
from ufm.monitor.tables import read_csv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what these libraries deprecate of their own is not ours
    import pytorch_lightning as pl
    from transformers import Trainer, TrainingArguments

    from ufm.monitor.lightning_callback import NeuralCollapseCallback as ForLightning
    from ufm.monitor.transformers_callback import NeuralCollapseCallback as ForTransformers

pytestmark = pytest.mark.filterwarnings("ignore")
NUMBERS = TensorDataset(torch.arange(20.0)[:, None], torch.arange(20) % 2)


def seen(loader: Any) -> list[int]:
    return [int(k) for x, _ in in_order(loader) for k in x.flatten()]


class Chosen(Sampler):
    """A sampler of a user's own, as of a fold: some of the examples, shuffled by a state of its own."""

    def __init__(self) -> None:
        self.rng, self.passes = np.random.default_rng(0), 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return iter(self.rng.permutation([2, 3, 5, 7]).tolist())

    def __len__(self) -> int:
        return 4


class Balanced(Sampler):
    """Batches of a user's own."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([0, 1], [6, 7], [1, 6])

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sampler": [0, 2, 4, 6]}, [0, 2, 4, 6]),
        ({"sampler": range(4)}, [0, 1, 2, 3]),
        ({"sampler": RandomSampler(range(5))}, [0, 1, 2, 3, 4]),
        ({"sampler": RandomSampler(range(20), num_samples=3)}, list(range(20))),
        ({"sampler": WeightedRandomSampler([1.0, 0.0, 2.0] + 17 * [0.0], 9)}, [0, 2]),
        ({"sampler": Chosen(), "batch_size": 3, "drop_last": True}, [2, 3, 5, 7]),
        ({"batch_sampler": [[4, 5], [0, 1]]}, [0, 1, 4, 5]),
        ({"batch_sampler": Balanced()}, [0, 1, 6, 7]),
        ({"batch_sampler": BatchSampler(Chosen(), 3, False)}, [2, 3, 5, 7]),
    ],
)
def test_the_examples_are_those_that_the_training_draws(settings: dict[str, Any], expected: list[int]) -> None:
    state, loader = torch.get_rng_state(), DataLoader(NUMBERS, **settings)
    in_order(loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert seen(loader) == expected


def test_a_sampler_of_ones_own_is_not_used_up() -> None:
    own = Chosen()
    first, again = (list(in_order(DataLoader(NUMBERS, sampler=own))) for _ in range(2))
    assert own.passes == 0
    assert own.rng.integers(100) == np.random.default_rng(0).integers(100)
    assert len(first) == len(again) == 4


def test_a_loader_that_makes_its_batches_otherwise_is_passed_over_itself() -> None:
    class Doubled(DataLoader):
        def __iter__(self) -> Any:
            return ((2 * x, y) for x, y in super().__iter__())

    by_lists = DataLoader(NUMBERS, sampler=BatchSampler(range(20), 8, False), batch_size=None)
    assert sorted(seen(Doubled(NUMBERS, 5, shuffle=True))) == list(range(0, 40, 2))
    assert [len(x) for x, _ in in_order(by_lists)] == [8, 8, 4]


class Opened(Dataset):
    """A file that every worker opens for itself, and examples by name."""

    file: Any = None

    def __getitem__(self, index: str) -> tuple[Tensor, int]:
        return self.file[index], 0


def test_data_without_a_length_that_its_workers_open() -> None:
    def opened(number: int) -> None:
        information = torch.utils.data.get_worker_info()
        assert information is not None
        data: Any = information.dataset
        getattr(data, "dataset", data).file = {"b": torch.ones(1), "a": torch.zeros(1)}

    loader = DataLoader(Opened(), sampler=["b", "a"], num_workers=1, worker_init_fn=opened)  # type: ignore[arg-type]
    assert [float(x) for x, _ in loader] == [1, 0]
    assert seen(loader) == [1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 2}, r"epochs = 2: they are a list, as epochs=\[2\]"),
        ({"epochs": [0]}, r"epochs = \(0,\): they are counted from 1"),
        ({"every": 1.5}, "epoch"),
    ],
)
def test_a_schedule_that_is_none_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForLightning("fc", **settings)


def test_a_schedule_keeps_the_epochs_of_an_iterator() -> None:
    schedule = Schedule(epochs=(epoch for epoch in (1, 3, 5)))
    assert [epoch for epoch in range(1, 8) if epoch in schedule and epoch in schedule] == [1, 3, 5]


def lightning(tmp_path: Path, module: Any, callback: Any, train: Any = None, valid: Any = None, **settings: Any) -> Any:
    torch.manual_seed(2)
    given: dict[str, Any] = {"max_epochs": 2, **settings}
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=tmp_path, **given,
    )  # fmt: skip
    trainer.fit(module, DataLoader(examples(), 20, shuffle=True) if train is None else train, valid)
    return trainer


def test_a_validation_after_the_training_is_no_epoch(tmp_path: Path) -> None:
    log, module, valid = CsvLog(tmp_path / "run.csv"), Module(), DataLoader(examples(), 16)
    trainer = lightning(tmp_path, module, ForLightning("net.4", on="validation", logs=[log]), valid=valid)
    trainer.validate(module, DataLoader(examples(), 30), verbose=False)
    assert read_csv(tmp_path / "run.csv")["epoch"].tolist() == [1, 2]
    assert not module.net[4]._forward_hooks


class Normalised(Module):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (batch[0] - 3.0) / 5, batch[1]


def test_the_inputs_are_those_that_the_network_is_trained_on(tmp_path: Path) -> None:
    module = Normalised()
    trainer = lightning(tmp_path, module, ForLightning("net.4"))
    x, y = examples()[:]
    expected = watch(module, "net.4").measure([((x - 3.0) / 5, y)])
    assert float(trainer.logged_metrics["collapse/nc1"]) == pytest.approx(expected["nc1"], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_network_in_another_precision_is_measured_in_it(precision: Any, tmp_path: Path) -> None:
    trainer = lightning(tmp_path, Module(), ForLightning("net.4"), precision=precision)
    assert float(trainer.logged_metrics["collapse/nc1"]) > 0


def test_a_trial_run_writes_no_log_and_reads_its_batches_alone(tmp_path: Path) -> None:
    callback = ForLightning("net.4", logs=[CsvLog(tmp_path / "run.csv"), RunLog(tmp_path / "run")])
    lightning(tmp_path, Module(), callback, fast_dev_run=2)
    assert callback.watched is not None
    assert callback.watched.compute()["examples"] == 40
    assert not (tmp_path / "run.csv").exists()
    assert not (tmp_path / "run" / "trajectory.npz").exists()


class Stream(IterableDataset):
    """Endless, and an error for whoever reads far past the training."""

    def __iter__(self) -> Iterator[Any]:
        x, y = examples()[:]
        for k in range(400):
            yield {"x": x[k % 60], "labels": y[k % 60]}
        raise RuntimeError("read far past the training")


def test_an_endless_stream_is_read_as_far_as_the_training_reads_it(tmp_path: Path) -> None:
    class OfRows(Module):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            return nn.functional.cross_entropy(self(args[0]["x"]), args[0]["labels"])

    callback = ForLightning("net.4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback.settings["select"] = lambda batch: (batch["x"], batch["labels"])
        lightning(tmp_path, OfRows(), callback, DataLoader(Stream(), 20), limit_train_batches=3)
    assert callback.watched is not None
    assert callback.watched.compute()["examples"] == 60
    history, log = transformers(tmp_path, Stream(), max_steps=8)
    assert log["epoch"].tolist() == [1]
    assert history[-1]["collapse/examples"] == 160


def test_several_training_loaders_are_refused_before_the_training(tmp_path: Path) -> None:
    class Two(Module):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().training_step(args[0]["a"])

    loaders = {name: DataLoader(examples(), 20, shuffle=True) for name in "ab"}
    with pytest.raises(ValueError, match="several training loaders: give loader="):
        lightning(tmp_path, Two(), ForLightning("net.4"), loaders)
    trainer = lightning(tmp_path, Two(), ForLightning("net.4", loader=loaders["a"]), loaders)
    assert float(trainer.logged_metrics["collapse/examples"]) == 60


@pytest.mark.parametrize("on", ["train", "validation"])
def test_a_missing_class_ends_no_training(on: Any, tmp_path: Path) -> None:
    x, y = examples()[:]
    without = TensorDataset(x[y != 1], y[y != 1])
    callback = ForLightning("net.4", on=on, logs=[RunLog(tmp_path / "run"), CsvLog(tmp_path / "run.csv")])
    with pytest.warns(UserWarning, match=r"epoch 1 is not in .*run: class 1 has no example.*: classes='seen' measures"):
        lightning(tmp_path, Module(), callback, DataLoader(without, 20), DataLoader(without, 20))
    assert read_csv(tmp_path / "run.csv")["epoch"].tolist() == [1, 2]


def test_no_measured_epoch_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="of 2 epochs none was measured"):
        lightning(tmp_path, Module(), ForLightning("net.4", epochs=[9]))


def transformers(tmp_path: Path, data: Any, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    given: dict[str, Any] = {"num_train_epochs": 3, **settings}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=20, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, seed=3, logging_strategy="no", **given,
    )  # fmt: skip
    log = CsvLog(tmp_path / "t.csv")
    trainer = Trainer(
        model=ForClassification(), args=arguments, train_dataset=data, callbacks=[ForTransformers("net.4", logs=[log])]
    )
    trainer.train()
    table = read_csv(tmp_path / "t.csv") if (tmp_path / "t.csv").exists() else {"epoch": np.zeros(0)}
    return [row for row in trainer.state.log_history if "collapse/nc1" in row], table


def test_an_epoch_that_ends_early_is_not_logged_as_a_whole_one(tmp_path: Path) -> None:
    for settings, whole, early in (
        ({"max_steps": 4}, [1], [1.0, 4 / 3]),
        ({"num_train_epochs": 2.5}, [1, 2], [1.0, 2.0, 7.5 / 3]),
        ({"num_train_epochs": 0.4}, [], [2 / 3]),
    ):
        folder = tmp_path / str(len(early)) / str(whole)
        folder.mkdir(parents=True)
        history, table = transformers(folder, Rows(), **settings)
        assert table["epoch"].tolist() == whole
        np.testing.assert_allclose([row["epoch"] for row in history], early, atol=0.2)
        assert all(math.isfinite(value) for row in history for value in row.values())


def test_passes_over_data_without_a_length_are_counted_from_one(tmp_path: Path) -> None:
    class Finite(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            yield from (Rows()[k] for k in range(60))

    _, table = transformers(tmp_path, Finite(), max_steps=6)
    assert table["epoch"].tolist() == [1, 2]


def test_the_pass_of_a_plain_network_is_as_before(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, ForLightning("net.4"))
    assert isinstance(network(), nn.Sequential)
    assert all(not one._forward_hooks for one in module.modules())


def test_a_resumed_training_goes_on_with_the_count_of_its_passes(tmp_path: Path) -> None:
    for epochs in (2, 3):
        arguments = TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=epochs, per_device_train_batch_size=20, use_cpu=True, report_to=[],
            save_strategy="epoch", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        callback = ForTransformers("net.4", logs=[CsvLog(tmp_path / "t.csv")])
        trainer = Trainer(model=ForClassification(), args=arguments, train_dataset=Rows(), callbacks=[callback])
        trainer.train(resume_from_checkpoint=epochs == 3)
    assert read_csv(tmp_path / "t.csv")["epoch"].tolist() == [1, 2, 3]


def test_every_process_measures_its_share_of_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(3):
        for name, value in (("is_initialized", True), ("get_rank", rank), ("get_world_size", 3)):
            monkeypatch.setattr(f"ufm.monitor.schedule.dist.{name}", lambda value=value: value)
        shares.append(seen(DataLoader(NUMBERS, 4, shuffle=True)))
    assert sorted(k for share in shares for k in share) == list(range(20))
    assert [len(share) for share in shares] == [7, 7, 6]

"""Lightning and transformers: measured on the way, and the trained weights are bit for bit those without the callback."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from ufm.monitor import watch
from ufm.monitor.logs import RunLog
from ufm.monitor.record import Record
from ufm.monitor.schedule import Schedule, in_order

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what these libraries deprecate of their own is not ours
    import pytorch_lightning as pl
    from transformers import Trainer, TrainingArguments

    from ufm.monitor.lightning_callback import NeuralCollapseCallback as ForLightning
    from ufm.monitor.transformers_callback import NeuralCollapseCallback as ForTransformers

pytestmark = pytest.mark.filterwarnings("ignore")


def examples() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    return TensorDataset(torch.randn(3, 5, generator=generator)[y] + 0.4 * torch.randn(60, 5, generator=generator), y)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 3))


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.net[1].eval()

    def forward(self, *args: Tensor, **kwargs: Any) -> Tensor:
        return self.net(*args)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        batch = args[0]
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, *args: Any, **kwargs: Any) -> None:
        self(args[0][0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(tmp_path: Path, *callbacks: Any) -> tuple[Module, dict[str, float]]:
    module = Module()
    torch.manual_seed(2)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(examples(), 20, shuffle=True), DataLoader(examples(), 16))
    return module, {name: float(value) for name, value in trainer.logged_metrics.items()}


@pytest.mark.parametrize("on", ["train", "validation"])
def test_lightning_measures_what_watch_measures_and_trains_the_same_weights(on: Any, tmp_path: Path) -> None:
    plain, _ = fit(tmp_path)
    log = RunLog(tmp_path / "run", lam=0.1)
    watched, logged = fit(tmp_path, ForLightning("net.4", on=on, every=1, logs=[log], lam=0.1))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True))
    expected = watch(watched, "net.4", lam=0.1).measure(DataLoader(examples(), 60))
    for name in ("nc1", "nc3", "nc4", "loss"):
        assert logged[f"collapse/{name}"] == pytest.approx(expected[name], rel=1e-4), name
    record = Record.load(tmp_path / "run" / "trajectory.npz")
    assert record.epochs.tolist() == [1, 2, 3]
    assert record.arrays["nc1"][-1] == pytest.approx(expected["nc1"], rel=1e-4)
    assert not any(module._forward_hooks for module in watched.modules())


def test_lightning_says_at_once_that_a_layer_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no linear layer called 'fc'"):
        fit(tmp_path, ForLightning("fc"))
    with pytest.raises(ValueError, match="on = 'test'"):
        ForLightning("fc", on="test")  # type: ignore[arg-type]


class Rows(Dataset):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = examples()[index]
        return {"x": x, "labels": y}


class ForClassification(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def trained(tmp_path: Path, *callbacks: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    settings = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=20, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, seed=3,
    )  # fmt: skip
    model = ForClassification()
    trainer = Trainer(model=model, args=settings, train_dataset=Rows(), callbacks=list(callbacks))
    trainer.train()
    return model, trainer.state.log_history


def test_transformers_measures_every_epoch_and_trains_the_same_weights(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path)
    watched, history = trained(tmp_path, ForTransformers("net.4", epochs=(1, 3), logs=[RunLog(tmp_path / "run")]))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True))
    rows = [row for row in history if "collapse/nc1" in row]
    assert [round(row["epoch"]) for row in rows] == [1, 3]
    expected = watch(watched, "net.4").measure(DataLoader(examples(), 60))
    assert rows[-1]["collapse/nc1"] == pytest.approx(expected["nc1"], rel=1e-4)
    assert Record.load(tmp_path / "run" / "trajectory.npz").epochs.tolist() == [1, 3]


def test_a_pass_in_order_sees_every_example_once_and_a_subset_alone() -> None:
    data = examples()
    whole = [(x, y) for x, y in zip(*(part.split(20) for part in data[:]), strict=True)]
    for loader in (DataLoader(data, 7, shuffle=True, drop_last=True), DataLoader(whole, batch_size=None)):  # type: ignore[arg-type]
        assert torch.cat([x for x, _ in in_order(loader)]).equal(data[:][0])
    half = in_order(DataLoader(data, 8, sampler=SubsetRandomSampler(range(0, 60, 2))))
    assert torch.cat([x for x, _ in half]).equal(data[:][0][::2])
    batches = [(data[:][0], data[:][1])]
    assert in_order(batches) is batches


def test_a_schedule_is_every_so_many_epochs_or_those_named() -> None:
    assert [epoch for epoch in range(1, 9) if epoch in Schedule(3)] == [3, 6]
    assert [epoch for epoch in range(1, 9) if epoch in Schedule(epochs=(2, 5))] == [2, 5]
    with pytest.raises(ValueError, match="every = 0"):
        Schedule(0)

"""Small runs that several tests of training begin, interrupt and compare."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sims import train as command
from sims.training.protocol import TrainConfig
from ufm.monitor.record import Record

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {"per_class": 30, "test_per_class": 6, "width": 0.05, "batch_size": 50, "robustness": 3, "lr": 0.05}


def tiny(epochs: int = 4, **changes: Any) -> TrainConfig:
    settings = TINY | {"epochs": epochs, "decays": (epochs - 1,), "measured": tuple(range(1, epochs + 1))} | changes
    return TrainConfig(**settings)


def write_mnist(folder: Path, seed: int = 0, per_class: int = 30, side: int = 28) -> None:
    """Files named as MNIST's: a bright square whose place tells the class, and noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for name, count in (("train", per_class), ("t10k", 6)):
        labels = rng.permutation(np.arange(10 * count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (len(labels), side, side), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 6, 4:20] += 150
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


def final_weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "checkpoint.pt", weights_only=True)["model"]


def assert_same_bits(a: Path, b: Path) -> None:
    first, second = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (a, b))
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    assert str(first["optimizer"]) == str(second["optimizer"])
    assert_same_arrays(Record.load(a / "trajectory.npz").arrays, Record.load(b / "trajectory.npz").arrays)


def assert_same_arrays(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def interrupted_at(epoch: int, config: TrainConfig, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die in the first batch after the checkpoint of `epoch`."""

    def dying(self: object, epoch_now: int, batch: int, batches: int) -> None:
        if epoch_now == epoch + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command.ProgressLine, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            command.train(config, path)

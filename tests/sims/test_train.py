"""The training loop: what it minimises, that it is deterministic, resumes to the same bits, and what it stores."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sims import train as command
from sims.measure import main as measure_main
from sims.training import folder as folder_module
from sims.training import loop
from sims.training.config import TrainConfig, protocol
from sims.training.folder import RunFolder, load_run
from sims.training.loop import epoch_batches
from sims.training.nets import Shape, build, last_linear
from sims.training.objective import groups, mean_square, optimizer_of, summed_loss
from sims.training.record import Record
from sims.training.robustness import deepfool_robustness, robustness_sample
from ufm.flow import main as flow_main
from ufm.least_squares import lambda_of_weight_decay, ls_classifier
from ufm.statistics import statistics_of
from ufm.store import load_arrays

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {"per_class": 30, "test_per_class": 6, "width": 0.05, "batch_size": 50, "robustness": 3, "lr": 0.05}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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


# what is minimised


@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 999))
def test_the_losses_are_torchs_and_hui_and_belkins(C: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(n, C, generator=generator), torch.randint(C, (n,), generator=generator)
    y = nn.functional.one_hot(labels, C).float()
    torch.testing.assert_close(mean_square(logits, labels, 1, 1) / n, nn.MSELoss()(logits, y))
    k, M = 5.0, 3.0
    written_out = sum(
        (k * (f[t] - M) ** 2 + sum(f[c] ** 2 for c in range(C) if c != t)) / C for f, t in zip(logits, labels, strict=True)
    )
    torch.testing.assert_close(mean_square(logits, labels, k, M), torch.as_tensor(written_out))
    features = torch.randn(n, 3, generator=generator)
    ce = summed_loss(TrainConfig(loss="ce"))(logits, labels, features) / n
    torch.testing.assert_close(ce, nn.CrossEntropyLoss()(logits, labels))
    decayed = summed_loss(TrainConfig(loss="ce", feature_decay=0.4))(logits, labels, features) / n
    torch.testing.assert_close(decayed - ce, 0.2 * features.square().sum(1).mean())


def test_the_lambda_of_a_run_is_the_one_at_which_its_objective_is_stationary() -> None:
    rng = np.random.default_rng(0)
    C, wd = 3, 0.02
    H, y = torch.from_numpy(rng.standard_normal((40, 5))), torch.from_numpy(rng.permutation(np.arange(40) % C))
    W, b = ls_classifier(statistics_of(H, y, C), lambda_of_weight_decay(wd, C))
    W.requires_grad_()
    b.requires_grad_()
    loss = mean_square(H @ W.T + b, y, 1, 1) / 40 + 0.5 * wd * (W.square().sum() + b.square().sum())
    loss.backward()
    assert abs(W.grad).max() < 1e-15
    assert abs(b.grad).max() < 1e-15


@pytest.mark.parametrize("name", ["sgd", "adam", "lbfgs"])
def test_weight_decay_acts_on_everything_or_on_the_classifier_alone(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    config = TrainConfig(lr=0.1, optimizer=name, weight_decay=0.3)
    everywhere = groups(model, model[1], config)
    assert [group.weight_decay for group in everywhere] == [0.3, 0.3]
    only_head = groups(model, model[1], TrainConfig(lr=0.1, optimizer=name, weight_decay=0.3, feature_decay=1e-3))
    assert [group.weight_decay for group in only_head] == [0.0, 0.3]
    assert {id(p) for p in only_head[1].parameters} == {id(p) for p in model[1].parameters()}
    expected = 0.15 * sum(float(p.detach().square().sum()) for p in model[1].parameters())
    assert sum(group.penalty().item() for group in only_head) == pytest.approx(expected, rel=1e-6)
    assert type(optimizer_of(everywhere, config)).__name__.lower() == name


@given(st.integers(4, 90), st.integers(2, 40), st.integers(0, 99), st.integers(1, 99))
def test_batches_are_a_shuffle_of_the_examples_that_seed_and_epoch_decide(n: int, size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(n, size, seed, epoch)
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) == n - (n % size == 1)
    assert all(len(batch) == size for batch in batches[:-1])
    again = np.concatenate(epoch_batches(n, size, seed, epoch))
    np.testing.assert_array_equal(seen, again)
    if n > 20:
        for other in (epoch_batches(n, size, seed, epoch + 1), epoch_batches(n, size, seed + 1, epoch)):
            assert (np.concatenate(other)[:10] != seen[:10]).any()


def test_training_is_the_bare_loop_of_torch_with_the_rate_decayed(tmp_path: Path) -> None:
    from sims.training.data import load
    from sims.training.loop import network

    config = tiny(2, weight_decay=0.01, decays=(1,))
    command.train(config, tmp_path)
    data = load(config.data)
    model = network(config, data).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for epoch, rate in ((1, 0.05), (2, 0.005)):
        optimizer.param_groups[0]["lr"] = rate
        for batch in epoch_batches(300, 50, 0, epoch):
            images, labels = torch.from_numpy(data.train.images[batch]), torch.from_numpy(data.train.labels[batch])
            optimizer.zero_grad()
            nn.MSELoss()(model(data.normalizer(images)), nn.functional.one_hot(labels, 10).float()).backward()
            optimizer.step()
    for name, value in final_weights(tmp_path).items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-6)


# robustness


def test_deepfool_on_an_affine_network_is_the_distance_to_the_nearest_boundary() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(6, 4).double()
    x = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    f, W = model(x).detach(), model.weight.detach()
    ratios = []
    for row, point in zip(f, x, strict=True):
        top = int(row.argmax())
        distance = min(float((row[top] - row[k]) / (W[top] - W[k]).norm()) for k in range(4) if k != top)
        ratios.append(1.02 * (distance + 1e-4) / float(point.norm()))
    assert deepfool_robustness(model.train(), x) == pytest.approx(np.mean(ratios), rel=1e-6)
    assert model.training
    assert model.weight.requires_grad
    with pytest.raises(ValueError, match="input is zero"):
        deepfool_robustness(model, 0 * x)


def test_attacked_images_are_drawn_once_without_replacement() -> None:
    sample = robustness_sample(40, 10, 3)
    assert len(np.unique(sample)) == 10
    np.testing.assert_array_equal(sample, robustness_sample(40, 10, 3))
    np.testing.assert_array_equal(robustness_sample(4, 10, 3), np.arange(4))


# a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    torch.set_num_threads(1)
    command.train(tiny(save_features=(2, 4)), path)
    return path


def test_the_stored_quantities_are_those_promised(finished: Path) -> None:
    record = Record.load(finished / "trajectory.npz")
    both = ("loss", "loss_nc1", "loss_nc23", "loss_perp", "nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maxangle", "nc3", "nc4")
    for name in (*both, *(f"test_{name}" for name in both), "train_error", "test_error", "robustness", "dropped", "lost_signal"):
        assert record.arrays[name].shape == (4,), name
    for name, shape in (("omega", (4, 9)), ("V", (4, 10, 9)), ("U", (4, 26, 9)), ("dropped", (4,)), ("lost_signal", (4,))):
        assert record.arrays[name].shape == record.arrays[f"test_{name}"].shape == shape, name
    np.testing.assert_array_equal(record.epochs, [1, 2, 3, 4])
    np.testing.assert_array_equal(record.arrays["counts"], 30)
    assert record.arrays["lambda"] == pytest.approx(10 * 5e-4 / 2)
    config, again = load_run(finished)
    assert config == tiny(save_features=(2, 4))
    assert again.arrays.keys() == record.arrays.keys()
    assert json.loads((finished / "provenance.json").read_text())[0]["torch"] == torch.__version__


@pytest.mark.parametrize("prefix", ["", "test_"])
def test_the_decomposition_sums_to_the_loss_at_every_epoch_of_a_run(finished: Path, prefix: str) -> None:
    a = Record.load(finished / "trajectory.npz").arrays
    total = sum(a[f"{prefix}{name}"] for name in ("loss_nc1", "loss_nc23", "loss_perp"))
    np.testing.assert_allclose(total, a[f"{prefix}loss"], rtol=1e-10)


def test_a_run_is_a_trajectory_like_a_simulation(finished: Path) -> None:
    record = Record.load(finished / "trajectory.npz")
    trajectory = record.trajectory()
    assert (trajectory.C, trajectory.N) == (10, 30)
    np.testing.assert_array_equal(trajectory.t, [1, 2, 3, 4])
    np.testing.assert_allclose(np.sort(trajectory.omega, 1)[:, ::-1], record.arrays["omega"])
    assert trajectory.loss.shape == (4,)


def test_saved_features_are_what_flow_and_measure_read(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert sorted(path.name for path in finished.glob("features-*")) == ["features-0002.npz", "features-0004.npz"]
    record, file = Record.load(finished / "trajectory.npz"), str(finished / "features-0004.npz")
    lam, out = str(float(record.arrays["lambda"])), tmp_path / "again.npz"
    assert measure_main([file, "--lambda", lam, "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["epoch"] == 4
    for name in ("loss", "loss_perp", "nc1", "nc2_equinorm", "nc3", "nc4", "train_error"):
        assert found[name] == pytest.approx(record.arrays[name][3], rel=1e-9), name
    again = Record.load(out)
    np.testing.assert_allclose(again.arrays["omega"][0], record.arrays["omega"][3], rtol=1e-9)
    assert flow_main(["--features", file, "--reduce", "--quiet", "--points", "5"]) == 0


def interrupted_at(epoch: int, config: TrainConfig, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die in the first batch after the checkpoint of `epoch`."""

    def dying(self: object, epoch_now: int, batch: int, batches: int) -> None:
        if epoch_now == epoch + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command.ProgressLine, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            command.train(config, path)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "lr": 1e-3}, {"optimizer": "lbfgs", "lr": 0.5, "batch_size": 300}])
def test_an_interrupted_run_ends_with_the_same_bits(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**changes)
    command.train(config, tmp_path / "whole")
    interrupted_at(2, config, tmp_path / "parts", monkeypatch)
    np.testing.assert_array_equal(Record.load(tmp_path / "parts" / "trajectory.npz").epochs, [1, 2])
    command.train(config, tmp_path / "parts")
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")
    assert len(json.loads((tmp_path / "parts" / "provenance.json").read_text())) == 2


def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options = ["--per-class", "30", "--test-per-class", "6", "--width", "0.05", "--batch-size", "50", "--robustness", "0"]
    call = [sys.executable, "-m", "sims.train", *options, "--epochs", "60", "--quiet", "--threads", "1", "--out"]
    process = subprocess.Popen([*call, str(tmp_path / "killed")], cwd=ROOT)
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert Record.load(tmp_path / "killed" / "trajectory.npz").epochs[-1] < 60
    for name in ("killed", "whole"):
        assert command.main([*call[3:], str(tmp_path / name)]) == 0
    assert_same_bits(tmp_path / "killed", tmp_path / "whole")


def test_repeating_a_finished_run_changes_nothing(finished: Path) -> None:
    before = (finished / "checkpoint.pt").read_bytes()
    command.train(tiny(save_features=(2, 4)), finished)
    assert (finished / "checkpoint.pt").read_bytes() == before


def changed(name: str) -> Callable[[TrainConfig], dict[str, Any]]:
    return {
        "etf": lambda _: {"fixed_etf": True},
        "features": lambda _: {"feature_decay": 1e-3},
        "random": lambda _: {"random_labels": True},
        "no norm": lambda _: {"batch_norm": False, "lr": 0.3},
        "rescaled": lambda _: {"rescale_true": 2.0, "rescale_target": 3.0, "lr": 0.01},
        "ce": lambda _: {"loss": "ce"},
        "resnet": lambda _: {"net": "resnet18", "per_class": 8, "robustness": 0},
        "pixel": lambda _: {"normalization": "pixel"},
    }[name]


@pytest.mark.parametrize("name", ["etf", "features", "random", "no norm", "rescaled", "ce", "resnet", "pixel"])
def test_the_ingredients_train_and_their_decompositions_sum(name: str, tmp_path: Path) -> None:
    config = tiny(3, **changed(name)(TrainConfig()))
    a = command.train(config, tmp_path).arrays
    np.testing.assert_allclose(a["loss_nc1"] + a["loss_nc23"] + a["loss_perp"], a["loss"], rtol=1e-10)
    if name not in ("random", "resnet"):
        assert a["train_error"][-1] < 0.7
    if name == "random":
        assert a["test_error"][-1] > 0.7
    if name == "etf":
        np.testing.assert_allclose(a["nc2_maxangle_w"], 0, atol=1e-6)
        np.testing.assert_allclose(a["nc2_equinorm_w"], 0, atol=1e-6)


def test_training_asks_torch_for_determinism_and_full_float32(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    command.train(tiny(1, robustness=0), tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


def test_feature_decay_shrinks_features(tmp_path: Path) -> None:
    lengths = []
    for decay in (1e-9, 0.05):
        config = tiny(6, feature_decay=decay, save_features=(6,))
        command.train(config, tmp_path / f"{decay}")
        lengths.append(np.square(load_arrays(tmp_path / f"{decay}" / "features-0006.npz")["features"]).sum(1).mean())
    assert lengths[1] < 0.5 * lengths[0]


# errors


def test_a_damaged_checkpoint_is_an_error_and_the_trajectory_stays(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    whole = (run / "checkpoint.pt").read_bytes()
    trajectory = (run / "trajectory.npz").read_bytes()
    (run / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    assert command.main(["--config", str(run / "config.json"), "--out", str(run), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot read the checkpoint" in error
    assert (run / "trajectory.npz").read_bytes() == trajectory


def loaded_or_error(folder: RunFolder) -> tuple[Any, str | None]:
    try:
        return folder.load_checkpoint(torch.device("cpu")), None
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_of_a_checkpoint_is_noticed_or_without_meaning(seed: int, finished: Path, tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path, tiny(save_features=(2, 4))), tiny(save_features=(2, 4))
    whole = (finished / "checkpoint.pt").read_bytes()
    before = RunFolder(finished, config).load_checkpoint(torch.device("cpu"))
    rng, noticed = np.random.default_rng(seed), 0
    for position in rng.integers(0, len(whole), 40):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        after, error = loaded_or_error(folder)
        if error is not None:
            assert "cannot read the checkpoint" in error
            noticed += 1
        else:  # padding between records, and dates
            assert str(after[1]) == str(before[1])
            assert_same_arrays(after[2].arrays, before[2].arrays)
            assert all(torch.equal(value, before[1]["model"][name]) for name, value in after[1]["model"].items())
    assert noticed > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: torch.zeros(3), "cannot read the checkpoint"),
        (lambda whole: {**whole, "record": torch.zeros(3)}, "cannot read the checkpoint"),
        (lambda whole: {name: value for name, value in whole.items() if name != "model"}, "KeyError: 'model'"),
        (lambda whole: {**whole, "model": {"weight": torch.zeros(3)}}, "RuntimeError: Error(s) in loading state_dict"),
        (lambda whole: {**whole, "optimizer": {"state": {}, "param_groups": []}}, "cannot read the checkpoint"),
    ],
)
def test_a_checkpoint_that_holds_something_else_is_one_line(
    change: Callable[[Any], Any], message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    torch.save(change(torch.load(run / "checkpoint.pt", weights_only=True)), run / "checkpoint.pt")
    assert command.main(["--config", str(run / "config.json"), "--out", str(run), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_only_the_first_line_of_an_error_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(command, "train", fail)
    assert command.main(["--quiet"]) == 2
    assert capsys.readouterr().err == "sims.train: error: CUDA error: out of memory\n"


def test_another_configuration_does_not_write_into_a_run(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"another run \(seed = 0, now 1\): repeat its options"):
        RunFolder(finished, tiny(save_features=(2, 4), seed=1))


def test_a_checkpoint_of_another_configuration_is_refused(finished: Path, tmp_path: Path) -> None:
    command.train(tiny(1), tmp_path / "other")
    other = RunFolder(tmp_path / "other", tiny(1))
    (tmp_path / "other" / "checkpoint.pt").write_bytes((finished / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match=r"belongs to another configuration than config\.json"):
        other.load_checkpoint(torch.device("cpu"))


def test_data_may_move_but_not_change_while_a_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("here", "moved", "changed")]
    for folder in folders:
        write_mnist(folder, seed=folder.name == "changed")
    configs = [tiny(3, dataset="mnist", data_dir=str(folder)) for folder in folders]
    interrupted_at(1, configs[0], tmp_path / "run", monkeypatch)
    with pytest.raises(
        ValueError, match=r"was trained on other data \(fingerprint [0-9a-f]{12}, now [0-9a-f]{12}\): give the same"
    ):
        command.train(configs[2], tmp_path / "run")
    command.train(configs[1], tmp_path / "run")
    command.train(configs[0], tmp_path / "whole")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")
    assert load_run(tmp_path / "run")[0].data_dir == str(folders[1])


def test_a_checkpoint_from_before_fingerprints_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(3)
    interrupted_at(1, config, tmp_path, monkeypatch)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del checkpoint["data"]
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    assert list(command.train(config, tmp_path).epochs) == [1, 2, 3]


def test_what_stops_process_0_stops_the_others_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(loop, "broadcast_object_list", lambda words: words.__setitem__(0, told[-1]) if told else None)
    main: Any = SimpleNamespace(is_main_process=True, num_processes=2)
    other: Any = SimpleNamespace(is_main_process=False, num_processes=2)

    def work(accelerator: Any, fails: bool) -> bool:
        with loop._main_process_alone(accelerator) as alone:
            if fails:
                raise ValueError("the disk is full")
        return alone

    assert work(main, fails=False)
    with pytest.raises(ValueError, match=r"^the disk is full$"):
        work(main, fails=True)
    told.append(None)
    assert not work(other, fails=False)
    told.append("the disk is full")
    with pytest.raises(ValueError, match="process 0 failed: the disk is full"):
        work(other, fails=False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"cannot write .*checkpoint.pt: No space left"),
        (
            RuntimeError("[enforce fail at inline_container.cc] unexpected pos"),
            r"cannot write .*: is the disk full\? .*unexpected",
        ),
    ],
)
def test_a_full_disk_loses_nothing(error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()
    interrupted_at(2, config, tmp_path / "run", monkeypatch)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.torch, "save", full)
        with pytest.raises(ValueError, match=message):
            command.train(config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))
    command.train(config, tmp_path / "whole")
    command.train(config, tmp_path / "run")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")


def test_lbfgs_on_several_processes_is_refused() -> None:
    from sims.training.data import load
    from sims.training.loop import Trainer

    config = tiny(optimizer="lbfgs")
    accelerator: Any = SimpleNamespace(num_processes=2)
    with pytest.raises(ValueError, match="lbfgs runs in one process, not in 2"):
        Trainer(config, load(config.data), accelerator)


def test_divergence_is_said_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"diverged in epoch 1.*lower the learning rate 1e\+30"):
        command.train(tiny(batch_norm=False, lr=1e30), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cifar10", "--net", "resnet18"], "no tuned learning rate is known for cifar10, resnet18, mse: give --lr"),
        (["--dataset", "cifar100"], "dataset = 'cifar100'"),
        (["--dataset", "stl10", "--net", "vgg13", "--loss", "ce"], "give --lr"),
        (["--dataset", "mnist", "--net", "resnet18"], "--data-dir"),
        (["--dataset", "mnist", "--net", "resnet18", "--data-dir", "absent"], "none of train-images-idx3-ubyte"),
        (["--per-class", "900"], "900 a class are needed: ask for at most 140"),
        (["--net", "resnet18", "--config", "c.json"], "--config says what to train, and --net says it again"),
        (["--config", "absent.json"], "cannot read absent.json"),
        (["--epochs", "0"], "epochs = 0"),
        (["--measured", "5", "3"], "measured must increase"),
        (["--threads", "0"], "--threads 0"),
        (["--pad-to", "4"], "cannot be padded to 4"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sims.train: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_options_are_put_over_the_protocol_and_the_schedule_is_scaled() -> None:
    given = ["--epochs", "35", "--lr", "0.2", "--no-batch-norm", "--measured", "1", "5", "--random-labels"]
    args = command.parser().parse_args(given)
    config = command.config_of(args)
    assert (config.lr, config.batch_norm, config.random_labels, config.measured) == (0.2, False, True, (1, 5))
    assert (config.epochs, config.decays) == (35, (12, 23))
    assert config.per_class == protocol("digits", "mlp", "mse").per_class


def test_options_take_back_what_the_protocol_says(capsys: pytest.CaptureFixture) -> None:
    given = ["--dataset", "mnist", "--net", "resnet18", "--per-class", "all", "--test-per-class", "7", "--pad-to", "none"]
    config = command.config_of(command.parser().parse_args(given))
    assert (config.per_class, config.test_per_class, config.pad_to) == (None, 7, None)
    assert command.config_of(command.parser().parse_args(given[:4])).per_class == 5000
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--per-class", "none"])
    assert "argument --per-class: invalid int or 'all' value: 'none'" in capsys.readouterr().err


def test_tensorboard_logs_on_request(tmp_path: Path) -> None:
    command.train(tiny(2, robustness=0), tmp_path, tensorboard=True)
    assert list(tmp_path.glob("tensorboard/events*"))


def test_a_run_begun_before_test_vectors_were_stored_goes_on_without_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(3)
    interrupted_at(1, config, tmp_path, monkeypatch)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name in ("test_V", "test_U", "test_dropped", "test_lost_signal"):
        del checkpoint["record"][name]
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    arrays = command.train(config, tmp_path).arrays
    assert len(arrays["test_omega"]) == len(arrays["epoch"]) == 3
    assert not {"test_V", "test_U"} & arrays.keys()


def test_threads_hold_for_torch_and_for_numpy(tmp_path: Path) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2):
        small = ["--epochs", "1", "--per-class", "12", "--test-per-class", "2", "--width", "0.01", "--robustness", "0", "--quiet"]
        assert command.main([*small, "--threads", "1", "--out", str(tmp_path)]) == 0
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}


def documented_commands() -> list[list[str]]:
    """Arguments of the commands for a GPU in docs/training.md."""
    lines = (ROOT / "docs" / "training.md").read_text().splitlines()
    return [line.split("sims.train ")[1].split() for line in lines if "sims.train --dataset" in line and "--out runs/" in line]


@pytest.mark.parametrize("arguments", documented_commands(), ids=" ".join)
def test_the_commands_left_for_a_gpu_build_their_networks(arguments: list[str]) -> None:
    config = command.config_of(command.parser().parse_args(arguments))
    with torch.device("meta"):
        model = build(config.net, Shape(1 if "mnist" in config.dataset else 3, 32, 10, stem=config.stem))
    assert last_linear(model).out_features == 10
    assert config.rate > 0


def test_the_command_for_one_gpu_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_mnist(tmp_path / "DIR")
    found = next(arguments for arguments in documented_commands() if "fashionmnist" in arguments)
    arguments = [str(tmp_path / "DIR") if word == "DIR" else word for word in found]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "run")
    shortened = [
        "--epochs",
        "1",
        "--per-class",
        "2",
        "--test-per-class",
        "1",
        "--robustness",
        "0",
        "--width",
        "0.05",
        "--cpu",
        "--quiet",
    ]
    assert command.main([*arguments, *shortened]) == 0, capsys.readouterr().err
    config, record = load_run(tmp_path / "run")
    assert (config.net, config.pad_to, list(record.epochs)) == ("resnet18", 32, [1])


@pytest.fixture
def another_precision() -> Iterator[None]:
    """Accelerate keeps the precision of its first use for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
def test_features_of_16_bits_are_written_exactly_and_measured_in_float64(tmp_path: Path) -> None:
    a = command.train(tiny(2, mixed_precision="bf16", save_features=(2,)), tmp_path).arrays
    np.testing.assert_allclose(a["loss_nc1"] + a["loss_nc23"] + a["loss_perp"], a["loss"], rtol=1e-10)
    features = load_arrays(tmp_path / "features-0002.npz")["features"]
    assert features.dtype == np.float32
    assert features.any()
    assert not (features.view(np.uint32) & 0xFFFF).any()

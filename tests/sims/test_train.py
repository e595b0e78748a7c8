"""The training loop: what it minimises, that it is deterministic, and what it stores."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sims import train as command
from sims.measure import main as measure_main
from sims.training import loop, session
from sims.training.data import Normalizer, load
from sims.training.examples import EVALUATION_BATCH, Examples, epoch_batches
from sims.training.folder import RunFolder, load_run
from sims.training.loss_and_optimizer import groups, mean_square, optimizer_of, summed_loss
from sims.training.protocol import TrainConfig
from sims.training.robustness import deepfool_robustness, robustness_sample
from tests.fresh import FreshProcesses
from tests.sims.runs import final_weights, tiny
from tests.typed import gradient_of
from tests.ufm.flow.test_full_shares import Group, in_threads
from ufm.distributed import Processes
from ufm.features.least_squares import lambda_of_weight_decay, ls_classifier
from ufm.features.statistics import statistics_of
from ufm.files.store import load_arrays
from ufm.flow.command import main as flow_main
from ufm.monitor.record import Record

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
    assert abs(gradient_of(W)).max() < 1e-15
    assert abs(gradient_of(b)).max() < 1e-15


@pytest.mark.parametrize("name", ["sgd", "adam", "lbfgs"])
def test_weight_decay_acts_on_everything_or_on_the_classifier_alone(name: str) -> None:
    head = nn.Linear(4, 2)
    model = nn.Sequential(nn.Linear(3, 4), head)
    config = TrainConfig(lr=0.1, optimizer=name, weight_decay=0.3)
    everywhere = groups(model, head, config)
    assert [group.weight_decay for group in everywhere] == [0.3, 0.3]
    only_head = groups(model, head, TrainConfig(lr=0.1, optimizer=name, weight_decay=0.3, feature_decay=1e-3))
    assert [group.weight_decay for group in only_head] == [0.0, 0.3]
    assert {id(p) for p in only_head[1].parameters} == {id(p) for p in head.parameters()}
    expected = 0.15 * sum(float(p.detach().square().sum()) for p in model[1].parameters())
    assert sum(group.penalty().item() for group in only_head) == pytest.approx(expected, rel=1e-6)
    assert type(optimizer_of(everywhere, config)).__name__.lower() == name


@given(st.integers(4, 90), st.integers(2, 40), st.integers(0, 99), st.integers(1, 99))
def test_batches_are_a_shuffle_of_the_examples_that_seed_and_epoch_decide(n: int, size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(n, size, seed, epoch)
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) == n - (n % size == 1)
    assert all(len(batch) == size for batch in batches[:-1])
    whole = epoch_batches(n, size, seed, epoch, drop_last=True)
    assert [batch.tolist() for batch in whole] == [batch.tolist() for batch in batches if len(batch) == min(size, n)]
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


def test_robustness_needs_no_git_and_leaves_the_environment_as_it_was(fresh: FreshProcesses) -> None:
    program = (
        "import os, torch; from sims.training.robustness import deepfool_robustness as f; before = dict(os.environ); "
        "print(f(torch.nn.Linear(6, 4), torch.ones(2, 6))); assert os.environ == before"
    )
    environment = {**os.environ, "PATH": "/nowhere"}
    environment.pop("GIT_PYTHON_REFRESH", None)
    done = subprocess.run([fresh.python, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_attacked_images_are_drawn_once_without_replacement() -> None:
    sample = robustness_sample(40, 10, 3)
    assert len(np.unique(sample)) == 10
    np.testing.assert_array_equal(sample, robustness_sample(40, 10, 3))
    np.testing.assert_array_equal(robustness_sample(4, 10, 3), np.arange(4))


# a run


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
    report = json.loads(capsys.readouterr().out)
    assert report["epoch"] == 4
    for name in ("loss", "loss_perp", "nc1", "nc2_equinorm", "nc3", "nc4", "train_error"):
        assert report[name] == pytest.approx(record.arrays[name][3], rel=1e-9), name
    again = Record.load(out)
    np.testing.assert_allclose(again.arrays["omega"][0], record.arrays["omega"][3], rtol=1e-9)
    assert flow_main(["--features", file, "--reduce", "--quiet", "--points", "5"]) == 0


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


def flags_of_torch() -> tuple[bool | str, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )


def test_training_asks_torch_for_determinism_and_full_float32_and_leaves_its_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.use_deterministic_algorithms(False)
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    seen = set()
    monkeypatch.setattr(command.ProgressLine, "advance", lambda *_: seen.add(flags_of_torch()))
    before, state = flags_of_torch(), torch.get_rng_state()
    command.train(tiny(1, robustness=0), tmp_path)
    assert seen == {(True, True, True, False, False, False)}
    assert flags_of_torch() == before
    assert (before[0], *before[4:]) == (False, True, True)
    assert torch.equal(torch.get_rng_state(), state)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


def test_fast_kernels_and_tf32_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before = set(), flags_of_torch()
    monkeypatch.setattr(command.ProgressLine, "advance", lambda *_: seen.add(flags_of_torch()))
    command.train(tiny(1, robustness=0, deterministic=False, tf32=True), tmp_path)
    assert [(flags[0], *flags[2:]) for flags in seen] == [(False, False, True, True, True)]
    assert flags_of_torch() == before


def test_processes_share_whole_batches_of_the_examples() -> None:
    n = 3 * EVALUATION_BATCH + 7
    normalizer = cast("Normalizer", lambda images: images)
    examples = Examples(torch.arange(n), torch.arange(n) % 5, normalizer)
    whole = list(examples.in_order())
    for size in (1, 2, 3, 4, 6):
        shares = [batch for rank in range(size) for batch in examples.in_order(rank, size)]
        assert [len(images) for images, _ in shares] == [len(images) for images, _ in whole] == [*[EVALUATION_BATCH] * 3, 7]
        assert all(torch.equal(a, b) for one, two in zip(shares, whole, strict=True) for a, b in zip(one, two, strict=True))


def test_a_process_of_several_measures_its_share_with_the_running_statistics_of_process_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(1, per_class=60, width=0.02, robustness=0)
    trainer = loop.Trainer(config, load(config.data), Accelerator(cpu=True))
    trainer.group = cast("Processes", SimpleNamespace(rank=1, size=2))
    shared: list[int] = []

    def broadcast(buffer: torch.Tensor, source: int) -> None:
        assert source == 0
        shared.append(id(buffer))

    def measured(_: nn.Module, train: Any, *others: Any, group: Any, **options: Any) -> str:
        assert shared == [id(buffer) for buffer in trainer.bare.buffers()] != []
        assert group is trainer.group
        assert [sum(len(labels) for _, labels in batches) for batches in (train, others[2])] == [88, 0]
        return "measured"

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    monkeypatch.setattr(loop, "measure_network", measured)
    monkeypatch.setattr(loop, "raised_in_all", lambda _: nullcontext())
    assert trainer.measure(RunFolder(tmp_path, config), 1) == "measured"


def test_feature_decay_shrinks_features(tmp_path: Path) -> None:
    lengths = []
    for decay in (1e-9, 0.05):
        config = tiny(6, feature_decay=decay, save_features=(6,))
        command.train(config, tmp_path / f"{decay}")
        lengths.append(np.square(load_arrays(tmp_path / f"{decay}" / "features-0006.npz")["features"]).sum(1).mean())
    assert lengths[1] < 0.5 * lengths[0]


# errors


@pytest.mark.parametrize(("rank", "place"), [(0, "begin"), (0, "load_checkpoint"), (1, "load_checkpoint")])
def test_what_stops_one_process_stops_the_others_with_its_words(rank: int, place: str) -> None:
    def fail(*_: object) -> None:
        raise ValueError("the disk is full")

    def work(group: Group) -> None:
        accelerator = SimpleNamespace(is_main_process=group.rank == 0, num_processes=2)
        trainer: Any = SimpleNamespace(config=tiny(1), group=group, accelerator=accelerator)
        folder: Any = SimpleNamespace(begin=lambda _: None, load_checkpoint=lambda: None)
        if group.rank == rank:
            setattr(folder, place, fail)
        words = "the disk is full" if group.rank == rank else f"process {rank} failed: the disk is full"
        with pytest.raises(ValueError, match=f"^{words}$"):
            loop.run(trainer, folder, lambda *_: None, lambda *_: None)

    in_threads(2, work)


def test_lbfgs_on_several_processes_is_refused() -> None:
    from sims.training.data import load
    from sims.training.loop import Trainer

    config = tiny(optimizer="lbfgs")
    accelerator: Any = SimpleNamespace(num_processes=2)
    with pytest.raises(ValueError, match="lbfgs runs in one process, not in 2"):
        Trainer(config, load(config.data), accelerator)


def test_velocities_on_several_processes_are_refused() -> None:
    """Process 0 would train the epoch alone, and wait for the others, which wait for it."""
    from sims.training.data import load
    from sims.training.loop import Trainer

    accelerator: Any = SimpleNamespace(num_processes=2)
    config = tiny(velocity=(1,))
    with pytest.raises(ValueError, match="velocities are taken in one process, this run has 2: leave them out"):
        Trainer(config, load(config.data), accelerator)


def test_divergence_is_said_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"diverged in epoch 1.*lower the learning rate 1e\+30"):
        command.train(tiny(batch_norm=False, lr=1e30), tmp_path)


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


@pytest.mark.parametrize(("number", "sizes"), [(2, {}), (1, {}), (2, {"WORLD_SIZE": "2"}), (2, {"OMPI_COMM_WORLD_SIZE": "2"})])
def test_one_process_where_several_were_asked_for_is_refused(
    number: int, sizes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the environment that accelerate's launcher gives on CPUs to the one process that it starts."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # no configuration file of a user's
    args = launch_command_parser().parse_args(["--cpu", "--num_processes", str(number), "-m", "sims.train"])
    _, environment = prepare_simple_launcher_cmd_env(_validate_launch_command(args)[0])
    monkeypatch.setattr(os, "environ", environment | sizes)
    if (number, sizes) != (2, {}):
        session.check_launch()
        return
    with pytest.raises(ValueError, match=r"several processes and has started one.*torchrun --nproc_per_node N"):
        session.check_launch()
    with pytest.raises(ValueError, match="several processes and has started one"):
        command.train(tiny(1), tmp_path / "run")
    assert command.main(["--search", "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("name", session.PROCESS_COUNTS)
def test_processes_of_which_each_would_train_alone_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in session.PROCESS_COUNTS:
        monkeypatch.delenv(other, raising=False)
    session.check_started(1)
    monkeypatch.setenv(name, "2")
    session.check_started(2)
    with pytest.raises(ValueError, match=rf"^{name} = 2 in the environment, and 1 of them trains here"):
        session.check_started(1)

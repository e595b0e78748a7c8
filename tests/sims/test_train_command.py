"""The command line of sims.train, and the commands that the training page leaves for a GPU."""

import os
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from sims import train as command
from sims.training.folder import load_run
from sims.training.nets import CLASSIFIER, Shape, build
from sims.training.protocol import protocol
from tests.sims.runs import ROOT, tiny, write_mnist
from ufm.monitor.layers import linear_layer


def test_only_the_first_line_of_an_error_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(command, "train", fail)
    assert command.main(["--quiet"]) == 2
    assert capsys.readouterr().err == "sims.train: error: CUDA error: out of memory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cifar10", "--net", "resnet18"], "no tuned learning rate is known for cifar10, resnet18, mse: give lr"),
        (["--dataset", "cifar100"], "dataset = 'cifar100'"),
        (["--dataset", "stl10", "--net", "vgg13", "--loss", "ce"], "give lr"),
        (["--dataset", "mnist", "--net", "resnet18"], "data_dir"),
        (["--dataset", "mnist", "--net", "resnet18", "--data-dir", "absent"], "none of train-images-idx3-ubyte"),
        (["--dataset", "mnist", "--net", "resnet18", "--data-dir", "x" * 300], "File name too long"),
        (["--per-class", "900"], "900 a class are needed: ask for at most 140"),
        (["--net", "resnet18", "--config", "c.json"], "--config says what to train, and --net says it too"),
        (["--config", "absent.json"], "cannot read absent.json"),
        (["--epochs", "0"], "epochs = 0"),
        (["--measured", "5", "3"], "measured must increase"),
        (["--threads", "0"], "--threads 0"),
        (["--pad-to", "4"], "cannot be padded to 4"),
        (["--engine", "nonsense"], "--engine goes with --search: "),
        (["--jobs", "1"], "--jobs goes with --search: "),
        (["--lr-grid", "0.1", "0.2"], "--lr-grid goes with --search: "),
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


def test_threads_hold_for_torch_and_for_numpy(tmp_path: Path) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2):
        small = ["--epochs", "1", "--per-class", "12", "--test-per-class", "2", "--width", "0.01", "--robustness", "0", "--quiet"]
        assert command.main([*small, "--threads", "1", "--out", str(tmp_path)]) == 0
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}


def test_a_device_of_a_number_is_that_of_the_training_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    small = ["--epochs", "1", "--per-class", "12", "--test-per-class", "2", "--width", "0.01", "--robustness", "0", "--quiet"]
    assert command.main([*small, "--device", "cpu:0", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    assert AcceleratorState().device == torch.device("cpu:0")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_a_device_of_a_number_is_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    there = ["--device", "cpu:0", "--out", str(tmp_path / "run")]
    assert command.main([*there, "--search", "--engine", "dask://nowhere"]) == 2
    assert "device 'cpu:0' is one of this machine: with dask://HOST:PORT use cpu, cuda or auto" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.main(there) == 2
    assert "device 'cpu:0' would be that of all 2 processes: use cpu, cuda or auto" in capsys.readouterr().err


def documented_commands() -> list[list[str]]:
    """Arguments of the commands for a GPU in docs/training.md."""
    lines = (ROOT / "docs" / "training.md").read_text().splitlines()
    return [line.split("sims.train ")[1].split() for line in lines if "sims.train --dataset" in line and "--out runs/" in line]


@pytest.mark.parametrize("arguments", documented_commands(), ids=" ".join)
def test_the_commands_left_for_a_gpu_build_their_networks(arguments: list[str]) -> None:
    args = command.parser().parse_args(arguments)
    if args.search:
        args.search, args.lr = False, 0.1  # one of the rates it tries
    config = command.config_of(args)
    with torch.device("meta"):
        model = build(config.net, Shape(1 if "mnist" in config.dataset else 3, 32, 10, stem=config.stem))
    assert linear_layer(model, CLASSIFIER).out_features == 10
    assert config.rate > 0


def test_the_command_for_one_gpu_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_mnist(tmp_path / "DIR")
    options = next(arguments for arguments in documented_commands() if "fashionmnist" in arguments)
    arguments = [str(tmp_path / "DIR") if word == "DIR" else word for word in options]
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

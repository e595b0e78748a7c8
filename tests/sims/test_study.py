"""The study: a run that was killed goes on, a finished one is left alone, and the tables come from the reports."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sims import study
from sims import train as train_command
from sims.comparison.analysis import Group
from sims.training.protocol import TrainConfig
from ufm.compare.exponent import Exponent
from ufm.compare.outcome import NAMED, REFUTED, UNDECIDED, Selection
from ufm.compare.verdict import Verdict
from ufm.files.store import load_arrays

SMALL: dict[str, Any] = {"per_class": 20, "test_per_class": 5, "width": 0.05, "batch_size": 50, "robustness": 0, "lr": 0.05}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    config = TrainConfig(**SMALL, epochs=4, decays=(3,), measured=(1, 2, 3, 4), save_features=())
    monkeypatch.setattr(study, "LOSS_FUNCTIONS", ("mse",))
    monkeypatch.setattr(study, "configurations", lambda loss, seed, data_dir: iter([("tiny", replace(config, seed=seed))]))


def run_study(*arguments: Any) -> int:
    return study.main([str(argument) for argument in arguments])


@pytest.mark.usefixtures("unrendered")
def test_a_study_that_was_interrupted_goes_on_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "study"
    original, calls = train_command.train, []

    def counted(config: TrainConfig, path: Path, **options: Any) -> Any:
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(config, path, **options)

    monkeypatch.setattr(train_command, "train", counted)
    assert run_study("--out", out, "--seeds", 2) == 130
    assert "repeat the command" in capsys.readouterr().err
    assert not (out / "study.md").exists()
    first = (out / "runs" / "tiny-mse-seed0" / "trajectory.npz").read_bytes()
    assert run_study("--out", out, "--seeds", 2) == 0
    assert calls == ["tiny-mse-seed0", "tiny-mse-seed1", "tiny-mse-seed1"]
    assert (out / "runs" / "tiny-mse-seed0" / "trajectory.npz").read_bytes() == first
    table = (out / "study.md").read_text()
    assert table.strip() == capsys.readouterr().out.strip()
    assert table.count("| tiny-mse (2 runs) |") == 2
    for title in study.CHOICES:
        assert (out / title.replace(" ", "-") / "report.json").exists()
    assert (out / "exponents.png").exists()


def test_a_run_stopped_in_the_middle_or_of_another_configuration_is_not_finished(tmp_path: Path) -> None:
    (_, config) = next(study.configurations("mse", 0, None))
    train_command.train(config, tmp_path / "run", cpu=True)
    assert study.finished(tmp_path / "run", config)
    assert study.finished(tmp_path / "run", replace(config, data_dir="elsewhere"))
    assert not study.finished(tmp_path / "run", replace(config, seed=1))
    assert not study.finished(tmp_path / "none", config)
    arrays = load_arrays(tmp_path / "run" / "trajectory.npz")
    from ufm.monitor.record import Record

    kept = {k: v[:2] if v.ndim and len(v) == 4 and k != "counts" else v for k, v in arrays.items()}
    Record(kept).save(tmp_path / "run" / "trajectory.npz")
    assert not study.finished(tmp_path / "run", config)


def test_shares_are_disjoint_and_complete_and_write_no_report(tmp_path: Path) -> None:
    assert run_study("--out", tmp_path, "--seeds", 2, "--share", "1/2") == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny-mse-seed0"]
    assert run_study("--out", tmp_path, "--seeds", 2, "--share", "2/2") == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert run_study("--out", tmp_path, "--seed", 5, "--seeds", 1, "--share", "1/2") == 0
    assert (tmp_path / "runs" / "tiny-mse-seed5" / "trajectory.npz").exists()
    assert not (tmp_path / "study.md").exists()


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(NAMED, "unnormalized", ("unnormalized",), "", {}), "unnormalized"),
        (Selection(UNDECIDED, "", ("kernel", "unnormalized"), "", {}), "undecided (kernel, unnormalized left)"),
        (Selection(REFUTED, "", (), "", {}), "refuted (every model)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_verdict_of_the_study_rests_on_the_exponent(selection: Selection, said: str) -> None:
    """The exponent is that of the renormalized law, as plain descent from Sigma_W = I has it."""
    description = Verdict("renormalized", "named", "", Exponent(1.01, 0.99, 1.04, at_bound=False), {})
    group = Group("tiny", [], [], description, selection)
    row = study.verdict_row(group)
    assert (row["verdict"], row["outcome"]) == (selection.name or None, selection.outcome)
    assert row["compatible"] == list(selection.compatible)
    assert row["exponent"]["value"] == 1.01
    table = study.exponent_table({title: [group] for title in study.CHOICES})
    assert f"| tiny | 1.01 (0.99 to 1.04), {said} |" in table
    assert "renormalized |\n" not in table.split("left unexplained")[0]


@pytest.mark.parametrize(
    "options", [("--share", "0/2"), ("--share", "3/2"), ("--share", "x"), ("--seeds", "0"), ("--threads", "0"), ("--seed", "-1")]
)
def test_bad_options_end_in_one_line(options: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_study("--out", tmp_path / "new", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("sims.study: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()

"""Features of a real network end to end: trained, written, refused by the flow without --reduce and taken with it."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sims import digits_features
from tests.fresh import FreshProcesses
from ufm.features.least_squares import lambda_of_weight_decay
from ufm.features.loss_decomposition import decompose
from ufm.features.statistics import statistics_of
from ufm.files import store

ROOT = Path(__file__).parents[2]


def command(fresh: FreshProcesses, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m ...` as a user runs it, on the sources of this repository."""
    return subprocess.run([fresh.python, "-m", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, fresh: FreshProcesses) -> Path:
    """The file of a short training run."""
    path = tmp_path_factory.mktemp("digits") / "features.npz"
    done = command(fresh, "sims.digits_features", "--out", str(path), "--epochs", "10")
    assert done.returncode == 0, done.stderr
    assert "dead ReLU units" in done.stdout
    assert "epoch 10 of 10" in done.stderr
    return path


def test_the_file_holds_rank_deficient_features_of_a_network_that_has_learned(trained: Path) -> None:
    arrays = store.load_arrays(trained)
    features, labels, W, b = (arrays[name] for name in ("features", "labels", "W", "b"))
    assert features.shape == (1740, 128)
    assert features.dtype == np.float32
    assert (features >= 0).all()
    assert np.bincount(labels).tolist() == [174] * 10
    assert ((features @ W.T + b).argmax(1) != labels).mean() < 0.03
    assert (features == 0).all(0).any()


def test_the_loss_of_the_file_decomposes_with_the_lambda_of_its_weight_decay(trained: Path) -> None:
    arrays = store.load_arrays(trained)
    features, W, b = (arrays[name].astype(np.float64) for name in ("features", "W", "b"))
    lam = lambda_of_weight_decay(json.loads(str(arrays["config"]))["weight_decay"], 10)
    parts = decompose(statistics_of(features, arrays["labels"], 10), W, b, lam)
    residual = features @ W.T + b - np.eye(10)[arrays["labels"]]
    loss = 0.5 * (residual**2).sum(1).mean() + 0.5 * lam * ((W**2).sum() + (b**2).sum())
    assert parts.loss == pytest.approx(loss, rel=1e-12)
    assert parts.nc1 + parts.nc23 + parts.perp == pytest.approx(loss, rel=1e-10)
    assert min(parts.nc1, parts.nc23, parts.perp) > 0


def test_the_flow_refuses_the_features_and_names_the_number_of_empty_directions(
    trained: Path, tmp_path: Path, fresh: FreshProcesses
) -> None:
    out = tmp_path / "run.npz"
    done = command(fresh, "ufm.flow", "--features", str(trained), "--out", str(out))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "rank-deficient" in done.stderr
    assert "--reduce" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_flow_takes_them_reduced_and_reports_what_it_dropped(trained: Path, tmp_path: Path, fresh: FreshProcesses) -> None:
    out = tmp_path / "run.npz"
    done = command(fresh, "ufm.flow", "--features", str(trained), "--reduce", "--out", str(out))
    assert done.returncode == 0, done.stderr
    dead = int((store.load_arrays(trained)["features"] == 0).all(0).sum())
    arrays = store.load_arrays(out)
    config = json.loads(str(arrays["config"]))
    assert config["dropped"] >= dead > 0
    assert config["lost_signal"] < 1e-6
    assert f"{config['dropped']} of 128 directions dropped" in done.stdout
    assert arrays["omega"].shape == (1000, 9)
    assert arrays["U"].shape == (128 - config["dropped"], 9)
    assert float(arrays["residual"]) < 1e-12
    assert arrays["omega"][-1].min() == pytest.approx(10 * arrays["omega"][0].min(), rel=1e-12)


def test_a_seed_decides_the_features() -> None:
    images, labels = digits_features.balanced_digits()
    images, labels = images[:200], labels[:200]
    one, again, other = (
        digits_features.last_layer(
            digits_features.train_network(images, labels, digits_features.Training(epochs=1, seed=seed), quiet=True), images
        )["features"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "epochs = 0"),
        (["--width", "0"], "width = 0"),
        (["--width", "100000000000"], "width = 100000000000: the last layer has at most"),
        (["--seed", "-1"], "seed = -1"),
        (["--learning-rate", "nan"], "learning rate = nan"),
        (["--learning-rate", "1e30", "--epochs", "1", "--quiet"], "training diverged"),
        (["--weight-decay", "-1"], "weight decay = -1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert digits_features.main(["--out", str(tmp_path / "features.npz"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["features.txt", "missing/features.npz"])
def test_an_unusable_name_is_refused_before_training(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert digits_features.main(["--out", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

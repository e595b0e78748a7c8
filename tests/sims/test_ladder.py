"""The ladder on cases of known answer: free features conserve Sigma_T and come out unnormalized, the control renormalized."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from manifolds.class_centering import ClassLayout
from sims import ladder as command
from sims.comparison.entries import change_of_stored_layer, entry_of_statistics
from sims.rungs.conservation import EpochMoments, growth_parts, mean_log_omega, plain_flow_share, sigma_t_change, signal_share
from sims.rungs.descent import Descent, FeatureDescent
from sims.rungs.report import judged_rung, write_ladder
from sims.rungs.run import FINISHED, descend, run_rung
from sims.rungs.rung import BY_NAME, DIGITS_DATA, RUNGS, body_of, examples, rung_data, trained
from sims.rungs.summary import result_of
from sims.training.readers import DataChoice
from tests.sims.runs import write_mnist
from ufm.compare.layer_motion import layer_motion
from ufm.features.statistics import statistics_of
from ufm.files.write_lock import write_lock
from ufm.laws.discrete_singular_values import recursion_step
from ufm.laws.singular_value_dynamics import UNNORMALIZED
from ufm.ledger.last_layer import LastLayer
from ufm.monitor.epoch_statistics import add_layer
from ufm.monitor.logs import RunLog
from ufm.monitor.measurement import measure_features

SIZES, D, P = (13, 17, 14, 16), 7, 5
EQUAL = (15, 15, 15, 15)


def problem(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centres = torch.randn(len(sizes), D, generator=generator, dtype=torch.float64)
    return centres[labels] + torch.randn(len(labels), D, generator=generator, dtype=torch.float64), labels


def body(frozen: bool = False, seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(D, P, bias=False).double()
    layer.requires_grad_(not frozen)
    return layer


def omega(H: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    stats = statistics_of(H.numpy(), y.numpy(), int(y.max()) + 1)
    values, E = np.linalg.eigh(stats.sigma_w)
    return np.linalg.svd((E / np.sqrt(values)) @ E.T @ stats.centred_means, compute_uv=False)[: stats.C - 1]


def moments(H: torch.Tensor, y: torch.Tensor) -> EpochMoments:
    stats = statistics_of(H.numpy(), y.numpy(), int(y.max()) + 1)
    return EpochMoments(stats.counts, stats.centred_means, stats.sigma_w, np.eye(stats.P))


def test_free_features_conserve_sigma_t_and_split_as_the_plain_flow() -> None:
    x, y = problem()
    descent = FeatureDescent(Descent(step=0.002), body(frozen=True), x, y)
    path = [moments(descent.features(), y)]
    for _ in range(8):
        for _ in range(60):
            descent.step(0.0)
        path.append(moments(descent.features(), y))
    change, factor, left = sigma_t_change(path[0], path[-1])
    assert change < 2e-3  # of finite steps
    assert factor == pytest.approx(1, abs=2e-3)
    assert left < 2e-3
    first, last = (mean_log_omega(one.M, one.sigma_w, one.priors) for one in (path[0], path[-1]))
    assert last - first > np.log(1.5)
    assert sum(growth_parts(path[0], path[-1])) == pytest.approx(last - first, abs=1e-12)
    assert signal_share(path) == pytest.approx(plain_flow_share(path[0], last - first), abs=5e-3)


def test_feature_decay_is_a_common_factor_and_signal_alone_has_share_one() -> None:
    x, y = problem()
    H = moments(x, y)
    shrunk = replace(H, M=0.6 * H.M, sigma_w=0.36 * H.sigma_w)
    change, factor, left = sigma_t_change(H, shrunk)
    assert (factor, left) == (pytest.approx(0.36), pytest.approx(0, abs=1e-12))
    assert change == pytest.approx(0.64)
    assert signal_share([H, replace(H, M=1.7 * H.M)]) == pytest.approx(1)
    assert signal_share([H, replace(H, sigma_w=0.2 * H.sigma_w)]) == pytest.approx(0)
    A = np.random.default_rng(0).standard_normal((D, D))  # seen in another basis
    turned = [
        EpochMoments(m.counts, A @ m.M, A @ m.sigma_w @ A.T, np.eye(D))
        for m in (H, replace(H, M=1.7 * H.M, sigma_w=0.5 * H.sigma_w))
    ]
    assert signal_share(turned) == pytest.approx(np.log(1.7) / (np.log(1.7) + 0.5 * np.log(2)))


def test_the_plain_share_from_sigma_t_one_is_that_of_law_c() -> None:
    C, N, u0 = 4, 15, np.array([0.8, 0.5, 0.3])
    V = np.linalg.qr(np.c_[np.ones(C), np.random.default_rng(0).standard_normal((C, C - 1))])[0][:, 1:]
    M = np.sqrt(C * u0 / (1 + u0))[:, None] * V.T  # Sigma_T = I
    start = EpochMoments(np.full(C, N), M, np.diag(1 / (1 + u0)), np.eye(3))
    growth = 0.7
    u1 = u0 * np.exp(2 * growth)  # law (c): one rate
    signal = 0.5 * (np.log(u1 / (1 + u1)) - np.log(u0 / (1 + u0))).mean()
    assert plain_flow_share(start, growth) == pytest.approx(signal / growth, rel=1e-6)
    assert UNNORMALIZED.name == "unnormalized"


def test_the_control_is_the_exact_scheme_of_renormalization() -> None:
    x, y = problem(EQUAL)
    descent = FeatureDescent(Descent(renormalize=True, step=0.5), body(frozen=True), x, y)
    values = omega(descent.features(), y)
    H0 = descent.features()
    for _ in range(5):
        values = recursion_step(values, descent.rate, 4, 15)
        descent.step(0.0)
    np.testing.assert_allclose(omega(descent.features(), y), np.sort(values)[::-1], rtol=1e-10)  # two of them cross
    layout = ClassLayout.of_labels(y.numpy())
    np.testing.assert_allclose(layout.deviations(descent.features().numpy().T), layout.deviations(H0.numpy().T), atol=1e-9)


def test_a_linear_last_layer_follows_its_exact_law() -> None:
    x, y = problem()
    layer = body()
    A = layer.weight.detach().numpy().copy()
    law = LastLayer.over(statistics_of(x.numpy(), y.numpy(), 4))
    x_centred = x - x.mean(0)
    descent = FeatureDescent(Descent(offsets=0.0, step=0.01), layer, x_centred, y)
    steps = 300
    for _ in range(steps):
        descent.step(0.0)
    layer_now = layer.weight.detach().numpy()
    expected = law.follow(A, np.array([0.0, steps * descent.rate]))[-1]
    np.testing.assert_allclose(layer_now, expected, atol=2e-2 * abs(expected - A).max())
    np.testing.assert_allclose(layer_now @ layer_now.T, A @ A.T, atol=2e-2 * abs(A @ A.T).max())
    assert (omega(descent.features(), y) <= law.bound() + 1e-12).all()


def test_the_layer_below_is_kept_and_names_its_model(tmp_path: Path) -> None:
    rung = replace(BY_NAME["last-layer"], steps=30)
    run_rung(rung, 0, tmp_path / "run")
    entry = entry_of_statistics(tmp_path / "run" / "statistics-0000.npz")
    assert entry.layer is not None
    np.testing.assert_allclose(entry.layer.A @ entry.layer.M, entry.M, atol=1e-12)
    np.testing.assert_allclose(entry.layer.A @ entry.layer.sigma_w @ entry.layer.A.T, entry.sigma_w, atol=1e-12)
    files = {path: float(path.stem[-4:]) for path in (tmp_path / "run").glob("statistics-*.npz")}
    change = change_of_stored_layer(files)
    assert change is not None
    assert 0 < change < 0.01  # of A A^T: what a finite step makes
    assert change_of_stored_layer(dict(list(files.items())[:1])) is None
    width = entry.layer.A.shape[1]
    with pytest.raises(ValueError, match="not A Z of this layer"):
        add_layer(tmp_path / "run", 0, 2 * entry.layer.A, statistics_of(np.eye(width)[:30], np.arange(30) % 3, 3))
    run_rung(replace(BY_NAME["free"], steps=5), 0, tmp_path / "free")
    assert entry_of_statistics(tmp_path / "free" / "statistics-0000.npz").layer is None


def test_units_that_never_answer_leave_the_prediction_over_a_layer_as_it_is(tmp_path: Path) -> None:
    x, y = problem()
    bodies = []
    for dead in (0, 2):
        torch.manual_seed(3)
        A = torch.randn(P, D + dead, dtype=torch.float64)
        A[:, :D] = torch.from_numpy(np.random.default_rng(0).standard_normal((P, D)))
        Z = torch.cat([x, torch.zeros(len(x), dead, dtype=torch.float64)], 1)
        folder = tmp_path / f"dead-{dead}"
        H = (Z @ A.T).numpy()
        RunLog(folder)(0, {}, measure_features(H, y.numpy(), np.zeros((len(SIZES), P)), np.zeros(len(SIZES)), 0.0))
        add_layer(folder, 0, A.numpy(), statistics_of(Z.numpy(), y.numpy(), len(SIZES)))
        bodies.append(entry_of_statistics(folder / "statistics-0000.npz"))
    grams = []
    for entry in bodies:
        motion = layer_motion(entry)
        state = motion.state
        for _ in range(4):
            state = motion.step(state, 2.0)
        grams.append(motion.gram(state))
    np.testing.assert_allclose(grams[0], grams[1], rtol=1e-8)
    assert abs(grams[0] - bodies[0].gram()).max() > 0.1 * abs(grams[0]).max()


def test_a_rung_that_cannot_be_judged_is_a_line_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("free", "whitened"):
        short = replace(BY_NAME[name], steps=30)
        monkeypatch.setitem(BY_NAME, name, short)
    monkeypatch.setattr("sims.rungs.rung.RUNGS", (BY_NAME["free"], BY_NAME["whitened"]))
    assert command.main(["--out", str(tmp_path), "--seeds", "1", "--threads", "1", "--train-only"]) == 0
    assert command.main(["--out", str(tmp_path), "--seeds", "2", "--seed", "7", "--train-only", "--rungs", "free"]) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"free-seed0", "whitened-seed0", "free-seed7", "free-seed8"}
    broken = tmp_path / "runs" / "free-seed0" / "trajectory.npz"
    broken.write_bytes(b"no archive")
    assert command.main(["--out", str(tmp_path), "--seeds", "1", "--threads", "1"]) == 0
    free, whitened = json.loads((tmp_path / "ladder.json").read_text())["rungs"]
    assert free["outcome"] == "not compared"
    assert "trajectory.npz" in free["reason"]
    assert whitened["reason"] != free["reason"]
    assert "trajectory.npz" in (tmp_path / "ladder.html").read_text()
    assert not (tmp_path / "judged" / "free.json").exists()  # it is tried again
    printed = capsys.readouterr()
    assert "| free | not compared |" in printed.out
    assert "| whitened | " in printed.out


def test_offsets_add_their_rate_to_the_kernel() -> None:
    x, y = problem()
    descent = FeatureDescent(Descent(offsets=3.0, step=1e-5), body(), x, y)
    kernel = x @ x.T  # of a linear layer without bias: the same for every feature
    assert descent.kernel_scale == pytest.approx(float(kernel.diagonal().mean()), rel=0.3)  # by random probes
    before, G = descent.features(), descent.gradient()
    descent.step(0.0)
    expected = -descent.rate * (kernel + descent.offset_rate * torch.eye(len(x), dtype=torch.float64)) @ G
    torch.testing.assert_close(descent.features() - before, expected, rtol=1e-6, atol=1e-12)
    assert descent.offset_rate == pytest.approx(3 * descent.kernel_scale)


def test_a_trained_classifier_momentum_batches_and_drops() -> None:
    x, y = problem()
    plain = Descent(rate_ratio=7.0, decay_w=0.1, decay_h=0.2, step=1e-3)
    descent = FeatureDescent(plain, body(frozen=True), x, y)
    H, W, b, Y = descent.features(), descent.W.clone(), descent.b.clone(), descent.Y
    descent.step(0.0)
    r = H @ W.T + b - Y
    n = len(y)
    torch.testing.assert_close(descent.features(), H - descent.rate * (r @ W + 0.2 * H) / n)
    torch.testing.assert_close(descent.W, W - descent.rate * 7.0 / n * (r.T @ H / n + 0.1 * W))
    torch.testing.assert_close(descent.b, b - descent.rate * 7.0 / n * r.mean(0))
    late = FeatureDescent(replace(plain, drops=(0.5,)), body(frozen=True), x, y)
    late.step(0.6)
    torch.testing.assert_close(late.features() - H, 0.1 * (descent.features() - H), rtol=1e-6, atol=1e-14)
    few = FeatureDescent(replace(plain, batch=20), body(frozen=True), x, y)
    few.step(0.0)
    assert int(((few.features() - H).abs().sum(1) > 0).sum()) == 20
    assert few.steps_per_epoch == 3
    heavy = FeatureDescent(replace(plain, momentum=0.9), body(frozen=True), x, y)
    heavy.step(0.0)
    torch.testing.assert_close(heavy.features() - H, 0.1 * (descent.features() - H), rtol=1e-6, atol=1e-14)


def test_what_cannot_be_descended_is_refused() -> None:
    for wrong in ({"renormalize": True, "rate_ratio": 1.0}, {"batch": 10}, {"momentum": 1.0}, {"offsets": -1.0}):
        with pytest.raises(ValueError, match=r"needed|need|renormalized"):
            Descent(**wrong)  # type: ignore[arg-type]


def test_bodies_freeze_what_they_say() -> None:
    data = rung_data(0)
    x, y = examples(data)
    assert (y.diff() >= 0).all()
    counts = {}
    for name in ("free", "network", "last-layer", "linear-exact", "mlp-exact"):
        layers = body_of(BY_NAME[name], x, y, 0)
        counts[name] = [all(p.requires_grad for p in layer.parameters()) for layer in layers if isinstance(layer, nn.Linear)]
    assert counts == {
        "free": [False, False, False],
        "network": [True, True, False],
        "last-layer": [False, False, True],
        "linear-exact": [True, True, True],
        "mlp-exact": [True, True],
    }
    assert len({rung.name for rung in RUNGS}) == len(RUNGS)


@pytest.mark.parametrize("name", ["free", pytest.param("whitened", marks=pytest.mark.slow)])
def test_the_controls_come_out_as_what_they_are(name: str, tmp_path: Path) -> None:
    rung = replace(BY_NAME[name], steps=1500)
    data = rung_data(0)
    x, y = examples(data)
    x, y = x[y < 4][::2], y[y < 4][::2]
    assert rung.descent is not None
    how = replace(rung.descent, step=0.004)
    descend(FeatureDescent(how, body_of(rung, x, y, 0), x, y), rung, 0, tmp_path / name)
    result = result_of(rung, [tmp_path / name])
    assert (result.group.selection.outcome, result.group.selection.name) == ("named", rung.expected)
    for part in ("means", "deviations"):
        kernel = result.middle(f"cosine_{part}_gradient")[0]
        assert (kernel == pytest.approx(1, abs=1e-9)) == (name == "free")
    drift, share = result.middle("sigma_t_left")[0], result.middle("signal_share")[0]
    assert (drift < 0.01) == (name == "free")
    assert (share == pytest.approx(1, abs=1e-6)) == (name == "whitened")


def test_a_run_is_finished_or_another_or_begun_again(tmp_path: Path) -> None:
    rung = replace(BY_NAME["free"], steps=20)
    run_rung(rung, 0, tmp_path / "run")
    stored = (tmp_path / "run" / "trajectory.npz").read_bytes()
    run_rung(rung, 0, tmp_path / "run")
    assert (tmp_path / "run" / "trajectory.npz").read_bytes() == stored
    with pytest.raises(ValueError, match=r"another run \(data = "):
        run_rung(rung, 1, tmp_path / "run")
    (tmp_path / "run" / FINISHED).unlink()
    with pytest.warns(UserWarning, match="this one begins anew: they are kept in"):
        run_rung(rung, 0, tmp_path / "run")
    assert json.loads((tmp_path / "run" / FINISHED).read_text())["rung"] == "free"


def test_a_run_that_another_command_trains_is_left_alone(tmp_path: Path) -> None:
    with write_lock(tmp_path), pytest.raises(ValueError, match=f"^another command is writing {tmp_path}: wait"):
        run_rung(replace(BY_NAME["free"], steps=5), 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_ladder_runs_on_official_files_and_resumes_wherever_they_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "files", per_class=12, side=8)
    write_mnist(tmp_path / "other", seed=1, per_class=12, side=8)
    rungs = (replace(BY_NAME["free"], steps=10), replace(BY_NAME["mlp"], train=trained(epochs=3)))
    monkeypatch.setattr("sims.rungs.rung.RUNGS", rungs)

    def climbed(folder: str, *more: str, out: str = "out") -> int:
        where = ("--dataset", "fashionmnist", "--data-dir", str(tmp_path / folder))
        sizes = ("--per-class", "10", "--test-per-class", "4")
        return command.main(["--out", str(tmp_path / out), "--seeds", "1", *where, *sizes, *more])

    assert climbed("files", "--train-only") == 0
    runs = tmp_path / "out" / "runs"
    config = json.loads((runs / "mlp-seed0" / "config.json").read_text())
    chosen = {"dataset": "fashionmnist", "per_class": 10, "test_per_class": 4, "batch_size": 100}  # all examples in a step
    assert {name: config[name] for name in chosen} == chosen
    stored = {path: path.read_bytes() for path in runs.rglob("*.npz")}
    counts = [np.load(path)["counts"] for path in stored if path.name.startswith("statistics")]
    assert len(counts) >= 4
    assert all((count == 10).all() for count in counts)
    (runs / "mlp-seed0" / FINISHED).unlink()
    (tmp_path / "files").rename(tmp_path / "moved")
    assert climbed("moved") == 0
    assert {path: path.read_bytes() for path in runs.rglob("*.npz")} == stored
    assert json.loads((tmp_path / "out" / "ladder.json").read_text())["data"] == "fashionmnist, 10 examples per class"
    assert "Data: fashionmnist, 10 examples per class." in (tmp_path / "out" / "ladder.html").read_text()
    capsys.readouterr()
    assert climbed("other") == 2
    assert "is another run (data = " in capsys.readouterr().err
    assert climbed("files", out="new") == 2  # nothing is there any more
    assert not (tmp_path / "new").exists()


def test_the_rate_falls_where_there_are_more_inputs(tmp_path: Path) -> None:
    write_mnist(tmp_path / "files", per_class=3, side=16)
    choice = DataChoice("mnist", str(tmp_path / "files"))
    data = rung_data(0, choice)
    rates = {name: BY_NAME[name].training(0, choice, data).rate for name in ("linear", "mlp", "mlp-bn", "residual")}
    assert rates == {"linear": 1.0 / 4, "mlp": 2.0 / 2, "mlp-bn": 1.0, "residual": 1.0 / 2}


def test_runs_on_the_digits_are_what_they_were_before_other_data() -> None:
    data = rung_data(0)
    for name in ("rate-10", "mlp", "mlp-sgd"):
        rung = BY_NAME[name]
        how = rung.train or rung.descent
        assert how is not None
        values = {key: str(value) if value == np.inf else value for key, value in asdict(how).items()}
        facts = {"rung": name, "body": rung.body, "steps": rung.steps, "seed": 0, "data": data.fingerprint}
        assert rung.identity(0, data, DIGITS_DATA) == facts | values


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--dataset", "letters"), "letters"),
        (("--dataset", "fashionmnist"), "data_dir"),
        (("--per-class", "5000"), "5000"),
        (("--seeds", "0"), "seeds"),
        (("--rungs", "stairs"), "stairs"),
        (("--threads", "0"), "threads"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_bad_options_end_in_one_line(options: tuple[str, str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sims.ladder: error: ")
    assert error.count("\n") == 1
    assert word in error
    assert not (tmp_path / "out").exists()


def test_the_command_resumes_and_writes_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(BY_NAME["whitened"], steps=30)
    run_rung(short, 0, tmp_path / "runs" / "whitened-seed0")
    numbers = judged_rung(short, [tmp_path / "runs" / "whitened-seed0"], tmp_path)
    before = (tmp_path / "judged" / "whitened.json").stat().st_mtime_ns
    assert judged_rung(short, [tmp_path / "runs" / "whitened-seed0"], tmp_path) == numbers
    assert (tmp_path / "judged" / "whitened.json").stat().st_mtime_ns == before
    assert numbers["outcome"] == "not compared"  # too few epochs in so few steps
    assert "at least 3 are needed" in numbers["notes"][0]
    write_ladder([numbers], tmp_path)
    names = {"ladder.json", "ladder.md", "ladder.html", "ladder.png", "ladder.pdf"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    page, table = (tmp_path / "ladder.html").read_text(), (tmp_path / "ladder.md").read_text()
    assert table.splitlines()[2].startswith("| whitened | ")
    assert "whitened" in page
    assert "http" not in page
    assert json.loads((tmp_path / "ladder.json").read_text())["rungs"] == [numbers]
    assert not capsys.readouterr().out

"""What several processes refuse together, and the digits that they keep: against an oracle of 60 digits."""

import os
from pathlib import Path

import mpmath
import numpy as np
import pytest

from tests.ufm.flow.test_full_shares import CutRows, Group, in_threads
from ufm.distributed import OneProcess
from ufm.features.snr import Snr
from ufm.files.shards import Shards
from ufm.flow.command import main, parser
from ufm.flow.config import FlowConfig
from ufm.flow.sharded_start import prepare_shards
from ufm.flow.source import check_options_alike
from ufm.flow.stages import FlowStage

SIZES, CUTS = (40, 31, 20, 12), (0, 35, 103)
CONFIG = FlowConfig(features="rows")


def rows_of(offset: float, apart: float, cond: float) -> CutRows:
    """Shuffled rows of unequal classes: so far from the origin, class means so far apart, and cond(Sigma_W) as told."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    first, last = (np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2))
    mixing = first * np.geomspace(1, cond**-0.5, 5) @ last
    rows = (rng.standard_normal((len(labels), 5)) + 0.5 * rng.standard_normal((len(SIZES), 5))[labels]) @ mixing
    return CutRows(rows + offset + apart * rng.standard_normal((len(SIZES), 5))[labels], labels, CUTS)


def omega_by_mpmath(rows: CutRows) -> np.ndarray:
    """The singular values of L^{-1} (M - mu_G 1^T), L L^T = Sigma_W, of the very float64 numbers. (C - 1,)"""
    with mpmath.workdps(60):
        X, C = mpmath.matrix(rows.rows.tolist()), len(SIZES)
        M = mpmath.matrix(C, rows.P)
        for row, label in enumerate(rows.classes.tolist()):
            M[label, :] += X[row, :] / SIZES[label]
        D = mpmath.matrix([(X[row, :] - M[label, :]).tolist()[0] for row, label in enumerate(rows.classes.tolist())])
        whiten = mpmath.cholesky(D.T * D / rows.n) ** -1
        mean = mpmath.matrix([[sum(X[:, p]) / rows.n for p in range(rows.P)]])
        S = whiten * mpmath.matrix([(M[c, :] - mean).tolist()[0] for c in range(C)]).T
        squares = mpmath.eigsy(S.T * S, eigvals_only=True)
        return np.array(sorted(map(float, map(mpmath.sqrt, list(squares)[1:])), reverse=True))


@pytest.mark.parametrize(
    ("offset", "apart", "cond", "relative"),
    [(1e6, 0, 1, 1e-14), (0, 1e6, 1, 1e-14), (0, 0, 1e8, 1e-12), (0, 0, 1e10, 1e-11), (1e6, 0, 1e10, 1e-11)],
)
def test_one_and_two_processes_keep_the_digits_of_an_oracle(offset, apart, cond, relative):
    """The distance of class means costs no digit; what QR keeps of Sigma_W is eps cond(Sigma_W)^(1/2), 2e-11 at 1e10."""
    rows = rows_of(offset, apart, cond)

    def start(group: Group | OneProcess) -> Snr[np.ndarray]:
        return prepare_shards(CONFIG, rows, group).snr

    one, (first, second) = start(OneProcess()), in_threads(2, start)
    exact = omega_by_mpmath(rows)
    for measured in (one, first):
        np.testing.assert_allclose(measured.omega, exact, rtol=relative)
    np.testing.assert_allclose(first.omega, one.omega, rtol=relative)
    np.testing.assert_allclose(first.V, one.V, atol=relative)
    for name in ("omega", "V", "left_vectors"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("differing", ["rows", "dtype"])
def test_files_of_other_rows_or_dtypes_under_the_same_names_are_refused(tmp_path, differing):
    """As on disks of their own: rows would be lost and count twice, and the processes would take other branches and wait."""
    rows = rows_of(0, 0, 1)

    def write(folder: Path, cut: int, dtype: type) -> None:
        folder.mkdir()
        for k, part in enumerate((slice(0, cut), slice(cut, None))):
            np.savez(folder / f"{k}.npz", features=rows.rows[part].astype(dtype), labels=rows.classes[part])

    write(tmp_path / "0", 40, np.float64)
    write(tmp_path / "1", 40 + (differing == "rows"), np.float32 if differing == "dtype" else np.float64)

    def work(group: Group) -> None:
        with pytest.raises(
            ValueError, match="do not see the same 2 shards, in names, rows or dtypes: give all of them all files"
        ):
            prepare_shards(CONFIG, Shards.of(str(tmp_path / str(group.rank) / "*.npz")), group)

    in_threads(2, work)


@pytest.mark.parametrize("name", ["features", "labels"])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_process_cannot_read_is_told_in_all(tmp_path, name, rank):
    rows = rows_of(0, 0, 1)
    for k, part in enumerate((slice(0, 51), slice(51, None))):  # of 103: the shares of two
        np.savez(tmp_path / f"{k}.npz", features=rows.rows[part], labels=rows.classes[part])
    shards, path = Shards.of(str(tmp_path / "*.npz")), tmp_path / f"{rank}.npz"
    place = path.read_bytes().index(rows.rows[51 * rank].tobytes() if name == "features" else b"<i8")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(place + 200)
        file.write(b"\xff" * 100)
    os.utime(path, ns=times)  # as a disk damages a file, not a writer

    def work(group: Group) -> str:
        with pytest.raises(ValueError, match=rf"cannot read .*{rank}\.npz: Bad CRC-32 for file '{name}\.npy'") as error:
            prepare_shards(CONFIG, shards, group)
        return str(error.value)

    said = in_threads(2, work)
    assert said[1 - rank] == f"process {rank} failed: {said[rank]}"


@pytest.mark.parametrize("size", [1, 2])
def test_a_nan_is_told_with_its_file_and_row(tmp_path, size):
    rows = rows_of(0, 0, 1)
    spoilt = rows.rows.copy()
    spoilt[77, 2] = np.nan
    for k in range(3):
        part = slice(40 * k, 40 * (k + 1))
        np.savez(tmp_path / f"{k}.npz", features=spoilt[part], labels=rows.classes[part])
    shards = Shards.of(str(tmp_path / "*.npz"))
    with pytest.raises(ValueError, match=r"NaN or infinite entries, first in row 37 of .*1\.npz: leave such rows out"):
        in_threads(size, lambda group: prepare_shards(CONFIG, shards, group))


@pytest.mark.parametrize(
    ("of_one", "of_other", "named"),
    [
        (["--t-end", "2"], ["--t-end", "3"], "--t-end"),
        (["--full"], [], "--full"),
        (["--out", "a.npz", "--plot", "a.png"], [], "--out, --plot"),
        (["--out", "a.npz"], ["--out", "b.npz"], "--out"),
        (["--out", "folder/", "--plot", ""], [], "--out, --plot"),
        (["--flow", "all", "--points", "5"], ["--points", "6"], "--flow, --points"),
    ],
)
def test_processes_of_different_options_are_refused(of_one, of_other, named):
    """They would wait for each other for ever, or mix two runs into one result."""

    def work(group: Group) -> None:
        options = vars(parser().parse_args((of_one, of_other)[group.rank]))
        with pytest.raises(ValueError, match=f"are given different {named}: start all of them by the same command"):
            check_options_alike(options, group)

    in_threads(2, work)


@pytest.mark.parametrize("wrong", [["--growth", "-1"], ["--out", "a.txt"], ["--start", "raw", "--flow", "all"]])
def test_an_option_that_is_wrong_in_one_process_alone_is_a_differing_one(wrong, monkeypatch, capsys):
    """It would leave at once, and the others would wait for it."""
    monkeypatch.setattr("ufm.flow.command.processes", lambda: OfTwo())
    assert main(["--features", "nowhere/*.npz", *wrong]) == 2
    assert "the processes are given different" in capsys.readouterr().err


def test_processes_may_give_one_run_other_paths_and_be_quiet():
    calls = (["--features", "/a/*.npz", "--out", "a.npz"], ["--features", "/b/*.npz", "--out", "/c/a.npz", "--quiet", "--json"])
    in_threads(2, lambda group: check_options_alike(vars(parser().parse_args(calls[group.rank])), group))


class OfTwo(OneProcess):
    """Process 0 of two, the other of which has other options."""

    size, asked = 2, 0

    def smallest(self, values: np.ndarray) -> np.ndarray:
        """The other process says less, at first."""
        self.asked += 1
        return values - (self.asked == 1)


def test_the_command_compares_options_before_anything_is_read(monkeypatch, capsys):
    monkeypatch.setattr("ufm.flow.command.processes", OfTwo)
    assert main(["--features", "nowhere/*.npz"]) == 2
    assert "the processes are given different" in capsys.readouterr().err


def test_an_interrupt_among_the_vectors_of_a_moment_leaves_the_one_before(monkeypatch):
    """The state that is kept on Ctrl-C would have the sign or the order of vectors that the resumed run meets again."""

    config = FlowConfig(features="rows", full=True, flow="unnormalized", start="raw", t_end=5.0, points=6, steps=4)
    start = prepare_shards(config, rows_of(0, 0, 1), OneProcess())
    stage = FlowStage(config, start.features.astype(np.float64), np.linspace(0, 5, 6), start, np.ones(6, dtype=bool))
    means = start.layout.means(stage.state)
    before = stage.V

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FlowStage, "left_vectors", stop)
    with pytest.raises(KeyboardInterrupt):
        stage.record(means)
    assert (stage.V is before, stage.count) == (True, 1)

"""The tests without a clock of one run: from its stored class statistics, as numbers, a table and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from manifolds.linalg import epsilon
from sims.comparison.entries import change_of_stored_layer, measured
from sims.comparison.runs import Observed
from ufm.compare.clock_free import Conservation, Estimate, GrowthSplit, Rotation, conservation, growth_split, rotation
from ufm.compare.column_sum_decay import ColumnSumDecay, column_sum_decay
from ufm.compare.comparison import Comparison
from ufm.compare.coordinates import Entry, frame_of, gram_of_spectrum, log_gram
from ufm.compare.implied import SeenStatistics, seen_statistics
from ufm.files.features import classifier_of
from ufm.files.json_objects import JsonObject
from ufm.files.plot import BLACK, BLUE, GREEN, few_ticks, panels
from ufm.files.store import load_arrays
from ufm.laws.trajectory import Trajectory
from ufm.monitor.epoch_statistics import load_statistics

OTHER_SNR = 0.1  # of the growth of log omega, by which the statistics of an epoch may differ from what is recorded of it


@dataclass(frozen=True, eq=False)
class ClockFreeTests:
    """What could be tested of a run: epochs (T,) with statistics, each test or None, why one is missing, and what a name is held
    against.
    """

    epochs: np.ndarray
    conservation: Conservation | None = None
    split: GrowthSplit | None = None
    rotation: Rotation | None = None
    column_sums: ColumnSumDecay | None = None
    notes: list[str] = field(default_factory=list)
    seen: SeenStatistics | str | None = None

    def numbers(self) -> JsonObject:
        """For report.json; None where a test is missing."""
        values: JsonObject = {"epochs": self.epochs, "notes": self.notes}
        kept, parts, turned, sums = self.conservation, self.split, self.rotation, self.column_sums
        values["sigma_t_change"] = None if kept is None else kept.change
        values["sigma_t_factor"] = None if kept is None else _value_and_interval(kept.last_factor)
        values["sigma_t_rest"] = None if kept is None else _value_and_interval(kept.last_rest)
        values["signal_share"] = None if parts is None else _value_and_interval(parts.share)
        values["signal_share_predicted"] = None if parts is None else parts.predicted
        values["r_of_split"] = None if parts is None else parts.r
        values["rotation_coefficient"] = None if turned is None else _value_and_interval(turned.coefficient)
        values["rotation_predicted_rms"] = None if turned is None else turned.size
        values["column_sums_factor"] = None if sums is None else _value_and_interval(sums.last)
        values["column_sums_predicted"] = None if sums is None else float(sums.predicted[-1])
        return values


def clock_free_tests(run: Observed, comparison: Comparison) -> ClockFreeTests:
    """The tests of the epochs compared whose class statistics are stored."""
    compared = comparison.window.compared
    assert compared is not None
    inside = {file: epoch for file, epoch in run.files.items() if epoch in compared.t}
    epochs, whole, basis = stored_statistics(inside)
    entries = reduced(whole, basis)
    if len(epochs) < 2:
        return ClockFreeTests(epochs, notes=[f"class statistics of {len(epochs)} epochs are stored: the tests need 2"])
    notes = list[str]()
    parts, turned, sums = None, None, None
    try:
        parts = growth_split(entries)
    except ValueError as error:
        notes.append(f"split: {error}")
    try:
        turned = rotation(measured(compared, run.entry(float(compared.t[0])))[0])
    except ValueError as error:
        notes.append(f"rotation: {error}")
    if run.config.get("loss") == "ce" and run.config.get("optimizer") == "sgd" and run.kind == "trained":
        try:
            sums = _column_sums(run, inside)
        except ValueError as error:
            notes.append(f"sum of the classifier's rows: {error}")
    seen = notes[0].removeprefix("split: ") if parts is None else _held_against(compared, epochs, whole, entries, parts)
    if isinstance(seen, SeenStatistics):
        seen = replace(seen, layer=change_of_stored_layer(inside))
    return ClockFreeTests(epochs, conservation(entries), parts, turned, sums, notes, seen)


def _held_against(
    compared: Trajectory, epochs: np.ndarray, whole: Sequence[Entry], entries: Sequence[Entry], parts: GrowthSplit
) -> SeenStatistics | str:
    """What a name is held against; a sentence where the SNR recorded has come to be in other directions than at first."""
    run, _ = measured(compared, None)
    growth = float((parts.signal + parts.noise).sum(0).mean())
    if run.V.ndim == 3:
        rows = np.searchsorted(run.t, epochs)
        frame = frame_of(entries[0].gram())
        try:
            recorded = log_gram(gram_of_spectrum(run.omega[rows], run.V[rows], entries[0].priors), frame)
            gap = abs(log_gram(np.array([entry.gram() for entry in entries]), frame) - recorded).max()
        except ValueError as error:
            return str(error)
        if not gap <= OTHER_SNR * abs(growth):
            return f"Sigma_W has come to vary in other directions than at first, which hold {gap:.2g} of log omega"
    return seen_statistics(entries, parts, whole)


def entries_in_one_basis(files: Mapping[Path, float]) -> tuple[np.ndarray, list[Entry]]:
    """Epochs (T,) and class statistics of files of features or of statistics, all in one basis of the range of
    Sigma_W of the first.
    """
    epochs, entries, basis = stored_statistics(files)
    return epochs, reduced(entries, basis)


def stored_statistics(files: Mapping[Path, float]) -> tuple[np.ndarray, list[Entry], np.ndarray]:
    """Epochs (T,), class statistics, and a basis of the range of Sigma_W of the first, as `range_of_covariance` tells it."""
    from ufm.features.labels import check_labels
    from ufm.features.ranges import range_of_covariance
    from ufm.features.statistics import statistics_of
    from ufm.files.store import load_features

    entries, basis = dict[float, Entry](), np.zeros((0, 0))
    for path, epoch in sorted(files.items(), key=lambda item: item[1]):
        if path.name.startswith("statistics-"):
            arrays = load_statistics(path)
            counts, means, sigma_w, eps = (arrays[name] for name in ("counts", "class_means", "sigma_w", "precision"))
        elif epoch not in entries:
            features, labels = load_features(path)
            labels = check_labels(features, labels)
            stats = statistics_of(features.astype(np.float64), labels, int(labels.max()) + 1)
            counts, means, sigma_w, eps = np.bincount(labels), stats.means, stats.sigma_w, epsilon(features)
        else:
            continue
        priors = counts / counts.sum()
        if not entries or epoch == next(iter(entries)):
            _, E, dropped, _ = range_of_covariance(sigma_w, means, priors, float(eps))
            basis = E[:, dropped:]
        entries[epoch] = Entry(counts, means - (means @ priors)[:, None], sigma_w)
    return np.array(list(entries)), list(entries.values()), basis


def reduced(entries: Sequence[Entry], basis: np.ndarray) -> list[Entry]:
    """Class statistics in the directions of a basis (P, r); as they are where these are all."""
    if basis.shape[0] == basis.shape[1]:
        return list(entries)
    return [Entry(entry.counts, basis.T @ entry.M, basis.T @ entry.sigma_w @ basis) for entry in entries]


def _column_sums(run: Observed, files: Mapping[Path, float]) -> ColumnSumDecay:
    from sims.training.folder import load_run

    config, _ = load_run(run.path)
    of_epoch = {epoch: _stored_classifier(path) for path, epoch in sorted(files.items(), key=lambda item: item[1])}
    epochs = [int(epoch) for epoch in of_epoch]
    n = int(run.trajectory.class_sizes.sum())
    steps = -(-n // config.batch_size)
    stretches = [
        np.repeat([config.rate_at(epoch) for epoch in range(first + 1, last + 1)], steps) for first, last in pairwise(epochs)
    ]
    W = np.array(list(of_epoch.values()), dtype=np.float64)
    return column_sum_decay(W, stretches, config.weight_decay, config.momentum)


def _stored_classifier(path: Path) -> np.ndarray:
    """W (C, P) of a file of statistics or features."""
    classifier = classifier_of(load_arrays(path, ("W",)), path)
    if classifier is None:
        raise ValueError(f"{path} has no W: the run was stored without its classifier")
    return classifier[0]


def clock_free_rows(tests: ClockFreeTests) -> list[list[str]]:
    """Test, measured with its interval, predicted by plain descent on free features."""
    rows = list[list[str]]()
    if tests.conservation is not None:
        rows.append(
            ["Σ_T: common factor, first to last epoch", _text(tests.conservation.last_factor), "1 (less with feature decay)"]
        )
        rows.append(["Σ_T: rest of its directions, rms of the logarithm", _text(tests.conservation.last_rest), "0"])
    if tests.split is not None:
        rows.append(["share of the class means in the growth of log ω", _text(tests.split.share), f"{tests.split.predicted:.3g}"])
    if tests.rotation is not None:
        rows.append(["rotation, over the predicted one", _text(tests.rotation.coefficient), "1 (frozen vectors: 0)"])
    if tests.column_sums is not None:
        rows.append(["NC0: factor of 1ᵀW", _text(tests.column_sums.last), f"{tests.column_sums.predicted[-1]:.3g}"])
    return rows


def clock_free_figure(tests: ClockFreeTests) -> Figure | None:
    """Change of Sigma_T; signal and noise of the growth; rotation beside the predicted one; the classifier's row sum."""
    if tests.conservation is None:
        return None
    shown = 3 + (tests.column_sums is not None)
    figure, (axes,) = panels(1, shown, 3.0 * shown, 3.0)
    kept = tests.conservation
    axes[0].plot(tests.epochs, kept.change, "o-", color=BLACK, markersize=3, label="relative change")
    axes[0].plot(tests.epochs, kept.rest, "s--", color=BLUE, markersize=3, label="besides a common factor")
    axes[0].axhline(0, color=GREEN, linestyle="-.", label="plain descent")
    axes[0].set_title("Σ_T since the start", fontsize=9, y=1.0)
    if tests.split is not None:
        middle = (tests.epochs[1:] + tests.epochs[:-1]) / 2
        axes[1].plot(middle, tests.split.signal.mean(1).cumsum(), "o-", color=BLACK, markersize=3, label="class means")
        axes[1].plot(middle, tests.split.noise.mean(1).cumsum(), "s--", color=BLUE, markersize=3, label="deviations")
        expected = (tests.split.shares_between() * (tests.split.signal + tests.split.noise).mean(1)).cumsum()
        axes[1].plot(middle, expected, "-.", color=GREEN, label="class means, plain descent")
    axes[1].set_title("growth of log ω by", fontsize=9, y=1.0)
    if tests.rotation is not None and tests.rotation.size > 0:
        x, y = tests.rotation.predicted[-1], tests.rotation.measured[-1]
        ends = np.array([min(x.min(), 0), max(x.max(), 0)])
        axes[2].plot(x, y, "o", color=BLACK, markersize=3, label="last epoch")
        axes[2].plot(ends, ends, "-.", color=GREEN, label="plain descent")
        axes[2].plot(ends, 0 * ends, ":", color=BLUE, label="frozen vectors")
        axes[2].set_xlabel("predicted", fontsize=8)
        axes[2].locator_params(axis="x", nbins=4)  # small numbers of many digits, which would run into each other
    axes[2].set_title("Y off the diagonal", fontsize=9, y=1.0)
    if tests.column_sums is not None:
        axes[3].semilogy(tests.epochs, abs(tests.column_sums.measured), "o", color=BLACK, markersize=3, label="measured")
        axes[3].semilogy(tests.epochs, abs(tests.column_sums.predicted), "-.", color=GREEN, label="optimizer settings")
        axes[3].set_title("1ᵀW over its first value", fontsize=9, y=1.0)
        few_ticks(axes[3])
    for one in axes:
        one.tick_params(labelsize=8)
        if one.get_legend_handles_labels()[0]:
            one.legend(frameon=False, fontsize=7)
        if not one.get_xlabel():
            one.set_xlabel("epoch", fontsize=8)
    return figure


def _value_and_interval(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def _text(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"

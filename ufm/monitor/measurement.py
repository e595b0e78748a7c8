"""Neural collapse of labelled features at one moment: float64 class statistics, every measure of the paper, the SNR.

What is undefined at some moment (angles of zero vectors, NC1 of coinciding class means) is NaN, with its reason in `undefined`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from manifolds.linalg import epsilon
from manifolds.representation import short_repr
from ufm.arrays import as_numpy, check_unmasked
from ufm.features import measures
from ufm.features.labels import check_whole
from ufm.features.ranges import Classifier, RangeSnr, decomposition, snr_in_range
from ufm.features.statistics import CHUNK, ClassStatistics, StreamingStatistics
from ufm.laws.trajectory import LOSS_PARTS
from ufm.monitor.decisions import Decider, Decisions
from ufm.monitor.layers import effective_rank

MEASURES = ("nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maxangle", "nc3", "nc4")
CLASSIFIER_MEASURES = ("nc2_equinorm_w", "nc2_equiangular_w", "nc2_maxangle_w")
NO_LAMBDA = "lambda is not known: give lam=, C wd / 2 for MSELoss and weight decay wd; cross-entropy has none"
MOST_FEATURES = 512  # P above which a Sigma_W an epoch would be most of what a run stores
MOST_CLASSES = 8192  # whose loss is split: the residual of the class means is C x C


@dataclass(frozen=True, eq=False, repr=False)
class Measurement:
    """Named scalars of one moment of a network (test set: prefix `test_`), its SNR, the examples a class, the test set's SNR.

    The class statistics themselves up to P = MOST_FEATURES, the classifier where it is known, the features' machine epsilon, and
    the lambda at which the loss was split (None where it was not).
    """

    scalars: dict[str, float]
    snr: RangeSnr
    counts: np.ndarray
    undefined: tuple[str, ...]
    test_snr: RangeSnr | None = None
    statistics: ClassStatistics[Tensor] | None = None
    classifier: Classifier | None = None
    precision: float = 0.0
    lam: float | None = None
    __repr__ = short_repr

    def with_scalars(self, more: Mapping[str, float]) -> "Measurement":
        """The same with more scalars."""
        return replace(self, scalars={**self.scalars, **more})

    @property
    def reasons(self) -> dict[str, str]:
        """Why each undefined quantity is undefined; the parts of the loss share the reason of the loss."""
        by_name = dict(reason.split(": ", 1) for reason in self.undefined)
        for prefix in ("", "test_"):
            if f"{prefix}loss" in by_name:
                by_name |= {f"{prefix}{part}": by_name[f"{prefix}loss"] for part in LOSS_PARTS}
        return by_name


@dataclass(frozen=True, eq=False)
class ScalarCollector:
    """Scalars under construction and the reasons of the undefined ones."""

    values: dict[str, float]
    undefined: list[str]

    def add(self, name: str, value: Callable[[], float]) -> None:
        """The value, or NaN with the reason where it raises ValueError."""
        self.add_all((name,), lambda: (value(),))

    def add_all(self, names: Iterable[str], values: Callable[[], Iterable[float]]) -> None:
        """Several values, or NaN for all with the reason under the first name where they raise ValueError."""
        names = tuple(names)
        try:
            self.values.update(zip(names, values(), strict=True))
        except ValueError as error:
            self.values.update(dict.fromkeys(names, float("nan")))
            self.undefined.append(f"{names[0]}: {error}")


def scalars_of(stats: ClassStatistics[Tensor], classifier: Classifier, lam: float, precision: float) -> ScalarCollector:
    """Losses and measures that the statistics decide: all but NC4 and the error. `precision` is the features' epsilon."""
    scalars = feature_scalars(stats, precision)
    add_losses(scalars, stats, classifier, lam)
    add_classifier_scalars(scalars, stats, classifier)
    return scalars


def feature_scalars(stats: ClassStatistics[Tensor], precision: float) -> ScalarCollector:
    """What needs no classifier: NC1, and NC2 of the centred class means. `precision` is the features' epsilon."""
    scalars = ScalarCollector({}, [])
    scalars.add("nc1", lambda: measures.phd_nc1(stats, precision))
    add_angles(scalars, "", stats.centred_means)
    return scalars


def add_losses(scalars: ScalarCollector, stats: ClassStatistics[Tensor], classifier: Classifier, lam: float) -> None:
    """The loss and its parts."""

    def losses() -> tuple[float, ...]:
        if np.isnan(lam):
            raise ValueError(NO_LAMBDA)
        if stats.C > MOST_CLASSES:
            raise ValueError(f"C = {stats.C} classes: the loss is split for at most {MOST_CLASSES}, it needs C x C numbers")
        parts = decomposition(stats, classifier, lam)
        return parts.loss, parts.nc1, parts.nc23, parts.perp

    scalars.add_all(LOSS_PARTS, losses)


def add_classifier_scalars(scalars: ScalarCollector, stats: ClassStatistics[Tensor], classifier: Classifier) -> None:
    """What needs the classifier and no lambda: NC2 of its rows, NC3."""
    add_angles(scalars, "_w", classifier.W.mT)
    scalars.add("nc3", lambda: measures.phd_nc3(stats, classifier.W))


def add_angles(scalars: ScalarCollector, suffix: str, vectors: Tensor) -> None:
    """NC2 of vectors (P, K)."""
    scalars.add(f"nc2_equinorm{suffix}", lambda: measures.phd_equinorm(vectors))
    scalars.add(f"nc2_equiangular{suffix}", lambda: measures.phd_equiangular(vectors))
    scalars.add(f"nc2_maxangle{suffix}", lambda: measures.phd_maximal_angle(vectors))


def nc0(W: Tensor) -> float:
    """|| W^T 1 ||_2, the length of the sum of the rows of W (C, P): the NC0 of arXiv:2602.16642."""
    return float(torch.linalg.vector_norm(W.sum(0)))


def geometric_mean(snr: RangeSnr, stats: ClassStatistics[Tensor]) -> float:
    """Of the min(C - 1, P - dropped) values of omega that there are. Raises ValueError where one is 0 or undefined."""
    omega = snr.omega[: max(min(stats.C - 1, stats.P - snr.dropped), 1)]
    if not np.isfinite(omega).all() or not (omega > 0).all():
        raise ValueError(f"{int((omega > 0).sum())} of {len(omega)} values of omega are positive and finite")
    return float(np.exp(np.log(omega).mean()))


def measurement_of(
    scalars: ScalarCollector,
    stats: ClassStatistics[Tensor],
    precision: float,
    test_snr: RangeSnr | None = None,
    classifier: Classifier | None = None,
) -> Measurement:
    """The scalars with the SNR of the features; precision is the machine epsilon of their dtype."""
    K = min(stats.C - 1, stats.P)
    try:
        snr = snr_in_range(stats, precision)
    except ValueError as error:
        nothing = np.full((stats.C + stats.P + 1, K), np.nan)
        snr = RangeSnr(nothing[0], nothing[1 : stats.C + 1], nothing[stats.C + 1 :], stats.P, 1.0)
        scalars.undefined.append(f"omega: {error}")
    counts = as_numpy(stats.counts).astype(np.int64)
    kept = stats if stats.P <= MOST_FEATURES else None
    return Measurement(scalars.values, snr, counts, tuple(scalars.undefined), test_snr, kept, classifier, precision)


def measure_features(features: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray, lam: float) -> Measurement:
    """Everything measured on features (n, P), labels (n,) in 0..C-1 and a classifier W (C, P), b (C,), held in memory.

    lam is NaN where it is not known, and so are the parts of the loss then. Raises ValueError for shapes that do not fit, labels
    that are no whole numbers or out of range, masked arrays, a class without example, NaN or infinite features, a negative lam.
    """
    check_unmasked(features, "features")
    check_whole(labels)
    if lam is None or lam < 0:
        raise ValueError(f"lam = {lam}: lambda is at least 0, or float('nan') where it is not known")
    if W.ndim != 2 or b.shape != W.shape[:1] or features.ndim != 2 or features.shape[1] != W.shape[1]:
        raise ValueError(f"features {features.shape}, W {W.shape} and b {b.shape} do not fit: (n, P), (C, P) and (C,) are needed")
    # torch takes no negative strides
    classifier = Classifier(*(torch.from_numpy(np.ascontiguousarray(array)).double() for array in (W, b)))
    classifier.check()
    streaming = StreamingStatistics(len(W))
    for H, y in _chunks(features, labels):
        streaming.update(H, y)
    stats = streaming.compute()
    precision = epsilon(features[:0])
    scalars, counts = scalars_of(stats, classifier, lam, precision), Decisions()
    decide = Decider(classifier, stats.means)
    for H, y in _chunks(features, labels):
        counts += decide(H, y)
    scalars.values["train_error"], scalars.values["nc4"] = counts.wrong / stats.n, counts.disagreements / stats.n
    scalars.values["ncc_accuracy"], scalars.values["nc0"] = 1 - counts.wrong_by_mean / stats.n, nc0(classifier.W)
    scalars.add("effective_rank", lambda: effective_rank(stats))
    measured = measurement_of(scalars, stats, precision, classifier=classifier)
    scalars.add("omega_geometric_mean", lambda: geometric_mean(measured.snr, stats))
    return replace(measured, undefined=tuple(scalars.undefined), lam=lam)


def _chunks(features: np.ndarray, labels: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Copies, so that a memory-mapped file is read a piece at a time and stays as it is."""
    for start in range(0, len(features), CHUNK):
        window = slice(start, start + CHUNK)
        native = features.dtype.newbyteorder("=")
        yield torch.from_numpy(np.array(features[window], dtype=native)), torch.from_numpy(labels[window].astype(np.int64))

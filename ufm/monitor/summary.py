"""From merged moments to named values: what a metric returns, and why the rest is undefined."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ufm.features.ranges import Classifier
from ufm.features.statistics import ClassStatistics
from ufm.laws.trajectory import LOSS_PARTS
from ufm.monitor import regression
from ufm.monitor.decisions import Decisions
from ufm.monitor.layers import effective_rank
from ufm.monitor.measurement import (
    CLASSIFIER_MEASURES,
    MEASURES,
    NO_LAMBDA,
    Measurement,
    ScalarCollector,
    add_angles,
    add_classifier_scalars,
    add_losses,
    feature_scalars,
    geometric_mean,
    measurement_of,
    nc0,
)
from ufm.monitor.moments import Moments

DECIDED = ("train_error", "nc4", "ncc_accuracy")
OF_CLASSIFIER = (*LOSS_PARTS, *CLASSIFIER_MEASURES, "nc3", "nc0", "train_error", "nc4")
OF_FEATURES = (
    *(name for name in MEASURES if name not in OF_CLASSIFIER),
    "effective_rank",
    "omega_geometric_mean",
    "ncc_accuracy",
)
OF_RANGE = ("omega_rounding", "dropped", "lost_signal")
NO_CLASSIFIER = "no classifier is known: give update(..., classifier=(W, b)) once"

Decide = Callable[[Classifier | None, Tensor, Tensor], Decisions]


@dataclass(frozen=True, eq=False)
class Summary:
    """Values by name, the reasons of those that are NaN, and the whole measurement where the targets are classes."""

    values: dict[str, float]
    reasons: dict[str, str]
    measurement: Measurement | None = None


def of_classes(moments: Moments, classifier: Classifier | None, lam: float | None, precision: float, decide: Decide) -> Summary:
    """Everything about labelled features. `classifier` is that of all classes, `moments` may have examples of fewer.

    `decide` counts decisions of a classifier and of the means (P, K) of classes (K,), and raises ValueError where it has no
    features to.
    """
    try:
        stats = moments.statistics()
        if stats.C < 2:
            raise ValueError(f"class {int(moments['classes'])} alone has examples: collapse needs examples of at least 2 classes")
    except ValueError as error:
        return _of_few_classes(moments, classifier, decide, str(error))
    scalars, reasons = feature_scalars(stats, precision), dict[str, str]()
    scalars.add("effective_rank", lambda: effective_rank(stats))
    if classifier is None:
        reasons |= dict.fromkeys(OF_CLASSIFIER, NO_CLASSIFIER)
    else:
        reasons |= _add_classifier(scalars, stats, classifier, moments["classes"], lam)
    decided = DECIDED[-1:] if classifier is None else DECIDED
    scalars.add_all(decided, lambda: _shares(decide(classifier, stats.means, moments["classes"]), stats.n, classifier))
    scalars.values.update(dict.fromkeys((name for name in reasons if name not in scalars.values), float("nan")))
    seen = classifier if classifier is None or len(classifier.W) == stats.C else None
    measured = measurement_of(scalars, stats, precision, classifier=seen)
    scalars.add("omega_geometric_mean", lambda: geometric_mean(measured.snr, stats))
    measured = replace(measured, undefined=tuple(scalars.undefined), lam=None if classifier is None else lam)
    snr, rounding = measured.snr, measured.snr.rounding
    if snr.dropped == stats.P:
        rounding, reasons["omega_rounding"] = float("nan"), measured.reasons["omega"]
    values = {**scalars.values, "omega_rounding": rounding, "dropped": float(snr.dropped), "lost_signal": float(snr.lost_signal)}
    values |= {"examples": float(stats.n), "classes_seen": float(stats.C)}
    shared = {name: measured.reasons[decided[0]] for name in decided if decided[0] in measured.reasons}
    return Summary(values, {**shared, **measured.reasons, **reasons}, measured)


def _of_few_classes(moments: Moments, classifier: Classifier | None, decide: Decide, reason: str) -> Summary:
    """What needs no mean of a class that has no example; the rest is undefined for the reason given."""
    scalars, seen, n = ScalarCollector({}, []), moments.seen(), float(moments["counts"].sum())
    if n:
        scalars.add("effective_rank", lambda: effective_rank(seen.statistics()))
    if classifier is not None:
        scalars.values["nc0"] = nc0(classifier.W)
        if len(moments["classes"]) > 1:
            add_angles(scalars, "_w", classifier.W[moments["classes"]].mT)
    if classifier is not None and n:
        scalars.add("train_error", lambda: decide(classifier, seen.statistics().means, seen["classes"]).wrong / n)
    reasons = dict.fromkeys((*OF_FEATURES, *OF_RANGE), reason)
    reasons |= dict.fromkeys(OF_CLASSIFIER, NO_CLASSIFIER if classifier is None else reason)
    values = {name: scalars.values.get(name, float("nan")) for name in reasons}
    values |= {"examples": n, "classes_seen": float(len(seen["classes"]))}
    own = dict(undefined.split(": ", 1) for undefined in scalars.undefined)
    return Summary(values, {name: own.get(name, why) for name, why in reasons.items() if math.isnan(values[name])})


def _add_classifier(
    scalars: ScalarCollector, stats: ClassStatistics[Tensor], classifier: Classifier, classes: Tensor, lam: float | None
) -> dict[str, str]:
    """Adds what the classifier decides about the classes that have examples; returns why there is no loss."""
    C = len(classifier.W)
    seen = classifier if stats.C == C else Classifier(classifier.W[classes], classifier.b[classes])
    add_classifier_scalars(scalars, stats, seen)
    if stats.C < C:
        reasons = dict.fromkeys(LOSS_PARTS, f"{C - stats.C} of {C} classes have no example, and the loss includes all classes")
    elif lam is None:
        reasons = dict.fromkeys(LOSS_PARTS, NO_LAMBDA)
    else:
        reasons = dict[str, str]()
        add_losses(scalars, stats, classifier, lam)
    scalars.values.update(dict.fromkeys(reasons, float("nan")))
    scalars.values["nc0"] = nc0(classifier.W)
    return reasons


def _shares(counts: Decisions, n: int, classifier: Classifier | None) -> tuple[float, ...]:
    network = () if classifier is None else (counts.wrong / n, counts.disagreements / n)
    return *network, 1 - counts.wrong_by_mean / n


def of_targets(
    moments: Moments, P: int, classifier: Classifier | None, distances: Callable[[Tensor, tuple[Tensor, ...]], Tensor]
) -> Summary:
    """NRC1-3 and the squared error of regression, from the joint moments of features (P) and targets.

    `distances` of a mean (P,) and of bases sums over all examples what `ufm.monitor.regression.squared_distances` sums.
    """
    scalars = ScalarCollector({}, [])
    try:
        stats = moments.statistics()
    except ValueError as error:
        values = dict.fromkeys(("nrc1", "nrc2", "nrc3", "mse"), float("nan"))
        return Summary({**values, "examples": float(moments["counts"].sum())}, dict.fromkeys(values, str(error)))
    joint = regression.JointMoments(stats.means[:, 0], stats.sigma_w, P)

    def share(basis: Callable[[], Tensor]) -> float:
        return float(distances(joint.mean[:P], (basis(),))[0]) / stats.n

    scalars.add("nrc1", lambda: share(lambda: regression.principal_subspace(joint)))
    reasons = dict[str, str]()
    if classifier is None:
        reasons = dict.fromkeys(("nrc2", "nrc3", "mse"), NO_CLASSIFIER)
        scalars.values.update(dict.fromkeys(reasons, float("nan")))
    else:
        scalars.add("nrc2", lambda: share(lambda: regression.row_space(classifier.W)))
        scalars.add("nrc3", lambda: regression.nrc3(classifier.W, joint.target_covariance)[0])
        scalars.values["mse"] = regression.mean_squared_error(joint, classifier.W, classifier.b)
    reasons |= dict(reason.split(": ", 1) for reason in scalars.undefined)
    return Summary({**scalars.values, "examples": float(stats.n)}, reasons)

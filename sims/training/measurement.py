"""Neural collapse of a network: one pass over its data, float64 class statistics, every measure of the paper.

A user's own network is measured by `measure_network(model, loader, layer, lam)`, features in memory by `measure_features`.
What is undefined at some moment (angles of zero vectors, NC1 of coinciding class means) is NaN, with its reason in `undefined`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from manifolds.linalg import epsilon
from sims.training.nets import last_linear
from sims.training.spool import FeatureSpool
from ufm.features import measures
from ufm.features.ranges import Classifier, RangeSnr, decomposition, snr_in_range
from ufm.features.statistics import CHUNK, ClassStatistics, StreamingStatistics

Loader = Iterable[tuple[Tensor, Tensor]]
LOSSES = ("loss", "loss_nc1", "loss_nc23", "loss_perp")
MEASURES = ("nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maxangle", "nc3", "nc4")
CLASSIFIER_MEASURES = ("nc2_equinorm_w", "nc2_equiangular_w", "nc2_maxangle_w")


@dataclass(frozen=True, eq=False)
class Measurement:
    """Named scalars of one moment of a network (test set: prefix `test_`), its SNR, the examples a class, the test set's SNR."""

    scalars: dict[str, float]
    snr: RangeSnr
    counts: np.ndarray
    undefined: tuple[str, ...]
    test_snr: RangeSnr | None = None


def measure_network(
    model: nn.Module,
    loader: Loader,
    layer: str,
    lam: float,
    test_loader: Loader | None = None,
    keep: Callable[[np.ndarray, np.ndarray], None] | None = None,
    scratch: Path | None = None,
) -> Measurement:
    """Everything measured on a network, in evaluation mode, in one pass over each loader of (inputs, labels).

    layer     dotted name of the last linear layer; its input is the feature h, its output (b, C) must be what the model returns
    lam       lambda of the loss 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||^2 + ||b||^2); for training with torch's MSELoss
              and weight decay wd it is C wd / 2 (`ufm.features.least_squares.lambda_of_weight_decay`)
    keep      called with the training features (n, P) and labels (n,), read from disk
    scratch   folder for the temporary file of features (n P numbers)

    Raises ValueError for an unknown layer, one whose output the model does not return, features that are not (b, P), labels out
    of range, NaN or infinite features, and a scratch folder that cannot be written.
    """
    head = last_linear(model, layer)
    classifier = Classifier.of(head)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FeatureSpool(scratch) as spool:
            stats, error, precision = _train_pass(model, head, loader, spool)
            found = _scalars(stats, classifier, lam)
            found.scalars["train_error"] = error
            found.scalars["nc4"] = _nc4(spool.chunks(CHUNK), classifier, stats.means, stats.n)
            if keep is not None:
                keep(spool.features, spool.labels)
            test_snr = None if test_loader is None else _add_test(found, model, head, test_loader, classifier, stats, lam)
        return _measurement(found, stats, precision, test_snr)
    finally:
        model.train(training)


def measure_features(features: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray, lam: float) -> Measurement:
    """The same from features (n, P), labels (n,) in 0..C-1 and a classifier W (C, P), b (C,), held in memory."""
    if W.ndim != 2 or b.shape != W.shape[:1] or features.ndim != 2 or features.shape[1] != W.shape[1]:
        raise ValueError(f"features {features.shape}, W {W.shape} and b {b.shape} do not fit: (n, P), (C, P) and (C,) are needed")
    H, y = torch.from_numpy(features), torch.from_numpy(labels.astype(np.int64))
    classifier = Classifier(torch.from_numpy(W).double(), torch.from_numpy(b).double())
    stats = StreamingStatistics(len(W)).update(H, y).compute()
    found = _scalars(stats, classifier, lam)
    wrong = sum(
        int(((h.double() @ classifier.W.T + classifier.b).argmax(1) != t).sum())
        for h, t in zip(H.split(CHUNK), y.split(CHUNK), strict=True)
    )
    found.scalars["train_error"] = wrong / stats.n
    found.scalars["nc4"] = _nc4(_chunks(features), classifier, stats.means, stats.n)
    return _measurement(found, stats, epsilon(features))


@dataclass(frozen=True, eq=False)
class _Found:
    """Scalars under construction and the reasons of the undefined ones."""

    scalars: dict[str, float]
    undefined: list[str]

    def add(self, name: str, value: Callable[[], float]) -> None:
        try:
            self.scalars[name] = value()
        except ValueError as error:
            self.scalars[name] = float("nan")
            self.undefined.append(f"{name}: {error}")


def _scalars(stats: ClassStatistics, classifier: Classifier, lam: float) -> _Found:
    """Losses and measures that the statistics decide: all but NC4 and the error."""
    found, W, M = _Found({}, []), classifier.W, stats.centred_means
    try:
        parts = decomposition(stats, classifier, lam)
        found.scalars.update(zip(LOSSES, (parts.loss, parts.nc1, parts.nc23, parts.perp), strict=True))
    except ValueError as error:
        found.scalars.update(dict.fromkeys(LOSSES, float("nan")))
        found.undefined.append(f"loss: {error}")
    found.add("nc1", lambda: measures.phd_nc1(stats))
    for suffix, vectors in (("", M), ("_w", W.T)):
        found.add(f"nc2_equinorm{suffix}", lambda v=vectors: measures.phd_equinorm(v))
        found.add(f"nc2_equiangular{suffix}", lambda v=vectors: measures.phd_equiangular(v))
        found.add(f"nc2_maxangle{suffix}", lambda v=vectors: measures.phd_maximal_angle(v))
    found.add("nc3", lambda: measures.phd_nc3(stats, W))
    return found


def _measurement(found: _Found, stats: ClassStatistics, precision: float, test_snr: RangeSnr | None = None) -> Measurement:
    K = min(stats.C - 1, stats.P)
    try:
        snr = snr_in_range(stats, precision)
    except ValueError as error:
        nothing = np.full((stats.C + stats.P + 1, K), np.nan)
        snr = RangeSnr(nothing[0], nothing[1 : stats.C + 1], nothing[stats.C + 1 :], stats.P, 1.0)
        found.undefined.append(f"omega: {error}")
    return Measurement(found.scalars, snr, stats.counts.cpu().numpy().astype(np.int64), tuple(found.undefined), test_snr)


def _batches(model: nn.Module, head: nn.Linear, loader: Loader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(features, logits, labels) of every batch, on the device of the network."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].detach(), output)))
    try:
        for inputs, labels in loader:
            seen.clear()
            logits = model(inputs.to(head.weight.device))
            if len(seen) != 1 or seen[0][0].ndim != 2:
                shapes = ", ".join(str(tuple(x.shape)) for x, _ in seen) or "never"
                raise ValueError(f"the layer must see one batch of features (b, P) a forward pass, it saw {shapes}")
            _check_logits(logits, seen[0][1])
            yield seen[0][0], logits, labels.to(head.weight.device)
    finally:
        hook.remove()


def _check_logits(returned: object, output: Tensor) -> None:
    """Raise ValueError unless the model returned the output of its last layer, at most in another precision."""
    if not isinstance(returned, Tensor):
        raise ValueError(f"the model returned {type(returned).__name__}, logits (b, C) are needed: wrap it to return them alone")
    if returned.shape != output.shape:
        shapes = f"{tuple(returned.shape)}, its last linear layer {tuple(output.shape)}"
        raise ValueError(f"the model returned {shapes}: name the layer whose output it returns")
    if returned is output:
        return
    gap = float((returned - output.to(returned.dtype)).abs().max())
    if gap > 0:  # NaN has its own error, that of the features
        raise ValueError(
            f"what the model returns is up to {gap:.2g} away from the output of its last linear layer: name the layer whose "
            "output it returns, or wrap it so that it returns its logits (no softmax, no scaling)"
        )


def _train_pass(model: nn.Module, head: nn.Linear, loader: Loader, spool: FeatureSpool) -> tuple[ClassStatistics, float, float]:
    streaming, wrong, precision = StreamingStatistics(head.out_features), 0, 0.0
    for features, logits, labels in _batches(model, head, loader):
        streaming.update(features, labels)
        spool.append(
            features.float().cpu().numpy() if features.dtype.itemsize < 4 else features.cpu().numpy(), labels.cpu().numpy()
        )
        wrong, precision = wrong + (logits.argmax(1) != labels).sum(), epsilon(features)
    stats = streaming.compute()
    return stats, int(wrong) / stats.n, precision


def _add_test(
    found: _Found, model: nn.Module, head: nn.Linear, loader: Loader, classifier: Classifier, train: ClassStatistics, lam: float
) -> RangeSnr:
    """Test-set versions, NC4 against the class means of the training set as Papyan, Han & Donoho, NC1 both ways.

    Returns the SNR of the test set.
    """
    streaming, wrong, apart, precision = StreamingStatistics(head.out_features), 0, 0.0, 0.0
    for features, logits, labels in _batches(model, head, loader):
        streaming.update(features, labels)
        wrong, precision = wrong + (logits.argmax(1) != labels).sum(), epsilon(features)
        apart += measures.phd_nc4(features.double(), classifier.W, classifier.b, train.means) * len(labels)
    stats = streaming.compute()
    test = _scalars(stats, classifier, lam)
    test.scalars["nc4"], test.scalars["error"] = apart / stats.n, int(wrong) / stats.n
    test.add("nc1_train_means", lambda: measures.phd_nc1(_about(train, stats)))
    found.scalars.update({f"test_{name}": value for name, value in test.scalars.items()})
    found.undefined.extend(f"test_{reason}" for reason in test.undefined)
    return _measurement(test, stats, precision).snr


def _about(train: ClassStatistics, test: ClassStatistics) -> ClassStatistics:
    """Classes and means of the training set, and the scatter of the test set about those means."""
    shift = test.means - train.means
    scatter = test.sigma_w + (shift * test.priors) @ shift.mT
    return ClassStatistics(train.counts, train.means, scatter, test.class_variances + (shift * shift).sum(0))


def _nc4(chunks: Iterator[np.ndarray], classifier: Classifier, means: Tensor, n: int) -> float:
    W, b = classifier.W, classifier.b
    return sum(measures.phd_nc4(torch.from_numpy(h).to(W.device).double(), W, b, means) * len(h) for h in chunks) / n


def _chunks(features: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(features), CHUNK):
        yield features[start : start + CHUNK]

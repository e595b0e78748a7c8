"""Everything measured on a network in memory, in one pass over its data, without a trace of it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from manifolds.linalg import epsilon
from ufm.arrays import as_numpy, on_device_with_float64
from ufm.distributed import OneProcess, Processes, raised_in_all
from ufm.features import measures
from ufm.features.ranges import Classifier, RangeSnr
from ufm.features.statistics import CHUNK, ClassStatistics, StreamingStatistics
from ufm.files.spool import FeatureSpool
from ufm.monitor.batches import Select, outputs_of, selected
from ufm.monitor.decisions import Decider
from ufm.monitor.layers import bare, check_linear, first_tensor, head_inputs, linear_layer
from ufm.monitor.measurement import Measurement, ScalarCollector, measurement_of, scalars_of
from ufm.monitor.shares import gather_features, shared_classifier
from ufm.monitor.unchanged import batches_of, unchanged


def measure_network(
    model: nn.Module,
    loader: Iterable[object],
    layer: str,
    lam: float,
    test_loader: Iterable[object] | None = None,
    keep: Callable[[np.ndarray, np.ndarray], None] | None = None,
    scratch: Path | None = None,
    select: Select | None = None,
    group: Processes | None = None,
) -> Measurement:
    """Everything measured on a network, in evaluation mode, in one pass over each loader; nothing of the caller's is changed.

    layer     dotted name of the last linear layer; its input is the feature h, its output (b, C) must be what the model returns
    lam       lambda of the loss 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||^2 + ||b||^2); for training with torch's MSELoss
              and weight decay wd it is C wd / 2 (`ufm.features.least_squares.lambda_of_weight_decay`)
    keep      called with the training features (n, P) and labels (n,), read from disk
    scratch   folder for the temporary file of features (n P numbers)
    select    what of a batch is (inputs, labels), where it is no pair and no mapping with `labels` (`ufm.monitor.selected`)
    group     processes that hold the same network and whose loaders each yield a share of the examples: all of them call this,
              all get the numbers of one process that sees everything, to round-off; process 0 calls `keep`, with all features

    Raises ValueError for an unknown layer, one whose output the model does not return, features that are not (b, P), labels out
    of range, NaN or infinite features, and a scratch folder that cannot be written; in every process of a group, where it
    happens in one.
    """
    group = OneProcess() if group is None else group
    head = linear_layer(model, layer)
    loaders = (loader,) if test_loader is None else (loader, test_loader)
    with unchanged(model, *loaders), torch.no_grad(), ExitStack() as stack:
        with raised_in_all(group):
            spool = stack.enter_context(FeatureSpool(scratch))
        stats, error, precision = _train_pass(_batches(model, head, layer, loader, select), head, spool, group)
        # after a forward pass, which makes the weights of a pruned or weight-normed layer
        classifier = shared_classifier(Classifier.of(head), spool.n > 0, group)
        classifier.check()
        scalars = scalars_of(stats, classifier, lam, precision)
        scalars.values["train_error"] = error
        scalars.values["nc4"] = _nc4(spool, classifier, stats.means, group)
        if keep is not None:
            gather_features(spool, group)
            with raised_in_all(group):
                if group.rank == 0:
                    keep(spool.features, spool.labels)
        test_snr = None
        if test_loader is not None:
            test_batches = _batches(model, head, layer, test_loader, select)
            test_snr = _add_test(scalars, test_batches, classifier, stats, lam, group)
    return replace(measurement_of(scalars, stats, precision, test_snr, classifier), lam=lam)


Batches = Iterator[tuple[Tensor, Tensor, Tensor]]


def _batches(model: nn.Module, head: nn.Linear, layer: str, loader: Iterable[object], select: Select | None) -> Batches:
    """(features, logits, labels) of every batch, on the device of the network."""
    seen: list[tuple[Tensor, Tensor]] = []
    device, linear = head.weight.device, False

    def see(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: Tensor) -> None:
        features = first_tensor(head_inputs(args, kwargs), layer)
        seen.append((features.clone(), output))  # the network may go on to write into it

    hook = head.register_forward_hook(see, with_kwargs=True)
    try:
        for batch in batches_of(loader):
            seen.clear()
            chosen = selected(batch, select)
            logits = outputs_of(bare(model), chosen, device)
            if len(seen) != 1 or seen[0][0].ndim != 2:
                shapes = ", ".join(str(tuple(x.shape)) for x, _ in seen) or "never"
                raise ValueError(f"the layer must see one batch of features (b, P) a forward pass, it saw {shapes}")
            if not linear:
                check_linear(head, layer, *seen[0])
                linear = True
            _check_logits(logits, seen[0][1])
            features, logits = (on_device_with_float64(x) for x in (seen[0][0], logits))
            yield features, logits, chosen.labels.to(features.device)
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


def _train_pass(
    batches: Batches, head: nn.Linear, spool: FeatureSpool, group: Processes
) -> tuple[ClassStatistics[Tensor], float, float]:
    streaming, wrong, precision = StreamingStatistics(head.out_features), 0, 0.0
    with raised_in_all(group):
        for features, logits, labels in batches:
            streaming.update(features, labels)
            spool.append(as_numpy(features.float() if features.dtype.itemsize < 4 else features), as_numpy(labels))
            wrong, precision = wrong + (logits.argmax(1) != labels).sum(), epsilon(features)
    stats = streaming.merge_over(group, on_device_with_float64(head.weight.detach()).double()).compute()
    return stats, _count_over(group, wrong) / stats.n, _maximum_over(group, precision)


def _add_test(
    scalars: ScalarCollector,
    batches: Batches,
    classifier: Classifier,
    train: ClassStatistics[Tensor],
    lam: float,
    group: Processes,
) -> RangeSnr:
    """Test-set versions, NC4 against the class means of the training set as Papyan, Han & Donoho, NC1 both ways.

    Returns the SNR of the test set.
    """
    streaming, wrong, disagreements, precision = StreamingStatistics(train.C), 0, 0, 0.0
    decide = Decider(classifier, train.means)
    with raised_in_all(group):
        for features, logits, labels in batches:
            streaming.update(features, labels)
            wrong, precision = wrong + (logits.argmax(1) != labels).sum(), epsilon(features)
            disagreements += decide(features, labels).disagreements
    stats, precision = streaming.merge_over(group, classifier.W).compute(), _maximum_over(group, precision)
    test = scalars_of(stats, classifier, lam, precision)
    test.values["nc4"], test.values["error"] = _count_over(group, disagreements) / stats.n, _count_over(group, wrong) / stats.n
    test.add("nc1_train_means", lambda: measures.phd_nc1(_about(train, stats), precision))
    scalars.values.update({f"test_{name}": value for name, value in test.values.items()})
    scalars.undefined.extend(f"test_{reason}" for reason in test.undefined)
    return measurement_of(test, stats, precision).snr


def _about(train: ClassStatistics[Tensor], test: ClassStatistics[Tensor]) -> ClassStatistics[Tensor]:
    """Classes and means of the training set, and the scatter of the test set about those means."""
    shift = test.means - train.means
    if test.rounding is not None and train.rounding is not None:
        shift = shift + (test.rounding - train.rounding)
    scatter = test.sigma_w + (shift * test.priors) @ shift.mT
    return ClassStatistics(train.counts, train.means, scatter, test.class_variances + (shift * shift).sum(0), train.rounding)


def _nc4(spool: FeatureSpool, classifier: Classifier, means: Tensor, group: Processes) -> float:
    decide, disagreements = Decider(classifier, means), 0
    with raised_in_all(group):
        for H, labels in spool.blocks(CHUNK):
            disagreements += decide(torch.from_numpy(H).to(means.device), torch.from_numpy(labels).to(means.device)).disagreements
    return _count_over(group, disagreements) / _count_over(group, spool.n)


def _count_over(group: Processes, count: int | Tensor) -> int:
    """The sum of a count over the processes."""
    return int(group.sum(np.array([int(count)]))[0])


def _maximum_over(group: Processes, value: float) -> float:
    """The largest value among the processes."""
    return -float(group.smallest(np.array([-value]))[0])

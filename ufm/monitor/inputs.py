"""What comes into a metric: features and labels as rows, and what is wrong with them counted on their device."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manifolds.representation import short_repr
from ufm.arrays import LARGEST, on_device_with_float64
from ufm.features.ranges import Classifier
from ufm.monitor.moments import IGNORED
from ufm.monitor.whole_weights import check_unsharded

FAULTS = ("label outside", "features not finite", "features too large", "classifier changed")
OTHER_CLASSIFIER = (
    "the classifier differs from that of the features before, and a measure cannot combine the two: call reset() between passes"
)
OTHER_CLASSIFIER_THERE = (
    "the processes were given different classifiers, and a measure cannot combine them: give all the same weights, "
    "as DistributedDataParallel has them, and measure between steps of the optimizer"
)
REAL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LOOKED_AT = 16  # rows of W in every update, whatever their version says: fused optimizers change weights and do not count it


@dataclass(frozen=True, eq=False, repr=False)
class GivenClassifier:
    """Which tensors were given for W and b, and their versions: of the same ones, unchanged, few numbers are looked at."""

    tensors: tuple["weakref.ref[Tensor] | None", ...]
    versions: tuple[int | None, ...]
    __repr__ = short_repr

    @classmethod
    def of(cls, *tensors: Tensor | None) -> "GivenClassifier":
        """These tensors as they are now."""
        return cls(tuple(None if x is None else weakref.ref(x) for x in tensors), _versions(tensors))

    def is_that_of(self, *tensors: Tensor | None) -> bool:
        """Whether these are the same tensors, which nobody is known to have written into since; False says nothing."""
        return self.has(*tensors) and self.versions == _versions(tensors) and -1 not in self.versions

    def has(self, *tensors: Tensor | None) -> bool:
        """Whether these are the same tensors, whatever was written into them since."""
        return all((None if ref is None else ref()) is x for ref, x in zip(self.tensors, tensors, strict=True))


def few_rows_differ(given: Tensor, known: Tensor) -> Tensor:
    """Whether some rows of `given`, evenly spaced, are not those of `known`. (), on the device of `known`, which is not asked."""
    step = max(1, len(known) // LOOKED_AT)
    rows = on_device_with_float64(given.detach()[::step])
    return (rows.to(known) != known[::step]).any()


def _versions(tensors: tuple[Tensor | None, ...]) -> tuple[int | None, ...]:
    """How often each was changed in place, -1 where torch does not count."""
    return tuple(None if x is None else -1 if x.is_inference() else x._version for x in tensors)


def weights_and_offsets(classifier: object) -> tuple[Tensor, Tensor | None]:
    """W and b of a pair. Raises ValueError unless it is one of whole tensors, of which the second may be None."""
    if isinstance(classifier, (tuple, list)) and len(classifier) == 2:
        W, b = classifier
        if isinstance(W, Tensor) and (b is None or isinstance(b, Tensor)):
            check_unsharded(W)
            return W, b
    raise ValueError(f"the classifier is {type(classifier).__name__}: a torch.nn.Linear or a pair (W, b) of tensors is needed")


def class_rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, P) and labels (n,) of features (b, P) or tokens (b, T, P). Raises ValueError for what does not fit."""
    if features.ndim < 2 or labels.shape != features.shape[:-1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        hint = "; of one-hot labels take labels.argmax(-1)" if labels.ndim == features.ndim else ""
        hint = "; of a column of labels take labels[..., 0]" if hint and labels.shape[-1] == 1 else hint
        raise ValueError(f"features (b, P) and labels (b,), or tokens (b, T, P) and (b, T) are needed, got shapes {shapes}{hint}")
    _check_features(features)
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels are {labels.dtype}, integers are needed (targets='regression' takes floats)")
    return features.reshape(-1, features.shape[-1]), labels.reshape(-1).to(features.device, torch.int64)


def target_rows(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, P + d) of features (b, P) beside targets (b, d) or (b,), all of one class."""
    targets = targets[:, None] if targets.ndim == 1 else targets
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        shapes = f"{tuple(features.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"features (b, P) and targets (b, d) are needed, got shapes {shapes}")
    _check_features(features)
    if targets.is_complex() or targets.layout is not torch.strided:
        raise ValueError(f"targets are {targets.dtype}, {targets.layout}: a dense tensor of real numbers is needed")
    if not targets.is_floating_point():
        targets = targets.double()  # integers would be rounded to the precision of the features
    rows = torch.cat([features, targets.to(features.device)], 1)  # in the finer of the two precisions
    return rows, torch.zeros(len(rows), dtype=torch.int64, device=rows.device)


def _check_features(features: Tensor) -> None:
    if not features.shape[-1]:
        raise ValueError(f"features of shape {tuple(features.shape)} have P = 0: at least one feature is needed")
    if features.dtype not in REAL_DTYPES:
        floats = ", ".join(str(dtype).removeprefix("torch.") for dtype in REAL_DTYPES)
        raise ValueError(f"features are {features.dtype}, floats are needed: {floats}")
    if features.layout is not torch.strided:
        raise ValueError(f"features are {features.layout}, a dense tensor is needed: features.to_dense() makes one")


def shifted(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (b, T, P) of all positions but the last, with the labels (b, T) of the next ones."""
    if features.ndim != 3 or labels.ndim != 2:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"shift needs tokens (b, T, P) with labels (b, T), got shapes {shapes}")
    return features[:, :-1], labels[:, 1:]


def checked(rows: Tensor, labels: Tensor, C: int, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Labels, `IGNORED` where a row counts for nothing; how many rows have each of `FAULTS`. (n,), (F,)"""
    ignored = torch.zeros_like(labels, dtype=torch.bool) if ignore_index is None else labels == ignore_index
    outside = ~ignored & ((labels < 0) | (labels >= C))
    if surely_sound(rows):
        infinite = large = torch.zeros_like(ignored)
    else:
        largest = torch.maximum(rows.amax(1).abs(), rows.amin(1).abs()).double()
        infinite = ~(ignored | outside) & ~largest.isfinite()
        large = ~(ignored | outside | infinite) & (largest > LARGEST)
    none = torch.zeros_like(ignored)
    counts = torch.stack([fault.sum() for fault in (outside, infinite, large, none)])
    return torch.where(ignored | outside | infinite | large, IGNORED, labels), counts


def surely_sound(rows: Tensor) -> bool:
    """Whether rows on a CPU are finite and of moderate size; another device is not asked. False says nothing."""
    if not rows.is_cpu:
        return False
    if rows.dtype is torch.float64:
        return not rows.numel() or bool(torch.linalg.vector_norm(rows, torch.inf) <= LARGEST)
    return bool(rows.sum().isfinite())  # for then every one is


def refuse(faults: Tensor, C: int, classifier: Classifier | None, labels: Tensor | None = None) -> None:
    """Raise ValueError where there are faults (`FAULTS`), in a classifier too. Labels, where they are known, are named."""
    outside, infinite, large, changed = faults.tolist()
    if outside:
        given = "" if labels is None else f" (they run from {int(labels.min())} to {int(labels.max())})"
        raise ValueError(f"{outside} examples have a label outside of 0..{C - 1}{given}; ignore_index= leaves a label out")
    if infinite:
        raise ValueError(f"{infinite} examples have NaN or infinite {'features' if C > 1 else 'features or targets'}")
    if large:
        what = "features" if C > 1 else "features or targets"
        raise ValueError(f"{large} examples have {what} larger than {LARGEST:g}: their powers overflow; rescale them")
    if changed:
        raise ValueError(OTHER_CLASSIFIER)
    if classifier is not None:
        classifier.check()


def grown_faults(states: Mapping[str, object]) -> dict[str, Tensor]:
    """Faults as they are counted now, from those of a version that knew only the first two; else nothing."""
    faults = states.get("faults")
    if not isinstance(faults, Tensor) or tuple(faults.shape) != (2,):
        return {}
    return {"faults": torch.cat([faults, faults.new_zeros(len(FAULTS) - 2)])}

"""What comes into a metric: features and labels as rows, and what is wrong with them counted on their device."""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from manifolds.representation import short_repr
from ufm.monitor.moments import IGNORED

REAL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class GivenClassifier:
    """Which tensors were given for W and b, and their versions: the same ones, unchanged, need no look at their numbers."""

    tensors: tuple["weakref.ref[Tensor] | None", ...]
    versions: tuple[int | None, ...]
    __repr__ = short_repr

    @classmethod
    def of(cls, *tensors: Tensor | None) -> "GivenClassifier":
        """These tensors as they are now."""
        return cls(tuple(None if x is None else weakref.ref(x) for x in tensors), _versions(tensors))

    def is_that_of(self, *tensors: Tensor | None) -> bool:
        """Whether these are surely the same tensors with the same numbers; False says nothing."""
        same = all((None if ref is None else ref()) is x for ref, x in zip(self.tensors, tensors, strict=True))
        return same and self.versions == _versions(tensors) and -1 not in self.versions


def _versions(tensors: tuple[Tensor | None, ...]) -> tuple[int | None, ...]:
    """How often each was changed in place, -1 where torch does not count."""
    return tuple(None if x is None else -1 if x.is_inference() else x._version for x in tensors)


def class_rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, P) and labels (n,) of features (b, P) or tokens (b, T, P). Raises ValueError for what does not fit."""
    if features.ndim < 2 or labels.shape != features.shape[:-1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        hint = "; of one-hot labels take labels.argmax(-1)" if labels.ndim == features.ndim else ""
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
    """Labels, `IGNORED` where a row counts for nothing; how many have labels out of range, and features not finite. (2,)"""
    ignored = torch.zeros_like(labels, dtype=torch.bool) if ignore_index is None else labels == ignore_index
    outside = ~ignored & ((labels < 0) | (labels >= C))
    if surely_finite(rows):
        infinite = torch.zeros_like(ignored)
    else:
        infinite = ~(ignored | outside) & ~(rows.amax(1).isfinite() & rows.amin(1).isfinite())
    return torch.where(ignored | outside | infinite, IGNORED, labels), torch.stack([outside.sum(), infinite.sum()])


def surely_finite(rows: Tensor) -> bool:
    """Whether the sum of rows on a CPU is finite, for then every one is; another device is not asked. False says nothing."""
    return rows.is_cpu and bool(rows.sum().isfinite())


def refuse(faults: Tensor, C: int, labels: Tensor | None = None) -> None:
    """Raise ValueError where there are faults. Labels, where they are known, are named."""
    outside, infinite = faults.tolist()
    if outside:
        given = "" if labels is None else f" (they run from {int(labels.min())} to {int(labels.max())})"
        raise ValueError(f"{outside} examples have a label outside of 0..{C - 1}{given}; ignore_index= leaves a label out")
    if infinite:
        raise ValueError(f"{infinite} examples have NaN or infinite features")

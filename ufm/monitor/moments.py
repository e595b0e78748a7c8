"""What a metric keeps of the features it has seen: float64 moments that merge exactly, on the device of the features.

Taking rows in asks the device for nothing: what is wrong with them is counted where they are and raised when it is read.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from manifolds.linalg import gram
from ufm.arrays import as_numpy, check_scale
from ufm.features.statistics import ClassStatistics, rounded_sum

NAMES = ("classes", "counts", "near", "rest", "scatter", "class_scatter")
BY_CLASS = ("counts", "near", "rest", "class_scatter")
IGNORED = -1
OTHER_WIDTH = "features of P = {} cannot be added to those before them, of P = {}"
AT_A_TIME = 256  # rows of elementwise operations on a CPU, so that they stay in its cache


class Moments(dict[str, Tensor]):
    """Tensors by name: classes (K,), counts (K,), near and rest (K, P), scatter (P, P), class_scatter (K,); float64.

    The mean of class `classes[k]` is near[k] + rest[k]: a point among its examples and a small rest, so that rounding is that of
    the spread of a class, however far it lies from the origin. scatter = sum_i (h_i - mu)(h_i - mu)^T about the class means.
    """

    @classmethod
    def empty(cls, classes: int = 0, P: int = 0, device: torch.device | None = None) -> "Moments":
        """Nothing seen yet of the classes 0..classes-1."""
        shapes = {
            "counts": (classes,),
            "near": (classes, P),
            "rest": (classes, P),
            "scatter": (P, P),
            "class_scatter": (classes,),
        }
        values = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
        return cls({"classes": torch.arange(classes, device=device), **values})

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> "Moments":
        """The tensors of `NAMES` among others."""
        return cls({name: values[name] for name in NAMES})

    @classmethod
    def of_rows(cls, rows: Tensor, labels: Tensor, classes: Tensor | None, buffer: Tensor | None = None) -> "Moments":
        """The moments of rows (n, P) of any float dtype with labels (n,), `IGNORED` for no label.

        Labels are positions in `classes` (K,). With None, class numbers: those seen are kept, and the device is asked for them.
        `buffer` (n or more, P), float64, becomes the deviations.
        """
        if classes is None:
            rows, labels = rows[labels != IGNORED], labels[labels != IGNORED]
            classes, labels = torch.unique(labels, return_inverse=True)
        k, n, P = len(classes), *rows.shape
        if not n:
            return cls.empty(k, P, rows.device)
        ignored = labels == IGNORED
        slots = torch.where(ignored, k, labels)  # rows that count for nothing share a slot of zeros behind the classes
        numbers = torch.arange(n, device=rows.device)
        first = torch.full((k + 1,), n - 1, device=rows.device).scatter_reduce(0, slots, numbers, "amin")
        counts = torch.zeros(k + 1, dtype=torch.float64, device=rows.device).index_add(0, slots, (~ignored).double())
        near = torch.where((counts > 0)[:, None], rows[first].double(), 0.0)
        D = torch.empty_like(rows, dtype=torch.float64) if buffer is None else buffer[:n]
        sums, squares = torch.zeros_like(near), torch.zeros_like(counts)
        pieces = list(zip(*(x.split(AT_A_TIME if rows.is_cpu else n) for x in (D, rows, slots, ignored)), strict=True))
        own = torch.empty_like(pieces[0][0])  # the point of the class of every row; fresh memory costs more than the work
        for d, h, slot, nothing in pieces:
            d.copy_(h).sub_(torch.index_select(near, 0, slot, out=own[: len(slot)])).masked_fill_(nothing[:, None], 0.0)
            sums.index_add_(0, slot, d)
        rest = sums / counts.clamp(min=1)[:, None]
        for d, _, slot, _ in pieces:
            d.sub_(torch.index_select(rest, 0, slot, out=own[: len(slot)]))
            squares.index_add_(0, slot, torch.linalg.vector_norm(d, dim=1) ** 2)
        return cls(dict(zip(NAMES, (classes, counts[:k], near[:k], rest[:k], _products(D), squares[:k]), strict=True)))

    @property
    def P(self) -> int:
        """Number of features."""
        return len(self["scatter"])

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both, by the formulas of Chan, Golub & LeVeque (1983). Raises ValueError where P differs.

        Only the classes of `other` cost products; nothing is asked of the device where both hold the same tensor `classes`.
        """
        if not self["near"].numel() or not other["near"].numel():
            return self if self["near"].numel() else other
        if self.P != other.P:
            raise ValueError(f"features of P = {other.P} cannot be added to features of P = {self.P}")
        whole, slots = self._with_classes(other["classes"])
        mine = whole if slots is None else Moments({name: whole[name][slots] for name in BY_CLASS})
        seen, theirs = (mine["counts"] > 0)[:, None], (other["counts"] > 0)[:, None]
        total = mine["counts"] + other["counts"]
        delta = (other["near"] - mine["near"]) + (other["rest"] - mine["rest"])
        delta = torch.where(seen & theirs, delta, 0.0)
        weight = mine["counts"] * other["counts"] / total.clamp(min=1)
        share = other["counts"] / total.clamp(min=1)
        changed = {
            "counts": total,
            "near": torch.where(seen, mine["near"], other["near"]),
            "rest": torch.where(seen, mine["rest"] + delta * share[:, None], other["rest"]),
            "class_scatter": mine["class_scatter"] + other["class_scatter"] + weight * (delta * delta).sum(1),
        }
        if slots is not None:
            changed = {name: whole[name].index_copy(0, slots, value) for name, value in changed.items()}
        scatter = self["scatter"] + other["scatter"] + _products(delta * weight.sqrt()[:, None])
        return Moments({**changed, "classes": whole["classes"], "scatter": scatter})

    def ordered(self) -> "Moments":
        """The same, classes ascending, as the rows of a classifier are: those seen late may have come behind larger ones."""
        order = self["classes"].argsort()
        return Moments({**self, **{name: self[name][order] for name in ("classes", *BY_CLASS)}})

    def statistics(self) -> ClassStatistics[Tensor]:
        """Counts, means, Sigma_W and variances of the classes kept. Raises ValueError where one of them has no example."""
        counts = self["counts"]
        if not float(counts.sum()):
            raise ValueError("no example has been seen: a loader that an earlier pass has used up gives none")
        if not bool(counts.all()):
            raise ValueError(self._missing())
        means, rounding = rounded_sum(self["near"].mT, self["rest"].mT)
        spread = float(self["class_scatter"].sum() / counts.sum()) ** 0.5
        check_scale(max(float(means.abs().max()), spread), "features")
        return ClassStatistics(counts, means, self["scatter"] / counts.sum(), self["class_scatter"] / counts, rounding)

    def seen(self) -> "Moments":
        """The same without the classes that have no example."""
        there = self["counts"] > 0
        return Moments({**self, **{name: self[name][there] for name in ("classes", *BY_CLASS)}})

    def _missing(self) -> str:
        """Which class has no example, and what to do."""
        classes, there = self["classes"].tolist(), (self["counts"] > 0).tolist()
        missing = [c for c, seen in zip(classes, there, strict=True) if not seen]
        highest = max(set(classes) - set(missing))
        needed = f"class {missing[0]} has no example, and every one of the {len(classes)} classes needs one"
        if len(missing) > 1 and missing[0] > highest:
            return f"{needed}; labels run from 0 to {highest} only: are the layer and the number of classes the intended ones?"
        return f"{needed}: classes='seen' measures those that have some"

    def _with_classes(self, classes: Tensor) -> tuple["Moments", Tensor | None]:
        """These moments with space for more classes, and where those lie; None where they are the same in the same order."""
        mine = self["classes"]
        if mine is classes or mine.data_ptr() == classes.data_ptr():
            return self, None
        largest = int(torch.stack([mine.max(), classes.max()]).max()) + 1
        slot = torch.full((largest,), -1, device=mine.device)
        slot[mine] = torch.arange(len(mine), device=mine.device)
        new = classes[slot[classes] < 0]
        slot[new] = torch.arange(len(mine), len(mine) + len(new), device=mine.device)
        if not len(new):
            return self, slot[classes]
        grown = {name: torch.cat([self[name], self[name].new_zeros(len(new), *self[name].shape[1:])]) for name in BY_CLASS}
        return Moments({**self, **grown, "classes": torch.cat([mine, new])}), slot[classes]


def check_one_metric(parts: list[dict[str, Tensor]], other_classifier: str) -> None:
    """Raise ValueError where states to be merged are of different classifiers, or of different numbers P of features."""
    known = [part for part in parts if len(part["W"])]
    if not all(torch.equal(known[0][name], part[name]) for part in known[1:] for name in ("W", "b")):
        raise ValueError(other_classifier)
    widths = [width for part in parts if (width := int(part["width"]))]
    if len(set(widths)) > 1:
        raise ValueError(OTHER_WIDTH.format(*reversed(widths[:2])))


def merged_states(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of a metric merged in their order, so that every process comes to the same bits.

    Beside the moments: the first classifier W, b that there is, the sum of faults, the largest precision and width.
    """
    moments = Moments.of(parts[0])
    for part in parts[1:]:
        moments = moments.merged(Moments.of(part))
    known = next((part for part in parts if len(part["W"])), parts[0])
    whole = {name: torch.stack([part[name] for part in parts]) for name in ("faults", "precision", "width")}
    largest = {name: whole[name].amax(0) for name in ("precision", "width")}
    return {**moments, "W": known["W"], "b": known["b"], "faults": whole["faults"].sum(0), **largest}


def _products(D: Tensor) -> Tensor:
    """D^T D of rows (n, P). (P, P) On a CPU by numpy, which sees that the product is symmetric and does half the work."""
    if D.device.type != "cpu":
        return gram(D.mT)
    rows = as_numpy(D)
    return torch.from_numpy(rows.T @ rows)


def bits_of(number: int) -> Tensor:
    """Zeros and ones: of two numbers they differ by more than any comparison with a tolerance lets pass."""
    return torch.tensor([(number >> k) & 1 for k in range(48)])

"""Neural collapse as a torchmetrics metric: `update` with batches of features and labels, `compute` for every measure."""

from pathlib import Path
from typing import Any, Literal, SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ufm.arrays import on_device_with_float64
from ufm.features.ranges import Classifier
from ufm.monitor import inputs, regression
from ufm.monitor.decisions import Decider, Decisions
from ufm.monitor.inputs import OTHER_CLASSIFIER, GivenClassifier, checked, few_rows_differ, refuse
from ufm.monitor.layers import weights_of
from ufm.monitor.measurement import Measurement
from ufm.monitor.moments import OTHER_WIDTH, Moments
from ufm.monitor.states import MomentsMetric
from ufm.monitor.summary import Summary, of_classes, of_targets


class NeuralCollapse(MomentsMetric):
    """Every measure of collapse from batches of labelled features; several processes give the values of one, up to rounding.

    num_classes   C; labels are 0..C-1. For targets="regression" it is left out and the labels are targets (b,) or (b, d)
    layer         a name put before every value, as in "fc/nc1"
    lam           lambda of the loss 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||^2 + ||b||^2); C wd / 2 for MSELoss and weight
                  decay wd. Without it the loss and its parts are undefined
    classes       "all": a class without example leaves the measures undefined. "seen": the measures are those of the classes that
                  have examples (vocabularies), `classes_seen` of them; the network still decides among all
    ignore_index  a label whose features count for nothing
    shift         features of position t go with the label of position t + 1, as causal language models are trained
    stored        keep a copy of the features on disk (unnamed, in `scratch`): NC4, the error, the accuracy of the nearest class
                  mean, NRC1 and NRC2 look at every feature once all means are known

    Memory is P^2 + 2 P C + a few thousand buffered rows, whatever the number of examples; float64 whatever the features are.
    On a GPU an update does not wait for the device; with stored features it waits once every few thousand examples. Features
    of a
    device without float64 (Apple's MPS) are copied to the CPU, where everything is then. `compute` gives floats under the names
    of trajectory.npz; NaN is what is undefined, and `undefined` says why.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    _width: int | None = None  # P, where it is known without asking the device

    def __init__(
        self,
        num_classes: int | None = None,
        layer: str | None = None,
        lam: float | None = None,
        targets: Literal["classes", "regression"] = "classes",
        classes: Literal["all", "seen"] = "all",
        ignore_index: int | None = None,
        shift: bool = False,
        stored: bool = True,
        scratch: Path | None = None,
        **kwargs: Any,
    ) -> None:
        if targets not in ("classes", "regression") or classes not in ("all", "seen"):
            raise ValueError(f"targets = {targets!r}, classes = {classes!r}: 'classes' or 'regression', 'all' or 'seen'")
        if num_classes is not None and not isinstance(num_classes, int | np.integer):
            raise ValueError(f"num_classes = {num_classes!r}: a whole number is needed")
        if targets == "classes" and (num_classes is None or num_classes < 2):
            raise ValueError(f"num_classes = {num_classes}: collapse needs at least 2 classes; give their number")
        if targets == "regression" and num_classes is not None:
            raise ValueError(f"num_classes = {num_classes} has no meaning with targets='regression': leave it out")
        if lam is not None and not (isinstance(lam, SupportsFloat) and 0 <= float(lam) < float("inf")):
            raise ValueError(f"lam = {lam!r}: it must be a number, finite and not negative")
        if targets == "regression" and (shift or ignore_index is not None):
            raise ValueError("shift and ignore_index are of class labels: leave them out for targets='regression'")
        super().__init__(stored, scratch, lazy=classes == "seen", **kwargs)
        self.num_classes, self.layer, self.lam, self.targets = num_classes, layer, lam, targets
        self.ignore_index, self.shift = ignore_index, shift
        self._add_states(1 if num_classes is None else 0 if self.lazy else num_classes)

    def update(  # type: ignore[bad-override]  # torchmetrics declares update(*args, **kwargs)
        self, features: Tensor, labels: Tensor, classifier: nn.Linear | tuple[Tensor, Tensor | None] | None = None
    ) -> None:
        """Add features (b, P) with labels (b,), or tokens (b, T, P) with labels (b, T); once W (C, P), b (C,) or a Linear.

        Raises ValueError for shapes that do not fit and labels that are no integers; for labels out of range, for features and
        classifiers that are not finite or out of scale, and for another classifier than before, at once on a CPU, where
        nothing is added then, and in `compute` on any other device.
        """
        for name, value in (("features", features), ("labels", labels)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} are {type(value).__name__}, a torch tensor is needed: torch.as_tensor makes one")
        with torch.inference_mode(False), torch.no_grad():  # what waits must be writable outside of the user's inference mode too
            self._update(features.detach(), labels.detach(), classifier)

    def _update(self, features: Tensor, labels: Tensor, classifier: nn.Linear | tuple[Tensor, Tensor | None] | None) -> None:
        rows, y = self._as_rows(features, labels)
        known = len(self.scatter) if self._waiting is None else self._waiting.P
        if known and (rows.shape[1] != known or features.shape[-1] != self._known_width()):
            raise ValueError(OTHER_WIDTH.format(features.shape[-1], self._known_width()))
        kept, faults = checked(rows, y, self.C, self.ignore_index)
        known_now = None if classifier is None else self._compared(classifier, rows.shape[1], features.shape[-1], faults)
        if rows.device.type == "cpu":
            refuse(faults, self.C, None if known_now is None else known_now[0], y)
        if known_now is not None:
            self.W, self.b, self._given = known_now[0].W, known_now[0].b, known_now[1]
        self._width = features.shape[-1]
        waiting = self._room_for(rows, y, features.shape[-1])
        self.faults = self.faults + faults
        for full in waiting.add(rows, kept):
            self._take_in(waiting, *full)

    def check(self, features: Tensor, labels: Tensor) -> None:
        """Raise ValueError, on a CPU, for what `update` would refuse; nothing is added."""
        with torch.no_grad():
            rows, y = self._as_rows(features.detach(), labels.detach())
            if rows.device.type == "cpu":
                refuse(checked(rows, y, self.C, self.ignore_index)[1], self.C, None, y)

    def compute(self) -> dict[str, float]:
        """Every measure by name, floats, NaN where undefined (`undefined` says why). In every process the same.

        Raises ValueError where a device saw labels out of range or features that are not finite.
        """
        try:
            self._take_in_waiting()
            self._waiting = None  # its buffers would lie beside those of the measures
            refuse(self.faults, self.C, Classifier(self.W, self.b) if len(self.W) else None)
            self._summary = self._summarize()
        except BaseException:
            if self._is_synced:  # torchmetrics would leave the metric with the data of all processes
                self.unsync()
            raise
        prefix = "" if self.layer is None else f"{self.layer}/"
        return {f"{prefix}{name}": value for name, value in self._summary.values.items()}

    @property
    def C(self) -> int:
        """Number of classes, 1 for regression."""
        return self.num_classes or 1

    @property
    def undefined(self) -> dict[str, str]:
        """Why each NaN of the last `compute` is undefined."""
        return {} if self._summary is None else dict(self._summary.reasons)

    @property
    def measured(self) -> bool:
        """Whether there is a `measurement`."""
        return self._summary is not None and self._summary.measurement is not None

    @property
    def measurement(self) -> Measurement:
        """The last `compute` with the SNR of the features, as a run stores it. Raises ValueError where there is none."""
        if self._summary is None or self._summary.measurement is None:
            raise ValueError("there is no measurement of classes yet: call compute() first, with an example of every class")
        return self._summary.measurement

    def _forget(self) -> None:
        super()._forget()
        self._summary: Summary | None = None
        self._given: GivenClassifier | None = None
        self._width = None

    def _known_width(self) -> int:
        """P of the features before: asked of the device once, after states were loaded or merged."""
        if self._width is None:
            self._width = int(self.width)
        return self._width

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_given": None}  # a copy is not given the same tensors

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add everything that another metric has seen, or its states by name (these without the stored features).

        Raises ValueError, and takes nothing in, for a metric of other settings or of another P.
        """
        for name in (
            ("num_classes", "targets", "lazy", "ignore_index", "shift") if isinstance(incoming_state, NeuralCollapse) else ()
        ):
            mine, other = getattr(self, name), getattr(incoming_state, name)
            if mine != other:
                raise ValueError(f"{name} = {other} cannot be merged into a metric with {name} = {mine}")
        super().merge_state(incoming_state)

    def _check_classes(self, classes: Tensor) -> None:
        super()._check_classes(classes)
        if len(classes) and int(classes.max()) >= self.C:
            raise ValueError(f"states of class {int(classes.max())} do not go with a metric of {self.C} classes")

    def _as_rows(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        features, labels = on_device_with_float64(features), on_device_with_float64(labels)
        if self.shift:
            features, labels = inputs.shifted(features, labels)
        return inputs.class_rows(features, labels) if self.targets == "classes" else inputs.target_rows(features, labels)

    def _compared(
        self, classifier: nn.Linear | tuple[Tensor, Tensor | None], width: int, P: int, faults: Tensor
    ) -> tuple[Classifier, GivenClassifier] | None:
        """The classifier in float64 and its tensors, None where they are known; a fault where it is not the one before."""
        W, b = weights_of(classifier) if isinstance(classifier, nn.Linear) else inputs.weights_and_offsets(classifier)
        outputs = self.num_classes or width - P
        if tuple(W.shape) != (outputs, P) or (b is not None and tuple(b.shape) != (outputs,)):
            shapes = f"{tuple(W.shape)} and {None if b is None else tuple(b.shape)}"
            of = "" if self.num_classes else f"targets with d = {outputs}: "
            raise ValueError(f"{of}the classifier is W {(outputs, P)} and b {(outputs,)} or None, got {shapes}")
        if self._given is not None and self._given.is_that_of(W, b):
            faults[-1] = few_rows_differ(W, self.W) if b is None else few_rows_differ(W, self.W) | few_rows_differ(b, self.b)
            return None
        wide = on_device_with_float64(W.detach()).to(torch.float64, copy=True)
        offsets = torch.zeros_like(wide[:, 0]) if b is None else on_device_with_float64(b.detach()).to(torch.float64, copy=True)
        if len(self.W):
            changed = (wide != self.W.to(wide.device)).any() | (offsets != self.b.to(offsets.device)).any()
            if self._given is not None and self._given.has(W, b) and bool(changed):  # at once: the optimizer has made a step
                raise ValueError(OTHER_CLASSIFIER)
            faults[-1] = changed
        return Classifier(wide, offsets), GivenClassifier.of(W, b)

    def _summarize(self) -> Summary:
        known = Classifier(self.W, self.b) if len(self.W) else None
        moments = Moments.of(self._states).ordered()
        if self.targets == "regression":
            return of_targets(moments, int(self.width), known, self._distances)
        return of_classes(moments, known, self.lam, float(self.precision), self._decide)

    def _decide(self, classifier: Classifier | None, means: Tensor, classes: Tensor) -> Decisions:
        decide = Decider(classifier, means, classes)

        def counts(rows: Tensor, labels: Tensor) -> Tensor:
            decided = decide(rows, labels)
            return torch.tensor([decided.wrong, decided.disagreements, decided.wrong_by_mean], device=rows.device)

        return Decisions(*self._over_stored(counts, torch.zeros(3, dtype=torch.int64)).tolist())

    def _distances(self, mean: Tensor, bases: tuple[Tensor, ...]) -> Tensor:
        def sums(rows: Tensor, _: Tensor) -> Tensor:
            return regression.squared_distances(rows[:, : len(mean)].double(), mean, bases)

        return self._over_stored(sums, torch.zeros(len(bases), dtype=torch.float64))

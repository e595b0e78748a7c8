"""Features of a network caught on their way, during a pass of the user's own or one of ours that leaves no trace."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ufm.monitor.batches import Select, labels_on, outputs_of, second_entry_named, selected, warn_of_shift
from ufm.monitor.depth import BY_LAYER, gains_undefined, layer_gains, rows_by_layer
from ufm.monitor.layer_hooks import LayerHook
from ufm.monitor.layers import (
    Reduce,
    any_layer,
    bare,
    check_linear,
    check_returned,
    features_caught,
    few_rows,
    is_compiled,
    linear_layer,
    name_of,
    named_errors,
    pooled,
)
from ufm.monitor.measurement import Measurement
from ufm.monitor.metric import NeuralCollapse
from ufm.monitor.unchanged import batches_of, unchanged

CATCHING = "this watch is already catching features: leave its with block first"


def watch(
    model: nn.Module,
    layer: str | nn.Linear,
    inner: str | nn.Module | Sequence[str | nn.Module] = (),
    reduce: Reduce = pooled,
    lam: float | None = None,
    targets: Literal["classes", "regression"] = "classes",
    classes: Literal["all", "seen"] = "all",
    ignore_index: int | None = None,
    shift: bool = False,
    select: Select | None = None,
    scratch: Path | None = None,
    sync_on_compute: bool = True,
) -> "Watched":
    """A watch over the last linear layer of a network, and over inner layers.

    layer     the last Linear or its dotted name: its input is the features, its weights are the classifier
    inner     other layers or their dotted names: their outputs are measured without a classifier, as "NAME/nc1" and so on
    reduce    from the output of an inner layer to features (b, P): `pooled` takes the mean over the positions of a convolution,
              `RandomProjection(size)` a random projection of all numbers, `flattened` all of them
    select    a function from a batch to (inputs, labels), for `measure`, where a batch is no pair and no mapping with `labels`
    sync_on_compute   in a job of several processes all of them have to call `compute` and `measure`, and get the values over
              the examples of all; False if only one process measures

    The rest as in `NeuralCollapse`. Raises ValueError for names that the network does not have.
    """
    inner = (inner,) if isinstance(inner, (str, nn.Module)) else inner
    layer, inner = name_of(model, layer), [name_of(model, other) for other in inner]
    head = linear_layer(model, layer)
    common: Any = {"scratch": scratch, "sync_on_compute": sync_on_compute, "ignore_index": ignore_index, "shift": shift}
    if targets == "regression":
        if inner:
            raise ValueError("inner layers are measured for classes; leave inner= out for targets='regression'")
        metric = NeuralCollapse(targets=targets, lam=lam, **common)
        return Watched(model, head, {layer: (head, metric)}, reduce, select)
    C, settings = head.out_features, common | {"classes": classes}
    if C < 2:
        raise ValueError(
            f"the layer {layer!r} has {C} output, and collapse needs at least 2 classes: train with two outputs, or give "
            "features to NeuralCollapse(2) without a classifier"
        )
    watched: dict[str, tuple[nn.Module, NeuralCollapse]] = {layer: (head, NeuralCollapse(C, lam=lam, **settings))}
    watched |= {name: (any_layer(model, name), NeuralCollapse(C, **settings)) for name in inner if name != layer}
    return Watched(model, head, watched, reduce, select)


class Watched:
    """Metrics of the layers of a network. `with` it, features are caught; `update(labels)` after every forward pass.

    The first layer is the classifier. Nothing of the network is changed; hooks are there inside of the `with` block alone.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Linear,
        layers: dict[str, tuple[nn.Module, NeuralCollapse]],
        reduce: Reduce,
        select: Select | None,
    ) -> None:
        self.model, self.reduce, self.select = model, reduce, select
        self.metrics = {name: metric for name, (_, metric) in layers.items()}
        self._modules = {name: module for name, (module, _) in layers.items()}
        self._head, self._metric = head, next(iter(self.metrics.values()))
        self._computed: float | None = None  # how many examples the last `compute` counted, until a reset
        self._past: float | None = None  # of them, those of the blocks before this one
        self._checked = False  # that the classifier gives W h + b, once a pass
        self._outputs: list[Tensor] = []
        self._caught: dict[str, list[Tensor]] = {name: [] for name in layers}
        self._reduced: set[str] = set()  # layers of whose numbers `reduce` left some out
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Watched":
        if self._hooks:
            raise ValueError(CATCHING)
        for name, module in self._modules.items():
            if any_layer(self.model, name) is not module:
                raise ValueError(f"the layer {name!r} of the network was replaced after watch() was called: call watch() again")
        for name, module in self._modules.items():
            catch = LayerHook(self.catch, name, module is self._head)
            self._hooks.append(module.register_forward_hook(catch, with_kwargs=True))
        self._past = self._computed
        return self

    def __repr__(self) -> str:
        metric, layers = self._metric, ", ".join(map(repr, self.metrics))
        of = "regression" if metric.targets == "regression" else f"C = {metric.C}, classes = {'seen' if metric.lazy else 'all'!r}"
        return f"Watched({layers}: P = {self._head.in_features}, {of}, lam = {metric.lam})"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self.drop()

    def update(self, labels: Tensor) -> None:
        """Give the labels of the forward pass just made, or of several in their order.

        Raises TypeError for labels that are no tensor, ValueError where a layer saw no batch since the last update, or another
        number of examples than there are labels.
        """
        if not isinstance(labels, Tensor) or not labels.ndim:
            raise TypeError(f"labels are {labels!r:.60}, a tensor with one an example is needed: torch.as_tensor makes one")
        if self._past:
            said = f"the {self._past:g} examples of the last compute() are counted together with those of this pass"
            warnings.warn(f"{said}: call reset() before a new pass", stacklevel=2)
            self._past = None
        try:
            features = {name: self._of_layer(name, labels) for name in self.metrics}
            if not self._checked:
                name = next(iter(self.metrics))
                check_linear(self._head, name, self._caught[name][0], self._outputs[0])
                self._checked = True
        finally:
            self.drop()
        if len(self.metrics) > 1:  # all before one takes something in, so that the rows of `by_layer` are of the same examples
            for name, metric in self.metrics.items():
                named_errors(name, metric.check, features[name], labels)
        for name, metric in self.metrics.items():
            head = self._head if metric is self._metric else None
            metric.update(features[name], labels, classifier=head)

    def measure(self, loader: Iterable[object]) -> dict[str, float]:
        """Every measure from one pass over a loader in evaluation mode. Modes, random states and data order stay as they are.

        After an error or an interrupt nothing has been seen. Raises ValueError where the network returns logits that decide
        otherwise than those of the layer.
        """
        if self._hooks:
            raise ValueError(CATCHING)
        self.reset()
        device = next(self._head.parameters()).device  # its weight may be a parametrisation, which reading changes
        try:
            with unchanged(self.model, loader), torch.no_grad(), self:
                for batch in batches_of(loader):
                    chosen = selected(batch, self.select)
                    labels = labels_on(device, chosen.labels)  # before the forward pass, for which a copy would wait
                    returned = outputs_of(bare(self.model), chosen, device)
                    if not self._checked and self._outputs:
                        check_returned(returned, self._outputs[0], next(iter(self.metrics)))
                        warn_of_shift(chosen, self._metric.shift)
                    with second_entry_named(batch, self.select):
                        self.update(labels)
        except BaseException:
            self.reset()  # the measures of a part would look like those of the whole
            raise
        return self.compute()

    def compute(self) -> dict[str, float]:
        """Everything about the features of the classifier by name, of inner layers as "NAME/nc1" and so on, and every `gain`."""
        values = self._metric.compute()
        self._computed = values["examples"]
        for name, metric in list(self.metrics.items())[1:]:
            own = metric.compute()
            values |= {f"{name}/{key}": own[key] for key in BY_LAYER}
        return values | layer_gains(values, list(self.metrics))

    def by_layer(self) -> list[dict[str, float | str]]:
        """One row a layer, the inner ones as they were named, then the classifier's features: measures, `reduced` and `gain`.

        gain is log of the geometric mean of omega less that of the row before. A linear layer cannot make it positive, where the
        row before has all numbers of its layer and `dropped` is the same: `reduced` is 1 where `reduce` left numbers out.
        """
        if self._metric.targets == "regression":
            raise ValueError("layers are compared by their classes, and the targets of this watch are not classes")
        head, *inner = self.metrics
        return rows_by_layer({name: self.metrics[name].compute() for name in (*inner, head)}, self._reduced)

    @property
    def undefined(self) -> dict[str, str]:
        """Why each NaN of the last `compute` is undefined."""
        undefined = dict(self._metric.undefined)
        for name, metric in list(self.metrics.items())[1:]:
            undefined |= {f"{name}/{key}": reason for key, reason in metric.undefined.items() if key in BY_LAYER}
        return undefined | gains_undefined(undefined, list(self.metrics))

    @property
    def measurement(self) -> Measurement:
        """The last `compute` of the classifier's features, as a run stores it."""
        return self._metric.measurement

    @property
    def known_measurement(self) -> Measurement | None:
        """`measurement`, None where there is none: regression, or a class without example."""
        return self._metric.measurement if self._metric.measured else None

    def reset(self) -> None:
        """Forget all features, those caught and not yet given their labels too, and the weights of the classifier."""
        self.drop()
        for metric in self.metrics.values():
            metric.reset()
        self._checked, self._computed, self._past = False, None, None
        self._reduced.clear()

    def catch(self, name: str, module: nn.Module, features: Tensor, output: Tensor | None) -> None:
        """Keep what a layer was given (`output`, what it made of it) or gave, unless it is one of a copy of the network."""
        if module is not self._modules[name]:
            return
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            # now, and as a copy: the next layer may write its result into the same memory, as ReLU(inplace=True) does
            kept = features if output is not None else self.reduce(features)
            if kept.numel() != features.numel():
                self._reduced.add(name)
            self._caught[name].append(kept.clone())
            if output is not None:  # compared in `update`: a compiled network may hold this, and is not to be asked for numbers
                self._outputs.append(few_rows(output))

    def drop(self) -> None:
        """Forget what was caught since the last update: a batch that is not to count."""
        for caught in (*self._caught.values(), self._outputs):
            caught.clear()

    def _of_layer(self, name: str, labels: Tensor) -> Tensor:
        inner = self._modules[name] is not self._head
        return features_caught(name, self._caught[name], labels, inner, is_compiled(self.model))

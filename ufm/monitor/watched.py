"""Features of a network caught on their way, during a pass of the user's own or one of ours that leaves no trace."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ufm.monitor.batches import Select, outputs_of, selected
from ufm.monitor.layers import Reduce, any_layer, bare, check_linear, few_rows, first_tensor, linear_layer, name_of, pooled
from ufm.monitor.measurement import Measurement
from ufm.monitor.metric import NeuralCollapse
from ufm.monitor.summary import OF_FEATURES
from ufm.monitor.unchanged import batches_of, unchanged

BY_LAYER = (*OF_FEATURES, "dropped", "lost_signal")


def watch(
    model: nn.Module,
    layer: str | nn.Linear,
    inner: Sequence[str | nn.Module] = (),
    reduce: Reduce = pooled,
    lam: float | None = None,
    targets: Literal["classes", "regression"] = "classes",
    classes: Literal["all", "seen"] = "all",
    ignore_index: int | None = None,
    shift: bool = False,
    select: Select | None = None,
    scratch: Path | None = None,
) -> "Watched":
    """A watch over the last linear layer of a network, and over inner layers.

    layer     the last Linear or its dotted name: its input are the features, its weights the classifier
    inner     other layers or their dotted names: their outputs are measured without classifier, under "NAME/nc1" and so on
    reduce    from the output of an inner layer to features (b, P): `pooled` takes the mean over the places of a convolution,
              `RandomProjection(size)` a random projection of all numbers, `flattened` all of them
    select    what of a batch is (inputs, labels), for `measure`, where it is no pair and no mapping with `labels`

    The rest as in `NeuralCollapse`. Raises ValueError for names that the network does not have.
    """
    layer, inner = name_of(model, layer), [name_of(model, other) for other in inner]
    head = linear_layer(model, layer)
    settings: Any = {"ignore_index": ignore_index, "shift": shift, "scratch": scratch, "classes": classes}
    if targets == "regression":
        if inner:
            raise ValueError("inner layers are measured for classes; leave inner= out for targets='regression'")
        metric = NeuralCollapse(targets=targets, lam=lam, scratch=scratch)
        return Watched(model, head, {layer: (head, metric)}, reduce, select)
    C = head.out_features
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
        self._checked = False  # that the classifier gives W h + b, once a pass
        self._outputs: list[Tensor] = []
        self._caught: dict[str, list[Tensor]] = {name: [] for name in layers}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Watched":
        if self._hooks:
            raise ValueError("this watch is already catching features: leave its with block first")
        head, *inner = self._modules
        self._hooks.append(self._head.register_forward_hook(self._catching(head, inputs=True)))
        for name in inner:
            self._hooks.append(self._modules[name].register_forward_hook(self._catching(name, inputs=False)))
        return self

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
        try:
            features = {name: self._of_layer(name, labels) for name in self.metrics}
            if not self._checked:
                name = next(iter(self.metrics))
                check_linear(self._head, name, self._caught[name][0], self._outputs[0])
                self._checked = True
        finally:
            self.drop()
        for name, metric in self.metrics.items():
            head = self._head if metric is self._metric else None
            metric.update(features[name], labels.to(features[name].device), classifier=head)

    def measure(self, loader: Iterable[Any]) -> dict[str, float]:
        """Every measure from one pass over a loader in evaluation mode. Modes, random states and data order stay as they are."""
        self.reset()
        device = next(self._head.parameters()).device  # its weight may be a parametrisation, which reading changes
        with unchanged(self.model, loader), torch.no_grad(), self:
            self.model.eval()
            for batch in batches_of(loader):
                chosen = selected(batch, self.select)
                outputs_of(bare(self.model), chosen, device)
                self.update(chosen.labels)
        return self.compute()

    def compute(self) -> dict[str, float]:
        """Everything about the features of the classifier by name, and of inner layers under "NAME/nc1" and so on."""
        values = self._metric.compute()
        for name, metric in list(self.metrics.items())[1:]:
            own = metric.compute()
            values |= {f"{name}/{key}": own[key] for key in BY_LAYER if key in own}
        return values

    def by_layer(self) -> list[dict[str, float | str]]:
        """One row a layer, the inner ones as they were named, then the classifier's features: measures, and `gain`.

        gain is log of the geometric mean of omega less that of the layer before: a linear layer cannot make it positive.
        """
        if self._metric.targets == "regression":
            raise ValueError("layers are compared by their classes, and the targets of this watch are not classes")
        head, *inner = self.metrics
        rows: list[dict[str, float | str]] = []
        before = float("nan")
        for name in (*inner, head):
            own = self.metrics[name].compute()
            now = math.log(own["omega_geometric_mean"])
            rows.append({"layer": name, **{key: own[key] for key in BY_LAYER if key in own}, "gain": now - before})
            before = now
        return rows

    @property
    def undefined(self) -> dict[str, str]:
        """Why each NaN of the last `compute` is undefined."""
        undefined = dict(self._metric.undefined)
        for name, metric in list(self.metrics.items())[1:]:
            undefined |= {f"{name}/{key}": reason for key, reason in metric.undefined.items() if key in BY_LAYER}
        return undefined

    @property
    def measurement(self) -> Measurement:
        """The last `compute` of the classifier's features, as a run stores it."""
        return self._metric.measurement

    @property
    def known_measurement(self) -> Measurement | None:
        """`measurement`, None where there is none: regression, or a class without example."""
        return self._metric.measurement if self._metric.measured else None

    def reset(self) -> None:
        """Forget all features, and the weights of the classifier."""
        for metric in self.metrics.values():
            metric.reset()
        self._checked = False

    def _catching(self, name: str, inputs: bool) -> Callable[[nn.Module, Any, Any], None]:
        def catch(layer: nn.Module, given: Any, output: Any) -> None:
            # now, and as a copy: the next layer may write its result into the same memory, as ReLU(inplace=True) does
            features = first_tensor(given if inputs else output)
            with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
                self._caught[name].append((features if inputs else self.reduce(features)).clone())
                if inputs:  # compared in `update`: a compiled network may hold this hook, and is not to be asked for numbers
                    self._outputs.append(few_rows(first_tensor(output)))

        return catch

    def drop(self) -> None:
        """Forget what was caught since the last update: a batch that is not to count."""
        for caught in (*self._caught.values(), self._outputs):
            caught.clear()

    def _of_layer(self, name: str, labels: Tensor) -> Tensor:
        caught = self._caught[name]
        if not caught:
            raise ValueError(f"the layer {name!r} saw no batch since the last update: call the network inside of the with block")
        features = torch.cat(caught)
        if features.ndim == 3 and labels.ndim == 1 and len(features) == len(labels) and self._modules[name] is not self._head:
            raise ValueError(
                f"the layer {name!r} gives {features.shape[1]} tokens an example, and there is one label an example: "
                "give reduce=, a function to features (b, P), as lambda tokens: tokens.mean(1)"
            )
        if len(features) != len(labels):
            seen = f"{len(features)} examples in {len(caught)} calls"
            raise ValueError(f"the layer {name!r} saw {seen}, and there are {len(labels)} labels: update after each forward pass")
        return features

"""How the features of a network move, against what the theory of free features says they would do.

For features H (n x P) of the training examples, the loss L as a mean over them and G = dL/dH:

    free features     dH = -G
    kernel            dH = -Theta G, Theta = J J^T, its feature kernel (by a vector-Jacobian, a Jacobian-vector product)
    displacement      what one epoch of training really did

each split into class means and deviations, which are compared apart. All in evaluation mode and float64.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from sims.training.loss_and_optimizer import decay_of_body, mean_loss, summed_loss
from sims.training.protocol import TrainConfig
from ufm.features.ranges import snr_in_range
from ufm.features.statistics import StreamingStatistics
from ufm.files.json_objects import JsonObject
from ufm.ledger.force_balance import force_balance

Batch = tuple[Tensor, Tensor]
PARTS = ("means", "deviations")


def split(rows: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The class means of rows (n, P), at every example of the class, and the deviations from them. (n, P) each"""
    classes, inverse = labels.unique(return_inverse=True)
    counts = torch.bincount(inverse).to(rows.dtype)
    sums = torch.zeros(len(classes), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, inverse, rows)
    means = (sums / counts[:, None])[inverse]
    return {"means": means, "deviations": rows - means}


def cosine(a: Tensor, b: Tensor) -> float:
    """<a, b> / (|a| |b|), NaN where either is zero."""
    length = float(a.norm() * b.norm())
    return float((a * b).sum()) / length if length > 0 else float("nan")


def velocity_cosines(moved: Tensor, gradient: Tensor, kernel: Tensor, labels: Tensor) -> JsonObject:
    """Of what rows of features (n, P) did with -gradient and with -kernel (Theta gradient), for means and deviations apart.

    `ratio`: how many times faster than -gradient says the class means move, over the same of the deviations, by projection: the
    r of a class-block kernel.
    """
    parts = [split(rows, labels) for rows in (moved, -gradient, -kernel)]
    values: JsonObject = {}
    for part in PARTS:
        did, free, own = (rows[part] for rows in parts)
        values[part] = {"gradient": cosine(did, free), "kernel": cosine(did, own), "kernel_gradient": cosine(own, free)}
        values[part]["speed"] = float((did * free).sum() / (free * free).sum()) if bool(free.any()) else float("nan")
    slow = values["deviations"]["speed"]
    values["ratio"] = values["means"]["speed"] / slow if slow else float("nan")
    return values


@contextmanager
def caught_features(head: nn.Linear) -> Iterator[list[Tensor]]:
    """A list that holds the input of `head` in the last forward pass."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept[:] = [inputs[0]]

    handle = head.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def features_of(model: nn.Module, head: nn.Linear, batches: Iterable[Batch]) -> Tensor:
    """The features in evaluation mode, computed in the precision of the model, as float64. (n, P)"""
    rows = []
    with evaluated(model), torch.no_grad(), caught_features(head) as kept:
        for x, _ in batches:
            model(x)
            rows.append(kept[0].double())
    return torch.cat(rows)


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, every module's mode as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _FeatureExtractor(nn.Module):
    """A network up to its features."""

    def __init__(self, model: nn.Module, kept: list[Tensor]) -> None:
        super().__init__()
        self.model, self.kept = model, kept

    def forward(self, x: Tensor) -> Tensor:
        self.model(x)
        return self.kept[0]


def kernel_product(model: nn.Module, head: nn.Linear, batches: Sequence[Batch], pull: Tensor) -> Tensor:
    """Theta pull for rows pull (n, P) in the order of the batches, Theta = J J^T over the trained parameters below `head`. (n, P)

    Zero where no trained parameter lies below.
    """
    own = {id(p) for p in head.parameters()}
    sizes = [len(y) for _, y in batches]
    with evaluated(model), caught_features(head) as kept:
        below = _FeatureExtractor(model, kept)
        named = {name: p for name, p in below.named_parameters() if p.requires_grad and id(p) not in own}
        if not named:
            return torch.zeros_like(pull)
        total = {name: torch.zeros_like(p) for name, p in named.items()}
        for (x, _), rows in zip(batches, pull.split(sizes), strict=True):
            gradients = torch.autograd.grad(below(x), list(named.values()), rows.to(x.dtype), allow_unused=True)
            for sums, part in zip(total.values(), gradients, strict=True):
                if part is not None:
                    sums += part
        fixed = {name: p.detach() for name, p in named.items()}
        along = []
        for x, _ in batches:

            def features(theta: dict[str, Tensor], x: Tensor = x) -> Tensor:
                return functional_call(below, theta, (x,))

            along.append(jvp(features, (fixed,), (total,))[1])
    return torch.cat(along).detach().double()


def feature_gradient(head: nn.Linear, features: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """dL/dH of the mean loss of a configuration at features (n, P). (n, P)"""
    W, b = head.weight.detach().double(), None if head.bias is None else head.bias.detach().double()
    leaf = features.clone().requires_grad_()
    value = summed_loss(config)(nn.functional.linear(leaf, W, b), labels, leaf) / len(labels)
    return torch.autograd.grad(value, leaf)[0]


def gains(model: nn.Module, head: nn.Linear, batches: Sequence[Batch]) -> JsonObject:
    """Mean of log omega at the input and at the features; what every linear operation adds, and what lies behind each.

    `linear` (m,) in the order of execution cannot be positive (`ufm.ledger`); `between` (m,) is what ReLU, normalisation or a
    skip behind each make. NaN where the data do not fill the input of an operation.
    """
    met: list[tuple[Tensor, Tensor]] = []
    inner = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d) and module is not head]

    def meet(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        met.append((given[0].detach().flatten(1).clone(), output.detach().flatten(1).clone()))

    hooks = [module.register_forward_hook(meet) for module in inner]
    batchwise: list[list[tuple[Tensor, Tensor]]] = []
    try:
        with evaluated(model), torch.no_grad():
            for x, _ in batches:
                met.clear()
                model(x)
                batchwise.append([*met])
    finally:
        for hook in hooks:
            hook.remove()
    labels, features = torch.cat([y for _, y in batches]), features_of(model, head, batches)
    levels = [[level(torch.cat(part), labels) for part in zip(*pairs, strict=True)] for pairs in zip(*batchwise, strict=True)]
    top = level(features, labels)
    after = [pair[0] for pair in levels[1:]] + [top]
    return {
        "input": levels[0][0] if levels else top,
        "linear": [pair[1] - pair[0] for pair in levels],
        "between": [into - pair[1] for pair, into in zip(levels, after, strict=False)],
        "features": top,
    }


def level(rows: Tensor, labels: Tensor) -> float:
    """The mean of log omega_j of rows (n, P), on the range of Sigma_W; NaN where a class is as large as the features are many."""
    C = int(labels.max()) + 1
    if len(rows) - C < rows.shape[1]:
        return float("nan")
    streaming = StreamingStatistics(C)
    streaming.update(rows.double(), labels)
    omega = torch.from_numpy(snr_in_range(streaming.compute(), float(torch.finfo(rows.dtype).eps)).omega)
    return float(omega.log().mean()) if bool((omega > 0).all()) else float("nan")


def measure_velocity(
    model: nn.Module, head: nn.Linear, batches: Sequence[Batch], config: TrainConfig, moved: Tensor, offset_rate: float = 0.0
) -> JsonObject:
    """Everything of this page about a float64 network and what its features did next, moved (n, P); numbers by name.

    offset_rate: what free offsets of every example add to the kernel, times the identity.
    """
    labels, features = torch.cat([y for _, y in batches]), features_of(model, head, batches)
    gradient = feature_gradient(head, features, labels, config)
    kernel = kernel_product(model, head, batches, gradient) + offset_rate * gradient
    values = velocity_cosines(moved, gradient, kernel, labels)
    trained = {id(p) for p in model.parameters() if p.requires_grad} - {id(p) for p in head.parameters()}
    if not trained:
        return values | {"forces": None, "gains": gains(model, head, batches)}

    forces = force_balance(model, batches, head, mean_loss(config), decay_of_body(config), feature_decay=config.feature_decay)
    names = ("cosine", "ratio", "decay_cosine", "decay_ratio")
    values["forces"] = {name: float(getattr(forces, name)[-1]) for name in names}
    return values | {"gains": gains(model, head, batches)}

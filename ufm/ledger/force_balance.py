"""Forces on the parameters, layer by layer: the gradients that belong to class means and to deviations, and their sum.

With G the gradient of the loss with respect to the last features and J the Jacobian of the features in the parameters below, the
gradient is J^T G = J^T G_means + J^T G_deviations, G_means the class averages of G. Both by vector-Jacobian products: over the
whole data three passes forward and two backward, the memory of one batch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manifolds.representation import short_repr
from ufm.ledger.batches import Loader
from ufm.ledger.undisturbed import undisturbed

LogitLoss = Callable[[Tensor, Tensor], Tensor]  # (logits (b, C), labels (b,)) -> scalar mean over the batch
Gradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (inputs (b, ...), labels (b,)) -> H (b, P), gradient (b, P)
LabelledBatches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False, repr=False)
class ForceBalance:
    """Per parameter below the features, and for all together in the last place, (q + 1,).

    names          (q,) parameters in the model's order
    means, deviations, total   norms of J^T G_means, J^T G_deviations and their sum
    cosine         of the first two: -1 where they balance
    ratio          |J^T G| / |J^T G_means|: norm of the sum over that of the class means
    decay_cosine   of -J^T G with the parameter: 1 where only weight decay opposes it; NaN for zero parameters
    decay_ratio    |J^T G| / (weight_decay |theta|): 1 in a quasi-static balance with decay; NaN without decay
    momentum_cosine   of J^T G with the optimiser's momentum buffer; NaN without one
    """

    names: tuple[str, ...]
    means: np.ndarray
    deviations: np.ndarray
    total: np.ndarray
    cosine: np.ndarray
    ratio: np.ndarray
    decay_cosine: np.ndarray
    decay_ratio: np.ndarray
    momentum_cosine: np.ndarray
    __repr__ = short_repr


def force_balance(
    model: nn.Module,
    loader: Loader,
    layer: nn.Module,
    loss: LogitLoss,
    weight_decay: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    feature_decay: float = 0.0,
    batch_statistics: bool = False,
) -> ForceBalance:
    """The forces in evaluation mode on all examples of `loader`, batches (inputs, labels, ...) read three times.

    layer   the last layer, a module of `model`: its input is the features (b, P)
    loss    what training minimises, without decay, as a mean over a batch: torch.nn.functional.cross_entropy, ...
    feature_decay   lambda of a penalty lambda / 2 Ave ||h||^2 on the features h, whose gradient is part of both forces
    batch_statistics   whether torch's batch norms, frozen ones too, normalise by the statistics of each batch and not by averages

    Below batch norm the two ways have other Jacobians J, and cosines that differ by up to 0.6: give all examples as one batch
    for the forces that gradient descent follows. Dropout stays off.
    Parameters that do not require gradients, and those of `layer` itself, are left out; their .grad is not touched.
    Raises ValueError for a feature_decay below 0, a layer that is not the model's or not called, features that are not (b, P),
    and no parameter below it.
    """
    if not 0 <= feature_decay < float("inf"):
        raise ValueError(f"feature_decay = {feature_decay}: a finite number from 0 is needed")
    if not any(module is layer for module in model.modules()):
        raise ValueError("the layer is not a module of the model: take it from model.get_submodule(name)")
    own = {id(p) for p in layer.parameters()}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    if not named:
        raise ValueError("no trained parameter lies below the layer: its features cannot move")
    with undisturbed(model), torch.enable_grad():
        for module in model.modules():
            module.training = batch_statistics and isinstance(module, _BatchNorm)
        count = sum(len(batch[1]) for batch in loader)
        gradients = partial(_features_and_gradient, model, layer, loss, count, feature_decay)
        averages = _class_gradients(gradients, _on_device(model, loader))
        means, deviations = _pulls(gradients, _on_device(model, loader), [p for _, p in named], averages)
    theta = [p.detach() for _, p in named]
    buffers = [None if optimizer is None else optimizer.state.get(p, {}).get("momentum_buffer") for _, p in named]
    return _balance(tuple(name for name, _ in named), means, deviations, theta, buffers, weight_decay)


def _features_and_gradient(
    model: nn.Module, layer: nn.Module, loss: LogitLoss, count: int, feature_decay: float, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Features (b, P) with their graph, and the gradient (b, P) of the mean over all `count` examples with respect to them."""
    calls: list[Tensor] = []

    def pre(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls.append(inputs[0])
        calls.append(inputs[0].detach().requires_grad_())
        return (calls[-1], *inputs[1:])

    handle = layer.register_forward_pre_hook(pre)
    try:
        value = loss(model(x), y) * (len(y) / count)
    finally:
        handle.remove()
    if len(calls) != 2:
        raise ValueError(f"the layer was called {len(calls) // 2} times in one pass: once is needed")
    if calls[0].ndim != 2:
        raise ValueError(f"the input of the layer has shape {tuple(calls[0].shape)}: features (b, P) are needed")
    G = torch.autograd.grad(value, calls[1])[0]
    return calls[0], G + feature_decay / count * calls[1].detach() if feature_decay else G


def _class_gradients(gradients: Gradients, batches: LabelledBatches) -> dict[int, Tensor]:
    """The average over every class, in ascending order, of the gradients of its examples, in float64."""
    sums: dict[int, Tensor] = {}
    sizes: dict[int, int] = {}
    for x, y in batches:
        _, G = gradients(x, y)
        for c in y.unique().tolist():
            rows = G[y == c].double()
            sums[c] = sums.get(c, torch.zeros_like(rows[0])) + rows.sum(0)
            sizes[c] = sizes.get(c, 0) + len(rows)
    return {c: sums[c] / sizes[c] for c in sorted(sums)}


def _pulls(
    gradients: Gradients, batches: LabelledBatches, parameters: list[nn.Parameter], averages: dict[int, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    means = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    deviations = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    known = torch.tensor(list(averages), device=parameters[0].device)
    for x, y in batches:
        H, G = gradients(x, y)
        of_means = torch.stack(list(averages.values()))[torch.searchsorted(known, y.long())].to(G.dtype)
        for sums, pull, keep in ((means, of_means, True), (deviations, G - of_means, False)):
            pulled = torch.autograd.grad(H, parameters, pull, retain_graph=keep, allow_unused=True)
            for total, part in zip(sums, pulled, strict=True):
                if part is not None:
                    total += part
    return means, deviations


def _on_device(model: nn.Module, loader: Loader) -> LabelledBatches:
    device = next(model.parameters()).device
    for batch in loader:
        yield batch[0].to(device), torch.as_tensor(batch[1]).to(device)


def _balance(
    names: tuple[str, ...],
    means: list[Tensor],
    deviations: list[Tensor],
    theta: list[Tensor],
    buffers: list[Tensor | None],
    weight_decay: float,
) -> ForceBalance:
    columns: dict[str, list[float]] = {field: [] for field in ("m", "d", "t", "md", "tp", "p", "tb", "b")}
    for m, d, p, b in zip(means, deviations, theta, buffers, strict=True):
        t, p = m + d, p.double()
        buffer = torch.zeros_like(p) if b is None else b.double()
        pairs = {"m": (m, m), "d": (d, d), "t": (t, t), "md": (m, d), "tp": (-t, p), "p": (p, p), "tb": (t, buffer)}
        for field, (u, v) in {**pairs, "b": (buffer, buffer)}.items():
            columns[field].append(float((u * v).sum()))
    s = {field: np.array([*values, sum(values)]) for field, values in columns.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        return ForceBalance(
            names,
            np.sqrt(s["m"]),
            np.sqrt(s["d"]),
            np.sqrt(s["t"]),
            s["md"] / np.sqrt(s["m"] * s["d"]),
            np.sqrt(s["t"] / s["m"]),
            s["tp"] / np.sqrt(s["t"] * s["p"]),
            np.sqrt(s["t"] / s["p"]) / weight_decay if weight_decay else np.full(len(names) + 1, np.nan),
            s["tb"] / np.sqrt(s["t"] * s["b"]),
        )

"""What is minimised and how: the losses, the decays, and the optimisers of a configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sims.training.protocol import TrainConfig
from ufm.features.least_squares import lambda_of_weight_decay

LBFGS_ITERATIONS, LBFGS_HISTORY = 10, 10  # inner iterations a batch, and pairs remembered


def facts_of(config: TrainConfig, C: int, epoch: int) -> dict[str, float | str]:
    """What is stored with the class statistics of an epoch, decays in units of 1/2 Ave ||W h + b - y||^2."""
    momentum = config.momentum if config.optimizer == "sgd" else 0.0
    lam, decay_h = (lambda_of_weight_decay(decay, C) for decay in (config.weight_decay, config.feature_decay))
    facts: dict[str, float | str] = {"lambda": lam, "decay_w": lam, "decay_b": lam, "decay_h": decay_h, "momentum": momentum}
    facts |= {"learning_rate": config.rate_at(max(epoch, 1)), "batch_size": config.batch_size}
    return facts | {"optimizer": config.optimizer, "loss": config.loss}


@dataclass(frozen=True)
class DecayGroup:
    """Parameters that share a weight decay."""

    parameters: list[nn.Parameter]
    weight_decay: float

    def penalty(self) -> Tensor:
        """weight_decay / 2 times the sum of squares."""
        return 0.5 * self.weight_decay * torch.stack([p.square().sum() for p in self.parameters]).sum()


def mean_square(logits: Tensor, labels: Tensor, true: float, target: float) -> Tensor:
    """Sum over the batch of Ave_c of (f_c - target y_c)^2, times `true` at c = y (Hui & Belkin 2021). torch's MSELoss at 1, 1."""
    C = logits.shape[1]
    y = F.one_hot(labels, C).to(logits.dtype)
    return ((logits - target * y).square() * (1 + (true - 1) * y)).sum() / C


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the batch of the cross-entropy of the softmax."""
    return F.cross_entropy(logits, labels, reduction="sum")


def summed_loss(config: TrainConfig) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss (logits, labels, features) summed over a batch, with the feature decay in it; divide by the size for the mean."""

    def loss(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        logits, features = (x.float() if x.dtype.itemsize < 4 else x for x in (logits, features))
        if config.loss == "ce":
            data = cross_entropy(logits, labels)
        else:
            data = mean_square(logits, labels, config.rescale_true, config.rescale_target)
        return data + 0.5 * config.feature_decay * features.square().sum() if config.feature_decay else data

    return loss


def mean_loss(config: TrainConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss (logits, labels) as a mean over a batch, without any decay."""
    summed = summed_loss(config)
    return lambda logits, labels: summed(logits, labels, logits[:, :0]) / len(labels)


def decay_of_body(config: TrainConfig) -> float:
    """The weight decay of the parameters below the classifier: none where features decay instead."""
    return 0.0 if config.feature_decay else config.weight_decay


def groups(model: nn.Module, head: nn.Linear, config: TrainConfig) -> list[DecayGroup]:
    """Trained parameters with their weight decay: all alike, or only the classifier's where features decay instead."""
    of_head = {id(p) for p in head.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    last = [p for p in trained if id(p) in of_head]
    body = [p for p in trained if id(p) not in of_head]
    groups = [DecayGroup(body, decay_of_body(config)), DecayGroup(last, config.weight_decay)]
    return [group for group in groups if group.parameters]


def optimizer_of(parts: list[DecayGroup], config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, Adam (weight decay in the gradient), or L-BFGS with a strong Wolfe search (decay in the loss)."""
    if config.optimizer == "lbfgs":
        everything = [p for group in parts for p in group.parameters]
        line_search = {"line_search_fn": "strong_wolfe", "max_iter": LBFGS_ITERATIONS, "history_size": LBFGS_HISTORY}
        return torch.optim.LBFGS(everything, lr=config.rate, **line_search)  # type: ignore[arg-type]
    decayed: list[dict[str, Any]] = [{"params": group.parameters, "weight_decay": group.weight_decay} for group in parts]
    if config.optimizer == "adam":
        return torch.optim.Adam(decayed, lr=config.rate)
    return torch.optim.SGD(decayed, lr=config.rate, momentum=config.momentum)

"""Adversarial robustness as in the paper's Figure 9: the relative length of DeepFool's perturbation."""

import os
from typing import Any

import numpy as np
from torch import Tensor, nn

STEPS, OVERSHOOT, CANDIDATES = 50, 0.02, 10  # the defaults of the DeepFool paper's code
UNBOUNDED = 1e6  # normalised pixels stay far below: perturbations are never clipped


def deepfool_robustness(model: nn.Module, images: Tensor) -> float:
    """Ave_i ||r(x_i)||_2 / ||x_i||_2 over network inputs x_i (n, ...), r the perturbation that L2 DeepFool finds on the logits.

    DeepFool: Moosavi-Dezfooli, Fawzi & Frossard (2016). The network is measured in evaluation mode, its own decision being the
    one to change. Raises ValueError for an input that is zero.
    """
    PyTorchModel, L2DeepFoolAttack = _foolbox()
    lengths = images.flatten(1).double().norm(dim=1)
    if not bool((lengths > 0).all()):
        raise ValueError("a network input is zero: its relative perturbation is not defined")
    training, trained = model.training, [p.requires_grad for p in model.parameters()]
    model.eval().requires_grad_(False)  # only gradients with respect to the images are needed
    try:
        attacked = PyTorchModel(model, bounds=(-UNBOUNDED, UNBOUNDED), device=images.device)
        decisions = model(images).argmax(1)
        attack = L2DeepFoolAttack(steps=STEPS, candidates=CANDIDATES, overshoot=OVERSHOOT, loss="logits")
        perturbed = attack.run(attacked, images, decisions)
    finally:
        model.train(training)
        for parameter, trains in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(trains)
    return float(((perturbed - images).flatten(1).double().norm(dim=1) / lengths).mean())


def _foolbox() -> tuple[Any, Any]:
    """Foolbox's model and attack, on a machine without git too: it imports GitPython, which otherwise asks for one."""
    name, quiet = "GIT_PYTHON_REFRESH", "quiet"
    before = os.environ.get(name)
    os.environ[name] = quiet
    try:
        from foolbox import PyTorchModel
        from foolbox.attacks import L2DeepFoolAttack
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return PyTorchModel, L2DeepFoolAttack


def robustness_sample(n: int, count: int, seed: int) -> np.ndarray:
    """Which test images are attacked: `count` of n without replacement, all of them where there are fewer."""
    return np.sort(np.random.default_rng(seed).choice(n, min(count, n), replace=False))

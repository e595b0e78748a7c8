"""One right panel of the gallery as numbers: lines that theory predicts, points that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ufm.models.base import Model, Quantities

FLOOR = 1e-16  # below it a defect is round-off, and a logarithmic axis has no zero


@dataclass(frozen=True)
class Sweep:
    """Lines that the theory predicts and points that were measured, label by label; vertical marks at predicted thresholds."""

    x_label: str
    y_label: str
    line_x: np.ndarray
    lines: dict[str, np.ndarray]
    point_x: np.ndarray
    points: dict[str, np.ndarray]
    marks: dict[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False


def solved(model: Model, seed: int, device: str) -> Quantities:
    """What a solve measures, without asking the theory for its domain."""
    return model.measured(model.solve(seed, device))


def measured_column(models: Sequence[Model], quantity: str, seed: int, device: str) -> np.ndarray:
    """One measured quantity along a list of models."""
    return np.array([solved(model, seed, device)[quantity] for model in models])


def predictions(models: Sequence[Model], quantity: str) -> np.ndarray:
    """One predicted quantity along a list of models."""
    return np.array([model.predicted()[quantity] for model in models])

"""Sweeps of the models that came after the paper: any targets, other losses, few features, unequal classes, laws in time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sims.gallery.sweep import Sweep, measured_column, predictions, solved
from ufm.arrays import as_numpy
from ufm.models.any_target import AnyTarget
from ufm.models.base import Model
from ufm.models.garrod_keating import DeepCrossEntropy
from ufm.models.jiang import SoftmaxCodes
from ufm.models.joint_decay import JointDecay
from ufm.models.objective.losses import CrossEntropy, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, gaussian_point
from ufm.models.seleznova import BlockKernel
from ufm.models.solvers.flat import trust_region
from ufm.models.thrampoulidis import Seli
from ufm.models.zhou_losses import FocalLoss, LabelSmoothing


def kept_directions(model: AnyTarget, seed: int, device: str) -> Sweep:
    """The singular values of the logits against sqrt(lw lh): every direction of the targets has a threshold of its own."""
    sigma = replace(model, lambda_w=1e-12, lambda_h=1e-12).optimum.kept / model.layout.n
    fine, coarse = np.linspace(1e-3, 1.15 * sigma[0], 150), sigma[0] * np.array([0.02, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.1])
    at = [[replace(model, lambda_w=float(v), lambda_h=float(v)) for v in values] for values in (fine, coarse)]
    names = [f"direction {j + 1}" for j in range(model.C)]
    lines, points = predictions(at[0], "singular_values"), measured_column(at[1], "singular_values", seed, device)
    marks = {f"$s_{j + 1}/n$": float(s) for j, s in enumerate(sigma)}
    lined, pointed = dict(zip(names, lines.T, strict=True)), dict(zip(names, points.T, strict=True))
    return Sweep("$\\sqrt{\\lambda_W \\lambda_H}$", "singular value of $WH$", fine, lined, coarse, pointed, marks)


def gap_by_smoothing(model: LabelSmoothing, seed: int, device: str) -> Sweep:
    """The logit gap against the share of smoothing: zero from delta = 1 - C sqrt(N lw lh) on."""
    base = replace(model, lambda_w=0.02, lambda_h=0.02)
    fine, coarse = np.linspace(0, 0.99, 150), np.array([0.0, 0.05, 0.15, 0.3, 0.5, 0.65, 0.85])
    line = np.array([replace(base, smoothing=float(v)).gap for v in fine])
    points = np.array([measured_gap(replace(base, smoothing=float(v)), seed, device) for v in coarse])
    marks = {"$\\delta = 1 - c$": 1 - base.threshold}
    return Sweep("smoothing $\\delta$", "logit gap $g$", fine, {"theory": line}, coarse, {"solve": points}, marks)


def measured_gap(model: LabelSmoothing, seed: int, device: str) -> float:
    """The mean logit gap of a solve, which is zero beyond the threshold too."""
    W, H, b = model.solve(seed, device).point
    Z = W @ H + b
    right = Z.gather(0, Z.new_tensor(model.layout.labels).long()[None])
    return float((model.C * right - Z.sum(0)).mean() / (model.C - 1))


def gap_by_gamma(model: FocalLoss, seed: int, device: str) -> Sweep:
    """The logit gap against the exponent, for weak and strong decay."""
    fine, coarse, lines, points = (
        np.linspace(0, 5, 60),
        np.array([0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0]),
        dict[str, Any](),
        dict[str, Any](),
    )
    for decay in (1e-3, 2e-2):
        base = replace(model, lambda_w=decay, lambda_h=decay)
        name = f"$\\lambda = {decay:g}$"
        lines[name] = np.array([replace(base, gamma=float(v)).gap for v in fine])
        points[name] = measured_column([replace(base, gamma=float(v)) for v in coarse], "logit_gap", seed, device).mean(1)
    return Sweep("exponent $\\gamma$", "logit gap $g$", fine, lines, coarse, points)


def logits_in_time(model: JointDecay, seed: int, device: str) -> Sweep:
    """The mean logit of three classes of sizes 12, 6 and 3 in time: law (e) against the integrated flow."""
    base = replace(model, C=3, sizes=(12, 6, 3), P=5, weight_decay=0.02, scale=0.03)
    path, n = base.solve(seed, device), base.layout.n
    law, labels = base.law(path.path[0]), np.asarray(base.layout.labels)

    def own(Z: np.ndarray) -> list[float]:
        return [float(Z[c, labels == c].mean()) for c in range(base.C)]

    times = np.linspace(0, path.times[-1], 200)
    lines = np.array([own(law.logits(t / n)) for t in times])
    points = np.array([own(as_numpy(W @ H)) for W, H in path.path[::3]])
    names = [f"$n_k = {size}$" for size in base.layout.sizes]
    lined, pointed = dict(zip(names, lines.T, strict=True)), dict(zip(names, points.T, strict=True))
    return Sweep("time $t$", "mean logit of the class", times, lined, path.times[::3], pointed)


def logits_through_a_kernel(model: BlockKernel, seed: int, device: str) -> Sweep:
    """Singular values of the logits in time through the block kernel: the law against the integrated state."""
    path = model.solve(seed, device)
    law, shrink, K = model.law(path.path[0]), float(np.sqrt(model.class_rate / model.N)), model.C - 1
    times = np.linspace(0, path.times[-1], 200)
    lines = np.array([np.linalg.svd(shrink * law.logits(model.class_rate * t), compute_uv=False)[:K] for t in times])
    means = [as_numpy(point[0] @ model.layout.means(point[1])) for point in path.path[::3]]
    points = np.array([np.linalg.svd(Z, compute_uv=False)[:K] for Z in means])
    names = [f"$\\sigma_{j + 1}$" for j in range(K)]
    lined, pointed = dict(zip(names, lines.T, strict=True)), dict(zip(names, points.T, strict=True))
    return Sweep("time $t$", "singular values of $WM$", times, lined, path.times[::3], pointed)


def margin_by_classes(model: SoftmaxCodes, seed: int, device: str) -> Sweep:
    """The largest one-vs-rest margin against the number of classes, in two, three and four dimensions."""
    lines, points, most = dict[str, Any](), dict[str, Any](), 9
    for P in (2, 3, 4):
        classes = np.arange(2, most if P == 2 else 2 * P + 1)
        models: list[Model] = [replace(model, C=int(C), P=P) for C in classes]
        padding = np.full(most - 2 - len(classes), np.nan)
        lines[f"$P = {P}$"] = np.append(predictions(models, "one_vs_rest_margin"), padding)
        points[f"$P = {P}$"] = np.append(measured_column(models, "one_vs_rest_margin", seed, device), padding)
    classes = np.arange(2, most)
    return Sweep("classes $C$", "one-vs-rest margin", classes, lines, classes, points)


def minimum_by_layers(model: DeepCrossEntropy, seed: int, device: str) -> Sweep:
    """The minimum over that at the simplex, against the number of layers: low rank wins from two or three layers on."""
    layers, lines, points = np.arange(1, 7), dict[str, Any](), dict[str, Any]()
    for C in (4, 6):
        models = [replace(model, C=C, layers=int(M)) for M in layers]
        simplex = [next(value for value, _, structure in m.candidates if structure.name == "simplex") for m in models]
        lines[f"lowest structure, $C = {C}$"] = predictions(models, "minimum") / simplex
        points[f"solve, $C = {C}$"] = measured_column(models, "minimum", seed, device) / simplex
    lines["deep neural collapse"] = np.ones(len(layers))
    return Sweep("linear layers $M$", "minimum over value at the simplex", layers, lines, layers, points)


def norm_ratio(model: Seli, seed: int, device: str) -> Sweep:
    """|w| of large over small classes against their ratio of sizes: the limit, and cross-entropy at two weight decays."""
    fine, coarse = np.geomspace(1, 32, 60), np.array([1, 2, 4, 8, 16, 32])
    C, large, N = model.C, 2, 2

    def ratio(squared_norms: np.ndarray) -> float:
        return float(np.sqrt(squared_norms[:large].mean() / squared_norms[large:].mean()))

    def at(R: int) -> Seli:
        return replace(model, sizes=(R * N,) * large + (N,) * (C - large))

    def limit(R: float) -> float:  # sizes need not be whole numbers in the formula
        centred = np.eye(C) - 1 / C
        values, E = np.linalg.eigh(centred * np.repeat((R * N, N), (large, C - large)) @ centred)
        return ratio(((E * np.sqrt(values.clip(min=0))) @ E.T).diagonal())

    def decayed(R: int, decay: float) -> float:
        layout = at(R).layout
        loss = CrossEntropy(one_hot(layout, device), column_weights(layout, 1.0, device))
        start = gaussian_point(((C, model.P), (model.P, layout.n)), seed, device=device)
        W = trust_region(Peeled(loss, (decay, decay)), model.feasible, start)[0]
        return ratio(as_numpy((W * W).sum(1)))

    def margin(R: int) -> float:
        return ratio(np.diag(np.reshape(solved(at(R), seed, device)["classifier_gram"], (C, C))))

    sizes = coarse.tolist()
    points = {"limit of no decay": np.array([margin(R) for R in sizes])}
    for decay in (1e-2, 1e-6):
        points[f"cross-entropy, decay {decay:g}"] = np.array([decayed(R, decay) for R in sizes])
    lines = {"limit of no decay": np.array([limit(R) for R in fine])}
    return Sweep("$R = n_A / n_B$", "$|w_A| / |w_B|$", fine, lines, coarse, points, log_x=True)


LATER_SWEEPS: dict[str, tuple[Callable[..., Sweep], ...]] = {
    "mse-any-target": (kept_directions,),
    "label-smoothing": (gap_by_smoothing,),
    "focal": (gap_by_gamma,),
    "joint-decay": (logits_in_time,),
    "block-kernel": (logits_through_a_kernel,),
    "softmax-codes": (margin_by_classes,),
    "deep-ce": (minimum_by_layers,),
    "seli": (norm_ratio,),
}

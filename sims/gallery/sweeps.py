"""What a model predicts along one of its parameters, and what solves from random starts find: the gallery's right panels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sims.gallery.later_sweeps import LATER_SWEEPS
from sims.gallery.sweep import Sweep, measured_column, predictions, solved
from ufm.models import simplex
from ufm.models.base import Model
from ufm.models.dang import DeepLinear
from ufm.models.e_wojtowytsch import EWojtowytsch
from ufm.models.ergen_pilanci import ErgenPilanci
from ufm.models.fang import Fang
from ufm.models.fang_theory import collapse_ratio
from ufm.models.han_papyan_donoho import CentralPath
from ufm.models.lu_steinerberger import LuSteinerberger
from ufm.models.mixon import Mixon
from ufm.models.poggio_liao import PoggioLiao
from ufm.models.solvers.gradient_flow import gradient_flow
from ufm.models.tirer_bruna import BiasFree, FreeBias
from ufm.models.zhou import DecayedBias
from ufm.models.zhu import Zhu


def singular_values_of_the_flow(model: CentralPath, seed: int, device: str) -> Sweep:
    """omega_j(t): the law against the integrated state."""
    path = model.solve(seed, device)
    measured = np.array([torch.linalg.svdvals(model.layout.means(X))[: model.C - 1].tolist() for (X,) in path.path[::5]])
    times = np.linspace(0, path.times[-1], 200)
    law = model.law.omega(times, model.omega0, model.C, model.N)
    label = "$\\omega_{}$"
    names = [label.format(j + 1) for j in range(model.C - 1)]
    return Sweep(
        "time $t$",
        "SNR singular values $\\omega_j$",
        times,
        dict(zip(names, law.T, strict=True)),
        path.times[::5],
        dict(zip(names, measured.T, strict=True)),
    )


def law_on_the_subspace(model: Mixon, seed: int, device: str) -> Sweep:
    """sigma_j(t) on the invariant subspace: the law against the integrated state."""
    times = np.linspace(0, 2, 120) / model.rate
    measured_at = np.linspace(0, 2, 13) / model.rate
    path = gradient_flow(model.objective(device), model.subspace_start(seed, device), measured_at)
    measured = np.array([torch.linalg.svdvals(point[0])[: model.C - 1].tolist() for point in path])
    law = model.law(times, model.subspace_singular_values)
    names = [f"$\\sigma_{j + 1}$" for j in range(model.C - 1)]
    lines, points = dict(zip(names, law.T, strict=True)), dict(zip(names, measured.T, strict=True))
    return Sweep("time $t$", "singular values of $W$ on $\\mathcal{S}$", times, lines, measured_at, points)


def start_size(model: Mixon, seed: int, device: str) -> Sweep:
    """The within-class share that survives, against the size of the start: the theory is the limit on the left."""
    scales = np.geomspace(1e-4, 1.0, 9)
    measured = []
    for scale in scales:
        small = replace(model, scale=float(scale))
        times = np.array([0.0, small.duration])
        measured.append(
            small.collapse(gradient_flow(small.objective(device), small.start(seed, device), times, rtol=1e-9)[-1])["NC1"]
        )
    name = "within-class share of $|H|^2$"
    return Sweep("size of the start", name, scales, {}, scales, {"flow at its end": np.array(measured)}, log_x=True, log_y=True)


def minimum_by_dimension(model: LuSteinerberger, seed: int, device: str) -> Sweep:
    """The minimum against the dimension: at the simplex bound from P = C - 1 on, above it before."""
    dimensions = np.arange(2, model.C + 4)
    measured = measured_column([replace(model, P=int(P)) for P in dimensions], "minimum", seed, device)
    bound = np.full(len(dimensions), model.predicted()["minimum"])
    marks = {"$P = C - 1$": float(model.C - 1)}
    return Sweep("dimension $P$", "minimum", dimensions, {"simplex bound": bound}, dimensions, {"solve": measured}, marks)


def gap_by_classes(model: EWojtowytsch, seed: int, device: str) -> Sweep:
    """The logit gap sqrt(C/(C-1)) against the number of classes."""
    classes = np.arange(2, 13)
    models: list[Model] = [replace(model, C=int(C), P=13) for C in classes]
    lines = {"$\\sqrt{C/(C-1)}$": predictions(models, "logit_gap")[:, 0]}
    return Sweep(
        "classes $C$", "logit gap", classes, lines, classes, {"solve": measured_column(models, "logit_gap", seed, device).mean(1)}
    )


def norm_by_decay(model: PoggioLiao, seed: int, device: str) -> Sweep:
    """The equilibrium norm against the weight decay."""
    fine, coarse = np.geomspace(1e-3, 10, 100), np.geomspace(1e-3, 10, 9)
    line = predictions([replace(model, lambda_w=float(v)) for v in fine], "norm")
    measured = measured_column([replace(model, lambda_w=float(v)) for v in coarse], "norm", seed, device)
    return Sweep("$\\lambda$", "norm $\\rho$", fine, {"theory": line}, coarse, {"solve": measured}, log_x=True)


def drop_out(model: ErgenPilanci, seed: int, device: str) -> Sweep:
    """The logit that each class keeps, against beta, for three class sizes: n_c = N R and N."""
    base = replace(model, N=2, majority=1, imbalance=3.0)
    fine, coarse = np.linspace(0.05, 2.8, 200), np.linspace(0.1, 2.75, 11)
    lines = np.array([replace(base, beta=float(v)).kept for v in fine])
    measured = np.array([solved(replace(base, beta=float(v)), seed, device)["logits"] for v in coarse])
    names = {"$n_c = 6$": 0, "$n_c = 2$": 2}
    marks = {"$\\sqrt{6}$": float(np.sqrt(6)), "$\\sqrt{2}$": float(np.sqrt(2))}
    return Sweep(
        "$\\beta$",
        "logit that the class keeps",
        fine,
        {name: lines[:, k] for name, k in names.items()},
        coarse,
        {name: measured[:, k] for name, k in names.items()},
        marks,
    )


def minority_collapse(model: Fang, seed: int, device: str) -> Sweep:
    """The cosine between minority classifiers against the ratio of class sizes, 1 from R0 on."""
    base = replace(model, majority=model.C // 2, N=1)
    R0 = collapse_ratio(base.C, base.majority, base.energy_h, base.energy_w)
    fine, coarse = np.geomspace(1.02, 3 * R0, 80), R0 * np.array([0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.98, 1.02, 1.2, 1.8, 2.8])

    def cosine(of: Fang) -> float:
        W, _ = of.classifier_and_features(of.solve(seed, device).point)
        return float(np.mean(simplex.extreme_cosines(W[of.majority :])))

    K_A, K_B = base.majority, base.C - base.majority
    line = np.array([replace(base, imbalance=float(R)).exact().minority_cosine(K_A, K_B) for R in fine])
    measured = np.array([cosine(replace(base, imbalance=float(R))) for R in coarse[coarse >= 1]])
    label = f"$R_0 = {R0:.3f}$"
    lines, points = {"theory": line}, {"solve": measured}
    x = "$R = n_A / n_B$"
    return Sweep(x, "cosine between minority classifiers", fine, lines, coarse[coarse >= 1], points, {label: R0}, log_x=True)


def decays(c: np.ndarray, model: Zhu | FreeBias | BiasFree) -> list[Model]:
    """The model at thresholds c = C sqrt(N lw lh), lw = lh."""
    return [replace(model, lambda_w=float(v), lambda_h=float(v)) for v in c / (model.C * np.sqrt(model.N))]


def by_threshold(model: Zhu | FreeBias, seed: int, device: str) -> Sweep:
    """|W|_F^2 against c, zero from c = 1 on."""
    fine, coarse = np.linspace(0.05, 1.3, 120), np.array([0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97, 1.03, 1.15, 1.3])
    line, measured = (
        predictions(decays(fine, model), "W_squared_norm"),
        measured_column(decays(coarse, model), "W_squared_norm", seed, device),
    )
    marks = {"$c = 1$": 1.0}
    return Sweep(
        "$c = C \\sqrt{N \\lambda_W \\lambda_H}$", "$|W|_F^2$", fine, {"theory": line}, coarse, {"solve": measured}, marks
    )


def unequal_logits(model: BiasFree, seed: int, device: str) -> Sweep:
    """The logit that classes of two sizes keep, against sqrt(lw lh): soft thresholds of their own."""
    base = replace(model, N=3, majority=2, imbalance=4.0)
    fine, coarse = np.linspace(1e-3, 0.13, 150), np.linspace(0.005, 0.125, 9)
    lines = np.array([replace(base, lambda_w=float(v), lambda_h=float(v)).predicted()["logits"] for v in fine])
    measured = np.array([solved(replace(base, lambda_w=float(v), lambda_h=float(v)), seed, device)["logits"] for v in coarse])
    names = {"$n_k = 12$": 0, "$n_k = 3$": model.C - 1}
    marks = {f"$\\sqrt{{{n}}}/n$": float(np.sqrt(n) / base.layout.n) for n in (12, 3)}
    x = "$\\sqrt{\\lambda_W \\lambda_H}$"
    lined, pointed = {name: lines[:, k] for name, k in names.items()}, {name: measured[:, k] for name, k in names.items()}
    return Sweep(x, "logit $s_k$ that the class keeps", fine, lined, coarse, pointed, marks)


def frame_onset(model: DecayedBias, seed: int, device: str) -> Sweep:
    """The singular value along 1 against the decay of the bias: zero up to lb* = c/(1-c)."""
    c = float(model.shrinkage[0])
    onset = c / (1 - c)
    fine, coarse = onset * np.geomspace(0.2, 30, 200), onset * np.array([0.25, 0.5, 0.8, 0.95, 1.05, 1.3, 2, 4, 10, 25])
    theory = predictions([replace(model, lambda_b=float(v)) for v in fine], "singular_values")
    solved = measured_column([replace(model, lambda_b=float(v)) for v in coarse], "singular_values", seed, device)
    line, measured = ({"along $1$": table[:, -1], "across $1$": table[:, 0]} for table in (theory, solved))
    marks = {"$\\lambda_b^* = c/(1-c)$": onset}
    return Sweep("$\\lambda_b$", "singular values of $WH / \\sqrt{N}$", fine, line, coarse, measured, marks, log_x=True)


def depth(model: DeepLinear, seed: int, device: str) -> Sweep:
    """The logit that every class keeps against the weight decay, for one to three layers: a jump from two on."""
    fine, coarse = np.geomspace(1e-3, 0.12, 200), np.geomspace(1.5e-3, 0.11, 9)
    lines, points = dict[str, Any](), dict[str, Any]()
    for M in (1, 2, 3):
        name = f"{M} layer" + "s" * (M > 1)
        at = [replace(model, layers=M, lambda_w=float(v), lambda_h=float(v)) for v in fine]
        lines[name] = predictions(at, "logits")[:, 0]
        models = [replace(model, layers=M, lambda_w=float(v), lambda_h=float(v)) for v in coarse]
        points[name] = measured_column(models, "logits", seed, device).mean(1)
    return Sweep("$\\lambda_W = \\lambda_H$", "logit that every class keeps", fine, lines, coarse, points, log_x=True)


SWEEPS: dict[str, tuple[Callable[..., Sweep], ...]] = {
    "central-path": (singular_values_of_the_flow,),
    "mixon": (law_on_the_subspace, start_size),
    "lu-steinerberger": (minimum_by_dimension,),
    "e-wojtowytsch": (gap_by_classes,),
    "poggio-liao": (norm_by_decay,),
    "ergen-pilanci": (drop_out,),
    "fang": (minority_collapse,),
    "zhu": (by_threshold,),
    "mse-bias-free": (unequal_logits,),
    "mse-free-bias": (by_threshold,),
    "mse-decayed-bias": (frame_onset,),
    "deep-linear": (depth,),
    **LATER_SWEEPS,
}

"""Where a run starts: features in class blocks, balanced and reduced where asked for, their SNR, and the times of the run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array
from manifolds.representation import short_repr
from ufm.features import labels as layout
from ufm.features.snr import Snr, informative_error, snr, snr_spectrum
from ufm.flow.config import FlowConfig
from ufm.laws.domain import keep_blocks
from ufm.laws.singular_value_dynamics import Law
from ufm.options import device_of

if TYPE_CHECKING:
    from ufm.features.ranges import Reduction
    from ufm.features.sharded import FactoredStatistics
    from ufm.flow.held_rows import HeldRows

FEWEST_TIMES = 20  # at which vectors that move are kept, unless the user says otherwise
MUCH_SIGNAL = 0.01  # share of the between-class signal whose loss to --reduce deserves a warning


@dataclass(frozen=True, eq=False, repr=False)
class Start:
    """Features H (P, n) in class blocks, their layout and SNR, and what was done to them on the way.

    Of features in shards the `statistics` are known, and H is None, or for --full has the columns at hand, which are the rows
    `held` of all; `digest` is of all.
    """

    H: np.ndarray | None
    layout: ClassLayout
    snr: Snr[np.ndarray]
    notes: tuple[str, ...]
    reduction: "Reduction | None" = None
    statistics: "FactoredStatistics | None" = None
    held: "HeldRows | None" = None
    digest: str | None = None
    __repr__ = short_repr

    @property
    def features(self) -> np.ndarray:
        """H. Raises ValueError for shards."""
        if self.H is None:
            raise ValueError("features in shards are not held in memory")
        return self.H

    @property
    def P(self) -> int:
        """Number of features, after the reduction."""
        return len(self.features) if self.statistics is None else self.statistics.P

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where the reduction took between-class signal with it, and where the features leave digits of omega unknown."""
        lines: tuple[str, ...] = ()
        if self.reduction is not None and self.reduction.lost_signal > MUCH_SIGNAL:
            lost = f"the dropped directions held {self.reduction.lost_signal:.1%} of the between-class signal, with infinite SNR"
            lines += (f"{lost}: the trajectory describes the rest of the network only",)
        error = self.snr.relative_error
        if error > informative_error(self.snr.precision):
            far = "the features are large beside their smallest within-class deviation, and their rounding"
            lines += (f"{far} leaves omega known to a relative {error:.1e} only",)
        return lines


def prepare(config: FlowConfig, left_vectors: bool = False) -> Start:
    """The features of a run, random or from its file, balanced and reduced where it says so, with their SNR.

    `left_vectors` asks for U, which costs an eigendecomposition. Raises ValueError for features that no run can start from.
    """
    keep_blocks()  # before the features and Sigma_W, whose temporaries would pay as well
    notes: list[str] = []
    H, classes = _start_features(config, notes)
    check_examples(classes)
    if not classes.balanced and config.balance:
        if min(classes.sizes) < 2:
            lonely = classes.sizes.index(1)
            raise ValueError(f"N = 1: class {lonely} has one example, and one of every class leaves no variability to whiten")
        dropped = classes.n - classes.C * min(classes.sizes)
        H, classes = layout.balance(H, classes, np.random.default_rng(config.seed))
        notes.append(f"balanced to {classes.N} examples a class, {dropped} left out")
    reduction = None
    if config.reduce:
        from ufm.features.ranges import reduce_to_range

        H, reduction = reduce_to_range(H, classes)
        notes.append(reduction.note)
    measured, zeros = without_zeros(_start_snr(config, H, classes, left_vectors))
    return Start(H, classes, measured, (*notes, *zeros), reduction)


def without_zeros(measured: Snr[np.ndarray]) -> tuple[Snr[np.ndarray], tuple[str, ...]]:
    """The SNR with singular values that are zero to rounding set to 0, and a note that says so."""
    zeros = measured.omega <= measured.rounding
    if not zeros.any():
        return measured, ()
    note = (
        f"{int(zeros.sum())} of {len(zeros)} singular values are zero to rounding (at most {measured.rounding:.1e}) "
        "and set to 0: class means coincide or are dependent, and no flow moves them"
    )
    return replace(measured, omega=np.where(zeros, 0.0, measured.omega)), (note,)


def closed_end_time(law: Law, start: Start, growth: float) -> float:
    """When the smallest omega has grown `growth`-fold under a closed law."""
    omega0 = start.snr.omega
    return float(law.time(np.array(growth * omega0[-1]), omega0[-1:], start.layout.C, start.layout.N)[0])


def closed_onset(law: Law, start: Start, t_end: float) -> float:
    """When the first omega has grown by 1 % under a closed law, t_end where none grows."""
    moving = start.snr.omega[start.snr.omega > 0]
    return float(law.time(1.01 * moving, moving, start.layout.C, start.layout.N).min()) if len(moving) else t_end


def scaled_means(start: Start) -> np.ndarray:
    """U^T S, S = (M - mu_G 1^T) diag(sqrt(pi)) of the renormalized features. (K, C)"""
    q = np.sqrt(start.layout.priors)
    S = (start.snr.omega[:, None] * start.snr.V.T) * q
    return S - np.outer(S @ q, q)  # 0 but for rounding, which a badly conditioned Sigma_W enlarges


def to_total_covariance_one(X: np.ndarray, measured: Snr[np.ndarray], start: Start) -> np.ndarray:
    """(I + S S^T)^{-1/2} X, X the renormalized features: total covariance I. (P, n)"""
    U, sigma, _ = np.linalg.svd(measured.left_vectors @ scaled_means(start), full_matrices=False)
    return X + (U * ((1 + sigma**2) ** -0.5 - 1)) @ (U.T @ X)


def _start_features(config: FlowConfig, notes: list[str]) -> tuple[np.ndarray, ClassLayout]:
    if config.features is not None:
        from ufm.files import store

        H, classes = layout.class_blocks(*store.load_features(config.features))
        return H.astype(config.dtype, copy=False) if config.dtype == "float32" else H, classes
    classes = ClassLayout.equal(config.C, config.N) if config.sizes is None else ClassLayout(config.sizes)
    check_examples(classes)
    if config.P < 1:
        raise ValueError(f"P = {config.P}: at least one feature is needed")
    if not config.reduce:
        classes.check_rank(config.P)
    if not classes.balanced:
        from ufm.laws.run_cost import check_run_cost

        check_run_cost(classes.C, config.P, config.points or FEWEST_TIMES)
    rng = np.random.default_rng(config.seed)
    notes.append(f"standard Gaussian features, seed {config.seed}")
    return rng.standard_normal((config.P, classes.n)).astype(config.dtype, copy=False), classes


def check_examples(classes: ClassLayout) -> None:
    """Raise ValueError where no class has a second example."""
    if max(classes.sizes) < 2:
        raise ValueError("N = 1 example a class: there is no within-class variability to whiten; at least N = 2 is needed")


def _start_snr(config: FlowConfig, H: np.ndarray, classes: ClassLayout, left_vectors: bool) -> Snr[np.ndarray]:
    measure = snr if left_vectors or config.full or config.start == "raw" else snr_spectrum
    if config.device is None or config.start == "raw":
        return measure(H, classes)
    return measure(on_device(H, config.device), classes).to_numpy()


def on_device(H: np.ndarray, device: str) -> Array:
    """H as a torch tensor on a device. Raises ValueError for a device that cannot be used, or has no memory for it."""
    import torch

    name = device_of(device)
    try:
        return torch.from_numpy(np.ascontiguousarray(H)).to(name)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error

"""What `make gpu` times on a device: each quantity beside what bounds it or what a user would write, with the bound of an H100.

The bounds are arithmetic on the data sheet (3.0 TB/s, 60 TFLOP/s in float64 on tensor cores), not measurements.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.timing import Paired, paired
from benchmarks.training import C as TRAINING_CLASSES
from benchmarks.training import Case as TrainingCase
from benchmarks.training import Sides, sides_of
from manifolds.class_centering import ClassLayout
from manifolds.normalized_features import constraint_residual
from sims.training.nets import CLASSIFIER
from ufm.features.snr import renormalized_features
from ufm.monitor import watch
from ufm.tensor.renormalized_flow import advance_means, central_path_gradient, renormalize_after_step

H100_BYTES, H100_FLOPS = 3.0e12, 60e12
ETA = 50.0
BATCH = 128  # images of a training step
RESIDUAL = 1e-10  # of float64 features on the manifold; beyond it a time is of something else
Calls = tuple[Callable[[], object], Callable[[], object]]  # ours, the other


RESNET18 = TrainingCase("resnet18", 1.0, 10_000, 3, 32)


@dataclass(frozen=True)
class Sizes:
    """C classes of N features of length P, and the network and images of the training cases."""

    C: int = 10
    N: int = 5000
    P: int = 512
    training: TrainingCase = RESNET18

    @property
    def layout(self) -> ClassLayout:
        """The classes of the features."""
        return ClassLayout.equal(self.C, self.N)

    @property
    def columns(self) -> str:
        """The features in words."""
        return f"{self.C * self.N:,} columns, P = {self.P}, float64"

    def images(self, count: int | None = None) -> str:
        """The network and its images, or so many of them, in words."""
        case = self.training
        width = "" if case.width == 1 else f" of width {case.width:g}"
        return f"{case.net}{width}, {count or case.examples:,} images of {case.channels} x {case.side} x {case.side}"


@dataclass(frozen=True)
class Device:
    """Where calls run, and a clock whose reading waits for all that was asked of it."""

    where: torch.device
    clock: Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One line: what is timed, beside what, the least that an H100 needs for it (seconds, None where none is stated)."""

    quantity: Callable[[Sizes], str]
    beside: str
    bound: Callable[[Sizes], float] | None
    calls: Callable[[Sizes, Device], Calls]

    def timed(self, sizes: Sizes, device: Device, pairs: int) -> Paired:
        """Both sides in interleaved pairs."""
        return paired(*self.calls(sizes, device), pairs, clock=device.clock)


def _point(sizes: Sizes, device: Device) -> Tensor:
    """Features on the manifold, made on the device."""
    return _checked(renormalized_features(_features(sizes, device), sizes.layout)[0], sizes.layout)


def _features(sizes: Sizes, device: Device) -> Tensor:
    generator = torch.Generator(device.where).manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64, "device": device.where}
    means = torch.randn(sizes.P, sizes.C, **options)  # type: ignore[call-overload]
    H = torch.randn(sizes.P, sizes.C * sizes.N, **options)  # type: ignore[call-overload]
    return sizes.layout.add_to_means(H, means)


def _checked(X: Tensor, layout: ClassLayout) -> Tensor:
    residual = float(constraint_residual(X, layout))
    if not residual <= RESIDUAL:
        raise RuntimeError(f"||X C X^T - I|| = {residual:.1e}, more than {RESIDUAL:.0e}: the comparison is void")
    return X


def _products(X: Tensor) -> Callable[[], object]:
    def products() -> Tensor:
        return (X @ X.mT) @ X

    return products


def _generic_step(sizes: Sizes, device: Device) -> Calls:
    X, layout = _point(sizes, device), sizes.layout

    def step() -> Tensor:
        return renormalize_after_step(X, ETA, lambda Z: central_path_gradient(Z, layout), layout)

    _checked(step(), layout)
    return step, _products(X)


def _exact_step(sizes: Sizes, device: Device) -> Calls:
    H, layout = _features(sizes, device), sizes.layout
    X, start = renormalized_features(H, layout)
    grown, copy = start.omega * (1 + 1e-9), torch.empty_like(X)
    return lambda: advance_means(X, start, start.omega, grown, layout), lambda: copy.copy_(X)


def _whitening(sizes: Sizes, device: Device) -> Calls:
    H, layout = _features(sizes, device), sizes.layout
    _checked(renormalized_features(H, layout)[0], layout)
    return lambda: renormalized_features(H, layout), _products(H)


def _sides(sizes: Sizes, device: Device) -> Sides:
    return sides_of(sizes.training, cpu=device.where.type == "cpu")


def _measuring(sizes: Sizes, device: Device) -> Calls:
    sides = _sides(sizes, device)
    return sides.measure, sides.forward


def _epoch(sizes: Sizes, device: Device) -> Calls:
    sides = _sides(sizes, device)
    return sides.epoch, sides.bare_epoch


def _watched_step(sizes: Sizes, device: Device) -> Calls:
    """A training step whose features go into the metric on the way, beside the same step without it."""
    sides, case = _sides(sizes, device), sizes.training
    model = sides.model.train()
    images = torch.randn(BATCH, case.channels, case.side, case.side, device=device.where)
    labels = torch.arange(BATCH, device=device.where) % TRAINING_CLASSES
    targets = nn.functional.one_hot(labels, TRAINING_CLASSES).float()
    optimizer, watched = torch.optim.SGD(model.parameters(), lr=1e-3), watch(model, CLASSIFIER)

    def gradient() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(images), targets).backward()

    def step() -> None:
        gradient()
        optimizer.step()

    def measured_step() -> None:
        with watched:
            gradient()
            watched.update(labels)  # at the classifier that made the logits
        optimizer.step()
        watched.reset()  # the next step has another classifier

    return measured_step, step


def _step_bound(sizes: Sizes) -> float:
    """Two products of P^2 n multiply-adds to form and apply the root, two for gradient and projection."""
    return 8 * sizes.P**2 * sizes.C * sizes.N / H100_FLOPS


def _whitening_bound(sizes: Sizes) -> float:
    """One product for Sigma_W, one for its root; the eigendecomposition is left out."""
    return 4 * sizes.P**2 * sizes.C * sizes.N / H100_FLOPS


def _exact_bound(sizes: Sizes) -> float:
    """X read and written once."""
    return 2 * sizes.P * sizes.C * sizes.N * 8 / H100_BYTES


CASES = (
    Case(lambda s: f"generic step of the discrete scheme, {s.columns}", "(X X^T) X", _step_bound, _generic_step),
    Case(lambda s: f"exact step of the class means, {s.columns}", "a copy of X", _exact_bound, _exact_step),
    Case(lambda s: f"renormalized features and SNR, {s.columns}", "(H H^T) H", _whitening_bound, _whitening),
    Case(lambda s: f"measuring {s.images()}", "a forward pass", None, _measuring),
    Case(lambda s: f"an epoch of sims.train, {s.images()}", "a bare PyTorch loop", None, _epoch),
    Case(lambda s: f"a training step under ufm.monitor.watch, {s.images(BATCH)}", "the step alone", None, _watched_step),
)

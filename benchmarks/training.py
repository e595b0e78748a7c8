"""What measuring costs beside a plain forward pass, an epoch beside a bare PyTorch loop, and memory at two sizes of data.

`python -m benchmarks.training`, or one case: `--net resnet18 --width 1 --examples 512 --side 32 --channels 3`. Random
images, one thread, medians of pairs taken in turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmarks.timing import peak_megabytes
from sims.training.data import Data, normalizer_of
from sims.training.examples import EVALUATION_BATCH, epoch_batches
from sims.training.loop import Trainer
from sims.training.nets import CLASSIFIER, Shape, build
from sims.training.protocol import TrainConfig
from sims.training.readers import Split
from ufm.monitor.network import measure_network

C = 10
MEMORY_EXAMPLES = 5000  # and eight times as many


@dataclass(frozen=True)
class Case:
    """A network and its images."""

    net: str
    width: float
    examples: int
    channels: int
    side: int


CASES = (
    Case("resnet18", 0.25, 512, 3, 32),
    Case("mlp", 1, 10000, 3, 32),
    Case("mlp", 1, 10000, 1, 28),  # Fashion-MNIST's images
    Case("mlp", 1, 1400, 1, 8),  # the embedded digits
)


def random_data(case: Case) -> Data:
    """Balanced random images, as many for the test as for training."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (case.examples, case.channels, case.side, case.side), dtype=np.uint8)
    split = Split(images, np.arange(case.examples) % C)
    return Data(split, split, normalizer_of(split.images, "channel", (0, 0, 0, 0)), C)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call: of the process on a CPU, whatever else runs there; wall time, all of it done, on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def ratio(what: str, work: Callable[[], object], plain: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Print the median times of both, taken in turns, and the median of their ratios. Returns the time of the plain one."""
    work(), plain()
    pairs = [(seconds(work, device), seconds(plain, device)) for _ in range(repeats)]
    a, b, r = (statistics.median(values) for values in ([p[0] for p in pairs], [p[1] for p in pairs], [x / y for x, y in pairs]))
    print(f"  {what}: {a:.3f} s against {b:.3f} s, ratio {r:.3f}", flush=True)
    return b


def unavoidable(model: nn.Module, case: Case, forward: float, device: torch.device) -> None:
    """Print what the float64 products of Sigma_W and its one eigendecomposition alone add to the forward pass."""
    P = model.get_submodule(CLASSIFIER).in_features
    D = torch.randn(min(case.examples, 2048), P, dtype=torch.float64, device=device)  # type: ignore[call-overload]
    S = D.mT @ D

    def product() -> object:
        return D.numpy().T @ D.numpy() if device.type == "cpu" else D.mT @ D

    def median_of(work: Callable[[], object]) -> float:
        work()
        return statistics.median(seconds(work, device) for _ in range(5))

    products, roots = median_of(product) * case.examples / len(D), median_of(lambda: torch.linalg.eigh(S))
    print(f"  of it P x P in float64, P = {P}: products {products:.3f} s, eigh {roots:.3f} s", end="")
    print(f", so no ratio below {1 + (products + roots) / forward:.3f}")


@dataclass(frozen=True, eq=False)
class Sides:
    """Both sides of the comparisons of a case: a forward pass and measuring, a bare epoch and one of the trainer, on `device`."""

    forward: Callable[[], object]
    measure: Callable[[], object]
    bare_epoch: Callable[[], object]
    epoch: Callable[[], object]
    model: nn.Module
    device: torch.device
    batch_size: int


def sides_of(case: Case, cpu: bool) -> Sides:
    """What is compared in a case; the network is the same on all sides."""
    net = {"net": case.net, "width": case.width}
    config = TrainConfig(dataset="cifar10", lr=0.01, measured=(1,), epochs=1, decays=(), **net)  # type: ignore[arg-type]
    accelerator = Accelerator(cpu=cpu)
    trainer = Trainer(config, random_data(case), accelerator)
    device, batches, model = accelerator.device, epoch_batches(case.examples, config.batch_size, 0, 1), trainer.bare

    def forward() -> None:
        model.eval()
        with torch.no_grad():
            for images, _ in trainer.train.in_order():
                model(images)

    def measure() -> None:
        with tempfile.TemporaryDirectory() as folder:
            measure_network(model, trainer.train.in_order(), CLASSIFIER, trainer.lam, scratch=Path(folder))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    prepared = trainer.train.normalizer(trainer.train.images)
    labels, loss = trainer.train.labels, nn.MSELoss()

    def bare_epoch() -> None:
        model.train()
        for batch in batches:
            indices = torch.from_numpy(batch).to(device)
            optimizer.zero_grad()
            y = nn.functional.one_hot(labels[indices], C).float()
            loss(model(prepared[indices]), y).backward()
            optimizer.step()

    def epoch() -> None:
        trainer.train_epoch(1, lambda *_: None)

    return Sides(forward, measure, bare_epoch, epoch, model, device, config.batch_size)


def time_case(case: Case, repeats: int, cpu: bool) -> None:
    """Print both ratios of a case."""
    sides = sides_of(case, cpu)
    shape = f"{case.examples} images of {case.channels} x {case.side} x {case.side}"
    print(f"{case.net} of width {case.width:g}, {shape}, batches of {EVALUATION_BATCH} and {sides.batch_size}, {sides.device}")
    plain = ratio("measuring against a forward pass", sides.measure, sides.forward, repeats, sides.device)
    unavoidable(sides.model, case, plain, sides.device)
    ratio("an epoch against a bare loop", sides.epoch, sides.bare_epoch, repeats, sides.device)


def measure_generated(examples: int) -> None:
    """Measure a small MLP on images made batch by batch, so that no memory but that of measuring depends on their number."""
    model, generator = build("mlp", Shape(1, 8, C)), torch.Generator().manual_seed(0)

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, examples, EVALUATION_BATCH):
            count = min(EVALUATION_BATCH, examples - start)
            yield torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % C

    measure_network(model, loader(), CLASSIFIER, 0.01, loader())


def memory() -> None:
    """Print the peak resident memory of fresh processes that measure, at two sizes."""
    for examples in (MEMORY_EXAMPLES, 8 * MEMORY_EXAMPLES):
        peak = peak_megabytes("-m", "benchmarks.training", "--generated", str(examples))
        features = examples * 512 * 4 / 2**20
        print(f"measuring {examples} + {examples} examples with {features:.0f} MiB of features each: peak memory {peak:.0f} MiB")


def main() -> None:
    """Print the ratios of every case, or of the one asked for, and the peaks of memory."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--net", help="time this one instead of the standard cases")
    p.add_argument("--examples", type=int, default=512)
    p.add_argument("--width", type=float, default=1.0)
    p.add_argument("--side", type=int, default=32)
    p.add_argument("--channels", type=int, default=3)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--generated", type=int, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if args.generated is not None:
            measure_generated(args.generated)
            return
        cases = CASES if args.net is None else (Case(args.net, args.width, args.examples, args.channels, args.side),)
        for case in cases:
            time_case(case, args.repeats, args.device == "cpu")
    if args.net is None:
        memory()


if __name__ == "__main__":
    main()

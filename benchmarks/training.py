"""What measuring costs beside a plain forward pass, and an epoch of the training loop beside a bare PyTorch loop.

`python -m benchmarks.training --net resnet18 --width 1 --examples 512 --repeats 3 --device cpu`; random images, medians.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from sims.training.config import TrainConfig
from sims.training.data import Data, normalizer_of
from sims.training.loop import EVALUATION_BATCH, Trainer, epoch_batches
from sims.training.measurement import measure_network
from sims.training.nets import CLASSIFIER
from sims.training.readers import Split

C = 10


def random_data(examples: int, channels: int, side: int) -> Data:
    """Balanced random images, as many for the test as for training."""
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (examples, channels, side, side), dtype=np.uint8), np.arange(examples) % C)
    return Data(split, split, normalizer_of(split.images, "channel", (0, 0, 0, 0)), C)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call: of the process on a CPU, whatever else runs there; wall time, all of it done, on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def ratio(what: str, work: Callable[[], object], plain: Callable[[], object], repeats: int, device: torch.device) -> None:
    """Print the median times of both, taken in turns, and the median of their ratios."""
    work(), plain()
    pairs = [(seconds(work, device), seconds(plain, device)) for _ in range(repeats)]
    a, b, r = (statistics.median(values) for values in ([p[0] for p in pairs], [p[1] for p in pairs], [x / y for x, y in pairs]))
    print(f"{what}: {a:.3f} s against {b:.3f} s, ratio {r:.3f}")


def main() -> None:
    """Print both ratios and the peak of memory."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--net", default="resnet18")
    p.add_argument("--examples", type=int, default=512)
    p.add_argument("--width", type=float, default=1.0)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = p.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(dataset="cifar10", net=args.net, width=args.width, lr=0.01, measured=(1,), epochs=1, decays=())
    data = random_data(args.examples, 3, 32)
    accelerator = Accelerator(cpu=args.device == "cpu")
    trainer = Trainer(config, data, accelerator)
    device, batches = accelerator.device, epoch_batches(args.examples, config.batch_size, 0, 1)
    model = trainer.bare

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

    sizes = f"{args.examples} images of 3 x 32 x 32, batches of {EVALUATION_BATCH} and {config.batch_size}"
    print(f"{args.net} of width {args.width:g}, {sizes}, {device}")
    ratio("measuring against a forward pass", measure, forward, args.repeats, device)
    ratio("an epoch against a bare loop", lambda: trainer.train_epoch(1, lambda *_: None), bare_epoch, args.repeats, device)
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()

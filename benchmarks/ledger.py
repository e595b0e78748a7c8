"""What a ledger costs beside plain forward passes, in one run: `python -m benchmarks.ledger`, one thread, random images.

The rival is what a user needs anyway: as many forward passes over the images as the ledger makes, nothing measured.
"""

import argparse
import resource
import time

import torch

from sims.training.nets import Shape, build
from ufm.ledger import Sketch, ledger


def main() -> None:
    """Print seconds of both, their ratio, and the peak memory of the process."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--net", default="resnet18")
    p.add_argument("--width", type=float, default=1.0)
    p.add_argument("--images", type=int, default=2000)
    p.add_argument("--limit", type=int, default=512)
    args = p.parse_args()
    torch.manual_seed(0)
    model = build(args.net, Shape(3, 32, 10, args.width)).eval()
    y = torch.arange(args.images) % 10
    x = torch.randn(args.images, 3, 32, 32) + torch.randn(10, 3, 32, 32)[y]
    batches = [(x[k : k + 100], y[k : k + 100]) for k in range(0, args.images, 100)]
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(2):
            for images, _ in batches:
                model(images)
    plain = time.perf_counter() - began
    began = time.perf_counter()
    result = ledger(model, batches, Sketch(args.limit))
    ours = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.net} x {args.width:g}, {args.images} images, {len(result.operations)} operations")
    print(f"ledger {ours:.1f} s, two passes forward {plain:.1f} s, ratio {ours / plain:.2f}; peak {memory:.2f} GiB")


if __name__ == "__main__":
    main()

"""DenseNet (Huang et al. 2017), all activations kept or, memory-efficient, those of its layers computed again going backwards.

The memory-efficient form is that of Pleiss et al. (2017), with a layer's bottleneck computed again too: what is kept is what each
layer adds, not the concatenation it was computed from. Batch normalisation sees every batch twice then, and its running
statistics take it once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sims.training.architectures import DENSENETS
from sims.training.shape import Shape, image_stem, initialised, with_head

Parts = tuple[Tensor, ...]


def densenet(net: str, shape: Shape) -> nn.Module:
    """The DenseNet of this name: He's initialisation with fan in for torchvision's, fan out as in Huang's code for the others."""
    spec = DENSENETS[net]
    inner, growth = shape.wide(spec.stem_channels), shape.wide(spec.growth)
    layers = image_stem(inner, spec.normed_stem, shape)
    for block, count in enumerate(spec.blocks, start=1):
        for k in range(1, count + 1):
            layers[f"block{block}_layer{k}"] = _DenseLayer(inner, growth, spec.bottleneck, shape)
            inner += growth
        if shape.memory_efficient:
            layers[f"block{block}_whole"] = _Concatenation()
        if block < len(spec.blocks):
            outer = int(inner * spec.compression)
            transition = (shape.norm(inner), nn.ReLU(inplace=True), shape.conv(inner, outer, 1), nn.AvgPool2d(2))
            layers[f"transition{block}"] = nn.Sequential(*transition)
            inner = outer
    layers["norm"], layers["relu"] = shape.norm(inner), nn.ReLU(inplace=True)
    return initialised(with_head(layers, inner, shape), "fan_in" if spec.normed_stem else "fan_out")


class _DenseLayer(nn.Module):
    """[x, conv3x3(relu(norm(.)))], through a 1x1 bottleneck of 4k channels first in the B variant.

    Memory-efficient, x and the result are tuples of what the layers before have added.
    """

    def __init__(self, inner: int, growth: int, bottleneck: bool, shape: Shape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if bottleneck:
            layers = [shape.norm(inner), nn.ReLU(inplace=True), shape.conv(inner, 4 * growth, 1)]
            inner = 4 * growth
        layers += [shape.norm(inner), nn.ReLU(inplace=True), shape.conv(inner, growth, 3)]
        self.branch, self._efficient = nn.Sequential(*layers), shape.memory_efficient

    def forward(self, x: Tensor | Parts) -> Tensor | Parts:
        if not self._efficient:
            assert isinstance(x, Tensor)
            return torch.cat([x, self.branch(x)], 1)
        parts = (x,) if isinstance(x, Tensor) else x
        if not (self.training and torch.is_grad_enabled()):
            return *parts, self._of_parts(*parts)
        options = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in it is random
        return *parts, checkpoint(self._of_parts, *parts, context_fn=self._contexts, **options)

    def _of_parts(self, *parts: Tensor) -> Tensor:
        return self.branch(torch.cat(parts, 1))

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(self.branch)


class _Concatenation(nn.Module):
    """What the layers of a block have added, as one tensor."""

    def forward(self, parts: Parts) -> Tensor:
        return torch.cat(parts, 1)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """A block whose forward passes count in copies of the running statistics: the batch is in the true ones already."""
    buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module.named_buffers(recurse=False)]
    try:
        for module, name, buffer in buffers:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)

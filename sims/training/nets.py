"""The networks of the experiments: MLPs, VGG, ResNet and DenseNet, each ending in one Linear layer called `classifier`.

Sources: torchvision's vgg{11,13}_bn, resnet{18,34,50}, densenet201 and the CIFAR DenseNets of Huang et al. (2017): DenseNet-40
(k = 12), DenseNet-BC-100 (k = 12), DenseNet-BC-250 (k = 24). Modified as in Papyan, Han & Donoho (2020): no dropout, and the
`3x3` stem (stride 1, no pooling) for 32x32 images instead of the `7x7` one. The rest is unchanged, parameter for parameter, and
starts as theirs do: torchvision's ResNets keep torch's random bias of the classifier, its VGGs and all DenseNets start at zero.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sims.training.architectures import (
    CLASSIFIER,
    DENSENETS,
    MLP_HIDDEN,
    MLPS,
    NETS,
    RESNET_CHANNELS,
    RESNETS,
    STEMS,
    VGG_CHANNELS,
    VGG_GRID,
    VGG_HIDDEN,
    VGG_STAGES,
)
from sims.training.densenet import densenet
from sims.training.shape import Shape, image_stem, initialised, with_head


def build(net: str, shape: Shape) -> nn.Module:
    """The network called `net`, randomly initialised from torch's global generator.

    Raises ValueError for an unknown name, stem or width, and for images too small for the poolings of the network.
    """
    if net not in NETS:
        raise ValueError(f"no network is called {net!r}; there are {', '.join(NETS)}")
    if shape.stem not in STEMS:
        raise ValueError(f"stem = {shape.stem!r}: it is one of {', '.join(STEMS)}")
    if not shape.width > 0:
        raise ValueError(f"width = {shape.width}: the factor on the channels must be positive")
    smallest = _smallest_side(net, shape.stem)
    if shape.side < smallest:
        raise ValueError(f"{net} halves images too often for side {shape.side}: pad them to at least {smallest}")
    builders: dict[str, Callable[[str, Shape], nn.Module]] = {"mlp": _mlp, "vgg": _vgg, "res": _resnet, "den": densenet}
    return builders[net[:3]](net, shape)


def freeze_as_simplex_etf(layer: nn.Linear, generator: torch.Generator) -> None:
    """Fix the layer to a simplex ETF of unit rows in a random pose, W W^T = C/(C-1) (I - 1 1^T / C), and zero bias.

    Raises ValueError where P < C - 1 features are too few for it.
    """
    C, P = layer.weight.shape
    if P < C - 1:
        raise ValueError(f"a simplex ETF of C = {C} classes needs at least C - 1 = {C - 1} features, the network has {P}")
    pose, _ = torch.linalg.qr(torch.randn(P, C - 1, generator=generator, dtype=torch.float64))
    centering = torch.eye(C, dtype=torch.float64) - 1 / C
    span = torch.linalg.eigh(centering).eigenvectors[:, 1:]  # the eigenvalue 0 belongs to the constant vector, first
    with torch.no_grad():
        layer.weight.copy_((C / (C - 1)) ** 0.5 * span @ pose.T)
        if layer.bias is not None:
            layer.bias.zero_()
    layer.requires_grad_(False)


def _smallest_side(net: str, stem: str) -> int:
    """The smallest image that keeps one pixel to the last stage."""
    if net in MLPS:
        return 1
    if net in VGG_STAGES:
        return 32
    halvings = len(DENSENETS[net].blocks) - 1 if net in DENSENETS else 3
    return 2 ** (halvings + (2 if stem == "7x7" else 0))


class _Skip(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _mlp(net: str, shape: Shape) -> nn.Module:
    layers, inner = OrderedDict[str, nn.Module](flatten=nn.Flatten()), shape.channels * shape.side**2
    for k, hidden in enumerate(MLP_HIDDEN, start=1):
        outer = shape.wide(hidden)
        layer = OrderedDict[str, nn.Module]({f"linear{k}": nn.Linear(inner, outer, bias=not shape.batch_norm)})
        layer[f"norm{k}"] = nn.BatchNorm1d(outer) if shape.batch_norm else nn.Identity()
        if net != "mlp-linear":
            layer[f"relu{k}"] = nn.ReLU(inplace=True)
        layers.update({f"block{k}": _Skip(nn.Sequential(layer))} if net == "mlp-residual" and k > 1 else layer)
        inner = outer
    layers[CLASSIFIER] = nn.Linear(inner, shape.classes)
    return nn.Sequential(layers)


def _vgg(net: str, shape: Shape) -> nn.Module:
    layers: list[nn.Module] = []
    inner = shape.channels
    for count, channels in zip(VGG_STAGES[net], VGG_CHANNELS, strict=True):
        outer = shape.wide(channels)
        for _ in range(count):
            # the convolutions of VGG keep their biases beside batch normalisation, as torchvision's do
            layers += [nn.Conv2d(inner, outer, 3, padding=1), shape.norm(outer), nn.ReLU(inplace=True)]
            inner = outer
        layers.append(nn.MaxPool2d(2))
    hidden = shape.wide(VGG_HIDDEN)
    head: OrderedDict[str, nn.Module] = OrderedDict(features=nn.Sequential(*layers), pool=nn.AdaptiveAvgPool2d(VGG_GRID))
    head["flatten"] = nn.Flatten()
    inner *= VGG_GRID**2
    for k in (1, 2):
        head[f"hidden{k}"], head[f"relu{k}"] = nn.Linear(inner, hidden), nn.ReLU(inplace=True)
        if shape.head_norm:
            head[f"norm{k}"] = nn.BatchNorm1d(hidden)  # where torchvision has its dropout
        inner = hidden
    head[CLASSIFIER] = nn.Linear(hidden, shape.classes)
    return initialised(nn.Sequential(head), "fan_out", linear_deviation=0.01)


class _Residual(nn.Module):
    """relu(branch(x) + shortcut(x)): the basic block of two 3x3 convolutions, or the bottleneck 1x1, 3x3, 1x1 (times four)."""

    def __init__(self, inner: int, channels: int, stride: int, bottleneck: bool, shape: Shape) -> None:
        super().__init__()
        sizes, outer = ((1, 3, 1), 4 * channels) if bottleneck else ((3, 3), channels)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        widths = (inner, *[channels] * (len(sizes) - 1), outer)
        layers: list[nn.Module] = []
        for k, size in enumerate(sizes):
            layers += [shape.conv(widths[k], widths[k + 1], size, strides[k]), shape.norm(widths[k + 1]), nn.ReLU(inplace=True)]
        self.branch = nn.Sequential(*layers[:-1])
        changes = stride != 1 or inner != outer
        self.shortcut = nn.Sequential(shape.conv(inner, outer, 1, stride), shape.norm(outer)) if changes else nn.Identity()
        self.outer = outer

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def _resnet(net: str, shape: Shape) -> nn.Module:
    inner = shape.wide(RESNET_CHANNELS[0])
    layers = image_stem(inner, normed=True, shape=shape)
    for stage, (count, channels) in enumerate(zip(RESNETS[net], RESNET_CHANNELS, strict=True)):
        for k in range(count):
            block = _Residual(inner, shape.wide(channels), 2 if stage and not k else 1, net == "resnet50", shape)
            layers[f"stage{stage + 1}_block{k + 1}"] = block
            inner = block.outer
    return initialised(with_head(layers, inner, shape), "fan_out", linear_bias=True)

"""The networks of the experiments: MLPs, VGG, ResNet and DenseNet, each ending in one Linear layer called `classifier`.

Sources: torchvision's vgg{11,13}_bn, resnet{18,34,50}, densenet201 and the CIFAR DenseNets of Huang et al. (2017): DenseNet-40
(k = 12), DenseNet-BC-100 (k = 12), DenseNet-BC-250 (k = 24). Modified as in Papyan, Han & Donoho (2020): no dropout, and the
`3x3` stem (stride 1, no pooling) for 32x32 images instead of the `7x7` one. The rest is unchanged, parameter for parameter.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Shape:
    """What a network is built for: input channels, image side, classes; `width` multiplies every number of channels."""

    channels: int
    side: int
    classes: int
    width: float = 1.0
    batch_norm: bool = True
    stem: str = "3x3"

    def wide(self, channels: int) -> int:
        """`channels` times the width, at least 1."""
        return max(round(channels * self.width), 1)

    def norm(self, channels: int) -> nn.Module:
        """Batch normalisation of images, or nothing where it is off."""
        return nn.BatchNorm2d(channels) if self.batch_norm else nn.Identity()

    def conv(self, inner: int, outer: int, size: int, stride: int = 1) -> nn.Conv2d:
        """A convolution that keeps the side at stride 1; biased only where no normalisation follows."""
        return nn.Conv2d(inner, outer, size, stride, padding=size // 2, bias=not self.batch_norm)


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
    builders: dict[str, Callable[[str, Shape], nn.Module]] = {"mlp": _mlp, "vgg": _vgg, "res": _resnet, "den": _densenet}
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
    head["hidden1"], head["relu1"] = nn.Linear(inner * VGG_GRID**2, hidden), nn.ReLU(inplace=True)
    head["hidden2"], head["relu2"] = nn.Linear(hidden, hidden), nn.ReLU(inplace=True)
    head[CLASSIFIER] = nn.Linear(hidden, shape.classes)
    return _initialised(nn.Sequential(head), linear_deviation=0.01)


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
    layers = _stem(inner, normed=True, shape=shape)
    for stage, (count, channels) in enumerate(zip(RESNETS[net], RESNET_CHANNELS, strict=True)):
        for k in range(count):
            block = _Residual(inner, shape.wide(channels), 2 if stage and not k else 1, net == "resnet50", shape)
            layers[f"stage{stage + 1}_block{k + 1}"] = block
            inner = block.outer
    return _initialised(_with_head(layers, inner, shape))


class _DenseLayer(nn.Module):
    """[x, conv3x3(relu(norm(.)))], through a 1x1 bottleneck of 4k channels first in the B variant."""

    def __init__(self, inner: int, growth: int, bottleneck: bool, shape: Shape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if bottleneck:
            layers = [shape.norm(inner), nn.ReLU(inplace=True), shape.conv(inner, 4 * growth, 1)]
            inner = 4 * growth
        layers += [shape.norm(inner), nn.ReLU(inplace=True), shape.conv(inner, growth, 3)]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def _densenet(net: str, shape: Shape) -> nn.Module:
    spec = DENSENETS[net]
    inner, growth = shape.wide(spec.stem_channels), shape.wide(spec.growth)
    layers = _stem(inner, spec.normed_stem, shape)
    for block, count in enumerate(spec.blocks, start=1):
        for k in range(1, count + 1):
            layers[f"block{block}_layer{k}"] = _DenseLayer(inner, growth, spec.bottleneck, shape)
            inner += growth
        if block < len(spec.blocks):
            outer = int(inner * spec.compression)
            transition = (shape.norm(inner), nn.ReLU(inplace=True), shape.conv(inner, outer, 1), nn.AvgPool2d(2))
            layers[f"transition{block}"] = nn.Sequential(*transition)
            inner = outer
    layers["norm"], layers["relu"] = shape.norm(inner), nn.ReLU(inplace=True)
    return _initialised(_with_head(layers, inner, shape))


def _stem(outer: int, normed: bool, shape: Shape) -> OrderedDict[str, nn.Module]:
    large = shape.stem == "7x7"
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=shape.conv(shape.channels, outer, 7 if large else 3, 2 if large else 1)
    )
    if normed:
        layers["stem_norm"], layers["stem_relu"] = shape.norm(outer), nn.ReLU(inplace=True)
    if large:
        layers["stem_pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return layers


def _with_head(layers: OrderedDict[str, nn.Module], inner: int, shape: Shape) -> nn.Sequential:
    layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers[CLASSIFIER] = nn.Linear(inner, shape.classes)
    return nn.Sequential(layers)


def _initialised(model: nn.Module, linear_deviation: float | None = None) -> nn.Module:
    """He's initialisation of the convolutions (fan out); weights of linear layers keep torch's unless a deviation is given.

    All biases, which torch draws at random, start at zero.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear) and linear_deviation is not None:
            nn.init.normal_(layer.weight, std=linear_deviation)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model

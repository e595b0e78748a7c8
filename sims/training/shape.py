"""What a network is built for, and the pieces that several architectures share."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from sims.training.architectures import CLASSIFIER


@dataclass(frozen=True)
class Shape:
    """What a network is built for: input channels, image side, classes; `width` multiplies every number of channels.

    `head_norm` puts batch normalisation where VGG had dropout; `memory_efficient` recomputes DenseNet's activations backwards.
    """

    channels: int
    side: int
    classes: int
    width: float = 1.0
    batch_norm: bool = True
    stem: str = "3x3"
    head_norm: bool = False
    memory_efficient: bool = False

    def wide(self, channels: int) -> int:
        """`channels` times the width, at least 1."""
        return max(round(channels * self.width), 1)

    def norm(self, channels: int) -> nn.Module:
        """Batch normalisation of images, or nothing where it is off."""
        return nn.BatchNorm2d(channels) if self.batch_norm else nn.Identity()

    def conv(self, inner: int, outer: int, size: int, stride: int = 1) -> nn.Conv2d:
        """A convolution that keeps the side at stride 1; biased only where no normalisation follows."""
        return nn.Conv2d(inner, outer, size, stride, padding=size // 2, bias=not self.batch_norm)


def image_stem(outer: int, normed: bool, shape: Shape) -> OrderedDict[str, nn.Module]:
    """The first convolution, `3x3` at stride 1 or `7x7` at stride 2 with pooling, normalised or not."""
    large = shape.stem == "7x7"
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=shape.conv(shape.channels, outer, 7 if large else 3, 2 if large else 1)
    )
    if normed:
        layers["stem_norm"], layers["stem_relu"] = shape.norm(outer), nn.ReLU(inplace=True)
    if large:
        layers["stem_pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return layers


def with_head(layers: OrderedDict[str, nn.Module], inner: int, shape: Shape) -> nn.Sequential:
    """The layers, global average pooling and the classifier."""
    layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers[CLASSIFIER] = nn.Linear(inner, shape.classes)
    return nn.Sequential(layers)


def initialised(
    model: nn.Module, fan: Literal["fan_in", "fan_out"], linear_deviation: float | None = None, linear_bias: bool = False
) -> nn.Module:
    """He's initialisation of the convolutions, whose biases start at zero.

    Weights of linear layers keep torch's unless a deviation is given; their biases keep torch's random ones with `linear_bias`,
    and start at zero otherwise.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu")
        elif isinstance(layer, nn.Linear) and linear_deviation is not None:
            nn.init.normal_(layer.weight, std=linear_deviation)
        zeroed = isinstance(layer, nn.Conv2d) or (isinstance(layer, nn.Linear) and not linear_bias)
        if zeroed and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model

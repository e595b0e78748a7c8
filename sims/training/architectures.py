"""The networks of the experiments as tables: what a configuration may name, known without torch."""

from typing import NamedTuple

CLASSIFIER = "classifier"  # the name of the last linear layer of every network here
STEMS = ("3x3", "7x7")
MLP_HIDDEN = (512, 512)
VGG_STAGES = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2)}  # convolutions between poolings
VGG_CHANNELS = (64, 128, 256, 512, 512)
VGG_HIDDEN, VGG_GRID = 4096, 7
RESNET_CHANNELS = (64, 128, 256, 512)


class DenseSpec(NamedTuple):
    """Layers a block, growth rate k, channels after the stem, bottleneck (B), compression (C); `normed_stem` as torchvision."""

    blocks: tuple[int, ...]
    growth: int
    stem_channels: int
    bottleneck: bool
    compression: float
    normed_stem: bool = False


RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
DENSENETS = {
    "densenet40": DenseSpec((12, 12, 12), 12, 16, bottleneck=False, compression=1.0),
    "densenet100": DenseSpec((16, 16, 16), 12, 24, bottleneck=True, compression=0.5),
    "densenet250": DenseSpec((41, 41, 41), 24, 48, bottleneck=True, compression=0.5),
    "densenet201": DenseSpec((6, 12, 48, 32), 32, 64, bottleneck=True, compression=0.5, normed_stem=True),
}
MLPS = ("mlp", "mlp-linear", "mlp-residual")  # the second without ReLU, the third with a skip around its second layer
NETS = (*MLPS, *VGG_STAGES, *RESNETS, *DENSENETS)

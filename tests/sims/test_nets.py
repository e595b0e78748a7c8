"""Every network has its published number of parameters, its stated shape, and a classifier that the measuring can hook."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sims.training.nets import CLASSIFIER, MLPS, NETS, Shape, build, freeze_as_simplex_etf
from ufm.monitor.layers import linear_layer

IMAGENET = Shape(3, 224, 1000, stem="7x7")
CIFAR = Shape(3, 32, 10)
# torchvision's tables of weights (ImageNet); Huang et al. (2017), Table 2 (CIFAR-10), in the exact counts of public code
PUBLISHED = {
    "vgg11": (IMAGENET, 132_868_840),
    "vgg13": (IMAGENET, 133_053_736),
    "resnet18": (IMAGENET, 11_689_512),
    "resnet34": (IMAGENET, 21_797_672),
    "resnet50": (IMAGENET, 25_557_032),
    "densenet201": (IMAGENET, 20_013_928),
    "densenet40": (CIFAR, 1_019_722),
    "densenet100": (CIFAR, 769_162),
    "densenet250": (CIFAR, 15_324_406),
}


@pytest.mark.parametrize("net", PUBLISHED)
def test_parameter_counts_are_the_published_ones(net: str) -> None:
    shape, count = PUBLISHED[net]
    with torch.device("meta"):
        assert sum(p.numel() for p in build(net, shape).parameters()) == count


def test_every_network_but_the_mlps_has_a_published_count() -> None:
    assert set(NETS) - set(MLPS) == PUBLISHED.keys()


def test_the_linear_mlp_is_affine_and_the_residual_one_skips_its_second_layer() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    shape = Shape(1, 4, 3, width=0.02, batch_norm=False)
    linear = build("mlp-linear", shape).double()
    torch.testing.assert_close(linear(2 * x - y), 2 * linear(x) - linear(y))
    residual = build("mlp-residual", shape).double()
    first = torch.relu(residual.get_submodule("linear1")(x.flatten(1)))
    second = torch.relu(residual.get_submodule("block2.branch.linear2")(first))
    torch.testing.assert_close(residual(x), linear_layer(residual, CLASSIFIER)(first + second))
    plain = build("mlp", shape)
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in linear.named_parameters()}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_logits_are_the_classifier_of_the_features_and_no_dropout_is_left(net: str, batch_norm: bool) -> None:
    torch.manual_seed(0)
    model = build(net, Shape(2, 32, 7, width=0.05, batch_norm=batch_norm)).eval()
    assert not any("Dropout" in type(layer).__name__ for layer in model.modules())
    assert any("BatchNorm" in type(layer).__name__ for layer in model.modules()) is batch_norm
    seen = []
    layer = linear_layer(model, CLASSIFIER)
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(3, 2, 32, 32)
    logits = model(images)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(logits, seen[0] @ layer.weight.T + layer.bias)
    assert torch.equal(logits, model(images))


@pytest.mark.parametrize(("stem", "side"), [("3x3", 32), ("7x7", 8)])
def test_the_small_stem_keeps_the_resolution(stem: str, side: int) -> None:
    seen = []
    model = build("resnet18", Shape(3, 32, 10, width=0.1, stem=stem))
    model.get_submodule("stage1_block1").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model(torch.zeros(2, 3, 32, 32))
    assert seen[0][2:] == (side, side)


def test_the_shortcuts_carry_the_image_past_silent_branches() -> None:
    model = build("resnet50", Shape(1, 32, 4, width=0.1)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".branch." in name:
                parameter.zero_()
        one, two = model(torch.randn(2, 1, 32, 32)).chunk(2)
    assert not torch.allclose(one, two, atol=1e-4)


def test_width_multiplies_the_channels() -> None:
    assert linear_layer(build("resnet18", Shape(3, 32, 10, width=0.5)), CLASSIFIER).in_features == 256


@pytest.mark.parametrize(("C", "P"), [(3, 2), (4, 9), (10, 12)])
def test_the_fixed_classifier_is_a_simplex_etf_and_does_not_train(C: int, P: int) -> None:
    layer = torch.nn.Linear(P, C).double()
    freeze_as_simplex_etf(layer, torch.Generator().manual_seed(3))
    gram = C / (C - 1) * (torch.eye(C, dtype=torch.float64) - 1 / C)
    torch.testing.assert_close(layer.weight @ layer.weight.T, gram, rtol=0, atol=1e-14)
    assert not layer.bias.any()
    assert not layer.weight.requires_grad
    assert not layer.bias.requires_grad


def test_errors_name_the_number_and_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"'vgg16'; there are mlp, mlp-linear, mlp-residual, vgg11"):
        build("vgg16", CIFAR)
    with pytest.raises(ValueError, match="pad them to at least 32"):
        build("vgg11", Shape(1, 28, 10))
    with pytest.raises(ValueError, match="stem = '5x5'"):
        build("resnet18", Shape(1, 32, 10, stem="5x5"))
    with pytest.raises(ValueError, match="width = 0"):
        build("mlp", Shape(1, 32, 10, width=0))
    with pytest.raises(ValueError, match="no linear layer called 'head'; it has: linear1, linear2, classifier"):
        linear_layer(build("mlp", Shape(1, 8, 10)), "head")
    with pytest.raises(ValueError, match="at least C - 1 = 4 features, the network has 3"):
        freeze_as_simplex_etf(torch.nn.Linear(3, 5), torch.Generator())


@pytest.mark.parametrize("net", [net for net in NETS if net not in MLPS])
def test_convolutions_start_as_in_the_published_code(net: str) -> None:
    """torchvision's DenseNet takes fan in; its VGG and ResNet, and the DenseNets of Huang et al. for CIFAR, take fan out."""
    torch.manual_seed(0)
    convolutions = [m for m in build(net, Shape(3, 32, 10, width=0.25)).modules() if isinstance(m, nn.Conv2d)]
    shares = []
    for m in convolutions:
        fan = (m.in_channels if net == "densenet201" else m.out_channels) * m.kernel_size[0] * m.kernel_size[1]
        shares.append(m.weight.detach().square().flatten() * fan / 2)
    every = torch.cat(shares)
    assert float(every.mean()) == pytest.approx(1, abs=5 * (2 / len(every)) ** 0.5)


@pytest.mark.parametrize("net", ["vgg11", "resnet18", "resnet50", "densenet40", "densenet201"])
def test_biases_of_the_classifier_start_as_in_torchvision(net: str) -> None:
    torch.manual_seed(0)
    layer = linear_layer(build(net, Shape(3, 32, 10, width=0.1)), CLASSIFIER)
    assert layer.bias.any() == net.startswith("resnet")
    assert layer.bias.abs().max() <= layer.in_features**-0.5


def test_batch_normalisation_stands_where_vgg_had_dropout() -> None:
    torch.manual_seed(0)
    plain, normed = (build("vgg11", Shape(3, 32, 10, width=0.1, head_norm=head_norm)) for head_norm in (False, True))
    names = [name for name, _ in normed.named_children()]
    assert names == [
        "features", "pool", "flatten", "hidden1", "relu1", "norm1", "hidden2", "relu2", "norm2", CLASSIFIER,
    ]  # fmt: skip
    assert {name for name, _ in normed.named_parameters()} - {name for name, _ in plain.named_parameters()} == {
        "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
    }  # fmt: skip
    seen = []
    linear_layer(normed, CLASSIFIER).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    normed(torch.randn(64, 3, 32, 32))
    assert float(seen[0].mean(0).abs().max()) < 1e-5  # the features have mean zero over a batch


def after_a_step(model: nn.Module, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Gradients, state and bytes kept for them, after one step in training mode."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own: Callable[[Any], Any] = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, own):
        loss = nn.functional.cross_entropy(model.train()(x), y)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, model.state_dict(), sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize(("net", "batch_norm"), [("densenet40", True), ("densenet100", True), ("densenet100", False)])
def test_the_memory_efficient_densenet_is_the_same_network_in_less_memory(net: str, batch_norm: bool) -> None:
    torch.manual_seed(0)
    plain, efficient = (
        build(net, Shape(2, 8, 5, width=0.3, batch_norm=batch_norm, memory_efficient=efficient)).double()
        for efficient in (False, True)
    )
    efficient.load_state_dict(plain.state_dict())
    x, y, buffers = torch.randn(6, 2, 8, 8, dtype=torch.float64), torch.arange(6) % 5, dict(efficient.named_buffers())
    (gradients, state, kept), (again, state_again, kept_again) = (after_a_step(model, x, y) for model in (plain, efficient))
    assert gradients.keys() == again.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(again[name], value, rtol=1e-10, atol=1e-12)
    for name, value in state.items():
        torch.testing.assert_close(state_again[name], value, rtol=1e-14, atol=0)  # the statistics of one batch, not of two
    assert {int(value) for name, value in state_again.items() if name.endswith("tracked")} == ({1} if batch_norm else set())
    assert kept_again < kept / 4
    torch.testing.assert_close(efficient.eval()(x), plain.eval()(x), rtol=1e-12, atol=1e-14)
    assert all(value is buffers[name] for name, value in efficient.named_buffers())  # those that others may hold

"""Strict configuration, and the shipped protocol against the paper's Appendix A written down again."""

import hashlib
import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.training.nets import NETS
from sims.training.protocol import GRID, PROTOCOL, TrainConfig, cells, from_mapping, load_config, protocol, rate_source

MSE_CELLS = {  # A.2 of the paper
    "mnist": ("vgg11", "resnet18", "densenet40"),
    "fashionmnist": ("vgg11", "resnet18", "densenet250"),
    "svhn": ("vgg13", "resnet34", "densenet40"),
    "cifar10": ("vgg11", "resnet50", "densenet100"),
    "stl10": ("vgg11", "resnet18", "densenet201"),
}
CE_CELLS = {  # Papyan, Han & Donoho (2020)
    "mnist": ("vgg11", "resnet18", "densenet40"),
    "fashionmnist": ("vgg11", "resnet18", "densenet250"),
    "svhn": ("vgg13", "resnet34", "densenet40"),
    "cifar10": ("vgg13", "resnet18", "densenet40"),
    "stl10": ("vgg13", "resnet18", "densenet201"),
}
RATES = {  # tuned for the MSE cells as published with the paper's depths, and the two known ones of cross-entropy
    "mnist-vgg11-mse": 0.025519618,
    "mnist-resnet18-mse": 0.018420157,
    "mnist-densenet40-mse": 0.025519618,
    "fashionmnist-vgg11-mse": 0.018420157,
    "fashionmnist-resnet18-mse": 0.094015077,
    "fashionmnist-densenet250-mse": 0.009596916,
    "svhn-vgg13-mse": 0.018420157,
    "svhn-resnet34-mse": 0.009596916,
    "svhn-densenet40-mse": 0.013295740,
    "cifar10-vgg11-mse": 0.025519618,
    "cifar10-resnet50-mse": 0.009596916,
    "cifar10-densenet100-mse": 0.048981924,
    "stl10-vgg11-mse": 0.018420157,
    "stl10-resnet18-mse": 0.067860440,
    "stl10-densenet201-mse": 0.001880302,
    "cifar10-resnet18-ce": 0.13025018,
    "mnist-resnet18-ce": 0.0679,
}
MEASURED = (  # the notebook of Papyan, Han & Donoho
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 20, 22, 24, 27, 29, 32, 35, 38, 42, 45, 50, 54, 59, 65, 71, 77, 85,
    92, 101, 110, 121, 132, 144, 158, 172, 188, 206, 225, 245, 268, 293, 320, 350,
)  # fmt: skip
# fields of the configuration that came after the table
SINCE = ("velocity", "drop_last", "head_norm", "memory_efficient", "tf32", "deterministic", "sync_batch_norm")
SMALL_CELLS = ("digits-mlp-ce", "digits-mlp-mse", "fashionmnist-mlp-mse")  # ours: minutes on a CPU


def test_every_cell_is_shipped() -> None:
    expected = {
        f"{dataset}-{net}-{loss}"
        for loss, table in (("mse", MSE_CELLS), ("ce", CE_CELLS))
        for dataset, nets in table.items()
        for net in nets
    }
    assert set(cells()) == expected | set(SMALL_CELLS)


def test_the_table_says_what_one_file_a_cell_said() -> None:
    """Digest of the 33 configurations that were shipped as JSON, field by field, before there was a table."""
    whole = {cell: asdict(protocol(*cell.split("-"))) for cell in cells()}
    fields_then = {cell: {name: value for name, value in config.items() if name not in SINCE} for cell, config in whole.items()}
    digest = hashlib.sha256(json.dumps(fields_then, sort_keys=True).encode()).hexdigest()
    assert digest == "95faf07d114bb43f112504416906a15a91afe4871ec6139bca292d70317a0db3"


def test_every_rate_carries_its_source_and_the_cells_without_one_say_so() -> None:
    for cell in cells():
        config = protocol(*cell.split("-"))
        assert (rate_source(config) == "none published") is (config.lr is None)
        assert rate_source(config) != "given"
        assert rate_source(replace(config, lr=0.123)) == "given"
    assert rate_source(protocol("cifar10-jpeg", "resnet18", "ce")) == rate_source(protocol("cifar10", "resnet18", "ce"))
    assert rate_source(protocol("svhn", "mlp", "mse")) == "none published"
    np.testing.assert_allclose(GRID, np.geomspace(1e-4, 0.25, 25), rtol=1e-8)


def test_the_table_fits_on_one_screen() -> None:
    lines = PROTOCOL.read_text().splitlines()
    assert len(lines) <= 66
    assert max(map(len, lines)) <= 150


@pytest.mark.parametrize("cell", SMALL_CELLS)
def test_the_small_cells_are_complete(cell: str) -> None:
    config = protocol(*cell.split("-"))
    assert (config.dataset, config.net, config.loss) == tuple(cell.split("-"))
    assert config.rate in config.lr_grid
    assert config.measured[-1] == config.epochs


@pytest.mark.parametrize("cell", sorted(set(cells()) - set(SMALL_CELLS)))
def test_every_cell_follows_the_protocol(cell: str) -> None:
    config = protocol(*cell.split("-"))
    assert (config.dataset, config.net, config.loss) == tuple(cell.split("-"))
    assert (config.optimizer, config.momentum, config.weight_decay, config.batch_size) == ("sgd", 0.9, 5e-4, 128)
    assert (config.epochs, config.decays, config.decay_factor) == (350, (350 // 3, 2 * 350 // 3), 0.1)
    assert len(MEASURED) == 50
    assert config.measured == MEASURED
    np.testing.assert_allclose(config.lr_grid, np.geomspace(1e-4, 0.25, 25), rtol=1e-8)
    assert config.per_class == {"mnist": 5000, "svhn": 4600}.get(config.dataset)
    assert (config.pad_to == 32) is ("mnist" in config.dataset)
    assert (config.stem == "7x7") is (config.dataset == "stl10")
    assert (config.batch_norm, config.mixed_precision, config.random_labels, config.fixed_etf) == (True, "no", False, False)
    assert (config.drop_last, config.head_norm) == (True, False)
    assert config.memory_efficient is (config.net in ("densenet201", "densenet250"))


@pytest.mark.parametrize("cell", sorted(set(cells()) - set(SMALL_CELLS)))
def test_the_rate_of_every_cell_is_the_member_of_the_grid_that_was_published(cell: str) -> None:
    config = protocol(*cell.split("-"))
    known = RATES.get(cell)
    assert config.lr == (None if known is None else min(config.lr_grid, key=lambda rate: abs(rate - known)))


def test_all_rates_belong_to_shipped_cells() -> None:
    assert len(RATES) == 15 + 2
    assert set(RATES) <= set(cells())


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "net": st.sampled_from(["mlp", "resnet18"]),
            "lr": st.none() | st.floats(1e-5, 1.0),
            "epochs": st.integers(350, 999),
            "decays": st.sets(st.integers(1, 350)).map(sorted),
            "pad_to": st.none() | st.integers(8, 64),
            "random_labels": st.booleans(),
            "data_dir": st.none() | st.text(),
            "width": st.integers(1, 3),
        },
    )
)
def test_json_round_trip_is_exact(content: dict[str, object]) -> None:
    config = from_mapping(content, "test")
    again = from_mapping(json.loads(config.to_json()), "test")
    assert again == config
    assert {field.name: type(getattr(again, field.name)) for field in fields(config)} == {
        field.name: type(getattr(config, field.name)) for field in fields(config)
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"learning_rate": 0.1}, "unknown key 'learning_rate'; the keys are dataset, net"),
        ({"lr": "0.1"}, "Expected `float | null`, got `str` - at `$.lr`"),
        ({"epochs": 3.5}, "Expected `int`, got `float` - at `$.epochs`"),
        ({"epochs": True}, "Expected `int`, got `bool` - at `$.epochs`"),
        ({"lr": 10**400}, "Number out of range - at `$.lr`"),
        ({"measured": 3}, "Expected `array`, got `int` - at `$.measured`"),
        ({"measured": ["3"]}, "Expected `int`, got `str` - at `$.measured[0]`"),
        ({"batch_norm": 1}, "Expected `bool`, got `int` - at `$.batch_norm`"),
        ({"dataset": None}, "Expected `str`, got `null` - at `$.dataset`"),
        ({"loss": "hinge"}, "loss = 'hinge': it is one of mse, ce"),
        ({"lr": -1.0}, "lr = -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay = nan"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"measured": [2, 1]}, r"measured must increase within 0\.\.350, got 2, 1"),
        ({"measured": [1, 351]}, "got 1, 351"),
        ({"measured": []}, "no epoch is measured"),
        ({"save_features": [15]}, "epoch 15 is not one"),
        ({"loss": "ce", "rescale_target": 5.0}, "Hui & Belkin"),
        ({"head_norm": True}, "head_norm belongs to vgg11, vgg13, the network is mlp"),
        ({"memory_efficient": True, "net": "vgg11"}, "memory_efficient belongs to densenet40, densenet100"),
    ],
)
def test_anything_else_is_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message if "\\" in message else re.escape(message)):
        from_mapping(content, "run.json")


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(ValueError, match="No such file"):
        load_config(path)
    deep = "[" * 100_000
    for content, message in (
        ("{", "cannot read"),
        ("[1]", "holds a list"),
        ('{"a": 1}', "unknown key 'a'"),
        (deep, "cannot read"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_config(path)


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("dataset", [*MSE_CELLS, "digits", "cifar10-jpeg"])
def test_every_other_cell_has_the_common_schedule_and_asks_for_a_rate(dataset: str, net: str, loss: str) -> None:
    config = protocol(dataset, net, loss)
    assert (config.dataset, config.net, config.loss) == (dataset, net, loss)
    name = f"{dataset}-{net}-{loss}".replace("-jpeg", "")
    if name in cells():
        assert config == replace(protocol(*name.split("-")), dataset=dataset)
        return
    assert (config.weight_decay, config.batch_size, config.epochs, config.decays) == (5e-4, 128, 350, (116, 233))
    assert (config.measured, config.momentum) == (MEASURED, 0.9)
    if dataset != "digits":
        assert config.per_class == {"mnist": 5000, "svhn": 4600}.get(dataset)
        assert (config.pad_to == 32) is ("mnist" in dataset)
        assert (config.stem == "7x7") is (dataset == "stl10")
    with pytest.raises(
        ValueError, match=f"known for {dataset}, {net}, {loss}: give lr, for example from the grid 0.0001 to 0.25"
    ):
        _ = config.rate


def test_what_is_no_cell_at_all_is_refused() -> None:
    for cell, message in (
        (("cifar100", "vgg11", "mse"), "dataset = 'cifar100': it is one of digits"),
        (("svhn", "vgg19", "mse"), "net = 'vgg19'"),
        (("svhn", "vgg11", "hinge"), "loss = 'hinge'"),
    ):
        with pytest.raises(ValueError, match=message):
            protocol(*cell)


def test_the_rate_is_divided_by_ten_after_each_third() -> None:
    config = replace(TrainConfig(), lr=0.5)
    assert [config.rate_at(epoch) for epoch in (1, 116, 117, 233, 234, 350)] == pytest.approx(
        [0.5, 0.5, 0.05, 0.05, 0.005, 0.005]
    )
    with pytest.raises(ValueError, match=r"no tuned learning rate .* give lr, for example from the grid 0.0001 to 0.25"):
        _ = protocol("stl10", "vgg13", "ce").rate


@given(st.integers(1, 2000))
def test_scaling_keeps_the_shape_of_the_schedule(epochs: int) -> None:
    config = TrainConfig(save_features=(1, 92, 350)).scaled(epochs)
    assert config.epochs == epochs
    assert config.measured[-1] == config.save_features[-1] == epochs
    assert config.measured[0] >= 1
    assert set(config.save_features) == {max(round(epoch * epochs / 350), 1) for epoch in (1, 92, 350)}
    for decay, original in zip(config.decays, (116, 233), strict=True):
        assert abs(decay - original * epochs / 350) <= (0.5 if epochs > 2 else 1)
    assert TrainConfig().scaled(350) == TrainConfig()


@pytest.mark.parametrize("epochs", range(1, 21))
def test_a_short_schedule_starts_at_the_full_rate_and_takes_one_decay_after_the_other(epochs: int) -> None:
    config = replace(TrainConfig(), lr=0.5).scaled(epochs)
    assert len(config.decays) == 2
    rates = [config.rate_at(epoch) for epoch in range(1, epochs + 1)]
    assert list(dict.fromkeys(rates)) == pytest.approx([0.5, 0.05, 0.005][:epochs])


def test_the_untrained_network_stays_measured_when_the_schedule_is_scaled() -> None:
    assert TrainConfig(measured=(0, 1, 350)).scaled(7).measured == (0, 1, 7)

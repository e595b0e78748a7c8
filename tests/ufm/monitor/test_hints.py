"""What a watch says of a pass that is not the one that was meant: two networks in one, labels not shifted, other entries."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ufm.monitor.test_watch import data, network
from ufm.monitor import Watched, watch


def passed(watched: Watched, x: Tensor, y: Tensor, reset: bool) -> float:
    """A pass of the user's own; how many examples are counted after it."""
    with torch.no_grad(), watched:
        if reset:
            watched.reset()
        for a, t in zip(x.split(40), y.split(40), strict=True):
            watched.model(a)
            watched.update(t)
    return watched.compute()["examples"]


def test_a_second_pass_without_reset_is_said_once() -> None:
    x, y = data()
    watched = watch(network().eval(), "3")
    assert passed(watched, x, y, reset=False) == 90
    with pytest.warns(UserWarning, match="the 90 examples of the last compute") as said:
        assert passed(watched, x, y, reset=False) == 180
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert passed(watched, x, y, reset=True) == 90
        assert watched.measure([(x, y)])["examples"] == 90
        assert passed(watched, x, y, reset=True) == 90


def test_a_block_that_goes_on_before_compute_says_nothing() -> None:
    x, y = data()
    watched = watch(network().eval(), "3")
    for a, t in zip(x.split(40), y.split(40), strict=True):
        with torch.no_grad(), watched:
            watched.model(a)
            watched.update(t)
    assert watched.compute()["examples"] == 90


class Language(nn.Module):
    """A causal language model in small: next tokens from tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Embedding(6, 5), nn.Linear(5, 6)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.body(input_ids))


@pytest.mark.parametrize("as_mapping", [True, False])
def test_labels_that_are_the_tokens_themselves_are_said_to_lack_the_shift(as_mapping: bool) -> None:
    tokens = torch.arange(48).reshape(4, 12) * 5 % 6
    ignoring = torch.where(torch.arange(12) < 8, tokens, -100)  # padding
    batches: list[Any] = [{"input_ids": tokens, "labels": ignoring} if as_mapping else (tokens, ignoring)] * 2
    with pytest.warns(UserWarning, match="labels are the tokens at their own positions.*shift=True") as said:
        watch(Language(), "head", classes="seen", ignore_index=-100).measure(batches)
    assert len(said) == 1
    masked = {"input_ids": tokens, "labels": torch.where(torch.arange(12) < 8, (tokens + 1) % 6, -100)}
    nothing = {"input_ids": tokens, "labels": torch.full_like(tokens, -100)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(Language(), "head", classes="seen", ignore_index=-100, shift=True).measure(batches)
        watch(Language(), "head", classes="seen", ignore_index=-100).measure([nothing, masked])


class Two(nn.Module):
    """A network that needs two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.net(x + shift)


class Pair(nn.Module):
    """A network that takes them as one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, pair: tuple[Tensor, Tensor], scale: float = 1.0) -> Tensor:
        return self.net(pair[0] + scale * pair[1])


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("model", [Two, Pair])
def test_several_inputs_are_given_as_the_network_takes_them(model: type[nn.Module], kind: type) -> None:
    x, y = data()
    expected = watch(model(), "net.3", select=lambda b: ((b[0], b[1]), b[2])).measure([(x, 0 * x + 1, y)])
    assert expected["nc1"] == watch(network(), "3").measure([(x + 1, y)])["nc1"]
    assert watch(model(), "net.3").measure([(kind([x, 0 * x + 1]), y)])["nc1"] == expected["nc1"]


def test_a_second_entry_that_cannot_be_labels_is_named_with_the_way_out() -> None:
    x, y = data()
    with pytest.raises(
        ValueError, match=r"got shapes.*the second of the 3 entries of a batch was taken for its labels: give select="
    ):
        watch(network(), "3").measure([(x, x.long(), y)])
    with pytest.raises(ValueError, match=r"labels are torch.float32.*the second of the 3 entries"):
        watch(network(), "3").measure([(x, x[:, 0], y)])
    with pytest.raises(ValueError, match=r"outside of 0\.\.2 \(they run from 0 to 3\); ignore_index= leaves a label out$"):
        watch(network(), "3").measure([(x, y + (y == 2))])

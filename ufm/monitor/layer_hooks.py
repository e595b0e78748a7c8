"""The hooks by which features are caught; a copy of the network takes none along."""

from collections.abc import Callable

from torch import Tensor, nn

from ufm.monitor.layers import first_tensor, head_inputs

Catch = Callable[[str, nn.Module, Tensor, Tensor | None], None]  # of what a layer was given, or gave


class LayerHook:
    """The hook of a layer. A copy of the network that is made meanwhile, or one that is saved, has one that does nothing."""

    def __init__(self, catch: Catch, name: str, inputs: bool) -> None:
        self._catch, self._name, self._inputs = catch, name, inputs

    def __call__(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        if self._inputs:
            given = first_tensor(head_inputs(args, kwargs), self._name)
            self._catch(self._name, module, given, first_tensor(output, self._name))
        else:
            self._catch(self._name, module, first_tensor(output, self._name), None)

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        return catch_nothing

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _hook_of_a_copy, ()


def catch_nothing(*_: object) -> None:
    """The hook of a copy of a network."""


def _hook_of_a_copy() -> Callable[..., None]:
    return catch_nothing

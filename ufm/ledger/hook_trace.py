"""The operations of a network that torch.fx cannot trace, seen by hooks on its modules without children."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from ufm.ledger.example_axis import FIRST_AXIS, NO_EXAMPLES, Found, by_example
from ufm.ledger.states import INPUT, Operation, Visit, tensors_of

ANY_BEFORE = " ?"  # ends the kind of an operation that may include functional ones before it
MODULES_ONLY = (
    "hooks see modules only: functional operations outside of them (activations, pooling, sums) are counted with the module that "
    "follows, so that a row marked ? may have a gain although its module is affine; what follows the last module is not recorded"
)


class HookTrace:
    """A model by hooks on its modules without children, in the order in which they are first called."""

    seen = "hooks"

    def __init__(self, model: nn.Module) -> None:
        self.model, self.axes = model, dict[str, Found]()
        self.leaves = {name: module for name, module in model.named_modules() if not list(module.children()) and name}
        if not self.leaves:
            raise ValueError("the model has no modules inside, and torch.fx cannot trace it: no operation can be recorded")

    def tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Every tensor that is seen of a run, by operation and place."""
        seen: dict[str, Tensor] = {}
        self._watch(x, lambda name, _, tensors: seen.update({f"{name}.{j}": t.clone() for j, t in enumerate(tensors)}))
        return seen

    def walk(self, x: Tensor, visit: Visit) -> None:
        """Run the model on a batch; the state after a module is its output, and its kind ends with `ANY_BEFORE`."""

        def note(name: str, module: nn.Module, tensors: list[Tensor]) -> None:
            named = [(f"{name}.{j}", t) for j, t in enumerate(tensors)]
            shown = [(key, t, self.axes.get(key, FIRST_AXIS)) for key, t in named]
            state = {key: by_example(t, len(x), name, axis) for key, t, axis in shown if axis != NO_EXAMPLES}
            if not state:  # no module of the examples, as that of positions
                return
            visit(Operation(name, type(module).__name__ + ANY_BEFORE), state, None)

        visit(Operation(INPUT, INPUT), {INPUT: x}, None)
        self._watch(x, note)

    def _watch(self, x: Tensor, note: Callable[[str, nn.Module, list[Tensor]], None]) -> None:
        """Run the model; note(operation, module, its tensors) in order."""
        calls: dict[str, int] = {}

        def called(name: str, module: nn.Module, _: object, out: Any) -> None:
            if tensors := tensors_of(out):
                calls[name] = calls.get(name, 0) + 1
                note(f"{name} (call {calls[name]})" if calls[name] > 1 else name, module, tensors)

        with ExitStack() as stack:
            for name, module in self.leaves.items():
                handle = module.register_forward_hook(partial(called, name))
                stack.callback(handle.remove)
            self.model(x)

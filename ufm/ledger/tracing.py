"""The operations of any torch network in the order of execution, and its state between them.

The state after an operation is every tensor that a later operation still reads: along a chain the last output, inside a residual
block the pair (skip, branch). To read its shape, dtype or device is not to read a tensor. Each operation is then a map from state
to state, the sum at the end of a block is a linear map of the pair, and gains add up exactly from the input to the output
whatever the graph. Two ways to see it: torch.fx, and, for models that it cannot trace (control flow that depends on data), hooks
on the modules without children, each output taken as the state.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn

from ufm.ledger.affine import affine_by_definition, agree, has_hooks
from ufm.ledger.example_axis import FIRST_AXIS, NO_EXAMPLES, ExampleAxis, Found, by_example
from ufm.ledger.hook_trace import MODULES_ONLY, HookTrace
from ufm.ledger.states import INPUT, Operation, State, Visit, mapped, tensors_of
from ufm.ledger.undisturbed import attributes_kept

SHAPE_ATTRIBUTES = frozenset(("shape", "device", "dtype", "ndim", "layout", "is_cuda", "requires_grad", "itemsize", "nbytes"))
SHAPE_CALLS = frozenset((len, torch.numel, torch.is_floating_point, torch.zeros_like, torch.ones_like, torch.full_like))
SHAPE_CALLS |= {"size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "element_size", "get_device"}
SHAPE_CALLS |= {torch.empty_like, "__len__", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"}
SHAPE_OF_SECOND = frozenset(("view_as", "reshape_as", "expand_as", "type_as"))


class GraphTrace:
    """A model as torch.fx sees it: `walk(x, visit)` calls visit(operation, state after it, its rounding error) in order."""

    seen = "torch.fx"

    def __init__(self, model: nn.Module) -> None:
        if has_hooks(model):
            raise ValueError("the model itself has hooks, which torch.fx leaves out")
        with attributes_kept(model):
            graph = _Tracer().trace(model)
        self.module = fx.GraphModule(model, graph)
        self.nodes = list(graph.nodes)
        index = {node: k for k, node in enumerate(self.nodes)}
        self.last_run = {node: max((index[user] for user in node.users), default=-1) for node in self.nodes}
        self.last_read = {  # as data: what is run later for its shape alone is no part of a state
            node: max((index[user] for user in node.users if _reads_data(user, node)), default=-1) for node in self.nodes
        }
        self.axes: dict[str, Found] = {}  # of the examples, by tensor; the first where a tensor is not there
        self.fed: set[fx.Node] = set()  # nodes that depend on the numbers of the input
        for node in self.nodes:
            if node.op == "placeholder" or any(s in self.fed and _reads_data(node, s) for s in node.all_input_nodes):
                self.fed.add(node)
                if node.op == "call_method" and str(node.target).endswith("_"):  # in place, of zeros too
                    self.fed.update(node.all_input_nodes[:1])

    def tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Every tensor of a run, by operation and place."""
        recorder = _Recorder(self.module)
        recorder.run(x, enable_io_processing=False)
        return recorder.tensors

    def walk(self, x: Tensor, visit: Visit, probe: bool = False) -> None:
        """Run the model on a batch; every state is as it is when its operation is done, in-place changes included.

        With `probe` operations are asked whether they are affine, and affine ones for their rounding error, shaped as the state.
        """
        run = fx.Interpreter(self.module, garbage_collect_values=False)
        run.args_iter = iter([x])
        for k, node in enumerate(self.nodes):
            versions = {id(t): t._version for s in node.all_input_nodes for t in tensors_of(run.env.get(s))}
            asked = probe and node.op not in ("placeholder", "output", "get_attr")
            affine, errors = self._probed(run, node) if asked else (None, [])
            out = run.env[node] = run.run_node(node)
            if node.op == "output":
                return
            changed = any(versions.get(id(t)) != t._version for t in tensors_of(out))
            if node.op != "get_attr" and node in self.fed and (node.op == "placeholder" or changed):
                state, error = self._state(run, k, len(x)), None
                if affine and errors:
                    known = {id(t): e for t, e in zip(tensors_of(out), errors, strict=True)}
                    error = self._state(run, k, len(x), known)
                visit(Operation(*self._described(node), affine), state, error)
            for source in node.all_input_nodes:
                if self.last_run[source] <= k:
                    run.env.pop(source, None)

    def _state(self, run: fx.Interpreter, k: int, batch: int, errors: dict[int, Tensor] | None = None) -> State:
        state, parts = State(), list[Tensor]()
        for node in self.nodes[: k + 1]:
            if node in self.fed and self.last_read[node] > k and node in run.env:
                for j, tensor in enumerate(tensors_of(run.env[node])):
                    # two names of one tensor (a view that changes nothing, an in-place result) are one part of the state
                    key = f"{node.name}.{j}"
                    if not any(tensor is other for other in parts) and self.axes.get(key) != NO_EXAMPLES:
                        parts.append(tensor)
                        shown = tensor if errors is None else errors.get(id(tensor), torch.zeros_like(tensor))
                        state[key] = by_example(shown, batch, node.name, self.axes.get(key, FIRST_AXIS))
        return state

    def _described(self, node: fx.Node) -> tuple[str, str]:
        if node.op == "placeholder":
            return INPUT, INPUT
        if node.op == "call_module":
            calls = [other for other in self.nodes if other.op == "call_module" and other.target == node.target]
            again = f" (call {calls.index(node) + 1})" if node is not calls[0] else ""
            return f"{node.target}{again}", type(self.module.get_submodule(str(node.target))).__name__
        return node.name, node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))

    def _probed(self, run: fx.Interpreter, node: fx.Node) -> tuple[bool | None, list[Tensor]]:
        """Whether f((a + b) / 2) = (f(a) + f(b)) / 2, in float64 too, for examples a and their neighbours b, None if all are a.

        Layers of torch that are affine by their definition are so even where this fails: one that makes the last bits of its
        input large would, since (a + b) / 2 is rounded. What remains of the difference, returned for the outputs of an affine
        operation, is of the size of its rounding error, cancellation inside it included.
        """
        known = node.op == "call_module" and affine_by_definition(self.module.get_submodule(str(node.target)))
        sources = [source for source in node.all_input_nodes if source in self.fed]
        fed = [rows for source in sources for rows in self._rows(source, tensors_of(run.env.get(source)))]
        if all(torch.equal(t, t.roll(1, 0)) for t in fed):
            return known or None, []
        pairs = self._of_neighbours(run, node)
        affine = known or self._agree(node, pairs)
        if affine and not known and any(t.dtype != torch.float64 for t in fed):
            with suppress(Exception):  # what an operation that knows its own dtype raises is anything
                affine = self._agree(node, self._of_neighbours(run, node, in_float64=True))
        return affine, [mean - mixed for mean, mixed in pairs] if affine else []

    def _of_neighbours(self, run: fx.Interpreter, node: fx.Node, in_float64: bool = False) -> list[tuple[Tensor, Tensor]]:
        """(f(a) + f(b)) / 2 and f((a + b) / 2) of every output; in float64 a weak nonlinearity is no rounding."""
        kept, outcomes = dict(run.env), list[Any]()
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if in_float64 and module is not None and not has_hooks(module):
            module = deepcopy(module).double()
        try:
            for mixed in (False, True):
                for source in node.all_input_nodes:
                    change = self._mean(source) if mixed and source in self.fed else Tensor.clone
                    run.env[source] = mapped(mapped(kept[source], Tensor.double) if in_float64 else kept[source], change)
                args, kwargs = run.fetch_args_kwargs_from_env(node)
                outcomes.append(tensors_of(run.run_node(node) if module is None else module(*args, **kwargs)))
        finally:
            run.env.clear()
            run.env.update(kept)
        return list(zip(map(self._mean(node), outcomes[0]), outcomes[1], strict=True))

    def _agree(self, node: fx.Node, pairs: list[tuple[Tensor, Tensor]]) -> bool:
        return all(agree(*pair) for pair in zip(*(self._rows(node, part) for part in zip(*pairs, strict=True)), strict=True))

    def _axis(self, node: fx.Node, place: int) -> ExampleAxis:
        axis = self.axes.get(f"{node.name}.{place}")
        return axis if isinstance(axis, ExampleAxis) else FIRST_AXIS

    def _rows(self, node: fx.Node, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of an operation, an example a row."""
        return [self._axis(node, j).rows(t) for j, t in enumerate(tensors)]

    def _mean(self, node: fx.Node) -> Callable[[Tensor], Tensor]:
        """Means of every example and its neighbour, called on the tensors of an operation in their order."""
        places = count()
        return lambda t: self._axis(node, next(places)).means_with_neighbours(t)


Trace = GraphTrace | HookTrace


def traced(model: nn.Module) -> tuple[Trace, str]:
    """The model seen by torch.fx, or by hooks where that fails, with the reason; an empty reason where it did not fail."""
    try:
        return GraphTrace(model), ""
    except Exception as error:  # what a user's forward raises when it meets torch.fx's stand-ins is anything
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return HookTrace(model), f"torch.fx cannot trace this model ({first}); {MODULES_ONLY}"


class _Recorder(fx.Interpreter):
    """Copies of all tensors, as they are when their operation is done."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.tensors: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The result of an operation."""
        out = super().run_node(n)
        self.tensors |= {f"{n.name}.{j}": t.clone() for j, t in enumerate(tensors_of(out))}
        return out


class _Tracer(fx.Tracer):
    """Modules with hooks stay whole, so that hooks meet tensors and never torch.fx's stand-ins."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return has_hooks(m) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Optional arguments of the forward have their defaults, which no stand-in could be told from a tensor by."""
        forward, (root, x, *others) = super().create_args_for_root(*args, **kwargs)
        for k, other in enumerate(others):
            if isinstance(other, fx.Proxy) and other.node.args:
                self.graph.erase_node(other.node)
                others[k] = other.node.args[0]
        return forward, [root, x, *others]


def _reads_data(user: fx.Node, source: fx.Node) -> bool:
    """Whether an operation reads the numbers of a tensor, and not only its shape, dtype or device."""
    if user.op not in ("call_function", "call_method"):
        return True
    if user.target is getattr:
        return user.args[1] not in SHAPE_ATTRIBUTES
    return user.target not in SHAPE_CALLS and (user.target not in SHAPE_OF_SECOND or user.args[0] is source)

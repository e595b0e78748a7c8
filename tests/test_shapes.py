"""The axes that signatures of the two front doors say of arrays: every array has some, and they are those of what comes back."""

import dataclasses
import importlib
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pytest
import torch

import manifolds
import ufm
from manifolds.array import Array, ArrayT, ArrayT_co

ARRAYS = {Array, ArrayT, ArrayT_co, np.ndarray, torch.Tensor, Any}  # Any: what may be an array has axes, or a reason below
CONTAINERS = (types.UnionType, typing.Union, tuple, list, dict, Callable, Iterable, Mapping, Sequence)

ANY_MANIFOLD = "a point or a vector of any manifold of pymanopt or geoopt: an array of any axes, or a sequence of them"
LIBRARY = "an object of pymanopt or geoopt, which have no types, or options that are passed on to them"
ANY_SHAPE = "parameters of a network, each of its own shape"
UNCHECKED = {  # names, or methods, whose arrays have no axes to say, and why
    "check_gradient": ANY_MANIFOLD,
    "check_hessian": ANY_MANIFOLD,
    "GeooptView": ANY_MANIFOLD,
    "PymanoptView": ANY_MANIFOLD,
    "AdaptiveCubicRegularization": LIBRARY,
    "RiemannianLBFGS": LIBRARY,
    "RiemannianSVRG": ANY_SHAPE,
    "RiemannianDescent.__init__": ANY_SHAPE,
    "RiemannianDescent.add_param_group": ANY_SHAPE,
    "ClassLayout.summed": "a sum over the columns, of any axes that are left",
    "StreamingStatistics.merge_over": "an array of any shape, taken for its library and its device",
    "GeneralLaw.basis": "an array of any shape, taken for its dtype and its device",
    "GeneralLaw.priors_like": "an array of any shape, taken for its dtype and its device",
}


def lacks_axes(annotation: Any) -> bool:
    """Whether an array in an annotation says no axes; a class of ours says its own in its fields."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] in ("Array", "ndarray", "Tensor")
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return not any(isinstance(text, str) for text in annotation.__metadata__)
    if origin in CONTAINERS:
        return any(map(lacks_axes, flattened(typing.get_args(annotation))))
    return (origin or annotation) in ARRAYS


def flattened(parts: tuple[Any, ...]) -> Iterator[Any]:
    """The arguments of a type, those of a function among them one by one."""
    for part in parts:
        yield from part if isinstance(part, list) else [part]


def functions_of(value: object) -> Iterator[tuple[str, Callable[..., object]]]:
    """A function, or what a class of ours defines or inherits from one: public methods, properties, what makes and calls it."""
    if inspect.isfunction(value):
        yield value.__name__, value
        return
    cls = value if inspect.isclass(value) else type(value)
    for name in dir(cls):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        member: Any = inspect.getattr_static(cls, name)
        for wrapper in ("fget", "func", "__func__"):  # of a property, a cached property, a class method
            member = getattr(member, wrapper, None) or member
        if inspect.isfunction(member) and member.__module__.partition(".")[0] in ("manifolds", "ufm"):
            yield f"{cls.__name__}.{name}", member


def without_axes(value: object) -> Iterator[str]:
    """`function(parameter)` and `function ->` of the arrays that say no axes; private parameters are left out."""
    for name, function in functions_of(value):
        signature = inspect.signature(inspect.unwrap(function))
        for parameter in signature.parameters.values():
            if not parameter.name.startswith("_") and lacks_axes(parameter.annotation):
                yield f"{name}({parameter.name})"
        if lacks_axes(signature.return_annotation):
            yield f"{name} ->"


def test_arrays_without_axes_are_listed() -> None:
    Some = Annotated[ArrayT, "... P"]

    class Loose:
        def __init__(self, a: Some[np.ndarray], b: "np.ndarray", _c: Any) -> None: ...
        @property
        def d(self) -> tuple[Some[np.ndarray], np.ndarray]: ...  # type: ignore[bad-return]
        @classmethod
        def e(cls, f: Some[Array] | None, g: Callable[[Array], None], h: Sequence[int]) -> Some[Array]: ...  # type: ignore[bad-return]
        def i(self, j: np.ndarray[tuple[int], Any], k: dict[str, torch.Tensor]) -> "Loose": ...  # type: ignore[bad-return]

    Loose.__module__ = "manifolds"
    for function in (Loose.__init__, vars(Loose)["d"].fget, Loose.e.__func__, Loose.i):  # type: ignore[missing-attribute]
        function.__module__ = "manifolds"
    assert [*without_axes(Loose)] == ["Loose.__init__(b)", "Loose.d ->", "Loose.e(g)", "Loose.i(j)", "Loose.i(k)"]


def values_of(door: str) -> Iterator[object]:
    """The public names that are functions, classes or values of a class of ours, and the values of public tables."""
    module = importlib.import_module(door)
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.ismodule(value):
            yield from value.values() if isinstance(value, dict) else [value]


def exception_of(where: str) -> str | None:
    """The entry of `UNCHECKED` for `Class.method(parameter)`, `Class.method ->` or the same of a function."""
    method = where.partition("(")[0].partition(" ")[0]
    return next((name for name in (method, method.partition(".")[0]) if name in UNCHECKED), None)


def test_every_array_of_a_front_door_says_its_axes() -> None:
    open_arrays = {where for door in ("manifolds", "ufm") for value in values_of(door) for where in without_axes(value)}
    assert sorted(where for where in open_arrays if exception_of(where) is None) == []
    assert {exception_of(where) for where in open_arrays} == UNCHECKED.keys()


C, N, P, T = 3, 7, 5, 6  # pairwise distinct, and so are the axes below
LAYOUT = manifolds.ClassLayout.equal(C, N)
RNG = np.random.default_rng(0)
AXES = {"C": C, "P": P, "n": C * N, "K": C - 1, "T": T, "...": (), "*t": (8, 9), "*omega": (10,)}


def expected(text: str, axes: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a text says: named axes, differences of them and numbers; several axes for "..." and "*name"."""
    several = [axes[axis] if axis[0] in ".*" else (eval(axis, {}, dict(axes)),) for axis in text.split()]
    return tuple(size for sizes in several for size in sizes)


def differences(annotation: Any, value: Any, axes: Mapping[str, Any]) -> Iterator[str]:
    """For every array that has axes in an annotation or in the fields of a dataclass: "", or how its shape differs from them."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated and hasattr(value, "shape"):
        (text,) = annotation.__metadata__
        yield "" if expected(text, axes) == tuple(value.shape) else f"{tuple(value.shape)} is no ({text})"
    elif origin in (types.UnionType, typing.Union) and value is not None:
        for part in parts:
            yield from differences(part, value, axes)
    elif origin is tuple and ... not in parts and value is not None:
        for part, one in zip(parts, value, strict=True):
            yield from differences(part, one, axes)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from differences(field.type, getattr(value, field.name), axes)


def differences_of_call(function: Callable[..., object], arguments: tuple[object, ...], axes: Mapping[str, Any]) -> list[str]:
    """Those of what is given and of what comes back, of which one array at least has axes."""
    signature = inspect.signature(function)
    given = signature.bind(*arguments).arguments
    for_given = [[*differences(signature.parameters[name].annotation, value, axes)] for name, value in given.items()]
    returned = [*differences(signature.return_annotation, function(*arguments), axes)]
    assert returned, f"nothing that {function} returns has axes"
    return [*filter(None, [*itertools.chain(*for_given), *returned])]


def test_a_wrong_shape_is_a_difference() -> None:
    def transposed(a: Annotated[np.ndarray, "P C"], b: Annotated[np.ndarray, "K"] | None) -> tuple[Annotated[np.ndarray, "P C"]]:
        return (a.T,)

    arguments = np.ones((P, C)), np.ones(C)
    assert differences_of_call(transposed, arguments, AXES) == ["(3,) is no (K)", "(3, 5) is no (P C)"]


Call = tuple[Callable[..., object], tuple[object, ...], dict[str, Any]]  # what it is given, and axes beside `AXES`


def calls_of_manifolds() -> Iterator[Call]:
    """All with a batch of 4."""
    X, G, U, W = (manifolds.random_point(LAYOUT, P, seed, (4,)) for seed in range(4))
    M = LAYOUT.means(X)
    yield manifolds.random_point, (LAYOUT, P, 0, (4,)), {}
    yield manifolds.renormalize, (X, LAYOUT), {}
    yield manifolds.within_covariance, (X, LAYOUT), {}
    yield manifolds.constraint_residual, (X, LAYOUT), {}
    yield manifolds.orthogonal_projection, (X, G, LAYOUT), {}
    yield manifolds.nearest_point, (X + 0.1 * G, LAYOUT), {}
    yield manifolds.renormalized_step, (X, G, 0.1, LAYOUT), {}
    yield manifolds.differentiated_transport, (X, U, W, LAYOUT, "polar"), {}
    yield manifolds.polar_retraction, (X, U, LAYOUT), {}
    yield manifolds.ClassLayout.means, (LAYOUT, X), {}
    yield manifolds.ClassLayout.spread, (LAYOUT, M), {}
    yield manifolds.ClassLayout.parts, (LAYOUT, X), {}
    yield manifolds.ClassLayout.combine, (LAYOUT, X, M), {}
    for form, axes in (
        (manifolds.MatrixForm.of_factor(RNG.standard_normal((C * N, 11))), {"k": 11, "m": C * N - 11}),
        (manifolds.WeightedCentering((1.0, 2.0) * 10 + (3.0,)), {"k": C * N, "m": 1}),
    ):
        yield form.range_coordinates, (X,), axes
        yield form.kernel_coordinates, (X,), axes
        yield form.combine, (form.range_coordinates(X), form.kernel_coordinates(X)), axes
        yield form.range_gradient, (G,), axes
    yield manifolds.MatrixForm.of_factor, (RNG.standard_normal((C * N, 11)),), {"k": 11, "r": 11, "m": C * N - 11}
    yield manifolds.MatrixForm.of_matrix, (np.eye(C * N),), {"r": C * N, "m": 0}
    near = manifolds.polar_retraction(X, 0.01 * manifolds.orthogonal_projection(X, U, LAYOUT), LAYOUT)
    for metric in (manifolds.EmbeddedMetric(LAYOUT), manifolds.BundleMetric(LAYOUT)):
        yield metric.inner, (X, U, W), {}
        yield metric.gradient, (X, G), {}
        yield metric.rotation_rate, (X, U), {}
        yield metric.mean_gradient, (M, LAYOUT.sums(G)), {}
        yield metric.geodesic_transport, (X, 0.1 * U, W), {}
        yield metric.shoot, (X, near), {}
        yield metric.dist, (X, near), {}
        yield manifolds.gradient_step, (X, G, 0.1, metric), {}


def calls_of_ufm() -> Iterator[Call]:
    H, labels = RNG.standard_normal((P, C * N)), LAYOUT.labels
    yield ufm.class_blocks, (H.T.copy(), labels), {}
    yield ufm.statistics_of, (H.T.copy(), labels, C), {}
    yield ufm.snr, (H, LAYOUT), {}
    yield ufm.renormalized_features, (H, LAYOUT), {}
    yield ufm.reduce_to_range, (np.concatenate([H[:4], 0 * H[:1]]), LAYOUT), {"r": 4}
    yield ufm.ls_classifier, (ufm.statistics_of(H.T.copy(), labels, C), 0.1), {}
    t, omega = RNG.uniform(size=(8, 9)), RNG.uniform(1, 2, size=10)
    for law in ufm.LAWS.values():
        yield law.omega, (t, omega, C, N), {}
        yield law.log_omega, (t, omega, C, N), {}
        yield law.asymptote, (t, omega, C, N), {}
        yield law.rate, (omega, C, N), {}
        yield law.time, (omega + 1, omega, C, N), {}
    general, times = ufm.GeneralLaw((N,) * C, 0.1), np.linspace(0, 1, T)
    M = LAYOUT.means(H)
    S = general.scaled_means(M)
    Z = general.basis(S).reduce(S)
    yield general.scaled_means, (M,), {}
    yield general.class_means, (np.stack([S] * 4),), {"...": (4,)}
    yield general.velocity, (S,), {}
    yield general.reduced_terms, (Z,), {"m": P}
    yield general.spectrum, (Z,), {"m": P}
    yield general.classifier, (S,), {}
    yield general.limit_gram, (), {}
    yield general.closed_omega, (times, np.ones(C - 1)), {}
    yield ufm.run_general, (general, S, times), {}


@pytest.mark.parametrize(("calls", "batch"), [(calls_of_manifolds, (4,)), (calls_of_ufm, ())], ids=["manifolds", "ufm"])
def test_arrays_have_the_axes_that_the_signatures_say(calls: Callable[[], Iterator[Call]], batch: tuple[int, ...]) -> None:
    said = [(f, differences_of_call(f, given, AXES | {"...": batch} | axes)) for f, given, axes in calls()]
    assert [(function, others) for function, others in said if others] == []
    assert len(said) > 20

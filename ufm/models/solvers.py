"""The solvers that the models share: L-BFGS and trust regions on flat space, pymanopt and geoopt on manifolds, and projections.

All take an objective with `value_and_gradient` (and `curvature`), start from a given point and return the last one. A solver
that stops before its gradient is small raises RuntimeError with the gradient that is left: no status codes.
"""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ufm.models.feasible import Feasible
from ufm.models.peeled import Point, gaussian_point

GRADIENT = 1e-9  # solvers aim at this size of the gradient ...
ACCEPTED = 1e-6  # ... and raise above this one: the minimum is then known to about ACCEPTED^2 / curvature
RESTARTS = 5  # of L-BFGS where a line search gave up
Observe = Callable[[Point], None]


class Objective(Protocol):
    """A smooth function of a point with its Euclidean gradient and curvature."""

    def value_and_gradient(self, point: Point) -> tuple[Tensor, Point]:
        """f and its gradient."""
        ...

    def curvature(self, point: Point, direction: Point) -> Point:
        """The Hessian applied to a direction."""
        ...


Solver = Callable[[Objective, Feasible, Point, Observe | None], Point]


def size(tensors: Point) -> float:
    """Euclidean norm of a point or gradient."""
    return float(torch.stack([t.norm() for t in tensors]).norm())


class Flattening:
    """Between a point on any device and one float64 vector on the host."""

    def __init__(self, point: Point) -> None:
        self.shapes = [t.shape for t in point]
        self.lengths = [t.numel() for t in point]
        self.device = point[0].device

    def vector(self, point: Point) -> np.ndarray:
        """All entries in order. (sum of sizes,)"""
        return torch.cat([t.reshape(-1) for t in point]).cpu().numpy()

    def point(self, vector: np.ndarray) -> Point:
        """The tensors back, on the device of the first point."""
        parts = torch.from_numpy(vector).to(self.device).split(self.lengths)
        return tuple(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))


def lbfgs(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over flat space or non-negative entries by scipy's L-BFGS-B, to round-off of f or a gradient of GRADIENT.

    Where a line search gives up before that, the run goes on from there with a fresh memory, RESTARTS times at most.
    """
    from scipy.optimize import minimize

    flattening = Flattening(start)
    lower = np.concatenate([np.full(t.numel(), s.lower) for s, t in zip(feasible, start, strict=True)])
    bounds = None if np.isinf(lower).all() else list(zip(lower, np.full(lower.shape, np.inf), strict=True))
    options = {"gtol": GRADIENT, "ftol": 0.0, "maxcor": 20, "maxiter": 50_000, "maxfun": 100_000, "maxls": 50}
    function, callback, point = on_vectors(objective, flattening), on_vectors_observe(observe, flattening), start
    for _ in range(RESTARTS):
        x = flattening.vector(point)
        found = minimize(function, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=callback)
        point = flattening.point(found.x)
        if size(projected_step(objective, feasible, point)) <= ACCEPTED:
            break
    check_stationary(projected_step(objective, feasible, point), "L-BFGS-B")
    return point


def trust_region(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over flat space by scipy's trust-ncg, which follows negative curvature out of strict saddles."""
    from scipy.optimize import minimize

    flattening = Flattening(start)

    def curvature(x: np.ndarray, d: np.ndarray) -> np.ndarray:
        return flattening.vector(objective.curvature(flattening.point(x), flattening.point(d)))

    found = minimize(
        on_vectors(objective, flattening),
        flattening.vector(start),
        jac=True,
        hessp=curvature,
        method="trust-ncg",
        callback=on_vectors_observe(observe, flattening),
        options={"gtol": GRADIENT, "maxiter": 2000},
    )
    point = flattening.point(found.x)
    check_stationary(projected_step(objective, feasible, point), "trust-ncg")
    return point


def on_vectors(objective: Objective, flattening: Flattening) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Value and gradient as a function of one vector, as scipy calls it."""

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = objective.value_and_gradient(flattening.point(x))
        return float(value), flattening.vector(slope)

    return value_and_gradient


def on_vectors_observe(observe: Observe | None, flattening: Flattening) -> Callable[[np.ndarray], None] | None:
    """An observer of points as one of vectors."""
    return None if observe is None else lambda x: observe(flattening.point(x))


def sgd(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:  # noqa: ARG001
    """torch's SGD with momentum on the full gradient; the step is 1 / an upper estimate of the largest curvature at the start."""
    step = 1 / largest_curvature(objective, start)
    return _descent(objective, start, lambda p: torch.optim.SGD(p, lr=step, momentum=0.99, nesterov=True), 20_000, observe)


def adam(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:  # noqa: ARG001
    """torch's Adam, its step halved whenever f has not fallen for 50 steps, so that it settles."""
    return _descent(objective, start, lambda p: torch.optim.Adam(p, lr=0.05), 20_000, observe, halve=True)


def _descent(
    objective: Objective, start: Point, optimizer: Callable[[Any], Any], steps: int, observe: Observe | None, halve: bool = False
) -> Point:
    parameters = [torch.nn.Parameter(t.clone()) for t in start]
    stepper = optimizer(parameters)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(stepper, factor=0.5, patience=50, threshold=0.0)
    for _ in range(steps):
        value, slope = objective.value_and_gradient(tuple(p.data for p in parameters))
        if size(slope) <= 10 * GRADIENT:
            break
        for parameter, g in zip(parameters, slope, strict=True):
            parameter.grad = g
        stepper.step()
        if halve:
            schedule.step(float(value))
        if observe is not None:
            observe(tuple(p.data for p in parameters))
    point = tuple(p.data for p in parameters)
    check_stationary(objective.value_and_gradient(point)[1], type(stepper).__name__)
    return point


def pymanopt_trust_region(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over a product of spheres and flat spaces by pymanopt's Riemannian trust regions."""
    import pymanopt
    from pymanopt.manifolds import Product
    from pymanopt.optimizers import TrustRegions

    shapes, device, half = [t.shape for t in start], start[0].device, len(start)
    manifold = Product([s.pymanopt(shape) for s, shape in zip(feasible, shapes, strict=True)])

    def host(point: Point) -> list[np.ndarray]:
        return [s.lay(t).mT.cpu().numpy() for s, t in zip(feasible, point, strict=True)]

    def back(arrays: tuple[np.ndarray, ...]) -> Point:
        laid = (torch.from_numpy(a).to(device).mT for a in arrays)
        return tuple(s.unlay(t, shape) for s, t, shape in zip(feasible, laid, shapes, strict=True))

    seen: list[Any] = [None, None, None]  # pymanopt asks for the cost, the gradient and (per inner step) the gradient again

    def at(x: tuple[np.ndarray, ...]) -> tuple[float, list[np.ndarray]]:
        if seen[0] is None or any(a is not b for a, b in zip(x, seen[0], strict=True)):
            value, slope = objective.value_and_gradient(back(x))
            seen[:] = [x, float(value), host(slope)]
        return seen[1], seen[2]

    accepted: list[Any] = [None]

    def gradient(*x: np.ndarray) -> list[np.ndarray]:
        if observe is not None and x[0] is not accepted[0]:
            accepted[0] = x[0]
            observe(back(x))
        return at(x)[1]

    decorate = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        decorate(lambda *x: at(x)[0]),
        euclidean_gradient=decorate(gradient),
        euclidean_hessian=decorate(lambda *xd: host(objective.curvature(back(xd[:half]), back(xd[half:])))),
    )
    result = TrustRegions(verbosity=0, min_gradient_norm=GRADIENT, max_iterations=500).run(problem, initial_point=host(start))
    point = back(tuple(result.point))
    check_stationary(tangent_gradient(objective, feasible, point), "pymanopt's trust regions")
    return point


def geoopt_conjugate_gradient(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over a product of spheres and flat spaces by geoopt's Riemannian conjugate gradients with a Wolfe line search."""
    import geoopt

    shapes = [t.shape for t in start]
    parameters = [geoopt.ManifoldParameter(s.lay(t).clone(), manifold=s.geoopt()) for s, t in zip(feasible, start, strict=True)]
    how = {"line_search_method": "wolfe", "cg_method": "pr", "line_search_params": {"c1": 1e-4, "c2": 0.3}}
    optimizer = geoopt.optim.RiemannianLineSearch(parameters, **how)

    def current() -> Point:
        return tuple(s.unlay(p.data, shape) for s, p, shape in zip(feasible, parameters, shapes, strict=True))

    def closure() -> float:
        value, slope = objective.value_and_gradient(current())
        for s, parameter, g in zip(feasible, parameters, slope, strict=True):
            parameter.grad = s.lay(g).clone()
        return float(value)

    for _ in range(5000):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # geoopt's and scipy's line-search warnings are both RuntimeWarning
            try:
                optimizer.step(closure)
            except RuntimeWarning:  # no lower value within round-off: the check below says whether that is the minimum
                break
        if observe is not None:
            observe(current())
        if size(tangent_gradient(objective, feasible, current())) <= GRADIENT:
            break
    check_stationary(tangent_gradient(objective, feasible, current()), "geoopt's conjugate gradients")
    return current()


def largest_curvature(objective: Objective, point: Point) -> float:
    """The largest absolute eigenvalue of the Hessian at a point, from 30 power iterations (an estimate from below)."""
    direction, value = gaussian_point(tuple(tuple(t.shape) for t in point), seed=0, device=str(point[0].device)), 1.0
    for _ in range(30):
        length = size(direction)
        direction = objective.curvature(point, tuple(t / length for t in direction))
        value = size(direction)
    return value


def spectral_projected_gradient(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over convex sets with a projection (`onto`): Barzilai-Borwein steps, non-monotone Armijo search over 10 values.

    Birgin, Martinez & Raydan 2000, SPG2. Stops where a unit projected-gradient step moves by GRADIENT at most, or where
    round-off of f hides any descent.
    """

    point, step = start, 1.0
    value, gradient = objective.value_and_gradient(point)
    recent = [float(value)]
    for _ in range(20_000):
        if size(toward(feasible, point, gradient, 1.0)) <= GRADIENT:
            break
        direction = toward(feasible, point, gradient, step)
        slope, share = inner(gradient, direction), 1.0
        while True:
            trial = tuple(x + share * d for x, d in zip(point, direction, strict=True))
            value, trial_gradient = objective.value_and_gradient(trial)
            if float(value) <= max(recent[-10:]) + 1e-4 * share * slope or share < 1e-10:
                break
            share /= 2
        if share < 1e-10:
            break
        change = tuple(b - a for a, b in zip(gradient, trial_gradient, strict=True))
        curvature = share * inner(direction, change)
        step = min(max(share**2 * inner(direction, direction) / curvature, 1e-6), 1e6) if curvature > 0 else 1e6
        point, gradient = trial, trial_gradient
        recent.append(float(value))
        if observe is not None:
            observe(point)
    check_stationary(projected_step(objective, feasible, point), "projected gradient")
    return point


def toward(feasible: Feasible, point: Point, gradient: Point, step: float) -> Point:
    """onto(x - step g) - x: the feasible move that a gradient step makes."""
    return tuple(s.onto(x - step * g) - x for s, x, g in zip(feasible, point, gradient, strict=True))


def projected_step(objective: Objective, feasible: Feasible, point: Point) -> Point:
    """The move of a unit gradient step: zero exactly at stationary points; minus the gradient on flat space."""
    return toward(feasible, point, objective.value_and_gradient(point)[1], 1.0)


def gradient_flow(objective: Objective, start: Point, times: np.ndarray, rtol: float = 1e-11) -> tuple[Point, ...]:
    """The gradient flow x' = -grad f(x) at the given times, by scipy's DOP853 with the relative tolerance rtol.

    Raises RuntimeError where the integration fails.
    """
    from scipy.integrate import solve_ivp

    flattening = Flattening(start)

    def velocity(_: float, x: np.ndarray) -> np.ndarray:
        return -flattening.vector(objective.value_and_gradient(flattening.point(x))[1])

    x0 = flattening.vector(start)
    atol = rtol * 1e-3 * float(np.abs(x0).max())  # a small start must not drown in the absolute tolerance
    solution = solve_ivp(velocity, (times[0], times[-1]), x0, method="DOP853", t_eval=times, rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"DOP853 stopped at t = {solution.t[-1] if len(solution.t) else times[0]:.4g}: {solution.message}")
    return tuple(flattening.point(np.ascontiguousarray(x)) for x in solution.y.T)


def inner(a: Point, b: Point) -> float:
    """Euclidean inner product of two points or gradients."""
    return float(torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum())


def tangent_gradient(objective: Objective, feasible: Feasible, point: Point) -> Point:
    """The Riemannian gradient: the Euclidean one without its part along every unit vector."""
    gradient = objective.value_and_gradient(point)[1]
    return tuple(s.tangent(t, g) for s, t, g in zip(feasible, point, gradient, strict=True))


def check_stationary(gradient: Point, solver: str) -> None:
    """Raise RuntimeError where a solver stopped with a gradient above ACCEPTED."""
    left = size(gradient)
    if not left <= ACCEPTED:
        raise RuntimeError(f"{solver} stopped at a gradient of {left:.2e}, above {ACCEPTED:.0e}: not a stationary point")


MANIFOLD_SOLVERS: dict[str, Solver] = {"pymanopt": pymanopt_trust_region, "geoopt": geoopt_conjugate_gradient}
FLAT_SOLVERS: dict[str, Solver] = {"lbfgs": lbfgs, "trust-region": trust_region, "sgd": sgd, "adam": adam}

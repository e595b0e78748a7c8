"""Solvers on products of spheres and flat spaces: pymanopt's Riemannian trust regions, geoopt's conjugate gradients."""

import warnings
from typing import Any

import numpy as np
import torch

from ufm.models.feasible import Feasible
from ufm.models.peeled import Point
from ufm.models.solvers import GRADIENT, Objective, Observe, Solver, check_stationary, size, tangent_gradient


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

    bent: list[Any] = [None, None]

    def hessian(*xd: np.ndarray) -> list[np.ndarray]:
        if bent[0] is not xd[0]:
            bent[:] = [xd[0], objective.curvature_at(back(xd[:half]))]
        return host(bent[1](back(xd[half:])))

    decorate = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        decorate(lambda *x: at(x)[0]),
        euclidean_gradient=decorate(gradient),
        euclidean_hessian=decorate(hessian),
    )
    result = TrustRegions(verbosity=0, min_gradient_norm=GRADIENT, max_iterations=500).run(problem, initial_point=host(start))
    point = back(tuple(result.point))
    check_stationary(tangent_gradient(objective, feasible, point), "pymanopt's trust regions")
    return point


def geoopt_conjugate_gradient(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over a product of spheres and flat spaces by geoopt's Riemannian conjugate gradients with a Wolfe line search."""
    import geoopt

    shapes = [t.shape for t in start]
    make: Any = geoopt.ManifoldParameter  # its signature is torch's Parameter to a type checker
    parameters = [make(s.lay(t).clone(), manifold=s.geoopt()) for s, t in zip(feasible, start, strict=True)]
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


MANIFOLD_SOLVERS: dict[str, Solver] = {"pymanopt": pymanopt_trust_region, "geoopt": geoopt_conjugate_gradient}

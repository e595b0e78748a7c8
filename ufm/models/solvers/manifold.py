"""Solvers on products of spheres and flat spaces: pymanopt's Riemannian trust regions, geoopt's conjugate gradients."""

import warnings
from typing import Any

import numpy as np

from ufm.models.objective.feasible import Feasible
from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import Objective, Observe, Solver, relative, size, tangent_gradient
from ufm.models.solvers.newton import COARSE, polished
from ufm.models.solvers.vectors import Vectors


def pymanopt_trust_region(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over spheres and flat spaces by pymanopt's Riemannian trust regions until COARSE, then to round-off."""
    import pymanopt
    from pymanopt.optimizers import TrustRegions

    from ufm.models.solvers.pymanopt_vectors import FeasibleVectors

    vectors = Vectors(objective, feasible, start)
    manifold = FeasibleVectors(vectors)
    bent: list[Any] = [None, None]  # pymanopt asks at one x for many directions

    def value(x: np.ndarray) -> float:
        return vectors.value_and_gradient(x)[0]

    def gradient(x: np.ndarray) -> np.ndarray:
        return vectors.value_and_gradient(x)[1]

    def hessian(x: np.ndarray, d: np.ndarray) -> np.ndarray:
        if bent[0] is not x:
            bent[:] = [x, vectors.hessian(x)]
            if observe is not None:  # once every iteration
                observe(vectors.point(x))
        return bent[1](d)

    decorate = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        decorate(value),
        riemannian_gradient=decorate(gradient),
        riemannian_hessian=decorate(hessian),
    )
    optimizer = TrustRegions(verbosity=0, min_gradient_norm=COARSE, max_iterations=500)
    result = optimizer.run(problem, initial_point=vectors.vector(start))
    return polished(vectors, result.point, "pymanopt's trust regions", observe)


def geoopt_conjugate_gradient(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over spheres and flat spaces by geoopt's Riemannian conjugate gradients until COARSE, then to round-off."""
    import geoopt

    shapes = [t.shape for t in start]
    make: Any = geoopt.ManifoldParameter  # its signature is torch's Parameter to a type checker
    parameters = [make(s.to_rows(t).clone(), manifold=s.geoopt()) for s, t in zip(feasible, start, strict=True)]
    how = {"line_search_method": "wolfe", "cg_method": "pr", "line_search_params": {"c1": 1e-4, "c2": 0.3}}
    optimizer = geoopt.optim.RiemannianLineSearch(parameters, **how)

    def current() -> Point:
        return tuple(s.from_rows(p.data, shape) for s, p, shape in zip(feasible, parameters, shapes, strict=True))

    def closure() -> float:
        value, slope = relative(objective, current())
        for s, parameter, g in zip(feasible, parameters, slope, strict=True):
            parameter.grad = s.to_rows(g).clone()
        return float(value.log())

    for _ in range(5000):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # geoopt's and scipy's line-search warnings are both RuntimeWarning
            try:
                optimizer.step(closure)
            except RuntimeWarning:  # no lower value within round-off: the check below says whether that is the minimum
                break
        if observe is not None:
            observe(current())
        if size(tangent_gradient(objective, feasible, current())) <= COARSE:
            break
    vectors = Vectors(objective, feasible, start)
    return polished(vectors, vectors.vector(current()), "geoopt's conjugate gradients", observe)


MANIFOLD_SOLVERS: dict[str, Solver] = {"pymanopt": pymanopt_trust_region, "geoopt": geoopt_conjugate_gradient}

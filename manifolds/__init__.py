"""Geometry of the normalized features manifold {X : X C_M X^T = I}; knows nothing of losses or networks.

    manifolds.ClassLayout((5, 7, 6))                      the class sizes
    manifolds.renormalize, nearest_point, ...             functions of (X, layout), numpy or torch, any leading batch axes
    manifolds.EmbeddedMetric, BundleMetric                the two metrics
    manifolds.geoopt.NormalizedFeatures, ...              for geoopt's optimizers
    manifolds.pymanopt.NormalizedFeatures, ...            for pymanopt's optimizers
    manifolds.RiemannianLBFGS, ...                        optimizers that pymanopt and geoopt lack, for every manifold of theirs

Names are imported when they are asked for: `import manifolds` itself costs nothing. `from manifolds import *` leaves out the
modules geoopt and pymanopt, which would hide the libraries of these names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manifolds.lazy import module_of, names_of

if TYPE_CHECKING:
    from manifolds import geoopt as geoopt
    from manifolds import pymanopt as pymanopt
    from manifolds.checks.derivatives import check_gradient, check_hessian
    from manifolds.checks.forms import check_form
    from manifolds.checks.manifold import check_manifold
    from manifolds.checks.views import GeooptView, PymanoptView
    from manifolds.class_centering import ClassLayout
    from manifolds.column_split import Centering
    from manifolds.forms import SemidefiniteForm, WeightedCentering
    from manifolds.generalized import GeneralizedStiefelMetric
    from manifolds.matrix_form import MatrixForm
    from manifolds.metric import Metric
    from manifolds.metrics import BundleMetric, EmbeddedMetric
    from manifolds.normalized_features import (
        constraint_residual,
        dimension,
        oblique_projection,
        oblique_projection_adjoint,
        orthogonal_projection,
        renormalize,
        tangency_residual,
        within_covariance,
    )
    from manifolds.optimizers.arc import AdaptiveCubicRegularization
    from manifolds.optimizers.lbfgs import RiemannianLBFGS
    from manifolds.optimizers.svrg import RiemannianSVRG
    from manifolds.quotient import QuotientMetric
    from manifolds.renormalized_gradient_step import renormalized_step
    from manifolds.retractions import (
        RETRACTIONS,
        Retraction,
        cholesky_retraction,
        horizontal_renormalisation,
        nearest_point,
        polar_retraction,
        renormalisation,
    )
    from manifolds.sampling import random_point
    from manifolds.shooting import Shooting
    from manifolds.steps import gradient_step, projected_step
    from manifolds.torch_optimizer import RiemannianDescent
    from manifolds.transports import differentiated_transport

_HOMES = {
    "checks.derivatives": ("check_gradient", "check_hessian"),
    "checks.forms": ("check_form",),
    "checks.manifold": ("check_manifold",),
    "checks.views": ("GeooptView", "PymanoptView"),
    "column_split": ("Centering",),
    "torch_optimizer": ("RiemannianDescent",),
    "forms": ("SemidefiniteForm", "WeightedCentering"),
    "generalized": ("GeneralizedStiefelMetric",),
    "normalized_features": (
        "constraint_residual", "dimension", "oblique_projection", "oblique_projection_adjoint", "orthogonal_projection",
        "renormalize", "tangency_residual", "within_covariance",
    ),
    "class_centering": ("ClassLayout",),
    "matrix_form": ("MatrixForm",),
    "metric": ("Metric",),
    "metrics": ("BundleMetric", "EmbeddedMetric"),
    "optimizers.arc": ("AdaptiveCubicRegularization",),
    "optimizers.lbfgs": ("RiemannianLBFGS",),
    "optimizers.svrg": ("RiemannianSVRG",),
    "quotient": ("QuotientMetric",),
    "renormalized_gradient_step": ("renormalized_step",),
    "retractions": (
        "RETRACTIONS", "Retraction", "cholesky_retraction", "horizontal_renormalisation", "nearest_point", "polar_retraction",
        "renormalisation",
    ),
    "sampling": ("random_point",),
    "shooting": ("Shooting",),
    "steps": ("gradient_step", "projected_step"),
    "transports": ("differentiated_transport",),
}  # fmt: skip
_WHERE = {name: f"manifolds.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "RETRACTIONS",
    "AdaptiveCubicRegularization",
    "BundleMetric",
    "Centering",
    "ClassLayout",
    "EmbeddedMetric",
    "GeneralizedStiefelMetric",
    "GeooptView",
    "MatrixForm",
    "Metric",
    "PymanoptView",
    "QuotientMetric",
    "Retraction",
    "RiemannianDescent",
    "RiemannianLBFGS",
    "RiemannianSVRG",
    "SemidefiniteForm",
    "Shooting",
    "WeightedCentering",
    "check_form",
    "check_gradient",
    "check_hessian",
    "check_manifold",
    "cholesky_retraction",
    "constraint_residual",
    "differentiated_transport",
    "dimension",
    "gradient_step",
    "horizontal_renormalisation",
    "nearest_point",
    "oblique_projection",
    "oblique_projection_adjoint",
    "orthogonal_projection",
    "polar_retraction",
    "projected_step",
    "random_point",
    "renormalisation",
    "renormalize",
    "renormalized_step",
    "tangency_residual",
    "within_covariance",
]


def __getattr__(name: str) -> Any:
    """The public name or the module, imported when it is first used. Raises AttributeError for any other name."""
    if name not in _WHERE:
        return module_of(__name__, name)
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *names_of(__name__)})

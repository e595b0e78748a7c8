"""The embedded (Frobenius) metric: geodesics, logarithm, curvature."""

from manifolds.lazy import give_modules

give_modules(__name__)

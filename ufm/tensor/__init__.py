"""The whole tensor X: vector fields, integration, the discrete scheme."""

from manifolds.lazy import give_modules

give_modules(__name__)

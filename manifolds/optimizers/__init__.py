"""Optimizers that pymanopt and geoopt lack, for every manifold of theirs: limited-memory BFGS, cubic regularization, SVRG."""

from manifolds.lazy import give_modules

give_modules(__name__)

"""Optimizers that pymanopt and geoopt lack, for every manifold of theirs: limited-memory BFGS, cubic regularization, SVRG."""

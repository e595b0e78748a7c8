"""Geometry of the normalized features manifold {X : X C_M X^T = I}; knows nothing of losses or networks."""

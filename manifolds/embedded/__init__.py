"""The embedded (Frobenius) metric: geodesics, logarithm, curvature."""

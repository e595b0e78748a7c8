"""The whole tensor X: vector fields, integration, the discrete scheme."""

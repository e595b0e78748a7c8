"""The gallery of models: sweeps, figures, page."""

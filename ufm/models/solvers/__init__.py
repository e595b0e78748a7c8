"""Solvers behind the models."""

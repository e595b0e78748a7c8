"""Experiments: real networks trained, measured and compared with the simulation."""

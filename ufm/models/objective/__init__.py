"""Objectives and feasible sets behind the models."""

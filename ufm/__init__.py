"""Unconstrained-features models of neural collapse: statistics, losses, exact laws and flows.

Import what you need from its module (`from ufm.laws.closed import RENORMALIZED`); this file imports nothing, so that
`python -m ufm.flow` starts as fast as numpy does.
"""

__version__ = "0.1.0"

"""The command `python -m ufm.flow`: configuration, start, run, report."""

from manifolds.lazy import give_modules

give_modules(__name__)

"""The exact laws: closed, discrete, of the means alone."""

from manifolds.lazy import give_modules

give_modules(__name__)

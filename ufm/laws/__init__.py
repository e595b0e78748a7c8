"""The exact laws: of the singular values, for equal and any classes; the discrete scheme; of the means; of the joint flow."""

from manifolds.lazy import give_modules

give_modules(__name__)

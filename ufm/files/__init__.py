"""All reading, writing and drawing of files."""

from manifolds.lazy import give_modules

give_modules(__name__)

"""From labelled features to numbers: statistics, SNR, least squares, measures."""

from manifolds.lazy import give_modules

give_modules(__name__)

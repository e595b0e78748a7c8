"""
The discrete scheme, its law and the printed one
================================================

Renormalize-after-step with a step of 50 follows law (a). The closed form printed as Proposition 2 belongs to another flow.
"""

import numpy as np

from ufm.files.plot import erratum_figure

figure = erratum_figure(np.array([4.0, 2.1, 1.4]), C=4, N=12, eta=50.0, steps=200)

"""
Unequal classes
===============

With classes of 50, 20 and 5 examples the singular vectors rotate and the singular values do not cross, yet the class means tend
to a regular simplex: all edges become equal. Its centre is the mean of the class means and not the mean over examples: only
about the former do the norms become equal.
"""

import matplotlib.pyplot as plt
import numpy as np

from ufm.laws.general import GeneralLaw
from ufm.laws.general_run import run_general

law = GeneralLaw((50, 20, 5))
S = law.scaled_means(np.random.default_rng(4).standard_normal((6, 3)))
run = run_general(law, S, np.geomspace(1, 1e8, 120))
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
left.loglog(run.t, run.omega[:, 0], color="#0072b2", label="omega, larger")
left.loglog(run.t, run.omega[:, 1], "--", color="#b45500", label="omega, smaller")
left.set(xlabel="time t", ylabel="singular values omega")
left.legend()
right.loglog(run.t, run.equinorm("classes"), color="#0072b2", label="about the mean of class means")
right.loglog(run.t, run.equinorm("examples"), "--", color="#b45500", label="about the mean over examples")
right.set(xlabel="time t", ylabel="spread of the norms of class means")
right.legend()
fig.tight_layout()

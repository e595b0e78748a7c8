"""
From the renormalized to the embedded law
=========================================

With kernel ratio r the class means move r times as fast as the deviations from them. r = 1 is the renormalized law; for large
r, in the time t r, the law tends to the embedded one.
"""

import matplotlib.pyplot as plt
import numpy as np

from ufm import EMBEDDED, RENORMALIZED
from ufm.laws.kernel_ratio import RenormalizedKernelRatio

C, N = 4, 60
omega0, t = np.array([1.2]), np.geomspace(10, 1e7, 300)
fig, ax = plt.subplots(figsize=(6.4, 4))
ax.loglog(t, RENORMALIZED.omega(t, omega0, C, N), color="#1a1a1a", label="r = 1, renormalized")
for r, colour, style in [(10.0, "#0072b2", "--"), (100.0, "#007a5e", "-."), (1000.0, "#aa3377", ":")]:
    ax.loglog(t, RenormalizedKernelRatio(r).omega(t / r, omega0, C, N), style, color=colour, label=f"r = {r:.0f}")
ax.loglog(t, EMBEDDED.omega(t, omega0, C, N), "--", color="#b45500", label="embedded")
ax.set(xlabel="time t r", ylabel="singular value omega", title=f"C = {C}, N = {N}")
ax.legend()
fig.tight_layout()

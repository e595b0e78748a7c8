"""
The parts of the loss
=====================

On the central path the loss splits into a part of within-class variability and a part of the class means. The second falls
faster, so that late in training nearly all of the loss is NC1.
"""

import matplotlib.pyplot as plt
import numpy as np

from ufm import RENORMALIZED
from ufm.features.spectral_loss import spectral_loss, spectral_loss_nc1, spectral_loss_nc23

C, N = 10, 500
t = np.geomspace(1e2, 1e8, 300)
omega = RENORMALIZED.omega(t, np.geomspace(2, 0.4, C - 1), C, N)
fig, ax = plt.subplots(figsize=(6.4, 4))
for part, label, colour, style in [
    (spectral_loss, "L_LS", "#1a1a1a", "-"),
    (spectral_loss_nc1, "L_NC1", "#0072b2", "--"),
    (spectral_loss_nc23, "L_NC2/3", "#b45500", ":"),
]:
    ax.loglog(t, part(omega, C), style, color=colour, label=label)
ax.set(xlabel="time t", ylabel="loss", title=f"C = {C}, N = {N}")
ax.legend()
fig.tight_layout()

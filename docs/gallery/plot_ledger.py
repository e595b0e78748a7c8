"""
Which operations of a network cause collapse
============================================

The signal-to-noise ratio after every operation of a trained network, as a waterfall chart: linear operations cannot increase
it, so every step upwards is due to a nonlinearity.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from ufm.ledger import ledger

torch.manual_seed(0)
images, labels = load_digits(n_class=5, return_X_y=True)
inputs, targets = torch.as_tensor(images / 8 - 1, dtype=torch.float32), torch.as_tensor(labels)
layers = [torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 48), torch.nn.ReLU(), torch.nn.Linear(48, 5)]
model = torch.nn.Sequential(*layers)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
for _ in range(150):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
result = ledger(model, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), 300))
levels = result.level("omega")
steps, colours = np.diff(levels), {True: "#0072b2", False: "#b45500"}
fig, ax = plt.subplots(figsize=(7.2, 4))
ax.bar(0, levels[0], color="#666666", label="input")
for affine, label in ((True, "linear operation"), (False, "nonlinearity")):
    chosen = [k for k in range(len(steps)) if result.affine[k] == affine]
    ax.bar([k + 1 for k in chosen], steps[chosen], bottom=levels[chosen], color=colours[affine], label=label)
ax.set_xticks(range(len(levels)), ["input", *result.kinds], rotation=30, ha="right")
ax.set(ylabel="mean of log omega, in sample", ylim=(0, 1.1 * levels.max()))
ax.legend(loc="lower right")
fig.tight_layout()

"""
A training run, monitored
=========================

A perceptron trained on digits and measured during training with ``ufm.monitor``: variability within classes falls, the norms of
class means become equal, and the classifier aligns with them.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from ufm.monitor import watch

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
inputs, targets = torch.as_tensor(images / 8 - 1, dtype=torch.float32), torch.as_tensor(labels)
layers = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers, torch.nn.Linear(32, 10))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), 128, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
watched, epochs, rows = watch(model, "5"), [], []
for epoch in range(1, 31):
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), torch.nn.functional.one_hot(y, 10).float()).backward()
        optimizer.step()
    if epoch % 10 == 0 or epoch in (1, 3, 5):
        epochs.append(epoch)
        rows.append(watched.measure(loader))
fig, ax = plt.subplots(figsize=(6.4, 4))
for name, label, colour, style in [
    ("nc1", "NC1, variability", "#0072b2", "-o"),
    ("nc2_equinorm", "NC2, norms of class means", "#b45500", "--s"),
    ("nc3", "NC3, classifier and means", "#007a5e", ":^"),
]:
    ax.loglog(epochs, [row[name] for row in rows], style, color=colour, label=label)
ax.set(xlabel="epoch", ylabel="measure, 0 when collapsed")
ax.legend()
fig.tight_layout()

"""One agent whose mixing error doubles the noise, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

H, b, noise, K, k, G = (np.array(instance[x]) for x in ("H", "b", "noise", "K", "k", "G"))
lr, x0, steps = instance["lr"], instance["x0"][0], instance["steps"]
h, b, v, K, k, G = H.item(), b.item(), noise.item(), K.item(), k.item(), G.item()  # one agent
best, gradient, error = b / h, 0.0, 0.0
mean, variance = x0, 0.0
for _ in range(steps):
    gradient += ((h * mean - b) ** 2 + h**2 * variance) / steps
    error += ((K * mean + k) ** 2 + K**2 * variance + G**2 * v) / steps
    mean, variance = (
        mean - lr * (h * mean - b) + K * mean + k,
        (1 - lr * h + K) ** 2 * variance + (G - lr) ** 2 * v,
    )
gap = h * (x0 - best) ** 2 / 2
print("measured =", gradient)
print("bound =", 2 * gap / (lr * steps) + lr * h * v + error / lr**2)

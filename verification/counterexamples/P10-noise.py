"""The variance of sampled gradients at two points, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

A, D, X = (np.array(instance[name]) for name in ("A", "D", "X"))
s, values = instance["s"], []
for name in ("far", "near"):
    B = np.array(instance[name])
    gradients = [s * np.outer((s * B @ A - D) @ x, A @ x) for x in X.T]
    mean = sum(gradients) / len(gradients)
    values.append(sum(((g - mean) ** 2).sum() for g in gradients) / len(gradients))
print("measured =", values[0])
print("bound =", values[1])

"""A gradient step that leaves Omega_c, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, target, lr = (np.array(instance[name]) for name in ("B", "A", "target", "lr"))
g = B @ A - target  # gradient of |W - target|^2 / 2
new_B, new_A = B - lr * g @ A.T, A - lr * B.T @ g
print("measured =", max(np.linalg.norm(new_B, 2), np.linalg.norm(new_A, 2)))
print("bound =", instance["c"])

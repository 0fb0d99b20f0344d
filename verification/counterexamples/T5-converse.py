"""A gradient that the factor gradients do not see, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, target = (np.array(instance[name]) for name in ("B", "A", "target"))
g = B @ A - target  # gradient of |W - target|^2 / 2
assert not np.any(B.T @ g), "the gradient in A must vanish"
assert not np.any(g @ A.T), "the gradient in B must vanish"
print("measured =", np.linalg.norm(g))
print("bound =", 0.0)

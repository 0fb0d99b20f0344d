"""Two scalars: what averaging factors leaves after the best signs, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

b, a, weights = (np.array(instance[name]).ravel() for name in ("B", "A", "weights"))
mean = weights @ (b * a)
signs = np.array([[1, 1], [1, -1]])  # of all four, two and two are the same
left = [abs(mean - (weights @ (s * b)) * (weights @ (s * a))) for s in signs]
dropped = np.linalg.svd([[mean]], compute_uv=False)[1:]  # by a truncation to rank one
print("measured =", min(left))
print("bound =", instance["factor"] * np.linalg.norm(dropped))

"""The spectral gap of a mixing matrix, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

Pi = np.array(instance["Pi"])
N = len(Pi)
print("measured =", 1 - np.linalg.norm(Pi - 1 / N, 2))
print("bound =", 2 * N * np.finfo(float).eps)  # a positive gap exceeds rounding

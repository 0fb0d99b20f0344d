"""DLoRA's mix before and after a change of gauges, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, pi, R = (np.array(instance[name]) for name in ("B", "A", "weights", "gauges"))
before = np.tensordot(pi, B, 1) @ np.tensordot(pi, A, 1)
after = np.tensordot(pi, B @ np.linalg.inv(R), 1) @ np.tensordot(pi, R @ A, 1)
print("measured =", np.linalg.norm(before - after))
print("bound =", 0.0)

"""One product split with opposite signs, at two ranks, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

b, a, signs = (np.array(instance[name]) for name in ("b", "a", "signs"))


def difference(r):
    """Return |DeCAF - DLoRA|_F of the agents at rank r."""
    agents = []
    for sign in signs:
        B, A = np.zeros((len(b), r)), np.zeros((r, len(a)))
        B[:, 0], A[0] = sign * b, sign * a
        agents.append((B, A))
    M = np.mean([B @ A for B, A in agents], axis=0)
    U, S, Vt = np.linalg.svd(M)
    decaf = (U[:, :r] * S[:r]) @ Vt[:r]
    dlora = np.mean([B for B, _ in agents], axis=0) @ np.mean([A for _, A in agents], axis=0)
    return np.linalg.norm(decaf - dlora)


print("measured =", difference(instance["many"]))
print("bound =", difference(instance["few"]) / 2)

"""Dense float64 oracle of the adapter report, independent of the library: NumPy and safetensors.

`python tests/dense_adapter_report.py DIR ...` mixes the adapters with equal weights.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def losses(folders, Pi=None):
    """Return the pooled relative interference and truncation error for the rows of Pi."""
    B, A = [], []
    for folder in map(Path, folders):
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors = {name: X.astype(np.float64) for name, X in tensors.items()}
        sites = sorted(name[:-14] for name in tensors if name.endswith(".lora_A.weight"))
        scale = config["lora_alpha"] / config["r"]
        B.append([scale * tensors[f"{site}.lora_B.weight"] for site in sites])
        A.append([tensors[f"{site}.lora_A.weight"] for site in sites])
    mix = interference = truncation = 0.0
    for pi in [np.full(len(B), 1 / len(B))] if Pi is None else Pi:
        for site in range(len(B[0])):
            agents = [(p, b[site], a[site]) for p, b, a in zip(pi, B, A, strict=True)]
            M = sum(p * (b @ a) for p, b, a in agents)
            mean = sum(p * b for p, b, _ in agents) @ sum(p * a for p, _, a in agents)
            r = agents[0][2].shape[0]
            mix += np.sum(M**2)
            interference += np.sum((M - mean) ** 2)
            truncation += np.sum(np.linalg.svd(M, compute_uv=False)[r:] ** 2)
    return np.sqrt(interference / mix), np.sqrt(truncation / mix)


if __name__ == "__main__":
    lost, cut = losses(sys.argv[1:])
    print(f"relative interference {lost:.6f}, relative truncation error {cut:.6f}")

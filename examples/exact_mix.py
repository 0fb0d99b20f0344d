"""The exact weighted mean of LoRA adapters, of unequal ranks, too: NumPy alone.

Check it: decaf check examples/exact_mix.py:exact_mix --rule exact --samples
"""

import numpy as np


def exact_mix(states, samples, scales=None):
    """Return one state dict whose B A is sum_j w_j s_j B_j A_j, w_j = samples_j / sum.

    A are stacked and w_j s_j B_j are stacked, so that its rank is the sum of the agents'; load it
    with scale one (lora_alpha = r). Whatever is not lora_A or lora_B is averaged.
    """
    weights = [n / sum(samples) for n in samples]
    scales = [1.0] * len(states) if scales is None else scales
    mixed = {}
    for key in states[0]:
        parts = [state[key] for state in states]
        if "lora_A" in key:
            mixed[key] = np.concatenate(parts, axis=0)
        elif "lora_B" in key:
            scaled = [w * s * B for w, s, B in zip(weights, scales, parts, strict=True)]
            mixed[key] = np.concatenate(scaled, axis=1)
        else:
            mixed[key] = sum(w * X for w, X in zip(weights, parts, strict=True))
    return mixed

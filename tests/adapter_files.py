"""Small adapter folders in peft's file format, written without the library's own writer."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

STORED = sorted((Path(__file__).parent / "adapters").glob("agent*"))
CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 2, "lora_alpha": 8}
PREFIX = "base_model.model."
EPS = float(np.finfo(np.float64).eps)
SHAPES = {"a.q": (7, 5), "a.v": (4, 9), "head.dense": (3, 3)}

# a rank_pattern or alpha_pattern, a site, and the entry that counts there by peft's rule (0: none)
PATTERNS = [
    ({"k_proj": 1}, "model.layers.0.k_proj", 1),
    ({"proj": 1}, "model.layers.0.k_proj", 0),  # a whole component, not its end
    ({"layers.0.k_proj": 1}, "model.layers.0.k_proj", 1),
    ({"layers.0": 1}, "model.layers.0.k_proj", 0),  # the end of the name
    ({"^model.layers.0.k_proj": 1}, "model.layers.0.k_proj", 1),
    ({"^layers.0.k_proj": 1}, "model.layers.0.k_proj", 0),
    ({r"layers\.\d+\.k_proj": 1, "k_proj": 2}, "model.layers.12.k_proj", 1),  # the first wins
    ({"k_proj": 2, r"layers\.\d+\.k_proj": 1}, "model.layers.12.k_proj", 2),
    ({"q|v": 1}, "layer.v", 1),
    ({"a+b": 1}, "a+b", 1),  # literally the name
    ({}, "anything", 0),
    (None, "anything", 0),
]


def write(folder, sites, *, others=None, dtype=np.float64, prefix=PREFIX, **config):
    """Write factors {site: (B, A)} and other tensors as an adapter; return its folder."""
    named = {f"{site}.lora_{name}.weight": X for site, pair in sites.items() for name, X in pair}
    tensors = {f"{prefix}{name}": np.ascontiguousarray(X, dtype) for name, X in named.items()}
    tensors |= {f"{prefix}{name}": X for name, X in (others or {}).items()}
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def pair(B, A):
    """Return factors as the items that `write` takes."""
    return (("B", np.asarray(B, dtype=np.float64)), ("A", np.asarray(A, dtype=np.float64)))


def gaussian(rng, d, k, r):
    """Return Gaussian factors of one site."""
    return pair(rng.standard_normal((d, r)), rng.standard_normal((r, k)))


def write_agents(folder, products, *, r, scale=1.0):
    """Write one adapter per agent from [(B, A), ...] of one site `layer`; return the folders."""
    return [
        write(folder / f"agent{i}", {"layer": pair(B, A)}, r=r, lora_alpha=scale * r)
        for i, (B, A) in enumerate(products)
    ]


def sites_of(rng, r=2, shapes=SHAPES):
    """Return Gaussian factors of some sites."""
    return {site: gaussian(rng, d, k, r) for site, (d, k) in shapes.items()}


def folders_of(tmp_path, rng, N=3, **config):
    """Write the adapters of N agents and return their folders."""
    return [write(tmp_path / f"agent{i}", sites_of(rng), **config) for i in range(N)]


def weights_of(folder):
    """Return the file of an adapter's tensors."""
    return folder / "adapter_model.safetensors"

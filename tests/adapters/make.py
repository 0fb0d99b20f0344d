"""Train the LoRA adapters stored beside this program: `python tests/adapters/make.py [FOLDER]`.

Four agents fine-tune one small network on rotated digits, each on a label-skewed shard, apart from
a common start. Needs torch, safetensors and scikit-learn (its digits ship with it); a few seconds.
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import nn

RANK, ALPHA, AGENTS = 4, 8, 4
WIDTHS = {"fc1": (64, 48), "fc2": (48, 40), "fc3": (40, 32)}
CONFIG = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": "digits-mlp",
    "r": RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": 0.0,
    "target_modules": list(WIDTHS),
    "modules_to_save": ["classifier"],
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "init_lora_weights": True,
    "inference_mode": True,
}


def network():
    """Return the base model; its module names are those in the adapter files."""
    layers = OrderedDict()
    for name, (k, d) in WIDTHS.items():
        layers[name] = nn.Linear(k, d)
        layers[f"{name}_relu"] = nn.ReLU()
    layers["classifier"] = nn.Linear(32, 10)
    return nn.Sequential(layers)


def forward(model, x, factors, head):
    """Return the logits with W + (alpha / r) B A at each adapted layer and a trained head."""
    for name in WIDTHS:
        layer = getattr(model, name)
        B, A = factors[f"{name}.B"], factors[f"{name}.A"]
        x = torch.relu(layer(x) + ALPHA / RANK * (x @ A.T) @ B.T)
    return x @ head["weight"].T + head["bias"]


def descend(parameters, logits, x, y, steps, lr, generator):
    """Take Adam steps on the cross entropy of minibatches of 64."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,), generator=generator)
        loss = nn.functional.cross_entropy(logits(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def shard(y, agent, generator):
    """Return indices of which about 80 % carry the agent's own two or three labels."""
    own = y % AGENTS == agent
    chance = torch.where(own, 0.8 / own.sum(), 0.2 / (~own).sum())
    return torch.multinomial(chance, 300, generator=generator)


def train_agent(model, x, y, agent):
    """Return the factors and the head that one agent trains on its shard."""
    common = torch.Generator().manual_seed(1)
    factors = {}
    for name, (k, d) in WIDTHS.items():
        factors[f"{name}.A"] = torch.randn(RANK, k, generator=common) / k**0.5
        factors[f"{name}.B"] = torch.zeros(d, RANK)
    head = {name: X.detach().clone() for name, X in model.classifier.named_parameters()}
    trained = [X.requires_grad_(True) for X in (*factors.values(), *head.values())]
    own = torch.Generator().manual_seed(100 + agent)
    mine = shard(y, agent, own)
    descend(trained, lambda z: forward(model, z, factors, head), x[mine], y[mine], 400, 5e-3, own)
    return factors, head


def write(folder, factors, head):
    """Write one adapter in peft's file format."""
    tensors = {f"classifier.{name}": X for name, X in head.items()}
    for site in WIDTHS:
        tensors |= {f"{site}.lora_{factor}.weight": factors[f"{site}.{factor}"] for factor in "AB"}
    named = {f"base_model.model.{name}": X.detach() for name, X in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    weights = save(named, metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def main(folder):
    """Pretrain on upright digits, train each agent on rotated ones, write the adapters."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = load_digits()
    images, y = torch.tensor(digits.images / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    rotated = torch.rot90(images, 1, (1, 2)).flatten(1)
    model, order = network(), torch.Generator().manual_seed(0)
    descend(model.parameters(), model, images.flatten(1), y, 600, 3e-3, order)
    for agent in range(AGENTS):
        factors, head = train_agent(model, rotated[:1400], y[:1400], agent)
        right = forward(model, rotated[1400:], factors, head).argmax(1) == y[1400:]
        print(f"agent{agent}: accuracy on held-out rotated digits {right.double().mean():.3f}")
        write(folder / f"agent{agent}", factors, head)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

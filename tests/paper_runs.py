"""Runs of the full-scale harness on a network of three layers, without any optional package."""

import numpy as np
import torch

from paper_checks import checkpoint, finetune
from paper_checks import config as configs
from paper_checks.tasks.records import Data, Task

TOML = """\
name = "net"
[task]
name = "net"
[model]
from = "random"
[lora]
rank = 2
eta = 4
[data]
batch = 4
[data.partitions.skew]
proportions = 0.8
[train]
steps = 6
lr = 0.05
[mix]
agents = 4
every = 2
"""
TABLES = {
    "name": "net",
    "task": {"name": "net"},
    "model": {"from": "random"},
    "lora": {"rank": 2, "eta": 4.0},
    "data": {"batch": 4, "partition": "iid"},
    "train": {"steps": 6, "lr": 0.05, "optimizer": "sgd"},
    "mix": {"agents": 3, "graph": "ring", "method": "decaf", "every": 2},
    "observe": {"checkpoint_every": 2},
}


def config(**overrides):
    """The config of TABLES with settings given as train__lr=0.1."""
    tables = {name: dict(x) if isinstance(x, dict) else x for name, x in TABLES.items()}
    for name, value in overrides.items():
        configs.put(tables, name.replace("__", "."), value)
    return configs.parse(tables)


def written(folder):
    """The file of TOML in a folder."""
    path = folder / "net.toml"
    path.write_text(TOML)
    return path


def prepare(**overrides):
    """The run of a config at its start."""
    return finetune.prepare(config(**overrides), device="cpu")


def snapshot(run):
    """Copies of all that the agents hold, by name."""
    return {name: X.detach().clone() for name, X in checkpoint.named(run.stacked).items()}


class Net(torch.nn.Module):
    """5 -> 7 -> 4 -> 3: every site has d != k."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(5, 7), torch.nn.Linear(7, 4)
        self.classifier = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.classifier(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


def task(config=None, dtype=torch.float32):
    """A task of three classes, the same every time, with double-precision or other weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = Net().to(dtype).requires_grad_(False).eval()
    draw = np.random.default_rng(5)
    x = torch.from_numpy(draw.standard_normal((90, 5))).to(dtype)
    labels = torch.from_numpy(np.arange(90) % 3)
    x = x + labels[:, None]
    return Task(
        "net",
        model,
        "net",
        ("fc1", "fc2"),
        ("classifier",),
        3,
        "accuracy",
        Data({"x": x[:72]}, labels[:72]),
        Data({"x": x[72:]}, labels[72:]),
        lambda model, inputs, agents: model(inputs["x"]),
    )


def randomize(stacked, seed=0):
    """Give every agent its own factors and heads."""
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        for layer in (*stacked.sites.values(), *stacked.heads.values()):
            for X in layer.parameters(recurse=False):
                X.copy_(torch.from_numpy(draw.standard_normal(tuple(X.shape))))

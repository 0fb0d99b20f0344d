"""A second trainer, from the rules alone: N separate peft models, AdamW and mixing in NumPy.

Nothing of it comes from the harness or the library but the streams of random numbers, by name. Each
agent has a model of its own; a site is a dict of arrays [agent, ., .] in float64: B, A, what was
merged into W0 ("base"), and what its method keeps.
"""

import math
from functools import cache
from types import SimpleNamespace

import numpy as np
import peft
import torch

from decaf_theory.rng import generator
from tests import trainer_rules

BETAS, EPS = (0.9, 0.999), 1e-8


def batches(shards, seed, size):
    """Return the examples of agent i at step t: its shard in a new order in each pass."""
    walked = [
        np.concatenate([s[generator(seed, "order", i, e).permutation(len(s))] for e in range(9)])
        for i, s in enumerate(shards)
    ]
    return lambda i, t: walked[i][t * size : (t + 1) * size]


def cosine(t, steps, most, least):
    return least + (most - least) * 0.5 * (1 + math.cos(math.pi * t / steps))


class Adam:
    """AdamW of one array, or plain descent without moments."""

    def __init__(self, decay, moments):
        self.decay, self.moments = decay, moments
        self.reset()

    def reset(self):
        self.m = self.v = self.count = 0

    def step(self, x, g, lr):
        x = x * (1 - lr * self.decay)
        if not self.moments:
            return x - lr * g
        self.count += 1
        self.m = BETAS[0] * self.m + (1 - BETAS[0]) * g
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * g * g
        m, v = self.m / (1 - BETAS[0] ** self.count), self.v / (1 - BETAS[1] ** self.count)
        return x - lr * m / (np.sqrt(v) + EPS)


@cache
def models(make, agents, rank, eta):
    """Return one peft model for each agent, with LoRA on fc1 and fc2 and a head of its own.

    They are made once, as `load` sets all that a training changes.
    """
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=eta,
        target_modules=["fc1", "fc2"],
        modules_to_save=["classifier"],
    )
    return [peft.get_peft_model(make(), config) for _ in range(agents)]


def layer(model, site):
    return model.base_model.model.get_submodule(site)


def tensors(model):
    """Return the parameters of a model that train, by the name of their array."""
    head = model.base_model.model.classifier.modules_to_save.default
    found = {("head", "weight"): head.weight, ("head", "bias"): head.bias}
    for site in ("fc1", "fc2"):
        found[site, "B"] = layer(model, site).lora_B.default.weight
        found[site, "A"] = layer(model, site).lora_A.default.weight
    return found


@torch.no_grad()
def load(model, agent, sites, head, bases, scale):
    """Put an agent's arrays into its model; what was merged goes into W0 itself."""
    for (site, part), X in tensors(model).items():
        held = head if site == "head" else sites[site]
        X.copy_(torch.from_numpy(held[part][agent]))
    for site, W0 in bases.items():
        merged = sites[site].get("base", np.zeros_like(W0))
        layer(model, site).base_layer.weight.copy_(torch.from_numpy(W0 + scale * merged))


def gradients(model, x, labels):
    """Return the gradient of the mean loss of a batch, by array."""
    named = tensors(model)
    loss = torch.nn.functional.cross_entropy(model(x), labels)
    found = torch.autograd.grad(loss, list(named.values()))
    return {name: g.numpy() for name, g in zip(named, found, strict=True)}


def train(task, start, method, Pi, plan):
    """Return sites and head after each round.

    start: head and sites at the beginning; plan: rank, eta, batch, seed, first, K, rounds,
    lr, lr_min, decay, shards, moments ("adamw" or none), and `make` for a new base model.
    """
    plan = SimpleNamespace(**plan)
    N, scale = len(Pi), plan.eta / plan.rank
    rule = trainer_rules.rule(method, Pi)
    own = models(plan.make, N, plan.rank, plan.eta)
    bases = {s: task.model.get_submodule(s).weight.numpy().copy() for s in ("fc1", "fc2")}
    sites = {s: {"name": s, "B": start[s]["B"].copy(), "A": start[s]["A"].copy()} for s in bases}
    head = {part: X.copy() for part, X in start["head"].items()}
    for site in sites.values():
        rule.start(site)
    adam = {name: Adam(plan.decay, plan.moments) for name in tensors(own[0])}
    pick = batches(plan.shards, plan.seed, plan.batch)
    after = []
    lengths = [plan.first, *[plan.K] * (plan.rounds - 1)]
    steps = [(now, h, length) for now, length in enumerate(lengths) for h in range(length)]
    for t, (now, h, length) in enumerate(steps):
        lr = cosine(t, len(steps), plan.lr, plan.lr_min)
        found = []
        for i, model in enumerate(own):
            load(model, i, sites, head, bases, scale)
            rows = torch.from_numpy(pick(i, t))
            found.append(gradients(model, task.train.inputs["x"][rows], task.train.labels[rows]))
        g = {name: np.stack([each[name] for each in found]) for name in found[0]}
        if rule.pools:
            g = {name: np.broadcast_to(X.mean(0), X.shape) for name, X in g.items()}
        for part, X in head.items():
            head[part] = adam["head", part].step(X, g["head", part], lr)
        trained = rule.trains(now, h)
        for name, site in sites.items():
            own_g = {p: g[name, p] if p in trained else 0 * site[p] for p in "BA"}
            direction = rule.step(site, own_g, now, h, length)
            for p in trained:
                site[p] = adam[name, p].step(site[p], direction[p], lr)
        if h == length - 1:
            end_round(rule, sites, head, now, length)
            for each in adam.values():
                each.reset()
            after.append(({s: dict(site) for s, site in sites.items()}, dict(head)))
    return after


def end_round(rule, sites, head, now, K):
    """Mix the sites by the rule, and the heads by its weights."""
    if rule.weights is None:
        return
    for site in sites.values():
        rule.mix(site, rule.weights, now, K)
    for part, X in head.items():
        head[part] = np.einsum("ij,j...->i...", rule.weights, X)

"""The resources that a full-size run would need, from the real architecture without its weights.

The model is built and stacked on torch's meta device, and one training step is dispatched there:
parameters, bytes, saved activations and operations are counted, not modelled. Only the time is an
estimate: operations / (peak of a GPU x an assumed utilisation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from decaf_theory.methods import Clock
from decaf_theory.methods.meeting import messages_of
from paper_checks import beginning, mixing
from paper_checks.architectures import ARCHITECTURES, TASKS, Architecture, Sizes
from paper_checks.config import Config
from paper_checks.cost import Memory, memory, step_cost
from paper_checks.needs import GPUS, Report, Traffic
from paper_checks.stacked import Stacked, stack
from paper_checks.tasks.models import dtype_of
from paper_checks.wholerun import parts_of

UTILISATION = 0.35


def dry_run(config: Config, *, gpu: str = "A100 80 GB", utilisation: float = UTILISATION) -> Report:
    """Return what a run of this configuration needs, all agents on one GPU; no weights are read.

    ValueError: an unknown GPU, architecture or task; a utilisation outside (0, 1].
    """
    if gpu not in GPUS:
        raise ValueError(f"gpu must be one of {', '.join(GPUS)}; got {gpu!r}")
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation must be in (0, 1], got {utilisation}")
    base, architecture = architecture_of(config.model)
    dtype, sizes = str(config.model.get("dtype", "float32")), sizes_of(config)
    stacked = build(config, architecture, dtype)
    every = steps_a_round(config, sizes)
    together, flops = step_needs(stacked, config, architecture, sizes)
    parts = parts_of(config, stacked, architecture, sizes, every)
    with stacked.only(0):
        sequential, _ = step_needs(stacked, config, architecture, sizes._replace(agents=1))
    return Report(
        config=config,
        base=base,
        dtype=dtype,
        parameters=architecture.parameters,
        sites=len(stacked.sites),
        targets=stacked.targets,
        sizes=sizes,
        unit=architecture.unit,
        trainable=sum(X.numel() for X in stacked.parameters()) // sizes.agents,
        steps_a_round=every,
        traffic=traffic(stacked, config, every),
        together=together,
        sequential=sequential,
        flops=flops,
        parts=parts,
        gpu=gpu,
        utilisation=utilisation,
    )


def architecture_of(model: Mapping[str, Any]) -> tuple[str, Architecture]:
    """Return the portable name of a configuration's base model and its architecture."""
    base = str(model.get("base") or model["from"]).removeprefix("hub:")
    if base not in ARCHITECTURES:
        raise ValueError(
            f"model.from must name one of {', '.join(ARCHITECTURES)} for a dry run, got {base!r}; "
            f"smaller models can be run as they are"
        )
    return base, ARCHITECTURES[base]


def sizes_of(config: Config) -> Sizes:
    """Return the sizes of a step of a configuration of one of the paper's tasks."""
    name = config.task["name"]
    if name not in TASKS:
        raise ValueError(f"task.name must be one of {', '.join(TASKS)} for a dry run, got {name!r}")
    classes, length, _ = TASKS[name]
    return Sizes(config.mix.agents, config.data.batch, config.data.max_length or length, classes)


def steps_a_round(config: Config, sizes: Sizes) -> int | None:
    """Return the steps from mix to mix, or None if given in epochs and no size is known."""
    if config.mix.every is not None:
        return config.mix.every
    shots = config.data.shots
    examples = config.data.train_samples if shots is None else shots * sizes.classes
    if examples is None:
        return None
    shard = math.ceil(examples / sizes.agents)
    return (config.mix.every_epochs or 1) * math.ceil(shard / sizes.batch)


def build(config: Config, architecture: Architecture, dtype: str) -> Stacked:
    """Return the stacked model on the meta device; factors that the method freezes do not train."""
    lora = config.lora
    stacked = stack(
        architecture.build().to(dtype_of(dtype)),
        targets=lora.targets or architecture.targets,
        agents=config.mix.agents,
        rank=lora.rank,
        scale=lora.scale,
        dropout=lora.dropout,
    )
    mixing.let_train(stacked, config.mix.rule, Clock())
    beginning.begin(stacked, config.mix.rule)  # what is merged into W0 is held, too
    return stacked


def traffic(stacked: Stacked, config: Config, every: int | None) -> Traffic:
    """Return the bytes sent in a round of `every` steps."""
    rule, N = config.mix.rule, stacked.agents
    Pi = mixing.graph_of(rule, config.mix.graph, N)
    memory = beginning.begin(stacked, rule)
    first = Clock(steps=every or 1)
    mixed = mixing.message_bytes(stacked, rule, memory, first)
    pooled = mixing.pooled_bytes(stacked, rule, memory, first)
    if not mixed and not pooled:
        return Traffic(0, 0, 0, 0)
    links = int(np.count_nonzero(Pi - np.diag(np.diag(Pi)), axis=1).max()) if Pi is not None else 1
    if every is None and pooled:
        return Traffic(mixed + pooled, links, None, None)
    steps = every or 1  # the bytes of a mix do not depend on the steps before it
    a_step = messages_of(rule.pools, Pi, N) * pooled
    total = mixing.mix_bytes(stacked, rule, Pi, memory, first) + steps * a_step
    return Traffic(mixed + pooled, links, links * (mixed + steps * pooled), total)


def step_needs(
    stacked: Stacked, config: Config, architecture: Architecture, sizes: Sizes
) -> tuple[Memory, int]:
    """Return the memory and the flops of a step."""
    train = config.train
    step = step_cost(
        stacked.model,
        partial(architecture.scores, stacked.model, sizes),
        layers=architecture.layers,
        checkpointing=train.gradient_checkpointing,
    )
    moments = 2 if train.optimizer == "adamw" else int(train.momentum > 0)
    return memory(stacked, step.activations, moments=moments), step.flops

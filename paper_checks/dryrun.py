"""The resources that a full-size run would need, from the real architecture without its weights.

The model is built and stacked on torch's meta device, and one training step is dispatched there:
parameters, bytes, saved activations and operations are counted, not modelled. Only the time is an
estimate: operations / (peak of a GPU x an assumed utilisation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.formats import size
from decaf_theory.methods import Clock
from decaf_theory.methods.meeting import messages_of
from paper_checks import mixing
from paper_checks.architectures import ARCHITECTURES, TASKS, Architecture, Sizes
from paper_checks.config import Config
from paper_checks.cost import Memory, memory, step_cost
from paper_checks.stacked import Stacked, stack
from paper_checks.tasks.models import dtype_of
from paper_checks.wholerun import CROPPED, DECODED, MIX_UTILISATION, OBSERVED, Parts, parts_of

UTILISATION = 0.35


class Gpu(NamedTuple):
    """Memory in bytes and dense peaks in flops per second, from the manufacturer's data sheets."""

    memory: float
    half: float  # float16 or bfloat16 on tensor cores
    single: float  # float32 outside tensor cores


GPUS = {
    "A100 80 GB": Gpu(80e9, 312e12, 19.5e12),
    "H100 SXM": Gpu(80e9, 989e12, 67e12),
    "H200 SXM": Gpu(141e9, 989e12, 67e12),
    "RTX 4090": Gpu(24e9, 165e12, 82.6e12),
}


class Traffic(NamedTuple):
    """Bytes on the network. A server counts as one neighbour; pooled gradients go every step."""

    message: int  # from an agent to one other, heads included
    links: int  # others that the busiest agent sends to
    agent_round: int | None  # sent by the busiest agent in a round; None: depends on the data
    total_round: int | None  # sent by all, and by a server


@dataclass(frozen=True)
class Report:
    """The needs of one run. Counts are exact for the architecture; `hours` is an estimate.

    trainable: an agent's parameters. together, sequential: memory of a step with all agents in one
    forward pass, and with one agent at a time. flops: of one step of all agents.
    steps_a_round: None if it depends on data that are not available.
    """

    config: Config
    base: str
    dtype: str
    parameters: int
    sites: int
    targets: tuple[str, ...]
    sizes: Sizes
    unit: str
    trainable: int
    steps_a_round: int | None
    traffic: Traffic
    together: Memory
    sequential: Memory
    flops: int
    parts: Parts
    gpu: str
    utilisation: float

    @property
    def hours(self) -> float:
        """Hours of training on the GPU at the assumed utilisation of its peak."""
        return self._hours(self.config.train.steps * self.flops)

    @property
    def evaluating(self) -> float | None:
        """Hours of all evaluations, at the same utilisation; None: it depends on the data."""
        times = self.parts.evaluations
        return None if times is None else self._hours(times * self.parts.evaluating)

    def _hours(self, flops: int) -> float:
        return flops / (self.peak * self.utilisation) / 3600

    @property
    def peak(self) -> float:
        """The GPU's peak for the type of the products, flops per second."""
        half = self.dtype != "float32" or self.config.train.autocast is not None
        return GPUS[self.gpu].half if half else GPUS[self.gpu].single

    def text(self) -> str:
        """Return the report as plain text of at most 100 columns."""
        return "\n".join(_lines(self))


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
    mixing.begin(stacked, config.mix.rule)  # what is merged into W0 is held, too
    return stacked


def traffic(stacked: Stacked, config: Config, every: int | None) -> Traffic:
    """Return the bytes sent in a round of `every` steps."""
    rule, N = config.mix.rule, stacked.agents
    Pi = mixing.graph_of(rule, config.mix.graph, N)
    memory = mixing.begin(stacked, rule)
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


def _lines(report: Report) -> Iterator[str]:
    """Yield the lines of the printed report."""
    yield f"{report.config.name}: {report.base}, without its weights"
    yield from (f"  {name:<14} {fact}" for name, fact in _facts(report))
    yield "memory of a step    all agents at once  one agent at a time"
    rows = [*Memory._fields, "total"]
    for name in rows:
        both = (getattr(memory, name) for memory in (report.together, report.sequential))
        yield f"  {name:<14}" + "".join(f"{_bytes(number):>21}" for number in both)
    yield f"hours on one {report.gpu}, peak {report.peak / 1e12:g} Tflop/s"
    yield from (f"  {name:<14} {fact}" for name, fact in _times(report))
    yield "Not counted: work space of single operations, reading of files."
    yield "Attention is counted as plain products of matrices; fused attention saves less."


def _times(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the hours of the parts of a run, each with what they rest on."""
    parts, single = report.parts, GPUS[report.gpu].single
    share = f"{report.utilisation:.0%} of that peak, which is assumed and not measured"
    yield "training", f"{report.hours:.3g} at {share}"
    times = f"{parts.evaluations or '?'} x {parts.tested:,} examples"
    yield "evaluating", f"{_count(report.evaluating)} at the same, {times}"
    mixed = "flops not counted" if parts.mixing is None else f"{parts.mixing:.3g} flops a mix"
    yield (
        "mixing",
        f"{_count(parts.mixing_hours(single))} at {MIX_UTILISATION:.0%} of {single / 1e12:g} "
        f"Tflop/s (assumed), {mixed}",
    )
    all_of = f"{_count(parts.observing(report.sites))} for {parts.observed or '?'} mixes"
    most = "" if parts.share is None else f"at most {parts.share * report.hours:.2g} (its share); "
    yield "observing", f"{most}{all_of} at {OBSERVED} s of one core a site"
    if parts.images != 0:
        yield (
            "decoding",
            f"{_count(parts.decoding)} of one core at {1e3 * DECODED:g} ms an image, once"
            + (f", and {1e3 * CROPPED:g} ms a random crop" if parts.crops else ""),
        )


def _count(hours: float | None) -> str:
    return "?" if hours is None else f"{hours:.3g}"


def _facts(report: Report) -> list[tuple[str, str]]:
    config, sizes, sent = report.config, report.sizes, report.traffic
    N, every = sizes.agents, report.steps_a_round
    meets = {"graph": f"on a {config.mix.graph} graph", "server": "by a server", "none": "alone"}
    who = "by pooled gradients" if config.mix.rule.pools != "none" else meets[config.mix.rule.meets]
    texts = f"{sizes.length} tokens per text{'' if config.data.max_length else ' (assumed)'}"
    pace = "one agent at a time" if config.train.sequential else "all agents at once"
    again = ", activations recomputed" if config.train.gradient_checkpointing else ""
    return [
        ("model", f"{report.parameters:,} parameters in {report.dtype}, frozen{_half(config)}"),
        (
            "adapters",
            f"rank {config.lora.rank} at {report.sites} sites: {', '.join(report.targets)}",
        ),
        ("agents", f"{N}, {sizes.batch} {report.unit}s each per step, {texts}"),
        (
            "trainable",
            f"{report.trainable:,} parameters per agent, {N * report.trainable:,} in all",
        ),
        ("method", f"{config.mix.method} {who}{_form(config)}"),
        ("a round", f"{every or '? (it depends on the data)'} steps{_first(config)}"),
        (
            "agent sends",
            f"{_bytes(sent.agent_round)} per round: {_bytes(sent.message)} x {sent.links}",
        ),
        ("network", f"{_bytes(sent.total_round)} per round"),
        ("a step", f"{pace}{again}, {report.flops:.3g} flops"),
        ("steps", f"{config.train.steps:,}"),
    ]


def _form(config: Config) -> str:
    form = config.mix.rule.form
    return f", W - W0 = {form.name}" if form.variables else ""


def _half(config: Config) -> str:
    half = config.train.autocast
    return "" if half is None else f"; products in {half}, activations counted in full"


def _first(config: Config) -> str:
    return "" if config.mix.after is None else f", the first mix after {config.mix.after}"


def _bytes(number: int | None) -> str:
    return "? (it depends on the data)" if number is None else size(number)

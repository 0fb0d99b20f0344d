"""Kill a run with SIGKILL at random moments, resume it, and compare it with one that was not.

`python tests/killed_runs.py FOLDER SEED TRIALS`: one process that imports torch once and forks each
run; prints how many kills each trial took, and ends with 1 at the first number that differs.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from paper_checks import checkpoint, finetune, record
from tests import paper_runs

KILLS = 4  # of a trial; then it may finish
METHODS = ("decaf", "dlora", "dlora_fa", "centralized")
POLICIES = ("rotate", "keep", "reset")


def config(trial):
    """A run with dropout, an optimizer with moments, and a checkpoint at nearly every step."""
    return paper_runs.config(
        mix__method=METHODS[trial % len(METHODS)],
        mix__moments=POLICIES[trial % len(POLICIES)],
        train__optimizer="adamw",
        train__steps=23,
        train__order=("step_first", "mix_first")[trial % 2],
        mix__every=3,
        lora__dropout=0.3,
        observe__checkpoint_every=1 + trial % 4,
    )


def forked(chosen, folder):
    """Start the run in a child process; return its id."""
    child = os.fork()
    if child == 0:
        finetune.finetune(chosen, folder)
        os._exit(0)
    return child


def left(chosen, folder):
    """The bytes of the rows and the tensors of the last checkpoint."""
    found, damaged = checkpoint.read(folder / "checkpoint", chosen.settings() | {"adapters": []})
    assert not damaged, damaged
    assert found.step == chosen.train.steps
    assert not list((folder / "checkpoint").glob(".step-*"))
    return (folder / record.ROWS).read_bytes(), found.tensors


def trial(number, folder, draw):
    """Return the kills of one trial; AssertionError unless it ends like the undisturbed run."""
    chosen, start = config(number), time.perf_counter()
    finetune.finetune(chosen, folder / "whole")  # here, so that children find all loaded
    seconds = time.perf_counter() - start
    kills = 0
    while True:
        child = forked(chosen, folder / "killed")
        if kills < KILLS:
            time.sleep(draw.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            if kills >= KILLS:
                break
        kills += 1
    (rows, tensors), (other_rows, others) = (
        left(chosen, folder / name) for name in ("whole", "killed")
    )
    assert rows == other_rows, f"trial {number}: rows differ"
    assert tensors.keys() == others.keys()
    for name, X in tensors.items():
        assert torch.equal(X, others[name]), f"trial {number}: {name} differs"
    return kills


def main():
    folder, seed, trials = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    finetune.load_task = paper_runs.task
    draw = random.Random(seed)
    for number in range(trials):
        kills = trial(number, folder / str(number), draw)
        print(f"trial {number}: {kills} kills, equal", flush=True)


if __name__ == "__main__":
    main()

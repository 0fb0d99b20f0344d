"""The programs whose faults are tried: what each is asked, and what of its output must be equal.

Each is imported when it is run: torch alone takes longer than what most of them are asked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from decaf_theory import cli as decaf
from tests.adapter_files import STORED
from verification.cli import main as verify

CLAIMS = ("T1", "T6", "T9", "T10")  # quick ones
NET = """
name = "net"
task.name = "net"
model.from = "random"
lora = { rank = 2, eta = 4.0, dropout = 0.3 }
data.batch = 4
train = { steps = 23, lr = 0.05 }
mix = { agents = 3, every = 3, moments = "keep" }
observe.checkpoint_every = 2
"""


class Program(NamedTuple):
    """A command line by folder and number, and what must be there before."""

    argv: Callable[[Path, int], list[str]]
    main: Callable[[list[str]], int]
    prepare: Callable[[Path], object] = lambda folder: None

    def run(self, folder: Path, number: int = 0) -> int:
        """Run it in a folder without a word; return the exit code."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return self.main(self.argv(folder, number))


def _verify(folder: Path, number: int) -> list[str]:
    return ["--only", *CLAIMS, "--resume", "--out", str(folder / "out")]


def _train(folder: Path, number: int) -> list[str]:
    settings = {
        "mix.moments": ("rotate", "keep", "reset")[number % 3],
        "train.order": ("step_first", "mix_first")[number % 2],
        "observe.checkpoint_every": 1 + number % 4,
    }
    chosen = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    method = ("decaf", "dlora", "dlora_fa", "centralized")[number % 4]
    where = ["--out", str(folder / "out"), "--method", method]
    return ["run", str(folder / "net.toml"), *where, *chosen]


def _paper(argv: list[str]) -> int:
    from paper_checks.cli import main

    return main(argv)


def _draw(argv: list[str]) -> int:
    from figures.cli import main

    return main(argv)


def _config(folder: Path) -> None:
    from figures import partition  # noqa: F401 - the forks share what is loaded
    from paper_checks import finetune, tasks
    from tests import paper_runs

    (folder / "net.toml").write_text(NET)
    for module in (finetune, tasks):
        module.load_task = paper_runs.task


def _results(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert verify(["--only", *CLAIMS, "--out", str(folder / "results")]) == 0


ADAPTERS = [str(path) for path in STORED]


def _merge(folder: Path, number: int, *more: str) -> list[str]:
    return ["merge", *ADAPTERS, "--force", "--out", str(folder / "out" / "merged"), *more]


PROGRAMS = {
    "verification": Program(_verify, verify),
    "adapters": Program(lambda f, _: ["adapters", *ADAPTERS, "--out", str(f / "out")], verify),
    "figures": Program(
        lambda f, _: [
            *("--only", "schematic", "report", "--results", str(f / "results")),
            *("--out", str(f / "out")),
        ],
        _draw,
        _results,
    ),
    "run": Program(_train, _paper, _config),
    "sweep": Program(
        lambda f, _: [
            *("sweep", str(f / "net.toml"), "--out", str(f / "out")),
            *("--methods", "dlora", "decaf", "--set", "train.steps=9"),
        ],
        _paper,
        _config,
    ),
    "merge": Program(_merge, decaf.main),
    "resumed merge": Program(
        lambda f, n: _merge(f, n, "--topology", "ring", "--resume"), decaf.main
    ),
}
TIMES = ("seconds", "mixing_share", "sum")  # differ from run to run


def without_times(value: object) -> object:
    """Return JSON without its times and the checksums over them."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def left(folder: Path) -> dict[str, object]:
    """Return what is below a folder: bytes, JSON without times, the tensors of checkpoints."""
    found: dict[str, object] = {}
    for path in sorted((folder / "out").rglob("*")):
        name = os.path.relpath(path, folder)
        if path.suffix == ".ckpt":
            found[name] = tensors(path)
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_bytes()))
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def tensors(path: Path) -> dict[str, bytes]:
    """Return the bytes of the tensors of a checkpoint."""
    from paper_checks.checkpoint import decode

    state, _ = decode(path.read_bytes())
    return {name: X.contiguous().numpy().tobytes() for name, X in state.tensors.items()}

"""`python -m verification all`: verify, bench, draw and report in one go, each as a process.

    verify   every claim gets its verdict      -> <out>/rows, verdicts.json, claims.json, run.json
    bench    the kernel is timed, quickly      -> <out>/bench.jsonl
    draw     the figures of these rows         -> <out>/figures
    report   the page that shows all of it     -> <out>/report.html

`<out>/stages.json` holds, for every finished stage, the checksums of its inputs and outputs. A
stage is skipped if both are unchanged; one that was interrupted is run again, and verify resumes
where it stopped. A stage that fails stops only those that need it. Timing the kernel needs torch,
and is left out without it.
"""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import decaf_theory
from decaf_theory.extras import missing
from decaf_theory.files import to_json, write_atomically
from decaf_theory.sums import sealed, sum_of_files
from verification import provenance, store

OK, DIFFERS, FAILED = 0, 1, 2
PASSED = (OK, DIFFERS)
FILE = "stages.json"
SOURCES = (".py", ".j2", ".css", ".js")
ABOUT = ("README.md", "pyproject.toml", "citation.bib")  # what the page says of the project
DRAWING = ("matplotlib", "Jinja2", "latex2mathml")
PATIENCE_S = 10.0  # time that an interrupted stage has to tidy up
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stage:
    """One process: its command, its inputs, its outputs, and the stages that it needs."""

    name: str
    does: str
    command: Sequence[str]
    reads: Sequence[Path]
    writes: Sequence[Path]
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    differs: str = "a result differs from what is expected"  # what exit code 1 means
    counts: bool = True  # whether exit code 1 counts for the whole run
    packages: Sequence[str] = ()  # without which the stage is left out

    def inputs(self) -> str:
        """Return the checksum of everything that decides the result."""
        return sum_of_files(self.reads, [list(self.command), dict(self.settings)])

    def outputs(self) -> str:
        """Return the checksum of the files that the stage writes."""
        return sum_of_files(self.writes)


def stages(out: Path, *, size: str, seed: int, device: str, jobs: int) -> list[Stage]:
    """Return the stages of a whole run into the folder `out`, in order."""
    python, figures, page = sys.executable, out / "figures", out / "report.html"
    settings = ["--size", size, "--seed", str(seed), "--device", device]
    library = Path(str(decaf_theory.__file__)).parent
    judged = [out / name for name in ("rows", "verdicts.json", "claims.json", "run.json")]
    timed, attacks, runs = out / "bench.jsonl", out / "attacks", out / "paper"
    scaling = out / "scaling.jsonl"
    configuration = provenance.configuration(size=size, seed=seed, device=device)
    configuration.pop("commit")  # `code` is the sum of the sources themselves
    # torch on the CPU is a way to judge, not a device to be timed
    cuda = ["--device", "cuda"] if device == "cuda" else []
    draw = [python, "-m", "figures", "--results", str(out), "--out", str(figures)]
    here = Path(__file__).parent
    sources = [p for p in sorted((ROOT / "figures").rglob("*")) if p.suffix in SOURCES]
    sources += [ROOT / name for name in ABOUT]
    drawing = {name: importlib.metadata.version(name) for name in DRAWING}
    return [
        Stage(
            "verify",
            "every claim gets its verdict",
            [python, "-m", "verification", *settings, "--out", str(out), "--resume"]
            + (["--jobs", str(jobs)] if jobs > 1 else []),
            [here / "counterexamples"],
            judged,
            configuration,
            differs="a verdict is unexpected",
        ),
        Stage(
            "bench",
            "the kernel is timed, quickly",
            [
                python,
                "-m",
                "decaf_theory",
                "bench",
                "--quick",
                *cuda,
                "--force",
                "--json",
                str(timed),
            ],
            [library],
            [timed],
            {name: configuration[name] for name in ("python", "libraries")},
            differs="a goal is missed by more than a fifth",
            counts=False,  # speed also depends on the machine
            packages=["torch"],
        ),
        Stage(
            "draw",
            "the figures of these rows",
            [*draw, "--no-report"],
            [*judged, timed, scaling, attacks, runs, *sources],
            [figures],
            drawing,
            needs=["verify"],
        ),
        Stage(
            "report",
            "the page that shows all of it",
            [*draw, "--only", "report", "--report", str(page)],
            [*judged, timed, scaling, attacks, figures, *sources],
            [page],
            drawing,
            needs=["verify"],
            differs="the page could not be written",
        ),
    ]


class End(NamedTuple):
    """How a stage ended: its exit code, the same in words, and whether it ran at all."""

    code: int
    words: str
    ran: bool = False


def run_all(
    plan: Sequence[Stage], out: Path, say: Callable[[str], object] = lambda text: None
) -> dict[str, End]:
    """Run the stages that are not done, report progress, and return how each of them ended."""
    store.require_writable(out)
    ends: dict[str, End] = {}
    for i, stage in enumerate(plan, 1):
        title = f"[{i}/{len(plan)}] {stage.name}"
        broken = [name for name in stage.needs if name in ends and ends[name].code not in PASSED]
        done = recorded(out, stage)
        if broken:
            words = f"not run, it needs {broken[0]}, which failed"
            ends[stage.name] = End(FAILED, words)
        elif done is not None:
            words = f"skipped, nothing has changed since it was done{why(stage, done)}"
            ends[stage.name] = End(done, words)
        elif lacking := missing(*stage.packages):
            ends[stage.name] = End(OK, f"left out: {lacking}")
        else:
            say(f"{title}: {stage.does}")
            start = time.perf_counter()
            code = run(stage, out)
            words = f"{time.perf_counter() - start:.1f} s{why(stage, code)}"
            ends[stage.name] = End(code, words, ran=True)
        say(f"{title}: {ends[stage.name].words}")
    return ends


def exit_code(plan: Sequence[Stage], ends: Mapping[str, End]) -> int:
    """Return 2 if a stage failed, 1 if a result differs from what is expected, else 0."""
    counted = [stage for stage in plan if stage.counts or ends[stage.name].code != DIFFERS]
    return max((min(ends[stage.name].code, FAILED) for stage in counted), default=OK)


def why(stage: Stage, code: int) -> str:
    """Return what an exit code means, empty for 0."""
    if code == DIFFERS:
        return f"; {stage.differs}"
    return f"; FAILED with exit code {code}" if code else ""


def run(stage: Stage, out: Path) -> int:
    """Run one stage and record it if it finished; return its exit code."""
    inputs = stage.inputs()
    record(out, stage.name, None)
    code = call(stage.command)
    # below zero: killed by that signal
    code = code if code >= 0 else 128 - code
    if code in PASSED:
        entry = {"inputs": inputs, "outputs": stage.outputs(), "code": code}
        record(out, stage.name, entry)
    return code


def call(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit code; when interrupted, let it tidy up first."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # a terminal has interrupted it as well; a second signal would disturb its tidying
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        raise


def recorded(out: Path, stage: Stage) -> int | None:
    """Return the exit code of a finished stage whose inputs and outputs are unchanged, or None."""
    entry = stored(out).get(stage.name)
    if not isinstance(entry, dict) or entry.get("inputs") != stage.inputs():
        return None
    code = entry.get("code")
    return code if isinstance(code, int) and entry.get("outputs") == stage.outputs() else None


def record(out: Path, name: str, entry: Mapping[str, Any] | None) -> None:
    """Enter a finished stage into the table, or remove it."""
    table = {key: value for key, value in stored(out).items() if key != name}
    if entry:
        table[name] = dict(entry)
    write_atomically(out / FILE, to_json(sealed(table)))


def stored(out: Path) -> dict[str, Any]:
    """Return the table of finished stages; one that cannot be read counts as empty."""
    try:
        return store.read_sealed(out / FILE)
    except store.StoreError:
        return {}

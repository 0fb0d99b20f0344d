"""Runs the parts one after the other, each in a process of its own with a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from decaf_theory import bench
from decaf_theory.bench.rows import HEADER, MEASURE, WHOLE, Row, line, verdict
from decaf_theory.files import write_atomically
from decaf_theory.sums import seal_lines
from decaf_theory.terminal import folded, wrapped
from paper_checks.gpu.parts import PARTS, ROOT, Setting

STORED = "gpu.jsonl"
TAIL = 800  # characters of a part's log that are kept with its row


def run(names: Sequence[str], setting: Setting, folder: Path) -> int:
    """Run the parts, store rows as they come, print one table; return 1 if something failed."""
    rows: list[Row] = [machine(setting)]
    for name in names:
        print(f"{name}: at most {PARTS[name].limit:g} s", file=sys.stderr, flush=True)
        rows += list(measured(name, setting, folder, rows))
        write_atomically(folder / STORED, seal_lines(rows))
    print(table(rows))
    return 1 if bench.failed(rows) else 0


def measured(name: str, setting: Setting, folder: Path, rows: list[Row]) -> Iterator[Row]:
    """Append a part's rows, stored at each verdict; yield what sums it up."""
    start, first = time.perf_counter(), len(rows)
    log, late = folder / f"{name}.log", threading.Event()
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command(name, setting),
            cwd=ROOT,
            env=environment(setting),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as child,
    ):
        timer = threading.Timer(PARTS[name].limit, end, (child, late))
        timer.start()
        try:
            for text in child.stdout or ():
                rows.append(json.loads(text))
                if rows[-1].get("kind") == "verdict":
                    write_atomically(folder / STORED, seal_lines(rows))
        finally:
            timer.cancel()
            if child.poll() is None and sys.exc_info()[0] is not None:
                end(child, late)
    status = "timed out" if late.is_set() else "failed" if child.returncode else "done"
    yield from outcomes(name, rows[first:])
    yield {
        **{"kind": "part", "part": name, "status": status, "limit": PARTS[name].limit},
        **{"seconds": time.perf_counter() - start, "fails": status != "done"},
        "log": "" if status == "done" else log.read_text(encoding="utf-8")[-TAIL:],
    }


def command(name: str, setting: Setting) -> list[str]:
    """Return the command line of a part."""
    where = ["--device", setting.device, *(["--small"] if setting.small else [])]
    return [sys.executable, "-m", "paper_checks.gpu", "--part", name, *where]


def environment(setting: Setting) -> dict[str, str]:
    """Return the environment of a part: on the CPU, Triton interprets its kernel."""
    before = os.environ.get("PYTHONPATH", "")  # with what `.ci/gpu` added
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), before)))}
    return found if setting.device == "cuda" else found | {"TRITON_INTERPRET": "1"}


def end(child: subprocess.Popen[Any], late: threading.Event) -> None:
    """Kill a part with all that it started."""
    late.set()
    os.killpg(child.pid, signal.SIGKILL)


def outcomes(part: str, rows: Sequence[Row]) -> Iterator[Row]:
    """Yield how many tests of a part had which outcome, if it has any."""
    tests = [row["outcome"] for row in rows if row.get("kind") == "test"]
    if tests:
        for outcome in ("passed", "skipped"):
            yield verdict(part, "pytest -m gpu", outcome, [float(tests.count(outcome))])
        wrong = float(tests.count("failed") + tests.count("error"))
        yield verdict(part, "pytest -m gpu", "failed", [wrong], "<=", 0.5, 0)


def machine(setting: Setting) -> Row:
    """Return the row that says what the others were measured on."""
    import torch

    found = bench.machine(bench.settings(quick=True, device=setting.device))
    found |= {"small": setting.small, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
    for name in ("triton", "transformers"):
        found[name] = bench.version_of(name)
    if setting.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"gpu": card.name, "memory": card.total_memory}
    return found


def table(rows: Sequence[Row]) -> str:
    """Return all verdicts, the tests that did not pass, and how each part ended, as text."""
    named = next(row for row in rows if row["kind"] == "machine")
    what = ("torch", "triton", "numpy", "python")
    about = f"{named.get('gpu', 'cpu')}, {', '.join(f'{n} {named[n]}' for n in what)}"
    verdicts = [line(row) for row in rows if row["kind"] == "verdict"]
    lines = [wrapped(about), *(folded(text, MEASURE, WHOLE) for text in (HEADER, *verdicts))]
    lines += [
        f"{row['outcome']:<8} {row['name']}"
        for row in rows
        if row["kind"] == "test" and row["outcome"] != "passed"
    ]
    for row in (row for row in rows if row["kind"] == "part"):
        lines.append(
            f"{row['part']:<8} {row['status']}, {row['seconds']:.0f} of {row['limit']:g} s"
        )
        lines += [f"         {text}" for text in row["log"].splitlines()[-6:]]
    return "\n".join(lines)

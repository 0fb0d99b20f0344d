"""A Dask cluster on this machine whose parts tests start and kill, and what its workers do."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from verification.cluster import Cluster
from verification.serving import Job

ROOT = Path(__file__).resolve().parent.parent
DASK = """
from tests.mutation import alter
alter()
from runpy import run_module
run_module("dask", run_name="__main__")
"""


class Local:
    """A scheduler on one port, and workers, each a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.cluster = Cluster(self.address)
        self.scheduler, self.workers = None, []

    def start(self, *, workers=0):
        """Start the scheduler if it does not run, and that many more workers."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            at = ["--host", "127.0.0.1", "--port", str(self.port)]
            self.scheduler = self.launch("scheduler", *at)
        for _ in range(workers):
            at = [self.address, "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1"]
            at += ["--local-directory", str(self.folder / "workers")]
            self.workers.append(self.launch("worker", *at))

    def listening(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def launch(self, what, *options):
        apart = ["--no-dashboard", "--dashboard-address", ":0"]
        command = [sys.executable, "-c", DASK, what, *options, *apart]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def alive(self):
        return [worker for worker in self.workers if worker.poll() is None]

    def kill(self, *processes):
        for process in processes:
            process.kill()
            process.wait()

    def end(self):
        self.kill(*self.workers, *filter(None, [self.scheduler]))


class Cell(NamedTuple):
    """What a worker does: it writes lines to a log, "begun" and "ended" with its process."""

    name: str
    log: Path
    seconds: float = 0.0
    deaf: bool = False  # to being told to end


def note(cell, word):
    with cell.log.open("a") as log:  # one short line: not torn
        log.write(f"{word} {cell.name} {os.getpid()}\n")


def lines(log):
    """The lines of a log as (word, cell, process)."""
    text = log.read_text() if log.exists() else ""
    return [tuple(line.split()) for line in text.splitlines()]


def work(cell, here):
    note(cell, "begun")
    if cell.name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.name == "raises":
        raise ValueError("a defect of this cell")
    ends = time.monotonic() + (600 if cell.name == "endless" else cell.seconds)
    while time.monotonic() < ends:
        if here.stop() and not cell.deaf:
            note(cell, "told")
            return "unfinished"
        time.sleep(0.02)
    note(cell, "ended")
    return f"{cell.name} done"


def stamp(cell):
    return {"cell": cell.name}


def kept(result):
    return result.endswith("done")


JOB = Job(work, stamp, kept)

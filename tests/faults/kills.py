"""Kill a program with SIGKILL at random moments, run it again, compare with an undisturbed run.

`python -m tests.faults.kills PROGRAM FOLDER SEED TRIALS`: one process that imports all once and
forks each run; prints how many kills each trial took, then runs two writers at once; ends with 1 at
the first difference.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.faults.programs import PROGRAMS, Program, left

KILLS = 4  # of a trial; then it may finish
TRIES = 12


def forked(program: Program, folder: Path, number: int) -> int:
    """Start the program in a child process; return its id."""
    child = os.fork()
    if child == 0:
        os._exit(program.run(folder, number))
    return child


def undisturbed(program: Program, folder: Path, number: int) -> float:
    """Run the program here, so that children find all loaded; return its seconds."""
    folder.mkdir(parents=True)
    program.prepare(folder)
    start = time.perf_counter()
    assert program.run(folder, number) == 0
    return time.perf_counter() - start


def trial(program: Program, folder: Path, number: int, draw: random.Random) -> int:
    """Return the kills of one trial; AssertionError unless it ends like the undisturbed run."""
    seconds = undisturbed(program, folder / "whole", number)
    (folder / "killed").mkdir()
    program.prepare(folder / "killed")
    kills = 0
    for _ in range(TRIES):
        child = forked(program, folder / "killed", number)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            kills += 1
        else:  # it had ended before: nothing is left to be killed
            shutil.rmtree(folder / "killed" / "out")
        if kills == KILLS:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(forked(program, folder / "killed", number), 0)[1])
    assert code == 0, f"exit code {code}"
    whole, killed = left(folder / "whole"), left(folder / "killed")
    assert whole.keys() == killed.keys(), f"files: {sorted(whole.keys() ^ killed.keys())}"
    for name, content in whole.items():
        assert content == killed[name], f"{name} differs"
    return kills


def two_writers(program: Program, folder: Path) -> None:
    """Run two at once in one folder, then one: AssertionError unless that leaves all whole."""
    undisturbed(program, folder / "whole", 0)
    (folder / "shared").mkdir()
    program.prepare(folder / "shared")
    children = [forked(program, folder / "shared", 0) for _ in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert 0 <= min(codes) <= max(codes) <= 2, f"exit codes {codes}"  # a folder that is held: said
    assert program.run(folder / "shared") == 0
    assert left(folder / "whole") == left(folder / "shared")


def main() -> None:
    """Run the trials of one program."""
    program, folder = PROGRAMS[sys.argv[1]], Path(sys.argv[2])
    draw = random.Random(int(sys.argv[3]))
    undisturbed(program, folder / "first", 0)  # what it loads late is loaded now
    for number in range(int(sys.argv[4])):
        kills = trial(program, folder / str(number), number, draw)
        print(f"trial {number}: {kills} kills, equal", flush=True)
    two_writers(program, folder / "two")
    print("two writers: equal")


if __name__ == "__main__":
    main()

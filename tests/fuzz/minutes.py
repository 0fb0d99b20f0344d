"""Each door for some minutes, with draws that no run has seen: `python -m tests.fuzz MINUTES`."""

import inspect
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings

from tests.fuzz.test_doors import DOORS, DRAWN, often

BATCH = settings(often, max_examples=500, deadline=None, derandomize=False)


def withstood(name: str, minutes: float) -> int:
    """Return how many draws a door took in minutes of CPU time; the first error is raised."""
    DRAWN.clear()
    test = DOORS[name](BATCH)
    until = time.process_time() + 60 * minutes
    with TemporaryDirectory() as folder:
        names = inspect.signature(test).parameters
        given = {"tmp_path": Path(folder)} if "tmp_path" in names else {}
        while time.process_time() < until:
            test(**given)
    return len(DRAWN)

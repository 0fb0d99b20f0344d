"""A ledger of small claims for the tests of the runner: one of each kind of ending."""

import json
import os
import signal
import time
from pathlib import Path

from verification.claim import Claim
from verification.evidence import at_most, same
from verification.run import Ledger

EXPECTED = {"T1": "holds", "T2-square": "violated", "T3": "holds", "T4": "holds", "T5": "holds"}


def ledger_in(folder):
    """The ledger of the claims below, with its expectations in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "expected.json").write_text(json.dumps(EXPECTED))
    return Ledger(__name__, folder)


def _true(ctx):
    """A random number is below one.

    Assumptions: none.
    """
    x = ctx.rng("x").random(ctx.pick(3, 30))
    yield at_most("largest", x.max(), 1.0, rounding=0.0, n=len(x))
    yield same("difference", x[0] - x[0], rounding=0.0)


def _false(ctx):
    """Squares are at most as large as the numbers, $x^2 \\le x$."""
    yield _replay({"x": [1, 2]})


def _replay(instance):
    x = max(instance["x"])
    return at_most("square", x**2, x, rounding=0.0)


SCRIPT = """
import numpy as np
x = np.max(instance["x"])
print("measured =", x**2)
print("bound =", x)
"""


def _raises(ctx):
    """A program with a defect."""
    raise ZeroDivisionError("the defect")
    yield


def _killed_once(ctx):
    """The process that meets this claim first is killed; the second one finds the note it left."""
    note = Path(os.environ["FAKE_LEDGER_NOTE"])
    if not note.exists():
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield same("alive", 0.0, rounding=0.0)


def _killed(ctx):
    """Every process that meets this claim is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield


def _slow(ctx):
    """A claim that takes long."""
    time.sleep(60)
    yield same("late", 0.0, rounding=0.0)


TRUE = Claim("T1", "smoothness", "derived", _true)
FALSE = Claim(
    "T2-square",
    "smoothness",
    "derived",
    _false,
    replay=_replay,
    script=SCRIPT,
    instance=lambda: {"x": [1, 2]},
)
RAISES = Claim("T3", "rates", "derived", _raises)
KILLED_ONCE = Claim("T4", "rates", "derived", _killed_once)
KILLED = Claim("T5", "rates", "derived", _killed)
SLOW = Claim("T6", "rates", "derived", _slow)
CLAIMS = [TRUE, FALSE, RAISES, KILLED_ONCE, KILLED, SLOW]

"""A ledger of small claims for the tests of the runner: one for each way to end."""

import os
import signal
import time
from pathlib import Path

from verification.claim import Claim
from verification.evidence import at_most, same
from verification.replay import READING
from verification.run import Ledger


def ledger_in(folder):
    """The ledger of the claims below, with the program of the false one in a folder."""
    ledger = Ledger(__name__, folder)
    program = ledger.program(FALSE.script)
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(PROGRAM)
    return ledger


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


PROGRAM = f'''"""A square, with NumPy alone."""
{READING}
x = np.max(instance["x"])
print("measured =", x**2)
print("bound =", x)
'''


def _raises(ctx):
    """A program with a defect."""
    raise ZeroDivisionError("the defect")
    yield


def _killed_once(ctx):
    """The first process that gets this claim is killed; the second one finds the note it left."""
    note = Path(os.environ["FAKE_LEDGER_NOTE"])
    if not note.exists():
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield same("alive", 0.0, rounding=0.0)


def _killed(ctx):
    """Every process that gets this claim is killed."""
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
    expected="violated",
    replay=_replay,
    instance=lambda: {"x": [1, 2]},
    script="square",
)
RAISES = Claim("T3", "rates", "derived", _raises)
KILLED_ONCE = Claim("T4", "rates", "derived", _killed_once)
KILLED = Claim("T5", "rates", "derived", _killed)
SLOW = Claim("T6", "rates", "derived", _slow)
CLAIMS = [TRUE, FALSE, RAISES, KILLED_ONCE, KILLED, SLOW]

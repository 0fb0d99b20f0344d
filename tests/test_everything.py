"""`python -m verification all`: stages that are done are left out, failures stop their own."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from decaf_theory.sums import unsealed
from verification import everything
from verification.everything import Stage, run_all

ROOT = Path(__file__).parents[1]


def stage(out, name, code, *, reads=(), needs=(), **others):
    """A stage that notes each of its runs in NAME.log and writes NAME.txt."""
    program = (
        f"import pathlib, sys\nout = pathlib.Path({str(out)!r})\n"
        f"open(out / '{name}.log', 'a').write('x')\n"
        f"(out / '{name}.txt').write_text('of {name}')\n{code}"
    )
    command = [sys.executable, "-c", program]
    return Stage(name, f"does {name}", command, reads, [out / f"{name}.txt"], {}, needs, **others)


@pytest.fixture
def told():
    return []


@pytest.fixture
def go(tmp_path, told):
    def run(*plan):
        told.clear()
        return run_all(plan, tmp_path, told.append)

    return run


def runs(out, name):
    log = out / f"{name}.log"
    return len(log.read_text()) if log.exists() else 0


def test_a_second_run_does_nothing_and_says_so(go, told, tmp_path):
    plan = [stage(tmp_path, "a", ""), stage(tmp_path, "b", "")]
    assert [end.code for end in go(*plan).values()] == [0, 0]
    assert told[0] == "[1/2] a: does a"
    assert told[3].startswith("[2/2] b: 0.")
    assert [end.code for end in go(*plan).values()] == [0, 0]
    unchanged = "skipped, nothing has changed since it was done"
    assert told == [f"[1/2] a: {unchanged}", f"[2/2] b: {unchanged}"]
    assert runs(tmp_path, "a") == runs(tmp_path, "b") == 1


def test_a_stage_whose_package_is_missing_is_left_out_and_does_not_fail_the_run(
    go, told, tmp_path, monkeypatch
):
    plan = [stage(tmp_path, "a", "", packages=["torch"]), stage(tmp_path, "b", "")]
    monkeypatch.setattr("decaf_theory.extras.installed", lambda name: name != "torch")
    assert everything.exit_code(plan, go(*plan)) == 0
    assert told[0] == "[1/2] a: left out: torch not installed: pip install -e '.[torch]'"
    assert [runs(tmp_path, name) for name in "ab"] == [0, 1]
    monkeypatch.undo()
    go(*plan)
    assert [runs(tmp_path, name) for name in "ab"] == [1, 1]


def test_what_a_stage_reads_or_wrote_or_is_asked_makes_it_run_again(go, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "x").write_text("1")
    plan = stage(tmp_path, "a", "", reads=[source])
    go(plan)
    changes = (
        lambda: (source / "x").write_text("2"),
        lambda: (source / "new").write_text(""),
        lambda: (source / "new").rename(source / "renamed"),
        lambda: (tmp_path / "a.txt").write_text("damaged"),
        lambda: (tmp_path / "a.txt").unlink(),
        lambda: (tmp_path / everything.FILE).write_text("{not JSON"),
    )
    for count, change in enumerate(changes, 2):
        change()
        go(plan)
        assert runs(tmp_path, "a") == count
        go(plan)
        assert runs(tmp_path, "a") == count
    go(replace(plan, settings={"seed": 1}))
    assert runs(tmp_path, "a") == count + 1


def test_an_unexpected_result_is_one_and_is_remembered(go, told, tmp_path):
    plan = [stage(tmp_path, "a", "sys.exit(1)", differs="a verdict is unexpected")]
    for _ in range(2):
        assert everything.exit_code(plan, go(*plan)) == 1
        assert told[-1].endswith("; a verdict is unexpected")
    assert runs(tmp_path, "a") == 1
    soft = [replace(plan[0], counts=False)]
    assert everything.exit_code(soft, go(*soft)) == 0


def test_a_failure_is_named_stops_those_that_need_it_and_no_others(go, told, tmp_path):
    plan = [
        stage(tmp_path, "a", "sys.exit(3)"),
        stage(tmp_path, "b", "sys.exit(1)", differs="different"),
        stage(tmp_path, "c", "", needs=["a"]),
        stage(tmp_path, "d", "", needs=["b"]),
    ]
    ends = go(*plan)
    assert everything.exit_code(plan, ends) == 2
    assert ends["a"].words.endswith("FAILED with exit code 3")
    assert ends["b"].words.endswith("; different")
    assert ends["c"].words == "not run, it needs a, which failed"
    assert [runs(tmp_path, name) for name in "abcd"] == [1, 1, 0, 1]
    go(*plan)  # what failed is tried again
    assert [runs(tmp_path, name) for name in "abcd"] == [2, 1, 0, 1]


def test_a_killed_stage_failed(go, tmp_path):
    ends = go(stage(tmp_path, "a", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert ends["a"].code == 128 + signal.SIGKILL


def test_the_stages_are_four_and_the_page_needs_the_verdicts_alone(tmp_path):
    plan = everything.stages(tmp_path, size="full", seed=3, device="cpu", jobs=2)
    assert [s.name for s in plan] == ["verify", "bench", "draw", "report"]
    assert plan[0].command[1:] == (
        f"-m verification --size full --seed 3 --device cpu --out {tmp_path} --resume --jobs 2"
    ).split(" ")
    assert [list(s.needs) for s in plan] == [[], [], ["verify"], ["verify"]]
    assert [list(s.packages) for s in plan] == [[], ["torch"], [], []]
    other = everything.stages(tmp_path, size="full", seed=4, device="cpu", jobs=2)
    changed = [a.inputs() != b.inputs() for a, b in zip(plan, other, strict=True)]
    assert changed == [True, False, False, False]  # of the others the rows will change, if at all


SLOW = """
import sys, time
from pathlib import Path
out = Path(sys.argv[1])
try:
    (out / "begun").touch()
    time.sleep(60)
except KeyboardInterrupt:
    (out / "tidied").touch()
    sys.exit(130)
"""
PARENT = """
import signal, sys
from pathlib import Path
from verification.everything import Stage, run_all
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
out = Path(sys.argv[1])
plan = [Stage("a", "", [sys.executable, str(out / "slow.py"), str(out)], [], [])]
try:
    run_all(plan, out)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "parent alone"])
def test_an_interruption_lets_the_stage_tidy_up_and_leaves_no_process(tmp_path, whole_group):
    (tmp_path / "slow.py").write_text(SLOW)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, start_new_session=True
    )
    until = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.1)
    (os.killpg if whole_group else os.kill)(parent.pid, signal.SIGINT)
    assert parent.wait(20) == 130
    assert (tmp_path / "tidied").exists()
    assert unsealed(json.loads((tmp_path / everything.FILE).read_text())) == {}
    with pytest.raises(ProcessLookupError):  # its group is empty
        os.killpg(parent.pid, 0)

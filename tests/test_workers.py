"""The one loop of worker processes: a killed one costs its item a second try, and no other."""

import os
import signal
import time
from functools import partial

import pytest

from verification.workers import in_processes

pytestmark = pytest.mark.slow


def work(item, folder):
    """Double a number; "once" is killed the first time, "always" each time."""
    note = folder / f"{item}"
    if item == "always" or (item == "once" and not note.exists()):
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "large":
        raise MemoryError("no room for it")
    if item == "slow":
        time.sleep(2)
    ends = time.monotonic() + 60
    while item == "until told" and not (folder / "told").exists():
        assert time.monotonic() < ends, "it was never told"
        time.sleep(0.05)
    return f"{item} done"


def run(folder, items, **others):
    return list(
        in_processes(
            partial(work, folder=folder),
            items,
            jobs=2,
            name=lambda item: f"item {item}",
            failed=lambda item, why: f"{item} failed: {why}",
            **others,
        )
    )


def test_a_killed_process_costs_its_item_a_second_try_and_no_other(tmp_path, caplog):
    found = run(tmp_path, ["a", "once", "always", "b", "c"])
    assert sorted(found) == [
        "a done",
        "always failed: its process ended with exit code -9, 2 times",
        "b done",
        "c done",
        "once done",
    ]
    for item in ("once", "always"):
        assert f"item {item}: its process ended with exit code -9; trying once more" in caplog.text


def test_too_little_memory_in_a_process_is_raised_here(tmp_path):
    with pytest.raises(MemoryError, match="no room for it"):
        run(tmp_path, ["large", "slow"])


def test_once_it_stops_nothing_is_begun_and_what_runs_is_waited_for(tmp_path):
    started = time.monotonic()
    stopping = partial(lambda: time.monotonic() > started + 0.3)
    found = run(tmp_path, ["slow", "slow", "a", "b"], stopping=stopping)
    assert found == ["slow done", "slow done"]


def test_it_is_asked_whether_it_stops_while_all_processes_are_busy(tmp_path):
    asked = []

    def stopping():
        asked.append(time.monotonic())
        if len(asked) > 3:
            (tmp_path / "told").touch()  # what a caller may do to end those that are at work
        return len(asked) > 3

    assert (
        run(tmp_path, ["until told", "until told", "a"], stopping=stopping)
        == ["until told done"] * 2
    )


def test_signals_for_the_whole_group_do_not_reach_the_workers(tmp_path, caplog):
    def signal_workers():
        for child in children():
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(child, number)
        return False

    found = run(tmp_path, ["slow", "a"], stopping=signal_workers)
    assert sorted(found) == ["a done", "slow done"]
    assert not caplog.text


def children():
    from multiprocessing import active_children

    return [child.pid for child in active_children()]

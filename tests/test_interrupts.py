"""SIGINT and SIGTERM: one line and 128 + the signal; the handlers of before are back."""

import io
import os
import signal
import sys
import threading

import pytest

from decaf_theory import interrupts
from decaf_theory.interrupts import in_one_line, interruptions
from decaf_theory.terminal import prepare

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """A shell may start the tests with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_and_its_code(number, capsys):
    def run():
        os.kill(os.getpid(), number)
        signal.pause()

    assert in_one_line(run, "interrupted; kept") == 128 + number
    assert capsys.readouterr() == ("", "interrupted; kept\n")


def test_without_a_signal_the_code_is_that_of_the_program():
    assert in_one_line(lambda: 5, "") == 5


def test_a_first_signal_is_collected_and_a_second_one_interrupts():
    with interruptions() as found:
        os.kill(os.getpid(), signal.SIGTERM)
        assert found == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_signal_is_answered_where_the_end_may_take_long(capsys):
    with interruptions("soon") as found:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), 0)  # no signal, and no second answer
        assert (found, capsys.readouterr().err) == ([signal.SIGTERM], "soon\n")


def test_other_threads_set_no_handlers():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(in_one_line(lambda: 0, "")))
    thread.start()
    thread.join()
    assert codes == [0]


def test_what_is_blocked_is_delayed_and_not_lost():
    with interruptions() as found:
        with interrupts.blocked():
            # to this thread: others, of the test runner, do not block it
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert found == []
        assert found == [signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_streams_are_prepared_leaves_them_whole(monkeypatch, number):
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)  # hears what the main thread would not
    other.start()

    class Stream(io.TextIOWrapper):
        def reconfigure(self, **settings):
            os.kill(os.getpid(), number)
            super().reconfigure(**settings)

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Stream(io.BytesIO(), encoding="ascii"))
    try:
        assert in_one_line(lambda: prepare() or 0, "interrupted") == 128 + number
    finally:
        ended.set()
        other.join()
    assert [sys.stdout.errors, sys.stderr.errors] == ["backslashreplace"] * 2
    sys.stderr.flush()
    assert sys.stderr.buffer.getvalue().decode().splitlines() == ["interrupted"]

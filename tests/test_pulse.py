"""Tests are never silent for a minute: a line says what they wait for."""

from types import SimpleNamespace

from tests.pulse import LOOKS, SILENCE, Pulse


def test_what_is_silent_for_long_says_what_it_waits_for():
    now, said = [0.0], []
    pulse = Pulse(said.append, lambda: now[0])
    now[0] = SILENCE
    pulse.look()
    assert said == ["still at work: loading the tests"]
    pulse.pytest_runtest_logstart("a")
    pulse.pytest_runtest_logstart("b")
    for when in ("call", "teardown"):
        pulse.pytest_runtest_logreport(SimpleNamespace(when=when, nodeid="a"))
    now[0] += SILENCE - 1
    pulse.look()
    assert len(said) == 1
    now[0] += LOOKS
    pulse.look()
    assert said[1:] == [f"still at work: b ({SILENCE - 1 + LOOKS:.0f} s)"]
    pulse.look()
    assert len(said) == 2


def test_a_line_comes_before_a_minute_is_over():
    assert SILENCE + LOOKS < 60


def test_the_process_that_prints_listens(request):
    worker = hasattr(request.config, "workerinput")
    assert request.config.pluginmanager.has_plugin("pulse") != worker

"""A line where tests have been silent for a while: what they wait for."""

import threading
import time

SILENCE = 45.0  # seconds; a minute without a word looks like a hang
LOOKS = 5.0  # seconds between two looks at the clock


class Pulse:
    """Follows which tests run, and says so if nothing else was printed for `SILENCE` seconds.

    A pytest plugin of the process that prints; xdist tells it of its workers' tests.
    """

    def __init__(self, say, clock=time.monotonic):
        """Begin to listen. say(line): prints it."""
        self.say, self.clock = say, clock
        self.begun = {}  # test -> when
        self.last = clock()
        self.done = threading.Event()

    def pytest_runtest_logstart(self, nodeid):
        """Note a test that begins, which prints nothing."""
        self.begun[nodeid] = self.clock()

    def pytest_runtest_logreport(self, report):
        """Note what is printed: a dot, after the test itself or where its setup failed."""
        if report.when == "teardown":
            self.begun.pop(report.nodeid, None)
        else:
            self.last = self.clock()

    def look(self):
        """Say what is waited for, if it was silent for long."""
        now = self.clock()
        if now - self.last < SILENCE:
            return
        self.last = now
        tests = [f"{nodeid} ({now - since:.0f} s)" for nodeid, since in self.begun.items()]
        self.say(f"still at work: {', '.join(tests) or 'loading the tests'}")

    def start(self):
        """Look at the clock now and then, until `pytest_unconfigure`."""
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        """Look until all is done."""
        while not self.done.wait(LOOKS):
            self.look()

    def pytest_unconfigure(self):
        """End it."""
        self.done.set()

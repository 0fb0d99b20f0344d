"""One BLAS thread for every test, hypothesis profiles, one run of all claims, outside data.

Also terminals of every width.
"""

import fcntl
import gc
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import pytest  # noqa: E402  (threads are set before NumPy loads)
from hypothesis import HealthCheck, settings  # noqa: E402

from tests.pulse import Pulse  # noqa: E402

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
settings.register_profile(
    "night", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

WIDTHS = (60, 80, 96, 120, 200)  # of terminals

# files of which one test, or what it is set up with, takes long; the first makes the quick run
LONGEST = [
    "tests/test_claims.py",
    "tests/test_figures.py",
    "tests/test_dryrun.py",
    "tests/test_jacobi_triton.py",
    "tests/test_tournament_command.py",
    "tests/faults/test_kills.py",
    "tests/faults/test_signals.py",
    "tests/test_report_browser.py",
    "tests/test_site.py",
    "tests/test_report.py",
    "tests/test_attacks.py",
    "tests/test_verification.py",
]


def pytest_configure(config):
    """Keep the order of the files, for xdist would begin with those of the most tests."""
    config.option.loadscopereorder = False


def pytest_sessionstart(session):
    """Let the process that prints say what is waited for, where tests are silent for long."""
    config = session.config
    printer = config.pluginmanager.get_plugin("terminalreporter")
    if printer and not hasattr(config, "workerinput"):
        pulse = Pulse(lambda line: printer.write_line(f"\n{line}"))
        config.pluginmanager.register(pulse, "pulse")
        pulse.start()


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that no process is left with one at the end."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect tests without looking for garbage, and later not among what is loaded by now."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_logreport(report):
    """Note what was skipped, a line each, in the file that DECAF_SKIPPED names."""
    named = os.environ.get("DECAF_SKIPPED")
    if named and report.skipped and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(named).open("a") as file:
            file.write(report.nodeid + "\n")


pytest_collectreport = pytest_runtest_logreport  # a whole file may be skipped, too


@pytest.fixture
def outside_data():
    """Return a function that finds data the project does not ship, or skips the test.

    The environment variable DECAF_DATA names a folder with boolq/, sst2/, wic/ and adapters/.
    """

    def find(name: str) -> Path:
        root = os.environ.get("DECAF_DATA")
        if not root:
            pytest.skip("DECAF_DATA does not name a folder of outside data")
        if not (Path(root) / name).is_dir():
            pytest.skip(f"the folder DECAF_DATA has no {name}")
        return Path(root) / name

    return find


@pytest.fixture
def fitted(monkeypatch):
    """Return a function: what another returns in a pipe; on terminals it has the same words."""
    from decaf_theory import terminal

    def check(make) -> str:
        texts = {}
        for columns in (None, *WIDTHS):
            monkeypatch.setattr(terminal, "columns", lambda *_, columns=columns: columns)
            texts[columns] = make()
            assert texts[columns].split() == texts[None].split()
            for line in texts[columns].splitlines():  # a name or a path stays whole
                assert columns is None or len(line) <= columns or len(line.split()) == 1, line
        assert texts[WIDTHS[0]] != texts[None]
        return texts[None]

    return check


def run_quickly(folder: Path, *arguments: str) -> tuple[str, Path]:
    """Return what a quick run of the claims prints, and where its results are."""
    out = folder / "results"
    command = [sys.executable, "-m", "verification", "--out", str(out), *arguments]
    root = Path(__file__).parent.parent
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout, out


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory) -> tuple[str, Path]:
    """What a quick run of all claims prints, and its results: one run for all processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "quick run"
    folder.mkdir(exist_ok=True)
    printed = folder / "printed.txt"
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not printed.exists():
            printed.write_text(run_quickly(folder, "--jobs", "2")[0])
    return printed.read_text(), folder / "results"


@pytest.fixture(scope="session")
def stored(request):
    """Return a function: the rows of a claim, of the quick run of all if a test needs it anyway."""
    from tests.claim_rows import rows_of
    from verification import store
    from verification.claim import Row

    if not any("quick_run" in item.fixturenames for item in request.session.items):
        return rows_of
    out = request.getfixturevalue("quick_run")[1]
    return cache(lambda name: tuple(map(Row.from_json, store.read_rows(out, name))))

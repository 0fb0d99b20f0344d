"""Full disks and places that cannot be written: one line with path and option, nothing torn."""

import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory import cli as decaf
from paper_checks import finetune, tasks
from tests.faults.programs import PROGRAMS

BENCH = ["bench", "--quick", "--only", "G10", "--json"]
ROOM = 400  # KiB: room for the check before the work, not for all of it


@pytest.fixture(autouse=True)
def tasks_of_before(monkeypatch):
    """Undo what `prepare` sets."""
    for module in (finetune, tasks):
        monkeypatch.setattr(module, "load_task", module.load_task)


@pytest.fixture
def disk(tmp_path):
    """Return a function that makes a small disk below a folder."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("a small disk needs Linux and root")
    mounted = []

    def mount(place, kib):
        place.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no small disk can be made here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place, spare=0):
    """Fill a disk but for some bytes."""
    path = place / "filling"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    with path.open("rb+") as file:
        file.truncate(max(0, path.stat().st_size - spare))


def refused(main, arguments, capsys):
    """Return the one line of a program that ends with two."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "rror: " in line
    return line


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_full_disk_is_met_before_the_work(disk, tmp_path, capsys, name):
    program = PROGRAMS[name]
    program.prepare(tmp_path)
    disk(tmp_path / "out", ROOM)
    fill(tmp_path / "out")
    line = refused(program.main, program.argv(tmp_path, 0), capsys)
    assert "No space left on device" in line
    assert str(tmp_path / "out") in line
    assert "--out" in line
    assert {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()} == {"filling"}


@pytest.mark.parametrize("name", ["verification", "figures", "run"])
def test_a_disk_that_becomes_full_is_named_and_nothing_torn_stays(disk, tmp_path, capsys, name):
    program = PROGRAMS[name]
    program.prepare(tmp_path)
    disk(tmp_path / "out", ROOM)
    fill(tmp_path / "out", spare=96 << 10)
    line = refused(program.main, program.argv(tmp_path, 0), capsys)
    assert "No space left on device" in line
    assert str(tmp_path / "out") in line
    assert "--out" in line
    torn = [p for p in (tmp_path / "out").rglob(".*") if p.name != ".lock"]
    assert not torn


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_place_below_a_file_is_named_with_its_option(tmp_path, capsys, name):
    program = PROGRAMS[name]
    program.prepare(tmp_path)
    (tmp_path / "out").touch()
    line = refused(program.main, program.argv(tmp_path, 0), capsys)
    assert str(tmp_path / "out") in line
    assert "--out" in line


def test_a_benchmark_that_cannot_be_stored_is_met_before_it_is_timed(disk, tmp_path, capsys):
    disk(tmp_path / "out", ROOM)
    fill(tmp_path / "out")
    line = refused(decaf.main, [*BENCH, str(tmp_path / "out" / "bench.jsonl")], capsys)
    assert "No space left on device" in line
    assert "--json" in line

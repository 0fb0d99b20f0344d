import json
import math
import os
import stat
import subprocess
import sys
import tempfile

import pytest

from decaf_theory.files import (
    UnwritableError,
    from_lines,
    require_writable,
    strict,
    temporary,
    to_json,
    to_lines,
    write_atomically,
)


def test_writing_leaves_the_old_file_where_it_fails_and_no_part_of_the_new(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_written_file_can_be_read_by_others(tmp_path):
    write_atomically(tmp_path / "file", b"x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_file_finds_or_makes_its_folder(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file", b"x")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_numbers_that_json_lacks_are_stored_as_strings_at_any_depth():
    odd = {"a": [math.nan, (math.inf, 1.5)], "b": {"c": -math.inf}}
    assert strict(odd) == {"a": ["nan", ["inf", 1.5]], "b": {"c": "-inf"}}
    assert json.loads(to_json(odd), parse_constant=refuse) == strict(odd)


def test_lines_are_flat_with_sorted_keys_and_come_back():
    rows = [{"b": math.inf, "a": 1}, {"a": "é"}]
    data = to_lines(rows)
    assert data.splitlines()[0] == b'{"a": 1, "b": "inf"}'
    assert from_lines(data) == [{"a": 1, "b": "inf"}, {"a": "é"}]
    assert from_lines(b"") == []


def test_what_json_cannot_hold_and_half_a_line_are_errors():
    with pytest.raises(TypeError):
        to_lines([{"a": object()}])
    with pytest.raises(ValueError, match="line 2: Expecting"):
        from_lines(b'{"a": 1}\n{"a":')


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n[1]\n', "line 2: must be an object, got list"),
        (b'{"a": 1}\n\n{"b": 2}\n', "line 2: Expecting value"),
        (b'{"a": "\xff"}\n', "line 1: 'utf-8' codec"),
        (b'{"a": ' + b"[" * 100_000, "line 1: brackets are nested too deeply"),
    ],
)
def test_a_line_that_is_no_object_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        from_lines(data)


def test_lines_may_hold_what_python_takes_for_the_end_of_one():
    assert from_lines(to_lines([{"a": "x\u2028y"}])) == [{"a": "x\u2028y"}]
    assert from_lines('{"a": "x\u2028y"}\n'.encode()) == [{"a": "x\u2028y"}]


# ---------------------------------------------------------------- what stays behind, what is named


def test_a_link_is_followed_and_not_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "file"
    target.write_bytes(b"old")
    (tmp_path / "link").symlink_to(target)
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert target.read_bytes() == b"new"


def dead_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    path = tmp_path / "file [1]"
    mine = temporary(path)
    assert mine.endswith(f"{os.getpid()}.")
    dead = mine.replace(f"{os.getpid()}.", f"{dead_process()}.")
    for name in (f"{dead}abc", f"{mine}abc", f".other{dead}", "file"):
        (tmp_path / name).write_bytes(b"torn")
    (tmp_path / f"{dead}folder").mkdir()
    (tmp_path / f"{dead}folder" / "inside").write_bytes(b"torn")
    write_atomically(path, b"whole")
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted([f"{mine}abc", f".other{dead}", "file", path.name])


def test_a_place_that_cannot_be_written_is_named_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for call in (lambda p: write_atomically(p, b""), lambda p: require_writable(p.parent)):
        with pytest.raises(UnwritableError, match=r"^cannot write .*file.*: .*(exists|directory)"):
            call(tmp_path / "file" / "below")


def test_room_is_asked_for_before_the_work(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, data):
            assert len(data) > 4096  # an empty file fits on a full disk
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(UnwritableError, match=f"cannot write {tmp_path}: No space left on device"):
        require_writable(tmp_path)

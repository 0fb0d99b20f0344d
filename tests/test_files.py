import json
import math
import os
import stat

import pytest

from decaf_theory.files import from_lines, strict, to_json, to_lines, write_atomically


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

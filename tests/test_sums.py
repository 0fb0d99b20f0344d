"""Checksums: what was written comes back, and no flipped bit is believed."""

import json
import math

import numpy as np
import pytest

from decaf_theory import sums
from decaf_theory.files import to_json

RECORD = {
    "claim": "T1",
    "tightness": 0.1 + 0.2,
    "rows": 3,
    "odd": math.inf,
    "deep": {"é": [1, None]},
}
ROWS = [{"b": 1.5, "a": "x"}, {"a": math.nan}]


def read_record(data):
    return sums.unsealed(json.loads(data))


FORMS = {
    "record": (to_json(sums.sealed(RECORD)), read_record),
    "lines": (sums.seal_lines(ROWS), sums.unseal_lines),
    "bytes": (sums.seal_bytes(b"some payload"), sums.unseal_bytes),
}


def test_what_was_sealed_comes_back():
    assert read_record(FORMS["record"][0]) == {**RECORD, "odd": "inf"}
    assert sums.unseal_lines(FORMS["lines"][0]) == [{"a": "x", "b": 1.5}, {"a": "nan"}]
    assert sums.unseal_lines(sums.seal_lines([])) == []
    assert sums.unseal_bytes(FORMS["bytes"][0]) == b"some payload"
    assert sums.sealed(sums.sealed(RECORD)) == sums.sealed(RECORD)


@pytest.mark.parametrize("form", FORMS)
def test_every_flipped_bit_and_every_cut_is_met_or_changes_nothing(form):
    data, read = FORMS[form]
    whole = read(data)
    changed = [data[:length] for length in range(len(data))]
    for place in range(len(data)):
        for bit in range(8):
            changed.append(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
    for bad in changed:
        try:
            found = read(bad)
        except ValueError:
            continue
        assert found == whole, bad  # as 1e5 and 1E5


@pytest.mark.parametrize("bad", [None, 3, [], "sum", {}, {"a": 1}, {"sum": "0", "a": 1}])
def test_what_has_no_sum_or_another_is_refused(bad):
    with pytest.raises(ValueError, match=r"its checksum is (missing|wrong)"):
        sums.unsealed(bad)


@pytest.mark.parametrize("data", [b"", b"{}\n", b"3\n", b'{"a": 1}\n', b'{"sum": "0"}\n'])
def test_lines_without_their_sum_are_refused(data):
    with pytest.raises(ValueError, match=r"its checksum is (missing|wrong)|must be an object"):
        sums.unseal_lines(data)


def test_the_sum_of_arrays_depends_on_names_types_shapes_and_numbers_alone():
    X = np.arange(6.0)
    others = [{"b": X}, {"a": X.reshape(2, 3)}, {"a": X.view("i8")}, {"a": -X}, {"a": X, "b": X}]
    found = {sums.sum_of_arrays(arrays) for arrays in ({"a": X}, *others)}
    assert len(found) == 1 + len(others)
    assert sums.sum_of_arrays({"a": X, "b": -X}) == sums.sum_of_arrays({"b": -X, "a": X})
    assert sums.sum_of_arrays({"a": X.reshape(2, 3).T}) == sums.sum_of_arrays(
        {"a": np.ascontiguousarray(X.reshape(2, 3).T)}
    )


def test_the_sum_of_files_depends_on_their_names_below_a_folder_and_their_bytes(tmp_path):
    def folder(place, name, text):
        path = tmp_path / place / "data"
        path.mkdir(parents=True)
        (path / name).write_text(text)
        return sums.sum_of_files([path])

    assert folder("1", "a", "x") == folder("2", "a", "x")
    found = {folder("3", "b", "x"), folder("4", "a", "y"), sums.sum_of_files([])}
    assert len(found | {folder("5", "a", "x")}) == 4
    assert sums.sum_of_files([tmp_path / "none"]) != sums.sum_of_files([tmp_path / "1"])

import hashlib
import json
import math
from pathlib import Path

import pytest

from verification import provenance, store
from verification.evidence import at_most

CONFIGURATION = {"version": "1", "code": "abc", "commit": "one", "size": "quick", "seed": 0}
VERDICT = {"claim": "T1", "outcome": "holds"}


def rows(measured=0.5):
    return [at_most("c", measured, 1.0, rounding=1e-15, r=4, topology="ring").as_json()]


def run_of(out, **changes):
    return store.open_run(out, {**CONFIGURATION, **changes}, ["T1", "T2", "T3"])


def filled(out):
    run, _ = run_of(out)
    for claim in ("T2", "T1"):
        run.put(claim, rows(), {**VERDICT, "claim": claim})
    return run


def test_rows_come_back_as_they_went(tmp_path):
    filled(tmp_path)
    assert store.read_rows(tmp_path, "T1") == [{"claim": "T1", **rows()[0]}]
    assert store.read_rows(str(tmp_path), "T2")[0]["claim"] == "T2"


def test_a_row_file_is_flat_json_with_sorted_keys_and_no_time(tmp_path):
    filled(tmp_path)
    line = store.rows_path(tmp_path, "T1").read_text().rstrip("\n")
    found = json.loads(line)
    assert line == json.dumps(found, sort_keys=True)
    assert not any(isinstance(value, (dict, list)) for value in found.values())
    assert not {"time", "date", "seconds"} & found.keys()


def test_files_list_claims_in_reading_order_whatever_came_first(tmp_path):
    filled(tmp_path)
    assert list(json.loads((tmp_path / "run.json").read_text())["files"]) == ["T1", "T2"]
    assert [v["claim"] for v in json.loads((tmp_path / "verdicts.json").read_text())] == [
        "T1",
        "T2",
    ]


def test_nan_and_infinities_are_stored_as_strings_of_strict_json(tmp_path):
    run, _ = run_of(tmp_path)
    odd = [
        {**rows()[0], "measured": math.nan, "high": math.inf, "low": -math.inf, "scale": math.inf}
    ]
    run.put("T1", odd, VERDICT)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    line = store.rows_path(tmp_path, "T1").read_text()
    assert json.loads(line, parse_constant=refuse)["measured"] == "nan"
    (row,) = store.read_rows(tmp_path, "T1")
    assert math.isnan(row["measured"])
    assert (row["low"], row["high"]) == (-math.inf, math.inf)
    assert row["scale"] == "inf"  # only the fields of NUMBERS are turned back


@pytest.mark.parametrize("value", [True, None, "1.0", "NaN", [1.0]])
def test_a_stored_number_is_a_number(value):
    with pytest.raises(ValueError, match="expected a number"):
        store.number(value)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_bytes(b"")


DAMAGES = [truncate, flip_a_bit, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_file_is_named(tmp_path, damage):
    filled(tmp_path)
    damage(store.rows_path(tmp_path, "T1"))
    with pytest.raises(
        store.StoreError, match=r"rows/T1\.jsonl is truncated or altered.*--only T1"
    ):
        store.read_rows(tmp_path, "T1")
    assert store.read_rows(tmp_path, "T2")


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink])
def test_a_damaged_row_file_is_dropped_by_the_next_run_and_the_others_kept(tmp_path, damage):
    filled(tmp_path)
    damage(store.rows_path(tmp_path, "T1"))
    run, (reason,) = run_of(tmp_path)
    assert "T1.jsonl is" in reason
    assert (list(run.files), list(run.verdicts)) == (["T2"], ["T2"])


@pytest.mark.parametrize("name", ["run.json", "verdicts.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_named_and_nothing_is_taken_from_it(tmp_path, name, damage):
    filled(tmp_path)
    damage(tmp_path / name)
    run, (reason,) = run_of(tmp_path)
    assert f"{name} is damaged" in reason
    assert not run.files
    assert not run.verdicts


def test_rows_that_are_missing_say_how_to_make_them(tmp_path):
    with pytest.raises(store.StoreError, match=r"run\.json is missing; run python -m verification"):
        store.read_rows(tmp_path, "T1")
    filled(tmp_path)
    with pytest.raises(store.StoreError, match=r"no rows of claim T9 in .*--only T9 --out"):
        store.read_rows(tmp_path, "T9")
    with pytest.raises(store.StoreError, match=r"claims T8, T9 in .*--only T8 T9 --out"):
        store.checksums(tmp_path, ["T1", "T8", "T9"])
    store.rows_path(tmp_path, "T1").unlink()
    with pytest.raises(store.StoreError, match=r"T1\.jsonl is missing; run .*--only T1"):
        store.read_rows(tmp_path, "T1")


def test_the_same_configuration_is_added_to_and_another_one_is_not_mixed_in(tmp_path):
    filled(tmp_path)
    run, reasons = run_of(tmp_path, commit="two")  # the code is the same
    assert reasons == []
    assert list(run.files) == ["T1", "T2"]
    run, reasons = run_of(tmp_path, seed=7)
    assert reasons == ["seed: 0 -> 7"]
    assert not run.files
    assert not store.rows_path(tmp_path, "T1").exists()


def test_a_claim_without_rows_leaves_no_file(tmp_path):
    run = filled(tmp_path)
    run.put("T1", [], {"claim": "T1", "outcome": "error"})
    assert not store.rows_path(tmp_path, "T1").exists()
    assert list(json.loads((tmp_path / "run.json").read_text())["files"]) == ["T2"]


def test_one_folder_has_one_writer_at_a_time(tmp_path):
    with store.locked(tmp_path):
        with (
            pytest.raises(store.StoreError, match="another run is writing to"),
            store.locked(tmp_path),
        ):
            pass
    with store.locked(tmp_path):
        pass


def test_a_run_of_some_claims_takes_no_damage_for_a_reason_to_remove_the_others(tmp_path):
    filled(tmp_path)
    flip_a_bit(tmp_path / "run.json")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(store.StoreError, match=r"run\.json is damaged .* choose another folder"):
        store.open_run(tmp_path, CONFIGURATION, ["T1", "T2"], partial=True)
    assert {path: path.read_bytes() for path in kept} == kept


def test_the_lock_does_not_empty_what_a_link_in_its_place_points_to(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with store.locked(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_system_without_file_locks_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "installed", lambda name: False)
    with store.locked(tmp_path):
        pass
    assert f"no file locks (fcntl): start no second run that writes to {tmp_path}" in (
        capsys.readouterr().err
    )


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(store.StoreError, match=r"cannot write results to .*file/out.*--out"):
        store.require_writable(tmp_path / "file" / "out")


def test_a_path_with_spaces_and_letters_of_any_language_works(tmp_path):
    out = tmp_path / "résultats à moi"
    filled(out)
    assert store.read_rows(out, "T1")


def test_the_sums_are_those_of_the_files(tmp_path):
    run = filled(tmp_path)
    data = store.rows_path(tmp_path, "T1").read_bytes()
    assert run.files["T1"] == hashlib.sha256(data).hexdigest()


def test_a_configuration_names_what_numbers_depend_on():
    found = provenance.configuration(size="quick", seed=3, device="cpu")
    assert {
        "version",
        "commit",
        "code",
        "python",
        "libraries",
        "device",
        "dtype",
        "threads",
    } <= set(found)
    assert (found["seed"], found["size"], found["dtype"]) == (3, "quick", "float64")
    assert found["libraries"]["numpy"]
    assert found["code"] == provenance.code_sum()


def test_every_entry_that_one_of_two_has_is_compared_but_the_commit():
    old = {"code": "a", "commit": "1", "libraries.numpy": "2.0", "seed": 0}
    new = {"code": "b", "commit": "2", "seed": 0, "python": "3.12", "device": "cuda"}
    assert provenance.differences(old, new) == [
        "code: a -> b",
        "device: None -> cuda",
        "libraries.numpy: 2.0 -> None",
        "python: None -> 3.12",
    ]
    assert provenance.differences(old, new, accept_code=True) == ["device: None -> cuda"]
    assert provenance.differences(old, old) == []


def test_a_verdict_that_is_other_json_than_was_written_is_met(tmp_path):
    filled(tmp_path)
    path = tmp_path / "verdicts.json"
    path.write_bytes(path.read_bytes().replace(b'"holds"', b'"folds"', 1))
    with pytest.raises(
        store.StoreError, match=r"verdicts\.json is damaged \(its checksum is wrong"
    ):
        store.read_records(path)
    run, (reason,) = run_of(tmp_path)
    assert "verdicts.json is damaged" in reason
    assert not run.verdicts

import re

import pytest

from figures import FIGURES, style
from figures.__main__ import caption, main
from figures.rows import read
from verification import store
from verification.run import LEDGER, Settings, evaluate

CLAIMS = {claim.id: claim for claim in LEDGER.claims}
NAMES = list(FIGURES)
DRAWN = ("measured",)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with the rows that every figure needs."""
    out = tmp_path_factory.mktemp("results")
    run, _ = store.open_run(out, {"version": "test"}, list(CLAIMS))
    for claim in sorted(
        {need for figure in FIGURES.values() for need in figure.NEEDS} & set(CLAIMS)
    ):
        found = evaluate(CLAIMS[claim], Settings())
        assert not found.error, found.error
        run.put(claim, (row.as_json() for row in found.rows), {"claim": claim})
    return out


def rows_of(results, name):
    return read(results, FIGURES[name].NEEDS)


def drawn(rows, name, folder):
    folder.mkdir()
    return {path.suffix: path.read_bytes() for path in FIGURES[name].draw(rows, folder / name)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equal_rows_give_equal_bytes_and_a_changed_row_gives_others(results, tmp_path, name):
    rows = rows_of(results, name)
    first = drawn(rows, name, tmp_path / "first")
    assert first == drawn(rows, name, tmp_path / "second")
    # the number of every stored row that is drawn moves a curve: raise all, one file must differ
    changed = [{k: 1.5 * v if k in DRAWN else v for k, v in row.items()} for row in rows]
    others = drawn(changed, name, tmp_path / "third")
    assert all(others[ending] != first[ending] for ending in first)


@pytest.mark.slow
def test_one_changed_row_changes_the_figure(results, tmp_path):
    rows = rows_of(results, "difference")
    wanted = {"r": 8, "scaling": "eta/r", "norm": "fro", "family": "random"}
    (place,) = [i for i, row in enumerate(rows) if wanted.items() <= row.items()]
    changed = [*rows]
    changed[place] = {**rows[place], "measured": 1.01 * rows[place]["measured"]}
    first, other = (
        drawn(given, "difference", tmp_path / folder)
        for given, folder in ((rows, "first"), (changed, "other"))
    )
    assert first[".svg"] != other[".svg"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_one_column_wide_in_vectors_and_bears_no_date(results, tmp_path, name):
    files = drawn(rows_of(results, name), name, tmp_path / "out")
    assert set(files) == {".pdf", ".svg", ".png"}
    assert f'width="{72 * style.WIDTH:.1f}pt"'.encode() in files[".svg"]
    assert files[".pdf"].startswith(b"%PDF")
    assert f"MediaBox [ 0 0 {72 * style.WIDTH:.1f} ".encode() in files[".pdf"]
    for data in files.values():
        assert not re.search(rb"CreationDate|dc:date|tIME|Matplotlib v", data)


@pytest.mark.slow
def test_figures_are_drawn_from_the_command_line_with_captions(results, tmp_path, capsys):
    assert main(["--results", str(results), "--out", str(tmp_path)]) == 0
    files = {path.name for path in tmp_path.iterdir()}
    printed = capsys.readouterr().out
    for name in NAMES:
        assert {f"{name}.{ending}" for ending in ("pdf", "svg", "png", "txt")} <= files
        text = (tmp_path / f"{name}.txt").read_text()
        assert text == caption(name, rows_of(results, name))
        assert "{" not in text
        assert max(map(len, text.splitlines())) <= 100
        assert f"{name}: " in printed


def test_without_rows_a_line_says_which_command_makes_them(tmp_path, capsys):
    arguments = ["--results", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES) + 1
    assert lines.pop().startswith("report: not written: ")
    assert all("not drawn" in line and "python -m verification" in line for line in lines)
    assert main([*arguments, "--only", NAMES[0]]) == 1
    assert not list((tmp_path / "out").iterdir())


def test_rows_that_lack_a_curve_are_named(results, tmp_path):
    rows = [row for row in rows_of(results, "difference") if row.get("family") != "random"]
    with pytest.raises(ValueError, match=r"no rows of T13 with .*'family': 'random'"):
        FIGURES["difference"].draw(rows, tmp_path / "difference")


def test_an_unknown_figure_is_bad_usage_and_the_nearest_is_named(capsys):
    assert main(["--only", "diference"]) == 2
    assert "did you mean difference?" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_bad_usage(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_every_method_has_a_look_of_its_own():
    looks = [(m["color"], m["marker"]) for m in style.METHODS.values()]
    assert len(set(looks)) == len(looks)

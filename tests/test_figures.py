import contextlib
import io
import math
import os
import re
import shutil
from functools import cache

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from decaf_theory.files import to_json
from decaf_theory.sums import seal_lines, sealed
from figures import adapters, partition, rows, style, training
from figures.cli import caption, main
from figures.table import FIGURES
from paper_checks.kept import experiments, save
from tests import drawn_bounds, figure_rows
from verification import provenance, store
from verification.claim import RESOLUTION
from verification.evidence import EPS
from verification.run import LEDGER

CLAIMS = {claim.id: claim for claim in LEDGER.claims}
NAMES = list(FIGURES)
DRAWN = [name for name in NAMES if FIGURES[name].NEEDS]
NEEDED = sorted({need for figure in FIGURES.values() for need in figure.NEEDS})
ENDINGS = (".pdf", ".svg", ".png")
# the numbers that curves are made of, in whatever rows
VALUES = ("measured", "lost", "finest", "value_0", "tightness", "seconds", "score", "median")
VALUES += ("own_from_base", "counts")
VALUES += ("own", "mean", "first_interference")
# a row of each figure, by what it holds: that alone must change the figure
ONE = {
    "difference": {"r": 8, "scaling": "eta/r", "norm": "fro", "family": "random"},
    "truncation": {"source": "T17", "r": 4, "family": "trained", "quantile": 0.5},
    "convergence": {"method": "dsgd", "topology": "ring", "T": 16, "evidence": "exact"},
    "rate": {"part": "agents", "topology": "ring", "N": 4},
    "consensus": {"part": "noise", "topology": "torus", "N": 16},
    "smoothness": {"source": "T2", "scaling": "eta/r", "r": 4, "family": "random"},
    "start": {"part": "dead start", "method": "dlora", "step": 20},
    "training": {"mix.method": "decaf", "train.seed": 0, "round": 2},
    "partition": {"mix.method": "decaf", "train.seed": 0},
    "tightness": {"source": "verdicts", "claim": "T28"},
    "tournament": {"task": "net", "network": "ring", "budget": "bytes"},
    "gauge_distance": {"cell": "spread30", "method": "dlora", "seed": 0},
    "local_steps": {"cell": "once", "method": "decaf", "seed": 1},
    "cost": {"graph": "torus", "method": "decaf", "N": 10},
}


@pytest.fixture(scope="module")
def results(quick_run, tmp_path_factory):
    """A folder with the rows that every figure needs."""
    out = shutil.copytree(quick_run[1], tmp_path_factory.mktemp("figures") / "results")
    run, reasons = store.open_run(
        out, provenance.configuration(size="quick", seed=0, device="cpu"), list(CLAIMS)
    )
    assert not reasons
    run.put("adapters", figure_rows.write_all(out))
    return out


def rows_of(results, name):
    return rows.read(results, FIGURES[name].NEEDS)


def drawn(found, name, folder):
    folder.mkdir()
    return {path.suffix: path.read_bytes() for path in FIGURES[name].draw(found, folder / name)}


def vectors(found, name, folder):
    """Draw a figure as SVG alone, a third of the work: all that it shows is in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "METADATA", {"svg": style.METADATA["svg"]})
        return drawn(found, name, folder)


def raised(row):
    return {key: higher(value) if key in VALUES else value for key, value in row.items()}


def higher(value):
    if isinstance(value, list):
        return [higher(x) for x in value]
    if type(value) is int:
        return value + 1
    return 0.9 * value if isinstance(value, float) else value


@pytest.fixture(scope="module")
def figures(results, tmp_path_factory):
    """All figures, drawn from the command line: (folder, what was printed)."""
    out = tmp_path_factory.mktemp("figures")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert (
            main(["--results", str(results), "--out", str(out), "--no-report", "--jobs", "2"]) == 0
        )
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def by_command(figures):
    """Return a function: the vectors of a figure as the command drew them, in other processes."""
    return lambda name: {".svg": (figures[0] / f"{name}.svg").read_bytes()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equal_rows_give_equal_bytes_and_changed_rows_give_others(
    results, by_command, tmp_path, name
):
    found = rows_of(results, name)
    assert by_command(name) == vectors(found, name, tmp_path / "here")
    if name in DRAWN and name not in ONE:
        changed = [raised(row) for row in found]
        assert by_command(name) != vectors(changed, name, tmp_path / "changed")


HOSTILE = """
text.usetex: True
axes.prop_cycle: cycler("color", ["ff0000"])
axes.facecolor: black
figure.facecolor: yellow
savefig.bbox: tight
lines.marker: o
font.family: cursive
patch.edgecolor: red
patch.force_edgecolor: True
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["difference", "partition"])
def test_the_settings_of_the_user_do_not_reach_a_figure(results, by_command, tmp_path, name):
    (tmp_path / "matplotlibrc").write_text(HOSTILE)
    with matplotlib.rc_context(fname=tmp_path / "matplotlibrc"):
        assert matplotlib.rcParams["text.usetex"]
        assert vectors(rows_of(results, name), name, tmp_path / "drawn") == by_command(name)
        assert matplotlib.rcParams["text.usetex"]


@pytest.fixture(scope="module")
def axes_of(results):
    """Return a function that draws a figure, once, and returns it instead of saving it."""

    @cache
    def unsaved(name):
        kept = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(style, "save", lambda figure, path: kept.append(figure))
            FIGURES[name].draw(rows_of(results, name), results / name)
        return kept[0]

    return unsaved


BOUNDED = {"truncation", "difference", "convergence", "rate", "consensus", "start", "smoothness"}
BOUNDED |= {"tightness", "adapters"}


def slip(found):
    """Return by how much of its bound a point may be beyond it.

    By as much as a row at its bound that counts as rounded, and by the division and the product of
    both numbers, each rounded once. A verdict's ratio says nothing of its row's rounding; it is
    called 1 within RESOLUTION.
    """
    if any("tightness" in row for row in found):
        return RESOLUTION
    at = [row for row in found if row.get("bound") and row.get("measured") == row["bound"]]
    at += [row for row in found if row.get("outcome") == "holds" and beyond(row)]
    return max((row["rounding"] / row["bound"] for row in at), default=0.0) + 4 * EPS


def beyond(row):
    over = row["measured"] - row["bound"]
    return row["bound"] > 0 and (over > 0 if row["relation"] == "<=" else over < 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_as_a_bound_is_on_its_side_of_what_it_bounds(results, axes_of, name):
    axes = axes_of(name).axes
    pairs = [pair for i, axis in enumerate(axes) for pair in drawn_bounds.pairs(name, i, axis)]
    assert bool(pairs) == (name in BOUNDED)
    allowed = slip(rows_of(results, name)) if pairs else 0.0
    for measured, side, bound in pairs:
        over = measured - bound if side == "<=" else bound - measured
        assert over <= allowed * abs(bound)


def test_a_measured_point_above_its_bound_is_found():
    with style.look():
        _, (axis,) = style.panels(1, 1)
        axis.plot([1, 2, 4], [0.5, 0.7, 0.9], **style.line("blue", "o", "-"))
        axis.plot([1, 2, 4], [9, 9, 9], **style.line("green", "^", "-"))
        axis.plot([1, 4], [1.0, 0.8], **style.bound_of(style.line("blue", "o", "-")))
        found = list(drawn_bounds.pairs("any", 0, axis))
    assert found == [(0.5, "<=", 1.0), (0.9, "<=", 0.8)]


NOT_NAMED = {"schematic"}  # its parts are named where they are


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_NAMED])
def test_a_legend_names_every_colour_with_markers_and_nothing_else(axes_of, name):
    figure = axes_of(name)
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    named = {to_hex(colour(h)) for legend in legends for h in legend.legend_handles}
    lines = [line for axis in figure.axes for line in axis.lines if len(line.get_xdata())]
    marked = {
        to_hex(line.get_color()) for line in lines if line.get_marker() not in ("None", "none")
    }
    bars = {to_hex(bar.get_facecolor()) for axis in figure.axes for bar in axis.patches}
    assert marked | bars <= named
    assert named <= {to_hex(line.get_color()) for line in lines} | bars | {"#000000"}


def colour(handle):
    """Return the colour of an entry: of a line, of bars of an error, of a patch."""
    if hasattr(handle, "get_facecolor") and not hasattr(handle, "get_segments"):
        return handle.get_facecolor()
    found = handle.get_color()
    return found[0] if hasattr(handle, "get_segments") else found


def adapter_rows(updates):
    """Return rows of adapters: the matrices with these sizes of their mix, by name."""
    cases = {claim: case for claim, (case, _) in adapters.BOUNDS.items()}
    return [
        {"claim": claim, "case": case, "site": site, "mix": mix, "r": 2, "measured": mix / 2}
        | {"bound": mix, "interference": mix / 2, "truncation": mix / 4}
        for claim, case in cases.items()
        for site, mix in updates.items()
    ]


def test_adapters_without_an_update_or_a_layer_are_drawn(tmp_path, monkeypatch):
    sites = ["h.0.q", "h.0.v", "h.1.q", "h.1.v", "head", "base.pooler"]
    found = adapter_rows(dict(zip(sites, (1.0, 0.0, 2.0, 3.0, 4.0, 5.0), strict=True)))
    kept = []
    monkeypatch.setattr(style, "save", lambda figure, path: kept.append(figure))
    adapters.draw(found, tmp_path / "adapters")
    top, bottom = kept[0].axes
    points = {tuple(xy) for line in top.lines for xy in zip(*line.get_data(), strict=True)}
    losses = {1 / 2, 1 / 4}
    assert points == {(x, y) for x in (0, 1, 2, 3) for y in losses}  # v of layer 0 has none
    ticks = dict(zip(bottom.get_xticks(), bottom.get_xticklabels(), strict=True))
    assert {x: label.get_text() for x, label in ticks.items()} == {
        **{0: "0", 1: "1"},
        **{2: "head", 3: "pooler"},
    }
    adapters.draw(adapter_rows(dict.fromkeys(sites, 0.0)), tmp_path / "adapters")
    assert not any(len(line.get_xdata()) for line in kept[1].axes[0].lines)


@pytest.mark.slow
def test_equal_rows_give_equal_bytes_in_every_format(results, figures, tmp_path):
    found = rows_of(results, "truncation")
    first = {ending: (figures[0] / f"truncation{ending}").read_bytes() for ending in ENDINGS}
    assert first == drawn(found, "truncation", tmp_path / "second")
    others = drawn([raised(row) for row in found], "truncation", tmp_path / "third")
    assert all(others[ending] != first[ending] for ending in ENDINGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE)
def test_one_changed_row_changes_the_figure(results, by_command, tmp_path, name):
    found = rows_of(results, name)
    (place,) = [i for i, row in enumerate(found) if rows.matches(row, ONE[name])]
    found[place] = raised(found[place])
    assert vectors(found, name, tmp_path / "other") != by_command(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_one_column_wide_in_vectors_and_bears_no_date(figures, name):
    files = {ending: (figures[0] / f"{name}{ending}").read_bytes() for ending in ENDINGS}
    assert f'width="{72 * style.WIDTH:.1f}pt"'.encode() in files[".svg"]
    assert b"<image" not in files[".svg"]
    assert files[".pdf"].startswith(b"%PDF")
    assert f"MediaBox [ 0 0 {72 * style.WIDTH:.1f} ".encode() in files[".pdf"]
    for data in files.values():
        assert not re.search(rb"CreationDate|dc:date|tIME|Matplotlib v", data)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_caption_stands_beside_the_figure_with_its_numbers_filled_in(results, figures, name):
    out, printed = figures
    text = (out / f"{name}.txt").read_text()
    assert text == caption(name, rows_of(results, name))
    assert "{" not in re.sub(r"\$[^$]+\$", "", text)
    assert max(map(len, text.splitlines())) <= 100
    assert f"{name}: {out / name}.svg, " in printed


def test_without_rows_a_line_says_which_command_makes_them(tmp_path, capsys):
    arguments = ["--results", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--no-report"]
    arguments += ["--jobs", "1"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES)
    missing = [line for line in lines if "not drawn" in line]
    assert len(missing) == len(DRAWN)
    assert all(re.search(r"run (python -m |decaf bench)", line) for line in missing)
    assert main([*arguments, "--only", DRAWN[0]]) == 1
    assert not list((tmp_path / "out").glob(f"{DRAWN[0]}*"))


@pytest.mark.parametrize("need", [need for need in NEEDED if need != "attacks"])
def test_missing_rows_are_named(tmp_path, need):
    with pytest.raises((rows.MissingError, store.StoreError), match=r"; run (python -m|decaf)"):
        rows.read(tmp_path, [need])


def test_all_claims_without_rows_are_named_at_once(tmp_path):
    (tmp_path / "run.json").write_bytes(to_json(sealed({"files": {}})))
    with pytest.raises(store.StoreError, match=r"claims T2, T2-sharp in .*--only T2 T2-sharp"):
        rows.read(tmp_path, FIGURES["smoothness"].NEEDS)


def test_without_attacks_there_are_no_rows_of_them(tmp_path):
    assert rows.read(tmp_path, ["attacks"]) == []


@pytest.mark.slow
def test_rows_that_lack_a_curve_are_named(results, tmp_path):
    found = [row for row in rows_of(results, "difference") if row.get("family") != "random"]
    with pytest.raises(ValueError, match=r"no rows of T13 with .*'family': 'random'"):
        FIGURES["difference"].draw(found, tmp_path / "difference")


def test_a_damaged_file_of_rows_is_named(tmp_path):
    (tmp_path / "bench.jsonl").write_text('{"kind": ')
    with pytest.raises(store.StoreError, match=r"bench.jsonl is damaged"):
        rows.read(tmp_path, ["bench"])


def test_stored_infinities_are_numbers_again(tmp_path):
    (tmp_path / "bench.jsonl").write_bytes(seal_lines([{"seconds": math.inf, "case": "any"}]))
    assert rows.read(tmp_path, ["bench"]) == [
        {"source": "bench", "seconds": float("inf"), "case": "any"}
    ]


def test_an_unknown_figure_is_bad_usage_and_the_nearest_is_named(capsys):
    assert main(["--only", "diference"]) == 2
    assert "did you mean difference?" in capsys.readouterr().err
    assert main(["--only", "???"]) == 2
    assert "unknown figure '???' of schematic, truncation, " in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_bad_usage(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("table", [style.METHODS, style.TOPOLOGIES])
def test_every_method_and_topology_has_a_look_of_its_own(table):
    looks = [(look["color"], look["marker"]) for look in table.values()]
    assert len(set(looks)) == len(looks)


def test_a_method_without_a_look_is_drawn_and_labelled_all_the_same():
    looks = style.methods({"dlora", "mine", "another"})
    assert [name for name, _ in looks] == ["dlora", "another", "mine"]
    assert looks[0][1] == style.METHODS["dlora"]
    assert [look["label"] for _, look in looks[1:]] == ["another", "mine"]
    assert looks[1][1]["linestyle"] != looks[2][1]["linestyle"]


def test_the_figure_of_training_leaves_out_controls_without_adapters():
    found = [{"source": "runs", "name": "net", "score": 0.1 * i} for i in range(3)]
    control = [{**row, "lora.train_adapters": False} for row in found]
    assert training.shown([*found, *control]) == found


def test_the_figure_of_training_leaves_out_no_method(results):
    found = rows_of(results, "training")
    renamed = [
        {**row, "mix.method": "mine"} if row.get("mix.method") == "decaf" else row for row in found
    ]
    with style.look():
        _, axes = style.grid(1, 1, 1.75)
        own = [row for row in training.shown(renamed) if row["data.partition"] == "iid"]
        training.panel(axes[0], own, "round", 1)
        labels = axes[0].get_legend_handles_labels()[1]
    assert "mine" in labels
    assert len(labels) == len({row["mix.method"] for row in own})


def test_the_picture_of_a_partition_has_its_counts_on_each_other_and_classes_in_one_line():
    counts = np.array([[4, 1, 5], [2, 8, 0]])
    with style.look():
        figure = partition.panels([{"data.partition": "skew", "counts": counts.tolist()}])
    classes = figure.axes[0].containers
    assert [[bar.get_height() for bar in one] for one in classes] == counts.T.tolist()
    ends = [[bar.get_y() + bar.get_height() for bar in one] for one in classes]
    assert ends == counts.cumsum(axis=1).T.tolist()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["class 0", "1", "2"]
    figure.draw_without_rendering()
    lines = {round(text.get_window_extent().y0) for text in legend.get_texts()}
    assert len(lines) == 1


def test_the_picture_of_a_run_is_one_file_and_the_same_each_time(tmp_path):
    row = {"data.partition": "iid", "counts": [[4, 1, 5], [2, 8, 0]]}
    for name in ("one", "other"):
        partition.picture(row, tmp_path / f"{name}.png")
    one, other = sorted(tmp_path.iterdir())
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes().startswith(b"\x89PNG")
    partition.picture({**row, "counts": [[4, 1, 5], [2, 0, 8]]}, other)
    assert one.read_bytes() != other.read_bytes()


def test_a_figure_whose_writing_fails_leaves_no_part_of_it(tmp_path, monkeypatch, capsys):
    whole = main(["--only", "schematic", "--out", str(tmp_path / "whole")])
    assert whole == 0

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    capsys.readouterr()
    assert main(["--only", "schematic", "--out", str(tmp_path / "torn")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path / 'torn' / 'schematic.'}")
    assert "No space left on device; choose another place with --out" in line
    assert not list((tmp_path / "torn").iterdir())


@pytest.mark.parametrize(
    "change", [lambda data: data[:-30], lambda data: data[:5] + b"#" + data[6:]]
)
def test_a_damaged_run_of_the_harness_is_not_drawn(tmp_path, change):
    figure_rows.write_all(tmp_path)
    (path, *_) = (tmp_path / "paper").rglob("rows.jsonl")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(store.StoreError, match="truncated or altered"):
        rows.read(tmp_path, ["runs"])


@pytest.fixture
def kept(tmp_path):
    """Runs of the harness in folders, and the file that keeps them in one: (whole, kept)."""
    whole, alone = tmp_path / "whole", tmp_path / "kept"
    figure_rows.write_all(whole)
    (experiment,), _ = experiments([whole / "paper"])
    save(experiment, alone / rows.KEPT)
    return whole, alone


def test_a_kept_experiment_is_drawn_as_its_folders_are(kept, tmp_path):
    first, second = (rows.read(out, ["runs"]) for out in kept)
    drawings = [
        vectors(found, "training", tmp_path / name)
        for name, found in (("first", first), ("second", second))
    ]
    assert drawings[0] == drawings[1]
    assert caption("training", first) == caption("training", second)


def test_a_kept_experiment_of_other_code_is_refused_and_a_damaged_one_named(kept, monkeypatch):
    path = kept[1] / rows.KEPT
    monkeypatch.setattr(rows.harness, "code", lambda: "other")
    with pytest.raises(store.StoreError, match=r"made by other code .*--accept-code"):
        rows.read(kept[1], ["runs"])
    assert rows.read(kept[1], ["runs"], accept_code=True)
    path.write_bytes(path.read_bytes().replace(b"decaf", b"dlora", 1))
    with pytest.raises(store.StoreError, match=r"paper.jsonl is damaged .*make it again"):
        rows.read(kept[1], ["runs"], accept_code=True)
    path.write_bytes(seal_lines([{"kind": "machine"}]))
    with pytest.raises(store.StoreError, match=r"not as this version .* --keep"):
        rows.read(kept[1], ["runs"], accept_code=True)


def test_a_benchmark_cut_at_the_end_of_a_line_is_named(tmp_path):
    figure_rows.write_all(tmp_path)
    path = tmp_path / "bench.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(store.StoreError, match=r"bench.jsonl is damaged .its checksum is missing"):
        rows.read(tmp_path, ["bench"])

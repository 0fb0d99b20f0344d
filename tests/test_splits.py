"""Splits of images by a JSON file: what is read from it, and what is refused."""

import json
from re import escape

import numpy as np
import pytest

from paper_checks import config as configs
from paper_checks.tasks import images, splits

SPLITS = {
    "train": [
        ["jpg/1.jpg", 0, "pink_primrose"],
        ["jpg/2.jpg", 1, "rose"],
        ["jpg/3.jpg", 1, "rose"],
    ],
    "val": [["jpg/4.jpg", 0, "pink_primrose"]],
    "test": [["jpg/5.jpg", 1, "rose"], ["jpg/6.jpg", 0, "pink_primrose"]],
}


@pytest.fixture
def folder(tmp_path):
    """A data directory with the images of SPLITS, which are empty files: nothing opens them."""
    place = tmp_path / "flowers102"
    (place / "jpg").mkdir(parents=True)
    for rows in SPLITS.values():
        for path, _, _ in rows:
            (place / path).touch()
    write(place, SPLITS)
    return tmp_path


def write(place, value):
    (place / "split.json").write_text(value if isinstance(value, str) else json.dumps(value))


def settings(**given):
    overrides = {f"data.{name}": value for name, value in given.items()}
    return configs.read("clip-flowers102", overrides).data


def test_a_split_file_gives_its_parts_with_their_classes(folder):
    chosen = settings(split_file="split.json", validation=100)
    parts, names = images.read("flowers102", chosen, folder)
    assert names == ["pink primrose", "rose"]
    for split, rows in SPLITS.items():
        part = "validation" if split == "val" else split
        assert parts[part].items == [folder / "flowers102" / path for path, _, _ in rows]
        assert parts[part].labels.tolist() == [label for _, label, _ in rows]
    few, _ = images.read("flowers102", settings(split_file="split.json", shots=1), folder)
    assert few["train"].labels.tolist() == [0, 1]
    assert len(few["test"].items) == 2
    assert "validation" not in few  # none is asked for


def test_paths_may_start_in_a_folder_of_the_images(folder):
    place = folder / "flowers102"
    short = {
        part: [[path.removeprefix("jpg/"), *rest] for path, *rest in rows]
        for part, rows in SPLITS.items()
    }
    del short["val"]
    write(place, short)
    chosen = settings(split_file="split.json", split_images="jpg")
    parts, _ = images.read("flowers102", chosen, folder)
    assert list(parts) == ["train", "test"]
    assert parts["train"].items[0] == place / "jpg" / "1.jpg"
    with pytest.raises(
        ValueError, match=r"train\[0\]: the image .*1.jpg is missing; data.split_im"
    ):
        images.read("flowers102", settings(split_file="split.json"), folder)


def changed(part, at, row):
    rows = {name: list(found) for name, found in SPLITS.items()}
    rows[part][at] = row
    return rows


BAD = [
    ("{", "split.json: Expecting property name"),
    ([], "must be an object whose train, test and, if there, val are lists of images"),
    ({**SPLITS, "test": []}, "must be an object whose train, test"),
    ({"train": SPLITS["train"]}, "must be an object whose train, test"),
    ({**SPLITS, "val": {}}, "must be an object whose train, test"),
    (changed("val", 0, ["jpg/4.jpg", 0]), "val[0] must be [path, label, class name], got ['jpg"),
    (changed("test", 1, ["jpg/6.jpg", "0", "rose"]), "test[1] must be [path, label, class name]"),
    (changed("test", 1, ["jpg/6.jpg", True, "rose"]), "test[1] must be [path, label, class name]"),
    (changed("test", 1, ["jpg/6.jpg", -1, "rose"]), "test[1] must be [path, label, class name]"),
    (changed("train", 1, ["/etc/2.jpg", 1, "rose"]), "train[1]: a path must stay in the data"),
    (changed("train", 1, ["../2.jpg", 1, "rose"]), "train[1]: a path must stay in the data"),
    (changed("test", 0, ["jpg/5.jpg", 0, "rose"]), "test[0]: class 0 is 'rose', but elsewhere 1"),
    (changed("test", 0, ["jpg/5.jpg", 1, "lily"]), "test[0]: class 1 is 'lily', but elsewhere 1"),
    (changed("test", 0, ["jpg/5.jpg", 2, "rose"]), "test[0]: class 2 is 'rose', but elsewhere 1"),
    (changed("test", 0, ["jpg/5.jpg", 2, "lily"]), "class 2 'lily' has no training image"),
    (changed("train", 0, ["jpg/1.jpg", 3, "lily"]), "class 0 'pink_primrose' has no training im"),
    (changed("test", 0, ["jpg/2.jpg", 1, "rose"]), "test[0]: jpg/2.jpg is already train[1]"),
    (changed("test", 0, ["./jpg/2.jpg", 1, "rose"]), "test[0]: jpg/2.jpg is already train[1]"),
    (changed("train", 2, ["jpg/9.jpg", 1, "rose"]), "jpg/9.jpg is missing"),
]


@pytest.mark.parametrize(("value", "said"), BAD)
def test_a_split_file_that_cannot_be_trusted_is_refused(folder, value, said):
    place = folder / "flowers102"
    write(place, value)
    with pytest.raises(ValueError, match=escape(said)):
        splits.read(place / "split.json", place)


def test_a_split_file_that_is_missing_or_has_no_folder_is_named(folder):
    with pytest.raises(ValueError, match=r"data.split_file .*none.json: No such file"):
        images.read("flowers102", settings(split_file="none.json"), folder)
    with pytest.raises(ValueError, match="a file in the folder flowers102 of --data-dir, which is"):
        images.read("flowers102", settings(split_file="split.json"), None)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("clip-food101", {"split_file": "/tmp/split.json"}, "data.split_file must lie in the data"),
        ("clip-food101", {"split_file": "../split.json"}, "data.split_file must lie in the data"),
        ("clip-food101", {"split_file": 3}, "data.split_file must be a string, got 3"),
        ("clip-food101", {"split_images": "jpg"}, "data.split_images needs data.split_file"),
        (
            "clip-food101",
            {"split_file": "a.json", "split_images": "../jpg"},
            "data.split_images must lie in the data",
        ),
        ("tiny-bert", {"split_file": "a.json"}, "data.split_file is for images, of flowers102"),
        ("tiny-clip", {"split_file": "a.json"}, "task toy-images has none"),
    ],
)
def test_a_split_file_that_would_be_ignored_or_missed_is_refused(name, given, message):
    with pytest.raises(configs.ConfigError, match=message):
        configs.read(name, {f"data.{setting}": value for setting, value in given.items()})


def test_labels_are_those_of_the_file_and_not_of_the_order_of_names(folder):
    place = folder / "flowers102"
    turned = {part: [[p, 1 - y, name] for p, y, name in rows] for part, rows in SPLITS.items()}
    write(place, turned)
    parts, names = splits.read(place / "split.json", place)
    assert names == ["rose", "pink_primrose"]
    assert np.array_equal(parts["train"][1], [1, 0, 0])

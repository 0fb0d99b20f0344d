"""Image data sets for CLIP: Flowers102, UCF101 and Food101 from folders or the hub; made-up ones.

A folder given as --data-dir holds <data set>/{train,test}/<class name>/<image files>; of videos,
one frame each. With data.split_file the images lie in <data set>/ as that file says (splits.py).
Images for validation are those of <data set>/val if it is there, else taken out of the training
images, of UCF101 by whole groups of clips of one scene. On the hub UCF101 holds all frames: the
middle one of every clip is taken.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.rng import generator
from paper_checks import settings
from paper_checks.tasks import hub, splits
from paper_checks.tasks.models import require
from paper_checks.tasks.records import cut, few, validation_size, without_validation

# data set -> name on the hub, {part: split}, prompt
IMAGES = {
    "flowers102": (
        "nelorth/oxford-flowers",
        {"train": "train", "test": "test"},
        "a photo of a {}, a type of flower.",
    ),
    "ucf101": (
        "flwrlabs/ucf101",
        {"train": "train", "test": "test"},
        "a photo of a person doing {}.",
    ),
    "food101": (
        "ethz/food101",
        {"train": "train", "test": "validation"},
        "a photo of {}, a type of food.",
    ),
    "toy-images": ("", {}, "a photo of {}."),
}
TOY_CLASSES = ("stripes", "columns", "squares")
ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}


class Listing(NamedTuple):
    """Images not yet opened: how to find each of them, and their classes [n]."""

    items: Any  # paths, or (hub data set, row)
    labels: np.ndarray
    clips: list[str] | None = None  # of a hub's frames, the names of their clips


def read(
    name: str, data: settings.Data, data_dir: Path | None
) -> tuple[dict[str, Listing], list[str]]:
    """Return {"train": ..., "test": ...} and the class names, as words.

    data.shots keeps at most that many training images of every class, data.train_samples and
    data.test_samples that many in all, drawn from a fixed stream. And {"validation": ...} if
    data.validation says how many, of which data.validation_shots keeps as many of every class.
    """
    if data.split_file is not None:
        parts, names = _from_splits(name, data, data_dir)
    elif data_dir is None:
        parts, names = _from_hub(name)
    else:
        parts, names = _from_folder(data_dir / name)
    own = parts.pop("val", None)  # of a file of splits
    if data.validation is not None:
        if data.split_file is None and data_dir is not None:
            own = _own_validation(data_dir / name, names)
        parts |= _validated(parts["train"], own, data.validation)
    wanted = {"train": data.train_samples, "test": data.test_samples}
    parts = {p: _keep(x, cut(len(x.labels), wanted.get(p), p)) for p, x in parts.items()}
    for part, shots in (("train", data.shots), ("validation", data.validation_shots)):
        if shots:
            parts[part] = _keep(parts[part], few(parts[part].labels, shots))
    return parts, [_prompted(name, label) for label in names]


def _own_validation(folder: Path, names: list[str]) -> Listing | None:
    """Return the images of the folder `val`, None where there is none."""
    return _part(folder / "val", names) if (folder / "val").is_dir() else None


def _validated(train: Listing, own: Listing | None, wanted: float) -> dict[str, Listing]:
    """Return {"train": ..., "validation": ...}."""
    if own is not None:
        size = validation_size(wanted, len(train.labels))
        return {"validation": _keep(own, cut(len(own.labels), size, "validation"))}
    titles = train.clips or [getattr(item, "name", "") for item in train.items]
    groups = [_scene(title, at) for at, title in enumerate(titles)]
    kept, apart = without_validation(groups, wanted)
    return {"train": _keep(train, kept), "validation": _keep(train, apart)}


def _scene(title: str, at: int) -> str | int:
    """Return class and group of a clip named v_<class>_g<group>_c<clip>, else the place `at`."""
    found = re.match(r"v_\w+_g\d+(?=_c\d)", title)
    return found[0] if found else at


def prompts(name: str, classes: list[str], prompt: str | None = None) -> list[str]:
    """Return the prompt of every class: its name in the place of {}; None: the task's own."""
    return [(prompt or IMAGES[name][2]).replace("{}", words) for words in classes]


def _prompted(name: str, label: str) -> str:
    """Return a class's name as words; ValueError: a number, which a prompt makes no sense of."""
    found = words(label)
    if not any(letter.isalpha() for letter in found):
        raise ValueError(
            f"data set {name}: a class is named {label!r}, but a prompt needs words; give a folder "
            f"for each class by name in --data-dir, or data.split_file"
        )
    return found


def words(label: str) -> str:
    """Return a class's name as words: apple_pie, ApplePie -> apple pie."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_\s]+", " ", label).strip().lower()


def _from_splits(
    name: str, data: settings.Data, data_dir: Path | None
) -> tuple[dict[str, Listing], list[str]]:
    if data_dir is None:
        raise ValueError(
            f"data.split_file is a file in the folder {name} of --data-dir, which is missing"
        )
    file = data_dir / name / str(data.split_file)
    parts, names = splits.read(file, data_dir / name / data.split_images)
    return {part: Listing(*found) for part, found in parts.items()}, names


def _from_folder(folder: Path) -> tuple[dict[str, Listing], list[str]]:
    names = sorted(path.name for path in folder.glob("train/*") if path.is_dir())
    if not names:
        raise ValueError(
            f"no images: {folder}/train and {folder}/test must hold a folder of images for every "
            "class; or leave --data-dir out to take the hub"
        )
    return {part: _part(folder / part, names) for part in ("train", "test")}, names


def _part(folder: Path, names: list[str]) -> Listing:
    """Return the images below folder/<class>, and their classes by the order of the names."""
    files = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in ENDINGS
    ]
    if not files:
        raise ValueError(f"no images in {folder}/<class>; endings: {sorted(ENDINGS)}")
    return Listing([p for p, _ in files], np.array([label for _, label in files]))


def _from_hub(name: str) -> tuple[dict[str, Listing], list[str]]:
    require("datasets", "PIL")
    from datasets import Image

    place, splits, _ = IMAGES[name]
    instead = f"or give --data-dir with {name}/train/<class>/ and {name}/test/<class>/ of images"
    frames = ("clip_id", "frame") if name == "ucf101" else ()
    loaded = hub.load(name, place, None, splits, ("image", "label", *frames), instead)
    names = hub.class_names(place, loaded, "label")
    parts = {}
    for part, rows in loaded.items():
        clips = rows["clip_id"] if frames else None
        at = range(len(rows)) if clips is None else middle_frames(clips, rows["frame"])
        labels = np.array([-1 if x is None else x for x in rows["label"]])[list(at)]
        _require_classes(labels, names, f"{place}, {splits[part]}")
        files = rows.cast_column("image", Image(decode=False))
        titles = None if clips is None else [clips[i] for i in at]
        parts[part] = Listing([(files, int(i)) for i in at], labels, titles)
    return parts, names


def _require_classes(labels: np.ndarray, names: list[str], where: str) -> None:
    """Raise ValueError without images, or at a label without a name, as -1 for a hidden one."""
    bad = (labels < 0) | (labels >= len(names))
    if not len(labels) or bad.any():
        got = f"{labels[bad][0]} at image {np.argmax(bad)}" if len(labels) else "no images"
        raise ValueError(f"{where}: labels must be those of its {len(names)} classes, got {got}")


def middle_frames(clips: list[str], frames: list[int]) -> list[int]:
    """Return the row of the middle frame of every clip, in order of the clips' first rows."""
    rows: dict[str, list[tuple[int, int]]] = {}
    for row, (clip, frame) in enumerate(zip(clips, frames, strict=True)):
        rows.setdefault(clip, []).append((frame, row))
    return [sorted(clip)[len(clip) // 2][1] for clip in rows.values()]


def _keep(part: Listing, chosen: np.ndarray) -> Listing:
    return Listing([part.items[i] for i in chosen], part.labels[chosen])


def toy(part: str, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return made-up images [n, 3, side, side], noise around three patterns, and classes [n]."""
    draw = generator(0, "toy-images", part)
    labels = np.arange(count) % len(TOY_CLASSES)
    y, x = np.mgrid[:side, :side]
    patterns = np.stack([y // 2 % 2, x // 2 % 2, (x // 2 + y // 2) % 2]).astype(np.float32)
    noise = draw.standard_normal((count, 3, side, side))
    return (patterns[labels][:, None] + 0.3 * noise).astype(np.float32), labels

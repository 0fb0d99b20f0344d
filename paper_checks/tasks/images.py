"""Image data sets for CLIP: Flowers102, UCF101 and Food101 from folders or the hub; made-up ones.

A folder given as --data-dir holds <data set>/{train,test}/<class name>/<image files>; of videos,
one frame each. On the hub UCF101 holds all frames: the middle one of every clip is taken.
With data.split_file the images lie in <data set>/ as that file says (see splits.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.rng import generator
from paper_checks import settings
from paper_checks.tasks import splits
from paper_checks.tasks.models import require
from paper_checks.tasks.records import cut, few

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


def read(
    name: str, data: settings.Data, data_dir: Path | None
) -> tuple[dict[str, Listing], list[str]]:
    """Return {"train": ..., "test": ...}, of some split files "val", and class names as words.

    data.shots keeps at most that many training images of every class, data.train_samples and
    data.test_samples that many in all, drawn from a fixed stream.
    """
    if data.split_file is not None:
        parts, names = _from_splits(name, data, data_dir)
    elif data_dir is None:
        parts, names = _from_hub(name)
    else:
        parts, names = _from_folder(data_dir / name)
    wanted = {"train": data.train_samples, "test": data.test_samples}
    parts = {p: _keep(x, cut(len(x.labels), wanted.get(p), p)) for p, x in parts.items()}
    if data.shots:
        parts["train"] = _keep(parts["train"], few(parts["train"].labels, data.shots))
    return parts, [words(label) for label in names]


def prompts(name: str, classes: list[str]) -> list[str]:
    """Return the prompt of every class."""
    return [IMAGES[name][2].format(words) for words in classes]


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
    parts = {}
    for part in ("train", "test"):
        files = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((folder / part / name).glob("*"))
            if path.suffix.lower() in ENDINGS
        ]
        if not files:
            raise ValueError(f"no images in {folder / part}/<class>; endings: {sorted(ENDINGS)}")
        parts[part] = Listing([p for p, _ in files], np.array([label for _, label in files]))
    return parts, names


def _from_hub(name: str) -> tuple[dict[str, Listing], list[str]]:
    require("datasets", "PIL")
    from datasets import Image, load_dataset

    place, splits, _ = IMAGES[name]
    try:
        loaded = {part: load_dataset(place, split=split) for part, split in splits.items()}
    except (OSError, ValueError) as error:  # no network, no such name
        raise ValueError(
            f"data set {name} cannot be loaded from the hub ({place}): {error}\n"
            f"or give --data-dir with {name}/train/<class>/ and {name}/test/<class>/ of images"
        ) from error
    parts = {}
    for part, rows in loaded.items():
        kept = middle_frames(rows["clip_id"], rows["frame"]) if name == "ucf101" else None
        at = range(len(rows)) if kept is None else kept
        labels = np.array(rows["label"])[list(at)]
        files = rows.cast_column("image", Image(decode=False))
        parts[part] = Listing([(files, int(i)) for i in at], labels)
    return parts, list(loaded["train"].features["label"].names)


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

"""Images of the hub, opened when they are needed: what identifies their bytes is in the stamp."""

from types import SimpleNamespace

import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="the hub is read with datasets")
pytest.importorskip("torch", reason="the harness trains with torch")
Image = pytest.importorskip("PIL.Image", reason="images are opened with pillow")

from paper_checks import settings, stamp  # noqa: E402
from paper_checks.tasks import clip, images  # noqa: E402
from paper_checks.tasks.records import Task  # noqa: E402

pytestmark = pytest.mark.slow


def store(folder, seed):
    """Write a data set of images as the hub has them; another seed: other pixels, equal labels."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(seed)
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    for part in ("train", "test"):
        drawn = [Image.fromarray(draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)) for _ in "1234"]
        rows = datasets.Dataset.from_dict(
            {"image": drawn, "label": [0, 1, 0, 1]}, features=datasets.Features(kinds)
        )
        rows.to_parquet(folder / f"{part}-00000-of-00001.parquet")


def stamped(folder, monkeypatch):
    """Return the stamp of a task whose images are those of a data set on the hub."""
    hub = {"train": "train", "test": "test"}
    monkeypatch.setitem(images.IMAGES, "flowers102", (str(folder), hub, "a photo of {}"))
    parts, names = images.read("flowers102", settings.Data(batch=2), None)
    assert names == ["a", "b"]
    train, test = (clip._data(parts[part], processor) for part in hub)
    assert train.inputs["pixel_values"][[0, 3]].shape == (2, 4, 4, 3)
    model = SimpleNamespace(state_dict=dict)
    return stamp.of_loaded(Task("", model, "", (), (), 2, "accuracy", train, test, None))


def processor(images, return_tensors):
    return {"pixel_values": np.stack([np.asarray(image) for image in images])}


def test_other_images_with_equal_labels_are_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "flowers"
    store(folder, 0)
    first = stamped(folder, monkeypatch)
    assert first == stamped(folder, monkeypatch)
    assert first["hub.train"] != first["hub.test"]
    assert first["hub.train"].startswith("fingerprint ")
    store(folder, 1)
    other = stamped(folder, monkeypatch)
    assert {name for name in first if first[name] != other[name]} == {"hub.train", "hub.test"}


def test_images_in_files_have_their_sum_elsewhere(tmp_path):
    assert images.Pictures([tmp_path / "a.png"], processor).origin == ""

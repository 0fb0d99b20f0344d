"""Batches: texts as long as their longest, images decoded once, augmentation by named streams."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="tasks hold torch models")
pytest.importorskip("transformers", reason="tasks need the extra finetune")
Image = pytest.importorskip("PIL.Image", reason="images are opened by pillow")

from paper_checks import config, finetune, observe  # noqa: E402
from paper_checks.batches import Batches  # noqa: E402
from paper_checks.tasks import Data, cache, images, load_task, pictures  # noqa: E402
from paper_checks.tasks.pictures import Pictures  # noqa: E402
from tests import paper_runs  # noqa: E402

EPS32 = float(np.finfo(np.float32).eps)
SHARDS = [np.arange(0, 5), np.arange(5, 9)]


@pytest.fixture
def processor():
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 10, "width": 12})


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Nine photographs of different sizes, two of them upright, and a cache of their own."""
    monkeypatch.setenv("DECAF_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    found = []
    for i in range(9):
        shape = (40 + i, 30, 3) if i < 2 else (20 + i, 50, 3)
        Image.fromarray(draw.integers(256, size=shape, dtype=np.uint8)).save(tmp_path / f"{i}.png")
        found.append(tmp_path / f"{i}.png")
    return found


# ---------------------------------------------------------------- texts


def padded(task, index):
    """The batch at the full length that the tokenizer made."""
    return {name: x[index] for name, x in task.train.inputs.items()}


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-llama"])
def test_texts_padded_to_the_longest_of_a_batch_score_as_those_padded_to_max_length(name):
    task = load_task(config.read(name, {"data.max_length": 64}))
    index = torch.arange(40)
    batch = task.train.take(index)
    longest = int(task.train.lengths[index].max())
    assert batch.inputs["input_ids"].shape == (40, longest)
    assert longest < 64
    assert torch.equal(batch.inputs["input_ids"], padded(task, index)["input_ids"][:, :longest])
    one = task.scores(task.model, batch.inputs, 1)
    other = task.scores(task.model, padded(task, index), 1)
    slip = 100 * EPS32 * float(one.abs().max())  # two layers of sums over 16-24 terms
    assert torch.allclose(one, other, rtol=0, atol=slip)


def test_a_batch_is_as_long_as_its_own_longest_text_and_keeps_every_token():
    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 0], [5, 0, 0, 0]])
    texts = Data({"input_ids": ids, "last": torch.tensor([1, 2, 0])}, torch.zeros(3))
    assert texts.take(torch.tensor([0, 2])).inputs["input_ids"].tolist() == [[5, 6], [5, 0]]
    assert texts.take(torch.tensor([2, 2])).inputs["input_ids"].tolist() == [[5], [5]]
    assert [part.tolist() for part in texts.passes(2)] == [[1, 0], [2]]
    masked = Data({"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.zeros(3))
    assert masked.lengths.tolist() == texts.lengths.tolist() == [2, 3, 1]


@pytest.mark.parametrize("sequential", [False, True])
def test_scores_of_texts_in_the_order_of_their_lengths_return_to_their_places(
    sequential, monkeypatch
):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    run = finetune.prepare(paper_runs.config(), device="cpu")
    paper_runs.randomize(run.stacked)
    inputs, labels = run.task.test
    texts = Data(inputs | {"last": 4 + torch.arange(18) * 7 % 18}, labels)
    assert [len(part) for part in texts.passes(5)] == [5, 5, 5, 3]
    found = [
        observe.evaluate(run.stacked, run.task._replace(test=test), 5, sequential=sequential)
        for test in (run.task.test, texts)
    ]
    assert 0 < found[0]["score"] < 1
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=20 * EPS32), name


# ---------------------------------------------------------------- what is computed once


def test_an_evaluation_reads_each_image_and_encodes_the_classes_once():
    run = finetune.prepare(config.read("tiny-clip", {"mix.agents": 2}), device="cpu")
    paper_runs.randomize(run.stacked)
    asked, texts = [], []

    class Counted:
        def __init__(self, rows):
            self.rows = rows

        def __getitem__(self, index):
            asked.extend(index.tolist())
            return self.rows[index]

    run.stacked.model.text_model.register_forward_hook(lambda *_: texts.append(1))
    rows = Counted(run.task.test.inputs["pixel_values"])
    task = run.task._replace(test=Data({"pixel_values": rows}, run.task.test.labels))
    for sequential, encodings in ((False, 1), (True, 2)):
        asked.clear()
        texts.clear()
        observe.evaluate(run.stacked, task, 10, sequential=sequential)
        assert asked == list(range(45))
        assert len(texts) == encodings


def test_a_training_step_of_clip_encodes_the_classes_once_for_all_agents():
    run = finetune.prepare(config.read("tiny-clip"), device="cpu")
    texts = []
    run.stacked.model.text_model.register_forward_hook(
        lambda module, args, kwargs, out: texts.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    finetune.gradients(run, 0)
    assert texts == [4 * 3]  # agents x classes, whatever the number of images


# ---------------------------------------------------------------- images


def test_images_from_the_cache_are_those_of_the_processor(files, processor):
    index = torch.tensor([3, 0, 8])
    found = pictures.normalized(Pictures(files, processor)[index], processor)
    opened = [Image.open(files[i]) for i in index]
    wanted = processor(images=opened, return_tensors="pt")["pixel_values"]
    # a product, a difference, a quotient: three roundings in numbers up to 2.7, each way
    assert torch.allclose(found, wanted, rtol=0, atol=6 * EPS32 * float(wanted.abs().max()))
    assert found.shape == (3, 3, 10, 12)


def test_images_are_decoded_once_by_whoever_asks_and_anew_if_one_changes(
    files, processor, monkeypatch
):
    opened = []
    real = pictures.decoded
    monkeypatch.setattr(pictures, "decoded", lambda item: opened.append(item) or real(item))
    first = Pictures(files, processor)
    for _ in range(2):
        first[torch.arange(9)]
    again = Pictures(files, processor)
    assert torch.equal(again[torch.arange(9)], first[torch.arange(9)])
    assert sorted(opened) == sorted(files)
    Image.new("RGB", (30, 30)).save(files[4])
    changed = Pictures(files, processor)
    assert not changed[torch.tensor([4])].any()
    assert changed.content != first.content
    assert len(opened) == 18


def test_a_damaged_cache_is_made_again_and_that_is_said(files, processor, capsys, tmp_path):
    whole = Pictures(files, processor)[torch.arange(9)]
    (file,) = (tmp_path / "cache").iterdir()
    intact = file.read_bytes()
    for damaged in (b"", intact[:-1], intact[:500] + bytes([intact[500] ^ 1]) + intact[501:]):
        file.write_bytes(damaged)
        assert torch.equal(Pictures(files, processor)[torch.arange(9)], whole)
        assert f"{file} is of no use (" in capsys.readouterr().err
        assert file.read_bytes() == intact


def test_a_cache_that_is_interrupted_leaves_nothing(files, processor, monkeypatch, tmp_path):
    files[8].write_text("not an image")
    with pytest.raises(ValueError, match=r"8\.png: not an image that can be read"):
        Pictures(files, processor)[torch.tensor([0])]
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_place_for_the_cache_images_are_decoded_each_time(
    files, processor, capsys, monkeypatch, tmp_path
):
    cached = Pictures(files, processor)[torch.arange(9)]
    (tmp_path / "file").touch()
    monkeypatch.setenv("DECAF_CACHE", str(tmp_path / "file" / "cache"))
    found = Pictures(files, processor)
    assert torch.equal(found[torch.arange(9)], cached)
    assert torch.equal(found[torch.arange(9)], cached)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("choose another place with DECAF_CACHE=DIR")


def test_rows_of_the_hub_are_the_same_images_as_their_files(files, processor):
    rows = [{"image": {"bytes": path.read_bytes(), "path": None}} for path in files]
    rows[1] = {"image": {"bytes": None, "path": str(files[1])}}
    found = Pictures([(rows, i) for i in range(9)], processor)
    assert torch.equal(found[torch.arange(9)], Pictures(files, processor)[torch.arange(9)])


# ---------------------------------------------------------------- augmentation


def test_augmented_batches_are_drawn_by_seed_agent_and_step(files, processor):
    images = Data({"pixels": Pictures(files, processor, augment=True)}, torch.arange(9))

    def walked(steps, seed=0, apart=False):
        batches = Batches(images, SHARDS, seed, 3, apart)
        return {t: torch.cat([part.inputs["pixels"] for part in batches.at(t)]) for t in steps}

    whole = walked(range(4))
    resumed = walked([2, 3], apart=True)  # one batch per agent: the same images
    assert all(torch.equal(resumed[t], whole[t]) for t in (2, 3))
    labels = [torch.cat([x.labels for x in Batches(images, SHARDS, 0, 3).at(t)]) for t in (0, 1)]
    seen = {}  # image -> how it was shown
    for t, found in enumerate(labels):
        for i, picture in zip(found.tolist(), whole[t], strict=True):
            seen.setdefault(i, []).append(picture)
    again = [shown for shown in seen.values() if len(shown) > 1]
    assert again
    assert not any(torch.equal(shown[0], shown[1]) for shown in again)
    assert not torch.equal(walked([0], seed=1)[0], whole[0])
    plain = images.inputs["pixels"][torch.arange(2)]  # what is tested on is not augmented
    assert torch.equal(plain, Pictures(files, processor)[torch.arange(2)])


def test_a_random_crop_is_the_crop_that_was_drawn_resized_and_mirrored():
    array = np.random.default_rng(0).integers(256, size=(30, 40, 3), dtype=np.uint8)
    numbers = np.random.default_rng(1).random(2 * pictures.TRIES + 3)
    top, left, height, width = pictures.crop_box(30, 40, numbers[:-1])
    box = (left, top, left + width, top + height)
    part = Image.fromarray(array).crop(box).resize((6, 5), Image.Resampling.BICUBIC)
    for number, sign in ((0.7, 1), (0.2, -1)):
        numbers[-1] = number
        found = pictures.random_crop(array, numbers, (5, 6))
        assert np.array_equal(found, np.asarray(part)[:, ::sign])


def test_crops_have_uniform_areas_log_uniform_ratios_and_stay_inside():
    draw = np.random.default_rng(2)
    height, width = 3000, 3000  # a crop of a square that does not fit is rare, rounding is small
    boxes = np.array([
        pictures.crop_box(height, width, numbers)
        for numbers in draw.random((4000, 2 * pictures.TRIES + 2))
    ])  # fmt: skip
    top, left, h, w = boxes.T
    assert (boxes >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    small = h * w < 0.5 * height * width  # below 3/4 every ratio fits
    area = (h * w / (height * width) - 0.08)[small] / 0.42
    ratio = np.log(w / h)[small] / np.log(4 / 3)
    # 1.95 / sqrt(n) is exceeded with probability 1e-3 by Kolmogorov's statistic
    for sample, spread in ((area, (0, 1)), (ratio, (-1, 1))):
        uniform = (np.sort(sample) - spread[0]) / (spread[1] - spread[0])
        steps = np.arange(1, len(sample) + 1) / len(sample)
        assert np.abs(uniform - steps).max() < 1.95 / np.sqrt(len(sample)) + 1e-3


def test_a_strip_that_no_crop_fits_is_cropped_in_its_middle():
    never = np.full(2 * pictures.TRIES + 2, 0.999)  # nearly the whole area, as wide as can be
    assert pictures.crop_box(10, 400, never) == (0, 193, 10, 13)
    assert pictures.crop_box(400, 10, never) == (193, 0, 13, 10)
    assert pictures.crop_box(10, 10, never) == (0, 0, 10, 10)


# ---------------------------------------------------------------- arrays in a file


def test_arrays_of_different_shapes_come_back_as_views(tmp_path):
    arrays = [np.full((i + 1, 2, 3), i, dtype=np.uint8) for i in range(4)]
    for make in (lambda: iter(arrays), lambda: 1 / 0):  # made once
        found = cache.kept(tmp_path / "arrays", make)
        assert all(np.array_equal(found[i], arrays[i]) for i in range(4))


# ---------------------------------------------------------------- settings


WRONG = [
    ("clip-food101", {"data.augment": "flip"}, "data.augment must be one of ('resized_crop_flip'"),
    (
        "tiny-clip",
        {"data.augment": "resized_crop_flip"},
        "data.augment = 'resized",
    ),
    (
        "clip-food101",
        {"data.validation_shots": 4},
        "data.validation_shots = 4 would",
    ),
    ("clip-food101", {"data.validation_shots": 0}, "data.validation_shots must be >= 1"),
    ("clip-food101", {"task.prompt": "a photo"}, "task.prompt must have one {}"),
    ("clip-food101", {"task.prompt": "{} or {}"}, "task.prompt must have one {}"),
    ("clip-food101", {"task.prompt": ["a {}"]}, "task.prompt must be a string"),
    ("tiny-llama", {"task.prompt": "a {}"}, "task.prompt must be a list of strings"),
    ("tiny-llama", {"task.prompt": ["a", "b"]}, "task.prompt must be three texts"),
    ("tiny-bert", {"task.prompt": ["a", "b", "c"]}, "unknown setting in [task]: 'prompt'"),
]


@pytest.mark.parametrize(("name", "wrong", "said"), WRONG)
def test_a_wrong_or_ignored_setting_of_images_or_prompts_is_named(name, wrong, said):
    with pytest.raises(config.ConfigError, match=re.escape(said)):
        config.read(name, wrong)


def test_a_prompt_of_the_config_replaces_the_tasks_own():
    prompt = ["Read: ", "{sentence} so", " yes no"]
    task = load_task(config.read("tiny-llama", {"task.prompt": prompt}))
    own = load_task(config.read("tiny-llama"))
    assert torch.equal(task.train.inputs["last"], own.train.inputs["last"] + 3)  # Read : so
    with pytest.raises(ValueError, match=r"may name the fields \{sentence\} of task toy-text"):
        load_task(config.read("tiny-llama", {"task.prompt": ["", "{passage}", ""]}))
    assert images.prompts("food101", ["pie"], "a {}.") == ["a pie."]
    assert images.prompts("food101", ["pie"]) == ["a photo of pie, a type of food."]

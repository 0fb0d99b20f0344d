"""Readers of the hub on real `datasets` objects with its columns; only loading is replaced."""

from re import escape
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="tasks hold torch models")
pytest.importorskip("transformers", reason="tasks need the extra finetune")
datasets = pytest.importorskip("datasets", reason="the hub is read by datasets, extra hub")
Pillow = pytest.importorskip("PIL.Image", reason="images are opened by pillow")

from datasets import ClassLabel, Dataset, Features, Image, Value  # noqa: E402

from paper_checks import config as configs  # noqa: E402
from paper_checks.tasks import data, images, load_task, models  # noqa: E402

TEXT = Value("string")


def picture(grey):
    return Pillow.new("L", (6, 4), grey)


def grey(item):
    """The first pixel of an image of the hub, (rows, row)."""
    rows, at = item
    return rows.cast_column("image", Image())[at]["image"].getpixel((0, 0))


def classes(*names):
    return ClassLabel(names=list(names))


# task -> where it is, the splits of training and test, columns, two rows of values for each
HUB = {
    "sst2": (
        ("stanfordnlp/sst2", None),
        ("train", "validation"),
        {"idx": Value("int32"), "sentence": TEXT, "label": classes("negative", "positive")},
        {"idx": [0, 1], "sentence": ["dull", "a joy"], "label": [0, 1]},
    ),
    "wic": (
        ("aps/super_glue", "wic"),
        ("train", "validation"),
        {name: TEXT for name in ("word", "sentence1", "sentence2")}
        | {name: Value("int32") for name in ("start1", "start2", "end1", "end2")}
        | {"idx": {"word": Value("int32")}, "label": classes("False", "True")},
        {"word": ["hook", "run"], "sentence1": ["Hook it.", "A run."]}
        | {"sentence2": ["A hook.", "The run."], "label": [0, 1], "idx": [{"word": 3}] * 2}
        | {name: [0, 2] for name in ("start1", "start2", "end1", "end2")},
    ),
    "boolq": (
        ("google/boolq", None),
        ("train", "validation"),
        {"question": TEXT, "answer": Value("bool"), "passage": TEXT},
        {"question": ["is it", "was it"], "answer": [False, True], "passage": ["No.", "Yes."]},
    ),
    "flowers102": (
        ("nelorth/oxford-flowers", None),
        ("train", "test"),
        {"image": Image(), "label": classes("pink_primrose", "rose")},
        {"image": [40, 200], "label": [0, 1]},
    ),
    "food101": (
        ("ethz/food101", None),
        ("train", "validation"),
        {"image": Image(), "label": classes("apple_pie", "tacos")},
        {"image": [40, 200], "label": [0, 1]},
    ),
    "ucf101": (
        ("flwrlabs/ucf101", None),
        ("train", "test"),
        {"image": Image(), "video_id": TEXT, "clip_id": TEXT}
        | {"frame": Value("int64"), "label": classes("Archery", "BabyCrawling")},
        {"image": [40, 60, 50, 200], "clip_id": ["a", "a", "a", "b"], "video_id": ["v"] * 4}
        | {"frame": [0, 2, 1, 7], "label": [0, 0, 0, 1]},
    ),
}
TEXTS, IMAGES = list(HUB)[:3], list(HUB)[3:]


def stored(columns, rows):
    """A data set as the hub's: images are files inside."""
    values = {n: [picture(x) for x in v] if n == "image" else v for n, v in rows.items()}
    return Dataset.from_dict(values, features=Features(columns))


@pytest.fixture
def hub(monkeypatch):
    """A function that puts a task on the hub, with changed columns or rows, and nothing else."""

    def put(name, columns=(), rows=(), test=()):
        place, splits, known, values = HUB[name]
        parts = (stored(known | dict(columns), values | dict(rows | dict(more)))
                 for more in ((), test))  # fmt: skip
        there = dict(zip(splits, parts, strict=True))

        def load_dataset(path, subset=None, *, split):
            if (path, subset) != place:
                raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' doesn't exist")
            if split not in there:
                raise ValueError(f'Unknown split "{split}". Should be one of {list(there)}.')
            return there[split]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return lambda name, columns=(), rows=(), test=(): put(name, columns, dict(rows), test)


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_the_hub_are_read_with_their_labels(hub, name):
    hub(name)
    read = data.read(name, configs.Data(batch=1), None)
    rows = HUB[name][3]
    for part in ("train", "test"):
        assert [e.label for e in read[part]] == [0, 1]
        for field, column in data.TEXTS[name].columns.items():
            assert [e.fields[field] for e in read[part]] == rows[column]


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_the_hub_are_read_with_their_classes(hub, name):
    hub(name)
    settings = configs.read(f"clip-{name}", {"data.shots": 4}).data
    parts, names = images.read(name, settings, None)
    wanted = [images.words(label) for label in HUB[name][2]["label"].names]
    assert names == wanted
    for part in ("train", "test"):
        assert parts[part].labels.tolist() == [0, 1]
        assert parts[part].labels.dtype.kind == "i"
        greys = [grey(item) for item in parts[part].items]
        assert greys == [50 if name == "ucf101" else 40, 200]  # of a video, the middle frame


def test_a_task_of_the_hub_trains_a_classifier_and_a_causal_model(hub):
    hub("wic")
    for tiny in ("tiny-bert", "tiny-llama"):
        task = load_task(configs.read(tiny, {"task.name": "wic", "data.max_length": 40}))
        inputs, labels = task.train.take(torch.arange(2))
        assert task.scores(task.model, inputs, 1).shape == (2, 2)
        assert labels.tolist() == [0, 1]
        assert task.metric == "f1"


@pytest.mark.parametrize("name", HUB)
def test_every_column_that_a_task_reads_is_asked_for_by_name(hub, name):
    columns = HUB[name][2]
    texts = data.TEXTS.get(name)
    used = [*texts.columns.values(), texts.answer[0]] if texts else ["image", "label"]
    used += ["clip_id", "frame"] if name == "ucf101" else []
    for column in used:
        place, splits, _, rows = HUB[name]
        other = {n: x for n, x in columns.items() if n != column} | {"renamed": columns[column]}
        values = {n: x for n, x in rows.items() if n != column} | {"renamed": rows[column]}
        if column == "image":
            other["renamed"], values["renamed"] = TEXT, ["x"] * len(rows["label"])
        with pytest.MonkeyPatch.context() as patch:
            part = stored(other, values)
            patch.setattr(datasets, "load_dataset", lambda *_, part=part, **__: part)
            said = f"{place[0]}, {splits[0]}: no column {column!r} among "
            with pytest.raises(ValueError, match=escape(said) + r".*renamed.*or give --data-dir"):
                read(name)


def read(name):
    if name in TEXTS:
        return data.read(name, configs.Data(batch=1), None)
    parts, names = images.read(name, configs.read(f"clip-{name}").data, None)
    return parts, images.prompts(name, names)


WRONG = [
    (
        "sst2",
        {},
        {"label": [0, -1]},
        "sst2/train: row 2: a label must be 0 or 1, got -1; -1 stands",
    ),
    ("sst2", {"label": Value("int64")}, {"label": [0, 2]}, "a label must be 0 or 1, got 2"),
    ("sst2", {}, {"label": [0, None]}, "row 2: a label must be 0 or 1, got None"),
    ("sst2", {"label": classes("positive", "negative")}, {}, "must be ['negative', 'positive']"),
    ("wic", {"label": classes("True", "False")}, {}, "must be ['False', 'True'], got ['True', "),
    ("wic", {}, {"sentence2": ["A hook.", None]}, "wic/train: row 2: a text must be a string"),
    ("boolq", {}, {"answer": [None, True]}, "boolq/train: row 1: a label must be 0 or 1, got None"),
    ("food101", {}, {"label": [0, -1]}, "food101, train: labels must be those of its 2 classes, g"),
    ("food101", {}, {"label": [0, None]}, "got -1 at image 1"),
    ("food101", {"label": Value("int64")}, {}, "labels must be those of its 0 classes, got 0"),
    ("food101", {}, {"image": [], "label": []}, "got no images"),
    ("flowers102", {"label": classes("1", "10")}, {}, "a class is named '1', but a prompt needs"),
]


@pytest.mark.parametrize(("name", "columns", "rows", "said"), WRONG)
def test_what_a_column_of_the_hub_cannot_hold_is_named(hub, name, columns, rows, said):
    if said.startswith(("sst2/", "wic/", "boolq/", "food101,")):
        said = HUB[name][0][0].rpartition("/")[0] + "/" + said.replace("wic/", "super_glue/")
    hub(name, columns, rows)
    with pytest.raises(ValueError, match=escape(said)):
        read(name)


def test_hidden_labels_of_a_test_split_are_refused(hub):
    hub("sst2", test={"label": [-1, -1]})
    with pytest.raises(ValueError, match=r"sst2/validation: row 1: .* got -1; -1 stands for a hid"):
        read("sst2")


def test_parts_whose_classes_are_in_another_order_are_refused(monkeypatch):
    rows = HUB["food101"][3]
    parts = {
        "train": stored(HUB["food101"][2], rows),
        "validation": stored({"image": Image(), "label": classes("tacos", "apple_pie")}, rows),
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: parts[split])
    with pytest.raises(ValueError, match=r"ethz/food101, test: the classes of column 'label' must"):
        read("food101")


# ---------------------------------------------------------------- what cannot be loaded

ERRORS = [
    (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "run no scripts"),
    (ConnectionError("Couldn't reach 'x' on the Hub"), "a network is needed"),
    (ValueError('Unknown split "train"'), "a network is needed"),
    (
        datasets.exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub"),
        "accept the data set's terms on its page and run `hf auth login`",
    ),
    (datasets.exceptions.DatasetGenerationError("An error occurred"), "a network is needed"),
]


@pytest.mark.parametrize(("error", "advice"), ERRORS)
@pytest.mark.parametrize("name", ["wic", "food101"])
def test_a_data_set_that_cannot_be_loaded_says_why_and_what_to_do(monkeypatch, name, error, advice):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(ValueError, match=rf"data set {name} cannot be loaded") as raised:
        read(name)
    assert str(error) in str(raised.value)
    assert advice in str(raised.value)
    assert "or give --data-dir" in str(raised.value)


def test_a_defect_is_not_taken_for_a_data_set_that_is_missing(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(ZeroDivisionError):
        read("sst2")


GATED = OSError(
    "You are trying to access a gated repo.\nMake sure to have access to it at https://..."
)


@pytest.mark.parametrize("kind", ["classifier", "causal", "clip"])
@pytest.mark.parametrize("what", ["tokenizer", "model"])
def test_a_gated_model_says_how_to_log_in_whatever_of_it_is_loaded_first(
    hub, monkeypatch, kind, what
):
    import transformers

    def gated(*_, **__):
        raise GATED

    name = "food101" if kind == "clip" else "sst2"
    hub(name)
    parts = {"tokenizer": ["AutoTokenizer", "AutoImageProcessor"]}
    parts["model"] = {
        "classifier": ["AutoModelForSequenceClassification"],
        "causal": ["AutoModelForCausalLM"],
        "clip": ["CLIPModel"],
    }[kind]
    about = staticmethod(lambda *_, **__: ({}, {}))
    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", about)
    for loader in (x for names in parts.values() for x in names):
        fails = loader in parts[what]
        fake = SimpleNamespace(from_pretrained=gated if fails else lambda *_, **__: torch.nn.ReLU())
        monkeypatch.setattr(transformers, loader, fake)
    config = {"classifier": "tiny-bert", "causal": "tiny-llama", "clip": "clip-food101"}[kind]
    overrides = {"task.name": name, "model.from": "hub:owner/gated"}
    with pytest.raises(ValueError, match="gated repo") as raised:
        load_task(configs.read(config, overrides))
    assert "model owner/gated cannot be loaded" in str(raised.value)
    assert "`hf auth login`" in str(raised.value)


def test_damaged_weights_are_said_in_one_message(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    BertForSequenceClassification(BertConfig(intermediate_size=8, **tiny)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    source = models.source({"from": str(tmp_path)})
    with pytest.raises(ValueError, match="cannot be loaded from"):
        models.pretrained(BertForSequenceClassification, source)

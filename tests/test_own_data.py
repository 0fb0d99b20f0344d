"""A user's own data: the documented examples, every format, and refusals with file and line."""

import json
import re
from pathlib import Path
from re import escape

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="tasks hold torch models")
pytest.importorskip("transformers", reason="tasks need the extra finetune")

from paper_checks import checkpoint, finetune, record, stamp  # noqa: E402
from paper_checks import config as configs  # noqa: E402
from paper_checks.cli import main  # noqa: E402
from paper_checks.tasks import load_task, own  # noqa: E402
from paper_checks.tasks.models import word_tokenizer  # noqa: E402

DOCS = Path(__file__).parents[1] / "docs" / "full_models.md"
ROWS = [("a good day", "positive"), ("a bad day", "negative")] * 6
TASK = {"name": "own-text", "classes": ["negative", "positive"]}
WRITTEN = {
    "csv": lambda rows: "text,label\n" + "".join(f'"{a}",{b}\n' for a, b in rows),
    "tsv": lambda rows: "label\ttext\n" + "".join(f"{b}\t{a}\n" for a, b in rows),
    "jsonl": lambda rows: "".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows),
}


def tables(**task):
    return {
        "name": "mine",
        "task": TASK | task,
        "model": {"from": "random", "kind": "classifier"},
        "lora": {"rank": 2, "eta": 4.0, "targets": ["query", "value"]},
        "data": {"batch": 2, "max_length": 12},
        "train": {"steps": 2, "lr": 0.01},
        "mix": {"agents": 2, "every": 1, "graph": "complete"},
    }


def causal(**task):
    given = {"prompt": ["Review: ", "{text}", " Answer:"], "answers": ["no", "yes"]}
    found = tables(**given | task)
    found["model"]["kind"], found["lora"]["targets"] = "causal", ["q_proj", "v_proj"]
    return found


def write(place, kind="csv", train=ROWS, test=ROWS[:4]):
    place.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("test", test)):
        (place / f"{part}.{kind}").write_text(WRITTEN[kind](rows), encoding="utf-8")
    return place


def load(given, data_dir):
    return load_task(configs.parse(given, data_dir=str(data_dir)))


# ---------------------------------------------------------------- the documented examples


def documented():
    """The configurations of the section on own data by name, and its commands."""
    text = DOCS.read_text(encoding="utf-8").partition("\n## Your own data\n")[2]
    text = text.partition("\n## ")[0]
    blocks = re.findall(r"```toml\n# (\w+\.toml): .*?\n(.*?)```", text, flags=re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return dict(blocks), commands.splitlines()


def save_models(place):
    """Save a BERT and a ViT of random weights, with heads of four classes, which fit no example."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessorPil,
    )

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 4}
    sizes |= {"intermediate_size": 8}
    tokenizer = word_tokenizer(text for text, _ in ROWS)
    encoder = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes))
    vision = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes))
    for part in (encoder, tokenizer):
        part.save_pretrained(place / "encoder")
    for part in (vision, ViTImageProcessorPil(size={"height": 8, "width": 8})):
        part.save_pretrained(place / "vision")


def save_pictures(place):
    Image = pytest.importorskip("PIL.Image", reason="images are opened by pillow")
    for part, count in (("train", 5), ("test", 2)):
        for grey, name in ((40, "0"), (120, "1"), (200, "cats")):
            folder = place / part / name
            folder.mkdir(parents=True)
            for i in range(count + (grey == 200)):
                Image.new("RGB", (9, 10), (grey + i,) * 3).save(folder / f"{i}.png")


def test_the_documented_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECAF_CACHE", str(tmp_path / "cache"))
    blocks, commands = documented()
    for name, text in blocks.items():
        Path(name).write_text(text, encoding="utf-8")
    save_models(tmp_path / "models")
    write(tmp_path / "DIR" / "reviews")
    save_pictures(tmp_path / "DIR" / "pictures")
    assert len(commands) == len(blocks) == 2
    for command in commands:
        assert command.startswith("python -m paper_checks run ")
        assert main(command.split()[3:]) == 0
    stored = {path.parts[-3]: record.read(path.parent) for path in tmp_path.rglob("run.json")}
    assert {run.run["step"] for run in stored.values()} == {4}
    assert stored["reviews"].run["partition"]["counts"] == [[3, 3]] * 2
    held = np.array(stored["pictures"].run["partition"]["counts"])  # of three classes, one alone
    assert sorted(held.ravel()) == [0, 0, 0, 5, 5, 6]
    assert stored["pictures"].run["partition"]["notes"] == []


def a_distilbert(words):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    sizes = {"dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 2}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=words, **sizes))


def a_roberta(words):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "type_vocab_size": 1, "pad_token_id": 0}
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=words, **sizes))


def a_llama(words):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "pad_token_id": None}
    return LlamaForSequenceClassification(LlamaConfig(vocab_size=words, **sizes))


@pytest.mark.parametrize(
    ("build", "targets", "heads"),
    [
        (a_distilbert, ["q_lin", "v_lin"], ["pre_classifier", "classifier"]),
        (a_roberta, ["query", "value"], ["classifier.dense", "classifier.out_proj"]),
        (a_llama, ["q_proj", "v_proj"], ["score"]),
    ],
)
def test_other_classifiers_train_their_adapters_and_heads(tmp_path, build, targets, heads):
    tokenizer = word_tokenizer(text for text, _ in ROWS)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # as they have no segments
    tokenizer.eos_token = "[SEP]"
    if build is a_llama:
        tokenizer.pad_token = None
    for part in (build(len(tokenizer)), tokenizer):
        part.save_pretrained(tmp_path / "model")
    write(tmp_path / "own-text")
    given = tables(heads=heads, pair=["{text}", "{label}"])
    given["model"]["from"], given["lora"]["targets"] = str(tmp_path / "model"), targets
    run = finetune.prepare(configs.parse(given, data_dir=str(tmp_path)), device="cpu")
    before = {name: X.detach().clone() for name, X in checkpoint.named(run.stacked).items()}
    finetune.advance(run)
    after = checkpoint.named(run.stacked)
    moved = {name for name, X in before.items() if not torch.equal(X, after[name])}
    for part in (*targets, *heads):
        assert any(part in name for name in moved), part


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_format_gives_the_same_examples_in_the_order_of_the_classes(tmp_path, kind):
    texts = own.texts_of(TASK)
    found = texts.train(write(tmp_path, kind))
    assert [(e.fields, e.label) for e in found] == [
        ({"text": text}, int(label == "positive")) for text, label in ROWS
    ]
    turned = own.texts_of(TASK | {"classes": ["positive", "negative"]})
    assert [e.label for e in turned.train(tmp_path)] == [1 - e.label for e in found]


def test_quotes_line_ends_and_a_mark_at_the_start_are_those_of_the_format(tmp_path):
    rows = '\ufefflabel,text\r\n0,"two\nlines, one ""text"""\r\n\r\n1,plain\r\n'
    (tmp_path / "test.csv").write_bytes(rows.encode())
    texts = own.texts_of({"name": "own-text", "classes": ["0", "1"]})
    one, two = texts.test(tmp_path)
    assert one.fields == {"text": 'two\nlines, one "text"'}
    assert (one.label, two.label) == (0, 1)


def test_labels_of_json_may_be_numbers_and_truths(tmp_path):
    for values, classes in (([0, 1], ["0", "1"]), ([False, True], ["false", "true"])):
        rows = [json.dumps({"text": "x", "label": value}) for value in values]
        (tmp_path / "train.jsonl").write_text("\n".join(rows))
        texts = own.texts_of({"name": "own-text", "classes": classes})
        assert [e.label for e in texts.train(tmp_path)] == [0, 1]


def test_two_columns_make_a_pair_or_a_prompt_for_three_classes(tmp_path):
    (tmp_path / "nli").mkdir()
    rows = "a,b,gold\n" + "one,two,yes\nthree,four,no\nfive,six,maybe\n" * 2
    for part in ("train", "test"):
        (tmp_path / "nli" / f"{part}.csv").write_text(rows)
    shared = {"folder": "nli", "label": "gold", "classes": ["no", "maybe", "yes"]}
    pair = load(tables(pair=["{a}", "{b}"], **shared), tmp_path)
    prompt = {"prompt": ["{a} and ", "{b}", " Answer:"], "answers": ["four", "six", "yes"]}
    asked = load(causal(**shared | prompt), tmp_path)
    for task in (pair, asked):
        inputs, labels = task.test.take(torch.arange(6))
        assert labels.tolist() == [2, 0, 1] * 2
        assert task.scores(task.model, inputs, 1).shape == (6, 3)
    assert pair.heads == ("classifier",)


def test_the_stamp_has_the_sum_of_the_files_of_the_folder(tmp_path):
    write(tmp_path / "reviews")
    config = configs.parse(tables(folder="reviews"), data_dir=str(tmp_path))
    one = stamp.of(config)["sum.data"]
    stamp.sum_of_data.cache_clear()
    write(tmp_path / "reviews", test=ROWS[:3])
    assert stamp.of(config)["sum.data"] != one


# ---------------------------------------------------------------- what is refused

BAD_FILES = [
    ("train.csv", None, "must hold one of train.csv, train.tsv, train.jsonl; found none"),
    ("train.tsv", "text\tlabel\n", "found train.csv, train.tsv"),
    ("train.csv", "text,label\n", "train.csv: no examples"),
    ("train.csv", "", "train.csv: line 1: the header must have the column 'text' once, got []"),
    ("train.csv", "text,tag\na,b\n", "line 1: the header must have the column 'label' once"),
    ("train.csv", "text,label,text\n", "line 1: the header must have the column 'text' once"),
    ("train.csv", "text,label\na,positive\nb\n", "train.csv: line 3: 1 fields, but the header h"),
    ("train.csv", "text,label\na,b,positive\n", "train.csv: line 2: 3 fields, but the header has"),
    ("train.csv", 'text,label\n"a"b,positive\n', "train.csv: line 2: "),
    ("train.csv", 'text,label\n"a\nb",pos\n', "line 3: label must be one of task.classes, negati"),
    ("train.csv", "text,label\na, positive\n", "got ' positive'"),
    ("train.csv", b"text,label\n\xff,positive\n", "train.csv: must be UTF-8"),
]


@pytest.mark.parametrize(("file", "content", "said"), BAD_FILES)
def test_a_wrong_file_is_named_with_its_line(tmp_path, file, content, said):
    write(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / file).write_bytes(data)
    with pytest.raises(ValueError, match=escape(said)):
        own.texts_of(TASK).train(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "train.jsonl: line 2: "),
        ("[]", "line 2: must be an object with text, label"),
        ('{"text": 3, "label": "positive"}', "line 2: must be an object with text, label"),
        ('{"text": "x", "label": 0.5}', "line 2: must be an object with text, label"),
        ('{"text": "x", "label": 1}', "line 2: label must be one of task.classes, negative, pos"),
    ],
)
def test_a_wrong_object_is_named_with_its_line(tmp_path, line, said):
    good = json.dumps({"text": "x", "label": "positive"})
    (tmp_path / "train.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=escape(said)):
        own.texts_of(TASK).train(tmp_path)


BAD_SETTINGS = [
    (tables(classes=["one"]), "task.classes must be two or more values"),
    (tables(classes=["a", "a"]), "task.classes must be two or more values"),
    (tables(classes="ab"), "task.classes must be a list of strings"),
    (tables(pair=["{a}", "{b}", "{c}"]), "task.pair must be one text or two"),
    (tables(pair=[]), "task.pair must be one text or two"),
    (tables(folder="/data"), "task.folder must lie in --data-dir, got '/data'"),
    (tables(folder="../data"), "task.folder must lie in --data-dir"),
    (tables(heads=[""]), "task.heads must be names of modules"),
    (tables(answers=["no", "yes"]), "unknown setting in [task]: 'answers'"),
    (causal(pair=["{text}"]), "unknown setting in [task]: 'pair'"),
    (causal(answers=["yes"]), "task.answers must be one word for each of 2 classes"),
    (causal(prompt=["{text}"]), "task.prompt must be three texts"),
    (tables() | {"lora": {"rank": 2, "eta": 4.0}}, "lora.targets is missing: task own-text may"),
    (
        tables() | {"task": {"name": "sst2", "classes": ["a", "b"]}},
        "unknown setting in [task]: 'classes'",
    ),
    (
        tables() | {"task": {"name": "own-images", "label": "x"}},
        "unknown setting in [task]: 'label'",
    ),
]


@pytest.mark.parametrize(("given", "said"), BAD_SETTINGS)
def test_a_wrong_setting_of_own_data_is_refused(given, said):
    with pytest.raises(configs.ConfigError, match=escape(said)):
        configs.parse(given)


def test_a_causal_model_of_own_data_needs_a_prompt():
    given = causal()
    del given["task"]["prompt"]
    with pytest.raises(configs.ConfigError, match=r"task.prompt is missing: a causal model needs"):
        configs.parse(given)


@pytest.mark.parametrize("text", ["{}", "{0}", "{text.upper}", "{text", "{text!x}", "{text:>a}"])
def test_a_text_that_names_no_column_is_refused(tmp_path, text):
    write(tmp_path / "own-text")
    with pytest.raises(ValueError, match="a text must name columns in braces"):
        load(tables(pair=[text]), tmp_path)


def test_own_data_need_a_folder_a_model_and_answers_apart(tmp_path):
    with pytest.raises(ValueError, match=r"task own-text reads your data: give --data-dir"):
        load_task(configs.parse(tables()))
    write(tmp_path / "own-text")
    with pytest.raises(ValueError, match=r"answers must end in tokens of their own"):
        load(causal(answers=["unknown", "unheard"]), tmp_path)
    wrong = tables()
    wrong["model"]["kind"] = "image"
    with pytest.raises(ValueError, match=r"model.kind of task own-text must be classifier or"):
        load(wrong | {"data": {"batch": 2}}, tmp_path)

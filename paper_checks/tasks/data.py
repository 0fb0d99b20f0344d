"""Text data sets: SST-2, WiC and BoolQ from a folder or the hub, and a made-up one for tests.

A folder given as --data-dir holds one folder per data set:
sst2    train.tsv, test.tsv      header `sentence<tab>label`, labels 0 | 1
wic     {train,test}.data.txt    word, part of speech, positions, two sentences, by tabs
        {train,test}.gold.txt    T | F (T: the word means the same in both)
boolq   balanced.jsonl           {"question", "passage", "answer": true | false}
        dev_mosaic_format.jsonl  {"query": "Passage: ...\\nQuestion: ...", "choices", "gold"}
        The first is drawn from the second, so a hash of the passage divides both: three quarters
        of the passages are trained on (first file), one quarter is tested on (second file). With
        train.jsonl there, the official training set in the first format, it and all of the second.

Where data.validation asks for validation examples, those of SST-2 come from dev.tsv and those of
WiC from dev.data.txt and dev.gold.txt if the folder has them. BoolQ's, and all of the hub, whose
own validation sets are tested on here as the labels of its test sets are not public, are taken out
of the training examples; BoolQ's by whole passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.files import from_json
from decaf_theory.rng import generator
from paper_checks import settings
from paper_checks.tasks import hub
from paper_checks.tasks.records import cut, few, validation_size, without_validation


class Example(NamedTuple):
    """One example: its texts by name, and its class."""

    fields: dict[str, str]
    label: int


class TextSet(NamedTuple):
    """A data set of texts: readers, and how its fields become a pair or a prompt."""

    train: Callable[[Path], list[Example]]
    test: Callable[[Path], list[Example]]
    hub: tuple[str, str | None, dict[str, str]]  # name, subset, split names
    answer: tuple[str, tuple[str, str] | None]  # label column there, names of its classes if any
    columns: dict[str, str]  # field -> column on the hub
    pair: tuple[str, str | None]  # format strings: first and second text of a classifier
    prompt: tuple[str, str, str]  # before, the text that may be cut, after; answer yes or no
    metric: str
    validation: tuple[str, Callable[[Path], list[Example]]] | None = None  # its own file, reader
    group: Callable[[Example], str] | None = None  # what stays together when validation is drawn
    classes: Sequence[str] = ("no", "yes")  # in words, as a causal model answers


def read(
    name: str, data: settings.Data, data_dir: Path | None, texts: TextSet | None = None
) -> dict[str, list[Example]]:
    """Return {"train": ..., "test": ...} of data set `name`, or `texts` in that folder.

    As many as `data` wants.

    And {"validation": ...} if data.validation says how many: of the data set's own file where the
    folder has one, else out of the training examples, before shots and train_samples.

    data.shots: at most that many of every class; data.train_samples, data.test_samples: in all.
    They are drawn from a fixed stream, so that every run tests on the same examples.
    """
    texts = texts or TEXTS[name]
    if data_dir is None and name != "toy-text":
        splits = _from_hub(name, texts)
    else:
        folder = Path() if data_dir is None else data_dir / name
        splits = {"train": texts.train(folder), "test": texts.test(folder)}
    if data.validation is not None:
        own = None if data_dir is None else _own_validation(texts, data_dir / name)
        splits |= _validated(texts, splits["train"], own, data.validation)
    if data.shots:
        chosen = few(np.array([example.label for example in splits["train"]]), data.shots)
        splits["train"] = [splits["train"][i] for i in chosen]
    wanted = {"train": data.train_samples, "test": data.test_samples}
    return {
        part: [examples[i] for i in cut(len(examples), wanted.get(part), part)]
        for part, examples in splits.items()
    }


def _own_validation(texts: TextSet, folder: Path) -> list[Example] | None:
    """Return the data set's own validation examples, None where the folder has none."""
    if texts.validation is None:
        return None
    file, reader = texts.validation
    return reader(folder) if (folder / file).is_file() else None


def _validated(
    texts: TextSet, train: list[Example], own: list[Example] | None, wanted: float
) -> dict[str, list[Example]]:
    """Return {"train": ..., "validation": ...}."""
    if own is not None:
        chosen = cut(len(own), validation_size(wanted, len(train)), "validation")
        return {"train": train, "validation": [own[i] for i in chosen]}
    groups = range(len(train)) if texts.group is None else [texts.group(e) for e in train]
    places = without_validation(groups, wanted)
    return {
        part: [train[i] for i in chosen]
        for part, chosen in zip(("train", "validation"), places, strict=True)
    }


def _from_hub(name: str, texts: TextSet) -> dict[str, list[Example]]:
    (place, subset, splits), (label, names) = texts.hub, texts.answer
    instead = f"or give --data-dir with a folder {name} (formats: paper_checks/tasks/data.py)"
    columns = (*texts.columns.values(), label)
    loaded = hub.load(name, place, subset, splits, columns, instead)
    hub.class_names(place, loaded, label, names)
    return {
        part: [
            Example(
                {
                    field: _text(row[column], Path(place, splits[part]), number)
                    for field, column in texts.columns.items()
                },
                _hub_label(row[label], Path(place, splits[part]), number),
            )
            for number, row in enumerate(rows, start=1)
        ]
        for part, rows in loaded.items()
    }


def _text(given: object, where: Path, row: int) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{where}: row {row}: a text must be a string, got {given!r}")
    return given


def _hub_label(given: object, where: Path, row: int) -> int:
    if given not in (0, 1):  # False and True are 0 and 1
        hidden = "; -1 stands for a hidden label, as in test splits" if given == -1 else ""
        raise ValueError(f"{where}: row {row}: a label must be 0 or 1, got {given!r}{hidden}")
    return int(given == 1)


def lines(path: Path) -> list[str]:
    """Return the lines of a data set's file; ValueError says how to get it if it is missing."""
    if not path.is_file():
        raise ValueError(
            f"data file {path} is missing: put the data set there (formats: "
            "paper_checks/tasks/data.py), or leave --data-dir out to take the hub"
        )
    # not splitlines: that cuts at U+0085 and U+2028 inside a sentence, too
    text = raw_text(path).replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n")


def raw_text(path: Path) -> str:
    """Return a file's text as it is; ValueError: it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8: {error}") from None


def objects(path: Path, **fields: type | tuple[type, ...]) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; ValueError names the line where a field fails."""
    found = []
    for n, line in enumerate(lines(path), start=1):
        try:
            row = from_json(line.encode())
        except ValueError as error:
            raise ValueError(f"{path}: line {n}: {error}") from None
        for name, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                raise ValueError(f"{path}: line {n}: must be an object with {', '.join(fields)}")
        found.append(row)
    return found


def _sst2(file: str) -> Callable[[Path], list[Example]]:
    def reader(folder: Path) -> list[Example]:
        where = folder / file
        rows = [line.split("\t") for line in lines(where)[1:]]
        return [
            Example(
                {"sentence": _field(row, 0, where).strip()},
                _label(_field(row, 1, where), ("0", "1"), where, number),
            )
            for number, row in enumerate(rows, start=2)
        ]

    return reader


def _wic(part: str) -> Callable[[Path], list[Example]]:
    def reader(folder: Path) -> list[Example]:
        data, gold = (lines(folder / f"{part}.{kind}.txt") for kind in ("data", "gold"))
        if len(data) != len(gold):
            raise ValueError(f"{folder}: {len(data)} rows of {part} data, {len(gold)} gold labels")
        return [
            Example(
                {name: _field(row.split("\t"), at, folder) for name, at in WIC_COLUMNS.items()},
                _label(label, ("F", "T"), folder / f"{part}.gold.txt", number),
            )
            for number, (row, label) in enumerate(zip(data, gold, strict=True), start=1)
        ]

    return reader


WIC_COLUMNS = {"word": 0, "first": 3, "second": 4}


def _field(row: list[str], at: int, where: Path) -> str:
    if at >= len(row):
        raise ValueError(f"{where}: a row has {len(row)} fields but needs at least {at + 1}: {row}")
    return row[at]


def _label(given: object, classes: tuple[object, object], where: Path, line: int) -> int:
    """Return 0 or 1, which of the two classes is given; ValueError: neither."""
    for label, name in enumerate(classes):
        if given == name and type(given) is type(name):
            return label
    raise ValueError(
        f"{where}: line {line}: a label must be {classes[0]!r} or {classes[1]!r}, got {given!r}"
    )


def _boolq_train(folder: Path) -> list[Example]:
    where = folder / ("train.jsonl" if _official(folder) else BALANCED)
    return [
        Example({"question": row["question"], "passage": row["passage"]}, int(row["answer"]))
        for row in objects(where, question=str, passage=str, answer=bool)
        if _official(folder) or not _held_out(row["passage"])
    ]


def _boolq_test(folder: Path) -> list[Example]:
    examples, where = [], folder / "dev_mosaic_format.jsonl"
    rows = objects(where, query=str, choices=list, gold=int)
    for number, row in enumerate(rows, start=1):
        # the last one: a passage may itself contain the word
        passage, _, question = row["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        fields = {"question": question.strip().removesuffix("?"), "passage": passage}
        if _official(folder) or _held_out(passage):
            gold = _label(row["gold"], (0, 1), where, number)
            choices = row["choices"]
            if len(choices) != 2:
                raise ValueError(f"{where}: line {number}: must have 2 choices, got {choices}")
            label = _label(choices[gold], ("no", "yes"), where, number)
            examples.append(Example(fields, label))
    return examples


BALANCED = "balanced.jsonl"


def _official(folder: Path) -> bool:
    return (folder / "train.jsonl").is_file()


def _held_out(passage: str) -> bool:
    """Whether a passage is tested on: one in four, by a hash that ignores white space."""
    return sha256(_words(passage).encode()).digest()[0] % 4 == 0


def _words(passage: str) -> str:
    return " ".join(passage.split())


def _toy(part: str, count: int) -> Callable[[Path], list[Example]]:
    def reader(folder: Path) -> list[Example]:
        draw = generator(0, "toy-text", part)
        words = draw.integers(40, size=(count, 6))
        signs = draw.integers(2, size=count)
        return [
            Example(
                {"sentence": " ".join([*(f"w{w}" for w in row), "good" if sign else "bad"])},
                int(sign),
            )
            for row, sign in zip(words, signs, strict=True)
        ]

    return reader


SENTENCE = {"sentence": "sentence"}
TEXTS = {
    "sst2": TextSet(
        _sst2("train.tsv"),
        _sst2("test.tsv"),
        ("stanfordnlp/sst2", None, {"train": "train", "test": "validation"}),
        ("label", ("negative", "positive")),
        SENTENCE,
        ("{sentence}", None),
        ("Review: ", "{sentence}", "\nIs the review positive? Answer yes or no.\nAnswer:"),
        "accuracy",
        validation=("dev.tsv", _sst2("dev.tsv")),
    ),
    "wic": TextSet(
        _wic("train"),
        _wic("test"),
        ("aps/super_glue", "wic", {"train": "train", "test": "validation"}),
        ("label", ("False", "True")),
        {"word": "word", "first": "sentence1", "second": "sentence2"},
        ("{word}: {first}", "{second}"),
        (
            "",
            "First: {first}\nSecond: {second}",
            '\nDoes the word "{word}" mean the same in both? Answer yes or no.\nAnswer:',
        ),
        "f1",
        validation=("dev.gold.txt", _wic("dev")),
    ),
    "boolq": TextSet(
        _boolq_train,
        _boolq_test,
        ("google/boolq", None, {"train": "train", "test": "validation"}),
        ("answer", None),
        {"question": "question", "passage": "passage"},
        ("{question}", "{passage}"),
        ("Passage: ", "{passage}", "\nQuestion: {question}? Answer yes or no.\nAnswer:"),
        "f1",
        group=lambda example: _words(example.fields["passage"]),
    ),
    "toy-text": TextSet(
        _toy("train", 160),
        _toy("test", 60),
        ("", None, {}),
        ("", None),
        SENTENCE,
        ("{sentence}", None),
        ("", "{sentence}", " yes no"),
        "accuracy",
    ),
}

"""Text data sets: SST-2, WiC and BoolQ from a folder (`formats`) or the hub, and a made-up one.

Where data.validation asks for validation examples, those of SST-2 come from dev.tsv and those of
WiC from dev.data.txt and dev.gold.txt if the folder has them. BoolQ's, and all of the hub, whose
own validation sets are tested on here as the labels of its test sets are not public, are taken out
of the training examples; BoolQ's by whole passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paper_checks import settings
from paper_checks.tasks import hub
from paper_checks.tasks.formats import (
    Example,
    boolq_test,
    boolq_train,
    sst2,
    toy,
    wic,
    words,
)
from paper_checks.tasks.records import cut, few, validation_size, without_validation


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
    instead = f"or give --data-dir with a folder {name} (formats: paper_checks/tasks/formats.py)"
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


SENTENCE = {"sentence": "sentence"}
TEXTS = {
    "sst2": TextSet(
        sst2("train.tsv"),
        sst2("test.tsv"),
        ("stanfordnlp/sst2", None, {"train": "train", "test": "validation"}),
        ("label", ("negative", "positive")),
        SENTENCE,
        ("{sentence}", None),
        ("Review: ", "{sentence}", "\nIs the review positive? Answer yes or no.\nAnswer:"),
        "accuracy",
        validation=("dev.tsv", sst2("dev.tsv")),
    ),
    "wic": TextSet(
        wic("train"),
        wic("test"),
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
        validation=("dev.gold.txt", wic("dev")),
    ),
    "boolq": TextSet(
        boolq_train,
        boolq_test,
        ("google/boolq", None, {"train": "train", "test": "validation"}),
        ("answer", None),
        {"question": "question", "passage": "passage"},
        ("{question}", "{passage}"),
        ("Passage: ", "{passage}", "\nQuestion: {question}? Answer yes or no.\nAnswer:"),
        "f1",
        group=lambda example: words(example.fields["passage"]),
    ),
    "toy-text": TextSet(
        toy("train", 160),
        toy("test", 60),
        ("", None, {}),
        ("", None),
        SENTENCE,
        ("{sentence}", None),
        ("", "{sentence}", " yes no"),
        "accuracy",
    ),
}

"""The files of the text data sets that are read from a folder, and a made-up one for tests.

A folder given as --data-dir holds one folder per data set:
sst2    train.tsv, test.tsv      header `sentence<tab>label`, labels 0 | 1
wic     {train,test}.data.txt    word, part of speech, positions, two sentences, by tabs
        {train,test}.gold.txt    T | F (T: the word means the same in both)
boolq   balanced.jsonl           {"question", "passage", "answer": true | false}
        dev_mosaic_format.jsonl  {"query": "Passage: ...\\nQuestion: ...", "choices", "gold"}
        The first is drawn from the second, so a hash of the passage divides both: three quarters
        of the passages are trained on (first file), one quarter is tested on (second file). With
        train.jsonl there, the official training set in the first format, it and all of the second.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory.files import from_json
from decaf_theory.rng import generator


class Example(NamedTuple):
    """One example: its texts by name, and its class."""

    fields: dict[str, str]
    label: int


def lines(path: Path) -> list[str]:
    """Return the lines of a data set's file; ValueError says how to get it if it is missing."""
    if not path.is_file():
        raise ValueError(
            f"data file {path} is missing: put the data set there (formats: "
            "paper_checks/tasks/formats.py), or leave --data-dir out to take the hub"
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


def sst2(file: str) -> Callable[[Path], list[Example]]:
    """Return the reader of a file of sentences and labels."""

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


def wic(part: str) -> Callable[[Path], list[Example]]:
    """Return the reader of a part of WiC, of pairs of sentences with one word."""

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


def boolq_train(folder: Path) -> list[Example]:
    """Return the passages and questions to train on."""
    where = folder / ("train.jsonl" if _official(folder) else BALANCED)
    return [
        Example({"question": row["question"], "passage": row["passage"]}, int(row["answer"]))
        for row in objects(where, question=str, passage=str, answer=bool)
        if _official(folder) or not _held_out(row["passage"])
    ]


def boolq_test(folder: Path) -> list[Example]:
    """Return those to test on; see above."""
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
    return sha256(words(passage).encode()).digest()[0] % 4 == 0


def words(passage: str) -> str:
    """Return a passage with single spaces, the same for copies that differ in white space."""
    return " ".join(passage.split())


def toy(part: str, count: int) -> Callable[[Path], list[Example]]:
    """Return the reader of made-up sentences, whose last word is their class."""

    def reader(folder: Path) -> list[Example]:
        draw = generator(0, "toy-text", part)
        drawn = draw.integers(40, size=(count, 6))
        signs = draw.integers(2, size=count)
        return [
            Example(
                {"sentence": " ".join([*(f"w{w}" for w in row), "good" if sign else "bad"])},
                int(sign),
            )
            for row, sign in zip(drawn, signs, strict=True)
        ]

    return reader

"""A user's own data without code: `own-text` and `own-images`, from a folder in --data-dir.

<data-dir>/<task.folder>/   by default the folder has the task's name
own-text     train.csv and test.csv, or .tsv or .jsonl: a header or objects with the columns that
             task.pair or task.prompt names in braces, and task.label; task.classes are its values
own-images   train/<class>/ and test/<class>/ of images, or data.split_file

The model is any sequence classifier, causal model of LLaMA's form, or image classifier in Hugging
Face's format; lora.targets, and task.heads where its head has another name, say what is trained.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from paper_checks.config import Config
from paper_checks.tasks import images
from paper_checks.tasks.data import TEXTS, TextSet
from paper_checks.tasks.formats import Example, objects, raw_text
from paper_checks.tasks.models import loading, pretrained, require, source
from paper_checks.tasks.pictures import Pictures, normalized
from paper_checks.tasks.records import Data, Task

if TYPE_CHECKING:  # torch is imported where it is needed
    from torch import Tensor

ENDINGS = {".csv": ",", ".tsv": "\t", ".jsonl": None}


def texts_of(task: Mapping[str, Any]) -> TextSet:
    """Return the data set of texts that the table `task` names, own or known."""
    if task["name"] != "own-text":
        return TEXTS[task["name"]]
    first, *others = task.get("pair", ("{text}",))
    prompt = task.get("prompt", ("", "{text}", ""))
    used = prompt if "prompt" in task else (first, *others)
    columns = {name: name for text in used for name in fields_of(text)}
    read = partial(_read, columns=columns, label=task.get("label", "label"), task=task)
    return TextSet(
        train=partial(read, "train"),
        test=partial(read, "test"),
        hub=("", None, {}),
        answer=("", None),
        columns=columns,
        pair=(first, others[0] if others else None),
        prompt=prompt,
        metric="accuracy",
        classes=task.get("answers", task["classes"]),
    )


def fields_of(text: str) -> list[str]:
    """Return the columns that a format string names. ValueError: one of another form."""
    try:
        found = [field for _, field, spec, turn in Formatter().parse(text) if field is not None]
        text.format(**dict.fromkeys(found, ""))
    except (ValueError, KeyError, IndexError, AttributeError):
        found = [""]
    if not all(found):
        raise ValueError(
            f"a text must name columns in braces, as in 'Review: {{text}}'; got {text!r}"
        )
    return found


def _read(
    part: str, folder: Path, *, columns: Mapping[str, str], label: str, task: Mapping[str, Any]
) -> list[Example]:
    """Return the examples of one file, train or test; ValueError names file and line."""
    there = [folder / f"{part}{ending}" for ending in ENDINGS]
    files = [path for path in there if path.is_file()]
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise ValueError(
            f"{folder} must hold one of {', '.join(path.name for path in there)}; found {found}"
        )
    wanted, classes = (*columns, label), list(task["classes"])
    rows = _objects(files[0], wanted, label) if files[0].suffix == ".jsonl" else None
    examples = []
    for line, row in _rows(files[0], wanted) if rows is None else rows:
        if row[label] not in classes:
            raise ValueError(
                f"{files[0]}: line {line}: {label} must be one of task.classes, "
                f"{', '.join(classes)}; got {row[label]!r}"
            )
        fields = {name: row[name] for name in columns}
        examples.append(Example(fields, classes.index(row[label])))
    if not examples:
        raise ValueError(f"{files[0]}: no examples")
    return examples


def _objects(path: Path, wanted: tuple[str, ...], label: str) -> list[tuple[int, dict[str, str]]]:
    kinds: dict[str, Any] = dict.fromkeys(wanted, str) | {label: (str, int)}
    return [
        (line, row | {label: row[label] if isinstance(row[label], str) else json.dumps(row[label])})
        for line, row in enumerate(objects(path, **kinds), start=1)
    ]


def _rows(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table by its header, each with the line where it ends."""
    text = StringIO(raw_text(path).removeprefix("\ufeff"), newline="")
    rows = csv.reader(text, delimiter=str(ENDINGS[path.suffix]), strict=True)
    try:
        header = next(rows, [])
        for name in wanted:
            if header.count(name) != 1:
                raise ValueError(
                    f"{path}: line 1: the header must have the column {name!r} once, got {header}"
                )
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path}: line {rows.line_num}: {len(row)} fields, but the header has "
                    f"{len(header)}"
                )
            if row:  # the csv module gives an empty one for a blank line
                yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}: line {rows.line_num}: {error}") from None


def folder_of(config: Config, data_dir: Path | None) -> str:
    """Return the folder of a task's data in --data-dir. ValueError: own data without --data-dir."""
    name = str(config.task["name"])
    if data_dir is None and name.startswith("own-"):
        raise ValueError(
            f"task {name} reads your data: give --data-dir, the folder that holds the folder "
            f"{config.data_folder}"
        )
    return config.data_folder


def load_images(config: Config, data_dir: Path | None) -> Task:
    """Return the task of an image classifier with a new head on own images."""
    require("transformers", "PIL")
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    parts, classes = images.read(folder_of(config, data_dir), config.data, data_dir)
    place, dtype = source(config.model), config.model.get("dtype", "float32")
    loader: Any = AutoModelForImageClassification
    own_head: dict[str, Any] = {"num_labels": len(classes), "ignore_mismatched_sizes": True}
    model = pretrained(loader, place, dtype, **own_head)
    with loading(place):
        processor = AutoImageProcessor.from_pretrained(place.place)
    held = {part: _pictures(config, part, listing, processor) for part, listing in parts.items()}
    return Task(
        name=config.task["name"],
        model=model,
        base=place.base,
        targets=config.lora.targets,
        heads=config.task.get("heads", ("classifier",)),
        classes=len(classes),
        metric=config.task.get("metric", "accuracy"),
        scores=partial(_scores, processor=processor),
        train=held["train"],
        test=held["test"],
        validation=held.get("validation"),
    )


def _pictures(config: Config, part: str, listing: images.Listing, processor: Any) -> Data:
    import torch

    augment = part == "train" and config.data.augment is not None
    found = Pictures(listing.items, processor, augment=augment)
    return Data({"pixel_values": found}, torch.from_numpy(listing.labels))


def _scores(model: Any, inputs: dict[str, Any], agents: int, *, processor: Any) -> Tensor:
    pixels = normalized(inputs["pixel_values"], processor).to(model.dtype)
    scores: Tensor = model(pixel_values=pixels).logits
    return scores

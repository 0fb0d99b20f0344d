"""Sentence classification by BERT-type encoders: `sst2`, `wic`, `boolq`, and made-up sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paper_checks.config import Config
from paper_checks.tasks import own
from paper_checks.tasks.data import TextSet, read
from paper_checks.tasks.formats import Example
from paper_checks.tasks.models import language_model, overridden, require, require_positions
from paper_checks.tasks.records import Data, Task

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 24, "max_position_embeddings": 64}


def load(config: Config, data_dir: Path | None) -> Task:
    """Return a classifier's task: adapters on query and value, a new head that is trained too."""
    require("transformers")
    from transformers import AutoModelForSequenceClassification

    name, texts = config.task["name"], own.texts_of(config.task)
    examples = read(own.folder_of(config, data_dir), config.data, data_dir, texts)
    model, base, tokenizer = language_model(
        config.model,
        AutoModelForSequenceClassification,
        lambda words: _tiny(words, len(texts.classes), config.model),
        (text for example in examples["train"] for text in _pair(texts, example) if text),
        num_labels=len(texts.classes),
        **({"ignore_mismatched_sizes": True} if name == "own-text" else {}),  # of another head
    )
    _let_pad(model, tokenizer)
    parts: dict[str, Any] = {
        part: _encode(texts, rows, tokenizer, config.data.max_length or 128)
        for part, rows in examples.items()
    }
    masks = (part.inputs["attention_mask"] for part in parts.values())
    require_positions(model, max(int(mask.sum(1).max()) for mask in masks))
    return Task(
        name=name,
        model=model,
        base=base,
        targets=config.lora.targets or ("query", "value"),
        heads=config.task.get("heads", ("classifier",)),
        classes=len(texts.classes),
        metric=config.task.get("metric", texts.metric),
        scores=lambda model, inputs, agents: model(**inputs).logits,
        **parts,
    )


def _let_pad(model: Any, tokenizer: Any) -> None:
    """Give a model without a padding token, as GPT's kind, the one that ends texts."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id


def _tiny(words: int, classes: int, settings: Mapping[str, Any]) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = overridden(TINY, settings)
    return BertForSequenceClassification(BertConfig(vocab_size=words, num_labels=classes, **sizes))


def _pair(texts: TextSet, example: Example) -> tuple[str, str | None]:
    first, second = texts.pair
    return first.format(**example.fields), second and second.format(**example.fields)


def _require_room(tokenizer: Any, max_length: int, texts: int) -> None:
    """Raise ValueError if nothing of a text would be left next to the marks of its ends."""
    least = tokenizer.num_special_tokens_to_add(pair=texts == 2) + texts
    if max_length < least:
        raise ValueError(
            f"data.max_length must be >= {least}, the marks of ends and a token of every text; got "
            f"{max_length}"
        )


def _encode(texts: TextSet, examples: list[Example], tokenizer: Any, max_length: int) -> Data:
    """Tokenize once: ids, mask and segments [n, max_length]; texts that are too long are cut."""
    import torch

    pairs = [_pair(texts, example) for example in examples]
    first = [a for a, _ in pairs]
    second = [b for _, b in pairs]
    _require_room(tokenizer, max_length, 1 if second[0] is None else 2)
    inputs = tokenizer(
        first,
        second if second[0] is not None else None,
        padding="max_length",
        truncation="longest_first",
        max_length=max_length,
        return_tensors="pt",
        return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
    )
    return Data(dict(inputs), torch.tensor([example.label for example in examples]))

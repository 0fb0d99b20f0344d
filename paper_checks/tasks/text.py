"""Sentence classification by BERT-type encoders: `sst2`, `wic`, `boolq`, and made-up sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paper_checks.config import Config
from paper_checks.tasks.data import TEXTS, Example, read
from paper_checks.tasks.models import language_model, overridden, require
from paper_checks.tasks.records import Data, Task

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 24, "max_position_embeddings": 64}


def load(config: Config, data_dir: Path | None) -> Task:
    """Return a classifier's task: adapters on query and value, a new head that is trained too."""
    require("transformers")
    from transformers import AutoModelForSequenceClassification

    name = config.task["name"]
    examples = read(name, config.data, data_dir)
    model, base, tokenizer = language_model(
        config.model,
        AutoModelForSequenceClassification,
        lambda words: _tiny(words, config.model),
        (_pair(name, example)[0] for example in examples["train"]),
        num_labels=2,
    )
    parts: dict[str, Any] = {
        part: _encode(name, rows, tokenizer, config.data.max_length or 128)
        for part, rows in examples.items()
    }
    return Task(
        name=name,
        model=model,
        base=base,
        targets=config.lora.targets or ("query", "value"),
        heads=("classifier",),
        classes=2,
        metric=config.task.get("metric", TEXTS[name].metric),
        scores=lambda model, inputs, agents: model(**inputs).logits,
        **parts,
    )


def _tiny(words: int, settings: Mapping[str, Any]) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = overridden(TINY, settings)
    return BertForSequenceClassification(BertConfig(vocab_size=words, num_labels=2, **sizes))


def _pair(name: str, example: Example) -> tuple[str, str | None]:
    first, second = TEXTS[name].pair
    return first.format(**example.fields), second and second.format(**example.fields)


def _encode(name: str, examples: list[Example], tokenizer: Any, max_length: int) -> Data:
    """Tokenize once: ids, mask and segments [n, max_length]; texts that are too long are cut."""
    import torch

    pairs = [_pair(name, example) for example in examples]
    first = [a for a, _ in pairs]
    second = [b for _, b in pairs]
    inputs = tokenizer(
        first,
        second if second[0] is not None else None,
        padding="max_length",
        truncation="longest_first",
        max_length=max_length,
        return_tensors="pt",
        return_token_type_ids=True,
    )
    return Data(dict(inputs), torch.tensor([example.label for example in examples]))

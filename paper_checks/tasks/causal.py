"""Yes/no questions to LLaMA-type causal models, scored on the answer tokens at the last position.

The hidden state of the last position of every prompt is taken and multiplied by the two rows of
the output matrix that belong to "no" and "yes": the same numbers as the full logits there, without
the vocabulary at every position. The loss is the cross-entropy over these two; a loss over the
whole vocabulary would also train the model to answer at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.config import Config
from paper_checks.tasks import own
from paper_checks.tasks.data import read
from paper_checks.tasks.formats import Example
from paper_checks.tasks.models import language_model, overridden, require, require_positions
from paper_checks.tasks.records import Data, Task

if TYPE_CHECKING:  # torch is imported where it is needed
    from torch import Tensor

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}


def load(config: Config, data_dir: Path | None) -> Task:
    """Return the task of a causal model: adapters on q_proj and v_proj, no head."""
    require("transformers")
    import torch
    from transformers import AutoModelForCausalLM

    name, texts = config.task["name"], own.texts_of(config.task)
    prompt = checked_prompt(name, config.task.get("prompt", texts.prompt), texts.columns)
    examples = read(own.folder_of(config, data_dir), config.data, data_dir, texts)
    model, base, tokenizer = language_model(
        config.model,
        AutoModelForCausalLM,
        lambda words: _tiny(words, config.model),
        (_prompt(prompt, example) for example in examples["train"]),
    )
    answers = torch.tensor(_answers(tokenizer, texts.classes))
    parts: dict[str, Any] = {
        part: _encode(prompt, rows, tokenizer, config.data.max_length or 256)
        for part, rows in examples.items()
    }
    require_positions(model, max(int(part.inputs["last"].max()) + 1 for part in parts.values()))
    return Task(
        name=name,
        model=model,
        base=base,
        targets=config.lora.targets or ("q_proj", "v_proj"),
        heads=(),
        classes=len(texts.classes),
        metric=config.task.get("metric", texts.metric),
        scores=lambda model, inputs, agents: answer_scores(model, inputs, answers),
        **parts,
    )


def answer_scores(model: Any, inputs: dict[str, Any], answers: Tensor) -> Tensor:
    """Return the logits [n, answers] of the token ids `answers` after the last token of prompts.

    inputs: input_ids [n, L], padded on the right, and last [n], the position of the last token.
    Padding comes after it, where a causal model does not look, so no mask is needed.
    """
    import torch

    hidden = model.model(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
    rows = torch.arange(len(hidden), device=hidden.device)  # bfloat16 would count to 256
    at_last = hidden[rows, inputs["last"]]
    scores: Tensor = (at_last @ model.lm_head.weight[answers.to(hidden.device)].T).float()
    return scores


def _tiny(words: int, settings: Mapping[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=words, **overridden(TINY, settings)))


def checked_prompt(name: str, prompt: Sequence[str], fields: Iterable[str]) -> Sequence[str]:
    """Return the three texts of a prompt.

    ValueError: a field that the data set does not have, or none of those that it has.
    """
    fields = tuple(fields)
    known, without, some = ", ".join(f"{{{field}}}" for field in fields), "", ""
    for text in prompt:
        try:
            without += text.format(**dict.fromkeys(fields, ""))
            some += text.format(**dict.fromkeys(fields, "x"))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"task.prompt may name the fields {known} of task {name}; got {text!r} ({error})"
            ) from None
    if without == some:
        raise ValueError(
            f"task.prompt must name one of the fields {known} of task {name}, or all examples read "
            f"alike; got {list(prompt)}"
        )
    return prompt


def _prompt(prompt: Sequence[str], example: Example, cut: int = 0) -> str:
    """Return the prompt without the last `cut` words of its middle (the passage)."""
    before, middle, after = (text.format(**example.fields) for text in prompt)
    words = middle.split(" ")
    return before + " ".join(words[: len(words) - cut]) + after


def _answers(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Return the tokens that end "Answer: yes", ...: each answer with the space before it.

    ValueError: two answers end in one token, which would make them one class.
    """
    ends = [
        int(tokenizer(f"Answer: {word}", add_special_tokens=False)["input_ids"][-1])
        for word in words
    ]
    if len(set(ends)) < len(ends):
        raise ValueError(
            f"answers must end in tokens of their own, as only the last is scored; got "
            f"{', '.join(words)} with tokens {ends}: choose other words"
        )
    return ends


def _encode(
    prompt: Sequence[str], examples: list[Example], tokenizer: Any, max_length: int
) -> Data:
    """Tokenize once; a prompt that is too long loses the end of its middle, not its question."""
    import torch

    rows = [_ids(prompt, example, tokenizer, max_length) for example in examples]
    padded = torch.zeros(len(rows), max_length, dtype=torch.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = torch.tensor(row)
    last = torch.tensor([len(row) - 1 for row in rows])
    return Data({"input_ids": padded, "last": last}, torch.tensor([e.label for e in examples]))


def _ids(prompt: Sequence[str], example: Example, tokenizer: Any, max_length: int) -> list[int]:
    cut, words = 0, len(prompt[1].format(**example.fields).split(" "))
    while True:
        ids = list(tokenizer(_prompt(prompt, example, cut))["input_ids"])
        if len(ids) <= max_length:
            return ids
        if cut == words:
            raise ValueError(
                f"data.max_length must be >= {len(ids)}, the tokens of a prompt without the text "
                f"that may be cut; got {max_length}"
            )
        cut = min(words, cut + max(1, (len(ids) - max_length) // 4))  # a word has 1-4 tokens

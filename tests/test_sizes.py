"""Sizes of models and texts that do not fit each other are refused before anything trains."""

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")
pytest.importorskip("transformers")

from paper_checks import config as configs  # noqa: E402
from paper_checks import finetune  # noqa: E402


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        ("tiny-bert", {"model.num_attention_heads": 3}, "must divide model.hidden_size = 16"),
        ("tiny-llama", {"model.num_attention_heads": 3}, "must divide model.hidden_size = 16"),
        (
            "tiny-llama",
            {"model.num_key_value_heads": 3},
            "num_key_value_heads must divide model.num_attention_heads = 4, got 3",
        ),
        ("tiny-bert", {"model.max_position_embeddings": 2}, "max_length must be <= 2, .* 9 tokens"),
        ("tiny-llama", {"model.max_position_embeddings": 2}, "max_length must be <= 2, the posit"),
        ("tiny-bert", {"data.max_length": 2}, "max_length must be >= 3, .* got 2"),
        ("tiny-llama", {"task.prompt": ["a", "b", "c"]}, "prompt must name one of the fields {"),
        ("vit-digits", {"model.patch_size": 3}, "patch_size must divide the side .* = 8, got 3"),
        ("vit-digits", {"model.num_attention_heads": 7}, "must divide model.hidden_size = 48"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(experiment, changes, message):
    if experiment == "vit-digits":
        pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=message):
        finetune.prepare(configs.read(experiment, changes), device="cpu")


def test_a_text_may_have_as_many_tokens_as_the_model_has_positions():
    config = configs.read("tiny-bert", {"model.max_position_embeddings": 9})
    assert finetune.prepare(config, device="cpu").task.train.inputs["input_ids"].shape[1] >= 9

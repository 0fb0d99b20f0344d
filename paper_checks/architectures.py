"""The paper's models without their weights: shapes on torch's meta device, which computes nothing.

`scores` is the forward pass of one training step, as the tasks do it: for a causal model the answer
tokens' logits after the last token, for CLIP every image against the prompts of all classes, which
every agent encodes itself, since both encoders train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from decaf_theory.plan.models import CLIP_TEXT, CLIP_VISION, LLAMA2_7B, MODELS

META = torch.device("meta")


class Sizes(NamedTuple):
    """The cost of a step depends on: agents, examples per agent, tokens per text, classes."""

    agents: int
    batch: int
    length: int
    classes: int


class Architecture(NamedTuple):
    """A published model: its number of parameters, layers to be kept when others are recomputed,
    the sites adapted by default, and how it is built and run on the meta device.
    """

    parameters: int
    layers: int
    targets: tuple[str, ...]
    unit: str  # what one example is, for the printed report
    build: Callable[[], nn.Module]
    scores: Callable[[Any, Sizes], Tensor]


def llama2_7b() -> nn.Module:
    """Return LlamaForCausalLM with the sizes of LLaMA-2-7B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=LLAMA2_7B.width,
        intermediate_size=LLAMA2_7B.inner,
        num_hidden_layers=LLAMA2_7B.layers,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    with META:
        model: nn.Module = LlamaForCausalLM(config)
    return model


def answer_scores(model: Any, sizes: Sizes) -> Tensor:
    """Return [N b, classes]: logits after the last token, only those of the answer tokens."""
    n, L = sizes.agents * sizes.batch, sizes.length
    out = model.model(input_ids=tokens(n, L), attention_mask=causal(L), use_cache=False)
    scores: Tensor = out.last_hidden_state[:, -1] @ model.lm_head.weight[: sizes.classes].T
    return scores


def clip_vit_b16() -> nn.Module:
    """Return CLIPModel with the sizes of CLIP ViT-B/16."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": 49408,
        "hidden_size": CLIP_TEXT.width,
        "intermediate_size": CLIP_TEXT.inner,
        "num_hidden_layers": CLIP_TEXT.layers,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
    }
    vision = {
        "hidden_size": CLIP_VISION.width,
        "intermediate_size": CLIP_VISION.inner,
        "num_hidden_layers": CLIP_VISION.layers,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    }
    with META:
        model: nn.Module = CLIPModel(
            CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)
        )
    return model


def clip_scores(model: Any, sizes: Sizes) -> Tensor:
    """Return [N b, classes]: scaled products of every agent's image and prompt embeddings."""
    N, b, L, C = sizes.agents, sizes.batch, sizes.length, sizes.classes
    pixels = torch.empty(N * b, 3, 224, 224, device=META, dtype=model.dtype)
    image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    out = model.text_model(input_ids=tokens(N * C, L), attention_mask=causal(L))
    text = model.text_projection(out.pooler_output)
    image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
    cosines = image.reshape(N, b, -1) @ text.reshape(N, C, -1).mT
    scores: Tensor = model.logit_scale.exp() * cosines.flatten(0, 1)
    return scores


def tokens(n: int, length: int) -> Tensor:
    """Return token ids [n, length]."""
    return torch.empty(n, length, dtype=torch.int64, device=META)


def causal(length: int) -> Tensor:
    """Return a mask [1, 1, L, L]: without one, the models look at the numbers of their input."""
    return torch.empty(1, 1, length, length, dtype=torch.bool, device=META)


ARCHITECTURES = {
    "meta-llama/Llama-2-7b-hf": Architecture(
        6_738_415_616, 32, MODELS["llama2-7b"].targets, "prompt", llama2_7b, answer_scores
    ),
    "openai/clip-vit-base-patch16": Architecture(
        149_620_737, 12, MODELS["clip-vit-b16"].targets, "image", clip_vit_b16, clip_scores
    ),
}


class Examples(NamedTuple):
    """What is known of a data set without having it.

    length: tokens of a text where the configuration gives no max_length: CLIP's prompts are as long
    as the longest, about 16 tokens, which its tokenizer would tell. tested: examples of its test.
    """

    classes: int
    length: int
    tested: int


TASKS = {
    "wic": Examples(2, 64, 638),
    "boolq": Examples(2, 256, 3270),
    "flowers102": Examples(102, 20, 2463),
    "ucf101": Examples(101, 20, 3783),
    "food101": Examples(101, 20, 25250),
}

"""Images classified by CLIP against class prompts, with both encoders trained.

Every agent encodes the prompts with its own adapters: the text tower is part of the gradient, and a
step encodes N times as many texts as there are classes. Adapters are on q, k, v of both towers; no
head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.config import Config
from paper_checks.tasks import images
from paper_checks.tasks.models import (
    drawn,
    loading,
    pretrained,
    require,
    source,
    word_tokenizer,
)
from paper_checks.tasks.pictures import Pictures, normalized
from paper_checks.tasks.records import Data, Task, divided

if TYPE_CHECKING:  # torch is imported where it is needed
    from torch import Tensor, nn

TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 24, "initializer_factor": 5.0}  # so that classes differ at once
SIDE = 8  # pixels of the made-up images


def load(config: Config, data_dir: Path | None) -> Task:
    """Return the task of a CLIP model, from the hub or a local folder, or random."""
    require("transformers")
    ready: Callable[[Tensor], Tensor]
    name = config.task["name"]
    if (config.model["from"] == "random") != (name == "toy-images"):
        raise ValueError(
            f'task toy-images and model.from = "random" go together; got task {name} and '
            f"model.from {config.model['from']!r}"
        )
    if name == "toy-images":
        model, base, tokenizer, train, test = _toy(config.model.get("dtype", "float32"))
        train, validation = divided(train, config.data.validation)
        classes, ready = list(images.TOY_CLASSES), _as_they_are
    else:
        model, base, tokenizer, processor = _real(config.model)
        parts, classes = images.read(name, config.data, data_dir)
        train = _data(parts["train"], processor, augment=config.data.augment is not None)
        test, held = _data(parts["test"], processor), parts.get("validation")
        validation = None if held is None else _data(held, processor)
        ready = partial(normalized, processor=processor)
    prompts = images.prompts(name, classes, config.task.get("prompt"))
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    texts = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    return Task(
        name=name,
        model=model,
        base=base,
        targets=config.lora.targets or ("q_proj", "k_proj", "v_proj"),
        heads=(),
        classes=len(prompts),
        metric=config.task.get("metric", "accuracy"),
        train=train,
        test=test,
        scores=partial(scores, texts=texts, ready=ready),
        common=partial(encoded_classes, texts=texts),
        validation=validation,
    )


def scores(
    model: Any,
    inputs: dict[str, Any],
    agents: int,
    *,
    texts: Mapping[str, Tensor],
    ready: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return exp(logit scale) cos(image, prompt of class) [N*b, classes] of agent-major images.

    ready: turns pixel_values into what the model takes. `classes` of `encoded_classes` may be among
    the inputs, else they are encoded here, with a gradient.
    """
    pixels = ready(inputs["pixel_values"]).to(model.dtype)
    image = unit(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))
    classes = inputs.get("classes")
    if classes is None:
        classes = encoded_classes(model, agents, texts=texts)["classes"]
    cosines = image.reshape(agents, -1, image.shape[-1]) @ classes.mT
    found: Tensor = model.logit_scale.float().exp() * cosines.flatten(0, 1)
    return found


def encoded_classes(model: Any, agents: int, *, texts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return {"classes": [N, classes, width]}: unit vectors of the prompts [classes, L].

    They are encoded once per agent, so that both towers carry its adapters.
    """
    repeated = {key: x.to(model.device).repeat(agents, 1) for key, x in texts.items()}
    text = unit(model.text_projection(model.text_model(**repeated).pooler_output))
    return {"classes": text.reshape(agents, -1, text.shape[-1])}


def unit(x: Tensor) -> Tensor:
    """Return vectors [n, width] of length 1 in float32."""
    wide = x.float()
    found: Tensor = wide / wide.norm(dim=-1, keepdim=True)
    return found


def _as_they_are(pixels: Tensor) -> Tensor:
    return pixels


def _real(settings: Mapping[str, Any]) -> tuple[nn.Module, str, Any, Any]:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    place = source(settings)
    model = pretrained(CLIPModel, place, settings.get("dtype", "float32"))
    with loading(place):
        tokenizer = AutoTokenizer.from_pretrained(place.place)
        processor = AutoImageProcessor.from_pretrained(place.place)
    return model, place.base, tokenizer, processor


def _data(part: images.Listing, processor: Any, *, augment: bool = False) -> Data:
    import torch

    pictures = Pictures(part.items, processor, augment=augment)
    return Data({"pixel_values": pictures}, torch.from_numpy(part.labels))


def _toy(dtype: str) -> tuple[nn.Module, str, Any, Data, Data]:
    import torch
    from transformers import CLIPConfig, CLIPModel

    tokenizer = word_tokenizer(images.prompts("toy-images", list(images.TOY_CLASSES)))
    config = CLIPConfig(
        text_config=TINY
        | {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
        # the text tower reads its summary at the token that ends a text
        | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
        vision_config=TINY | {"image_size": SIDE, "patch_size": 2, "hidden_size": 24},
        projection_dim=12,
    )
    train, test = (
        Data({"pixel_values": torch.from_numpy(x)}, torch.from_numpy(labels))
        for x, labels in (images.toy("train", 90, SIDE), images.toy("test", 45, SIDE))
    )
    return drawn(lambda: CLIPModel(config), dtype), "random", tokenizer, train, test

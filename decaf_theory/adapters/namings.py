"""How files name the factors of a site, and the tensors that are written for them.

peft       base_model.model.SITE.lora_A.weight, .lora_embedding_A, and adapter_config.json
diffusers  unet.SITE.lora_A.weight, .lora.down.weight, .lora_linear_layer.down.weight
kohya      lora_unet_SITE.lora_down.weight, lora_unet_SITE.alpha
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory.adapters.stored import ALPHA, Tensor, require_finite
from decaf_theory.arrays import Array
from decaf_theory.files import from_json
from decaf_theory.lowrank import Factors

PREFIX = "base_model.model."
SETTINGS = "lora_adapter_metadata"  # peft's settings in the metadata of a file of diffusers
MODULE = "networks.lora"
PLAIN = re.compile(r"[\w.]+")  # names that are patterns without operators but the dot
# sd-scripts' names of the base model in a file's metadata, the first that is there counts
BASES = ("ss_sd_model_name", "ss_base_model_version")


@dataclass(frozen=True)
class Form:
    """Two endings of names: of the tensors that hold B and A of one site.

    embedding: the weight [k, d] is a table, and (B A)' is added to it.
    """

    B: str
    A: str
    embedding: bool = False

    def label(self, letter: str) -> str:
        """Return what errors call the tensor of B or A."""
        ending = self.B if letter == "B" else self.A
        return ending.strip("._").removesuffix(".weight")


LINEAR = Form(".lora_B.weight", ".lora_A.weight")
EMBEDDING = Form(".lora_embedding_B", ".lora_embedding_A", embedding=True)
KOHYA_FORM = Form(".lora_up.weight", ".lora_down.weight")
PEFT_FORMS = (LINEAR, EMBEDDING)
LONE_FORMS = (
    LINEAR,
    KOHYA_FORM,
    Form(".lora.up.weight", ".lora.down.weight"),
    Form("_lora.up.weight", "_lora.down.weight"),
    Form(".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
)
# of a model in memory: lora_A.NAME.weight
NAMED = (
    re.compile(r"(.+\.lora_[AB])\.([^.]+)(\.weight)"),
    re.compile(r"(.+\.lora_embedding_[AB])\.([^.]+)()"),
)
# tensors of updates that are not s B A, by what follows the site's name
FOREIGN = (
    (re.compile(r".+\.(lora_magnitude_vector|dora_scale)\b.*"), "DoRA's"),
    (re.compile(r".+\.hada_[wt].*"), "LoHa's, an elementwise product of two products"),
    (re.compile(r".+\.lokr_[wt].*"), "LoKr's, a Kronecker product"),
    (re.compile(r".+\.lora_mid\b.*"), "LoCon's middle factor of a convolution"),
    (re.compile(r".+\.oft_.*"), "OFT's, a rotation of the weights"),
    (re.compile(r".+\.lora_(B|up)(\..+)?\.bias"), "a bias of B"),
)


@dataclass(frozen=True)
class Site:
    """An adapted matrix that is not yet read: scale B A is added to d x k weights.

    name: of the module. shape: (d, k), of a convolution k = in x height x width. scale: alpha / r,
    or alpha / sqrt(r). B, A: as stored. form: how they are named. alpha: whether a tensor holds it.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    scale: float
    B: Tensor
    A: Tensor
    form: Form = LINEAR
    alpha: bool = False

    @property
    def weight(self) -> tuple[int, ...]:
        """The shape d x k, or d x in x height x width, in which the update is added."""
        return (self.shape[0], *self.A.shape[1:])

    def read(self) -> Factors:
        """Return B [d, r], A [r, k] in float64, the scale folded into B; ValueError: not finite."""
        with np.errstate(over="ignore"):  # found next
            B = self.B.read() * self.scale
        require_finite(self.B.name, B)
        d, k = self.shape
        return Factors(B.reshape(d, self.rank), self.A.read().reshape(self.rank, k))

    def tensors(self, factors: Factors) -> dict[str, Array]:
        """Return the tensors that stand for factors B [d, r], A [r, k], scale one, by their names.

        Of a convolution they are d x r x 1 x 1 and r x in x height x width.
        """
        kernel = self.weight[2:]
        B = factors.B.reshape(*factors.B.shape, *(1 for _ in kernel))
        A = factors.A.reshape(factors.rank, *self.weight[1:])
        found = {self.name + self.form.B: B, self.name + self.form.A: A}
        if self.alpha:
            found[self.name + ALPHA] = np.array(float(factors.rank))
        return found


@dataclass(frozen=True)
class Naming:
    """A naming of tensors, and the files that go with it.

    name: of the naming. prefix: begins every name in a file. weights: the name of the file that is
    written. has_config: whether adapter_config.json goes with it.
    """

    name: str
    weights: str
    prefix: str = ""
    has_config: bool = False

    def tensors(self, site: Site, factors: Factors) -> dict[str, Array]:
        """Return the tensors that stand for factors B [d, r], A [r, k] of a site, scale one."""
        return {self.prefix + name: X for name, X in site.tensors(factors).items()}

    def other(self, name: str) -> str:
        """Return the name in a file of a tensor that is not a factor."""
        return self.prefix + name

    def metadata(self, config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, str]:
        """Return a file's metadata for these ranks, by site, and scale one."""
        found = {"format": "pt"}
        settings = {key: value for key, value in config.items() if key not in BASES}
        if self.name == "kohya":
            r = max(ranks.values())
            found |= {"ss_network_module": MODULE, "ss_network_dim": str(r)}
            found |= {"ss_network_alpha": str(float(r))}
        elif not self.has_config and settings:
            ported = dict(settings)
            for part in parts(settings):
                own = {s.removeprefix(part): r for s, r in ranks.items() if s.startswith(part)}
                # of a part without sites any rank will do
                ported |= {part + key: value for key, value in scale_one(own or ranks).items()}
            found[SETTINGS] = json.dumps(ported, sort_keys=True)
        return found | {key: str(config[key]) for key in BASES if key in config}


PEFT = Naming("peft", "adapter_model.safetensors", PREFIX, has_config=True)
DIFFUSERS = Naming("diffusers", "pytorch_lora_weights.safetensors")
KOHYA = Naming("kohya", "lora.safetensors")
NAMINGS = (PEFT, DIFFUSERS, KOHYA)


def config_of(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in a file's metadata: peft's, each after its part of the model, and base.

    ValueError: not an object of JSON.
    """
    try:
        settings = from_json(metadata.get(SETTINGS, "{}").encode())
    except ValueError as error:
        raise ValueError(f"{path}: {SETTINGS}: not valid JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: {SETTINGS}: must be an object, got {settings!r}")
    return {**settings, **{key: metadata[key] for key in BASES if key in metadata}}


def parts(settings: Mapping[str, Any]) -> list[str]:
    """Return the beginnings of names, such as "unet.", that settings are given for, long first."""
    found = {key.removesuffix("r") for key in settings if key == "r" or key.endswith(".r")}
    return sorted(found, key=len, reverse=True)


def unnamed(key: str) -> tuple[str, str | None]:
    """Return a tensor's name without the adapter's name inside, and that name if there is one."""
    for pattern in NAMED:
        if match := pattern.fullmatch(key):
            return match[1] + match[3], match[2]
    return key, None


def split(key: str, forms: Iterable[Form]) -> tuple[str, Form, str] | None:
    """Return site, form, and "B" or "A" of a tensor by its name; None if it is not a factor."""
    for form in forms:
        for letter in "BA":
            site = key.removesuffix(form.B if letter == "B" else form.A)
            if site not in ("", key):
                return site, form, letter
    return None


def foreign(key: str) -> str | None:
    """Return whose tensor this is, of updates that are not s B A; None if it is none of them."""
    return next((what for pattern, what in FOREIGN if pattern.fullmatch(key)), None)


def scale_one(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return peft's settings for these ranks, by site, and scale one at every site."""
    r = max(ranks.values())
    patterns = _patterns(ranks, r)
    return {
        "r": r,
        "lora_alpha": r,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "use_rslora": False,
        "init_lora_weights": True,
    }


def _patterns(ranks: Mapping[str, int], r: int) -> dict[str, int]:
    """Return the ranks that are not r, by patterns that match their site alone."""
    own = {site: rank for site, rank in sorted(ranks.items()) if rank != r}
    # as peft itself writes them, unless one also matches the end of another name
    if all(PLAIN.fullmatch(site) for site in own) and not any(
        re.match(rf"(.*\.)?({site})$", other) for site in own for other in ranks if other != site
    ):
        return own
    return {f"^{re.escape(site)}": rank for site, rank in own.items()}

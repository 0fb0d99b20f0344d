"""Where a run computes: cpu, a GPU of CUDA or ROCm (cuda), of Apple (mps) or of Intel (xpu)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is imported where it is needed
    import torch
    from torch import Tensor

KINDS = ("cpu", "cuda", "mps", "xpu")
ALONE = ("cpu", "mps")  # there is one of each


class DeviceError(ValueError):
    """A device that cannot be used; the message names it, the rule and the way on."""


def normalized(device: str) -> str:
    """Return the one name of a device: "cpu:0" and "cpu" are the same. DeviceError: unknown."""
    found = re.fullmatch(r"([a-z]+)(?::(0|[1-9]\d{0,3}))?", device)
    kind, number = found.groups() if found else ("", None)
    if kind not in KINDS or (kind in ALONE and number not in (None, "0")):
        raise DeviceError(
            f"--device must be cpu, mps, or cuda or xpu with or without a number, as in cuda:1; "
            f"got {device!r}"
        )
    return kind if kind in ALONE or number is None else device


def kind_of(device: str) -> str:
    """Return the kind of a device, without its number."""
    return device.partition(":")[0]


def require(device: str) -> str:
    """Return the device by its one name; DeviceError: unknown, or torch has none here."""
    import torch

    name = normalized(device)
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise DeviceError(f"--device {device!r} cannot be used ({reason}); try cpu") from None
    return name


def require_dtype(device: str, dtype: str) -> None:
    """Raise DeviceError if a device has no numbers of this type."""
    if device == "mps" and dtype == "float64":
        raise DeviceError("model.dtype 'float64' is unknown to --device mps; use float32, or cpu")


def synchronize(device: str) -> None:
    """Wait until a device has done what it was given, so that a clock can be read."""
    kind = kind_of(device)
    if kind == "cpu":
        return
    import torch

    if kind == "mps":
        torch.mps.synchronize()
    elif kind == "xpu":
        torch.xpu.synchronize(device)
    else:
        torch.cuda.synchronize(device)


def model_name(device: str) -> str:
    """Return a device's kind; of a GPU its model, since cuda:0 and cuda:1 may be equal."""
    name = normalized(device)
    if name in ALONE:
        return name
    import torch

    module = torch.xpu if kind_of(name) == "xpu" else torch.cuda
    return str(module.get_device_name(name))


def autocast(device: str, dtype: str | None) -> AbstractContextManager[object]:
    """Return a context in which products are computed in a half type; None: as they come.

    DeviceError: the device has no such autocast.
    """
    if dtype is None:
        return nullcontext()
    import torch

    from paper_checks.tasks.models import dtype_of

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns, and computes without autocast
        try:
            return torch.autocast(kind_of(device), dtype_of(dtype))
        except (RuntimeError, UserWarning) as error:
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise DeviceError(
                f"train.autocast {dtype!r} is not possible on --device {device} ({reason}); "
                f"leave it out, or choose another device"
            ) from None


def on_device(
    scores: Callable[..., Tensor], device: str, half: str | None
) -> Callable[..., Tensor]:
    """Return the scoring function on the model's device, with products in a half type if any."""

    def moved(model: torch.nn.Module, inputs: dict[str, Any], agents: int) -> Tensor:
        there = {n: x.to(device) if hasattr(x, "to") else x for n, x in inputs.items()}
        with autocast(device, half):
            return scores(model, there, agents)

    return moved


def half_precise(common: Callable[..., Any], device: str, half: str | None) -> Callable[..., Any]:
    """Return the function of what batches share, with products in a half type if any."""

    def found(model: torch.nn.Module, agents: int) -> Any:
        with autocast(device, half):
            return common(model, agents)

    return found

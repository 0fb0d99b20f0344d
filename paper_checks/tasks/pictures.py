"""Images as a model takes them: decoded once into a cache, cropped at random if that is wanted.

What is cached is uint8, before it is scaled and normalized; that is done on the model's device.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.tasks import cache

if TYPE_CHECKING:  # torch is imported where it is needed
    from torch import Tensor

SCALE = (0.08, 1.0)  # of the area of an image that a random crop takes
RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height
TRIES = 10
CHUNK = 64  # images in memory at a time while they are decoded


class Pictures:
    """Images of a model: pictures[index] is a tensor of uint8 [m, 3, height, width].

    Decoded by all cores when the first are asked for, and kept in a file of the cache whose name is
    the sum of the images and of how they are prepared. Without a cache they are decoded each time.
    augment: they are kept as large as they are, and `drawn` crops and mirrors them at random.
    """

    def __init__(self, items: Sequence[Any], processor: Any, *, augment: bool = False) -> None:
        """Take the paths, or (rows of the hub, row) pairs, and the model's image processor."""
        self.items, self.processor, self.augment = items, processor, augment
        self.pool = ThreadPoolExecutor(os.cpu_count(), "pictures")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.items)

    def __getitem__(self, index: Any) -> Tensor:
        """Return the images at `index` [m], resized and cropped by the model's processor."""
        return self._stacked(self._shown, index)

    def drawn(self, index: Any, draws: Sequence[np.random.Generator]) -> Tensor:
        """Return the images at `index` [m], cropped and mirrored at random if they are augmented.

        draws: a stream for each of the equal parts of the index.
        """
        if not self.augment:
            return self[index]
        each = len(index) // len(draws)
        numbers = [draw.random((each, 2 * TRIES + 3)) for draw in draws]
        _ = self._size  # computed here, before threads ask for it
        return self._stacked(self._cropped, index, np.concatenate(numbers))

    @cached_property
    def content(self) -> str:
        """The SHA-256 sum of the images' files and of how they are prepared."""
        total = sha256(Path(__file__).read_bytes())
        how = {} if self.augment else self.processor.to_dict()
        libraries = [f"{name} {version(name)}" for name in ("pillow", "transformers")]
        total.update(json.dumps([how, self.augment, libraries], default=str).encode())
        for chunk in self._chunks():
            for found in self.pool.map(lambda item: sha256(encoded(item)).digest(), chunk):
                total.update(found)
        return total.hexdigest()

    @cached_property
    def _kept(self) -> cache.Arrays | None:
        path = cache.place(f"pictures-{self.content[:16]}.sealed")
        return cache.kept(
            path, lambda: (x for chunk in self._chunks() for x in self.pool.map(self._made, chunk))
        )

    def _chunks(self) -> Iterator[Sequence[Any]]:
        for start in range(0, len(self.items), CHUNK):
            yield self.items[start : start + CHUNK]

    def _made(self, item: Any) -> np.ndarray:
        """Return what is kept of an image, [height, width, 3]."""
        picture = decoded(item)
        return np.asarray(picture) if self.augment else fitted(picture, self.processor)

    def _array(self, i: int) -> np.ndarray:
        return self._made(self.items[i]) if self._kept is None else self._kept[i]

    def _shown(self, i: int) -> np.ndarray:
        from PIL import Image

        array = self._array(i)
        return fitted(Image.fromarray(array), self.processor) if self.augment else array

    @cached_property
    def _size(self) -> tuple[int, ...]:
        return self._shown(0).shape[:2]

    def _cropped(self, i: int, numbers: np.ndarray) -> np.ndarray:
        return random_crop(self._array(i), numbers, self._size)

    def _stacked(self, one: Callable[..., np.ndarray], index: Any, *more: Any) -> Tensor:
        import torch

        _ = self._kept  # made here, before threads ask for it
        arrays = list(self.pool.map(one, [int(i) for i in index], *more))
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def encoded(item: Any) -> bytes:
    """Return the bytes of an image's file: of a path, or of a row of the hub."""
    if isinstance(item, Path):
        return item.read_bytes()
    rows, at = item
    found = rows[at]["image"]
    return found["bytes"] or Path(found["path"]).read_bytes()


def decoded(item: Any) -> Any:
    """Return an image in RGB; ValueError names one that cannot be read."""
    from PIL import Image

    try:
        with Image.open(BytesIO(encoded(item))) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        name = item if isinstance(item, Path) else f"image {item[1]} of the hub's rows"
        raise ValueError(f"{name}: not an image that can be read: {error}") from None


def fitted(picture: Any, processor: Any) -> np.ndarray:
    """Return an image as a model's processor resizes and crops it, uint8 [height, width, 3]."""
    (found,) = processor(
        images=[picture], do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"]
    return np.asarray(found, dtype=np.uint8).transpose(1, 2, 0)


def normalized(pixels: Tensor, processor: Any) -> Tensor:
    """Return uint8 images [m, 3, ., .] in float32, scaled and normalized as the processor does."""
    import torch

    found = pixels.to(torch.float32)
    if processor.do_rescale:
        found = found * processor.rescale_factor
    if processor.do_normalize:
        mean, std = (
            torch.tensor(numbers, device=pixels.device)[:, None, None]
            for numbers in (processor.image_mean, processor.image_std)
        )
        found = (found - mean) / std
    return found


# ---------------------------------------------------------------- augmentation


def random_crop(array: np.ndarray, numbers: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return a crop of an image, resized bicubically to [height, width, 3], mirrored or not.

    numbers: 2 TRIES + 3 of them, uniform in [0, 1): the crop's, and a half of them mirror.
    """
    from PIL import Image

    top, left, height, width = crop_box(array.shape[0], array.shape[1], numbers[:-1])
    part = Image.fromarray(array[top : top + height, left : left + width])
    found = np.asarray(part.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return found[:, ::-1] if numbers[-1] < 0.5 else found


def crop_box(height: int, width: int, numbers: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, left, height, width of a random crop, drawn as torchvision's RandomResizedCrop.

    Its area is uniform in SCALE of the image's, its ratio log-uniform in RATIO; a crop that does
    not fit is drawn again, TRIES times; then the largest central one of a ratio in RATIO is taken.
    numbers: 2 TRIES + 2 of them, uniform in [0, 1).
    """
    *pairs, (down, right) = numbers.reshape(-1, 2)
    for area, ratio in pairs:
        target = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * area)
        aspect = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio
        h, w = round(math.sqrt(target / aspect)), round(math.sqrt(target * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    aspect = min(max(width / height, RATIO[0]), RATIO[1])
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - h) // 2, (width - w) // 2, h, w

"""digit-domains: five digits upright, with labels, and in another domain, where few have labels.

The images and the pretrained model are those of vit-digits. Half of the training images are the
source, upright and dark on light as scikit-learn has them; the other half, other images, are the
target: each turned, or inverted, or both (`DOMAINS`). `task.labelled` images of every class of the
target have a label in training, the others none. The test images are in the target's domain.

An example of training is a triple: a source image with its label, a target image with its label,
and an unlabelled target image in a weak and a strong view. Every source image is in one triple.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from decaf_theory.rng import generator
from paper_checks.config import Config
from paper_checks.tasks import digits
from paper_checks.tasks.models import drawn
from paper_checks.tasks.records import Data, Task, without_validation

if TYPE_CHECKING:  # torch is imported where it is needed
    from torch import Tensor

HEADS = ("first", "second")
LABELLED = 3
ERASED = 3  # side of the square that a strong view lacks
NOISE = 0.3  # of a strong view, standard deviation; images are in [-1, 1]


class Domain(NamedTuple):
    """A quarter turn or none, dark for light or not."""

    turned: bool
    inverted: bool

    def of(self, pictures: np.ndarray) -> np.ndarray:
        """Return upright images [..., 8, 8] in this domain."""
        found = np.rot90(pictures, axes=(-2, -1)) if self.turned else pictures
        return -found if self.inverted else found


SOURCE = Domain(False, False)
DOMAINS = {
    "turned": Domain(True, False),
    "inverted": Domain(False, True),
    "turned_inverted": Domain(True, True),
}


class Views:
    """Images of a domain: views[index] as they are, `drawn` moved by up to a pixel each way.

    strong: what is drawn lacks a square of ERASED pixels, too, and has noise.
    """

    def __init__(self, pictures: np.ndarray, domains: Sequence[Domain], *, strong: bool = False):
        """Take upright images [n, 8, 8] in [-1, 1], background -1, and each one's domain."""
        self.pictures, self.domains, self.strong = pictures, domains, strong

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pictures)

    def __getitem__(self, index: Any) -> Tensor:
        """Return the images at `index` [m], [m, 1, 8, 8]."""
        return self._shown(self.pictures[np.asarray(index)], index)

    def drawn(self, index: Any, draws: Sequence[np.random.Generator]) -> Tensor:
        """Return the images at `index` [m], changed at random.

        draws: a stream for each of the equal parts of the index.
        """
        parts = np.split(self.pictures[np.asarray(index)], len(draws))
        change = strongly if self.strong else moved
        return self._shown(
            np.concatenate([change(part, draw) for part, draw in zip(parts, draws, strict=True)]),
            index,
        )

    def _shown(self, pictures: np.ndarray, index: Any) -> Tensor:
        import torch

        domains = [self.domains[i] for i in np.asarray(index)]
        found = [domain.of(x) for domain, x in zip(domains, pictures, strict=True)]
        return torch.from_numpy(np.stack(found)[:, None].astype(np.float32))

    @cached_property
    def content(self) -> str:
        """The SHA-256 sum of the images in their domains and of how they are changed."""
        shown = self[np.arange(len(self))].numpy()
        return sha256(
            f"{self.strong}".encode() + Path(__file__).read_bytes() + shown.tobytes()
        ).hexdigest()


def moved(pictures: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return every image [n, 8, 8], background -1, moved by -1, 0 or 1 pixel each way."""
    wide = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    rows, columns = draw.integers(3, size=(2, len(pictures), 1)) + np.arange(8)
    each = np.arange(len(wide))[:, None, None]
    found: np.ndarray = wide[each, rows[:, :, None], columns[:, None, :]]
    return found


def strongly(pictures: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return every image moved, with a square of it erased, and with noise."""
    found = moved(pictures, draw)
    for picture, (row, column) in zip(
        found, draw.integers(9 - ERASED, size=(len(found), 2)), strict=True
    ):
        picture[row : row + ERASED, column : column + ERASED] = -1
    return found + draw.normal(0, NOISE, found.shape)


def load(config: Config, data_dir: Path | None) -> Task:
    """Return the task of the unseen digits in two domains; nothing is downloaded."""
    upright = digits.load(config, data_dir)
    from paper_checks.tasks import adapting  # torch

    own = {name: x for name, x in config.task.items() if name in adapting.Weights._fields}
    temperature = config.task.get("temperature", adapting.TEMPERATURE)
    classifier: Any = upright.model
    names = config.task.get("domains", ("turned",))
    train, validation, test = examples(
        [DOMAINS[name] for name in names],
        config.task.get("labelled", LABELLED),
        config.data.validation,
    )
    return upright._replace(
        name="digit-domains",
        model=drawn(lambda: adapting.TwoHeads(classifier.vit, upright.classes, temperature)),
        heads=HEADS,
        train=train,
        test=test,
        scores=lambda model, inputs, agents: model(**inputs),
        losses=partial(adapting.of_batch, weights=adapting.Weights(**own)),
        validation=validation,
    )


def examples(
    domains: Sequence[Domain], labelled: int, validation: float | None
) -> tuple[Data, Data | None, Data]:
    """Return triples to train on, validation (None: none) and test images, a fixed draw.

    Triples, target images and test images go to the domains in turn. ValueError: in a domain a
    class has fewer than `labelled` images, or nothing is left without a label.
    """
    pictures, labels = digits.images(digits.UNSEEN)
    draw = generator(0, "digit-domains")
    piles = [draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    test = np.concatenate([pile[: digits.TESTED] for pile in piles])
    source, target = (
        draw.permutation(np.concatenate([pile[digits.TESTED :][half::2] for pile in piles]))
        for half in (0, 1)
    )
    apart = None
    if validation is not None:
        kept, held = without_validation(range(len(target)), validation)
        target, apart = target[kept], shown(pictures, labels, target[held], domains)
    places = [
        triples(source[i :: len(domains)], target[i :: len(domains)], labels, labelled)
        for i in range(len(domains))
    ]
    of = [domain for domain, rows in zip(domains, places, strict=True) for _ in rows]
    train = joined(pictures, labels, np.concatenate(places), of)
    return train, apart, shown(pictures, labels, test, domains)


def triples(source: np.ndarray, target: np.ndarray, labels: np.ndarray, labelled: int) -> Any:
    """Return the places [n, 3] of a domain's triples: source, labelled target, unlabelled target.

    The first `labelled` target images of every class have labels. What is shorter than the source
    starts again.
    """
    own = labels[target]
    first = [np.flatnonzero(own == label)[:labelled] for label in np.unique(labels)]
    known = np.concatenate(first)
    unknown = np.delete(target, known)
    if min(map(len, first)) < labelled or not len(unknown):
        raise ValueError(
            f"task.labelled must leave images without labels, got {labelled} of every class: a "
            f"domain has {len(target)} images of {len(first)} classes; lower it, or the number of "
            f"task.domains, or data.validation"
        )
    return np.stack(
        [source, *(np.resize(part, len(source)) for part in (target[known], unknown))], axis=1
    )


def joined(
    pictures: np.ndarray, labels: np.ndarray, places: np.ndarray, domains: Sequence[Domain]
) -> Data:
    """Return the triples at `places` [n, 3], each with its target's domain."""
    import torch

    source, known, unknown = places.T
    upright = [SOURCE] * len(places)
    inputs = {
        "source": Views(pictures[source], upright),
        "target": Views(pictures[known], domains),
        "weak": Views(pictures[unknown], domains),
        "strong": Views(pictures[unknown], domains, strong=True),
        "target_labels": torch.from_numpy(labels[known]),
    }
    return Data(inputs, torch.from_numpy(labels[source]))


def shown(
    pictures: np.ndarray, labels: np.ndarray, places: np.ndarray, domains: Sequence[Domain]
) -> Data:
    """Return the images at `places` as they are, in the domains in turn."""
    import torch

    in_turn = [domains[i % len(domains)] for i in range(len(places))]
    views = Views(pictures[places], in_turn)[np.arange(len(places))]
    return Data({"pixel_values": views}, torch.from_numpy(labels[places]))

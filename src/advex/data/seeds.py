"""Pictures to begin with: drawn about the mean of a class, and varying as its own pictures do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from advex import randomness
from advex.data.dataset import Dataset, content, counted
from advex.errors import DataError, SpecError, did_you_mean

BUNDLED = Path(__file__).with_name("published") / "cifar10_seeds.safetensors"
_ROWS = 256  # decoded at a time


@dataclass(frozen=True, kw_only=True)
class ClassSeeds:
    """A normal distribution of pictures (Santurkar et al. 2019, Sec. 2: the class's own mean and covariance).

    A draw is mean + sum of z_i * scale_i * (rows_i - origin) with independent standard normal z_i, cut to [0, 1]. Where
    the rows are all n pictures of a class, the origin is their mean and the scale 1 / sqrt(n), that is their normal
    distribution exactly, without its covariance matrix.

    mean: [channels, height, width] in [0, 1]. rows: [k, *shape], bytes or floats. origin: a number or like the mean, in
    the rows' units. scale: [k]. source: where they are from, in words. digest: changes with any of it.
    """

    mean: Tensor
    rows: Tensor
    origin: Tensor | float
    scale: Tensor
    source: str
    digest: str

    def draw(self, number: int, seed: int) -> Tensor:
        """[channels, height, width] float32: the picture of this number, which depends on it and the seed alone."""
        start = randomness.draw(seed, number)
        if start >= 2**63:  # torch takes none so large
            start = int.from_bytes(hashlib.blake2b(str(start).encode(), digest_size=8).digest()) >> 1
        generator = torch.Generator().manual_seed(start)
        weights = torch.randn(len(self.rows), generator=generator) * self.scale
        parts = zip(weights.split(_ROWS), self.rows.split(_ROWS), strict=True)
        change = sum(torch.tensordot(weight, rows.float() - self.origin, dims=1) for weight, rows in parts)
        return (self.mean + change).clamp(0, 1)


def seeds_of(data: Dataset, name: str) -> ClassSeeds:
    """The seeds of a class of pictures, by its name. Raises SpecError for an unknown one, DataError for an empty."""
    if name not in data.class_names:
        raise SpecError(f"{data.name} has no class '{name}': {did_you_mean(name, data.class_names)}")
    own = data.take((data.y == data.class_names.index(name)).nonzero()[:, 0])
    if len(data.shape) != 3 or not len(own):
        what = "has no pictures"
        if len(data.shape) == 3:
            what = f"has no picture of class '{name}' among the {counted(len(data), 'picture')} read (--max-samples)"
        raise DataError(f"{data.name} {what}; seeds are made from pictures of the class.")
    mean = torch.stack([batch.x.double().sum(dim=0) for batch in own.batches(_ROWS)]).sum(dim=0) / len(own)
    unit = 255 if own.x.dtype == torch.uint8 else 1
    return ClassSeeds(
        mean=mean.float(),
        rows=own.x,
        origin=(unit * mean).float(),
        scale=torch.full((len(own),), len(own) ** -0.5 / unit),
        source=f"{counted(len(own), 'picture')} of class '{name}' of {data.name}",
        digest=content(own),
    )


def bundled_seeds(name: str, class_names: Sequence[str] | None, shape: Sequence[int] | None) -> ClassSeeds:
    """The seeds that come with advex, for networks with CIFAR-10's classes and 3 x 32 x 32 pixels.

    They have the class's mean and its leading directions, at half the resolution. shape: of an input, None where it is
    not known. Raises SpecError for a model of other classes or pictures.
    """
    from safetensors import safe_open

    with safe_open(BUNDLED, "pt") as file:
        known = json.loads(file.metadata()["class_names"])
        if class_names is None or list(class_names) != known or (shape is not None and tuple(shape) != (3, 32, 32)):
            raise SpecError(
                "The seeds that come with advex are for the classes of CIFAR-10, in 3 x 32 x 32 pixels, but "
                "the model has others. Give data with pictures of its classes: --data DATA."
            )
        number = known.index(name)
        mean, rows, scale = (file.get_tensor(key)[number] for key in ("mean", "rows", "scale"))
        digest = file.metadata()["digest"]
    return ClassSeeds(
        mean=enlarged(mean[None].float() / 255)[0], rows=enlarged(rows.float()), origin=0.0, scale=scale,
        source=f"bundled mean and {len(rows)} directions of class '{name}' of CIFAR-10", digest=digest,
    )  # fmt: skip


def enlarged(pictures: Tensor) -> Tensor:
    """[k, 3, 16, 16] -> [k, 3, 32, 32], bilinear."""
    return torch.nn.functional.interpolate(pictures, scale_factor=2, mode="bilinear", align_corners=False)

"""What a corruption is: what is random of it, drawn for each picture, a formula, and its parameters by severity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

import torch
from pydantic import Field
from torch import Tensor

from advex import randomness
from advex.errors import InputError
from advex.options import with_options
from advex.registry import register

Made = TypeVar("Made", bound=type)
Size = tuple[int, int, int]  # channels, height, width
Fields = dict[str, Tensor]  # what is random of a corruption, by name: [n, ...] each

SEVERITIES = 5
LEAST = 8  # pixels of a side
_IN_CACHE = 2**18  # values at a time on a CPU: with more, memory is what takes the time
_ROUNDING = 1e-3  # of a grey level: what a sum in another order may be short of the next one


@with_options
class Corruption:
    """A corruption of pictures at one of five severities. `corruption` registers a class of this form.

    severity: 1 to 5.
    """

    severity: Annotated[int, Field(ge=1, le=SEVERITIES)] = 3

    tables: ClassVar[Mapping[int, Sequence[Any]]]
    name: ClassVar[str]

    @property
    def title(self) -> str:
        """Its name, as figures are listed under it."""
        return self.name

    @property
    def digest(self) -> str:
        """Of the files that it reads, if it reads any: its options do not say what is in them."""
        return ""

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        """What is random, for pictures of a size: row i depends on seeds[i] alone. Nothing, unless overridden.

        seeds: [n] int64.
        """
        return {}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        """Pictures x [n, channels, height, width] in [0, 1], corrupted; what leaves [0, 1] is cut by the caller."""
        raise NotImplementedError

    def __call__(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Pictures in [0, 1], corrupted and cut down to 8 bits, as the published data were.

        x: [n, channels, height, width], grey or colour, at least 8 x 8. What is random of a picture follows from the
        seed and its own values, whatever its company. Raises InputError for what is no such picture.
        """
        check(x)
        size = (x.shape[1], x.shape[2], x.shape[3])
        rows = max(_IN_CACHE // math.prod(size), 1) if x.device.type == "cpu" else max(len(x), 1)
        with torch.no_grad():
            return torch.cat([self._corrupted(part, size, seed) for part in x.split(rows)])

    def _corrupted(self, x: Tensor, size: Size, seed: int) -> Tensor:
        pictures = x.detach().float()
        random = type(self).draw is not Corruption.draw  # else no seeds are needed, which take time
        fields = self.draw(size, randomness.numbers(pictures, seed)) if random else {}
        levels = 255 * self.apply(pictures, fields).clamp(0, 1)
        return (levels + _ROUNDING).floor().div(255).to(x.dtype)

    def parameters(self, size: Sequence[int]) -> Any:
        """Those of the severity, from the table nearest to a size that ends with height and width."""
        return self.tables[self.table(size)][self.severity - 1]

    @classmethod
    def table(cls, size: Sequence[int]) -> int:
        """The side that the parameters are of: that whose ratio to the picture's longer side is nearest to 1."""
        return min(cls.tables, key=lambda side: abs(math.log(side / max(size[-2:]))))


@dataclass_transform(frozen_default=True, kw_only_default=True)
def corruption(
    name: str, tables: Mapping[int, Sequence[Any]], *, cites: str = "hendrycks2019"
) -> Callable[[Made], Made]:
    """Class decorator: register a `Corruption` by name.

    tables: the parameters at severities 1 to 5, by the side of the pictures that they are for.
    """

    def add(made: Made) -> Made:
        made = with_options(made)
        made.name, made.tables = name, tables
        return register("corruption", name, cites=cites)(made)

    return add


def check(x: Tensor) -> None:
    """Raise InputError for what is no batch of pictures in [0, 1]."""
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < LEAST:
        raise InputError(
            "Corruptions need pictures [n, channels, height, width] with 1 or 3 channels and at least "
            f"{LEAST} x {LEAST} pixels, not inputs of shape {list(x.shape)}."
        )
    if not x.is_floating_point():
        raise InputError(f"Corruptions need pictures of real numbers from 0 to 1, not {x.dtype}: divide bytes by 255.")
    if len(x) and not (x.amin() >= 0 and x.amax() <= 1):
        what = "NaN" if bool(x.isnan().any()) else "values outside that range"
        raise InputError(f"Corruptions need pictures with values from 0 to 1; these have {what}.")


def uniform(seeds: Tensor, stream: str, *shape: int) -> Tensor:
    """Numbers in [0, 1) for examples known by their seeds: [n, *shape]."""
    return randomness.uniform_for(seeds, 0, stream, math.prod(shape)).reshape(len(seeds), *shape)


def normal(seeds: Tensor, stream: str, *shape: int) -> Tensor:
    """Standard normal numbers: [n, *shape]."""
    between = uniform(seeds, stream, *shape).double() + 2**-25  # in float32 the last of them is 1, and infinite
    return torch.special.ndtri(between).float()

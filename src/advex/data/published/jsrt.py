"""JSRT's chest radiographs: regions with and without a lung nodule (Woods et al. 2019, Sec. III-I4).

A file is 2048 x 2048 unsigned 16-bit numbers, the high byte first, without a header; 0 to 4095 are used. A
number grows with the film's density: air is high, bone and nodules are low, the reverse of what a viewing
box shows. docs/loaders.md says what the paper leaves open and what is done here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from advex.data.augmentation.plain import standardised
from advex.data.crops import Crop
from advex.data.dataset import drawn
from advex.data.published import jsrt_tables, pictures
from advex.data.published.jsrt_tables import SIDE, Radiograph
from advex.data.source import Anew, Encoded, Header, Place, Source, Split, Unreadable, files_below
from advex.errors import DataError, InputError, SpecError, did_you_mean
from advex.files import at_home
from advex.randomness import uniform_for
from advex.registry import register

CLASS_NAMES = ("no nodule", "nodule")
HIGHEST = 4095
Scale = Literal["standard", "stored"]

_BYTES = 2 * SIDE * SIDE


@dataclass(frozen=True, kw_only=True)
class _Choice:
    regions: int
    side: int
    scale: Scale
    invert: bool
    seed: int


@register("dataset", "jsrt", cites="Shiraishi et al. 2000; woods2019 Sec. III-I4")
def jsrt(
    *,
    root: str = "",
    regions: int = 4,
    side: int = 256,
    scale: Scale = "standard",
    invert: bool = False,
    test: float = 0.2,
    seed: int = 0,
) -> Source:
    """JSRT's radiographs as regions with and without a nodule, in `train` and `test`: grey float in [0, 1].

    root: the folder of the .IMG files and of `CLNDAT_EN.txt` and `CNNDAT_EN.TXT`, in folders or not; left
    away, `jsrt` in the folder ADVEX_DATA. regions: how many are cut from each radiograph, `side` x `side`
    pixels: of one with a nodule around points of the nodule's disc, of one without anywhere. scale,
    invert: how numbers become values in [0, 1]; see `regions_at`. test: share of the radiographs, of either
    kind, that are kept for testing; no radiograph is in both. seed: of places and split.

    An example's id is `JPCLN001/0`. Files that are missing, of another length or not of 12 bits, and nodules
    outside their picture, are skipped and named. Raises DataError for tables that cannot be believed, SpecError
    for impossible options.
    """
    if regions < 1 or not 1 <= side <= SIDE or not 0 < test < 1:
        raise SpecError(
            f"jsrt: regions={regions}, side={side}, test={test}: regions must be at least 1, side 1 to "
            f"{SIDE} pixels, and test a fraction between 0 and 1."
        )
    if scale not in get_args(Scale):
        raise SpecError(f"jsrt: unknown scale '{scale}': {did_you_mean(str(scale), get_args(Scale))}")
    choice = _Choice(regions=regions, side=side, scale=scale, invert=invert, seed=seed)
    place = pictures.folder_of("jsrt", root)
    known, note = _known(place)
    held_out: set[str] = set()
    for kind in (True, False):
        names = [each.name for each in known if (each.nodule is not None) == kind]
        held_out |= {names[row] for row in drawn(len(names), round(test * len(names)), seed).tolist()}
    parts = {
        "train": [each for each in known if each.name not in held_out],
        "test": [each for each in known if each.name in held_out],
    }
    return Source(
        name=place.resolve().name,
        class_names=CLASS_NAMES,
        splits={name: partial(_split, part, choice, note) for name, part in parts.items()},
        root=place,
    )


@register("format", "jsrt")
@dataclass(frozen=True)
class JSRT:
    """A folder that holds the table of JSRT's nodules."""

    reads: ClassVar[str] = "a folder of JSRT's radiographs"
    order: ClassVar[int] = 40

    def find(self, place: Place) -> Source | None:
        """The radiographs with the usual options."""
        known = any(path.name.lower() == jsrt_tables.NODULES.lower() for path in place.files)
        return jsrt(root=str(place.path)) if known else None


def radiographs(root: str | Path) -> tuple[Radiograph, ...]:
    """All radiographs of a folder with what its tables say of them; no picture is read. Raises DataError."""
    return _known(at_home(root))[0]


def _known(root: Path) -> tuple[tuple[Radiograph, ...], str]:
    files: dict[str, list[PurePosixPath]] = {}
    for path in files_below(root):
        files.setdefault(path.name.lower(), []).append(path)
    known = jsrt_tables.radiographs(root, files)
    return known, jsrt_tables.unlisted(known, files)


# -- one radiograph ------------------------------------------------------------------------------------------


def picture(path: str | Path) -> np.ndarray:
    """[2048, 2048] uint16 of an .IMG file, as stored. Raises DataError for a file that cannot be one."""
    try:
        return _picture(Path(path))
    except Unreadable as error:
        raise DataError(f"{path}: {error}.") from None


def _picture(path: Path) -> np.ndarray:
    try:
        if not path.is_file():
            raise Unreadable("not a file that can be opened")
        with path.open("rb") as file:
            data = file.read(_BYTES + 1)
            length = len(data) if len(data) <= _BYTES else path.stat().st_size
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    _check_length(length)
    pixels = np.frombuffer(data, dtype=">u2").reshape(SIDE, SIDE)
    if (highest := int(pixels.max())) > HIGHEST:
        raise Unreadable(f"numbers up to {highest}, but 12 bits end at {HIGHEST}: wrong byte order, or another format")
    return pixels.astype(np.uint16)


def _check_length(length: int) -> None:
    if length != _BYTES:
        what = "truncated" if length < _BYTES else "too long"
        raise Unreadable(f"{what}: {length:,} bytes, but {SIDE} x {SIDE} numbers of 16 bits take {_BYTES:,}")


def grid(stride: int, side: int = 256) -> Tensor:
    """[n, 2] int64, (x, y): the centres of all regions that a window of `side`, moved by `stride`, meets in a picture.

    The last row and column lie at the far edge, however far they are from those before.

    >>> grid(1024, side=256)[:3].tolist()
    [[128, 128], [1152, 128], [1920, 128]]
    """
    if stride < 1 or not 1 <= side <= SIDE:
        raise SpecError(f"stride={stride}, side={side}: both must be at least 1 pixel, and side at most {SIDE}.")
    last = SIDE - side
    starts = torch.tensor([*range(0, last, stride), last]) + side // 2
    return torch.cartesian_prod(starts, starts).flip(1)


def regions_at(
    pixels: np.ndarray, centres: Tensor, *, side: int = 256, scale: Scale = "standard", invert: bool = False
) -> Tensor:
    """[n, 1, side, side] float32 in [0, 1]: regions of a radiograph, as in the data set.

    pixels: [height, width] as stored. centres: [n, 2] whole (x, y); the centre is pixel (side // 2, side // 2) of the
    region. Beyond the edge lies the pixel at the edge.

    scale: "standard": each region's mean becomes 0.5 and its standard deviation 1/8, cut off at 4 deviations; a
    `Classifier` with mean=0.5, std=0.125 gives the network the zero mean and unit variance of the paper.
    "stored": number / 4095. invert: one minus that: bone and nodules bright. Raises InputError.
    """
    if pixels.ndim != 2 or centres.ndim != 2 or centres.shape[1] != 2 or centres.is_floating_point():
        raise InputError(
            f"Regions need a picture [height, width] and integer centres [n, 2]; got {pixels.shape} and "
            f"{tuple(centres.shape)} of {centres.dtype}."
        )
    reach = np.arange(side) - side // 2
    x, y = centres.cpu().numpy().T
    rows = np.clip(y[:, None] + reach, 0, pixels.shape[0] - 1)
    columns = np.clip(x[:, None] + reach, 0, pixels.shape[1] - 1)
    windows = torch.from_numpy(pixels[rows[:, :, None], columns[:, None, :]].astype(np.float64))
    values = windows / HIGHEST if scale == "stored" else standardised(windows)
    return (1 - values if invert else values).float()[:, None]


# -- examples ------------------------------------------------------------------------------------------------


def _split(part: Sequence[Radiograph], choice: _Choice, note: str) -> Split:
    def read(rows: Sequence[int]) -> Iterator[Encoded]:
        groups = (list(group) for _, group in itertools.groupby(rows, key=lambda row: row // choice.regions))
        return pictures.ahead(lambda group: _examples(part[group[0] // choice.regions], group, choice), groups)

    def header(row: int) -> Header:
        about = part[row // choice.regions]
        path = _file(about)
        if not path.is_file():
            raise Unreadable("not a file that can be opened")
        _check_length(path.stat().st_size)
        return Header(size=(SIDE, SIDE), grey=True, stamp=(*(about.nodule or ()), about.radius))

    def cut(row: int, crop: Crop) -> Encoded:
        about = part[row // choice.regions]
        centre = _centres(about, torch.tensor([[crop.left, crop.top]]), choice.side)
        return _regions(about, centre, choice)[0]

    return Split(
        ids=[f"{each.name}/{number}" for each in part for number in range(choice.regions)],
        labels=np.repeat([int(each.nodule is not None) for each in part], choice.regions).astype(np.int64),
        read=read,
        notes=(note,) if note else (),
        anew=Anew(header=header, cut=cut),
    )


def _examples(about: Radiograph, rows: Sequence[int], choice: _Choice) -> list[Encoded]:
    """Regions of one radiograph, as pixels, or why there are none."""
    centres = places(about, choice.regions, side=choice.side, seed=choice.seed)
    try:
        return [*_regions(about, centres[torch.tensor(rows) % choice.regions], choice)]
    except Unreadable as error:
        return [error] * len(rows)


def _file(about: Radiograph) -> Path:
    """Raises Unreadable where there is none, and where its nodule cannot be in it."""
    if about.path is None:
        raise Unreadable(f"the file {about.name}.IMG does not exist")
    if about.nodule is not None and not all(0 <= each < SIDE for each in about.nodule):
        raise Unreadable(f"its nodule lies outside the picture, at {about.nodule}")
    return about.path


def _regions(about: Radiograph, centres: Tensor, choice: _Choice) -> np.ndarray:
    """[n, 1, side, side] of one radiograph. Raises Unreadable."""
    pixels = _picture(_file(about))
    return regions_at(pixels, centres, side=choice.side, scale=choice.scale, invert=choice.invert).numpy()


def places(about: Radiograph, count: int, *, side: int = 256, seed: int = 0) -> Tensor:
    """[count, 2] int64, (x, y): the centres of the regions that are cut from a radiograph.

    With a nodule: uniform on its disc (its centre alone where its size is not known), the paper's "central point
    being part of the nodule annotation". Without: uniform, the region inside the picture.
    """
    return _centres(about, uniform_for(torch.arange(count), seed, f"jsrt|{about.name}", columns=2), side)


def _centres(about: Radiograph, u: Tensor, side: int) -> Tensor:
    """As `places`, by numbers u [n, 2] in [0, 1)."""
    u = u.double()
    if about.nodule is None:
        return (u * (SIDE - side + 1)).long() + side // 2
    angle, away = 2 * torch.pi * u[:, 0], about.radius * u[:, 1].sqrt()
    around = torch.tensor(about.nodule) + torch.stack([away * angle.cos(), away * angle.sin()], dim=1)
    return around.round().long().clamp(0, SIDE - 1)

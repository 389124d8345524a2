"""Shear, rotation, scale, shift, perspective and erased squares for training, through kornia (Woods et al. 2019,
Sec. III-I4; Singh et al. 2020, App. A.3).

What happens to an example is drawn from the seed, the epoch and its number alone, as in `augmentation`; kornia
builds the matrices and resamples a whole batch at once, on the batch's device.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from advex.data.augmentation.plain import standardised
from advex.errors import InputError, SpecError, install_extra
from advex.randomness import uniform_for


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What happens to each of n pictures.

    rotation, shear: [n] degrees; scale: [n] factors; all float32. square: [n, 3] int64, the left column,
    the top row and the side of what is erased. white: [n] bool, erased to 1 rather than to 0. shift: [n, 2] pixels, to
    the right and down. corners: [n, 4, 2] pixels (x, y), where the window's corners come to lie: top left, top right,
    bottom right, bottom left.
    """

    rotation: Tensor
    shear: Tensor
    scale: Tensor
    square: Tensor
    white: Tensor
    shift: Tensor
    corners: Tensor


@dataclass(frozen=True, kw_only=True)
class AffineAugmentation:
    """Sheared, rotated and scaled about the centre, shifted, projected, and then a square of it erased. Needs kornia.

    rotation: up to so many degrees each way, positive clockwise. shear: up to so many degrees each way, of the
    columns: a pixel d rows below the centre moves d tan(shear) to the left. scale: lowest and highest factor. All
    three are drawn uniformly; the shear comes first, then rotation and scale together. erase: a square with a side of
    0 to so many pixels, anywhere inside, becomes black (0) or white (1), by the toss of a coin. translate: then moved
    by up to this share of height and width each way. perspective: then projected so that each corner moves inwards by
    up to this share of half the height and width.
    window: the side of the central square that is left of the picture; 0: as large as the picture. From a
    picture of three times that side no angle or factor of the paper's shows what lies beyond its edges,
    where the pixel at the edge is repeated. standardise: the window gets a mean of 0.5 and a standard deviation
    of 1/8 (`augmentation.standardised`) before the square is erased: what the paper calls "the earlier per-image
    normalization".

    The values given are those of Woods et al. 2019. Interpolation is bilinear, without averaging where the picture
    shrinks. Raises SpecError for impossible values and, when it is used, where kornia is not installed.
    """

    rotation: float = 45.0
    shear: float = 30.0
    scale: tuple[float, float] = (0.61, 1.65)
    erase: int = 64
    window: int = 0
    standardise: bool = False
    translate: float = 0.0
    perspective: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not (0 <= self.rotation <= 180 and 0 <= self.shear < 90 and 0 < low <= high <= 100):
            raise SpecError(
                f"AffineAugmentation: rotation={self.rotation}, shear={self.shear}, scale={self.scale}: "
                "rotation must be 0 to 180 degrees, shear at least 0 and below 90, and scale a lowest and a "
                "highest factor above 0."
            )
        if not (0 <= self.translate <= 1 and 0 <= self.perspective <= 0.8):
            raise SpecError(
                f"AffineAugmentation: translate={self.translate}, perspective={self.perspective}: translate "
                "must be a fraction from 0 to 1, and perspective from 0 to 0.8, because corners may fold "
                "over beyond that."
            )
        if self.erase < 0 or self.window < 0:
            raise SpecError(
                f"AffineAugmentation: erase={self.erase} and window={self.window} must be numbers of pixels, 0 or more."
            )

    def __call__(self, x: Tensor, index: Tensor, *, seed: int, epoch: int) -> Tensor:
        """The pictures as they look in this epoch: [n, channels, window, window], of x's type and device.

        x: [n, channels, height, width] float in data space [0, 1]. index: [n] integers, the examples' numbers
        in the data set. Row i depends on (seed, epoch, index[i]) and on x[i] alone. Raises InputError, and
        SpecError where kornia is not installed.
        """
        if x.ndim != 4 or not x.is_floating_point() or index.shape != x.shape[:1] or index.is_floating_point():
            raise InputError(
                "AffineAugmentation needs pictures [n, channels, height, width] in data space (float) and "
                f"one integer per picture; got {tuple(x.shape)} of {x.dtype} and {tuple(index.shape)} of "
                f"{index.dtype}."
            )
        size = (self.window, self.window) if self.window else (x.shape[2], x.shape[3])
        if max(size[0] - x.shape[2], size[1] - x.shape[3], self.erase - min(size)) > 0:
            raise InputError(
                f"Pictures of {x.shape[2]}x{x.shape[3]} pixels are too small for a window of "
                f"{size[0]}x{size[1]} with an erased square of up to {self.erase} pixels."
            )
        if not x.numel():
            return x[:, :, : size[0], : size[1]]
        drawn = self.draw(index.to(x.device), size, seed=seed, epoch=epoch)
        moved = _warped(x, drawn, size)
        if self.standardise:
            moved = standardised(moved)
        columns = torch.arange(size[1], device=x.device)
        rows = torch.arange(size[0], device=x.device)
        left, top, side = drawn.square[:, :, None].unbind(1)
        inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[
            :, None
        ]
        return torch.where(inside[:, None], drawn.white.to(x)[:, None, None, None], moved)

    def draw(self, index: Tensor, size: tuple[int, int], *, seed: int, epoch: int) -> Drawn:
        """What happens to the examples with these numbers in this epoch, in windows of `size` (height, width)."""
        u = uniform_for(index, seed, f"affine|{epoch}", columns=7)
        side = (u[:, 3] * (self.erase + 1)).long()
        v = uniform_for(index, seed, f"projected|{epoch}", columns=10).to(u.dtype)
        low, high = self.scale
        height, width = size
        ends = u.new_tensor([width - 1, height - 1])
        inwards = v[:, 2:].reshape(-1, 4, 2) * self.perspective * ends / 2
        signs = u.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        return Drawn(
            shift=(2 * v[:, :2] - 1) * self.translate * u.new_tensor([width, height]),
            corners=_corners(ends) + signs * inwards,
            rotation=(2 * u[:, 0] - 1) * self.rotation,
            shear=(2 * u[:, 1] - 1) * self.shear,
            scale=low + (high - low) * u[:, 2],
            square=torch.stack(
                [(u[:, 4] * (size[1] - side + 1)).long(), (u[:, 5] * (size[0] - side + 1)).long(), side], dim=1
            ),
            white=u[:, 6] < 0.5,
        )


def _warped(x: Tensor, drawn: Drawn, size: tuple[int, int]) -> Tensor:
    """x sheared, rotated and scaled about its centre, which becomes the centre of a window of `size`."""
    height, width = x.shape[2:]
    middle = [(width - 1) / 2, (height - 1) / 2]
    centre = torch.tensor([middle], device=x.device, dtype=x.dtype).expand(len(x), 2)
    shift = centre.new_tensor([(size[1] - 1) / 2 - middle[0], (size[0] - 1) / 2 - middle[1]]).expand(len(x), 2)
    transform = _kornia()
    matrix = transform.get_affine_matrix2d(
        shift + drawn.shift.to(x),
        centre,
        drawn.scale.to(x)[:, None].expand(-1, 2),
        drawn.rotation.to(x),
        sx=torch.deg2rad(drawn.shear.to(x)),
    )
    how = {"dsize": size, "mode": "bilinear", "padding_mode": "border", "align_corners": True}
    whole = _corners(x.new_tensor([size[1] - 1, size[0] - 1])).expand(len(x), 4, 2)
    corners = drawn.corners.to(x)
    if torch.equal(corners, whole):
        moved = transform.warp_affine(x, matrix[:, :2], **how)
    else:
        moved = transform.warp_perspective(x, transform.get_perspective_transform(whole, corners) @ matrix, **how)
    # Convex combinations of pixels, but for the rounding of their weights: a picture keeps its range.
    return moved.clamp(min=x.amin(dim=(1, 2, 3), keepdim=True), max=x.amax(dim=(1, 2, 3), keepdim=True))


def _corners(ends: Tensor) -> Tensor:
    """[4, 2], (x, y) of the corners of a picture whose last column and row are `ends`."""
    return ends.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]]) * ends


def _kornia() -> ModuleType:
    try:
        from kornia.geometry import transform
    except ImportError:
        raise SpecError(
            f"AffineAugmentation needs kornia, which is not installed: {install_extra('augment')}"
        ) from None
    return transform

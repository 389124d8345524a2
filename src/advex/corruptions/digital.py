"""What happens to files: bent, in coarse pixels, and compressed."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from advex.corruptions import filters
from advex.corruptions.corruption import Corruption, Fields, Size, corruption, uniform


@corruption(
    "elastic_transform",
    {
        32: ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        64: ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        224: ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    },
)
class ElasticTransform(Corruption):
    """Three points moved, and the plane with them; then every pixel a little by itself.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        """Between -1 and 1: `corners` [n, 3, 2] and `bend` [n, 2, height, width], to the right and down."""
        return {
            "corners": 2 * uniform(seeds, "elastic_transform: corners", 3, 2) - 1,
            "bend": 2 * uniform(seeds, "elastic_transform", 2, *size[1:]) - 1,
        }

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        # The parameters of pictures of 224 pixels were made for 244.
        unit = max(x.shape[2:]) * (244 / 224 if self.table(x.shape) == 224 else 1)
        alpha, sigma, corners = (unit * part for part in self.parameters(x.shape))
        x = _sampled(x, *_affine(x, corners * fields["corners"]), filters.MIRROR)
        if not alpha:
            return x
        bend = alpha * filters.gaussian(fields["bend"], sigma, filters.REFLECT, truncate=3.0)
        right, down = _grid(x)
        return _sampled(x, right + bend[:, 0], down + bend[:, 1], filters.REFLECT)


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """The places of pixels, counted to the right and down: [height, width] each."""
    down, right = torch.meshgrid(*(torch.arange(side, device=x.device).to(x) for side in x.shape[2:]), indexing="ij")
    return right, down


def _affine(x: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, [n, height, width] to the right and down, if three points move. moves: [n, 3, 2]."""
    height, width = x.shape[2:]
    # The first number of a point goes to the right, and the first middle is that of the height: as published.
    first, second, reach = height // 2, width // 2, min(height, width) // 3
    points = x.new_tensor([first, second]) + reach * x.new_tensor([(1, 1), (1, -1), (-1, -1)])
    after = torch.cat([points + moves, torch.ones_like(moves[..., :1])], dim=2).double()
    back = torch.linalg.solve(after, points.double().expand(len(moves), 3, 2)).to(x)
    right, down = _grid(x)
    coordinates = torch.stack([right, down, torch.ones_like(right)], dim=2) @ back[:, None]
    return coordinates[..., 0], coordinates[..., 1]


def _sampled(x: Tensor, right: Tensor, down: Tensor, border: str) -> Tensor:
    """x at places between pixels, [n, height, width] each, linearly."""
    height, width = x.shape[2:]
    about_pixels = border == filters.MIRROR
    if about_pixels:
        grid = torch.stack([2 * right / (width - 1) - 1, 2 * down / (height - 1) - 1], dim=3)
    else:
        grid = torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], dim=3)
    return grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=about_pixels)


@corruption(
    "pixelate", {32: (0.95, 0.9, 0.85, 0.75, 0.65), 64: (0.9, 0.8, 0.7, 0.6, 0.5), 224: (0.6, 0.5, 0.4, 0.3, 0.25)}
)
class Pixelate(Corruption):
    """Fewer pixels, each the mean of those in its square, shown as large as before.

    severity: 1 to 5.
    """

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        rows, columns = (_boxes(x, side, int(side * self.parameters(x.shape))) for side in x.shape[2:])
        levels = (255 * x @ columns.T + 0.5).floor()  # rows first, and 8 bits after each: as Pillow shrinks
        small = (rows @ levels + 0.5).floor() / 255
        down, right = (
            ((torch.arange(side, device=x.device) + 0.5) * (few / side)).long()
            for side, few in zip(x.shape[2:], small.shape[2:], strict=True)
        )
        return small[:, :, down][:, :, :, right]


def _boxes(x: Tensor, side: int, few: int) -> Tensor:
    """[few, side]: the means of the pixels whose centres lie in each of `few` equal parts of a row."""
    scale = side / few
    centre = (torch.arange(few, dtype=torch.float64, device=x.device)[:, None] + 0.5) * scale
    offset = (torch.arange(side, dtype=torch.float64, device=x.device) - centre + 0.5) / scale
    weight = ((offset > -0.5) & (offset <= 0.5)).double()
    return (weight / weight.sum(dim=1, keepdim=True)).to(x)


@corruption("jpeg_compression", {32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25), 224: (25, 18, 15, 10, 7)})
class JPEGCompression(Corruption):
    """Compressed as JPEG by Pillow.

    severity: 1 to 5.
    """

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        quality = self.parameters(x.shape)
        pixels = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures = [_compressed(each[..., 0] if each.shape[2] == 1 else each, quality) for each in pixels]
        if not pictures:
            return x
        return torch.from_numpy(np.stack(pictures)).reshape(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2).to(x) / 255


def _compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))

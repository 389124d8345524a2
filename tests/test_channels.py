"""One value per pixel, from maps with channels."""

from __future__ import annotations

import pytest
import torch

from advex.distances.channels import Channels, per_pixel

PIXELS = torch.tensor([[1.0, -3.0, 2.0], [-1.0, -2.0, 0.5]])  # two pixels of three channels


@pytest.mark.parametrize(
    ("channels", "values"),
    [
        ("sum_abs", [6, 3.5]),
        ("mean_abs", [2, 3.5 / 3]),
        ("max_abs", [3, 2]),
        ("sum", [0, -2.5]),
        ("relu", [0, 0]),
    ],
)
def test_the_channels_of_a_pixel_become_one_value(channels: Channels, values: list[float]) -> None:
    maps = PIXELS.T.reshape(1, 3, 1, 2)
    assert torch.allclose(per_pixel(maps, channels), torch.tensor(values, dtype=torch.float32).reshape(1, 1, 2))
    assert torch.equal(per_pixel(-maps, "relu"), torch.tensor([[[0.0, 2.5]]]))
    assert torch.equal(per_pixel(maps, "none"), maps)


def test_rows_have_one_value_per_column_already() -> None:
    assert torch.equal(per_pixel(PIXELS, "max_abs"), PIXELS)
    assert torch.equal(per_pixel(PIXELS, "relu"), PIXELS.clamp_min(0))

"""Corruptions: tables by size, frost from a folder, what the fractal cloud is."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advex import registry
from advex.corruptions.weather import Fog, Frost, plasma
from advex.errors import InputError, SpecError
from advex.evaluation.plan import plan_of
from advex.evaluation.settings import Settings


@pytest.mark.parametrize(
    ("side", "table"), [(8, 32), (28, 32), (32, 32), (45, 32), (46, 64), (64, 64), (119, 64), (120, 224), (1000, 224)]
)
def test_a_picture_takes_the_table_of_the_nearest_side(side: int, table: int) -> None:
    """Nearest as a ratio: between 32 and 64 that is up to the root of 32 x 64 = 45.3."""
    fog = registry.build("corruption", "fog:severity=2")
    assert fog.table((side, side)) == fog.table((3, side, side // 2)) == table
    assert fog.parameters((side, side)) == {32: (0.5, 3), 64: (0.7, 3), 224: (2, 2)}[table]


def frost_folder(folder: Path, *pictures: np.ndarray) -> Path:
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_frost_adds_parts_of_the_pictures_of_a_folder(tmp_path: Path) -> None:
    """Frost of one colour leaves no doubt: x 0.75 + 0.45 of the colour, at severity 5 for a side of 32."""
    folder = frost_folder(tmp_path, np.full((400, 300, 3), (200, 100, 0), np.uint8))
    frost = Frost(severity=5, frost=str(folder))
    assert (frost.title, Frost(severity=5).title) == ("frost", "frost*")
    x = torch.full((3, 3, 32, 32), 0.4)
    expected = 0.75 * 0.4 + 0.45 * torch.tensor([200.0, 100.0, 0.0]) / 255
    assert torch.allclose(frost(x).mean(dim=(0, 2, 3)), expected, atol=1 / 255)


def test_frost_is_cut_out_of_all_pictures_and_at_all_places(tmp_path: Path) -> None:
    """Two pictures that rise to the right, one in red, one in blue: colours tell the picture, values the place."""
    ramp = np.tile(np.linspace(0, 255, 160).astype(np.uint8), (160, 1))
    red, blue = np.zeros((160, 160, 3), np.uint8), np.zeros((160, 160, 3), np.uint8)
    red[..., 0], blue[..., 2] = ramp, ramp
    frost = Frost(severity=1, frost=str(frost_folder(tmp_path, red, blue)))
    x = torch.zeros(200, 3, 32, 32)
    fields = frost.draw((3, 32, 32), torch.arange(200))
    ice = frost.apply(x, fields) / 0.2
    is_red = ice[:, 0].amax(dim=(1, 2)) > ice[:, 2].amax(dim=(1, 2))
    assert 70 <= int(is_red.sum()) <= 130  # of 200, fair: a chance of 2 in 10,000 beyond
    assert ice.amax() > 0.95  # 160 pixels become 32 and a crop is the whole picture: it is enlarged to cover it
    grey = frost.apply(x[:, :1], fields)
    assert torch.allclose(grey, frost.apply(x, fields).mean(dim=1, keepdim=True), atol=1e-6)


def test_frost_is_made_smaller_by_leaving_pixels_out(tmp_path: Path) -> None:
    """At a fifth of the size the middle one of five pixels stays, as OpenCV has it: the stripes are not averaged."""
    stripes = np.zeros((160, 200, 3), np.uint8)
    stripes[:, 2::5], stripes[:, 3::5] = (250, 125, 50), 255
    frost = Frost(severity=1, frost=str(frost_folder(tmp_path, stripes)))
    x = torch.zeros(2, 3, 32, 32)
    ice = frost.apply(x, frost.draw((3, 32, 32), torch.arange(2))) / 0.2
    expected = torch.tensor([250.0, 125.0, 50.0])[:, None, None] / 255
    assert torch.allclose(ice, expected.expand_as(ice), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (200, 16), (24, 224)])
def test_motion_darkens_no_picture_however_long_and_narrow(size: tuple[int, int]) -> None:
    x = torch.full((4, 1, *size), 0.6)
    for severity in (1, 5):
        blurred = registry.make("corruption", "motion_blur", severity=severity)(x)
        assert (blurred - 0.6).abs().max() <= 1 / 255


def test_a_picture_of_frost_that_is_none_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(SpecError, match=r"The frost picture .*a\.png cannot be read: "):
        plan_of(Settings(corruptions=(f"frost:frost={tmp_path}",))).identity()


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.int64])
def test_pictures_are_of_real_numbers(kind: torch.dtype) -> None:
    with pytest.raises(InputError, match=f"not {kind}: divide bytes by 255"):
        Fog()(torch.zeros(1, 3, 8, 8, dtype=kind))
    with pytest.raises(InputError, match="these have NaN"):
        Fog()(torch.full((1, 3, 8, 8), float("nan")))


def test_a_folder_without_frost_is_refused(tmp_path: Path) -> None:
    for folder in (str(tmp_path), "~nobody-of-this-name/frost"):
        with pytest.raises(SpecError, match="not a folder of pictures"):
            Frost(frost=folder)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(SpecError, match="cannot be read"):
        Frost(frost=str(tmp_path))(torch.zeros(1, 3, 32, 32))


def test_an_evaluation_is_of_the_pictures_in_the_folder_as_they_are(tmp_path: Path) -> None:
    def identity(*corruptions: str) -> Any:
        return plan_of(Settings(corruptions=corruptions)).identity()["settings"]["corruptions"]

    ice = np.full((40, 40, 3), 200, np.uint8)
    before = identity(f"frost:severity=2,frost={frost_folder(tmp_path, ice)}")
    assert identity(f"frost:severity=2,frost={tmp_path}") == before
    frosted = Frost(severity=2, frost=str(tmp_path))(grey := torch.full((1, 3, 32, 32), 0.3))
    frost_folder(tmp_path, ice - 90)
    assert Frost(severity=2, frost=str(tmp_path))(grey).mean() < frosted.mean() - 0.05
    assert identity(f"frost:severity=2,frost={tmp_path}") != before
    assert [*identity("frost:severity=2").values()] == [["frost:severity=2,frost=()"]]  # as before there were digests


def test_clouds_fill_the_range_and_are_rougher_where_roughness_decays_slowly() -> None:
    draws = 2 * torch.rand(4, 64 * 64 - 1, generator=torch.Generator().manual_seed(0)) - 1
    smooth, rough = plasma(draws, 64, 3.0), plasma(draws, 64, 1.4)
    for cloud in (smooth, rough):
        assert cloud.amin(dim=(1, 2)).tolist() == [0] * 4
        assert cloud.amax(dim=(1, 2)).tolist() == [1] * 4
    steps = [cloud.diff(dim=2).abs().mean() for cloud in (smooth, rough)]
    assert steps[1] > 3 * steps[0]


def test_normal_numbers_are_finite_for_every_uniform_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest float32 below 1, and 0: one infinite number would make a whole picture of snow NaN."""
    ends = torch.tensor([[0.0, 0.5, 1 - 2**-24]])
    module = importlib.import_module("advex.corruptions.corruption")
    monkeypatch.setattr(module, "uniform", lambda *about: ends)
    numbers = module.normal(torch.zeros(1, dtype=torch.int64), "s", 3)
    assert numbers.dtype == torch.float32
    assert numbers.isfinite().all()
    assert numbers[0, 0] == pytest.approx(-5.4, abs=0.2)
    assert float(numbers[0, 2]) == pytest.approx(5.4, abs=0.4)

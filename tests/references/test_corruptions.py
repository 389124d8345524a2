"""An outside oracle: imagecorruptions-imaug with our parameters in the place of its own, and fed with our draws.

Its functions have the table for pictures of 224 pixels alone. Of the elastic transform it lacks the first of two parts,
which OpenCV makes as in the published code, and the second part gets the published blur in the place of its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from advex import randomness, registry
from advex.corruptions import Corruption
from advex.corruptions.blur import GlassBlur
from advex.data import open_dataset

oracle: Any = pytest.importorskip("imagecorruptions.corruptions")

EXACT = {"contrast", "brightness", "defocus_blur", "zoom_blur", "pixelate"}
NAMES = [name for name in registry.entries("corruption") if name != "frost"]  # its pictures are the user's
ENDS, STEPS = (1.11, 1.16, 1.21, 1.26, 1.31), (0.01, 0.02, 0.03)  # of the oracle's zoom_blur
IMAGE = {32: 32, 64: 64, 224: 244}  # the side that the published elastic transform multiplies its parameters by
RANDOM = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "fog", "snow",
    "elastic_transform",
)  # fmt: skip


def pictures(side: int, n: int) -> Tensor:
    return open_dataset("cifar10-sample", size=side).batch(slice(0, n)).x


def injected(function: Callable[..., Any], table: Any) -> Callable[..., Any]:
    """A function of the oracle with five other parameters in the place of its own."""
    constants = function.__code__.co_consts
    own = [value for value in constants if isinstance(value, tuple) and len(value) == 5 and None not in value]
    (former,) = [value for value in own if not isinstance(value[0], str)]
    return rewritten(function, {former: tuple(table)})


def rewritten(function: Callable[..., Any], instead: dict[Any, Any]) -> Callable[..., Any]:
    """A function of the oracle with other constants: those by which each is replaced."""
    code = function.__code__
    constants = tuple(instead.get(value, value) for value in code.co_consts)
    return types.FunctionType(code.replace(co_consts=constants), function.__globals__, None, function.__defaults__)


def fed(values: Any) -> Callable[..., Any]:
    """Draws in the shapes that are asked for, one after the other, from numbers in their order."""
    numbers, start = np.asarray(values, dtype=np.float64).ravel(), 0

    def take(shape: Any = ()) -> Any:
        nonlocal start
        count = int(np.prod(shape))
        start += count
        assert start <= len(numbers)
        return numbers[start - count : start].reshape(shape)

    return take


class Feeding:
    """np.random in the oracle: normal, uniform, poisson and randint from our fields of one picture."""

    def __init__(self, fields: dict[str, np.ndarray]) -> None:
        last = {key: each.transpose(1, 2, 0) if each.ndim == 3 else each for key, each in fields.items()}
        self.fields = last
        self.next = {key: fed(each) for key, each in last.items()}

    def normal(self, size: Any, scale: float, loc: float = 0.0) -> Any:
        return loc + scale * self.next["noise" if "noise" in self.next else "flakes"](size)

    def uniform(self, low: float, high: float, size: Any = None) -> Any:
        if "angle" in self.next:
            return float(self.fields["angle"])
        return (low + high) / 2 + (high - low) / 2 * self.next["cloud" if "cloud" in self.next else "bend"](size)

    def poisson(self, mean: Any) -> Any:
        return stats.poisson.ppf(self.fields["probability"], mean).clip(0)

    def random(self, size: Any) -> Any:
        return self.next.pop(next(iter(self.next)))(size)

    def default_rng(self, seed: Any = None) -> Any:
        return self

    def seed(self, seed: Any) -> None:
        pass


def by_oracle(corruption: Corruption, x: Tensor, fields: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What the oracle makes of pictures with these fields, in [0, 1]."""
    made = []
    for i in range(len(x)):
        own = {key: values[i].numpy() for key, values in fields.items()}
        pixels = (255 * x[i]).round().byte().permute(1, 2, 0).numpy()
        made.append(torch.from_numpy(np.asarray(one_picture(corruption, pixels, own, monkeypatch), dtype=np.float64)))
    return torch.stack(made).permute(0, 3, 1, 2) / 255


def one_picture(corruption: Corruption, x: np.ndarray, fields: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    name, size = corruption.name, x.shape[:2]
    table = corruption.tables[corruption.table(size)]
    if name == "zoom_blur":  # its ranges of factors are made by np.arange of an end and a step
        end, step = corruption.parameters(size)
        return rewritten(oracle.zoom_blur, {**dict.fromkeys(ENDS, end), **dict.fromkeys(STEPS, step)})(x)
    if name == "elastic_transform":
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "uniform", Feeding({"bend": fields["bend"].ravel()}).uniform)
            return bent(x, fields["corners"], corruption, patch)
    function = injected(getattr(oracle, name), table)
    if name in ("pixelate", "jpeg_compression"):
        return np.asarray(function(Image.fromarray(x), corruption.severity))
    with monkeypatch.context() as patch:
        if name == "glass_blur":
            shifts = iter(turns(fields["shift"], table[corruption.severity - 1]))
            patch.setattr(np.random, "randint", lambda low, high, size: next(shifts))
            patch.setattr(np.random, "seed", lambda seed: None)
            shuffle = oracle._shuffle_pixels_njit_glass_blur
            patch.setattr(oracle, "_shuffle_pixels_njit_glass_blur", getattr(shuffle, "py_func", shuffle))
            return function(x, corruption.severity, seed=0)
        feeding = Feeding(fields)
        for draw in ("normal", "uniform", "poisson", "default_rng"):
            patch.setattr(np.random, draw, getattr(feeding, draw))
        return function(x, corruption.severity)


def turns(shift: np.ndarray, parameters: Any) -> Any:
    """The shifts in the order in which the published loop draws them."""
    _, reach, rounds = parameters
    height, width = shift.shape[-2:]
    for k in range(rounds):
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                yield shift[k, :, h, w]


def bent(x: np.ndarray, corners: np.ndarray, corruption: Corruption, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The published elastic transform, whose first part the oracle leaves out.

    corners: the moves of three points, in [-1, 1]. The oracle draws those of single pixels within 0.005 of the side,
    and blurs them by 0.01 of it.
    """
    side = max(x.shape[:2])
    alpha, sigma, corner = (IMAGE[side] * part for part in corruption.parameters(x.shape[:2]))
    pixels, sides = (x / 255).astype(np.float32), np.array(x.shape[:2], dtype=np.float32)
    middle, reach = sides // 2, min(x.shape[:2]) // 3
    first = np.array([middle + reach, [middle[0] + reach, middle[1] - reach], middle - reach], dtype=np.float32)
    second = first + (corner * corners).astype(np.float32)
    matrix: Any = cv2.getAffineTransform(first, second)
    pixels = cv2.warpAffine(pixels, matrix, x.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    blur = oracle.gaussian
    with monkeypatch.context() as patch:
        patch.setattr(oracle, "gaussian", lambda moves, own, **how: blur(moves, sigma, **how) if sigma else 0 * moves)
        return injected(oracle.elastic_transform, [alpha / (0.005 * side)] * 5)(255 * pixels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [32, 64, 224])
def test_the_oracle_makes_the_same_of_our_draws(name: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures(side, 1 if side == 224 else 3)
    for severity in range(1, 6) if side < 224 else (1, 3, 5):
        corruption = registry.make("corruption", name, severity=severity)
        fields = corruption.draw((3, side, side), randomness.numbers(x, 0))
        expected = by_oracle(corruption, x, fields, monkeypatch)
        apart = (corruption.apply(x, fields).clamp(0, 1) - expected).abs()
        if name == "jpeg_compression":
            assert apart.amax() < 1e-6
        elif name in EXACT:
            assert apart.mean() <= 1 / 255, (severity, apart.mean())
            assert apart.amax() <= 3 / 255, (severity, apart.amax())
        else:
            assert apart.mean() <= 2 / 255, (severity, apart.mean())


@pytest.mark.parametrize("name", RANDOM)
def test_our_own_draws_change_a_picture_as_much(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean absolute change of 64 seeds at each of 6 pictures is within 5 % of the oracle's with its own draws."""
    x = pictures(32, 6)
    corruption = registry.make("corruption", name, severity=4)
    ours = torch.stack([(corruption(x, seed=seed) - x).abs().mean() for seed in range(64)]).mean()
    function = (
        (lambda pixels, _: bent(pixels, np.random.uniform(-1, 1, (3, 2)), corruption, monkeypatch))
        if name == "elastic_transform"
        else injected(getattr(oracle, name), corruption.tables[32])
    )
    shuffle = oracle._shuffle_pixels_njit_glass_blur
    monkeypatch.setattr(oracle, "_shuffle_pixels_njit_glass_blur", getattr(shuffle, "py_func", shuffle))
    state, changes = np.random.get_state(), []
    try:
        for seed in range(64):
            for i in range(len(x)):
                np.random.seed(64 * i + seed)
                seeded = {"seed": 64 * i + seed} if name == "glass_blur" else {}
                pixels = (255 * x[i]).round().byte().permute(1, 2, 0).numpy()
                changes.append(np.abs(np.uint8(function(pixels, 4, **seeded)) / 255 - pixels / 255).mean())
    finally:
        np.random.set_state(state)
    assert ours.item() == pytest.approx(np.mean(changes), rel=0.05)


def test_glass_that_swaps_is_a_permutation_made_in_turn() -> None:
    """Against the loop that the published code meant to be."""
    x = pictures(32, 2)
    corruption = GlassBlur(severity=5, glass="swap")
    fields = corruption.draw((3, 32, 32), torch.tensor([1, 2]))
    sigma, reach, rounds = corruption.parameters((32, 32))
    for i in range(2):
        levels = np.floor(
            255 * ndimage.gaussian_filter(x[i].double().numpy(), (0, sigma, sigma), mode="nearest") + 1e-3
        )
        shifts = iter(turns(fields["shift"][i].numpy(), (sigma, reach, rounds)))
        before = np.sort(levels.reshape(3, -1), axis=1)
        for _ in range(rounds):
            for h in range(32 - reach, reach, -1):
                for w in range(32 - reach, reach, -1):
                    right, down = next(shifts)
                    mine, theirs = levels[:, h, w].copy(), levels[:, h + down, w + right].copy()
                    levels[:, h, w], levels[:, h + down, w + right] = theirs, mine
        assert np.array_equal(np.sort(levels.reshape(3, -1), axis=1), before)
        expected = ndimage.gaussian_filter(levels / 255, (0, sigma, sigma), mode="nearest")
        assert np.abs(corruption.apply(x, fields)[i].numpy() - expected).max() < 1.5 / 255


def test_shot_noise_is_poisson() -> None:
    """Its quantiles against SciPy's, at every level of grey and far into the tails."""
    corruption = registry.build("corruption", "shot_noise:severity=1")
    x = (torch.arange(256.0) / 255).reshape(1, 1, 16, 16)
    for probability in (0.0, 1e-6, 0.02, 0.5, 0.97, 1 - 2**-24):
        fields = {"probability": torch.full_like(x, probability)}
        expected = stats.poisson.ppf(max(probability, 1e-300), 500 * x.double().numpy()).clip(0)
        assert np.array_equal((500 * corruption.apply(x, fields)).round().numpy(), expected)

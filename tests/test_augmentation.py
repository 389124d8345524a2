"""Augmentation against numpy's padding and torch's interpolation, picture by picture, and its laws."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from advex.data.augmentation.plain import Augmentation, centre, standardised
from advex.errors import InputError, SpecError

MODES = {"replicate": "edge", "reflect": "reflect"}  # numpy's names

# One of each kind, for the laws.
KINDS = {
    "flip": Augmentation(flip=True),
    "shift": Augmentation(pad=3),
    "reflect": Augmentation(flip=True, pad=3, padding="reflect"),
    "larger": Augmentation(resize=(1.0, 1.6)),
    "smaller": Augmentation(resize=(0.3, 0.9), padding="reflect"),
    "everything": Augmentation(flip=True, pad=2, resize=(0.5, 1.5)),
}
CUT = Augmentation(flip=True, pad=1, resize=(0.9, 1.5), crop=4)
EVERY = pytest.mark.parametrize("augmentation", KINDS.values(), ids=KINDS)


def sides(side: int, factor: float) -> int:
    """A side after scaling: the nearest whole number, halves up, at least a pixel."""
    return max(math.floor(side * factor + 0.5), 1)


def starts(side: int, size: int, pad: int) -> range:
    """Where a window of `side` pixels may begin on an axis of `size`: on the picture or around it, and `pad` beyond."""
    return range(min(0, size - side) - pad, max(0, size - side) + pad + 1)


def cut(picture: np.ndarray, top: int, left: int, shape: tuple[int, int], padding: str) -> np.ndarray:
    """The window of a picture [c, H, W] at (top, left), which may lie outside: numpy's padding, and a slice."""
    around = max(*shape, *picture.shape[1:]) * 2
    padded = np.pad(picture, [(0, 0), (around, around), (around, around)], mode=MODES[padding])  # pyright: ignore
    return padded[:, top + around : top + around + shape[0], left + around : left + around + shape[1]]


def outcomes(augmentation: Augmentation, picture: Tensor) -> dict[tuple[int, int, int, int, bool], np.ndarray]:
    """Everything that may become of a picture [c, h, w]: (height, width, top, left, mirrored) -> the result."""
    height, width = picture.shape[1:]
    window = (augmentation.crop or height, augmentation.crop or width)
    low, high = augmentation.resize or (1.0, 1.0)
    # Every pair of sizes that a factor leads to: they change where a side's size is a half.
    breaks = {(size + 0.5) / side for side in (height, width) for size in range(1, 4 * side)}
    cuts = sorted({low, high, *(each for each in breaks if low < each < high)})
    between = [(a + b) / 2 for a, b in itertools.pairwise(cuts)] or [low]
    found = {}
    for size in sorted({(sides(height, factor), sides(width, factor)) for factor in between}):
        scaled = picture.numpy()
        if augmentation.resize:
            scaled = functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].numpy()
        places = itertools.product(*(starts(*each, augmentation.pad) for each in zip(window, size, strict=True)))
        for top, left in places:
            here = cut(scaled, top, left, window, augmentation.padding)
            found[*size, top, left, False] = here
            if augmentation.flip:
                found[*size, top, left, True] = here[:, :, ::-1]
    return found


def pictures(n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random pictures in [0, 1], a third of the pixels at its ends."""
    rng = torch.Generator().manual_seed(n)
    x, end = torch.rand(n, *shape, generator=rng, dtype=torch.float64), torch.rand(n, *shape, generator=rng)
    return torch.where(end < 0.17, 0.0, torch.where(end > 0.83, 1.0, x)).to(dtype)


def chi_square(seen: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic, in standard deviations from its mean."""
    free = len(seen) - 1
    return (((seen - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free)


# -- against slow replicas ---------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", MODES)
@pytest.mark.parametrize("flip", [False, True])
def test_shifts_and_flips_are_copies_of_pixels(flip: bool, padding: Any) -> None:
    """2000 copies of one picture: each is bit for bit one of the (2 pad + 1)^2 windows, all of them equally often."""
    augmentation = Augmentation(flip=flip, pad=2, padding=padding)
    x = pictures(1, 2, 5, 6)
    found = augmentation(x.expand(2000, -1, -1, -1), torch.arange(2000), seed=3, epoch=4)
    options = outcomes(augmentation, x[0])
    assert len(options) == (50 if flip else 25)
    same = (found[:, None] == torch.from_numpy(np.stack(list(options.values())))).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    # Five standard deviations; also too even a spread would be wrong.
    assert abs(chi_square(same.sum(dim=0).numpy(), np.full(len(options), 2000 / len(options)))) < 5


@pytest.mark.parametrize("padding", MODES)
@pytest.mark.parametrize(
    ("resize", "pad", "shape"),
    [
        ((1.0, 1.5), 0, (5, 7)),
        ((1.0, 1.5), 1, (6, 4)),
        ((2.0, 2.0), 0, (4, 3)),
        ((0.5, 1.0), 0, (6, 5)),
        ((0.25, 0.6), 2, (7, 6)),
        ((0.1, 0.1), 0, (6, 9)),  # one pixel is left
        ((0.6, 1.3), 1, (5, 5)),
    ],
)
def test_resized_pictures_are_interpolated_padded_and_cut(
    resize: tuple[float, float], pad: int, shape: tuple[int, int], padding: Any
) -> None:
    augmentation = Augmentation(flip=True, pad=pad, padding=padding, resize=resize)
    x = pictures(1, 2, *shape, dtype=torch.float64)
    found = augmentation(x.expand(1000, -1, -1, -1), torch.arange(1000), seed=1, epoch=0)
    options = outcomes(augmentation, x[0])
    replicas = torch.from_numpy(np.stack(list(options.values())))
    # A few roundings of numbers below 1 in float64.
    same = torch.cdist(found.flatten(1), replicas.flatten(1), p=math.inf) < 1e-12
    assert same.any(dim=1).all()
    sizes = {key[:2] for key in options}
    seen = {key[:2] for key, hit in zip(options, same.any(dim=0).tolist(), strict=True) if hit}
    assert seen == sizes


@pytest.mark.parametrize("padding", MODES)
@pytest.mark.parametrize(
    ("augmentation", "shape"),
    [
        (Augmentation(crop=4), (6, 7)),
        (Augmentation(crop=4, pad=1, flip=True), (4, 6)),
        (Augmentation(crop=4, resize=(0.5, 1.25), flip=True), (5, 6)),  # also smaller than the window
        (Augmentation(crop=5, resize=(1.0, 1.6)), (5, 5)),  # the papers': never smaller
    ],
)
def test_windows_are_cut_anywhere(augmentation: Augmentation, shape: tuple[int, int], padding: Any) -> None:
    augmentation = dataclasses.replace(augmentation, padding=padding)
    x = pictures(1, 2, *shape, dtype=torch.float64)
    found = augmentation(x.expand(1500, -1, -1, -1), torch.arange(1500), seed=1, epoch=0)
    assert found.shape == (1500, 2, augmentation.crop, augmentation.crop)
    options = outcomes(augmentation, x[0])
    replicas = torch.from_numpy(np.stack([each.copy() for each in options.values()]))
    same = torch.cdist(found.flatten(1), replicas.flatten(1), p=math.inf) < 1e-12
    assert same.any(dim=1).all()
    hit = same.any(dim=0).tolist()
    assert {key[:2] for key, there in zip(options, hit, strict=True) if there} == {key[:2] for key in options}
    assert augmentation.resize or all(hit)  # at every place; some sizes are rare


def test_windows_obey_the_laws() -> None:
    x, index = pictures(6, 3, 6, 5).contiguous(memory_format=torch.channels_last), torch.arange(6)
    found = CUT(x, index, seed=0, epoch=1)
    assert found.is_contiguous(memory_format=torch.channels_last)
    alone = torch.cat([CUT(x[row : row + 1], index[row : row + 1], seed=0, epoch=1) for row in range(6)])
    assert torch.equal(found, alone)
    assert CUT(x.to("meta"), index, seed=0, epoch=0).shape == (6, 3, 4, 4)
    assert CUT(x[:0], index[:0], seed=0, epoch=0).shape == (0, 3, 4, 4)
    square = pictures(2, 3, 4, 4)
    assert Augmentation(crop=4)(square, torch.arange(2), seed=0, epoch=0) is square
    with pytest.raises(InputError, match="6x5 .*6x6"):
        Augmentation(crop=6)(x, index, seed=0, epoch=0)


def test_the_centre() -> None:
    x = torch.arange(30.0).reshape(1, 1, 5, 6)
    assert centre(x, 3).tolist() == [[[[7, 8, 9], [13, 14, 15], [19, 20, 21]]]]
    assert centre(x, 0) is x
    assert centre(x[0], 3) is not None  # no pictures, no centre
    with pytest.raises(InputError, match="5x6 .*6x6"):
        centre(x, 6)


def test_standardised_pictures_by_hand() -> None:
    """0, 0, 0, 4: mean 1, deviation sqrt(3). 99 zeros and a one, 9.95 deviations above their mean, is cut off at 4."""
    x = torch.tensor([0.0, 0.0, 0.0, 4.0]).reshape(1, 1, 2, 2)
    expected = [0.5 - 1 / math.sqrt(3) / 8] * 3 + [0.5 + 3 / math.sqrt(3) / 8]
    assert standardised(x).flatten().tolist() == pytest.approx(expected)
    peak = torch.zeros(1, 1, 10, 10)
    peak[0, 0, 3, 3] = 1
    assert standardised(peak).amax() == 1
    assert standardised(peak).amin().item() == pytest.approx(0.5 - 0.01 / math.sqrt(0.0099) / 8, abs=1e-6)
    for value in (0.0, 0.1, 0.7):
        assert (standardised(torch.full((2, 3, 4, 4), value)) == 0.5).all()
    both = torch.cat([peak[:, :, :2, 2:5], peak[:, :, 2:4, 2:5]])
    assert torch.equal(standardised(both)[1:], standardised(both[1:]))


def test_half_of_the_pictures_are_mirrored() -> None:
    n = 20_000
    x = torch.tensor([0.0, 1.0]).expand(n, 1, 1, 2)
    mirrored = Augmentation(flip=True)(x, torch.arange(n), seed=0, epoch=0)[:, 0, 0, 0]
    assert abs(mirrored.mean().item() - 0.5) < 5 * math.sqrt(1 / 4 / n)


@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-24])
@pytest.mark.parametrize("pad", [1, 2, 3, 4, 5, 7, 8, 100, 2**20])
def test_the_extreme_draws_are_the_extreme_shifts(pad: int, draw: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least and the largest number that there are: no rounding leads beyond `pad`."""
    monkeypatch.setattr(
        "advex.data.augmentation.plain.uniform_for", lambda index, *_, columns: torch.full((len(index), columns), draw)
    )
    x = torch.arange(2 * pad + 3, dtype=torch.float64).reshape(1, 1, 1, -1)  # each pixel's value is its place
    found = Augmentation(pad=pad)(x, torch.arange(1), seed=0, epoch=0)
    assert found[0, 0, 0, pad + 1].item() == (1 if draw == 0 else 2 * pad + 1)


def test_places_of_a_resized_picture_are_equally_frequent() -> None:
    """Twice as large, 4 x 4 of 8 x 8 pixels: 25 places; half as large, 4 x 4 around 2 x 2: 9."""
    for factor, places in ((2.0, 25), (0.5, 9)):
        augmentation = Augmentation(resize=(factor, factor))
        x = pictures(1, 2, 4, 4, dtype=torch.float64)
        found = augmentation(x.expand(2000, -1, -1, -1), torch.arange(2000), seed=0, epoch=0)
        replicas = torch.from_numpy(np.stack(list(outcomes(augmentation, x[0]).values())))
        same = torch.cdist(found.flatten(1), replicas.flatten(1), p=math.inf) < 1e-12
        assert same.sum(dim=1).eq(1).all()
        assert same.shape[1] == places
        assert abs(chi_square(same.sum(dim=0).numpy(), np.full(places, 2000 / places))) < 5


def test_a_ramp_stays_a_ramp_and_tells_the_factor() -> None:
    """Bilinear interpolation reproduces a linear picture: its slope is divided by the factor, which is uniform.

    8 pixels become 8, ... 12 at factors in [1, 1.5], the outer two half as often.
    """
    ramp = torch.arange(8, dtype=torch.float64) / 7
    n = 4000
    for x, dim in ((ramp.expand(n, 1, 8, 8), 3), (ramp[:, None].expand(n, 1, 8, 8), 2)):
        found = Augmentation(resize=(1.0, 1.5))(x, torch.arange(n), seed=0, epoch=0).movedim(dim, 3)
        assert torch.equal(found, found[:, :, :1].expand_as(found))  # constant across the slope
        # At most the outermost pixel on each side may touch the padding: 12 / 8 = 1.5 pixels to a source pixel.
        slope = found[:, 0, 0, 1:-1].diff(dim=1)
        assert (slope - slope[:, :1]).abs().max() < 1e-14  # roundings of numbers up to 1
        size = 8 / 7 / slope[:, 0]
        assert (size - size.round()).abs().max() < 1e-12
        seen = torch.bincount(size.round().long(), minlength=13)[8:].numpy()
        assert abs(chi_square(seen, n * np.array([1, 2, 2, 2, 1]) / 8)) < 5


def test_shrinking_averages_instead_of_picking() -> None:
    """A fine chequerboard at a quarter of its size is grey; taking the nearest pixels would keep it black or white."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    x = board.to(torch.float64).expand(50, 1, 16, 16)
    found = Augmentation(resize=(0.25, 0.25))(x, torch.arange(50), seed=0, epoch=0)
    assert (found - 0.5).abs().max() < 0.01  # of the corners, where the filter is cut off


# -- laws --------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.0])
def test_a_constant_picture_stays_exactly_what_it_is(augmentation: Augmentation, value: float) -> None:
    x = torch.full((64, 3, 7, 5), value)
    assert torch.equal(augmentation(x, torch.arange(64), seed=0, epoch=0), x)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_no_rounding_leaves_the_range_of_a_picture(augmentation: Augmentation, dtype: torch.dtype) -> None:
    x = (pictures(300, 2, 9, 8, dtype=torch.float64) * 0.6 + 0.1).to(dtype)
    found = augmentation(x, torch.arange(300), seed=0, epoch=0)
    assert found.dtype == dtype
    assert (found.amin(dim=(2, 3)) >= x.amin(dim=(2, 3))).all()
    assert (found.amax(dim=(2, 3)) <= x.amax(dim=(2, 3))).all()
    # In a coarse type only the last roundings are coarse: one per tap, of numbers below 1.
    exact = augmentation(x.double(), torch.arange(300), seed=0, epoch=0)
    taps = 2 * math.ceil(2 / (min(augmentation.resize or (1.0, 1.0))))
    assert (found.double() - exact).abs().max() <= 2 * taps * torch.finfo(dtype).eps


@EVERY
def test_an_example_does_not_depend_on_its_batch(augmentation: Augmentation) -> None:
    """Bit for bit: in other orders, in batches of other sizes, alone, twice in a batch, in another memory format."""
    x, index = pictures(60, 3, 9, 11), torch.randint(0, 2**40, (60,))

    def augmented(rows: Any, x: Tensor = x) -> Tensor:
        return augmentation(x[rows], index[rows], seed=5, epoch=2)

    before = x.clone()
    whole = augmented(slice(None))
    assert torch.equal(x, before)
    order = torch.randperm(60)
    assert torch.equal(augmented(order), whole[order])
    for size in (1, 7, 32):
        assert torch.equal(torch.cat([augmented(rows) for rows in torch.arange(60).split(size)]), whole)
    assert torch.equal(augmented(torch.tensor([4, 9, 4])), whole[[4, 9, 4]])
    assert torch.equal(augmented(slice(None), x.contiguous(memory_format=torch.channels_last)), whole)
    assert torch.equal(augmented(slice(None), x.transpose(2, 3).contiguous().transpose(2, 3)), whole)
    changed = x.clone()
    changed[0] = 1 - changed[0]
    assert torch.equal(augmented(slice(None), changed)[1:], whole[1:])


@EVERY
def test_seed_epoch_and_number_decide(augmentation: Augmentation) -> None:
    x, index = pictures(1, 1, 9, 9).expand(40, -1, -1, -1), torch.arange(40)
    found = augmentation(x, index, seed=0, epoch=0)
    assert torch.equal(found, augmentation(x, index, seed=0, epoch=0))
    for other in (
        augmentation(x, index, seed=1, epoch=0),
        augmentation(x, index, seed=0, epoch=1),
        augmentation(x, index + 1000, seed=0, epoch=0),
    ):
        # Independent draws agree in at most half of the examples (for flips alone), here in under 32 of 40 (4 sigma).
        assert (found == other).flatten(1).all(dim=1).sum() < 32


@EVERY
def test_the_memory_format_is_kept(augmentation: Augmentation) -> None:
    x, index = pictures(5, 3, 6, 7), torch.arange(5)
    assert augmentation(x, index, seed=0, epoch=0).is_contiguous()
    x = x.contiguous(memory_format=torch.channels_last)
    assert augmentation(x, index, seed=0, epoch=0).is_contiguous(memory_format=torch.channels_last)


def test_the_global_generator_does_not_move() -> None:
    before = torch.get_rng_state()
    KINDS["everything"](pictures(4, 3, 6, 6), torch.arange(4), seed=0, epoch=0)
    assert torch.equal(torch.get_rng_state(), before)


@EVERY
def test_no_value_is_asked_back_from_the_device(augmentation: Augmentation) -> None:
    """Tensors without values: whatever waited for one would fail (on a GPU, only slow it down)."""
    x, index = pictures(4, 3, 6, 6).to("meta"), torch.arange(4, device="meta")
    found = augmentation(x, index, seed=0, epoch=0)
    assert (found.device.type, found.shape, found.dtype) == ("meta", x.shape, x.dtype)
    assert augmentation(x, torch.arange(4), seed=0, epoch=0).device.type == "meta"


def test_parts_are_drawn_independently_of_each_other() -> None:
    """Switching on the flip leaves the shift alone, and resizing leaves the flip alone."""
    x, index = pictures(200, 1, 6, 6), torch.arange(200)

    def augmented(**options: Any) -> Tensor:
        return Augmentation(**options)(x, index, seed=0, epoch=0)

    def either(found: Tensor, base: Tensor) -> Tensor:
        plain = (found == base).flatten(1).all(dim=1)
        mirrored = (found == base.flip(3)).flatten(1).all(dim=1)
        assert (plain ^ mirrored).all()
        return mirrored

    mirrored = either(augmented(flip=True), x)
    assert torch.equal(mirrored, either(augmented(flip=True, pad=2), augmented(pad=2)))
    assert torch.equal(mirrored, either(augmented(flip=True, resize=(0.7, 1.4)), augmented(resize=(0.7, 1.4))))


@pytest.mark.parametrize("padding", MODES)
def test_a_factor_of_one_is_no_resizing(padding: Any) -> None:
    x, index = pictures(100, 3, 8, 9), torch.arange(100)
    plain = Augmentation(flip=True, pad=2, padding=padding)
    resized = dataclasses.replace(plain, resize=(1.0, 1.0))
    assert torch.equal(resized(x, index, seed=0, epoch=0), plain(x, index, seed=0, epoch=0))


def test_every_option_does_something() -> None:
    x, index = pictures(20, 3, 8, 8), torch.arange(20)
    base = KINDS["everything"]
    found = base(x, index, seed=0, epoch=0)
    for change in ({"flip": False}, {"pad": 3}, {"padding": "reflect"}, {"resize": None}, {"resize": (0.5, 1.4)}):
        assert not torch.equal(dataclasses.replace(base, **change)(x, index, seed=0, epoch=0), found), change
    base = CUT
    found = base(x, index, seed=0, epoch=0)
    for change in ({"pad": 0}, {"resize": None}):
        assert not torch.equal(dataclasses.replace(base, **change)(x, index, seed=0, epoch=0), found), change


# -- borders -----------------------------------------------------------------------------------------------


def test_nothing_asked_nothing_done() -> None:
    x = pictures(3, 2, 4, 4)
    assert Augmentation()(x, torch.arange(3), seed=0, epoch=0) is x
    assert Augmentation(padding="reflect")(x, torch.arange(3), seed=0, epoch=0) is x


@EVERY
@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 2, 3), (5, 2, 3, 4, 6)])
def test_what_is_no_picture_comes_back(augmentation: Augmentation, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    assert augmentation(x, torch.arange(5), seed=0, epoch=0) is x


@EVERY
@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 8, 0)])
def test_empty_batches(augmentation: Augmentation, shape: tuple[int, ...]) -> None:
    augmentation = dataclasses.replace(augmentation, padding="replicate")  # reflection refuses pictures of no width
    assert augmentation(torch.rand(shape), torch.arange(shape[0]), seed=0, epoch=0).shape == shape


@pytest.mark.parametrize("padding", MODES)
def test_pictures_of_one_pixel_stay(padding: Any) -> None:
    x, index = pictures(50, 3, 1, 1), torch.arange(50)
    for resize in (None, (1.0, 3.0), (0.1, 1.0)):
        augmentation = Augmentation(flip=True, padding=padding, resize=resize)
        assert torch.equal(augmentation(x, index, seed=0, epoch=0), x)
    assert torch.equal(Augmentation(pad=4)(x, index, seed=0, epoch=0), x)


def test_a_row_of_pixels() -> None:
    """1 x 6: shifted along its length only."""
    x = pictures(1, 2, 1, 6)
    augmentation = Augmentation(pad=1)
    found = augmentation(x.expand(100, -1, -1, -1), torch.arange(100), seed=0, epoch=0)
    expected = torch.stack([torch.from_numpy(cut(x[0].numpy(), 0, left, (1, 6), "replicate")) for left in (-1, 0, 1)])
    same = (found[:, None] == expected).flatten(2).all(dim=2)
    assert same.sum(dim=1).eq(1).all()
    assert same.any(dim=0).all()


def test_shifts_beyond_the_picture_show_its_edge() -> None:
    x = torch.tensor([[[[0.25, 0.75]]]]).expand(200, -1, -1, -1)
    found = Augmentation(pad=3)(x, torch.arange(200), seed=0, epoch=0)
    seen = {tuple(row) for row in found.flatten(1).tolist()}
    assert seen == {(0.25, 0.25), (0.25, 0.75), (0.75, 0.75)}


@pytest.mark.parametrize(("shape", "pad"), [((1, 1), 1), ((4, 9), 4), ((9, 4), 7)])
def test_reflection_needs_something_to_reflect(shape: tuple[int, int], pad: int) -> None:
    x, index = pictures(2, 1, *shape), torch.arange(2)
    with pytest.raises(InputError, match=rf"{shape[0]}x{shape[1]} .*{pad}"):
        Augmentation(pad=pad, padding="reflect")(x, index, seed=0, epoch=0)
    Augmentation(pad=min(shape) - 1, padding="reflect")(x, index, seed=0, epoch=0)


@pytest.mark.parametrize("augmentation", [Augmentation(flip=True), Augmentation()])
def test_batches_that_are_none(augmentation: Augmentation) -> None:
    """Also said where nothing would be done: a recipe that is changed later does not fail only then."""
    x, index = pictures(3, 1, 4, 4), torch.arange(3)
    with pytest.raises(InputError, match=r"not torch.uint8: divide bytes by 255"):
        augmentation((x * 255).to(torch.uint8), index, seed=0, epoch=0)
    for wrong in (index[:2], index[:, None], index.float(), index > 0, torch.tensor(1)):
        with pytest.raises(InputError, match="got 3 pictures and an index of shape"):
            augmentation(x, wrong, seed=0, epoch=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flip": "yes"}, "flip must be true or false, not 'yes'"),
        ({"flip": 1}, "flip must be true or false, not 1"),
        ({"pad": -1}, "pad must be a number of pixels, 0 or more, not -1"),
        ({"pad": 1.5}, "pad must be a number of pixels, 0 or more, not 1.5"),
        ({"pad": True}, "pad must be a number of pixels"),
        ({"crop": -1}, "crop must be a number of pixels, 0 or more, not -1"),
        ({"crop": 2.5}, "crop must be a number of pixels"),
        ({"padding": "reflet"}, "unknown padding 'reflet': did you mean 'reflect'"),
        ({"padding": None}, "unknown padding 'None': choose from reflect, replicate"),
        *(
            ({"resize": resize}, "resize must be a lowest and a highest factor above 0")
            for resize in (
                (1.2, 1.0), (0, 1), (-1.0, 1.0), (1.0,), (1.0, 1.1, 1.2), (math.nan, 1.0), (1.0, math.nan),
                (1.0, math.inf), ("1", "2"), (True, 2.0), 1.2, "1-2", (),
            )
        ),
    ],
)  # fmt: skip
def test_impossible_values(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Augmentation(**options)


def test_factors_may_come_from_a_file() -> None:
    """As a list of numbers: the same as the pair, and hashable."""
    written: Any = [1, 1.25]
    assert Augmentation(resize=written) == Augmentation(resize=(1.0, 1.25))
    assert hash(Augmentation(resize=written)) == hash(Augmentation(resize=(1.0, 1.25)))

"""JSRT: files in the published form, whole and broken; its regions, its augmentation and its score."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data import Streaming, open_dataset, open_streamed, splits
from advex.data.augmentation.affine import AffineAugmentation
from advex.data.images import decode
from advex.data.published.jsrt import grid, jsrt, picture, places, radiographs, regions_at
from advex.data.published.jsrt_tables import Radiograph
from advex.errors import AdvexError, DataError, InputError, SpecError
from advex.measures.candidates import candidates, false_positives, near, nodule_sensitivity
from advex.measures.intervals import wilson

NAN = math.nan

# As published: no header, tabs, remarks of one to four cells, "?" for what is not known, carriage returns alone.
NODULES = (
    "JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer",
    "JPCLN002.IMG\t1\t?\t?\tfemale\t300\t1200\tbenign\tr.lower lobe\t(S6)\ttuberculoma\t",
)
OTHERS = ("JPCNN001.IMG  54   male     non-nodule", "JPCNN002.IMG  ?  female   non-nodule")


def stored(seed: int) -> np.ndarray:
    """A radiograph of noise: no two places look alike."""
    return np.random.default_rng(seed).integers(0, 4096, (2048, 2048)).astype(np.uint16)


def write(root: Path, pictures: dict[str, bytes], nodules: str | bytes, others: str | bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (root / name).write_bytes(data)
    for name, text in (("CLNDAT_EN.txt", nodules), ("CNNDAT_EN.TXT", others)):
        (root / name).write_bytes(text.encode("latin-1") if isinstance(text, str) else text)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two radiographs with a nodule and two without, 8 MiB each."""
    names = ("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002")
    pictures = {f"{name}.IMG": stored(seed).astype(">u2").tobytes() for seed, name in enumerate(names)}
    return write(tmp_path_factory.mktemp("data") / "jsrt", pictures, "\r".join(NODULES) + "\r\r", "\r".join(OTHERS))


def linked(root: Path, whole: Path, nodules: str | bytes, others: str | bytes = "\n".join(OTHERS)) -> Path:
    """The same pictures under other tables."""
    root = write(root, {}, nodules, others)
    for path in whole.glob("*.IMG"):
        (root / path.name).symlink_to(path)
    return root


# -- tables --------------------------------------------------------------------------------------------------


def test_the_tables_as_published(whole: Path) -> None:
    first, second, third, fourth = radiographs(whole)
    assert first == Radiograph(
        name="JPCLN001",
        path=whole / "JPCLN001.IMG",
        nodule=(1634, 692),
        size=15.0,
        subtlety=5,
        malignant=True,
        age=53,
        sex="male",
        finding="l.upper lobe lung cancer",
    )
    assert first.radius == pytest.approx(7.5 / 0.175)
    assert (second.size, second.radius, second.age, second.malignant) == (None, 0.0, None, False)
    assert second.finding == "r.lower lobe (S6) tuberculoma"
    assert third == Radiograph(name="JPCNN001", path=whole / "JPCNN001.IMG", age=54, sex="male")
    assert (fourth.age, fourth.sex, fourth.nodule) == (None, "female", None)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("separator", ["\t", "   "])
def test_line_ends_and_separators_of_copies(tmp_path: Path, whole: Path, end: str, separator: str) -> None:
    text = end.join(line.replace("\t", separator) for line in NODULES) + end
    root = linked(tmp_path, whole, text, end.join(OTHERS) + end + end)
    found, expected = radiographs(root), radiographs(whole)
    assert [each.nodule for each in found] == [each.nodule for each in expected]
    assert [each.finding for each in found] == [each.finding for each in expected]


def test_text_in_latin_1_and_utf_8(tmp_path: Path, whole: Path) -> None:
    for encoding, name in (("latin-1", "a"), ("utf-8", "b"), ("utf-8-sig", "c")):
        root = linked(tmp_path / name, whole, (NODULES[0] + " Sjögren").encode(encoding))
        assert radiographs(root)[0].finding == "l.upper lobe lung cancer Sjögren"


def line(**change: str) -> str:
    cells = dict(
        zip(("name", "subtlety", "size", "age", "sex", "x", "y", "kind"), NODULES[0].split("\t"), strict=False)
    )
    return "\t".join({**cells, **change}.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"CLNDAT_EN\.txt is empty"),
        (NODULES[0] + "\r" + NODULES[1][:30], "line 2: .* cells; .* Is the line cut off"),
        (NODULES[0] + "\n" + NODULES[0], "line 2: JPCLN001 is listed twice"),
        (line(name="../secret.IMG"), "line 1: a line must begin with a file name"),
        (line(name="JPCLN001.png"), "must begin with a file name"),
        (line(subtlety="6"), "subtlety must be 1 to 5"),
        (line(subtlety="?"), "subtlety must be 1 to 5"),
        (line(size="-3"), "size of a nodule must be between"),
        (line(size="9e9"), "size of a nodule must be between"),
        (line(size="big"), "the size 'big' is not a number"),
        (line(age="nan"), "the age 'nan' is not a number"),
        (line(age="1.5"), "not a whole number"),
        (line(x="?"), "x and y of the nodule are missing"),
        (line(y="12,5"), "the y '12,5' is not a number"),
        (line(x="1" * 5000), "is not a number"),
        (line(kind="unclear"), "malignant or benign, not 'unclear'"),
        ("x" * 2_000_000, "larger than"),
    ],
)
def test_a_table_that_cannot_be_believed_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        radiographs(write(tmp_path, {}, text, OTHERS[0]))


def test_both_tables_are_needed(tmp_path: Path) -> None:
    write(tmp_path, {}, NODULES[0], OTHERS[0])
    (tmp_path / "CNNDAT_EN.TXT").unlink()
    with pytest.raises(DataError, match=r"contains no CNNDAT_EN\.TXT"):
        open_dataset(tmp_path)


# -- pictures ------------------------------------------------------------------------------------------------


def test_bytes_are_read_high_byte_first(whole: Path) -> None:
    pixels = picture(whole / "JPCLN001.IMG")
    assert (pixels.shape, pixels.dtype) == ((2048, 2048), np.uint16)
    assert np.array_equal(pixels, stored(0))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated: 0 bytes, but 2048 x 2048 numbers of 16 bits take 8,388,608"),
        (bytes(8_388_606), "truncated: 8,388,606 bytes"),
        (bytes(8_388_609), "too long: 8,388,609 bytes"),
        (bytes(9_000_000), "too long: 9,000,000 bytes"),
        (np.full(2048 * 2048, 100, dtype="<u2").tobytes(), "numbers up to 25600, but 12 bits end at 4095"),
    ],
)
def test_files_that_are_no_radiograph_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.IMG"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words):
        picture(path)


def test_files_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a file that can be opened"):
        picture(tmp_path)


# -- regions -------------------------------------------------------------------------------------------------


def test_regions_lie_where_they_are_asked_for() -> None:
    pixels = stored(3)
    centres = torch.tensor([[1000, 700], [5, 2040]])  # x from the left, y from the top
    found = regions_at(pixels, centres, side=64, scale="stored")
    assert (found.shape, found.dtype) == ((2, 1, 64, 64), torch.float32)
    assert np.array_equal(found[0, 0], (pixels[668:732, 968:1032] / 4095).astype(np.float32))
    around = np.pad(pixels, 64, mode="edge")[2040 + 32 : 2040 + 96, 5 + 32 : 5 + 96]  # beyond the edge, the edge
    assert np.array_equal(found[1, 0], (around / 4095).astype(np.float32))
    turned = regions_at(pixels, centres, side=64, scale="stored", invert=True)
    assert np.array_equal(turned[0, 0], (1 - pixels[668:732, 968:1032] / 4095).astype(np.float32))
    odd = regions_at(pixels, centres[:1], side=5, scale="stored")
    assert odd[0, 0, 2, 2] == np.float32(pixels[700, 1000] / 4095)


def test_standard_regions_reach_the_network_with_zero_mean_and_unit_variance() -> None:
    pixels = (stored(1) // 8 + np.arange(2048)[:, None] // 2).astype(np.uint16)
    x = regions_at(pixels, grid(512)[:6])
    seen: list[Tensor] = []

    class Look(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.flatten(1)[:, :2]

    Classifier(Look(), mean=0.5, std=0.125)(x)
    z = seen[0].double()
    assert z.mean(dim=(1, 2, 3)).abs().max() < 1e-6
    assert (z.var(dim=(1, 2, 3), unbiased=False) - 1).abs().max() < 1e-6
    # the values themselves, in float64
    region = pixels[:256, :256].astype(np.float64)
    assert np.abs(z[0, 0].numpy() - (region - region.mean()) / region.std()).max() < 1e-6


def test_standard_regions_stay_in_the_box_and_a_flat_one_is_grey() -> None:
    pixels = np.full((2048, 2048), 700, dtype=np.uint16)
    pixels[1000, 1000] = 4095
    x = regions_at(pixels, torch.tensor([[1000, 1000], [200, 200]]))
    assert (x[0].max(), x[0].min() < 0.5, x[1].min(), x[1].max()) == (1, True, 0.5, 0.5)
    assert regions_at(pixels, torch.tensor([[1000, 1000]]), invert=True).min() == 0


def test_regions_of_something_else_are_refused() -> None:
    with pytest.raises(InputError, match="integer centres"):
        regions_at(np.zeros((9, 9), dtype=np.uint16), torch.rand(3, 2))


@pytest.mark.parametrize(("stride", "side"), [(64, 256), (300, 256), (1, 2047), (500, 2048)])
def test_the_grid_covers_the_picture_and_stays_inside(stride: int, side: int) -> None:
    centres = grid(stride, side=side)
    starts = centres - side // 2
    assert (int(starts.min()), int(starts.max())) == (0, 2048 - side)
    columns = starts[:, 0].unique()
    assert len(columns) ** 2 == len(centres) == len(centres.unique(dim=0))
    assert len(columns) == 1 or columns.diff().max() <= stride
    with pytest.raises(SpecError, match="stride=0"):
        grid(0)


def test_places_of_a_nodule_fill_its_disc_and_others_the_picture() -> None:
    about = Radiograph(name="A", path=None, nodule=(1000, 400), size=35.0)  # a radius of 100 pixels
    centres = places(about, 4000, seed=1)
    away = (centres - torch.tensor([1000, 400])).double().norm(dim=1)
    assert away.max() <= 100.8  # whole pixels
    for share in (0.25, 0.5, 0.75):  # of a disc's area, within sqrt(share) of its radius; 4 sigma
        assert abs((away <= 100 * math.sqrt(share)).double().mean() - share) < 4 * math.sqrt(0.25 / 4000)
    assert torch.equal(places(about, 4000, seed=1)[:3], places(about, 3, seed=1))
    assert not torch.equal(places(about, 4000, seed=2), centres)
    unknown = Radiograph(name="A", path=None, nodule=(1000, 400))
    assert places(unknown, 3).tolist() == [[1000, 400]] * 3
    anywhere = places(Radiograph(name="B", path=None), 4000, side=256)
    assert (int(anywhere.min()), int(anywhere.max())) == (128, 1920)
    assert (anywhere.double().mean(dim=0) - 1024).abs().max() < 4 * 1792 / math.sqrt(12 * 4000)


# -- the data set --------------------------------------------------------------------------------------------


def test_the_data_set_is_regions_of_radiographs(whole: Path) -> None:
    assert splits(whole) == ("test", "train")
    found = {split: open_dataset(f"jsrt:root={whole},regions=3,test=0.5", split=split) for split in ("train", "test")}
    names = {split: {each.partition("/")[0] for each in data.ids} for split, data in found.items()}
    assert names["train"] | names["test"] == {"JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002"}
    assert not names["train"] & names["test"]
    about = {each.name: each for each in radiographs(whole)}
    for data in found.values():
        assert (data.shape, data.x.dtype, len(data)) == ((1, 256, 256), torch.float32, 6)
        assert data.class_names == ("no nodule", "nodule")
        assert data.class_counts == (3, 3)  # one radiograph of either kind
        for x, y, identity in zip(data.x, data.y, data.ids, strict=True):
            name, _, number = identity.partition("/")
            assert int(y) == int(name.startswith("JPCLN"))
            centre = places(about[name], 3)[int(number)][None]
            assert torch.equal(x, regions_at(picture(whole / f"{name}.IMG"), centre)[0])


def test_options_change_what_they_say(whole: Path) -> None:
    usual = open_dataset(whole, split="train")
    assert len(usual) == 16  # 4 regions of each, 20 % of two rounded down
    raw = open_dataset(f"jsrt:root={whole},scale=stored,invert=true,side=32", split="train")
    about = {each.name: each for each in radiographs(whole)}
    name, _, number = raw.ids[5].partition("/")
    centre = places(about[name], 4, side=32)[int(number)][None]
    expected = regions_at(picture(whole / f"{name}.IMG"), centre, side=32, scale="stored", invert=True)
    assert torch.equal(raw.x[5:6], expected)
    other = open_dataset(f"jsrt:root={whole},seed=1", split="train")
    assert (other.ids == usual.ids, torch.equal(other.x, usual.x)) == (True, False)
    sample = open_dataset(whole, split="train", max_samples=3, seed=2)
    rows = [usual.ids.index(each) for each in sample.ids]
    assert (sample.class_counts, torch.equal(sample.x, usual.x[rows])) == ((8, 8), True)


def test_what_cannot_be_read_is_named_with_its_reason(tmp_path: Path, whole: Path) -> None:
    lines = [
        *NODULES,
        line(name="JPCLN003.IMG"),
        line(name="JPCLN004.img"),
        line(name="JPCLN005.IMG", x="2048"),
    ]
    root = linked(tmp_path / "set", whole, "\r\n".join(lines))
    (root / "JPCLN004.IMG").write_bytes(bytes(1000))
    (root / "JPCLN005.IMG").symlink_to(whole / "JPCLN001.IMG")
    (root / "JPCLN999.IMG").write_bytes(b"")
    (root / "again").mkdir()
    (root / "again/JPCLN001.IMG").symlink_to(whole / "JPCLN001.IMG")
    data = open_dataset(f"jsrt:root={root},test=0.01,regions=1", split="train")
    assert data.ids == ("JPCLN001/0", "JPCLN002/0", "JPCNN001/0", "JPCNN002/0")
    assert [(each.name, each.reason.partition(":")[0]) for each in data.skipped] == [
        ("JPCLN003/0", "the file JPCLN003.IMG does not exist"),
        ("JPCLN004/0", "truncated"),
        ("JPCLN005/0", "its nodule lies outside the picture, at (2048, 692)"),
    ]
    assert data.notes == (
        "1 .IMG left out: not listed in a table (JPCLN999.IMG); 1 .IMG left out: another file has the same name "
        "(again/JPCLN001.IMG)",
    )


def test_streamed_regions_are_drawn_anew_in_each_epoch(tmp_path: Path, whole: Path) -> None:
    """Each is a window of its own radiograph, about a point of the nodule where there is one (its size: 15 mm)."""
    linked(tmp_path, whole, NODULES[0] + "\r", "\n".join(OTHERS))
    (tmp_path / "JPCNN002.IMG").unlink()
    (tmp_path / "JPCNN002.IMG").write_bytes(b"short")
    options = f"jsrt:root={tmp_path},regions=3,side=32,scale=stored,test=0.01"
    data, held = open_streamed(options, Streaming(), split="train"), open_dataset(options, split="train")
    assert data is not None
    assert (data.ids, data.skipped, data.shape) == (held.ids, held.skipped, held.shape)
    with decode.quiet():
        epochs = [data.pixels(torch.arange(6), seed=0, epoch=epoch) for epoch in range(3)]
    pixels = [stored(seed) for seed in (0, 2)]
    centres = []
    for regions in epochs:
        for row, region in enumerate(regions):
            of = pixels[row // 3]
            corner = np.rint(region[0, :2, :2].numpy() * 4095).astype(int)
            starts = np.argwhere(of == corner[0, 0])
            ((y, x),) = [(y, x) for y, x in starts if (of[y : y + 2, x : x + 2] == corner).all()]
            assert np.array_equal(np.rint(region[0].numpy() * 4095).astype(int), of[y : y + 32, x : x + 32])
            centres.append((row, x + 16, y + 16))
    assert len(set(centres)) == 18
    radius = 15 / 2 / 0.175
    assert all(math.hypot(x - 1634, y - 692) <= radius + 1 for row, x, y in centres if row < 3)
    assert any(math.hypot(x - 1634, y - 692) > radius for row, x, y in centres if row >= 3)


@pytest.mark.parametrize("options", ["regions=0", "side=4096", "test=1.0", "test=0", "scale=linear"])
def test_impossible_options_are_refused(whole: Path, options: str) -> None:
    with pytest.raises(SpecError, match=options.partition("=")[0]):
        open_dataset(f"jsrt:root={whole},{options}")


def test_a_missing_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVEX_DATA", raising=False)
    with pytest.raises(AdvexError, match=r"The folder of jsrt is not known"):
        open_dataset("jsrt")
    with pytest.raises(DataError, match="not a folder"):
        jsrt(root=str(tmp_path / "none"))


# -- augmentation --------------------------------------------------------------------------------------------

needs_kornia = pytest.mark.skipif(
    importlib.util.find_spec("kornia") is None, reason="kornia is not installed: run pip install -e '.[augment]'"
)


def test_without_kornia_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "kornia"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(SpecError, match=r"run pip install -e '\.\[augment\]'"):
        AffineAugmentation(erase=0)(torch.zeros(1, 1, 8, 8), torch.arange(1), seed=0, epoch=0)


def smooth(n: int, side: int, dtype: torch.dtype = torch.float64) -> Tensor:
    noise = np.random.default_rng(0).random((n, 1, side, side))
    blurred = scipy.ndimage.gaussian_filter(noise, (0, 0, 3, 3))
    low, high = blurred.min(), blurred.max()
    return torch.from_numpy((blurred - low) / (high - low)).to(dtype)


@needs_kornia
@pytest.mark.parametrize("window", [32, 96])  # in the second the edge's pixels are repeated
def test_the_change_against_its_formula(window: int) -> None:
    """Each pixel of the window, traced back by S^-1 R^-1 / s about the centre, in float64."""
    x, index = smooth(5, 96), torch.arange(5)
    change = AffineAugmentation(erase=0, window=window)
    moved = change(x, index, seed=3, epoch=2)
    drawn = change.draw(index, (window, window), seed=3, epoch=2)
    assert moved.shape == (5, 1, window, window)
    for row in range(5):
        turn, lean = math.radians(float(drawn.rotation[row])), math.radians(float(drawn.shear[row]))
        rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])  # y points down
        shear = np.array([[1, -math.tan(lean)], [0, 1]])
        back = np.linalg.inv(float(drawn.scale[row]) * rotate @ shear)  # of (x, y)
        back = back[::-1, ::-1]  # of (row, column), as SciPy counts
        offset: Any = 47.5 - back @ np.full(2, (window - 1) / 2)
        expected = scipy.ndimage.affine_transform(
            x[row, 0].numpy(),
            back,
            offset=offset,
            output_shape=(window, window),
            order=1,
            mode="nearest",
        )
        # the parameters are drawn in float32: 1e-7 of some 50 pixels, on slopes of some 0.1 per pixel
        assert np.abs(moved[row, 0].numpy() - expected).max() < 1e-5


@needs_kornia
def test_shift_and_perspective_against_their_formulas() -> None:
    """Each pixel traced back through the homography that takes the corners where they were drawn, and the shift."""
    x, index = smooth(5, 40)[:, :, :32], torch.arange(5)  # 32 rows, 40 columns
    still = {"rotation": 0.0, "shear": 0.0, "scale": (1.0, 1.0), "erase": 0}
    change = AffineAugmentation(**still, translate=0.1, perspective=0.3)
    moved, drawn = change(x, index, seed=3, epoch=2), change.draw(index, (32, 40), seed=3, epoch=2)
    whole = np.array([[0, 0], [39, 0], [39, 31], [0, 31]], dtype=float)
    assert drawn.shift.abs().amax(dim=0).tolist() <= [4, 3.2]
    inwards = (drawn.corners.double() - torch.from_numpy(whole)).abs()
    assert (inwards <= torch.tensor([0.15 * 39, 0.15 * 31])).all()
    assert inwards.amax(dim=(0, 1)).min() > 2
    columns, rows = np.meshgrid(np.arange(40.0), np.arange(32.0))
    for row in range(5):
        equations, right = [], []  # of the eight numbers of the homography back, the ninth is 1
        for (u, v), (a, b) in zip(drawn.corners[row].double().tolist(), whole.tolist(), strict=True):
            equations += [[u, v, 1, 0, 0, 0, -u * a, -v * a], [0, 0, 0, u, v, 1, -u * b, -v * b]]
            right += [a, b]
        back = np.append(np.linalg.solve(equations, right), 1).reshape(3, 3) @ [
            columns.ravel(),
            rows.ravel(),
            np.ones(1280),
        ]
        right_of, below = (back[:2] / back[2] - drawn.shift[row].double().numpy()[:, None]).reshape(2, 32, 40)
        expected = scipy.ndimage.map_coordinates(x[row, 0].numpy(), [below, right_of], order=1, mode="nearest")
        assert np.abs(moved[row, 0].numpy() - expected).max() < 1e-5


@needs_kornia
def test_without_changes_a_picture_stays_as_it_is_and_its_centre_is_cut() -> None:
    still = {"rotation": 0.0, "shear": 0.0, "scale": (1.0, 1.0), "erase": 0}
    x = smooth(3, 40)
    assert (AffineAugmentation(**still)(x, torch.arange(3), seed=0, epoch=0) - x).abs().max() < 1e-12
    cut = AffineAugmentation(**still, window=20)(x, torch.arange(3), seed=0, epoch=0)
    assert (cut - x[:, :, 10:30, 10:30]).abs().max() < 1e-12


@needs_kornia
def test_angles_factors_and_squares_fill_their_ranges() -> None:
    change = AffineAugmentation(erase=10)
    drawn = change.draw(torch.arange(4000), (32, 48), seed=0, epoch=0)
    for values, low, high in (
        (drawn.rotation, -45, 45),
        (drawn.shear, -30, 30),
        (drawn.scale, 0.61, 1.65),
    ):
        width = high - low
        assert low <= values.min() < low + 0.01 * width
        assert high - 0.01 * width < values.max() <= high
        assert abs(values.double().mean() - (low + high) / 2) < 4 * width / math.sqrt(12 * 4000)
    left, top, side = drawn.square.unbind(1)
    assert (int(side.min()), int(side.max())) == (0, 10)
    assert (int(left.min()), int(top.min()), int((left + side).max()), int((top + side).max())) == (0, 0, 48, 32)
    assert abs(drawn.white.double().mean() - 0.5) < 4 * math.sqrt(0.25 / 4000)


@needs_kornia
def test_a_square_is_erased_to_black_or_white() -> None:
    still = AffineAugmentation(rotation=0.0, shear=0.0, scale=(1.0, 1.0), erase=8)
    x = torch.full((64, 2, 20, 24), 0.5)
    index = torch.arange(64)
    changed = still(x, index, seed=1, epoch=0)
    drawn = still.draw(index, (20, 24), seed=1, epoch=0)
    for row, (left, top, side) in enumerate(drawn.square.tolist()):
        expected = torch.full((2, 20, 24), 0.5)
        expected[:, top : top + side, left : left + side] = float(drawn.white[row])
        assert torch.equal(changed[row], expected)
    assert {0.0, 0.5, 1.0} == set(changed.unique().tolist())


@needs_kornia
def test_windows_are_standardised_before_a_square_is_erased() -> None:
    x, index = smooth(6, 48, torch.float32), torch.arange(6)
    plain = AffineAugmentation(erase=0, window=24)
    erasing = AffineAugmentation(erase=8, window=24, standardise=True)
    moved = plain(x, index, seed=4, epoch=1)
    found = erasing(x, index, seed=4, epoch=1)
    for row in range(6):
        z = (moved[row] - moved[row].mean()) / moved[row].std(correction=0)
        expected = (0.5 + z / 8).clamp(0, 1)
        left, top, side = erasing.draw(index, (24, 24), seed=4, epoch=1).square[row].tolist()
        white = float(erasing.draw(index, (24, 24), seed=4, epoch=1).white[row])
        expected[:, top : top + side, left : left + side] = white
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-5)


@needs_kornia
def test_rows_do_not_depend_on_each_other_and_values_stay_in_the_box() -> None:
    x, index = smooth(6, 48, torch.float32), torch.tensor([5, 900, 7, 2**40, 0, 11])
    change = AffineAugmentation(erase=0, window=24)
    together = change(x, index, seed=4, epoch=1)
    alone = torch.cat([change(x[row : row + 1], index[row : row + 1], seed=4, epoch=1) for row in range(6)])
    assert torch.equal(together, alone)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(change(x[order], index[order], seed=4, epoch=1), together[order])
    assert torch.equal(change(x, index, seed=4, epoch=1), together)
    for seed, epoch in ((5, 1), (4, 2)):
        assert not torch.equal(change(x, index, seed=seed, epoch=epoch), together)
    assert together.min() >= x.min()
    assert together.max() <= x.max()
    assert change(x[:0], index[:0], seed=0, epoch=0).shape == (0, 1, 24, 24)


@needs_kornia
@pytest.mark.parametrize(
    "options", [{"rotation": -1.0}, {"shear": 90.0}, {"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"erase": -1}]
)
def test_impossible_changes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        AffineAugmentation(**options)


@needs_kornia
def test_pictures_that_do_not_fit_are_refused() -> None:
    index = torch.arange(1)
    with pytest.raises(InputError, match="too small for a window of 64x64"):
        AffineAugmentation(window=64)(torch.zeros(1, 1, 48, 48), index, seed=0, epoch=0)
    with pytest.raises(InputError, match="up to 64 pixels"):
        AffineAugmentation()(torch.zeros(1, 1, 48, 48), index, seed=0, epoch=0)
    with pytest.raises(InputError, match="in data space"):
        AffineAugmentation()(torch.zeros(1, 1, 80, 80, dtype=torch.uint8), index, seed=0, epoch=0)


# -- the score -----------------------------------------------------------------------------------------------


def slow_candidates(points: list[list[float]], scores: list[float], count: int, apart: float) -> list[list[float]]:
    chosen: list[list[float]] = []
    for _, point in sorted(zip(scores, points, strict=True), key=lambda pair: -pair[0]):
        if len(chosen) < count and all(math.dist(point, other) > apart for other in chosen):
            chosen.append(point)
    return chosen


def test_candidates_against_a_slow_replica() -> None:
    rng = np.random.default_rng(0)
    points = grid(128)
    for count, apart in ((5, 143.0), (5, 600.0), (3, 1.0), (40, 400.0)):
        scores = rng.random(len(points))
        found = candidates(points, torch.from_numpy(scores), count=count, apart=apart)
        expected = slow_candidates(points.tolist(), scores.tolist(), count, apart)
        assert found[: len(expected)].tolist() == expected
        assert torch.isnan(found[len(expected) :]).all()


def test_candidates_of_equal_scores_and_of_none() -> None:
    points = torch.tensor([[0, 0], [500, 0], [0, 500]])
    assert candidates(points, torch.zeros(3), count=2).tolist() == [[0, 0], [500, 0]]
    twice = torch.tensor([[3, 3], [3, 3]])
    assert candidates(twice, torch.zeros(2), count=2, apart=0).tolist() == [[3, 3], [3, 3]]
    assert torch.isnan(candidates(points[:0], torch.zeros(0))).all()
    for wrong in (torch.zeros(2), torch.tensor([0.0, NAN, 1.0])):
        with pytest.raises(InputError, match="one score for each"):
            candidates(points, wrong)


def test_a_nodule_is_found_within_143_pixels() -> None:
    nodule = torch.tensor([[1000, 1000]])
    for away, found in (([143, 0], True), ([144, 0], False), ([101, 101], True), ([102, 102], False)):
        assert near(nodule[:, None] + torch.tensor(away), nodule).tolist() == [[found]]
    assert round(25 / 0.175) == 143  # 2.5 cm


def test_the_score_by_hand() -> None:
    nodules = torch.tensor([[100.0, 100.0], [900.0, 900.0], [NAN, NAN], [500.0, 500.0]])
    away = [2000.0, 2000.0]
    points = torch.tensor(
        [
            [[100.0, 200.0], [100.0, 0.0], away],  # found twice, one false
            [[100.0, 100.0], away, [NAN, NAN]],  # not found, two false
            [away, [NAN, NAN], [NAN, NAN]],  # no nodule, one false
            [[500.0, 643.0], [NAN, NAN], [NAN, NAN]],  # found, none false
        ]
    )
    score = nodule_sensitivity(points, nodules)
    assert (score.value, score.n, score.better) == (2 / 3, 3, "high")
    assert (score.low, score.high) == wilson(2, 3)
    assert score.values.tolist()[:2] + score.values.tolist()[3:] == [1, 0, 1]
    assert math.isnan(score.values[2])
    wrong = false_positives(points, nodules)
    assert (wrong.values.tolist(), wrong.value, wrong.n) == ([1, 2, 1, 0], 1.0, 4)
    assert 0 <= wrong.low < 1 < wrong.high <= 2
    assert nodule_sensitivity(points, nodules, within=142).value == 1 / 3


def test_the_published_share_has_the_interval_of_154_nodules() -> None:
    """66 % of 154 nodules: the paper's figure, known to 8 points."""
    nodules = torch.full((247, 2), NAN)
    nodules[:154] = 1000
    points = torch.full((247, 5, 2), 10.0)
    points[:102, 4] = 1050
    score = nodule_sensitivity(points, nodules)
    assert (round(score.value, 2), score.n) == (0.66, 154)
    outside = scipy.stats.binomtest(102, 154).proportion_ci(method="wilson")
    assert (score.low, score.high) == pytest.approx((outside.low, outside.high), abs=1e-12)
    assert (round(score.low, 2), round(score.high, 2)) == (0.58, 0.73)
    assert false_positives(points, nodules).value == pytest.approx((247 * 5 - 102) / 247)


def test_a_score_of_nothing_and_of_too_much() -> None:
    nothing = nodule_sensitivity(torch.full((2, 5, 2), NAN), torch.full((2, 2), NAN))
    assert (math.isnan(nothing.value), nothing.n, nothing.low, nothing.high) == (True, 0, 0.0, 1.0)
    with pytest.raises(InputError, match="at most 5"):
        nodule_sensitivity(torch.zeros(2, 6, 2), torch.zeros(2, 2))
    for score in (nodule_sensitivity, false_positives):
        with pytest.raises(InputError, match=r"\[n, k, 2\]"):
            score(torch.zeros(2, 5), torch.zeros(2, 2))


def test_a_sliding_window_finds_a_bright_spot() -> None:
    """The whole way: windows, scores of something that sees brightness, candidates, score."""
    pixels = np.full((2048, 2048), 1000, dtype=np.uint16)
    pixels[600:700, 1400:1500] = 3000
    centres = grid(64)
    scores = torch.cat([regions_at(pixels, part, scale="stored").mean(dim=(1, 2, 3)) for part in centres.split(128)])
    points = candidates(centres, scores)[None]
    assert near(points, torch.tensor([[1450, 650]]))[0, 0]
    assert nodule_sensitivity(points, torch.tensor([[1450, 650]])).value == 1

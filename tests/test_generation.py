"""Pictures painted by a classifier: what seeds are, what is painted from them, and what the folder says of it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import advex
from advex import registry
from advex.classifier import Classifier
from advex.cli import main
from advex.data import Dataset
from advex.data.seeds import BUNDLED, ClassSeeds, bundled_seeds, seeds_of
from advex.errors import AdvexWarning, DataError, InputError, SpecError
from advex.explanation import explain_into
from advex.explanation.generation import GENERATED, GenerationRequest, recognised, seed_subjects, seeds_for
from advex.goals import Become
from advex.lookup.models import Opened

PAINTER = "--model builtin:cifar10-robust"
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def pictures(x: np.ndarray, y: list[int]) -> Dataset:
    names = tuple("abc"[: max(y) + 1])
    return Dataset(
        name="toy", x=torch.from_numpy(x), y=torch.tensor(y), class_names=names, ids=tuple(map(str, range(len(y))))
    )


def few(form: str = "bytes") -> tuple[Dataset, np.ndarray]:
    """Twelve dark and bright pictures of 2x2 in turn, the bright ones in [0.4, 0.6]; and the bright ones in [0, 1]."""
    values = np.random.default_rng(0).integers(102, 154, (12, 1, 2, 2)).astype(np.uint8)
    values[::2] = 0
    x = values if form == "bytes" else values.astype(np.float32) / 255
    return pictures(x, [0, 1] * 6), values[1::2].reshape(6, 4) / 255


@pytest.mark.parametrize("form", ["bytes", "floats"])
def test_seeds_have_the_mean_and_the_covariance_of_their_class(form: str) -> None:
    data, own = few(form)
    seeds = seeds_of(data, "b")
    drawn = np.stack([seeds.draw(k, seed=3).flatten().numpy() for k in range(20_000)]).astype(float)
    assert drawn.min() > 0
    assert drawn.max() < 1
    covariance = np.cov(own.T, bias=True)
    # Standard errors of a mean, and of the covariance of normal variables, from 20,000 draws.
    spread = np.sqrt(np.diag(covariance))
    assert np.abs(drawn.mean(axis=0) - own.mean(axis=0)).max() < 4 * spread.max() / 20_000**0.5
    assert np.abs(np.cov(drawn.T) - covariance).max() < 4 * 2**0.5 * spread.max() ** 2 / 20_000**0.5


def test_seeds_vary_as_their_class_does_and_in_no_other_direction() -> None:
    own = np.zeros((3, 1, 1, 3), np.uint8) + 128
    own[:, 0, 0, 0], own[:, 0, 0, 2] = [108, 128, 148], 7
    drawn = torch.stack([seeds_of(pictures(own, [0, 0, 0]), "a").draw(k, 0).flatten() for k in range(50)])
    np.testing.assert_allclose(drawn[:, 1:], np.array([[128, 7]] * 50) / 255, atol=1e-7)
    assert drawn[:, 0].std() > 0.01


def test_a_class_without_pictures_and_one_that_is_unknown() -> None:
    data, _ = few()
    with pytest.raises(SpecError, match="no class 'c': choose from a, b"):
        seeds_of(data, "c")
    with pytest.raises(DataError, match=r"no picture of class 'a' among the 2 pictures read \(--max-samples\)"):
        seeds_of(data.take(torch.tensor([1, 3])), "a")
    with pytest.raises(DataError, match="no pictures"):
        seeds_of(
            Dataset(name="t", x=torch.rand(2, 3), y=torch.tensor([0, 1]), class_names=("a", "b"), ids=("0", "1")), "a"
        )


def test_every_seed_that_fits_draws() -> None:
    data, _ = few()
    draws = [seeds_of(data, "b").draw(3, seed) for seed in (0, 2**44, 2**63 - 1)]
    assert not any(torch.equal(draws[0], other) for other in draws[1:])


def test_all_of_the_classes_is_all_whatever_else_is_named() -> None:
    data, _ = few()
    model = Classifier(torch.nn.Flatten(), class_names=data.class_names)
    assert seeds_for(["all", "b"], model, data)[1] == seeds_for(["all"], model, data)[1] == {"a": 0, "b": 1}


# -- those that are bundled ----------------------------------------------------------------------------------


def test_the_bundled_file_is_small_and_holds_numbers_alone() -> None:
    assert BUNDLED.stat().st_size <= 200_000
    with safe_open(BUNDLED, "pt") as file:
        assert set(file.keys()) == {"mean", "rows", "scale"}
        assert tuple(json.loads(file.metadata()["class_names"])) == CIFAR
        rows, scale = file.get_tensor("rows").double(), file.get_tensor("scale").double()
    # Eigenvectors times roots of eigenvalues, from the largest on; bytes are exact to 1 / 254 of the largest element.
    rows = rows.flatten(2)
    lengths = (rows.square().sum(dim=2).sqrt() * scale).numpy()
    assert (np.diff(lengths, axis=1) < 0.01 * lengths[:, 1:]).all()
    unit = rows / rows.norm(dim=2, keepdim=True)
    assert (unit @ unit.mT - torch.eye(rows.shape[1], dtype=torch.float64)).abs().max() < 0.03


@pytest.mark.data
def test_the_bundled_seeds_are_those_of_the_data() -> None:
    """Of two classes the mean of all pictures, at half the resolution, and the variance along each direction."""
    data = advex.open_dataset("cifar10", split="train")
    for name in ("horse", "ship"):
        own = data.take((data.y == CIFAR.index(name)).nonzero()[:, 0]).batch(slice(None)).x
        small = own.reshape(len(own), 3, 16, 2, 16, 2).mean(dim=(3, 5)).double()
        seeds = bundled_seeds(name, CIFAR, (3, 32, 32))
        with safe_open(BUNDLED, "pt") as file:
            mean, rows, scale = (file.get_tensor(key)[CIFAR.index(name)] for key in ("mean", "rows", "scale"))
        assert (mean / 255 - small.mean(dim=0)).abs().max() <= 0.5 / 255 + 1e-6
        assert (seeds.mean - own.mean(dim=0)).abs().max() < 0.05
        direction = rows.double().flatten(1) * scale[:, None]
        along = ((small - small.mean(dim=0)).flatten(1) @ direction.T / direction.norm(dim=1)).std(dim=0)
        np.testing.assert_allclose(along, direction.norm(dim=1), rtol=0.01)


@pytest.mark.parametrize(
    ("names", "shape"), [(None, (3, 32, 32)), (CIFAR[::-1], (3, 32, 32)), (CIFAR, (1, 28, 28)), (("a", "b"), None)]
)
def test_other_models_are_told_to_name_data(names: Any, shape: Any) -> None:
    with pytest.raises(SpecError, match="--data DATA"):
        bundled_seeds("horse", names, shape)


# -- painting ------------------------------------------------------------------------------------------------


def grey(count: int) -> dict[str, ClassSeeds]:
    rows = torch.randn(count, 1, 3, 4, generator=torch.Generator().manual_seed(5))
    mean = torch.full((1, 3, 4), 0.5)
    seeds = ClassSeeds(mean=mean, rows=rows, origin=0.0, scale=torch.full((count,), 0.01), source="toy", digest="d")
    return {"one": seeds}


def test_on_a_linear_classifier_the_picture_is_known(toys: Any, tmp_path: Path) -> None:
    """The class wins by most at the end of the ball, along the difference of its weights from the other's."""
    weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = Opened(name="a", source="a", classifier=toys.affine(weight, torch.zeros(2).double()))
    subjects = seed_subjects(grey(4), {"one": 1}, 3, seed=7)
    result = explain_into(tmp_path, model, subjects, GenerationRequest(radius=0.25, steps=20), figures=GENERATED)
    change = 0.25 * (weight[1] - weight[0]) / (weight[1] - weight[0]).norm()
    for subject, answer in zip(subjects, result["inputs"], strict=True):
        seed, picture = (
            np.asarray(Image.open(tmp_path / name)).ravel() / 255
            for name in (answer["picture"], answer["generated"]["picture"])
        )
        np.testing.assert_allclose(seed, subject.x.flatten(), atol=0.51 / 255)
        np.testing.assert_allclose(picture, subject.x.flatten() + change, atol=0.51 / 255 + 1e-4)
        margin = float((weight[1] - weight[0]) @ torch.from_numpy(picture))
        assert answer["generated"]["after"][1] == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-5)
        assert answer["generated"]["l2"] == pytest.approx(0.25, abs=1e-4)
        assert (answer["label"], answer["target"], answer["generated"]["doubts"]) == ("one", 1, [])


def test_a_picture_does_not_depend_on_its_company(toys: Any, tmp_path: Path) -> None:
    model = Opened(name="a", source="a", classifier=toys.affine(torch.randn(2, 12).double(), torch.zeros(2).double()))
    for folder, count in (("many", 5), ("few", 2)):
        subjects = seed_subjects(grey(9), {"one": 1}, count, seed=7)
        explain_into(tmp_path / folder, model, subjects, GenerationRequest(radius=0.5, steps=3))
    for name in ("one_1.png", "one_1.seed.png"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "few" / name).read_bytes()
    other = seed_subjects(grey(9), {"one": 1}, 2, seed=8)
    assert not torch.equal(other[1].x, seed_subjects(grey(9), {"one": 1}, 2, seed=7)[1].x)
    assert not torch.equal(other[1].x, other[0].x)


def test_a_model_that_does_not_name_its_classes(toys: Any, tmp_path: Path) -> None:
    """It takes the names of the data, and needs them even for all classes; those it has no output for are left out."""
    classifier = toys.affine(torch.randn(2, 12).double(), torch.zeros(2).double())
    with pytest.raises(SpecError, match="does not name its classes"):
        seeds_for(["all"], classifier)
    data = pictures(torch.rand(6, 1, 3, 4).numpy(), [0, 1, 2] * 2)
    seeds, numbers = seeds_for(["all"], classifier, data)
    assert (list(seeds), numbers) == (["a", "b", "c"], {"a": 0, "b": 1, "c": 2})
    model = Opened(name="m", source="m", classifier=classifier)
    with pytest.warns(AdvexWarning, match="The model has 2 classes, and 'c' is number 2"):
        result = explain_into(tmp_path, model, seed_subjects(seeds, numbers, 1, 0), GenerationRequest(radius=0.5))
    assert [each["label"] for each in result["inputs"]] == ["a", "b"]


def test_judges_are_asked_about_seed_and_picture(toys: Any, tmp_path: Path) -> None:
    """One that agrees with the painter, one that says the opposite, and one that always says the class."""
    weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    offset = -weight.sum(dim=1) / 2 + torch.tensor([0.3, 0.0])  # at grey the other class, by 0.3
    certain = torch.tensor([0.0, 9.0]).double()
    judges = [
        Opened(name=name, source=name, classifier=toys.affine(weights, at))
        for name, weights, at in (("same", weight, offset), ("not", -weight, -offset), ("always", 0 * weight, certain))
    ]
    seeds = {"1": grey(1)["one"]}
    request = GenerationRequest(radius=1.0, steps=20, judges=judges)
    result = explain_into(tmp_path, judges[0], seed_subjects(seeds, {"1": 1}, 3, seed=0), request)
    shares = recognised(result["inputs"])
    assert shares["same"] == {"of": 3, "pictures": 3, "seeds": 0}
    assert shares["not"] == {"of": 3, "pictures": 0, "seeds": 3}
    assert shares["always"] == {"of": 3, "pictures": 3, "seeds": 3}
    with Image.open(tmp_path / result["sheets"][0]) as sheet:
        assert sheet.width > 2 * sheet.height  # three pairs side by side, not below each other


def test_only_pictures_are_painted(toys: Any, tmp_path: Path) -> None:
    classifier = toys.affine(torch.ones(2, 12).double(), torch.zeros(2).double(), box=(-1, 1))
    model, subjects = Opened(name="a", source="a", classifier=classifier), seed_subjects(grey(1), {"one": 1}, 1, seed=0)
    with pytest.raises(InputError, match="not a picture"):
        explain_into(tmp_path / "a", model, subjects, GenerationRequest())


# -- the command ---------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["advex", "generate", *words, "-q"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_record_says_how_a_picture_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the record alone the picture is made again, to the byte."""
    options = "--model builtin:cifar10-robust --count 1 --steps 5 --radius 6 --json"
    words = ("horse", "2", *options.split())
    assert run(monkeypatch, tmp_path, *words) == 0
    said, record = json.loads(capfd.readouterr().out), json.loads((tmp_path / "generated" / GENERATED).read_text())
    assert said == record | {"recognised": said["recognised"]}
    assert set(said["recognised"]) == {"cifar10-ordinary", "cifar10-adversarial", "cifar10-lipschitz"}
    assert [each["label"] for each in record["inputs"]] == ["horse", "bird"]
    classifier = advex.load(record["source"])
    for answer in record["inputs"]:
        seeds = bundled_seeds(answer["label"], record["class_names"], None)
        assert record["seeds"][answer["label"]] == seeds.digest
        x = seeds.draw(0, record["seed"])[None]
        painted = registry.build("attack", record["search"])(classifier, x, Become(torch.tensor([answer["target"]])))
        assert 5.9 < float(painted.delta.norm()) < 6.001  # the box takes a little
        with Image.open(tmp_path / "generated" / answer["generated"]["picture"]) as picture:
            again = (255 * painted.adversarial[0]).round().permute(1, 2, 0)
            np.testing.assert_array_equal(np.asarray(picture), again)


def test_seeds_from_data_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Classes are those of the model, by name, whatever their order in the data."""
    for number, name in enumerate(("ship", "horse")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for copy in range(2):
            Image.new("RGB", (40, 32), (60 * number, 20 * copy, 200)).save(tmp_path / "mine" / name / f"{copy}.png")
    model = ("--model", "builtin:cifar10-ordinary", "--count", "1", "--steps", "1", "--judges", "none")
    assert run(monkeypatch, tmp_path, "horse", "--data", "mine", *model) == 0
    assert "others" not in capfd.readouterr().out
    record = json.loads((tmp_path / "generated" / GENERATED).read_text())
    (answer,) = record["inputs"]
    assert (answer["target"], answer["note"]) == (7, "2 pictures of class 'horse' of mine")
    with Image.open(tmp_path / "generated" / answer["picture"]) as seed:
        red, green, blue = np.asarray(seed).transpose(2, 0, 1)
    assert (red == 60).all()
    assert (blue == 200).all()
    assert (green == green[0, 0]).all()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("horse",), 2, "--model RUN"),
        (("hrse", "--model", "builtin:cifar10-robust"), 2, "did you mean 'horse'"),
        (("horse", "--model", "builtin:planted"), 2, "There is no class 'horse'"),
        (("0", "--model", "builtin:planted"), 2, "Give data with pictures"),
        (("horse", "--model", "builtin:cifar10-robust,builtin:cifar10-ordinary"), 2, "Only one model can generate"),
        (("horse", "--model", "builtin:cifar10-robust", "--radius", "0"), 2, "--radius 0"),
        (("horse", "--model", "builtin:cifar10-robust", "--radius", "far"), 2, "far"),
        (("horse", "--model", "builtin:cifar10-robust", "--radius", "56"), 1, "at most 55.43 apart in L2"),
        (("horse", "--model", "builtin:cifar10-robust", "--count", "0"), 2, "--count"),
        (("horse", "--model", "builtin:cifar10-robust", "--judges", "no"), 2, "no is not a folder"),
        (
            ("horse", *f"{PAINTER} --judges builtin:cifar10-robust".split()),
            2,
            "is the model that generates the pictures",
        ),
        (("horse", *f"{PAINTER} --judges builtin:photos-robust".split()), 2, "takes inputs of shape (3, 64, 64)"),
        (("horse", *f"{PAINTER} --judges builtin:planted".split()), 2, "planted has no class 'horse'"),
        (("horse", *PAINTER.split(), "--judges", ""), 2, "empty name"),
        (
            ("horse", *f"{PAINTER} --judges builtin:cifar10-ordinary,builtin:cifar10-ordinary".split()),
            2,
            "cifar10-ordinary-2 is the same network as cifar10-ordinary, and counts once: name it once",
        ),
        (("all", "unicorn", *PAINTER.split()), 2, "unicorn"),
        (("horse", *PAINTER.split(), "--seed", "99999999999999999999"), 2, "--seed: it must be at most"),
        (("horse", *PAINTER.split(), "--data", "~nobody-of-this-name/x"), 2, "There is no data set"),
        (("horse", "--model", "builtin:cifar10-robust", "--data", "digits"), 2, "has no class 'horse'"),
    ],
)
def test_what_cannot_be_painted_is_said(
    words: tuple[str, ...], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(monkeypatch, tmp_path, *words) == code
    assert said in capfd.readouterr().err
    assert not (tmp_path / "generated").exists()


def test_the_example_of_the_page_runs(capfd: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "generation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "generation.md", "exec"), {})  # noqa: S102
    assert capfd.readouterr().out == "torch.Size([4, 3, 32, 32]) tensor([True, True, True, True])\n"

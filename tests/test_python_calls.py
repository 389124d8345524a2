"""What people pass to the Python functions by mistake, or in another form: taken as it is meant, or a sentence."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import advex
from advex import registry
from advex.attacks import Minimal
from advex.data import Dataset
from advex.errors import AdvexError, ArtifactError, DataError, InputError, SpecError
from advex.evaluation.folder import examples
from advex.explainers import Gradient, SmoothGrad, Toward
from advex.goals import Misclassify
from advex.lookup.models import Opened
from advex.types import Batch

MODEL = "builtin:cifar10-robust"
NET = nn.Linear(3, 2)
make, load, open_dataset = cast("Any", advex.Classifier), cast("Any", advex.load), cast("Any", advex.open_dataset)
explain, evaluate, train = cast("Any", advex.explain), cast("Any", advex.evaluate), cast("Any", advex.train)
from_pretrained = cast("Any", advex.from_pretrained)
ROW, PICTURE = torch.rand(1, 3), np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: load(make(NET)), InputError, "needs the folder of a saved classifier, .*, not Classifier"),
        (lambda: load(None), InputError, "not NoneType"),
        (lambda: make(nn.Linear), InputError, r"not the class Linear: Linear\(\.\.\.\) is one"),
        (lambda: make(len), InputError, r"a spec string, not <built-in function len>: Classifier\.from_function"),
        (lambda: make(NET, box=255), InputError, r"must be \(lower, upper\), such as .*, not 255"),
        (lambda: make(NET, box=(0, 1, 2)), InputError, r"must be \(lower, upper\), such as .*, not \(0, 1, 2\)"),
        (lambda: make(NET, box=(0, "white")), InputError, "upper must be a number, or a list of numbers, not 'white'"),
        (lambda: make(NET, mean="imagenet"), InputError, "mean must be a number, or a list of numbers"),
        (lambda: make.from_function(len, classes=2, box=1), InputError, r"must be \(lower, upper\)"),
        (lambda: make(NET, classes=["a"]), SpecError, "Classifier has no option 'classes': it is called 'class_names'"),
        (lambda: make(NET, bounds=(0, 1)), SpecError, "Classifier has no option 'bounds': it is called 'box' here"),
        (lambda: make(NET, preprocessing=(0, 1)), SpecError, r"'preprocessing': give mean=\.\.\. and std=\.\.\."),
        (lambda: make.from_function(len, bounds=(0, 1)), SpecError, "from_function has no option 'bounds'"),
        (lambda: open_dataset("digits", n=3), SpecError, "open_dataset has no option 'n': it is called 'max_samples'"),
        (lambda: open_dataset("digits", "test"), SpecError, r"open_dataset\(source, .*: all else is given by name"),
        (lambda: open_dataset("digits", split=0), SpecError, "split=0 must be the name of a split"),
        (lambda: open_dataset("digits", max_samples="5"), SpecError, "must be whole numbers, not '5'"),
        (lambda: open_dataset(None), SpecError, "What advex.open_dataset opens must be a name or a path, not NoneType"),
        (open_dataset, SpecError, r"open_dataset\(source, \.\.\.\): 'source' is missing"),
        (lambda: load(MODEL, map_location="cpu"), SpecError, "'map_location': it is called 'device'"),
        (lambda: from_pretrained(None), SpecError, "must be a name or a path, not NoneType"),
        (lambda: explain(MODEL, PICTURE, pictures=PICTURE), SpecError, "'pictures' is given twice"),
        (lambda: explain(MODEL, PICTURE, out=5), SpecError, "out must be a name or a path, not int"),
        (lambda: explain(MODEL, PICTURE, device="cpu"), SpecError, r"a classifier is asked where it is, model\.to"),
        (lambda: explain(MODEL, PICTURE, target="true"), SpecError, "the class of input 0 is not known"),
        (lambda: train(None, "digits"), SpecError, "The recipe, .*, must be a name or a path, not NoneType"),
        (lambda: evaluate(MODEL, PICTURE), SpecError, r"not ndarray\. .*\.TensorDataset\(x, y\) is one"),
        (lambda: evaluate(MODEL, "digits", attack=Minimal), SpecError, r"Minimal is a class: .* such as Minimal\(\)"),
        (lambda: evaluate(MODEL, "digits", radius=0.1), SpecError, "'0.1' has no norm: write NORM:RADIUS"),
        (lambda: advex.write_report(cast("Any", NET)), SpecError, "report must be a name or a path, not Linear"),
        (lambda: make(NET.state_dict()), InputError, "needs a network, not its weights: network.load_state_dict"),
        (lambda: make(nn.LazyLinear(2)), InputError, "'weight' has no values yet: call a network with lazy"),
        (lambda: make(nn.Linear(3, 2, device="meta")), InputError, "'weight' has no values yet: .* 'meta'"),
        (lambda: make(MODEL), SpecError, r"advex\.load\('builtin:cifar10-robust'\) opens a saved one"),
        (lambda: make(NET, (0, 1)), SpecError, r"Classifier\(network, \.\.\.\): all else is given by name"),
        (lambda: make(NET, class_names=2), InputError, "class_names must be a list, one name per output .*, not 2"),
        (lambda: make(NET, class_names="ab"), InputError, "class_names must be a list, .*, not 'ab'"),
        (lambda: make(NET, class_names={0: "a"}), InputError, r"such as list\(NAMES\.values\(\)\) of a dictionary"),
        (lambda: make(NET, logits="logits"), InputError, r"such as lambda output: output\['logits'\], not 'logits'"),
        (lambda: make(NET, logits=lambda y: y["z"])(ROW), InputError, "cannot be asked of the Tensor that the network"),
        (lambda: make(NET).predict(ROW.numpy()), InputError, "Inputs must be tensors"),
        (lambda: make(NET).predict(ROW, max_batch=0), InputError, "max_batch must be at least 1, not 0"),
        (lambda: cast("Any", Gradient())(make(NET), ROW), InputError, "Gradient needs the class to explain"),
        (lambda: registry.build("network", "mynet:make"), SpecError, "There is no network 'mynet'"),
        (lambda: registry.build("attack", "PGD"), SpecError, "There is no attack 'PGD': did you mean 'pgd'"),
        (lambda: Dataset(x=ROW, y=cast("Any", [0]), name="d", class_names=("a",), ids=("0",)), DataError, "be tensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(call: Callable[[], Any], kind: type[AdvexError], said: str) -> None:
    with pytest.raises(kind, match=said):
        call()


def test_an_empty_box_is_told_as_it_was_given() -> None:
    with pytest.raises(InputError, match=r"The box is empty: lower 1, upper 0\."):
        make(NET, box=(1, 0))
    assert torch.equal(make(NET, box=(torch.zeros(3), [1, 2, 3])).upper, torch.tensor([1.0, 2.0, 3.0]))


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Four pictures of the sample."""
    return advex.open_dataset("cifar10-sample").take(slice(0, 4))


def confidences(pictures: Any) -> list[Any]:
    """What the model answers about pictures as they are given."""
    return [each["confidences"] for each in advex.explain(MODEL, pictures, explainer="gradient", quiet=True)]


def test_bytes_of_any_size_and_order_are_the_same_picture() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    planes, held = np.ascontiguousarray(colour.transpose(2, 0, 1)), io.BytesIO()
    Image.fromarray(colour).save(held, "PNG")
    (expected,) = confidences(Image.fromarray(colour))
    for given in (colour, planes, torch.from_numpy(planes), torch.from_numpy(colour), planes[None], held.getvalue()):
        assert confidences(given) == [expected]
    assert confidences([held.getvalue()] * 2) == [expected] * 2
    grey = colour[..., :1]
    (expected,) = confidences(Image.fromarray(grey[..., 0]))
    for given in (grey, grey[..., 0], grey[None], grey.transpose(2, 0, 1)):
        assert confidences(given) == [expected]


def test_what_has_derivatives_is_explained_without_them(data: Dataset) -> None:
    x = data.batch(slice(0, 1)).x
    assert confidences(x.clone().requires_grad_()) == confidences(x)
    assert confidences(Batch(x=x.clone().requires_grad_(), y=data.y[:1])) == confidences(x)


@pytest.mark.parametrize(
    "target", [3, np.int64(3), torch.tensor(3), torch.tensor([3]), [np.uint8(3)], np.array(["cat"])]
)
def test_numbers_of_other_libraries_name_classes(data: Dataset, target: Any) -> None:
    (answer,) = advex.explain(MODEL, data[0][0], target=target, explainer="gradient", quiet=True)
    assert [each["target_name"] for each in answer["maps"]] == ["cat"]


def test_none_is_the_default(data: Dataset) -> None:
    (answer,) = advex.explain(MODEL, data[0][0], target=None, explainer=None, steps=1, quiet=True)
    assert len(answer["explanations"]) == 2


def test_things_stand_for_their_specs(data: Dataset, tmp_path: Path) -> None:
    for given in (SmoothGrad(samples=2), [SmoothGrad(samples=2)]):
        explained = advex.explain(MODEL, data[0][0], explainer=given, quiet=True)
        assert list(explained.answers["explainers"]) == ["smooth_grad"]
    settings: Any = {"attack": Minimal(gradients=3), "btr": None, "pictures": Toward(steps=1), "maps": [Gradient()]}
    evaluated = advex.evaluate(
        MODEL, data, out=tmp_path / "r", quiet=True, explanations=1, recheck=0, sweep=0, **settings
    )
    assert "attack ARA " in str(evaluated)
    assert "attack ARA " in evaluated._repr_html_()


def test_sizes_are_read_as_radii_are(data: Dataset) -> None:
    rho: Any = ["8/255", "0.1", np.float32(0.5)]
    explained = advex.explain(MODEL, data[0][0], target=3, rho=rho, steps=1, quiet=True)
    assert [each["rho"] for each in explained[0]["explanations"]] == pytest.approx([8 / 255, 0.1, 0.5])


def test_a_result_without_its_files_says_so(data: Dataset, tmp_path: Path) -> None:
    explained = advex.explain(MODEL, data[0][0], target=3, steps=1, quiet=True)
    evaluated = advex.evaluate(
        MODEL, data, out=tmp_path / "r", quiet=True, attack="minimal:gradients=3", btr=None, explanations=0, recheck=0
    )
    for result in (explained, evaluated):
        result.save(tmp_path / "kept")
        with pytest.raises(SpecError, match=r"kept is not empty .* choose another folder\.$"):
            result.save(tmp_path / "kept")
        (tmp_path / "a.txt").touch()
        with pytest.raises(SpecError, match=r"a\.txt is a file: choose another folder"):
            result.save(tmp_path / "a.txt")
        shutil.rmtree(result.folder)
        with pytest.raises(ArtifactError, match="was moved or deleted"):
            result.save(tmp_path / "new")
        with pytest.raises(ArtifactError, match="was moved or deleted"):
            result.plot()
        assert not (tmp_path / "new").exists()
        shutil.rmtree(tmp_path / "kept")
    with pytest.raises(ArtifactError, match="was moved or deleted"):
        _ = explained.sheets
    with pytest.raises(ArtifactError, match="was moved or deleted"):
        evaluated.report()
    assert explained._repr_html_().startswith("<ul><li>")


EMPTY = np.zeros((0, 0, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (EMPTY, "the tensor is empty"),
        ([EMPTY], "the tensor is empty"),
        (Image.new("RGB", (0, 0)), "the picture is empty"),
        (b"no picture", "input 0 cannot be read as a picture"),
        ((each for each in [EMPTY]), "A generator yields its pictures only once"),
        (io.BytesIO(), "BytesIO cannot be explained"),
        ("https://x.org/a.png", r"https://x\.org/a\.png is a URL: download it first"),
        ([Path("http://x.org/a.png")], r"http://x\.org/a\.png is a URL: download it first"),
    ],
)
def test_pictures_that_are_none_are_told(given: Any, said: str) -> None:
    with pytest.raises(AdvexError, match=said):
        advex.explain(MODEL, given, quiet=True)


def test_options_of_explain_that_cannot_be_are_told(data: Dataset) -> None:
    def explain(**options: Any) -> None:
        advex.explain(MODEL, data[0][0], quiet=True, **options)

    with pytest.raises(SpecError, match=r"explainer=3 is not an explainer: give a spec string"):
        explain(explainer=3)
    with pytest.raises(SpecError, match=r"Gradient is a class: give an object of it, such as Gradient\(\)"):
        explain(explainer=Gradient)
    for rho in (None, "large", [0.1, 2], "1/0"):
        with pytest.raises(SpecError, match="an RMSE must be above 0"):
            explain(rho=rho)


def test_labels_that_are_no_numbers_of_classes_are_told() -> None:
    with pytest.raises(InputError, match=r"one class index per input, .* for 1 inputs: got torch\.float32"):
        Misclassify(torch.zeros(1))(make(NET), torch.rand(1, 3))
    with pytest.raises(InputError, match=r"2 outputs for 1 class name\."):
        make(NET, class_names=["a"])(torch.rand(1, 3))


def test_examples_are_chosen_in_every_usual_way(data: Dataset) -> None:
    mask = np.arange(4) > 0
    for places in ([1, 2], (1, -2), np.array([1, 2]), torch.tensor([1, 2]), range(1, 3), mask, torch.from_numpy(mask)):
        chosen = data[places]
        numbers = mask.nonzero()[0].tolist() if len(places) == 4 else [int(place) % 4 for place in places]
        assert chosen.ids == tuple(data.ids[number] for number in numbers) == data.take(places).ids
        assert torch.equal(chosen.x, data.x[numbers])
        assert torch.equal(chosen.y, data.y[numbers])
        assert chosen.class_counts == data.class_counts
    assert len(data[[]]) == 0
    for number in (np.int64(1), torch.tensor(1)):
        assert torch.equal(data[cast("Any", number)][0], data[1][0])


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("x", r"are chosen by a whole number, a list of these, a slice or a mask \[4\], not 'x'"),
        (1.5, "not 1.5"),
        (None, "not None"),
        (torch.tensor(1.5), "not a Tensor of other things"),
        ([1, "x"], "not a list of other things"),
        ([[1, 2]], "not a list of other things"),
        ([0.5], "not a list of other things"),
        ([True, False], "has 4 examples, but the mask has 2"),
        ([1, 4], "has 4 examples, 0 to 3, not 4"),
    ],
)
def test_examples_that_cannot_be_chosen_are_told(data: Dataset, place: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        _ = data[place]


def test_several_examples_are_no_number_of_them(data: Dataset) -> None:
    for choose in (data.take, data.batch):
        with pytest.raises(SpecError, match=r"\[3\] is one, slice\(0, 3\) the first ones"):
            choose(cast("Any", 3))


def test_classes_in_another_order_are_the_same_classes(data: Dataset, tmp_path: Path) -> None:
    turned = replace(data, class_names=data.class_names[::-1], y=9 - data.y)
    first, again = (
        advex.evaluate(
            MODEL, each, out=tmp_path / str(number), quiet=True, attack=None, btr=None, explanations=0, recheck=0
        )
        for number, each in enumerate((data, turned))
    )
    assert str(first) == str(again)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    models = [make(network, class_names=names) for names in (data.class_names, data.class_names[::-1])]
    with pytest.raises(SpecError, match="know the same classes in different orders"):
        advex.evaluate(models, data, out=tmp_path / "both", quiet=True, attack=None, btr=None, explanations=0)


def test_pictures_in_folders_have_their_classes_in_the_order_of_the_model(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(PICTURE).save(tmp_path / name / "a.png")
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    classifier = make(network, class_names=("dog", "cat"))
    model = Opened(name="m", source="m", classifier=classifier)
    data = examples([model], str(tmp_path))
    assert [data.class_names[y] for y in data.y] == [id.split("/")[0] for id in data.ids]
    assert data.class_names == ("dog", "cat")


def test_paths_in_an_array_are_paths(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert confidences(np.array([str(tmp_path / "a.png")])) == confidences(Image.fromarray(PICTURE))

"""The verbs from Python: what may be given, what comes back, and sentences for what cannot be."""

from __future__ import annotations

import gc
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import advex
from advex.attacks import PGD
from advex.data import Dataset
from advex.errors import AdvexError
from advex.evaluation import evaluate as evaluate_directly
from advex.evaluation import settings_from
from advex.explainers import Gradient, Toward
from advex.goals import Become, Misclassify

MODEL = "builtin:cifar10-robust"


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Four pictures of the sample."""
    return advex.open_dataset("cifar10-sample").take(slice(0, 4))


def as_array(x: torch.Tensor) -> np.ndarray:
    """[height, width, 3] uint8."""
    return (x.permute(1, 2, 0) * 255).round().byte().numpy()


def test_one_picture_is_explained_alike_however_it_is_given(data: Dataset, tmp_path: Path) -> None:
    x = data.batch(slice(0, 1)).x
    array = as_array(x[0])
    Image.fromarray(array).save(tmp_path / "a.png")
    clf = advex.load(MODEL)
    expected = Toward(steps=3)(clf, x, torch.tensor([5])).after[0]  # pyright: ignore[reportOptionalSubscript]
    given: dict[str, Any] = {
        "path": tmp_path / "a.png", "text": str(tmp_path / "a.png"), "folder": tmp_path, "PIL": Image.fromarray(array),
        "array": array, "tensor": x[0], "batch of tensors": x, "list": [array], "data": data.take(slice(0, 1)),
        "batch": data.batch(slice(0, 1)),
    }  # fmt: skip
    for how, pictures in given.items():
        for model in (MODEL, clf) if how != "folder" else (MODEL,):
            explained = advex.explain(model, pictures, target="dog", steps=3, quiet=True)
            assert len(explained) == 1
            (answer,) = explained[0]["explanations"]
            assert answer["target_name"] == "dog"
            torch.testing.assert_close(torch.tensor(answer["after"]), expected, atol=1e-5, rtol=0, msg=how)


def test_a_larger_picture_is_cut_as_a_file_is(data: Dataset, tmp_path: Path) -> None:
    large = Image.fromarray(as_array(data.batch(slice(0, 1)).x[0])).resize((100, 80))
    large.save(tmp_path / "large.png")
    (in_memory,) = advex.explain(MODEL, large, target=5, steps=2, quiet=True)
    (in_file,) = advex.explain(MODEL, tmp_path / "large.png", target="dog", steps=2, quiet=True)
    assert in_memory["confidences"] == in_file["confidences"]
    assert in_memory["note"] == in_file["note"] == "100x80 pixels scaled to cover 32x32, the centre cut out"


def test_explanations_show_and_are_kept(data: Dataset, tmp_path: Path) -> None:
    explained = advex.explain(MODEL, data, target="runner-up", steps=2, quiet=True)
    lines = explained.lines()
    assert len(lines) == 4
    before, after = (explained[1]["explanations"][0][key] for key in ("before", "after"))
    target = explained[1]["explanations"][0]["target"]
    assert re.search(rf"{100 * before[target]:.1f}.% -> {100 * after[target]:.1f}.%$", lines[1])
    (first,) = explained[0]["explanations"]
    shares = " -> ".join(f"{100 * first[key][first['target']]:.0f}.%" for key in ("before", "after"))
    change = f"{explained[0]['says']} -> {first['target_name']}"
    assert re.fullmatch(rf"Explained\(toward, 4 pictures 3x32x32: {change} {shares}, \.\.\.\)", repr(explained))
    assert explained._repr_html_().count("data:image/png;base64,") == len(explained.sheets) == 1
    drawn = explained.plot().images[0].get_array()
    assert np.array_equal(np.asarray(drawn), np.asarray(explained.sheets[0]))
    with pytest.raises(AdvexError, match="1 sheets, counted from 0"):
        explained.plot(sheet=1)
    kept = explained.save(tmp_path / "kept")
    assert json.loads((kept / "explanations.json").read_text()) == explained.answers
    for answer in explained:
        assert (kept / answer["explanations"][0]["picture"]).is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(AdvexError, match="is not empty"):
        explained.save(tmp_path / "other")
    place = explained.folder
    assert place.is_dir()
    del explained, answer
    gc.collect()
    assert not place.exists()  # it lasts as long as the result
    maps = advex.explain(MODEL, data, explainer=["gradient", "grad_cam"], quiet=True)
    assert "gradient of " in maps.lines()[0]
    assert re.fullmatch(r"Explained\(gradient, grad_cam, 4 pictures 3x32x32: \w+, Gini 0\.\d+, \.\.\.\)", repr(maps))
    assert len(maps[0]["maps"]) == 2


def test_an_evaluation_is_that_of_the_library(data: Dataset, tmp_path: Path) -> None:
    clf = advex.load(MODEL)
    settings: dict[str, Any] = {
        "attack": "minimal:gradients=5", "btr": None, "explanations": 1, "steps": 3, "recheck": 0,
    }  # fmt: skip
    compared = advex.compare(
        {"a": clf, "b": "builtin:cifar10-ordinary"}, data, out=tmp_path / "r", quiet=True, **settings
    )
    direct = evaluate_directly(
        [("a", "a", clf), ("b", "b", advex.load("builtin:cifar10-ordinary"))], data, tmp_path / "direct",
        settings_from(settings),
    )  # fmt: skip
    for entry in direct.models:
        assert compared[entry.name]["attack_ara"] == entry.scores["attack_ara"]
    assert compared.record.command == "advex.evaluate(...) from Python"
    assert (tmp_path / "r" / "report.html").is_file()
    assert "b: accuracy " in str(compared)
    assert compared._repr_html_().count("<tr>") == 2
    assert list(compared) == ["a", "b"]
    ax = compared.plot()
    for line, model in zip(
        ax.lines, compared, strict=False
    ):  # the curve's area above chance is the ARA that was measured
        x, y = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
        area = float((np.diff(x) * np.clip(y[:-1] - compared.record.data.chance, 0, None)).sum())
        assert area == pytest.approx(compared[model]["attack_ara"].value, rel=1e-6)
    assert (compared.save(tmp_path / "copy") / "record.json").read_bytes() == (
        tmp_path / "r" / "record.json"
    ).read_bytes()
    with pytest.raises(AdvexError, match="no search 'pgd'"):
        compared.plot(search="pgd")
    assert advex.write_report(compared, tmp_path / "page.html").read_bytes() == compared.report().read_bytes()
    again = advex.evaluate(
        {"a": clf, "b": "builtin:cifar10-ordinary"}, data, out=tmp_path / "r", quiet=True, **settings
    )
    assert again["a"] == compared["a"]


def test_a_table_answers_in_sentences(tmp_path: Path) -> None:
    rows = [f"{age},{age % 7},{'yes' if age > 40 else 'no'}" for age in range(20, 61)]
    (tmp_path / "loans.csv").write_text("\n".join(["age,children,accepted", *rows]) + "\n")
    clf = advex.train("mushroom-ordinary", tmp_path / "loans.csv", "epochs=2", out=tmp_path / "run", quiet=True)
    assert clf.class_names == ("no", "yes")
    (tmp_path / "row.csv").write_text("age,children\n30,2\n")
    explained = advex.explain(clf, tmp_path / "row.csv", quiet=True)
    assert explained.sheets == []
    assert repr(explained).startswith(f"Explained(counterfactual, 1 row: {explained.lines()[0].partition(': ')[2]}")
    assert explained._repr_html_().startswith("<ul><li>")


def test_a_tensor_whose_gradient_is_wanted_is_explained_as_any_other(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = [advex.explain(MODEL, each, steps=2, quiet=True) for each in (x, x.clone().requires_grad_())]
    assert made[0].to_pandas().equals(made[1].to_pandas())


def test_a_run_is_trained_and_opened(tmp_path: Path) -> None:
    clf = advex.train("digits-ordinary", "digits", "epochs=1", out=tmp_path / "run", quiet=True)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(clf.predict(x), advex.load(tmp_path / "run").predict(x))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: advex.explain(cast("Any", torch.nn.Linear(2, 2)), "a.png"),
            r"wrap it with advex\.Classifier\(network",
        ),
        (lambda: advex.explain(MODEL, object()), "object cannot be explained: pass paths"),
        (lambda: advex.explain(MODEL, []), "the list is empty"),
        (lambda: advex.explain(MODEL, torch.zeros(0, 3, 32, 32)), "the tensor is empty"),
        (lambda: advex.explain(MODEL, np.zeros((0, 32, 32, 3), np.uint8)), "the tensor is empty"),
        (lambda: advex.explain(MODEL, np.zeros((0, 0, 3), np.uint8)), r"the tensor is empty, of shape \[0, 0, 3\]"),
        (lambda: cast("Any", advex.evaluate)(MODEL, images="digits"), "no setting 'images': it is called 'data'"),
        (lambda: cast("Any", advex.explain)(MODEL, images="a.png"), "no option 'images': it is called 'pictures'"),
        (lambda: cast("Any", Misclassify)(labels=[1]), "no option 'labels': it is called 'y'"),
        (lambda: cast("Any", Become)(target=1), "no option 'target': it is called 'c'"),
        (lambda: cast("Any", Misclassify(torch.zeros(1, dtype=torch.long)))(None, 1), "Misclassify needs a Classifier"),
        (lambda: cast("Any", PGD())(torch.rand(1, 3), advex.load(MODEL), 1), "PGD needs a Classifier as its first"),
        (lambda: cast("Any", advex.save)("runs/mine", advex.load(MODEL)), r"advex\.save\(classifier, FOLDER\)"),
        (lambda: advex.load("x" * 300), "is not a folder"),
        (lambda: advex.explain(MODEL, torch.rand(3, 32, 32), rho=0), "an RMSE must be above 0"),
        (lambda: advex.explain(cast("Any", [MODEL, MODEL]), "a.png"), "takes one model"),
        (lambda: advex.evaluate([], "digits"), "No model given"),
        (lambda: advex.evaluate(cast("Any", {1: MODEL}), "digits"), "must be strings, not 1"),
        (lambda: advex.evaluate(MODEL, cast("Any", torch.rand(2, 3, 32, 32))), "not Tensor"),
        (lambda: advex.evaluate(MODEL, "digits", max_samples=cast("Any", 5.5)), "a whole number"),
        (lambda: advex.train("digits-ordinary", "digits", cast("Any", ["epochs=1"])), "must be separate strings"),
        (lambda: advex.explain(cast("Any", 3), "a.png"), "int is not a model"),
        (lambda: advex.explain(MODEL, "nowhere.png", quiet=True), r"nowhere\.png cannot be read as a picture"),
        (lambda: advex.explain(MODEL, torch.rand(2, 3, 8, 8)), r"the model needs floats \[n, 3, 32, 32\]"),
        (lambda: advex.explain(MODEL, torch.rand(3, 32, 32), target="cow", quiet=True), "There is no class 'cow'"),
        (lambda: advex.evaluate(MODEL, "cifar10-sample", atack="minimal"), "no setting 'atack': did you mean 'attack'"),
        (lambda: advex.evaluate(MODEL, "cifar10-sample", eps=1), "no setting 'eps': it is called 'radius'"),
        (lambda: cast("Any", advex.explain)(MODEL, "a.png", eps=1), "no option 'eps': it is called 'rho'"),
        (
            lambda: cast("Any", advex.train)("digits-robust", "digits", lr=1),
            "no option .lr.: it is called .learning_rate. here; write it",
        ),
        (
            lambda: cast("Any", advex.train)("digits-robust", "digits", max_samples=9),
            r"open_dataset\(DATA, max_samples=N",
        ),
        (lambda: cast("Any", advex.train)("digits-robust", "digits", epochs=9), 'DATA, "epochs=...'),
        (lambda: advex.explain(MODEL, advex.open_dataset("cifar10-sample", max_samples=2)[0]), r"pass data\[i\]\[0\]"),
        (lambda: advex.explain(MODEL, np.zeros((2, 32, 32, 3), np.float32)), r"permute\(0, 3, 1, 2\)"),
        (lambda: advex.compare(MODEL, "cifar10-sample"), "needs at least two models"),
        (lambda: advex.train("digits-robusd", "digits"), "did you mean 'digits-robust'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(AdvexError, match=said):
        call()


def test_a_name_that_is_nearly_right_is_told() -> None:
    with pytest.raises(AttributeError, match="is it 'explain'"):
        advex.explian  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_tensors_of_results_are_not_printed_whole(data: Dataset) -> None:
    clf, batch = advex.load(MODEL), data.batch(slice(None))
    explanation = Toward(steps=2)(clf, batch.x, "dog")
    before, after = (f"{100 * float(each[0, 5]):.0f} %" for each in (explanation.before, explanation.after))  # pyright: ignore
    assert repr(explanation) == f"Explanation(toward, 4 inputs 3x32x32: class 5 {before} -> {after}, ...)"
    assert repr(Gradient()(clf, batch.x[:1], "dog")) == "Explanation(gradient, 1 input 3x32x32: class 5)"
    assert repr(batch) == "Batch(4 inputs 3x32x32)"
    searched = PGD(radius="8/255", steps=2)(clf, batch.x, Misclassify(batch.y))
    assert repr(searched).startswith(f"Perturbation(4 inputs 3x32x32: {int(searched.reached.sum())} reached")


def test_a_data_set_shows_its_first_examples(data: Dataset, tmp_path: Path) -> None:
    html = data._repr_html_()
    assert html.count("data:image/png;base64,") == 1
    assert f'alt="{data.class_names[int(data.y[0])]}, ' in html
    (tmp_path / "<b>.csv").write_text(
        "age,<i>,class\n" + "".join(f"{n % 9},{n % 3},{'yn'[n % 2]}\n" for n in range(30))
    )
    table = advex.open_dataset(tmp_path / "<b>.csv")._repr_html_()
    assert "<i>" not in table
    assert table.count("<tr>") == 7
    assert "<th>age</th>" in table


PUBLIC = [
    "advex", *(f"advex.{name}" for name in advex.__all__ if (Path(advex.__file__).parent / name).is_dir()),
    *re.findall(r"^::: ([\w.]+)\.\w+$", (Path(__file__).parents[1] / "docs" / "api.md").read_text(), re.MULTILINE),
]  # fmt: skip


@pytest.mark.parametrize("module", sorted(set(PUBLIC)))
def test_public_modules_say_what_is_public(module: str) -> None:
    public = importlib.import_module(module)
    assert all(hasattr(public, name) for name in public.__all__)
    assert len(set(public.__all__)) == len(public.__all__)
    own = {name for name, value in vars(public).items()
           if not name.startswith("_") and getattr(value, "__module__", "") == module and callable(value)
           and getattr(value, "__name__", "") == name}  # fmt: skip
    assert own <= set(public.__all__)


def test_what_the_pages_name_is_public() -> None:
    pages = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    for module, name in re.findall(r"^::: ([\w.]+)\.(\w+)$", pages, re.MULTILINE):
        assert name in importlib.import_module(module).__all__, f"{module}.{name}"

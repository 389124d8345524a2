"""Maps on the command line, in records and in the report: of a linear network every figure is known."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import advex
from advex import record as schema
from advex.__main__ import main
from advex.classifier import Classifier
from advex.data import Dataset, open_dataset
from advex.drawing.heat import coloured, legend, over, reach_of, summed
from advex.drawing.pictures import colour_map
from advex.errors import ArtifactError, SpecError
from advex.evaluation import Interrupted, Settings, evaluate, settings_from
from advex.evaluation.merge import merge
from advex.explainers.background import with_background
from advex.registry import specs_from
from advex.report import write_report
from advex.report.reading import read
from advex.report.sections.maps import Maps

QUICK: dict[str, Any] = {
    "attack": "algorithm1:steps=3",
    "btr": "algorithm1:steps=3",
    "explanations": 3,
    "targets": "runner_up",
    "sweep": 0,
    "pictures": ("toward",),
    "steps": 2,
    "recheck": 0,
    "batch_size": 8,
    "maps": ("input_x_gradient", "integrated_gradients:steps=7"),
}


def quick(**changes: Any) -> Settings:
    return Settings(**{**QUICK, **changes})


def linear(seed: int) -> Classifier:
    """A linear network on digits, whose map of input times gradient is x * w_c."""
    classifier = Classifier("mlp:features=64,classes=10,widths=1,activation=relu")
    layer = torch.nn.Linear(64, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(seed)))
        layer.bias.zero_()
    classifier.network = torch.nn.Sequential(torch.nn.Flatten(), layer)
    return classifier.eval()


@pytest.fixture(scope="module")
def models() -> list[tuple[str, str, Classifier]]:
    return [(name, f"runs/{name}", linear(seed)) for seed, name in enumerate(("first", "second"))]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_dataset("digits", split="test").sample(20, seed=1)


@pytest.fixture(scope="module")
def done(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder, events = tmp_path_factory.mktemp("maps") / "out", []
    made = evaluate(models, data, folder, quick(), progress=events.append)
    return SimpleNamespace(folder=folder, record=made, events=events, rows=schema.read_rows(folder, "maps"))


def plain(record: schema.Record) -> list[str]:
    """What a record says of its models but for times, as text: there NaN equals itself."""
    untimed: Any = {"maps": {"__all__": {"seconds"}}}
    models = [model.model_dump_json(exclude=untimed) for model in record.models]
    return [*models, *(line.model_dump_json() for line in record.differences)]


def gini(values: np.ndarray) -> float:
    """Hurley and Rickard 2009: 1 - 2 sum_k |a|_(k) / ||a||_1 (d - k + 1/2) / d; 0 where all are 0."""
    a, d = np.sort(np.abs(values.ravel())), values.size
    if not a.any():
        return 0.0
    return float(1 - 2 * sum(a[k - 1] / a.sum() * (d - k + 0.5) / d for k in range(1, d + 1)))


# -- the record --------------------------------------------------------------------------------------------


def test_of_a_linear_network_every_map_is_known(done: SimpleNamespace, models: list, data: Dataset) -> None:
    weights = {name: classifier.network[1].weight.detach().double().numpy() for name, _, classifier in models}
    x = data.x.numpy().reshape(len(data), -1) / 255
    assert len(done.rows) == 2 * 2 * len(data)
    for row in done.rows:
        logits = weights[row["model"]] @ x[row["example"]]
        assert row["target"] == logits.argmax()
        expected = x[row["example"]] * weights[row["model"]][row["target"]]
        assert row["gini"] == pytest.approx(gini(expected), abs=1e-5)  # of a float32 map
        shares = np.abs(expected[expected != 0]) / np.abs(expected).sum()
        assert row["entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-5)
        assert row["effective"] == pytest.approx(math.exp(row["entropy"]))
        if row["explainer"] == "integrated_gradients":  # from a black picture: adds up to the logit
            assert row["change"] == pytest.approx(logits.max(), abs=1e-4)
            assert abs(row["completeness"]) < 1e-4
        else:
            assert (row["change"], row["completeness"]) == (None, None)
        if row["map"] is not None:
            np.testing.assert_allclose(row["map"], expected, atol=1e-6)
    shown = {row["example"] for row in done.rows if row["map"] is not None}
    explained = {row["example"] for row in schema.read_rows(done.folder, "explanations")}
    assert shown == explained
    assert len(shown) == 3


def test_figures_follow_from_the_table_and_survive_the_file(done: SimpleNamespace) -> None:
    assert plain(schema.read_record(done.folder)) == plain(done.record)
    for model in done.record.models:
        assert list(model.maps) == ["input_x_gradient", "integrated_gradients"]
        for name, entry in model.maps.items():
            rows = [row for row in done.rows if (row["model"], row["explainer"]) == (model.name, name)]
            assert {row["method"] for row in rows} == {entry.method}
            assert entry.target == "predicted"
            for key in ("gini", "entropy", "effective"):
                figure = entry.figures[key]
                assert figure.value == pytest.approx(np.mean([row[key] for row in rows]))
                assert figure.low < figure.value < figure.high
                assert figure.n == 20
        assert "completeness" not in model.maps["input_x_gradient"].figures
        found = model.maps["integrated_gradients"].figures
        rows = [row for row in done.rows if (row["model"], row["explainer"]) == (model.name, "integrated_gradients")]
        for key in ("change", "completeness"):
            assert found[key].value == pytest.approx(np.mean([abs(row[key]) for row in rows]))
    printed = json.loads(schema.summary(done.record, done.folder))["models"]["first"]
    assert (
        printed["integrated_gradients_gini"]["value"]
        == done.record.models[0].maps["integrated_gradients"].figures["gini"].value
    )


def test_models_are_compared_on_the_same_examples(done: SimpleNamespace) -> None:
    compared = {one.measure: one for one in done.record.differences if one.measure.endswith("_gini")}
    assert list(compared) == ["input_x_gradient_gini", "integrated_gradients_gini"]
    for measure, one in compared.items():
        name = measure.removesuffix("_gini")
        ginis = [
            np.array([row["gini"] for row in done.rows if (row["model"], row["explainer"]) == (model, name)])
            for model in ("first", "second")
        ]
        assert (one.first, one.second) == ("first", "second")
        assert one.figure.value == pytest.approx((ginis[0] - ginis[1]).mean())
        assert one.figure.low <= one.figure.value <= one.figure.high


def test_maps_of_the_right_class(models: list, data: Dataset, tmp_path: Path) -> None:
    made = evaluate(models[:1], data, tmp_path, quick(maps=("gradient",), map_target="true"))
    rows = schema.read_rows(tmp_path, "maps")
    assert [row["target"] for row in rows] == data.y.tolist()
    assert made.models[0].maps["gradient"].target == "true"
    examples = schema.read_rows(tmp_path, "examples")
    assert any(row["prediction"] != row["label"] for row in examples)  # otherwise the two rules are one


def test_maps_of_a_class_of_their_own(models: list, data: Dataset, tmp_path: Path) -> None:
    asked = ("gradient@1", "input_x_gradient@true", "integrated_gradients:steps=3")
    evaluate(models, data, tmp_path, quick(maps=asked))
    rows = [row for row in schema.read_rows(tmp_path, "maps") if row["model"] == models[0][0]]
    assert {row["target"] for row in rows if row["explainer"] == "gradient"} == {1}
    right = {row["example"]: row["target"] for row in rows if row["explainer"] == "input_x_gradient"}
    assert [right[example] for example in range(len(data))] == data.y.tolist()
    entry = schema.read_record(tmp_path).models[0].maps
    assert {name: one.target for name, one in entry.items()} == {
        "gradient": "1", "input_x_gradient": "true", "integrated_gradients": "predicted",
    }  # fmt: skip
    page = write_report(tmp_path).read_text()
    assert "a class (by explainer: " in page
    with pytest.raises(ArtifactError, match=r"settings\.maps\.gradient is gradient:of=logit@1 there"):
        evaluate(models, data, tmp_path, quick(maps=("gradient@true", *asked[1:])))


def test_a_record_without_maps_is_as_it_was(models: list, data: Dataset, tmp_path: Path) -> None:
    some = data.take(slice(0, 6))
    made = evaluate(models[:1], some, tmp_path / "out", quick(maps=()))
    assert made.models[0].maps == {}
    assert not (tmp_path / "out" / "maps.parquet").exists()
    identity = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert not any("map" in key for key in identity["settings"])
    old = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    old["settings"] = {key: value for key, value in old["settings"].items() if "map" not in key}
    del old["models"][0]["maps"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "record.json").write_text(json.dumps(old), encoding="utf-8")
    for name in ("examples", "explanations"):
        (tmp_path / "old" / f"{name}.parquet").write_bytes((tmp_path / "out" / f"{name}.parquet").read_bytes())
    assert plain(schema.read_record(tmp_path / "old")) == plain(made)
    assert Maps()(read(tmp_path / "old")) is None
    assert 'id="maps"' not in write_report(tmp_path / "old").read_text(encoding="utf-8")
    assert len(merge([tmp_path / "old", tmp_path / "out"], tmp_path / "both").models) == 2


def test_stopped_anywhere_it_goes_on_to_the_same_figures(
    done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path
) -> None:
    out, seen = tmp_path / "out", []

    def note(event: dict[str, Any]) -> None:
        if event["phase"] == "map_integrated_gradients" and event["done"]:
            seen.append((event["model"], event["done"], event["rate"] is None))

    with pytest.raises(Interrupted):
        evaluate(models, data, out, quick(), progress=note, stop=lambda: len(seen) == 2)
    assert seen == [("first", 8, False), ("first", 16, False)]
    with pytest.raises(ArtifactError, match=r"settings\.maps\.integrated_gradients is .* there and missing here"):
        evaluate(models, data, out, quick(maps=("input_x_gradient",)))
    with pytest.raises(ArtifactError, match=r"settings\.map_target is predicted there and true here"):
        evaluate(models, data, out, quick(map_target="true"))
    seen.clear()
    # Another way to write the same spec is the same evaluation.
    evaluate(
        models, data, out, quick(maps=("input_x_gradient:of=logit", "integrated_gradients:steps=7")), progress=note
    )
    assert seen[:3] == [("first", 8, True), ("first", 16, True), ("first", 20, False)]
    assert plain(schema.read_record(out)) == plain(done.record)


def test_a_map_that_a_network_cannot_have_is_refused_at_once(models: list, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(advex.errors.AdvexError):
        evaluate(
            models, data, tmp_path, quick(maps=("grad_cam",)), progress=lambda event: pytest.fail("searched first")
        )


# -- specs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "specs"),
    [
        (["gradient"], ("gradient",)),
        (["gradient, grad_cam"], ("gradient", "grad_cam")),
        (["a:b=1,c=2,d"], ("a:b=1,c=2", "d")),
        (["a:b=(c:d=1,e=2),f=3,g:h=1", "i"], ("a:b=(c:d=1,e=2),f=3", "g:h=1", "i")),
    ],
)
def test_several_specs_in_one_text(texts: list[str], specs: tuple[str, ...]) -> None:
    assert specs_from(texts) == specs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"maps": ("gradients",)}, "did you mean 'gradient'"),
        ({"maps": ("gradient",), "map_target": "all"}, "map_target = 'all' is not valid"),
        ({"maps": ("gradient@first",)}, "the class must be 'predicted', 'true' or its number"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        settings_from(values)


# -- maps as pictures --------------------------------------------------------------------------------------


def test_colours_are_symmetric_and_end_at_the_reach() -> None:
    values = np.array([[-2.0, -1.0, 0.0], [0.5, 1.0, 3.0]])
    shades = coloured(values, 1.0)
    ends = colour_map()
    assert shades[0, 0].tolist() == shades[0, 1].tolist() == ends[0].tolist()
    assert shades[0, 2].tolist() == ends[127].tolist()
    assert shades[1, 1].tolist() == shades[1, 2].tolist() == ends[254].tolist()
    assert shades[1, 0].tolist() == ends[190].tolist()  # round(1.5 * 127)
    assert (coloured(values, 0.0) == ends[127]).all()  # nothing counts
    assert summed(np.array([[[1.0]], [[-3.0]], [[0.5]]])).tolist() == [[-1.5]]


def test_the_scale_ends_at_the_99th_percentile_of_all_maps() -> None:
    values = np.arange(-500, 501, dtype=float).reshape(7, 143)
    assert reach_of([values[:3], values[3:]]) == np.percentile(np.abs(values), 99)
    few = np.zeros((20, 20))
    few[3, 4] = -2.0
    assert reach_of([few]) == 2.0
    assert reach_of([few * 0]) == 0.0


def test_a_map_that_is_not_finite_is_not_drawn(done: SimpleNamespace) -> None:
    contents = read(done.folder)
    broken = next(row for row in contents.rows("maps") if row["map"] is not None)
    values = np.where(np.arange(64) == 5, np.nan, broken["map"])
    maps = tuple(row | {"map": values} if row is broken else row for row in contents.rows("maps"))
    section = Maps()(dataclasses.replace(contents, tables={**contents.tables, "maps": maps}))
    assert section is not None
    heats = [heat for example in section["pictures"] for line in example.lines for heat in line.heats]
    assert heats.index(None) == 0
    assert heats.count(None) == 1


def test_what_counts_hides_the_picture_and_nothing_else_does() -> None:
    picture = np.full((3, 1, 3), 0.0)
    picture[:, 0, 1] = (1.0, 0.0, 0.0)  # red: 30 % as bright as white
    shown = over(picture, np.array([[0.0, 0.0, -9.0]]), 1.0)
    assert shown[0].tolist() == [[0, 0, 0], [76, 76, 76], colour_map()[0].tolist()]


# -- as a user runs it -------------------------------------------------------------------------------------


def advex_in(folder: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """`advex ...` in that folder: exit code, stdout, stderr."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["advex", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capfd.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two untrained convolutional networks for digits, `a` and `b`."""
    folder = tmp_path_factory.mktemp("saved")
    for seed, name in enumerate("ab"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = Classifier("small_cnn:channels=1,classes=10,widths=4-8-8")
        advex.save(classifier.eval(), folder / name)
    return folder


MAPPED = ("integrated_gradients:steps=5,input_x_gradient", "grad_cam", "expected_gradients:samples=4")


@pytest.mark.filterwarnings("ignore:expected_gradients.* maps are doubtful")  # four samples: quick, not right
def test_explain_writes_values_pictures_and_what_they_are(
    saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["explain", "--data", "digits", "--index", "4,9", "-m", str(saved / "a"), "--size", "1x8x8", "-q"]
    command += [word for spec in MAPPED for word in ("--explainer", spec)]
    code, out, err = advex_in(tmp_path, capfd, *command, "--target", "true,predicted,runner-up,7", "--json")
    assert (code, err) == (0, "")
    folder, result = tmp_path / "explanations", json.loads(out)
    assert result == json.loads((folder / "explanations.json").read_text(encoding="utf-8"))
    names = ["integrated_gradients", "input_x_gradient", "grad_cam", "expected_gradients"]
    assert list(result["explainers"]) == names
    classifier, data = advex.load(saved / "a"), open_dataset("digits", split="test")
    for index, one in zip((4, 9), result["inputs"], strict=True):
        x = data.batch(slice(index, index + 1)).x
        ranked = classifier.predict(x)[0].argsort(descending=True).tolist()
        meant = {each["target"]: each["meant"] for each in one["maps"]}
        assert {way: target for target, ways in meant.items() for way in ways} == {
            "true": int(data.y[index]), "predicted": ranked[0], "runner-up": ranked[1], "named": 7,
        }  # fmt: skip
        assert len(one["maps"]) == len(meant) * len(names)
        with np.load(folder / one["values"], allow_pickle=False) as values:
            np.testing.assert_array_equal(values["input"], x[0].numpy())
            for each in one["maps"]:
                found = values[f"{each['explainer']}.{each['target']}"]
                assert found.shape == (1, 8, 8)
                assert each["gini"] == pytest.approx(gini(found), abs=1e-5)
                assert each["sum"] == pytest.approx(found.sum(), abs=1e-5)
                own = with_background(advex.explainers.build(result["explainers"][each["explainer"]]), data)
                again = own(classifier, x, torch.tensor([each["target"]]), seed=0)
                np.testing.assert_allclose(found, again.map[0].numpy(), atol=1e-6)
                assert each["method"] == again.method
                assert (each["completeness"] is None) == (again.completeness is None)
                with Image.open(folder / each["picture"]) as picture:
                    assert picture.size == (256, 256)
                    shown = np.asarray(picture)[16::32, 16::32]
                np.testing.assert_array_equal(shown, coloured(found[0], each["scale"]["reach"]))
                assert (folder / each["overlay"]).is_file()
            # What adds up to a change of the logit has one unit, and so one scale for all targets; the others have not.
            for name in names:
                (scale,) = {json.dumps(each["scale"]) for each in one["maps"] if each["explainer"] == name}
                shared = ["integrated_gradients", "expected_gradients"] if "d_grad" in name else [name]
                assert json.loads(scale)["explainers"] == shared
                pooled = [values[f"{by}.{target}"][0] for by in shared for target in meant]
                assert json.loads(scale)["reach"] == pytest.approx(reach_of(pooled))
    methods = {each["method"] for each in result["inputs"][0]["maps"] if each["explainer"] == "grad_cam"}
    assert not any("layer=auto" in method for method in methods)  # the layer that was chosen is named
    rows = sum(len({each["target"] for each in one["maps"]}) for one in result["inputs"])
    with Image.open(folder / "sheet.png") as page:
        assert page.size == (10 + 5 * (160 + 10), 10 + 2 * 17 + 4 + rows * (160 + 4 * 17 + 10))  # below name and legend
        colours = {pixel for _, pixel in page.crop((0, 0, page.width, 48)).getcolors(2**20)}  # pyright: ignore
        assert {colour for colour, _ in legend()} <= colours


def test_explain_with_several_models_and_its_mistakes(
    saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "grey.png")
    both = f"{saved / 'a'},{saved / 'b'}"
    ask = ("explain", "grey.png", "--size", "1x8x8", "--out", "why")
    code, out, err = advex_in(tmp_path, capfd, *ask, "-m", both, "--explainer", "gradient", "--max-batch", "auto")
    assert code == 0, err
    assert "(predicted)" in out
    for name in "ab":
        assert (tmp_path / "why" / name / "grey.maps.npz").is_file()
        assert json.loads((tmp_path / "why" / name / "explanations.json").read_text())["model"] == name
    for arguments, status, said in (
        (["--explainer", "gradient", "--target", "true"], 2, "the class of grey.png is not known"),
        (["--explainer", "gradiant"], 2, "did you mean 'gradient'"),
        (["--explainer", "gradient,gradient"], 2, "given twice"),
        (["--explainer", "gradient", "--rho", "0.2"], 2, "apply to the adversarial explanation only"),
        (["--explainer", "gradient", "--max-batch", "0"], 2, "'auto' or a whole number of at least 1"),
        (["--target", "true"], 2, "the class of grey.png is not known"),
    ):
        code, out, err = advex_in(tmp_path, capfd, *ask[:-1], "failed", "-m", str(saved / "a"), *arguments)
        assert (code, out) == (status, ""), err
        assert said in err


def test_evaluate_compare_and_the_report(saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["--data", "digits", "--size", "1x8x8", "--max-samples", "24", "--explanations", "2", "--batch-size", "16"]
    asked += ["--attack", "algorithm1:steps=3", "--btr", "algorithm1:steps=3", "--targets", "runner_up"]
    maps = ["--maps", "integrated_gradients:steps=5,gradient", "--maps", "grad_cam"]
    for name in "ab":
        code, out, err = advex_in(
            tmp_path, capfd, "evaluate", "-m", str(saved / name), *asked, *maps, "--out", f"of-{name}", "-q"
        )
        assert code == 0, err
        entry = schema.read_record(tmp_path / f"of-{name}").models[0].maps["integrated_gradients"]
        for figure in entry.figures.values():
            assert (f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]" in out) == (figure.better != "neither")
    code, out, err = advex_in(tmp_path, capfd, "compare", "of-a", "of-b", "--out", "later", "-q")
    assert code == 0, err
    assert "integrated gradients Gini" in out
    code, _, err = advex_in(
        tmp_path, capfd, "compare", "-m", f"{saved / 'a'},{saved / 'b'}", *asked, *maps, "--out", "once", "-q"
    )
    assert code == 0, err
    later, once = (schema.read_record(tmp_path / name) for name in ("later", "once"))
    assert plain(later) == plain(once)
    rows = [schema.read_rows(tmp_path / name, "maps") for name in ("later", "once")]
    lists = [[{**row, "map": None if row["map"] is None else row["map"].tolist()} for row in all_] for all_ in rows]
    assert lists[0] == lists[1]
    _check_page(tmp_path / "once", once)
    # Not with one whose maps are others, nor with the details alone.
    code, _, err = advex_in(tmp_path, capfd, "evaluate", "-m", str(saved / "a"), *asked, "--out", "without", "-q")
    assert code == 0, err
    code, _, err = advex_in(tmp_path, capfd, "compare", "of-a", "without", "--out", "mixed")
    assert code == 1
    assert "maps is ['integrated_gradients:steps=5', 'gradient', 'grad_cam'] there and [] here" in err
    code, _, err = advex_in(tmp_path, capfd, "evaluate", "-m", str(saved / "a"), *asked, "--map-target", "true")
    assert (code, "--map-target needs --maps SPEC" in err) == (2, True)


def _check_page(folder: Path, record: schema.Record) -> None:
    """The report says what the record does."""
    contents, page = read(folder), (folder / "report.html").read_text(encoding="utf-8")
    section = Maps()(contents)
    assert section is not None
    assert section["explainers"] == ("integrated_gradients", "gradient", "grad_cam")
    (judgement,) = section["judgements"]
    (models,) = [each for each in judgement.compared if each.axis == "model"]
    for group, gains_of in zip(judgement.groups, models.groups, strict=True):
        assert gains_of.name == group.name
        for line, model in zip(group.rows, record.models, strict=True):
            for cell, key in zip(line.cells, record.measures, strict=False):
                assert cell.key == f"{group.name}_{key}"
                figure = model.maps[group.name].figures[key]
                assert _number(cell.text) == pytest.approx(figure.value, rel=6e-3)
        (line,) = gains_of.rows
        assert (line.name, line.minus) == ("b", "a")
        for cell in line.cells:
            (one,) = (d for d in record.differences if (d.axis, d.measure) == ("model", cell.key))
            ends = [-one.figure.value, -one.figure.high, -one.figure.low]  # the record has a minus b
            assert [_number(text) for text in (cell.text, cell.low, cell.high)] == pytest.approx(ends, abs=6e-3)
    assert [each.title for each in section["distributions"]][0] == record.measures["gini"].title
    for name, plot in section["distributions"][0].panels:
        ginis = [
            np.array([row["gini"] for row in contents.rows("maps") if (row["model"], row["explainer"]) == (m, name)])
            for m in "ab"
        ]
        (box,) = plot.boxes
        scale = (plot.ticks[-1].at - plot.ticks[0].at) / (_number(plot.ticks[-1].text) - _number(plot.ticks[0].text))
        quantiles = plot.zero + scale * np.percentile(ginis[1] - ginis[0], (5, 25, 50, 75, 95))
        assert box.places == pytest.approx(tuple(quantiles), abs=0.2)  # of a drawing 460 wide, rounded to 0.1
        assert box.mean == pytest.approx(plot.zero + scale * (ginis[1] - ginis[0]).mean(), abs=0.2)
    assert len(section["pictures"]) == section["total"] == 2
    assert all(heat is not None for example in section["pictures"] for line in example.lines for heat in line.heats)
    assert len(re.findall(r'data-map="', page)) == 2 * 2 * 3
    saved = re.search(r'download="maps\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    assert saved is not None
    table = list(csv.DictReader(io.StringIO(base64.b64decode(saved[1]).decode("utf-8"))))
    assert [float(row["gini"]) for row in table] == [row["gini"] for row in contents.rows("maps")]


def _number(text: str) -> float:
    return float(text.replace("\u2212", "-").replace(",", ""))


def test_a_legend_says_what_the_colours_of_maps_are() -> None:
    colours = {words: np.array(colour, dtype=int) for colour, words in legend()}
    shown = coloured(np.array([[-0.7, 0.0, 0.6]]), 1.0)[0].astype(int)
    for words, pixel in zip(("against it", "not at all", "counts for the class"), shown, strict=True):
        assert np.abs(colours[words] - pixel).max() < 30
    # Orange and blue differ in hue for those who see no difference of red and green, too: by their blue alone.
    assert abs(colours["against it"][2] - colours["counts for the class"][2]) > 100

"""`advex judge`: which explanation to believe, as far as paired intervals carry it, beside controls."""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import advex
from advex.cli import main
from advex.evaluation import evaluate, judging, settings_from
from advex.evaluation.flags import more_examples
from advex.lookup.models import open_models
from advex.progress import QUIET
from advex.record import Difference, Figure, MapFigures, MeasureEntry, ModelEntry, read_record, read_rows
from advex.registry import parse
from advex.report import write_report
from advex.report.believed import FEWEST, judged, preferences
from advex.report.reading import read
from advex.report.sections.believe import Believe
from advex.report.sections.curves import Curves
from advex.report.sections.explanations import Explanations
from advex.report.sections.findings import Findings


def figure(value: float, half: float = 0.1) -> Figure:
    return Figure(value=value, low=value - half, high=value + half, n=50, better="high")


def record_of(values: dict[str, float], better: Any, half: float, controls: tuple[str, ...] = ()) -> Any:
    """One model, one measure; every paired difference with an interval of that half width."""
    maps = {
        name: MapFigures(method=name, target="true", figures={"m": figure(value)}, control=name in controls)
        for name, value in values.items()
    }
    names = list(values)
    differences = [
        Difference(
            axis="explainer", model="net", first=a, second=b, measure="m", figure=figure(values[a] - values[b], half)
        )
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    measures = {"m": MeasureEntry(title="M", better=better, of="faithful", spec="m", standing="validated")}
    return SimpleNamespace(
        models=[ModelEntry(name="net", source="net", maps=maps)], measures=measures, differences=differences
    )


def preferred(*arguments: Any, **options: Any) -> Any:
    record = record_of(*arguments, **options)
    return preferences(record, record.models[0])


def test_the_best_is_named_with_all_that_is_not_separable_from_it() -> None:
    values = {"a": 0.5, "b": 0.9, "c": 0.85, "noise": 0.1}
    (high,) = preferred(values, "high", 0.1, controls=("noise",))
    assert (high.best, high.beside, high.above) == ("b", ("c",), True)
    assert high.sentence == "M (validated): best b, not significantly better than c."
    assert high.told(str.upper) == "M (validated): best B, not significantly better than C."
    (low,) = preferred(values, "low", 0.1, controls=())
    assert (low.best, low.beside) == ("noise", ())
    assert low.sentence == "M (validated): best noise, better than every other."


def test_where_a_control_is_as_good_the_measure_speaks_for_nobody() -> None:
    (each,) = preferred({"a": 0.5, "b": 0.4, "noise": 0.45}, "high", 0.1, controls=("noise",))
    assert each.best == "a"
    assert not each.above
    assert each.sentence.endswith(
        "not significantly better than noise and b; no explainer is significantly better than the best control."
    )
    (worse,) = preferred({"a": 0.5, "noise": 0.9}, "high", 0.1, controls=("noise",))
    assert (worse.best, worse.above) == ("noise", False)


def test_an_interval_that_the_test_does_not_bear_out_claims_nothing() -> None:
    """The interval of b less a excludes zero; p, adjusted, is 0.2: nothing is better, and 0.2 is said."""
    record = record_of({"a": 0.5, "b": 0.9}, "high", 0.1)
    for p, beside in ((0.2, ("a",)), (0.01, ()), (None, ())):
        record.differences = [line.model_copy(update={"p": p}) for line in record.differences]
        (each,) = preferences(record, record.models[0])
        assert (each.best, each.beside) == ("b", beside)
        assert each.plain["p"] == ({} if p is None else {"a": p})


def stepped_down(values: list[float]) -> list[float]:
    """Holm 1979 in words: the smallest times k, the next times k - 1, ..., none below the one before."""
    adjusted, known = [math.nan] * len(values), 0.0
    for rank, place in enumerate(np.argsort(values)):
        known = max(known, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = known
    return adjusted


def test_tests_of_a_measure_are_those_of_all_signs_adjusted_for_all_pairs(tmp_path: Path) -> None:
    """10 examples: beside all 2^10 signs of each pair's differences, as maps.parquet has them; each measure alone."""
    data = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=10, seed=0)
    names, keys = ("gradient", "grad_cam", "centre", "random"), ("mass", "deletion")
    asked: dict[str, Any] = {
        "attack": None, "btr": None, "maps": names, "measures": ("mass", "deletion:steps=4"), "pictures": (),
        "recheck": 0,
    }  # fmt: skip
    model = advex.load("builtin:planted")
    record = evaluate([("net", "net", model)], data, tmp_path / "record", settings_from(asked))
    rows = read_rows(tmp_path / "record", "maps")
    signs = np.array(list(itertools.product((-1, 1), repeat=10)))
    for key in keys:
        values = {name: np.array([row[key] for row in rows if row["explainer"] == name]) for name in names}
        lines = [line for line in record.differences if line.measure == key]
        assert len(lines) == 6
        changes = [values[line.first] - values[line.second] for line in lines]
        exact = [np.mean(abs(signs @ each) >= abs(each.sum()) - 1e-9) for each in changes]
        made = [line.p or 0.0 for line in lines]
        assert made == pytest.approx(stepped_down(exact), abs=0.03)
        assert min(made) < 0.02 < 0.05 < max(made), key
    times = {name: maps.seconds for name, maps in record.models[0].maps.items()}
    assert all(seconds is not None and 0 < seconds < 60 for seconds in times.values())
    page = write_report(tmp_path / "record").read_text(encoding="utf-8")
    assert {name for name in names if f'data-seconds="{name}"' in page} == set(names)
    assert "p\u202f=\u202f" in page


def test_a_record_without_times_and_tests_is_read_and_shown(tmp_path: Path) -> None:
    """As it was written before there were any: no figure of theirs is made up."""
    data = advex.open_dataset("planted", split="test", max_samples=4, seed=0)
    asked: dict[str, Any] = {
        "attack": None, "btr": None, "maps": ("gradient", "random"), "measures": ("mass",), "pictures": (),
        "recheck": 0,
    }  # fmt: skip
    evaluate([("net", "net", advex.load("builtin:planted"))], data, tmp_path / "record", settings_from(asked))
    path = tmp_path / "record" / "record.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for line in values["differences"]:
        del line["p"]
    for maps in values["models"][0]["maps"].values():
        del maps["seconds"]
    path.write_text(json.dumps(values), encoding="utf-8")
    record = read_record(tmp_path / "record")
    assert (
        {maps.seconds for maps in record.models[0].maps.values()} == {line.p for line in record.differences} == {None}
    )
    page = write_report(tmp_path / "record").read_text(encoding="utf-8")
    assert "data-seconds" not in page
    assert "p\u202f" not in page


def test_of_few_examples_nothing_is_said() -> None:
    record = record_of({"a": 0.5, "noise": 0.9}, "high", 0.1, controls=("noise",))
    for maps in record.models[0].maps.values():
        maps.figures["m"] = maps.figures["m"].model_copy(update={"n": 6})
    (each,) = preferences(record, record.models[0])
    assert (each.few, each.above) == (True, False)
    assert each.sentence == "M (validated): too few examples (fewer than 20)."


def test_an_explainer_with_few_values_does_not_silence_the_others() -> None:
    """Grad-CAM of a random network is zero for many inputs: it is left out, and the rest compared."""
    record = record_of({"a": 0.5, "b": 0.9, "cam": 0.99, "noise": 0.1}, "high", 0.1, controls=("noise",))
    figures = record.models[0].maps["cam"].figures
    figures["m"] = figures["m"].model_copy(update={"n": 6})
    (each,) = preferences(record, record.models[0])
    assert (each.best, each.beside, each.above, each.few, each.lacking) == ("b", (), True, False, ("cam",))
    assert each.sentence == "M (validated): best b, better than every other; fewer than 20 examples of cam."
    assert each.plain["too_few"] == ["cam"]


def test_maps_are_drawn_beside_lines_at_what_needs_no_map() -> None:
    """Each place, read off the axis's own marks, is the value's; the best stands first, and high or low is best."""
    values = {"gradient": 0.4, "grad_cam": 0.7, "edge": 0.55}
    for better, order in (("high", ["grad cam", "edge", "gradient"]), ("low", ["gradient", "edge", "grad cam"])):
        record = record_of(values, better, 0.1, ("edge",))
        fixed = {"m_box": ("best constant box", 0.5), "m_whole": ("whole picture", 0.15)}
        for key, (name, value) in fixed.items():
            entry = MeasureEntry(title=key, better="neither", of="placed", spec="m", baseline=name)
            record.measures[key] = entry
            for maps in record.models[0].maps.values():
                maps.figures[key] = figure(value)
        record.measures["other"] = record.measures["m"].model_copy(update={"spec": "other"})
        record.models[0].maps["gradient"].figures["other"] = figure(0.1)
        (model,) = Believe()(SimpleNamespace(record=record))["judged"]  # pyright: ignore
        (drawing,) = model.drawings  # `other` has no baselines
        assert [row.name for row in drawing.rows] == order
        assert [row.name for row in drawing.rows if row.control] == ["edge"]
        marks = [tick.at for tick in drawing.ticks], [float(tick.text) for tick in drawing.ticks]
        for row in drawing.rows:
            value = values[row.name.replace(" ", "_")]
            assert np.interp([row.low, row.at, row.high], *marks) == pytest.approx(
                [value - 0.1, value, value + 0.1], abs=2e-3
            )
        lines = {line.text: float(np.interp(line.at, *marks)) for line in drawing.baselines}
        assert lines == pytest.approx({"best constant box 0.500": 0.5, "whole picture 0.150": 0.15}, abs=2e-3)
        heights = [row.y for row in drawing.rows]
        assert heights == sorted(heights)
        assert all(line.label_at[1] < heights[0] < heights[-1] < drawing.frame.base for line in drawing.baselines)
        assert len({line.label_at[1] for line in drawing.baselines}) == 2, "no label on another"


def test_a_measure_without_a_good_direction_or_a_rival_prefers_nothing() -> None:
    assert preferred({"a": 0.5, "b": 0.6}, "neither", 0.1) == ()
    assert preferred({"a": 0.5}, "high", 0.1) == ()
    assert not judged(record_of({"a": 0.5, "b": 0.6}, "high", 0.1))
    assert judged(record_of({"a": 0.5, "noise": 0.6}, "high", 0.1, controls=("noise",)))


def run(folder: Path, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["advex", "judge", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_maps_are_judged_beside_controls_on_what_the_model_decides_rightly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faint = ["--data", "planted:amplitude=0.05", "--split", "test", "--max-samples", "30"]
    judges = ["--judges", "pointing,deletion:steps=4", "--explainers", "gradient,random,centre", "--batch-size", "8"]
    assert run(tmp_path, "--model", "builtin:planted", *faint, *judges, "--out", "record") == 0
    captured = capfd.readouterr()
    data = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=30, seed=0)
    batch = data.batch(slice(None))
    right = advex.load("builtin:planted").predict(batch.x).argmax(dim=1) == batch.y
    assert 0 < int(right.sum()) < 30
    said = f"Judged on {int(right.sum())} of 30 examples"
    assert said in captured.err
    record = read_record(tmp_path / "record")
    assert record.data.examples == int(right.sum())
    (selected,) = [flag for flag in record.flags if flag.code == "selected"]
    assert selected.message.startswith(said)
    assert run(tmp_path, "--model", "builtin:planted", *faint, *judges, "--out", "record", "--json") == 0
    plain = json.loads(capfd.readouterr().out)["judged"]["planted"]
    assert [each["best"] for each in plain] == [each.best for each in preferences(record, record.models[0])]
    rows = read_rows(tmp_path / "record", "examples")
    assert [row["id"] for row in rows] == [data.ids[i] for i in right.nonzero()[:, 0].tolist()]
    assert {name: maps.control for name, maps in record.models[0].maps.items()} == {
        "gradient": False, "random": True, "centre": True,
    }  # fmt: skip
    for preference in preferences(record, record.models[0]):
        assert f"planted: {preference.sentence}" in captured.out
    values = Believe()(read(tmp_path / "record"))
    assert values is not None
    (model,) = values["judged"]
    assert [row.name for row in model.rows] == ["gradient", "random", "centre"], "controls come last"
    assert [column[0] for column in model.columns] == [
        "Pointing game", "Pointing game, mean of the classes", "Deletion",
    ]  # fmt: skip
    page = (tmp_path / "record" / "report.html").read_text(encoding="utf-8")
    assert page.count('class="control"') == 2
    assert "The picture is missing from the record" not in page


def test_controls_are_added_where_none_is_named_and_the_page_begins_with_what_was_judged(tmp_path: Path) -> None:
    named = ["--explainers", "gradient,enlarged:explainer=(gradient)", "--judges", "deletion:steps=2"]
    data = ["--data", "planted:amplitude=0.05", "--split", "test", "--max-samples", "24"]
    assert run(tmp_path, "--model", "builtin:planted", *data, *named, "--out", "record") == 0
    record = read_record(tmp_path / "record")
    assert list(record.models[0].maps) == ["gradient", "enlarged", *judging.CONTROLS]
    contents = read(tmp_path / "record")
    values = Findings()(contents)
    judged_on, found = values["findings"]
    names, example = values["mapped"]
    assert sorted(names) == ["enlarged", "gradient"], "what looks at the model, not a control"
    assert [heat is not None for heat in example.lines[0].heats] == [True, True]
    assert judged_on.startswith("Judged on ")
    able = sum(each.above for each in preferences(record, record.models[0]))
    few = record.data.examples < FEWEST
    assert ("too few examples to compare" if few else f"{able or 'none'} of 1 measure finds an explainer") in found
    assert Explanations()(contents) is Curves()(contents) is None, "nothing of the kind was asked for"
    page = (tmp_path / "record" / "report.html").read_text(encoding="utf-8")
    assert 0 < page.index('id="believe"') < page.index('id="figures"')


def test_of_those_that_are_right_the_first_are_taken() -> None:
    data = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=30, seed=0)
    (opened,) = open_models(["builtin:planted"], "cpu")
    every = judging.rightly_decided([opened], data, 8, QUIET)
    some = judging.rightly_decided([opened], data, 8, QUIET, most=5)
    assert some.ids == every.ids[:5]
    assert some.selected.startswith(f"Judged on 5 of 30 examples of {data.name}, the first of the {len(every)} that")
    assert judging.rightly_decided([opened], data, 8, QUIET, most=99).selected == every.selected


def test_more_examples_are_advised_only_where_there_are_more_to_ask_about() -> None:
    """Of 30 of 60 drawn more can be asked about; of all 60 none, but those that are answered wrongly."""
    model = open_models(["builtin:planted"], "cpu")
    whole = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=60, seed=0)
    whole = replace(whole, counts=None)
    for drawn, wanted in ((30, "Evaluate more of the 60 examples"), (60, "include the others (--all)")):
        data = whole if drawn == 60 else whole.take(slice(drawn))
        right = judging.rightly_decided(model, data, 50, QUIET)
        assert len(right) < drawn
        assert wanted in more_examples(right)
    assert more_examples(whole).startswith("The data have no more examples: ")
    some = judging.rightly_decided(model, whole, 50, QUIET, most=20)
    assert more_examples(some) == "Evaluate more of the 60 examples in the data (--max-samples)."


@pytest.mark.filterwarnings("ignore::advex.errors.AdvexWarning")  # maps of an untrained network are hard to sum up
def test_what_models_and_data_do_not_admit_is_left_out_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fully connected network has no layer with places, and digits do not say where they lie."""
    torch.manual_seed(0)
    advex.save(advex.Classifier("mlp:features=64"), tmp_path / "model")
    monkeypatch.setattr(judging, "FAITHFUL", ("deletion",))
    arguments = ["--model", "model", "--data", "digits", "--split", "test", "--max-samples", "40", "--out", "record"]
    assert run(tmp_path, *arguments) == 0
    captured = capfd.readouterr()
    record = read_record(tmp_path / "record")
    places = ("grad_cam", "grad_cam_plus_plus", "norm_grad:selective=true", "excitation:contrastive=true")
    for spec in places:
        assert f"Left out: {spec}: The network has no layer with a spatial output" in captured.err
        assert parse(spec)[0] not in record.models[0].maps
    admitted = {"gradient", "smooth_grad", "integrated_gradients", "expected_gradients", "rise", "extremal"}
    assert admitted < record.models[0].maps.keys()
    assert set(judging.CONTROLS) < record.models[0].maps.keys()
    assert list(record.measures) == ["deletion"]


def test_a_judge_that_needs_evidence_is_refused_where_there_is_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    advex.save(advex.Classifier("mlp:features=64"), tmp_path / "model")
    arguments = [
        "--model",
        "model",
        "--data",
        "digits",
        "--split",
        "test",
        "--judges",
        "pointing",
        "--explainers",
        "gradient",
    ]
    assert run(tmp_path, *arguments) != 0
    assert "locate the labelled object" in capfd.readouterr().err


class OneAnswer(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1]


@pytest.mark.parametrize(
    ("network", "judges", "said"),
    [
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), "pointing", "locate the labelled object"),
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), "deletion", "3 classes"),
        (OneAnswer(), "deletion", "classes >= 2"),
    ],
    ids=["no evidence", "other classes", "one answer"],
)
def test_what_cannot_be_judged_is_refused_before_models_are_asked_to_explain(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    network: torch.nn.Module, judges: str, said: str,
) -> None:  # fmt: skip
    """Trying out the default explainers takes minutes with a large network, and asking about all examples hours."""
    own = ModuleType("judged_network")  # no other test's, whatever shares this process
    monkeypatch.setitem(sys.modules, own.__name__, own)
    monkeypatch.setattr(own, "make", lambda: network, raising=False)
    for name in ("admitted", "rightly_decided"):
        monkeypatch.setattr(judging, name, lambda *given, **named: pytest.fail("it was asked"))
    arguments = ["--model", "judged_network:make", "--size", "1x8x8", "--data", "digits", "--split", "test"]
    assert run(tmp_path, *arguments, "--judges", judges) != 0
    assert said in capfd.readouterr().err


def test_a_judgement_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL once the first explainer is done: the same command makes the rest, and every table is the same file."""
    explainers = "gradient,perceptual:gradients=4,random"
    judges = "localisation,pointing,mass,deletion:steps=4"
    command = ["--model", "builtin:planted", "--data", "planted", "--split", "test", "--max-samples", "6", "-q",
               "--batch-size", "2", "--explainers", explainers, "--judges", judges]  # fmt: skip
    program = [sys.executable, "-m", "advex", "judge", *command, "--out", "broken"]
    process = subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE)
    shards = tmp_path / "broken" / "shards"
    while process.poll() is None and not any(shards.glob("*.map_perceptual.00000.parquet")):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "broken" / "record.json").exists()
    made = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert run(tmp_path, *command, "--out", "broken") == 0
    assert run(tmp_path, *command, "--out", "whole") == 0
    assert {name: (shards / name).stat().st_mtime_ns for name in made} == made, "nothing was done twice"
    for name in ("maps", "examples"):
        first, second = ((tmp_path / out / f"{name}.parquet").read_bytes() for out in ("broken", "whole"))
        assert first == second, name
    first, second = (read_record(tmp_path / out) for out in ("broken", "whole"))
    untimed = {"maps": {"__all__": {"seconds"}}}
    assert first.models[0].model_dump(exclude=untimed) == second.models[0].model_dump(exclude=untimed)
    assert first.differences == second.differences

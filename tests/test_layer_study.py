"""`advex study layers`: every range of layers that a perceptual search may hold, judged; one search for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import advex
from advex.attacks.perceptual import Perceptual as Search
from advex.cli import main
from advex.errors import InputError, SpecError
from advex.evaluation.layer_study import LayerStudy, sigmas_from
from advex.explainers import build
from advex.lookup.models import Opened, open_models
from advex.measures.case import Case
from advex.measures.case import build as measure
from advex.progress import QUIET
from advex.record import Figure, MeasureEntry
from advex.record import layer_study as record
from advex.record.layer_study import read_study
from advex.record.reproduction import ExtraEntry, Reproduction, write_reproduction
from advex.report import write_report
from advex.report.pages.layer_study import content, sentences

FEW: dict[str, Any] = {
    "explainer": "perceptual:gradients=5,guided=true",
    "sigmas": (0.0, 2.5),
    "first": 3,
    "batch_size": 2,
}
JUDGES = ("deletion:steps=4", "pointing", "localisation")


@pytest.fixture(scope="module")
def planted() -> tuple[Opened, Any]:
    (model,) = open_models(["builtin:planted"], "cpu")
    return model, advex.open_dataset("planted", split="test", max_samples=8, seed=0)


@pytest.fixture(scope="module")
def made(planted: tuple[Opened, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, list[str]]:
    """A study, its folder, and the layers of each search that it made."""
    searched: list[str] = []
    find = Search.find
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "find", lambda self, *rest: searched.append(self.layers) or find(self, *rest))
        study = LayerStudy(**FEW, judges=JUDGES)(planted[0], planted[1], folder, QUIET)
    return study, folder, searched


@pytest.mark.parametrize("better", ["high", "low"])
def test_of_many_blurs_the_best_is_shown_and_for_how_many_a_range_is_good(better: str, tmp_path: Path) -> None:
    """Values drawn for three ranges at eight blurs, beside the best and the share by numpy; on both pages."""
    drawn, sigmas = np.random.default_rng(0).uniform(0.3, 1, (4, 8)).round(2), [str(k) for k in range(8)]

    def figure(value: float) -> Figure:
        return Figure(value=value, low=value, high=value, n=9)

    ends = [(None, None), (0, 0), (0, 1), (1, 1)]
    entries = [
        record.RangeEntry(first=first, last=last, flips=figure(0.5),
                          figures={sigma: {"m": figure(value)} for sigma, value in zip(sigmas, row, strict=True)})
        for (first, last), row in zip(ends, drawn.tolist(), strict=True)
    ]  # fmt: skip
    direction: Any = better
    study = record.LayerStudy(
        advex="0", created="2026-01-01T00:00:00+00:00", command="c", seconds=1, seed=0, model="net", source="net",
        data="d", first=9, examples=9, explainer="perceptual", layers=["a", "b"], sigmas=sigmas,
        measures={"m": MeasureEntry(title="M", better=direction, of="placed", spec="m")}, flips={}, ranges=entries,
        above={"m": 0.7},
    )  # fmt: skip
    good = (drawn >= 0.7 if better == "high" else drawn <= 0.7).mean(axis=1)
    best = drawn.max(axis=1) if better == "high" else drawn.min(axis=1)
    of_best, of_shares = content(study)["judged"]
    for made, expected in ((of_best, best), (of_shares, good)):
        (heat,) = made.heat_maps
        assert [float(f"0{square.text}".replace("01.", "1.")) for square in heat.squares] == pytest.approx(
            expected[1:].round(2), abs=0.006
        )
        assert float(heat.none) == pytest.approx(expected[0], abs=0.006)
    (framed,) = [place for place, square in enumerate(of_best.heat_maps[0].squares) if square.best]
    assert framed == (best[1:].argmax() if better == "high" else best[1:].argmin())
    assert ("at least" in of_shares.title, "at most" in of_shares.title) == (better == "high", better == "low")
    (tmp_path / "records").mkdir()
    record.write_study(tmp_path / "records", study)
    assert "share of 8 blurs" in write_report(tmp_path / "records").read_text(encoding="utf-8")
    extra = ExtraEntry(id="fig5", title="Layers", caption="As Fig. 5.", record="records")
    missing = extra.model_copy(update={"id": "fig7", "record": "nowhere"})
    write_reproduction(tmp_path, Reproduction(
        advex="0", created="2026-01-01T00:00:00+00:00", command="c", paper="p", title="t", citation="c", scale="s",
        summary="s", seed=0, tables=[], extras=[extra, missing],
    ))  # fmt: skip
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="fig5"' in html
    assert "share of 8 blurs" in html
    assert 'id="fig7"' not in html


def test_every_range_is_searched_once_whatever_the_blurs(made: Any) -> None:
    """Three layers have six ranges, of two batches each. The first of all asks whether model and measures fit."""
    study, _, searched = made
    assert study.layers == ["network.body.2", "network.body.5", "network.body.8"]
    ranges = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    assert [(entry.first, entry.last) for entry in study.ranges] == [(None, None), *ranges]
    wanted = ["relu:all"] * 10 + ["relu:0"] * 2 + [f"relu:{i}-{j}" for i, j in ranges for _ in range(2)]
    assert searched == ["relu:all", *wanted]


@pytest.mark.parametrize("held", [None, (0, 1), (2, 2)])
def test_its_figures_are_those_of_the_explainer_with_these_layers_and_this_blur(
    made: Any, planted: Any, held: Any
) -> None:
    study, (model, data) = made[0], planted
    layers = "layers=relu:0,perceptual=0" if held is None else f"layers=relu:{held[0]}-{held[1]}"
    batch, target = data.batch(slice(0, 3)), data.y[:3]
    entry = next(each for each in study.ranges if (each.first, each.last) == (held or (None, None)))
    for sigma in study.sigmas:
        explainer = build(f"perceptual:gradients=5,guided=true,sigma={sigma},{layers}")
        explanation: Any = explainer(model.classifier, batch.x, target)
        case = Case(
            classifier=model.classifier, x=batch.x, y=batch.y, explainer=explainer, explanation=explanation,
            evidence=data.evidence.take(range(3)),
        )  # fmt: skip
        for key, spec in (("deletion", "deletion:steps=4"), ("pointing", "pointing"), ("localisation", "localisation")):
            answer: Any = measure(spec)(case)
            values = answer.values[""] if hasattr(answer, "values") else answer
            assert entry.figures[sigma][key].value == pytest.approx(float(values.mean()), abs=1e-5), (sigma, key)
        lost = explanation.after.argmax(dim=1) != target
        assert entry.flips.value == pytest.approx(float(lost.double().mean()))


def test_how_many_lose_their_class_at_each_weight(made: Any, planted: Any) -> None:
    study, (model, data) = made[0], planted
    batch = data.batch(slice(0, 3))
    for weight, figure in study.flips.items():
        explained: Any = build(f"perceptual:gradients=5,perceptual={weight}")(model.classifier, batch.x, batch.y)
        after = explained.after
        assert figure.value == pytest.approx(float((after.argmax(dim=1) != batch.y).double().mean())), weight
    chosen = {weight: figure.value for weight, figure in study.flips.items()}
    assert list(chosen) == ["10000", "1000", "100", "10", "1"]


def test_a_study_that_is_stopped_goes_on_to_the_same_figures(
    made: Any, planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the fifth search; the same call makes only what is missing."""
    model, data = planted
    searched: list[str] = []
    find = Search.find

    def breaks(self: Search, *rest: Any) -> Any:
        searched.append(self.layers)
        if len(searched) == 15:
            raise KeyboardInterrupt
        return find(self, *rest)

    monkeypatch.setattr(Search, "find", breaks)
    with pytest.raises(KeyboardInterrupt):
        LayerStudy(**FEW, judges=JUDGES)(model, data, tmp_path, QUIET)
    study = LayerStudy(**FEW, judges=JUDGES)(model, data, tmp_path, QUIET)
    assert len(searched) == len(made[2]) + 2, "the broken one, and once more whether all fits"
    changing = {"created", "seconds", "command"}
    assert study.model_dump(exclude=changing) == made[0].model_dump(exclude=changing)
    assert read_study(tmp_path).ranges == study.ranges


def test_the_page_shows_each_range_and_marks_the_best(made: Any) -> None:
    study = made[0]
    deletion, pointing, localisation = content(study)["judged"]
    assert [len(heat.squares) for heat in deletion.heat_maps] == [6, 6]
    for key, judged, pick in (
        ("deletion", deletion, min),
        ("pointing", pointing, max),
        ("localisation", localisation, max),
    ):
        values = {
            (sigma, entry.first, entry.last): figure.value
            for sigma in study.sigmas for entry, figure in study.cells(key, sigma) if entry.first is not None
        }  # fmt: skip
        entry, sigma = study.best(key)
        assert values[sigma, entry.first, entry.last] == pick(values.values())
        marked = [(heat.sigma, square) for heat in judged.heat_maps for square in heat.squares if square.best]
        assert [(at, square.x // 38, square.y // 38) for at, square in marked] == [(sigma, entry.last, entry.first)]
        strongest = max(square.strength for heat in judged.heat_maps for square in heat.squares)
        assert marked[0][1].strength == strongest


def test_a_best_is_one_that_beats_no_layers(made: Any) -> None:
    """All settings alike: none is preferred. One better: it is named; two: the other is counted."""
    study = made[0]

    def said(*values: float) -> str:
        own = dict(enumerate(values, 1))
        ranges = []
        for place, entry in enumerate(study.ranges):
            one = {sigma: {**figures, "pointing": figures["pointing"].model_copy(update={"value": own.get(place, 0.5)})}
                   for sigma, figures in entry.figures.items()}  # fmt: skip
            ranges.append(entry.model_copy(update={"figures": one}))
        changed = study.model_copy(update={"ranges": ranges, "sigmas": study.sigmas[:1]})
        return next(each for each in sentences(changed) if each.startswith(study.measures["pointing"].title))

    assert "no range is better than no perceptual term" in said()
    assert "no range is better" in said(0.4)
    assert "other setting" not in said(0.9)
    assert " and 1 other setting; without" in said(0.9, 0.9)


@pytest.mark.parametrize("explainer", ["perceptual:layers=relu:0", "perceptual:sigma=3"])
def test_what_the_study_varies_is_not_fixed(explainer: str) -> None:
    with pytest.raises(SpecError, match="varied by the study"):
        LayerStudy(explainer=explainer)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def study(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["advex", *arguments, "-q"])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return study


def test_from_the_command_line(run: Callable[..., Any], tmp_path: Path) -> None:
    study = ["study", "layers", "--model", "builtin:planted", "--data", "planted", "--split", "test", "--out", "study",
             "--explainer", "perceptual:gradients=3", "--first", "2", "--judge", "removal", "--sigma", "0"]  # fmt: skip
    code, out, err = run(*study)
    assert code == 0, err
    assert "With all 3 layers kept, the class is lost in these shares of 2 examples: " in out
    page = (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
    assert page.count("<rect") == 12, "deletion and insertion, six ranges each"
    plain = json.loads(run(*study, "--json")[1])
    assert list(plain["measures"]) == ["deletion", "insertion"]
    judge = ("judge", "--model", "builtin:planted", "--data", "planted", "--split", "test")
    rest = ("--max-samples", "3", "--explainers", "gradient", "--judges", "gini", "--out", "rest")
    code, _, err = run(*judge, "--skip", "2", *rest)
    assert code == 0, err
    whole = advex.open_dataset("planted", split="test")
    ids = [row["id"] for row in advex.record.read_rows(tmp_path / "rest", "examples")]
    assert len(ids) == 3
    assert not set(ids) & set(whole.ids[:2])
    code, _, err = run(*judge, "--skip", "9999")
    assert (code, err.count("\n")) == (2, 1)
    assert "--skip 9,999 leaves none" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"explainer": "gradient"}, "does not hold any layers"),
        ({"sigmas": (-1.0,)}, "from 0 to 1,000"),
        ({"sigmas": (float("nan"),)}, "from 0 to 1,000"),
        ({"sigmas": (1e9,)}, "from 0 to 1,000"),
        ({"judges": ("gni",)}, "gini"),
        ({"explainer": "perceptual:target=2"}, "target"),
    ],
)
def test_what_cannot_be_studied_is_said_before_any_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        _ = LayerStudy(**options).plan
    with pytest.raises(SpecError, match="numbers of pixels"):
        sigmas_from("0,two")


def test_data_and_networks_that_do_not_fit(tmp_path: Path) -> None:
    (model,) = open_models(["builtin:planted"], "cpu")
    digits = advex.open_dataset("digits", split="test", max_samples=4, seed=0)
    with pytest.raises((InputError, SpecError)):
        LayerStudy(judges=JUDGES)(model, digits, tmp_path / "a", QUIET)
    torch.manual_seed(0)
    flat = Opened(
        name="flat", source="flat", classifier=advex.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    )
    with pytest.raises(InputError, match="no activation module"):
        LayerStudy(judges=("gini",))(flat, digits, tmp_path / "b", QUIET)
    with pytest.raises(SpecError, match="boxes or outlines"):
        LayerStudy(judges=("pointing",))(flat, digits, tmp_path / "c", QUIET)

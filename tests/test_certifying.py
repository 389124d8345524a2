"""Certificates in evaluations: a classifier whose smoothed form is known, interruptions, records old and new."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from torch import Tensor

import advex
from advex import record as schema
from advex.__main__ import main
from advex.data import Dataset, open_dataset
from advex.errors import ArtifactError, SpecError
from advex.evaluation import Interrupted, Settings, certificates, evaluate, settings_from
from advex.evaluation.merge import merge
from advex.measures.certified import Certify
from advex.report import write_report

SIGMA, SAMPLES = 0.25, 400
QUICK: dict[str, Any] = {
    "attack": "algorithm1:steps=40",
    "btr": "algorithm1:steps=5",
    "explanations": 0,
    "recheck": 0,
    "batch_size": 16,
    "certify": SIGMA,
    "certify_samples": SAMPLES,
    "certify_examples": 20,
}
NAMES = ("prediction", "correct", "radius_l2", "rmse", "candidate", "hits", "lower")


def quick(**changes: Any) -> Settings:
    return Settings(**{**QUICK, **changes})


@pytest.fixture(scope="module")
def models(digits: SimpleNamespace) -> list[tuple[str, str, advex.Classifier]]:
    return [("net", "runs/net", digits.classifier)]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_dataset("digits", split="test").sample(48, seed=1)


@pytest.fixture(scope="module")
def done(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder, events = tmp_path_factory.mktemp("certified") / "out", []
    made = evaluate(models, data, folder, quick(), progress=events.append)
    return SimpleNamespace(folder=folder, record=made, events=events, rows=schema.read_rows(folder, "examples"))


def same(folder: Path, other: Path) -> None:
    """Both records say the same of every example and model."""
    first, second = (pq.read_table(at / "examples.parquet") for at in (folder, other))
    assert first.equals(second)
    told = [schema.read_record(at).model_dump(exclude={"created", "seconds", "environment"}) for at in (folder, other)]
    assert told[0] == told[1]


# -- a smoothed classifier that is known -------------------------------------------------------------------


def test_of_a_half_space_everything_is_known(toys: SimpleNamespace, tmp_path: Path) -> None:
    """A half-space smoothed is the same half-space: p = Phi(distance / sigma), and the true radius is the distance."""
    normal, d = torch.tensor([3.0, -1.0, 2.0, 0.5], dtype=torch.float64), 4
    plane = toys.affine(torch.stack([normal, torch.zeros(d, dtype=torch.float64)]), torch.tensor([-2.0, 0.0]))
    x = torch.rand(120, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    signed = (x @ normal - 2) / normal.norm()
    truth = (signed < 0).long()
    y = torch.where(torch.arange(120) % 10 == 0, 1 - truth, truth)  # every tenth label is not what it answers
    data = Dataset(name="plane", x=x, y=y, class_names=("a", "b"), ids=tuple(map(str, range(120))))
    asked = quick(attack="minimal:gradients=40", certify_samples=2000, certify_examples=80)
    made = evaluate([("m", "m", plane)], data, tmp_path, asked).models[0]
    rows = [row for row in schema.read_rows(tmp_path, "examples") if row["certify_hits"] is not None]
    assert len(rows) == 80
    for row in rows:
        i = row["example"]
        distance, right = abs(signed[i].item()), bool(truth[i] == y[i])
        assert row["certify_radius_l2"] <= distance  # alpha = 0.001: of 80, one above it would be a rare exception
        assert row["certify_rmse"] == pytest.approx(row["certify_radius_l2"] / 2)
        p = stats.norm.cdf(distance / SIGMA)
        if row["certify_candidate"] == truth[i]:
            assert abs(row["certify_hits"] - 2000 * p) <= 5 * math.sqrt(2000 * p * (1 - p)) + 1
        lower = stats.beta.ppf(0.001, row["certify_hits"], 2001 - row["certify_hits"])
        claimed = SIGMA * stats.norm.ppf(lower) if lower > 0.5 else 0.0
        assert row["certify_lower"] == pytest.approx(lower, rel=1e-9)
        assert row["certify_prediction"] == (row["certify_candidate"] if lower > 0.5 else -1)
        assert row["certify_correct"] == (right and lower > 0.5)
        assert row["certify_radius_l2"] == pytest.approx(claimed if right else 0.0, rel=1e-9)
    told = made.certified
    assert told is not None
    assert told.crossed == 0  # the attack is on the very classifier that is certified
    assert made.scores["certified_ara"].value < told.attack_ara.value
    assert told.gap.value == pytest.approx(told.attack_ara.value - made.scores["certified_ara"].value)
    assert told.gap.low > 0
    # No bound reaches beyond where all draws agree; up to there little is lost.
    assert told.largest == pytest.approx(SIGMA * stats.norm.ppf(0.001 ** (1 / 2000)) / 2)
    reachable = np.minimum([row["attack_rmse"] for row in rows], told.largest).mean()
    assert 0.75 * reachable < np.mean([row["certify_rmse"] for row in rows]) < reachable


# -- the record --------------------------------------------------------------------------------------------


def test_figures_follow_from_the_table_and_survive_the_file(done: SimpleNamespace, data: Dataset) -> None:
    rows = [row for row in done.rows if row["certify_rmse"] is not None]
    assert len(rows) == 20
    assert all(row[f"certify_{name}"] is None for row in done.rows if row not in rows for name in NAMES)
    radius = np.array([row["certify_rmse"] for row in rows])
    attacked = np.array([row["attack_rmse"] for row in rows])
    entry, scores = done.record.models[0].certified, done.record.models[0].scores
    assert scores["certified_accuracy"].value == np.mean(radius > 0) > 0.5
    assert scores["certified_accuracy"].n == scores["certified_ara"].n == entry.examples == 20

    def area(of: np.ndarray) -> float:
        edges = np.unique(np.append(of, 0.0))
        heights = [max(0.0, float(np.mean(of > left)) - data.chance) for left in edges[:-1]]
        return float(np.dot(heights, np.diff(edges)))

    assert scores["certified_ara"].value == pytest.approx(area(radius))
    assert scores["certified_ara"].low < area(radius) < scores["certified_ara"].high
    assert entry.attack_ara.value == pytest.approx(area(attacked)) != scores["attack_ara"].value
    assert entry.accuracy.value == np.mean([row["prediction"] == row["label"] for row in rows])
    assert entry.abstained == sum(row["certify_prediction"] == -1 for row in rows)
    assert entry.crossed == int(np.sum(attacked < radius))
    assert entry.overclaimed == stats.binom.ppf(0.975, 20, 0.001)
    assert (entry.sigma, entry.selection, entry.samples, entry.alpha) == (SIGMA, 100, SAMPLES, 0.001)
    assert schema.read_record(done.folder).models == done.record.models
    shown = json.loads(schema.summary(done.record, done.folder))["models"]["net"]
    assert shown["certified_ara"]["value"] == scores["certified_ara"].value


def test_certificates_are_those_of_certify(done: SimpleNamespace, models: list, data: Dataset) -> None:
    chosen = [row["example"] for row in done.rows if row["certify_rmse"] is not None]
    found = Certify(sigma=SIGMA, samples=SAMPLES)(models[0][2], data.x[chosen].float() / 255, data.y[chosen], seed=0)
    for name in NAMES:
        assert [done.rows[i][f"certify_{name}"] for i in chosen] == getattr(found, name).tolist()


def test_a_record_without_certificates_is_as_it_was(models: list, data: Dataset, tmp_path: Path) -> None:
    some, out = data.take(slice(0, 6)), tmp_path / "out"
    made = evaluate(models, some, out, quick(certify=None))
    assert made.models[0].certified is None
    assert not any("certif" in key for key in made.models[0].scores)
    assert not any("certif" in key for key in schema.read_rows(out, "examples")[0])
    # A folder, and a record, from before there were certificates.
    identity = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert not any("certify" in key for key in identity["settings"])
    old = json.loads((out / "record.json").read_text(encoding="utf-8"))
    old["settings"] = {key: value for key, value in old["settings"].items() if "certify" not in key}
    del old["models"][0]["certified"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "record.json").write_text(json.dumps(old), encoding="utf-8")
    for name in ("examples", "explanations"):
        (tmp_path / "old" / f"{name}.parquet").write_bytes((out / f"{name}.parquet").read_bytes())
    assert schema.read_record(tmp_path / "old").models == made.models
    assert 'id="certified"' not in write_report(tmp_path / "old").read_text(encoding="utf-8")
    assert len(merge([tmp_path / "old", out], tmp_path / "both").models) == 2


def test_a_certificate_without_its_scores_is_no_record(done: SimpleNamespace, tmp_path: Path) -> None:
    text = json.loads((done.folder / "record.json").read_text(encoding="utf-8"))
    del text["models"][0]["scores"]["certified_ara"]
    (tmp_path / "record.json").write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(ArtifactError, match="not a record"):
        schema.read_record(tmp_path)


# -- which examples ----------------------------------------------------------------------------------------


def test_certified_examples_are_a_simple_random_sample() -> None:
    assert certificates.sampled(5, 9, 0) == [0, 1, 2, 3, 4]
    drawn = [certificates.sampled(30, 10, seed) for seed in range(600)]
    assert all(len(set(rows)) == 10 and rows == sorted(rows) for rows in drawn)
    assert set(drawn[0]) < set(certificates.sampled(30, 11, 0))  # a larger number keeps the smaller's
    often = np.bincount(np.concatenate(drawn), minlength=30)
    assert abs(often - 200).max() < 5 * math.sqrt(600 * 2 / 9)
    # Pairs too, as without replacement: 10 / 30 * 9 / 29.
    together = sum({3, 17} <= set(rows) for rows in drawn)
    assert abs(together - 600 * 9 / 87) < 5 * math.sqrt(600 * 9 / 87)


# -- shards ------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_shards_nor_on_how_searches_are_made(
    done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list((done.folder / "shards").glob("net.certify.*"))) == 1
    monkeypatch.setattr(certificates, "PASSES", 3 * (SAMPLES + 100) + 7)
    evaluate(models, data, tmp_path / "small", quick())
    assert len(list((tmp_path / "small" / "shards").glob("net.certify.*"))) == 7  # three each, two in the last
    same(done.folder, tmp_path / "small")
    evaluate(models, data, tmp_path / "half", quick(bfloat16=True, batch_size=7))
    rows = schema.read_rows(tmp_path / "half", "examples")
    assert [[row[f"certify_{n}"] for n in NAMES] for row in rows] == [
        [row[f"certify_{n}"] for n in NAMES] for row in done.rows
    ]


def test_the_published_number_of_draws_makes_small_shards() -> None:
    spans = certificates.spans(Certify(), range(500))
    assert [row for span in spans for row in span] == list(range(500))
    assert max(map(len, spans)) <= 4
    assert [len(span) for span in certificates.spans(Certify(samples=10**6), range(3))] == [1, 1, 1]


def test_stopped_anywhere_it_goes_on_to_the_same_figures(
    done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "PASSES", 5 * (SAMPLES + 100))  # four shards
    out, certified = tmp_path / "out", []

    def note(event: dict[str, Any]) -> None:
        if event["phase"] == "certify" and event["done"]:
            certified.append((event["done"], event["total"], event["rate"] is None))

    with pytest.raises(Interrupted):
        evaluate(models, data, out, quick(), progress=note, stop=lambda: len(certified) == 2)
    assert certified == [(5, 20, False), (10, 20, False)]
    assert not (out / "record.json").exists()
    with pytest.raises(ArtifactError, match=r"settings\.certify is 0\.25 there and 0\.5 here"):
        evaluate(models, data, out, quick(certify=0.5))
    with pytest.raises(ArtifactError, match=r"settings\.certify_examples is 20 there and 30 here"):
        evaluate(models, data, out, quick(certify_examples=30))
    with pytest.raises(ArtifactError, match=r"settings\.certify is 0\.25 there and missing here"):
        evaluate(models, data, out, quick(certify=None))
    certified.clear()
    evaluate(models, data, out, quick(), progress=note)
    assert certified == [(5, 20, True), (10, 20, True), (15, 20, False), (20, 20, False)]
    same(done.folder, out)


# -- settings and flags ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"certify": 0}, "certify = 0 is not valid: it must be above 0"),
        ({"certify": math.inf}, "certify = inf is not valid"),
        ({"certify": math.nan}, "certify = nan is not valid"),
        ({"certify_samples": 9}, "certify_samples = 9 is not valid"),
        ({"certify_examples": 0}, "certify_examples = 0 is not valid"),
        ({"certifi": 0.1}, "did you mean 'certify'"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        settings_from(values)


def test_what_the_noise_destroys_is_flagged(done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path) -> None:
    def flags(record: schema.Record) -> dict[str, schema.Flag]:
        return {flag.code: flag for flag in record.flags}

    assert "few_certified" in flags(done.record)
    assert "noise" not in flags(done.record)
    loud = evaluate(models, data, tmp_path / "loud", quick(certify=1.0, certify_examples=48, certify_samples=50))
    assert "few_certified" not in flags(loud)  # all there are: few_examples says it
    assert "(sigma 1)" in flags(loud)["noise"].message
    assert "objective.noise.std=1 " in flags(loud)["noise"].remedy


# -- as a user runs it -------------------------------------------------------------------------------------


def advex_in(folder: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """`advex ...` in that folder: exit code, stdout, stderr."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["advex", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    captured = capfd.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_on_the_command_line(digits: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = advex.Classifier(digits.classifier.spec)
    other.load_state_dict(digits.classifier.state_dict())
    with torch.no_grad():
        last: Tensor = list(other.parameters())[0]
        last.mul_(0.9)
    for name, classifier in (("net", digits.classifier), ("dull", other)):
        advex.save(classifier, tmp_path / name)
    asked = ["--data", "digits", "--size", "1x8x8", "--max-samples", "24", "--explanations", "0"]
    asked += ["--attack", "algorithm1:steps=40", "--btr", "algorithm1:steps=80"]
    certify = ["--certify", "0.25", "--certify-samples", "60", "--certify-examples", "10"]
    code, out, err = advex_in(tmp_path, capfd, "evaluate", "-m", "net", *asked, *certify, "--out", "a")
    assert code == 0, err
    assert "certified ARA" in out
    assert "net: certify: 10/10" in err
    record = schema.read_record(tmp_path / "a")
    entry = record.models[0].certified
    assert entry is not None
    assert (entry.sigma, entry.samples, entry.examples) == (0.25, 60, 10)
    assert f"{record.models[0].scores['certified_ara'].value:.4f} [" in out
    code, _, err = advex_in(tmp_path, capfd, "evaluate", "-m", "dull", *asked, *certify, "--out", "b", "-q")
    assert code == 0, err
    # Finished records put together are the models evaluated at once.
    code, out, err = advex_in(tmp_path, capfd, "compare", "a", "b", "--out", "later")
    assert code == 0, err
    code, _, err = advex_in(tmp_path, capfd, "compare", "-m", "net,dull", *asked, *certify, "--out", "once", "-q")
    assert code == 0, err
    later, once = (schema.read_record(tmp_path / name) for name in ("later", "once"))
    assert later.models == once.models
    assert later.differences == once.differences
    assert [one.measure for one in once.differences][-2:] == ["certified_accuracy", "certified_ara"]
    assert "net - dull" in out
    for name in ("later", "once"):
        assert 'data-band="dull"' in (tmp_path / name / "report.html").read_text(encoding="utf-8")
    # Not with one that was not certified, nor with the details alone.
    code, _, err = advex_in(tmp_path, capfd, "evaluate", "-m", "net", *asked, "--out", "plain", "-q")
    assert code == 0, err
    code, _, err = advex_in(tmp_path, capfd, "compare", "a", "plain", "--out", "mixed")
    assert (code, "certify is 0.25 there and None here" in err) == (1, True)
    code, _, err = advex_in(tmp_path, capfd, "evaluate", "-m", "net", *asked, "--certify-samples", "60")
    assert (code, "--certify-samples needs --certify SIGMA" in err) == (2, True)

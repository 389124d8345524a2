"""Evaluations of small networks on real digits: figures recomputed from the files, SIGKILL, and deserved flags."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import advex
from advex import record as schema
from advex.classifier import Classifier
from advex.data import Dataset, Skipped, open_dataset
from advex.drawing.numbers import percent
from advex.environment import without_places
from advex.errors import AdvexWarning, ArtifactError, DataError, InputError, SpecError
from advex.evaluation import Interrupted, Settings, evaluate, settings_from
from advex.evaluation.examples import spread
from advex.evaluation.scores import area_contrasts, bounded, median
from advex.measures import compare_areas
from advex.types import FLAT

# Small searches: what is tested is the bookkeeping, not the attack.
QUICK: dict[str, Any] = {
    "attack": "algorithm1:steps=40",
    "btr": "algorithm1:steps=40",
    "explanations": 3,
    "sweep": 1,
    "sweep_rhos": (0.0, 0.05, 0.1),
    "steps": 10,
    "recheck": 8,
    "batch_size": 16,
}
SEARCHED = ("rmse", "size", "reached", "gradients", "queries", "flat", "valid")


def quick(**changes: Any) -> Settings:
    return Settings(**{**QUICK, **changes})


def some_digits(count: int) -> Dataset:
    return open_dataset("digits", split="test").sample(count, seed=1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return some_digits(48)


@pytest.fixture(scope="module")
def models(digits: SimpleNamespace) -> list[tuple[str, str, Classifier]]:
    """A network that has learnt the digits well, and a linear one that has learnt them somewhat."""
    train = open_dataset("digits", split="train").batch(slice(None))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        linear = Classifier("linear:features=64,classes=10")
        optimiser = torch.optim.Adam(linear.parameters(), lr=1e-2)
        for rows in torch.randperm(len(train)).split(64):
            optimiser.zero_grad()
            cross_entropy(linear(train.x[rows]), train.y[rows]).backward()
            optimiser.step()
    linear.eval().requires_grad_(False)
    return [("net", "runs/net", digits.classifier), ("a/line", "runs/line", linear)]


@pytest.fixture(scope="module")
def done(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One evaluation of both models with everything in it."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    events: list[dict] = []
    asked = quick(published=True, batch_size=48)
    made = evaluate(models, data, folder, asked, command="advex evaluate", progress=events.append)
    return SimpleNamespace(
        folder=folder,
        record=made,
        events=events,
        rows=schema.read_rows(folder, "examples"),
        explanations=schema.read_rows(folder, "explanations"),
        scores={model.name: model.scores for model in made.models},
    )


def radii(rows: list[dict], model: str, search: str) -> np.ndarray:
    return np.array([row[f"{search}_rmse"] for row in rows if row["model"] == model])


def area_by_hand(rmse: np.ndarray, chance: float) -> float:
    """The area between A(r) and chance, rectangle by rectangle."""
    edges = np.unique(np.append(rmse, 0.0))
    return sum(
        max(0.0, np.mean(rmse > left) - chance) * (right - left) for left, right in zip(edges, edges[1:], strict=False)
    )


# -- the record ---------------------------------------------------------------------------------------------


def test_record_is_strict_json_and_complete(done: SimpleNamespace, data: Dataset) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (done.folder / "record.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=refuse)
    assert schema.read_record(done.folder).model_dump() == done.record.model_dump()
    json.loads(schema.summary(done.record, done.folder), parse_constant=refuse)
    assert done.record.data.examples == len(done.rows) / 2 == len(data)
    assert done.record.data.chance == data.chance
    assert list(done.record.searches) == ["attack", "btr", "attack_published", "btr_published"]
    assert "steps=40" in done.record.searches["attack"]
    assert "published=true" in done.record.searches["btr_published"]
    assert done.record.seconds > 0
    columns = list(schema.TABLES["examples"]) + [f"{s}_{c}" for s in done.record.searches for c in SEARCHED]
    assert list(done.rows[0]) == columns
    assert list(done.explanations[0]) == list(schema.TABLES["explanations"])


def test_predictions_are_the_classifiers(done: SimpleNamespace, models: list, data: Dataset) -> None:
    x = data.x.float() / 255
    for name, _, classifier in models:
        confidences = classifier(x).softmax(dim=1)
        rows = [row for row in done.rows if row["model"] == name]
        assert [row["example"] for row in rows] == list(range(len(data)))
        assert [row["id"] for row in rows] == list(data.ids)
        assert [row["label"] for row in rows] == data.y.tolist()
        assert [row["prediction"] for row in rows] == confidences.argmax(dim=1).tolist()
        own = confidences[torch.arange(len(x)), data.y]
        # Other batch sizes round differently.
        np.testing.assert_allclose([row["label_confidence"] for row in rows], own, atol=1e-6)
        np.testing.assert_allclose([row["confidence"] for row in rows], confidences.amax(dim=1), atol=1e-6)


def test_scores_follow_from_the_table(done: SimpleNamespace, data: Dataset) -> None:
    for name, scores in done.scores.items():
        rows = [row for row in done.rows if row["model"] == name]
        right = np.array([row["prediction"] == row["label"] for row in rows])
        assert scores["accuracy"].value == right.mean()
        for search in done.record.searches:
            rmse = radii(done.rows, name, search)
            exact, figure = area_by_hand(rmse, data.chance), scores[f"{search}_ara"]
            if "published" in search:  # a histogram of 1,000 bins: at most one bin lower
                assert exact - rmse.max() / 1000 <= figure.value < exact
            else:
                assert figure.value == pytest.approx(exact, rel=1e-12)
            assert figure.low < exact < figure.high
            assert (figure.n, figure.failures) == (len(rows), 0)
            spent = np.mean([row[f"{search}_gradients"] for row in rows])
            assert scores[f"{search}_gradients"].value == pytest.approx(spent)
        assert (radii(done.rows, name, "attack") > 0).tolist() == right.tolist()
        positive = np.sort(radii(done.rows, name, "attack")[right])
        assert scores["attack_rmse_median"].value == positive[(len(positive) - 1) // 2]
        moved = [row for row in rows if row["attack_published_rmse"] > 0]
        assert scores["attack_published_valid"].value == np.mean([row["attack_published_valid"] for row in moved])


def test_searches_that_keep_to_the_box_are_valid_and_published_ones_are_not_always(done: SimpleNamespace) -> None:
    for row in done.rows:
        for search in ("attack", "btr"):
            assert row[f"{search}_valid"] == row[f"{search}_reached"] == math.isfinite(row[f"{search}_rmse"])
        for search in ("attack_published", "btr_published"):
            assert row[f"{search}_reached"] >= row[f"{search}_valid"]
    assert min(done.scores[name]["attack_published_valid"].value for name in done.scores) < 1
    assert {"published_invalid"} <= {flag.code for flag in done.record.flags}


def test_differences_are_paired(done: SimpleNamespace, data: Dataset) -> None:
    assert [(d.first, d.second, d.measure) for d in done.record.differences] == [
        ("net", "a/line", measure) for measure in ("accuracy", "attack_ara", "btr_ara")
    ]
    for difference in done.record.differences:
        value = done.scores["net"][difference.measure].value - done.scores["a/line"][difference.measure].value
        assert difference.figure.value == pytest.approx(value)
        assert difference.figure.low <= value <= difference.figure.high
    mine = [torch.tensor(radii(done.rows, name, "btr")) for name in ("net", "a/line")]
    score, figure = compare_areas(mine[0], mine[1], data.chance), done.record.differences[2].figure
    assert {difference.comparisons for difference in done.record.differences} == {3}
    assert figure.low <= score.low <= figure.value <= score.high <= figure.high  # one of three that hold together
    (alone,) = bounded(list(area_contrasts("btr_ara", {"net": mine[0], "a/line": mine[1]}, data.chance, seed=0)))
    assert (alone.figure.low, alone.figure.high) == (score.low, score.high)


def test_progress_counts_every_example_of_every_phase(done: SimpleNamespace) -> None:
    last = {(event["model"], event["phase"]): (event["done"], event["total"]) for event in done.events}
    expected = {"predictions": 48, "attack": 48, "btr": 48, "attack_published": 48, "btr_published": 48}
    expected |= {"rechecked": 8, "explained": 3, "swept": 1}
    whole = {(name, phase): (n, n) for name in done.scores for phase, n in expected.items()}
    # So few steps leave a walk something to gain, of one of the two.
    walked = [name for name, phase in last if phase == "by_decisions_alone"]
    assert len(walked) == 1
    assert last == whole | {(walked[0], "by_decisions_alone"): (8, 8)}
    assert all(event["rate"] > 0 for event in done.events if event["done"])
    # What is begun is said before anything of it is done.
    begun = [(event["model"], event["phase"]) for event in done.events if not event["done"]]
    assert begun == list(last)


def test_median_interval_is_that_of_the_order_statistics() -> None:
    figure = median(torch.arange(1.0, 101.0))  # textbook: ranks 40 and 61 of 100
    assert (figure.low, figure.value, figure.high) == (40, 50, 61)
    figure = median(torch.tensor([0.1, 0.2, math.inf]))
    assert (figure.value, figure.low, figure.high, figure.failures) == (pytest.approx(0.2), 0, math.inf, 1)


def test_how_a_model_was_trained_goes_into_the_record(models: list, data: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"epoch": e, "epochs": 2, "loss": 1 / e, "parts": {"psi": 10.0**e}, "seconds": 2.5 * e} for e in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    recipe = f"objective: {{natural: {{weights: {Path.home()}/w}}}}\nepochs: 2\n"
    (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (run / "env.json").write_text(json.dumps({"command": f"advex train {Path.home()}/x"}), encoding="utf-8")
    asked = [("trained", str(run), models[0][2]), ("made", "package.module:factory", models[1][2])]
    made = evaluate(asked, data.take(slice(0, 4)), tmp_path / "out", quick(explanations=0))
    training = made.models[0].training
    assert training is not None
    assert training.curves == {"loss": [1.0, 0.5], "seconds": [2.5, 5.0]}
    assert training.parts == {"psi": [10.0, 100.0]}
    assert training.objective == "natural:weights=~/w"
    assert training.environment == {"command": "advex train ~/x"}
    assert str(Path.home()) not in training.recipe
    assert made.models[1].training is None
    assert schema.read_record(tmp_path / "out") == made


# -- explanations -------------------------------------------------------------------------------------------


def test_examples_to_explain_are_spread_over_the_classes() -> None:
    y = torch.tensor([0] * 50 + [1] * 5 + [2] * 2)
    chosen = spread(y, 7, seed=3)
    assert Counter(y[chosen].tolist()) == {0: 3, 1: 2, 2: 2}
    assert len(set(chosen)) == 7
    assert spread(y, 4, seed=3) == chosen[:4]
    assert spread(y, 7, seed=4) != chosen
    assert sorted(spread(y, 100, seed=3)) == list(range(57))


def test_grid_asks_about_every_class_and_sweep_about_two(done: SimpleNamespace) -> None:
    for name in done.scores:
        rows = [row for row in done.explanations if row["model"] == name]
        grid = [row for row in rows if row["purpose"] == "grid" and row["explainer"] == "toward"]
        assert Counter(row["example"] for row in grid) == {example: 10 for example in {row["example"] for row in grid}}
        assert len(grid) == 30
        assert {row["target"] for row in grid} == set(range(10))
        sweep = [row for row in rows if row["purpose"] == "sweep"]
        ranked = np.argsort(sweep[0]["before"])[::-1]
        assert {(row["target"], row["rho"]) for row in sweep} == {(c, r) for c in ranked[:2] for r in (0.0, 0.05, 0.1)}
        away = {(row["example"], row["target"]) for row in rows if row["explainer"] == "away"}
        asked = {row["example"] for row in grid}
        known = [row for row in done.rows if row["model"] == name and row["example"] in asked]
        assert away == {(r["example"], r[c]) for r in known for c in ("prediction", "label")}


def test_of_many_classes_the_likeliest_and_the_label_are_asked_about(toys: SimpleNamespace, tmp_path: Path) -> None:
    classifier = toys.mlp((1, 4, 4), 12).float()
    x = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = tuple(f"class {i}" for i in range(12))
    many = Dataset(name="many", x=x, y=torch.tensor([0, 3, 5, 7, 9, 11]), class_names=names, ids=tuple("abcdef"))
    for which, expected in (("all", 4), ("runner_up", 1)):
        evaluate([("m", "m", classifier)], many, tmp_path / which, quick(targets=which, pictures=("toward",), sweep=0))
        found = {row["example"]: row for row in schema.read_rows(tmp_path / which, "examples")}
        rows = schema.read_rows(tmp_path / which, "explanations")
        for example in {row["example"] for row in rows}:
            mine = [row for row in rows if row["example"] == example]
            ranked = np.argsort(mine[0]["before"])[::-1].tolist()
            targets = {row["target"] for row in mine}
            assert len(targets) == len(mine) == expected
            wanted = {ranked[1]} if which == "runner_up" else {ranked[0], ranked[1], found[example]["label"]}
            assert wanted <= targets <= {*ranked[:4], found[example]["label"]}


def test_what_is_claimed_of_a_picture_holds_for_the_file(done: SimpleNamespace, models: list, data: Dataset) -> None:
    classifiers = {name: classifier for name, _, classifier in models}

    def opened(name: str) -> Tensor:
        with Image.open(done.folder / name) as picture:
            assert (picture.format, picture.mode) == ("PNG", "L")
            return torch.tensor(np.array(picture))[None]

    for row in done.explanations:
        clean = data.x[row["example"]] / 255
        shown = opened(row["picture"]) / 255
        said = classifiers[row["model"]](shown[None]).softmax(dim=1)[0]
        assert row["png_prediction"] == said.argmax()
        assert row["prediction"] == np.argmax(row["after"])
        torch.testing.assert_close(torch.tensor(row["png_after"]).float(), said, atol=1e-6, rtol=0)
        assert row["rmse"] == pytest.approx(row["rho"], abs=1e-4)
        assert row["png_rmse"] == pytest.approx((shown - clean).square().mean().sqrt().item(), abs=1e-6)
        # Rounding to 8 bits moves an element by at most 1/510.
        assert abs(row["png_rmse"] - row["rmse"]) <= 1 / 510 + 1e-6
    shown = {row["example"]: row["picture"] for row in done.rows if row["picture"] is not None}
    assert shown.keys() == {row["example"] for row in done.explanations}
    for example, name in shown.items():
        assert torch.equal(opened(name), data.x[example])
    listed = {row["picture"] for row in done.explanations} | set(shown.values())
    assert {f"pictures/{path.name}" for path in (done.folder / "pictures").iterdir()} == listed


def test_share_that_reached_its_class_is_counted_on_the_files(done: SimpleNamespace) -> None:
    for model in done.record.models:
        rows = [row for row in done.explanations if row["model"] == model.name and row["rho"] > 0]
        grid = [row for row in rows if row["purpose"] == "grid"]
        toward = [row["png_prediction"] == row["target"] for row in grid if row["explainer"] == "toward"]
        away = [row["png_prediction"] != row["target"] for row in grid if row["explainer"] == "away"]
        assert model.rho_reached["grid_toward"].value == np.mean(toward)
        assert model.rho_reached["grid_away"].value == np.mean(away)
        assert model.rho_reached["sweep_toward"].n == 4


def test_tables_have_no_pictures_and_keep_their_precision(toys: SimpleNamespace, tmp_path: Path) -> None:
    x = torch.rand(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classifier = toys.affine(torch.tensor([[4.0, -2, 0, 1, 0], [0.0, 1, 3, 0, -1]]).double(), torch.zeros(2).double())
    logits = classifier(x).detach()
    y = logits.argmax(dim=1)
    table = Dataset(name="table", x=x, y=y, class_names=("no", "yes"), ids=tuple(map(str, range(20))))
    settings = quick(attack="algorithm1:steps=200", rho=0.4, sweep=0, pictures=("toward",))
    found = evaluate([("line", "line", classifier)], table, tmp_path / "out", settings)
    assert not (tmp_path / "out" / "pictures").exists()
    rows = schema.read_rows(tmp_path / "out", "explanations")
    assert {row[name] for row in rows for name in ("picture", "png_rmse", "png_after", "png_prediction")} == {None}
    hits = [row["prediction"] == row["target"] for row in rows]
    assert found.models[0].rho_reached["grid_toward"].value == np.mean(hits)
    # The radius of a linear model without a box is |logit difference| / |w| / sqrt(5); the box can only add to it.
    least = (logits.diff(dim=1)[:, 0].abs() / torch.tensor([-4.0, 3, 3, -1, -1]).norm() / 5**0.5).numpy()
    rmse = radii(schema.read_rows(tmp_path / "out", "examples"), "line", "attack")
    assert (rmse > least * (1 - 1e-9)).all()
    assert np.median(rmse / least) < 1.02
    assert (rmse != rmse.astype(np.float32)).any()


# -- independence -------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_batch_size(
    done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path
) -> None:
    evaluate(models, data, tmp_path / "out", quick(batch_size=11))
    for table, rows in (("examples", done.rows), ("explanations", done.explanations)):
        again = schema.read_rows(tmp_path / "out", table)
        assert len(again) == len(rows)
        for first, second in zip(rows, again, strict=True):
            for name, value in second.items():
                if isinstance(value, float | list):
                    # Sums over batches of another size round differently, and the steps carry that on.
                    np.testing.assert_allclose(first[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
                else:
                    assert first[name] == value, name


def test_nothing_of_the_models_is_changed(models: list, data: Dataset, tmp_path: Path) -> None:
    name, source, classifier = models[1]
    classifier.train()
    classifier.requires_grad_(True).zero_grad()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    random = torch.random.get_rng_state()
    evaluate([(name, source, classifier)], data.take(slice(0, 4)), tmp_path / "out", quick())
    assert classifier.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    classifier.eval().requires_grad_(False)


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_is_for_the_search_alone(done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path) -> None:
    evaluate(models[:1], data, tmp_path / "out", quick(bfloat16=True, explanations=0))
    rows = schema.read_rows(tmp_path / "out", "examples")
    exact = [row for row in done.rows if row["model"] == "net"]
    assert [row["confidence"] for row in rows] == [row["confidence"] for row in exact]
    assert all(row["attack_valid"] for row in rows)  # judged in float32
    rmse, full = radii(rows, "net", "attack"), radii(exact, "net", "attack")
    assert (rmse != full).any()
    assert rmse.mean() == pytest.approx(full.mean(), rel=0.1)
    assert schema.read_rows(tmp_path / "out", "explanations") == []


def test_a_record_says_what_its_parts_were_made_without(
    models: list, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of searches in bfloat16 that one machine began and one without such instructions went on with."""

    def evaluated(has: bool, **settings: Any) -> str | None:
        for user in ("precision", "evaluation.examples"):
            monkeypatch.setattr(f"advex.{user}.has_bfloat16", lambda device: has)
        (tmp_path / "out" / "record.json").unlink(missing_ok=True)
        made = evaluate(models[:1], data, tmp_path / "out", quick(bfloat16=True, explanations=0, **settings))
        return made.environment.get("bfloat16")

    assert evaluated(True) is None
    parts = len(shard_times(tmp_path / "out"))
    assert evaluated(False) is None, "everything was made by the first"
    next((tmp_path / "out" / "shards").glob("*attack*.parquet")).unlink()
    assert evaluated(False) == f"float32 in its place in 1 of {parts} parts"
    shutil.rmtree(tmp_path / "out")
    assert evaluated(False) == "float32 in its place"


# -- stopping, crashing, resuming ---------------------------------------------------------------------------


def shard_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("[!.]*.parquet")}


def assert_same_results(folder: Path, other: Path) -> None:
    for table in ("examples", "explanations"):
        assert pq.read_table(folder / f"{table}.parquet").equals(pq.read_table(other / f"{table}.parquet"))
    first, second = (
        schema.read_record(at).model_dump(exclude={"created", "seconds", "environment"}) for at in (folder, other)
    )
    assert first == second
    assert {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()} == {
        path.name: path.read_bytes() for path in (other / "pictures").iterdir()
    }


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(models: list, data: Dataset, tmp_path: Path) -> None:
    for name, _, classifier in models:
        advex.save(classifier, tmp_path / "models" / name)
    out, shards = tmp_path / "out", 2 * (3 * 3 + 4) + 1
    kept: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "models"), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        for enough in (1, 5, 9, 14, 20, math.inf):
            print("evaluate", file=starter.stdin, flush=True)
            process = int(starter.stdout.readline())
            if enough < shards:
                deadline = time.monotonic() + 60
                while len(shard_times(out)) < enough and time.monotonic() < deadline:
                    time.sleep(0.001)
                os.kill(process, signal.SIGKILL)
            code = int(starter.stdout.readline())
            now = shard_times(out)
            assert {name: now.get(name) for name in kept} == kept  # neither redone nor lost
            assert len(kept) < len(now) <= shards
            assert code == (-signal.SIGKILL if enough < shards else 0)
            assert (out / "record.json").exists() == (code == 0)
            kept = now
        starter.stdin.close()
    assert len(kept) == shards
    evaluate(saved_models(tmp_path / "models"), data, tmp_path / "whole", quick())
    assert_same_results(out, tmp_path / "whole")


def start_processes_to_be_killed(models: Path, out: Path) -> None:
    """For each line on stdin: evaluate in a process of its own; print its id, and how it ended."""
    torch.set_num_threads(1)
    asked, data = saved_models(models), some_digits(48)
    for _ in sys.stdin:
        process = os.fork()
        if not process:
            try:
                evaluate(asked, data, out, quick())
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def saved_models(folder: Path) -> list[tuple[str, str, Classifier]]:
    return [(name, name, advex.load(folder / name)) for name in ("net", "a/line")]


def test_asked_to_stop_it_keeps_what_is_finished(models: list, data: Dataset, tmp_path: Path) -> None:
    some, out = data.take(slice(0, 20)), tmp_path / "out"
    pieces = 0

    def count(event: dict) -> None:
        nonlocal pieces
        pieces += event["done"] > 0

    with pytest.raises(Interrupted, match="resumes"):
        evaluate(models[:1], some, out, quick(), progress=count, stop=lambda: pieces == 3)
    kept = shard_times(out)
    made = ("attack.00000", "predictions.00000", "predictions.00001")
    assert sorted(kept) == [f"net.{piece}.parquet" for piece in made]
    events: list[dict] = []
    evaluate(models[:1], some, out, quick(), progress=events.append)
    assert {name: shard_times(out)[name] for name in kept} == kept
    assert [event["rate"] is None for event in events if event["done"]] == [True] * 3 + [False] * 8
    evaluate(models[:1], some, tmp_path / "whole", quick())
    assert_same_results(out, tmp_path / "whole")
    # Finished, it is only put together again; the seconds are those of the work, in whatever run.
    first, times = schema.read_record(out), shard_times(out)
    again = evaluate(models[:1], some, out, quick(), stop=lambda: True)
    assert shard_times(out) == times
    assert again.seconds == first.seconds


def test_half_written_and_damaged_shards_are_made_again(models: list, data: Dataset, tmp_path: Path) -> None:
    some, out = data.take(slice(0, 20)), tmp_path / "out"
    evaluate(models[:1], some, out, quick())
    evaluate(models[:1], some, tmp_path / "whole", quick())
    shards = out / "shards"
    pieces = ("attack.00000", "btr.00001", "explained.00000")
    truncated, flipped, foreign = (shards / f"net.{piece}.parquet" for piece in pieces)
    renamed = shards / "net.attack.00001.parquet"
    truncated.write_bytes(truncated.read_bytes()[:-40])
    held = bytearray(flipped.read_bytes())
    held[60] ^= 0x10  # within the first column's values
    flipped.write_bytes(held)
    evaluate(models[:1], some, tmp_path / "other", quick(seed=5))
    foreign.write_bytes((tmp_path / "other" / "shards" / foreign.name).read_bytes())
    renamed.write_bytes((shards / "net.btr.00000.parquet").read_bytes())
    (shards / ".net.btr.00000.parquet.new").write_bytes(b"killed while writing")
    before = shard_times(out)
    with pytest.warns(AdvexWarning) as told:
        evaluate(models[:1], some, out, quick())
    reasons = {str(warning.message).split(" ")[0]: str(warning.message) for warning in told}
    assert "is damaged" in reasons[str(truncated)]
    assert "is damaged" in reasons[str(flipped)]
    assert "belongs to another" in reasons[str(foreign)]
    assert "belongs to another" in reasons[str(renamed)]
    assert {name for name, at in shard_times(out).items() if before[name] != at} == {
        path.name for path in (truncated, flipped, foreign, renamed)
    }
    assert_same_results(out, tmp_path / "whole")


def test_a_folder_of_another_evaluation_is_refused_and_kept(models: list, data: Dataset, tmp_path: Path) -> None:
    some, out = data.take(slice(0, 8)), tmp_path / "out"
    one = models[:1]
    evaluate(one, some, out, quick())
    held = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = Dataset(name=some.name, x=some.x.roll(1, 0), y=some.y, class_names=some.class_names, ids=some.ids)
    changed = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    trials = [
        (one, some, quick(seed=1, rho=0.2), r"settings\.rho is 0\.1 there and 0\.2 here; settings\.seed is 0 there"),
        (one, some, quick(attack="l2min"), r"searches\.attack is algorithm1:.* there and l2min:"),
        (one, some, quick(published=True), r"searches\.attack_published is missing there"),
        (one, other, quick(), r"data\.digest is"),
        (one, some.take(slice(0, 4)), quick(), r"data\.examples is 8 there and 4 here"),
        ([("net", "runs/net", changed)], some, quick(), r"models\.net is"),
        ([("new", "runs/net", one[0][2])], some, quick(), r"models\.net is .* there and missing here; models\.new"),
    ]
    for asked, examples, settings, message in trials:
        with pytest.raises(ArtifactError, match=message):
            evaluate(asked, examples, out, settings)
    with pytest.raises(ArtifactError, match="already contains this evaluation"):
        evaluate(one, some, out, quick(), resume=False)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == held
    # The same search in other words is the same evaluation.
    evaluate(one, some, out, quick(attack="algorithm1: steps=40, eta=0.55 ,"))
    # What another form began cannot be told from what differs: its form is named, not the names of its values.
    owner = json.loads((out / "evaluation.json").read_text())
    earlier = {key: value for key, value in owner.items() if key != "schema"} | {"searches": {}}
    (out / "evaluation.json").write_text(json.dumps(earlier))
    with pytest.raises(ArtifactError, match=r"schema 1\), which this version \(schema \d+\)"):
        evaluate(one, some, out, quick())
    (out / "evaluation.json").write_text("[1, 2")
    with pytest.raises(ArtifactError, match=r"evaluation\.json does not describe an evaluation"):
        evaluate(one, some, out, quick())
    (out / "evaluation.json").unlink()
    with pytest.raises(ArtifactError, match=r"contains record\.json, .* but no evaluation\.json"):
        evaluate(one, some, out, quick())


def test_a_folder_that_cannot_be_made_is_named(models: list, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="cannot be written"):
        evaluate(models, data, tmp_path / "file" / "out", quick())
    with pytest.raises(Interrupted):
        evaluate(models, data, tmp_path / "out", quick(), stop=lambda: True)
    shutil.rmtree(tmp_path / "out" / "shards")
    (tmp_path / "out" / "shards").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"net\.predictions\.00000\.lock cannot be written: File exists"):
        evaluate(models, data, tmp_path / "out", quick())


def test_models_and_data_must_fit(models: list, data: Dataset, toys: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no examples"):
        evaluate(models, data.take(slice(0, 0)), tmp_path / "a")
    with pytest.raises(SpecError, match="its own name"):
        evaluate([models[0], ("NET", "x", models[1][2])], data, tmp_path / "b")
    with pytest.raises(SpecError, match="at least one model"):
        evaluate([], data, tmp_path / "c")
    with pytest.raises(InputError, match="'few' has 3 classes, .* has 10"):
        evaluate([("few", "few", toys.mlp((1, 8, 8), 3))], data, tmp_path / "d")
    with pytest.raises(SpecError, match="no attack 'minimul'"):
        evaluate(models, data, tmp_path / "e", quick(attack="minimul"))
    assert not list(tmp_path.iterdir())


def test_settings_name_what_is_wrong() -> None:
    assert settings_from({"rho": 0.2}) == Settings(rho=0.2)
    with pytest.raises(SpecError, match="'bacth_size'.*'batch_size'"):
        settings_from({"bacth_size": 3})
    with pytest.raises(SpecError, match="steps = 0 is not valid"):
        settings_from({"steps": 0})
    with pytest.raises(SpecError, match="sweep_rhos.1 = -0.1 is not valid"):
        settings_from({"sweep_rhos": (0.1, -0.1)})
    with pytest.raises(SpecError, match="no option 'gradient'"):
        settings_from({"btr": "minimal:gradient=3"})


# -- trust --------------------------------------------------------------------------------------------------


class Softmaxed(nn.Module):
    """A network that ends in a softmax, and is as sure as it can be."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return (100 * self.network(x)).softmax(dim=1)


class Steps(nn.Module):
    """A good network behind an input in four levels: right, and without gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 3).round() / 3)


class Noisy(nn.Module):
    """A network that adds noise in evaluation mode, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.05 * torch.randn_like(x))


def flags_of(classifier: Classifier, data: Dataset, out: Path, **settings: Any) -> dict[str, schema.Flag]:
    made = evaluate([("m", "m", classifier)], data, out, quick(**{"explanations": 0, **settings}))
    assert all(flag.model in ("m", "") and flag.remedy for flag in made.flags)
    return {flag.code: flag for flag in made.flags}


@pytest.fixture(scope="module")
def hundred() -> Dataset:
    return some_digits(100)


def test_a_sound_evaluation_raises_no_flag(models: list, hundred: Dataset, tmp_path: Path) -> None:
    net = models[0][2]
    assert flags_of(net, hundred, tmp_path / "out", attack="minimal", btr="minimal", explanations=2) == {}


def test_probabilities_are_flagged(models: list, hundred: Dataset, tmp_path: Path) -> None:
    with pytest.warns(AdvexWarning, match="probabilities"):
        found = flags_of(Classifier(Softmaxed(models[0][2].network)), hundred, tmp_path / "out")
    assert {"probabilities", "flat_gradients", "failures"} <= found.keys()
    assert found["probabilities"].severity == "warning"


def test_masked_gradients_are_flagged_and_the_area_is_not_a_number_to_trust(
    models: list, hundred: Dataset, tmp_path: Path
) -> None:
    net = models[0][2].network
    pair = [("m", "m", Classifier(Steps(net))), ("n", "n", Classifier(Steps(net)))]
    made = evaluate(pair, hundred, tmp_path / "out", quick(explanations=0))
    found = {flag.code: flag for flag in made.flags if flag.model == "m"}
    accuracy = made.models[0].scores["accuracy"].value
    assert accuracy > 0.8
    assert found.keys() == {"failures", "infinite_area", "flat_gradients", "gradients_disagree"}
    assert f"{round(100 * accuracy)} of 100 examples" in found["failures"].message
    assert found["flat_gradients"].severity == "warning"
    assert made.models[0].scores["attack_ara"].value == math.inf
    assert made.models[0].scores["attack_ara"].failures == round(100 * accuracy)
    assert math.isnan(made.differences[1].figure.value)
    assert math.isnan(made.differences[1].figure.low)
    read = schema.read_record(tmp_path / "out")
    assert read.models == made.models
    assert json.loads(schema.summary(made, tmp_path))["models"]["m"]["attack_ara"]["value"] is None


class Around(nn.Module):
    """A network with something done around it."""

    def __init__(self, network: nn.Module, do: Any) -> None:
        super().__init__()
        self.network, self.do = network, do

    def forward(self, x: Tensor) -> Tensor:
        return self.do(self.network, x)


@pytest.mark.filterwarnings("ignore:The network returns NaN")
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_no_answer_is_wrong_counted_and_named(models: list, hundred: Dataset, tmp_path: Path, share: float) -> None:
    """Whether a row is answered is decided by its own brightness, in which the rows differ."""
    net, x = models[0][2], hundred.batch(slice(None)).x
    limit = torch.quantile(x.flatten(1).mean(dim=1), share) if share < 1 else torch.tensor(2.0)
    silent = x.flatten(1).mean(dim=1) < limit
    around = Around(net.network, lambda n, x: torch.where(x.flatten(1).mean(1)[:, None] < limit, torch.nan, n(x)))
    made = evaluate([("m", "m", Classifier(around))], hundred, tmp_path / "out", quick(explanations=0))
    right = (net.predict(x).argmax(dim=1) == hundred.y) & ~silent
    assert made.models[0].scores["accuracy"].value == pytest.approx(float(right.double().mean()))
    flags = {flag.code: flag for flag in made.flags}
    assert f"for {int(silent.sum())} of 100 examples" in flags["no_answer"].message
    rows = schema.read_rows(tmp_path / "out", "examples")
    assert all(row["prediction"] == -1 and row["attack_rmse"] == 0 for row, no in zip(rows, silent, strict=True) if no)


@pytest.mark.filterwarnings("ignore:.*maps are doubtful")
def test_what_is_explained_without_a_gradient_is_flagged_and_not_shown(
    models: list, hundred: Dataset, tmp_path: Path
) -> None:
    data, maps = hundred.sample(20, seed=0), ["gradient", "integrated_gradients:steps=4", "feature_ablation"]
    made = evaluate([("m", "m", Classifier(Steps(models[0][2].network)))], data, tmp_path / "out", quick(maps=maps))
    messages = {flag.code: flag.message for flag in made.flags}
    assert "20 of 20 maps" in messages["flat_map"]
    assert "no gradient reached the input" in messages["flat_picture"]
    rows = {row["explainer"]: row for row in schema.read_rows(tmp_path / "out", "maps") if row["example"] == 0}
    for row in rows.values():
        assert (row["gini"] is None or math.isnan(row["gini"])) == (row["explainer"] != "feature_ablation")
    pictures = schema.read_rows(tmp_path / "out", "explanations")
    assert all(row["rmse"] == 0 for row in pictures)
    before = "no gradient reached the input, as far as autograd knows: this is no explanation"  # in its own words then
    for path in (tmp_path / "out" / "shards").glob("*map_*"):
        table = pq.read_table(path)
        kept = table.schema.metadata
        texts = [text and text.replace(FLAT, before) for text in table.column("undefined").to_pylist()]
        index = table.column_names.index("undefined")
        table = table.set_column(index, "undefined", pa.array(texts, pa.string()))
        pq.write_table(table.replace_schema_metadata(kept), path)
    (tmp_path / "out" / "record.json").unlink()
    again = evaluate([("m", "m", Classifier(Steps(models[0][2].network)))], data, tmp_path / "out", quick(maps=maps))
    assert [flag for flag in again.flags if flag.code == "flat_map"] == [f for f in made.flags if f.code == "flat_map"]


MIXING: dict[str, Any] = {
    "batch norm without running statistics: 0": lambda n: nn.Sequential(
        nn.BatchNorm2d(1, track_running_stats=False), n
    ),
    "the rest of the batch: accuracies": lambda n: Around(n, lambda n, x: n(x - x.mean(dim=0))),
}


@pytest.mark.parametrize("words", MIXING)
def test_rows_that_alter_each_other_are_flagged(words: str, models: list, hundred: Dataset, tmp_path: Path) -> None:
    flags = flags_of(Classifier(MIXING[words](models[0][2].network)), hundred, tmp_path / "out")
    assert words in flags["rows_mix"].message


def test_a_constant_network_is_flagged(toys: SimpleNamespace, hundred: Dataset, tmp_path: Path) -> None:
    constant = toys.deaf([2.0] + [0.0] * 9, attached=True)
    found = flags_of(constant, hundred, tmp_path / "out")
    assert {"low_accuracy", "failures", "flat_gradients"} <= found.keys()
    assert percent(float((hundred.y == 0).float().mean())) in found["low_accuracy"].message


def test_a_stochastic_network_is_flagged(models: list, hundred: Dataset, tmp_path: Path) -> None:
    found = flags_of(Classifier(Noisy(models[0][2].network)), hundred, tmp_path / "out")
    assert found["stochastic"].severity == "warning"


def test_areas_of_few_examples_are_said_to_be_too_large(models: list, tmp_path: Path) -> None:
    """The bootstrap's mean less the area, here from other draws of NumPy."""
    data = some_digits(12)
    found = flags_of(models[0][2], data, tmp_path / "out", attack="minimal:gradients=20", recheck=0)
    rmse = np.array([row["attack_rmse"] for row in schema.read_rows(tmp_path / "out", "examples")])
    rng, chance = np.random.default_rng(0), data.chance

    def area(radii: np.ndarray) -> float:
        steps, n = np.diff(np.sort(radii), prepend=0.0), len(radii)
        return float((np.clip(1 - np.arange(n) / n - chance, 0, None) * steps).sum())

    bias = np.mean([area(rng.choice(rmse, len(rmse))) for _ in range(4000)]) / area(rmse) - 1
    said = float(found["area_bias"].message.partition("about ")[2].partition("%")[0])
    assert bias > 0.01
    assert said == pytest.approx(100 * bias, abs=0.5)


def test_a_search_that_would_get_further_is_flagged(models: list, hundred: Dataset, tmp_path: Path) -> None:
    found = flags_of(models[0][2], hundred, tmp_path / "out", attack="algorithm1:steps=3")
    assert "twice the gradients" in found["more_steps"].message
    assert "examples reach the goal" in found["more_steps"].message
    found = flags_of(models[0][2], hundred, tmp_path / "two", attack="algorithm1:steps=12", recheck=64)
    rows = schema.read_rows(tmp_path / "two", "examples")
    parts = [pq.read_table(path).to_pylist() for path in sorted(tmp_path.glob("two/shards/m.rechecked.*"))]
    again = [row for part in parts for row in part]
    assert [len(part) for part in parts] == [16] * 4
    pairs = [(rows[row["example"]]["attack_rmse"], row["size"]) for row in again]
    kept = [pair for pair in pairs if 0 < pair[0] < math.inf and pair[1] < math.inf]
    fall = 1 - sum(after for _, after in kept) / sum(before for before, _ in kept)
    assert fall > 0.02
    assert f"mean RMSE of {len(kept)} falls by {percent(fall)}" in found["more_steps"].message
    assert "more_steps" not in flags_of(models[0][2], hundred, tmp_path / "off", attack="algorithm1:steps=3", recheck=0)


def test_what_is_rechecked_does_not_depend_on_its_pieces(models: list, hundred: Dataset, tmp_path: Path) -> None:
    tables = []
    for size, count in ((3, 7), (64, 2)):
        out = tmp_path / str(size)
        flags_of(models[0][2], hundred, out, attack="minimal:gradients=10", recheck=20, batch_size=size)
        parts = [pq.read_table(path) for path in sorted(out.glob("shards/m.rechecked.*"))]
        assert len(parts) == count
        tables.append(pa.concat_tables(parts))
    one, other = tables
    assert one["example"].to_pylist() == other["example"].to_pylist()
    assert one["constant"].to_pylist() == other["constant"].to_pylist()
    for name, rounding in {"size": 0.0, "walked": 0.0, "error": 0.01}.items():
        assert one[name].to_pylist() == pytest.approx(other[name].to_pylist(), rel=1e-3, abs=rounding, nan_ok=True)


def test_pictures_that_lose_their_class_in_eight_bits_are_flagged(data: Dataset, tmp_path: Path) -> None:
    # One image, right beside the boundary of classes 0 and 1: a change of RMSE 0.0002 crosses it, and is far
    # less than half a level of 8 bits.
    steep = nn.Linear(64, 10)
    with torch.no_grad():
        steep.weight.zero_()
        steep.weight[0] = torch.linspace(-1, 1, 64)
        steep.bias[:] = torch.tensor([-1e-4, 0.0] + [-5.0] * 8)
        steep.bias[0] -= steep.weight[0] @ (data.x[0].flatten() / 255)
    one = data.take(torch.zeros(4, dtype=torch.int64))
    steep_classifier = Classifier(nn.Sequential(nn.Flatten(), steep))
    found = flags_of(steep_classifier, one, tmp_path / "out", explanations=4, rho=0.0002, sweep=0)
    rows = schema.read_rows(tmp_path / "out", "explanations")
    assert all(row["png_rmse"] == 0 for row in rows)
    lost = np.mean([row["prediction"] != row["png_prediction"] for row in rows])
    assert lost > 0
    assert found["png"].message.startswith(percent(float(lost)))


def test_few_skipped_and_renamed_data_are_flagged(models: list, data: Dataset, tmp_path: Path) -> None:
    torn = Dataset(
        name="torn",
        x=data.x[:8],
        y=data.y[:8],
        class_names=data.class_names,
        ids=data.ids[:8],
        skipped=(Skipped("3/torn.png", "truncated."),),
    )
    renamed = Classifier(models[0][2].network, class_names=tuple("1023456789"))
    made = evaluate([("m", "m", renamed)], torn, tmp_path / "out", quick(explanations=0))
    found = {flag.code: flag for flag in made.flags}
    assert {"few_examples", "skipped", "class_names"} <= found.keys()
    assert [found[code].model for code in ("few_examples", "skipped", "class_names")] == ["", "", "m"]
    assert "'1' is called '0'" in found["class_names"].message
    assert made.data.skipped == [("3/torn.png", "truncated.")]


# -- where it ran -------------------------------------------------------------------------------------------


def test_records_name_no_home(models: list, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "ada"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    here = Path.cwd()
    assert without_places(f"advex evaluate {here}/runs/a --data {home}/sets/x --out={here}") == (
        "advex evaluate runs/a --data ~/sets/x --out=."
    )
    assert without_places(f"/other{home}/x") == f"/other{home}/x"
    evaluate(
        [("m", f"{home}/work/runs/net", models[0][2])],
        data.take(slice(0, 2)),
        here / "out",
        quick(),
        command=f"advex evaluate {home}/work/runs/net",
    )
    text = (here / "out" / "record.json").read_text(encoding="utf-8")
    assert str(home) not in text
    assert json.loads(text)["command"] == "advex evaluate runs/net"
    about = json.loads(text)["environment"]
    assert {"advex", "python", "torch", "numpy", "platform", "cpu", "threads", "device"} <= about.keys()
    assert about["torch"] == torch.__version__
    assert os.uname().nodename not in (about["platform"], about["cpu"])


if __name__ == "__main__":
    start_processes_to_be_killed(Path(sys.argv[1]), Path(sys.argv[2]))

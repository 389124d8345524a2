"""Robust accuracy within a radius: exact on linear networks, each search on what is left, nothing asked twice."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import attacks
from advex import record as schema
from advex.attacks.suite import Ball, members, overcome
from advex.classifier import Classifier
from advex.cli import tables
from advex.data import Dataset, open_dataset
from advex.errors import ArtifactError, InputError, SpecError
from advex.evaluation import Interrupted, Settings, evaluate, settings_from
from advex.evaluation.merge import merge
from advex.geometry import as_norm
from advex.goals import Misclassify
from advex.measures import wilson
from advex.report import write_report
from advex.training.validation import robust_accuracy
from advex.types import Perturbation

N = 40
BASE: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "pictures": (), "recheck": 0, "batch_size": 16}
LINF = ("linf:0.1", "linf:0.04")
SUITE = ("apgd:steps=30", "apgd:loss=targeted_dlr,steps=30", "square:queries=30")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_dataset("digits", split="test").sample(N, seed=1)


def linear(seed: int) -> Classifier:
    """A linear network that has learnt some of the digits."""
    train = open_dataset("digits", split="train").batch(slice(None))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier("linear:features=64,classes=10")
        optimiser = torch.optim.Adam(classifier.parameters(), lr=1e-2)
        for rows in torch.randperm(len(train)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(classifier(train.x[rows]), train.y[rows]).backward()
            optimiser.step()
    return classifier.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def models() -> list[tuple[str, str, Classifier]]:
    return [(f"line{seed}", f"runs/{seed}", linear(seed)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def done(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Both networks within two radii of linf and two of l2, with an attack."""
    folder = tmp_path_factory.mktemp("radii") / "out"
    asked = Settings(**{**BASE, "attack": "minimal:gradients=30"}, radius=(*LINF, "l2:0.5", "l2:0.25"),
                     suite=(*SUITE, "minimal:gradients=30"))  # fmt: skip
    made = evaluate(models, data, folder, asked)
    return SimpleNamespace(folder=folder, record=made, rows=schema.read_rows(folder, "examples"))


def rows_of(done: SimpleNamespace, model: str) -> list[dict[str, Any]]:
    return [row for row in done.rows if row["model"] == model]


def worst_margin(classifier: Classifier, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """The least margin of a linear network within an LINF radius and the box: against each class in closed form."""
    layer: Any = next(module for module in classifier.modules() if isinstance(module, nn.Linear))
    margins = []
    for other in range(10):
        way = layer.weight[other] - layer.weight[y]  # [n, 64]
        changed = (x.flatten(1) + radius * way.sign()).clamp(0, 1)
        logits = classifier(changed.reshape(x.shape))
        margin = logits.gather(1, y[:, None])[:, 0] - logits[:, other]
        margins.append(torch.where(y == other, torch.inf, margin))
    return torch.stack(margins).amin(dim=0)


def test_exactly_the_examples_within_the_radius_are_moved(done: SimpleNamespace, models: list, data: Dataset) -> None:
    batch = data.batch(slice(None))
    for name, _, classifier in models:
        right = classifier.predict(batch.x).argmax(dim=1) == batch.y
        for key, radius in (("linf:0.04", 0.04), ("linf:0.1", 0.1)):
            by = [row[f"within_{key}_by"] for row in rows_of(done, name)]
            assert [each is not None for each in by] == right.tolist()
            inner, outer = (worst_margin(classifier, batch.x, batch.y, radius * scale) for scale in (0.99, 1.01))
            for each, fine, surely_moved, surely_left in zip(by, right, inner < 0, outer > 0, strict=True):
                if fine and surely_moved:
                    assert each
                if fine and surely_left:
                    assert each == ""
            assert 0 < sum(each == "" for each in by) < sum(map(bool, right)), "a radius that moves some, not all"


def test_figures_are_those_of_the_rows(done: SimpleNamespace) -> None:
    for model in done.record.models:
        assert list(model.radii) == list(done.record.radii) == ["linf:0.04", "linf:0.1", "l2:0.25", "l2:0.5"]
        for key, figures in model.radii.items():
            by = [row[f"within_{key}_by"] for row in rows_of(done, model.name)]
            stands, right = by.count(""), N - by.count(None)
            for figure, n in ((model.scores[f"robust_accuracy:{key}"], N), (figures.withstood, right)):
                assert (figure.value, figure.n) == (stands / n, n)
                assert (figure.low, figure.high) == wilson(stands, n)
            counted = Counter(each for each in by if each)
            assert figures.moved == {name: counted[name] for name in done.record.radii[key].searches}
            for name in ("gradients", "queries"):
                spent = [row[f"within_{key}_{name}"] for row in rows_of(done, model.name)]
                assert getattr(figures, name) == pytest.approx(sum(spent) / right)


def test_what_is_known_costs_nothing_again(done: SimpleNamespace) -> None:
    """In l2 the attack's changes count as they are, and what a smaller radius came to counts at a larger one."""
    assert list(done.record.radii["l2:0.25"].searches) == ["attack", "apgd", "apgd-2", "square"]  # not minimal again
    assert list(done.record.radii["linf:0.1"].searches) == ["apgd", "apgd-2", "square", "minimal"]
    kinds = Counter()
    for row in done.rows:
        distance = row["attack_rmse"] * 8
        for key, radius in (("l2:0.25", 0.25), ("l2:0.5", 0.5)):
            by, spent = row[f"within_{key}_by"], row[f"within_{key}_gradients"] + row[f"within_{key}_queries"]
            if by is not None and distance <= radius:
                assert (by, spent) == ("attack", 0)
            assert (spent > 0) == (by is not None and (by == "" or by in ("apgd", "apgd-2", "square")))
            assert row[f"within_{key}_distance"] <= distance
        for small, large in (("linf:0.04", "linf:0.1"), ("l2:0.25", "l2:0.5")):
            if row[f"within_{small}_by"]:
                assert row[f"within_{large}_by"]
                assert not row[f"within_{large}_gradients"]
                kinds[large] += 1
    assert kinds["linf:0.1"] > 3
    for model in done.record.models:
        alone = model.radii["l2:0.5"].by_distance
        assert alone is not None
        assert model.scores["robust_accuracy:l2:0.5"].value <= alone.value
        assert model.radii["linf:0.1"].by_distance is None


def test_distances_in_the_attacks_own_norm_count(models: list, data: Dataset, tmp_path: Path) -> None:
    """The search by elements measures its changes in L1: these are kept, and are what they say."""
    asked = Settings(**{**BASE, "attack": "counterfactual:features=1,beam=1"}, radius=("l1:0.5", "linf:0.1"),
                     suite=("apgd:steps=5",))  # fmt: skip
    made = evaluate(models[:1], data.take(slice(0, 12)), tmp_path / "out", asked)
    assert [list(entry.searches) for entry in made.radii.values()] == [["attack", "apgd"], ["apgd"]]
    moved = 0
    for row in schema.read_rows(tmp_path / "out", "examples"):
        # One element changes: L1 is its change, RMSE an eighth of it.
        assert row["attack_size"] == pytest.approx(8 * row["attack_rmse"])
        if 0 < row["attack_size"] <= 0.5:
            assert row["within_l1:0.5_by"] == "attack"
            moved += 1
    assert moved
    assert "Every L1 distance" in write_report(tmp_path / "out").read_text(encoding="utf-8")


def test_training_looks_at_the_same_share(done: SimpleNamespace, models: list, data: Dataset) -> None:
    """`robust_attack` of a recipe may be a suite: the share that it leaves is the evaluation's."""
    suite = f"suite:norm=linf,radius=0.1,searches=({','.join(SUITE)})"
    for (_, _, classifier), model in zip(models, done.record.models, strict=True):
        left = robust_accuracy(classifier, data, suite, N)
        assert left == pytest.approx(model.scores["robust_accuracy:linf:0.1"].value, abs=1.5 / N)


def test_pairs_differ_by_the_share_of_examples(done: SimpleNamespace) -> None:
    lines = {line.measure: line for line in done.record.differences}
    for key in done.record.radii:
        first, second = ([row[f"within_{key}_by"] == "" for row in rows_of(done, name)] for name in ("line0", "line1"))
        line = lines[f"robust_accuracy:{key}"]
        assert line.figure.value == pytest.approx((sum(first) - sum(second)) / N)
        assert line.figure.low <= line.figure.value <= line.figure.high


def test_stopped_and_gone_on_with_in_other_shards(models: list, data: Dataset, tmp_path: Path) -> None:
    pieces = 0

    def count(event: dict[str, Any]) -> None:
        nonlocal pieces
        pieces += event["done"] > 0

    asked = Settings(**BASE, radius=LINF, suite=SUITE)
    with pytest.raises(Interrupted):
        evaluate(models[:1], data, tmp_path / "out", asked, progress=count, stop=lambda: pieces == 5)
    assert pieces == 5
    evaluate(models[:1], data, tmp_path / "out", asked)
    evaluate(models[:1], data, tmp_path / "whole", asked.model_copy(update={"batch_size": N}))
    gone_on, whole = (schema.read_rows(tmp_path / name, "examples") for name in ("out", "whole"))
    for key in LINF:
        assert [row[f"within_{key}_by"] for row in gone_on] == [row[f"within_{key}_by"] for row in whole]
    with pytest.raises(ArtifactError, match="radii"):
        evaluate(models[:1], data, tmp_path / "out", asked.model_copy(update={"radius": ("linf:0.1",)}))


def test_finished_records_are_put_together(done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path) -> None:
    asked = Settings(**BASE, radius=("linf:0.1",), suite=SUITE)
    for name, model in (("a", models[0]), ("b", models[1])):
        evaluate([model], data, tmp_path / name, asked)
    joined = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    before = {line.measure: line.figure for line in done.record.differences}["robust_accuracy:linf:0.1"]
    after = {line.measure: line.figure for line in joined.differences}["robust_accuracy:linf:0.1"]
    assert after.value == before.value
    evaluate([models[1]], data, tmp_path / "c", asked.model_copy(update={"radius": ("linf:0.04",)}))
    with pytest.raises(ArtifactError, match="cannot be compared: .*radi"):
        merge([tmp_path / "a", tmp_path / "c"], tmp_path / "none")


def test_the_page_shows_what_the_record_says(done: SimpleNamespace) -> None:
    page = write_report(done.folder).read_text(encoding="utf-8")
    for model in done.record.models:
        for key, figures in model.radii.items():
            share = f"{100 * model.scores[f'robust_accuracy:{key}'].value:.1f}"
            assert f'data-model="{model.name}" data-measure="robust_accuracy:{key}"><span class="value">{share}' in page
            for name, moved in figures.moved.items():
                assert (f"moved by {name}: {moved}<" in page) == bool(moved)
    for key, title in (("linf:0.1", "L∞ 0.1"), ("l2:0.5", "L2 0.5")):
        assert f"moved by no search within {title}" in page, key
    assert "Every L2 distance" in page
    assert "Every RMSE distance" not in page


# -- gradients that say nothing -----------------------------------------------------------------------------


class Rounded(nn.Module):
    """A network behind an input of few levels: no gradient passes, and decisions change all the same."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 16).round() / 16)


def test_gradients_that_vanish_are_found_out(models: list, data: Dataset, tmp_path: Path) -> None:
    rounded = Classifier(Rounded(models[0][2].network)).eval()
    asked = Settings(**BASE, radius=("linf:0.15",), suite=("apgd:steps=5", "square:queries=200"))
    made = evaluate([("rounded", "x", rounded)], data, tmp_path / "out", asked)
    moved = made.models[0].radii["linf:0.15"].moved
    assert moved["square"] > 3 * max(moved["apgd"], 1)
    codes = {flag.code: flag for flag in made.flags}
    assert codes["gradients_misled"].severity == "warning"
    assert f"{moved['square']} of" in codes["gradients_misled"].message
    assert "flat_gradients" in codes


# -- searches in turn ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Spy:
    """A search that moves what its own one would, and notes how many rows it was given."""

    search: Any
    rows: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, classifier: Classifier, x: Tensor, goal: Any, **more: Any) -> Perturbation:
        self.rows.append(len(x))
        return self.search(classifier, x, goal, **more)


def test_each_search_has_what_those_before_it_left(toys: SimpleNamespace) -> None:
    """A search that is too short, then one of the whole radius, then one that finds nothing more."""
    w = torch.ones(12, dtype=torch.float64)
    x = torch.linspace(0.513, 0.703, 20, dtype=torch.float64)[:, None].expand(-1, 12).reshape(20, 3, 2, 2)
    classifier = toys.affine(torch.stack([-w, w]), torch.tensor([6.0, -6.0]))
    y = torch.ones(20, dtype=torch.int64)
    spies = {name: Spy(attacks.PGD(radius=radius, random_start=False)) for name, radius in
             (("short", 0.05), ("whole", 0.1), ("again", 0.1), ("long", 0.5))}  # fmt: skip
    ball = Ball.of("linf:0.1")
    outcome = overcome(spies, classifier, x, Misclassify(y), ball)
    exact = x[:, 0, 0, 0] - 0.5
    assert outcome.by.tolist() == [0 if d < 0.05 else 1 if d < 0.1 else -1 for d in exact.tolist()]
    left = int((exact >= 0.1).sum())
    assert [spy.rows[0] for spy in spies.values()] == [20, int((exact >= 0.05).sum()), left, left]
    # What the last one came to lies beyond the radius: a distance, no success.
    assert torch.isfinite(outcome.distance).all()
    assert torch.equal(ball.holds(outcome.distance), outcome.by >= 0)
    assert not outcome.result.delta[outcome.by < 0].any()
    assert (as_norm("linf").size(outcome.result.delta) <= 0.1).all()


def test_members_get_the_norm_and_the_radius() -> None:
    searches = members(("standard", "pgd:steps=5"), Ball.of("l2:0.5"))
    assert list(searches) == ["apgd", "minimal", "apgd-2", "square", "pgd"]
    given = [(str(getattr(each, "norm", "")), getattr(each, "radius", None)) for each in searches.values()]
    assert [given[place] for place in (0, 2, 3, 4)] == [("l2", 0.5)] * 4


def test_in_l1_the_standard_suite_is_without_square() -> None:
    assert list(members(("standard",), Ball.of("l1:2"))) == ["apgd", "minimal", "apgd-2"]
    with pytest.raises(SpecError, match="Square's norm"):
        members(("square",), Ball.of("l1:2"))


@pytest.mark.parametrize("spec", ["pgd:radius=0.2", "apgd:norm=linf", "minimal:norm=l1", "at_distance:rho=0.01"])
def test_a_member_that_looks_within_another_distance_is_refused(spec: str) -> None:
    """What it fails to move within its own distance is not known to stand within the one that is asked about."""
    with pytest.raises(SpecError, match="sets its own"):
        members((spec,), Ball.of("l2:0.5"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"radius": ("linf:9",)}, "radii are fractions of the input range.*linf:9/255"),
        ({"radius": ("linf:8",)}, "For 8 of 255 grey levels write linf:8/255"),
        ({"radius": ("l7:1",)}, "There is no norm 'l7'"),
        ({"radius": ("linf",)}, "'linf' has no radius: write NORM:RADIUS"),
        ({"radius": ("linf:",)}, "has no radius"),
        ({"radius": ("x,",)}, "no norm 'x'"),
        ({"radius": ("linf:0.1,",)}, "There is an empty entry next to a comma"),
        ({"radius": ("linf:0.1,linf:0.1",)}, "The radius 'linf:0.1' is given twice\\."),
        (
            {"radius": ("linf:0.1,inf:0.10",)},
            "The radius 'linf:0.1' is given twice, the second time as 'linf:0.10'",
        ),
        ({"radius": ("8/255",)}, "'8/255' has no norm"),
        ({"radius": (":8/255",)}, "has no norm"),
        ({"radius": ("l2:far",)}, "A radius must be a number"),
        ({"radius": ("l2:-1",)}, "A radius must be a number"),
        ({"radius": ("l2:0",)}, "allows no change"),
        ({"radius": ("l2:1/2", "l2:0.5")}, "is given twice"),
        ({"radius": ("l2:0.5",), "suite": ("apdg",)}, "did you mean 'apgd'"),
        ({"radius": ("l2:0.5",), "suite": ("apgd", "apgd")}, "is listed twice in the suite"),
        ({"radius": ("l1:3",), "suite": ("square",)}, "Square's norm must be linf, l2 or rmse"),
        ({"attack": "pgd"}, "--radius linf:8/255 --suite pgd"),
        ({"btr": "square:queries=3"}, "btr needs the smallest change"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        settings_from({**BASE, **settings})


def test_a_radius_of_the_wrong_scale_is_refused_by_the_shape(models: list, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="from black to white is 8 in l2.*not numbers of grey levels"):
        evaluate(models, data, tmp_path / "out", Settings(**BASE, radius=("l2:127.5",)))


def test_a_table_has_no_common_radius(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text(
        "age,kind,label\n" + "".join(f"{20 + i},{'ab'[i % 2]},{['no', 'yes'][i % 3 == 0]}\n" for i in range(30))
    )
    data = open_dataset(path)
    classifier = Classifier(f"linear:features={data.shape[0]},classes=2", features=data.features).eval()
    with pytest.raises(InputError, match="each column of .* has its own range.*--attack counterfactual"):
        evaluate([("a", "b", classifier)], data, tmp_path / "out", Settings(**BASE, radius=("linf:0.1",)))


def test_a_search_within_a_distance_has_no_area(models: list, data: Dataset, tmp_path: Path) -> None:
    """Beside a goal it says how many it reached; what it did not reach is no failure."""
    asked = Settings(**BASE, searches=("pgd:radius=0.05,steps=5@misclassify",))
    made = evaluate(models[:1], data, tmp_path / "out", asked)
    assert "pgd@misclassify_reached" in made.models[0].scores
    assert "pgd@misclassify_ara" not in made.models[0].scores
    assert not {"failures", "infinite_area"} & {flag.code for flag in made.flags}


def test_each_search_alone_is_asked_about_every_example(done: SimpleNamespace, models: list, data: Dataset) -> None:
    """What each moves by itself is what it moves as the only one of a suite; what none moves, stands as in turn."""
    folder = done.folder.parent / "alone"
    attacked = {**BASE, "attack": "minimal:gradients=30"}
    asked = Settings(**attacked, radius=(*LINF, "l2:0.5"), suite=(*SUITE, "minimal:gradients=30"), alone=True)
    made = evaluate(models[:1], data, folder, asked)
    rows = schema.read_rows(folder, "examples")
    assert all(entry.alone for entry in made.radii.values())
    for key, entry in made.radii.items():
        figures, in_turn = made.models[0].radii[key], done.record.models[0].radii[key]
        assert figures.withstood == in_turn.withstood
        if key == "linf:0.04":  # at larger radii the one that came closest at the smaller counts in turn
            assert figures.moved == in_turn.moved
        assert figures.alone is not None
        movers = [row[f"within_{key}_alone"] for row in rows]
        by = [row[f"within_{key}_by"] for row in rows]
        assert by == [None if each is None else next((name for name in entry.searches if name in moved), "")
                      for each, moved in zip(by, movers, strict=True)]  # fmt: skip
        assert figures.alone == {name: sum(name in moved for moved in movers) for name in entry.searches}
        right = [each is not None for each in by]
        for name in entry.searches:
            left = sum(known and name not in moved for known, moved in zip(right, movers, strict=True))
            assert figures.accuracy[name] == schema.all_figures(made.models[0])[f"accuracy:{key}:{name}"]
            assert figures.accuracy[name].value == pytest.approx(left / len(data))
        assert figures.gradients > in_turn.gradients
    smaller, larger = (made.models[0].radii[key].alone or {} for key in ("linf:0.04", "linf:0.1"))
    for name, spec in (("apgd", SUITE[0]), ("square", SUITE[2])):
        one = evaluate(models[:1], data, folder.parent / name, Settings(**BASE, radius=("linf:0.04",), suite=(spec,)))
        assert smaller[name] == one.models[0].radii["linf:0.04"].moved[name]
    assert sum(smaller.values()) > sum(made.models[0].radii["linf:0.04"].moved.values())
    assert all(smaller[name] <= larger[name] for name in smaller)


def test_counts_costs_and_paired_differences_are_said(
    done: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = json.loads(schema.summary(done.record, done.folder))
    for model in done.record.models:
        for key, figures in model.radii.items():
            assert printed["radii"][model.name][key] == {
                "moved": figures.moved, "alone": None, "gradients": figures.gradients, "queries": figures.queries,
            }  # fmt: skip
    pairs = {line["measure"]: line for line in printed["differences"]}
    stands = [[row["within_linf:0.04_by"] == "" for row in rows_of(done, model.name)] for model in done.record.models]
    difference = sum(a - b for a, b in zip(*stands, strict=True)) / N
    assert pairs["robust_accuracy:linf:0.04"]["value"] == pytest.approx(difference)
    tables.show(done.record)
    shown = capsys.readouterr().out
    first = done.record.models[0].radii["linf:0.04"]
    assert f"{first.gradients:.0f}, {first.queries:.0f}" in shown
    assert ", ".join(f"{name} {moved}" for name, moved in first.moved.items()) in " ".join(shown.split())


def test_other_radii_of_an_evaluation_that_was_broken_off_are_refused_in_words(
    models: list, data: Dataset, tmp_path: Path
) -> None:
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        evaluate(models[:1], data, tmp_path / "out", Settings(**BASE, radius=("linf:0.1",), suite=SUITE),
                 stop=lambda: next(calls) > 3)  # fmt: skip
    others = Settings(**BASE, radius=("linf:0.2",), suite=SUITE)
    with pytest.raises(ArtifactError) as refused:
        evaluate(models[:1], data, tmp_path / "out", others)
    assert "settings.radii.linf:0.1 is there but not here; settings.radii.linf:0.2 is here but not there" in str(
        refused.value
    )
    assert "{" not in str(refused.value)

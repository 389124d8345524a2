"""Answers for tables: sentences word for word, typed in again; the scikit-learn estimator; `advex explain` of rows."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import Tensor, nn

from advex.artifacts import save
from advex.attacks.counterfactual import FewFeatures
from advex.classifier import Classifier
from advex.cli import main
from advex.errors import InputError, SpecError
from advex.features import Feature, FeatureSpec
from advex.tabular import Change, Counterfactual, Counterfactuals, RobustClassifier, alternatives, counterfactuals
from advex.tabular.linear import fit_linear
from advex.tabular.search import as_typed

INCOME = Feature(name="income", low=0, high=200_000, center=30_000, scale=12_000, unit="USD")
AGE = Feature(name="age", low=18, high=90, step=1, center=40, scale=10, change="up")
HOUSING = Feature(name="housing", kind="category", values=("rent", "own", "with family"))
SEX = Feature(name="sex", kind="category", values=("female", "male"), change="never")
LOANS = FeatureSpec(features=(INCOME, AGE, HOUSING, SEX), target="answer")
ROW = {"income": 30_000.0, "age": 34.0, "housing": "rent", "sex": "female"}
WEIGHT, BIAS = [1.0, 0.5, 0.0, 1.5, 0.4, 0.0, 0.0], -0.97  # the odds of ROW are -0.3 - 0.97


def logistic(weight: list[float] = WEIGHT, bias: float = BIAS) -> Classifier:
    """Refused (0) or accepted (1): the log-odds of acceptance are weight @ x + bias."""
    classifier = Classifier(
        f"linear:features={len(weight)},classes=2", features=LOANS, class_names=("refused", "accepted")
    )
    layer: Any = classifier.network[1]  # pyright: ignore
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * len(weight), weight]))
        layer.bias.copy_(torch.tensor([0.0, bias]))
    return classifier.eval()


def encoded(row: dict[str, Any] = ROW) -> Tensor:
    return LOANS.encode([row])[0]


# -- sentences -----------------------------------------------------------------------------------------------


def counterfactual(*changes: Change, before: float = 0.22, after: float = 0.61) -> Counterfactual:
    return Counterfactual(
        target=1,
        target_name="accepted",
        changes=changes,
        row={},
        before=(1 - before, before),
        after=(1 - after, after),
        size=1.0,
    )


MORE = Change(feature="income", before=30_000.0, after=45_000.0)
OLDER = Change(feature="age", before=34.0, after=35.0, unit="years")
HOME = Change(feature="housing", before="rent", after="with family")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([MORE], "income been 45,000 instead of 30,000"),
        ([MORE, OLDER], "income been 45,000 instead of 30,000 and age 35 years instead of 34 years"),
        (
            [MORE, OLDER, HOME],
            "income been 45,000 instead of 30,000, age 35 years instead of 34 years and "
            'housing "with family" instead of rent',
        ),
        ([Change(feature="x", before=-0.5, after=1e-7)], "x been 0.0000001 instead of -0.5"),
    ],
)
def test_a_change_in_words(changes: list[Change], text: str) -> None:
    assert (
        counterfactual(*changes).sentence == f"The answer would have been accepted had {text}: accepted 22 % -> 61 %."
    )


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (0.494, 0.506, "49 % -> 51 %"),
        (0.4996, 0.5004, "49.96 % -> 50.04 %"),
        (0.2, 0.5001, "20 % -> 50.01 %"),
        (0.001, 0.9999, "<1 % -> >99 %"),
        (0.0, 1.0, "0 % -> 100 %"),
        (0.2, 0.50000001, "20 % -> 50.000 %"),  # no more than three digits, however near
    ],
)
def test_probabilities_in_words(before: float, after: float, text: str) -> None:
    assert counterfactual(MORE, before=before, after=after).sentence.endswith(f": accepted {text}.")


def nothing(**changes: Any) -> Counterfactuals:
    plain: dict[str, Any] = {
        "target": 1, "target_name": "accepted", "says": 0, "says_name": "refused", "probabilities": (0.9, 0.1),
        "alternatives": (), "wanted": 3, "searched": ("income", "age", "housing"), "held": ("sex",), "at_most": 3,
    }  # fmt: skip
    return Counterfactuals(**{**plain, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ": tried income, age and housing, up to 3 at a time (sex may not change)."),
        ({"searched": ("income",)}, ": tried income (sex may not change)."),
        ({"at_most": 1, "held": ()}, ": tried income, age and housing, one at a time."),
        ({"searched": (), "held": ("sex", "age")}, ": no column may change."),
        (
            {"searched": tuple(f"x{i}" for i in range(40)), "held": ()},
            f": tried {', '.join(f'x{i}' for i in range(12))} and 28 more, up to 3 at a time.",
        ),
    ],
)
def test_where_nothing_is_found_it_says_what_was_tried(changes: dict[str, Any], text: str) -> None:
    start = "No change was found with which the answer would have been accepted"
    assert nothing(**changes).sentences == (start + text,)


def test_fewer_than_were_wanted_are_told_to_be_all() -> None:
    assert nothing(alternatives=(counterfactual(MORE),), wanted=1).sentences == (counterfactual(MORE).sentence,)
    assert nothing(alternatives=(counterfactual(MORE),), wanted=2).sentences[1:] == (
        "No further alternative was found.",
    )


# -- searched and typed in again -----------------------------------------------------------------------------


def test_the_sentences_of_a_row() -> None:
    """Odds of -1.27: 1.27 * 12,000 USD more, or 1.27 / 0.05 years, or a home of one's own (1.5)."""
    text = str(counterfactuals(logistic(), encoded())).split("\n")
    start, before = "The answer would have been accepted had ", ": accepted 22 % -> "
    assert text == [
        f"{start}income been 45,300 USD instead of 30,000 USD{before}50.1 %.",
        f"{start}housing been own instead of rent: accepted 22 % -> 56 %.",
        f"{start}age been 60 instead of 34{before}50.7 %.".replace("50.7", "51"),
    ]


def test_the_answer_that_is_there_already_and_the_other_one() -> None:
    assert counterfactuals(logistic(), encoded(), 0).sentences == ("The answer is refused already (78 %).",)
    assert counterfactuals(logistic(), encoded()).target == 1
    impossible = counterfactuals(logistic([0.0] * 6 + [5.0], -1.0), encoded())
    assert impossible.sentences == (
        "No change was found with which the answer would have been accepted: tried income, age and housing, up to 3 at "
        "a time (sex may not change).",
    )


def test_alternatives_do_without_a_column_of_each_earlier_one() -> None:
    # Odds of -15.1; income may add 14.2, age 2.8, a home of one's own 1: it takes income and one of the others.
    chosen = alternatives(logistic([1.0, 0.5, 0.0, 1.0, 0.4, 0.0, 0.0], -14.8), encoded(), 1, k=5)
    columns = [{change.feature for change in each.changes} for each in chosen]
    assert columns == [{"income", "age"}, {"income", "housing"}]
    assert [each.size for each in chosen] == sorted(each.size for each in chosen)
    for earlier, later in itertools.combinations(columns, 2):
        assert earlier - later


def test_what_is_no_row_or_class_is_refused(toys: Any) -> None:
    with pytest.raises(InputError, match="the classifier has no features"):
        counterfactuals(toys.mlp((7,)), encoded().double())
    with pytest.raises(InputError, match=r"One encoded row must have the shape \[7\]"):
        counterfactuals(logistic(), encoded()[None])
    with pytest.raises(InputError, match="no class 2: .*0 to 1"):
        counterfactuals(logistic(), encoded(), 2)


NUMBERS = st.floats(-1e4, 1e4).map(lambda value: float(f"{value:.4g}"))


@st.composite
def columns(draw: st.DrawFn, name: str) -> Feature:
    """Any column of numbers, of steps or of categories, that may change in any way."""
    change = draw(st.sampled_from(("free", "never", "up", "down")))
    kind = draw(st.sampled_from(("number", "steps", "category")))
    if kind == "category":
        return Feature(name=name, kind="category", values=tuple("abcd"[: draw(st.integers(2, 4))]), change=change)
    low, span = draw(NUMBERS), draw(st.sampled_from((1.0, 12.5, 3_000.0)))
    step = draw(st.sampled_from((0.1, 0.5, 1.0))) if kind == "steps" else None
    return Feature(name=name, low=low, high=low + span, step=step, center=low + span / 3, scale=span / 5, change=change)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Classifier, dict[str, Any]]:
    """A small curved network for a table of two to four columns, and a row."""
    spec = FeatureSpec(features=tuple(draw(columns(name)) for name in "pqrs"[: draw(st.integers(2, 4))]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    network = nn.Sequential(nn.Linear(spec.width, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    somewhere = spec.box().lower + torch.rand(spec.width, generator=rng) * (spec.box().upper - spec.box().lower)
    return Classifier(network, features=spec).eval(), spec.decode(somewhere[None].float())[0]


@given(problems())
@settings(max_examples=40)
def test_every_counterfactual_is_a_valid_row_and_flips_when_typed_in(
    problem: tuple[Classifier, dict[str, Any]],
) -> None:
    classifier, row = problem
    spec = classifier.features
    assert spec is not None
    x = spec.encode([row])[0]
    said = counterfactuals(classifier, x, search=FewFeatures(features=2, beam=8))
    for each in said.alternatives:
        text = dict(re.findall(r"(?:had |, | and )([pqrs])(?: been)? (\S+) instead of", each.sentence))
        assert text.keys() == {change.feature for change in each.changes}
        typed = {**as_typed(row), **text}
        again = classifier.predict(spec.encode([typed]))[0]  # refuses what is out of range, off the steps or unknown
        assert int(again.argmax()) == said.target
        assert again.tolist() == pytest.approx(each.after, abs=1e-6)
        for feature in spec.features:
            old, new = row[feature.name], each.row[feature.name]
            assert feature.change != "never" or old == new
            assert feature.change != "up" or old <= new  # categories a, b, c, d are in order, too
            assert feature.change != "down" or old >= new
            assert (feature.name in text) == (old != new)


# -- the estimator -------------------------------------------------------------------------------------------


def test_scikit_learn_takes_the_estimator_for_one_of_its_own() -> None:
    """All of scikit-learn's checks (90 fits: some 4 s of one core)."""
    results = check_estimator(RobustClassifier("linear", epochs=5, batch_size=128, learning_rate=0.05), on_skip=None)
    assert len(results) > 40
    assert {each["status"] for each in results} <= {"passed", "skipped"}
    skipped = {each["check_name"] for each in results if each["status"] == "skipped"}
    # They need an environment variable, and pandas.
    assert skipped <= {"check_array_api_input", "check_classifier_data_not_an_array"}


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Two classes of 200 rows, named; three columns, of which the last is constant."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-1, 1, (100, 2)), rng.normal(1, 1, (100, 2))]) * [1.0, 100.0]
    return np.column_stack([x, np.full(200, 3.0)]), np.repeat(["no", "yes"], 100)


@pytest.fixture(scope="module")
def fitted(blobs: tuple[np.ndarray, np.ndarray]) -> RobustClassifier:
    return RobustClassifier("linear", epsilon=0.2, epochs=20).fit(*blobs)


def test_it_learns_and_explains(fitted: RobustClassifier, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    assert fitted.score(x, y) > 0.85
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert fitted.features_.features[2].change == "never"
    (said,) = fitted.explain(x[:1], "yes", alternatives=2)
    assert said.says_name == "no"
    assert said.held == ("x2",)
    assert all(each.target_name == "yes" for each in said.alternatives)
    assert re.match(r"The answer would have been yes had x[01] been \S+ instead of \S+: yes ", str(said))
    for each in said.alternatives:
        assert fitted.predict(np.array([[each.row[f"x{i}"] for i in range(3)]])).tolist() == ["yes"]
    with pytest.raises(InputError, match="'maybe'.*no, yes"):
        fitted.explain(x[:1], "maybe")


@pytest.mark.parametrize("epsilon", [None, 0.0, 0.7])
def test_the_robustness_of_a_linear_network_is_its_margin(
    fitted: RobustClassifier, blobs: tuple[np.ndarray, np.ndarray], epsilon: float | None
) -> None:
    """Robust within epsilon is: margin / ||w||_1 > epsilon, unless the range of a column ends before."""
    x, y = blobs
    layer: Any = fitted.classifier_.network[1]  # pyright: ignore
    rows, labels = fitted._rows(x), torch.from_numpy((y == "yes").astype(np.int64))
    radius = 0.2 if epsilon is None else epsilon
    w = (layer.weight[1] - layer.weight[0]) * (2 * labels[:, None] - 1)
    worst = (rows - radius * w.sign()).clamp(fitted.classifier_.lower, fitted.classifier_.upper)
    worst[:, 2] = rows[:, 2]
    margin = (worst * w).sum(dim=1) + (layer.bias[1] - layer.bias[0]) * (2 * labels - 1)
    score = fitted.robustness(x, y, epsilon=epsilon)
    assert score.values.tolist() == (margin >= 0).double().tolist()
    assert score.n == 200
    assert epsilon != 0 or score.value == fitted.score(x, y)


def test_adversarial_training_makes_it_more_robust(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    """Columns of noise are learned by heart in ordinary training, and left alone in this (Chalasani, Th. 3.1)."""
    x = np.column_stack([blobs[0][:, :2], np.random.default_rng(1).normal(size=(200, 40))])
    ordinary, robust = (
        RobustClassifier("linear", epsilon=epsilon, epochs=20, learning_rate=0.05).fit(x, blobs[1])
        for epsilon in (0.0, 0.3)
    )

    def on_noise(model: RobustClassifier) -> float:
        layer: Any = model.classifier_.network[1]  # pyright: ignore
        return float((layer.weight[1] - layer.weight[0])[2:].abs().sum())

    assert on_noise(robust) < 0.1 * on_noise(ordinary)
    first, second = (model.robustness(x, blobs[1], epsilon=0.3).value for model in (ordinary, robust))
    assert second > first + 0.1


def test_values_beyond_the_range_seen_count_as_its_end(
    fitted: RobustClassifier, blobs: tuple[np.ndarray, np.ndarray]
) -> None:
    x, _ = blobs
    far = np.array([[1e6, -1e6, 7.0]])
    end = np.array([[x[:, 0].max(), x[:, 1].min(), 3.0]])
    assert np.array_equal(fitted.predict_proba(far), fitted.predict_proba(end))


def test_names_of_columns_are_those_of_a_data_frame(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    import pandas

    frame = pandas.DataFrame(blobs[0], columns=["size", "weight", "target"])
    model = RobustClassifier("linear", epochs=5).fit(frame, blobs[1])
    assert [feature.name for feature in model.features_.features] == ["size", "weight", "target"]
    assert " had " in str(model.explain(frame[:1])[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": "mlpp"}, "did you mean 'mlp'"),
        ({"epsilon": -1}, "A radius must be a number of at least 0"),
        ({"network": "mlp", "epochs": 0}, "epochs = 0 is not valid"),
        ({"weight_decay": -1.0}, "weight_decay must be a number of at least 0"),
        ({"objective": {"naturall": {}}}, "did you mean 'natural'"),
    ],
)
def test_impossible_parameters_are_refused_in_fit(
    blobs: tuple[np.ndarray, np.ndarray], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        RobustClassifier(**options).fit(*blobs)


def sets() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    loads: tuple[Any, ...] = (load_iris, load_wine, load_breast_cancer, load_diabetes)
    for load in loads:
        x, y = load(return_X_y=True)
        yield x, (y > np.median(y)).astype(int) if load is load_diabetes else y


def test_the_optimum_is_that_of_logistic_regression() -> None:
    """At epsilon 0 the loss is scikit-learn's, whose C is 1 / (n weight_decay), twice that with one vector for two."""
    for x, y in sets():
        scaled, classes, decay = StandardScaler().fit_transform(x), len(set(y)), 1e-2
        known = LogisticRegression(C=(2 if classes == 2 else 1) / (len(x) * decay), max_iter=5000, tol=1e-8).fit(
            scaled, y
        )
        solution = fit_linear(scaled, y, classes, epsilon=0.0, weight_decay=decay)
        mine = scaled @ solution.weight.T + solution.bias
        assert solution.converged
        assert np.abs(softmax(mine, axis=1) - known.predict_proba(scaled)).max() < 5e-3


def test_the_robust_loss_is_the_worst_cases_and_at_its_minimum() -> None:
    """Of two classes, the cross-entropy after the worst change in closed form; no neighbour is better."""
    rng = np.random.default_rng(0)
    x, y, epsilon = rng.normal(size=(80, 4)), rng.integers(0, 2, 80), 0.2
    x[:, 0] += 2 * y
    solution = fit_linear(x, y, 2, epsilon=epsilon, weight_decay=1e-2)

    def robust(weight: np.ndarray, bias: np.ndarray) -> float:
        away = np.sign(weight[1 - y] - weight[y])
        logits = (x + epsilon * away) @ weight.T + bias
        normaliser: Any = logsumexp(logits, axis=1)
        return float((normaliser - logits[np.arange(80), y]).mean() + 1e-2 / 2 * (weight**2).sum())

    least = robust(solution.weight, solution.bias)
    for _ in range(300):
        step = 10 ** rng.uniform(-3, 0)
        near = solution.weight + step * rng.normal(size=(2, 4)), solution.bias + step * rng.normal(size=2)
        assert robust(*near) > least - 1e-5


def test_it_predicts_as_well_as_logistic_regression() -> None:
    """Within a point on each of four sets, over five stratified splits."""
    for x, y in sets():
        scores = []
        for seed in range(5):
            parts = train_test_split(x, y, test_size=0.3, stratify=y, random_state=seed)
            known = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            models = (known, RobustClassifier(epsilon=0))
            scores.append([model.fit(parts[0], parts[2]).score(parts[1], parts[3]) for model in models])
        known, mine = np.mean(scores, axis=0)
        assert mine >= known - 0.01


def test_other_networks_are_trained_until_the_loss_rests_and_leave_no_files(
    blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(ConvergenceWarning, match="4 steps.*epochs"):
        RobustClassifier("mlp:widths=8", epsilon=0, epochs=1).fit(*blobs)
    model = RobustClassifier("mlp:widths=8", epsilon=0).fit(*blobs)
    assert model.n_iter_ >= 1000
    assert not list(tmp_path.iterdir())


# -- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`advex explain ... --model runs/loans` in a folder with row.csv and loans.csv: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    save(logistic(), tmp_path / "runs" / "loans")
    header = "income,age,housing,sex\n"
    (tmp_path / "row.csv").write_text(f"{header}30000,34,rent,female\n", encoding="utf-8")
    rows = ["30000,34,rent,female,refused", '"90,000",50,own,male,accepted', "30000,34,with family,female,refused"]
    (tmp_path / "loans.csv").write_text("\n".join([f"{header.strip()},answer", *rows]), encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["advex", "explain", *arguments, "--model", "runs/loans", "-q"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_row_is_explained_in_sentences(explain: Callable[..., Any], tmp_path: Path) -> None:
    code, out, _ = explain("row.csv", "--alternatives", "2")
    lines = out.splitlines()
    sentences = counterfactuals(logistic(), encoded(), k=2).sentences
    assert code == 0
    assert lines == ["row.csv: refused, 78 %", *[f"  {each}" for each in sentences], "explanations/explanations.json"]
    text = json.loads((tmp_path / "explanations" / "explanations.json").read_text(encoding="utf-8"))
    (subject,) = text["inputs"]
    assert subject["row"] == ROW
    assert subject["explanations"][0]["sentences"] == list(sentences)
    first = subject["explanations"][0]["counterfactuals"][0]
    (change,) = first["changes"]
    assert change.pop("share") == pytest.approx(first["after"][first["target"]] - first["before"][first["target"]])
    assert change == {"feature": "income", "before": 30000.0, "after": 45300.0, "unit": "USD"}
    assert first["row"] == {**ROW, "income": 45300.0}
    assert text["methods"] == ["counterfactual:features=3,beam=32,rungs=8"]


def test_rows_of_a_table_are_chosen_by_number(explain: Callable[..., Any]) -> None:
    code, out, err = explain("--data", "loans.csv", "--index", "1,2", "--target", "accepted", "--json")
    assert code == 0, err
    first, second = json.loads(out)["inputs"]
    assert (first["label"], first["says"], second["label"]) == ("accepted", "accepted", "refused")
    assert first["explanations"][0]["sentences"][0].startswith("The answer is accepted already (")
    assert second["row"]["housing"] == "with family"
    assert second["explanations"][0]["meant"] == ["named"]


def test_several_rows_with_their_labels(explain: Callable[..., Any]) -> None:
    code, out, err = explain("loans.csv")
    assert code == 0, err
    named = [line for line in out.splitlines() if line.startswith("loans.csv row ")]
    assert named[0] == "loans.csv row 1 (in truth refused): refused, 78 %"
    assert len(named) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("income,age,hosing,sex\n1,20,own,male\n", "The model has no column 'hosing': did you mean 'housing'?"),
        ("income,age,sex\n1,20,male\n", "has no column 'housing', which the model needs"),
        ("income,age,housing,sex\n1,12,own,male\n", "row 1: 'age' is 12, outside its range of 18 to 90. Correct the"),
        ("income,age,housing,sex\n1,20.5,own,male\n", "'age' is 20.5, which is not 18 plus whole steps of 1"),
        ("income,age,housing,sex\n1,20,castle,male\n", "'housing' is 'castle', an unknown category"),
        ("income,age,housing,sex\n,20,own,male\n", "row 1: 'income' is missing"),
        ("income,age,housing,sex\nmuch,20,own,male\n", "'income' is 'much', which is not a number"),
    ],
)
def test_rows_that_cannot_be_read_are_named(explain: Callable[..., Any], tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    code, out, err = explain("bad.csv")
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.filterwarnings("always::advex.errors.AdvexWarning")
def test_a_row_that_cannot_be_read_does_not_lose_the_others(explain: Callable[..., Any], tmp_path: Path) -> None:
    row = (tmp_path / "row.csv").read_text(encoding="utf-8")
    header, values = row.splitlines()[:2]
    (tmp_path / "alone.csv").write_text(f"{header}\n{values}\n", encoding="utf-8")
    (tmp_path / "three.csv").write_text(f"{header}\n{values}\n,,,\n{values}\n", encoding="utf-8")
    _, alone, _ = explain("alone.csv", "--json")
    code, out, err = explain("three.csv", "gone.csv", "--json")
    assert code == 1
    result = json.loads(out)
    sentences = [[one["sentences"] for one in each["explanations"]] for each in result["inputs"]]
    assert sentences == [[one["sentences"] for one in json.loads(alone)["inputs"][0]["explanations"]]] * 2
    assert [each["name"] for each in result["inputs"]] == ["three.csv row 1", "three.csv row 3"]
    assert [each["name"] for each in result["failed"]] == ["three.csv row 2", "gone.csv"]
    assert [each["reason"] in err for each in result["failed"]] == [True, True]
    assert len(err.splitlines()) == 2


def test_what_belongs_to_pictures_is_refused(explain: Callable[..., Any]) -> None:
    for option in (("--rho", "0.2"), ("--away",), ("--steps", "3"), ("--size", "8")):
        code, _, err = explain("row.csv", *option)
        assert code == 2
        assert "to pictures" in err
    assert "digits is not a table: give a CSV file" in explain("--data", "digits")[2]


# -- round numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high", "step", "said"),
    [
        (200_000, 1, "31,800"), (31_790, 1, "31,781"), (200_000, 7, "31,787"), (200_000, 500, "32,000"),
    ],
)  # fmt: skip
def test_whole_numbers_are_rounded_where_the_answer_stays(high: float, step: float, said: str) -> None:
    """Accepted above 31,780.5: the first whole number is 31,781, the first hundred 31,800, of sevens 4,541 * 7."""
    income = Feature(name="income", low=0, high=high, step=step, center=30_000, scale=12_000)
    spec = FeatureSpec(features=(income,), target="answer")
    classifier = Classifier("linear:features=1,classes=2", features=spec, class_names=("refused", "accepted"))
    layer: Any = classifier.network[1]  # pyright: ignore
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [50.0]]))
        layer.bias.copy_(torch.tensor([0.0, -50.0 * 1780.5 / 12_000]))
    start = 0.0 if step == 7 else 30_000.0
    (found,) = counterfactuals(classifier.eval(), spec.encode([{"income": start}])[0], k=1).alternatives
    assert f"income been {said} instead of" in found.sentence
    assert int(classifier.predict(spec.encode([as_typed(found.row)])).argmax()) == 1

"""Classifiers that are only functions: what needs answers alone works, the rest says why it does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from advex import explainers, goals
from advex.artifacts import weights_hash
from advex.attacks import BoundaryWalk, Minimal
from advex.classifier import Classifier
from advex.data import open_dataset
from advex.errors import ArtifactError, InputError
from advex.evaluation import evaluate, settings_from


@pytest.fixture(scope="module")
def logistic() -> LogisticRegression:
    data: Any = load_digits()
    return LogisticRegression(max_iter=200).fit(data.data / 16, data.target)


def linear(logistic: LogisticRegression) -> Classifier:
    """The same classifier as a network."""
    layer = torch.nn.Linear(64, 10).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(logistic.coef_))
        layer.bias.copy_(torch.tensor(logistic.intercept_))
    return Classifier(torch.nn.Sequential(torch.nn.Flatten(), layer)).eval()


def function(logistic: LogisticRegression, **options: Any) -> Classifier:
    return Classifier.from_function(lambda x: logistic.predict_proba(x.reshape(len(x), -1)), **options)


def test_its_confidences_are_those_of_the_function(logistic: LogisticRegression, digits: SimpleNamespace) -> None:
    classifier = function(logistic)
    expected = logistic.predict_proba(digits.x.numpy())
    assert np.allclose(classifier.predict(digits.x).numpy(), expected, atol=1e-6)
    assert classifier.network.asked == len(digits.x) == 200


@pytest.mark.parametrize("spec", ["occlusion", "feature_ablation", "kernel_shap", "lime"])
def test_maps_by_answers_are_those_of_the_network(
    spec: str, logistic: LogisticRegression, digits: SimpleNamespace
) -> None:
    explainer = explainers.build(f"{spec}:of=probability")
    x, target = digits.x[:2].reshape(2, 1, 8, 8), torch.tensor([3, 5])
    made = explainer(function(logistic), x, target)
    assert torch.allclose(made.map.double(), explainer(linear(logistic).float(), x, target).map.double(), atol=1e-3)
    assert "estimated" not in made.method


@pytest.mark.parametrize("spec", ["gradient", "integrated_gradients", "toward"])
def test_what_needs_gradients_is_refused_with_the_reason(
    spec: str, logistic: LogisticRegression, digits: SimpleNamespace
) -> None:
    with pytest.raises(InputError, match="pairs=50"):
        explainers.build(spec)(function(logistic), digits.x[:2], digits.y[:2])
    with pytest.raises(InputError, match="pairs=50"):
        Minimal()(function(logistic), digits.x[:2], goals.Misclassify(digits.y[:2]))


def test_estimated_gradients_tend_to_the_gradient(logistic: LogisticRegression, digits: SimpleNamespace) -> None:
    """The cosine of the mean of k estimates in d dimensions is about sqrt(k / (k + d + 1))."""
    x, target = digits.x[:16], digits.y[:16]
    right = explainers.build("gradient:of=probability")(linear(logistic), x.double(), target).map
    for pairs in (16, 256):
        made = explainers.build("gradient:of=probability")(function(logistic, pairs=pairs), x, target)
        cosine = torch.nn.functional.cosine_similarity(made.map.double(), right, dim=1)
        inside = (x > 0).double().mean().item()  # at the walls a difference is taken to one side only
        assert cosine.mean().item() == pytest.approx((pairs / (pairs + 65)) ** 0.5, abs=0.08 + 0.1 * (1 - inside))
        assert f"{pairs} pairs" in made.method


def test_estimates_of_a_row_do_not_depend_on_its_company(logistic: LogisticRegression, digits: SimpleNamespace) -> None:
    classifier, explainer = function(logistic, pairs=8), explainers.build("toward:steps=5")
    together = explainer(classifier, digits.x[:4], digits.y[:4]).map
    alone = torch.cat([explainer(classifier, digits.x[i : i + 1], digits.y[i : i + 1]).map for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_a_function_may_change_what_it_is_given(logistic: LogisticRegression, digits: SimpleNamespace) -> None:
    def scribbling(x: np.ndarray) -> np.ndarray:
        answer = logistic.predict_proba(x.reshape(len(x), -1))
        x[:] = 0
        return answer

    explainer, x, y = explainers.build("gradient:of=probability"), digits.x[:4], digits.y[:4]
    made = explainer(Classifier.from_function(scribbling, pairs=16), x, y)
    assert torch.equal(made.map, explainer(function(logistic, pairs=16), x, y).map)


def test_the_smallest_change_by_decisions_alone(logistic: LogisticRegression, digits: SimpleNamespace) -> None:
    """From noise into the neighbourhood of what gradients find on the same linear classifier."""
    x, y = digits.x[:6], torch.tensor(logistic.predict(digits.x[:6].numpy()))
    walked = BoundaryWalk(start="noise", queries=2000)(function(logistic), x, goals.Misclassify(y))
    best = Minimal()(linear(logistic), x.double(), goals.Misclassify(y))
    assert walked.reached.all()
    assert not walked.gradients.any()
    assert (walked.rmse / best.rmse).mean() < 1.4  # another class may be arrived at


@pytest.mark.parametrize(
    "wrong", [{"queries": -1}, {"pairs": 2.5}, {"classes": 1}, {"classes": 3, "class_names": "ab"}]
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, Any], logistic: LogisticRegression) -> None:
    with pytest.raises(InputError):
        function(logistic, **wrong)
    with pytest.raises(InputError, match="LogisticRegression"):
        Classifier.from_function(logistic)  # pyright: ignore


def test_queries_are_counted_and_bounded(logistic: LogisticRegression, digits: SimpleNamespace) -> None:
    classifier = function(logistic, queries=25)
    classifier.predict(digits.x[:20])
    with pytest.raises(InputError, match=r"20 rows.*25.*queries"):
        classifier.predict(digits.x[:6])
    assert classifier.network.asked == 20


def test_labels_alone_serve(logistic: LogisticRegression, digits: SimpleNamespace) -> None:
    classifier = Classifier.from_function(logistic.predict, classes=10, returns="labels")
    assert classifier.predict(digits.x).argmax(dim=1).tolist() == list(logistic.predict(digits.x.numpy()))
    with pytest.raises(InputError, match="classes"):
        Classifier.from_function(logistic.predict, returns="labels")
    with pytest.raises(InputError, match="labels"):
        Classifier.from_function(logistic.predict, classes=10, returns="labels", pairs=4)


@pytest.mark.parametrize(
    ("answer", "returns", "words"),
    [
        (lambda x: np.ones(len(x)), "confidences", r"\[4, 3\]"),
        (lambda x: np.ones((len(x), 2)), "confidences", r"\[4, 2\]"),
        (lambda x: np.ones((len(x), 3)), "confidences", "logits"),
        (lambda x: [["a", "b", "c"]] * len(x), "confidences", "numbers"),
        (lambda x: np.full(len(x), 3), "labels", "0 to 2"),
        (lambda x: np.full(len(x), 0.5), "labels", "0 to 2"),
        (lambda x: None, "logits", "numbers"),
        (lambda x: [[1.0], [1.0, 2.0]] * 2, "logits", "not return an array"),
    ],
)
def test_what_is_no_answer_is_told(answer: Any, returns: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Classifier.from_function(answer, classes=3, returns=returns)(torch.rand(4, 5))


def test_errors_of_the_function_are_told_in_its_words() -> None:
    for error in (ValueError, ConnectionError, ZeroDivisionError):

        def broken(x: np.ndarray, error: type[Exception] = error) -> np.ndarray:
            raise error("the service is away")

        with pytest.raises(InputError, match="the service is away"):
            Classifier.from_function(broken, classes=3)(torch.rand(4, 5))


def test_two_functions_are_two_identities(logistic: LogisticRegression) -> None:
    first = Classifier.from_function(logistic.predict_proba)
    second = Classifier.from_function(lambda x: logistic.predict_proba(x)[:, ::-1])
    assert weights_hash(first) != weights_hash(second)


def test_it_is_evaluated_by_answers_alone(logistic: LogisticRegression, tmp_path: Path) -> None:
    data = open_dataset("digits", split="test").sample(12, seed=0)
    classifier = function(logistic, class_names=data.class_names)
    settings = settings_from(
        {"attack": None, "btr": None, "explanations": 0, "maps": ("occlusion:window=2",), "measures": ("gini",)}
    )
    record = evaluate([("m", "m", classifier)], data, tmp_path / "out", settings)
    assert record.models[0].scores["accuracy"].value > 0.9
    assert record.models[0].maps


def test_another_function_under_the_same_name_is_another_evaluation(tmp_path: Path) -> None:
    """Its answers tell: the code of both is the same."""
    data = open_dataset("digits", split="test").sample(12, seed=0)
    settings = settings_from({"attack": None, "btr": None, "explanations": 0})

    def made(labels: Any) -> Classifier:
        return Classifier.from_function(lambda x: labels(len(x)), returns="labels", classes=10)

    def zeros(n: int) -> Any:
        return np.zeros(n, dtype=int)

    first = evaluate([("m", "m", made(zeros))], data, tmp_path / "out", settings)
    assert evaluate([("m", "m", made(zeros))], data, tmp_path / "out", settings).models == first.models
    with pytest.raises(ArtifactError, match="another evaluation"):
        evaluate([("m", "m", made(lambda n: zeros(n) + 1))], data, tmp_path / "out", settings)

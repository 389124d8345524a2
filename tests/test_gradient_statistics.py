"""Gradient statistics of networks whose gradients are known, and Eq. 8 where it is exact."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from advex.attacks import PGD, Minimal
from advex.classifier import Classifier
from advex.errors import InputError
from advex.goals import Misclassify
from advex.measures import Case, GradientSize, LinearEstimate, apply, bootstrap_mean
from advex.measures.gradient_statistics import (
    InputGradients,
    drawn_classes,
    eq8,
    input_gradients,
    linear_change,
    output_change,
)
from advex.types import Explanation, Perturbation

WEIGHT = torch.tensor([[1.0, -2.0, 0.0, 0.5], [0.0, 0.1, -0.1, 0.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)


def linear(toys: SimpleNamespace) -> Classifier:
    return toys.affine(WEIGHT, torch.tensor([0.0, 1.0, -6.0]))


def rows(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def changed(clean: Tensor, delta: Tensor, reached: Tensor | None = None) -> Perturbation:
    n = len(clean)
    return Perturbation(
        clean=clean,
        delta=delta,
        reached=torch.ones(n, dtype=torch.bool) if reached is None else reached,
        size=torch.zeros(n),
        rmse=torch.zeros(n),
        gradients=torch.zeros(n, dtype=torch.int64),
        queries=torch.zeros(n, dtype=torch.int64),
        flat=torch.zeros(n, dtype=torch.bool),
    )


# -- gradients ----------------------------------------------------------------------------------------------


def test_a_linear_network_has_its_weights_for_gradients(toys: SimpleNamespace) -> None:
    result = input_gradients(linear(toys), rows(2))
    assert result.elements == 4
    assert result.classes.tolist() == [[0, 1, 2]] * 2
    for row in range(2):
        assert result.mean[row].tolist() == pytest.approx([3.5 / 4, 0.05, 3])
        assert result.rms[row].tolist() == pytest.approx([math.sqrt(5.25 / 4), math.sqrt(0.02 / 4), 3])
        assert result.largest[row].tolist() == pytest.approx([2, 0.1, 3])
    assert result.score().value == pytest.approx((3.5 / 4 + 0.05 + 3) / 3)
    assert result.score("largest").value == pytest.approx(5.1 / 3)


def test_they_are_taken_in_data_space() -> None:
    layer = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(WEIGHT)
    classifier = Classifier(layer, mean=0.5, std=0.25).eval()
    assert input_gradients(classifier, rows(1)).largest.tolist() == [pytest.approx([8, 0.4, 12])]


def test_they_are_finite_differences(toys: SimpleNamespace) -> None:
    classifier: Classifier = toys.mlp()
    x = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.8 + 0.1
    classes = torch.tensor([[2, 0], [1, 1], [0, 2]])
    result = input_gradients(classifier, x, classes)
    h = 1e-5
    for row in range(3):
        for place, c in enumerate(classes[row].tolist()):
            slopes = []
            for j in range(12):
                step = torch.zeros(12, dtype=torch.float64)
                step[j] = h
                step = step.reshape(1, 3, 2, 2)
                with torch.no_grad():
                    rise = classifier(x[row : row + 1] + step)[0, c] - classifier(x[row : row + 1] - step)[0, c]
                slopes.append(abs(rise.item()) / (2 * h))
            # Central differences: an error of h^2 times third derivatives, some 1e-8 here.
            assert result.mean[row, place].item() == pytest.approx(sum(slopes) / 12, rel=1e-6)
            assert result.largest[row, place].item() == pytest.approx(max(slopes), rel=1e-6)


def test_batches_and_order_do_not_matter(toys: SimpleNamespace) -> None:
    classifier: Classifier = toys.mlp()
    x = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole = input_gradients(classifier, x)
    for max_batch in (1, 4):
        assert torch.allclose(input_gradients(classifier, x, max_batch=max_batch).rms, whole.rms, rtol=1e-12, atol=0)
    order = torch.tensor([4, 0, 3, 1, 2])
    assert torch.allclose(input_gradients(classifier, x[order]).largest, whole.largest[order], rtol=1e-12, atol=0)
    few = input_gradients(classifier, x, torch.tensor([[2]] * 5))
    assert torch.allclose(few.mean[:, 0], whole.mean[:, 2], rtol=1e-12, atol=0)


def test_nothing_of_the_model_changes() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    x = rows(3)
    reference = input_gradients(Classifier(network).eval(), x)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(input_gradients(Classifier(network).train(), x).mean, reference.mean)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_dead_and_broken_gradients_are_told_apart(toys: SimpleNamespace) -> None:
    for attached in (True, False):
        dead = input_gradients(toys.deaf([0.0, 2.0], attached=attached), rows(2))
        assert dead.largest.tolist() == [[0, 0], [0, 0]]

    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1].sqrt(), x[:, 1:2]], dim=1)  # an infinite slope at 0

    x = torch.tensor([[0.0, 0.5], [0.25, 0.5]], dtype=torch.float64)
    broken = input_gradients(Classifier(Steep()).double().eval(), x)
    # At 0 it spoils the other class, too: autograd multiplies it by that class's zero.
    assert broken.largest.isnan().tolist() == [[True, True], [False, False]]
    score = broken.score("largest")
    assert (score.value, score.n) == (1, 1)  # 1 / (2 sqrt(0.25)) and 1
    assert score.values.isnan().tolist() == [True, False]


def test_scores_are_bootstrap_means() -> None:
    sizes = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    some = InputGradients(classes=torch.zeros(30, 2), mean=sizes, rms=2 * sizes, largest=3 * sizes, elements=4)
    score = some.score("rms")
    assert (score.value, score.low, score.high) == bootstrap_mean(2 * sizes.mean(dim=1))
    assert score.n == len(some) == 30


def test_no_rows(toys: SimpleNamespace) -> None:
    result = input_gradients(linear(toys), rows(0))
    assert result.mean.shape == (0, 3)
    assert math.isnan(result.score().value)
    assert drawn_classes(rows(0), 3, 2).shape == (0, 2)
    nothing = output_change(linear(toys), changed(rows(0), rows(0)), torch.empty(0, dtype=torch.int64))
    assert math.isnan(nothing.ratio().value)
    assert all(math.isnan(value) for value in nothing.published())


def test_drawn_classes_differ_and_follow_the_row() -> None:
    x = rows(300)
    drawn = drawn_classes(x, 10, 4, seed=2)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert torch.equal(drawn_classes(x[[7, 3]], 10, 4, seed=2), drawn[[7, 3]])
    assert not torch.equal(drawn_classes(x, 10, 4, seed=3), drawn)
    # Each class is in 4/10 of the rows: within 5 standard deviations.
    counts = torch.bincount(drawn.flatten(), minlength=10)
    assert (counts - 120).abs().max() < 5 * math.sqrt(300 * 0.4 * 0.6)
    for count in (0, 11):
        with pytest.raises(InputError, match="drawn"):
            drawn_classes(x, 10, count)


@pytest.mark.parametrize("classes", [torch.tensor([[3]]), torch.tensor([[-1]]), torch.zeros(1), torch.zeros(2, 1)])
def test_impossible_classes_are_refused(toys: SimpleNamespace, classes: Tensor) -> None:
    with pytest.raises(InputError, match="Class"):
        input_gradients(linear(toys), rows(1), classes)


# -- the estimate -------------------------------------------------------------------------------------------


def test_the_papers_example() -> None:
    # Sec. III-B: 224 * 224 * 3 inputs, 0.0033 and 0.051 per input, two outputs.
    assert eq8(224 * 224 * 3, 0.0033, 0.051, outputs=2) == pytest.approx(50.7, abs=0.05)


def test_the_linear_estimates_are_reached_and_not_exceeded(toys: SimpleNamespace) -> None:
    gradients = input_gradients(linear(toys), rows(1))
    size = 0.05
    worst = {
        "linf": size * WEIGHT.sign(),
        "rmse": size * math.sqrt(4) * WEIGHT / WEIGHT.norm(dim=1, keepdim=True),
    }
    for norm in ("linf", "rmse"):
        bound = linear_change(gradients, size, norm)[0]
        assert (WEIGHT * worst[norm]).sum(dim=1).tolist() == pytest.approx(bound.tolist(), rel=1e-12)
        random = torch.randn(500, 4, dtype=torch.float64)
        largest = random.abs().amax(dim=1) if norm == "linf" else random.square().mean(dim=1).sqrt()
        moved = (random * (size / largest)[:, None]) @ WEIGHT.T
        assert (moved.abs() <= bound * (1 + 1e-12)).all()
    each = linear_change(input_gradients(linear(toys), rows(3)), torch.tensor([0.0, 0.1, 0.2]), "linf")
    assert each[:, 0].tolist() == pytest.approx([0, 0.35, 0.7])
    with pytest.raises(InputError, match="linf and rmse"):
        linear_change(gradients, 0.1, "l1")  # pyright: ignore[reportArgumentType]


def test_eq8_is_exact_for_a_linear_network_and_its_worst_change(toys: SimpleNamespace) -> None:
    """Two logits w x and -w x, changed by -s sign(w): each moves by s |w|_1."""
    w = torch.tensor([[1.0, -2.0, 0.5, 0.25]], dtype=torch.float64)
    classifier = toys.affine(torch.cat([w, -w]), torch.tensor([0.3, 0.3]))
    x = torch.tensor([[0.5, 0.3, 0.5, 0.5], [0.9, 0.3, 0.5, 0.5]], dtype=torch.float64)
    delta = torch.tensor([[0.2], [0.1]]) * -w.sign()
    result = output_change(classifier, changed(x, delta), torch.tensor([0, 0]))
    assert result.measured.tolist() == pytest.approx([2 * 0.2 * 3.75, 2 * 0.1 * 3.75])
    assert result.eq8.tolist() == pytest.approx(result.measured.tolist())
    assert result.ratio().value == pytest.approx(1)
    norm = w.norm().item()
    assert result.bound.tolist() == pytest.approx([2 * 2 * 0.2 * norm, 2 * 2 * 0.1 * norm])
    harmonic = 2 / (1 / 0.2 + 1 / 0.1)
    assert result.published() == pytest.approx((4 * harmonic * 3.75 / 4 * 2, 0.3 * 3.75))


def test_the_pair_is_the_label_and_the_class_that_took_over(toys: SimpleNamespace) -> None:
    """Neither the runner-up at the clean input (class 2, which does not move) nor the one that moves most (3)."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 20.0]], dtype=torch.float64)
    classifier = toys.affine(weight, torch.tensor([0.0, 0.2, 0.6, -30.0]))
    clean = torch.tensor([[0.9, 0.2]], dtype=torch.float64)
    delta = torch.tensor([[-0.3, 0.3]], dtype=torch.float64)
    result = output_change(classifier, changed(clean, delta), torch.tensor([0]))
    assert result.measured.tolist() == pytest.approx([0.6])
    assert result.eq8.tolist() == pytest.approx([2 * 0.3 * 0.5 * 2])


def test_only_changes_that_were_made_count(toys: SimpleNamespace) -> None:
    classifier: Classifier = toys.mlp()
    x = torch.rand(24, 3, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = classifier.predict(x).argmax(dim=1)
    result = PGD(norm="linf", radius=0.05, steps=5)(classifier, x, Misclassify(y))
    assert 3 <= result.reached.sum() <= 21
    first = int(result.reached.nonzero()[0])
    delta = result.delta.clone()
    delta[first] = 0  # as where the goal held from the start
    change = output_change(classifier, changed(x, delta, result.reached), y, max_batch=7)
    counts = result.reached.clone()
    counts[first] = False
    for name in ("measured", "eq8", "bound", "mean_change", "mean_gradient"):
        assert torch.equal(getattr(change, name).isnan(), ~counts)
    score = change.ratio()
    assert (score.n, score.failures) == (int(counts.sum()), int((~result.reached).sum()))
    assert (change.eq8[counts] <= change.bound[counts]).all()  # |g|_1 <= sqrt(N) |g|_2, twice


def test_a_search_on_a_linear_network_moves_no_more_than_the_bound(toys: SimpleNamespace) -> None:
    x = rows(30)
    classifier = linear(toys)
    y = classifier.predict(x).argmax(dim=1)
    result = Minimal(gradients=30)(classifier, x, Misclassify(y))
    change = output_change(classifier, result, y)
    moved = ~change.measured.isnan()
    assert moved.sum() > 20
    assert (change.measured[moved] <= change.bound[moved] * (1 + 1e-12)).all()


def test_labels_must_match(toys: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="one label"):
        output_change(linear(toys), changed(rows(3), rows(3)), torch.tensor([0]))


# -- as measures of a case ----------------------------------------------------------------------------------


def case_of(classifier: Classifier, x: Tensor, y: Tensor, target: Tensor) -> Case:
    explanation = Explanation(map=torch.ones_like(x), target=target, method="none")
    return Case(classifier=classifier, x=x, y=y, explainer=None, explanation=explanation)  # pyright: ignore


def test_the_explained_class_has_its_weights_for_gradients(toys: SimpleNamespace) -> None:
    target = torch.tensor([2, 0, 1])
    sizes = apply(GradientSize(), case_of(linear(toys), rows(3), target, target)).values
    assert sizes["mean"].tolist() == pytest.approx([3, 3.5 / 4, 0.05])
    assert sizes["largest"].tolist() == pytest.approx([3, 2, 0.1])


def test_a_search_is_measured_against_eq8_and_what_cannot_be_says_why(toys: SimpleNamespace) -> None:
    classifier, x = linear(toys), torch.tensor([[0.5, 0.4, 0.6, 0.5], [0.9, 0.9, 0.9, 0.9]], dtype=torch.float64)
    decision = classifier.predict(x).argmax(dim=1)
    y = torch.stack([decision[0], (decision[1] + 1) % 3])  # the second is wrong already
    search = Minimal(gradients=60)
    measured = apply(LinearEstimate(search=search), case_of(classifier, x, y, y))
    change = output_change(classifier, search(classifier, x, Misclassify(y)), y)
    for name in ("measured", "eq8"):
        assert measured.values[name][0] == getattr(change, name)[0]
        assert measured.values[name][1].isnan()
    assert measured.values["ratio"][0] == change.measured[0] / change.eq8[0]
    assert {reason: result.tolist() for reason, result in measured.undefined.items()} == {
        "no change was needed": [False, True]
    }
    deaf = toys.deaf([2.0, 0.0], attached=True)
    stuck = apply(LinearEstimate(search=search), case_of(deaf, x, torch.zeros(2).long(), torch.zeros(2).long()))
    assert list(stuck.undefined) == ["the search did not reach its goal"]

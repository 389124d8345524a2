"""Maps of randomised networks: answers known by hand, SSIM by a slow replica, and the user's model as it was."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import advex
from advex import registry
from advex.classifier import Classifier
from advex.contexts import pixelwise
from advex.errors import InputError, SpecError
from advex.evaluation import Settings, evaluate
from advex.measures.case import Case, Measured, apply
from advex.measures.randomised import RANDOM_CONSTANT, layers, randomised
from advex.measures.structural_similarity import structural_similarity


class Scale(nn.Module):
    """The input times a weight; drawn again, the weight is the one given."""

    def __init__(self, weight: list[float], drawn: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight], dtype=torch.float64))
        self.register_buffer("drawn", torch.tensor([drawn], dtype=torch.float64))

    def reset_parameters(self) -> None:
        self.weight.copy_(self.get_buffer("drawn"))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Ends(nn.Module):
    """Two classes: the sum, and its opposite."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(dim=1, keepdim=True)
        return torch.cat([total, -total], dim=1)


def case_of(network: nn.Module, x: Tensor, explainer: Any = "gradient", dtype: torch.dtype = torch.float64) -> Case:
    classifier = Classifier(network.to(dtype)).eval()
    built = registry.build("explainer", explainer) if isinstance(explainer, str) else explainer
    y = torch.zeros(len(x), dtype=torch.int64)
    return Case(
        classifier=classifier, x=x.to(dtype), y=y, explainer=built, explanation=built(classifier, x.to(dtype), y)
    )


def asked(spec: str, case: Case) -> Measured:
    return apply(registry.build("measure", spec), case)


def rows(n: int = 1, d: int = 4) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5 + 0.25


# -- answers known by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ("start=top", [0.6, 1.0, -1.0]),  # of [2 1 4 3], [1 2 3 4] and [4 3 2 1] with [1 2 3 4]
        ("start=bottom", [-1.0, -0.8, -1.0]),  # [4 3 2 1], [2 6 3/2 4/3], [4 3 2 1]
        ("order=independent,start=top", [0.6, 0.8, -1.0]),  # the second: [1/2 4 9/4 16/3]
        ("order=independent,start=bottom", [-1.0, 0.8, 0.6]),
    ],
)
def test_three_layers_whose_draws_are_known(options: str, steps: list[float]) -> None:
    """The gradient is the product of the weights; the second draw undoes what the third does."""
    network = nn.Sequential(
        Scale([1, 2, 3, 4], [4, 3, 2, 1]),
        Scale([1] * 4, [1 / 2, 2, 3 / 4, 4 / 3]),
        Scale([1] * 4, [2, 1 / 2, 4 / 3, 3 / 4]),
        Ends(),
    )
    measured = asked(f"randomised:{options}", case_of(network, rows()))
    expected = dict(zip(("first", "middle", "last"), steps, strict=True)) | {"mean": sum(steps) / 3}
    assert {name: value.item() for name, value in measured.values.items()} == pytest.approx(expected, abs=1e-12)


def test_the_rise_of_entropy_of_known_histograms() -> None:
    """Three of four values in one bin; then each in its own."""
    network = nn.Sequential(Scale([0, 0, 0, 8], [1, 2, 3, 4]), Ends())
    measured = asked("entropy_rise:bins=4", case_of(network, rows()))
    before = stats.entropy([0.75, 0.25])
    assert measured.values[""].item() == pytest.approx(math.log(4) / before - 1)
    expected: Any = stats.spearmanr([0, 0, 0, 8], [1, 2, 3, 4])
    assert measured.values["similarity"].item() == pytest.approx(expected.statistic)


def test_signs_of_a_map_with_one_value_per_pixel_count() -> None:
    """Grad-CAM without its ReLU, say: what speaks against the class comes last."""
    network = nn.Sequential(Scale([1, 2, -3, -4], [-1, -2, 3, 4]), Ends())
    assert asked("randomised:channels=sum", case_of(network, rows())).values["last"].item() == pytest.approx(-1)
    assert asked("randomised", case_of(network, rows())).values["last"].item() == pytest.approx(1), "sizes alone"


def test_what_never_looks_at_the_network_is_wholly_alike() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2))
    case = case_of(network, torch.rand(3, 3, 12, 12), "edge")
    for similarity in ("spearman", "ssim"):
        values = asked(f"randomised:similarity={similarity}", case).values
        assert all(torch.allclose(value, torch.ones(3, dtype=torch.float64)) for value in values.values())
    rise = asked("entropy_rise", case)
    assert rise.values[""].tolist() == [0.0] * 3
    assert torch.allclose(rise.values["similarity"], torch.ones(3, dtype=torch.float64))


def test_maps_are_averaged_over_points_near_the_input() -> None:
    """Of a network that is linear they do not depend on the point; of one that is not they do."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(9, 2))
    case = case_of(linear, rows(4, 9))
    assert torch.allclose(asked("randomised:noisy=3", case).values["last"], asked("randomised", case).values["last"])
    curved = nn.Sequential(nn.Linear(9, 20), nn.Tanh(), nn.Linear(20, 2))
    case = case_of(curved, rows(4, 9))
    measure = registry.build("measure", "randomised:noisy=200,noise=0.2")
    classifier, draws = case.classifier, torch.randn(4000, 9, dtype=torch.float64)
    for k, x in enumerate(case.x):
        near = (x + 0.2 * draws).clamp(0, 1)
        plain = case.explainer(classifier, near, torch.zeros(len(near), dtype=torch.int64)).map.mean(dim=0)
        ours = measure.own(case)[0][k]
        assert torch.allclose(ours, plain.abs(), atol=0.05 * float(plain.abs().max()))


# -- SSIM ----------------------------------------------------------------------------------------------------


def slow_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Wang et al. 2004, Eq. 13, window by window: 11 x 11, Gaussian of sigma 1.5."""
    first, second = ((each - each.min()) / (each.max() - each.min()) for each in (first, second))
    around = np.arange(-5, 6)
    window = np.exp(-(around[:, None] ** 2 + around[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    padded = [np.pad(each, 5, mode="symmetric") for each in (first, second)]
    values = []
    for row in range(first.shape[0]):
        for column in range(first.shape[1]):
            a, b = (each[row : row + 11, column : column + 11] for each in padded)
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            together = (window * (a - mean_a) * (b - mean_b)).sum()
            above = (2 * mean_a * mean_b + 1e-4) * (2 * together + 9e-4)
            values.append(above / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_that_of_a_loop_over_windows() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4, 17, 23))
    second = first + np.array([0, 0.1, 1, 10])[:, None, None] * rng.normal(size=first.shape)
    ours = structural_similarity(torch.from_numpy(first), torch.from_numpy(5 * second - 3))
    slow = [slow_ssim(a, b) for a, b in zip(first, second, strict=True)]
    assert ours.tolist() == pytest.approx(slow, abs=1e-9)
    assert ours[0].item() == pytest.approx(1)
    assert structural_similarity(torch.ones(1, 9, 9), torch.rand(1, 9, 9)).isnan().all()


def test_ssim_needs_places() -> None:
    with pytest.raises(SpecError, match="similarity=spearman"):
        asked("randomised:similarity=ssim", case_of(nn.Linear(4, 2), rows()))


# -- the copies, and the model of the user ------------------------------------------------------------------


def bytes_of(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def trained_like() -> nn.Sequential:
    """Statistics as after training, dropout that training mode would let act."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(216, 3)
    )
    network(torch.rand(32, 3, 8, 8) * 5)
    return network


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_as_it_was_also_when_a_map_fails(fails: bool, training: bool) -> None:
    case = case_of(trained_like(), torch.rand(2, 3, 8, 8))
    calls = []

    def explainer(classifier: Classifier, *arguments: Any, **options: Any) -> Any:
        calls.append(classifier)
        assert classifier is not case.classifier
        if fails and len(calls) > 1:
            raise ValueError("no map of a random network")
        return registry.build("explainer", "gradient")(classifier, *arguments, **options)

    given: Any = explainer
    case = Case(classifier=case.classifier, x=case.x, y=case.y, explainer=given, explanation=case.explanation)
    case.classifier.train(training)
    before, state = bytes_of(case.classifier), torch.get_rng_state()
    if fails:
        with pytest.raises(ValueError, match="no map"):
            asked("randomised", case)
    else:
        assert all(value.isfinite().all() for value in asked("randomised", case).values.values())
    assert len(calls) == 2
    assert all(torch.equal(value, before[name]) for name, value in case.classifier.state_dict().items())
    assert all(module.training == training for module in case.classifier.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in case.classifier.parameters())
    assert not any(module._forward_pre_hooks for module in case.classifier.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_has_the_layers_own_initialisation_and_fresh_statistics() -> None:
    classifier = Classifier(trained_like())
    made = randomised(classifier, ("network.0", "network.1"), seed=3)
    old, new = bytes_of(classifier), bytes_of(made)
    bound = 1 / math.sqrt(27)  # of nn.Conv2d with 27 inputs, uniform
    assert not torch.equal(new["network.0.weight"], old["network.0.weight"])
    assert new["network.0.weight"].abs().max() <= bound
    assert new["network.0.weight"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert torch.equal(new["network.1.running_mean"], torch.zeros(6))
    assert torch.equal(new["network.1.running_var"], torch.ones(6))
    assert not torch.equal(old["network.1.running_mean"], torch.zeros(6))
    assert torch.equal(new["network.5.weight"], old["network.5.weight"])
    again, other = (bytes_of(randomised(classifier, ("network.0",), seed=seed)) for seed in (3, 4))
    assert torch.equal(again["network.0.weight"], new["network.0.weight"])
    assert not torch.equal(other["network.0.weight"], new["network.0.weight"])


class Orthogonal(nn.Conv2d):
    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight)  # which takes weights in the order of their axes alone


class Normal(nn.Conv2d):
    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)


@pytest.mark.parametrize("kind", [Orthogonal, Normal])
def test_how_memory_holds_the_weights_changes_no_draw(kind: Any) -> None:
    classifier = Classifier(nn.Sequential(kind(3, 6, 3, bias=False), nn.Flatten(), nn.Linear(216, 3)))
    before = randomised(classifier, ("network.0",), seed=3)
    with pixelwise(classifier):
        after = randomised(classifier, ("network.0",), seed=3)
    assert torch.equal(bytes_of(before)["network.0.weight"], bytes_of(after)["network.0.weight"])


def test_statistics_without_weights_are_fresh_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Flatten(), nn.Linear(216, 3))
    network(torch.rand(32, 3, 8, 8) * 5)
    classifier = Classifier(network)
    assert layers(classifier, torch.rand(1, 3, 8, 8)) == [("network.0", "network.1"), ("network.3",)]
    made = randomised(classifier, ("network.1",), seed=0)
    assert torch.equal(made.get_buffer("network.1.running_mean"), torch.zeros(6))


class Turned(nn.Module):
    """Registers its layers in another order than it calls them, and one whose weight it uses itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(5)
        self.body = nn.Linear(5, 4)
        self.beside = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(self.body(self.norm(x)), self.beside.weight))


def test_layers_come_in_the_order_in_which_they_are_called() -> None:
    classifier = Classifier(Turned())
    assert layers(classifier, torch.rand(1, 5)) == [
        ("network.norm", "network.body"),
        ("network.beside",),
        ("network.head",),
    ]


@pytest.mark.parametrize(
    "spec",
    [
        "mlp:features=64",
        "small_cnn:channels=3",
        "mnist_cnn",
        "preact_resnet:depth=8",
        "vgg:depth=11,width=8",
        "resnet:depth=18,width=8",
        "wide_resnet:depth=10,width=1",
    ],
)
def test_every_layer_of_our_networks_can_be_made_random(spec: str) -> None:
    torch.manual_seed(0)
    classifier = Classifier(spec)
    sides = {"mlp": (64,), "mnist_cnn": (1, 28, 28)}
    x = torch.rand(1, *sides.get(spec.partition(":")[0], (3, 32, 32)))
    every = layers(classifier, x)
    made = randomised(classifier, sum(every, ()), seed=0)
    for (name, old), new in zip(classifier.named_parameters(), made.parameters(), strict=True):
        assert old.ndim < 2 or not torch.equal(old, new), name
    assert {name.rpartition(".")[0] for name, _ in classifier.named_parameters()} <= set(sum(every, ()))


class Bare(nn.Module):
    """Holds a weight, and cannot draw it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Stubborn(nn.Linear):
    """Keeps its weight, whatever it is."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def reset_parameters(self) -> None: ...


class Broken(nn.Linear):
    """Draws its weight once."""

    def reset_parameters(self) -> None:
        if hasattr(self, "drawn"):
            raise RuntimeError("only once")
        self.drawn = True
        super().reset_parameters()


class Alone(nn.Linear):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("there is one of me")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Linear(4, 4), Bare(), Bare()), r"network\.1, network\.2 .*no reset_parameters"),
        (nn.Sequential(Stubborn(4, 3)), r"network\.0 leaves its weight unchanged"),
        (nn.Sequential(Broken(4, 3)), r"network\.0 cannot be initialised again.*only once"),
        (nn.Sequential(Alone(4, 3)), "cannot be copied.*one of me"),
        (Ends(), "no weights"),
    ],
)
def test_what_cannot_be_made_random_is_refused_by_name(network: nn.Module, said: str) -> None:
    case = case_of(network, rows(), dtype=torch.float32)
    for spec in ("randomised", "entropy_rise"):
        with pytest.raises(InputError, match=said):
            asked(spec, case)


def test_it_is_refused_before_any_search(tmp_path: Path) -> None:
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Bare(10)))
    data = advex.open_dataset("digits", split="test", max_samples=4)
    settings = Settings(maps=("gradient",), measures=("randomised",))
    with pytest.raises(InputError, match=r"network\.2 .*no reset_parameters"):
        evaluate([("net", "net", classifier)], data, tmp_path / "record", settings)
    assert not list(tmp_path.rglob("*.parquet"))


# -- what has no value ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::advex.errors.AdvexWarning")  # the explainer's own word on a map of zeros
def test_a_random_network_without_a_map_has_no_value_and_is_counted() -> None:
    network = nn.Sequential(Scale([1, 2, 3, 4], [0, 0, 0, 0]), Scale([1] * 4, [1, 2, 1, 2]), Ends())
    measured = asked("randomised", case_of(network, rows(2)))
    assert measured.values["first"].isfinite().all(), "only the lower layer's draw makes the map zero"
    assert measured.values["last"].isnan().all()
    assert measured.values["mean"].isnan().all()
    assert {reason: rows.tolist() for reason, rows in measured.undefined.items()} == {RANDOM_CONSTANT: [True, True]}
    rise = asked("entropy_rise", case_of(network, rows(2)))
    assert all(value.isnan().all() for value in rise.values.values())
    assert list(rise.undefined) == [RANDOM_CONSTANT]


def test_a_map_of_one_value_is_like_nothing() -> None:
    network = nn.Sequential(Scale([2, 2, 2, 2], [1, 2, 3, 4]), Ends())
    for spec in ("randomised", "entropy_rise"):
        measured = asked(spec, case_of(network, rows(2)))
        assert all(value.isnan().all() for value in measured.values.values())
        assert list(measured.undefined) == ["the map is the same everywhere"]


@pytest.mark.parametrize("spec", ["randomised:noisy=-1", "randomised:noise=-0.1", "entropy_rise:bins=1"])
def test_impossible_options_are_refused(spec: str) -> None:
    with pytest.raises(SpecError):
        registry.build("measure", spec)


def test_copies_are_made_once_for_all_measures_of_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(trained_like(), torch.rand(2, 3, 8, 8), dtype=torch.float32)
    made, copies = copy.deepcopy, []
    monkeypatch.setattr(copy, "deepcopy", lambda what, *rest: copies.append(type(what)) or made(what, *rest))
    for spec in ("randomised", "randomised:similarity=ssim", "entropy_rise"):
        asked(spec, case)
    assert copies.count(Classifier) == 2

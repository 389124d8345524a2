"""Maps that can be trained on: derivatives, passes, completeness, closed forms, refusals."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from advex import explainers, registry
from advex.classifier import Classifier
from advex.errors import AdvexError, AdvexWarning, InputError, SpecError
from advex.explainers import (
    ExpectedGradients,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    expected_gradients,
    request,
    smooth_grad,
)
from advex.explainers.integrated_gradients import quadrature
from advex.layers import listening
from advex.networks.preact_resnet import PreactResNet
from advex.types import Explanation

# Their default without data, for speed; tests/test_background.py has the warning and what data change.
pytestmark = pytest.mark.filterwarnings("ignore:The background is a single row")


TARGET = torch.tensor([0, 1, 1])
EVERY = pytest.mark.parametrize(
    "explain",
    [
        Gradient(),
        Gradient(of="probability"),
        InputXGradient(of="loss"),
        IntegratedGradients(steps=3, baseline=0.1),
        IntegratedGradients(steps=3, rule="gauss_legendre", of="loss"),
        ExpectedGradients(samples=3, baseline=0.1),
        SmoothGrad(samples=3),
        SmoothGrad(samples=3, take="square"),
        GradCAM(relu=False),
        GradCAM(layer="network.0", of="loss"),
    ],
    ids=lambda explain: re.sub(r"[^\w]+", "-", repr(explain)),
)


def error_of(explanation: Explanation) -> Tensor:
    """[n], of a method that promises completeness."""
    assert explanation.completeness is not None
    return explanation.completeness


@pytest.fixture
def clf() -> Classifier:
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    return Classifier(network, mean=0.3, std=0.5).eval()


@pytest.fixture
def x() -> Tensor:
    return 0.1 + 0.8 * torch.rand(3, 1, 3, 3, dtype=torch.float64)


# -- derivatives ----------------------------------------------------------------------------------------------


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that do not follow the row's bytes: numerical derivatives move the row, analytic ones keep the draws."""

    def generators(x: Tensor, seed: int, stream: str) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(len(x))]

    def normal(x: Tensor, seed: int, stream: str) -> Tensor:
        generator = torch.Generator().manual_seed(int(stream.split(":")[1]))
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    monkeypatch.setattr(expected_gradients, "generators", generators)
    monkeypatch.setattr(smooth_grad, "normal", normal)


@EVERY
@pytest.mark.usefixtures("steady")
def test_derivatives_of_maps_are_right_in_the_input_and_in_the_parameters(
    explain: Any, clf: Classifier, x: Tensor
) -> None:
    x, target = x[:2].requires_grad_(), TARGET[:2]

    def map_of(x: Tensor, *parameters: Tensor) -> Tensor:  # which gradcheck moves in place
        return explain(clf, x, target, create_graph=True, max_batch=4).map

    assert torch.autograd.gradcheck(map_of, (x, *clf.parameters()))
    assert torch.autograd.gradgradcheck(map_of, (x, *clf.parameters()))


@EVERY
def test_parameter_gradients_do_not_depend_on_the_passes(explain: Any, clf: Classifier, x: Tensor) -> None:
    found = []
    for size in (None, 1, 2, 5, "auto"):
        loss = explain(clf, x, TARGET, create_graph=True, max_batch=size).map.square().sum()
        found.append(torch.autograd.grad(loss, list(clf.parameters()), materialize_grads=True))
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            assert torch.allclose(first, second, rtol=1e-10, atol=1e-14)  # float64, another order of sums
    assert any(gradient.any() for gradient in found[0])


def test_a_baseline_may_be_trained(clf: Classifier, x: Tensor) -> None:
    u = torch.full((1, 3, 3), 0.2, dtype=torch.float64, requires_grad=True)
    told = IntegratedGradients(steps=3, baseline=u)(clf, x, TARGET, create_graph=True)
    (gradient,) = torch.autograd.grad(told.map.sum(), u)
    assert gradient.any()


# -- passes ---------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Remembers the rows of each pass, and whether a parameter took part in derivatives; no memory beyond `most`."""

    def __init__(self, network: nn.Module, most: int = 10**6) -> None:
        super().__init__()
        self.network, self.most = network, most
        self.rows: list[int] = []
        self.learning: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        self.rows.append(len(x))
        self.learning |= {parameter.requires_grad for parameter in self.parameters()}
        return self.network(x)


@pytest.mark.parametrize(
    ("explain", "rows"),
    [
        (Gradient(), 3),
        (InputXGradient(), 3),
        (SmoothGrad(samples=7), 21),
        (IntegratedGradients(steps=10, rule="trapezoid"), 30),
        (IntegratedGradients(steps=10, rule="left"), 30 + 3),
        (IntegratedGradients(steps=10, rule="right"), 30 + 3),
        (IntegratedGradients(steps=10), 30 + 6),
        (ExpectedGradients(samples=10), 30 + 3 + 1),
        (GradCAM(), 3),
    ],
    ids=repr,
)
def test_no_forward_pass_is_made_twice(explain: Any, rows: int, clf: Classifier, x: Tensor) -> None:
    counting = Counting(clf.network)
    for size in (4, 1):
        counting.rows.clear()
        explain(Classifier(counting), x, TARGET, max_batch=size)
        assert sum(counting.rows) == rows
        assert max(counting.rows) <= size
    assert counting.learning == {False}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in counting.parameters())


@EVERY
def test_auto_halves_when_memory_runs_out_and_says_so(explain: Any, clf: Classifier, x: Tensor) -> None:
    small = Classifier(Counting(clf.network, most=2), mean=0.3, std=0.5)
    whole = explain(small, x, TARGET, seed=1, max_batch=1)
    with warnings.catch_warnings(record=True) as told_of:
        warnings.simplefilter("always")
        told = explain(small, x, TARGET, seed=1, max_batch="auto")
    assert "max_batch=2" in str(told_of[-1].message)
    assert told_of[-1].category is AdvexWarning
    assert torch.allclose(told.map, whole.map, rtol=1e-10, atol=1e-14)
    with pytest.raises(torch.OutOfMemoryError):
        explain(small, x, TARGET, max_batch=3)


def test_passes_have_a_bounded_number_of_elements() -> None:
    assert request.rows_of_a_pass(torch.empty(1, 3, 32, 32)) == request.ROWS
    assert request.rows_of_a_pass(torch.empty(1, 3, 224, 224)) == request.FEWEST_ROWS
    assert request.rows_of_a_pass(torch.empty(1, 57)) > 1000


# -- closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["logit", "loss"])
def test_linear_models_have_closed_forms(toys: SimpleNamespace, of: Any) -> None:
    """Whatever path, baseline and noise: the weights, or weights times difference. For the loss, by completeness."""
    w = torch.randn(2, 6, dtype=torch.float64)
    linear = toys.affine(w, torch.randn(2))
    x, target = torch.rand(4, 6, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    if of == "logit":
        assert torch.allclose(Gradient()(linear, x, target).map, w[target])
        assert torch.allclose(SmoothGrad(samples=3)(linear, x, target).map, w[target])
        assert torch.allclose(InputXGradient()(linear, x, target).map, w[target] * x)
    background = torch.rand(5, 6, dtype=torch.float64)
    for baseline, u in ((0.25, torch.tensor(0.25)), (background[0], background[0]), (background[:4], background[:4])):
        for rule in ("midpoint", "trapezoid", "gauss_legendre"):
            told = IntegratedGradients(steps=30, rule=rule, baseline=baseline, of=of)(linear, x, target)
            if of == "logit":
                assert torch.allclose(told.map, w[target] * (x - u))
                assert error_of(told).abs().max() < 1e-12
            error = {"midpoint": 1e-3, "trapezoid": 2e-3, "gauss_legendre": 1e-10}[rule]
            assert error_of(told).abs().max() < error  # rules of second order: |F'''| / 24 / 30^2 and twice that
    if of == "logit":
        # Ten samples of five rows: each row is drawn twice, so that nothing is left to chance.
        told = ExpectedGradients(samples=10, baseline=background)(linear, x, target, seed=4)
        assert torch.allclose(told.map, w[target] * (x - background.mean(dim=0)))
        assert error_of(told).abs().max() < 1e-12


def test_quadratic_models_have_closed_forms(toys: SimpleNamespace) -> None:
    """F_1 = |x|^2 / 2 + const: gradient x; IG (x - u)(x + u) / 2 by any symmetric rule, off by h by one-sided ones."""
    spheres = toys.spheres(1.0)
    x, u = (6 * torch.rand(2, 4, 5, dtype=torch.float64) - 3).unbind()
    target = torch.ones(4, dtype=torch.int64)
    assert torch.allclose(Gradient()(spheres, x, target).map, x)
    assert torch.allclose(InputXGradient()(spheres, x, target).map, x.square())
    truth = (x.square() - u.square()) / 2
    for rule in ("midpoint", "trapezoid", "gauss_legendre", "published"):
        told = IntegratedGradients(steps=4, rule=rule, baseline=u)(spheres, x, target)
        assert torch.allclose(told.map, truth)
        assert error_of(told).abs().max() < 1e-12
    sides: dict[Literal["left", "right"], int] = {"left": -1, "right": 1}
    for rule, side in sides.items():
        with pytest.warns(AdvexWarning, match="misses the change"):
            told = IntegratedGradients(steps=4, rule=rule, baseline=u)(spheres, x, target)
        assert told.incomplete is not None
        assert told.incomplete.all()
        assert torch.allclose(told.map, truth + side * (x - u).square() / 8)  # half a step of 1/4
        assert torch.allclose(error_of(told), side * (x - u).square().sum(dim=1) / 8)
    magnitudes = SmoothGrad(sigma=0.5, samples=400, take="square")(spheres, x, target).map
    assert (magnitudes - (x.square() + 9)).abs().mean() < 1.5  # sigma = 0.5 * 6; sd of the mean about 0.8


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid", "gauss_legendre", "left", "right", "published"])
def test_rules_are_means(rule: Any) -> None:
    for steps in (2, 3, 20, 100):
        alpha, weight = quadrature(rule, steps)
        assert weight.sum() == pytest.approx(1)
        assert len(alpha) == len(weight) == steps - (rule == "published")
        assert (alpha[1:] > alpha[:-1]).all()
        assert 0 <= alpha[0] <= alpha[-1] <= 1
    degree = {"midpoint": 1, "trapezoid": 1, "gauss_legendre": 5, "published": 1}.get(rule, 0)
    alpha, weight = quadrature(rule, 3)
    for power in range(degree + 1):
        assert (weight * alpha**power).sum() == pytest.approx(1 / (power + 1))


def test_the_completeness_error_is_that_of_the_map(toys: SimpleNamespace) -> None:
    classifier, x, target = toys.mlp(), torch.rand(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    own = (
        classifier(x).gather(1, target[:, None])[:, 0]
        - classifier(torch.zeros_like(x)).gather(1, target[:, None])[:, 0]
    )
    for explain in (IntegratedGradients(steps=5), ExpectedGradients(samples=5)):
        told = explain(classifier, x, target)
        assert told.completeness is not None
        assert torch.allclose(told.completeness, told.map.flatten(1).sum(dim=1) - own)
        masked = explain(classifier, x, target, mask=torch.rand(3, 2, 2) < 0.5)
        assert torch.equal(error_of(masked), told.completeness)
    errors = [error_of(IntegratedGradients(steps=steps)(classifier, x, target)).abs().mean() for steps in (5, 50)]
    assert errors[1] < errors[0] / 50  # a rule of second order: a hundredth
    assert Gradient()(classifier, x, target).completeness is None


@pytest.mark.filterwarnings("ignore:.*misses the change")
def test_even_draws_beat_independent_ones(toys: SimpleNamespace) -> None:
    """The error of independent draws falls by 1/sqrt(S); with S = 64 even ones are several times better."""
    classifier, x, target = toys.mlp(), torch.rand(20, 3, 2, 2, dtype=torch.float64), torch.arange(20) % 3
    even = error_of(ExpectedGradients(samples=64)(classifier, x, target))
    single = torch.stack([error_of(ExpectedGradients(samples=1)(classifier, x, target, seed=s)) for s in range(64)])
    assert even.abs().mean() < single.mean(dim=0).abs().mean() / 3


# -- the layer that a class activation map looks at -----------------------------------------------------------


class Transformer(nn.Module):
    """Pictures of 6 x 6 in nine patches; the head reads the class token, or the mean of the patches."""

    def __init__(self, *, token: bool, extra: int = 0) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, stride=2)
        self.first = nn.Parameter(torch.randn(1, int(token) + extra, 8))
        self.token, self.extra = token, extra
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True) for _ in "ab"
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.token else tokens.mean(dim=1))


@pytest.mark.parametrize(("token", "layer"), [(True, "network.blocks.1.norm1"), (False, "network.norm")])
def test_tokens_are_a_square_of_patches(token: bool, layer: str) -> None:
    classifier = Classifier(Transformer(token=token).double())
    x = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    told = GradCAM(relu=False)(classifier, x, TARGET)
    assert told.method == f"grad_cam:layer={layer},relu=false,of=logit"
    assert told.map.abs().amax(dim=(1, 2, 3)).min() > 0


def test_tokens_that_are_no_square_leave_the_layer_before_them() -> None:
    classifier = Classifier(Transformer(token=True, extra=4).double())
    x = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    assert "layer=network.embed" in GradCAM()(classifier, x, TARGET).method
    with pytest.raises(InputError, match="is not spatial"):
        GradCAM(layer="norm")(classifier, x, TARGET)


def test_the_layer_is_found_and_named(clf: Classifier, x: Tensor) -> None:
    assert GradCAM()(clf, x, TARGET).method == "grad_cam:layer=network.1,relu=true,of=logit"
    named = GradCAM(layer="network.1")(clf, x, TARGET)
    assert torch.equal(named.map, GradCAM()(clf, x, TARGET).map)
    assert torch.equal(named.map, GradCAM(layer="1")(clf, x, TARGET).map)
    assert (named.map >= 0).all()
    with pytest.raises(InputError, match="no layer 'network.9'.*network.1"):
        GradCAM(layer="network.9")(clf, x, TARGET)
    with pytest.raises(InputError, match="'network.3' is not spatial"):
        GradCAM(layer="network.3")(clf, x, TARGET)


# -- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("gradient:of=odds", "of .*odds"),
        ("integrated_gradients:steps=0", "steps"),
        ("integrated_gradients:rule=trapezoid,steps=1", "steps >= 2"),
        ("integrated_gradients:rule=simpson", "rule .*simpson"),
        ("integrated_gradients:baseline=black", "finite number"),
        ("expected_gradients:baseline=.nan", "finite number"),
        ("expected_gradients:samples=0", "samples"),
        ("smooth_grad:sigma=-1", "sigma"),
        ("perceptual:sigma=1e9", "sigma"),
        ("blur_difference:sigma=1e9", "sigma"),
        ("smooth_grad:take=cube", "'cube'"),
    ],
)
def test_options_that_cannot_be_meant(spec: str, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        explainers.build(spec)


def test_inputs_that_do_not_fit(clf: Classifier, x: Tensor) -> None:
    cases: list[tuple[Any, str]] = [
        (IntegratedGradients(baseline=torch.zeros(2, 3, 3)), "baseline of shape"),
        (ExpectedGradients(baseline=torch.zeros(5, 2, 3, 3)), "Background rows"),
        (ExpectedGradients(baseline=torch.zeros(0, 1, 3, 3)), "Background rows"),
    ]
    for explain, match in cases:
        with pytest.raises(InputError, match=match):
            explain(clf, x, TARGET)
    for target in (TARGET - 1, TARGET + 1, TARGET.double()):
        with pytest.raises(InputError, match="target"):
            Gradient(of="loss")(clf, x, target)
    with pytest.raises(InputError, match="does not take inputs of shape"):
        Gradient()(clf, x[:, :, :2, :2], TARGET)
    with pytest.raises(InputError, match="must return logits"):
        Gradient()(Classifier(nn.Flatten(0)), x.float(), TARGET)
    with pytest.raises(AdvexError):
        IntegratedGradients(baseline=torch.tensor(float("inf")))


def test_a_baseline_given_as_a_tensor_is_told_by_shape_and_digest(clf: Classifier, x: Tensor) -> None:
    first, again, other = (IntegratedGradients(steps=2, baseline=u)(clf, x, TARGET).method for u in (x[0], x[0], x[1]))
    assert re.search(r"baseline=tensor-1x3x3-[0-9a-f]{8}", first)
    assert first == again != other


# -- the page -------------------------------------------------------------------------------------------------


def test_the_page_on_explainers_runs_and_lists_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "explainers.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "explainers.md", "exec"), names)  # noqa: S102
    assert names["after"] < names["before"]
    for name in registry.entries("explainer"):
        assert f"`{name}`" in page, name


def test_grad_cam_passes_over_a_branch_that_does_not_decide() -> None:
    """The convolution that is called last has no part in the answer: the map is that of the one before it."""

    class Branched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside, self.head = torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(3, 3, 3), torch.nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            places = self.main(x)
            self.aside(places)
            return self.head(places.mean(dim=(2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(Branched().double())
        x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    target = torch.tensor([0, 1, 0, 1])
    found, named = (GradCAM(layer=layer)(classifier, x, target) for layer in ("auto", "main"))
    assert "layer=network.main" in found.method
    torch.testing.assert_close(found.map, named.map)
    assert found.map.any()
    with pytest.warns(AdvexWarning, match="no gradient reached"):
        aside = GradCAM(layer="aside")(classifier, x, target)
    assert aside.flat is not None
    assert aside.flat.all()


class Residual(torch.nn.Module):
    """Blocks whose shortcut is called last, as in ResNets: their sum has no layer of its own in `functional` ones."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.stem, self.main, self.skip = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(4, 2)
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        places = self.act(self.stem(x))
        both = self.main(places) + self.skip(places)
        return self.head((both.relu() if self.functional else self.act(both)).mean(dim=(2, 3)))


class TwoWays(torch.nn.Module):
    """The input itself goes to the head, beside the only layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x) + x).mean(dim=(2, 3)))


class Stem(torch.nn.Module):
    """A module is called twice: its name stands for the last call, which is one summand only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(1, 4, 3), nn.Softplus()
        self.main, self.skip, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        places = self.act(self.stem(x))
        return self.head((self.act(self.main(places)) + self.skip(places)).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (lambda: Residual(functional=True), "act"),
        (lambda: Residual(functional=False), "act"),
        (Stem, "stem"),
        (lambda: PreactResNet(depth=10, widths=(4, 8), channels=1, classes=2), None),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2)), "1"),
    ],
)
def test_the_whole_answer_goes_through_grad_cams_layer(build: Any, layer: str | None) -> None:
    """With that layer's last answer held constant, nothing of the input reaches the logits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(build().double()).eval()
        x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    name = re.search("layer=([^,]*)", GradCAM()(classifier, x, TARGET).method)
    assert name is not None
    assert layer is None or name[1] == f"network.{layer}"

    def slope_around(name: str) -> float:
        at = x.clone().requires_grad_()
        with classifier.frozen(), listening(classifier, lambda name, module, answer: answer.detach().clone(), [name]):
            logits = classifier.logits(at).sum()
        return 0.0 if not logits.requires_grad else torch.autograd.grad(logits, at)[0].abs().max().item()

    assert slope_around(name[1]) == 0
    if isinstance(classifier.network, Residual | Stem):
        assert slope_around("skip") > 0


def test_grad_cam_refuses_where_the_answer_goes_around_every_layer() -> None:
    with pytest.raises(InputError, match="whole output passes through: at the end .network.conv. each contribute"):
        GradCAM()(Classifier(TwoWays()), torch.rand(3, 1, 8, 8), TARGET)

"""The classifier: what it computes, what it refuses and why it says so, and its input derivative."""

from __future__ import annotations

import functools
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex.classifier import Classifier, constant, input_gradient
from advex.errors import AdvexWarning, InputError
from advex.goals import Misclassify
from advex.logits import returns_probabilities


class Wrapped(nn.Module):
    """Returns what `answer` makes of its logits."""

    def __init__(self, answer: Any, features: int = 12, classes: int = 3) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(features, classes), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.layer(x.flatten(1)))


def colour(**options: Any) -> Classifier:
    """Three channels of 2 x 2 pixels."""
    return Classifier(Wrapped(lambda y: y), **options).eval()


IMAGES = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))


# -- what it computes --------------------------------------------------------------------------------------


def test_normalisation_is_by_channel_and_inside() -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]
    clf = colour(mean=mean, std=std).double()
    by_hand = torch.stack([(IMAGES[:, c].double() - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.allclose(clf(IMAGES.double()), clf.network(by_hand), rtol=1e-6)


def test_normalisation_keeps_all_its_digits_in_double_precision() -> None:
    clf = Classifier(Wrapped(lambda y: y).double(), mean=0.4914, std=[0.1, 0.2, 0.3], box=(0.1, 0.9))
    assert clf.mean.item() == 0.4914
    assert clf.std.tolist() == [0.1, 0.2, 0.3]
    assert clf.lower.item() == 0.1


def test_one_number_normalises_all_channels_and_tables_have_channels_too() -> None:
    clf = Classifier(Wrapped(lambda y: y, features=4), mean=0.5, std=2.0, box=(-9, 9))
    table = torch.randn(5, 4)
    assert torch.allclose(clf(table), clf.network((table - 0.5) / 2.0))
    columns = Classifier(clf.network, mean=[0.0, 1.0, 2.0, 3.0], std=1.0, box=(-9, 9))
    assert torch.allclose(columns(table), clf.network(table - torch.arange(4.0)))


def test_an_object_with_logits_is_unwrapped() -> None:
    plain = colour()
    wrapped = Classifier(Wrapped(lambda y: SimpleNamespace(logits=y, loss=None)))
    wrapped.network.load_state_dict(plain.network.state_dict())
    assert torch.equal(wrapped(IMAGES), plain(IMAGES))


def test_predict_is_the_softmax_in_evaluation_mode_in_any_slices() -> None:
    clf = Classifier(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))).train()
    expected = clf.network[2](IMAGES.flatten(1)).softmax(dim=1)  # pyright: ignore
    for max_batch in (1, 3, 100):
        assert torch.allclose(clf.predict(IMAGES, max_batch=max_batch), expected)
    assert clf.predict(IMAGES[:0]).shape == (0, 3)
    assert clf.training
    assert not clf.predict(IMAGES).requires_grad


def test_box_and_normalisation_are_no_weights() -> None:
    """They are saved by name in config.json, so a state_dict is the network's alone."""
    assert {name.partition(".")[0] for name in colour(mean=[0.1, 0.2, 0.3], std=0.5).state_dict()} == {"network"}


def test_it_takes_the_networks_precision_and_follows_it() -> None:
    clf = Classifier(nn.Linear(4, 3).double())
    assert clf.dtype == torch.float64
    assert clf.float().dtype == torch.float32
    assert clf(torch.rand(2, 4)).dtype == torch.float32


# -- what it refuses ---------------------------------------------------------------------------------------

WRONG_INPUTS = {
    "already normalised": ((IMAGES - 0.5) / 0.25, r"lie in the box \[0, 1\], found \[-1.*already normalised\?"),
    "0..255": (IMAGES * 255, r"found \[.*0\.\.255 pixels: divide by 255"),
    "uint8": ((IMAGES * 255).to(torch.uint8), r"torch.uint8: divide 8-bit images by 255"),
    "NaN": (IMAGES.clone().index_fill_(0, torch.tensor([1]), math.nan), r"12 values that are NaN or infinite"),
    "infinite": (IMAGES.clone().index_fill_(0, torch.tensor([1]), math.inf), r"12 values that are NaN or infinite"),
    "grey": (IMAGES[:, :1], r"1 channels \(axis 1 of \(4, 1, 2, 2\)\).*mean has 3"),
    "channels last": (torch.rand(4, 2, 2, 3), r"2 channels.*channels last\?"),
    "double": (IMAGES.double(), r"input is torch.float64, but the classifier is torch.float32: "),
    "half": (IMAGES.half(), r"input is torch.float16, but the classifier is torch.float32"),
    "elsewhere": (IMAGES.to("meta"), r"input is on meta, but the classifier is on cpu"),
    "one image": (IMAGES[0, 0, 0], r"\[n, \*shape\]; got torch.Size\(\[2\]\)"),
    "a list": (IMAGES.tolist(), r"\[n, \*shape\]; got list"),
}


@pytest.mark.parametrize("what", WRONG_INPUTS)
def test_wrong_inputs_are_refused_with_their_likely_cause(what: str) -> None:
    x, sentence = WRONG_INPUTS[what]
    with pytest.raises(InputError, match=sentence):
        colour(mean=[0.5, 0.5, 0.5], std=0.25)(x)


def test_rounding_at_the_wall_is_not_an_error() -> None:
    colour()(IMAGES.clamp(0, 1) * 0 + 1.0000001)


def test_a_box_of_another_shape_is_named() -> None:
    clf = Classifier(Wrapped(lambda y: y), box=(torch.zeros(5), torch.ones(5)))
    with pytest.raises(InputError, match=r"\(4, 3, 2, 2\) .*\(5,\)"):
        clf(IMAGES)


def test_a_box_may_differ_by_element() -> None:
    upper = torch.ones(3, 1, 1)
    upper[2] = 0.5
    clf = colour(box=(torch.zeros(3, 1, 1), upper))
    clf(torch.full((1, 3, 2, 2), 0.5))
    with pytest.raises(InputError, match="lie in the box"):
        clf(torch.full((1, 3, 2, 2), 0.9))


WRONG_OUTPUTS = {
    "a tuple": (lambda y: (y, y), r"returned tuple.*with \.logits.*logits=lambda"),
    "a dictionary": (lambda y: {"scores": y}, r"returned dict of 'scores'"),
    "one output": (lambda y: y[:, :1], r"classes >= 2\] for n = 4, got \(4, 1\).*binary=True"),
    "no batch": (lambda y: y.mean(dim=0), r"got \(3,\)"),
    "a map": (lambda y: y[:, :, None, None], r"got \(4, 3, 1, 1\)"),
    "other rows": (lambda y: y[:2], r"for n = 4, got \(2, 3\)"),
}


@pytest.mark.parametrize("what", WRONG_OUTPUTS)
def test_wrong_outputs_are_refused(what: str) -> None:
    answer, sentence = WRONG_OUTPUTS[what]
    with pytest.raises(InputError, match=sentence):
        Classifier(Wrapped(answer))(IMAGES)


def test_class_names_must_be_as_many_as_outputs() -> None:
    with pytest.raises(InputError, match="3 outputs for 2 class names"):
        colour(class_names=["cat", "dog"])(IMAGES)
    assert colour(class_names=["a", "b", "c"]).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"std": 0}, "std must be above 0"),
        ({"std": [0.2, 0.0, 0.2]}, "std must be above 0"),
        ({"std": -1}, "std must be above 0"),
        ({"std": math.nan}, "std must be finite"),
        ({"mean": [0.5, math.inf, 0.5]}, "mean must be finite"),
        ({"mean": [0.5, 0.5], "std": [0.2, 0.2, 0.2]}, "mean has 2 channels, but std has 3"),
        ({"mean": torch.zeros(1, 3, 1, 1)}, "not a tensor with several axes"),
        ({"box": (1.0, 0.0)}, "The box is empty: lower 1.0, upper 0.0"),
        ({"box": (0.5, 0.5)}, "The box is empty"),
        ({"box": (0, math.inf)}, "upper must be finite"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        colour(**options)


def test_probabilities_are_warned_about() -> None:
    with pytest.warns(AdvexWarning, match=r"return probabilities.*remove the final softmax"):
        Classifier(Wrapped(lambda y: y.softmax(dim=1)))(IMAGES)
    assert not returns_probabilities(torch.tensor([[0.5, 0.5], [0.7, 0.7]]))
    assert not returns_probabilities(torch.tensor([[1.5, -0.5]]))
    assert not returns_probabilities(torch.zeros(0, 3))


def test_active_dropout_is_warned_about_and_named() -> None:
    clf = Classifier(nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(12, 3)))
    with pytest.warns(AdvexWarning, match=r"active dropout \('1'\).*\.eval\(\)"):
        clf(IMAGES)
    clf.eval()(IMAGES)  # no warning: warnings are errors here
    Classifier(nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(12, 3)))(IMAGES)


# -- frozen and accelerated --------------------------------------------------------------------------------


@pytest.mark.parametrize("breaks", [False, True])
def test_frozen_restores_modes_and_flags(breaks: bool) -> None:
    clf = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    clf.train()
    clf.network[2].eval()  # pyright: ignore
    clf.network[1].weight.requires_grad_(False)  # pyright: ignore

    def state() -> list[Any]:
        return [[m.training for m in clf.modules()], [p.requires_grad for p in clf.parameters()]]

    before = state()
    try:
        with clf.frozen() as inside:
            assert inside is clf
            assert not any(m.training for m in clf.modules())
            assert not any(p.requires_grad for p in clf.parameters())
            if breaks:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert breaks
    assert state() == before


def test_bfloat16_touches_logits_alone() -> None:
    clf = Classifier("mlp:features=12,classes=3").eval()
    exact = clf(IMAGES)
    with clf.accelerated(bfloat16=True):
        coarse = clf.logits(IMAGES)
        assert torch.equal(clf(IMAGES), exact)
    assert coarse.dtype == torch.float32
    assert not torch.equal(coarse, exact)
    assert torch.allclose(coarse, exact, rtol=0.05, atol=0.05)  # eight bits of mantissa, three layers
    assert torch.equal(clf.logits(IMAGES), exact)


def test_accelerations_end_with_their_block_and_can_be_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    clf = colour()
    names = [name for name, _ in clf.named_modules()]
    exact = clf.logits(IMAGES)
    with clf.accelerated(compiled=True):
        assert clf.compiled
        assert [name for name, _ in clf.named_modules()] == names  # no second copy of the network
        assert compiled == []  # nothing is compiled that is not asked for
        clf.logits(IMAGES)
        clf.logits(IMAGES)
        assert compiled == [clf.network]  # and what is, once
        with clf.accelerated():
            assert not clf.compiled
            assert torch.equal(clf.logits(IMAGES), exact)
        assert clf.compiled
        clf(IMAGES)
        assert compiled == [clf.network]
    assert not clf.compiled
    try:
        with clf.accelerated(compiled=True, bfloat16=True):
            assert clf.reduced_precision
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert not clf.compiled
        assert not clf.reduced_precision
        assert torch.equal(clf.logits(IMAGES), exact)
    assert compiled == [clf.network]


def test_any_function_has_one_compiled_form_within_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def compile_(function: Any, **options: Any) -> Any:
        made.append((function, options))
        return functools.partial(function)

    def logits_of(clf: Classifier, x: Tensor) -> Tensor:
        return clf.logits(x)

    monkeypatch.setattr(torch, "compile", compile_)
    clf = colour()
    assert clf.fast(logits_of) is logits_of
    with clf.accelerated(compiled=True):
        fast = clf.fast(logits_of, fullgraph=True)
        assert fast is not logits_of
        assert clf.fast(logits_of, fullgraph=True) is fast
        assert made == [(logits_of, {"dynamic": False, "fullgraph": True})]
        # Inside a function that is compiled as a whole the network is a part of it.
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        fast(clf, IMAGES)
        assert len(made) == 1
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
        fast(clf, IMAGES)
        assert made[1:] == [(clf.network, {"dynamic": False})]
    assert clf.fast(logits_of) is logits_of


def precisions() -> list[str]:
    """What torch's two switches for TF32 say."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    return [cudnn.conv.fp32_precision, matmul.fp32_precision]


@pytest.mark.parametrize("breaks", [False, True])
def test_float32_keeps_its_digits_where_that_is_asked_for(breaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU torch rounds convolutions to TF32 unless it is told not to; here no GPU is needed to see it told."""
    clf, before = colour(), precisions()
    assert before[0] == "tf32"
    try:
        with clf.accelerated(tf32=False):
            assert precisions() == ["ieee", "ieee"]
            with clf.accelerated():
                assert precisions() == ["ieee", "ieee"]
            if breaks:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert breaks
    assert precisions() == before
    with clf.accelerated():
        assert precisions() == before
    monkeypatch.setattr(Classifier, "device", torch.device("cuda"))
    assert clf.reduced_precision
    assert not Classifier(clf.network.double()).reduced_precision
    clf.float()
    with clf.accelerated(tf32=False):
        assert not clf.reduced_precision


@pytest.mark.parametrize("breaks", [False, True])
def test_constant_keeps_parameters_out_of_derivatives_and_restores_their_flags(breaks: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1] = network[0]  # by two names
    network[0].bias.requires_grad_(False)
    try:
        with constant(network):
            assert not network(torch.rand(2, 3)).requires_grad
            if breaks:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert breaks
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False]
    assert network.training


# -- the input derivative ----------------------------------------------------------------------------------


def test_the_input_gradient_is_the_finite_difference(toys: SimpleNamespace) -> None:
    clf, step = toys.mlp(), 1e-6
    x, y = IMAGES.double(), torch.tensor([0, 1, 2, 0])

    def score(at: Tensor) -> Tensor:
        return clf.logits(at).gather(1, y[:, None])[:, 0]

    gradient, values = input_gradient(score, x)
    assert torch.equal(values, score(x))
    for index in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(2)):
        shift = torch.zeros_like(x)
        shift[(slice(None), *index)] = step
        slope = (score(x + shift) - score(x - shift)).detach() / (2 * step)
        # Central differences: error step^2 times the third derivative, and rounding / step.
        assert torch.allclose(gradient[(slice(None), *index)], slope, atol=1e-7)


def test_the_input_gradient_accepts_an_aim_and_leaves_the_input_alone(toys: SimpleNamespace) -> None:
    clf, x, y = toys.mlp(), IMAGES.double(), torch.tensor([0, 1, 2, 0])
    gradient, aim = input_gradient(lambda at: Misclassify(y)(clf, at), x)
    expected, _ = input_gradient(lambda at: Misclassify(y)(clf, at).loss, x)
    assert torch.equal(gradient, expected)
    assert aim.reached.shape == (4,)
    assert not x.requires_grad
    assert not gradient.requires_grad
    assert all(parameter.grad is None for parameter in clf.parameters())


def test_a_score_that_does_not_depend_on_the_input_has_gradient_zero() -> None:
    for score in (lambda at: torch.ones(len(at)), lambda at: (at > 0.5).flatten(1).sum(dim=1).float()):
        for create_graph in (False, True):
            gradient, _ = input_gradient(score, IMAGES, create_graph=create_graph)
            assert torch.equal(gradient, torch.zeros_like(IMAGES))


def test_the_input_gradient_can_be_differentiated_twice() -> None:
    clf = Classifier("mlp:features=3,classes=2,widths=4,activation=softplus").double().eval()
    x = torch.rand(1, 3, dtype=torch.float64, requires_grad=True)

    def gradient(at: Tensor) -> Tensor:
        return input_gradient(lambda point: clf.logits(point).log_softmax(dim=1)[:, 0], at, create_graph=True)[0]

    assert torch.autograd.gradcheck(gradient, x)
    assert torch.autograd.gradgradcheck(gradient, x)


def test_a_penalty_on_the_input_gradient_reaches_the_weights(toys: SimpleNamespace) -> None:
    """For a linear score <w, x> the penalty |d score / d x|^2 is |w|^2, whose derivative is 2 w."""
    clf = toys.affine(torch.randn(2, 12, dtype=torch.float64), torch.zeros(2))
    gradient, _ = input_gradient(lambda at: clf.logits(at)[:, 1], IMAGES[:1].double(), create_graph=True)
    gradient.square().sum().backward()
    weight = clf.network[1].weight
    assert torch.allclose(weight.grad[1], 2 * weight[1])
    assert not weight.grad[0].any()


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 16, 16, 3), (2, 768)])
def test_a_network_that_does_not_take_the_input_says_so(shape: tuple[int, ...]) -> None:
    # Without a mean per channel only the network itself knows how many there are.
    classifier = Classifier("small_cnn:channels=3").eval()
    with pytest.raises(InputError, match="Grey and colour mixed up, channels last"):
        classifier(torch.rand(shape))


def test_running_out_of_memory_is_not_taken_for_a_wrong_input() -> None:
    class Greedy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Classifier(Greedy())(torch.rand(1, 4))

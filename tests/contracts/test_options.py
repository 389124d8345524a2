"""Every option of every registered thing does something, and refuses what it cannot be."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import typing
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from advex import objectives, registry
from advex.classifier import Classifier
from advex.data import Dataset
from advex.errors import SpecError
from advex.explainers.background import with_background
from advex.goals import BelowChance, Confident, Misclassify
from advex.types import Batch


def every_option(*kinds: str) -> list[Any]:
    """(kind, name, option) of everything registered."""
    return [
        pytest.param(kind, name, option, id=f"{name}-{option}")
        for kind in kinds
        for name, entry in registry.entries(kind).items()
        for option, parameter in entry.options().items()
        if parameter.default is not inspect.Parameter.empty
    ]


def examples(kind: str, name: str) -> list[dict[str, Any]]:
    """The options of each example that a registered thing gives."""
    return [registry.parse(f"{name}:{example}")[1] for example in registry.entries(kind)[name].examples]


def hints(kind: str, name: str) -> dict[str, Any]:
    """The types of its options, with their constraints."""
    make: Any = registry.entries(kind)[name].make
    return typing.get_type_hints(make if dataclasses.is_dataclass(make) else make.__init__, include_extras=True)


def another(kind: str, name: str, option: str, value: Any) -> Any:
    """A value that differs from `value` and is as valid: of an example, or by its type."""
    for example in examples(kind, name):
        if option in example and example[option] != value:
            return example[option]
    if typing.get_origin(hint := hints(kind, name)[option]) is Literal:
        return next(each for each in typing.get_args(hint) if each != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value // 2 if value > 1 else value + 2
    if isinstance(value, float):
        return value / 2 if value else 0.3
    if isinstance(value, tuple):
        return tuple(each * 2 for each in value)
    default = registry.entries(kind)[name].options()[option].default
    assert default != value, f"the {kind} '{name}' should give an example that sets '{option}'"
    return default


def problem(classifier: Any) -> tuple[Any, Tensor, Tensor]:
    """(classifier, x, y) where some searches succeed and some fail."""
    x = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        return classifier, x, classifier(x).argmax(dim=1)


def differ(first: Any, second: Any) -> bool:
    """Whether any tensor of two results differs."""
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in dataclasses.fields(first)]
    return any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("kind", "name", "option"), every_option("attack"))
def test_every_option_of_a_search_changes_something(
    network_for: Callable[[str], Any], forms: Callable[[str], list[Any]], kind: str, name: str, option: str
) -> None:
    classifier, x, y = problem(network_for(name))
    for form in forms(name):
        other = dataclasses.replace(form, **{option: another(kind, name, option, getattr(form, option))})
        for goal in (Misclassify(y), BelowChance(y), Confident(y, margin=0.9)):
            if differ(form(classifier, x, goal), other(classifier, x, goal)):
                return
    pytest.fail(f"'{option}' makes no difference to any form of '{name}'")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "option"), every_option("explainer"))
@pytest.mark.filterwarnings("ignore:.*[Ss]oftmax:advex.errors.AdvexWarning")  # DeepLift has no rule for probabilities
@pytest.mark.filterwarnings("ignore:.*misses the change")  # samples are few
def test_every_option_of_an_explainer_changes_its_map(kind: str, name: str, option: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution = torch.nn.Conv2d(3, 8, 2, padding=1)  # maps of regions need places
        layers = [("conv", convolution), ("relu", torch.nn.ReLU()), ("pool", torch.nn.AdaptiveAvgPool2d(2))]
        head = [("flat", torch.nn.Flatten()), ("head", torch.nn.Linear(32, 3))]  # pictures of other sizes fit too
        network = torch.nn.Sequential(OrderedDict([*layers, *head]))
    classifier, x, y = problem(Classifier(network.double(), mean=0.5, std=0.3))
    pixels = torch.randint(256, (120, *x.shape[1:]), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = Dataset(
        name="d", x=pixels, y=torch.arange(120) % 3, class_names=("a", "b", "c"), ids=tuple(map(str, range(120)))
    )
    for options in (*examples(kind, name), {}):
        usual = registry.make(kind, name, **options)
        large = [budget for budget in ("steps", "samples", "masks") if getattr(usual, budget, 0) > 40]
        usual = dataclasses.replace(usual, **dict.fromkeys(large, 40))
        other = dataclasses.replace(usual, **{option: another(kind, name, option, getattr(usual, option))})
        both = [with_background(each, rows) for each in (usual, other)]
        if not torch.equal(*(each(classifier, x, y).map for each in both)):
            return
        differentiable = all("create_graph" in inspect.signature(type(each).__call__).parameters for each in both)
        if differentiable and not torch.equal(*(slope(each, classifier, x, y) for each in both)):
            return
    pytest.fail(f"'{option}' makes no difference to any form of '{name}'")


def slope(explainer: Any, classifier: Any, x: Tensor, y: Tensor) -> Tensor:
    """A derivative of the map by the input."""
    at = x.clone().requires_grad_()
    return torch.autograd.grad(explainer(classifier, at, y, create_graph=True).map.square().sum(), at)[0]


# Of rows, and sure of itself; of pictures, with channels of different ranges, batch norm and activations with a kink.
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp:features=12,classes=3,widths=6": {},
    "small_cnn:channels=2,classes=3,widths=4-4-4,activation=relu": {"mean": 0.4, "std": [0.2, 0.3]},
}


def trained(term: Any, dtype: torch.dtype, network: str) -> tuple[list[float], list[Tensor]]:
    """Losses of four steps with one term beside cross-entropy, and the parameters' gradients in the last."""
    classifier = Classifier(network, class_names=[*"abc"], **NETWORKS[network]).to(dtype).train()
    with torch.no_grad():
        for number, parameter in enumerate(classifier.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).cos().roll(number).reshape(parameter.shape))
    shape = (12,) if network.startswith("mlp") else (2, 4, 4)
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(4), dtype=dtype)
    objective = objectives.Objective({"natural": objectives.Natural(), "term": term})
    state, losses = objective.start(), []
    # Labels that the network finds easy, then hard: a strength that adapts goes up, then down.
    for y in (classifier.predict(x).argmax(dim=1), classifier.predict(x).argmin(dim=1)) * 2:
        classifier.zero_grad(set_to_none=True)
        loss, _, state = objective(classifier, Batch(x=x, y=y), state, rng=torch.Generator())
        loss.backward()
        losses.append(loss.item())
    return losses, [parameter.grad.clone() for parameter in classifier.parameters()]  # pyright: ignore


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(("kind", "name", "option"), every_option("objective"))
def test_every_option_of_a_term_changes_the_loss_or_its_gradient(kind: str, name: str, option: str) -> None:
    dtype = torch.float32 if option == "bfloat16" else torch.float64  # autocast leaves float64 alone
    for options, network in itertools.product(({}, *examples(kind, name)), NETWORKS):
        usual = registry.make(kind, name, **options)
        other = dataclasses.replace(usual, **{option: another(kind, name, option, getattr(usual, option))})
        (losses, gradients), (others, other_gradients) = (trained(term, dtype, network) for term in (usual, other))
        if losses != others or not all(map(torch.equal, gradients, other_gradients)):
            return
    pytest.fail(f"'{option}' makes no difference to any form of '{name}'")


@pytest.mark.parametrize(("kind", "name", "option"), every_option("network"))
def test_every_option_of_a_network_changes_its_shape_or_its_output(kind: str, name: str, option: str) -> None:
    for usual in (*examples(kind, name), {}):
        value = usual.get(option, registry.entries(kind)[name].options()[option].default)
        other = {**usual, option: another(kind, name, option, value)}
        made = []
        for options in (usual, other):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made.append(registry.make(kind, name, **options))
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in made]
        if shapes[0] != shapes[1] or not torch.equal(*(output_of(each, kind, name) for each in made)):
            return
    pytest.fail(f"'{option}' makes no difference to any form of '{name}'")


def output_of(network: torch.nn.Module, kind: str, name: str) -> Tensor:
    """Of fixed inputs, in training mode, where every option is at work."""
    entry = registry.entries(kind)[name].options()
    size = entry["size"].default if "size" in entry else 32  # VGG halves it five times
    shape = (3, entry["channels"].default, size, size) if "channels" in entry else (3, entry["features"].default)
    for parameter in network.parameters():
        if not parameter.any():  # a weight that starts at zero hides what acts on its branch
            torch.nn.init.ones_(parameter)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of what is lost at random, whatever the size of x
        return network.train()(x)


@pytest.mark.parametrize(("kind", "name", "option"), every_option("attack", "explainer", "objective", "network"))
def test_impossible_values_are_refused_with_the_options_name(kind: str, name: str, option: str) -> None:
    default = registry.entries(kind)[name].options()[option].default
    if isinstance(default, bool):
        wrong = ["perhaps", 2, None]
    elif isinstance(default, int):
        wrong = [1.5, "many", None, True, -3, float("nan")]
    elif isinstance(default, float):
        wrong = ["many", None, True, float("nan")]
    elif isinstance(default, str):
        anything = kind != "network" and hints(kind, name)[option] is str  # a name that the network must know, say
        wrong = [[1]] if anything else ["", "no such thing", [1]]
    elif isinstance(default, tuple):
        wrong = [(), (1, 2), "wide", None, (0, 0, 0), (2.5, 2.5, 2.5)]
        if name == "mlp":
            wrong.remove(())
            wrong.remove((1, 2))
    else:
        wrong = ["no such thing"]
    for value in wrong:
        with pytest.raises(SpecError):
            registry.make(kind, name, **{option: value})


@pytest.mark.parametrize("kind", ["attack", "explainer", "objective"])
def test_what_is_described_can_be_built_again(kind: str) -> None:
    for name, entry in registry.entries(kind).items():
        thing = registry.make(kind, name)
        text = registry.describe(thing)
        assert text.partition(":")[0] == name
        assert registry.build(kind, text) == thing
        assert registry.describe(registry.build(kind, text)) == text
        for option in entry.options():
            changed = dataclasses.replace(thing, **{option: another(kind, name, option, getattr(thing, option))})
            assert registry.build(kind, registry.describe(changed)) == changed, option

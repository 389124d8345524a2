"""Laws of every registered measure of explanations. A new measure needs no line here: it is told by its own facts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import pytest
import torch
from torch import Tensor, nn

from advex import registry
from advex.classifier import Classifier
from advex.data.evidence import Evidence
from advex.errors import InputError
from advex.measures.case import NO_EVIDENCE, UNDEFINED, Better, Case, Measured, Need, Of, Value, apply, values_of
from advex.types import Explanation

MEASURES = {
    spec: registry.build("measure", spec)
    for name, entry in registry.entries("measure").items()
    for spec in (name, *(f"{name}:{options}" for options in entry.examples))
}


def those(holds: Callable[[Any], object]) -> pytest.MarkDecorator:
    """The measures of whose facts something holds."""
    names = [name for name, measure in MEASURES.items() if holds(measure)]
    return pytest.mark.parametrize("measure", [MEASURES[name] for name in names], ids=names)


def directed(measure: Any) -> dict[str, str]:
    """name -> "high" or "low", of the figures that have a good direction, where there is a better and a worse map."""
    if measure.of == "shape" and not hasattr(measure, "example"):
        return {}
    if getattr(measure, "published", False) and measure.of == "placed":  # blurs by 3 pixels what has 4 here
        return {}
    return {name: value.better for name, value in values_of(measure).items() if value.better != "neither"}


EVERY = those(lambda measure: True)
SHAPE, N = (3, 4, 4), 6
Explain = Any


@dataclass(frozen=True)
class Painted:
    """A map that is a smooth function of the input alone: base + strength * sin(20 x)."""

    differentiable: ClassVar[bool] = True

    strength: float = 0.0
    base: Tensor = field(default_factory=lambda: torch.linspace(1, 2, math.prod(SHAPE)).reshape(SHAPE).double())

    def __call__(self, classifier, x, target, *, seed=0, mask=None, max_batch=None, create_graph=False) -> Explanation:
        return Explanation(map=self.base.to(x) + self.strength * (20 * x).sin(), target=target, method="painted")


@dataclass(frozen=True)
class Forbidden:
    """An explainer that must not be asked."""

    def __call__(self, *args: Any, **options: Any) -> Explanation:
        raise AssertionError("the measure says that it does not need the explainer")


class Silent(nn.Module):
    """A network that must not be asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the measure says that it does not need the model")


def network(dtype: torch.dtype = torch.float64) -> Classifier:
    """Small, curved, with a layer that has places, so unsure that some points near an input decide otherwise."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(128, 3)]
    classifier = Classifier(nn.Sequential(*layers).double(), mean=0.5, std=0.3).eval()
    with torch.no_grad():
        layers[3].weight.mul_(4)
    return classifier.to(dtype)


def case_of(explainer: Explain | str = "input_x_gradient", n: int = N, dtype: torch.dtype = torch.float64) -> Case:
    """Inputs away from the walls of the box, the classes decided, and evidence for all: the upper left quarter."""
    built: Explain = registry.build("explainer", explainer) if isinstance(explainer, str) else explainer
    classifier = network(dtype)
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[:n].to(dtype) * 0.8 + 0.1
    target = classifier.predict(x).argmax(dim=1)
    return Case(
        classifier=classifier,
        x=x,
        y=target,
        explainer=built,
        explanation=built(classifier, x, target),
        evidence=quarter(n),
    )


def quarter(n: int) -> Evidence:
    outlines = torch.zeros(n, *SHAPE[1:], dtype=torch.bool)
    outlines[:, :2, :2] = True
    boxes = (torch.tensor([[0, 0, 1, 1]]),) * n
    # A thing of another class beside it, and the picture a little larger than what is shown of it.
    return Evidence(
        boxes=boxes, outlines=outlines, distractor=torch.ones(n, dtype=torch.bool), share=torch.full((n,), 0.2)
    )


def with_map(case: Case, maps: Tensor) -> Case:
    return replace(case, explanation=replace(case.explanation, map=maps.to(case.x)))


def rows(case: Case, index: Tensor) -> Case:
    """The same question about some of the examples."""
    assert case.evidence is not None
    return replace(
        case,
        x=case.x[index],
        y=case.y[index],
        explanation=replace(
            case.explanation, map=case.explanation.map[index], target=case.explanation.target[index], completeness=None
        ),
        evidence=case.evidence.take(index.tolist()),
    )


def same(first: Measured, second: Measured, rtol: float = 1e-6) -> None:
    assert first.values.keys() == second.values.keys()
    for name, value in first.values.items():
        assert torch.allclose(value, second.values[name], rtol=rtol, atol=1e-9, equal_nan=True), name
    assert {reason: rows.tolist() for reason, rows in first.undefined.items()} == {
        reason: rows.tolist() for reason, rows in second.undefined.items()
    }


def defined(measured: Measured, value: str) -> Tensor:
    values = measured.values[value]
    return values[~values.isnan()]


def per_row(measured: Measured) -> Mapping[str, Tensor]:
    """What it says of each row by itself: its values, or the mean of the row's parts where values are settled."""
    return measured.values if measured.parts is None else {"parts": measured.parts.mean(dim=1)}


def apart(measure: Any, first: Tensor, second: Tensor) -> float:
    """The difference of two medians, as a share of the larger: figures may have a sign.

    Of randomised networks it is the difference itself: correlations, and shares of an entropy, that lie about 0.
    """
    a, b = first.nanmedian().item(), second.nanmedian().item()
    return abs(a - b) / (1.0 if measure.of == "randomised" else max(abs(a), abs(b), 1e-12))


# -- what it says of itself ---------------------------------------------------------------------------------


@EVERY
def test_it_is_a_value_and_is_built_again_from_its_spec(measure: Any) -> None:
    assert dataclasses.is_dataclass(measure)
    assert registry.build("measure", registry.describe(measure)) == measure
    assert hash(measure) is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        measure.anything = 1  # pyright: ignore[reportAttributeAccessIssue]


@EVERY
def test_its_facts_are_facts(measure: Any) -> None:
    assert measure.of in get_args(Of)
    assert measure.needs <= set(get_args(Need))
    values = values_of(measure)
    assert values
    for name, value in values.items():
        assert name == name.lower()
        assert value.title
        assert value.title == value.title.strip()
        assert value.better in get_args(Better)
        assert isinstance(value.unit, str)
    assert len({value.title for value in values.values()}) == len(values)
    assert hasattr(measure, "values") != hasattr(measure, "title"), "one figure, or several by name"


def test_no_two_figures_have_one_column() -> None:
    every = {name: measure for name, measure in MEASURES.items() if ":" not in name}
    columns = [f"{name}_{value}".rstrip("_") for name, measure in every.items() for value in values_of(measure)]
    assert len(set(columns)) == len(columns)


# -- values and reasons -------------------------------------------------------------------------------------


@EVERY
def test_a_value_is_a_number_or_has_one_reason_why_not(measure: Any) -> None:
    case = case_of()
    maps = case.explanation.map.clone()
    maps[0], maps[1, 0, 0, 0], maps[2] = 0, math.nan, 2.5
    for asked_about in (case, with_map(case, maps), with_map(case, torch.full_like(maps, math.inf))):
        measured = apply(measure, asked_about)
        assert measured.values.keys() == values_of(measure).keys()
        reasons = torch.stack([*measured.undefined.values(), torch.zeros(N, dtype=torch.bool)]).sum(dim=0)
        undefined = torch.stack([value.isnan() for value in measured.values.values()]).any(dim=0)
        assert torch.equal(reasons, undefined.long()), (
            "one reason for each row with an undefined value, none for others"
        )
        assert all(value.dtype == torch.float64 and value.shape == (N,) for value in measured.values.values())
        if type(measure).__module__.startswith("advex."):
            assert UNDEFINED not in measured.undefined, "our own measures know their reasons"
    assert any(value.isfinite().any() for value in apply(measure, case).values.values())


@EVERY
def test_a_row_alone_is_the_row_among_others(measure: Any) -> None:
    case = case_of()
    maps = case.explanation.map.clone()
    maps[2] = 0  # a row without a value must not touch the others
    case = with_map(case, maps)
    together = apply(measure, case)
    for order in (torch.tensor([4, 2, 0, 5, 1, 3]), *torch.arange(N)[:, None]):
        if hasattr(measure, "settle"):  # its values are of all rows, from parts that are each row's own
            assert together.parts is not None
            parts = apply(measure, rows(case, order)).parts
            assert parts is not None
            assert torch.allclose(parts, together.parts[order], rtol=1e-6, atol=1e-9, equal_nan=True)
            continue
        expected = Measured(
            value={name: value[order] for name, value in together.values.items()},
            undefined={reason: rows[order] for reason, rows in together.undefined.items() if rows[order].any()},
        )
        same(apply(measure, rows(case, order)), expected)
    same(apply(measure, replace(case, max_batch=2)), together)
    same(apply(measure, case), together)


@those(lambda measure: hasattr(measure, "settle"))
def test_what_is_settled_from_the_parts_is_what_it_says_of_the_case(measure: Any) -> None:
    measured = apply(measure, case_of())
    assert measured.parts is not None
    again = measure.settle(measured.parts)
    for name, value in measured.values.items():
        assert torch.equal(again.values[name].nan_to_num(-7), value.nan_to_num(-7)), name
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = measure.settle(measured.parts[order])
    for name, value in measured.values.items():
        assert torch.equal(shuffled.values[name].nan_to_num(-7), value[order].nan_to_num(-7)), name


@EVERY
@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one(measure: Any, n: int) -> None:
    measured = apply(measure, case_of(n=n))
    assert {value.shape for value in measured.values.values()} == {(n,)}


@EVERY
def test_in_single_precision_it_says_the_same(measure: Any) -> None:
    double, single = apply(measure, case_of()), apply(measure, case_of(dtype=torch.float32))
    assert double.undefined.keys() == single.undefined.keys()
    for name, value in double.values.items():
        if not measure.needs:
            assert torch.allclose(single.values[name], value, rtol=1e-4, equal_nan=True), name
        else:  # random draws follow from the bytes of a row, which are others
            assert apart(measure, single.values[name], value) <= 0.5, name


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_it_says_what_the_same_numbers_say_in_single(measure: Any, dtype: torch.dtype) -> None:
    """Draws follow from a row's values, so they are the same; a map's rounding may weigh where maps are subtracted."""
    half = case_of(dtype=dtype)
    classifier, x = network(dtype).float(), half.x.float()
    single = replace(
        half, classifier=classifier, x=x, explanation=half.explainer(classifier, x, half.explanation.target)
    )
    if not measure.needs:
        same(apply(measure, half), apply(measure, with_map(single, half.explanation.map)))
        return
    coarse, fine = apply(measure, half), apply(measure, single)
    assert coarse.undefined.keys() == fine.undefined.keys()
    for name, value in per_row(fine).items():
        assert apart(measure, per_row(coarse)[name], value) <= (0.1 if dtype == torch.float16 else 0.25), name


@EVERY
def test_without_evidence_it_is_undefined_and_says_so(measure: Any) -> None:
    case = case_of()
    some = torch.tensor([True, False, False, True, True, True])
    partly = Evidence(boxes=tuple(torch.zeros(int(has), 4, dtype=torch.int64) for has in some), outlines=None)
    for evidence, lacking in ((None, torch.ones(N, dtype=torch.bool)), (partly, ~some)):
        measured = apply(measure, replace(case, evidence=evidence))
        if "evidence" in measure.needs:
            assert measured.undefined[NO_EVIDENCE].tolist() == lacking.tolist()
            assert all(value[lacking].isnan().all() for value in measured.values.values())
        else:
            same(measured, apply(measure, case))


@EVERY
def test_it_uses_what_it_says_that_it_needs(measure: Any) -> None:
    case = case_of()
    if "model" not in measure.needs:
        case = replace(case, classifier=Classifier(Silent()))
    if "explainer" not in measure.needs:
        case = replace(case, explainer=Forbidden())
    apply(measure, case)


@EVERY
def test_nothing_of_the_model_is_changed(measure: Any) -> None:
    case = case_of()
    classifier = case.classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    x, maps, state = case.x.clone(), case.explanation.map.clone(), torch.get_rng_state()
    apply(measure, case)
    assert all(module.training for module in classifier.modules())
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())
    assert torch.equal(case.x, x)
    assert torch.equal(case.explanation.map, maps)
    assert torch.equal(torch.get_rng_state(), state)


@those(lambda measure: getattr(measure, "moves", False))
def test_it_shows_inputs_within_the_box_and_their_maps_where_it_says_so(measure: Any) -> None:
    case = case_of()
    moved = apply(measure, case).moved
    assert moved is not None
    x, maps = moved
    assert x.shape == maps.shape == case.x.shape
    assert ((x >= 0) & (x <= 1)).all()
    assert torch.allclose(maps, case.explain(x), rtol=1e-6, atol=1e-9)
    for i in range(N):
        alone = apply(measure, rows(case, torch.tensor([i]))).moved
        assert alone is not None
        assert torch.allclose(alone[0][0], x[i], rtol=1e-6)


# -- directions ---------------------------------------------------------------------------------------------


def good_and_bad(measure: Any) -> tuple[Case, Case]:
    """Two cases of which the first is better in what the measure is `of`, by construction."""
    case = case_of()
    if measure.of == "shape":
        good, bad = (torch.tensor(values, dtype=torch.float64)[None] for values in measure.example)
        single = rows(case, torch.tensor([0]))
        return with_map(single, good), with_map(single, bad)
    if measure.of == "stable":  # a map that hardly moves with the input, and one that turns over
        return case_of(Painted(strength=0.01)), case_of(Painted(strength=1.0))
    if measure.of == "placed":  # all on the object, and all beside it
        outlines = quarter(N).outlines
        assert outlines is not None
        mask = outlines[:, None].expand(N, *SHAPE).double()
        shaded = mask * (1 + torch.rand(N, *SHAPE, dtype=torch.float64))
        return with_map(case, shaded), with_map(case, shaded.flip(2, 3))
    if measure.of == "faithful":  # what each pixel adds to a linear logit, and the opposite
        weight = torch.randn(3, math.prod(SHAPE), dtype=torch.float64)
        layer = nn.Linear(weight.shape[1], 3, bias=False).double()
        layer.weight.data = weight
        linear = Classifier(nn.Sequential(nn.Flatten(), layer)).eval()
        target = linear.predict(case.x).argmax(dim=1)
        case = replace(case, classifier=linear, y=target, explanation=replace(case.explanation, target=target))
        parts = (weight[target].reshape(case.x.shape) * case.x).mean(dim=1, keepdim=True).expand(case.x.shape)
        return with_map(case, parts), with_map(case, -parts)
    # randomised: the derivatives of a network that looks at one corner, and a map that never looks at the network
    with torch.no_grad():
        case.classifier.get_parameter("network.3.weight").view(3, 8, 4, 4)[..., 2:] = 0
    corner = case.explainer(case.classifier, case.x, case.y)
    return replace(case, explanation=corner), case_of(Painted())


@those(directed)
def test_its_direction_is_the_one_it_declares(measure: Any) -> None:
    good, bad = (apply(measure, case) for case in good_and_bad(measure))
    for name, better in directed(measure).items():
        higher, lower = (good, bad) if better == "high" else (bad, good)
        assert len(defined(good, name)) == len(good.values[name])
        assert defined(higher, name).mean() > defined(lower, name).mean(), name


@dataclass(frozen=True)
class Scaled:
    """The maps of another explainer times a number."""

    differentiable: ClassVar[bool] = True

    explainer: Explain
    scale: float

    def __call__(self, classifier, x, target, *, seed=0, mask=None, max_batch=None, create_graph=False) -> Explanation:
        plain = self.explainer(classifier, x, target, seed=seed, max_batch=max_batch, create_graph=create_graph)
        return replace(plain, map=plain.map * self.scale)


@those(lambda measure: getattr(measure, "scale_free", False))
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_maps_of_another_scale_say_the_same_where_that_is_declared(measure: Any, scale: float) -> None:
    case = case_of()
    same(apply(measure, case_of(Scaled(case.explainer, scale))), apply(measure, case))


# -- what is asked of a measure that somebody writes ----------------------------------------------------------


@dataclass(frozen=True)
class Partial:
    """Two figures; the first example is refused, the second lacks a value."""

    wrong: bool = False

    of: ClassVar[Of] = "placed"
    needs: ClassVar[frozenset[Need]] = frozenset({"evidence"})
    values: ClassVar[Mapping[str, Value]] = {
        "a": Value(title="A", better="high"),
        "b": Value(title="B", better="low", unit="pixels"),
    }

    def __call__(self, case: Case) -> Measured | Tensor:
        if self.wrong:
            return torch.zeros(len(case))
        first = torch.arange(len(case), dtype=torch.float32)
        second = torch.where(first == 1, math.nan, first)
        return Measured(value={"a": first, "b": second}, undefined={"it is the first": first == 0})


def test_what_a_measure_refuses_is_undefined_and_each_row_has_one_reason() -> None:
    case = case_of()
    assert case.evidence is not None
    boxes = (torch.zeros(0, 4, dtype=torch.int64), *case.evidence.boxes[1:5], torch.zeros(0, 4, dtype=torch.int64))
    measured = apply(Partial(), replace(case, evidence=Evidence(boxes=boxes)))
    assert measured.values["a"].isnan().tolist() == [True, False, False, False, False, True]
    assert measured.values["b"].isnan().tolist() == [True, True, False, False, False, True]
    assert {reason: rows.nonzero()[:, 0].tolist() for reason, rows in measured.undefined.items()} == {
        NO_EVIDENCE: [0, 5],
        UNDEFINED: [1],
    }
    everywhere = apply(Partial(), case)
    assert {reason: rows.nonzero()[:, 0].tolist() for reason, rows in everywhere.undefined.items()} == {
        "it is the first": [0],
        UNDEFINED: [1],
    }


def test_a_reason_for_some_of_the_values_leaves_the_others() -> None:
    class Half(Partial):
        def __call__(self, case: Case) -> Measured:
            given = super().__call__(case)
            assert isinstance(given, Measured)
            rows = torch.arange(len(case))
            return replace(given, partly={"it is the second": rows == 1, "it is the third": rows == 2})

    measured = apply(Half(), case_of())
    assert measured.values["a"].isnan().tolist() == [True] + [False] * 5
    assert measured.values["b"].isnan().tolist() == [True, True] + [False] * 4
    assert {reason: rows.nonzero()[:, 0].tolist() for reason, rows in measured.undefined.items()} == {
        "it is the first": [0],
        "it is the second": [1],
    }


def test_a_measure_that_does_not_keep_its_word_is_refused() -> None:
    with pytest.raises(InputError, match=r"Partial must return \[6\]"):
        apply(Partial(wrong=True), case_of())


def test_what_is_shared_is_made_once() -> None:
    case, made = case_of(), []
    for _ in range(2):
        assert case.shared("key", lambda: made.append(1) or len(made)) == 1
    assert made == [1]
    assert replace(case).shared("key", lambda: 7) == 7, "another case shares nothing"

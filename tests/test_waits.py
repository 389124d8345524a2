"""How often a GPU is waited for, and what it is given to do: counted on a CPU that is treated as one."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from advex import attacks, explainers, objectives, waits
from advex.attacks import search as loop
from advex.classifier import Classifier, input_gradient
from advex.contexts import pixelwise
from advex.data.dataset import Dataset
from advex.errors import AdvexWarning, SpecError
from advex.evaluation import maps as mapped
from advex.evaluation.examples import searched
from advex.evaluation.mapping import cases, groups
from advex.evaluation.plan import plan_of
from advex.evaluation.settings import Settings
from advex.goals import Become, BelowChance, Misclassify
from advex.recipes import fitted, recipe_from
from advex.training.loop import _step
from advex.training.run import begin
from advex.training.steps import Loss, gradients, prepared

# Operations that end in a number, or in a shape, which the host has to know before it goes on. `lift_fresh` is a
# tensor made of Python's numbers: sent to a GPU it waits too, as memory that is not pinned does.
_WAITS = {
    "_local_scalar_dense", "is_nonzero", "nonzero", "nonzero_numpy", "masked_select", "equal", "allclose", "_unique2",
    "unique_dim", "unique_consecutive", "lift_fresh",
}  # fmt: skip
_NOT_LAUNCHED = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "scalar_tensor"}
_ANSWERS = {Tensor.tolist, Tensor.cpu}  # these reach no operation where the tensor is on a CPU


def _place() -> str:
    """The line of advex that is at work."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        _, found, path = frame.f_code.co_filename.partition("/src/advex/")
        if found:
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class Counted(TorchDispatchMode):
    """Inside, `waits` and `launched` count by place. Views are not launched; what a CPU generator drew is not asked."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launched: Counter[str] = Counter()
        self._drawn: list[Tensor] = []  # kept: another tensor must not come to lie in its place
        self._answers = _Answers(self)

    def __enter__(self) -> Counted:
        self._answers.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._answers.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        chosen = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in chosen)
        if by_mask or (name in _WAITS and not self._drew(args)):
            self.waits[_place()] += 1
        elif name not in _WAITS | _NOT_LAUNCHED and not _is_view(func):
            self.launched[_place()] += 1
        result = func(*args, **kwargs)
        if kwargs.get("generator") is not None and isinstance(result, Tensor):
            self._drawn.append(result)
        return result

    def _drew(self, args: Any) -> bool:
        return any(args[0].data_ptr() == drawn.data_ptr() for drawn in self._drawn)


class _Answers(TorchFunctionMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self.counted = counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ANSWERS and isinstance(args[0], Tensor):
            self.counted.waits[_place()] += 1
        return func(*args, **(kwargs or {}))


def _is_view(func: Any) -> bool:
    aliases = [each.alias_info for each in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "_AT_ONCE", set())


@pytest.fixture(scope="module")
def resnet() -> tuple[Classifier, Tensor, Tensor]:
    torch.manual_seed(0)
    classifier = Classifier("preact_resnet:depth=14,classes=10", mean=0.5, std=0.25).eval()
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return classifier, x, classifier.predict(x).argmax(dim=1)


def counted(act: Callable[[], object]) -> Counted:
    with Counted() as counts:
        act()
    return counts


# -- the counter: what torch.cuda.set_sync_debug_mode says of each, by torch's notes on CUDA ----------------------


@pytest.mark.parametrize(
    ("asks", "waited"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: int(x.sum()), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: torch.allclose(x, x), 1),
        (lambda x: torch.tensor(0.5) * x, 1),
        (lambda x: x[torch.arange(2)], 0),
        (lambda x: x.new_full((2,), 0.5), 0),
        (lambda x: torch.where(x > 0, x, 0.0), 0),
        (lambda x: int(torch.randint(9, (), generator=torch.Generator())), 0),
    ],
)
def test_what_waits_is_counted(asks: Callable[[Tensor], object], waited: int) -> None:
    x = torch.rand(3)
    assert counted(lambda: asks(x)).waits.total() == waited


def test_views_are_not_launched() -> None:
    x = torch.rand(3, 4)
    assert counted(lambda: (x.flatten()[2:].reshape(5, 2) + 1).mul_(2)).launched.total() == 2


# -- searches ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_search_seldom_waits_and_launches_less_than_a_network(resnet: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = resnet
    steps: list[tuple[int, int]] = []
    search = attacks.build("minimal:gradients=40")
    with pytest.MonkeyPatch.context() as patch, Counted() as whole:

        def look(*given: Any, ask: Any = loop._look, **how: Any) -> None:
            steps.append((whole.waits.total(), whole.launched.total()))
            ask(*given, **how)

        patch.setattr(loop, "_look", look)
        search(classifier, x, Misclassify(y), seed=0)
    with classifier.frozen():
        alone = counted(lambda: input_gradient(lambda x: classifier.logits(x).logsumexp(dim=1), x)).launched.total()
    gaps = [(later[0] - step[0], later[1] - step[1] - alone) for step, later in zip(steps, steps[1:], strict=False)]
    assert len(gaps) >= 30
    assert sum(waited for waited, _ in gaps) / len(gaps) <= 0.25
    assert sorted(own for _, own in gaps)[len(gaps) // 2] <= 120
    assert whole.waits.total() <= 0.5 * len(steps)  # with all that a call asks before, after and between


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rho", [0.1, 0.6])
def test_an_explanation_hardly_waits(rho: float, resnet: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = resnet
    search, goal = attacks.AtDistance(rho=rho), Become((y + 1) % 10, temperature=1.0)
    assert counted(lambda: search(classifier, x, goal, seed=0)).waits.total() / 35 <= 0.1
    toward = explainers.build(f"toward:rho={rho}")
    of_explainer = counted(lambda: toward(classifier, x, (y + 1) % 10)).waits
    assert not [place for place in of_explainer if place.startswith("geometry")]


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("norm", ["linf", "l2", "rmse"])
def test_projected_descent_does_not_wait_in_its_steps(norm: str, resnet: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = resnet
    searches = [attacks.build(f"pgd:norm={norm},steps={steps}") for steps in (2, 6)]
    few, many = [counted(partial(search, classifier, x, Misclassify(y))) for search in searches]
    assert few.waits.total() == many.waits.total()


@pytest.mark.parametrize("goal", [Misclassify, BelowChance])
@pytest.mark.parametrize(
    "spec",
    [
        "minimal:gradients=40", "minimal:gradients=100", "minimal:norm=linf,gradients=60",
        "minimal:norm=l1,gradients=60",
        "at_distance:rho=0.2", "apgd:steps=20,radius=0.05", "sigma_zero:gradients=20", "boundary_walk:queries=60",
    ],
)  # fmt: skip
def test_asking_seldom_changes_no_result(
    spec: str, goal: Any, toys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes, and what each row cost: rows that ended keep theirs, rows that stand cost nothing."""
    classifier = toys.mlp()
    x = torch.rand(24, 3, 2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y = classifier.predict(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 3
    at_once = attacks.build(spec)(classifier, x, goal(y), seed=0)
    monkeypatch.setattr(waits, "_AT_ONCE", set())
    seldom = attacks.build(spec)(classifier, x, goal(y), seed=0)
    for field in fields(at_once):
        before, after = getattr(at_once, field.name), getattr(seldom, field.name)
        if isinstance(before, Tensor) and before.is_floating_point():
            assert torch.allclose(before, after, rtol=1e-6, atol=1e-7)
        elif isinstance(before, Tensor):
            assert torch.equal(before, after)


# -- pictures held pixel by pixel --------------------------------------------------------------------------


class Viewing(nn.Module):
    """Looks at the memory of its answer, as older networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d((1, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).view(len(x), -1)


class ViewingRows(nn.Module):
    """Looks at the channels of all rows as one axis, which memory has of one row in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, *size = (answer := self.layer(x)).shape
        return answer.view(n * channels, *size).mean(dim=(1, 2)).view(n, channels)


class _BackByMemory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return slopes[0].view(len(slopes[0]), -1).relu().view(slopes[0].shape)


class ViewingBack(nn.Module):
    """Looks at the memory of derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(_BackByMemory.apply(self.first(x))).mean(dim=(2, 3))  # pyright: ignore


def test_pixel_by_pixel_nothing_changes_but_rounding(resnet: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = resnet
    weight = next(parameter for parameter in classifier.parameters() if parameter.ndim == 4)
    memory = weight.data_ptr()
    rows = classifier.predict(x), input_gradient(lambda x: classifier.logits(x)[:, 0], x)[0]
    with pixelwise(classifier):
        assert weight.is_contiguous(memory_format=torch.channels_last)
        again = classifier.predict(x), input_gradient(lambda x: classifier.logits(x)[:, 0], x)[0]
    assert (weight.data_ptr(), weight.is_contiguous()) == (memory, True)
    assert again[1].is_contiguous()  # what searches do with it is as fast as before
    for before, after in zip(rows, again, strict=True):
        assert (before - after).abs().max() <= 1e-5 * before.abs().max()


def test_whether_a_network_takes_it_is_tried_in_silence() -> None:
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    data = Dataset(name="one", x=pixels, y=torch.zeros(1, dtype=torch.long), ids=("0",), class_names=("a", "b"))
    network = nn.Sequential(nn.Conv2d(3, 2, 32), nn.Flatten(), nn.Softmax(dim=1))  # asked itself, it is doubted
    with searched(classifier := Classifier(network).eval(), data, Settings()):
        assert classifier.pixelwise
    with pytest.warns(AdvexWarning):
        classifier.predict(data.batch(slice(0, 1)).x)


@pytest.mark.parametrize(("side", "network", "held"), [
    (24, "preact_resnet:depth=14,classes=4", False),
    (32, "preact_resnet:depth=14,classes=4", True),
    (32, Viewing, False),
    (32, ViewingRows, False),
    (32, ViewingBack, False),
])  # fmt: skip
def test_large_pictures_are_held_so_where_the_network_allows(side: int, network: Any, held: bool) -> None:
    pixels = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    large = Dataset(name="large", x=pixels, y=torch.arange(2), ids=("0", "1"), class_names=("a", "b", "c", "d"))
    classifier = Classifier(network if isinstance(network, str) else network()).eval()
    with searched(classifier, large, Settings()):
        assert classifier.pixelwise is held
    plan = plan_of(Settings(attack=None, btr=None, pictures=(), maps=("centre", "random")))
    for group in groups(plan.maps):
        with cases(group, classifier, large, plan, range(2)) as made:
            for _, case, _ in made:
                assert case.classifier.pixelwise is held  # while it is measured, too
    assert not classifier.pixelwise


def test_a_network_is_held_as_before_when_a_measure_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while somebody keeps the error, as a notebook does: what is trained then would be lost with it."""
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    data = Dataset(name="d", x=pixels, y=torch.arange(2), ids=("0", "1"), class_names=("a", "b", "c", "d"))
    classifier = Classifier("preact_resnet:depth=14,classes=4").eval()
    memory = {name: parameter.data_ptr() for name, parameter in classifier.named_parameters()}
    plan = plan_of(Settings(attack=None, btr=None, pictures=(), maps=("centre",), measures=("gini",)))

    def fails(measure: Any, case: Any) -> None:
        assert case.classifier.pixelwise
        raise SpecError("no such map")

    monkeypatch.setattr(mapped, "apply", fails)
    monkeypatch.setattr(type(plan.measures[0].measure), "check", fails, raising=False)
    for ask in (
        lambda: mapped.check(plan, classifier, data),
        lambda: mapped._shared(groups(plan.maps)[0], classifier, data, plan, (), range(2)),
    ):
        with pytest.raises(SpecError) as kept:
            ask()
        assert kept.value.__traceback__ is not None
        assert not classifier.pixelwise
        assert {name: parameter.data_ptr() for name, parameter in classifier.named_parameters()} == memory


# -- training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 256, (32, 3, 8, 8), generator=rng, dtype=torch.uint8), torch.arange(32) % 4
    return Dataset(name="drawn", x=x, y=y, ids=tuple(map(str, range(32))), class_names=("a", "b", "c", "d"))


PLAIN = {"natural": {}}
PENALISED = {"lipschitz": {"psi": 1.0, "target": 1.0}, "output_zeroing": {}, "l1": {}}
ATTACKED = {"noise": {}, "adversarial": {"attack": "l2min:epsilon=0.1"}, **PENALISED}


def by_pgd(share: float) -> dict[str, Any]:
    return {"adversarial": {"attack": "pgd:norm=linf,radius=8/255,steps=3", "share": share}}


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("objective", "most"), [(PLAIN, 1), (PENALISED, 1), (ATTACKED, 2), (by_pgd(1.0), 2)])
def test_a_step_of_training_waits_once_and_where_it_draws_by_pixels_twice(
    objective: dict[str, Any], most: int, data: Dataset
) -> None:
    recipe = fitted(
        recipe_from({"network": "preact_resnet:depth=14", "objective": objective, "batch_size": 16, "ema": 0.0}),
        data.shape,
        4,
    )
    run = begin(recipe, data, None, "cpu")
    run.classifier.train()
    with prepared(run) as loss_of, run.reading(run.batches(0)) as read:
        for index in run.batches(0):
            counts = counted(partial(_step, run, loss_of, index, read, {}))
    assert 0 < counts.waits.total() <= most, counts.waits


@pytest.mark.parametrize(("share", "names"), [(0.5, {"clean", "altered"}), (1.0, set())])
def test_parts_of_some_examples_are_their_means(share: float, names: set[str], data: Dataset) -> None:
    recipe = fitted(
        recipe_from({"network": "preact_resnet:depth=14", "objective": by_pgd(share)}),
        data.shape,
        4,
    )
    run = begin(recipe, data, None, "cpu")
    every = torch.arange(32)
    with run.reading([every]) as read:
        loss, parts, *_ = gradients(run, Loss(run.classifier.eval(), run.objective), every, read)
    assert names == {"clean", "altered"} & parts.keys()
    if names:
        assert (parts["clean"] + parts["altered"]) / 2 == pytest.approx(loss, rel=1e-5)


def test_what_is_wrong_in_a_step_is_said_with_its_numbers(data: Dataset) -> None:
    terms = {"noise": {"std": 0.5, "clip": False}, "adversarial": {}}
    objective = objectives.build(terms)
    classifier = Classifier("preact_resnet:depth=14,classes=4")
    batch, rng = data.batch(slice(0, 8)), torch.Generator()
    _, taken = objective.taken(classifier, batch, objective.start(), rng=rng)
    with pytest.raises(SpecError, match="outside the box"):
        objective.settled(taken, 8)
    with pytest.raises(SpecError, match="outside the box"):
        objective(classifier, batch, objective.start(), rng=rng)


def test_what_a_search_has_returned_stays_its_own() -> None:
    """Of several in turn the first result is added to: in a copy, also where it cannot be written into."""
    x = torch.zeros(3, 2)
    count = torch.ones(1, dtype=torch.int64).expand(3)
    first = loop.SearchResult(
        delta=torch.zeros(3, 2), size=torch.tensor([1.0, math.inf, math.inf]), gradients=count, queries=count,
        flat=torch.zeros(1, dtype=torch.bool).expand(3),
    )  # fmt: skip
    kept = first.size.clone()

    def again(x: Tensor, goal: Any, mask: Tensor | None, rows: Tensor) -> loop.SearchResult:
        found = loop.SearchResult.nothing(x)
        return replace(found, size=torch.full((len(x),), 0.5), gradients=found.gradients + 2)

    goal: Any = Misclassify(torch.zeros(3, dtype=torch.int64))
    result = loop.in_turn([lambda *given: first, again], x, goal, None)
    assert result.gradients.tolist() == [1, 3, 3]
    assert result.size.tolist() == [1, 0.5, 0.5]
    assert torch.equal(first.size, kept)

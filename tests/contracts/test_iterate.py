"""The one search loop itself, with rules made for the purpose: dropping finished rows, and running out of memory."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advex import attacks
from advex.attacks import PGD, Minimal
from advex.attacks.attack import in_slices, run_search, verify
from advex.attacks.search import SearchResult, SearchState, deepest, iterate, smallest
from advex.classifier import Classifier
from advex.errors import AdvexWarning, InputError
from advex.geometry import LINF, RMSE, per_row
from advex.goals import Aim, Misclassify
from advex.randomness import uniform
from advex.types import Perturbation, concatenate


@dataclasses.dataclass
class March:
    """Goes downhill in equal steps and straight back. A row is finished some steps after its first success, each in
    its own time: `patience` and up to eight more."""

    patience: int | None
    rows: list[int] = dataclasses.field(default_factory=list)

    def start(self, state: SearchState) -> None:
        state.memory = {"since": torch.zeros(len(state.x), dtype=torch.int64)}

    def step(self, state: SearchState, k: int) -> Tensor:
        self.rows.append(len(state.x))
        towards = torch.where(per_row(state.reached, state.x), state.delta, state.gradient)
        return state.delta - 0.02 / (1 + k / 10) * RMSE.steepest(towards)

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        if self.patience is None:
            return None
        state.memory["since"] = state.memory["since"] + torch.isfinite(state.best_size)
        return state.memory["since"] > self.patience + (8 * state.x.flatten(1)[:, 0]).long()


def problem(toys: SimpleNamespace, n: int = 24) -> tuple[Classifier, Tensor, Tensor]:
    classifier = toys.mlp()
    x = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        return classifier, x, classifier(x).argmax(dim=1)


def find(rule: March, classifier: Classifier, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Perturbation:
    def march(x: Tensor, goal: Misclassify, mask: Tensor | None) -> SearchResult:
        return iterate(rule, classifier, x, goal, norm=RMSE, steps=30, mask=mask)

    return run_search(march, classifier, x, Misclassify(y), norm=RMSE, mask=mask)


def test_finished_rows_are_dropped_and_come_back_in_place(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    rule = March(patience=3)
    result = find(rule, classifier, x, y)
    assert rule.rows[0] == 24
    assert sorted(rule.rows, reverse=True) == rule.rows
    assert rule.rows[-1] < 24 or len(rule.rows) < 30
    everything = find(March(patience=None), classifier, x, y)
    # Each row that was given up early was already a success, a little larger at most than after all the steps.
    assert torch.equal(result.reached, everything.reached)
    assert (result.size >= everything.size - 1e-12).all()
    assert (result.gradients <= 30).all()
    assert result.gradients.unique().numel() > 3


def test_a_finished_row_does_not_profit_from_slower_neighbours(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    together = find(March(patience=2), classifier, x, y, mask)
    for i in range(len(x)):
        alone = find(March(patience=2), classifier, x[i : i + 1], y[i : i + 1], mask[i : i + 1])
        assert alone.gradients.item() == together.gradients[i].item()
        assert torch.allclose(alone.delta[0], together.delta[i], atol=1e-10)


def test_few_batch_sizes_when_compiled(toys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new batch size is compiled anew, so only powers of two occur; the result is the same."""
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    classifier, x, y = problem(toys, 21)
    plain = find(March(patience=2), classifier, x, y)
    rule = March(patience=2)
    with classifier.accelerated(compiled=True):
        result = find(rule, classifier, x, y)
    assert {size for size in rule.rows if size != 21} <= {1, 2, 4, 8, 16}
    assert torch.allclose(result.delta, plain.delta, atol=1e-10)
    assert torch.equal(result.gradients, plain.gradients)


# -- without gradients ---------------------------------------------------------------------------------------


class Squares:
    """Random squares of +-radius (after Andriushchenko et al. 2020), kept where they lower the loss. A row that has
    reached the goal is finished."""

    needs_gradient = False

    def __init__(self, radius: float, seed: int) -> None:
        self.radius, self.seed, self.rows = radius, seed, list[int]()

    def start(self, state: SearchState) -> None:
        pass

    def step(self, state: SearchState, k: int) -> Tensor:
        self.rows.append(len(state.x))
        height, width = state.x.shape[2:]
        top, left, sign = uniform(state.x[:, :, 0, 0], self.seed, f"square {k}").T
        rows = (torch.arange(height) - (top * height).long()[:, None]).remainder(height) < 1 + (k < 8)
        columns = (torch.arange(width) - (left * width).long()[:, None]).remainder(width) < 1 + (k < 8)
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]
        return torch.where(inside, per_row(self.radius * (1 - 2 * (sign < 0.5).to(state.x)), state.x), state.best)

    def better(self, state: SearchState) -> Tensor:
        return deepest(state)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return state.best_reached


def squares(
    classifier: Classifier,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int = 1,
    max_batch: int | None = None,
) -> tuple[Perturbation, Squares]:
    rule = Squares(0.15, seed)

    def find(x: Tensor, goal: Misclassify, mask: Tensor | None) -> SearchResult:
        return iterate(rule, classifier, x, goal, norm=LINF, steps=30, mask=mask)

    return run_search(find, classifier, x, Misclassify(y), norm=LINF, mask=mask, max_batch=max_batch), rule


def test_a_rule_may_need_no_gradient(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    graphs: list[bool] = []
    classifier.network.register_forward_hook(lambda module, inputs, logits: graphs.append(logits.requires_grad))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    result, rule = squares(classifier, x, y, mask)
    assert not any(graphs)
    assert 0 < int(result.reached.sum()) < len(x)
    assert not result.delta[~mask].any()
    assert (LINF.size(result.delta) <= 0.15 + 1e-12).all()
    assert ((result.adversarial >= 0) & (result.adversarial <= 1)).all()
    assert not result.gradients.any()
    assert not result.flat.any()
    # One at each step and one at the end; a row that got there costs nothing more, and the batch shrinks.
    assert (result.queries[~result.reached] == 31).all()
    assert (result.queries[result.reached] <= 31).all()
    assert result.queries.unique().numel() > 3
    assert rule.rows[-1] < rule.rows[0] == 24


def test_without_gradients_rows_do_not_mix_and_seeds_repeat(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    result, _ = squares(classifier, x, y)
    sliced, _ = squares(classifier, x, y, max_batch=5)
    again, _ = squares(classifier, x, y)
    other, _ = squares(classifier, x, y, seed=2)
    assert torch.equal(again.delta, result.delta)
    assert not torch.equal(other.delta, result.delta)
    alone = concatenate([squares(classifier, x[i : i + 1], y[i : i + 1])[0] for i in range(len(x))])
    for other_way in (sliced, alone):
        assert torch.equal(other_way.queries, result.queries)
        assert torch.allclose(other_way.delta, result.delta, atol=1e-12)


def test_queries_are_what_a_row_costs_without_gradients(toys: SimpleNamespace) -> None:
    """Passes of a row alone, less those that take a gradient, the two first looks and the last verdict."""
    classifier, x, y = problem(toys, 3)
    passes: list[int] = []
    classifier.network.register_forward_hook(lambda module, inputs, logits: passes.append(len(logits)))
    for search, others in ((PGD(steps=5), 2), (PGD(steps=5, restarts=2, radius=0.001), 2), (Minimal(gradients=20), 3)):
        for i in range(len(x)):
            passes.clear()
            result = search(classifier, x[i : i + 1], Misclassify(y[i : i + 1]))
            assert int(result.queries) == sum(passes) - int(result.gradients) - others


# -- around the loop ----------------------------------------------------------------------------------------


def verified(toys: SimpleNamespace, delta: list[list[float]], size: list[float], lengthen: int = 0) -> Perturbation:
    """What `verify` makes of a find on the classifier x_0 > 0.5, from x = (0.25, 0.5), with the walls at 0 and 1."""
    w = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    classifier = toys.affine(w, torch.tensor([0.5, -0.5]))
    n = len(size)
    x = torch.tensor([[0.25, 0.5]], dtype=torch.float64).expand(n, 2)
    counts = torch.full((n,), 3)
    result = SearchResult(
        delta=torch.tensor(delta, dtype=torch.float64),
        size=torch.tensor(size),
        gradients=counts,
        queries=counts,
        flat=counts > 5,
    )
    return verify(classifier, x, result, Misclassify(torch.zeros(n, dtype=torch.int64)), RMSE, lengthen=lengthen)


def test_a_search_is_not_believed(toys: SimpleNamespace) -> None:
    claims = [[0.3, 0.0], [0.2, 0.0], [0.3, 0.0], [9.0, -9.0]]
    done = verified(toys, claims, [0.1, 0.1, float("inf"), 0.1])
    assert done.reached.tolist() == [True, False, True, True]  # the second lied, the third was too modest
    assert done.delta.tolist() == [[0.3, 0.0], [0.2, 0.0], [0.3, 0.0], [0.75, -0.5]]  # cut to the box
    assert torch.equal(done.size, torch.where(done.reached, RMSE.size(done.delta), torch.inf))
    assert done.gradients.tolist() == [3] * 4


def test_a_rounding_error_is_helped_over_and_nothing_more(toys: SimpleNamespace) -> None:
    just_short = [[0.2499, 0.0], [0.25 / 1.01, 0.0], [0.2499, 0.0]]
    sizes = [0.1, 0.1, float("inf")]  # the last never claimed to be there
    assert verified(toys, just_short, sizes).reached.tolist() == [False, False, False]
    helped = verified(toys, just_short, sizes, lengthen=8)
    assert helped.reached.tolist() == [True, False, False]
    assert helped.delta[0, 0].item() == pytest.approx(0.2499 * 1.001)
    assert helped.size[0].item() == pytest.approx(0.2499 * 1.001 / 2**0.5)


def test_running_out_of_memory_halves_the_slices_and_says_so() -> None:
    sizes = []

    def run(rows: slice) -> list[int]:
        part = list(range(10))[rows]
        sizes.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return part

    with pytest.warns(AdvexWarning, match="max_batch="):
        parts = list(in_slices(run, 10, "auto"))
    assert sum(parts, []) == list(range(10))
    assert sizes == [10, 5, 3, 3, 3, 1]


def test_running_out_of_memory_is_not_hidden_unless_asked() -> None:
    def run(rows: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_slices(run, 10, 4))

    def other(rows: slice) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(in_slices(other, 10, "auto"))


@pytest.mark.parametrize("wrong", ["all", "3.5", -1, 0])
def test_other_slice_sizes_are_refused(wrong: int | str) -> None:
    with pytest.raises(InputError, match="max_batch .*'auto'"):
        list(in_slices(lambda rows: rows, 4, wrong))


VISITED: list[tuple[float, float, bool]] = []  # (loss, score, reached) wherever a `Hill` was asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hill:
    """Climbed along `uphill`, judged by how near a bend on the way a point is. Beyond `wall` it is lost."""

    uphill: Tensor
    y: Tensor
    wall: float = 1e9
    open_ended: ClassVar[bool] = True

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        way = (x * self.uphill).flatten(1).sum(dim=1)
        reached, score = way.detach() < self.wall, (way - 0.8).abs().detach()
        VISITED.extend(zip((-way).tolist(), score.tolist(), reached.tolist(), strict=True))
        return Aim(loss=-way, score=score, reached=reached)


@pytest.mark.parametrize("search", ["pgd:radius=0.3", "apgd:radius=0.3", "square:radius=0.3", "spsa:radius=0.3"])
@pytest.mark.parametrize("wall", [1e9, 0.75], ids=["open", "wall"])
def test_the_best_is_the_best_by_its_score(toys: SimpleNamespace, search: str, wall: float) -> None:
    """What is climbed rises to the end; of the points on the way the one with the lowest score is kept."""
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    goal = Hill(uphill=torch.full_like(x, 0.1), y=torch.zeros(1, dtype=torch.int64), wall=wall)
    VISITED.clear()
    result = attacks.build(search)(toys.mlp(), x, goal)
    points = [(reached, score) for _, score, reached in VISITED]
    least = min(score for reached, score in points if reached)
    kept = abs((result.adversarial * goal.uphill).sum().item() - 0.8)
    assert kept == pytest.approx(least, abs=1e-12)
    assert result.reached.all()
    if search.startswith("pgd") and wall > 1:
        assert min(loss for loss, _, _ in VISITED) < -0.9  # it went on beyond the best


def test_pgd_may_keep_the_last_point_without_a_look_at_it(toys: SimpleNamespace) -> None:
    """Sign steps of a known length about the bottom of |x - 0.62|: where the last one leads, by hand."""

    class Bottom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            off = (x.flatten(1) - 0.62).abs().sum(dim=1)
            return torch.stack([torch.zeros_like(off), off - 0.1], dim=1)

    classifier = Classifier(Bottom()).double().eval()
    start = torch.tensor([[0.5, 0.1, 0.9]], dtype=torch.float64)
    at = start.numpy().copy()
    for _ in range(7):
        at = np.clip(at - 0.05 * np.sign(at - 0.62), start.numpy() - 0.3, start.numpy() + 0.3)
    goal = Misclassify(torch.ones(1, dtype=torch.int64))
    options: dict[str, Any] = {"radius": 0.3, "steps": 7, "step": 0.05, "random_start": False}
    last, best = (PGD(keep=keep, **options)(classifier, start, goal) for keep in ("last", "best"))
    assert np.allclose(last.adversarial, at)
    assert not torch.equal(last.delta, best.delta)
    assert (last.gradients.item(), last.queries.item()) == (7, 0)
    assert (best.gradients.item(), best.queries.item()) == (7, 1)
    # Whether a row stands must be known before the next start.
    several = PGD(keep="last", restarts=3, radius=0.3, steps=7)(classifier, start, goal)
    assert several.queries.item() == several.gradients.item() // 7

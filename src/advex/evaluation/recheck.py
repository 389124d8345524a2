"""Whether the attack can be believed: on some examples with more gradients, beside differences, and by decisions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from advex import goals, measures
from advex.attacks import Search
from advex.attacks.boundary_walk import from_noise, walk
from advex.attacks.slopes import compare_slopes
from advex.classifier import Classifier
from advex.drawing.numbers import percent
from advex.evaluation.columns import table, tensor
from advex.evaluation.examples import batch_for, searched, spread
from advex.evaluation.flags import flag
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import Contrast, figure_of
from advex.evaluation.shards import Piece
from advex.evaluation.tasks import SearchTask
from advex.geometry import L2, RMSE, per_row
from advex.goals import Goal
from advex.logits import varies
from advex.record import Flag, ModelEntry, norm_title
from advex.types import Perturbation

RECHECK, BY_DECISIONS = "rechecked", "by_decisions_alone"
_AT_ONCE = 16  # examples of a piece, at most
HELPS = 0.02  # a mean distance that falls by more with twice the gradients was not near its end
DISAGREE = 0.25  # error of the gradient: at most 0.1 where it tells the truth, from 0.4 on where it does not
WALKED = 0.01  # share of the mean distance that a walk by decisions takes off: 0.0001 where gradients tell the truth
PASSES, MANY_PASSES = 100, 1000
_BUDGETS = ("gradients", "steps", "queries")

_COLUMNS = {
    "example": pa.int64(), "size": pa.float64(), "error": pa.float64(), "constant": pa.bool_(), "walked": pa.float64(),
}  # fmt: skip


def pieces(work: Evaluation, model: str) -> Pieces:
    """The attack with twice its gradients on some examples, and a longer walk where its gradients do not lead there."""
    task, spans = work.plan.attack, _spans(work)
    if task is None or not spans:
        return
    for kind, passes in ((RECHECK, PASSES), (BY_DECISIONS, MANY_PASSES)):
        if kind == RECHECK or _misled(_made(work, model, RECHECK)):
            yield [
                Piece(
                    model=model, kind=kind, index=index, examples=len(rows),
                    make=_Recheck(work, model, task, rows, passes),
                )
                for index, rows in enumerate(spans)
            ]  # fmt: skip


def _spans(work: Evaluation) -> list[Sequence[int]]:
    """The examples of each piece."""
    settings = work.plan.settings
    rows, size = spread(work.data.y, settings.recheck, settings.seed), min(settings.batch_size, _AT_ONCE)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _made(work: Evaluation, model: str, kind: str) -> pa.Table:
    """All that was made of a kind. Raises Unfinished."""
    return pa.concat_tables(work.made(model, kind, len(_spans(work))))


@dataclasses.dataclass(frozen=True)
class _Recheck:
    """The attack with twice its gradients on some examples, and what speaks for and against it. passes: of the walk."""

    work: Evaluation
    model: str
    task: SearchTask
    rows: Sequence[int]
    passes: int

    def __call__(self) -> pa.Table:
        classifier, settings = self.work.classifiers[self.model], self.work.plan.settings
        batch = batch_for(classifier, self.work.data, torch.tensor(self.rows))
        goal = goals.at(self.task.goal, classifier, batch.x, batch.y)
        with searched(classifier, self.work.data, settings):
            result = _doubled(self.task.search)(classifier, batch.x, goal, seed=settings.seed)
        with classifier.frozen():
            error, constant, walked = self._checked(classifier, goal, result)
        size = result.rmse if self.task.norm is RMSE else result.size
        return table(_COLUMNS, example=self.rows, size=size, error=error, constant=constant, walked=walked)

    def _checked(self, classifier: Classifier, goal: Goal, result: Perturbation) -> tuple[Tensor, Tensor, Tensor]:
        """Error of the gradient, whether it is straight through, and the distance after the walk: [n] each.

        NaN where a check has no say: tables, whose rows lie apart; answers that vary; other norms; no gradients.
        """
        error, constant = torch.full_like(result.rmse, math.nan), torch.zeros_like(result.reached)
        with torch.no_grad():
            once, again = classifier.logits(result.clean), classifier.logits(result.clean)
        if classifier.features is not None or varies(once, again):
            return error, constant, error
        seed = self.work.plan.settings.seed
        delta = torch.where(per_row(result.reached, result.delta), result.delta, 0.0)
        if result.gradients.any() and not getattr(classifier.network, "pairs", 0):  # estimates are known to be rough
            slopes = compare_slopes(classifier, goal, result.clean + delta, seed)
            error, constant = slopes.error, slopes.constant
        if self.passes == MANY_PASSES:
            delta, _ = from_noise(classifier, result.clean, goal, delta, seed=seed)
        if self.task.norm not in (RMSE, L2) or getattr(self.task.search, "promises", "") != "smallest":
            return error, constant, torch.full_like(error, math.nan)
        walked = walk(classifier, result.clean, goal, delta, queries=self.passes, seed=seed)
        size = classifier.norm(self.task.norm).size(walked.delta)
        return error, constant, torch.where(walked.size.isfinite(), size, math.inf)


def _doubled(search: Search) -> Search:
    """The search with twice its gradients or queries, if it has such a number."""
    assert dataclasses.is_dataclass(search)
    assert not isinstance(search, type)
    budget = next((name for name in _BUDGETS if hasattr(search, name)), None)
    return dataclasses.replace(search, **{budget: 2 * getattr(search, budget)}) if budget else search


def _errors(rows: pa.Table) -> Tensor:
    """Of the gradient at the changes that were found; at the inputs themselves where none was: [n], NaN elsewhere."""
    error, reached = tensor(rows, "error"), tensor(rows, "size").isfinite()
    return torch.where(reached, error, math.nan) if reached.any() else error


def _disagrees(rows: pa.Table) -> float:
    """The median error of the gradient if it is too large, else 0."""
    median = _errors(rows).nanmedian().item()
    return median if median > DISAGREE else 0.0  # NaN, of nothing known, is not above


def _shortened(rows: pa.Table) -> float:
    """The share of the mean distance that the walk takes off if it is too large, else 0."""
    before, after = tensor(rows, "size"), tensor(rows, "walked")
    both = before.isfinite() & after.isfinite()
    share = 1 - (after[both].sum() / before[both].sum()).item() if before[both].any() else 0.0
    return share if share > WALKED else 0.0


def _misled(rows: pa.Table) -> bool:
    """Whether the attack is misled or failed, and decisions can say more."""
    doubtful = _disagrees(rows) or _shortened(rows) or tensor(rows, "size").isinf().any()
    return bool(doubtful) and not tensor(rows, "walked").isnan().all()


def tables(work: Evaluation, model: str) -> Blocks:
    """Nothing: the rows are of too few examples for the record's tables."""
    return {}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """attack_sample_ara and attack_decisions_ara, on the examples rechecked, where the attack failed or is misled.

    The first is that of the attack with twice its gradients. In another norm than RMSE their keys end in :NORM.
    """
    task = work.plan.attack
    if task is None or work.shards.find(entry.name, BY_DECISIONS, 0) is None:
        return entry
    rows = _made(work, entry.name, BY_DECISIONS)
    radii = {"sample": tensor(rows, "size"), "decisions": tensor(rows, "walked")}
    areas = {
        task.key(f"{name}_ara"): figure_of(
            measures.accuracy_robustness_area(size, work.data.chance, seed=work.plan.settings.seed)
        )
        for name, size in radii.items()
    }
    return entry.model_copy(update={"scores": {**entry.scores, **areas}})


def differences(results: Results) -> Iterable[Contrast]:
    """None: models are compared by the attack itself."""
    return ()


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """The attack stopped too early, or its gradients are not the slope of what the network answers."""
    task = work.plan.attack
    if task is None or not _spans(work):
        return
    rows = _made(work, entry.name, RECHECK)
    yield from _more_steps(entry, task, tensor(work.written.rows("examples", entry.name), task.column), rows)
    by_decisions = (
        "The area from decisions alone, started from noise where the attack failed, is shown beside it: trust "
        "the smaller one."
    )
    if error := _disagrees(rows):
        through = tensor(rows, "constant").double().mean() >= 0.5
        why = "It uses a straight-through gradient: nearby outputs are identical to the last digit. "
        known, where = int((~_errors(rows).isnan()).sum()), "at the changes found"
        if tensor(rows, "size").isinf().all():
            where = "at the inputs (no change was found)"
        apart = f"differ from it by {percent(error, 0)}" if math.isfinite(error) else "exist, and it is NaN or infinite"
        yield flag(
            entry.name, "gradients_disagree", "warning",
            f"The gradient is not that of the network's outputs: {where}, finite differences {apart} (median "
                f"of {known} examples; normally below 10%). {why if through else ''}Searches that follow it may "
                "miss smaller changes, and maps show the gradient of another function.",
            f"Look for detach, no_grad, rounding or a custom backward pass. {by_decisions}",
        )  # fmt: skip
    if share := _shortened(rows):
        yield flag(
            entry.name, "boundary_not_reached", "warning",
            f"A walk of {PASSES} decisions, without gradients, shortens the changes of the attack with twice "
                f"its gradients by {percent(share)} (mean of {int(tensor(rows, 'walked').isfinite().sum())} "
                "examples): the attack stops short of the nearest boundary, so the areas are too large.",
            "Give the attack more gradients; if the walk still shortens its changes, its gradients are "
                f"misleading. {by_decisions}",
        )  # fmt: skip


def _more_steps(entry: ModelEntry, task: SearchTask, distances: Tensor, again: pa.Table) -> Iterator[Flag]:
    once, longer = distances[tensor(again, "example")], tensor(again, "size")
    gained = int((torch.isinf(once) & torch.isfinite(longer)).sum())
    both = torch.isfinite(once) & torch.isfinite(longer) & (once > 0)
    before, after = once[both].sum().item(), longer[both].sum().item()
    fall = 1 - after / before if before else 0.0
    n, helped = int(both.sum()), []
    if gained:
        helped.append(f"{gained} more of {len(once)} examples reach the goal")
    if fall > HELPS:
        size = norm_title(task.norm.name)
        helped.append(f"the mean {size} of {n} falls by {percent(fall)} (from {before / n:.4g} to {after / n:.4g})")
    if helped:
        budget = "gradients" if getattr(task.search, "needs_gradient", True) else "queries"
        yield flag(
            entry.name, "more_steps", "warning",
            f"More steps still help: with twice the {budget} of the attack, {' and '.join(helped)}. "
            "Smaller changes exist, so the areas are too large.",
            f"Give the attack more {budget}, until this warning no longer appears.",
        )  # fmt: skip

"""Robust accuracy: which examples, right to begin with, no search of a suite moves within a distance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor

from advex.attacks import Search
from advex.attacks.suite import Outcome, overcome
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.errors import InputError
from advex.evaluation import predictions
from advex.evaluation.columns import table, tensor
from advex.evaluation.examples import batch_for, searched
from advex.evaluation.flags import flag, severity
from advex.evaluation.plan import Plan
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import SCORES, Contrast, contrast, share
from advex.evaluation.tasks import ATTACK, RadiusTask
from advex.goals import Misclassify
from advex.record import Flag, ModelEntry, RadiusFigures
from advex.record.tables import RADIUS

STANDS = ""  # as the name of the search that moved an example


def check(plan: Plan, classifier: Classifier, data: Dataset) -> None:
    """Raise SpecError for a radius that holds every input, InputError for tables, whose columns have units."""
    for task in plan.radii:
        if classifier.features is not None:
            raise InputError(
                f"'{task.key}' is a fraction of a range that all elements of an input share, but each column "
                f"of {data.name} has its own range. To measure how far its rows are from another class, use "
                "--attack counterfactual."
            )
        task.ball.check(data.shape)


def pieces(work: Evaluation, model: str) -> Pieces:
    """Every radius on every example. What smaller radii of the norm came to is known at the larger ones."""
    classifier, settings = work.classifiers[model], work.plan.settings
    with searched(classifier, work.data, settings):
        smaller: RadiusTask | None = None
        for task in work.plan.radii:
            same = smaller if smaller is not None and smaller.ball.norm is task.ball.norm else None
            yield work.pieces(model, task.kind, partial(_tried, work, model, task, same))
            smaller = task


def _tried(work: Evaluation, model: str, task: RadiusTask, smaller: RadiusTask | None, rows: range) -> pa.Table:
    """The searches of a radius on those of some examples that nothing is known to move, or each on all of them.

    Each alone, a search is not asked again about what it is known to move, and the attack not at all.
    """
    index, classifier = work.spans.index(rows), work.classifiers[model]
    predicted = work.shards.read(model, predictions.KIND, index)
    right = tensor(predicted, "prediction") == tensor(predicted, "label")
    distance, nearest = _known(work, model, task, smaller, index)
    movers = [[near] if near and fine and within else []
              for near, fine, within in zip(nearest, right, task.ball.holds(distance), strict=True)]  # fmt: skip
    if task.alone:
        _more_known(work, model, task, smaller, index, right, movers)
    cost = {name: torch.zeros(len(rows), dtype=torch.int64) for name in ("gradients", "queries", "flat")}
    searches = _left(task, smaller)
    for group in [{name: search} for name, search in searches.items()] if task.alone else [searches]:
        left = [not moved or (task.alone and not group.keys() & moved) for moved in movers]
        wanted = (right & torch.tensor(left, dtype=torch.bool)).nonzero()[:, 0]
        if not len(wanted) or not group:
            continue
        batch = batch_for(classifier, work.data, wanted + rows.start)
        outcome = overcome(
            group, classifier, batch.x, Misclassify(batch.y), task.ball, seed=work.plan.settings.seed
        )  # fmt: skip
        for name, values in cost.items():
            values[wanted] += getattr(outcome.result, name).to(values)
        _add(outcome, list(group), wanted.tolist(), movers, nearest, distance)
    by = [next((name for name in task.searches if name in moved), STANDS) if fine else None
          for moved, fine in zip(movers, right, strict=True)]  # fmt: skip
    return table(
        RADIUS, by=by, nearest=nearest, distance=distance, gradients=cost["gradients"], queries=cost["queries"],
        flat=cost["flat"].bool(), alone=movers if task.alone else [None] * len(rows),
    )  # fmt: skip


def _add(
    outcome: Outcome, names: list[str], rows: list[int], movers: list[list[str]], nearest: list[str], distance: Tensor
) -> None:
    """What the searches came to, in the columns of all examples."""
    each = (part.tolist() for part in (outcome.by, outcome.nearest, outcome.distance))
    for row, moved, closest, size in zip(rows, *each, strict=True):
        movers[row] += [names[moved]] if moved >= 0 else []
        if size < distance[row]:
            distance[row], nearest[row] = size, names[closest]


def _more_known(
    work: Evaluation,
    model: str,
    task: RadiusTask,
    smaller: RadiusTask | None,
    index: int,
    right: Tensor,
    movers: list[list[str]],
) -> None:
    """Add to those that move an example whoever does so within the smaller radius, and the attack."""
    before: list[list[str]] = [[] for _ in movers]
    if smaller is not None:
        before = work.shards.read(model, smaller.kind, index).column("alone").to_pylist()
    attacked = torch.zeros_like(right)
    if ATTACK in task.searches:
        attacked = task.ball.holds(distances(work.shards.read(model, ATTACK, index), "", task, work.data)) & right
    for moved, more, by_attack in zip(movers, before, attacked.tolist(), strict=True):
        known = [*more, *([ATTACK] if by_attack else [])]
        moved += [name for name in dict.fromkeys(known) if name not in moved]


def _known(
    work: Evaluation, model: str, task: RadiusTask, smaller: RadiusTask | None, index: int
) -> tuple[Tensor, list[str]]:
    """The smallest change of each example that is known before any search, [n] float64, and which search made it."""
    if smaller is not None:
        before = work.shards.read(model, smaller.kind, index)
        return tensor(before, "distance").clone(), before.column("nearest").to_pylist()
    if ATTACK not in task.searches:
        count = len(work.spans[index])
        return torch.full((count,), math.inf, dtype=torch.float64), [STANDS] * count
    distance = distances(work.shards.read(model, ATTACK, index), "", task, work.data)
    return distance, [ATTACK if math.isfinite(size) else STANDS for size in distance.tolist()]


def distances(attacked: pa.Table, prefix: str, task: RadiusTask, data: Dataset) -> Tensor:
    """The sizes [n] of the attack's changes in the norm of a radius, inf where there is none inside the box."""
    norm = task.ball.norm.name
    units = math.sqrt(max(math.prod(data.shape), 1)) if norm == "l2" else 1.0
    size = tensor(attacked, f"{prefix}rmse" if norm in ("l2", "rmse") else f"{prefix}size") * units
    return torch.where(tensor(attacked, f"{prefix}valid"), size, math.inf)


def _left(task: RadiusTask, smaller: RadiusTask | None) -> dict[str, Search]:
    """The searches that have still something to say: one for the smallest change has no more when asked again."""
    return {
        name: search
        for name, search in task.searches.items()
        if name != ATTACK
        and (task.alone or smaller is None or getattr(search, "promises", None) not in ("smallest", "fewest"))
    }


def tables(work: Evaluation, model: str) -> Blocks:
    """Columns of the examples, within_KEY_... for each radius."""

    def blocks() -> Iterator[pa.Table]:
        for parts in zip(*(work.made(model, task.kind) for task in work.plan.radii), strict=True):
            named = zip(work.plan.radii, parts, strict=True)
            yield pa.table({f"within_{task.key}_{name}": part.column(name) for task, part in named for name in RADIUS})

    return {"examples": blocks()} if work.plan.radii else {}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """The score robust_accuracy:KEY, of all examples, and how it came about."""
    rows, scores, radii = work.written.rows("examples", entry.name), dict(entry.scores), dict(entry.radii)
    for task in work.plan.radii:
        by = rows.column(f"within_{task.key}_by").to_pylist()
        stands = torch.tensor([each == STANDS for each in by], dtype=torch.bool)
        right = torch.tensor([each is not None for each in by], dtype=torch.bool)
        scores[f"robust_accuracy:{task.key}"] = share(stands)
        moved = Counter(each for each in by if each)
        alone = [row or () for row in rows.column(f"within_{task.key}_alone").to_pylist()]
        each_alone = Counter(name for row in alone for name in row)
        known = distances(rows, f"{ATTACK}_", task, work.data) if ATTACK in task.searches else None
        spent = {name: tensor(rows, f"within_{task.key}_{name}")[right].double() for name in ("gradients", "queries")}
        radii[task.key] = RadiusFigures(
            withstood=share(stands[right]),
            accuracy={
                name: share(right & torch.tensor([name not in row for row in alone], dtype=torch.bool))
                for name in (task.searches if task.alone else ())
            },
            moved={name: moved[name] for name in task.searches},
            alone={name: each_alone[name] for name in task.searches} if task.alone else None,
            by_distance=None if known is None else share(~task.ball.holds(known)),
            **{name: values.mean().item() if len(values) else 0.0 for name, values in spent.items()},
        )
    return entry.model_copy(update={"scores": scores, "radii": radii})


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """Gradients that mislead: what goes without them succeeds after those with them; or they vanish."""
    rows = work.written.rows("examples", entry.name)
    for task in work.plan.radii:
        figures, stands = entry.radii[task.key], entry.radii[task.key].withstood
        blind = [name for name, search in task.searches.items() if not getattr(search, "needs_gradient", True)]
        moved = sum(figures.moved[name] for name in blind)
        if moved and len(blind) < len(task.searches):
            yield flag(
                entry.name, "gradients_misled", severity(moved / stands.n),
                f"Within {task.key}, {moved} of {stands.n} examples were changed by {' and '.join(blind)}, "
                    "without gradients, after the searches with gradients had failed: gradients may be masked, "
                    "and the rest may be correct for that reason alone.",
                f"Give {' and '.join(blind)} more queries, and do not rely on gradient-based searches alone.",
            )  # fmt: skip
        standing = [each == STANDS for each in rows.column(f"within_{task.key}_by").to_pylist()]
        flat = int((tensor(rows, f"within_{task.key}_flat") & torch.tensor(standing, dtype=torch.bool)).sum())
        if flat:
            yield flag(
                entry.name, "flat_gradients", severity(flat / stands.n),
                f"Within {task.key}, the gradient vanished on {flat} of the {sum(standing)} examples that no "
                    "search changed: the searches were blind there, and the robust accuracy may be too high.",
                "Return logits instead of probabilities, avoid saturating or quantising layers, or use a smooth "
                "activation.",
            )  # fmt: skip


def differences(results: Results) -> Iterator[Contrast]:
    """Every two models' robust accuracy."""
    for key in results.entries[0].radii if results.entries else ():
        stands = {
            entry.name: torch.tensor(
                [each == STANDS for each in results.rows("examples", entry.name).column(f"within_{key}_by").to_pylist()]
            )
            for entry in results.entries
            if key in entry.radii
        }
        for first, second in results.pairs:
            if {first.name, second.name} <= stands.keys():
                yield contrast(
                    SCORES, (stands[first.name], stands[second.name]), "high", results.seed,
                    measure=f"robust_accuracy:{key}", first=first.name, second=second.name,
                )  # fmt: skip

"""How far each example is from reaching a goal, by each search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor

from advex import attacks, goals, measures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.drawing.numbers import percent
from advex.evaluation.columns import table, tensor
from advex.evaluation.examples import batch_for, searched
from advex.evaluation.flags import flag, more_examples, severity
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import SCORES, Contrast, area_contrasts, contrast, figure_of, mean, median, share
from advex.evaluation.tasks import SearchTask
from advex.measures.robustness import resampled_area
from advex.record import Figure, Flag, ModelEntry
from advex.record.tables import SEARCH, distance_column, in_norm
from advex.registry import describe
from advex.types import Perturbation

SPOKEN_OF = 0.01  # share by which an area is too large


def pieces(work: Evaluation, model: str) -> Pieces:
    """Every search on every example."""
    classifier, settings = work.classifiers[model], work.plan.settings
    with searched(classifier, work.data, settings):
        for task in work.plan.searches:
            search = partial(_searched, task, classifier, work.data, seed=settings.seed)
            yield work.pieces(model, task.name, search)


def _searched(task: SearchTask, classifier: Classifier, data: Dataset, rows: range, seed: int) -> pa.Table:
    batch = batch_for(classifier, data, slice(rows.start, rows.stop))
    goal = goals.at(task.goal, classifier, batch.x, batch.y)
    result = task.search(classifier, batch.x, goal, seed=seed, max_batch="auto")
    columns = {name: getattr(result, name) for name in SEARCH if name != "valid"}
    return table(SEARCH, **columns, valid=result.reached & _holds_inside(classifier, result, goal))


def _holds_inside(classifier: Classifier, result: Perturbation, goal: goals.Goal) -> Tensor:
    """Whether the goal is reached by a valid input. Searches that keep to the box have seen to that already."""
    confined = classifier.box.confine(result.clean, result.delta)
    with torch.no_grad(), classifier.frozen(), classifier.accelerated():
        return goal(classifier, result.clean + confined).reached


def tables(work: Evaluation, model: str) -> Blocks:
    """Columns of the examples, NAME_... for each search."""

    def blocks() -> Iterator[pa.Table]:
        for parts in zip(*(work.made(model, task.name) for task in work.plan.searches), strict=True):
            named = zip(work.plan.searches, parts, strict=True)
            yield pa.table({f"{task.name}_{name}": part.column(name) for task, part in named for name in SEARCH})

    return {"examples": blocks()} if work.plan.searches else {}


# -- figures -----------------------------------------------------------------------------------------------


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """Scores of each search NAME.

    NAME_ara (of published searches by the papers' estimator), or NAME_reached, the share of the examples, where what is
    left at a radius is not the accuracy; NAME_rmse_median, of the examples that the goal did not hold for from the
    start; of a search that makes another NORM small NAME_ara:NORM and NAME_median:NORM instead; NAME_gradients per
    example, and NAME_queries of a search that took none; of published searches NAME_valid: the share of the changes
    whose goal still holds once they are cut to the box.
    """
    rows, scores = work.written.rows("examples", entry.name), dict(entry.scores)
    for task in work.plan.searches:
        scores |= _scores(work, task, rows)
    return entry.model_copy(update={"scores": scores})


def _scores(work: Evaluation, task: SearchTask, rows: pa.Table) -> dict[str, Figure]:
    chance, seed = work.data.chance, work.plan.settings.seed
    size, published = tensor(rows, task.column), is_published(task.name)
    scores: dict[str, Figure] = {}
    if task.area:
        area = measures.accuracy_robustness_area(size, chance, published=published, seed=seed)
        scores[task.key("ara")] = figure_of(area)
    else:
        scores[f"{task.name}_reached"] = share(tensor(rows, f"{task.name}_reached"), better="neither")
    scores[task.key("rmse_median")] = median(size[size > 0])
    gradients, queries = (tensor(rows, f"{task.name}_{of}").double() for of in ("gradients", "queries"))
    scores[f"{task.name}_gradients"] = mean(gradients, "neither", seed)
    if queries.any() and not gradients.any():
        scores[f"{task.name}_queries"] = mean(queries, "neither", seed)
    if published:
        scores[f"{task.name}_valid"] = share(tensor(rows, f"{task.name}_valid")[torch.isfinite(size) & (size > 0)])
    return scores


def _bias(work: Evaluation, size: Tensor) -> float:
    """By which share the area is too large, as the bootstrap sees it; 0 where that is nothing to speak of."""
    area, estimates = resampled_area(size, work.data.chance, seed=work.plan.settings.seed)
    bias = (estimates.mean().item() - area) / area if 0 < area < math.inf else 0.0
    return bias if math.isfinite(bias) and bias > SPOKEN_OF else 0.0


def is_published(search: str) -> bool:
    """Whether a search follows the papers' protocol, by its name."""
    return search.endswith("_published")


def differences(results: Results) -> Iterator[Contrast]:
    """Every two models' areas by the unpublished searches, or how often they were overcome where there is no area."""
    for name in results.searches:
        if is_published(name):
            continue
        norm = results.norms.get(name, "rmse")
        key, column = in_norm(f"{name}_ara", norm), distance_column(name, norm)
        if not (area := all(key in entry.scores for entry in results.entries)):
            key = column = f"{name}_reached"
        values = {entry.name: results.column(entry.name, column) for entry in results.entries}
        if area:
            yield from area_contrasts(key, values, results.chance, results.seed)
            continue
        for first, second in itertools.combinations(values, 2):
            names = {"first": first, "second": second, "measure": key}
            yield contrast(SCORES, (values[first], values[second]), "neither", results.seed, **names)


# -- flags -------------------------------------------------------------------------------------------------


def _name(search: attacks.Search) -> str:
    return describe(search).partition(":")[0]


def harder(search: attacks.Search, is_table: bool) -> str:
    """What to do where a search fails, by its own name and the options that it has."""
    name = _name(search)
    if name == "counterfactual":
        features, rungs = getattr(search, "features", 0), getattr(search, "rungs", 0)
        return (
            f"Let '{name}' change more columns and try more values "
            f"({name}:features={features + 2},rungs={2 * rungs}); if few columns may change at all, there "
            "may be no row with another answer."
        )
    if is_table:
        return (
            f"'{name}' moves in a straight line and may miss valid rows: search over columns (--attack counterfactual)."
        )
    option = next(
        (each for each in ("gradients", "queries", "steps") if isinstance(getattr(search, each, None), int)), ""
    )
    more = f"more {option} ({name}:{option}={2 * getattr(search, option)})" if option else "a larger budget"
    masked = " If it still fails, gradients may be masked." if getattr(search, "needs_gradient", True) else ""
    return f"Give '{name}' {more}, or use another search.{masked}"


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """Searches that failed, were blind or stopped too early, and what the published protocol does."""
    rows = work.written.rows("examples", entry.name)
    names, is_table = [task.name for task in work.plan.searches], work.data.features is not None
    for task in (task for task in work.plan.searches if not task.within):
        name = task.name
        failed = int(torch.isinf(tensor(rows, f"{name}_rmse")).sum())
        flat = int((torch.isinf(tensor(rows, f"{name}_rmse")) & tensor(rows, f"{name}_flat")).sum())
        remedy = harder(task.search, is_table)
        if not is_table and 2 * flat >= failed:
            remedy = (
                f"More gradients do not help '{_name(task.search)}': on {flat} the gradient vanished. Use a search "
                "without gradients, such as --attack hop_skip_jump."
            )
        if failed:
            yield flag(
                entry.name, "failures", "warning",
                f"The search '{name}' found no change that reaches its goal on {failed} of {len(rows)} examples.",
                remedy,
            )  # fmt: skip
    for task in work.plan.searches:
        if task.area and not is_published(task.name) and (bias := _bias(work, tensor(rows, task.column))):
            yield flag(
                entry.name, "area_bias", "note",
                f"The ARA of the search '{task.name}' is about {percent(bias)} too large: areas measured on "
                    "few examples are biased upwards, most of all near chance (estimated by bootstrap).",
                f"{more_examples(work.data)} Intervals and differences of models on the same examples are not biased.",
            )  # fmt: skip
    by_key = {task.key("ara"): task for task in work.plan.searches}
    for key, figure in entry.scores.items():
        if key in by_key and math.isinf(figure.value):
            yield flag(
                entry.name, "infinite_area", "warning",
                f"The ARA of the search '{by_key[key].name}' is infinite: it failed on a larger share of examples than "
                    "chance.",
                f"The area means nothing until the search succeeds. {harder(by_key[key].search, is_table)}",
            )  # fmt: skip
    for name in names:
        blind = tensor(rows, f"{name}_flat").double().mean().item()
        if blind > 0:
            yield flag(
                entry.name, "flat_gradients", severity(blind),
                f"On {percent(blind)} of the examples the gradient vanished somewhere during the search '{name}': "
                "it was blind there, and the radii may be too large.",
                "Return logits instead of probabilities, avoid saturating or quantising layers, or use a "
                "smooth activation.",
            )  # fmt: skip
    for name in names:
        valid = entry.scores.get(f"{name}_valid")
        if valid is not None and valid.value < 1:
            yield flag(
                entry.name, "published_invalid", "note",
                f"{percent(1 - valid.value)} of the changes found by '{name}' lose their effect once clipped to "
                    "valid inputs: the published protocol does not keep to the box.",
                "Use these figures only to compare with published ones.",
            )  # fmt: skip

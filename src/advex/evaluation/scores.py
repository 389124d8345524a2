"""From per-example results to figures with intervals. Reads shards; asks no model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from advex import measures
from advex.evaluation.shards import Shards
from advex.record import Difference, Figure
from advex.types import Score


def figures(
    shards: Shards, model: str, searches: Sequence[str], count: int, chance: float, seed: int
) -> dict[str, Figure]:
    """A model's scores. searches: names of those that ran; count: shards of each; chance: the naive baseline.

    accuracy; and for each search NAME_ara (of published searches by the papers' estimator);
    NAME_rmse_median, of the examples that the goal did not hold for from the start; NAME_gradients per
    example; for published searches NAME_valid: the share of the changes found whose goal still holds
    once they are cut to the box.
    """
    label = shards.column(model, "predictions", "label", count)
    prediction = shards.column(model, "predictions", "prediction", count)
    scores = {"accuracy": figure_of(measures.accuracy(prediction, label))}
    for name in searches:
        published = is_published(name)
        rmse = shards.column(model, name, "rmse", count)
        area = measures.accuracy_robustness_area(rmse, chance, published=published, seed=seed)
        scores[f"{name}_ara"] = figure_of(area)
        scores[f"{name}_rmse_median"] = _median(rmse[rmse > 0])
        scores[f"{name}_gradients"] = mean(shards.column(model, name, "gradients", count), "neither", seed)
        if published:
            valid = shards.column(model, name, "valid", count)
            scores[f"{name}_valid"] = share(valid[torch.isfinite(rmse) & (rmse > 0)])
    return scores


def is_published(search: str) -> bool:
    """Whether a search follows the papers' protocol, by its name."""
    return search.endswith("_published")


def differences(
    shards: Shards,
    models: Sequence[str],
    searches: Sequence[str],
    count: int,
    chance: float,
    seed: int,
    certified: Mapping[str, Tensor],
) -> list[Difference]:
    """Every pair of models on the same images: accuracy and the areas of the unpublished searches, and what is certain.

    certified: certified RMSE [k] of each model, row i of all for the same example; empty where nothing was certified.
    """

    def column(model: str, kind: str, name: str) -> Tensor:
        return shards.column(model, kind, name, count)

    right = {m: column(m, "predictions", "prediction") == column(m, "predictions", "label") for m in models}
    lines: list[Difference] = []
    for first, second in itertools.combinations(models, 2):
        change = right[first].double() - right[second].double()
        lines.append(Difference(first=first, second=second, measure="accuracy", figure=mean(change, "high", seed)))
        for name in searches:
            if is_published(name):
                continue
            radii = column(first, name, "rmse"), column(second, name, "rmse")
            score = measures.compare_areas(*radii, chance, seed=seed)
            figure = figure_of(score)
            if math.isnan(figure.value):  # two infinite areas: nothing is known about their difference
                figure = figure.model_copy(update={"low": math.nan, "high": math.nan})
            lines.append(Difference(first=first, second=second, measure=f"{name}_ara", figure=figure))
        if first in certified and second in certified:
            change = (certified[first] > 0).double() - (certified[second] > 0).double()
            area = measures.compare_areas(certified[first], certified[second], chance, seed=seed)
            for measure, figure in (("accuracy", mean(change, "high", seed)), ("ara", figure_of(area))):
                lines.append(Difference(first=first, second=second, measure=f"certified_{measure}", figure=figure))
    return lines


def reached(tables: Sequence[pa.Table]) -> dict[str, Figure]:
    """Share of explanations that got where they wanted, by PURPOSE_EXPLAINER, as judged on the saved PNG.

    Towards: the decision is the target; away: it is another. Judged on the float input where there
    are no pictures. Explanations with rho = 0 do not count.
    """
    hits: dict[str, list[bool]] = {}
    names = ["purpose", "explainer", "rho", "target", "prediction", "png_prediction"]
    for row in itertools.chain.from_iterable(rows.select(names).to_pylist() for rows in tables):
        if row["rho"] > 0:
            decision = row["prediction"] if row["png_prediction"] is None else row["png_prediction"]
            hit = (decision == row["target"]) != (row["explainer"] == "away")
            hits.setdefault(f"{row['purpose']}_{row['explainer']}", []).append(hit)
    return {key: share(torch.tensor(values)) for key, values in hits.items()}


def share(holds: Tensor, better: str = "high") -> Figure:
    """The share of [n] truths with its Wilson interval."""
    hits, n = int(holds.sum()), len(holds)
    low, high = measures.wilson(hits, n)
    return Figure(value=hits / n if n else math.nan, low=low, high=high, n=n, better=better)  # pyright: ignore


def figure_of(score: Score) -> Figure:
    """A score as the record keeps it."""
    return Figure(
        value=score.value, low=score.low, high=score.high, n=score.n, failures=score.failures, better=score.better
    )


def mean(values: Tensor, better: str, seed: int) -> Figure:
    """The mean over the examples for which there is a value, with its bootstrap interval."""
    value, low, high = measures.bootstrap_mean(values, seed=seed)
    n = int((~torch.isnan(values)).sum())
    return Figure(value=value, low=low, high=high, n=n, better=better)  # pyright: ignore


def _median(rmse: Tensor) -> Figure:
    """The middle radius (of two the smaller) and the order statistics that enclose the true one in 95 % of samples.

    The examples below the median number Binomial(n, 1/2); its 2.5 % point is the rank of the lower bound.
    Failed searches are infinite radii.
    """
    from scipy.stats import binom  # heavy: only here

    n = len(rmse)
    if not n:
        return Figure(value=math.nan, low=math.nan, high=math.nan, n=0)
    ordered = rmse.double().sort().values.tolist()
    rank = int(binom.ppf(0.025, n, 0.5))  # 0 where the sample is too small for a bound
    low, high = (ordered[rank - 1], ordered[n - rank]) if rank else (0.0, math.inf)
    return Figure(value=ordered[(n - 1) // 2], low=low, high=high, n=n, failures=int(torch.isinf(rmse).sum()))

"""Counterfactuals of a table's rows: searched, and verified as somebody would type them in again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from advex.attacks.counterfactual import FewFeatures, finest
from advex.classifier import Classifier
from advex.errors import InputError
from advex.features import Feature, FeatureSpec
from advex.geometry import L1
from advex.goals import Become
from advex.inputs import check_wrapped
from advex.tabular.sentences import Change, Counterfactual, Counterfactuals, number_text

FEW_FEATURES = FewFeatures()
Held = frozenset[int]  # numbers of columns
_MOST_SHARED = 8  # columns whose shares are told: each set of them is asked about
_MOST_SETS = 64  # of columns held fast, to look for a further alternative


def counterfactuals(
    classifier: Classifier,
    x: Tensor,
    target: int | None = None,
    *,
    k: int = 3,
    search: FewFeatures = FEW_FEATURES,
) -> Counterfactuals:
    """What would have had to be different in a row for the answer `target`, and up to k ways to get there.

    x: [d] an encoded row. target: number of a class; None: the runner-up (of two classes, the other one).
    Raises InputError for a classifier without `features`, and for what is no row or class of it.
    """
    spec, x, before = _encoded(classifier, x)
    ranked = before.argsort(descending=True, stable=True).tolist()
    target = ranked[1] if target is None else target
    changed = alternatives(classifier, x, target, k=k, search=search) if target != ranked[0] else ()
    held = [feature.name for feature in spec.features if feature.change == "never"]
    return Counterfactuals(
        target=target,
        target_name=class_name(classifier, target),
        says=ranked[0],
        says_name=class_name(classifier, ranked[0]),
        probabilities=tuple(before.tolist()),
        alternatives=changed,
        wanted=k,
        searched=tuple(feature.name for feature in spec.features if feature.change != "never"),
        held=tuple(held),
        at_most=search.features,
    )


def alternatives(
    classifier: Classifier, x: Tensor, target: int, *, k: int = 3, search: FewFeatures = FEW_FEATURES
) -> tuple[Counterfactual, ...]:
    """Up to k counterfactuals of one row that differ in the columns they change, the simplest first.

    Each leaves alone at least one column that an earlier one changes, so none is an earlier one with something added.
    All are verified: typed in again as their sentences show them, they get the answer `target`. x: [d] an encoded row.
    Raises InputError.
    """
    spec, x, before = _encoded(classifier, x)
    if not 0 <= target < len(before):
        raise InputError(f"There is no class {target}: the classifier has {len(before)}, 0 to {len(before) - 1}.")
    chosen: list[tuple[Held, Counterfactual]] = []
    known: dict[Held, tuple[Held, Counterfactual] | None] = {}
    while len(chosen) < k:
        held = _hitting_sets(columns for columns, _ in chosen)
        new = [columns for columns in held if columns not in known]
        known |= dict(zip(new, _search(classifier, spec, x, target, before, new, search), strict=True))
        candidates = [candidate for columns in held if (candidate := known[columns]) is not None]
        if not candidates:
            break
        chosen.append(min(candidates, key=lambda candidate: (len(candidate[0]), candidate[1].size)))
    return tuple(counterfactual for _, counterfactual in chosen)


def class_name(classifier: Classifier, number: int) -> str:
    """The name of a class, or its number where classes have no names."""
    return str(number) if classifier.class_names is None else classifier.class_names[number]


def _encoded(classifier: Classifier, x: Tensor) -> tuple[FeatureSpec, Tensor, Tensor]:
    """(the columns, x [d] on the classifier's device, the probabilities of its classes)."""
    check_wrapped(classifier, "A counterfactual")
    spec = classifier.features
    if spec is None:
        raise InputError("Counterfactuals in words need a table: the classifier has no features.")
    if x.shape != (spec.width,):
        raise InputError(f"One encoded row must have the shape [{spec.width}], not {tuple(x.shape)}.")
    x = x.to(classifier.device, classifier.dtype)
    return spec, x, classifier.predict(x[None])[0].double().cpu()


def _hitting_sets(sets: Iterable[Held]) -> list[Held]:
    """All minimal sets that have a member in common with each of some sets; the empty set for no sets.

    Of very many, the `_MOST_SETS` with fewest members.

    >>> [sorted(columns) for columns in _hitting_sets([frozenset({1, 2}), frozenset({2, 3})])]
    [[2], [1, 3]]
    """
    hitting: list[Held] = [frozenset()]
    for each in sets:
        grown = {columns if columns & each else columns | {member} for columns in hitting for member in each}
        ordered = sorted(grown, key=lambda columns: (len(columns), *sorted(columns)))
        minimal = [columns for i, columns in enumerate(ordered) if not any(other < columns for other in ordered[:i])]
        hitting = minimal[:_MOST_SETS]
    return hitting


def _search(
    classifier: Classifier,
    spec: FeatureSpec,
    x: Tensor,
    target: int,
    before: Tensor,
    held: Sequence[Held],
    search: FewFeatures,
) -> list[tuple[Held, Counterfactual] | None]:
    """The simplest counterfactual for each set of columns held fast, with the columns that it changes."""
    mask = torch.ones(len(held), spec.width, dtype=torch.bool, device=x.device)
    for row, columns in enumerate(held):
        for column in columns:
            mask[row, spec.slices[column]] = False
    rows = x.expand(len(held), -1).contiguous()
    result = search(classifier, rows, Become(torch.full((len(held),), target, device=x.device)), mask=mask)
    return [
        _typed(classifier, spec, x, changed, target, before) if reached else None
        for changed, reached in zip(result.adversarial, result.reached.tolist(), strict=True)
    ]


def _typed(
    classifier: Classifier, spec: FeatureSpec, x: Tensor, changed: Tensor, target: int, before: Tensor
) -> tuple[Held, Counterfactual] | None:
    """The changed row as somebody would type it, if the classifier then answers `target`."""
    old, new = spec.decode(torch.stack([x, changed]))
    moved = (changed != spec.nearest(x[None])[0]).tolist()
    columns = frozenset(i for i, where in enumerate(spec.slices) if any(moved[where]))
    exact = {
        feature.name: _round(feature, new[feature.name]) if i in columns else old[feature.name]
        for i, feature in enumerate(spec.features)
    }
    named = {spec.features[i].name for i in columns}
    coarse = {
        feature.name: _further(feature, old[feature.name], exact[feature.name]) if feature.name in named else
        exact[feature.name] for feature in spec.features
    }  # fmt: skip
    for row in (coarse, exact):  # in round numbers where these will do
        typed = spec.encode([as_typed(row)]).to(x)
        after = classifier.predict(typed)[0].double().cpu()
        if int(after.argmax()) == target:
            break
    else:
        return None
    parts = shares(classifier, spec, old, row, sorted(named), target, (float(before[target]), float(after[target])))
    changes = [
        Change(
            feature=feature.name, before=_short(old[feature.name]), after=row[feature.name], unit=feature.unit,
            share=parts.get(feature.name),
        )
        for i, feature in enumerate(spec.features)
        if i in columns
    ]  # fmt: skip
    return columns, Counterfactual(
        target=target,
        target_name=class_name(classifier, target),
        changes=tuple(changes),
        row=row,
        before=tuple(before.tolist()),
        after=tuple(after.tolist()),
        size=float(L1.size(typed - x)[0]),
    )


def shares(
    classifier: Classifier,
    spec: FeatureSpec,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    names: Sequence[str],
    target: int,
    ends: tuple[float, float],
) -> dict[str, float]:
    """By changed column, its part of a changed row's probability of a class: Shapley values, which add up to all of it.

    A column's is what its change adds to the probability, on average over all orders in which the columns `names` may
    be changed (Shapley 1953). ends: the probability before and after all of them. Empty for more than 8 columns.
    """
    if len(names) > _MOST_SHARED:
        return {}
    sets = [frozenset(chosen) for size in range(len(names) + 1) for chosen in itertools.combinations(names, size)]
    rows = [as_typed({**old, **{name: new[name] for name in chosen}}) for chosen in sets]
    encoded = spec.encode(rows).to(classifier.device, classifier.dtype)
    answers = classifier.predict(encoded)[:, target].double().tolist()
    worth = {**dict(zip(sets, answers, strict=True)), frozenset(): ends[0], frozenset(names): ends[1]}
    every = math.factorial(len(names))
    return {
        name: sum(
            math.factorial(len(chosen)) * math.factorial(len(names) - len(chosen) - 1) / every
            * (worth[chosen | {name}] - worth[chosen])
            for chosen in sets if name not in chosen
        )
        for name in names
    }  # fmt: skip


def as_typed(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's values as text: what a form would be filled in with."""
    return {name: value if isinstance(value, str) else number_text(value) for name, value in row.items()}


def _round(feature: Feature, value: float | str) -> float | str:
    """A number without what single precision added to it: the fewest digits within a millionth of its scale."""
    if isinstance(value, str) or feature.step is not None:
        return value
    near = 1e-6 * feature.scale + 2e-7 * abs(value - feature.center)
    low, high = feature.range
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 17))
    return next((number for number in shorter if abs(number - value) <= near and low <= number <= high), value)


def _further(feature: Feature, before: float | str, after: float | str) -> float | str:
    """The next round number beyond a new value in whole steps: a multiple of ten such as numbers without steps move by.

    The value itself where the column allows no such number.
    """
    if isinstance(before, str) or isinstance(after, str) or feature.step is None:
        return after
    unit = finest(feature.scale)
    low, high = feature.range
    value = (math.ceil(after / unit) if after > before else math.floor(after / unit)) * unit
    steps = (value - low) / feature.step
    return value if unit > feature.step and low <= value <= high and steps == round(steps) else after


def _short(value: float | str) -> float | str:
    """What was before, in at most seven digits."""
    return value if isinstance(value, str) or float(value).is_integer() else float(f"{value:.7g}")

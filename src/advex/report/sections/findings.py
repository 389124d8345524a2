"""What was found, seen and in sentences. Nothing is claimed that a paired interval does not carry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from advex.drawing.numbers import count, decimals, number, percent
from advex.record import Difference, Figure, ModelEntry, Record, norm_title
from advex.record.tables import in_norm
from advex.registry import register
from advex.report.believed import FEWEST, judged, preferences
from advex.report.cells import (
    FigureCell,
    FigureRow,
    digits_for,
    doubt,
    in_words,
    is_scored,
    points,
    share_in_words,
    show,
    together,
    turned,
)
from advex.report.grids import seen
from advex.report.mapped import MappedExample, mapped_pictures
from advex.report.names import capital, radius_title, score_title, words
from advex.report.reading import Contents
from advex.report.sections.curves import panels
from advex.report.sentences import figure, name, say


@register("section", "findings")
class Findings:
    """A sentence for each model, the headline figures, the first curve, and one explained picture."""

    title, menu, place, tables = "Findings", "Findings", 10, ("examples", "explanations", "answers", "maps")

    def __call__(self, contents: Contents) -> dict[str, Any]:
        record = contents.record
        scored = [each for each in record.differences if is_scored(each, record)]
        return {
            "findings": list(findings(contents)),
            "together": together(scored),
            "norms": [] if of_maps(record) else _norms(contents),
            "seen": seen(contents, _ends(record)),
            "mapped": _mapped(contents) if of_maps(record) else None,
            "headline": Headline((), ()) if of_maps(record) else headline(record),
            "panel": next(iter(panels(contents)), None),
        }


@dataclass(frozen=True)
class Headline:
    """The figures that matter first. columns: (title, what it means); rows: the cells of a model each."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[FigureRow, ...]


def headline(record: Record) -> Headline:
    """Accuracy and the robustness areas of all models, with what each of them means."""
    meanings = {"accuracy": "share of the unchanged inputs that it classifies correctly"}
    meanings |= {key: f"how much change it withstands before {end}, on average" for key, end in _areas(record).items()}
    keys = [key for key in meanings if any(key in model.scores for model in record.models)]
    rows = []
    for index, model in enumerate(record.models):
        known = ((key, model.scores.get(key)) for key in keys)
        cells = (
            FigureCell(key, "–", note="not measured")
            if figure is None
            else show(key, figure, digits_for(key, record), record)
            for key, figure in known
        )
        rows.append(FigureRow(index, model.name, tuple(cells)))
    return Headline(tuple((capital(score_title(key, record)), meanings[key]) for key in keys), tuple(rows))


def _ends(record: Record) -> tuple[str, ...]:
    """The model that withstands the least and the one that withstands the most; by accuracy where no search ran."""
    for key in (*_areas(record), "accuracy"):
        scores = {model.name: model.scores[key].value for model in record.models if key in model.scores}
        known = sorted((value, name) for name, value in scores.items() if math.isfinite(value))
        if known:
            return tuple(dict.fromkeys((known[0][1], known[-1][1])))
    return ()


def _norms(contents: Contents) -> list[str]:
    """What distances are in, a sentence for each norm of them."""
    zero = "0 is no change" + (", 1 is black to white" if contents.black_to_white else "")
    meaning = {
        "rmse": f"the root mean square of the change to the input: {zero}",
        "linf": f"the largest change of an element: {zero}",
        "l2": "the Euclidean length of the change, that of one element from end to end of the box being 1",
        "l1": "the sum of all absolute changes, that of one element from end to end of the box being 1",
        "l0": "the number of elements that change at all",
    }
    used = dict.fromkeys(map(contents.record.norm, contents.record.searches)) or ("rmse",)
    return [f"{norm_title(norm)} is {meaning.get(norm, 'a norm from another package')}." for norm in used]


def findings(contents: Contents) -> Iterator[Markup]:
    """What the figures say: comparisons by robustness area, accuracies, then the saved pictures."""
    record = contents.record
    if not record.data.examples or not contents.rows("examples"):
        yield say("No examples were evaluated, so there is nothing to find.")
        return
    if of_maps(record):
        yield from (say("{}", flag.message) for flag in record.flags if flag.code == "selected")
        yield from (line for model in record.models for line in _believed(record, model))
    elif len(record.models) == 1:
        yield from _alone(record, record.models[0])
    else:
        yield from _comparisons(record)
        yield from _shares(record, "accuracy", "On unchanged inputs: {} accuracy")
    for key in record.radii:
        opening = f"Right, and moved by no search within {radius_title(key)}: {{}}"
        yield from _shares(record, f"robust_accuracy:{key}", opening)
    for model in record.models:
        if model.certified is not None:
            yield _certain(model, record)
    yield from _saved(contents)


def of_maps(record: Record) -> bool:
    """Whether maps alone were evaluated: on examples that are chosen for being right, accuracy says nothing."""
    return judged(record) and not record.searches


def _believed(record: Record, model: ModelEntry) -> Iterator[Markup]:
    """Which measures find an explainer that is better than what looks at no model."""
    known = preferences(record, model)
    if known and all(each.few for each in known):
        yield say("{}: too few examples to compare explainers (fewer than {}).", name(model.name), FEWEST)
    elif known:
        able = [say("{} ({})", each.measure.title, words(each.best)) for each in known if each.above]
        which = say(": {}", Markup(", ").join(able)) if able else ""
        find = "find" if len(able) > 1 else "finds"
        sentence = "{}: {} of {} {} an explainer significantly better than every control{}."
        yield say(sentence, name(model.name), len(able) or "none", count(len(known), "measure"), find, which)


def _mapped(contents: Contents) -> tuple[Sequence[str], MappedExample] | None:
    """The first example with two maps of it: by explainers that measures prefer, as far as there are any."""
    record = contents.record
    preferred = [each.best for model in record.models for each in preferences(record, model)]
    every = {name: maps.control for model in record.models for name, maps in model.maps.items()}
    names = [name for name in dict.fromkeys([*preferred, *every]) if not every[name]][:2]
    shown, _ = mapped_pictures(contents, names, "", most=1)
    return (names, shown[0]) if shown and shown[0].input else None


def _areas(record: Record) -> dict[str, str]:
    """What ends the change that an area is of. Of two classes, a confidence below chance is a changed decision."""
    ends = {"attack": "its decision changes", "btr": "its confidence falls below chance"}
    if len(record.data.class_names) == 2 and "attack" in record.searches:
        del ends["btr"]
    return {in_norm(f"{search}_ara", record.norm(search)): end for search, end in ends.items()}


def _comparisons(record: Record) -> Iterator[Markup]:
    """A sentence for each model: how much more it withstands than the one that withstands the least."""
    areas = _areas(record)
    for key in areas:
        yield from (_unbounded(m, key, record) for m in record.models if key in m.scores and not _finite(m, key))
    main = next((key for key in areas if sum(_finite(model, key) for model in record.models) > 1), None)
    if main is None:
        return
    known = sorted((m for m in record.models if _finite(m, main)), key=lambda m: -m.scores[main].value)
    *others, least = known
    for model in others:
        clauses = [_clause(record, key, end, model, least) for key, end in areas.items() if _finite(least, key)]
        yield say("{} {}.", name(model.name), Markup(", and ").join(clause for clause in clauses if clause))
    alike = [
        say("{} and {}", name(first.name), name(second.name))
        for first, second in itertools.combinations(others, 2)
        if (pair := _paired(record, first.name, second.name, main)) and not pair.separated
    ]
    if alike:
        yield say("No significant difference of {} between {}.", score_title(main, record), Markup("; ").join(alike))


def _finite(model: ModelEntry, key: str) -> bool:
    return key in model.scores and math.isfinite(model.scores[key].value)


def _clause(record: Record, key: str, end: str, model: ModelEntry, least: ModelEntry) -> Markup | None:
    """What one area says of a model beside the one that withstands the least."""
    if not _finite(model, key):
        return None
    first, second, title = model.scores[key].value, least.scores[key].value, score_title(key, record)
    paired = _paired(record, model.name, least.name, key)
    if paired is None:
        words = "has the larger" if first > second else "has the same" if first == second else "has the smaller"
        return say("{} {} compared with {} (no paired comparison was made)", words, title, name(least.name))
    if not paired.separated:
        interval = figure(in_words(paired.figure, digits_for(key, record)))
        words = "does not differ significantly from {} by {} (the paired difference {} includes zero)"
        return say(words, name(least.name), title, interval)
    ratio = paired.ratio
    if ratio is not None and ratio.low <= 1 <= ratio.high:
        words = "differs from {} by {}, but not clearly (paired difference {}, ratio {})"
        interval = figure(in_words(paired.figure, digits_for(key, record)))
        return say(words, name(least.name), title, interval, figure(_times(first / second, ratio)))
    if not second:
        return say("withstands some change before {}, and {} none", end, name(least.name))
    times = _times(first / second, paired.ratio)
    if first < second:
        return say("withstands only {} times the change of {} before {}", times, name(least.name), end)
    return say("withstands changes {} times larger than {} before {}", figure(times), name(least.name), end)


def _unbounded(model: ModelEntry, key: str, record: Record) -> Markup:
    area, title = model.scores[key], score_title(key, record)
    if math.isnan(area.value):
        return say("{} has no {}: it is undefined here.", name(model.name), title)
    return say(
        "The {} of {} is infinite: the search failed on {} of the examples, more than chance ({}). It means "
            "nothing until the search succeeds.",
        title, name(model.name), percent(area.failures / max(area.n, 1), 0), percent(record.data.chance),
    )  # fmt: skip


def _shares(record: Record, key: str, opening: str) -> Iterator[Markup]:
    """All models by a share, and of two the paired difference. opening: the sentence, {} in the place of the shares."""
    measured = [model for model in record.models if key in model.scores]
    if not measured:
        return
    each = (say("{} {}", name(model.name), figure(share_in_words(model.scores[key]))) for model in measured)
    sentence = say(opening, Markup(", ").join(each))
    pairs = [difference for difference in record.differences if difference.measure == key]
    if len(measured) == 2 and pairs and math.isfinite(pairs[0].figure.value):
        cell, why = points(key, pairs[0].figure), doubt(pairs[0])
        paired = figure(f"{cell.text} [{cell.low}, {cell.high}]")
        sentence += say("; paired difference {}{}", paired, f", not significant: {why}" if why else "")
    yield sentence + "."


def _alone(record: Record, model: ModelEntry) -> Iterator[Markup]:
    """What can be said of one model without another beside it."""
    if "accuracy" in model.scores:
        accuracy = model.scores["accuracy"]
        yield say(
            "{} classifies {} of {} correctly; chance is {}.", name(model.name), figure(share_in_words(accuracy)),
            count(accuracy.n, "example"), percent(record.data.chance),
        )  # fmt: skip
    for key in _areas(record):
        if key in model.scores:
            area = model.scores[key]
            if math.isfinite(area.value):
                words = in_words(area, decimals([area.value]))
                yield say("Its {} is {}.", score_title(key, record), figure(words))
            else:
                yield _unbounded(model, key, record)


def _certain(model: ModelEntry, record: Record) -> Markup:
    """What is certain, and of which classifier."""
    entry, digits = model.certified, digits_for("certified_ara", record)
    assert entry is not None
    return say(
        "For the smoothed form of {}, a different classifier, an ARA of {} is certified; under attack the "
            "network itself has {} (the same {}, noise of sigma {}).",
        name(model.name), figure(in_words(model.scores["certified_ara"], digits)),
        figure(in_words(entry.attack_ara, digits)), count(entry.examples, "example"), f"{entry.sigma:g}",
    )  # fmt: skip


def _saved(contents: Contents) -> Iterator[Markup]:
    """Whether what is shown is what was found: the decision on the 8-bit pictures."""
    rows = [row for row in contents.rows("explanations") if row["picture"] and row["png_prediction"] is not None]
    changed = sum(row["png_prediction"] != row["prediction"] for row in rows)
    total = count(len(rows), "explanation picture")
    back = "when read back as 8-bit PNG, which is what this page shows"
    if changed:
        yield say("{} of {} are classified differently {}; each is marked.", f"{changed:,}", total, back)
    elif rows:
        yield say("All {} are classified the same way {}.", total, back)


def _paired(record: Record, first: str, second: str, key: str) -> Difference | None:
    """The recorded difference of two models, turned so that it is first minus second."""
    for difference in record.differences:
        if difference.measure == key and {difference.first, difference.second} == {first, second}:
            return difference if difference.first == first else turned(difference)
    return None


def _times(value: float, ratio: Figure | None) -> str:
    """A ratio, with its interval where the record has one."""
    return _ratio(value) + (f" [{_ratio(ratio.low)}, {_ratio(ratio.high)}]" if ratio is not None else "")


def _ratio(ratio: float) -> str:
    return number(ratio, 0 if ratio >= 100 else 1 if ratio >= 1.95 else 2)

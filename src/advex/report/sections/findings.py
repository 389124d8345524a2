"""The figures in sentences. Nothing is claimed that a paired interval does not carry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from advex.drawing.numbers import count, decimals, number, percent
from advex.record import Difference, Figure, ModelEntry, Record, norm_title
from advex.record.tables import in_norm
from advex.registry import register
from advex.report.cells import (
    digits_for,
    in_words,
    inverse,
    is_scored,
    points,
    separated,
    share_in_words,
    together,
    turned,
)
from advex.report.names import radius_title, score_title
from advex.report.reading import Contents
from advex.report.sentences import figure, name, say


@register("section", "findings")
class Findings:
    """The figures in sentences."""

    title, menu, place, tables = "Findings", "Findings", 10, ("examples", "explanations")

    def __call__(self, contents: Contents) -> dict[str, Any]:
        scored = [each for each in contents.record.differences if is_scored(each, contents.record)]
        return {"findings": list(findings(contents)), "together": together(scored), "norms": _norms(contents)}


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
    return [f"{norm_title(norm)} is {meaning.get(norm, 'a norm of a package of its own')}." for norm in used]


def findings(contents: Contents) -> Iterator[Markup]:
    """What the figures say: comparisons by robustness area, accuracies, then the saved pictures."""
    record = contents.record
    if not record.data.examples or not contents.rows("examples"):
        yield say("No examples were evaluated, so there is nothing to find.")
        return
    if len(record.models) == 1:
        yield from _alone(record, record.models[0])
    else:
        for key, verb in _areas(record).items():
            yield from _comparisons(record, key, verb)
        yield from _shares(record, "accuracy", "On unchanged inputs: {} accuracy")
    for key in record.radii:
        opening = f"Right, and moved by no search within {radius_title(key)}: {{}}"
        yield from _shares(record, f"robust_accuracy:{key}", opening)
    for model in record.models:
        if model.certified is not None:
            yield _certain(model, record)
    yield from _saved(contents)


def _areas(record: Record) -> dict[str, str]:
    """What a model does with the change that an area is of."""
    verbs = {"attack": "bears", "btr": "keeps above chance under"}
    return {in_norm(f"{search}_ara", record.norm(search)): verb for search, verb in verbs.items()}


def _comparisons(record: Record, key: str, verb: str) -> Iterator[Markup]:
    """The model with the largest area against each of the others."""
    measured = [model for model in record.models if key in model.scores]
    unknown = [model for model in measured if not math.isfinite(model.scores[key].value)]
    known = sorted((m for m in measured if m not in unknown), key=lambda m: -m.scores[key].value)
    yield from (_unbounded(model, key, record) for model in unknown)
    yield from (_comparison(record, key, verb, known[0], other) for other in known[1:])


def _comparison(record: Record, key: str, verb: str, best: ModelEntry, other: ModelEntry) -> Markup:
    first, second, title = best.scores[key], other.scores[key], score_title(key, record)
    digits = decimals([first.value, second.value])
    both = say("{} against {}", *(figure(in_words(area, digits)) for area in (first, second)))
    better, worse = name(best.name), name(other.name)
    paired = _paired(record, best.name, other.name, key)
    if paired is None:
        words = "larger" if first.value > second.value else "same"
        return say("{} has the {} {}, {} for {}; no paired comparison was made.", better, words, title, both, worse)
    interval = figure(in_words(paired.figure, digits))
    if not separated(paired.figure):
        words = "The data do not separate {} and {} by {}: {}; the paired difference {} includes zero."
        return say(words, better, worse, title, both, interval)
    if second.value > 0:
        does = "bears" if verb == "bears" else "does"
        ratio = _times(first.value / second.value, paired.ratio)
        opening = say("{} {} {} times the change that {} {}", better, verb, ratio, worse, does)
    else:
        opening = say("{} {} more change than {}, which bears none", better, verb, worse)
    return say("{}: {} {}; paired difference {}.", opening, title, both, interval)


def _unbounded(model: ModelEntry, key: str, record: Record) -> Markup:
    area, title = model.scores[key], score_title(key, record)
    if math.isnan(area.value):
        return say("{} has no {}: it is undefined here.", name(model.name), title)
    return say(
        "The {} of {} is infinite: the search failed on {} of the examples, more than chance ({}). It says nothing "
        "until the search succeeds.",
        title, name(model.name), percent(area.failures / max(area.n, 1), 0), percent(record.data.chance),
    )  # fmt: skip


def _shares(record: Record, key: str, opening: str) -> Iterator[Markup]:
    """All models by a share, and of two the paired difference. opening: the sentence, {} in the place of the shares."""
    measured = [model for model in record.models if key in model.scores]
    if not measured:
        return
    each = (say("{} {}", name(model.name), figure(share_in_words(model.scores[key]))) for model in measured)
    sentence = say(opening, Markup(", ").join(each))
    pairs = [difference.figure for difference in record.differences if difference.measure == key]
    if len(measured) == 2 and pairs and math.isfinite(pairs[0].value):
        cell = points(key, pairs[0])
        paired = figure(f"{cell.text} [{cell.low}, {cell.high}]")
        sentence += say("; paired difference {}{}", paired, "" if separated(pairs[0]) else ", which includes zero")
    yield sentence + "."


def _alone(record: Record, model: ModelEntry) -> Iterator[Markup]:
    """What can be said of one model without another beside it."""
    if "accuracy" in model.scores:
        accuracy = model.scores["accuracy"]
        yield say(
            "{} decides {} of {} rightly; chance is {}.", name(model.name), figure(share_in_words(accuracy)),
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
        "Of the smoothed form of {}, another classifier, an ARA of {} is certain; the attack left the network itself "
        "{} (the same {}, noise of sigma {}).",
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
        yield say("{} of {} are decided differently {}; each is marked.", f"{changed:,}", total, back)
    elif rows:
        yield say("All {} are decided the same {}.", total, back)


def _paired(record: Record, first: str, second: str, key: str) -> Difference | None:
    """The recorded difference of two models, turned so that it is first minus second."""
    for difference in record.differences:
        if difference.measure == key and {difference.first, difference.second} == {first, second}:
            if difference.first == first:
                return difference
            ratio = None if difference.ratio is None else inverse(difference.ratio)
            return difference.model_copy(update={"figure": turned(difference.figure), "ratio": ratio})
    return None


def _times(value: float, ratio: Figure | None) -> str:
    """A ratio, with its interval where the record has one."""
    return _ratio(value) + (f" [{_ratio(ratio.low)}, {_ratio(ratio.high)}]" if ratio is not None else "")


def _ratio(ratio: float) -> str:
    return number(ratio, 0 if ratio >= 100 else 1 if ratio >= 1.95 else 2)

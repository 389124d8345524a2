"""The figures in sentences. Nothing is claimed that a paired interval does not carry."""

from __future__ import annotations

import math
from typing import Any

from advex.drawing.numbers import count, decimals, number, percent
from advex.record import Difference, Figure, ModelEntry, Record
from advex.registry import register
from advex.report.cells import digits_for, inverse, is_scored, separated, together, turned
from advex.report.names import score_title
from advex.report.reading import Contents
from advex.report.sentences import Part, Sentence


@register("section", "findings")
class Findings:
    """The figures in sentences."""

    title, menu, place, tables = "Findings", "Findings", 10, ("examples", "explanations")

    def __call__(self, contents: Contents) -> dict[str, Any]:
        scored = [one for one in contents.record.differences if is_scored(one, contents.record)]
        return {"findings": findings(contents), "together": together(scored)}


def findings(contents: Contents) -> tuple[Sentence, ...]:
    """What the figures say: comparisons by robustness area, accuracies, then the saved pictures."""
    record = contents.record
    if not record.data.examples or not contents.rows("examples"):
        return ((Part("No examples were evaluated, so there is nothing to find."),),)
    sentences = []
    if len(record.models) == 1:
        sentences += _alone(contents, record.models[0])
    else:
        for key in ("attack_ara", "btr_ara"):
            sentences += _comparisons(record, key)
        sentences += _accuracies(record)
    sentences += [_certain(model, record) for model in record.models if model.certified is not None]
    sentences += _saved(contents)
    return tuple(sentences)


def _comparisons(record: Record, key: str) -> list[Sentence]:
    """The model with the largest area against each of the others."""
    measured = [model for model in record.models if key in model.scores]
    unknown = [model for model in measured if not math.isfinite(model.scores[key].value)]
    known = sorted((m for m in measured if m not in unknown), key=lambda m: -m.scores[key].value)
    sentences = [_unbounded(model, key, record) for model in unknown]
    return sentences + [_comparison(record, key, known[0], other) for other in known[1:]]


def _comparison(record: Record, key: str, best: ModelEntry, other: ModelEntry) -> Sentence:
    name, first, second = score_title(key, record), best.scores[key], other.scores[key]
    digits = decimals([first.value, second.value])
    figures = (Part(_figure(first, digits), "figure"), Part(" against "), Part(_figure(second, digits), "figure"))
    paired = _paired(record, best.name, other.name, key)
    if paired is None:
        verb = Part(f" has the larger {name}, ") if first.value > second.value else Part(f" has the same {name}, ")
        return (
            Part(best.name, "model"), verb, *figures, Part(" for "), Part(other.name, "model"),
            Part("; no paired comparison was made."),
        )  # fmt: skip
    interval = Part(_figure(paired.figure, digits), "figure")
    if not separated(paired.figure):
        return (
            Part("The data do not separate "), Part(best.name, "model"), Part(" and "), Part(other.name, "model"),
            Part(f" by {name}: "), *figures, Part("; the paired difference "), interval, Part(" includes zero."),
        )  # fmt: skip
    bears = " bears " if key == "attack_ara" else " keeps above chance under "
    if second.value > 0:
        opening = (Part(f"{bears}{_times(first.value / second.value, paired.ratio)} times the change that "),)
        opening += (Part(other.name, "model"), Part(" does" if "chance" in bears else " bears"))
    else:
        opening = (Part(f"{bears}more change than "), Part(other.name, "model"), Part(", which bears none"))
    return (
        Part(best.name, "model"), *opening, Part(f": {name} "), *figures,
        Part("; paired difference "), interval, Part("."),
    )  # fmt: skip


def _unbounded(model: ModelEntry, key: str, record: Record) -> Sentence:
    figure, name = model.scores[key], score_title(key, record)
    if math.isnan(figure.value):
        return (Part(model.name, "model"), Part(f" has no {name}: it is undefined here."))
    return (
        Part("The "), Part(f"{name} of "), Part(model.name, "model"),
        Part(
            f" is infinite: the search failed on {percent(figure.failures / max(figure.n, 1), 0)} of the examples, "
            f"more than chance ({percent(record.data.chance)}). It says nothing until the search succeeds."
        ),
    )  # fmt: skip


def _accuracies(record: Record) -> list[Sentence]:
    measured = [model for model in record.models if "accuracy" in model.scores]
    if not measured:
        return []
    parts = [Part("On unchanged inputs: ")]
    for place, model in enumerate(measured):
        figure = model.scores["accuracy"]
        parts += [Part(", " if place else ""), Part(model.name, "model"), Part(" ")]
        parts += [Part(_share(figure), "figure")]
    pairs = [d for d in record.differences if d.measure == "accuracy"]
    if len(measured) == 2 and pairs and math.isfinite(pairs[0].figure.value):
        paired = pairs[0].figure
        words = "" if separated(paired) else ", which includes zero"
        value, low, high = (number(100 * bound, 1) for bound in (paired.value, paired.low, paired.high))
        parts += [Part(" accuracy; paired difference "), Part(f"{value} points [{low}, {high}]", "figure")]
        parts.append(Part(f"{words}."))
    else:
        parts.append(Part(" accuracy."))
    return [tuple(parts)]


def _alone(contents: Contents, model: ModelEntry) -> list[Sentence]:
    """What can be said of one model without another beside it."""
    record, sentences = contents.record, []
    if "accuracy" in model.scores:
        figure = model.scores["accuracy"]
        sentences.append(
            (
                Part(model.name, "model"), Part(" decides "), Part(_share(figure), "figure"),
                Part(f" of {count(figure.n, 'example')} rightly; chance is {percent(record.data.chance)}."),
            )
        )  # fmt: skip
    for key in ("attack_ara", "btr_ara"):
        if key not in model.scores:
            continue
        figure = model.scores[key]
        if not math.isfinite(figure.value):
            sentences.append(_unbounded(model, key, record))
            continue
        digits = decimals([figure.value])
        name = score_title(key, record)
        sentences.append((Part(f"Its {name} is "), Part(_figure(figure, digits), "figure"), Part(".")))
    return sentences


def _certain(model: ModelEntry, record: Record) -> Sentence:
    """What is certain, and of which classifier."""
    entry, area = model.certified, model.scores["certified_ara"]
    assert entry is not None
    digits = digits_for("certified_ara", record)
    return (
        Part("Of the smoothed form of "), Part(model.name, "model"), Part(", another classifier, an ARA of "),
        Part(_figure(area, digits), "figure"), Part(" is certain; the attack left the network itself "),
        Part(_figure(entry.attack_ara, digits), "figure"),
        Part(f" (the same {count(entry.examples, 'example')}, noise of sigma {entry.sigma:g})."),
    )  # fmt: skip


def _saved(contents: Contents) -> list[Sentence]:
    """Whether what is shown is what was found: the decision on the 8-bit pictures."""
    rows = [row for row in contents.rows("explanations") if row["picture"] and row["png_prediction"] is not None]
    if not rows:
        return []
    changed = sum(row["png_prediction"] != row["prediction"] for row in rows)
    total = count(len(rows), "explanation picture")
    back = "when read back as 8-bit PNG, which is what this page shows"
    if not changed:
        return [(Part(f"All {total} are decided the same {back}."),)]
    return [(Part(f"{changed:,} of {total} are decided differently {back}; each is marked."),)]


def _paired(record: Record, first: str, second: str, key: str) -> Difference | None:
    """The recorded difference of two models, turned so that it is first minus second."""
    for difference in record.differences:
        if difference.measure == key and (difference.first, difference.second) == (first, second):
            return difference
        if difference.measure == key and (difference.first, difference.second) == (second, first):
            ratio = None if difference.ratio is None else inverse(difference.ratio)
            return difference.model_copy(update={"figure": turned(difference.figure), "ratio": ratio})
    return None


def _figure(figure: Figure, digits: int) -> str:
    return f"{number(figure.value, digits)} [{number(figure.low, digits)}, {number(figure.high, digits)}]"


def _share(figure: Figure) -> str:
    return f"{percent(figure.value)} [{number(100 * figure.low, 1)}, {number(100 * figure.high, 1)}]"


def _times(value: float, ratio: Figure | None) -> str:
    """A ratio, with its interval where the record has one."""
    return _ratio(value) + (f" [{_ratio(ratio.low)}, {_ratio(ratio.high)}]" if ratio is not None else "")


def _ratio(ratio: float) -> str:
    return number(ratio, 0 if ratio >= 100 else 1 if ratio >= 1.95 else 2)

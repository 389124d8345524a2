"""A record as short tables on stdout."""

from __future__ import annotations

import math
from collections.abc import Mapping

from advex.cli import terminal
from advex.record import CALIBRATION, Figure, Record
from advex.record.repeats import without_repeats
from advex.record.tables import in_norm

_COLUMNS = 4  # of measures side by side


def show(record: Record) -> None:
    """Accuracy and areas of each model, with intervals, what is known of certificates, maps and rows, and warnings."""
    record = without_repeats(record)
    shown = ("ara", "sample_ara", "decisions_ara")
    keys = ["accuracy", "mean_corruption_error"]
    keys += [in_norm(f"{name}_{of}", record.norm(name)) for name in record.searches for of in shown]
    keys += [f"{name}_reached" for name in record.searches]
    keys = [key for key in keys if any(key in model.scores for model in record.models)]
    rows = [[model.name, *(_figure(model.scores.get(key)) for key in keys)] for model in record.models]
    terminal.table(["model", *map(_words, keys)], rows)
    if any(key.partition(":")[0] == "btr_ara" for key in keys):
        terminal.emit(CALIBRATION)
    _show_radii(record)
    _show_transfer(record)
    _show_corruptions(record)
    _show_certificates(record)
    _show_maps(record)
    _show_answers(record)
    for flag in record.flags:
        if flag.severity == "warning":
            about = f"{flag.model}: " if flag.model else ""
            terminal.warn(f"{about}{flag.message} {flag.remedy}")


def _show_radii(record: Record) -> None:
    """What is left within each radius, how many of the rest each search moved, and the cost per right example."""
    alone = any(entry.alone for entry in record.radii.values())
    rows = [
        [
            model.name,
            key,
            _figure(model.scores[f"robust_accuracy:{key}"]),
            _figure(radius.withstood),
            _counts(radius.moved),
            *([_counts(radius.alone or {})] if alone else []),
            f"{radius.gradients:.0f}, {radius.queries:.0f}",
        ]
        for model in record.models
        for key, radius in model.radii.items()
    ]
    columns = ["model", "radius", "robust accuracy", "of those initially correct", "moved, in turn"]
    columns += [*(["moved, each alone"] if alone else []), "gradients, queries"]
    if rows:
        terminal.table(columns, rows)


def _counts(moved: Mapping[str, int]) -> str:
    return ", ".join(f"{search} {count}" for search, count in moved.items())


def _show_transfer(record: Record) -> None:
    """The accuracy of each model under the changes made on each: a row per model that judges."""
    rows = [
        [model.name, key, *(_figure(transfer.accuracy.get(source.name)) for source in record.models)]
        for model in record.models
        for key, transfer in model.transfer.items()
    ]
    if rows:
        terminal.table(["accuracy of", "within", *(f"changes made on {each.name}" for each in record.models)], rows)


def _show_corruptions(record: Record) -> None:
    """The accuracy on corrupted examples: a row for each corruption and model, a column for each severity."""
    severities = sorted({each for entry in record.corruptions.values() for each in entry.severities})
    rows = [
        [entry.title, model.name, *(_figure(model.corrupted[key].accuracy.get(each)) for each in severities)]
        for key, entry in record.corruptions.items()
        for model in record.models
        if key in model.corrupted
    ]
    if rows:
        terminal.table(["accuracy under", "model", *(f"severity {each}" for each in severities)], rows)
        sides = sorted({entry.table for entry in record.corruptions.values()})
        terminal.emit(f"Parameters of corruptions: those for pictures of side {', '.join(map(str, sides))}.")


def _show_certificates(record: Record) -> None:
    """What is certain of the smoothed networks, beside the attack on the same examples."""
    rows = [
        [
            model.name,
            _figure(model.scores["certified_accuracy"]),
            _figure(model.scores["certified_ara"]),
            _figure(model.certified.attack_ara),
            f"{model.certified.crossed} of {model.certified.examples}",
        ]
        for model in record.models
        if model.certified is not None
    ]
    columns = ["smoothed", "certified accuracy", "certified ARA", "attack ARA there", "certified > attack"]
    if rows:
        terminal.table(columns, rows)


def _show_maps(record: Record) -> None:
    """The mean of every measure of maps over all examples that have it."""
    titles = {key: f"{entry.title}{', ' * bool(entry.unit)}{entry.unit}" for key, entry in record.measures.items()}
    titles["completeness"] = "Completeness error"
    maps = [(model.name, name, entry.figures) for model in record.models for name, entry in model.maps.items()]
    keys = [key for key in titles if any(key in figures for _, _, figures in maps)]
    for start in range(0, len(keys), _COLUMNS):
        part = keys[start : start + _COLUMNS]
        rows = [
            [model, name, *(_figure(figures.get(key), "undefined") for key in part)] for model, name, figures in maps
        ]
        terminal.table(["maps of", "explainer", *(titles[key] for key in part)], rows)


def _show_answers(record: Record) -> None:
    """Of how many rows a change with another answer was found; the report has them in sentences."""
    rows = [
        [model.name, f"{answered.found.n:,}", f"{round(answered.found.value * answered.found.n):,}"]
        for model in record.models
        if (answered := model.answered) is not None
    ]
    if rows:
        terminal.table(["answers of", "rows explained", "another answer found"], rows)


def show_differences(record: Record) -> None:
    """Every pair of models, and of explainers of one model's maps: the first minus the second."""
    record = without_repeats(record)
    explainers = {name for model in record.models for name in model.maps}
    titles = {key: entry.title for key, entry in record.measures.items()}
    titles |= {f"{name}_{key}": f"{_words(name)} {titles[key]}" for name in explainers for key in record.measures}
    rows = [
        [
            f"{line.model + ': ' if line.model else ''}{line.first} - {line.second}",
            titles.get(line.measure) or _words(line.measure),
            _figure(line.figure),
        ]
        for line in record.differences
    ]
    terminal.table(["difference", "measure", "value [95 % interval]"], rows)
    for k in sorted({line.comparisons for line in record.differences if line.comparisons > 1}):
        terminal.emit(f"The intervals of {k} comparisons have joint 95 % coverage.")


def _words(key: str) -> str:
    """`btr_published_ara` -> `BTR published ARA`, `attack_ara:linf` -> `attack ARA, linf`."""
    names, (key, _, norm) = {"btr": "BTR", "ara": "ARA"}, key.partition(":")
    return " ".join(names.get(word, word) for word in key.split("_")) + (f", {norm}" if norm else "")


def _figure(figure: Figure | None, failed: str = "failed") -> str:
    if figure is None:
        return "-"
    if math.isnan(figure.value):
        return "undefined"
    failures = f", {figure.failures} {failed}" if figure.failures else ""
    return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]{failures}"

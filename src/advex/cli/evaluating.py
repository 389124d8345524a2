"""What `evaluate`, `compare` and `demo` share: from opened models and data to a record, and its short table."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advex import evaluation, progress
from advex.cli import terminal
from advex.errors import SpecError
from advex.evaluation.folder import evaluate, make_room
from advex.evaluation.merge import merge
from advex.evaluation.settings import specs_from
from advex.lookup import datasets
from advex.lookup.devices import device_named
from advex.lookup.folders import prepare_folder
from advex.lookup.models import Opened, Wrapping, of_one_table, open_models
from advex.record import Figure, Record


def from_options(*, least: int = 1, **given: Any) -> tuple[Record, Path]:
    """Evaluate as the options of the verb say. Returns the record and its folder. Raises AdvexError."""
    settings = evaluation.settings_from({
        "attack": given["attack"], "btr": given["btr"], "published": given["published"],
        "explanations": given["explanations"], "targets": given["targets"], "rho": given["rho"],
        "batch_size": given["batch_size"], "seed": given["seed"], "bfloat16": given["bf16"],
        "compiled": given["compile_"], **_certification(given), **_maps(given),
    })  # fmt: skip
    say = progress.Terminal(quiet=given["quiet"])
    wrapping = Wrapping(
        weights=tuple(given["weights"] or ()),
        **{key: given[key] for key in ("box", "mean", "std", "classes")},
    )
    opened = open_models(given["model"], device_named(given["device"]), wrapping)
    if len(opened) < least:
        raise SpecError(f"A comparison needs at least {least} models: --model A,B.")
    folder = given["out"] or Path("records") / "-".join(one.name for one in opened)
    make_room(folder, given["overwrite"])
    examples = datasets.open_split(
        given["data"],
        datasets.preferred(given["data"], given["split"], "test"),
        say,
        max_samples=given["max_samples"],
        seed=given["seed"],
        shape=_shape(opened, given["size"]),
        model=of_one_table(opened),
    )
    return evaluate(opened, examples, folder, settings, say, resume=given["resume"]), folder


def _certification(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the certificates. Raises SpecError where they are told how, but not to be made."""
    how = {name: given[name] for name in ("certify_samples", "certify_examples") if given[name] is not None}
    if given["certify"] is None and how:
        raise SpecError(
            f"--{next(iter(how)).replace('_', '-')} needs --certify SIGMA: without it nothing is certified."
        )
    return {"certify": given["certify"], **how}


def _maps(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the maps. Raises SpecError where they are told of which class, but not to be made."""
    if not given["maps"] and given["map_target"] is not None:
        raise SpecError("--map-target needs --maps SPEC: without it nothing is mapped.")
    target = {} if given["map_target"] is None else {"map_target": given["map_target"]}
    return {"maps": specs_from(given["maps"] or ()), **target}


def merged(records: Sequence[Path], out: Path | None, overwrite: bool) -> tuple[Record, Path]:
    """One record of several finished ones. Raises ArtifactError for records that cannot be compared."""
    if len(records) < 2:
        raise SpecError("A comparison needs two or more records.")
    folder = out or Path("records") / "-".join(path.name for path in records)
    if any(folder.resolve() == path.resolve() for path in records):
        raise SpecError(f"--out {folder} is one of the records to compare; name a new folder.")
    prepare_folder(folder, (), overwrite)
    make_room(folder, overwrite)
    return merge(records, folder, command=progress.command_line()), folder


def _shape(models: Sequence[Opened], size: str | None) -> tuple[int, ...] | None:
    """The input shape that all models share. Raises SpecError where they differ."""
    if size is not None:
        return datasets.shape_from(size)
    shapes = {one.input_shape for one in models if one.input_shape is not None}
    if len(shapes) > 1:
        told = ", ".join(f"{one.name} {'x'.join(map(str, one.input_shape or ('?',)))}" for one in models)
        raise SpecError(f"The models take inputs of different shapes ({told}): evaluate them apart.")
    return next(iter(shapes), None)


# -- the short table ---------------------------------------------------------------------------------------


def show(record: Record) -> None:
    """Accuracy and areas of each model, with intervals, and what to be wary of."""
    names = {"accuracy": "accuracy", **{f"{search}_ara": _words(f"{search}_ara") for search in record.searches}}
    rows = [[model.name, *[_figure(model.scores[key]) for key in names]] for model in record.models]
    terminal.table(["model", *names.values()], rows)
    if any(model.certified for model in record.models):
        _show_certified(record)
    if any(model.maps for model in record.models):
        _show_maps(record)
    if any(model.answered for model in record.models):
        _show_answers(record)
    for flag in record.flags:
        if flag.severity == "warning":
            about = f"{flag.model}: " if flag.model else ""
            print(f"warning: {about}{flag.message} {flag.remedy}", file=sys.stderr)


def _show_certified(record: Record) -> None:
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
    terminal.table(["smoothed", "certified accuracy", "certified ARA", "attack ARA there", "certified > attack"], rows)


def _show_maps(record: Record) -> None:
    """What the maps are like: the mean of each measure over all examples."""
    titles = {key: entry.title for key, entry in record.measures.items()} | {"completeness": "Completeness error"}
    rows = [
        [
            model.name,
            name,
            *(_figure(found.figures[key]) if key in found.figures else "-" for key in titles),
        ]
        for model in record.models
        for name, found in model.maps.items()
    ]
    terminal.table(["maps of", "explainer", *titles.values()], rows)


def _show_answers(record: Record) -> None:
    """Of how many rows a change with another answer was found; the report has them in sentences."""
    rows = [
        [model.name, f"{found.found.n:,}", f"{round(found.found.value * found.found.n):,}"]
        for model in record.models
        if (found := model.answered) is not None
    ]
    terminal.table(["answers of", "rows explained", "another answer found"], rows)


def show_differences(record: Record) -> None:
    """Every pair of models: the first minus the second."""
    rows = [
        [f"{one.model + ': ' if one.model else ''}{one.first} - {one.second}", _words(one.measure), _figure(one.figure)]
        for one in record.differences
    ]
    terminal.table(["difference", "measure", "value [95 % interval]"], rows)


def _words(measure: str) -> str:
    """`btr_published_ara` -> `BTR published ARA`."""
    names = {"btr": "BTR", "ara": "ARA", "gini": "Gini"}
    return " ".join(names.get(word, word) for word in measure.split("_"))


def _figure(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "undefined"
    failed = f", {figure.failures} failed" if figure.failures else ""
    return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]{failed}"

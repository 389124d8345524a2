"""Explanations of single pictures, with the files that show them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advex import progress
from advex._version import __version__
from advex.classifier import Classifier
from advex.data import Dataset
from advex.data.images import decode
from advex.data.images.png import decode_png, encode_png
from advex.data.source import Unreadable
from advex.environment import without_places
from advex.errors import DataError, InputError, SpecError
from advex.evaluation.pictures import has_pictures
from advex.explainers import Away, Toward
from advex.explanation import contact_sheet
from advex.files import atomic, write_text
from advex.geometry import RMSE, as_radius
from advex.lookup.datasets import class_number
from advex.lookup.models import Opened
from advex.registry import describe

FIGURES = "explanations.json"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A picture to explain.

    x: [channels, height, width] in [0, 1]. label: its class, if known, and y its number. note: what was done to it.
    """

    name: str
    x: Tensor
    label: str | None = None
    y: int | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """What to ask of every picture. targets: see `targets_of`. max_batch: pictures at a time."""

    targets: tuple[str, ...]
    rhos: tuple[float, ...]
    away: bool = False
    steps: int = 35
    seed: int = 0
    max_batch: int | str = 128


@dataclass(frozen=True)
class Target:
    """A class to ask about. meant: how it was asked for, `true`, `predicted`, `runner-up`, `all` or `named`."""

    number: int
    meant: tuple[str, ...]


def rhos_from(text: str) -> tuple[float, ...]:
    """`0.1,8/255` -> radii in (0, 1]. Raises SpecError."""
    rhos = tuple(as_radius(part) for part in text.split(","))
    if not all(0 < rho <= 1 for rho in rhos):
        raise SpecError(f"--rho '{text}': an RMSE lies above 0 and at most at 1 (black to white).")
    return rhos


def max_batch_from(text: str) -> int | str:
    """`auto`, or a number of inputs of at least 1. Raises SpecError."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise SpecError(f"--max-batch '{text}' must be 'auto' or a whole number of at least 1.")
    return int(text)


def from_picture(path: Path, classifier: Classifier, shape: tuple[int, ...] | None, say: progress.Terminal) -> Subject:
    """A picture file, scaled and cut to the model's input where it differs (and said so). Raises DataError."""
    if shape is not None and len(shape) == 3:
        channels = shape[0]
    else:
        channels = len(classifier.mean) if classifier.mean.ndim else None
    size = None if shape is None else (shape[-2], shape[-1])
    if channels not in (None, 1, 3):
        raise InputError(f"The model takes {channels} channels; picture files have 1 or 3.")
    try:
        with decode.quiet():
            pixels = decode.pixels(path, channels=channels)
            fitted = decode.pixels(path, channels=channels, size=size)
    except Unreadable as error:
        raise DataError(f"{path} cannot be read as a picture: {error}.") from None
    note = None
    if fitted.shape != pixels.shape:
        (_, height, width), (_, new_height, new_width) = pixels.shape, fitted.shape
        note = f"{width}x{height} pixels scaled to cover {new_width}x{new_height}, the centre cut out"
        say.note(f"{path}: {note}")
    return Subject(name=path.name, x=torch.from_numpy(fitted.copy()).float() / 255, note=note)


def from_data(data: Dataset, index: int) -> Subject:
    """An example of a data set. Raises SpecError for an index outside it."""
    if index >= len(data):
        raise SpecError(f"--index {index}: {data.name} has {len(data)} examples, 0 to {len(data) - 1}.")
    batch = data.batch(slice(index, index + 1))
    y = int(batch.y[0])
    return Subject(name=data.ids[index], x=batch.x[0], label=data.class_names[y], y=y)


def explain(
    question: PictureRequest, model: Opened, subjects: list[Subject], folder: Path, say: progress.Terminal
) -> dict[str, Any]:
    """Explain every picture, write PNG files, contact sheets and `explanations.json`; returns what that file holds."""
    classifier = model.classifier
    answers, rows = [], []
    prefixes = file_names([subject.name for subject in subjects])
    with say.progress(f"explain with {model.name}") as bar:
        for number, (subject, prefix) in enumerate(zip(subjects, prefixes, strict=True), start=1):
            if not has_pictures(classifier, subject.x.shape):
                raise InputError(
                    f"{subject.name} is no picture in [0, 1] with 1 or 3 channels, and only such can be shown."
                )
            answer, drawn = _explain_one(classifier, subject, question, folder, prefix)
            answers.append(answer)
            rows += drawn
            bar(number, len(subjects))
    sheets = contact_sheet.write(rows, folder)
    result = {
        "advex": __version__,
        "command": without_places(progress.command_line()),
        "model": model.name,
        "source": without_places(model.source),
        "class_names": None if classifier.class_names is None else list(classifier.class_names),
        "explainer": "away" if question.away else "toward",
        "methods": [describe(_explainer(question, rho)) for rho in question.rhos],
        "seed": question.seed,
        "inputs": answers,
        "sheets": [path.name for path in sheets],
    }
    write_text(folder / FIGURES, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _explainer(question: PictureRequest, rho: float) -> Toward | Away:
    return (Away if question.away else Toward)(rho=rho, steps=question.steps)


def _explain_one(
    classifier: Classifier, subject: Subject, question: PictureRequest, folder: Path, prefix: str
) -> tuple[dict[str, Any], list[contact_sheet.Row]]:
    """One picture: all targets at every rho."""
    x = subject.x.to(classifier.device, classifier.dtype)[None]
    confidences = classifier.predict(x)[0]
    targets = targets_of(confidences, question.targets, classifier.class_names, subject)
    wanted = torch.tensor([target.number for target in targets], device=x.device)
    repeated = x.expand(len(targets), *x.shape[1:]).contiguous()
    how: dict[str, Any] = {"seed": question.seed, "max_batch": question.max_batch}
    found = {rho: _explainer(question, rho)(classifier, repeated, wanted, **how) for rho in question.rhos}
    largest = max(float(one.map.abs().max()) for one in found.values())
    gain = 0.5 / max(largest, 1e-6)  # one for all of a picture's differences, so that they can be compared
    says = class_name(classifier, int(confidences.argmax()))
    answer: dict[str, Any] = {
        "name": subject.name,
        "label": subject.label,
        "note": subject.note,
        "says": says,
        "confidences": confidences.tolist(),
        "picture": save_picture(folder / f"{prefix}.input.png", x[0])[0],
        "difference_gain": gain,
        "explanations": [],
    }
    drawn = []
    for rho, one in found.items():
        assert one.picture is not None
        assert one.after is not None
        assert one.rmse is not None
        first = contact_sheet.Cell(subject.x, (subject.name, f"says {says}", f"{100 * float(confidences.max()):.1f} %"))
        cells: list[contact_sheet.Cell] = []
        for row, asked in enumerate(targets):
            target = asked.number
            stem = f"{prefix}.{'away' if question.away else 'toward'}-{target}.rho{rho:g}"
            picture, shown = save_picture(folder / f"{stem}.png", one.picture[row])
            changed = (0.5 + gain * one.map[row]).clamp(0, 1)
            difference, _ = save_picture(folder / f"{stem}.difference.png", changed)
            said = classifier.predict(shown.to(x)[None])[0]
            answer["explanations"].append({
                "target": target,
                "target_name": class_name(classifier, target),
                "meant": list(asked.meant),
                "rho": rho,
                "rmse": float(one.rmse[row]),
                "before": confidences.tolist(),
                "after": one.after[row].tolist(),
                "says": class_name(classifier, int(one.after[row].argmax())),
                "picture": picture,
                "difference": difference,
                "png": {
                    "rmse": float(RMSE.size((shown.to(x) - x[0])[None])),
                    "after": said.tolist(),
                    "says": class_name(classifier, int(said.argmax())),
                },
            })  # fmt: skip
            cells += _cells(answer["explanations"][-1], one.picture[row], changed, gain, question.away)
        drawn.append(contact_sheet.Row(first, tuple(cells)))
    return answer, drawn


def _cells(
    one: dict[str, Any], picture: Tensor, difference: Tensor, gain: float, away: bool
) -> list[contact_sheet.Cell]:
    before, after = (100 * one[key][one["target"]] for key in ("before", "after"))
    return [
        contact_sheet.Cell(
            picture, (f"{'away from' if away else 'toward'} {one['target_name']}", f"{before:.1f} → {after:.1f} %")
        ),
        contact_sheet.Cell(difference, (f"difference x {gain:.2g}", f"RMSE {one['rmse']:.4f}")),
    ]


def targets_of(
    confidences: Tensor, asked: tuple[str, ...], class_names: tuple[str, ...] | None, subject: Subject
) -> list[Target]:
    """The classes to ask about, each once. confidences: [classes].

    asked: names, numbers, `predicted`, `runner-up`, `true` (the label), `all`. Raises SpecError for what is none of
    these, and for `true` where the label is not known.
    """
    ranked = confidences.argsort(descending=True).tolist()
    words = {"predicted": ranked[:1], "runner-up": ranked[1:2], "all": sorted(ranked)}
    if subject.label is not None and subject.label in (class_names or ()):
        words["true"] = [class_number(subject.label, class_names, len(ranked))]
    elif subject.y is not None and subject.y < len(ranked):
        words["true"] = [subject.y]
    meant: dict[int, list[str]] = {}
    for name in asked:
        word = name.replace("_", "-")
        if name == "true" and name not in words and name not in (class_names or ()):
            raise SpecError(f"--target true: the class of {subject.name} is not known; it is of examples of --data.")
        numbers = words.get(word) or [class_number(name, class_names, len(ranked))]
        for number in numbers:
            ways = meant.setdefault(number, [])
            ways += [way for way in (word if word in words else "named",) if way not in ways]
    return [Target(number, tuple(ways)) for number, ways in meant.items()]


def class_name(classifier: Classifier, number: int) -> str:
    """A class as people call it."""
    return str(number) if classifier.class_names is None else classifier.class_names[number]


def save_picture(path: Path, picture: Tensor) -> tuple[str, Tensor]:
    """Write a PNG; returns its name, and the picture in [0, 1] that the file holds."""
    encoded = encode_png(picture.detach().float().cpu())
    with atomic(path) as temporary:
        temporary.write_bytes(encoded)
    return path.name, decode_png(encoded).float() / 255


def file_names(names: list[str]) -> list[str]:
    """A safe, unique beginning of file names for each input's own."""
    given: list[str] = []
    for name in names:
        safe = re.sub(r"[^\w.-]+", "_", name.removesuffix(Path(name).suffix)).strip("._")[:80] or "input"
        candidate, count = safe, 1
        while candidate in given:
            count += 1
            candidate = f"{safe}-{count}"
        given.append(candidate)
    return given

"""The run folder, as far as it tells how a model was trained. Imports no model code.

    metrics.jsonl   one JSON object per epoch; its last line may be half written
    recipe.yaml     the resolved recipe
    env.json        versions, device, command; schema_version: of the whole folder, the first where there is none
    config.json     of the classifier, there once the run is finished
    best/           the classifier of the best epoch, a folder of its own

What is damaged, too large or of another kind is left out, and `Training.notes` says so: a training of a
night is looked at as far as it got.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from advex.documents import parse_json, parse_yaml
from advex.errors import DataError
from advex.record.versions import upgraded
from advex.registry import write

SCHEMA = 1
METRICS, RECIPE, ENVIRONMENT, CONFIG, BEST = "metrics.jsonl", "recipe.yaml", "env.json", "config.json", "best"
WEIGHTS = "model.safetensors"

# What a line of metrics.jsonl may hold beside `parts`: rate in examples per second, seconds since the run began.
QUANTITIES = (
    "loss", "train_accuracy", "accuracy", "robust_accuracy", "learning_rate", "step", "rate", "seconds",
)  # fmt: skip

EPOCHS = 5_000  # kept at most: of longer runs every second epoch, every third, ...
_PARTS, _NAME, _LISTED = 24, 80, 5
_LARGEST_METRICS, _LARGEST_CONFIG, _LARGEST_TEXT, _LONGEST_LINE = 32 * 2**20, 4 * 2**20, 64 * 2**10, 64 * 2**10

Curve = Annotated[list[float | None], Field(max_length=EPOCHS)]
Name = Annotated[str, Field(max_length=_NAME)]


class Training(BaseModel):
    """How a model was trained. epoch: those noted; every curve has a value for each of them.

    A value is None where it was not measured, and NaN where it was not finite. curves: of `QUANTITIES`; parts: of the
    loss, by the objective's names. epochs: planned. best: the epoch whose classifier the run keeps as its best.
    taken: the epoch whose classifier this is, where it is not the last. finished: the classifier was saved. attack:
    that of the robust accuracy, and on how many examples. recipe: the text of its file. notes: what is missing from
    this, and why.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    objective: str = Field(default="", max_length=2_000)
    attack: str = Field(default="", max_length=2_000)
    recipe: str = Field(default="", max_length=_LARGEST_TEXT)
    environment: Annotated[dict[Name, str], Field(max_length=64)] = {}
    epochs: int | None = Field(default=None, ge=1)
    epoch: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=EPOCHS)] = []
    curves: dict[Name, Curve] = {}
    parts: Annotated[dict[Name, Curve], Field(max_length=_PARTS)] = {}
    best: int | None = None
    taken: int | None = None
    finished: bool = False
    notes: list[str] = []

    @model_validator(mode="after")
    def _fits(self) -> Training:
        if any(later <= earlier for earlier, later in zip(self.epoch, self.epoch[1:], strict=False)):
            raise ValueError("the epochs of a training must rise")
        for name, values in [*self.curves.items(), *self.parts.items()]:
            if len(values) != len(self.epoch):
                raise ValueError(f"{name} has {len(values)} values for {len(self.epoch)} epochs")
        if unknown := self.curves.keys() - set(QUANTITIES):
            raise ValueError(f"there is no quantity {min(unknown)}")
        return self


def read_run(folder: Path) -> Training | None:
    """How the model of a run folder, or of its best epoch, was trained; None for a folder of something else.

    The run may still be going on. Raises ArtifactError for a run of a newer advex, and for nothing else.
    """
    if _is_run(folder):
        return _read_run(folder)
    if folder.name != BEST or not _is_run(folder.parent):
        return None
    run = _read_run(folder.parent)
    described = _object(_read(folder, CONFIG, _LARGEST_CONFIG, [])).get("training")
    taken = _whole(described.get("epoch")) if isinstance(described, dict) else None
    return run.model_copy(update={"taken": taken or run.best})


def _is_run(folder: Path) -> bool:
    try:
        return any((folder / name).is_file() for name in (METRICS, RECIPE))
    except (OSError, ValueError):  # no possible path
        return False


def _read_run(folder: Path) -> Training:
    notes: list[str] = []
    recipe = _read(folder, RECIPE, _LARGEST_TEXT, notes)
    settings = _settings(recipe)
    about = _object(_read(folder, ENVIRONMENT, _LARGEST_TEXT, notes))
    if isinstance(about.get("schema_version"), int):
        about = upgraded(about, folder / ENVIRONMENT, SCHEMA, {})
    lines = _thinned(dict(_lines(_read(folder, METRICS, _LARGEST_METRICS, notes), notes)), notes)
    curves = {name: [_number(line, name) for line in lines.values()] for name in QUANTITIES}
    planned = [_whole(settings.get("epochs")), *(_whole(line.get("epochs")) for line in lines.values())]
    return Training(
        objective=_objective(settings),
        attack=_attack(settings),
        recipe=_shown(recipe),
        environment=_environment(about),
        epochs=next((epochs for epochs in reversed(planned) if epochs), None),
        epoch=list(lines),
        curves=_measured(curves),
        parts=_parts(list(lines.values()), notes),
        best=max((epoch for epoch, line in lines.items() if line.get("best") is True), default=None),
        finished=(folder / CONFIG).is_file() and _is_whole(folder / WEIGHTS, notes),
        notes=notes,
    )


def _read(folder: Path, name: str, limit: int, notes: list[str]) -> str:
    """The text of a file of the folder, empty where there is none that may be read."""
    path = folder / name
    try:
        if not path.is_file():
            return ""
        if path.resolve().parent != folder.resolve():  # of a folder that came from elsewhere: it may lead anywhere
            notes.append(f"{name} is a link out of the run folder and was not followed.")
        elif (size := path.stat().st_size) > limit:
            notes.append(f"{name} is {size:,} bytes long, more than the {limit:,} that are read; it was left out.")
        else:
            return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{name} cannot be read: {error.strerror or error}.")
    return ""


def _is_whole(weights: Path, notes: list[str]) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        with weights.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            about = parse_json(file.read(min(header, _LARGEST_CONFIG)), WEIGHTS)
        ends = [tensor["data_offsets"][1] for name, tensor in about.items() if name != "__metadata__"]
        if weights.stat().st_size == 8 + header + max(ends, default=0):
            return True
        reason = "is cut short"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except (DataError, AttributeError, TypeError, LookupError, ValueError):
        reason = "is damaged"
    notes.append(f"{WEIGHTS} {reason}: the run is not finished. Training resumes from its last checkpoint.")
    return False


def _lines(text: str, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(epoch, what was noted after it). Lines that are none are told in the notes."""
    lines = text.split("\n")
    damaged = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            noted = parse_json(line, METRICS) if len(line) <= _LONGEST_LINE else None
        except DataError:
            noted = None
        if isinstance(noted, dict) and (epoch := _whole(noted.get("epoch"))):
            yield epoch, noted
        elif number == len(lines):  # no line break after it
            notes.append(
                f"The last line of {METRICS}, line {number}, is incomplete: it is still being written, or "
                "was cut off. It was skipped."
            )
        else:
            damaged.append(number)
    if damaged:
        listed = ", ".join(map(str, damaged[:_LISTED])) + (", ..." if len(damaged) > _LISTED else "")
        few, were = ("Line", "is damaged and was") if len(damaged) == 1 else ("Lines", "are damaged and were")
        notes.append(f"{few} {listed} of {METRICS} {were} skipped.")


def _thinned(lines: dict[int, dict[str, Any]], notes: list[str]) -> dict[int, dict[str, Any]]:
    """In rising order, and no more than `EPOCHS`: every k-th, counted from the last."""
    ordered = sorted(lines.items())
    every = math.ceil(len(ordered) / EPOCHS)
    if every > 1:
        notes.append(f"Of {len(ordered):,} epochs, one in {every} is kept.")
    return dict(ordered[::-every][::-1]) if ordered else {}


def _parts(lines: list[dict[str, Any]], notes: list[str]) -> dict[str, list[float | None]]:
    """The curve of each part of the loss."""
    every = [parts if isinstance(parts := line.get("parts"), dict) else {} for line in lines]
    names = list(dict.fromkeys(name for parts in every for name in parts))
    good = [name for name in names if 0 < len(name) <= _NAME and name.isprintable()][:_PARTS]
    if len(good) < len(names):
        notes.append(f"{len(names) - len(good)} parts of the loss were left out: too many, or names too long.")
    curves = {name: [_number(parts, name) for parts in every] for name in good}
    return _measured(curves)


def _measured(curves: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Those that were measured at all."""
    return {name: curve for name, curve in curves.items() if any(value is not None for value in curve)}


def _number(line: dict[str, Any], name: str) -> float | None:
    """A value of a line: None where there is none, NaN where it was not finite."""
    value = line.get(name)
    if name not in line or isinstance(value, bool) or not isinstance(value, int | float | None):
        return None
    try:
        return math.nan if value is None or not math.isfinite(value) else float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.nan


def _whole(value: Any) -> int | None:
    """A positive count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9 else None


def _settings(recipe: str) -> dict[str, Any]:
    """What a recipe's text holds; empty where it is not a recipe."""
    try:
        values = parse_yaml(recipe, RECIPE)
    except DataError:
        return {}
    return values if isinstance(values, dict) else {}


def _objective(settings: dict[str, Any]) -> str:
    """`adversarial:share=0.5 + lipschitz:psi=220`; empty where the recipe does not say."""
    objective = settings.get("objective")
    terms = {objective: settings.get("objective_options")} if isinstance(objective, str) else objective
    if not isinstance(terms, dict):
        return ""
    return _shown(" + ".join(_term(name, options) for name, options in list(terms.items())[:_PARTS]))[:2_000]


def _term(name: Any, options: Any) -> str:
    """A term of the objective as a spec string."""
    # Nothing nested: a few aliases in a file can stand for more text than there is memory.
    pairs = options.items() if isinstance(options, dict) else ()
    plain = {key: value for key, value in pairs if isinstance(key, str) and isinstance(value, str | int | float)}
    return write(name if isinstance(name, str) else "?", plain)


def _attack(settings: dict[str, Any]) -> str:
    """`pgd:norm=l2,radius=0.5 on 256 examples`; empty where the recipe does not say."""
    attack, samples = settings.get("robust_attack"), _whole(settings.get("robust_samples"))
    if not isinstance(attack, str):
        return ""
    return _shown(attack)[:1_900] + (f" on {samples:,} examples" if samples else "")


def _object(text: str) -> dict[str, Any]:
    """What a JSON file holds, empty where that is no object."""
    try:
        values = parse_json(text, CONFIG)
    except DataError:
        return {}
    return values if isinstance(values, dict) else {}


def _environment(about: dict[str, Any]) -> dict[str, str]:
    kept = [(_shown(name), _shown(value)[:2_000]) for name, value in about.items() if isinstance(value, str)]
    return dict([pair for pair in kept if 0 < len(pair[0]) <= _NAME][:64])


def _shown(text: str) -> str:
    """Text without control characters and half characters, which no file of ours could hold."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)

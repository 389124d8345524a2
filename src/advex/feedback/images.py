"""Making the images of a project: high-confidence adversarial images, judged on the PNG that people will see."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from advex import attacks, progress, registry
from advex._version import __version__
from advex.annotation import PICTURES, instructions
from advex.annotation.project import opened
from advex.artifacts import weights_hash
from advex.claims import forget_claims, in_turn
from advex.classifier import Classifier
from advex.data import Dataset
from advex.data.dataset import fingerprint
from advex.data.images.png import decode_png, encode_png
from advex.environment import without_places
from advex.errors import ArtifactError, InputError
from advex.evaluation.columns import table
from advex.evaluation.examples import batch_for
from advex.evaluation.shards import Maker, Piece, Shards, differing, file_name, open_shards
from advex.explanation import has_pictures
from advex.files import atomic, write_text
from advex.geometry import RMSE
from advex.goals import Confident
from advex.lookup.models import Opened
from advex.registry import describe
from advex.types import Perturbation

if TYPE_CHECKING:
    from advex.annotation.models import Project
    from advex.annotation.store import NewImage

MADE = "made"
KIND = "images"
# Rounding to 8 bits may undo the change: then it is lengthened along its ray, by these factors.
_LONGER = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4)
_COLUMNS = {
    "id": pa.string(),
    "label": pa.int64(),
    "outcome": pa.string(),
    "target": pa.int64(),
    "rmse": pa.float64(),
    "original": pa.string(),
    "changed": pa.string(),
    "confidences": pa.list_(pa.float64()),
}


@dataclass(frozen=True, kw_only=True)
class Making:
    """How images are made. margin: by which another class is ahead of the next, in confidence. search: a spec."""

    margin: float = 0.5
    search: str = "minimal"
    seed: int = 0
    batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class NewProject:
    """A project that is to be made, with its options: see `Store.create_project`. instructions: as annotators read it.

    database: a URL; None: a file in the folder. name, instructions: None for those that it has; a new one without a
    name is called `title`.
    """

    folder: Path
    database: str | None
    name: str | None
    title: str
    votes: int
    alone: bool
    instructions: str | None


def prepare_project(
    project: NewProject, models: list[Opened], data: Dataset, making: Making, say: progress.Terminal
) -> tuple[dict[str, dict[str, int]], int]:
    """Make a project, or go on with it. Returns the outcomes by model, and how many images the project has.

    To be called by the owner of the folder. Its copies divide the work; one after the other opens the database, since a
    file of SQLite bears no writers on several machines. Raises ArtifactError for a project with other options,
    Interrupted when stopped.
    """
    folder = project.folder
    turn = functools.partial(in_turn, folder / MADE, "project", what="another process, which has the project open")
    with turn(), opened(folder, project.database, new=True) as store:
        options = {"votes": project.votes, "seed": making.seed, "alone": project.alone}
        name = project.name or project.title
        _agree(project, options, store.create_project(name, **options, about=about(models, data, making)))
        if project.instructions is not None:
            write_text(folder / instructions.FILE, project.instructions)
    images, outcomes = prepare(models, data, folder, making, say)
    with turn(), opened(folder, project.database) as store:
        store.add_images(images)
        total = len(store.images())
    forget_claims(folder / MADE)
    return outcomes, total


def _agree(project: NewProject, options: dict[str, Any], held: Project) -> None:
    """Raise ArtifactError, saying what differs, where a project is not as it is wanted."""
    wanted, file = options | {"name": project.name or held.name}, project.folder / instructions.FILE
    reasons = differing({name: getattr(held, name) for name in wanted}, wanted)
    if project.instructions is not None and file.exists() and instructions.read(file) != project.instructions:
        reasons.append(f"the instructions are not those in {file}, which you may replace yourself")
    if reasons:
        raise ArtifactError(
            f"{project.folder} was made with other options: {'; '.join(reasons)}. Give those that it was made with, or "
            "choose another folder with --out."
        )


def prepare(
    models: list[Opened], data: Dataset, folder: Path, making: Making, say: progress.Terminal
) -> tuple[list[NewImage], dict[str, dict[str, int]]]:
    """The images of each model, made into a project's folder, and the outcomes by model. What is finished stays.

    Copies of one command divide the work: see `evaluation.shards`. Raises Interrupted when stopped.
    """
    images, outcomes, work = list["NewImage"](), dict[str, dict[str, int]](), list[tuple[Maker, list[Piece]]]()
    with progress.stopping() as stop, say.progress("prepare") as bar:

        def show(event: dict[str, Any]) -> None:
            rate = "" if event["rate"] is None else f"{event['rate']:,.1f} examples/s"
            bar(event["done"], event["total"], rate, what=event["model"])

        for model in models:
            _check(model, data)
            upgrade = functools.partial(_upgrade, data=data)
            identity = _identity(model, data, making)
            shards = open_shards(folder / MADE / file_name(model.name), identity, True, upgrade)
            work.append((Maker(shards, show, stop), _pieces(model, data, folder / PICTURES, making)))
        for maker, pieces in work:
            maker.tried(pieces)
        for model, (maker, pieces) in zip(models, work, strict=True):
            maker.finish(pieces)
            of_model, outcomes[model.name] = _images(model, data, maker.shards, len(pieces), making)
            images += of_model
            forget_claims(maker.shards.folder / "shards")
    return images, outcomes


def about(models: list[Opened], data: Dataset, making: Making) -> dict[str, Any]:
    """How the images of a project came to be, as it is kept with it."""
    return {
        "advex": __version__,
        "command": without_places(progress.command_line()),
        "data": data.name,
        "margin": making.margin,
        "search": describe(attacks.build(making.search)),
        "seed": making.seed,
        "models": {model.name: weights_hash(model.classifier) for model in models},
    }


def _check(model: Opened, data: Dataset) -> None:
    if not has_pictures(model.classifier, data.shape):
        raise InputError(f"{data.name} has no pictures in [0, 1] with 1 or 3 channels; only those can be shown.")
    classes = model.classifier.predict(
        data.batch(slice(0, 1), model.classifier.device).x.to(model.classifier.dtype)
    ).shape[1]
    if classes != len(data.class_names):
        raise InputError(f"{model.name} has {classes} classes, but {data.name} has {len(data.class_names)}.")


def _identity(model: Opened, data: Dataset, making: Making) -> dict[str, Any]:
    """What must agree for images to be taken over. Which version made them does not: each image was judged."""
    return {
        "images": {"margin": making.margin, "search": describe(attacks.build(making.search)), "seed": making.seed},
        "batch_size": making.batch_size,
        "data": {"examples": len(data), "digest": fingerprint(data)},
        "model": weights_hash(model.classifier),
    }


def _upgrade(identity: dict[str, Any], *, data: Dataset) -> None:
    """Earlier versions wrote which they were, and knew the data by SHA-256 of its ids, classes and tensors.

    Options that a search has got since stand at their defaults; those that it has no more are passed over.
    """
    identity.pop("advex", None)
    name, options = registry.parse(identity["images"]["search"])
    known = registry.entries("attack")[name].options()
    search = registry.make("attack", name, **{key: value for key, value in options.items() if key in known})
    identity["images"]["search"] = describe(search)
    if "sha256" in identity["data"]:
        digest = hashlib.sha256(json.dumps([data.ids, data.class_names, data.class_counts]).encode())
        for rows in (*data.x.split(1024), data.y):
            digest.update(f"{rows.dtype} {tuple(rows.shape)}".encode())
            digest.update(rows.cpu().contiguous().flatten().numpy().data)
        if identity["data"]["sha256"] == digest.hexdigest():
            identity["data"] = {"examples": len(data), "digest": fingerprint(data)}


def _pieces(model: Opened, data: Dataset, pictures: Path, making: Making) -> list[Piece]:
    size = making.batch_size
    ranges = [range(start, min(start + size, len(data))) for start in range(0, len(data), size)]
    return [
        Piece(
            model=model.name,
            kind=KIND,
            index=index,
            examples=len(rows),
            make=functools.partial(_made, model.classifier, data, rows, pictures, making),
        )
        for index, rows in enumerate(ranges)
    ]


def _made(classifier: Classifier, data: Dataset, rows: range, pictures: Path, making: Making) -> pa.Table:
    """Some examples' images, written; those that were `already` there, or `missed`, have none."""
    batch = batch_for(classifier, data, slice(rows.start, rows.stop))
    goal = Confident(batch.y, making.margin)
    with torch.no_grad():
        already = goal(classifier, batch.x).reached
    attacked = attacks.build(making.search)(classifier, batch.x, goal, seed=making.seed, max_batch="auto")
    encoded, seen = _in_eight_bits(classifier, attacked, goal)
    with torch.no_grad():  # of what people will see, read back from the file
        good = goal(classifier, seen).reached & attacked.reached & ~already
        confidences = classifier.predict(seen)
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for row, example in enumerate(rows):
        shown = bool(good[row])
        original = encode_png(batch.x[row].float()) if shown else b""
        files = [_write(pictures, each) if shown else None for each in (original, encoded[row])]
        values = {
            "id": data.ids[example],
            "label": int(batch.y[row]),
            "outcome": "made" if shown else "already" if already[row] else "missed",
            "target": int(confidences[row].argmax()),
            "rmse": float(RMSE.size((seen[row] - decode_png(original).to(seen) / 255)[None])) if shown else None,
            "original": files[0],
            "changed": files[1],
            "confidences": confidences[row].double().tolist(),
        }
        for name, value in values.items():
            columns[name].append(value)
    return table(_COLUMNS, **columns)


def _in_eight_bits(classifier: Classifier, attacked: Perturbation, goal: Confident) -> tuple[list[bytes], Tensor]:
    """PNGs of changed pictures for which the goal holds, where some length of the change has one; and their pixels."""
    encoded: list[bytes] = [b""] * len(attacked)
    seen = attacked.clean.clone()
    open_ = torch.ones_like(attacked.reached)
    for factor in _LONGER:
        longer = attacked.clean + classifier.box.confine(attacked.clean, attacked.delta * factor)
        for row in torch.nonzero(open_)[:, 0].tolist():
            encoded[row] = encode_png(longer[row].float().clamp(0, 1))
            seen[row] = decode_png(encoded[row]).to(seen) / 255
        with torch.no_grad():
            open_ = open_ & ~goal(classifier, seen).reached
        if not open_.any():
            break
    return encoded, seen


def _write(pictures: Path, encoded: bytes) -> str:
    """Keep a PNG under the SHA-256 of its bytes. Returns that."""
    digest = hashlib.sha256(encoded).hexdigest()
    path = pictures / f"{digest}.png"
    if not path.exists():
        with atomic(path) as temporary:
            temporary.write_bytes(encoded)
    return digest


def _images(
    model: Opened, data: Dataset, shards: Shards, pieces: int, making: Making
) -> tuple[list[NewImage], dict[str, int]]:
    """What the finished pieces hold, and how many examples had which outcome."""
    from advex.annotation.store import NewImage

    rows = [row for index in range(pieces) for row in shards.read(model.name, KIND, index).to_pylist()]
    outcomes = {name: sum(row["outcome"] == name for row in rows) for name in ("made", "already", "missed")}
    search = f"{describe(attacks.build(making.search))} (confident:margin={making.margin:g})"
    images = [
        NewImage(
            label=data.class_names[row["label"]],
            changed=row["changed"],
            original=row["original"],
            source=data.name,
            source_id=row["id"],
            model=model.name,
            search=search,
            target=data.class_names[row["target"]],
            rmse=row["rmse"],
            confidences=dict(zip(data.class_names, row["confidences"], strict=True)),
        )
        for row in rows
        if row["outcome"] == "made"
    ]
    return images, outcomes

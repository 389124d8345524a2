"""The examples that a report shows: explanations towards and away from classes, with their pictures.

A picture is shown as 8-bit PNG, so what is claimed of it is asked again of the decoded PNG.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.data.images.png import decode_png, encode_png
from advex.evaluation.searches import batch_for, table
from advex.evaluation.settings import Settings
from advex.evaluation.shards import file_name
from advex.explainers import Away, Toward
from advex.files import atomic
from advex.geometry import RMSE

EXPLAINED = {
    "model": pa.string(),
    "example": pa.int64(),
    "purpose": pa.string(),
    "explainer": pa.string(),
    "target": pa.int64(),
    "rho": pa.float64(),
    "rmse": pa.float64(),
    "picture": pa.string(),
    "before": pa.list_(pa.float64()),
    "after": pa.list_(pa.float64()),
    "prediction": pa.int64(),
    "png_rmse": pa.float64(),
    "png_after": pa.list_(pa.float64()),
    "png_prediction": pa.int64(),
}
EVERY_CLASS = 10  # up to so many classes, all are asked about
Purpose = Literal["grid", "sweep"]


def choose(y: Tensor, count: int, seed: int) -> list[int]:
    """`count` rows drawn at random, one of each class before a second of any. A larger count keeps the smaller's.

    y: [n] labels.
    """
    seen: Counter[int] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for position, row in enumerate(torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).tolist()):
        label = int(y[row])
        ranked.append((seen[label], position, row))
        seen[label] += 1
    return [row for _, _, row in sorted(ranked)[:count]]


def has_pictures(classifier: Classifier, shape: Sequence[int]) -> bool:
    """Whether inputs are grey or colour pictures in [0, 1], which a PNG can hold."""
    unit_box = bool((classifier.lower == 0).all() and (classifier.upper == 1).all())
    return unit_box and len(shape) == 3 and shape[0] in (1, 3)


def input_picture(example: int) -> str:
    """Name of an explained example's own picture within the record folder."""
    return f"pictures/{example}.png"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to explain, to whom. folder: the record's; chosen: the examples."""

    model: str
    classifier: Classifier
    data: Dataset
    chosen: Sequence[int]
    purpose: Purpose
    settings: Settings
    folder: Path

    @property
    def pictures(self) -> bool:
        """Whether the inputs are pictures."""
        return has_pictures(self.classifier, self.data.shape)

    def confidences(self, x: Tensor) -> Tensor:
        """What the classifier says."""
        return self.classifier.predict(x, max_batch=self.settings.batch_size)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One call of an explainer. rows: into the chosen examples; target: a class for each."""

    explainer: Literal["toward", "away"]
    rho: float
    rows: list[int]
    target: list[int]


def explanations(task: Task) -> pa.Table:
    """All explanations of a task; their pictures are written into its folder."""
    batch = batch_for(task.classifier, task.data, torch.tensor(task.chosen))
    if task.pictures:
        for example, picture in zip(task.chosen, batch.x, strict=True):
            _write_png(task.folder / input_picture(example), picture)
    before = task.confidences(batch.x)
    requests = (_grid if task.purpose == "grid" else _sweep)(before, batch.y, task.settings)
    return pa.concat_tables([_answer(task, batch.x, before, request) for request in requests])


def _grid(before: Tensor, y: Tensor, settings: Settings) -> list[_Request]:
    ranked = before.argsort(dim=1, descending=True).tolist()
    toward = [(row, c) for row, order in enumerate(ranked) for c in _targets(order, int(y[row]), settings.targets)]
    away = [(row, c) for row, order in enumerate(ranked) for c in dict.fromkeys([order[0], int(y[row])])]
    plans: list[tuple[Literal["toward", "away"], list[tuple[int, int]]]] = [("toward", toward), ("away", away)]
    return [
        _Request(explainer=name, rho=settings.rho, rows=[row for row, _ in pairs], target=[c for _, c in pairs])
        for name, pairs in plans
        if name == "toward" or settings.away
    ]


def _sweep(before: Tensor, y: Tensor, settings: Settings) -> list[_Request]:
    ranked = before.argsort(dim=1, descending=True).tolist()
    rows = [row for row in range(len(ranked)) for _ in range(2)]
    target = [c for order in ranked for c in order[:2]]
    return [_Request(explainer="toward", rho=rho, rows=rows, target=target) for rho in settings.sweep_rhos]


def _targets(ranked: list[int], label: int, which: str) -> list[int]:
    """The classes to ask about. ranked: from the likeliest down."""
    if which == "runner_up":
        return [ranked[1]]
    if len(ranked) <= EVERY_CLASS:
        return sorted(ranked)
    return list(dict.fromkeys([ranked[0], label, *ranked[1:4]]))[:4]


def _answer(task: Task, inputs: Tensor, before: Tensor, request: _Request) -> pa.Table:
    """One request, answered. inputs, before: the chosen examples, and what the classifier says to them."""
    x, target = inputs[request.rows], torch.tensor(request.target, device=inputs.device)
    changed, after = _explain(task, x, target, request)
    none: list[Any] = [None] * len(x)
    pictures, shown = _save_pictures(task, changed, request) if task.pictures else (none, None)
    said = None if shown is None else task.confidences(shown)
    return table(
        EXPLAINED,
        model=[task.model] * len(x),
        example=[task.chosen[row] for row in request.rows],
        purpose=[task.purpose] * len(x),
        explainer=[request.explainer] * len(x),
        target=target,
        rho=[request.rho] * len(x),
        rmse=RMSE.size(changed - x),
        picture=pictures,
        before=before[request.rows].tolist(),
        after=after.tolist(),
        prediction=after.argmax(dim=1),
        png_rmse=none if shown is None else RMSE.size(shown - x),
        png_after=none if said is None else said.tolist(),
        png_prediction=none if said is None else said.argmax(dim=1),
    )


def _explain(task: Task, x: Tensor, target: Tensor, request: _Request) -> tuple[Tensor, Tensor]:
    """The changed inputs, and the confidences there."""
    if request.rho == 0:  # the start of a sweep
        return x, task.confidences(x)
    make = {"toward": Toward, "away": Away}[request.explainer]
    explainer = make(rho=request.rho, steps=task.settings.steps)
    found = explainer(task.classifier, x, target, seed=task.settings.seed, max_batch=task.settings.batch_size)
    assert found.picture is not None
    assert found.after is not None
    return found.picture, found.after


def _save_pictures(task: Task, changed: Tensor, request: _Request) -> tuple[list[str], Tensor]:
    """Names within the record folder, and what the files hold."""
    names = [
        f"pictures/{task.chosen[row]}.{file_name(task.model)}.{task.purpose}.{request.explainer}.{c}.{request.rho:g}.png"
        for row, c in zip(request.rows, request.target, strict=True)
    ]
    shown = [_write_png(task.folder / name, picture) for name, picture in zip(names, changed, strict=True)]
    return names, torch.stack(shown)


def _write_png(path: Path, picture: Tensor) -> Tensor:
    """Write a picture [channels, height, width] in [0, 1], and return what the file holds, in [0, 1] as well."""
    encoded = encode_png(picture)
    with atomic(path) as temporary:
        temporary.write_bytes(encoded)
    return decode_png(encoded).to(picture) / 255

"""The examples that a report shows: explanations by explainers of pictures.

A picture is shown as 8-bit PNG, so what is claimed of it is asked again of the decoded PNG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.data.images.png import encode_png
from advex.drawing.numbers import percent
from advex.errors import SpecError
from advex.evaluation.columns import beside, table, tensor
from advex.evaluation.examples import batch_for
from advex.evaluation.flags import flag, severity
from advex.evaluation.plan import Plan
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import Contrast, share
from advex.evaluation.shards import Piece, file_name
from advex.evaluation.tasks import PictureTask
from advex.explanation import as_files, has_pictures
from advex.files import write_bytes
from advex.geometry import RMSE
from advex.record import Flag, ModelEntry
from advex.record.tables import EXPLANATION
from advex.types import FLAT

Purpose = Literal["grid", "sweep"]
_KINDS: dict[Purpose, str] = {"grid": "explained", "sweep": "swept"}  # of pieces
_AT_ONCE = 2  # examples of a piece
EVERY_CLASS = 10  # of data with more classes only some are explained


def check(plan: Plan, classifier: Classifier, data: Dataset) -> None:
    """Raise SpecError unless every explainer of pictures makes one, AdvexError where it cannot explain this model."""
    batch = batch_for(classifier, data, slice(0, 1))
    for task in plan.pictures if plan.settings.explanations else ():
        if (
            not hasattr(task.explainer, "shows")
            and task.explainer(classifier, batch.x, batch.y, seed=plan.settings.seed).picture is None
        ):
            raise SpecError(f"The explainer '{task.name}' makes no pictures: measure its maps (maps: {task.name}).")


# -- pieces ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One call of an explainer. rows: into the chosen examples; target: a class for each; rho: see `PictureTask`."""

    task: PictureTask
    rho: float | None
    rows: list[int]
    target: list[int]


def pieces(work: Evaluation, model: str) -> Pieces:
    """The explanations for each purpose, a few examples at a time; long pieces first, so that copies end together."""
    for purpose, chosen in reversed(_chosen(work).items()):
        make = partial(_explained, work, model, purpose)
        yield [
            Piece(model=model, kind=_KINDS[purpose], index=index, examples=len(rows), make=partial(make, rows))
            for index, rows in enumerate(_few(chosen))
        ]


def _few(chosen: Sequence[int]) -> list[Sequence[int]]:
    """The examples of each piece."""
    return [chosen[start : start + _AT_ONCE] for start in range(0, len(chosen), _AT_ONCE)]


def _chosen(work: Evaluation) -> dict[Purpose, tuple[int, ...]]:
    """The examples explained for each purpose that has some."""
    settings = work.plan.settings
    chosen: dict[Purpose, tuple[int, ...]] = {"grid": work.explained}
    if settings.sweep_rhos and work.plan.sweep is not None:
        chosen["sweep"] = work.chosen(min(settings.explanations, settings.sweep))
    return {purpose: rows for purpose, rows in chosen.items() if rows and work.plan.pictures}


def _explained(work: Evaluation, model: str, purpose: Purpose, chosen: Sequence[int]) -> pa.Table:
    """The explanations of some examples for a purpose; their pictures are written into the record folder."""
    classifier = work.classifiers[model]
    batch = batch_for(classifier, work.data, torch.tensor(chosen))
    before = classifier.predict(batch.x, max_batch=work.plan.settings.batch_size)
    requests = (_grid if purpose == "grid" else _sweep)(before, batch.y, work.plan)
    return pa.concat_tables([_answer(work, model, purpose, chosen, batch.x, before, request) for request in requests])


def _grid(before: Tensor, y: Tensor, plan: Plan) -> Iterator[_Request]:
    ranked = before.argsort(dim=1, descending=True).tolist()
    for task in plan.pictures:
        pairs = [
            (row, target)
            for row, order in enumerate(ranked)
            for target in (
                dict.fromkeys([order[0], int(y[row])])
                if task.lowers
                else _targets(order, int(y[row]), plan.settings.targets)
            )
        ]
        yield _Request(task=task, rho=task.rho, rows=[row for row, _ in pairs], target=[c for _, c in pairs])


def _sweep(before: Tensor, y: Tensor, plan: Plan) -> Iterator[_Request]:
    assert plan.sweep is not None
    ranked = before.argsort(dim=1, descending=True).tolist()
    rows = [row for row in range(len(ranked)) for _ in range(2)]
    target = [c for order in ranked for c in order[:2]]
    for rho in plan.settings.sweep_rhos:
        yield _Request(task=plan.sweep, rho=rho, rows=rows, target=target)


def _targets(ranked: list[int], label: int, which: str) -> list[int]:
    """The classes to explain. ranked: from the likeliest down."""
    if which == "runner_up":
        return [ranked[1]]
    if len(ranked) <= EVERY_CLASS:
        return sorted(ranked)
    return list(dict.fromkeys([ranked[0], label, *ranked[1:4]]))[:4]


def _answer(
    work: Evaluation, model: str, purpose: Purpose, chosen: Sequence[int], inputs: Tensor, before: Tensor,
    request: _Request,
) -> pa.Table:  # fmt: skip
    """The explanations of one request. inputs, before: the chosen examples, and the confidences at them."""
    classifier, settings = work.classifiers[model], work.plan.settings
    examples = [chosen[row] for row in request.rows]
    x, target = inputs[request.rows], torch.tensor(request.target, device=inputs.device)

    def confidences(points: Tensor) -> Tensor:
        return classifier.predict(points, max_batch=settings.batch_size)

    if request.rho == 0:  # the start of a sweep
        changed, after = x, confidences(x)
    else:
        explainer = request.task.explainer
        if request.rho is not None:
            explainer = replace(explainer, rho=request.rho)  # pyright: ignore[reportArgumentType]
        answer = explainer(classifier, x, target, seed=settings.seed, max_batch=settings.batch_size)
        assert answer.picture is not None
        changed = answer.picture
        after = confidences(changed) if answer.after is None else answer.after
    none: list[Any] = [None] * len(x)
    names, files = none, None
    if has_pictures(classifier, work.data.shape):
        size = "" if request.rho is None else f".{request.rho:g}"
        names = [
            f"pictures/{example}.{file_name(model)}.{purpose}.{request.task.name}.{c}{size}.png"
            for example, c in zip(examples, request.target, strict=True)
        ]
        files = as_files(classifier, x, changed, max_batch=settings.batch_size)
        for name, png in zip(names, files.png, strict=True):
            write_bytes(work.shards.folder / name, png)
    return table(
        EXPLANATION, example=examples, purpose=[purpose] * len(x), explainer=[request.task.name] * len(x),
        target=target, rho=[request.rho] * len(x), rmse=classifier.norm(RMSE).size(changed - x), picture=names,
        before=before[request.rows].tolist(), after=after.tolist(), prediction=after.argmax(dim=1),
        png_rmse=none if files is None else files.rmse,
        png_after=none if files is None else files.confidences.tolist(),
        png_prediction=none if files is None else files.confidences.argmax(dim=1),
    )  # fmt: skip


def _input_picture(example: int) -> str:
    """Name of an explained example's own picture within the record folder."""
    return f"pictures/{example}.png"


# -- what comes of them ------------------------------------------------------------------------------------


def tables(work: Evaluation, model: str) -> Blocks:
    """The explanations, and the pictures of the examples themselves."""
    explained = "grid" in _chosen(work) or bool(work.plan.maps)
    shown = work.explained if explained and has_pictures(work.classifiers[model], work.data.shape) else ()
    if shown:
        batch = batch_for(work.classifiers[model], work.data, torch.tensor(shown))
        for example, picture in zip(shown, batch.x, strict=True):
            write_bytes(work.shards.folder / _input_picture(example), encode_png(picture))
    pictures = (
        table({"picture": pa.string()}, picture=[_input_picture(row) if row in shown else None for row in rows])
        for rows in work.spans
    )
    made = (work.made(model, _KINDS[purpose], len(_few(chosen))) for purpose, chosen in _chosen(work).items())
    explanations = (beside(block, model=model) for blocks in made for block in blocks)
    return {"examples": pictures, "explanations": explanations}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """Share of explanations that got where they wanted, by PURPOSE_EXPLAINER, as judged on the saved PNG.

    The decision is the target, or for explainers that lower a class is not. Judged on the float input where there
    are no pictures. Explanations with rho = 0 do not count.
    """
    lowers = {task.name: task.lowers for task in work.plan.pictures}
    hits: dict[str, list[bool]] = {}
    for row in work.written.rows("explanations", entry.name).to_pylist():
        if row["rho"] != 0:
            decision = row["prediction"] if row["png_prediction"] is None else row["png_prediction"]
            hit = (decision == row["target"]) != lowers[row["explainer"]]
            hits.setdefault(f"{row['purpose']}_{row['explainer']}", []).append(hit)
    reached = {key: share(torch.tensor(values)) for key, values in hits.items()}
    return entry.model_copy(update={"rho_reached": reached})


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """Pictures that say something else once they are saved."""
    rows = work.written.rows("explanations", entry.name)
    blind = sum(row["rmse"] == 0 and row["rho"] != 0 for row in rows.select(["rmse", "rho"]).to_pylist())
    if blind:
        yield flag(
            entry.name, "flat_picture", severity(blind / len(rows)),
            f"{blind} of {len(rows)} pictures: {FLAT}. They show the input unchanged.",
            "Look for operations without a derivative: rounding, detach, saturation.",
        )  # fmt: skip
    if not len(rows) or rows.column("png_prediction").null_count:
        return
    lost = (tensor(rows, "prediction") != tensor(rows, "png_prediction")).double().mean().item()
    if lost:
        yield flag(
            entry.name, "png", severity(lost),
            f"{percent(lost)} of the explanation pictures are classified differently once saved as 8-bit PNG: the "
                "picture shown is not exactly what the network classified.",
            "Use the figures for the PNG, which are shown beside the others; a larger rho makes them agree.",
        )  # fmt: skip


def differences(results: Results) -> Iterator[Contrast]:
    """None: what is shown is chosen, not a sample."""
    return iter(())

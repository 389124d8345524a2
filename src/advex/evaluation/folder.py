"""Evaluating into a record folder as the command line does: what may be there already, progress, and stopping."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from advex import data as sets
from advex import evaluation, progress
from advex.data import Dataset
from advex.documents import read_json
from advex.errors import ArtifactError, SpecError
from advex.evaluation import Settings
from advex.evaluation.shards import IDENTITY
from advex.lookup import datasets
from advex.lookup.folders import opened_folder
from advex.lookup.models import Opened, in_order_of, of_one_table
from advex.precision import NO_BFLOAT16, lacking
from advex.record import Record, read_record
from advex.record.tables import OWN_FILES

OURS = (IDENTITY, *OWN_FILES, "report.html")


def evaluate(
    models: Sequence[Opened],
    data: Dataset,
    folder: Path,
    settings: Settings,
    say: progress.Terminal,
    *,
    resume: bool = True,
) -> Record:
    """Evaluate with a progress bar. Raises Interrupted when stopped."""
    data = in_order_of(models, data)
    if any(lacking(settings.bfloat16, model.classifier.device) for model in models):
        say.note(NO_BFLOAT16)
    with progress.stopping() as stop, say.progress("evaluate") as bar:

        def show(event: dict[str, Any]) -> None:
            rate = "" if event["rate"] is None else f"{event['rate']:,.1f} examples/s"
            bar(event["done"], event["total"], rate, what=f"{event['model']}: {event['phase']}")

        return evaluation.evaluate(
            [(model.name, model.source, model.classifier) for model in models],
            data,
            folder,
            settings,
            command=progress.command_line(),
            resume=resume,
            progress=show,
            stop=stop,
        )


def examples(
    models: Sequence[Opened],
    source: str,
    split: str | None = None,
    say: progress.Terminal = progress.QUIET,
    *,
    max_samples: int | None = None,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
    skip: int = 0,
) -> Dataset:
    """Those to evaluate on; of undivided data that a model has been trained on, those that training holds out.

    shape: of the inputs, None: the one that the models share. skip: so many are left out at the beginning. Raises
    SpecError where shapes differ, and where none are left.
    """

    def opened(split: str | None) -> Dataset:
        data = datasets.open_split(
            source, split, say, prefer=datasets.TEST, max_samples=None if skip else max_samples, seed=seed,
            shape=shape or shared_shape(models), like=of_one_table(models),
        )  # fmt: skip
        if skip >= len(data) > 0:
            raise SpecError(f"{data.name} has {len(data):,} examples: --skip {skip:,} leaves none.")
        return data.take(slice(skip, None)).sample(max_samples, seed) if skip else data

    data = opened(split)
    if split is None and sets.is_dealt(source):
        rows = {model.name: evaluation.trained_on(model.source, data) for model in models}
        learned = [name for name, trained in rows.items() if trained is not None and trained.rows.any()]
        if learned:
            say.note(
                f"{' and '.join(learned)} was trained on some of these examples: only those held out are evaluated."
            )
            data = opened(*datasets.TEST)
    return in_order_of(models, data)


def shared_shape(models: Sequence[Opened]) -> tuple[int, ...] | None:
    """The input shape that all models share. Raises SpecError where they differ."""
    shapes = {model.input_shape for model in models if model.input_shape is not None}
    if len(shapes) > 1:
        listed = ", ".join(f"{model.name} {'x'.join(map(str, model.input_shape or ('?',)))}" for model in models)
        raise SpecError(f"The models take inputs of different shapes ({listed}): evaluate them separately.")
    return next(iter(shapes), None)


@contextlib.contextmanager
def opened(folder: Path, overwrite: bool, *, ours: tuple[str, ...] = OURS) -> Iterator[Path]:
    """A folder for an evaluation, shared by copies of one command (see `opened_folder`).

    With overwrite it is this process's alone, and what an earlier evaluation left there is taken away.
    Where no evaluation is, nothing is taken away, whatever its name: somebody else's pictures stay.
    """
    with opened_folder(folder, ours, overwrite, shared=not overwrite):
        if overwrite and _holds_evaluation(folder):
            for name in OURS:
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield folder


def _holds_evaluation(folder: Path) -> bool:
    try:
        if "models" in read_json(folder / IDENTITY, "the description of an evaluation"):
            return True
    except (OSError, ValueError, TypeError):
        pass
    try:
        return bool(read_record(folder))
    except ArtifactError:
        return False

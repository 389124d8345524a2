"""Models and data as they are named on the command line, and how the process that computes opens them.

Light to import: the server does, too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.data import Dataset
    from advex.explore.desk import Desk
    from advex.explore.study import Study
    from advex.lookup.models import Opened


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Models and data as typed. wrapping: the fields of `lookup.models.Wrapping`. files: pictures, instead of data."""

    models: list[str]
    data: str
    split: str | None
    wrapping: dict[str, Any]
    device: str
    max_samples: int | None
    seed: int
    files: tuple[Path, ...] = ()
    size: str | None = None


def desk(sources: Sources) -> Desk:
    """A desk whose process will open them. Raises SpecError for what cannot be meant."""
    from advex.explore.desk import Desk

    if not sources.data and not sources.files:
        raise SpecError("Explore shows pictures of a data set: add --data DATA.")
    return Desk(functools.partial(open_study, sources))


def open_study(sources: Sources) -> Study:
    """Open them, with a progress bar. Raises SpecError, DataError, ArtifactError, InputError."""
    from advex.explore.study import Model, Study
    from advex.lookup import datasets
    from advex.lookup.models import Wrapping, open_models
    from advex.progress import Terminal

    opened = open_models(sources.models, sources.device, Wrapping(**sources.wrapping))
    models = [Model(name=each.name, source=each.source, classifier=each.classifier) for each in opened]
    shape = opened[0].input_shape if sources.size is None else datasets.shape_from(sources.size)
    if sources.files:
        return Study(models, *_of_files(sources.files, opened[0], shape))
    examples = datasets.open_split(
        sources.data, sources.split, Terminal(), prefer=datasets.TEST, max_samples=sources.max_samples,
        seed=sources.seed, shape=shape,
    )  # fmt: skip
    return Study(models, examples)


def _of_files(files: Sequence[Path], model: Opened, shape: tuple[int, ...] | None) -> tuple[Dataset, list[str]]:
    """Picture files, and those of folders, under their names, and what was done to each.

    One that cannot be read is left out, and named. Raises SpecError where the model's size is not known, DataError
    where no file is a picture.
    """
    import torch

    from advex.data import Dataset
    from advex.explanation import from_pictures
    from advex.explanation.subjects import Failure, Subject
    from advex.progress import Terminal
    from advex.registry import numbered

    if shape is None:
        raise SpecError(f"The input size of {model.name} is not known: give it, e.g. --size 3x224x224.")
    read = from_pictures(files, model.classifier, shape)
    subjects = [each for each in read if isinstance(each, Subject)]
    for failure in (each for each in read if isinstance(each, Failure)):
        if not subjects:
            raise failure.error
        Terminal().note(f"left out: {failure.error}")
    x = torch.stack([(255 * each.x).round().to(torch.uint8) for each in subjects])
    names = tuple(numbered([each.name for each in subjects]))
    y = torch.zeros(len(x), dtype=torch.int64)
    data = Dataset(name="files", x=x, y=y, class_names=("unknown",), ids=names)
    return data, [each.note or "" for each in subjects]

"""Models and data as they are named on the command line, and how the process that computes opens them.

Light to import: the server does, too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.explore.desk import Desk
    from advex.explore.study import Study


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Models and data as typed. wrapping: the fields of `lookup.models.Wrapping`."""

    models: list[str]
    data: str
    split: str | None
    wrapping: dict[str, Any]
    device: str
    max_samples: int | None
    seed: int


def desk(sources: Sources) -> Desk:
    """A desk whose process will open them. Raises SpecError for what cannot be meant."""
    from advex.explore.desk import Desk

    if not sources.data:
        raise SpecError("Explore shows pictures of a data set: add --data DATA.")
    return Desk(functools.partial(open_study, sources))


def open_study(sources: Sources) -> Study:
    """Open them, with a progress bar. Raises SpecError, DataError, ArtifactError, InputError."""
    from advex.explore.study import Model, Study
    from advex.lookup import datasets
    from advex.lookup.models import Wrapping, open_models
    from advex.progress import Terminal

    opened = open_models(sources.models, sources.device, Wrapping(**sources.wrapping))
    examples = datasets.open_split(
        sources.data, sources.split, Terminal(), prefer=datasets.TEST, max_samples=sources.max_samples,
        seed=sources.seed, shape=opened[0].input_shape,
    )  # fmt: skip
    models = [Model(name=each.name, source=each.source, classifier=each.classifier) for each in opened]
    return Study(models, examples)

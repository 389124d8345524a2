"""What `advex annotate serve --model` opens, in a process of its own. Light to import: the server does, too."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.explore.desk import Desk
    from advex.explore.study import Study


@dataclass(frozen=True, kw_only=True)
class Named:
    """Models and data as typed. Sent to the process that computes, which opens them."""

    models: list[str]
    data: str
    split: str | None
    wrapping: dict[str, Any]  # see `cli.models.Wrapping`
    device: str
    max_samples: int | None
    seed: int


def desk(named: Named) -> Desk:
    """A desk that will open them. Raises SpecError for what cannot be meant."""
    from advex.explore.desk import Desk

    if not named.data:
        raise SpecError("Explore shows pictures of a data set: add --data DATA.")
    return Desk(functools.partial(study, named))


def study(named: Named) -> Study:
    """Open them, with a progress bar. Raises SpecError, DataError, ArtifactError, InputError."""
    from advex.explore.study import Model, Study
    from advex.lookup import datasets
    from advex.lookup.devices import device_named
    from advex.lookup.models import Wrapping, open_models
    from advex.progress import Terminal

    opened = open_models(named.models, device_named(named.device), Wrapping(**named.wrapping))
    split = datasets.preferred(named.data, named.split, "test")
    examples = datasets.open_split(
        named.data, split, Terminal(), max_samples=named.max_samples, seed=named.seed, shape=opened[0].input_shape
    )
    models = [Model(name=each.name, source=each.source, classifier=each.classifier) for each in opened]
    return Study(models, examples)

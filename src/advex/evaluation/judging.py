"""What `advex judge` judges, by what, and on which examples, where that is not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from advex import evaluation, registry
from advex.contexts import without_doubts
from advex.data import Dataset
from advex.errors import AdvexError, DataError
from advex.evaluation.plan import plan_of
from advex.evaluation.settings import Settings
from advex.explainers.background import with_background
from advex.lookup.models import Opened, in_order_of
from advex.progress import Terminal

EXPLAINERS = (
    "gradient", "guided_backprop", "grad_cam", "grad_cam_plus_plus", "smooth_grad", "integrated_gradients",
    "expected_gradients", "norm_grad:selective=true", "excitation:contrastive=true", "rise:masks=500",
    "extremal:steps=200", "perceptual",
)  # fmt: skip
CONTROLS = ("random", "smooth_random", "centre", "edge")
PLACED, FAITHFUL = ("localisation", "pointing", "mass"), ("deletion", "insertion", "road")
OF_ROWS = ("deletion", "insertion:fill=mean", "regions")  # a table's columns have no places


def check(models: Sequence[Opened], data: Dataset, settings: Settings) -> None:
    """As before an evaluation, of one explainer; before all models are asked about all examples, or to explain any."""
    with without_doubts():  # the evaluation has them
        evaluation.check([(each.name, each.source, each.classifier) for each in models], data, plan_of(settings))


def admitted(models: Sequence[Opened], data: Dataset, named: Sequence[str], say: Terminal) -> list[str]:
    """The named explainers, or else the default ones; and the default controls unless a control is named.

    Of the default ones those that cannot explain all models are left out, and the reason is said.
    """
    fitting = list(registry.specs_from(named))
    controlled = any(getattr(registry.build("explainer", spec), "shows", "") == "control" for spec in fitting)
    for spec in (*(() if named else EXPLAINERS), *(() if controlled else CONTROLS)):
        try:
            with without_doubts():  # about one example
                for model in models:
                    batch = data.batch(slice(0, 1), model.classifier.device)
                    explainer = with_background(registry.build("explainer", spec), data, 0)
                    explainer(model.classifier, batch.x, batch.y)
            fitting.append(spec)
        except AdvexError as error:
            say.note(f"Left out: {spec}: {error}")
    return fitting


def judges(data: Dataset) -> list[str]:
    """The default measures: those of place where the data say where things lie, and of what the answer hangs on."""
    if len(data.shape) != 3:
        return list(OF_ROWS)
    return [*(PLACED if data.evidence is not None else ()), *FAITHFUL]


class NoneRight(DataError):
    """No example is classified correctly."""


def rightly_decided(
    models: Sequence[Opened], data: Dataset, size: int, say: Terminal, *, most: int | None = None
) -> Dataset:
    """The examples that all models decide rightly: the errors of models are not those of their maps.

    size: of a batch. most: the first so many of them. Raises NoneRight where there are none.
    """
    data = in_order_of(models, data)
    right = torch.ones(len(data), dtype=torch.bool)
    for model in models:
        batches = data.batches(size, model.classifier.device)
        answers = [model.classifier.predict(batch.x).argmax(dim=1) == batch.y for batch in batches]
        right &= torch.cat(answers).cpu()
    if not right.any():
        raise NoneRight(f"{data.name}: no example is classified correctly by all models; --all includes the others.")
    who = "its model classifies" if len(models) == 1 else "all models classify"
    rows = right.nonzero()[:most, 0]
    which = "those" if len(rows) == int(right.sum()) else f"the first of the {int(right.sum()):,}"
    said = f"Judged on {len(rows):,} of {len(data):,} examples of {data.name}, {which} that {who} correctly."
    say.note(said)
    return replace(data.take(rows), selected=said, left_out=len(data) - int(right.sum()))

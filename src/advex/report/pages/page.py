"""The pages: of a record, section by section; of run folders; of a reproduction; of explanations that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advex._version import __version__
from advex.drawing import numbers
from advex.report import section, templates
from advex.report.reading import Contents, TrainingHistory
from advex.report.sections import training
from advex.report.sections.made import training_files


def render(contents: Contents) -> str:
    """The page of a record: the sections that it has something for, in their order."""
    record = contents.record
    return templates.page(
        "page.html.j2",
        version=record.advex,
        title=f"{numbers.joined(model.name for model in record.models)} on {record.data.name}",
        record=record,
        sections=section.shown(contents),
    )


def render_runs(runs: Sequence[TrainingHistory]) -> str:
    """The page of run folders alone: how the training goes, or went."""
    courses = training.courses(runs)
    return templates.page(
        "run.html.j2",
        version=__version__,
        title=f"Training of {numbers.joined(run.name for run in runs)}",
        runs=runs,
        training=section.rendered(training.TrainingSection(), courses),
        badge=courses["badge"],
        files=training_files(tuple(runs)),
    )


def render_reproduction(content: dict[str, Any]) -> str:
    """The page of a paper's tables, published and measured. content: see `advex.report.pages.reproduction`."""
    return templates.page("reproduction.html.j2", version=content["reproduction"].advex, **content)


def render_layer_study(content: dict[str, Any]) -> str:
    """The page of a study of layers. content: see `advex.report.pages.layer_study`."""
    study = content["study"]
    title = f"Layers of {study.model} on {study.data}"
    return templates.page("layer_study.html.j2", version=study.advex, title=title, **content)


def render_explored(content: dict[str, Any]) -> str:
    """The page of explanations that were kept while exploring. content: see `advex.report.pages.explored`."""
    return templates.page("explored.html.j2", version=__version__, title="Saved explanations", **content)

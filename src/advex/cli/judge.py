"""`advex judge`: which explanation to believe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from advex import progress
from advex.cli import evaluate, options, terminal

if TYPE_CHECKING:
    from advex.data import Dataset
    from advex.lookup.models import Opened


@dataclass(frozen=True, kw_only=True)
class Request(options.RunOptions):
    """What is judged by what: the options as they were typed."""

    model: options.Model
    data: options.Data
    explainers: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC,...", help="Explainers to judge, beside controls. Default: all that work."),
    ] = None
    judges: Annotated[
        list[str] | None, typer.Option(metavar="SPEC,...", help="Measures of maps. Default: all that fit the data.")
    ] = None
    all_: Annotated[bool, typer.Option("--all/--only-right", help="Also use examples that a model gets wrong.")] = False
    out: evaluate.Out = None
    split: options.Split = None
    size: evaluate.Size = None
    target: evaluate.MapTarget = "predicted"
    explanations: evaluate.Explanations = 8
    batch_size: evaluate.BatchSize = 128
    max_samples: options.MaxSamples = None
    skip: options.Skip = 0


@dataclass(frozen=True, kw_only=True)
class _Judged(evaluate.Request):
    """An evaluation of maps alone. only_right: of what all models decide rightly."""

    only_right: bool = True

    def check(self) -> None:
        """As of an evaluation, of a control where no explainer is named."""
        replace(self, maps=self.maps or ["random"]).settings()

    def fitted(self, models: Sequence[Opened], data: Dataset, say: progress.Terminal) -> evaluate.Request:
        """With controls, and with the explainers and measures that models and data admit where none were named."""
        from advex.evaluation import judging

        maps = judging.admitted(models, data, self.maps or (), say)
        return replace(self, maps=maps, measures=self.measures or judging.judges(data))

    def examples(self, models: Sequence[Opened], say: progress.Terminal) -> Dataset:
        """Those to judge on; with only_right without what a model decides wrongly: its errors are not the maps'."""
        from advex.evaluation import judging

        data = super().examples(models, say)
        settings = replace(self, maps=["random"], measures=self.measures or judging.judges(data)).settings()
        judging.check(models, data, settings)
        return judging.rightly_decided(models, data, self.batch_size, say) if self.only_right else data


@terminal.shared_verb
@options.gathered(Request)
def judge(request: Request) -> None:
    """Find out which explanation to believe: compare heat maps with controls that never look at the model.

    Example: advex judge --model builtin:planted --data planted --split test --max-samples 100 --out records/judged
    """
    shared = {name: value for name, value in vars(request).items() if name in evaluate.Request.__dataclass_fields__}
    record, folder = _Judged(
        **shared, attack="none", btr="none", pictures=["none"], maps=request.explainers, measures=request.judges,
        map_target=request.target, only_right=not request.all_,
    ).run()  # fmt: skip
    from advex.report import write_report
    from advex.report.believed import preferences

    path = write_report(folder)
    judged = {model.name: preferences(record, model) for model in record.models}
    if request.json_:
        from advex.record import summary

        plain = {name: [each.plain for each in made] for name, made in judged.items()}
        terminal.emit_json({**json.loads(summary(record, folder)), "judged": plain, "report": str(path)})
        return
    from advex.cli import tables

    tables.show(record)
    for name, made in judged.items():
        for preference in made:
            terminal.emit(f"{name}: {preference.sentence}")
    terminal.emit(str(path))

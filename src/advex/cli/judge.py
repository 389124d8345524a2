"""`advex judge`: which explanation to believe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from advex import progress
from advex.cli import evaluate, options, terminal
from advex.errors import AdvexError, DataError, SpecError

if TYPE_CHECKING:
    from advex.data import Dataset
    from advex.lookup.models import Opened

EXPLAINERS = (
    "gradient", "guided_backprop", "grad_cam", "grad_cam_plus_plus", "smooth_grad", "integrated_gradients",
    "expected_gradients", "norm_grad:selective=true", "excitation:contrastive=true", "rise:masks=500",
    "extremal:steps=200", "perceptual",
)  # fmt: skip
CONTROLS = ("random", "smooth_random", "centre", "edge")
PLACED, FAITHFUL = ("localisation", "pointing", "mass"), ("deletion", "insertion", "road")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is judged by what: the options as they were typed."""

    model: options.Model
    data: options.Data
    explainers: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC,...", help="What to judge. Default: all that fit the models."),
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
    weights: options.Weights = None
    box: options.BoxOption = None
    mean: options.Mean = None
    std: options.Std = None
    classes: options.Classes = None
    max_samples: options.MaxSamples = None
    seed: options.Seed = 0
    device: options.Device = "auto"
    resume: options.Resume = True
    overwrite: options.Overwrite = False
    json_: options.Json = False
    quiet: options.Quiet = False
    verbose: options.Verbose = False


@dataclass(frozen=True, kw_only=True)
class _Judged(evaluate.Request):
    """An evaluation of maps alone. only_right: of what all models decide rightly."""

    only_right: bool = True

    def check(self) -> None:
        """As of an evaluation, of the controls where no explainer is named."""
        replace(self, maps=self.maps or list(CONTROLS)).settings()

    def fitted(self, models: Sequence[Opened], data: Dataset, say: progress.Terminal) -> evaluate.Request:
        """With the explainers and measures that models and data admit, where none were named."""
        maps, measures = self.maps, self.measures
        if maps is None:
            maps = _admitted(models, data, say)
        if measures is None and len(data.shape) != 3:
            raise SpecError(
                f"{data.name} has no places: the default judges look at places in pictures. Name others, e.g. "
                "--judges gini,random_stability."
            )
        if measures is None:
            measures = [*(PLACED if data.evidence is not None else ()), *FAITHFUL]
        return replace(self, maps=maps, measures=measures)

    def examples(self, models: Sequence[Opened], say: progress.Terminal) -> Dataset:
        """Those to judge on; with only_right without what a model decides wrongly: its errors are not the maps'."""
        data = super().examples(models, say)
        if not self.only_right:
            return data
        return _rightly_decided(models, data, self.batch_size, say)


def _admitted(models: Sequence[Opened], data: Dataset, say: progress.Terminal) -> list[str]:
    """The default explainers and controls that can explain all models; of the others the reason is said."""
    from advex import registry
    from advex.explainers.background import with_background

    admitted = []
    for spec in (*EXPLAINERS, *CONTROLS):
        try:
            for model in models:
                batch = data.batch(slice(0, 1), next(model.classifier.parameters()).device)
                explainer = with_background(registry.build("explainer", spec), data, 0)
                explainer(model.classifier, batch.x, batch.y)
            admitted.append(spec)
        except AdvexError as error:
            say.note(f"Left out: {spec}: {error}")
    return admitted


def _rightly_decided(models: Sequence[Opened], data: Dataset, size: int, say: progress.Terminal) -> Dataset:
    import torch

    right = torch.ones(len(data), dtype=torch.bool)
    for model in models:
        device = next(model.classifier.parameters()).device
        answers = [model.classifier.predict(batch.x).argmax(dim=1) == batch.y for batch in data.batches(size, device)]
        right &= torch.cat(answers).cpu()
    if not right.any():
        raise DataError(f"{data.name}: no example is classified correctly by all models; --all includes the others.")
    who = "its model classifies" if len(models) == 1 else "all models classify"
    said = f"Judged on {int(right.sum()):,} of {len(data):,} examples of {data.name}, those that {who} correctly."
    say.note(said)
    return replace(data.take(right.nonzero()[:, 0]), selected=said)


@terminal.verb
@options.gathered(Request)
def judge(request: Request) -> None:
    """Find out which explanation to believe: heat maps measured beside controls that never look at the model.

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

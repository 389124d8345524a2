"""`advex study`: how a method's settings change its explanations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from advex import progress
from advex.cli import evaluate, options, terminal

app = typer.Typer(help="How a method's settings change its explanations.", no_args_is_help=True)


@dataclass(frozen=True, kw_only=True)
class Request(options.RunOptions):
    """What is studied: the options as they were typed."""

    model: options.Model
    data: options.Data
    judge: Annotated[
        list[str] | None, typer.Option(metavar="SPEC,...", help="Measures. Default: localisation,removal,pointing.")
    ] = None
    explainer: Annotated[str, typer.Option(metavar="SPEC", help="The perceptual explainer and its options.")] = (
        "perceptual"
    )
    sigma: Annotated[str, typer.Option(metavar="S,...", help="Sigmas of the blur, in pixels.")] = "0,2.5,5"
    first: Annotated[
        int, typer.Option(min=1, metavar="N", help="Use the correctly classified examples among the first N.")
    ] = 32
    out: evaluate.Out = None
    split: options.Split = None
    size: evaluate.Size = None
    batch_size: evaluate.BatchSize = 32


@app.command()
@terminal.verb
@options.gathered(Request)
def layers(request: Request) -> None:
    """Judge the perceptual explanation for every range of layers that it keeps, as heat maps.

    Example: advex study layers --model builtin:planted --data planted --split test --explainer perceptual:gradients=20
    """
    from advex.evaluation import folder, layer_study
    from advex.lookup import datasets
    from advex.record.reproduction import as_plain
    from advex.registry import specs_from
    from advex.report import write_report
    from advex.report.pages.layer_study import sentences

    study = layer_study.LayerStudy(
        explainer=request.explainer, judges=specs_from(request.judge or layer_study.JUDGES), first=request.first,
        sigmas=layer_study.sigmas_from(request.sigma), batch_size=request.batch_size, seed=request.seed,
    )  # fmt: skip
    say = progress.Terminal(quiet=request.quiet)
    model = layer_study.one_of(request.opened())
    out = request.out or Path("records") / f"{model.name}-layers"
    with folder.opened(out, request.overwrite, ours=layer_study.OURS):
        shape = None if request.size is None else datasets.shape_from(request.size)
        data = folder.examples([model], request.data, request.split, say, shape=shape)
        made = study(model, data, out, say, resume=request.resume)
    path = write_report(out)
    if request.json_:
        terminal.emit_json({**as_plain(made), "report": str(path)})
        return
    for sentence in (*sentences(made), str(path)):
        terminal.emit(sentence)

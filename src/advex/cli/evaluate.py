"""`advex evaluate`, `advex compare` and `advex report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from advex.cli import options, terminal
from advex.errors import SpecError

Records = Annotated[list[Path] | None, typer.Argument(metavar="RECORD", help="Finished evaluations to put together.")]
Out = Annotated[
    Path | None, typer.Option(metavar="RECORD", help="Record folder to write. Default: records/ and the models' names.")
]
Size = Annotated[
    str | None, typer.Option(metavar="CxHxW", help="Input size of a factory's model. A run folder knows its own.")
]
Attack = Annotated[
    str, typer.Option(metavar="SPEC", help="Search for a change of the decision; see `advex list attack`.")
]
Btr = Annotated[str, typer.Option(metavar="SPEC", help="Search for a confidence below chance.")]
Published = Annotated[
    bool, typer.Option("--published", help="Also by the papers' protocol, to compare printed figures.")
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Search in bfloat16. What is claimed is judged in float32.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the networks for the searches.")]
Explanations = Annotated[int, typer.Option(min=0, metavar="N", help="Examples to explain, spread over the classes.")]
Targets = Annotated[str, typer.Option(metavar="all|runner_up", help="Classes that explanations ask about.")]
Rho = Annotated[float, typer.Option(metavar="RMSE", help="Size of the explanations' change.")]
Certify = Annotated[
    float | None,
    typer.Option(metavar="SIGMA", help="Also certify by noise of this standard deviation (randomised smoothing)."),
]
CertifySamples = Annotated[
    int | None, typer.Option(min=10, metavar="N", help="Noisy copies of each certified example. Default: 10,000.")
]
CertifyExamples = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Examples to certify, drawn at random. Default: 500.")
]
Maps = Annotated[
    list[str] | None,
    typer.Option(metavar="SPEC,...", help="Also measure the maps of these explainers; see `advex list explainer`."),
]
MapTarget = Annotated[
    str | None, typer.Option(metavar="predicted|true", help="The class that maps are of. Default: predicted.")
]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Examples at a time, and per shard.")]


@terminal.verb
def evaluate(
    model: options.Model,
    data: options.Data,
    out: Out = None,
    split: options.Split = None,
    size: Size = None,
    attack: Attack = "minimal",
    btr: Btr = "minimal",
    published: Published = False,
    bf16: Bf16 = False,
    compile_: Compile = False,
    explanations: Explanations = 8,
    targets: Targets = "all",
    rho: Rho = 0.1,
    certify: Certify = None,
    certify_samples: CertifySamples = None,
    certify_examples: CertifyExamples = None,
    maps: Maps = None,
    map_target: MapTarget = None,
    batch_size: BatchSize = 128,
    weights: options.Weights = None,
    box: options.BoxOption = None,
    mean: options.Mean = None,
    std: options.Std = None,
    classes: options.Classes = None,
    max_samples: options.MaxSamples = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    resume: options.Resume = True,
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Attack and explain one or more models on a data set, and leave the figures in a record folder.

    Example: advex evaluate --model runs/robust --data digits --out records/robust
    """
    given = dict(locals())
    from advex.cli import evaluating

    record, folder = evaluating.from_options(**given)
    if json_:
        from advex.record import summary

        terminal.emit(summary(record, folder))
        return
    evaluating.show(record)
    terminal.emit(f"{folder}")


@terminal.verb
def compare(
    records: Records = None,
    model: options.Model = [],  # noqa: B006  (typer copies it)
    data: options.Data = "",
    out: Out = None,
    split: options.Split = None,
    size: Size = None,
    attack: Attack = "minimal",
    btr: Btr = "minimal",
    published: Published = False,
    bf16: Bf16 = False,
    compile_: Compile = False,
    explanations: Explanations = 8,
    targets: Targets = "all",
    rho: Rho = 0.1,
    certify: Certify = None,
    certify_samples: CertifySamples = None,
    certify_examples: CertifyExamples = None,
    maps: Maps = None,
    map_target: MapTarget = None,
    batch_size: BatchSize = 128,
    weights: options.Weights = None,
    box: options.BoxOption = None,
    mean: options.Mean = None,
    std: options.Std = None,
    classes: options.Classes = None,
    max_samples: options.MaxSamples = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    resume: options.Resume = True,
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare two or more models on the same examples, or finished records of them, and write the report.

    Examples: advex compare --model runs/ordinary,runs/robust --data digits --out records/both;
    advex compare records/ordinary records/robust --out records/both
    """
    given = dict(locals())
    from advex.cli import evaluating
    from advex.report import write_report

    if records:
        if model or data:
            raise SpecError("Compare either finished records, or --model A,B on --data: not both.")
        record, folder = evaluating.merged(records, out, overwrite)
    else:
        if not model or not data:
            raise SpecError("Say what to compare: record folders, or --model A,B with --data.")
        record, folder = evaluating.from_options(**given, least=2)
    path = write_report(folder)
    if json_:
        terminal.emit_json(_compared(record, folder, path))
        return
    evaluating.show(record)
    evaluating.show_differences(record)
    terminal.emit(str(path))


def _compared(record: Any, folder: Path, report: Path) -> dict[str, Any]:
    from advex.record import plain, summary

    differences = [
        {"first": one.first, "second": one.second, "measure": one.measure, "value": plain(one.figure.value),
         "low": plain(one.figure.low), "high": plain(one.figure.high), "n": one.figure.n}
        for one in record.differences
    ]  # fmt: skip
    return {**json.loads(summary(record, folder)), "differences": differences, "report": str(report)}


@terminal.verb
def report(
    folder: Annotated[
        list[Path], typer.Argument(metavar="RECORD|RUN...", help="Record folder of an evaluation, or run folders.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file to write. Default: report.html in the first folder.")
    ] = None,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write the report of a record folder: one HTML file that needs no network.

    Of a run folder, while it is training or after: its curves. Examples: advex report records/both;
    advex report runs/ordinary runs/robust --out curves.html
    """
    from advex.report import write_report

    path = write_report(folder, out)
    if json_:
        terminal.emit_json({"report": str(path)})
    else:
        terminal.emit(str(path))

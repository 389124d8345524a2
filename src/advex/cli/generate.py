"""`advex generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError


@terminal.verb
@options.gathered(options.ModelOptions, model=[])
def generate(
    classes_: Annotated[list[str], typer.Argument(metavar="CLASS...", help="Names or numbers of classes, or all.")],
    *,
    models: options.ModelOptions,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Pictures of the classes, for the seeds. Default: bundled (CIFAR-10)."),
    ] = None,
    split: options.Split = None,
    count: Annotated[int, typer.Option(min=1, max=2**20, help="Number of pictures per class.")] = 8,
    radius: Annotated[str, typer.Option(metavar="L2", help="How far a picture may move from its seed.")] = "8",
    steps: Annotated[int, typer.Option(min=1, help="Gradients per picture.")] = 40,
    judges: Annotated[
        str | None,
        typer.Option(metavar="MODEL,...|none", help="Models that classify the pictures. Default: bundled models."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for pictures and figures.")] = Path("generated"),
    max_samples: options.MaxSamples = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Generate pictures of a class: from random seeds, what the model considers typical of the class.

    Example: advex generate horse ship --model builtin:cifar10-robust --count 8 --out painted
    """
    if not models.model:
        raise SpecError("Give the model that generates pictures: --model RUN.")
    from advex.explanation import generation as painting
    from advex.explanation.folder import UNFINISHED, explain_into
    from advex.geometry import as_radius
    from advex.lookup import datasets, folders
    from advex.lookup.models import open_models

    say = progress.Terminal(quiet=quiet)
    (opened, *more) = models.opened()
    if more:
        raise SpecError(
            "Only one model can generate pictures at a time; --judges MODEL,... names others that classify them."
        )
    if not (length := as_radius(radius)) > 0:
        raise SpecError(f"--radius {radius} leaves every picture at its seed. Use a larger radius, e.g. 8.")
    if data is None and (split is not None or max_samples is not None):
        raise SpecError("--split and --max-samples need --data; without it, seeds come from bundled pictures.")
    examples = None if data is None else datasets.open_split(
        data, split, say, prefer=datasets.TRAIN, max_samples=max_samples, seed=seed, shape=opened.input_shape
    )  # fmt: skip
    seeds, numbers = painting.seeds_for(classes_, opened.classifier, examples)
    others = painting.bundled_judges(opened) if judges is None else []
    if judges not in (None, "none"):
        others = open_models([judges], models.device)
        painting.check_judges(others, opened, numbers)
    request = painting.GenerationRequest(
        radius=length, steps=steps, judges=others, seed=seed, seeds={name: each.digest for name, each in seeds.items()}
    )
    with folders.opened_folder(out, (painting.GENERATED, UNFINISHED), overwrite):
        subjects = painting.seed_subjects(seeds, numbers, count, seed)
        result = explain_into(out, opened, subjects, request, say, figures=painting.GENERATED)
    _tell(result, painting.recognised(result["inputs"]), out, as_json=json_)


def _tell(result: dict[str, Any], shares: dict[str, dict[str, int]], out: Path, *, as_json: bool) -> None:
    if as_json:
        terminal.emit_json({**result, "recognised": shares})
        return
    rows = [
        [each["generated"]["picture"], each["label"], each["says"],
         *(f"{100 * said[each['target']]:.1f} %" for said in (each["confidences"], each["generated"]["after"])),
         f"{each['generated']['l2']:.2f}",
         *([f"{sum(other['picture_says'] == each['label'] for other in each['others'].values())} of {len(shares)}"]
           if shares else [])]
        for each in result["inputs"]
    ]  # fmt: skip
    agree = ["others agree"] if shares else []
    terminal.table(["picture", "class", "of the seed it says", "before", "after", "L2", *agree], rows)
    for name, share in shares.items():
        terminal.emit(f"{name} recognises {share['pictures']} pictures and {share['seeds']} seeds of {share['of']}")
    terminal.emit(" ".join(str(out / name) for name in result["sheets"]))

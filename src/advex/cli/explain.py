"""`advex explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex.cli import options, terminal
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.cli.explaining import Asked
    from advex.cli.models import Opened


@terminal.verb
def explain(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Picture files.")] = None,
    model: options.Model = [],  # noqa: B006  (typer copies it)
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Explain examples of a data set instead.")] = None,
    split: options.Split = None,
    index: Annotated[str, typer.Option(metavar="N,...", help="Which examples of --data, counted from 0.")] = "0",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS,...",
            help="Classes to ask about: names, numbers, predicted, runner-up, all. Default: predicted,runner-up.",
        ),
    ] = None,
    rho: Annotated[
        str, typer.Option(metavar="RMSE,...", help="Size of the change, 0 to 1; several give several.")
    ] = "0.1",
    away: Annotated[
        bool, typer.Option("--away", help="What would lower the class, instead of what would raise it.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Gradients per explanation.")] = 35,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write pictures and figures into.")] = Path(
        "explanations"
    ),
    size: Annotated[
        str | None, typer.Option(metavar="CxHxW", help="Input size of a factory's model. A run folder knows its own.")
    ] = None,
    weights: options.Weights = None,
    box: options.BoxOption = None,
    mean: options.Mean = None,
    std: options.Std = None,
    classes: options.Classes = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what would have to change in a picture for a class to become more (or less) likely.

    Examples: advex explain cat.png --model runs/robust --target dog;
    advex explain --data digits --index 3,5 --model runs/robust --target all
    """
    if not model:
        raise SpecError("Say which model to ask: --model RUN.")
    if bool(images) == bool(data):
        raise SpecError("Name picture files, or --data with --index: one of the two.")
    from advex.cli import explaining, inputs
    from advex.cli.models import Wrapping, open_models

    say = terminal.Terminal(quiet=quiet)
    wrapping = Wrapping(weights=tuple(weights or ()), box=box, mean=mean, std=std, classes=classes)
    opened = open_models(model, options.device_named(device), wrapping)
    options.prepare_folder(out, (explaining.FIGURES, *[one.name for one in opened]), overwrite)
    asked = explaining.Question(
        targets=tuple(name.strip() for text in target or ["predicted,runner-up"] for name in text.split(",")),
        rhos=explaining.rhos_from(rho),
        away=away,
        steps=steps,
        seed=seed,
    )
    results = []
    for one in opened:
        shape = one.input_shape if size is None else inputs.shape_from(size)
        subjects = _subjects(one, images, data, split, index, shape, say)
        folder = out if len(opened) == 1 else out / one.name
        results.append((explaining.explain(one, subjects, asked, folder, say), folder))
    if json_:
        found = [result for result, _ in results]
        terminal.emit_json(found[0] if len(found) == 1 else found)
        return
    for result, folder in results:
        _show(result, folder, named=len(results) > 1)


def _subjects(
    model: Opened,
    images: list[Path] | None,
    data: str | None,
    split: str | None,
    index: str,
    shape: tuple[int, ...] | None,
    say: terminal.Terminal,
) -> list[Asked]:
    from advex.cli import explaining, inputs

    if data is None:
        return [explaining.from_picture(path, model.classifier, shape, say) for path in images or []]
    numbers = index.split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise SpecError(f"--index '{index}' must be whole numbers separated by commas, e.g. 3,5.")
    examples = inputs.open_split(data, inputs.preferred(data, split, "test"), say, shape=shape)
    return [explaining.from_data(examples, int(number)) for number in numbers]


def _show(result: dict[str, Any], folder: Path, *, named: bool) -> None:
    rows = [
        [
            subject["name"], subject["says"], f"{result['explainer']} {one['target_name']}", f"{one['rmse']:.4f}",
            f"{100 * one['before'][one['target']]:.1f} %", f"{100 * one['after'][one['target']]:.1f} %",
            f"{100 * one['png']['after'][one['target']]:.1f} %", one["png"]["says"],
        ]
        for subject in result["inputs"]
        for one in subject["explanations"]
    ]  # fmt: skip
    columns = ["input", "says", "asked", "RMSE", "before", "after", "in the PNG", "then says"]
    terminal.table(columns, rows, title=result["model"] if named else None)
    terminal.emit(" ".join(str(folder / name) for name in result["sheets"]))

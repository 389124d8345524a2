"""`advex explain`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.explanation.pictures import Subject
    from advex.lookup.models import Opened


@terminal.verb
def explain(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="Picture files, or CSV files with rows of a table.")
    ] = None,
    model: options.Model = [],  # noqa: B006  (typer copies it)
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Explain examples of a data set instead.")] = None,
    split: options.Split = None,
    index: Annotated[str, typer.Option(metavar="N,...", help="Which examples of --data, counted from 0.")] = "0",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS,...",
            help="Classes to ask about: names, numbers, predicted, runner-up, all, or the true one (with --data). "
            "Default: predicted,runner-up; with --explainer the predicted one.",
        ),
    ] = None,
    explainer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC,...",
            help="Show how much each pixel counts, by these explainers; see `advex list explainer`.",
        ),
    ] = None,
    max_batch: Annotated[
        str, typer.Option(metavar="N|auto", help="Inputs that the network takes at a time; auto: as memory allows.")
    ] = "128",
    rho: Annotated[
        str, typer.Option(metavar="RMSE,...", help="Size of the change, 0 to 1; several give several.")
    ] = "0.1",
    away: Annotated[
        bool, typer.Option("--away", help="What would lower the class, instead of what would raise it.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Gradients per explanation.")] = 35,
    alternatives: Annotated[int, typer.Option(metavar="K", min=1, help="Of tables: answers per row, at most.")] = 3,
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
    """Show what would have to change in a picture for a class to become more (or less) likely, or what counts for it.

    Examples: advex explain cat.png --model runs/robust --target dog;
    advex explain --data digits --index 3,5 --model runs/robust --target all;
    advex explain cat.png --model runs/robust --explainer integrated_gradients:steps=50,gradient
    """
    if not model:
        raise SpecError("Say which model to ask: --model RUN.")
    if bool(images) == bool(data):
        raise SpecError("Name picture files, or --data with --index: one of the two.")
    from advex.explanation.pictures import FIGURES
    from advex.lookup import devices, folders, models

    names = tuple(name.strip() for text in target or () for name in text.split(","))
    ask = _asking(names, explainer, rho, away, steps, seed, max_batch)
    say = progress.Terminal(quiet=quiet)
    wrapping = models.Wrapping(weights=tuple(weights or ()), box=box, mean=mean, std=std, classes=classes)
    opened = models.open_models(model, devices.device_named(device), wrapping)
    folders.prepare_folder(out, (FIGURES, *[one.name for one in opened]), overwrite)
    if tables := not explainer and any(one.classifier.features is not None for one in opened):
        ask = _asking_rows(names, alternatives, (rho, steps, away) != ("0.1", 35, False))
    results = []
    for one in opened:
        subjects = (_rows if tables else _subjects)(one, images, data, split, index, size, say)
        folder = out if len(opened) == 1 else out / one.name
        results.append((ask(one, subjects, folder, say), folder))
    _tell(results, _show_rows if tables else _show_maps if explainer else _show, as_json=json_)


def _asking(
    names: tuple[str, ...], explainer: list[str] | None, rho: str, away: bool, steps: int, seed: int, max_batch: str
) -> Callable[[Opened, list[Subject], Path, progress.Terminal], dict[str, Any]]:
    """What is asked of every model and input: maps by the explainers named, else the adversarial explanation."""
    from advex.evaluation.plan import named_explainers
    from advex.evaluation.settings import specs_from
    from advex.explanation import maps
    from advex.explanation import pictures as explaining

    at_a_time = explaining.max_batch_from(max_batch)
    if not explainer:
        asked = explaining.PictureRequest(
            targets=names or ("predicted", "runner-up"),
            rhos=explaining.rhos_from(rho),
            away=away,
            steps=steps,
            seed=seed,
            max_batch=at_a_time,
        )
        return partial(explaining.explain, asked)
    if away or (rho, steps) != ("0.1", 35):
        raise SpecError("--rho, --steps and --away are of the adversarial explanation; --explainer asks for others.")
    request = maps.MapRequest(
        targets=names or ("predicted",),
        explainers=named_explainers(specs_from(explainer)),
        seed=seed,
        max_batch=at_a_time,
    )
    return partial(maps.explain, request)


def _subjects(
    model: Opened,
    images: list[Path] | None,
    data: str | None,
    split: str | None,
    index: str,
    size: str | None,
    say: progress.Terminal,
) -> list[Subject]:
    from advex.explanation import pictures as explaining
    from advex.lookup import datasets

    shape = model.input_shape if size is None else datasets.shape_from(size)
    if data is None:
        return [explaining.from_picture(path, model.classifier, shape, say) for path in images or []]
    numbers = _numbers(index)
    examples = datasets.open_split(data, datasets.preferred(data, split, "test"), say, shape=shape)
    return [explaining.from_data(examples, number) for number in numbers]


def _numbers(index: str) -> list[int]:
    numbers = index.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise SpecError(f"--index '{index}' must be whole numbers separated by commas, e.g. 3,5.")
    return [int(number) for number in numbers]


def _asking_rows(
    names: tuple[str, ...], alternatives: int, pictures: bool
) -> Callable[[Opened, list[Subject], Path, progress.Terminal], dict[str, Any]]:
    """What is asked of models of tables. pictures: whether an option was given that belongs to these."""
    from advex.explanation import rows as explaining_rows

    if pictures:
        raise SpecError("--rho, --steps and --away are of pictures; of rows the smallest change is looked for.")
    question = explaining_rows.RowQuestion(targets=names or ("runner-up",), alternatives=alternatives)
    return partial(explaining_rows.explain, question)


def _rows(
    model: Opened,
    files: list[Path] | None,
    data: str | None,
    split: str | None,
    index: str,
    size: str | None,
    say: progress.Terminal,
) -> list[Subject]:
    from advex.explanation import rows as explaining_rows

    if size is not None:
        raise SpecError("--size is of pictures; a model of a table knows its columns.")
    if data is not None:
        return explaining_rows.from_table(data, split, _numbers(index), model, say)
    return [row for path in files or [] for row in explaining_rows.from_csv(path, model.classifier)]


def _show_rows(result: dict[str, Any], folder: Path, *, named: bool) -> None:
    """The sentences, below a line for each row."""
    from advex.explanation.pictures import FIGURES
    from advex.tabular.sentences import percentages, shown

    for subject in result["inputs"]:
        share, _ = percentages(max(subject["confidences"]), 0.0)
        label = f" (in truth {shown(subject['label'])})" if subject["label"] is not None else ""
        model = f"{result['model']}, " if named else ""
        terminal.emit_line(f"{model}{subject['name']}{label}: {shown(subject['says'])}, {share}")
        for explanation in subject["explanations"]:
            for sentence in explanation["sentences"]:
                terminal.emit_line(f"  {sentence}")
    terminal.emit(str(folder / FIGURES))


def _tell(results: list[tuple[dict[str, Any], Path]], show: Callable[..., None], *, as_json: bool) -> None:
    if as_json:
        found = [result for result, _ in results]
        terminal.emit_json(found[0] if len(found) == 1 else found)
        return
    for result, folder in results:
        show(result, folder, named=len(results) > 1)


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


def _show_maps(result: dict[str, Any], folder: Path, *, named: bool) -> None:
    rows = [
        [
            subject["name"], subject["says"], f"{one['target_name']} ({', '.join(one['meant'])})", one["explainer"],
            _digits(one["gini"], ".4f"), f"{_digits(one['effective'], ',.1f')} of {one['elements']:,}",
            _digits(one["completeness"], ".2g"),
        ]
        for subject in result["inputs"]
        for one in subject["maps"]
    ]  # fmt: skip
    columns = ["input", "says", "asked about", "explainer", "Gini", "elements that count", "completeness error"]
    terminal.table(columns, rows, title=result["model"] if named else None)
    values = [subject["values"] for subject in result["inputs"]]
    terminal.emit(" ".join(str(folder / name) for name in result["sheets"] or values))


def _digits(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

"""`advex explain`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.explanation import PictureRequest
    from advex.explanation.folder import Request
    from advex.explanation.inputs import Inputs
    from advex.lookup.models import Opened


@terminal.verb
@options.gathered(options.ModelOptions, model=[])
def explain(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help="Picture files, folders of them, or CSV files with rows of a table."),
    ] = None,
    *,
    models: options.ModelOptions,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Explain examples of a data set instead.")] = None,
    split: options.Split = None,
    index: Annotated[
        str | None,
        typer.Option(metavar="N,N-N,...", help="Which examples of --data, counted from 0; -1 is the last. Default: 0."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS,...",
            help="Classes to ask about: names, numbers, predicted, runner-up, all, or true (with --data). "
            "Default: predicted,runner-up; with --explainer the predicted one.",
        ),
    ] = None,
    explainer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC,...",
            help="Heat maps by these explainers instead; see `advex list explainer`.",
        ),
    ] = None,
    attack_map: Annotated[bool, typer.Option("--attack-map", help="Also attack each map.")] = False,
    max_batch: Annotated[
        str, typer.Option(metavar="N|auto", help="Batch size; auto: as many as memory allows.")
    ] = "128",
    rho: Annotated[str, typer.Option(metavar="RMSE,...", help="Sizes of the change, from 0 to 1.")] = "0.1",
    away: Annotated[bool, typer.Option("--away", help="Make the class less likely instead of more likely.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Gradients per explanation.")] = 35,
    alternatives: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="For tables: at most K alternatives per row.  [default: 3]")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for pictures and figures.")] = Path(
        "explanations"
    ),
    size: Annotated[
        str | None, typer.Option(metavar="CxHxW", help="Input size, for a model from your own code.")
    ] = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what would have to change for a class to become more (or less) likely, or which pixels matter for it.

    Examples: advex explain cat.png; advex explain photos --model runs/robust --target dog;
    advex explain --data digits --index 3,5 --model runs/robust --target all;
    advex explain cat.png --model runs/robust --explainer integrated_gradients:steps=50,gradient
    """
    if bool(images) == bool(data):
        raise SpecError("Give either picture files, or --data with --index.")
    if images and (index is not None or split is not None):
        raise SpecError("--index and --split choose examples of --data; files are named one by one.")
    from advex.explanation import PictureRequest
    from advex.explanation.folder import FIGURES, UNFINISHED
    from advex.explanation.inputs import Inputs
    from advex.explanation.pictures import max_batch_from, rhos_from
    from advex.lookup import folders

    say = progress.Terminal(quiet=quiet)
    changes = PictureRequest(
        targets=tuple(name.strip() for text in target or () for name in text.split(",")),
        rhos=rhos_from(rho), away=away, steps=steps, seed=seed, max_batch=max_batch_from(max_batch),
    )  # fmt: skip
    opened = models.opened(models.or_bundled(say, images, data, split, size))
    request, show = _request(changes, explainer or [], opened, alternatives, attack_map)
    inputs = Inputs(images or [], data, split, "0" if index is None else index, size, say)
    with folders.opened_folder(out, (FIGURES, UNFINISHED, *[each.name for each in opened]), overwrite):
        results = _explain(request, opened, inputs, out)
    _tell(results, show, as_json=json_)


def _tell(results: list[tuple[dict[str, Any], Path]], show: Callable[..., None], *, as_json: bool) -> None:
    """Everything that was explained, and exit code 1 where something else could not be."""
    if as_json:
        values = [result for result, _ in results]
        terminal.emit_json(values[0] if len(values) == 1 else values)
    else:
        for result, folder in results:
            show(result, folder, named=len(results) > 1)
    if any("failed" in result or any("refused" in each for each in result["inputs"]) for result, _ in results):
        raise typer.Exit(terminal.FAILED)


def _request(
    changes: PictureRequest, explainers: list[str], models: list[Opened], alternatives: int | None, attack: bool
) -> tuple[Request, Callable[..., None]]:
    """What is asked of every model and input, and what shows the answers. Raises SpecError."""
    from advex.explanation import MapRequest, RowRequest, named_explainers
    from advex.explanation.attacked import check
    from advex.registry import specs_from

    if attack and not explainers:
        raise SpecError("--attack-map needs a heat map to attack, e.g. --explainer gradient --attack-map.")
    if alternatives and (explainers or not any(model.classifier.features for model in models)):
        raise SpecError("--alternatives counts the sentences about rows of tables: pictures and maps have none.")
    if explainers:
        if changes.is_chosen:
            raise SpecError("--rho, --steps and --away apply to the adversarial explanation only, not to --explainer.")
        by_name = named_explainers(specs_from(explainers))
        if attack:
            check(by_name)
        return MapRequest(
            targets=changes.targets or ("predicted",), explainers=by_name, seed=changes.seed,
            max_batch=changes.max_batch, attack=attack,
        ), _show_maps  # fmt: skip
    if any(model.classifier.features is not None for model in models):
        if changes.is_chosen:
            raise SpecError("--rho, --steps and --away apply to pictures; for rows the smallest change is found.")
        return RowRequest(targets=changes.targets or ("runner-up",), alternatives=alternatives or 3), _show_rows
    return replace(changes, targets=changes.targets or ("predicted", "runner-up")), _show_pictures


def _explain(request: Request, models: list[Opened], inputs: Inputs, out: Path) -> list[tuple[dict[str, Any], Path]]:
    """The results of all models, and their folders: each has one of its own in `out` where there are several."""
    from advex.explanation import MapRequest, RowRequest
    from advex.explanation.folder import explain_into, unfinished

    results = []
    with unfinished(out) as journal:
        for model in models:
            if isinstance(request, RowRequest):
                subjects = inputs.rows(model)
            else:
                subjects, examples = inputs.pictures(model)
                request = replace(request, data=examples) if isinstance(request, MapRequest) else request
            folder = out if len(models) == 1 else out / model.name
            results.append((explain_into(folder, model, subjects, request, inputs.say, journal), folder))
    return results


def _show_rows(result: dict[str, Any], folder: Path, *, named: bool) -> None:
    """The sentences, below a line for each row."""
    from advex.drawing.numbers import percentages
    from advex.explanation.folder import FIGURES
    from advex.tabular.sentences import shown

    for subject in result["inputs"]:
        share, _ = percentages(max(subject["confidences"]), 0.0)
        label = f" (in truth {shown(subject['label'])})" if subject["label"] is not None else ""
        model = f"{result['model']}, " if named else ""
        terminal.emit(f"{model}{subject['name']}{label}: {shown(subject['says'])}, {share}")
        for explanation in subject["explanations"]:
            for sentence in explanation["sentences"]:
                terminal.emit(f"  {sentence}")
    terminal.emit(str(folder / FIGURES))


def _show_pictures(result: dict[str, Any], folder: Path, *, named: bool) -> None:
    rows = [
        [
            subject["name"], subject["says"], f"{result['explainer']} {each['target_name']}", f"{each['rmse']:.4f}",
            f"{100 * each['before'][each['target']]:.1f} %", f"{100 * each['after'][each['target']]:.1f} %",
            f"{100 * each['png']['after'][each['target']]:.1f} %",
            "no gradient reached it" if each["doubts"] else each["png"]["says"],
        ]
        for subject in result["inputs"]
        for each in subject["explanations"]
    ]  # fmt: skip
    columns = ["input", "says", "asked", "RMSE", "before", "after", "in the PNG", "then says"]
    terminal.table(columns, rows, title=result["model"] if named else None)
    terminal.emit(" ".join(str(folder / name) for name in result["sheets"]))


def _show_maps(result: dict[str, Any], folder: Path, *, named: bool) -> None:
    from advex.types import FLAT

    rows = [
        [
            subject["name"], subject["says"], f"{each['target_name']} ({', '.join(each['meant'])})", each["explainer"],
            _digits(each["gini"], ".4f"), f"{_digits(each['effective'], ',.1f')} of {each['elements']:,}",
            "no gradient reached it" if FLAT in each["doubts"]
            else _digits(each["completeness"], ".2g") + (" (large)" if each["doubts"] else ""),
            *([_digits(each["attacked"][key], ".0%") for key in ("stays", "at_random")] if "attacked" in each else []),
        ]
        for subject in result["inputs"]
        for each in subject["maps"]
    ]  # fmt: skip
    columns = ["input", "says", "asked about", "explainer", "Gini", "elements that count", "completeness error"]
    columns += ["stays under attack", "at random points"] if rows and len(rows[0]) > len(columns) else []
    terminal.table(columns, rows, title=result["model"] if named else None)
    values = [subject["values"] for subject in result["inputs"]]
    terminal.emit(" ".join(str(folder / name) for name in result["sheets"] or values))


def _digits(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

"""`advex train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex import progress
from advex.cli import options, terminal, torchrun
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.data import Dataset
    from advex.data.images.streamed import Examples
    from advex.feedback.annotations import Annotations
    from advex.recipes import Recipe


@terminal.shared_verb
@torchrun.verb
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|TABLE",
            help="A YAML file, a bundled recipe, or a CSV table to train on without one.",
            autocompletion=options.recipe_names,
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings to change in the recipe; annotations=PROJECT (see --add)."),
    ] = None,
    data: options.Data = "",
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder to write. Default: runs/RECIPE.")] = None,
    split: options.Split = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Scale pictures to this size, e.g. 32. Needed if sizes differ.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Split to validate on. Default: test (data without splits are divided)."),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Also train on annotated pictures that people called unchanged. For a project of advex annotate: "
            "annotations=PROJECT. Which answers count: annotations.agree=majority|all, "
            "annotations.unsure=WEIGHT.",
        ),
    ] = None,
    max_samples: options.MaxSamples = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Instead of the recipe's.")] = None,
    device: options.Device = "auto",
    resume: options.Resume = True,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    cache: options.Cache = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write event files for TensorBoard.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe, try one step if --data is given, and stop.")
    ] = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a classifier from a recipe and save it in a run folder.

    Examples: advex train digits-robust epochs=20 --data digits --out runs/robust; advex train loans.csv
    """
    from advex import recipes
    from advex.feedback.annotations import annotations_in
    from advex.lookup.devices import device_named
    from advex.training import run_folder

    annotations, changes = annotations_in(changes or [])
    say, folder = progress.Terminal(quiet=quiet), out or Path("runs") / Path(recipe).stem
    if not data and (of_table := recipes.for_table(recipe)):
        data, recipe = recipe, of_table
        say.note(f"No recipe given: using {recipe}. For a small network: advex train table-mlp --data {data}.")
    resolved = recipes.named(recipe, changes, seed)
    if dry_run and not data:
        terminal.emit(run_folder.as_yaml(resolved).rstrip())
        return
    if not data:
        raise SpecError("Give data to train on: --data FOLDER, or --data digits for the built-in data set.")
    examples, held_out = _open(data, split, validation, size, annotations, add or [], say, resolved, max_samples)
    if dry_run:
        _dry_run(resolved, examples, held_out, device_named(device), say)
        return
    figures = run_folder.run(
        resolved, examples, folder, say=say, validation=held_out, device=device_named(device), resume=resume,
        overwrite=overwrite, tensorboard=tensorboard, threads=threads,
    )  # fmt: skip
    if json_:
        terminal.emit_json(figures)
        return
    terminal.emit("  ".join([str(folder), *_shown(resolved, figures)]))


def _shown(recipe: Recipe, figures: dict[str, Any]) -> list[str]:
    """What came of it, in a few words each."""
    shown = {"accuracy": figures["accuracy"]}
    if recipe.label_seed is not None:
        shown = {"fit of the drawn labels": figures["train_accuracy"], "accuracy (true labels)": figures["accuracy"]}
    return [f"{name} {100 * value:.1f} %" for name, value in shown.items() if value is not None]


def _open(
    data: str,
    split: str | None,
    validation: str | None,
    size: str | None,
    annotations: Annotations,
    add: list[Path],
    say: progress.Terminal,
    recipe: Recipe,
    max_samples: int | None,
) -> tuple[Examples, Dataset | None]:
    """The examples to train on, annotated pictures among them, and those to validate on between epochs."""
    from advex.feedback.annotations import with_annotated
    from advex.lookup import datasets

    shape = None if size is None else datasets.shape_from(size)
    examples, held_out, (trained, validation) = datasets.open_training(
        data, split, validation, say, shape=shape, max_samples=max_samples, seed=recipe.seed, streaming=recipe.streaming
    )
    with annotations.folders(add) as folders:
        examples = with_annotated(
            examples, folders, say, source=data, trained=trained, validation=validation, policy=annotations.policy
        )
    return examples, held_out


def _dry_run(recipe: Recipe, data: Examples, held_out: Dataset | None, device: str, say: progress.Terminal) -> None:
    """Try one step of a run and say what the whole would be: the recipe on stdout, figures on stderr."""
    from advex import training
    from advex.precision import NO_BFLOAT16, lacking
    from advex.training.metrics_log import short
    from advex.training.run_folder import as_yaml
    from advex.training.steps import in_bfloat16

    if lacking(in_bfloat16(recipe), device):
        say.note(NO_BFLOAT16)
    step = training.dry_run(recipe, data, validation=held_out, device=device)
    parts = ", ".join(f"{name} {short(value)}" for name, value in step["parts"].items())
    minutes, seconds = divmod(round(step["duration"]), 60)
    hours, minutes = divmod(minutes, 60)
    duration = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    say.note(
        f"one step: loss {short(step['loss'])} ({parts}), {step['seconds']:.3g} s\n{step['steps']:,} steps "
        f"and validation between epochs: about {duration}"
    )
    terminal.emit(as_yaml(training.fitted(recipe, data.shape, len(data.class_names))).rstrip())

"""`advex demo`: the whole way on what comes with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advex import progress
from advex.cli import options, terminal

if TYPE_CHECKING:
    from advex.data import Dataset
    from advex.lookup.models import Opened

# Without training: four networks for CIFAR-10 and a few of its test images.
NETWORKS = ("ordinary", "adversarial", "lipschitz", "robust")
DATA = "cifar10-sample"
# With training: two small networks on handwritten digits.
RECIPES = {"ordinary": "digits-ordinary", "robust": "digits-robust"}
TRAINED_RHO = 0.2  # twice the usual: what a robust network draws on 8x8 pixels is then plain to see
SHOWN = 3  # examples on the demo's picture
SIDE = 96  # of one picture there, in pixels


@terminal.verb
def demo(
    train: Annotated[
        bool, typer.Option("--train", help="Train two small networks on handwritten digits, and use those.")
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the record, the report and, with --train, the runs.")
    ] = Path("demo"),
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", min=10, metavar="N", help="Test images to evaluate on.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="With --train, instead of the recipes'.")] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Explain and measure the four bundled networks on bundled pictures, and write the report.

    With --train: train an ordinary and a robust network on handwritten digits first.
    """
    from advex.cli import tables
    from advex.errors import SpecError
    from advex.evaluation import folder as record_folder
    from advex.evaluation import settings_from
    from advex.lookup import datasets
    from advex.lookup.devices import device_named
    from advex.lookup.folders import prepare_folder
    from advex.lookup.models import Wrapping, open_models
    from advex.record import summary
    from advex.report import write_report

    if epochs is not None and not train:
        raise SpecError("--epochs belongs to --train: the bundled networks are trained already.")
    began = time.perf_counter()
    say = progress.Terminal(quiet=quiet)
    prepare_folder(out, ("runs", "record", "explanations.png", "report.html"), overwrite)
    here = device_named(device)
    test = datasets.open_split(
        "digits" if train else DATA, "test" if train else None, say, max_samples=max_samples, seed=seed
    )
    if train:
        opened = _trained(out / "runs", epochs, seed, here, overwrite, test, say)
        settings = settings_from({"seed": seed, "rho": TRAINED_RHO})
    else:
        opened = open_models([f"{name}=builtin:cifar10-{name}" for name in NETWORKS], here, Wrapping())
        settings = settings_from({"seed": seed, "explanations": 6, "sweep": 1, "recheck": 0})
    record_folder.make_room(out / "record", overwrite)
    record = record_folder.evaluate(opened, test, out / "record", settings, say)
    draw_examples(out / "record", out / "explanations.png")
    path = write_report(out / "record", out / "report.html")
    say.note(f"done in {time.perf_counter() - began:.0f} s")
    if json_:
        terminal.emit(summary(record, out / "record"))
        return
    tables.show(record)
    if train:
        tables.show_differences(record)
    else:
        say.note(f"{len(test)} pictures show how; measured on more: advex list builtin")
    terminal.emit(str(path))


def _trained(
    folder: Path,
    epochs: int | None,
    seed: int,
    device: str,
    overwrite: bool,
    test: Dataset,
    say: progress.Terminal,
) -> list[Opened]:
    """The two networks of `--train`, trained into run folders."""
    import torch

    from advex.cli.train import resolve
    from advex.lookup import datasets
    from advex.lookup.models import Wrapping, open_models
    from advex.training import run_folder

    torch.set_num_threads(1)  # networks this small lose more by a second thread than they gain
    data = datasets.open_split("digits", "train", say)
    changes = [] if epochs is None else [f"epochs={epochs}"]
    places = {folder / name: resolve(recipe, changes, seed) for name, recipe in RECIPES.items()}
    for place, recipe in places.items():
        run_folder.run(recipe, data, place, say=say, validation=test, device=device, overwrite=overwrite)
    return open_models([str(place) for place in places], device, Wrapping())


def draw_examples(folder: Path, out: Path) -> None:
    """The first explained examples of a record, a row per model: the input, then what would make it each class."""
    from advex.data.images.png import decode_png
    from advex.explanation import contact_sheet
    from advex.files import atomic
    from advex.record import read_record, read_rows

    names = read_record(folder).data.class_names
    rows = read_rows(folder, "explanations")
    grid = [row for row in rows if (row["purpose"], row["explainer"]) == ("grid", "toward")]
    examples = list(dict.fromkeys(row["example"] for row in grid))[:SHOWN]
    inputs = {row["example"]: row for row in read_rows(folder, "examples") if row["picture"]}

    def cell(picture: str, *lines: str) -> contact_sheet.Cell:
        return contact_sheet.Cell(decode_png((folder / picture).read_bytes()).float() / 255, lines)

    lines = [
        [cell(inputs[example]["picture"], model, names[inputs[example]["label"]])]
        + [
            cell(row["picture"], f"to {names[row['target']]}", _sure(row["png_after"][row["target"]]))
            for row in grid
            if (row["example"], row["model"]) == (example, model)
        ]
        for example in examples
        for model in dict.fromkeys(row["model"] for row in grid)
    ]
    with atomic(out) as temporary:
        contact_sheet.draw(lines, side=SIDE).save(temporary, "PNG")


def _sure(confidence: float) -> str:
    return ">99 % sure" if confidence > 0.99 else f"{100 * confidence:.0f} % sure"

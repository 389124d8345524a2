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

# Without training: the networks for photos, and a few test pictures.
NETWORKS = ("ordinary=builtin:photos-ordinary", "robust=builtin:photos-robust")
DATA = "photos-sample"
# With training: two small networks on handwritten digits.
RECIPES = {"ordinary": "digits-ordinary", "robust": "digits-robust"}
TRAINED_RHO = 0.2  # twice the usual: what a robust network draws on 8x8 pixels is then plain to see


@terminal.verb
def demo(
    train: Annotated[
        bool, typer.Option("--train", help="Train two small networks on handwritten digits, and use those.")
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the record, the report and, with --train, the runs.")
    ] = Path("demo"),
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", min=10, metavar="N", help="Number of test images.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs with --train, instead of the recipes'.")] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Explain and measure two bundled networks, an ordinary and a robust one, on bundled photos, and write a report.

    With --train: train an ordinary and a robust network on handwritten digits first.
    """
    from advex.cli import tables
    from advex.errors import SpecError
    from advex.evaluation import folder as record_folder
    from advex.evaluation import settings_from
    from advex.lookup import datasets
    from advex.lookup.devices import device_named
    from advex.lookup.folders import opened_folder
    from advex.lookup.models import open_models
    from advex.record import summary
    from advex.report import write_report
    from advex.report.example_sheet import draw_examples

    if epochs is not None and not train:
        raise SpecError("--epochs needs --train: the bundled networks are already trained.")
    began = time.perf_counter()
    say = progress.Terminal(quiet=quiet)
    with opened_folder(out, ("runs", "record", "explanations.png", "report.html"), overwrite):
        device = device_named(device)
        test = datasets.open_split(
            "digits" if train else DATA, "test" if train else None, say, max_samples=max_samples, seed=seed
        )
        if train:
            changes = [] if epochs is None else [f"epochs={epochs}"]
            models = _trained(out / "runs", changes, seed, device, overwrite, test, say)
            settings = settings_from({"seed": seed, "rho": TRAINED_RHO})
        else:
            models = open_models(NETWORKS, device)
            settings = settings_from({"seed": seed, "explanations": 6, "sweep": 1, "recheck": 0})
        with record_folder.opened(out / "record", overwrite):
            record = record_folder.evaluate(models, test, out / "record", settings, say)
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
        say.note(f"This is a demonstration on {len(test)} pictures; for figures on more pictures: advex list builtin")
    terminal.emit(str(path))


def _trained(
    folder: Path, changes: list[str], seed: int, device: str, overwrite: bool, test: Dataset, say: progress.Terminal
) -> list[Opened]:
    """The two networks of `--train`, trained into run folders."""
    import torch

    from advex import recipes
    from advex.lookup import datasets
    from advex.lookup.models import open_models
    from advex.training import run_folder

    torch.set_num_threads(1)  # networks this small lose more by a second thread than they gain
    data = datasets.open_split("digits", "train", say)
    for name, recipe in RECIPES.items():
        resolved = recipes.named(recipe, changes, seed)
        run_folder.run(resolved, data, folder / name, say=say, validation=test, device=device, overwrite=overwrite)
    return open_models([str(folder / name) for name in RECIPES], device)

"""`advex demo`: the whole way on a data set that comes with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from advex.cli import options, terminal

RECIPES = {"ordinary": "digits-ordinary", "robust": "digits-robust"}
SHOWN = 3  # digits on the demo's picture
RHO = 0.2  # twice the usual: what a robust network draws on 8x8 pixels is then plain to see


@terminal.verb
def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the two runs, the record and the report.")
    ] = Path("demo"),
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", min=10, metavar="N", help="Test images to evaluate on.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipes'.")] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train an ordinary and a robust network on handwritten digits, explain and measure both, write the report."""
    import torch

    from advex.cli import evaluating, inputs, runs
    from advex.cli.models import Wrapping, open_models
    from advex.cli.train import resolve
    from advex.evaluation import settings_from
    from advex.record import summary
    from advex.report import write_report

    torch.set_num_threads(1)  # networks this small lose more by a second thread than they gain
    began = time.perf_counter()
    say = terminal.Terminal(quiet=quiet)
    options.prepare_folder(out, ("runs", "record", "explanations.png", "report.html"), overwrite)
    here = options.device_named(device)
    train = inputs.open_split("digits", "train", say)
    test = inputs.open_split("digits", "test", say, max_samples=max_samples, seed=seed)
    changes = [] if epochs is None else [f"epochs={epochs}"]
    folders = {out / "runs" / name: resolve(recipe, changes, seed) for name, recipe in RECIPES.items()}
    for folder, recipe in folders.items():
        runs.run(recipe, train, folder, say=say, validation=test, device=here, overwrite=overwrite)
    opened = open_models([str(folder) for folder in folders], here, Wrapping())
    settings = settings_from({"seed": seed, "rho": RHO})
    evaluating.make_room(out / "record", overwrite)
    record = evaluating.evaluate(opened, test, out / "record", settings, say)
    draw_examples(out / "record", out / "explanations.png")
    path = write_report(out / "record", out / "report.html")
    say.note(f"done in {time.perf_counter() - began:.0f} s")
    if json_:
        terminal.emit(summary(record, out / "record"))
        return
    evaluating.show(record)
    evaluating.show_differences(record)
    terminal.emit(str(path))


def draw_examples(folder: Path, out: Path) -> None:
    """The first explained digits of a record, a row per model: the input, then what would make it each class."""
    from advex.cli import sheet
    from advex.data.pictures import decode_png
    from advex.evaluation.shards import whole
    from advex.record import read_record, read_rows

    names = read_record(folder).data.class_names
    rows = read_rows(folder, "explanations")
    grid = [row for row in rows if (row["purpose"], row["explainer"]) == ("grid", "toward")]
    examples = list(dict.fromkeys(row["example"] for row in grid))[:SHOWN]
    inputs = {row["example"]: row for row in read_rows(folder, "examples") if row["picture"]}

    def cell(picture: str, *lines: str) -> sheet.Cell:
        return sheet.Cell(decode_png((folder / picture).read_bytes()).float() / 255, lines)

    lines = [
        [cell(inputs[example]["picture"], model, f"label {names[inputs[example]['label']]}")]
        + [
            cell(row["picture"], f"towards {names[row['target']]}", _sure(row["png_after"][row["target"]]))
            for row in grid
            if (row["example"], row["model"]) == (example, model)
        ]
        for example in examples
        for model in dict.fromkeys(row["model"] for row in grid)
    ]
    with whole(out) as temporary:
        sheet.draw(lines, side=96).save(temporary, "PNG")


def _sure(confidence: float) -> str:
    return ">99 % sure" if confidence > 0.99 else f"{100 * confidence:.0f} % sure"

"""`advex annotate prepare|serve|agreement|export|import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.annotation.agreement import Agreement, Interval

app = typer.Typer(
    help="Ask people whether changed pictures still show what they showed.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MEASURES = ("percent", "cohen", "fleiss", "alpha")
_Project = Annotated[Path, typer.Argument(metavar="PROJECT", help="Folder of the project.")]
_Database = Annotated[
    str | None,
    typer.Option(metavar="URL", help="postgresql://USER@HOST/NAME instead of a file in the project's folder."),
]


@app.command()
@terminal.verb
def prepare(
    model: options.Model = [],  # noqa: B006  (typer copies it)
    data: options.Data = "",
    out: Annotated[Path | None, typer.Option(metavar="PROJECT", help="Folder of the project to write.")] = None,
    split: options.Split = None,
    margin: Annotated[
        float, typer.Option(min=0, max=0.99, help="A wrong class is this far ahead of the next, in confidence.")
    ] = 0.5,
    search: Annotated[str, typer.Option(metavar="SPEC", help="The search: see advex list.")] = "minimal",
    votes: Annotated[int, typer.Option(min=1, help="How many people judge each image.")] = 2,
    alone: Annotated[
        bool, typer.Option("--alone", help="Show the changed picture first, the original on demand.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="What annotators see. Default: the folder's name.")] = None,
    max_samples: options.MaxSamples = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per finished piece.")] = 64,
    weights: options.Weights = None,
    box: options.BoxOption = None,
    mean: options.Mean = None,
    std: options.Std = None,
    classes: options.Classes = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    database: _Database = None,
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make high-confidence adversarial images of training pictures, to be judged by people.

    Example: advex annotate prepare --model runs/robust --data digits --out hitl
    """
    if not model or not data or out is None:
        raise SpecError("Say what to attack, with which pictures, and where to: --model RUN --data DATA --out PROJECT.")
    from advex.annotation import FILE, PICTURES
    from advex.annotation import project as projects
    from advex.feedback import images as annotating
    from advex.lookup import datasets
    from advex.lookup.devices import device_named
    from advex.lookup.folders import prepare_folder
    from advex.lookup.models import Wrapping, open_models

    say = progress.Terminal(quiet=quiet)
    prepare_folder(out, (PICTURES, FILE, annotating.MADE), overwrite)
    wrapping = Wrapping(weights=tuple(weights or ()), box=box, mean=mean, std=std, classes=classes)
    opened = open_models(model, device_named(device), wrapping)
    chosen = datasets.preferred(data, split, "train")
    if chosen is not None and datasets.is_held_out(chosen):
        say.note(f"{chosen} is held out by its name: advex train will not learn from what is made of it.")
    shape = opened[0].input_shape
    examples = datasets.open_split(data, chosen, say, max_samples=max_samples, seed=seed, shape=shape)
    making = annotating.Making(margin=margin, search=search, seed=seed, batch_size=batch_size)
    about = annotating.about(opened, examples, making)
    with projects.opened(out, database, new=True) as store:
        store.create_project(name or out.resolve().name, votes=votes, seed=seed, alone=alone, about=about)
        told = annotating.prepare(opened, examples, store, making, say)
        total = len(store.images())
    if json_:
        terminal.emit_json({"project": str(out), "images": total, "models": told})
        return
    for each, outcomes in told.items():
        say.note(
            f"{each}: {outcomes['made']:,} images; {outcomes['missed']:,} without a change that 8 bits keep, "
            f"{outcomes['already']:,} as confidently another class unchanged"
        )
    terminal.emit(f"{out}  {total:,} images")


@app.command()
@terminal.verb
def serve(
    project: _Project,
    annotator: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who shall judge; several may be given.")
    ] = None,
    new_link: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A new link for somebody; the old one ends.")
    ] = None,
    revoke: Annotated[list[str] | None, typer.Option(metavar="NAME", help="End somebody's link.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8321,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Let other machines in.")] = False,
    public: Annotated[
        str | None, typer.Option(metavar="URL", help="How the server is called from outside, e.g. https://ask.lab.org.")
    ] = None,
    model: options.Model = [],  # noqa: B006  (typer copies it)
    data: options.Data = "",
    split: options.Split = None,
    max_samples: options.MaxSamples = None,
    weights: options.Weights = None,
    box: options.BoxOption = None,
    mean: options.Mean = None,
    std: options.Std = None,
    classes: options.Classes = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    database: _Database = None,
    verbose: options.Verbose = False,
) -> None:
    """Serve the page, and print one personal link for each annotator, and one for the owner.

    With --model and --data the owner can also explore these: ask for explanations of single pictures.

    Examples: advex annotate serve hitl --annotator anna --annotator ben;
    advex annotate serve hitl --model runs/robust --data digits
    """
    from advex.annotation import project as projects
    from advex.explore import sources

    explore = None
    if model:
        wrapping = {"weights": tuple(weights or ()), "box": box, "mean": mean, "std": std, "classes": classes}
        named = sources.Sources(
            models=model, data=data, split=split, wrapping=wrapping, device=device, max_samples=max_samples, seed=seed
        )
        explore = sources.desk(named)
    elif data:
        raise SpecError("--data is for exploring a model: name one with --model RUN.")
    given = {"annotators": annotator or [], "renewed": new_link or [], "revoked": revoke or []}
    with projects.opened(project, database) as store:
        from advex.cli import annotate_serve

        address = {"host": host, "port": port, "allow_remote": allow_remote, "public": public}
        annotate_serve.serve(store, verbose=verbose, explore=explore, **given, **address)


@app.command()
@terminal.verb
def agreement(
    project: _Project,
    out: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", help="Also write a page, with the disagreements as pictures.")
    ] = None,
    database: _Database = None,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Say how well people agree, in all and by class."""
    from advex.annotation import project as projects
    from advex.files import write_text

    with projects.opened(project, database) as store:
        from advex.annotation import pages
        from advex.annotation.agreement import agreement as of
        from advex.annotation.agreement import by_class

        votes = store.votes()
        if out is not None:
            write_text(out, pages.standalone(store))
    found: dict[str, Agreement] = {"all": of(votes), **by_class(votes)}
    if json_:
        terminal.emit_json(
            [{"class": None if not row else name, **_plain(each)} for row, (name, each) in enumerate(found.items())]
        )
        return
    rows = [
        [name, *map(str, each.answered.values()), str(each.images)]
        + [_figure(getattr(each, key), 100 if key == "percent" else 1) for key in _MEASURES]
        for name, each in found.items()
    ]
    columns = ["class", "unchanged", "unsure", "changed", "shared", "agree %", "Cohen", "Fleiss", "Krippendorff"]
    terminal.table(columns, rows)


@app.command()
@terminal.verb
def export(
    project: _Project,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A table (.parquet, .csv, .json), or a folder for advex train --add.")
    ],
    database: _Database = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the table that is there.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Write all answers into a table, or the standing ones with their pictures into a folder."""
    from advex.annotation import project as projects
    from advex.feedback import folders

    with projects.opened(project, database) as store:
        from advex.annotation import exchange

        if out.suffix in exchange.FORMS:
            if out.exists() and not overwrite:
                raise SpecError(f"{out} is there: choose another name, or say --overwrite.")
            rows = exchange.rows_of(store)
            exchange.write(out, rows)
            number = sum(row.answer is not None for row in rows)
        else:
            number = folders.write_folder(store, out, overwrite=overwrite)
    terminal.emit(f"{out}  {number:,} answers")


@app.command(name="import")
@terminal.verb
def import_(
    project: _Project,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A table of advex annotate export, or a folder.")],
    votes: Annotated[int, typer.Option(min=1, help="How many people judge each image, in a new project.")] = 2,
    database: _Database = None,
    verbose: options.Verbose = False,
) -> None:
    """Add the answers of a table or of an annotated folder; those that are there already are left as they are."""
    from advex.annotation import project as projects
    from advex.feedback import folders

    with projects.opened(project, database, new=True) as store:
        from advex.annotation import exchange, intake

        store.create_project(project.resolve().name, votes=votes, seed=0, alone=False, about={"source": source.name})
        rows = folders.read_folder(store, source) if source.is_dir() else exchange.read(source)
        images, given = intake.take_in(store, rows)
    terminal.emit(f"{project}  {images:,} images and {given:,} answers added")


def _plain(each: Agreement) -> dict[str, Any]:
    from advex.record import plain

    measures = {key: getattr(each, key) for key in _MEASURES}
    intervals = {key: {name: plain(value) for name, value in vars(of).items()} for key, of in measures.items()}
    return {"images": each.images, "answers": each.answers, "answered": each.answered, **intervals}


def _figure(interval: Interval, scale: int) -> str:
    from math import isnan

    if isnan(interval.value):
        return "-"
    digits = 1 if scale == 100 else 3
    value, low, high = (f"{scale * each:.{digits}f}" for each in (interval.value, interval.low, interval.high))
    return value if isnan(interval.low) else f"{value} [{low}, {high}]"

"""`advex annotate prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError


@terminal.shared_verb
@options.gathered(options.ModelOptions, model=[])
def prepare(
    *,
    models: options.ModelOptions,
    data: options.Data = "",
    out: Annotated[Path | None, typer.Option(metavar="PROJECT", help="Folder for the project.")] = None,
    split: options.Split = None,
    margin: Annotated[
        float, typer.Option(min=0, max=0.99, help="Minimum lead of the wrong class, in confidence.")
    ] = 0.5,
    search: Annotated[str, typer.Option(metavar="SPEC", help="The attack; see `advex list attack`.")] = "minimal",
    votes: Annotated[int, typer.Option(min=1, help="How many people judge each image.")] = 2,
    alone: Annotated[
        bool, typer.Option("--alone", help="Show the changed picture first, the original on demand.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Title that annotators see. Default: the data's name.")] = None,
    instructions: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Instructions that annotators read before they begin.")
    ] = None,
    max_samples: options.MaxSamples = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per batch and per shard.")] = 64,
    seed: options.Seed = 0,
    database: options.Database = None,
    overwrite: options.Overwrite = False,
    cache: options.Cache = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make high-confidence adversarial examples from training pictures, for people to judge.

    Example: advex annotate prepare --model runs/robust --data digits --out hitl
    """
    if not models.model or not data or out is None:
        raise SpecError("Give a model, data and an output folder: --model RUN --data DATA --out PROJECT.")
    from advex.annotation import FILE, PICTURES
    from advex.annotation import instructions as reading
    from advex.feedback import images
    from advex.lookup import datasets
    from advex.lookup.folders import opened_folder

    say, text = progress.Terminal(quiet=quiet), None if instructions is None else reading.read(instructions)
    with opened_folder(out, (PICTURES, FILE, images.MADE, reading.FILE), overwrite, shared=not overwrite):
        opened_models = models.opened()
        split = datasets.split_to_learn(data, split)
        if split is not None and datasets.is_held_out(split):
            say.note(f"{split} is a held-out split by its name: advex train will not use pictures made from it.")
        shape = opened_models[0].input_shape
        examples = datasets.open_split(data, split, say, max_samples=max_samples, seed=seed, shape=shape)
        making = images.Making(margin=margin, search=search, seed=seed, batch_size=batch_size)
        project = images.NewProject(
            folder=out, database=database, name=name, title=f"Pictures of {Path(data).name}", votes=votes, alone=alone,
            instructions=text,
        )  # fmt: skip
        outcomes, total = images.prepare_project(project, opened_models, examples, making, say)
    if json_:
        terminal.emit_json({"project": str(out), "images": total, "models": outcomes})
        return
    for of_model, counts in outcomes.items():
        say.note(
            f"{of_model}: {counts['made']:,} images; {counts['missed']:,} without a change that survives "
            f"8-bit rounding, {counts['already']:,} already classified as another class with that confidence"
        )
    terminal.emit(f"{out}  {total:,} images")

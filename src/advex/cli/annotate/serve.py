"""`advex annotate serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from advex.cli import options, terminal
from advex.errors import SpecError


@terminal.verb
@options.gathered(options.ModelOptions, model=[])
def serve(
    project: options.Project,
    annotator: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Name of an annotator; may be given several times.")
    ] = None,
    new_link: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="New link for an annotator; the old one stops working.")
    ] = None,
    revoke: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Disable an annotator's link.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8321,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Let other machines connect.")] = False,
    public: Annotated[
        str | None, typer.Option(metavar="URL", help="The server's public address, e.g. https://ask.lab.org.")
    ] = None,
    *,
    models: options.ModelOptions,
    data: options.Data = "",
    split: options.Split = None,
    max_samples: options.MaxSamples = None,
    seed: options.Seed = 0,
    database: options.Database = None,
    verbose: options.Verbose = False,
) -> None:
    """Serve the page, and print a personal link for each annotator and one for the owner.

    With --model and --data the owner can also explore these: ask for explanations of single pictures.

    Examples: advex annotate serve hitl --annotator anna --annotator ben;
    advex annotate serve hitl --model runs/robust --data digits
    """
    from advex.annotation.project import opened
    from advex.explore import sources

    explore = None
    if models.model:
        chosen = sources.Sources(
            models=models.model, data=data, split=split, wrapping=models.wrapping, device=models.device,
            max_samples=max_samples, seed=seed,
        )  # fmt: skip
        explore = sources.desk(chosen)
    elif data:
        raise SpecError("--data needs a model to explore: add --model RUN.")
    with opened(project, database) as store:
        from advex.cli.annotate.server import serve as run

        run(
            store, annotators=annotator or [], renewed=new_link or [], revoked=revoke or [], host=host, port=port,
            allow_remote=allow_remote, public=public, verbose=verbose, explore=explore,
        )  # fmt: skip

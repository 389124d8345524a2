"""`advex explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError, install_extra

DATA = "photos-sample"  # what is shown where nothing is named


@terminal.verb
@options.gathered(options.ModelOptions, model=[])
def explore(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="Picture files, or folders of them.")
    ] = None,
    *,
    models: options.ModelOptions,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Pictures of a data set instead.")] = None,
    split: options.Split = None,
    size: Annotated[
        str | None, typer.Option(metavar="CxHxW", help="Input size, for a model from your own code.")
    ] = None,
    max_samples: options.MaxSamples = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for saved explanations.")] = Path("explored"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Ask models about pictures in the browser: what would change the answer, and which pixels matter.

    Examples: advex explore; advex explore cat.png photos;
    advex explore --model runs/ordinary,runs/robust --data digits
    """
    if images and data:
        raise SpecError("Give either picture files or --data.")
    if not data and (split or max_samples):
        raise SpecError("--split and --max-samples need --data.")
    from advex.explore import saved, sources

    saved.check_folder(out)
    say = progress.Terminal(quiet=quiet)
    named = models.or_bundled(say, images, data, split, size)
    if not images and not data:
        say.note(f"No pictures and no --data given: using a few pictures that come with advex ({DATA}).")
    desk = sources.desk(sources.Sources(
        models=named, data=data or DATA, split=split, wrapping=models.wrapping, device=models.device,
        max_samples=max_samples, seed=seed, files=tuple(images or ()), size=size,
    ))  # fmt: skip
    try:
        from advex.explore import alone
    except ModuleNotFoundError as error:
        raise SpecError(f"advex explore needs {error.name}: {install_extra('explore')}") from None
    say.note("opening the models and pictures (Ctrl-C to stop)")
    alone.serve(desk, out, port=port, browser=browser, verbose=verbose, say=terminal.emit)

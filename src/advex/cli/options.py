"""Options that several verbs share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Model = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL,...",
        help="Run folders, NAME=FOLDER, builtin:NAME, hf:FOLDER (transformers, timm), or "
        "package.module:factory (your own code, with --weights).",
    ),
]
Weights = Annotated[
    list[Path] | None, typer.Option(metavar="FILE.safetensors", help="Weights for a factory of your own.")
]
BoxOption = Annotated[str | None, typer.Option("--box", metavar="LOW,HIGH", help="Valid range of a factory's inputs.")]
Mean = Annotated[str | None, typer.Option(metavar="M,...", help="Normalisation that a factory's network expects.")]
Std = Annotated[str | None, typer.Option(metavar="S,...", help="Normalisation that a factory's network expects.")]
Classes = Annotated[
    str | None,
    typer.Option(metavar="A,B,...|FILE", help="Class names of a factory's network, or a file of them."),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="Folder of class folders, Parquet file or folder, NPZ, CSV table, "
        "a folder in ADVEX_DATA, or a built-in name.",
    ),
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Which split of the data, where there are several.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where to compute.")]
MaxSamples = Annotated[
    int | None, typer.Option("--max-samples", min=1, metavar="N", help="At most N examples, drawn by the seed.")
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on where a former run was stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds something else.")]
Json = Annotated[bool, typer.Option("--json", help="Strict JSON on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="The traceback of an error too.")]
Project = Annotated[Path, typer.Argument(metavar="PROJECT", help="Folder of the project.")]
Database = Annotated[
    str | None,
    typer.Option(metavar="URL", help="postgresql://USER@HOST/NAME instead of a file in the project's folder."),
]


def recipe_names() -> list[str]:
    """Bundled recipes, found without a heavy import: for shell completion."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def gathered(kind: type[Any], **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a verb whose last parameter gets the fields of a frozen dataclass of options as one value.

    The command line has an option for each field, after the verb's other parameters. defaults: instead of the fields'.
    """

    def around(verb: Callable[..., None]) -> Callable[..., None]:
        *own, value = inspect.signature(verb).parameters.values()
        hints = get_type_hints(verb, include_extras=True)
        kinds = get_type_hints(kind, include_extras=True)
        fields = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(field.name, field.default),
                annotation=kinds[field.name],
            )
            for field in dataclasses.fields(kind)
        ]
        unset = inspect.Parameter.empty
        fields = [field.replace(default=unset) if field.default is dataclasses.MISSING else field for field in fields]
        parameters = [*(each.replace(annotation=hints[each.name]) for each in own), *fields]

        @functools.wraps(verb)
        def run(**given: Any) -> None:
            options = kind(**{field.name: given.pop(field.name) for field in fields})
            verb(**given, **{value.name: options})

        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return around

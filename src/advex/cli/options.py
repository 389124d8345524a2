"""Options that several verbs share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from advex import progress

if TYPE_CHECKING:
    from advex.lookup.models import Opened

Model = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL,...",
        help="Run folders, NAME=FOLDER, builtin:NAME, hf:FOLDER (transformers, timm), or with --weights "
        "torchvision:NAME, timm:NAME, package.module:factory (your own code).",
    ),
]
Weights = Annotated[list[Path] | None, typer.Option(metavar="FILE.safetensors", help="Weights for your own code.")]
BoxOption = Annotated[str | None, typer.Option("--box", metavar="LOW,HIGH", help="Input range, for your own code.")]
Mean = Annotated[str | None, typer.Option(metavar="M,...", help="Normalisation, for your own code.")]
Std = Annotated[str | None, typer.Option(metavar="S,...", help="Normalisation, for your own code.")]
Classes = Annotated[
    str | None,
    typer.Option(metavar="A,B,...|FILE", help="Class names for your own code, or a file."),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="Folder of class folders, Parquet file or folder, NPZ, CSV table, "
        "a folder in ADVEX_DATA, or a built-in name.",
    ),
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Which split of the data, if there are several.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Device to compute on.")]
MaxSamples = Annotated[
    int | None, typer.Option("--max-samples", min=1, metavar="N", help="At most N examples, drawn at random.")
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Resume an interrupted run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite a folder that contains something else.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=0, max=64, metavar="N", help="Threads that read pictures ahead. Default: one per core, at most 8."
    ),
]
Skip = Annotated[int, typer.Option(min=0, metavar="N", help="Leave out the first N examples.")]
Project = Annotated[Path, typer.Argument(metavar="PROJECT", help="Folder of the project.")]
Database = Annotated[
    str | None,
    typer.Option(metavar="URL", help="postgresql://USER@HOST/NAME instead of a file in the project's folder."),
]


def _keep_in(folder: str | None) -> str | None:
    if folder == "":
        raise typer.BadParameter("it must name a folder, and is empty")
    if folder is not None:
        os.environ["ADVEX_CACHE"] = folder
    return folder


Cache = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", callback=_keep_in, help="Folder to cache decoded pictures in; same as ADVEX_CACHE."),
]


def recipe_names() -> list[str]:
    """Bundled recipes, found without a heavy import: for shell completion."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which models are asked, where, and how networks of one's own code are wrapped: the options as they were typed."""

    model: Model
    weights: Weights = None
    box: BoxOption = None
    mean: Mean = None
    std: Std = None
    classes: Classes = None
    device: Device = "auto"

    @property
    def wrapping(self) -> dict[str, Any]:
        """The fields of `lookup.models.Wrapping`."""
        return {"weights": tuple(self.weights or ()), "box": self.box, "mean": self.mean, "std": self.std,
                "classes": self.classes}  # fmt: skip

    def opened(self, named: list[str] | None = None) -> list[Opened]:
        """The models, ready to be asked. named: instead of those typed. Raises SpecError and ArtifactError."""
        from advex.lookup.models import Wrapping, open_models

        return open_models(named or self.model, self.device, Wrapping(**self.wrapping))

    def or_bundled(
        self, say: progress.Terminal, pictures: list[Path] | None, data: str | None, split: str | None, size: str | None
    ) -> list[str]:
        """The models as typed; where none is named, the bundled one that suits the pictures, which is then said."""
        if self.model:
            return self.model
        from advex import bundled
        from advex.explanation.inputs import shorter_side

        name = bundled.nearest(shorter_side(pictures or [], data, split, size))
        say.note(f"No --model given: using {name}, which knows {bundled.KNOWS[name]}.")
        return [name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """The same of a verb that leaves a folder, and goes on where it was stopped."""

    seed: Seed = 0
    resume: Resume = True
    overwrite: Overwrite = False
    cache: Cache = None
    json_: Json = False
    quiet: Quiet = False
    verbose: Verbose = False


def gathered(kind: type[Any], **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a verb a parameter of which gets the fields of a frozen dataclass of options as one value.

    The command line has an option for each field, in that parameter's place, inherited ones last. defaults: instead of
    the fields'.
    """

    def around(verb: Callable[..., None]) -> Callable[..., None]:
        parameters = list(inspect.signature(verb).parameters.values())
        hints = get_type_hints(verb, include_extras=True)
        place = next(at for at, each in enumerate(parameters) if hints[each.name] is kind)
        value = parameters[place].name
        kinds = get_type_hints(kind, include_extras=True)
        fields = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(
                    field.name, inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
                ),
                annotation=kinds[field.name],
            )
            for field in sorted(dataclasses.fields(kind), key=lambda field: field.name not in kind.__annotations__)
        ]
        own = [each.replace(annotation=hints[each.name], kind=each.KEYWORD_ONLY) for each in parameters]
        own[place : place + 1] = fields

        @functools.wraps(verb)
        def run(**given: Any) -> None:
            options = kind(**{field.name: given.pop(field.name) for field in fields})
            verb(**given, **{value: options})

        run.__signature__ = inspect.Signature(own)  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {each.name: each.annotation for each in own}
        return run

    return around

"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advex.errors import SpecError

Model = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL,...",
        help="Run folders, NAME=FOLDER, builtin:NAME, or package.module:factory (your own code, with --weights).",
    ),
]
Weights = Annotated[
    list[Path] | None, typer.Option(metavar="FILE.safetensors", help="Weights for a factory of your own.")
]
BoxOption = Annotated[str | None, typer.Option("--box", metavar="LOW,HIGH", help="Valid range of a factory's inputs.")]
Mean = Annotated[str | None, typer.Option(metavar="M,...", help="Normalisation that a factory's network expects.")]
Std = Annotated[str | None, typer.Option(metavar="S,...", help="Normalisation that a factory's network expects.")]
Classes = Annotated[str | None, typer.Option(metavar="A,B,...", help="Class names of a factory's network.")]
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


def recipe_names() -> list[str]:
    """Bundled recipes, found without a heavy import: for shell completion."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def device_named(text: str) -> str:
    """A device that exists here. Raises SpecError."""
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise SpecError(f"There is no device '{text}'. Known: auto, cpu, cuda, cuda:0, mps.") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise SpecError(f"This machine or this build of torch has no {device.type} device; use --device auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"There are {torch.cuda.device_count()} CUDA devices; '{text}' is not one of them.")
    return text


def prepare_folder(folder: Path, ours: tuple[str, ...], overwrite: bool | None) -> Path:
    """A folder to write into. Raises SpecError when it holds something, none of it `ours`, without --overwrite.

    overwrite: None of a verb that has no such option.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; --out needs a folder.")
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if there and not overwrite and not any(name in ours for name in there):
        held = f"{folder} is not empty and not ours (it holds {', '.join(there[:3])}): choose another --out"
        if overwrite is None:
            raise SpecError(f"{held}.")
        raise SpecError(f"{held}, or say --overwrite to write into it. Other files there are left alone.")
    return folder

"""Saved classifiers: a folder with `config.json` and `model.safetensors`. Opening one never runs code."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from types import CodeType, FunctionType
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advex import bundled, misnamed, networks
from advex._version import __version__
from advex.classifier import Classifier
from advex.contexts import own_context
from advex.documents import read_json
from advex.errors import AdvexError, ArtifactError, InputError, quoted, visible, why_impossible
from advex.features import FeatureSpec
from advex.files import as_path, atomic, atomic_folder
from advex.inputs import check_wrapped
from advex.networks import weight_names
from advex.options import by_option
from advex.record.versions import upgraded

__all__ = ["FACTORY", "SCHEMA", "checked_weights", "load", "read_config", "save", "weights_hash", "write_folder"]

SCHEMA = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The weights that an interrupted save was about to replace.
_FORMER = ".model.safetensors.former"
FACTORY = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")  # package.module:name
_LARGEST_CONFIG = 4 * 2**20


class _Described(BaseModel):
    """What `config.json` of a classifier must hold."""

    model_config = ConfigDict(extra="ignore", strict=False)

    schema_version: int
    network: str = Field(max_length=4096)
    factory: str | None = Field(default=None, max_length=1000)
    lower: float | list[Any]
    upper: float | list[Any]
    mean: float | list[float]
    std: float | list[float]
    binary: bool = False
    class_names: list[str] | None = None
    features: dict[str, Any] | None = None
    input_shape: list[Annotated[int, Field(gt=0)]] | None = None
    sha256: str


@by_option()
def save(
    classifier: Classifier, folder: str | Path, *, factory: str | None = None, extra: dict[str, Any] | None = None
) -> Path:
    """Write a classifier that was made from a spec string, or whose network a factory makes.

    factory: `package.module:name` of what makes the network (a function or a class without arguments), of a network of
    your own. It is noted and never imported from the folder: `--model FACTORY --weights FOLDER` names it again, and so
    does `load(folder, network=...)`. extra: is kept in its config. Raises ArtifactError for a network that neither
    describes.
    """
    if isinstance(folder, Classifier):
        raise InputError("advex.save needs the Classifier first, then the folder: advex.save(classifier, FOLDER).")
    check_wrapped(classifier, "advex.save")
    folder = as_path(folder, "The folder of advex.save")
    if classifier.chosen is not None:
        raise ArtifactError(
            "A classifier with logits=FUNCTION cannot be saved, because a saved classifier contains no code. "
            "Save the state_dict of the network, or move the function into its forward method."
        )
    if classifier.spec is None and factory is None:
        raise ArtifactError(
            "Only a classifier made from a spec string, e.g. Classifier('preact_resnet:depth=20'), can be "
            "saved by itself. For your own network, give its factory: advex.save(classifier, folder, "
            "factory='package.module:name'). Open it with --model package.module:name --weights FOLDER."
        )
    if factory is not None and not FACTORY.fullmatch(factory):
        raise ArtifactError(f"factory={factory!r} must have the form package.module:name.")
    described = {
        "network": classifier.spec or "",
        "factory": factory if classifier.spec is None else None,
        "lower": classifier.lower.tolist(),
        "upper": classifier.upper.tolist(),
        "mean": classifier.mean.tolist(),
        "std": classifier.std.tolist(),
        "binary": classifier.binary,
        "class_names": None if classifier.class_names is None else list(classifier.class_names),
        "features": None if classifier.features is None else classifier.features.plain(),
    }
    if classifier.input_shape is not None:
        extra = {"input_shape": list(classifier.input_shape), **(extra or {})}
    tensors = {name: value.detach().contiguous().cpu() for name, value in classifier.network.state_dict().items()}
    return write_folder(folder, {**(extra or {}), **described}, tensors)


@own_context()
@by_option()
def load(folder: str | Path, *, network: nn.Module | None = None, device: torch.device | str = "cpu") -> Classifier:
    """The classifier saved in a folder, or a bundled one (`builtin:NAME`), in evaluation mode.

    network: of a classifier that was saved with its `factory`, what that makes; the folder's weights are put into it.
    Otherwise the network's name is looked up in the registry; hash, names and shapes of the weights are checked
    before any is used. Raises InputError for what is no folder or no network, SpecError for a name that no bundled
    network has, ArtifactError, naming the file and the reason, for anything else.
    """
    if network is not None and not isinstance(network, nn.Module):
        raise InputError(f"network must be the torch.nn.Module that the factory makes, not {network!r}.")
    if not isinstance(folder, str | os.PathLike):
        raise InputError(
            "advex.load needs the folder of a saved classifier, or a name such as 'builtin:cifar10-robust', not "
            f"{type(folder).__name__}."
        )
    folder = bundled.folder(folder) if isinstance(folder, str) and folder.startswith(bundled.PREFIX) else Path(folder)
    config = read_config(folder)
    try:
        described = _Described.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"{folder / CONFIG}: '{'.'.join(map(str, first['loc']))}': {why_impossible(first['msg'])}."
        ) from None
    weights = checked_weights(folder, config)
    if described.factory is not None and network is None:
        raise ArtifactError(
            f"{folder} contains weights for {quoted(described.factory)}, which is code, and code is run only "
            f"if you name it: --model {visible(described.factory, one_line=True)} --weights {folder}, or "
            f"advex.load({str(folder)!r}, network=...)."
        )
    if described.factory is None and network is not None:
        raise ArtifactError(f"{folder} already defines its network ({described.network}): omit network.")
    try:
        expected = _expected(network, described.network)
        tensors = load_file(weights)
        if fault := weight_names.misfit(tensors, expected):
            raise ArtifactError(
                f"{weights} does not fit the network '{described.network or described.factory}': {fault}."
            )
        network = networks.build(described.network) if network is None else network
        network.to(next((value.dtype for value in tensors.values() if value.is_floating_point()), None))
        network.load_state_dict(tensors)
        if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
            raise ArtifactError(
                f"{weights} contains values that are NaN or infinite, or that overflow in the dtype of the network."
            )
        lower, upper = (torch.tensor(wall, dtype=torch.float64) for wall in (described.lower, described.upper))
        features = None if described.features is None else FeatureSpec.from_plain(described.features)
        classifier = Classifier(
            network,
            box=(lower, upper) if features is None else None,
            mean=described.mean,
            std=described.std,
            binary=described.binary,
            class_names=described.class_names,
            features=features,
        )
        classifier.spec = described.network or None
        if described.input_shape:
            classifier.input_shape = tuple(described.input_shape)
    except ArtifactError:
        raise
    except (AdvexError, SafetensorError, RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise ArtifactError(f"{folder} cannot be opened as a classifier: {error}") from None
    try:
        return classifier.to(device).eval()
    except (RuntimeError, AssertionError):  # a build of torch without it, or no such name
        raise InputError(
            f"Device '{device}' is not available on this machine or in this build of torch; use device='cpu'."
        ) from None


def _expected(network: nn.Module | None, spec: str) -> dict[str, Tensor]:
    """Names and shapes of the weights that fit."""
    if network is not None:
        return network.state_dict()
    with torch.device("meta"):  # memory only when they fit
        return networks.build(spec).state_dict()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an advex folder. Raises ArtifactError unless it is a JSON object of our schema."""
    path = folder / CONFIG
    if not os.path.isdir(folder):  # also where the name is too long for one
        raise ArtifactError(misnamed.sentence(str(folder), typed=False), absent=not os.path.exists(folder))
    if not path.is_file():
        raise ArtifactError(f"{folder} contains no {CONFIG}: it is not a saved classifier, or its run is unfinished.")
    config = read_json(path, f"a {CONFIG}", ArtifactError, largest=_LARGEST_CONFIG)
    if not isinstance(config, dict) or "schema_version" not in config:
        others = isinstance(config, dict) and not config.keys().isdisjoint(("model_type", "pretrained_cfg"))
        use = f"advex.from_pretrained({str(folder)!r}), or --model hf:{folder}"
        hint = f" It is a folder of transformers or timm: use {use}." if others else ""
        raise ArtifactError(f"{path} is not an advex {CONFIG} (no schema_version).{hint}")
    return upgraded(config, path, SCHEMA, {})


def checked_weights(folder: Path, config: dict[str, Any]) -> Path:
    """The weights file, once its hash agrees with the config. Raises ArtifactError."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ArtifactError(f"{folder} contains no {WEIGHTS}.")
    for candidate in (path, folder / _FORMER):
        if candidate.is_file() and _digest(candidate) == config.get("sha256"):
            return candidate
    raise ArtifactError(f"{path} is damaged or was replaced: its SHA-256 does not match {CONFIG}.")


def _keep_former(folder: Path) -> None:
    """Keep the weights that the present config names, unless an interrupted save has kept them already."""
    try:
        committed = _digest(folder / WEIGHTS) == read_config(folder).get("sha256")
    except (ArtifactError, OSError):
        return
    if committed:
        with atomic(folder / _FORMER) as former:
            shutil.copyfile(folder / WEIGHTS, former)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """config.json and model.safetensors, complete or not at all: a reader sees the old pair or the new one.

    Both are written beside their places and renamed, weights first. Until the config has followed, it
    names the hash of the former weights, which are kept until then under another name.
    Raises ArtifactError where a file is in the way, and when the disk does not take it.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; a classifier is saved as a folder. Choose another name.")
    if not folder.exists():
        with atomic_folder(folder) as new:
            _write_pair(new / WEIGHTS, new / CONFIG, config, tensors)
        return folder
    with atomic(folder / CONFIG) as new_config, atomic(folder / WEIGHTS) as new_weights:  # the latter comes first
        _write_pair(new_weights, new_config, config, tensors)
        _keep_former(folder)
    with contextlib.suppress(OSError):
        (folder / _FORMER).unlink(missing_ok=True)
    return folder


def _write_pair(weights: Path, config: Path, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, weights)
    except SafetensorError as error:  # which holds the system's error as text
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from None
    described = {**values, "schema_version": SCHEMA, "advex": __version__, "sha256": _digest(weights)}
    config.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    shutil.copymode(config, weights)  # safetensors makes files that only their owner can read


def weights_hash(classifier: Classifier) -> str:
    """SHA-256 of all that decides a classifier's answers: layers, weights, box, normalisation, choice of output."""
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(classifier.network)).encode())
    around = {name: getattr(classifier, name) for name in ("lower", "upper", "mean", "std")}
    for name, value in (classifier.network.state_dict() | around).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)  # one value has any stride
        digest.update(flat.view(torch.uint8).numpy().data)
    if classifier.binary or classifier.chosen is not None:
        digest.update(repr((classifier.binary, _written(classifier.chosen))).encode())
    if classifier.features is not None:  # which searches keep to
        digest.update(json.dumps(classifier.features.plain(), sort_keys=True).encode())
    return digest.hexdigest()


def _written(part: Any) -> Any:
    """What a function does, as far as it can be written down: its code, and the values that it takes along."""
    if isinstance(part, functools.partial):
        return _written(part.func), _written(part.args), _written(tuple(part.keywords.items()))
    if isinstance(part, CodeType):
        return part.co_code, part.co_names, _written(part.co_consts)
    if isinstance(part, FunctionType):
        taken = tuple(cell.cell_contents for cell in part.__closure__ or ())
        return _written(part.__code__), _written(part.__defaults__ or ()), _written(taken)
    if isinstance(part, tuple):
        return tuple(map(_written, part))
    if isinstance(part, Tensor):
        return tuple(part.shape), part.tolist()
    return re.sub(r"0x[0-9a-f]+", "", repr(part))

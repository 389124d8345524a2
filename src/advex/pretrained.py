"""Folders of transformers (`save_pretrained`) and of timm as classifiers, with class names, size and normalisation.

Read are config.json, model.safetensors and preprocessor_config.json, never code that lies beside them. VGG and ResNet
become networks of ours; other architectures are built by transformers (the extra `hub`).
"""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advex import networks
from advex.classifier import Classifier
from advex.contexts import own_context
from advex.data.dataset import counted
from advex.documents import read_json
from advex.errors import AdvexError, AdvexWarning, ArtifactError, SpecError, install_extra, quoted
from advex.files import as_path
from advex.networks import weight_names
from advex.networks.resnet import BLOCKS, BOTTLENECK
from advex.options import by_option

__all__ = ["PREFIX", "from_pretrained"]

PREFIX = "hf:"
_CONFIG, _WEIGHTS, _PICTURES = "config.json", "model.safetensors", "preprocessor_config.json"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
# Parts of the names and texts of its errors -> what they mean.
_OF_THE_HUB = {
    r"GatedRepo|\b403 Client": "the hub asks for a login or a permission for the model of that name",
    r"RepositoryNotFound|\b40[14] Client": "the hub has no public model of that name",
    "LocalEntryNotFound|Connect|Timeout|Offline|Resolution|SSL": "the hub cannot be reached from here",
}
_TIMM = re.compile(r"(?:(vgg)(11|13|16|19)(_bn)?|(se)?resnet(18|34|50|101|152))(?:\..*)?")
# What could name code, or weights that are no plain numbers.
_IGNORED = ("auto_map", "attn_implementation", "experts_implementation", "custom_pipelines")


@own_context()
@by_option()
def from_pretrained(
    folder: str | Path, *, mean: float | Sequence[float] | None = None, std: float | Sequence[float] | None = None
) -> Classifier:
    """The classifier in a folder that `save_pretrained` of transformers wrote, or timm's, in evaluation mode.

    folder: or, where there is none of that name, the id of a model of the hub, `OWNER/NAME`, whose configuration and
    safetensors huggingface_hub (the extra `hub`) has in its cache or fetches; nothing else of it. Class names,
    `input_shape` and normalisation are the folder's. mean, std: instead of the folder's; needed where it has no
    preprocessor_config.json. VGG and ResNet can be saved by `advex.save`.

    Raises ArtifactError for folders that hold something else, for weights that do not fit, and without transformers.
    """
    folder = as_path(folder, "The folder of advex.from_pretrained")
    folder = folder if folder.is_dir() else _fetched(str(folder))
    config = _read(folder, _CONFIG)
    try:
        is_timm = "pretrained_cfg" in config
        class_names = _class_names(config, is_timm)
        spec = _of_timm(config, folder) if is_timm else _of_transformers(config)
        if spec is None:
            network = _built_by_transformers(config, folder)
        else:
            weights, network = _weights(folder), networks.build(spec)
            weight_names.put(network, weight_names.read(weights, str(weights)), str(weights))
        own_mean, own_std, shape = (_pictures_of_timm if is_timm else _pictures)(config, folder)
        mean, std = own_mean if mean is None else mean, own_std if std is None else std
        if mean is None or std is None:
            raise ArtifactError(
                f"{folder} contains no {_PICTURES} that gives the normalisation of pictures. Set it: "
                "--mean M,... --std S,... (from_pretrained(folder, mean=..., std=...))."
            )
        classifier = Classifier(network, mean=mean, std=std, class_names=class_names)
    except ArtifactError:
        raise
    except (AdvexError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise ArtifactError(f"{folder} cannot be opened as a classifier: {error}") from None
    classifier.spec, classifier.input_shape = spec, shape
    return classifier.eval()


def _fetched(name: str) -> Path:
    """The folder of a model of the hub: its configuration and weights, never code. Raises ArtifactError."""
    by_hand = f"Download a model from the hub with hf download {name} --local-dir FOLDER, and open it as hf:FOLDER."
    if not _ID.fullmatch(name):
        raise ArtifactError(f"There is no folder {name}; an id on the hub has the form OWNER/NAME.", absent=True)
    if "/" in name and Path(name).parent.is_dir():
        raise ArtifactError(f"There is no folder {name}, although {Path(name).parent} exists. {by_hand}", absent=True)
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError:
        sentence = f"There is no folder {name}. Fetching a model from the hub needs huggingface_hub: "
        raise ArtifactError(f"{sentence}{install_extra('hub')} Or: {by_hand}", absent=True) from None
    try:
        fetched = Path(huggingface_hub.snapshot_download(name, allow_patterns=[_CONFIG, _WEIGHTS, _PICTURES]))
    except Exception as error:  # of the network, of a name that the hub does not have, of one that asks for a login
        raise ArtifactError(f"There is no folder {name}, and {_why_not(error)}. {by_hand}", absent=True) from None
    warnings.warn(f"{name} was fetched from the hub, revision {fetched.name}.", AdvexWarning, stacklevel=4)
    return fetched


def _why_not(error: Exception) -> str:
    """Why the hub returned nothing, in words."""
    names, cause = [], error
    while cause is not None and len(names) < 9:
        names += [kind.__name__ for kind in type(cause).__mro__]
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    for known, words in _OF_THE_HUB.items():
        if re.search(known, f"{' '.join(names)} {text}"):
            return words
    return f"the hub returned no model of that name: {quoted(text, 160)}"


def _read(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise ArtifactError(f"{folder} contains no {name}: it was not written by save_pretrained.", absent=True)
    values = read_json(folder / name, f"a {name}", ArtifactError, largest=4 * 2**20)
    if not isinstance(values, dict):
        raise ArtifactError(f"{folder / name} contains {type(values).__name__}, not an object.")
    return values


def _weights(folder: Path) -> Path:
    if not (folder / _WEIGHTS).is_file():
        pickle = next((path.name for path in sorted(folder.glob("*.bin"))), "")
        hint = ""
        if (folder / f"{_WEIGHTS}.index.json").exists():
            hint = ' Its weights are in several files: write it again with save_pretrained(max_shard_size="100GB").'
        elif pickle:
            hint = (
                f" {pickle} is a pickle, which can run code when opened: if you trust it, write the folder again "
                "with save_pretrained of transformers 5."
            )
        raise ArtifactError(f"{folder} contains no {_WEIGHTS}.{hint}")
    return folder / _WEIGHTS


# -- networks ------------------------------------------------------------------------------------------------


def _of_timm(config: dict[str, Any], folder: Path) -> str:
    name = str(config.get("architecture"))
    match = _TIMM.fullmatch(name)
    if match is None:
        raise ArtifactError(
            f"{folder} contains {quoted(name)} of timm; only VGG, ResNet and SE-ResNet of timm can be "
            "opened. For others use your own code: --model package.module:factory with timm.create_model "
            "inside, and --weights."
        )
    options = {"classes": int(config["num_classes"]), "channels": int(_timm_size(config)[0])}
    if match[1]:
        return _spec("vgg", depth=match[2], batch_norm=str(match[3] is not None).lower(), **options)
    return _spec("resnet", depth=match[5], se=str(match[4] is not None).lower(), **options)


def _of_transformers(config: dict[str, Any]) -> str | None:
    """The spec of our network for a ResNet; None for all else."""
    if config.get("model_type") != "resnet" or config.get("architectures") != ["ResNetForImageClassification"]:
        return None
    bottleneck = config.get("layer_type", "bottleneck") == "bottleneck"
    depths, sizes = tuple(config.get("depths", (3, 4, 6, 3))), list(config.get("hidden_sizes", (256, 512, 1024, 2048)))
    depth = next((d for d, counts in BLOCKS.items() if counts == depths and (d >= BOTTLENECK) == bottleneck), None)
    width, activation = config.get("embedding_size", 64), config.get("hidden_act", "relu")
    usual = sizes == [(4 if bottleneck else 1) * width << stage for stage in range(4)]
    other = config.get("downsample_in_bottleneck") or config.get("downsample_in_first_stage")
    if depth is None or not usual or other or activation not in ("relu", "silu", "gelu"):
        return None
    classes = len(config.get("id2label") or (0, 1))
    channels = config.get("num_channels", 3)
    return _spec("resnet", depth=depth, width=width, channels=channels, classes=classes, activation=activation)


def _spec(name: str, **options: Any) -> str:
    return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}"


def _built_by_transformers(config: dict[str, Any], folder: Path) -> nn.Module:
    kind, names = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str):
        raise ArtifactError(
            f"{folder / 'config.json'} has no model_type: it is not a transformers folder. Open a run folder "
            f"of advex with --model {folder}."
        )
    try:
        import transformers  # pyright: ignore[reportMissingImports]

        auto = importlib.import_module("transformers.models.auto.modeling_auto")
    except ImportError as error:
        raise ArtifactError(
            f"{folder} contains {quoted(str(kind))}, which needs transformers ({error}): {install_extra('hub')}"
        ) from None
    known = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(kind, ()) if isinstance(kind, str) else ()
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if name is None or name not in ((known,) if isinstance(known, str) else known):
        raise ArtifactError(
            f"{folder} contains {quoted(str(name or kind))}, which is not an image classifier of "
            f"transformers {transformers.__version__}. Code in a folder is never run."
        )
    if "quantization_config" in config or (folder / "adapter_config.json").exists():
        raise ArtifactError(f"{folder} contains quantised weights or an adapter: merge them and save plain weights.")
    plain = {key: value for key, value in config.items() if not key.startswith("_") and key not in _IGNORED}
    size = _weights(folder).stat().st_size
    try:
        make = getattr(transformers, name)
        settings = transformers.AutoConfig.for_model(**plain)
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in make(settings).parameters())
        if count > size:  # memory only for what the file can fill
            raise ArtifactError(
                f"{folder / _CONFIG} describes {count:,} parameters, but {_WEIGHTS} has {size:,} bytes."
            )
        with _silent(transformers.utils.logging):
            # Names of before are made those of now there. Eager attention has second derivatives on every device.
            network, report = make.from_pretrained(
                folder, config=settings, use_safetensors=True, local_files_only=True, trust_remote_code=False,
                attn_implementation="eager", dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, in our words
            )  # fmt: skip
    except AdvexError:
        raise
    except Exception as error:  # of a config that does not fit, anything
        reason = quoted(" ".join(str(error).split()), 300)
        raise ArtifactError(f"{folder} cannot be built by transformers ({type(error).__name__}): {reason}.") from None
    for label in ("missing", "unexpected", "mismatched"):
        if wrong := sorted(key if isinstance(key, str) else key[0] for key in report.get(f"{label}_keys") or ()):
            classes = f"{_CONFIG} describes a network of {counted(network.config.num_labels, 'class', 'classes')}"
            raise ArtifactError(
                f"{folder / _WEIGHTS} does not fit the network: {counted(len(wrong), f'{label} tensor')}, e.g. "
                f"{quoted(wrong[0])}; {classes}."
            )
    if bad := [name for name, values in network.state_dict().items() if not torch.isfinite(values).all()]:
        raise ArtifactError(f"{folder / _WEIGHTS} contains values that are NaN or infinite, in {quoted(bad[0])}.")
    return network


@contextlib.contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Inside, transformers shows no bar and reports nothing."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


# -- what belongs to them ------------------------------------------------------------------------------------


def _class_names(config: dict[str, Any], is_timm: bool) -> list[str] | None:
    key = "label_names" if is_timm else "id2label"
    names = config.get(key)
    if isinstance(names, dict):
        if missing := [number for number in range(len(names)) if str(number) not in names]:
            raise SpecError(
                f"{key} in {_CONFIG} names {len(names)} classes, but none is number {missing[0]}: number them from 0."
            )
        return [str(names[str(number)]) for number in range(len(names))] or None
    if names and not (is_timm and isinstance(names, list)):
        raise SpecError(f"{key} in {_CONFIG} must give class names by number, not a {type(names).__name__}.")
    return names or None


# Mean and std of pictures in [0, 1], and the shape of an input; None for what is not said.
_Said = tuple[list[float] | None, list[float] | None, tuple[int, ...] | None]


def _pictures(config: dict[str, Any], folder: Path) -> _Said:
    said = _read(folder, _PICTURES) if (folder / _PICTURES).is_file() else {}
    channels = int(config.get("num_channels", 3))
    size = (said.get("crop_size") if said.get("do_center_crop") else None) or said.get("size", config.get("image_size"))
    if isinstance(size, dict):
        size = [size["height"], size["width"]] if "height" in size else size.get("shortest_edge")
    side = [size, size] if isinstance(size, int) else size
    if side is not None and not (isinstance(side, list | tuple) and len(side) == 2):
        raise SpecError(f"the size in {_PICTURES} must be a number, or height and width, not {quoted(str(size))}.")
    shape = (channels, int(side[0]), int(side[1])) if side else None
    # The network is given ((255 factor x - offset) - mean) / std.
    rescaled, normalised = said.get("do_rescale", True), said.get("do_normalize", True)
    factor = 255 * said.get("rescale_factor", 1 / 255) if rescaled else 255
    offset = 1 if rescaled and said.get("rescale_offset") else 0
    mean, std = (said.get("image_mean"), said.get("image_std")) if normalised else (0.0, 1.0)
    if not said or mean is None or std is None:
        return None, None, shape
    mean, std = ([each] * channels if isinstance(each, int | float) else each for each in (mean, std))
    return [(offset + m) / factor for m in mean], [s / factor for s in std], shape


def _timm_size(config: dict[str, Any]) -> Sequence[int]:
    return config["pretrained_cfg"].get("input_size", (3, 224, 224))


def _pictures_of_timm(config: dict[str, Any], folder: Path) -> _Said:
    said = config["pretrained_cfg"]
    return said.get("mean"), said.get("std"), tuple(map(int, _timm_size(config)))

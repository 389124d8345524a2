"""Networks of torchvision and timm by their names, with weights from a file: `torchvision:resnet50`, `timm:NAME`.

torchvision's VGG and ResNet are networks of ours, with the same names of parameters; all others are made by the library
itself, where it can be imported. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from advex import networks
from advex.classifier import Classifier
from advex.data.dataset import counted
from advex.errors import AdvexWarning, SpecError
from advex.networks import weight_names

TORCHVISION, TIMM = PREFIXES = ("torchvision:", "timm:")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, as nearly all weights expect them
_SHAPE = (3, 224, 224)
_OURS = re.compile(r"(?:vgg(11|13|16|19)(_bn)?|resnet(18|34|50|101|152))")
_LAST = re.compile(r"(?:.*\.)?(?:fc|classifier(?:\.\d+)?|heads?(?:\.head|\.fc)?)\.weight")  # of the layer that answers


def opened(source: str, weights: Path | None, **around: Any) -> Classifier:
    """The network that `source` names, with the weights of a safetensors file.

    around: of the classifier, None where it is not said: mean and std are then those that timm notes, else ImageNet's,
    which is warned of. Raises SpecError for names that nobody has, without a file, and for one that does not fit.
    """
    if weights is None:
        raise SpecError(
            f"{source} names a network without weights: add --weights FILE.safetensors. Convert a .pth file "
            "with advex convert; for a save_pretrained folder use hf:FOLDER."
        )
    tensors = weight_names.read(weights, f"--weights {weights}")
    network = _network(source, _classes(tensors))
    for change in weight_names.put(network, tensors, f"--weights {weights}"):
        warnings.warn(f"--weights {weights}: {change}", AdvexWarning, stacklevel=2)
    classes = _classes(tensors)
    check_names(around.get("class_names"), classes)
    noted: Any = getattr(network, "pretrained_cfg", None) or {}
    usual = {"mean": MEAN, "std": STD}
    if guessed := [name for name in usual if around.get(name) is None and name not in noted]:
        what = " ".join(f"--{name} {','.join(map(str, usual[name]))}" for name in guessed)
        warnings.warn(f"{source}: no normalisation given; using {what} of ImageNet.", AdvexWarning, 2)
    around |= {name: list(noted.get(name, usual[name])) for name in usual if around.get(name) is None}
    classifier = Classifier(network, **around)
    classifier.spec = _ours(source, classes)
    classifier.input_shape = tuple(noted.get("input_size", _SHAPE))
    return classifier


def check_names(names: Sequence[str] | None, classes: int | None) -> None:
    """Raise SpecError for other than one name for each class of a network; None: not known."""
    if None not in (names, classes) and len(names or ()) != classes:
        raise SpecError(f"--classes: {counted(len(names or ()), 'name')} for a network of {classes} classes.")


def _classes(tensors: Mapping[str, Tensor]) -> int:
    """How many classes the last layer of a file answers; ImageNet's where it has no name that is known."""
    named = [len(values) for name, values in tensors.items() if _LAST.fullmatch(name)]
    return named[-1] if named else 1000


def _ours(source: str, classes: int) -> str | None:
    """The spec of the same network of ours; None where there is none."""
    match = _OURS.fullmatch(source.removeprefix(TORCHVISION))
    if match is None:
        return None
    if match[3]:
        return f"resnet:depth={match[3]},classes={classes}"
    return f"vgg:depth={match[1]},batch_norm={str(match[2] is not None).lower()},classes={classes}"


def _network(source: str, classes: int) -> nn.Module:
    if (spec := _ours(source, classes)) is not None:
        return networks.build(spec)
    library, _, name = source.partition(":")
    try:
        module = importlib.import_module("torchvision.models" if library == "torchvision" else library)
    except Exception as error:  # a library that does not suit torch raises what it likes
        ours = " (its VGG and ResNet come with advex)" if library == "torchvision" else ""
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
        raise SpecError(f"{source} needs {library}, which {why}{ours}.") from None
    try:
        if library == "torchvision":
            return module.get_model(name, weights=None, num_classes=classes)
        return module.create_model(name, pretrained=False, num_classes=classes)
    except Exception as error:  # the library's own, of any kind
        raise SpecError(f"{source}: {library} cannot make this network ({type(error).__name__}: {error}).") from None

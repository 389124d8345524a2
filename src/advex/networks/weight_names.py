"""Weights as others name them, put into a network: those of torchvision, timm and transformers, and of wrappers.

torchvision's names are those of our `vgg` and `resnet`. timm's ResNets and SE-ResNets have the same; its VGG has
convolutions for dense layers, `pre_logits` and `head`; transformers' ResNet has `embedder` and `encoder`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from advex.errors import SpecError, quoted

# Of DistributedDataParallel, Lightning and torch.compile.
_PREFIXES = ("module.", "model.", "_orig_mod.")
_BLOCK = r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\."
# Names of others -> ours. <n> is a group, {n} that number plus one. A name that the network has is left alone.
_RULES = {
    r"resnet\.embedder\.embedder\.convolution\.": "conv1.",
    r"resnet\.embedder\.embedder\.normalization\.": "bn1.",
    _BLOCK + r"shortcut\.convolution\.": "layer{1}.<2>.downsample.0.",
    _BLOCK + r"shortcut\.normalization\.": "layer{1}.<2>.downsample.1.",
    _BLOCK + r"layer\.(\d+)\.convolution\.": "layer{1}.<2>.conv{3}.",
    _BLOCK + r"layer\.(\d+)\.normalization\.": "layer{1}.<2>.bn{3}.",
    r"classifier\.1\.": "fc.",
    r"pre_logits\.fc1\.": "classifier.0.",
    r"pre_logits\.fc2\.": "classifier.3.",
    r"head\.fc\.": "classifier.6.",
}
_COUNTER = "num_batches_tracked"  # of batch norm, which files may leave away: evaluation has no use for it


def put(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> list[str]:
    """Load a file's tensors into a network, all of them or nothing, and say in sentences what was changed on the way.

    source: what is said of the file in errors. Raises SpecError, with the first names and shapes, where the tensors are
    not the network's, and for values that are NaN or infinite.
    """
    expected = network.state_dict()
    renamed, changes = _renamed(tensors, expected)
    if fault := misfit(renamed, expected):
        raise SpecError(f"{source} does not fit the network: {fault}.")
    if bad := [name for name, values in renamed.items() if not torch.isfinite(values).all()]:
        raise SpecError(f"{source} contains values that are NaN or infinite, in {quoted(bad[0])}.")
    network.load_state_dict(renamed)
    return changes


def read(path: Path, source: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises SpecError, which begins with `source`."""
    if not path.is_file():
        raise SpecError(f"{source}: there is no such file.")
    try:
        return load_file(path)
    except (SafetensorError, ValueError):
        reason = "it is empty" if not path.stat().st_size else "it has another format, or is truncated"
        raise SpecError(
            f"{source} is not a safetensors file: {reason}. Files written by torch.save (.pth, .pt, .bin) "
            "must be converted with advex convert; for a network of your own, where it was made, "
            "safetensors.torch.save_file(network.state_dict(), FILE) writes one."
        ) from None


def misfit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What keeps tensors from being those of a network, by the first names and shapes; empty where nothing does."""
    faults: dict[str, list[str]] = {"missing": [], "unknown": [], "of another shape": [], "of another type": []}
    for name, wanted in expected.items():
        if name not in tensors:
            faults["missing"].append(f"'{name}' of {_shape(wanted)}")
        elif tensors[name].shape != wanted.shape:
            given = _shape(tensors[name])
            faults["of another shape"].append(f"'{name}' is {given}, the network's {_shape(wanted)}")
        elif tensors[name].is_floating_point() != wanted.is_floating_point():
            faults["of another type"].append(f"'{name}' is {tensors[name].dtype}, the network's {wanted.dtype}")
    faults["unknown"] = [f"{quoted(name)} of {_shape(tensors[name])}" for name in tensors if name not in expected]
    return ", ".join(
        f"{len(names)} {label} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for label, names in faults.items()
        if names
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _renamed(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the network's names where these are known, and what was changed."""
    renamed, removed = dict(tensors), ""
    while prefix := next((each for each in _PREFIXES if _begin(renamed, each) and not _begin(expected, each)), ""):
        renamed = {name.removeprefix(prefix): values for name, values in renamed.items()}
        removed += prefix
    changes = [f"'{removed}' was removed from the names of {len(renamed)} tensors."] if removed else []
    ours = {name: name if name in expected else _ours(name) for name in renamed}
    if len(set(ours.values())) == len(ours):  # else two would become one
        count = sum(name != other for name, other in ours.items())
        renamed = {ours[name]: _fitted(values, expected.get(ours[name])) for name, values in renamed.items()}
        changes += [f"{count} tensors were renamed, e.g. {_example(ours)}."] if count else []
    counters = {name: value for name, value in expected.items() if name.endswith(_COUNTER) and name not in renamed}
    return renamed | counters, changes


def _begin(names: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def _ours(name: str) -> str:
    for pattern, other in _RULES.items():
        if match := re.match(pattern, name):
            for number, text in enumerate(match.groups(), 1):
                other = other.replace(f"<{number}>", text).replace(f"{{{number}}}", str(int(text) + 1))
            return other + name[match.end() :]
    return name


def _fitted(values: Tensor, wanted: Tensor | None) -> Tensor:
    """A dense layer's weights as those of the convolution that it is at one place, or the other way round."""
    if wanted is None or {values.ndim, wanted.ndim} != {2, 4} or values.numel() != wanted.numel():
        return values
    return values.reshape(wanted.shape) if len(values) == len(wanted) else values


def _example(names: Mapping[str, str]) -> str:
    name, other = next((name, other) for name, other in names.items() if name != other)
    return f"{quoted(name)} to {quoted(other)}"

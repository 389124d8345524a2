"""What is a valid input, and what is probably wrong with one that is not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advex import bundled, registry
from advex.contexts import refuse
from advex.errors import InputError, SpecError
from advex.features import FeatureSpec
from advex.geometry import Box


def check_wrapped(classifier: Any, name: str) -> None:
    """Raise InputError for a network alone, a name, or inputs. name: of what needs a classifier."""
    from advex.classifier import Classifier

    if isinstance(classifier, nn.Module) and not isinstance(classifier, Classifier):
        raise InputError(
            f"{name} needs a Classifier, because a network alone does not define its input range and "
            "normalisation: wrap it with advex.Classifier(network, mean=[...], std=[...], class_names=[...])."
        )
    if isinstance(classifier, str):
        raise InputError(f"{name} needs a Classifier, not its name: advex.load({classifier!r}) opens it.")
    if classifier is None or isinstance(classifier, Tensor | np.ndarray | Sequence):
        raise InputError(f"{name} needs a Classifier as its first argument, not {type(classifier).__name__}.")


def check_network(network: Any, logits: Any) -> None:
    """Raise InputError for what is no network that a classifier could be made of, or cannot choose its logits."""
    if logits is not None and not callable(logits):
        raise InputError(f"logits must be a function, such as lambda output: output[{logits!r}], not {logits!r}.")
    if isinstance(network, type):
        raise InputError(
            f"Classifier needs a network, not the class {network.__name__}: {network.__name__}(...) is one."
        )
    if isinstance(network, Mapping):
        raise InputError(
            "Classifier needs a network, not its weights: network.load_state_dict(...) puts them into one."
        )
    if not isinstance(network, nn.Module):
        hint = "Classifier.from_function(function, classes=...) takes a function"
        raise InputError(f"Classifier needs a torch.nn.Module or a spec string, not {network!r}: {hint}.")
    if empty := [name for name, each in network.named_parameters() if is_lazy(each) or each.is_meta]:
        raise InputError(
            f"The network's parameter '{empty[0]}' has no values yet: call a network with lazy layers once, "
            "network(torch.zeros(1, *SHAPE)), and load the weights of one on the device 'meta'."
        )


def network_of(spec: str) -> nn.Module:
    """A new network of a spec string. Raises SpecError, also for what is a saved classifier instead."""
    from advex import networks

    if spec.startswith(bundled.PREFIX) or (os.path.exists(spec) and spec not in registry.entries("network")):
        raise SpecError(f"Classifier makes a new network of a spec string: advex.load({spec!r}) opens a saved one.")
    return networks.build(spec)


def names_of(given: Any) -> tuple[str, ...] | None:
    """The names of classes as they are given. Raises InputError for what has no order, or is one name alone."""
    if given is None:
        return None
    if isinstance(given, str | Mapping | Set) or not isinstance(given, Iterable):
        hint = "list(NAMES.values()) of a dictionary by number" if isinstance(given, Mapping) else "['cat', 'dog']"
        raise InputError(
            f"class_names must be a list, one name per output of the network in their order, such as {hint}, not "
            f"{given!r}."
        )
    return tuple(map(str, given))


def limits_of(box: Any, features: FeatureSpec | None) -> Box:
    """The box of a classifier: as it was given, (0, 1) if None, or of the columns of a table.

    Raises InputError for both at once, and for what is not (lower, upper).
    """
    if features is not None:
        if box is not None:
            raise InputError("The features of a table already define its box: omit box.")
        return features.box()
    lower: Any
    upper: Any
    try:
        lower, upper = (0.0, 1.0) if box is None else box
    except (TypeError, ValueError):
        raise InputError(
            f"The classifier's box must be (lower, upper), such as (0, 1) or (0, 255), not {box!r}."
        ) from None
    return Box(lower, upper)


def numbers(value: Any, name: str) -> Tensor:
    """A number, a list or a tensor of them as a float64 tensor. name: of the option, for the InputError."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"The classifier's {name} must be a number, or a list of numbers, not {value!r}.") from None
    if not torch.isfinite(tensor).all():
        raise InputError(f"The classifier's {name} must be finite, not {value}.")
    return tensor


def check_inputs(
    x: Tensor, lower: Tensor, upper: Tensor, normalisation: Mapping[str, Tensor], types: tuple[torch.dtype, torch.dtype]
) -> None:
    """Raise InputError unless x [n, *shape] lies in the box and has the type and place that a classifier takes.

    lower, upper: the box, where the classifier is. normalisation: its mean and std. types: of it and of its network.
    """
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise InputError(f"Inputs must be tensors [n, *shape]; got {getattr(x, 'shape', type(x).__name__)}.")
    if not x.is_floating_point():
        hint = (
            "divide 8-bit images by 255"
            if x.dtype == torch.uint8
            else "for token ids pass the embeddings to a module that starts there; for numbers use x.float()"
        )
        raise InputError(f"Inputs must be floating point in data space, got {x.dtype}: {hint}.")
    if x.dtype not in types:
        raise InputError(f"The input is {x.dtype}, but the classifier is {types[0]}: use x.to(classifier.dtype).")
    if x.device != lower.device:
        raise InputError(
            f"The input is on {x.device}, but the classifier is on {lower.device}: use x.to(classifier.device)."
        )
    for name, channels in normalisation.items():
        if channels.ndim and len(channels) not in (1, x.shape[1]):
            cause = (
                "Grey and colour mixed up, or channels last"
                if x.ndim > 2
                else "Rows of a table for a model of pictures"
            )
            raise InputError(
                f"The input has {x.shape[1]} channels (axis 1 of {tuple(x.shape)}), but the classifier's "
                f"{name} has {len(channels)}. {cause}?"
            )
    if x.numel() == 0:
        return
    try:
        outside = torch.maximum((lower - x).amax(), (x - upper).amax())
    except RuntimeError:
        shapes = f"Inputs of shape {tuple(x.shape)} do not fit the box of shape {tuple(lower.shape)}"
        raise InputError(f"{shapes}.") from None
    refuse(~(outside <= 1e-6 * (1 + upper.abs().max())), lambda: _outside(x, lower, upper))  # also true for NaN


def _outside(x: Tensor, lower: Tensor, upper: Tensor) -> InputError:
    if not torch.isfinite(x).all():
        return InputError(f"The input contains {int((~torch.isfinite(x)).sum())} values that are NaN or infinite.")
    low, high = x.amin().item(), x.amax().item()
    bytes_like = high > 2 and low >= 0
    cause = "0..255 pixels: divide by 255" if bytes_like else "already normalised? The classifier does that"
    return InputError(
        f"Inputs must lie in the box [{lower.amin().item():g}, {upper.amax().item():g}], found "
        f"[{low:.4g}, {high:.4g}]. ({cause})"
    )


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One number, or one per channel, so that it broadcasts to x [n, channels, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 2)) if values.ndim else values

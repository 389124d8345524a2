"""What is a valid input, and what is probably wrong with one that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advex.contexts import refuse
from advex.errors import InputError


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
            raise InputError(
                f"The input has {x.shape[1]} channels (axis 1 of {tuple(x.shape)}), but the classifier's "
                f"{name} has {len(channels)}. Grey and colour mixed up, or channels last?"
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

"""How many digits torch keeps of float32: on GPUs it may round them to TF32 inside convolutions and products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from advex.errors import InputError


def _flags() -> tuple[Any, Any]:
    """Where torch keeps what it may do."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv, torch.backends.cuda.matmul


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Inside, no float32 is rounded to ten bits; afterwards everything is as it was."""
    before = {flag: flag.fp32_precision for flag in _flags()}
    try:
        for flag in before:
            flag.fp32_precision = "ieee"
        yield
    finally:
        for flag, former in before.items():
            flag.fp32_precision = former


def may_round_float32() -> bool:
    """Whether convolutions or matrix products on a GPU may use TF32."""
    return any(flag.fp32_precision == "tf32" for flag in _flags())


NO_BFLOAT16 = "This CPU has no instructions for bfloat16, which would take many times longer: using float32."


def lacking(bfloat16: bool, device: torch.device | str) -> dict[str, str]:
    """What an environment says where bfloat16 is wanted and a device has none; else nothing."""
    return {"bfloat16": "float32 in its place"} if bfloat16 and not has_bfloat16(torch.device(device)) else {}


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 saves time on a device: a CPU without instructions for it takes many times longer than in
    float32. True where torch cannot tell.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return True
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:
        return True


def check_space(lower: Tensor, upper: Tensor, mean: Tensor, std: Tensor) -> None:
    """Raise InputError unless a box and a normalisation are usable in the precision that they have come to."""
    precision = f"in {lower.dtype}".replace("torch.", "")
    for name, value in {"lower": lower, "upper": upper, "mean": mean, "std": std}.items():
        if not value.isfinite().all():
            raise InputError(f"The classifier's {name} is infinite {precision}.")
    ends = [(wall.amin() - mean) / std for wall in (lower, upper)]
    if not (std > 0).all() or not all(end.isfinite().all() for end in ends):
        raise InputError(
            f"std must be above 0 {precision}, and large enough for normalised inputs to be finite, not {std.tolist()}."
        )
    if not (lower < upper).all():
        raise InputError(f"The box is empty {precision}: lower {lower}, upper {upper}.")

"""Devices as named on the command line."""

from __future__ import annotations

import torch

from advex import processes
from advex.errors import SpecError


def device_named(text: str) -> str:
    """The name of a device that exists here; `auto` is CUDA where there is one, else the CPU. Raises SpecError.

    Of several copies of one command on a machine each takes the GPU of its own number.
    """
    if text == "auto" and not torch.cuda.is_available():
        return "cpu"
    if text in ("auto", "cuda") and torch.cuda.is_available():
        own = processes.on_this_machine() % torch.cuda.device_count()
        return f"cuda:{own}" if own else "cuda"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise SpecError(f"There is no device '{text}'. Known: auto, cpu, cuda, cuda:0, mps.") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise SpecError(f"This machine or this build of torch has no {device.type} device; use --device auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"There are {torch.cuda.device_count()} CUDA devices; '{text}' is not one of them.")
    return text

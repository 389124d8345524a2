"""Where asking costs: a GPU works through a queue, and who asks what has come of it waits until the queue is empty.

On a CPU each answer is there already. So searches there look in every step at what they know of their rows; on a GPU
they look now and then, and in between do what is right whatever the answer would be.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ASKED = 4  # on a GPU, in each of so many steps of a search once
_AT_ONCE = {"cpu"}  # devices that do what they are told before they return


def asking_waits(of: Tensor) -> bool:
    """Whether the host has to wait for a value of this tensor."""
    return of.device.type not in _AT_ONCE


def on_host(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Numbers by name, of tensors [] that are all asked for at once."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = torch.stack(list(tensors.values())).tolist() if tensors else []
    return {**values, **dict(zip(tensors, numbers, strict=True))}  # pyright: ignore[reportReturnType]


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on a device. To a GPU they go by way of pinned memory, so that nobody waits until they are there."""
    if torch.device(device).type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)

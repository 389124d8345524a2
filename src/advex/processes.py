"""A run spread over several processes (`torchrun`): what they must agree on. Alone, each of these does nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import Tensor, distributed


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Inside, this process is one of those that `torchrun` has started, if it has. Gives the device to work on."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or count() > 1:
        yield device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=30))
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        distributed.barrier()


def count() -> int:
    """How many processes work on this run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first, 0, is the one that writes and speaks."""
    return distributed.get_rank() if count() > 1 else 0


def total(values: Tensor) -> Tensor:
    """The sum over all processes; gradients, of any order, flow back to each of them."""
    if count() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values)


def largest(value: float) -> float:
    """The largest of the processes' numbers."""
    if count() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=_device())
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return shared.item()


def sums(values: list[float]) -> list[float]:
    """Each number summed over the processes."""
    if count() == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=_device())
    distributed.all_reduce(shared)
    return shared.tolist()


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"

"""A run spread over several processes (`torchrun`): what they must agree on. Alone, each of these does nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from advex.errors import AdvexError, SpecError
from advex.progress import number_in

# How long one waits for the others. One that has died is noticed at once; this is for one that hangs.
_PATIENCE = timedelta(hours=6)
# Gloo's threads need Python's lock to let go of the tensors of their last exchange. Where one still waits
# for it when Python ends, Python aborts. (torch 2.13: one of ten short runs.)
_LETTING_GO = 0.1
_ROOM = 62  # named numbers in one exchange


Value = TypeVar("Value")


class ProcessLost(AdvexError, ConnectionError):
    """Another process of the same run has ended."""


class Followed(Exception):
    """Another process of the same run has failed before this one, and says why; `__cause__` is this one's reason."""


def started() -> int:
    """How many processes `torchrun` has started, on all machines; 1 without it."""
    return max(number_in("WORLD_SIZE"), 1)


def on_this_machine() -> int:
    """The number of this copy among those on its machine."""
    return number_in("LOCAL_RANK", "SLURM_LOCALID")


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Inside, this process is one of those that `torchrun` has started, if it has. Gives the device to work on.

    device: "cpu"; "cuda", the GPU with this process's number on its machine; "auto", that where there is one.

    Of all processes that fail, the first raises what it met, the others Followed. Raises SpecError for
    other devices, for fewer GPUs than processes and where torchrun's settings are incomplete, ProcessLost
    when another process ended without a word.
    """
    if started() == 1 or count() > 1:
        yield device
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise SpecError(
            f"WORLD_SIZE={started()} says that this is one of several processes, but {missing[0]} is not "
            "set: start them with torchrun, or unset WORLD_SIZE."
        )
    from torch.distributed.rendezvous import rendezvous

    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    store, number, total = next(rendezvous("env://", timeout=_PATIENCE))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=distributed.PrefixStore("run", store),  # pyright: ignore[reportPrivateImportUsage]
        rank=number,
        world_size=total,
        timeout=_PATIENCE,
    )
    try:
        with lost_told():
            yield _own_gpu() if on_gpu else _cpu(device)
    except (Exception, KeyboardInterrupt) as error:
        if _first(store):
            raise
        raise Followed("another process of this run has failed before") from error
    finally:
        distributed.destroy_process_group()
        time.sleep(_LETTING_GO)


def _cpu(device: str) -> str:
    if device not in ("auto", "cpu"):
        raise SpecError(
            f"Several processes need --device cpu or cuda, not '{device}': each uses the GPU with its own "
            "number. Select GPUs with CUDA_VISIBLE_DEVICES."
        )
    return "cpu"


def _own_gpu() -> str:
    local, gpus = number_in("LOCAL_RANK"), torch.cuda.device_count()
    if local >= gpus:
        needed = number_in("LOCAL_WORLD_SIZE") or local + 1
        raise SpecError(f"{needed} processes on a machine with {gpus} GPUs: give --nproc-per-node={gpus}.")
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _first(store: Any) -> bool:
    """Whether no other process has asked this before. The store outlives the processes."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # the store is gone too
        return True


@contextlib.contextmanager
def lost_told() -> Iterator[None]:
    """What a process sees when another one is gone, as a sentence. Raises ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        signs = ("gloo", "nccl", "peer", "connection", "timed out")
        if count() > 1 and any(sign in str(error).lower() for sign in signs):
            raise ProcessLost(
                "Another process of this run has ended or cannot be reached, so this one ends too. The last "
                "checkpoint is kept: run the same command again to resume."
            ) from error
        raise


def line() -> distributed.ProcessGroup:
    """All processes again, with a line of their own: its order does not mix with that of everything else here.

    For DistributedDataParallel, which keeps its line open for good (torch 2.13): the threads of the line
    that all else uses end with `joined`.
    """
    return distributed.new_group(timeout=_PATIENCE)  # pyright: ignore[reportReturnType]


def wait() -> None:
    """Until all processes are here."""
    largest(0.0)


def count() -> int:
    """How many processes work on this run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first, 0, is the one that writes and speaks."""
    return distributed.get_rank() if count() > 1 else 0


def share() -> slice:
    """Which of the rows that all work on are this process's: dealt out one by one."""
    return slice(rank(), None, count())


def gathered(values: Tensor) -> Tensor:
    """What each process has, [processes, *shape], the same bits everywhere; gradients of any order flow back to all."""
    if count() == 1:
        return values[None]
    nothing = torch.zeros_like(values)
    return _Sum.apply(torch.stack([values if number == rank() else nothing for number in range(count())]))  # pyright: ignore


class _Sum(torch.autograd.Function):
    """The sum over all processes. What each does with the sum moves each one's part of it: a sum again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        with lost_told():  # here: a pass of a network that asks for this is not to blame
            distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore
        return _Sum.apply(gradient)  # pyright: ignore


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


def totals(values: Mapping[str, float]) -> dict[str, float]:
    """Each named number summed over those processes that have it: in one exchange, where all have the same names."""
    if count() == 1:
        return dict(values)
    names = sorted(values)
    # With the numbers goes one that stands for the names: equal everywhere if its mean, squared, is that of its square.
    mark = int.from_bytes(hashlib.blake2b("|".join(names).encode(), digest_size=4).digest()) % 2**20
    if len(names) > _ROOM:
        mark = rank()
    shared = sums([float(mark), float(mark**2), *([*(values[name] for name in names)] + [0.0] * _ROOM)[:_ROOM]])
    if round(shared[0]) ** 2 == count() * round(shared[1]):
        return dict(zip(names, shared[2:], strict=False))
    everyone = of_each(dict(values))
    named = dict.fromkeys(name for theirs in everyone for name in theirs)
    return {name: sum(theirs[name] for theirs in everyone if name in theirs) for name in named}


def of_each(value: Value) -> list[Value]:
    """What each process has; to be asked seldom."""
    if count() == 1:
        return [value]
    everyone: list[Any] = [None] * count()
    distributed.all_gather_object(everyone, value)
    return everyone


def same(text: str) -> bool:
    """Whether all processes ask with the same text."""
    number = float(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()))  # exact: 48 bits
    return largest(number) == -largest(-number)


def _device() -> str:
    return "cpu" if "gloo" in str(distributed.get_backend_config()) else "cuda"

"""Seeds per example: a row's noise depends on the seed and on the row, never on its neighbours.

So a result does not change with batch size, order, sharding or number of processes. A row is known by
its bytes (`normal`, `uniform`) or, where it has one, by its number in the data set (`uniform_for`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from advex.waits import sent

# SplitMix64: the step of its counter, and the two multipliers of its finaliser (as signed numbers).
_STEP, _FIRST, _SECOND = (0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def draw(seed: int, k: int) -> int:
    """The seed of the k-th of several draws, k below 2^20: no two seeds have one in common, as seed + k would."""
    return (seed << 20) + k


def generators(x: Tensor, seed: int, stream: str = "") -> list[torch.Generator]:
    """One CPU generator per row of x [n, ...], seeded by (seed, stream, the row's bytes; half precision in float32)."""
    salt = f"{seed}|{stream}|".encode()
    rows = x.detach().flatten(1).contiguous().cpu()
    rows = (rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows).numpy()
    digests = (hashlib.blake2b(salt + row.tobytes(), digest_size=8).digest() for row in rows)
    return [torch.Generator().manual_seed(int.from_bytes(digest) >> 1) for digest in digests]


def numbers(x: Tensor, seed: int) -> Tensor:
    """A number for each row of x [n, ...] by its bytes: [n] int64, for `uniform_for`."""
    return torch.tensor([generator.initial_seed() for generator in generators(x, seed)], device=x.device)


def _draw(x: Tensor, seed: int, stream: str, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
    noise = torch.empty(x.shape, dtype=torch.float32)
    for row, generator in zip(noise, generators(x, seed, stream), strict=True):
        fill(row, generator)
    return sent(noise, x.device).to(x.dtype)


def normal(x: Tensor, seed: int, stream: str = "") -> Tensor:
    """Standard normal noise in the shape of x [n, ...]."""
    return _draw(x, seed, stream, lambda row, generator: row.normal_(generator=generator))


def uniform(x: Tensor, seed: int, stream: str = "") -> Tensor:
    """Uniform noise in [0, 1) in the shape of x [n, ...]."""
    return _draw(x, seed, stream, lambda row, generator: row.uniform_(generator=generator))


def uniform_for(index: Tensor, seed: int, stream: str = "", columns: int = 1) -> Tensor:
    """Uniform numbers in [0, 1) for examples known by number: [n, columns] float32 on the device of `index`.

    index: [n] int64, any numbers. Row i follows from (seed, stream, index[i]) alone, and its first
    columns do not depend on how many there are. All at once and without a state: `index[i]` and a key
    hashed from seed and stream, mixed, are the seed of a SplitMix64 (Steele, Lea and Flood 2014), whose
    column-th output gives 24 bits. The same bits on every device.
    """
    digest = hashlib.blake2b(f"{seed}|{stream}|".encode(), digest_size=8).digest()
    rows = _mixed(index.to(torch.int64) ^ int.from_bytes(digest, signed=True))
    counters = torch.arange(1, columns + 1, device=index.device) * _STEP
    bits = _unsigned_shift(_mixed(rows[:, None] + counters), 40)
    return bits.to(torch.float32) * 2.0**-24


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64-bit integers (int64, wrapping) in which every bit moves every bit."""
    z = (z ^ _unsigned_shift(z, 30)) * _FIRST
    z = (z ^ _unsigned_shift(z, 27)) * _SECOND
    return z ^ _unsigned_shift(z, 31)


def _unsigned_shift(z: Tensor, bits: int) -> Tensor:
    """z shifted right, filled with zeros: torch's own shift of signed integers fills with the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)

"""Seeds per example: a row's noise depends on the seed and on the row, never on its neighbours.

So a result does not change with batch size, order, sharding or number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def generators(x: Tensor, seed: int, stream: str = "") -> list[torch.Generator]:
    """One CPU generator per row of x [n, ...], seeded by (seed, stream, the row's bytes)."""
    salt = f"{seed}|{stream}|".encode()
    rows = x.detach().flatten(1).contiguous().cpu().numpy()
    digests = (hashlib.blake2b(salt + row.tobytes(), digest_size=8).digest() for row in rows)
    return [torch.Generator().manual_seed(int.from_bytes(digest) >> 1) for digest in digests]


def _draw(x: Tensor, seed: int, stream: str, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
    noise = torch.empty(x.shape, dtype=torch.float32)
    for row, generator in zip(noise, generators(x, seed, stream), strict=True):
        fill(row, generator)
    return noise.to(x)


def normal(x: Tensor, seed: int, stream: str = "") -> Tensor:
    """Standard normal noise in the shape of x [n, ...]."""
    return _draw(x, seed, stream, lambda row, generator: row.normal_(generator=generator))


def uniform(x: Tensor, seed: int, stream: str = "") -> Tensor:
    """Uniform noise in [0, 1) in the shape of x [n, ...]."""
    return _draw(x, seed, stream, lambda row, generator: row.uniform_(generator=generator))

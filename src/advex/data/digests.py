"""Which examples a network was trained on, as digests: enough to know them again, and nothing else of them.

examples.safetensors   in a run folder: `digests`, [m] int64, sorted, each once; or `names`, the same of the examples'
                       names, where nothing of them was held
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from advex.data.kept import remembered
from advex.errors import ArtifactError
from advex.files import read_bytes, write_bytes

if TYPE_CHECKING:
    from advex.data.dataset import Dataset
    from advex.data.images.streamed import Streamed

FILE = "examples.safetensors"
_KEY, _NAMES = "digests", "names"
_LARGEST = 2**29  # bytes: 64 million examples


def digests(x: Tensor) -> np.ndarray:
    """[n] int64: of inputs [n, *shape] in data space, before any augmentation; bytes stand for themselves / 255.

    They depend on the values alone: whether these came as bytes or as floats, and in which order, does not matter.
    """
    shape = repr(tuple(x.shape[1:])).encode()

    def made() -> list[int]:
        each = (hashlib.blake2b(_plain(row), digest_size=8, key=shape[:64]).digest() for row in x.cpu().numpy())
        return np.frombuffer(b"".join(each), "<i8").tolist()

    return np.array(remembered(x, lambda: f"rows of {tuple(x.shape)}", made), "<i8")


def _plain(row: np.ndarray) -> bytes:
    """Bytes where the values are bytes / 255, else float32 (a zero has no sign)."""
    if row.dtype != np.uint8:
        levels = np.rint(row * 255)
        if not (levels.min() >= 0 and levels.max() <= 255 and (np.abs(row * 255 - levels) < 1e-4).all()):
            return (row.astype(np.float32) + np.float32(0)).tobytes()
        row = levels.astype(np.uint8)
    return row.tobytes()


def named(data: Dataset | Streamed) -> np.ndarray:
    """[n] int64: of the examples' ids and the name of the data, of whichever of its splits."""
    source = data.name.partition("/")[0]
    each = (hashlib.blake2b(f"{source}\0{id}".encode(), digest_size=8).digest() for id in data.ids)
    return np.frombuffer(b"".join(each), "<i8")


def write_digests(folder: Path, trained_on: Tensor | Streamed) -> None:
    """Leave the digests of the examples trained on in a run folder: of inputs, or of names. Raises ArtifactError."""
    from safetensors.numpy import save

    held = isinstance(trained_on, Tensor)
    values = {_KEY: digests(trained_on)} if held else {_NAMES: named(trained_on)}
    write_bytes(folder / FILE, save({key: np.unique(each) for key, each in values.items()}))


@dataclass(frozen=True)
class Known:
    """rows: [n] bool, whether each example was trained on. by_name: that is known of names alone, not of contents."""

    rows: Tensor
    by_name: bool = False


def known(data: Dataset, folder: Path) -> Known | None:
    """Which examples are among those that `write_digests` left in a run folder, or beside its best one.

    None where nothing was left. Raises ArtifactError for a file of something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = next((each / FILE for each in (folder, folder.parent) if (each / FILE).is_file()), None)
    if path is None or (path.parent != folder and folder.name != "best"):
        return None
    try:
        listed = load(read_bytes(path, _LARGEST, "a list of examples", ArtifactError))
        values, by_name = listed.get(_KEY, listed.get(_NAMES)), _KEY not in listed
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} cannot be read: {error}. Without it, the examples of the data are unknown."
        ) from None
    if values is None or values.ndim != 1 or values.dtype != np.int64 or (values[1:] <= values[:-1]).any():
        raise ArtifactError(f"{path} is not a list of examples: '{_KEY}' must contain increasing whole numbers.")
    return Known(torch.from_numpy(np.isin(named(data) if by_name else digests(data.x), values)), by_name)

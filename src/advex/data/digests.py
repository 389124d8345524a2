"""Which examples a network was trained on, as digests: enough to know them again, and nothing else of them.

examples.safetensors   in a run folder: `digests`, [m] int64, sorted, each once
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from torch import Tensor

from advex.errors import ArtifactError
from advex.files import read_bytes, write_bytes

FILE = "examples.safetensors"
_KEY = "digests"
_LARGEST = 2**29  # bytes: 64 million examples


def digests(x: Tensor) -> np.ndarray:
    """[n] int64: of inputs [n, *shape] in data space, before any augmentation; bytes stand for themselves / 255.

    They depend on the values alone: whether these came as bytes or as floats, and in which order, does not matter.
    """
    shape = repr(tuple(x.shape[1:])).encode()
    each = (hashlib.blake2b(_plain(row), digest_size=8, key=shape[:64]).digest() for row in x.cpu().numpy())
    return np.frombuffer(b"".join(each), "<i8")


def _plain(row: np.ndarray) -> bytes:
    """Bytes where the values are bytes / 255, else float32 (a zero has no sign)."""
    if row.dtype != np.uint8:
        levels = np.rint(row * 255)
        if not (levels.min() >= 0 and levels.max() <= 255 and (np.abs(row * 255 - levels) < 1e-4).all()):
            return (row.astype(np.float32) + np.float32(0)).tobytes()
        row = levels.astype(np.uint8)
    return row.tobytes()


def write_digests(folder: Path, x: Tensor) -> None:
    """Leave the digests of the examples trained on in a run folder. Raises ArtifactError."""
    from safetensors.numpy import save

    write_bytes(folder / FILE, save({_KEY: np.unique(digests(x))}))


def read_digests(folder: Path) -> np.ndarray | None:
    """What `write_digests` left in a run folder, or beside its best network; None where nothing was.

    Raises ArtifactError for a file of something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = next((each / FILE for each in (folder, folder.parent) if (each / FILE).is_file()), None)
    if path is None or (path.parent != folder and folder.name != "best"):
        return None
    try:
        values = load(read_bytes(path, _LARGEST, "a list of examples", ArtifactError)).get(_KEY)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}. Without it, nothing is known of its examples.") from None
    if values is None or values.ndim != 1 or values.dtype != np.int64 or (np.diff(values) <= 0).any():
        raise ArtifactError(f"{path} is not a list of examples: '{_KEY}' must be increasing whole numbers.")
    return values


def known(x: Tensor, trained_on: np.ndarray) -> np.ndarray:
    """[n] bool: whether each input is one of those trained on."""
    return np.isin(digests(x), trained_on)

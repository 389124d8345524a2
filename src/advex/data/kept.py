"""What is kept beside cached pixels, in small files. A damaged one is treated as if it did not exist."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from advex.documents import read_json
from advex.errors import ArtifactError, DataError
from advex.files import write_text

# Address of pixels that are mapped -> a file of what is remembered of them, and torch's count of their changes.
_remembering: dict[int, tuple[Path, int]] = {}
_mapped: list[Tensor] = []  # those pixels: while they are held, no others have their address


def remember(x: Tensor, file: Path) -> None:
    """Keep what is `remembered` of these pixels, as long as nobody changes them, in a file."""
    _remembering[x.data_ptr()] = (file, x._version)
    _mapped.append(x)


def remembered(x: Tensor, name: Callable[[], str], made: Callable[[], Any]) -> Any:
    """A plain value that is made of all pixels of x: where they are mapped only once, since reading all takes long.

    name: of the value; it must tell x from others that begin with the same pixels.
    """
    file, version = _remembering.get(x.data_ptr(), (None, 0))
    if file is None or x._version != version or not x.is_contiguous():
        return made()
    known, key = read_kept(file) or {}, name()
    if key not in known:
        known[key] = made()
        with contextlib.suppress(ArtifactError):  # a cache that is shared may be read-only
            write_kept(file, known)
    return known[key]


def write_kept(path: Path, values: dict[str, Any]) -> None:
    """Write plain values and their digest to a file. Raises ArtifactError."""
    write_text(path, json.dumps({"digest": _digest(values), "values": values}))


def read_kept(path: Path) -> dict[str, Any] | None:
    """The values that `write_kept` wrote to a file; None if it does not exist or is damaged."""
    try:
        kept = read_json(path, "what is kept of pictures", DataError, largest=2**30)
        values = kept["values"]
        return values if kept["digest"] == _digest(values) else None
    except (DataError, KeyError, TypeError):
        return None


def _digest(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()

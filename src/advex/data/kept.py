"""What is kept beside cached pixels, in small files. A damaged one is treated as if it did not exist."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from advex.documents import read_json
from advex.errors import DataError
from advex.files import write_text


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

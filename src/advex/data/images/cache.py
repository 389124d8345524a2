"""Pixels that are decoded once, for all runs and all processes: a file of them that is mapped, not held in memory.

Only where the environment variable ADVEX_CACHE names a folder, and for data that would take more than LEAST bytes. The
file is named by what decides the pixels: the data's files with their sizes and times, the split, the size, which rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advex.data.dataset import remember_digests
from advex.data.source import Passing, Reading, Source, files_below
from advex.data.window import Window
from advex.documents import read_json
from advex.errors import ArtifactError, DataError
from advex.files import at_home, write_text, writing
from advex.ownership import in_turn

LEAST = 2**28  # bytes of pixels from which on they are mapped
_FORM = 1


@dataclass(frozen=True)
class Decoded:
    """x: [n, channels, height, width] uint8. skipped, windows: by row, why there is none, and where it was cut."""

    x: torch.Tensor
    skipped: dict[int, str]
    windows: dict[int, Window]


class Ready(Exception):
    """Another process has decoded the same."""

    def __init__(self, decoded: Decoded) -> None:
        super().__init__()
        self.decoded = decoded


@dataclass(frozen=True)
class Cache:
    """Where the pixels of one reading are, or will be. path: of their file, without its suffix.

    A context: when it ends, other processes may decode them, and nothing is left unfinished.
    """

    path: Path
    _turn: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def of(cls, source: Source, split: str, how: Reading, order: np.ndarray) -> Cache | None:
        """None where no cache is wanted, or the source does not say which files it is made of."""
        folder = os.environ.get("ADVEX_CACHE")
        if not folder or source.root is None:
            return None
        root = str(source.root.resolve())
        said = [_FORM, how.source, root, split, how.size, how.channels, *_stamps(source.root)]
        digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(order).data)
        return cls(at_home(folder) / digest.hexdigest())

    @property
    def pixels(self) -> Path:
        """The file that is mapped."""
        return self.path.with_suffix(".pixels")

    def read(self) -> Decoded | None:
        """What is there; None where that is nothing, or not whole."""
        try:
            kept = read_json(self.path.with_suffix(".json"), "a description of pictures", DataError, largest=2**30)
            shape = tuple(kept["shape"])
        except (OSError, ValueError, KeyError, TypeError):  # ValueError: DataError, too
            return None
        if not self.pixels.is_file() or self.pixels.stat().st_size != np.prod(shape):
            return None
        # Copied where it is written to, which nothing does: torch knows no tensors that cannot be.
        x = torch.from_numpy(np.memmap(self.pixels, np.uint8, "c", shape=shape))
        remember_digests(x, self.path.with_suffix(".digests"))
        return Decoded(
            x=x,
            skipped={int(row): reason for row, reason in kept["skipped"].items()},
            windows={int(row): _window(values) for row, values in kept["windows"].items()},
        )

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        """[*shape] uint8 to decode into: a file. Waits for a process that decodes the same, and raises Ready after it.

        Raises ArtifactError where the disk has no room for it.
        """
        path, folder = self._unfinished, self.path.parent
        try:
            self._turn.enter_context(in_turn(folder, self.path.name, what="another process to decode these pictures"))
            self._turn.callback(self._clean)
            if (decoded := self.read()) is not None:
                raise Ready(decoded)
            with writing(path):
                with path.open("wb") as file:
                    if hasattr(os, "posix_fallocate"):  # a full disk is told here, and not by a signal later
                        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
                    else:
                        file.truncate(int(np.prod(shape)))
                return np.memmap(path, np.uint8, "r+", shape=shape)
        except ArtifactError as error:
            raise ArtifactError(f"{error} This folder is set by the environment variable ADVEX_CACHE.") from None

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._turn.close()

    def _clean(self) -> None:
        """Take away what is unfinished, of this process and of those that were killed, and the claim, which it has."""
        for path in self.path.parent.glob(f".{self.path.name}.*"):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def keep(self, pixels: np.ndarray, skipped: Mapping[int, str], windows: Mapping[int, Window]) -> torch.Tensor:
        """Keep what was decoded into `room`, of which `pixels` are the first rows; gives them as `read` does.

        Where a picture might be read at the next try, nothing is kept for it.
        """
        assert isinstance(pixels, np.memmap)
        shape = pixels.shape
        if any(isinstance(reason, Passing) for reason in skipped.values()):
            return torch.from_numpy(pixels)
        pixels.flush()
        try:
            os.truncate(self._unfinished, int(np.prod(shape)))
            os.replace(self._unfinished, self.pixels)
        except FileNotFoundError:  # taken away by a process that no lock kept from it
            return torch.from_numpy(pixels)
        about: dict[str, Any] = {
            "shape": shape,
            "skipped": {str(row): reason for row, reason in skipped.items()},
            "windows": {str(row): list(dataclasses.astuple(window)) for row, window in windows.items()},
        }
        write_text(self.path.with_suffix(".json"), json.dumps(about))
        decoded = self.read()
        assert decoded is not None
        return decoded.x

    @property
    def _unfinished(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{os.getpid():x}.new")


def _stamps(root: Path) -> Iterator[tuple[str, int, int, int]]:
    """Of all files below a folder, or of one file: name, size, and when it and what is known of it last changed."""
    for path in files_below(root) if root.is_dir() else [Path()]:
        try:
            about = (root / path).stat()
        except OSError:  # a link that leads nowhere: a picture that cannot be read, and is named as such
            yield str(path), -1, -1, -1
        else:
            yield str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _window(values: list[Any]) -> Window:
    of, *edges, size = values
    left, top, right, bottom = edges
    return Window(of=tuple(of), left=left, top=top, right=right, bottom=bottom, size=tuple(size))

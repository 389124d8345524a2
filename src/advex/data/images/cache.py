"""Pixels that are decoded once, for all runs and all processes: a file of them that is mapped, not held in memory.

Only where the environment variable ADVEX_CACHE names a folder, and for data that would take more than LEAST bytes. The
file is named by what decides the pixels: the data's files with their sizes and times, the split, the size, which rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from advex.claims import in_turn, unclaimed
from advex.data.kept import read_kept, remember, write_kept
from advex.data.source import Passing, Reading, Source, files_below
from advex.data.window import Window
from advex.errors import ArtifactError
from advex.files import at_home, beside, writing

LEAST = 2**28  # bytes of pixels from which on they are mapped
_FORM = 1
_OURS = re.compile(r"[0-9a-f]{32}\.(pixels|json|digests)")  # files of a cache that lies among the data


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
    _unfinished: list[Path] = field(default_factory=list)  # files to decode into; the last is the one in use

    @classmethod
    def of(cls, source: Source, split: str, how: Reading, order: np.ndarray) -> Cache | None:
        """None where no cache is wanted, or the source does not say which files it is made of."""
        folder = os.environ.get("ADVEX_CACHE")
        if not folder or source.root is None:
            return None
        root = source.root.resolve()
        said = [_FORM, PIL.__version__, how.source, str(root), split, how.size, how.channels]
        said += (stamp for stamp in _stamps(source.root) if not _OURS.fullmatch(os.path.basename(stamp[0])))
        digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(order).data)
        return cls(at_home(folder) / digest.hexdigest())

    @property
    def pixels(self) -> Path:
        """The file that is mapped."""
        return self.path.with_suffix(".pixels")

    def read(self) -> Decoded | None:
        """What is there; None where that is nothing, damaged, or not whole."""
        if (kept := read_kept(self.path.with_suffix(".json"))) is None:
            return None
        shape = tuple(kept["shape"])
        try:
            if self.pixels.stat().st_size != math.prod(shape):
                return None
            # Copied where it is written to, which nothing does: torch knows no tensors that cannot be.
            x = torch.from_numpy(np.memmap(self.pixels, np.uint8, "c", shape=shape))
        except OSError:
            return None
        remember(x, self.path.with_suffix(".digests"))
        return Decoded(
            x=x,
            skipped={int(row): reason for row, reason in kept["skipped"].items()},
            windows={int(row): _window(values) for row, values in kept["windows"].items()},
        )

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        """[*shape] uint8 to decode into: a file. Waits for a process that decodes the same, and raises Ready after it.

        If more channels turn out to be needed, it is called once more: what it gave before can still be read.
        Raises ArtifactError where the disk has no room for it, or something else lies in its place.
        """
        with _naming_the_option():
            if not self._unfinished:
                self._begin()
            path, size = beside(self.pixels), math.prod(shape)
            self._unfinished.append(path)
            with writing(path):
                with path.open("xb") as file:
                    if hasattr(os, "posix_fallocate"):  # a full disk is told here, and not by a signal later
                        os.posix_fallocate(file.fileno(), 0, size)
                    else:
                        file.truncate(size)
                return np.memmap(path, np.uint8, "r+", shape=shape)

    def _begin(self) -> None:
        """Wait until no other process decodes the same. Raises Ready where one has done so."""
        folder = self.path.parent
        if os.path.lexists(folder) and not folder.is_dir():
            raise ArtifactError(f"{folder} is no folder, and the cache needs one.")
        with writing(self.pixels):
            _clear(folder)
            self._turn.enter_context(in_turn(folder, self.path.name, what="another process to decode these pictures"))
            self._turn.callback(self._clean)
            if (decoded := self.read()) is not None:
                raise Ready(decoded)
            for path in (self.pixels, self.path.with_suffix(".json")):
                if path.is_dir():  # which could not be replaced, when all is decoded
                    raise ArtifactError(f"{path} is a folder, where the cache needs a file: remove it.")

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._turn.close()

    def _clean(self) -> None:
        """Take away what this process has not finished, and its claim."""
        for path in (*self._unfinished, self.path.with_name(f".{self.path.name}.lock")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def keep(self, pixels: np.ndarray, skipped: Mapping[int, str], windows: Mapping[int, Window]) -> torch.Tensor:
        """Keep what was decoded into `room`, of which `pixels` are the first rows; gives them as `read` does.

        Where a picture might be read at the next try, nothing is kept for it.
        """
        assert isinstance(pixels, np.memmap)
        if any(isinstance(reason, Passing) for reason in skipped.values()):
            return torch.from_numpy(pixels)
        pixels.flush()
        about: dict[str, Any] = {
            "shape": pixels.shape,
            "skipped": {str(row): reason for row, reason in skipped.items()},
            "windows": {str(row): list(dataclasses.astuple(window)) for row, window in windows.items()},
        }
        with _naming_the_option(), writing(self.pixels):
            try:
                os.truncate(self._unfinished[-1], pixels.size)
                os.replace(self._unfinished[-1], self.pixels)
            except FileNotFoundError:  # the folder has been emptied meanwhile
                return torch.from_numpy(pixels)
            write_kept(self.path.with_suffix(".json"), about)
        decoded = self.read()
        return torch.from_numpy(pixels) if decoded is None else decoded.x


@contextlib.contextmanager
def _naming_the_option() -> Iterator[None]:
    """An ArtifactError inside also says what sets the folder of the cache."""
    try:
        yield
    except ArtifactError as error:
        where = "--cache, or the environment variable ADVEX_CACHE"
        raise ArtifactError(f"{error} You can also choose another folder for the cache: {where}.") from None


def _clear(folder: Path) -> None:
    """Take away unfinished files that no process is at any more, where the file system has locks to tell."""
    for path in folder.glob(f".{'[0-9a-f]' * 32}.*.new"):
        if unclaimed(folder, path.name.split(".")[1]):
            with contextlib.suppress(OSError):  # another user's
                path.unlink(missing_ok=True)


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

"""Finished pieces of an evaluation on disk: written whole or not at all, never made twice.

Each piece is one Parquet file. It carries the digest of the evaluation that it belongs to, so that a
file of another one is never taken for it.

Any number of processes may work on one evaluation, on whatever machines see its folder. Each takes a piece by a lock
that the system frees when the process dies. No result hangs on the locks, only time: a piece is decided by what it is
of, and takes its place whole. At first each process leaves alone whatever another has begun, by a file that says so,
with locks or without; what is then still missing it takes by its lock alone, and where locks fail makes it twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from advex._version import __version__
from advex.artifacts import weights_hash
from advex.claims import Wait, claimed
from advex.classifier import Classifier
from advex.data.dataset import Dataset, fingerprint
from advex.documents import read_json
from advex.errors import AdvexWarning, ArtifactError
from advex.files import atomic, write_new
from advex.progress import until
from advex.record.tables import OWN_FILES

IDENTITY = "evaluation.json"
SCHEMA = 2  # of shards, not of records: what is in their tables, and what it means
_DIGEST, _SECONDS, _LACKS = b"advex.evaluation", b"advex.seconds", b"advex.lacks"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One shard's worth of work. kind: `predictions`, a search's name, ...; make: does the work."""

    model: str
    kind: str
    index: int
    examples: int
    make: Callable[[], pa.Table]


class Unfinished(ArtifactError):
    """A piece that is needed is not there: not yet, or somebody has taken it away."""


class _Taken(Exception):
    """Another process is making a piece."""


@dataclass(frozen=True)
class Shards:
    """The shards of one evaluation. folder: the record folder. digest: of what is evaluated. lacks: what those that are
    made here do without, as `precision.lacking` says it.
    """

    folder: Path
    digest: str
    lacks: dict[str, str] = field(default_factory=dict)

    def path(self, model: str, kind: str, index: int) -> Path:
        """Where a shard is, or will be."""
        return self.folder / "shards" / f"{file_name(model)}.{kind}.{index:05d}.parquet"

    def _mark(self, path: Path) -> bytes:
        return f"{self.digest} {path.name}".encode()

    def find(self, model: str, kind: str, index: int) -> pa.Table | None:
        """A finished shard, checked against its checksums; None where it has to be made (again, and says so)."""
        path = self.path(model, kind, index)
        if not path.is_file():
            return None
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
        except (OSError, pa.ArrowException) as error:
            reason = f"is damaged ({str(error).splitlines()[0]})"
        else:
            if (table.schema.metadata or {}).get(_DIGEST) == self._mark(path):
                return table
            reason = "belongs to another piece or evaluation"
        warnings.warn(f"{path} {reason}: it is computed again.", AdvexWarning, stacklevel=2)
        return None

    def read(self, model: str, kind: str, index: int = 0) -> pa.Table:
        """A shard that is known to be finished. Raises Unfinished where it is not, or has vanished since."""
        table = self.find(model, kind, index)
        if table is None:
            path = self.path(model, kind, index)
            raise Unfinished(f"{path} was removed or changed during the evaluation. Run it again.")
        return table

    def write(self, model: str, kind: str, index: int, table: pa.Table, seconds: float) -> None:
        """Keep a finished shard and the time it took."""
        path = self.path(model, kind, index)
        about = {_DIGEST: self._mark(path), _SECONDS: repr(seconds), _LACKS: json.dumps(self.lacks)}
        table = table.replace_schema_metadata(about)
        with atomic(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def lacking(self) -> dict[str, str]:
        """What the finished shards were made without, by whatever machines; and which share of them, if not all."""
        paths = [*self.path("", "", 0).parent.glob("*.parquet")]
        made = [json.loads((pq.read_schema(path).metadata or {}).get(_LACKS, b"{}")) for path in paths]
        said: dict[str, str] = {}
        for lacks in made:
            for name, text in lacks.items():
                number = sum(name in other for other in made)
                said[name] = text if number == len(made) else f"{text} in {number} of {len(made)} parts"
        return said

    def stoppable(self, stop: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
        """Inside, the next pass of a network raises Interrupted once `stop` says so."""
        return until(stop, f"Stopped. Finished parts are in {self.folder}; the same call resumes from there.")


def complete(
    shards: Shards, pieces: Sequence[Piece], progress: Callable[[dict[str, Any]], None], stop: Callable[[], bool]
) -> float:
    """`Maker.finish` of the pieces of one model and kind. Returns the seconds of all, in whatever run."""
    maker = Maker(shards, progress, stop)
    maker.finish(pieces)
    return maker.seconds


@dataclass(frozen=True)
class Maker:
    """The pieces of one evaluation, made by this process or others. took: seconds of each that is known to be there."""

    shards: Shards
    progress: Callable[[dict[str, Any]], None]
    stop: Callable[[], bool]
    took: dict[Path, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The seconds of all that are there, in whatever run and process."""
        return sum(self.took.values())

    def finish(self, pieces: Sequence[Piece]) -> None:
        """Make those of one model and kind that are not there, and wait for those that other processes are at."""
        wait = Wait()
        while left := self.tried(pieces, last=True):
            with self.shards.stoppable(self.stop):
                wait(f"another process to finish {left[0].model}: {left[0].kind} ({len(left)} of {len(pieces)})")

    def tried(self, pieces: Sequence[Piece], *, last: bool = False) -> list[Piece]:
        """Make those that are not there; returns those that other processes are at, or whose own needs are not there.

        last: what pieces need is there, or somebody has taken it away: raises Unfinished.
        progress: told after each, and before the first if that has to be made; `rate` is examples per second, None
        before, and where an earlier run or another process made it. Raises Interrupted before the next piece, or pass
        of a network, once `stop` says so: of a piece that is broken off nothing is kept.
        """
        total, done, left, announced = sum(piece.examples for piece in pieces), 0, [], False

        def tell(piece: Piece, rate: float | None = None) -> None:
            nonlocal announced
            announced = True
            self.progress({"phase": piece.kind, "model": piece.model, "done": done, "total": total, "rate": rate})

        for piece in pieces:
            path = self.shards.path(piece.model, piece.kind, piece.index)
            known = path in self.took
            try:
                if not known:
                    begins = (lambda piece: None) if announced else tell
                    self.took[path], rate = self._made(piece, path, begins, last)
            except (_Taken, Unfinished) as missing:
                if last and isinstance(missing, Unfinished):
                    raise
                left.append(piece)
                continue
            done += piece.examples
            if not known:
                tell(piece, rate)
        return left

    def _made(self, piece: Piece, path: Path, begins: Callable[[Piece], Any], last: bool) -> tuple[float, float | None]:
        """The seconds that a piece took, and its rate if it was made now. Raises _Taken where another is at it."""
        at = piece.model, piece.kind, piece.index
        finished = self.shards.find(*at)
        if finished is None:
            with claimed(path.parent, path.stem, fresh=not last) as ours:
                if not ours:
                    raise _Taken
                finished = self.shards.find(*at)  # it may have been finished just now
                if finished is None:
                    begins(piece)
                    began = time.perf_counter()
                    with self.shards.stoppable(self.stop):
                        table = piece.make()
                    took = time.perf_counter() - began
                    self.shards.write(*at, table, took)
                    return took, piece.examples / max(took, 1e-9)
        return float(finished.schema.metadata[_SECONDS]), None


def open_shards(
    out: Path, identity: dict[str, Any], resume: bool, upgrade: Callable[[dict[str, Any]], None] | None = None
) -> Shards:
    """The shards in `out`, which becomes the folder of this evaluation unless it is another's.

    identity: plain values that decide every result. upgrade: changes an identity as an earlier version wrote it into
    what it is called today, in place. Raises ArtifactError for a folder of another evaluation (saying what differs),
    of something else, one that may not be resumed or written.
    """
    path = out / IDENTITY
    if path.exists():
        digest = _agreed(path, identity, upgrade)
        if not resume:
            raise ArtifactError(f"{out} already contains this evaluation. Resume it, or choose another folder.")
        return Shards(out, digest)
    foreign = [name for name in OWN_FILES if (out / name).exists()]
    if foreign and not path.exists():  # another process may have begun this evaluation just now
        raise ArtifactError(f"{out} contains {', '.join(foreign)} but no {IDENTITY}: choose a new or empty folder.")
    try:
        write_new(path, json.dumps(identity, indent=1) + "\n")
    except OSError as error:
        raise ArtifactError(f"{out} cannot be written: {error.strerror}. Choose another folder.") from None
    return Shards(out, _agreed(path, identity, upgrade))


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _agreed(path: Path, identity: dict[str, Any], upgrade: Callable[[dict[str, Any]], None] | None) -> str:
    """The digest of the identity that a folder has. Raises ArtifactError where it is not `identity`."""
    try:
        owner = read_json(path, "the description of an evaluation", ArtifactError)
        digest, schema = _digest(owner), owner.get("schema", 1)
        if upgrade is not None:
            upgrade(owner)
        reasons = "; ".join(differing(owner, json.loads(json.dumps(identity))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path} does not describe an evaluation: {error}. Choose another folder.") from None
    if "schema" in identity and schema != identity["schema"]:
        raise ArtifactError(
            f"{path.parent} was started by another version of advex (schema {schema}), which this version "
            f"(schema {identity['schema']}) cannot resume. A finished record can be shown by advex report; "
            "choose another folder for a new one."
        )
    if reasons:
        raise ArtifactError(f"{path.parent} belongs to another evaluation: {reasons}. Choose another folder.")
    return digest


def differing(former: Any, present: Any, name: str = "") -> list[str]:
    """What differs between two descriptions, in words: `there` and `here`."""
    if isinstance(former, dict) and isinstance(present, dict):
        inside = ((f"{name}.{key}" if name else key, key) for key in sorted(former.keys() | present.keys()))
        return [line for inner, key in inside for line in differing(former.get(key), present.get(key), inner)]
    if former == present:
        return []
    if (isinstance(former, dict) or former is None) and (isinstance(present, dict) or present is None):
        return [f"{name} is {'there but not here' if present is None else 'here but not there'}"]
    return [f"{name} is {_short(former)} there and {_short(present)} here"]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = "missing" if value is None else text or "nothing"
    if re.fullmatch("[0-9a-f]{64}", text):  # a digest tells nothing; the end of a spec may be what differs
        return f"{text[:12]}..."
    return text if len(text) <= 300 else f"{text[:300]}..."


# -- what decides the results -----------------------------------------------------------------------------


_ASKED = 16  # examples by whose answers a function is known


def identity_of(values: dict[str, Any], data: Dataset, models: Mapping[str, Classifier]) -> dict[str, Any]:
    """What must agree for shards to be taken over. values: those of the request itself, e.g. its settings."""
    return {
        "advex": __version__,
        "schema": SCHEMA,
        **values,
        "data": {"examples": len(data), "digest": fingerprint(data)},
        "models": {name: weights_hash(classifier) + _answers(classifier, data) for name, classifier in models.items()},
    }


def _answers(classifier: Classifier, data: Dataset) -> str:
    """Of a function in a network's place, a digest of what it says of some examples: it has no weights to be known by.

    Its code says too little: a model may be fitted again under the same name.
    """
    if not hasattr(classifier.network, "function") or not len(data):
        return ""
    rows = range(0, len(data), max(1, len(data) // _ASKED))[:_ASKED]
    answers = classifier.predict(data.batch(list(rows)).x, max_batch=_ASKED)
    return f"-{hashlib.sha256(answers.cpu().numpy().tobytes()).hexdigest()[:16]}"


def file_name(name: str) -> str:
    """A model's name as part of a file's."""
    return quote(name, safe="")

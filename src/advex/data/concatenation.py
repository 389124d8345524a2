"""Several data sets end to end, each example traceable to where it came from."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from advex.data import evidence
from advex.data.dataset import Dataset, Origin, Part, Skipped, content, counted
from advex.data.source import shortened
from advex.errors import DataError, did_you_mean, quoted


def concatenate(first: Dataset, *others: Dataset) -> Dataset:
    """The examples of several data sets, in order, as one set with the classes of the first.

    Classes are matched by name: the others may know some of the first's, in any order. The ids of the
    first stay, those of the others get their set's name before them. `parts` says what was put
    together, `origins` where each example comes from; class counts, and so chance, are the first's.

    Raises DataError for inputs of another shape, a class that the first has not, and an example whose
    label is not that of the example of the first that it says it was made from.
    """
    if not others:
        return first
    parts, origins = _known_origins(first, first.name)
    ids = set(first.ids)
    x, y = [first.x], [first.y]
    names, notes, skipped = list(first.ids), list(first.notes), list(first.skipped)
    for other in others:
        _check_shape(first, other)
        labels = _labels(first, other)
        _check_labels(first, other, labels)
        name = _free_name(other, {part.name for part in parts}, ids)
        more_parts, more_origins = _known_origins(other, name, {part.name for part in parts})
        parts, origins = parts + more_parts, origins + more_origins
        added = [f"{name}/{each}" for each in other.ids]
        names += added
        ids.update(added)
        x.append(other.x)
        y.append(labels)
        notes += [f"{name}: {note}" for note in other.notes]
        skipped += [Skipped(f"{name}/{each.name}", each.reason) for each in other.skipped]
    if len({each.dtype for each in x}) > 1:  # bytes beside floats in data space: all become floats
        x = [each.float().div_(255) if each.dtype == torch.uint8 else each.float() for each in x]
    return Dataset(
        name=" + ".join([first.name, *(other.name for other in others)]),
        x=torch.cat(x),
        y=torch.cat(y),
        class_names=first.class_names,
        ids=tuple(names),
        skipped=tuple(skipped),
        counts=first.class_counts,
        notes=tuple(notes),
        parts=parts,
        origins=origins,
        weights=_weights([first, *others]),
        evidence=_evidence([first, *others]),
    )


def _weights(sets: list[Dataset]) -> Tensor | None:
    if all(each.weights is None for each in sets):
        return None
    return torch.cat([torch.ones(len(each)) if each.weights is None else each.weights for each in sets])


def _evidence(sets: list[Dataset]) -> evidence.Evidence | None:
    if all(each.evidence is None for each in sets):
        return None
    parts = [each.evidence or evidence.none_of(len(each)) for each in sets]
    return evidence.concatenate(parts, sets[0].shape[1:])


def untraced(added: Dataset, trained: Collection[str], held_out: Mapping[str, Collection[str]]) -> list[str]:
    """Ids of added examples of which nobody can tell whether they were made from a held-out one.

    Those are the ones whose `Origin.source_id` is empty, or is the id of no example of these data.

    trained: ids of the whole split that is trained on. held_out: the ids of each split that must not
    be learned from, by its name. An id that both have does not tell the splits apart: then the
    split that ends `Origin.source` decides. Raises DataError where a held-out example was used.
    """
    trained, held = set(trained), {split: set(ids) for split, ids in held_out.items()}
    leaked: list[str] = []
    unknown: list[str] = []
    for name, origin in zip(added.ids, added.origins or (None,) * len(added), strict=True):
        made_from = origin.source_id if origin is not None else ""
        splits = [split for split, ids in held.items() if made_from in ids]
        if made_from in trained:
            source = origin.source if origin is not None else ""
            splits = [split for split in splits if not source or source.endswith(f"/{split}")]
        elif not splits:
            unknown.append(name)
        leaked += [f"{name} from {quoted(made_from)} of {split}" for split in splits[:1]]
    if leaked:
        raise DataError(
            f"{added.name}: {counted(len(leaked), 'example')} of {len(added):,} made from held-out data "
            f"({shortened(leaked)}). Training on them would leak the test set. Remove them, or make them "
            "from the training split."
        )
    return unknown


def _known_origins(
    data: Dataset, name: str, taken: Collection[str] = ()
) -> tuple[tuple[Part, ...], tuple[Origin, ...]]:
    """The parts and origins of a data set, which it may lack while it is of one piece. name: of that piece."""
    if not (data.parts and data.origins):
        parts = (Part(name=name, examples=len(data), content=content(data)),)
        made_from = data.origins or (Origin(part=name, id=""),) * len(data)
        return parts, tuple(
            dataclasses.replace(each, part=name, id=id_) for each, id_ in zip(made_from, data.ids, strict=True)
        )
    taken = set(taken)
    renamed: dict[str, str] = {}
    for part in data.parts:
        wish = name if len(data.parts) == 1 else part.name
        renamed[part.name] = next(each for each in _candidates(wish) if each not in taken)
        taken.add(renamed[part.name])
    parts = tuple(dataclasses.replace(part, name=renamed[part.name]) for part in data.parts)
    return parts, tuple(dataclasses.replace(each, part=renamed[each.part]) for each in data.origins)


def _candidates(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _free_name(data: Dataset, taken: Collection[str], ids: Collection[str]) -> str:
    """The set's name, or the next that makes neither a part's name nor an example's id a second time."""
    return next(
        name
        for name in _candidates(data.name)
        if name not in taken and not any(f"{name}/{each}" in ids for each in data.ids)
    )


def _check_shape(first: Dataset, other: Dataset) -> None:
    if other.shape != first.shape:
        here, shape = ("x".join(map(str, each.shape)) for each in (other, first))
        raise DataError(
            f"{other.name}: its inputs are {here} (channels x height x width), but those of {first.name} are "
            f"{shape}. Data sets are joined without scaling: open or make both at the same size."
        )


def _labels(first: Dataset, other: Dataset) -> Tensor:
    """The labels of the other in the classes of the first. Raises DataError."""
    number = {_spelt(name): index for index, name in enumerate(first.class_names)}
    number |= {name: index for index, name in enumerate(first.class_names)}
    into = [number.get(name, number.get(_spelt(name), -1)) for name in other.class_names]
    lacking = [name for name, index in zip(other.class_names, into, strict=True) if index < 0]
    if lacking:
        label = other.class_names.index(lacking[0])
        of = [other.ids[row] for row in torch.nonzero(other.y == label)[:, 0].tolist()]
        raise DataError(
            f"{other.name}: {counted(len(lacking), 'class', 'classes')} unknown to {first.name}: "
            f"{shortened([*map(quoted, lacking)])}. For {quoted(lacking[0])} (examples: "
            f"{shortened(of) or 'none'}): {did_you_mean(lacking[0], first.class_names)}"
        )
    return torch.tensor(into, dtype=torch.int64)[other.y]


def _spelt(name: str) -> str:
    # Some systems decompose accents in the names of folders, and so of classes.
    return unicodedata.normalize("NFC", name)


def _check_labels(first: Dataset, other: Dataset, labels: Tensor) -> None:
    """Raise DataError for an example labelled otherwise than the one it was made from.

    Such a table was sorted by one column alone, or its ids are another data set's.
    """
    row_of = {name: row for row, name in enumerate(first.ids)}
    for row, origin in enumerate(other.origins):
        if origin.source != first.name or origin.source_id not in row_of:
            continue
        label = int(first.y[row_of[origin.source_id]])
        if label != labels[row]:
            raise DataError(
                f"{other.name}: {quoted(other.ids[row])} has the label "
                f"{quoted(first.class_names[int(labels[row])])}, but {quoted(origin.source_id)} of "
                f"{first.name}, from which it was made, has {quoted(first.class_names[label])}. Was a column "
                "of the table moved or sorted by itself?"
            )

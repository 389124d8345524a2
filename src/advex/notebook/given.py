"""Models and pictures as people have them: classifiers, names, arrays, files, data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from advex.classifier import Classifier
from advex.data import Dataset
from advex.data.source import Reading, Unreadable
from advex.data.window import Cut
from advex.errors import AdvexError, DataError, InputError, SpecError
from advex.explanation import Subject, from_data, from_pictures
from advex.explanation.rows import from_csv
from advex.explanation.subjects import Failure, from_memory
from advex.lookup.models import Opened, open_models
from advex.notebook.foreign import Columns, Examples, examples_of
from advex.notebook.pictures import is_empty, is_float, pixels_of, png_of
from advex.types import Batch

Model = Classifier | str | Path
Data = str | Path | Dataset | DataLoader[Any] | TorchDataset[Any] | Columns
Models = Model | Sequence[Model] | Mapping[str, Model]


def models_of(given: Models, device: str = "auto") -> list[Opened]:
    """Models ready to be asked.

    given: a classifier, what `--model` takes (a run folder, `builtin:NAME`, `package.module:factory`), several of
    these, or a dictionary of them by name. Raises SpecError for what is none of these, ArtifactError for a folder that
    is no saved classifier.
    """
    if isinstance(given, Mapping | list | tuple) and not given:
        raise SpecError("No model given.")
    if isinstance(given, Mapping):
        if not all(isinstance(name, str) for name in given):
            raise SpecError(f"Model names must be strings, not {', '.join(map(repr, given))}.")
        return [_opened(model, name, device) for name, model in given.items()]
    if isinstance(given, list | tuple):
        names = [f"model-{place}" if isinstance(each, nn.Module) else "" for place, each in enumerate(given, start=1)]
        return [_opened(each, name, device) for each, name in zip(given, names, strict=True)]
    return [_opened(given, "model" if isinstance(given, nn.Module) else "", device)]


def _opened(given: Any, name: str, device: str) -> Opened:
    if isinstance(given, Classifier):
        return Opened(name=name, source=f"{name}, a classifier in memory", classifier=given.eval())
    if isinstance(given, nn.Module):
        raise SpecError(
            "A network alone does not define its input range and normalisation: wrap it with "
            "advex.Classifier(network, box=(0, 1), mean=[...], std=[...], class_names=[...])."
        )
    if not isinstance(given, str | Path):
        raise SpecError(
            f"{type(given).__name__} is not a model: pass an advex.Classifier, or a name that --model accepts."
        )
    (opened,) = open_models([f"{name}={given}" if name else str(given)], device)
    return opened


def subjects_of(given: Any, model: Opened) -> list[Subject | Failure]:
    """What is to be explained.

    given: paths of pictures, of folders of them, or of CSV files; PIL pictures; arrays or tensors [channels, height,
    width] or several of them [n, ...] as the model takes them, of uint8 pictures of any size, with channels first or
    last; bytes of picture files; a `Dataset` or a `Batch`; a `DataLoader`, a data set of torch or of Hugging Face; or a
    sequence of these. Raises SpecError for what is none of these, InputError for a tensor that is not an input of the
    model, DataError for files.
    """
    if isinstance(given, Dataset):
        return [from_data(given, number) for number in range(len(given))]
    if isinstance(given, Batch):
        labels, names = given.y.tolist(), model.classifier.class_names
        return [
            Subject(name=f"input {place}", x=x, y=y, label=None if names is None else names[y])
            for place, (x, y) in enumerate(zip(given.x.detach(), labels, strict=True))
        ]
    if isinstance(given, str | Path):
        return _files([Path(given)], model)
    if isinstance(given, Image.Image | np.ndarray | Tensor) and is_empty(given):
        what, size = ("picture", given.size) if isinstance(given, Image.Image) else ("tensor", given.shape)
        raise SpecError(f"There is nothing to explain: the {what} is empty, of shape {list(size)}.")
    if isinstance(given, Image.Image | bytes | bytearray):
        return _pictures([given if isinstance(given, Image.Image) else bytes(given)], model)
    if isinstance(given, np.ndarray) and given.dtype.kind in "OUS":
        return subjects_of(given.tolist(), model)
    if isinstance(given, np.ndarray | Tensor):
        pixels = pixels_of(given) if model.input_shape is None or len(model.input_shape) > 1 else []
        return _pictures(pixels, model) if pixels else _tensors(torch.as_tensor(given), model)
    if (examples := examples_of(given)) is not None:
        return [_subject_of(examples, row, model) for row in range(examples.count)]
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int):  # of a data set
        raise SpecError(
            "An example is a pair of a picture and its class: pass data[i][0] to explain it without its class, or "
            "data[i:j] or the whole data set."
        )
    if isinstance(given, Iterator) and not hasattr(given, "read"):  # an open file is none
        raise SpecError(
            f"A {type(given).__name__} yields its pictures only once and may never end: pass a list of them, "
            "list(itertools.islice(PICTURES, 100))."
        )
    if not isinstance(given, Sequence):
        raise SpecError(
            f"{type(given).__name__} cannot be explained: pass paths, PIL pictures, arrays, tensors, a data "
            "set or a DataLoader."
        )
    if not given:
        raise SpecError("There is nothing to explain: the list is empty.")
    if all(isinstance(each, str | Path) for each in given):
        return _files([Path(each) for each in given], model)
    if all(isinstance(each, bytes) for each in given):
        return _pictures(given, model)
    several = [subject for each in given for subject in subjects_of(each, model)]
    return [_renamed(subject, place) for place, subject in enumerate(several)]


def _renamed(subject: Subject | Failure, place: int) -> Subject | Failure:
    if isinstance(subject, Subject) and subject.name == "input 0":
        return Subject(name=f"input {place}", x=subject.x, label=subject.label, y=subject.y, note=subject.note)
    return subject


def _subject_of(examples: Examples, row: int, model: Opened) -> Subject | Failure:
    """A row of another library's data, with its class; one that cannot be read does not lose the others."""
    name = f"input {row}"
    try:
        value = examples.read(row)
        if isinstance(value, Unreadable):
            raise DataError(f"{name} of {examples.name} cannot be read: {value}.")
        if is_float(value):
            (subject,) = _tensors(torch.as_tensor(value).detach().cpu().float(), model)
        else:
            held = examples.encoded(row)
            if isinstance(held, Unreadable | Cut):
                raise DataError(f"{name} of {examples.name} cannot be read as a picture: {held}.")
            if isinstance(held, Path):
                (subject,) = from_pictures([held], model.classifier, model.input_shape)
            else:
                held = (
                    held if isinstance(held, bytes) else png_of(held[0] if len(held) == 1 else held.transpose(1, 2, 0))
                )
                (subject,) = from_memory({name: held}, model.classifier, model.input_shape)
    except AdvexError as error:
        return Failure(name=name, error=error)
    if isinstance(subject, Failure) or examples.labels is None or examples.labels[row] < 0:
        return subject if isinstance(subject, Failure) else dataclasses.replace(subject, name=name)
    y, names = examples.labels[row], examples.class_names or model.classifier.class_names
    label = names[y] if names and y < len(names) else None
    return dataclasses.replace(subject, name=name, y=None if examples.occurring else y, label=label)


def data_of(
    given: Any, shape: Sequence[int] | None = None, class_names: Sequence[str] | None = None, *,
    max_samples: int | None = None, seed: int = 0,
) -> Dataset | None:  # fmt: skip
    """Another library's data as a data set of ours; None for what is none.

    shape: (channels, height, width) of the inputs wanted; None keeps the pictures' own. class_names: where the data do
    not say them. Raises SpecError and DataError.
    """
    examples = examples_of(given, max_samples)
    if examples is None:
        return None
    examples = examples.sample(max_samples, seed)
    wanted = tuple(shape) if shape is not None and len(shape) == 3 else (None, None, None)
    size = None if wanted[1] is None else (wanted[1], wanted[2])
    how = Reading(source=examples.name, size=size, channels=wanted[0])  # pyright: ignore
    return examples.dataset(how, class_names)


def _files(paths: Sequence[Path], model: Opened) -> list[Subject | Failure]:
    if model.classifier.features is not None:
        return from_csv(paths, model.classifier)
    return from_pictures(paths, model.classifier, model.input_shape)


def _pictures(pictures: Sequence[Any], model: Opened) -> list[Subject | Failure]:
    """Pictures in memory, read as files are: turned upright, scaled and cut alike."""
    encoded = {
        f"input {place}": each if isinstance(each, bytes) else png_of(each) for place, each in enumerate(pictures)
    }
    return from_memory(encoded, model.classifier, model.input_shape)


def _tensors(x: Tensor, model: Opened) -> list[Subject | Failure]:
    x = x.detach().cpu()
    shape, given = None if model.input_shape is None else tuple(model.input_shape), x.dtype
    if x.dtype == torch.uint8:
        x = x.float() / 255
    if tuple(x.shape) == shape or (shape is None and x.ndim == 3):
        x = x[None]
    if not x.is_floating_point() or (shape is not None and tuple(x.shape[1:]) != shape):
        wanted = "[n, channels, height, width]" if shape is None else f"[n, {', '.join(map(str, shape))}]"
        last = x.ndim in (3, 4) and x.shape[-1] in (1, 3) and x.shape[-3] not in (1, 3)
        order = "0, 3, 1, 2" if x.ndim == 4 else "2, 0, 1"
        hint = f" Are the channels last? Move them: torch.as_tensor(x).permute({order})." if last else ""
        raise InputError(
            f"A tensor {list(x.shape)} of {given} does not fit: the model needs floats {wanted} in its box.{hint}"
        )
    return [Subject(name=f"input {place}", x=each) for place, each in enumerate(x)]

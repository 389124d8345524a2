"""Models as named on the command line: run folders, bundled ones, transformers' and timm's, a factory of one's own."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advex import bundled, misnamed, pretrained
from advex.artifacts import FACTORY, load
from advex.classifier import Classifier
from advex.data import Dataset
from advex.documents import read_json
from advex.errors import AdvexError, AdvexWarning, SpecError
from advex.files import read_bytes
from advex.lookup import published
from advex.lookup.devices import device_named
from advex.networks import weight_names
from advex.registry import numbered

_MOST_NAMES = 2**24  # bytes of a file of class names


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """How to open a factory's network: see `advex.Classifier`. Texts as typed; None where not given."""

    weights: tuple[Path, ...] = ()
    box: str | None = None
    mean: str | None = None
    std: str | None = None
    classes: str | None = None

    def around(self, network: nn.Module) -> Classifier:
        """A classifier of a network, with box, normalisation and class names as typed. Raises SpecError, InputError."""
        said = self.said()
        mean, std = (usual if said[name] is None else said[name] for name, usual in (("mean", 0.0), ("std", 1.0)))
        return Classifier(network, **{**said, "mean": mean, "std": std})

    def said(self) -> dict[str, Any]:
        """Box, mean, std and class names; mean and std are None where they are not said. Raises SpecError."""
        low, high = _numbers(self.box or "0,1", "--box", count=2)
        return {
            "box": (low, high),
            "mean": None if self.mean is None else _numbers(self.mean, "--mean"),
            "std": None if self.std is None else _numbers(self.std, "--std"),
            "class_names": None if self.classes is None else _class_names(self.classes),
        }


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model ready to be asked. source: as typed."""

    name: str
    source: str
    classifier: Classifier

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Of one input, where its folder says it."""
        return self.classifier.input_shape


def open_models(named: Sequence[str], device: str = "auto", wrapping: Wrapping | None = None) -> list[Opened]:
    """The models of one or several --model options, with short names made unique. device: see `device_named`.

    Code is imported only for `package.module:factory`. Raises SpecError for what cannot be meant,
    ArtifactError for folders that are not saved classifiers.
    """
    device, wrapping = device_named(device), wrapping or Wrapping()
    sources = [_split_name(text) for option in named for text in _split(option)]
    for _, source in sources:
        _check_name(source)
    factories = [source for _, source in sources if _is_factory(source)]
    normalisable = any(source.startswith(pretrained.PREFIX) for _, source in sources)
    inside = dataclasses.replace(wrapping, mean=None, std=None) if normalisable else wrapping
    if inside != Wrapping() and not factories:
        raise SpecError(
            "--weights, --box, --mean, --std and --classes are for --model package.module:factory (--mean "
            "and --std also for hf:FOLDER); a run folder already contains them."
        )
    if wrapping.weights and len(wrapping.weights) != len(factories):
        raise SpecError(
            f"There are {len(wrapping.weights)} --weights for {len(factories)} factories; give one for each."
        )
    weights = iter(wrapping.weights)
    opened = []
    names = numbered([name for name, _ in sources])
    for (_, source), name in zip(sources, names, strict=True):
        if source.startswith(published.PREFIXES):
            classifier = published.opened(source, next(weights, None), **wrapping.said())
        elif _is_factory(source):
            classifier = _from_factory(source, next(weights, None), wrapping)
        elif source.startswith(pretrained.PREFIX):
            said = wrapping.said()
            classifier = pretrained.from_pretrained(
                source.removeprefix(pretrained.PREFIX), mean=said["mean"], std=said["std"]
            )
        else:
            classifier = load(source if source.startswith(bundled.PREFIX) else _run_folder(source))
        opened.append(Opened(name=name, source=source, classifier=classifier.to(device).eval()))
    return opened


def of_one_table(models: Sequence[Opened]) -> Classifier:
    """The model whose columns and classes are those of all. Raises SpecError where models of tables differ in them."""
    first, *others = models
    for other in others:
        if other.classifier.features != first.classifier.features:
            raise SpecError(
                f"{first.name} and {other.name} were not trained on a table of the same columns: evaluate "
                "them separately."
            )
    return first.classifier


def in_order_of(models: Sequence[Opened], data: Dataset) -> Dataset:
    """The data with their classes in the order in which the models know classes of the same names.

    Raises SpecError where models know them in several orders, of which none would be that of all figures.
    """
    known, own = {each.classifier.class_names or () for each in models}, data.class_names
    orders = {names for names in known if sorted(names) == sorted(own)}
    if orders <= {own} or len(set(own)) < len(own):
        return data
    if len(orders) > 1:
        raise SpecError("The models know the same classes in different orders: evaluate them separately.")
    (names,) = orders
    y = torch.tensor([names.index(name) for name in own])[data.y]
    counts = tuple(data.class_counts[own.index(name)] for name in names)
    return dataclasses.replace(data, class_names=names, y=y, counts=counts)


def _split(option: str) -> list[str]:
    """`a,b` -> [a, b]; a folder whose name holds a comma stays whole."""
    if option and Path(option.removeprefix(pretrained.PREFIX)).exists():
        return [option]
    parts = [part.strip() for part in option.split(",")]
    if not all(parts):
        raise SpecError(f"--model '{option}': an empty name between commas.")
    return parts


def _split_name(text: str) -> tuple[str, str]:
    """`name=source`, or a name from the source's last part."""
    name, equals, source = text.partition("=")
    if equals and ":" not in name and not Path(text).exists():
        if not name or not source:
            raise SpecError(f"--model '{text}': write NAME=FOLDER.")
        return name, source
    if text.startswith(bundled.PREFIX) or _is_factory(text):
        return text.rpartition(":")[2], text
    return Path(text.removeprefix(pretrained.PREFIX)).resolve().name, text


def _check_name(source: str) -> None:
    """Raise SpecError for a prefix without a name, and for code that is named by its file."""
    if source in (bundled.PREFIX, pretrained.PREFIX, *published.PREFIXES):
        raise SpecError(f"--model '{source}': a name must follow, e.g. {source}NAME.")
    file, colon, name = source.rpartition(":") if ".py:" in source else (source, "", "NAME")
    if file.endswith(".py") and not Path(source).is_dir():
        module = f"{Path(file).stem}:{name or 'NAME'}"
        raise SpecError(f"--model '{source}': name the module, not its file: --model {module} in the file's folder.")


def _is_factory(source: str) -> bool:
    return source.startswith(published.PREFIXES) or (
        not source.startswith((bundled.PREFIX, pretrained.PREFIX))
        and bool(FACTORY.fullmatch(source))
        and not Path(source).exists()
    )


def _run_folder(source: str) -> Path:
    path = Path(source)
    if not path.is_dir():
        raise SpecError(misnamed.sentence(source, typed=True))
    return path


# -- a factory of the user's own -----------------------------------------------------------------------------


def _from_factory(source: str, weights: Path | None, wrapping: Wrapping) -> Classifier:
    network = _call(source)
    if weights is not None and weights.is_dir():
        if isinstance(network, Classifier) or dataclasses.replace(wrapping, weights=()) != Wrapping():
            raise SpecError(
                f"--weights {weights} is a saved classifier, which already contains box, mean, std and classes."
            )
        return load(weights, network=network)
    if isinstance(network, Classifier):
        if wrapping.box or wrapping.mean or wrapping.std or wrapping.classes:
            raise SpecError(f"{source} returns a Classifier, which already contains box, mean, std and classes.")
        classifier = network
    else:
        classifier = wrapping.around(network)
    if weights is not None:
        source = f"--weights {weights}"
        for change in weight_names.put(classifier.network, weight_names.read(weights, source), source):
            warnings.warn(f"{source}: {change}", AdvexWarning, stacklevel=3)
    return classifier


def _call(source: str) -> Any:
    """Import the named module (the working folder counts) and call the factory, unless it is a network itself."""
    module_name, _, path = source.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = importlib.import_module(module_name)
        for part in path.split("."):
            factory = getattr(factory, part)
        if not isinstance(factory, nn.Module) and not callable(factory):
            kind = type(factory).__name__
            raise SpecError(f"{source} is of type {kind}; name an nn.Module, or a function or class that gives one.")
        network = factory if isinstance(factory, nn.Module) else factory()
    except AdvexError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise SpecError(f"{source} cannot be used as a model ({type(error).__name__}: {error}).") from error
    if not isinstance(network, nn.Module):
        raise SpecError(f"{source} returned {type(network).__name__}; a factory returns an nn.Module or a Classifier.")
    return network


def _class_names(text: str) -> list[str]:
    """`A,B`, or a file: see `_names_in`. Raises SpecError."""
    path = Path(text)
    if path.is_file() or path.suffix in (".txt", ".json"):
        return _names_in(path)
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2:  # no classifier has a single class
        raise SpecError(f"--classes '{text}': there is no such file. Names are separated by commas: A,B.")
    if not all(names):
        raise SpecError(f"--classes '{text}': class {names.index('')} (from 0) has no name.")
    return names


def _names_in(path: Path) -> list[str]:
    """A name in each line; or JSON: a list, names by number ({"0": "cat"}; of several the last), numbers by name."""
    if not path.is_file():
        raise SpecError(f"--classes {path}: there is no such file.")
    if path.suffix in (".csv", ".tsv"):
        raise SpecError(f"--classes {path} is a table; give a .txt file with one name per line, or a .json file.")
    if path.suffix != ".json":
        text = read_bytes(path, _MOST_NAMES, "a list of class names", SpecError).decode("utf-8-sig", "replace")
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise SpecError(f"--classes {path} contains no names; write one per line.")
        return names
    names = read_json(path, "a list of class names", SpecError, largest=_MOST_NAMES)
    if isinstance(names, dict):
        if all(isinstance(number, int) for number in names.values()):
            names = {str(number): name for name, number in names.items()}
        names = [names.get(str(number)) for number in range(len(names))]
    if isinstance(names, list):  # imagenet_class_index.json: ["n01440764", "tench"]
        names = [name[-1] if isinstance(name, list) and name else name for name in names]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise SpecError(
            f"{path} must contain a list of class names, or an object that maps class indices, from 0, to names."
        )
    return names


def _numbers(text: str, option: str, count: int | None = None) -> Any:
    """`0.5` -> 0.5; `0.4,0.5,0.6` -> [0.4, 0.5, 0.6]."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"{option} '{text}' must be numbers separated by commas.") from None
    if count is not None and len(numbers) != count:
        raise SpecError(f"{option} needs {count} numbers, not {len(numbers)}: '{text}'.")
    return numbers if count or len(numbers) > 1 else numbers[0]

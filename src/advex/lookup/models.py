"""Models as named on the command line: run folders, bundled ones, or a factory of the user's own."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advex import bundled
from advex.artifacts import load, read_config
from advex.classifier import Classifier
from advex.errors import AdvexError, SpecError
from advex.lookup.devices import device_named
from advex.registry import numbered

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """How to open a factory's network: see `advex.Classifier`. Texts as typed; None where not given."""

    weights: tuple[Path, ...] = ()
    box: str | None = None
    mean: str | None = None
    std: str | None = None
    classes: str | None = None

    @classmethod
    def of(
        cls, weights: Sequence[Path] | None, box: str | None, mean: str | None, std: str | None, classes: str | None
    ) -> Wrapping:
        """As the options are typed."""
        return cls(weights=tuple(weights or ()), box=box, mean=mean, std=std, classes=classes)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model ready to be asked. source: as typed. input_shape: of one input, where a run folder says it."""

    name: str
    source: str
    classifier: Classifier
    input_shape: tuple[int, ...] | None = None


def open_models(named: Sequence[str], device: str = "auto", wrapping: Wrapping | None = None) -> list[Opened]:
    """The models of one or several --model options, with short names made unique. device: see `device_named`.

    Code is imported only for `package.module:factory`. Raises SpecError for what cannot be meant,
    ArtifactError for folders that are not saved classifiers.
    """
    device, wrapping = device_named(device), wrapping or Wrapping()
    sources = [_split_name(text) for option in named for text in _split(option)]
    factories = [source for _, source in sources if _is_factory(source)]
    if wrapping != Wrapping() and not factories:
        raise SpecError(
            "--weights, --box, --mean, --std and --classes belong to --model package.module:factory; a run folder has "
            "them inside."
        )
    if wrapping.weights and len(wrapping.weights) != len(factories):
        raise SpecError(
            f"There are {len(wrapping.weights)} --weights for {len(factories)} factories; give one for each."
        )
    weights = iter(wrapping.weights)
    opened = []
    names = numbered([name for name, _ in sources])
    for (_, source), name in zip(sources, names, strict=True):
        if _is_factory(source):
            classifier, shape = _from_factory(source, next(weights, None), wrapping), None
        else:
            folder = bundled.folder(source) if source.startswith(bundled.PREFIX) else _run_folder(source)
            classifier, shape = load(folder), _input_shape(folder)
        opened.append(Opened(name=name, source=source, classifier=classifier.to(device).eval(), input_shape=shape))
    return opened


def of_one_table(models: Sequence[Opened]) -> Classifier:
    """The model whose columns and classes are those of all. Raises SpecError where models of tables differ in them."""
    first, *others = models
    for other in others:
        if other.classifier.features != first.classifier.features:
            raise SpecError(
                f"{first.name} and {other.name} were not trained on a table of the same columns: evaluate them apart."
            )
    return first.classifier


def _split(option: str) -> list[str]:
    """`a,b` -> [a, b]; a folder whose name holds a comma stays whole."""
    if Path(option).exists():
        return [option]
    parts = [part.strip() for part in option.split(",")]
    if not all(parts):
        raise SpecError(f"--model '{option}': an empty name between commas.")
    return parts


def _split_name(text: str) -> tuple[str, str]:
    """`name=source`, or a name from the source's last part."""
    name, equals, source = text.partition("=")
    if equals and not Path(text).exists():
        if not name or not source:
            raise SpecError(f"--model '{text}': write NAME=FOLDER.")
        return name, source
    if text.startswith(bundled.PREFIX) or _is_factory(text):
        return text.rpartition(":")[2], text
    return Path(text).resolve().name, text


def _is_factory(source: str) -> bool:
    return not source.startswith(bundled.PREFIX) and bool(_FACTORY.fullmatch(source)) and not Path(source).exists()


def _run_folder(source: str) -> Path:
    if source in bundled.names() and not Path(source).exists():
        raise SpecError(f"There is no folder '{source}'; the bundled model of that name is {bundled.PREFIX}{source}.")
    return Path(source)


def _input_shape(folder: Path) -> tuple[int, ...] | None:
    shape = read_config(folder).get("input_shape")
    if isinstance(shape, list) and shape and all(isinstance(size, int) and size > 0 for size in shape):
        return tuple(shape)
    return None


# -- a factory of the user's own -----------------------------------------------------------------------------


def _from_factory(source: str, weights: Path | None, wrapping: Wrapping) -> Classifier:
    network = _call(source)
    if isinstance(network, Classifier):
        if wrapping.box or wrapping.mean or wrapping.std or wrapping.classes:
            raise SpecError(f"{source} returns a Classifier, which has its own --box, --mean, --std and --classes.")
        classifier = network
    else:
        low, high = _numbers(wrapping.box or "0,1", "--box", count=2)
        names = None if wrapping.classes is None else [name.strip() for name in wrapping.classes.split(",")]
        classifier = Classifier(
            network,
            box=(low, high),
            mean=_numbers(wrapping.mean or "0", "--mean"),
            std=_numbers(wrapping.std or "1", "--std"),
            class_names=names,
        )
    if weights is not None:
        _put_weights(classifier, weights)
    return classifier


def _call(source: str) -> Any:
    """Import the named module (the working folder counts) and call the factory without arguments."""
    from torch import nn

    module_name, _, path = source.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = importlib.import_module(module_name)
        for part in path.split("."):
            factory = getattr(factory, part)
        network = factory()
    except AdvexError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise SpecError(f"{source} cannot be used as a model ({type(error).__name__}: {error}).") from error
    if not isinstance(network, nn.Module):
        raise SpecError(f"{source} returned {type(network).__name__}; a factory returns an nn.Module or a Classifier.")
    return network


def _put_weights(classifier: Classifier, path: Path) -> None:
    """Load a safetensors file into the network, all of it or nothing."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise SpecError(f"--weights {path}: there is no such file.")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise SpecError(f"--weights {path} is not a safetensors file: {error}.") from None
    expected = {name: tuple(value.shape) for name, value in classifier.network.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if shapes != expected:
        missing, unknown = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
        differing = [name for name in expected if name in shapes and shapes[name] != expected[name]]
        faults = [f"{len(what)} {label} (e.g. '{what[0]}')" for what, label in (
            (missing, "missing"), (unknown, "unknown"), (differing, "of another shape")) if what]  # fmt: skip
        raise SpecError(f"--weights {path} does not fit the network: tensors {', '.join(faults)}.")
    classifier.network.load_state_dict(tensors)


def _numbers(text: str, option: str, count: int | None = None) -> Any:
    """`0.5` -> 0.5; `0.4,0.5,0.6` -> [0.4, 0.5, 0.6]."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"{option} '{text}' must be numbers separated by commas.") from None
    if count is not None and len(numbers) != count:
        raise SpecError(f"{option} needs {count} numbers, not {len(numbers)}: '{text}'.")
    return numbers if count or len(numbers) > 1 else numbers[0]

"""Explain, evaluate, compare and train, as the command line does."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from torch import Tensor

from advex import artifacts, progress, recipes, registry
from advex.classifier import Classifier
from advex.data import Dataset, describe
from advex.errors import DataError, SpecError
from advex.evaluation import Settings, settings_from
from advex.evaluation import folder as evaluating
from advex.explainers import Explainer
from advex.explanation import MapRequest, PictureRequest, RowRequest, named_explainers
from advex.explanation.folder import FIGURES, UNFINISHED, Request, explain_into
from advex.files import as_path
from advex.geometry import as_radius
from advex.lookup import datasets
from advex.lookup.devices import device_named
from advex.lookup.folders import opened_folder
from advex.lookup.models import Opened
from advex.notebook.foreign import Examples, examples_of
from advex.notebook.given import Data, Model, Models, data_of, models_of, subjects_of
from advex.notebook.results import Evaluated, Explained
from advex.options import by_option
from advex.registry import specs_from
from advex.training import run_folder

__all__ = ["compare", "evaluate", "explain", "train"]

_DEVICE = "a classifier is asked where it is, model.to('cuda'); one that is given by name is put on a GPU by itself."
# Settings that are several specs: one alone may be given as it is typed.
_SEVERAL = {"corruptions", "maps", "measures", "pictures", "radius", "searches", "suite"}


@by_option(device=_DEVICE)
def explain(
    model: Model,
    pictures: Any,
    *,
    target: str | int | Sequence[str | int] | None = (),
    explainer: str | Explainer | Sequence[str | Explainer] | None = (),
    rho: float | str | Sequence[float | str] = 0.1,
    away: bool = False,
    steps: int = 35,
    seed: int = 0,
    max_batch: int | str = 128,
    out: str | Path | None = None,
    quiet: bool = False,
) -> Explained:
    """What would have to change in pictures for a class to become more likely, or (`explainer`) what counts for it.

    model: a classifier, or what `--model` takes. pictures: paths, PIL pictures, arrays, tensors, a data set of ours, of
    torch or of Hugging Face, a `DataLoader` (see `advex.notebook.given.subjects_of`); of a model of tables CSV files.
    target: classes by name or number, `predicted`, `runner-up`, `true`, `all`; each is asked about in every picture.
    explainer: spec strings such as `integrated_gradients:steps=50`, or explainers. rho, away, steps: of the change, see
    `advex.explainers.Toward`. out: a folder to write into; without it the files last as long as the result does, see
    `Explained.save`. Raises AdvexError where nothing can be explained.
    """
    if isinstance(model, list | tuple | Mapping):
        raise SpecError("advex.explain takes one model: call it once for each.")
    (opened,) = models_of(model)
    rhos, names = _rhos(rho), tuple(map(str, _plain(target)))
    request: Request
    pictures = examples_of(pictures) or pictures
    if specs := _explainers(explainer):
        request = MapRequest(
            targets=names or ("predicted",), explainers=named_explainers(specs), seed=seed, max_batch=max_batch,
            data=_background(pictures, opened, specs),
        )  # fmt: skip
    elif opened.classifier.features is not None:
        request = RowRequest(targets=names or ("runner-up",))
    else:
        request = PictureRequest(
            targets=names or ("predicted", "runner-up"), rhos=rhos, away=away, steps=steps, seed=seed,
            max_batch=max_batch,
        )  # fmt: skip
    subjects, say = subjects_of(pictures, opened), progress.Terminal(quiet=quiet)
    folder = as_path(mkdtemp(prefix="advex-") if out is None else out, "out")
    with progress.called("advex.explain(...) from Python"), opened_folder(folder, (FIGURES, UNFINISHED), None):
        explained = Explained(folder, explain_into(folder, opened, subjects, request, say))
    if out is None:
        weakref.finalize(explained, shutil.rmtree, folder, ignore_errors=True)
    return explained


def _plain(given: Any) -> list[Any]:
    """One value or several, of whatever library, as values of Python; none of None."""
    values = given.tolist() if isinstance(given, np.ndarray | np.generic | Tensor) else given
    if isinstance(values, Iterable) and not isinstance(values, str):
        return [value for each in values for value in _plain(each)]
    return [] if values is None else [values]


def _rhos(given: Any) -> tuple[float, ...]:
    """The sizes of a change. Raises SpecError."""
    with contextlib.suppress(SpecError):
        rhos = tuple(as_radius(each) for each in _plain(given))
        if rhos and all(0 < rho <= 1 for rho in rhos):
            return rhos
    raise SpecError(f"rho={given}: an RMSE must be above 0 and at most 1 (black to white), such as 0.1 or '8/255'.")


def _explainers(given: Any) -> tuple[str, ...]:
    """Spec strings of explainers as they are given. Raises SpecError for what is neither a spec string nor a thing."""
    several = given if isinstance(given, list | tuple) else [given] if given else []
    specs = [_spec(each) for each in several]
    if others := [each for each in specs if not isinstance(each, str)]:
        raise SpecError(
            f"explainer={others[0]!r} is not an explainer: give a spec string such as 'integrated_gradients:steps=50', "
            "or an object such as advex.explainers.Gradient()."
        )
    return specs_from(specs)


def _spec(given: Any) -> Any:
    """The spec string that makes an attack, an explainer or the like again; all else as it is. Raises SpecError."""
    if isinstance(given, type):
        raise SpecError(f"{given.__name__} is a class: give an object of it, such as {given.__name__}().")
    return registry.describe(given) if dataclasses.is_dataclass(given) else given


@by_option(Settings.model_fields, device=_DEVICE)
def evaluate(
    model: Models,
    data: Data,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    resume: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Evaluated:
    """Attack and explain models on data, and leave the figures in a record folder; the same call goes on after a stop.

    model: one or several, see `advex.notebook.given.models_of`. data: what `--data` takes, a `Dataset`, or a
    `DataLoader` or data set of torch or Hugging Face whose rows have a picture and a class. max_samples: so many, drawn
    by the seed; of a `DataLoader` the first that it gives. out: `records/NAMES` if
    None. settings: those of `advex.evaluation.Settings`, such as `attack="minimal"`, `radius=["linf:8/255"]`,
    `maps=["gradient"]`; in the place of spec strings also what they make. Raises AdvexError.
    """
    models, say = models_of(model), progress.Terminal(quiet=quiet)
    if max_samples is not None and not (isinstance(max_samples, int) and max_samples > 0):
        raise SpecError(f"max_samples={max_samples!r} must be a whole number of at least 1.")
    folder = Path("records") / "-".join(each.name for each in models) if out is None else as_path(out, "out")
    for name, value in settings.items():
        settings[name] = [_spec(each) for each in value] if isinstance(value, list | tuple) else _spec(value)
    for name in _SEVERAL & settings.keys():
        if isinstance(settings[name], str | int | float):
            settings[name] = specs_from([str(settings[name])])
    for name in ("attack", "btr"):
        if settings.get(name) == "none":
            settings[name] = None
    checked = settings_from({**settings, "seed": seed})
    with progress.called("advex.evaluate(...) from Python"), evaluating.opened(folder, overwrite):
        if isinstance(data, str | Path):
            held = evaluating.examples(models, str(data), split, say, max_samples=max_samples, seed=seed)
        elif split is not None:
            raise SpecError("`split` works only with data given by name; this data set is already open.")
        else:
            names = next((each.classifier.class_names for each in models if each.classifier.class_names), None)
            held = _held(data, say, evaluating.shared_shape(models), names, max_samples, seed)
        return Evaluated(folder, evaluating.evaluate(models, held, folder, checked, say, resume=resume))


def _background(pictures: Any, model: Opened, explainers: Sequence[str]) -> Dataset | None:
    """What explainers that compare with many inputs take some of. None where no row's class is one of the model's."""
    wanted = [getattr(registry.build("explainer", spec), "background", None) for spec in explainers]
    if isinstance(pictures, Examples):
        most = max((each for each in wanted if each is not None), default=0)
        with contextlib.suppress(DataError):
            if most and pictures.labels is not None:
                return data_of(pictures, model.input_shape, model.classifier.class_names, max_samples=most)
        return None
    return pictures if isinstance(pictures, Dataset) else None


def _held(
    data: Any, say: progress.Terminal, shape: Sequence[int] | None = None, class_names: Sequence[str] | None = None,
    max_samples: int | None = None, seed: int = 0,
) -> Dataset:  # fmt: skip
    """Data that are open already, of ours or of another library, with a line about what was read of the latter."""
    if isinstance(data, Dataset):
        return data.sample(max_samples, seed)
    held = data_of(data, shape, class_names, max_samples=max_samples, seed=seed)
    if held is None:
        raise SpecError(
            "`data` must be a name that --data accepts, a Dataset, a DataLoader, or a data set of torch or "
            f"Hugging Face, not {type(data).__name__}. torch.utils.data.TensorDataset(x, y) is one of tensors."
        )
    say.note("; ".join(filter(None, (describe(held), held.selected))))
    return held


@by_option({*inspect.signature(evaluate).parameters, *Settings.model_fields}, device=_DEVICE)
def compare(model: Models, data: Data, **more: Any) -> Evaluated:
    """`evaluate` two or more models on the same examples, and write the report. Raises SpecError for fewer."""
    if len(models_of(model)) < 2:
        raise SpecError("A comparison needs at least two models: a list of them, or a dictionary by name.")
    evaluated = evaluate(model, data, **more)
    evaluated.report()
    return evaluated


@by_option(
    **{name: f'write it as a string, advex.train(RECIPE, DATA, "{name}=...").' for name in recipes.Recipe.model_fields},
    max_samples="draw them first, and pass them as the data: advex.open_dataset(DATA, max_samples=N).",
)
def train(
    recipe: str | Path,
    data: Data | None = None,
    *changes: str,
    out: str | Path | None = None,
    validation: Data | None = None,
    split: str | None = None,
    device: str = "auto",
    resume: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
) -> Classifier:
    """Train a classifier by a recipe into a run folder, and open it; the same call goes on after a stop.

    recipe: a bundled one's name, or a YAML file; or, alone, a table to train on (`advex.train("loans.csv")`). changes:
    `epochs=20`, `objective.lipschitz.psi=220`, ... data: as of `evaluate`; where they have no name, others may be
    given beside them as `validation`. out: `runs/RECIPE` if None. Raises AdvexError.
    """
    if not all(isinstance(change, str) and "=" in change for change in changes):
        raise SpecError('Settings of the recipe must be separate strings: advex.train(RECIPE, DATA, "epochs=20", ...).')
    recipe, say = as_path(recipe, "The recipe, or the table to train on,"), progress.Terminal(quiet=quiet)
    folder = Path("runs") / recipe.stem if out is None else as_path(out, "out")
    if data is None:
        data, recipe = recipe, recipes.for_table(str(recipe)) or recipe
        if data == recipe:
            raise SpecError(f"advex.train: `data` is missing: advex.train({str(recipe)!r}, DATA).")
    resolved = recipes.named(str(recipe), list(changes), None)
    if not isinstance(data, str | Path):
        if isinstance(validation, str) or split is not None:
            raise SpecError(
                "`validation` can name a split only if the data are given by name; pass another data set instead."
            )
        examples = _held(data, say)
        held_out = None if validation is None else _held(validation, say, examples.shape, examples.class_names)
    else:
        if not isinstance(validation, str | None):
            raise SpecError("If the data are given by name, `validation` must be the name of a split.")
        examples, held_out, _ = datasets.open_training(
            str(data), split, validation, say, seed=resolved.seed, streaming=resolved.streaming
        )
    with progress.called("advex.train(...) from Python"):
        run_folder.run(
            resolved, examples, folder, say=say, validation=held_out, device=device_named(device), resume=resume,
            overwrite=overwrite,
        )  # fmt: skip
    return artifacts.load(folder)

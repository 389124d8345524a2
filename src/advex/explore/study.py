"""The models and the pictures, and what is computed of them. Lives in the process that computes."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advex import attacks, explainers
from advex._version import __version__
from advex.artifacts import weights_hash
from advex.classifier import Classifier
from advex.data import Dataset
from advex.data.images.png import decode_png, encode_png
from advex.drawing.heat import coloured
from advex.environment import without_places
from advex.errors import InputError, SpecError
from advex.explainers import Toward
from advex.explanation import HeatScale, as_files, explain_maps, has_pictures
from advex.explanation.maps import pixels_of
from advex.explanation.pictures import difference_gain, difference_picture
from advex.explore import saved, uploads
from advex.explore.requests import (
    Catalogue,
    ClassCount,
    Example,
    ExploreRequest,
    ExploreResponse,
    FittedPicture,
    MapChoice,
    ModelChoice,
    Which,
)
from advex.geometry import RMSE
from advex.goals import Become
from advex.progress import Stopped, each_pass
from advex.record.explored import Explored
from advex.registry import describe
from advex.report.pages.explored import lines_of, shares_of, told
from advex.types import FLAT

# Maps of a few passes each: they appear while one moves a slider.
MAPS = {
    "input_x_gradient": "Input × gradient",
    "gradient": "Gradient",
    "integrated_gradients:steps=16": "Integrated gradients",
    "smooth_grad:samples=16": "SmoothGrad",
    "grad_cam": "Grad-CAM",
}
SEED = 0
_UNKNOWN = {"data": None, "example": None, "label": None}  # of a picture that is no example of a data set
THUMBNAIL = 96  # pixels of the longer side, at most


@dataclass(frozen=True, kw_only=True)
class Model:
    """A classifier under the name by which it is chosen. source: as it was named on the command line."""

    name: str
    source: str
    classifier: Classifier


@dataclass
class Study:
    """What is asked in the process that computes: see `requests.Explorer`.

    notes: of pictures that are files, what was done to each; None: the data have classes, and their pictures numbers.
    Raises InputError for data that are no pictures, or that a model does not take.
    """

    models: Sequence[Model]
    data: Dataset
    notes: Sequence[str] | None = None
    _rows: dict[int, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        for model in self.models:
            if not has_pictures(model.classifier, self.data.shape):
                raise InputError(
                    f"{self.data.name} and {model.name}: only pictures in [0, 1] with 1 or 3 channels can be explored."
                )
        self._classes = [self._names(model.classifier) for model in self.models]
        self._weights = [weights_hash(model.classifier) for model in self.models]
        self._rows = {label: [] for label in range(len(self.data.class_names))}
        for row, label in enumerate(self.data.y.tolist()):
            self._rows[label].append(row)

    def _names(self, classifier: Classifier) -> tuple[str, ...]:
        """The class names of a model: its own, else the data's if they are as many, else numbers."""
        probe = self.data.batch(slice(0, 1), classifier.device).x.to(classifier.dtype)
        count = classifier.predict(probe).shape[1]
        ours = self.data.class_names if len(self.data.class_names) == count else map(str, range(count))
        return tuple(classifier.class_names or ours)

    @property
    def catalogue(self) -> Catalogue:
        """What there is to choose from."""
        return Catalogue(
            data=self.data.name,
            count=len(self.data),
            models=tuple(
                ModelChoice(name=model.name, classes=names)
                for model, names in zip(self.models, self._classes, strict=True)
            ),
            labels=tuple(
                ClassCount(name=self.data.class_names[label], count=len(rows))
                for label, rows in self._rows.items()
                if self.notes is None
            ),
            explainers=tuple(MapChoice(spec=spec, name=name) for spec, name in MAPS.items()),
        )

    @property
    def quick(self) -> dict[str, Callable[..., Any]]:
        """What needs no model: it is answered while one computes."""
        return {"browse": self.browse, "thumbnail": self.thumbnail, "fit": self.fit, "save": saved.save}

    def browse(self, start: int, count: int, label: int | None) -> list[Example]:
        """Some examples, of one class or of all."""
        rows = range(len(self.data)) if label is None else self._rows.get(label, [])
        return [
            Example(number=row, id=self.data.ids[row], label=None if self.notes is not None else int(self.data.y[row]))
            for row in rows[start : start + count]
        ]

    def thumbnail(self, number: int) -> bytes:
        """A small PNG of an example. Raises SpecError where there is none."""
        encoded = encode_png(self._example(number))
        if max(self.data.shape[1:]) <= THUMBNAIL:
            return encoded
        with Image.open(io.BytesIO(encoded)) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            return _png(np.asarray(image))

    def fit(self, data: bytes, name: str) -> FittedPicture:
        """A picture of the owner's own, as the networks take it. Raises DataError: see `uploads.fitted`."""
        return uploads.fitted(data, self.data.shape, name)

    def _example(self, number: int) -> Tensor:
        if not 0 <= number < len(self.data):
            raise SpecError(f"There is no picture {number}: {self.data.name} has {len(self.data):,}, counted from 0.")
        return self.data.batch(slice(number, number + 1)).x[0]

    # -- with a model ------------------------------------------------------------------------------------------

    def explain(self, request: ExploreRequest, stop: Callable[[], bool]) -> ExploreResponse:
        """The change towards a class, and what counts for it before and after.

        Raises Stopped before the next pass of the network once `stop` says so, SpecError and InputError for what
        cannot be asked. Nothing of the model is changed, either way.
        """
        began = time.perf_counter()
        if not 0 <= request.model < len(self.models):
            raise SpecError(f"There is no model {request.model}.")
        model, names = self.models[request.model], self._classes[request.model]
        if request.target is not None and not 0 <= request.target < len(names):
            raise SpecError(f"There is no class {request.target}: {model.name} has {len(names)}, counted from 0.")
        if request.explainer not in MAPS:
            raise SpecError(f"There is no map {request.explainer} here; choose one of {', '.join(MAPS)}.")
        picture, subject = self._subject(request)
        classifier = model.classifier
        x = picture.to(classifier.device, classifier.dtype)[None]

        def tick() -> None:
            if stop():
                raise Stopped

        with each_pass(tick):
            target = _second(classifier, x) if request.target is None else request.target
            change = _changed(classifier, x, target, request.rho)
            both = torch.cat([x, change.picture])
            before, after = classifier.predict(both).double().tolist()
            files = as_files(classifier, x, change.picture)
            maps = _maps(classifier, both, target, request.explainer)
        delta = change.picture - x
        gain = difference_gain(delta)
        pictures: dict[Which, bytes] = {
            "input": encode_png(picture),
            "changed": files.png[0],
            "difference": encode_png(difference_picture(delta[0], gain)),
            **maps.pictures,
        }
        entry = Explored(
            advex=__version__,
            created=datetime.now(UTC),
            model=model.name,
            source=without_places(model.source),
            weights=self._weights[request.model],
            class_names=list(names),
            target=target,
            rho=request.rho,
            search=change.search,
            doubt=change.doubt,
            seed=SEED,
            command=_command(model, names[target], change),
            before=before,
            after=after,
            rmse=float(RMSE.size(delta)),
            reached=max(range(len(after)), key=after.__getitem__) == target,
            png_rmse=float(files.rmse),
            png_after=files.confidences[0].double().tolist(),
            gain=gain,
            explainer=maps.method,
            reach=maps.reach,
            no_maps=maps.reason,
            seconds=time.perf_counter() - began,
            **subject,
        )
        return ExploreResponse(entry=entry.model_dump(mode="json"), summary=_summary(entry), pictures=pictures)

    def _subject(self, request: ExploreRequest) -> tuple[Tensor, dict[str, Any]]:
        """The picture [channels, height, width] in [0, 1], and what is known of it."""
        if isinstance(request.picture, int) and self.notes is not None:
            picture, note = self._example(request.picture), self.notes[request.picture]
            return picture, {**_UNKNOWN, "name": self.data.ids[request.picture], "note": note}
        if isinstance(request.picture, int):
            picture, number = self._example(request.picture), request.picture
            label = self.data.class_names[int(self.data.y[number])]
            about = {"data": self.data.name, "example": number, "name": self.data.ids[number], "label": label}
            return picture, {**about, "note": ""}
        picture = decode_png(request.picture).float() / 255
        if tuple(picture.shape) != self.data.shape:
            raise InputError("The picture does not have the input size of the networks: choose the file again.")
        return picture, {**_UNKNOWN, "name": request.name, "note": request.note}


@dataclass(frozen=True)
class _Change:
    """A changed picture [1, *shape]. search: the spec that finds it again; rho: its size, where that was asked for.

    doubt: why it is no explanation; then nothing is changed.
    """

    picture: Tensor
    search: str
    rho: float | None
    doubt: str = ""


def _second(classifier: Classifier, x: Tensor) -> int:
    """The second likeliest class of one input; the only one where there is no other."""
    return int(classifier.predict(x)[0].argsort(descending=True)[:2][-1])


def _changed(classifier: Classifier, x: Tensor, number: int, rho: float | None) -> _Change:
    target = torch.tensor([number], device=x.device)
    if rho is None:
        search = attacks.build("minimal")
        perturbation = search(classifier, x, Become(target), seed=SEED)
        reached = perturbation.reached[0]
        doubt = (
            "the gradient vanished on the way, and the search was blind" if perturbation.flat[0] and not reached else ""
        )
        return _Change(torch.where(reached, perturbation.adversarial, x), describe(search), None, doubt)
    if rho == 0:  # where the slider starts
        return _Change(x, "none", 0.0)
    toward = Toward(rho=rho)
    explained = toward(classifier, x, target, seed=SEED)
    assert explained.picture is not None
    return _Change(explained.picture, describe(toward), rho, FLAT if FLAT in explained.doubts() else "")


@dataclass(frozen=True)
class _Maps:
    """Of the picture and the changed one, on one scale. reason: why there are none."""

    pictures: dict[Which, bytes]
    method: str
    reach: float
    reason: str = ""


def _maps(classifier: Classifier, x: Tensor, number: int, spec: str) -> _Maps:
    explainer = explainers.build(spec)
    target = torch.full((2,), number, device=x.device)
    maps = explain_maps(classifier, x, target, {"map": explainer}, seed=SEED)
    if maps.refused:
        return _Maps({}, describe(explainer), 0.0, str(maps.refused["map"]))
    explanation, scale = maps.explanations["map"], HeatScale.of(maps.explanations)
    if explanation.flat is not None and explanation.flat.any():
        return _Maps({}, explanation.method, 0.0, f"There is no map: {FLAT}.")
    before, after = (_png(coloured(pixels, scale.reach)) for pixels in pixels_of(explanation))
    return _Maps({"map_input": before, "map_changed": after}, explanation.method, scale.reach)


def _summary(entry: Explored) -> dict[str, Any]:
    """For the page: the same words as in the report."""
    return {
        "sentences": told(entry),
        "lines": lines_of(entry),
        "shares": [vars(each) for each in shares_of(entry)],
        "rmse": entry.rmse,
        "target": entry.target,
        "no_maps": entry.no_maps,
    }


def _command(model: Model, target: str, change: _Change) -> str:
    """What gives the same explanation of the saved picture; empty where no command does."""
    if not change.rho:
        return ""
    source, name = shlex.quote(without_places(model.source)), shlex.quote(target)
    return f"advex explain input.png --model {source} --target {name} --rho {change.rho:g} --seed {SEED}"


def _png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] or [height, width]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

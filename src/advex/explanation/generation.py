"""Pictures of a class, painted by a classifier: from a seed, what it holds for the class (Santurkar et al. 2019).

Other networks recognise nearly all of a robust network's pictures, and fewer of an ordinary one's (NUMBERS.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advex import bundled
from advex.artifacts import read_config, weights_hash
from advex.attacks import PGD
from advex.classifier import Classifier
from advex.data import Dataset
from advex.data.seeds import ClassSeeds, bundled_seeds, seeds_of
from advex.drawing.contact_sheet import Cell, Legend, Row
from advex.errors import InputError, SpecError
from advex.explanation.pictures import as_files, has_pictures
from advex.explanation.subjects import Subject, class_name
from advex.files import write_bytes
from advex.goals import Become
from advex.lookup.datasets import class_number
from advex.lookup.models import Opened, open_models
from advex.record.generated import GENERATED as GENERATED
from advex.registry import describe
from advex.types import FLAT


def seeds_for(
    wanted: Sequence[str], classifier: Classifier, data: Dataset | None = None
) -> tuple[dict[str, ClassSeeds], dict[str, int]]:
    """What seeds are drawn from, and the number of the class for the classifier, by its name.

    wanted: classes by name or number; "all" among them: every one. data: pictures of the classes; None: those that are
    bundled. Raises SpecError for what is no class, DataError for a class without pictures.
    """
    names = classifier.class_names or (() if data is None else data.class_names)
    if not names:
        raise SpecError("The model does not name its classes. Give data with pictures of them: --data DATA.")
    numbers = [class_number(each, names, len(names)) for each in wanted if each != "all"]
    numbers = range(len(names)) if "all" in wanted else numbers
    by_name = {names[number]: number for number in numbers}
    if data is None:
        return {name: bundled_seeds(name, classifier.class_names, classifier.input_shape) for name in by_name}, by_name
    return {name: seeds_of(data, name) for name in by_name}, by_name


def seed_subjects(seeds: Mapping[str, ClassSeeds], numbers: Mapping[str, int], count: int, seed: int) -> list[Subject]:
    """`count` seeds of each class, as inputs whose label is the class that they shall become. numbers: of classes."""
    return [
        Subject(name=f"{name} {number}", x=each.draw(number, seed), label=name, y=numbers[name], note=each.source)
        for name, each in seeds.items()
        for number in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """Make each seed a picture of its class: the search for a change in an L2 ball by which the class wins by most.

    radius: L2, of pixels in [0, 1]. steps: gradients. judges: other models, which say what they see in seed and
    picture. seeds: digests of what the seeds are drawn from. seed: of their draw.
    """

    radius: float = 8.0
    steps: int = 40
    judges: Sequence[Opened] = field(default=(), repr=False)
    seeds: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    judged_by: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "judged_by", tuple(weights_hash(judge.classifier) for judge in self.judges))

    @property
    def side(self) -> int:
        """Pixels of a cell of the contact sheet, about."""
        return 96

    @property
    def legend(self) -> Legend:
        """The colours of the contact sheet, and what they mean."""
        return ()

    @property
    def search(self) -> PGD:
        """What paints, from the seed itself."""
        return PGD(norm="l2", radius=self.radius, steps=self.steps, random_start=False)

    def about(self) -> dict[str, Any]:
        """What decides the pictures, as the record holds it."""
        judges = [
            {"name": each.name, "weights": digest} for each, digest in zip(self.judges, self.judged_by, strict=True)
        ]
        return {"search": describe(self.search), "goal": "become", "seed": self.seed, "seeds": dict(self.seeds),
                "judges": judges}  # fmt: skip

    def answer(
        self, classifier: Classifier, subject: Subject, confidences: Tensor, folder: Path, prefix: str
    ) -> dict[str, Any]:
        """Paint one picture, judge it as its file holds it, and write seed and picture. Raises InputError.

        subject: a seed; its y is the class. confidences: [classes] of the seed.
        """
        if subject.y is None or not has_pictures(classifier, subject.x.shape):
            raise InputError(f"{subject.name} is not a picture in [0, 1] with 1 or 3 channels and a class.")
        farthest = math.sqrt(subject.x.numel())
        if self.radius > farthest:
            raise InputError(
                f"The radius {self.radius:g} is too large: pictures of this size are at most {farthest:.4g} "
                "apart in L2. Use a smaller one."
            )
        if subject.y >= len(confidences):
            raise InputError(f"The model has {len(confidences)} classes, and '{subject.label}' is number {subject.y}.")
        x = subject.x.to(classifier.device, classifier.dtype)[None]
        target = torch.tensor([subject.y], device=x.device)
        painted = self.search(classifier, x, Become(target))
        files = as_files(classifier, x.expand(2, *x.shape[1:]), torch.cat([x, painted.adversarial]))
        names = (f"{prefix}.seed.png", f"{prefix}.png")
        for name, png in zip(names, files.png, strict=True):
            write_bytes(folder / name, png)
        says = {
            judge.name: [_said(judge.classifier, number, subject) for number in _decisions(judge.classifier, files.x)]
            for judge in self.judges
        }
        return {
            "picture": names[0],
            "target": subject.y,
            "generated": {
                "picture": names[1],
                "reached": bool(painted.reached[0]),
                "l2": float(classifier.norm("l2").size(painted.delta)[0]),
                "doubts": [FLAT] if painted.flat[0] and not painted.delta.any() else [],
                "after": files.confidences[1].tolist(),
                "says": class_name(classifier, int(files.confidences[1].argmax())),
            },
            "others": {name: {"seed": seed, "picture_says": picture} for name, (seed, picture) in says.items()},
        }  # fmt: skip

    def sheet_rows(self, answer: dict[str, Any], folder: Path) -> list[Row]:
        """Seed and picture side by side, a cell."""
        pictures = tuple((folder / name).read_bytes() for name in (answer["picture"], answer["generated"]["picture"]))
        share = f"{100 * answer['confidences'][answer['target']]:.0f} → "
        lines = [f"{answer['label']}: {share}{100 * answer['generated']['after'][answer['target']]:.0f} %"]
        if self.judges:
            agree = sum(each["picture_says"] == answer["label"] for each in answer["others"].values())
            lines.append(f"recognised by {agree} of {len(self.judges)} others")
        return [Row((Cell(pictures, (*lines, *answer["generated"]["doubts"])),))]


def _decisions(classifier: Classifier, x: Tensor) -> list[int]:
    return classifier.predict(x.to(classifier.device, classifier.dtype)).argmax(dim=1).tolist()


def _said(judge: Classifier, number: int, subject: Subject) -> str:
    """The class's name; of a judge that knows none, that of the seed's class where the numbers are the same."""
    if judge.class_names is None and number == subject.y and subject.label is not None:
        return subject.label
    return class_name(judge, number)


def recognised(answers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """By other model: of so many pictures how many it takes for their class, and how many of the seeds."""
    return {
        name: {
            "of": len(answers),
            "pictures": sum(each["others"][name]["picture_says"] == each["label"] for each in answers),
            "seeds": sum(each["others"][name]["seed"] == each["label"] for each in answers),
        }
        for name in (answers[0]["others"] if answers else ())
    }


def check_judges(judges: Sequence[Opened], model: Opened, names: Iterable[str]) -> None:
    """Raise SpecError for a judge that is the model itself or comes twice, has other inputs, or lacks a class."""
    seen = {weights_hash(model.classifier): "the model that generates the pictures: only others can judge them"}
    for judge in judges:
        known, own = judge.classifier.class_names, weights_hash(judge.classifier)
        if own in seen:
            raise SpecError(f"{judge.name} is {seen[own]}.")
        seen[own] = f"the same network as {judge.name}, and counts once: name it once"
        if None not in (judge.input_shape, model.input_shape) and judge.input_shape != model.input_shape:
            raise SpecError(
                f"{judge.name} takes inputs of shape {judge.input_shape}, but the pictures are {model.input_shape}."
            )
        if known is not None and (unknown := [name for name in names if name not in known]):
            raise SpecError(f"{judge.name} has no class '{unknown[0]}', so it cannot recognise it.")


def bundled_judges(model: Opened) -> list[Opened]:
    """The bundled networks of a model's classes and input that are not the model."""
    classifier = model.classifier
    if classifier.class_names is None:
        return []
    alike = [
        f"{bundled.PREFIX}{name}"
        for name, folder in bundled.names().items()
        if (config := read_config(folder)).get("class_names") == list(classifier.class_names)
        and model.input_shape in (None, tuple(config["input_shape"]))
    ]
    judges = open_models(alike, str(classifier.device)) if alike else []
    own = weights_hash(classifier)
    return [judge for judge in judges if weights_hash(judge.classifier) != own]

"""Simulated annotators at work: images are made, judged by a network, kept in a project, and handed to training.

The way is the one that people's answers take: `annotate prepare`, the store, `annotate export`, `train --add`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advex import data as sets
from advex import measures, progress, recipes
from advex.annotation import PICTURES
from advex.data import Dataset
from advex.data.annotated.answers import ANSWERS, UNCHANGED, Annotation, Judged
from advex.data.images.png import decode_png
from advex.data.images.streamed import Examples
from advex.environment import without_places
from advex.errors import SpecError
from advex.feedback import folders
from advex.feedback import images as images_of
from advex.feedback.annotations import with_annotated
from advex.feedback.simulated_annotators import Annotator, judged, simulated_name, spans, wanted
from advex.files import write_text
from advex.lookup import datasets
from advex.lookup.models import Opened, open_models
from advex.papers.answers import RECIPE
from advex.record import Figure
from advex.record.reproduction import ANSWERED, AnnotatorEntry, AnsweredEntry, JudgedEntry
from advex.reproduction import Job
from advex.reproduction.folder import PROJECTS, Folder
from advex.reproduction.plan import Feedback
from advex.training import accuracy, run_folder

if TYPE_CHECKING:
    from advex.annotation.models import Image
    from advex.annotation.store import Store

_RESERVE = 1.25  # pictures that are tried for each image wanted: some have no such change
_SHOWN = 10  # pairs of each verdict on the page
_BATCH = 256


@dataclass(frozen=True)
class _Seen:
    """What the judge makes of images. ahead: [n], of the original class over the likeliest other. right: [n] bool, of
    the originals."""

    ahead: Tensor
    right: Tensor


@dataclass(frozen=True)
class Simulation:
    """Answers about the images of one network."""

    job: Job
    feedback: Feedback
    folder: Folder
    say: progress.Terminal
    device: str
    seed: int

    @property
    def place(self) -> Path:
        """The project."""
        return self.folder.project(self.feedback.start)

    def added_to(self, train: Dataset) -> Examples | None:
        """Training examples, and after them the images that the annotators who count called unchanged; None: none."""
        if not (self.place / ANSWERED).is_file():
            self._ask(train)
        entry = self.folder.answered(self.feedback.start)
        if entry is None or entry.annotators[self.feedback.annotators - 1].unchanged == 0:
            return None
        trained = datasets.split_to_learn(self.job.data, None)
        export = self._export(self.feedback.annotators)
        return with_annotated(train, [export], self.say, source=self.job.data, trained=trained)

    def _export(self, annotators: int) -> Path:
        """The annotated folder of what the first so many annotators said."""
        return self.place / f"simulated-{annotators}"

    def _ask(self, train: Dataset) -> None:
        """All of it, resumable: images, folders, annotated folders, and what it came to."""
        simulated, start = self.feedback.simulated, self.feedback.start
        judge, figure = self._judge(train)
        models = open_models([f"{start}={self.folder.run(start)}"], self.device)
        count = wanted(simulated.judged, simulated.shared)
        drawn = train.sample(math.ceil(_RESERVE * count), self.seed)
        making = images_of.Making(seed=self.seed)
        about = {
            **images_of.about(models, drawn, making),
            "answers": f"simulated by {judge.source}: no person answered",
        }
        with _project(self.place) as store:
            store.create_project(
                f"{start}, simulated answers", votes=len(simulated.judged), seed=self.seed, alone=False, about=about
            )
            new, outcomes = images_of.prepare(models, drawn, store.folder, making, self.say)
            store.add_images(new)
            images = store.images()[:count]
            seen = _seen(judge, images, self.place, train.class_names)
            annotators = [
                self._answer(store, images, seen, number, span)
                for number, span in enumerate(spans(simulated.judged, simulated.shared, len(images)), 1)
            ]
            right = int(seen.right.sum())
            entry = AnsweredEntry(
                network=start, judge=without_places(judge.source), accuracy=figure,
                originals=_share(right, len(images)), error=simulated.error, sure=simulated.sure,
                search=images[0].search if images else making.search,
                outcomes=outcomes[start], wanted=count, images=len(images), annotators=annotators,
                pairs=self._pairs(store, images), **_agreement(store),
            )  # fmt: skip
        write_text(self.place / ANSWERED, entry.model_dump_json(indent=1) + "\n")

    def _judge(self, train: Dataset) -> tuple[Opened, Figure]:
        """The network that is asked, and its accuracy on the whole of the test split."""
        source = self.feedback.simulated.judge
        if source.startswith(RECIPE):
            name = source.removeprefix(RECIPE)
            place = self.folder.run(f"judge-{name}")
            recipe = recipes.named(name, self.feedback.simulated.overrides, self.seed, where=source)
            learned = datasets.split_to_learn(self.job.data, None)
            whole = datasets.open_split(self.job.data, learned, self.say, shape=train.shape)
            run_folder.run(recipe, whole, place, say=self.say, device=self.device)
            opened = open_models([f"judge={place}"], self.device)[0]
            opened = dataclasses.replace(opened, source=name)
        else:
            opened = open_models([f"judge={source}"], self.device)[0]
        if opened.classifier.class_names != train.class_names or opened.input_shape not in (None, train.shape):
            raise SpecError(
                f"{source}, which simulates the annotators, was trained on other classes or sizes than those "
                f"of {train.name}: use matching data."
            )
        judged = datasets.split_to_judge(self.job.data)
        test = datasets.open_split(self.job.data, judged, self.say, shape=train.shape, like=train)
        return opened, _share(round(accuracy(opened.classifier, test, _BATCH) * len(test)), len(test))

    def _answer(self, store: Store, images: Sequence[Image], seen: _Seen, number: int, span: range) -> AnnotatorEntry:
        """One annotator's folders, committed all at once, and the folder of all that was said by then."""
        from advex.annotation import intake

        simulated = self.feedback.simulated
        annotator = Annotator(number=number, sure=simulated.sure, error=simulated.error, seed=self.seed)
        ahead = seen.ahead.tolist()
        said = {image: annotator(ahead[image], images[image].changed) for image in span}
        intake.take_in(store, [_row(images[image], annotator.name, answer) for image, answer in said.items()])
        export = self._export(number)
        if not (export / sets.TABLE).is_file():
            folders.write_folder(store, export)
        unchanged = sum(_verdict(given) == UNCHANGED for given in _given(store, number).values())
        counts = Counter(said.values())
        return AnnotatorEntry(
            name=annotator.name,
            answers={answer: counts[answer] for answer in ANSWERS},
            errors=sum(answer != judged(ahead[image], simulated.sure) for image, answer in said.items()),
            unchanged=unchanged,
        )

    def _pairs(self, store: Store, images: Sequence[Image]) -> list[JudgedEntry]:
        """Some images of each verdict, drawn by the seed."""
        by_image = _given(store, len(self.feedback.simulated.judged))
        groups: dict[str, list[JudgedEntry]] = {}
        pictures = f"{PROJECTS}/{self.feedback.start}/{PICTURES}"
        for image in images:
            given = by_image.get(image.id, {})
            verdict = _verdict(given)
            groups.setdefault(verdict, []).append(
                JudgedEntry(
                    id=image.source_id, label=image.label, target=image.target, rmse=image.rmse or 0.0,
                    original=f"{pictures}/{image.original}.png", changed=f"{pictures}/{image.changed}.png",
                    answers=given, verdict=verdict,
                )
            )  # fmt: skip
        draws = random.Random(f"{self.seed}|pairs")
        return [
            each
            for verdict in sorted(groups)
            for each in draws.sample(groups[verdict], min(_SHOWN, len(groups[verdict])))
        ]


@contextlib.contextmanager
def _project(place: Path) -> Iterator[Store]:
    """The store beside a reproduction's runs; never another database, whatever the surroundings say."""
    from advex.annotation.store import Store

    (place / PICTURES).mkdir(parents=True, exist_ok=True)
    store = Store(place)
    try:
        yield store
    finally:
        store.close()


def _seen(judge: Opened, images: Sequence[Image], place: Path, class_names: Sequence[str]) -> _Seen:
    """What the judge makes of the very files that people would be shown."""
    classifier = judge.classifier
    y = torch.tensor([class_names.index(image.label) for image in images], dtype=torch.int64)
    ahead, right = torch.empty(len(images)), torch.empty(len(images), dtype=torch.bool)
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            rows = slice(start, min(start + _BATCH, len(images)))
            changed, original = (
                classifier.predict(_pixels(place, [getattr(image, which) for image in images[rows]], classifier)).cpu()
                for which in ("changed", "original")
            )
            own = y[rows, None]
            ahead[rows] = changed.gather(1, own)[:, 0] - changed.scatter(1, own, -1).amax(dim=1)
            right[rows] = original.argmax(dim=1) == y[rows]
    return _Seen(ahead, right)


def _pixels(place: Path, names: Sequence[str], classifier: Any) -> Tensor:
    """[n, channels, height, width] in data space."""
    pictures = torch.stack([decode_png((place / PICTURES / f"{name}.png").read_bytes()) for name in names])
    return pictures.to(classifier.device, classifier.dtype) / 255


def _row(image: Image, name: str, answer: str) -> Any:
    """An answer as a line of a table that is imported. The same answer has the same client id at every attempt."""
    from advex.annotation.exchange import COLUMNS, Row, as_text
    from advex.annotation.store import now

    about = {column: getattr(image, column) for column in COLUMNS[1:10]}
    row = Row(picture=image.changed, **about)
    client = hashlib.sha256(f"{name}|{row.image}".encode()).hexdigest()[:32]
    said = {"annotator": name, "answer": answer, "round": 1, "time": as_text(now()), "client": client}
    return row.model_copy(update=said)


def _given(store: Store, annotators: int) -> dict[int, dict[str, str]]:
    """What the first so many annotators said: image -> annotator -> answer."""
    names = {simulated_name(number) for number in range(1, annotators + 1)}
    answers: dict[int, dict[str, str]] = {}
    for vote in store.votes():
        if vote.person in names:
            answers.setdefault(vote.image, {})[vote.person] = vote.answer
    return answers


def _verdict(given: Mapping[str, str]) -> str:
    """What answers by annotator come to, by the rule that training goes by."""
    return Judged(about=Annotation(picture="any.png", label="any"), votes=Counter(given.values())).verdict


def _agreement(store: Store) -> dict[str, Any]:
    """How many images two or more judged, and how well they agree on these."""
    from advex.annotation.agreement import agreement

    people = agreement(store.votes())
    measured = {name: getattr(people, name) for name in ("percent", "cohen", "fleiss", "alpha")}
    figures = {
        name: Figure(value=each.value, low=each.low, high=each.high, n=people.images) for name, each in measured.items()
    }
    return {"shared": people.images, "agreement": figures}


def _share(count: int, of: int) -> Figure:
    low, high = measures.wilson(count, of)
    return Figure(value=count / of if of else math.nan, low=low, high=high, n=of)

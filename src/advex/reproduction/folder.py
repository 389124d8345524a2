"""The folder of a reproduction: whose it is, and which of its networks are trained and evaluated.

plan.json            what decides the results: paper, scale, seed, data, and of each network recipe and settings
runs/ROW             run folders; records/ROW: record folders, or choice.json of a row whose network is another's
projects/ROW         images made with the row's network, and what was answered: a project of `advex annotate`
reproduction.json    published and measured, written after each row
figures/, report.html
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advex import training
from advex._version import __version__
from advex.artifacts import read_config
from advex.claims import in_turn
from advex.documents import read_json
from advex.errors import ArtifactError
from advex.evaluation import Settings
from advex.files import write_text
from advex.papers.choices import Chosen
from advex.record import Record, read_record
from advex.record.choices import CHOICE
from advex.record.generated import GENERATED
from advex.record.layer_study import NAME as STUDY
from advex.record.reproduction import NAME, AnsweredEntry, read_answered
from advex.reproduction.plan import Job, Plan

PLAN, RUNS, RECORDS, FIGURES, REPORT = "plan.json", "runs", "records", "figures", "report.html"
PROJECTS = "projects"
OURS = (PLAN, NAME, RUNS, RECORDS, PROJECTS, FIGURES, REPORT)


@dataclass(frozen=True)
class Folder:
    """The folder of one reproduction."""

    path: Path

    def run(self, name: str) -> Path:
        """The run folder of a network."""
        return self.path / RUNS / name

    def model(self, job: Job) -> str:
        """What the network of a job is opened from."""
        return job.model or str(self.run(job.name))

    @property
    def claims(self) -> Path:
        """Where it is seen which network a process is at."""
        return self.path / RUNS

    def record(self, name: str) -> Path:
        """The record folder of a network."""
        return self.path / RECORDS / name

    def project(self, name: str) -> Path:
        """The project in which images of a network are judged."""
        return self.path / PROJECTS / name

    def answered(self, name: str) -> AnsweredEntry | None:
        """What was answered about the images of a network, once all is."""
        return read_answered(self.project(name))

    def finished(self, name: str) -> Record | None:
        """The record of a network that is done."""
        folder = self.record(name)
        return read_record(folder) if (folder / "record.json").is_file() else None

    def made(self, name: str) -> bool:
        """Whether an extra or a choice is done."""
        return any((self.record(name) / each).is_file() for each in ("record.json", STUDY, GENERATED, CHOICE))

    def claim(self, plan: Plan) -> None:
        """Make the folder this reproduction's; rows may be added to it later.

        Raises ArtifactError, saying what differs, where it is another's.
        """
        with self._alone():
            self._claim(plan)

    def _claim(self, plan: Plan) -> None:
        ours = _identity(plan)
        held = self._read()
        if held:
            differing = [
                f"{name} is {held.get(name)!r} there and {ours[name]!r} here"
                for name in ("advex", "paper", "scale", "seed")
                if held.get(name) != ours[name]
            ]
            shared = [] if differing else sorted(held["networks"].keys() & ours["networks"].keys())
            for name in shared:
                differing += _differences(_completed(held["networks"][name]), ours["networks"][name], name)
            self._refuse(differing)
        networks = {**held.get("networks", {}), **ours["networks"]}
        self._write({**ours, "networks": networks, "data": held.get("data", {})})

    def agree(self, source: str, digests: dict[str, str]) -> None:
        """See that the examples are those that earlier rows were made with. Raises ArtifactError."""
        with self._alone():
            held = self._read()
            known = held["data"].setdefault(source, digests)
            self._refuse(
                [f"the {split} examples of {source} differ" for split in digests if known[split] != digests[split]]
            )
            self._write(held)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return in_turn(self.claims, "plan", what=f"another process, which has {self.path / PLAN} open")

    def _refuse(self, differing: list[str]) -> None:
        if differing:
            more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
            reasons = "; ".join(differing[:4])
            raise ArtifactError(f"{self.path} belongs to another reproduction: {reasons}{more}. Choose another folder.")

    def _read(self) -> dict[str, Any]:
        path = self.path / PLAN
        if not path.is_file():
            return {}
        try:
            held = read_json(path, "the description of a reproduction", ArtifactError)
            if not (isinstance(held["networks"], dict) and isinstance(held["data"], dict)):
                raise TypeError("no networks or no data")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} does not describe a reproduction: {error}. Choose another folder.") from None
        return held

    def _write(self, values: dict[str, Any]) -> None:
        try:
            write_text(self.path / PLAN, json.dumps(values, indent=1) + "\n")
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be written: {error.strerror}. Choose another folder.") from None


def _identity(plan: Plan) -> dict[str, Any]:
    return {
        "advex": __version__,
        "paper": plan.name,
        "scale": plan.scale,
        "seed": plan.seed,
        "networks": {job.name: _decisive(job) for job in plan.jobs}
        | {
            group.name: {
                "recipe": {},
                "networks": {mark: job.name for mark, job in group.jobs.items()},
                "evaluation": group.evaluation.model_dump(mode="json"),
            }
            for group in plan.groups
        }
        | {
            each.name: {
                "recipe": {},
                "network": each.job.name,
                "samples": each.samples if each.study is None else each.study.first,
                "sigmas": None if each.study is None else list(each.study.sigmas),
                "evaluation": each.evaluation.model_dump(mode="json"),
                **({} if each.generation is None else {"generation": each.generation.model_dump()}),
            }
            for each in plan.extras
        }
        | {
            each.name: {
                "recipe": {},
                "of": [job.name for job in each.of],
                "like": each.like.name,
                "within": each.within,
                "evaluation": Settings().model_dump(mode="json"),
            }
            for each in plan.choices
        },
    }


def _decisive(job: Job) -> dict[str, Any]:
    """What decides the figures of a network, but for the data's content, as JSON gives it back."""
    values = {
        "data": job.data,
        "train_samples": job.train_samples,
        "test_samples": job.test_samples,
        "recipe": job.recipe.model_dump(mode="json"),
        "evaluation": job.evaluation.model_dump(mode="json"),
    }
    if job.right_samples is not None:
        values |= {"right_samples": job.right_samples, "skip_samples": job.skip_samples}
    if job.model:
        values |= {"model": job.model, "weights": _weights(job.model)}
    if job.feedback is not None:
        values["answers"] = {
            "start": job.feedback.start,
            "annotators": job.feedback.annotators,
            **job.feedback.simulated.model_dump(mode="json"),
        }
    return json.loads(json.dumps(values))


def _weights(model: str) -> str | None:
    """The digest of a run folder's weights; a bundled network's are its name's, and what is no such folder has none."""
    try:
        return read_config(Path(model)).get("sha256")
    except ArtifactError:
        return None


def _completed(network: dict[str, Any]) -> dict[str, Any]:
    """What `_decisive` gave before, with the settings that have come since at their defaults."""
    evaluation = dict(network["evaluation"])
    if "away" in evaluation:  # today one of the explainers of pictures
        evaluation["pictures"] = ["toward", "away"] if evaluation.pop("away") else ["toward"]
    recipe = training.completed({"recipe": network["recipe"]})["recipe"]
    within = {"within": Chosen.model_fields["within"].default} if "like" in network else {}
    return {**within, **network, "recipe": recipe, "evaluation": {**Settings().model_dump(mode="json"), **evaluation}}


def _differences(theirs: Any, ours: Any, name: str) -> list[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        inside = sorted(theirs.keys() | ours.keys())
        return [line for key in inside for line in _differences(theirs.get(key), ours.get(key), f"{name}: {key}")]
    return [] if theirs == ours else [f"{name} is {theirs!r} there and {ours!r} here"]

"""What is to be done for the rows of a paper: networks to train and evaluate, and what is made of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from advex.evaluation import Settings
from advex.evaluation.layer_study import LayerStudy
from advex.papers import Simulated
from advex.papers.extras import Generation
from advex.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Whose images a network learns from besides. start: that network; annotators: so many count, from the first."""

    start: str
    annotators: int
    simulated: Simulated

    @property
    def plain(self) -> dict[str, object]:
        """Whose images they are, and who answers about them: no people."""
        simulated = self.simulated.model_dump(mode="json")
        return {"start": self.start, "annotators": self.annotators, "simulated": simulated}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One network: to be trained and evaluated once, however many rows it is in. name: the id of its row.

    model: where it is, if it is trained already by the recipe; see `advex.lookup.models.open_models`. data: where the
    examples are from. size: (height, width) that pictures are scaled to and cut; None: their own.
    samples: how many are drawn of each split; None: all. right_samples: of the test examples so many that it classifies
    correctly, after `skip_samples` of all. feedback: images that are learned from besides.
    """

    name: str
    recipe: Recipe
    data: str
    train_samples: int | None
    test_samples: int | None
    evaluation: Settings
    size: tuple[int, int] | None = None
    right_samples: int | None = None
    skip_samples: int = 0
    model: str = ""
    feedback: Feedback | None = None

    @property
    def pictures(self) -> str:
        """Its data and their size, in words."""
        return self.data if self.size is None else f"{self.data} at {self.size[0]}x{self.size[1]}"

    @property
    def jobs(self) -> dict[str, Job]:
        """This one alone."""
        return {self.name: self}

    @property
    def needs(self) -> frozenset[str]:
        """The names of what is to be done before."""
        return frozenset(() if self.feedback is None else (self.feedback.start,))


@dataclass(frozen=True, kw_only=True)
class Together:
    """Networks that are evaluated once more, all on the same examples. name: of the record; jobs: by marks."""

    name: str
    jobs: Mapping[str, Job]
    evaluation: Settings

    @property
    def needs(self) -> frozenset[str]:
        """The names of what is to be done before."""
        return frozenset(job.name for job in self.jobs.values())


@dataclass(frozen=True, kw_only=True)
class Further:
    """What is made of a network beside its evaluation. name: of its record; study, generation, or evaluation and
    samples: see `advex.papers.extras.Making`.
    """

    name: str
    job: Job
    evaluation: Settings
    study: LayerStudy | None = None
    generation: Generation | None = None
    samples: int | None = None

    @property
    def jobs(self) -> dict[str, Job]:
        """Its network's."""
        return {self.job.name: self.job}

    @property
    def needs(self) -> frozenset[str]:
        """The names of what is to be done before."""
        return frozenset((self.job.name,))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of several networks a row has, see `advex.papers.choices.Chosen`. name: the row's id."""

    name: str
    of: tuple[Job, ...]
    like: Job
    within: float

    @property
    def jobs(self) -> dict[str, Job]:
        """Of the network that the others are compared with, and then of these."""
        return {job.name: job for job in (self.like, *self.of)}

    @property
    def needs(self) -> frozenset[str]:
        """The names of what is to be done before."""
        return frozenset(self.jobs)

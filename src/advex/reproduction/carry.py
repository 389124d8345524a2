"""Row by row: train, evaluate, set beside what was published. What is done is read, not done again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from advex.data import Dataset
from advex.data.dataset import content
from advex.evaluation.folder import evaluate
from advex.lookup import datasets
from advex.lookup.models import open_models
from advex.ownership import claimed, forget_claims, owned
from advex.progress import QUIET, Terminal
from advex.record import Record
from advex.record.reproduction import Reproduction, write_reproduction
from advex.reproduction.compare import Outcome, compared
from advex.reproduction.folder import Folder
from advex.reproduction.plan import Job, Plan
from advex.training import Diverged, run_folder

_LOOK = 2.0  # seconds between two looks at what other processes are at


@dataclass(frozen=True, kw_only=True)
class Work:
    """Training and evaluating as `advex train` and `advex evaluate` do it: what was broken off goes on, and what is
    finished is left as it is."""

    device: str = "cpu"
    seed: int = 0
    say: Terminal = QUIET

    def open(self, job: Job) -> tuple[Dataset, Dataset]:
        """The examples to train and to test on."""
        train = datasets.open_split(
            job.data, None, self.say, prefer=datasets.TRAIN, max_samples=job.train_samples, seed=self.seed
        )
        test = datasets.open_split(
            job.data, None, self.say, prefer=datasets.VALIDATION, max_samples=job.test_samples, seed=self.seed,
            shape=train.shape, like=train,
        )  # fmt: skip
        return train, test

    def answered(self, job: Job, data: Dataset, folder: Folder) -> Dataset | None:
        """The examples to train on, then the images that were called unchanged; None: none was. Raises Diverged."""
        from advex.reproduction.simulation import Simulation  # needs the extra `annotate`

        assert job.feedback is not None
        return Simulation(job, job.feedback, folder, self.say, self.device, self.seed).added_to(data)

    def train(self, job: Job, data: Dataset, validation: Dataset, run: Path) -> None:
        """Train into a run folder. Raises Diverged."""
        run_folder.run(job.recipe, data, run, say=self.say, validation=validation, device=self.device)

    def evaluate(self, job: Job, run: Path, data: Dataset, record: Path) -> Record:
        """Evaluate a run into a record folder."""
        return evaluate(open_models([f"{job.name}={run}"], self.device), data, record, job.evaluation, self.say)


def carry_out(plan: Plan, out: Path, work: Work, *, command: str = "", say: Terminal = QUIET) -> Reproduction:
    """Do what is not done yet, and return published and measured values side by side.

    Copies of one command share the work: each takes a network that no other is at, and waits in the end for the others.

    reproduction.json is written after each network, so that what is finished can be seen, and kept, at any time. A run
    that diverges is a row's outcome. Raises ArtifactError for a folder of another reproduction; whatever `work` raises
    when it is stopped.
    """
    with owned(out, shared=True):
        result = _carried_out(plan, Folder(out), work, command, say)
        forget_claims(Folder(out).claims)
        return result


def _carried_out(plan: Plan, folder: Folder, work: Work, command: str, say: Terminal) -> Reproduction:
    folder.claim(plan)
    outcomes: dict[str, Outcome] = {}
    opened: dict[str, tuple[Dataset, Dataset]] = {}
    while True:
        outcomes |= {
            job.name: Outcome(record=record, folder=folder.record(job.name))
            for job in plan.jobs
            if job.name not in outcomes and (record := folder.finished(job.name))
        }
        write_reproduction(folder.path, result := compared(plan, outcomes, command=command, answered=folder.answered))
        left = [job for job in plan.jobs if job.name not in outcomes]
        if not left:
            return result
        for job in left:
            if job.feedback is not None and job.feedback.start in {each.name for each in left}:
                continue  # another process is at it
            with claimed(folder.claims, job.name) as ours:
                if ours and not folder.finished(job.name):
                    say.note(f"{job.name}: network {plan.jobs.index(job) + 1} of {len(plan.jobs)}")
                    if job.data not in opened:
                        opened = {job.data: work.open(job)}
                        train, test = opened[job.data]
                        folder.agree(job.data, {"training": content(train), "test": content(test)})
                    outcomes[job.name] = _outcome(job, *opened[job.data], folder, work)
                    break
        else:
            time.sleep(_LOOK)


def _outcome(job: Job, train: Dataset, test: Dataset, folder: Folder, work: Work) -> Outcome:
    if job.feedback is not None and folder.finished(job.feedback.start) is None:
        return Outcome(failure=f"There is no {job.feedback.start} to make images with.")
    try:
        data = train if job.feedback is None else work.answered(job, train, folder)
        if data is None:
            return Outcome(failure="No image was called unchanged: there is nothing more to learn from.")
        work.train(job, data, test, folder.run(job.name))
    except Diverged as error:
        return Outcome(failure=str(error))
    record = folder.record(job.name)
    return Outcome(record=work.evaluate(job, folder.run(job.name), test, record), folder=record)

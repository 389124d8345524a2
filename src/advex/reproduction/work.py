"""What `advex reproduce` does: the rows' training and evaluating with the verbs' own tools, and the pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from advex import progress, reproduction
from advex.data import Dataset
from advex.evaluation.folder import evaluate
from advex.lookup import datasets
from advex.lookup.models import Wrapping, open_models
from advex.record import Record
from advex.record.reproduction import Reproduction
from advex.report import write_report
from advex.reproduction import Job, Plan
from advex.reproduction.figures import write_figures
from advex.reproduction.folder import Folder
from advex.training import run_folder


@dataclass(frozen=True)
class _Work:
    """Training and evaluating as `advex train` and `advex evaluate` do it."""

    say: progress.Terminal
    device: str
    seed: int

    def open(self, job: Job) -> tuple[Dataset, Dataset]:
        train = datasets.open_split(
            job.data,
            datasets.preferred(job.data, None, "train"),
            self.say,
            max_samples=job.train_samples,
            seed=self.seed,
        )
        held_out = datasets.preferred(job.data, None, "test", "validation", "val")
        test = datasets.open_split(
            job.data, held_out, self.say, max_samples=job.test_samples, seed=self.seed, shape=train.shape, like=train
        )
        return train, test

    def answered(self, job: Job, data: Dataset, folder: Folder) -> Dataset | None:
        from advex.reproduction.simulation import Simulation  # needs the extra `annotate`

        assert job.feedback is not None
        return Simulation(job, job.feedback, folder, self.say, self.device, self.seed).added_to(data)

    def train(self, job: Job, data: Dataset, validation: Dataset, run: Path) -> None:
        run_folder.run(job.recipe, data, run, say=self.say, validation=validation, device=self.device)

    def evaluate(self, job: Job, run: Path, data: Dataset, record: Path) -> Record:
        opened = open_models([f"{job.name}={run}"], self.device, Wrapping())
        return evaluate(opened, data, record, job.evaluation, self.say)


def carry_out(plan: Plan, folder: Path, say: progress.Terminal, device: str) -> Reproduction:
    """All that is not done yet, with progress on stderr."""
    if plan.settings.threads is not None:
        torch.set_num_threads(plan.settings.threads)

    def told(number: int, count: int, job: Job) -> None:
        say.note(f"{job.name}: network {number} of {count}")

    work = _Work(say, device, plan.seed)
    return reproduction.carry_out(plan, folder, work, command=progress.command_line(), told=told)


def write_pages(folder: Path, found: Reproduction) -> list[Path]:
    """The paper's figures as PNG, and the report."""
    return [*write_figures(folder, found), write_report(folder)]

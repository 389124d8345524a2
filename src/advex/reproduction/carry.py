"""Row by row: train, evaluate, set beside what was published. What is done is read, not done again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advex.claims import claimed, forget_claims
from advex.data import Dataset, Streaming
from advex.data.dataset import content
from advex.data.images.streamed import Examples
from advex.errors import AdvexError, DataError, SpecError
from advex.evaluation.folder import evaluate
from advex.evaluation.judging import NoneRight, rightly_decided
from advex.explanation import generation
from advex.explanation.folder import explain_into
from advex.lookup import datasets
from advex.lookup.models import open_models
from advex.ownership import owned
from advex.progress import QUIET, Terminal
from advex.record import Record
from advex.record.choices import ChoiceEntry, read_choice, write_choice
from advex.record.generated import GENERATED
from advex.record.reproduction import Reproduction, write_reproduction
from advex.reproduction.choices import choose, settled, unseen
from advex.reproduction.compare import Outcome, compared
from advex.reproduction.folder import Folder
from advex.reproduction.plan import Choice, Further, Job, Plan, Together
from advex.training import Diverged, run_folder

_LOOK = 2.0  # seconds between two looks at what other processes are at


@dataclass(frozen=True, kw_only=True)
class Work:
    """Training and evaluating as `advex train` and `advex evaluate` do it: what was broken off goes on, and what is
    finished is left as it is."""

    device: str = "cpu"
    seed: int = 0
    say: Terminal = QUIET

    def open(self, job: Job) -> tuple[Examples, Dataset]:
        """The examples to train and to test on. Raises DataError where none are held out."""
        judged = datasets.split_to_judge(job.data)
        if judged is None:
            raise DataError(
                f"{job.data} has no part that is held out, so the network would be tested on what it has learned from: "
                "give data with a split 'test', or without splits."
            )
        train = datasets.open_examples(
            job.data, datasets.split_to_learn(job.data, None), self.say, max_samples=job.train_samples, seed=self.seed,
            streaming=job.recipe.streaming, shape=job.size,
        )  # fmt: skip
        test = datasets.open_split(
            job.data, judged, self.say, max_samples=job.test_samples, seed=self.seed,
            shape=train.shape, like=train,
        )  # fmt: skip
        return train, test

    def answered(self, job: Job, data: Examples, folder: Folder) -> Examples | None:
        """The examples to train on, then the images that were called unchanged; None: none was. Raises Diverged."""
        from advex.reproduction.simulation import Simulation  # needs the extra `annotate`

        assert job.feedback is not None
        if not isinstance(data, Dataset):
            raise SpecError(
                f"{job.name}: images can only be made from data in memory, but its recipe streams {data.name}."
            )
        return Simulation(job, job.feedback, folder, self.say, self.device, self.seed).added_to(data)

    def train(self, job: Job, data: Examples, validation: Dataset, run: Path) -> None:
        """Train into a run folder. Raises Diverged."""
        run_folder.run(job.recipe, data, run, say=self.say, validation=validation, device=self.device)

    def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
        """Evaluate a network into a record folder. model: where it is, as for `open_models`, here and below."""
        models = open_models([f"{job.name}={model}"], self.device)
        if job.right_samples is not None:
            rest = data.take(slice(job.skip_samples, None))
            data = rightly_decided(models, rest, job.evaluation.batch_size, self.say, most=job.right_samples)
        return evaluate(models, data, record, job.evaluation, self.say)

    def together(self, group: Together, models: Mapping[str, str], data: Dataset, record: Path) -> Record:
        """Evaluate several networks into one record folder. models: by their marks."""
        opened = open_models([f"{mark}={model}" for mark, model in models.items()], self.device)
        return evaluate(opened, data, record, group.evaluation, self.say)

    def choose(self, choice: Choice, models: Mapping[str, str], test: Dataset) -> ChoiceEntry:
        """Choose among networks, by name. test: what is compared, and not chosen on. Raises DataError."""
        return choose(choice, models, unseen(choice.like, test, self.say, self.seed), self.device)

    def further(self, extra: Further, model: str, train: Examples, data: Dataset, record: Path) -> None:
        """Make an extra of a network into a record folder. train, data: examples to train and to test on."""
        models = open_models([f"{extra.job.name}={model}"], self.device)
        if (how := extra.generation) is not None:
            seeds, numbers = generation.seeds_for(
                ["all"], models[0].classifier, train if isinstance(train, Dataset) else data
            )
            digests = {name: each.digest for name, each in seeds.items()}
            request = generation.GenerationRequest(radius=how.radius, steps=how.steps, seed=self.seed, seeds=digests)
            record.mkdir(parents=True, exist_ok=True)
            subjects = generation.seed_subjects(seeds, numbers, how.count, self.seed)
            explain_into(record, models[0], subjects, request, self.say, figures=GENERATED)
            return
        if extra.study is not None:
            extra.study(models[0], data, record, self.say)
            return
        if extra.samples is not None:
            data = rightly_decided(models, data, extra.evaluation.batch_size, self.say, most=extra.samples)
        evaluate(models, data, record, extra.evaluation, self.say)


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
    opened: dict[tuple[str, Streaming | None, tuple[int, int] | None], tuple[Examples, Dataset]] = {}
    result: Reproduction | None = None
    known = 0  # outcomes in the result
    lost: set[str] = set()  # extras that cannot be made
    chosen: dict[str, ChoiceEntry] = {}
    awaited: set[str] = set()
    last = False  # nothing is left that no other process has begun
    while True:
        outcomes |= {
            each.name: Outcome(record=record, folder=folder.record(each.name))
            for each in (*plan.jobs, *plan.groups)
            if each.name not in outcomes and (record := folder.finished(each.name))
        }
        chosen |= {
            each.name: entry for each in plan.choices if (entry := read_choice(folder.record(each.name), each.jobs))
        }
        if result is None or len(outcomes) + len(chosen) > known:
            result = compared(settled(plan, chosen), outcomes, command=command, answered=folder.answered)
            known = len(outcomes) + len(chosen)
            write_reproduction(folder.path, result)
        left: dict[str, Job | Together | Further | Choice] = {
            each.name: each for each in (*plan.jobs, *plan.groups) if each.name not in outcomes
        }
        left |= {each.name: each for each in plan.choices if each.name not in chosen}
        untrained = {name for name, outcome in outcomes.items() if outcome.record is None}
        left |= {
            each.name: each
            for each in plan.extras
            if not (folder.made(each.name) or each.needs & untrained or each.name in lost)
        }
        if not left:
            return result
        others: set[str] = set()
        for name, each in left.items():
            if each.needs & left.keys():
                continue  # another process is at it
            with claimed(folder.claims, name, fresh=not last, once=True) as ours:
                if not ours:
                    others.add(name)
                elif not (folder.finished(name) or folder.made(name)):
                    last, job, what = False, next(iter(each.jobs.values())), "networks together"
                    if isinstance(each, Choice):
                        what = "which of the networks it is"
                    elif not isinstance(each, Together):
                        number = [job.name for job in plan.jobs].index(job.name) + 1
                        what = f"network {number} of {len(plan.jobs)}"
                    say.note(f"{name}: {what}")
                    how = job.data, job.recipe.streaming, job.size
                    if how not in opened:
                        opened = {how: work.open(job)}
                        train, test = opened[how]
                        folder.agree(job.pictures, {"training": content(train), "test": content(test)})
                    train, test = opened[how]
                    if isinstance(each, Job):
                        outcomes[name] = _outcome(each, train, test, folder, work)
                    elif isinstance(each, Further):
                        try:
                            work.further(each, folder.model(job), train, test, folder.record(name))
                        except NoneRight:
                            lost.add(name)
                            say.note(f"{name} is left out: {job.name} classifies none of its pictures correctly")
                    elif isinstance(each, Choice):
                        chosen[name] = _choice(each, test, outcomes, folder, work)
                    else:
                        outcomes[name] = _together(each, test, outcomes, folder, work)
                    break
        else:
            if last and others - awaited:
                say.note(f"waiting for other processes, which are at {', '.join(sorted(others))}")
                awaited |= others
            time.sleep(_LOOK if last else 0)
            last = True


def _outcome(job: Job, train: Examples, test: Dataset, folder: Folder, work: Work) -> Outcome:
    if job.feedback is not None and folder.finished(job.feedback.start) is None:
        return Outcome(failure=f"There is no {job.feedback.start} to make images with.")
    try:
        data = train if job.feedback is None else work.answered(job, train, folder)
        if data is None:
            return Outcome(failure="No image was called unchanged: there is nothing more to learn from.")
        if not job.model:
            work.train(job, data, test, folder.run(job.name))
    except Diverged as error:
        return Outcome(failure=str(error))
    record = folder.record(job.name)
    try:
        return Outcome(record=work.evaluate(job, folder.model(job), test, record), folder=record)
    except NoneRight:
        return Outcome(
            failure="It classifies none of the pictures correctly, and only correctly classified ones are evaluated."
        )
    except AdvexError as error:
        if not job.model:
            raise
        return Outcome(failure=f"{job.model} cannot be evaluated: {error}")  # the others can be, all the same


def _together(group: Together, test: Dataset, outcomes: Mapping[str, Outcome], folder: Folder, work: Work) -> Outcome:
    failed = [job.name for job in group.jobs.values() if outcomes[job.name].record is None]
    if failed:
        return Outcome(failure=f"There is no {' and no '.join(failed)}, which it is evaluated together with.")
    models, record = {mark: folder.model(job) for mark, job in group.jobs.items()}, folder.record(group.name)
    return Outcome(record=work.together(group, models, test, record), folder=record)


def _choice(choice: Choice, test: Dataset, outcomes: Mapping[str, Outcome], folder: Folder, work: Work) -> ChoiceEntry:
    """Which network is chosen, kept in the folder; or why none is, which another run may see otherwise."""
    models = {name: folder.model(job) for name, job in choice.jobs.items() if outcomes[name].record is not None}
    none = ChoiceEntry(like=choice.like.name, within=choice.within)
    if choice.like.name not in models or len(models) < 2:
        missing = choice.like.name if choice.like.name not in models else " and no ".join(job.name for job in choice.of)
        return none.model_copy(update={"reason": f"There is no {missing}, to choose by."})
    try:
        made = work.choose(choice, models, test)
    except DataError as error:
        return none.model_copy(update={"reason": str(error)})
    write_choice(folder.record(choice.name), made)
    return made

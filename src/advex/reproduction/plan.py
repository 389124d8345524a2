"""What is to be run: rows -> recipes, data and settings at a scale; and which rows cannot be run, and why."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advex import data as sets
from advex import papers, recipes
from advex.drawing.numbers import count
from advex.errors import DataError, SpecError, did_you_mean
from advex.evaluation import Settings, settings_from
from advex.evaluation.layer_study import LayerStudy
from advex.papers import Budget, Paper, Row, Simulated, Table
from advex.reproduction.jobs import Choice as Choice
from advex.reproduction.jobs import Feedback as Feedback
from advex.reproduction.jobs import Further as Further
from advex.reproduction.jobs import Job as Job
from advex.reproduction.jobs import Together as Together
from advex.reproduction.scaling import changes, scaled
from advex.reproduction.sources import Available, as_published, checked, data_of

_ANSWERING = ("sqlalchemy", "alembic")  # of the extra `annotate`


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A row, and the job that it asks for; or the reason why there is none. changes: from what the paper did. failed:
    none of the networks that it was to be chosen among, or what they are compared with, could be trained.

    together: by what its network is evaluated once more, and the name of that record; None: its own evaluation counts.
    """

    table: str
    section: str
    row: Row
    job: Job | None = None
    together: tuple[str, Settings] | None = None
    reason: str = ""
    changes: tuple[str, ...] = ()
    failed: bool = False

    @property
    def plain(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        row, job = self.row, self.job
        return {
            "table": self.table, "id": row.id, "label": row.label, "section": self.section, "mark": row.mark,
            "published": row.published, "network": job.name if job else None, "data": job.data if job else None,
            "reason": self.reason, "changes": list(self.changes),
            "recipe": job.recipe.model_dump(mode="json") if job else None, "model": (job and job.model) or None,
            "answers": job.feedback.plain if job and job.feedback else None,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All rows that were asked for. name, paper: which; scale: its name."""

    name: str
    paper: Paper
    scale: str
    seed: int
    rows: tuple[Planned, ...]

    @property
    def settings(self) -> Budget:
        """The scale itself."""
        return self.paper.scales[self.scale]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """What is to be run, each network once."""
        return tuple({planned.job.name: planned.job for planned in self.rows if planned.job is not None}.values())

    def how(self, planned: Planned) -> str:
        """What one of its rows is run as, or why it is not."""
        row, job = planned.row, planned.job
        if row.chosen is not None and row.id in {choice.name for choice in self.choices}:
            return f"the network of one of {', '.join(row.chosen.of)}, by the accuracy of {row.chosen.like}"
        if job is None:
            return f"not run: {planned.reason}"
        own = job.model or " ".join([row.recipe or "", *row.overrides])
        run = own if job.name == row.id else f"the network of {job.name}"
        if job.feedback is None:
            return run
        annotators = count(job.feedback.annotators, "simulated annotator")
        return f"{run}, and on images of {job.feedback.start} by the answers of {annotators}"

    @property
    def groups(self) -> tuple[Together, ...]:
        """What is evaluated together, each once."""
        jobs: dict[str, dict[str, Job]] = {}
        settings = {}
        for each in self.rows:
            if each.job is not None and each.together is not None:
                name, settings[name] = each.together
                jobs.setdefault(name, {})[each.row.mark] = each.job
        return tuple(Together(name=name, jobs=some, evaluation=settings[name]) for name, some in jobs.items())

    @property
    def extras(self) -> tuple[Further, ...]:
        """What is made of networks beside their evaluations."""
        jobs = {each.row.id: each.job for each in self.rows if each.job is not None}
        made = []
        for name, extra in self.paper.extras.items():
            work, job = self.settings.extras.get(name), jobs.get(extra.row)
            if work is None or job is None:
                continue
            study = None if work.study is None else LayerStudy(**work.study.model_dump(), seed=self.seed)
            evaluation = settings_from({**work.evaluation, "seed": self.seed}) if study is None else study.plan.settings
            made.append(
                Further(
                    name=name, job=job, study=study, generation=work.generation, evaluation=evaluation,
                    samples=work.samples,
                )
            )  # fmt: skip
        return tuple(made)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The rows whose network is chosen among others', where all of these are run."""
        jobs = {job.name: job for job in self.jobs}
        return tuple(
            Choice(name=row.id, of=tuple(jobs[each] for each in how.of), like=jobs[how.like], within=how.within)
            for row in (planned.row for planned in self.rows)
            if (how := row.chosen) is not None and {*how.of, how.like} <= jobs.keys()
        )

    @property
    def changes(self) -> tuple[str, ...]:
        """What the scale changes in the rows that are run: each change says of what, and so in which of them."""
        run = [planned for planned in self.rows if planned.job is not None]
        return tuple(dict.fromkeys(change for planned in run for change in planned.changes))

    @property
    def plain(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        rows = [planned.plain for planned in self.rows]
        return {"paper": self.name, "scale": self.scale, "changes": list(self.changes), "rows": rows}


def planned(
    name: str,
    *,
    table: str | None = None,
    rows: Sequence[str] = (),
    scale: str = "full",
    data: Mapping[str, str] | None = None,
    seed: int = 0,
    evaluation: Mapping[str, object] | None = None,
    available: Available = sets.splits,
) -> Plan:
    """The plan for some rows of a paper.

    name: of a bundled paper, or a file. rows: ids and subsets; none: those of the scale, or all. data: the paper's
    name of a data set -> where it is; under "" for all rows, which must be of one set. evaluation: settings beside or
    instead of the scale's. available: raises DataError for a source that is not there; a row whose data nobody named,
    and that are not there, has no job.

    Raises SpecError for names that are not there and what cannot be combined, DataError for named data that are not.
    """
    paper = papers.read(name)
    if scale not in paper.scales:
        raise SpecError(f"There is no scale '{scale}': {did_you_mean(scale, paper.scales)}")
    settings = paper.scales[scale]
    ids = papers.chosen(paper, table, rows, settings.rows)
    at = _Place(paper, scale, seed, checked(paper, ids, data or {}, available), available, evaluation or {})
    entries = [at.planned(paper.rows[row]) for row in ids]
    return Plan(name=name, paper=paper, scale=scale, seed=seed, rows=tuple(entries))


@dataclass(frozen=True)
class _Place:
    """Where and how much: what all rows have in common. data: named by the user."""

    paper: Paper
    scale: str
    seed: int
    data: Mapping[str, str]
    available: Available
    evaluation: Mapping[str, object]

    def planned(self, row: Row) -> Planned:
        """One row."""
        table = self.paper.table_of(row.id)
        sections = self.paper.tables[table].sections
        section = next(section.title for section in sections if row in section.rows)
        entry = Planned(table=table, section=section, row=row)
        original = self.paper.original(row)
        if (how := original.chosen) is not None:
            among = f"{', '.join(how.of)} with about the accuracy of {how.like}"
            return dataclasses.replace(entry, reason=f"needs these first: it is the network of {among}")
        if original.needs or original.recipe is None:
            return dataclasses.replace(entry, reason=f"needs {original.needs}")
        if original.answers and not all(map(importlib.util.find_spec, _ANSWERING)):
            return dataclasses.replace(entry, reason="needs the extra annotate")
        data = data_of(self.paper, row.id)
        instead = self.paper.scales[self.scale].data
        other = None if data in self.data else instead.get(data) or instead.get(self.paper.table_of(original.id))
        source = other or self.data.get(data) or as_published(self.paper, data, self.available)
        side = self.paper.sets[data].size if other is None and data in self.paper.sets else None
        if data not in self.data:
            try:
                self.available(source)
            except DataError:
                return dataclasses.replace(entry, reason=f"needs --data {data}=PATH")
        own = self.paper.scales[self.scale].tables.get(table)
        if self.paper.tables[table].together:
            if own is None:
                return dataclasses.replace(
                    entry, reason=f"needs another scale: {self.scale} has no settings of its table"
                )
            name = f"table-{table}-{1 + [each.title for each in sections].index(section)}"
            entry = dataclasses.replace(entry, together=(name, settings_from({**own, "seed": self.seed})))
        job, changed = self._job(original, data, source, side)
        return dataclasses.replace(entry, job=job, changes=changed)

    def _job(self, row: Row, data: str, source: str, side: int | None) -> tuple[Job, tuple[str, ...]]:
        """What to run for a row that is no repetition, and how it differs from what the paper did."""
        scale, where = self.paper.scales[self.scale], f"{row.id} at scale {self.scale}"
        recipe = recipes.named(row.recipe or "", row.overrides, self.seed, where=row.id)
        run = recipe if row.model else scaled(recipe, scale.change, where)
        table, own = self.paper.tables[self.paper.table_of(row.id)], scale.tables.get(self.paper.table_of(row.id), {})
        feedback = self._feedback(row)
        changed = _of_the_data(table, scale, data, source, trained=not row.model) + changes(recipe, run)
        changed += [f"{row.model} as it is"] if row.model else []
        if feedback is not None:
            changed += _of_the_answers(self.paper.simulated, feedback.simulated)
        job = Job(
            name=row.id,
            recipe=run,
            data=source,
            size=None if side is None else (side, side),
            train_samples=scale.train_samples,
            test_samples=scale.test_samples,
            right_samples=scale.right_samples,
            skip_samples=scale.skip_samples,
            evaluation=settings_from({**scale.evaluation, **own, "seed": self.seed, **self.evaluation}),
            model=row.model,
            feedback=feedback,
        )
        return job, tuple(changed)

    def _feedback(self, row: Row) -> Feedback | None:
        simulated = self.paper.scales[self.scale].simulated or self.paper.simulated
        if row.answers is None or simulated is None:
            return None
        start = self.paper.original(self.paper.rows[row.answers.start]).id
        return Feedback(start=start, annotators=row.answers.annotators, simulated=simulated)


def _of_the_answers(published: Simulated | None, here: Simulated) -> list[str]:
    """Who answers, and about how much."""
    judge = here.judge.removeprefix("recipe:")
    changed = [f"answers of {judge}, {100 * here.error:.3g} % of them errors, instead of people's"]
    if published is not None and (here.judged, here.shared) != (published.judged, published.shared):
        new, old = (" and ".join(f"{count:,}" for count in simulated.judged) for simulated in (here, published))
        changed.append(f"{new} judged images, {here.shared} of them shared, instead of {old} with {published.shared}")
    return changed


def _of_the_data(table: Table, scale: Budget, published_data: str, source: str, *, trained: bool) -> list[str]:
    """What is drawn of which data, where it is not what the paper had. trained: here, and not before."""
    changed = []
    if source != published_data and source in scale.data.values():
        changed.append(f"data {source} instead of {published_data}")
    learned = scale.train_samples if trained else None
    for taken, published, what in (
        (learned, table.train_images, "training"), (scale.test_samples, table.test_images, "test"),
    ):  # fmt: skip
        if taken is not None and taken != published:
            instead = f" instead of {published:,}" if published else ""
            changed.append(f"{taken:,} {what} images{instead}")
    if scale.right_samples is not None:
        after = f" after the first {scale.skip_samples:,}" if scale.skip_samples else ""
        changed.append(f"of the test images{after} the first {scale.right_samples:,} that are classified correctly")
    return changed

"""Models on a data set -> a record folder, in pieces, so that an evaluation can be stopped and resumed.

settings      what decides an evaluation, as typed and kept
plan          what its specs name, read once and handed down; tasks: one of each of them
shards        finished pieces on disk, and whose they are
run           an evaluation at work: it loops over its stages

The stages are ten files of one shape (pieces, tables, figures, flags, differences):

predictions   what a model says to each example
searches      how far each example is from reaching a goal
recheck       whether the attack can be believed
radii         which examples no search moves within a distance
transfer      what each model says to the changes that were made on each other
corruptions   what a model says to the examples once noise, blur, weather or compression have changed them
pictures      the examples that a report shows, explained
maps          maps of how much each input element counts, and what is measured of them
rows          rows of tables: what would have had to be different, in sentences
certificates  certificates by randomised smoothing

results       the tables that figures and differences are taken from
scores        from values per example to figures with intervals
flags         reasons to trust a figure less
merge         finished records of the same examples as one
folder        evaluating as the command line does
judging       what is judged by what, where that is not said
layer_study   every range of layers that a perceptual search may hold, judged
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from advex import bundled
from advex._version import __version__
from advex.artifacts import read_config
from advex.claims import forget_claims, in_turn
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.data.digests import Known, known
from advex.environment import environment, without_places
from advex.errors import DataError, InputError, SpecError
from advex.evaluation import certificates, corruptions, maps, pictures, predictions, radii, recheck, rows, searches
from advex.evaluation import transfer as transfers
from advex.evaluation.examples import batch_for
from advex.evaluation.flags import flags_of_data, flags_of_labels, flags_of_training
from advex.evaluation.plan import Plan, plan_of
from advex.evaluation.plan import settings_from as settings_from
from advex.evaluation.run import Evaluation, Progress, Stage, differences
from advex.evaluation.settings import Settings as Settings
from advex.evaluation.shards import identity_of, open_shards
from advex.ownership import owned
from advex.precision import lacking
from advex.progress import Interrupted as Interrupted
from advex.record import DataEntry, Flag, ModelEntry, Record, Training, read_record, read_run, write_record, written_at

__all__ = ["STAGES", "Interrupted", "Model", "Settings", "check", "evaluate", "settings_from", "trained_on"]

Model = tuple[str, str, Classifier]  # name, source, classifier

STAGES: tuple[Stage, ...] = (
    predictions, searches, recheck, radii, transfers, corruptions, pictures, maps, rows, certificates,
)  # fmt: skip


def evaluate(
    models: Sequence[Model],
    data: Dataset,
    out: Path,
    settings: Settings | None = None,
    *,
    command: str = "",
    resume: bool = True,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Record:
    """Evaluate models on a data set and leave the results in the folder `out` (see `advex.record`).

    models: (name, source, classifier), names unique; where the source is a run folder, how the model was
    trained goes into the record. command: what made it, to be typed again.
    Each finished piece is a file in `out/shards`, so that the same call goes on after a crash. A
    folder of an evaluation of other settings, weights or data is refused; without `resume` one of
    this very evaluation is, too.
    progress: gets {phase, model, done, total, rate} after each piece, and before the first of a phase if that has to
    be made: examples, and examples per second (None before, and where an earlier run made the piece). stop: called
    before each piece and each pass of a network; True ends the evaluation.

    Raises Interrupted when stopped; DataError, InputError and SpecError for data, models and settings
    that do not fit each other; ArtifactError for the folder.
    """
    plan = plan_of(settings or settings_from({}))
    check(models, data, plan)
    with owned(Path(out), shared=True):
        return _evaluate(models, data, Path(out), plan, command, resume, progress, stop)


def _evaluate(
    models: Sequence[Model],
    data: Dataset,
    out: Path,
    plan: Plan,
    command: str,
    resume: bool,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
) -> Record:
    classifiers = {name: classifier for name, _, classifier in models}
    lacks = lacking(plan.settings.bfloat16, models[0][2].device)
    shards = dataclasses.replace(open_shards(out, identity_of(plan.identity(), data, classifiers), resume), lacks=lacks)
    work = Evaluation(
        stages=STAGES,
        plan=plan,
        data=data,
        classifiers=classifiers,
        shards=shards,
        progress=progress or (lambda event: None),
        stop=stop or (lambda: False),
    )
    before = written_at(out)
    seconds = work.complete()
    with in_turn(out / "shards", "record", work.pause, what="another process to write the record"):
        if written_at(out) != before:  # another process of this evaluation has just done it
            record = read_record(out)
        else:
            record = _record(models, work, command, seconds)
    forget_claims(out / "shards")
    return record


def _record(models: Sequence[Model], work: Evaluation, command: str, seconds: float) -> Record:
    """The tables, and the record of all finished pieces."""
    out, data, plan = work.shards.folder, work.data, work.plan
    work.write()
    trained = {name: rows for name, source, _ in models if (rows := trained_on(source, data)) is not None}
    entries = [work.figures(_entry(*model, trained.get(model[0]))) for model in models]
    results = dataclasses.replace(work.written, entries=entries)
    flags = [flag for entry in entries for flag in _flags(work, entry, trained.get(entry.name))]
    record = Record(
        advex=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=without_places(command),
        seed=plan.settings.seed,
        seconds=round(seconds, 3),
        environment=environment(models[0][2].device) | (work.shards.lacking() if plan.settings.bfloat16 else {}),
        settings=plan.settings.model_dump(mode="json"),
        data=_data_entry(data),
        searches=dict(results.searches),
        norms=dict(results.norms),
        radii={task.key: task.entry for task in plan.radii},
        corruptions={task.key: task.entry(data.shape) for task in plan.corruptions},
        measures=dict(results.measures),
        lowers=[task.name for task in plan.pictures if task.lowers],
        models=entries,
        differences=differences(STAGES, results),
        flags=[*flags_of_data(data), *flags],
    )
    write_record(out, record)
    return record


def check(models: Sequence[Model], data: Dataset, plan: Plan) -> None:
    """Raise unless there is something to do, and every model can be evaluated on this data as planned."""
    if not len(data):
        raise DataError(f"{data.name} has no examples: there is nothing to evaluate.")
    names = [name for name, _, _ in models]
    # Names become file names, and some file systems do not tell a from A.
    if not names or "" in names or len({name.casefold() for name in names}) < len(names):
        raise SpecError(f"An evaluation needs at least one model, each with its own name, not {names}.")
    for name, _, classifier in models:
        classes = classifier.predict(batch_for(classifier, data, slice(0, 2)).x).shape[1]
        if classes != len(data.class_names):
            unnamed = data.class_names == tuple(map(str, range(len(data.class_names))))
            named = " Or give the classifier class_names=[...], which the data do not say." if unnamed else ""
            raise InputError(
                f"The model '{name}' has {classes} classes, but {data.name} has {len(data.class_names)}. "
                f"Evaluate it on data with the classes it was trained on.{named}"
            )
        if None not in (classifier.features, data.features) and classifier.features != data.features:
            raise InputError(
                f"The rows of {data.name} are not encoded with the columns of the model '{name}': open them "
                "with open_dataset(..., features=classifier.features)."
            )
        for stage in (radii, transfers, corruptions, maps, pictures):
            stage.check(plan, classifier, data)  # before hours of searching
    transfers.check_together(plan, {name: classifier for name, _, classifier in models})


def _flags(work: Evaluation, entry: ModelEntry, trained: Known | None) -> Iterator[Flag]:
    """Reasons to trust a model's figures less. trained: which examples it was trained on, where known."""
    if trained is not None:
        right = work.written.column(entry.name, "prediction") == work.written.column(entry.name, "label")
        yield from flags_of_training(entry.name, trained.rows, right, by_name=trained.by_name)
    yield from flags_of_labels(entry.name, entry.training)
    yield from work.flags(entry)


def trained_on(source: str, data: Dataset) -> Known | None:
    """Which examples are among those that a run's network was trained on; None where that is not known.

    source: a run folder, whose list of them is compared; a bundled network, of which the data's name is (so other
    encodings of the same pictures count, too); or something else. Raises ArtifactError for a damaged list.
    """
    if source.startswith(bundled.PREFIX):
        same = read_config(bundled.folder(source))["training"]["data"] == data.name
        return Known(torch.ones(len(data), dtype=torch.bool)) if same else None
    return known(data, Path(source))


def _entry(name: str, source: str, classifier: Classifier, trained: Known | None) -> ModelEntry:
    """What is known of a model before any figure."""
    return ModelEntry(
        name=name, source=without_places(source), spec=classifier.spec,
        parameters=sum(parameter.numel() for parameter in classifier.parameters()),
        box=(classifier.lower.amin().item(), classifier.upper.amax().item()), training=_training(source),
        trained_on=None if trained is None or trained.by_name else int(trained.rows.sum()),
    )  # fmt: skip


def _training(source: str) -> Training | None:
    """How a model was trained, where its source is a run folder that tells."""
    run = read_run(Path(source))
    if run is None:
        return None
    environment = {name: without_places(value) for name, value in run.environment.items()}
    texts = {name: without_places(getattr(run, name)) for name in ("objective", "attack", "recipe")}
    return run.model_copy(update={**texts, "environment": environment})


def _data_entry(data: Dataset) -> DataEntry:
    return DataEntry(
        name=without_places(data.name), source=without_places(data.name), examples=len(data), shape=data.shape,
        class_names=data.class_names, chance=data.chance,
        skipped=[(without_places(lost.name), lost.reason) for lost in data.skipped],
    )  # fmt: skip

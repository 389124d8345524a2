"""Models x searches x explainers on a data set -> a record folder, in shards, so that it can be stopped and resumed.

settings      what is asked, and the searches that answer it
shards        finished pieces on disk, and whose they are
searching     predictions and searches, a table per shard
explain       explanations and their pictures
maps          maps of what counts, and how concise they are
certifying    certificates by randomised smoothing
answering     rows of tables: what would have had to be different, in sentences
run           the pieces of one evaluation, and the tables put together from them
scores        from per-example results to figures with intervals
trust         reasons to trust a figure less
environment   where it ran
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from advex._version import __version__
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.environment import environment, without_places
from advex.errors import DataError, InputError, SpecError
from advex.evaluation import certificates, flags, maps, rows, scores
from advex.evaluation.run import Evaluation, Progress
from advex.evaluation.searches import batch_for
from advex.evaluation.settings import Settings as Settings
from advex.evaluation.settings import map_questions, questions
from advex.evaluation.settings import settings_from as settings_from
from advex.evaluation.shards import identity_of, open_shards
from advex.measures.certified import Certificate
from advex.progress import Interrupted as Interrupted
from advex.record import (
    Answered,
    CertificateFigures,
    DataEntry,
    Difference,
    MapFigures,
    ModelEntry,
    Record,
    Training,
    read_run,
    write_record,
)
from advex.registry import describe

Model = tuple[str, str, Classifier]  # name, source, classifier


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
    """Question models on a data set and leave the answers in the folder `out` (see `advex.record`).

    models: (name, source, classifier), names unique; where the source is a run folder, how the model was
    trained goes into the record. command: what made it, to be typed again.
    Each finished piece is a file in `out/shards`, so that the same call goes on after a crash. A
    folder of an evaluation of other settings, weights or data is refused; without `resume` one of
    this very evaluation is, too.
    progress: told {phase, model, done, total, rate} after each piece: examples, and examples per second
    (None where an earlier run made the piece). stop: asked before each piece.

    Raises Interrupted when stopped; DataError, InputError and SpecError for data, models and settings
    that do not fit each other; ArtifactError for the folder.
    """
    out, settings = Path(out), settings or settings_from({})
    asked = questions(settings)
    _check(models, data, settings)
    classifiers = {name: classifier for name, _, classifier in models}
    searches = {question.name: describe(question.search) for question in asked}
    run = Evaluation(
        shards=open_shards(out, identity_of(settings.decisive(), searches, data, classifiers), resume),
        data=data,
        settings=settings,
        questions=asked,
        progress=progress or (lambda event: None),
        stop=stop or (lambda: False),
    )
    seconds = sum(run.complete(name, classifier) for name, classifier in classifiers.items())
    run.write_examples(classifiers)
    run.write_explanations(classifiers)
    run.write_maps(classifiers)
    run.write_rows(classifiers)
    tested = [_tested(run, name, classifier, list(searches)) for name, classifier in classifiers.items()]
    record = Record(
        advex=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=without_places(command),
        seed=settings.seed,
        seconds=round(seconds, 3),
        environment=environment(models[0][2].device),
        settings=settings.model_dump(mode="json"),
        data=_data_entry(data),
        searches=searches,
        measures=maps.MEASURES if run.maps else {},
        models=[
            _model_entry(one, source, _mapped(run, one.name), _answered(run, one))
            for one, (_, source, _) in zip(tested, models, strict=True)
        ],
        differences=_differences(run, classifiers, list(searches)),
        flags=flags.flags_of_data(data)
        + [flag for one in tested for flag in flags.flags(one, data, run.probe(one.classifier))],
    )
    write_record(out, record)
    return record


def _check(models: Sequence[Model], data: Dataset, settings: Settings) -> None:
    """Raise unless there is something to do, and every model can answer about this data and be mapped as asked."""
    if not len(data):
        raise DataError(f"{data.name} holds no examples: there is nothing to evaluate.")
    names = [name for name, _, _ in models]
    # Names become file names, and some file systems do not tell a from A.
    if not names or "" in names or len({name.casefold() for name in names}) < len(names):
        raise SpecError(f"An evaluation needs one or more models, each with a name of its own, not {names}.")
    for name, _, classifier in models:
        classes = classifier.predict(batch_for(classifier, data, slice(0, 1)).x).shape[1]
        if classes != len(data.class_names):
            raise InputError(
                f"The model '{name}' answers {classes} classes, {data.name} has {len(data.class_names)}. "
                "Evaluate it on data of the classes that it was made for."
            )
        if None not in (classifier.features, data.features) and classifier.features != data.features:
            raise InputError(
                f"The rows of {data.name} are not encoded by the columns of the model '{name}': open them with "
                "open_dataset(..., features=classifier.features)."
            )
        for question in map_questions(settings):  # before hours of searching
            maps.explained(question, classifier, data, range(1), settings)


def _differences(run: Evaluation, classifiers: Mapping[str, Classifier], searches: list[str]) -> list[Difference]:
    """Every pair of models on the same examples."""
    names, chance, seed = list(classifiers), run.data.chance, run.settings.seed
    certified = {name: found.rmse for name in names if (found := run.certificate(name)) is not None}
    compared = scores.differences(run.shards, names, searches, len(run.spans), chance, seed, certified)
    tables = [found for name in names if (found := run.measured_maps(name)) is not None]
    return compared + (maps.differences(maps.ginis(pa.concat_tables(tables)), names, seed) if tables else [])


def _mapped(run: Evaluation, model: str) -> dict[str, MapFigures]:
    """How concise a model's maps are, by the explainer's name."""
    found, settings = run.measured_maps(model), run.settings
    if found is None:
        return {}
    return {
        one.name: maps.entry(found.filter(pc.field("explainer") == one.name), one.target, settings.seed)
        for one in run.maps
    }


def _answered(run: Evaluation, tested: flags.Tested) -> Answered | None:
    """For how many explained rows a model of a table has a counterfactual."""
    found = run.answers(tested.name, tested.classifier)
    return rows.entry(found) if found else None


def _tested(run: Evaluation, name: str, classifier: Classifier, searches: list[str]) -> flags.Tested:
    count, chance, seed = len(run.spans), run.data.chance, run.settings.seed
    figures = scores.figures(run.shards, name, searches, count, chance, seed)
    certificate = run.certificate(name)
    if certificate is not None:
        figures |= certificates.figures(certificate, chance, seed)
    return flags.Tested(
        name=name,
        classifier=classifier,
        shards=run.shards,
        searches=searches,
        count=count,
        scores=figures,
        tables=run.explanations(name),
        certified=None if certificate is None else _certified(run, name, certificate),
    )


def _certified(run: Evaluation, name: str, certificate: Certificate) -> CertificateFigures:
    """The certificate's entry: beside it, the network itself on the same examples."""

    def column(kind: str, of: str) -> Tensor:
        return run.shards.column(name, kind, of, len(run.spans))[run.certified]

    right = column("predictions", "prediction") == column("predictions", "label")
    elements, certify = math.prod(run.data.shape), run.certify
    assert certify is not None
    attacked = column(run.questions[0].name, "rmse")
    return certificates.entry(certify, certificate, right, attacked, elements, run.data.chance, run.settings.seed)


def _model_entry(
    tested: flags.Tested, source: str, mapped: dict[str, MapFigures], answered: Answered | None
) -> ModelEntry:
    classifier = tested.classifier
    return ModelEntry(
        name=tested.name,
        source=without_places(source),
        spec=classifier.spec,
        parameters=sum(parameter.numel() for parameter in classifier.parameters()),
        box=(classifier.lower.amin().item(), classifier.upper.amax().item()),
        scores=tested.scores,
        rho_reached=scores.reached(tested.tables),
        training=_training(source),
        certified=tested.certified,
        maps=mapped,
        answered=answered,
    )


def _training(source: str) -> Training | None:
    """How a model was trained, where its source is a run folder that tells."""
    found = read_run(Path(source))
    if found is None:
        return None
    told = {name: without_places(value) for name, value in found.environment.items()}
    texts = {name: without_places(getattr(found, name)) for name in ("objective", "attack", "recipe")}
    return found.model_copy(update={**texts, "environment": told})


def _data_entry(data: Dataset) -> DataEntry:
    return DataEntry(
        name=without_places(data.name),
        source=without_places(data.name),
        examples=len(data),
        shape=data.shape,
        class_names=data.class_names,
        chance=data.chance,
        skipped=[(without_places(lost.name), lost.reason) for lost in data.skipped],
    )

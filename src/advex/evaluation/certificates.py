"""What is certain of each example by randomised smoothing.

Only some examples are certified, since each costs thousands of passes of the network. They are a simple random
sample of all: an interval over them is then about the same images as that of every other figure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from advex import measures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.drawing.numbers import percent
from advex.evaluation.columns import table, tensor
from advex.evaluation.examples import batch_for
from advex.evaluation.flags import FEW_EXAMPLES, flag
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import SCORES, Contrast, area_contrasts, contrast, figure_of
from advex.evaluation.shards import Piece
from advex.evaluation.tasks import ATTACK
from advex.measures.certified import Certificate, Certify, bracket, certified_accuracy, certified_area
from advex.randomness import uniform_for
from advex.record import CertificateFigures, Flag, ModelEntry
from advex.record.tables import CERTIFICATE

KIND = "certify"
PASSES = 40_000  # of the network per shard, or one example: what an interruption loses at most


def sampled(total: int, count: int, seed: int) -> list[int]:
    """`count` of `total` examples at random without replacement, in order; a larger count keeps the smaller's.

    Not spread over the classes: equal numbers of each would answer for other data than those evaluated.
    """
    keys = uniform_for(torch.arange(total), seed, "certify: examples")[:, 0]
    return sorted(keys.argsort(stable=True)[:count].tolist())


def spans(certify: Certify, chosen: Sequence[int]) -> list[Sequence[int]]:
    """The examples of each shard."""
    size = max(PASSES // (certify.selection + certify.samples), 1)
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


def pieces(work: Evaluation, model: str) -> Pieces:
    """The certificates. They do not depend on which examples are certified together."""
    certify, settings = work.plan.certify, work.plan.settings
    if certify is not None:
        make = partial(_certified, certify, work.classifiers[model], work.data, settings.seed)
        yield [
            Piece(model=model, kind=KIND, index=index, examples=len(rows), make=partial(make, rows))
            for index, rows in enumerate(_spans(work, certify))
        ]


def _spans(work: Evaluation, certify: Certify) -> list[Sequence[int]]:
    settings = work.plan.settings
    return spans(certify, sampled(len(work.data), settings.certify_examples, settings.seed))


def _certified(certify: Certify, classifier: Classifier, data: Dataset, seed: int, rows: Sequence[int]) -> pa.Table:
    batch = batch_for(classifier, data, torch.tensor(rows))
    certificate = certify(classifier, batch.x, batch.y, seed=seed)
    columns = {name: getattr(certificate, name) for name in CERTIFICATE}
    return table({"example": pa.int64(), **CERTIFICATE}, example=rows, **columns)


def tables(work: Evaluation, model: str) -> Blocks:
    """Columns of the examples, null for those that were not certified."""
    certify = work.plan.certify
    if certify is None:
        return {}

    def blocks() -> Iterator[pa.Table]:
        made = work.made(model, KIND, len(_spans(work, certify)))
        rows: dict[int, dict[str, Any]] = {row["example"]: row for part in made for row in part.to_pylist()}
        for span in work.spans:
            columns = {name: [rows.get(row, {}).get(name) for row in span] for name in CERTIFICATE}
            certificates = table(CERTIFICATE, **columns)
            yield certificates.rename_columns([f"{KIND}_{name}" for name in CERTIFICATE])

    return {"examples": blocks()}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """certified_accuracy and certified_ara, and how they came about: beside the network itself on the same examples."""
    certify, chance, seed = work.plan.certify, work.data.chance, work.plan.settings.seed
    if certify is None:
        return entry
    rows = work.written.rows("examples", entry.name).filter(pc.field(f"{KIND}_rmse").is_valid())
    columns = {name: tensor(rows, f"{KIND}_{name}") for name in CERTIFICATE}
    certificate = Certificate(**columns, sigma=float(certify.sigma), samples=certify.samples, alpha=certify.alpha)
    between = bracket(certificate, tensor(rows, f"{ATTACK}_rmse"), chance, seed=seed)
    overclaimed = certificate.overclaimed()
    corner = max(math.prod(work.data.shape), 1) ** 0.5 * work.classifiers[entry.name].width  # L2 of RMSE 1
    scores = {
        "certified_accuracy": figure_of(certified_accuracy(certificate)),
        "certified_ara": figure_of(certified_area(certificate, chance, seed=seed)),
    }
    certified = CertificateFigures(
        sigma=float(certify.sigma), selection=certify.selection, samples=certify.samples, alpha=certify.alpha,
        largest=certify.largest / corner, examples=len(certificate),
        accuracy=figure_of(measures.accuracy(tensor(rows, "prediction"), tensor(rows, "label"))),
        attack_ara=figure_of(between.attacked), gap=figure_of(between.gap),
        abstained=int(certificate.abstained.sum()), crossed=int(between.crossed.sum()), overclaimed=overclaimed,
        least_ara=certified_area(certificate, chance, overclaimed=overclaimed, seed=seed).value,
    )  # fmt: skip
    return entry.model_copy(update={"scores": entry.scores | scores, "certified": certified})


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """Noise that the network does not bear, and few examples."""
    certified = entry.certified
    if certified is None:
        return
    smoothed, examples = entry.scores["certified_accuracy"], len(work.data)
    if smoothed.high < certified.accuracy.low:
        yield flag(
            entry.name, "noise", "note",
            f"The network does not withstand the noise that certifies it (sigma {certified.sigma:g}): of "
                f"{certified.examples} examples, {percent(smoothed.value)} are certified correct with noise and "
                f"{percent(certified.accuracy.value)} are correct without.",
            f"Train with such noise (objective.noise.std={certified.sigma:g} objective.noise.clip=false), or certify "
            "with a smaller sigma.",
        )  # fmt: skip
    if certified.examples < min(FEW_EXAMPLES, examples):
        yield flag(
            entry.name, "few_certified", "note",
            f"Only {certified.examples} of {examples} examples were certified: certified figures have wide intervals.",
            f"Certify more (--certify-examples), at least {FEW_EXAMPLES} if the data have that many.",
        )  # fmt: skip


def differences(results: Results) -> Iterator[Contrast]:
    """Every two models' certified accuracy and area, on the examples that were certified."""
    certified = [entry.name for entry in results.entries if entry.certified is not None]
    columns = {name: results.column(name, f"{KIND}_rmse") for name in certified}  # NaN where there is none
    radii = {name: values[~values.isnan()] for name, values in columns.items()}
    for first, second in itertools.combinations(radii, 2):
        both, names = (radii[first] > 0, radii[second] > 0), {"first": first, "second": second}
        yield contrast(SCORES, both, "high", results.seed, measure="certified_accuracy", **names)
    yield from area_contrasts("certified_ara", radii, results.chance, results.seed)

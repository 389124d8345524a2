"""What is certain of each example by randomised smoothing: a table per shard, and the figures that follow.

Only some examples are certified, since each costs thousands of passes of the network. They are a simple random
sample of all: an interval over them is then about the same images as that of every other figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from advex import measures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation.scores import figure_of
from advex.evaluation.searches import batch_for, table
from advex.evaluation.shards import Shards
from advex.measures.certified import Certificate, Certify, bracket, certified_accuracy, certified_area
from advex.randomness import uniform_for
from advex.record import CertificateFigures, Figure

KIND = "certify"
CERTIFIED = {
    "prediction": pa.int64(),
    "correct": pa.bool_(),
    "radius_l2": pa.float64(),
    "rmse": pa.float64(),
    "candidate": pa.int64(),
    "hits": pa.int64(),
    "lower": pa.float64(),
}
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


def certified(certify: Certify, classifier: Classifier, data: Dataset, rows: Sequence[int], seed: int) -> pa.Table:
    """The certificates of some rows. They do not depend on which rows are asked about together."""
    batch = batch_for(classifier, data, torch.tensor(rows))
    found = certify(classifier, batch.x, batch.y, seed=seed)
    columns = {name: getattr(found, name) for name in CERTIFIED}
    return table({"example": pa.int64(), **CERTIFIED}, example=rows, **columns)


def certificate(certify: Certify, shards: Shards, model: str, count: int) -> Certificate:
    """The certificate of a model, put together from its first `count` shards."""
    columns = {name: shards.column(model, KIND, name, count) for name in CERTIFIED}
    return Certificate(**columns, sigma=float(certify.sigma), samples=certify.samples, alpha=certify.alpha)


def figures(found: Certificate, chance: float, seed: int) -> dict[str, Figure]:
    """certified_accuracy and certified_ara, with their intervals over the certified examples."""
    return {
        "certified_accuracy": figure_of(certified_accuracy(found)),
        "certified_ara": figure_of(certified_area(found, chance, seed=seed)),
    }


def entry(
    certify: Certify, found: Certificate, right: Tensor, attacked: Tensor, elements: int, chance: float, seed: int
) -> CertificateFigures:
    """How a certificate came about, and the network itself on the same examples.

    right: [n] bool, the network's answers; attacked: [n] RMSE that the attack found; elements: of an input.
    """
    between = bracket(found, attacked, chance, seed=seed)
    overclaimed = found.overclaimed()
    return CertificateFigures(
        sigma=float(certify.sigma),
        selection=certify.selection,
        samples=certify.samples,
        alpha=certify.alpha,
        largest=certify.largest / max(elements, 1) ** 0.5,
        examples=len(found),
        accuracy=figure_of(measures.accuracy(right.long(), torch.ones(len(right), dtype=torch.int64))),
        attack_ara=figure_of(between.attacked),
        gap=figure_of(between.gap),
        abstained=int(found.abstained.sum()),
        crossed=int(between.crossed.sum()),
        overclaimed=overclaimed,
        least_ara=certified_area(found, chance, overclaimed=overclaimed, seed=seed).value,
    )

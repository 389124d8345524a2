"""Looking at a classifier between epochs."""

from __future__ import annotations

import torch

from advex import attacks
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.goals import Misclassify


def accuracy(classifier: Classifier, data: Dataset, batch_size: int = 512) -> float:
    """Share of right decisions on a data set."""
    right = 0
    for batch in data.batches(batch_size, classifier.device):
        right += int((classifier.predict(batch.x).argmax(dim=1) == batch.y).sum())
    return right / max(len(data), 1)


def robust_accuracy(classifier: Classifier, data: Dataset, attack: str, samples: int, batch_size: int = 128) -> float:
    """Share of the first `samples` examples whose decision is right and stays so under a search.

    attack: its spec string. A quick look, not a claim: a stronger search finds a lower number.
    """
    search, stands = attacks.build(attack), 0
    shown = data.take(torch.arange(min(samples, len(data))))
    for batch in shown.batches(batch_size, classifier.device):
        found = search(classifier, batch.x, Misclassify(batch.y), seed=0)
        stands += int((~found.reached).sum())
    return stands / max(len(shown), 1)

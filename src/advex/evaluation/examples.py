"""Examples of a data set: which are shown, and how a classifier takes them."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.types import Batch


def batch_for(classifier: Classifier, data: Dataset, index: Tensor | slice) -> Batch:
    """The chosen examples where the classifier is, in its precision."""
    batch = data.batch(index, classifier.device)
    return Batch(x=batch.x.to(classifier.dtype), y=batch.y)


def spread(y: Tensor, count: int, seed: int) -> list[int]:
    """`count` examples, as many of each class as of any. A larger count keeps the smaller's.

    y: [n] labels.
    """
    seen: Counter[int] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for position, row in enumerate(torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).tolist()):
        label = int(y[row])
        ranked.append((seen[label], position, row))
        seen[label] += 1
    return [row for _, _, row in sorted(ranked)[:count]]

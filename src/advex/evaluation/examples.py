"""Examples of a data set: which are shown, and how a classifier takes them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.contexts import pixelwise, without_doubts
from advex.data.dataset import Dataset
from advex.errors import AdvexError
from advex.evaluation.settings import Settings
from advex.layers import input_gradient
from advex.logits import out_of_memory
from advex.precision import has_bfloat16
from advex.types import Batch

LARGE = 192  # pixels, of the shorter side, from which networks are faster where they hold pictures pixel by pixel ...
LARGE_ON_CPU = 32  # ... and on a processor


def batch_for(classifier: Classifier, data: Dataset, index: Tensor | slice) -> Batch:
    """The chosen examples where the classifier is, in its precision."""
    batch = data.batch(index, classifier.device)
    return Batch(x=batch.x.to(classifier.dtype), y=batch.y)


@contextlib.contextmanager
def searched(classifier: Classifier, data: Dataset, settings: Settings) -> Iterator[None]:
    """Inside, a classifier is as fast as the settings, and pictures of this size, let it be."""
    bfloat16 = settings.bfloat16 and has_bfloat16(classifier.device)
    with classifier.accelerated(compiled=settings.compiled, bfloat16=bfloat16), laid_out(classifier, data):
        yield


@contextlib.contextmanager
def laid_out(classifier: Classifier, data: Dataset) -> Iterator[None]:
    """Inside, a classifier holds pictures pixel by pixel where that is faster for their size, and it can."""
    large = LARGE_ON_CPU if classifier.device.type == "cpu" else LARGE
    faster = len(data.shape) == 3 and min(data.shape[1:]) >= large and _takes_pixelwise(classifier, data)
    with pixelwise(classifier) if faster else contextlib.nullcontext():
        yield


def _takes_pixelwise(classifier: Classifier, data: Dataset) -> bool:
    """Some networks look at the memory of what their layers answer as if they knew its order."""
    if not any(parameter.ndim == 4 for parameter in classifier.parameters()):
        return False
    try:
        # Two rows: of one alone, channels lie side by side in either order.
        x = batch_for(classifier, data, slice(0, 1)).x.repeat(2, 1, 1, 1)
        with pixelwise(classifier), without_doubts(), classifier.frozen():
            input_gradient(lambda x: classifier(x).sum(dim=1), x)
    except (AdvexError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        return False
    return True


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

"""The bundled data set: small, real, and there without a download."""

from __future__ import annotations

from functools import partial

import numpy as np

from advex.data.chosen import seed_of
from advex.data.source import Source, Split
from advex.registry import register

_TEST = 500


@register("dataset", "digits", cites="Alpaydin and Kaynak 1998")
def digits(*, seed: int = 0) -> Source:
    """Scikit-learn's 1,797 handwritten digits, 8x8 grey, in `train` (1,297) and `test` (500).

    The original counts 0 to 16 of set pixels become the bytes round(255 count / 16), here and nowhere
    else; 0 is the background. seed: of the split, which keeps the shares of the classes. An id is
    the place in the original list.
    """
    from sklearn.datasets import load_digits  # heavy: only when asked for
    from sklearn.model_selection import train_test_split

    counts, labels = load_digits(return_X_y=True)
    counts, labels = counts.reshape(-1, 8, 8), np.asarray(labels, dtype=np.int64)
    pixels = np.rint(counts * (255 / 16)).astype(np.uint8)[:, None]
    state = seed_of(seed, 2**32)
    train, test = train_test_split(np.arange(len(labels)), test_size=_TEST, stratify=labels, random_state=state)

    def opened(chosen: np.ndarray) -> Split:
        return Split(
            ids=[f"digits/{index:04d}" for index in chosen],
            labels=labels[chosen],
            read=lambda rows: (pixels[chosen[row]] for row in rows),
        )

    return Source(
        name="digits",
        class_names=tuple("0123456789"),
        splits={"train": partial(opened, np.sort(train)), "test": partial(opened, np.sort(test))},
    )

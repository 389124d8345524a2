"""Bundled pictures: enough to look at, too few to measure with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from advex.data.images import folders, parquet
from advex.data.source import Source, files_below
from advex.registry import register


@register("dataset", "cifar10-sample", cites="Krizhevsky 2009")
def cifar10_sample() -> Source:
    """24 test images of CIFAR-10, 32x32 RGB: the first two of each class, and the first four third ones.

    Nobody chose them: they are the first in the order of the test split. The PNG files hold the pixels
    of its JPEG version, on which the bundled networks were trained. An id is class/place in the split.
    """
    root = Path(__file__).with_name("cifar10_sample")
    return replace(folders.source(root, files_below(root)), name="cifar10-sample", indivisible=True)


@register("dataset", "photos-sample", cites="Le and Yang 2015")
def photos_sample() -> Source:
    """40 test pictures of 20 classes of Tiny ImageNet, 64x64 RGB, with boxes: the first two of each class.

    Nobody chose them: they are the first in the order of a test split that the bundled networks for photos were not
    trained on. The rows are the published JPEG files, boxes and names.
    """
    file = Path(__file__).with_name("photos_sample.parquet")
    return replace(parquet.source("photos-sample", {"test": [file]}), indivisible=True)

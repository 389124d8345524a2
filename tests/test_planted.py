"""Planted evidence: the patch that tells the class lies where the data say, and nothing else tells it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import advex
from advex.data.published import planted
from advex.errors import SpecError

SIZE = planted.PATCH


def likeness(patch: np.ndarray) -> np.ndarray:
    """How much of a patch's [3, 8, 8] energy lies along each class's pattern."""
    centred = patch - patch.mean(axis=(1, 2), keepdims=True)
    patterns = np.stack([planted._pattern(*pair) for pair in planted._CLASSES[:4]])
    along = np.tensordot(centred, patterns, axes=([1, 2], [1, 2])) / SIZE
    return np.square(along).sum(axis=0) / np.square(centred).sum()


def test_the_evidence_is_the_patch_of_the_class_and_no_other_is_like_one() -> None:
    made = planted.drawn(60, classes=4, side=32, amplitude=0.16, mark=False, informative=True, seed=1)
    for picture, label, patches in zip(made.pictures, made.labels, made.patches, strict=True):
        found = [likeness(picture[:, r : r + SIZE, c : c + SIZE] / 255) for r, c in patches]
        assert found[0].argmax() == label
        assert found[0][label] > 0.7
        assert max(each.max() for each in found[1:]) < 0.2
    assert {tuple(place) for place in made.patches.reshape(-1, 2).tolist()} == {
        (row, column) for row in (2, 12, 22) for column in (2, 12, 22)
    }


def test_a_data_set_says_where() -> None:
    data = advex.open_dataset("planted", split="test", max_samples=20)
    assert data.x.shape == (20, 3, 32, 32)
    assert data.evidence is not None
    for i, boxes in enumerate(data.evidence.boxes):
        ((x0, y0, x1, y1),) = boxes.tolist()
        assert (x1 - x0, y1 - y0) == (SIZE - 1, SIZE - 1)
        assert likeness(data.x[i, :, y0 : y1 + 1, x0 : x1 + 1].numpy()).argmax() == data.y[i]
    again = advex.open_dataset("planted", split="test", max_samples=20)
    assert torch.equal(data.x, again.x)
    other = advex.open_dataset("planted:seed=1", split="test", max_samples=20)
    assert not torch.equal(data.x, other.x)


def test_with_a_shortcut_the_patch_may_say_nothing() -> None:
    made = planted.drawn(400, classes=4, side=32, amplitude=0.16, mark=True, informative=False, seed=2)
    shown = [
        likeness(picture[:, r : r + SIZE, c : c + SIZE] / 255).argmax()
        for picture, (r, c) in zip(made.pictures, made.patches[:, 0], strict=True)
    ]
    assert 0.15 < np.mean(np.array(shown) == made.labels) < 0.35, "chance, of four"
    colours = {label: {tuple(p[:, -1, -1]) for p in made.pictures[made.labels == label]} for label in range(4)}
    assert all(len(each) == 1 for each in colours.values())
    assert len(set().union(*colours.values())) == 4
    data = advex.open_dataset("planted:shortcut=watermark,informative=false", split="test", max_samples=3)
    assert data.evidence is not None
    assert all(boxes.tolist() == [[29, 29, 31, 31]] for boxes in data.evidence.boxes)
    both = advex.open_dataset("planted:shortcut=watermark", split="test", max_samples=3)
    assert both.evidence is not None
    assert all(len(boxes) == 2 for boxes in both.evidence.boxes)


@pytest.mark.parametrize(
    "options", ["classes=1", "classes=9", "side=21", "amplitude=0", "amplitude=0.6", "informative=false", "shortcut=x"]
)
def test_impossible_options_are_refused(options: str) -> None:
    with pytest.raises(SpecError):
        advex.open_dataset(f"planted:{options}", split="test")

"""What holds for every registered data set and format, those of plugins too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from advex import registry
from advex.data import Dataset, concatenate, open_dataset, splits
from advex.data.dataset import content, fingerprint
from advex.data.source import Place
from advex.errors import DataError

FORMATS = sorted(registry.entries("format"))


def needs_files(name: str) -> bool:
    """Whether a data set is not there without the folder ADVEX_DATA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ADVEX_DATA", raising=False)
        try:
            splits(name)
        except DataError:
            return True
    return False


FROM_FILES = {name: needs_files(name) for name in sorted(registry.entries("dataset"))}
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.data] if files else []) for name, files in FROM_FILES.items()]
)


def opened(name: str, **options: int) -> Dataset:
    """A data set, its first split, or a skip where its files are not here."""
    try:
        names = splits(name)
    except DataError as error:
        pytest.skip(str(error))
    return open_dataset(name, split=names[0] if names else None, **options)  # pyright: ignore[reportArgumentType]


def some(name: str) -> Dataset:
    """A few of its examples."""
    return opened(name, max_samples=24)


def by_id(data: Dataset) -> dict[str, tuple[bytes, int, bytes]]:
    """What each example is, by its id."""
    places = [b""] * len(data)
    if data.evidence is not None:
        size = (data.shape[-2], data.shape[-1])
        places = [data.evidence.mask(i, size).numpy().tobytes() for i in range(len(data))]
    rows = zip(data.ids, data.x, data.y.tolist(), places, strict=True)
    return {name: (x.numpy().tobytes(), label, place) for name, x, label, place in rows}


@pytest.mark.parametrize("name", [name for name, files in FROM_FILES.items() if files])
def test_without_its_files_a_data_set_says_which_it_wants(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=f"{name}.*ADVEX_DATA"):
        splits(name)
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"{name}.*({tmp_path}|ADVEX_DATA)|{tmp_path}.*{name}"):
        splits(name)


@EVERY
def test_examples_have_ids_labels_and_classes(name: str) -> None:
    data = some(name)
    assert len(set(data.ids)) == len(data.ids) == len(data.x) == len(data.y) > 0
    assert len(set(data.class_names)) == len(data.class_names) > 1
    assert data.y.dtype == torch.int64
    assert 0 <= int(data.y.min()) <= int(data.y.max()) < len(data.class_names)
    if data.x.dtype != torch.uint8:
        assert data.x.isfinite().all()
        assert data.features is not None or (data.x.min() >= 0 and data.x.max() <= 1)
    for split in splits(name):
        assert open_dataset(name, split=split, max_samples=1).class_names == data.class_names


@EVERY
def test_a_seed_decides_which_examples_are_drawn(name: str) -> None:
    first, again = opened(name, max_samples=5, seed=3), opened(name, max_samples=5, seed=3)
    assert by_id(first) == by_id(again)
    assert fingerprint(first) == fingerprint(again)
    more = opened(name, max_samples=9, seed=3)
    assert by_id(first).items() <= by_id(more).items()
    if len(some(name)) == 24:
        assert set(opened(name, max_samples=5, seed=4).ids) != set(first.ids)


@EVERY
def test_chosen_and_joined_examples_stay_what_they_are(name: str) -> None:
    data = some(name)
    known = by_id(data)
    backwards = data.take(torch.arange(len(data)).flip(0))
    assert backwards.ids == data.ids[::-1]
    for part in (backwards, data.take(slice(1, 4)), data.sample(3, seed=1)):
        assert by_id(part).items() <= known.items()
        assert part.class_names == data.class_names
        assert part.class_counts == data.class_counts
    assert content(data.take(slice(0, len(data)))) == content(data)
    half = len(data) // 2
    joined = concatenate(data.take(slice(0, half)), data.take(slice(half, len(data))))
    assert joined.ids[:half] == data.ids[:half]
    assert Counter(by_id(joined).values()) == Counter(known.values())
    assert (joined.evidence is None) == (data.evidence is None)


@EVERY
def test_evidence_lies_in_its_picture_at_any_size(name: str) -> None:
    data = some(name)
    if data.evidence is None:
        pytest.skip("it does not say where things lie")
    for scaled in (data, opened(name, max_samples=24, size=16)):
        assert scaled.evidence is not None
        height, width = scaled.shape[-2:]
        for boxes in scaled.evidence.boxes:
            x0, y0, x1, y1 = boxes.T
            assert bool(((x0 >= 0) & (x0 <= x1) & (x1 < width) & (y0 >= 0) & (y0 <= y1) & (y1 < height)).all())


# -- formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_leaves_to_others_what_it_does_not_know(name: str, tmp_path: Path) -> None:
    """No format takes an empty folder or a file of no known kind; the last one asked says what it wanted."""
    each = registry.build("format", name)
    assert each.reads
    assert each.order == max(registry.build("format", other).order for other in FORMATS) or (
        each.find(Place(tmp_path)) is None
    )
    (tmp_path / "notes.unknown").write_text("nothing")
    assert each.find(Place(tmp_path / "notes.unknown")) is None


def test_formats_are_asked_in_one_order() -> None:
    orders = [registry.build("format", name).order for name in FORMATS]
    assert len(set(orders)) == len(orders)

"""Data of other libraries: loaders, data sets of torch, and what Hugging Face's have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import advex
from advex.data import Dataset
from advex.errors import AdvexError
from advex.explainers import Toward
from advex.record import read_rows

MODEL = "builtin:cifar10-robust"


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Four pictures of the sample."""
    return advex.open_dataset("cifar10-sample").take(slice(0, 4))


def as_array(x: torch.Tensor) -> np.ndarray:
    """[height, width, 3] uint8."""
    return (x.permute(1, 2, 0) * 255).round().byte().numpy()


Image_ = type("Image", (), {})


class Columns:
    """What `datasets.Dataset` has, as far as it is used here."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.columns, self.features, self.column_names = columns, features, list(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


def columns_of(data: Dataset, **more: Any) -> Columns:
    """The data as Hugging Face has them, with other columns beside."""
    pictures = [Image.fromarray(as_array(x)) for x, _ in data]
    features = {"img": Image_(), "label": SimpleNamespace(names=list(data.class_names))}
    columns = {"img": pictures, "label": data.y.tolist(), **more}
    return Columns(columns, {**features, **dict.fromkeys(more, SimpleNamespace())})


class Pairs(torch.utils.data.Dataset[Any]):
    """A data set of pictures as files hold them, such as torchvision's."""

    def __init__(self, data: Dataset, size: int = 32) -> None:
        self.pairs = [(Image.fromarray(as_array(x)).resize((size, size)), y) for x, y in data]
        self.classes = list(data.class_names)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> Any:
        return self.pairs[row]


def forms(data: Dataset) -> dict[str, Any]:
    """The same examples in every form."""
    x = data.batch(slice(None)).x
    return {
        "loader": DataLoader(TensorDataset(x, data.y), batch_size=3),
        "loader of ours": DataLoader(data.to_torch(), batch_size=3),  # pyright: ignore[reportArgumentType]
        "loader of rows": DataLoader(TensorDataset(x, data.y), batch_size=None),
        "loader of dictionaries": DataLoader(
            [{"pixel_values": a, "labels": b} for a, b in zip(x, data.y, strict=True)],  # pyright: ignore
            batch_size=3,
        ),
        "torch": Pairs(data),
        "columns": columns_of(data, number=[1, 2, 3, 4]),
    }


def test_all_forms_of_the_same_examples_are_explained_alike(data: Dataset) -> None:
    clf = advex.load(MODEL)
    x = data.batch(slice(None)).x
    expected = Toward(steps=2)(clf, x, torch.full((4,), 5)).after
    for how, given in forms(data).items():
        explained = advex.explain(clf, given, target="dog", steps=2, quiet=True)
        assert [each["label"] for each in explained] == [data.class_names[y] for y in data.y.tolist()], how
        after = torch.tensor([each["explanations"][0]["after"] for each in explained])
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=0, msg=how)
    pixels = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    stacked = advex.explain(clf, pixels, target="dog", steps=2, quiet=True)
    after = torch.tensor([each["explanations"][0]["after"] for each in stacked])
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)
    unlabelled = advex.explain(clf, DataLoader(x, batch_size=2), target="dog", steps=2, quiet=True)  # pyright: ignore
    assert [each["label"] for each in unlabelled] == [None] * 4


def test_all_forms_of_the_same_examples_are_evaluated_alike(data: Dataset, tmp_path: Any) -> None:
    settings: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "recheck": 0, "quiet": True}
    accuracy = float((advex.load(MODEL).predict(data.batch(slice(None)).x).argmax(1) == data.y).double().mean())
    for number, (how, given) in enumerate(forms(data).items()):
        evaluated = advex.evaluate(MODEL, given, out=tmp_path / str(number), **settings)
        assert evaluated["cifar10-robust"]["accuracy"].value == pytest.approx(accuracy), how
        assert evaluated.record.data.class_names == data.class_names, how
        assert evaluated.record.data.examples == 4
        assert repr(evaluated).startswith("Evaluated(4 examples of ")
    with pytest.raises(AdvexError, match="yields pictures without classes"):
        advex.evaluate(MODEL, DataLoader(data.batch(slice(None)).x), out=tmp_path / "x", **settings)  # pyright: ignore


def test_larger_pictures_are_cut_as_files_are_and_lost_ones_are_named(data: Dataset, tmp_path: Any) -> None:
    large = Pairs(data, size=50)
    one = advex.explain(MODEL, large, target="dog", steps=1, quiet=True)
    large.pairs[0][0].save(tmp_path / "a.png")
    assert one[0]["confidences"] == advex.explain(MODEL, tmp_path / "a.png", steps=1, quiet=True)[0]["confidences"]
    columns = columns_of(data)
    columns.columns["img"][1] = {"bytes": b"no picture", "path": None}
    with pytest.warns(UserWarning, match="input 1 is left out"):
        assert len(advex.explain(MODEL, columns, target="dog", steps=1, quiet=True)) == 3
    settings: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "recheck": 0, "quiet": True}
    record = advex.evaluate(MODEL, columns, out=tmp_path / "r", **settings).record
    assert record.data.examples == 3
    assert [name for name, _ in record.data.skipped] == ["000001"]


def test_texts_are_classes_and_missing_ones_are_lost(data: Dataset, tmp_path: Any) -> None:
    columns = columns_of(data)
    columns.columns["label"], columns.features["label"] = ["dog", "cat", None, "dog"], SimpleNamespace()
    settings: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "recheck": 0, "quiet": True}
    record = advex.evaluate(MODEL, columns, out=tmp_path / "r", **settings).record
    assert record.data.class_names == data.class_names  # the model's numbers, not those of the texts that occur
    assert [name for name, _ in record.data.skipped] == ["000002"]
    says = advex.load(MODEL).predict(data.batch([0, 1, 3]).x).argmax(1)
    accuracy = float((says == torch.tensor([5, 3, 5])).double().mean())
    assert record.models[0].scores["accuracy"].value == pytest.approx(accuracy)
    columns.columns["label"][2] = "frog"
    explained = advex.explain(MODEL, columns, target="true", steps=1, quiet=True)
    assert [each["explanations"][0]["target_name"] for each in explained] == ["dog", "cat", "frog", "dog"]


def test_a_loader_is_trained_on(tmp_path: Any) -> None:
    digits = advex.open_dataset("digits", split="train").take(slice(0, 60))
    loader: Any = DataLoader(digits.to_torch(), batch_size=16)
    clf = advex.train("digits-ordinary", loader, "epochs=1", out=tmp_path / "run", quiet=True)
    assert clf.class_names == digits.class_names
    same = advex.train("digits-ordinary", digits, "epochs=1", out=tmp_path / "same", quiet=True)
    x = digits.batch(slice(0, 5)).x
    assert torch.equal(clf.predict(x), same.predict(x))


class Stream(IterableDataset[Any]):
    """Rows that can only be iterated."""

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda data: dict.fromkeys(("train", "test"), columns_of(data)), r"pass one of them, data\['train'\]"),
        (lambda data: SimpleNamespace(column_names=["img"], features={}), "is a stream"),
        (lambda data: Columns({"text": ["a"]}, {"text": SimpleNamespace()}), "columns text contains pictures"),
        (lambda data: Columns({"img": []}, {"img": Image_()}), "has no rows"),
        (lambda data: columns_of(data.take(slice(0, 0))), "has no rows"),
        (lambda data: Stream(), "through a loader"),
        (lambda data: DataLoader(TensorDataset(torch.zeros(0, 3, 32, 32))), "is empty"),
        (lambda data: DataLoader(cast("Any", [{"a": 1}])), "yields a; pictures are expected under"),
        (lambda data: DataLoader(TensorDataset(torch.rand(2, 3, 32, 32), torch.rand(2))), "not an integer"),
        (lambda data: DataLoader(TensorDataset(torch.randn(2, 3, 32, 32))), "already normalised"),
        (lambda data: DataLoader(TensorDataset(torch.rand(2, 3, 8, 8))), r"the model needs floats \[n, 3, 32, 32\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(data: Dataset, given: Any, said: str) -> None:
    with pytest.raises(AdvexError, match=said):
        advex.explain(MODEL, given(data), steps=1, quiet=True)


def test_two_columns_of_classes_are_no_answer(data: Dataset, tmp_path: Any) -> None:
    columns = columns_of(data)
    columns.columns = {"img": columns.columns["img"], "fine": [0] * 4, "coarse": [0] * 4}
    columns.features = {"img": Image_(), "fine": SimpleNamespace(names=["a"]), "coarse": SimpleNamespace(names=["b"])}
    with pytest.raises(AdvexError, match="Several columns contain classes, fine, coarse: rename"):
        advex.evaluate(MODEL, columns, out=tmp_path / "r")


class Counting(torch.utils.data.Dataset[Any]):
    """Many pictures, of which it is known which were asked for."""

    def __init__(self, data: Dataset, count: int, floats: bool = False) -> None:
        self.data, self.count, self.floats, self.asked = data, count, floats, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        self.asked.append(row)
        x, y = self.data[row % 4]
        return (x if self.floats else Image.fromarray(as_array(x))), y


@pytest.mark.parametrize("floats", [False, True])
def test_of_many_rows_only_those_drawn_are_read(data: Dataset, tmp_path: Any, floats: bool) -> None:
    settings: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "recheck": 0, "quiet": True}
    many = Counting(data, 5000, floats)
    record = advex.evaluate(MODEL, many, out=tmp_path / "a", max_samples=6, **settings).record
    assert record.data.examples == 6
    assert len(set(many.asked) - {0}) <= 6

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            while True:
                yield data[0]

    endless: Any = DataLoader(Endless(), batch_size=4)
    record = advex.evaluate(MODEL, endless, out=tmp_path / "c", max_samples=6, **settings).record
    assert record.data.examples == 6


@pytest.mark.parametrize(
    ("most", "shuffle", "said"), [(6, False, True), (6, True, False), (None, False, False), (99, False, False)]
)
def test_the_first_of_a_loader_are_said_to_be_no_draw(
    data: Dataset, tmp_path: Any, capsys: pytest.CaptureFixture[str], most: int | None, shuffle: bool, said: bool
) -> None:
    rows = DataLoader(Counting(data, 9, True), batch_size=4, shuffle=shuffle)
    evaluated = advex.evaluate(
        MODEL, rows, out=tmp_path / "a", max_samples=most, attack=None, btr=None, explanations=0, recheck=0
    )
    flags = [flag.message for flag in evaluated.record.flags if flag.code == "selected"]
    first = "These are the first 6 examples that the DataLoader gave, and no draw"
    assert [message.partition(":")[0] for message in flags] == [first] * said
    assert (first in capsys.readouterr().err) == said


class Damaged(Counting):
    """Whose second and last rows raise, and whose classes are others than those that it keeps beside."""

    def __getitem__(self, row: int) -> Any:
        if row in (1, self.count - 1):
            raise OSError("image file is truncated")
        x, y = super().__getitem__(row)
        return x, int(y >= 5)

    @property
    def targets(self) -> list[int]:
        return [int(self.data.y[row % 4]) for row in range(self.count)]


@pytest.mark.parametrize("floats", [False, True])
def test_rows_that_raise_are_named_and_the_others_stay(data: Dataset, tmp_path: Any, floats: bool) -> None:
    settings: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "recheck": 0, "quiet": True}
    evaluated = advex.evaluate(MODEL, Damaged(data, 8, floats), out=tmp_path / "a", **settings)
    assert evaluated.record.data.examples == 6
    assert {name for name, _ in evaluated.record.data.skipped} == {"000001", "000007"}
    assert "OSError: image file is truncated" in str(evaluated.record.data.skipped)
    labels = [row["label"] for row in read_rows(tmp_path / "a", "examples")]
    assert labels == [int(data.y[row % 4] >= 5) for row in (0, 2, 3, 4, 5, 6)]  # of the rows themselves
    with pytest.warns(UserWarning, match="input [13] is left out"):
        assert len(advex.explain(MODEL, Damaged(data, 4, floats), target="dog", steps=1, quiet=True)) == 2


def test_rows_as_they_are_wrong_classes_and_gone_files(data: Dataset, tmp_path: Any) -> None:
    settings: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "recheck": 0, "quiet": True}
    loader: Any = DataLoader(Pairs(data), batch_size=3, collate_fn=list)  # pyright: ignore
    assert advex.evaluate(MODEL, loader, out=tmp_path / "r", **settings).record.data.examples == 4
    x = data.batch(slice(None)).x
    strange = TensorDataset(x, torch.tensor([20, 30, 40, 50]))
    assert len(advex.explain(MODEL, strange, explainer="gradient", quiet=True)) == 4  # no class is needed
    columns = columns_of(data)
    columns.columns["label"], columns.features["label"] = [0.5, 3.7, 2.2, 1.9], SimpleNamespace()
    with pytest.raises(AdvexError, match="'label' does not contain classes"):
        advex.evaluate(MODEL, columns, out=tmp_path / "s", **settings)
    explained = advex.explain(MODEL, x[:2], target="dog", steps=1, out=tmp_path / "e", quiet=True)
    assert "2 pictures 3x32x32" in repr(explained)
    for picture in (tmp_path / "e").glob("*.png"):
        picture.unlink()
    assert "2 pictures:" in repr(explained)

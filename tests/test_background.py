"""What explainers compare with that take a mean over many baselines."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import advex
from advex import explainers
from advex.cli import main
from advex.data import Dataset
from advex.data.dataset import drawn
from advex.errors import AdvexWarning
from advex.evaluation import evaluate, settings_from
from advex.explainers.background import with_background

SHAPE, CLASSES = (1, 3, 3), 3
SPECS = ("expected_gradients:background=10,samples=20", "deep_lift_shap:background=10")


@pytest.fixture
def data() -> Dataset:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (40, *SHAPE)).astype(np.uint8))
    names = tuple("abc")
    return Dataset(name="d", x=x, y=torch.arange(40) % 3, class_names=names, ids=tuple(map(str, range(40))))


@pytest.fixture
def linear() -> advex.Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return advex.Classifier(f"linear:features=9,classes={CLASSES}")


def expected(classifier: advex.Classifier, data: Dataset, seed: int, target: torch.Tensor) -> torch.Tensor:
    """Of a linear network both maps are known: each element's weight times its distance from the background's mean."""
    weight = next(value for value in classifier.network.state_dict().values() if value.ndim == 2)[target]
    x = data.batch(slice(None)).x
    return weight.reshape(-1, *SHAPE) * (x - x[drawn(40, 10, seed)].mean(dim=0))


@pytest.mark.parametrize("spec", SPECS)
def test_rows_of_the_data_are_the_background(spec: str, data: Dataset, linear: advex.Classifier) -> None:
    explain = with_background(explainers.build(spec), data, seed=3)
    x, target = data.batch(slice(None)).x, data.y
    explanation = explain(linear, x, target)
    torch.testing.assert_close(explanation.map, expected(linear, data, 3, target), atol=1e-6, rtol=1e-4)
    few = explain(linear, x[5:6], target[5:6])
    torch.testing.assert_close(few.map, explanation.map[5:6])


@pytest.mark.parametrize("spec", SPECS)
def test_evaluations_take_it_from_their_data(
    spec: str, data: Dataset, linear: advex.Classifier, tmp_path: Path
) -> None:
    values = {"attack": None, "btr": None, "pictures": (), "explanations": 40, "sweep": 0, "maps": (spec,), "seed": 2}
    evaluate(
        [("m", "m", linear)], data, tmp_path / "r", settings_from({**values, "map_target": "true", "batch_size": 7})
    )
    rows = pq.read_table(tmp_path / "r" / "maps.parquet").to_pylist()
    maps = torch.tensor([row["map"] for row in rows]).reshape(-1, *SHAPE)
    torch.testing.assert_close(maps, expected(linear, data, 2, data.y), atol=1e-6, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:m knows a, c and the like")
def test_explain_takes_it_from_the_data(
    data: Dataset, linear: advex.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    advex.artifacts.save(linear, "m", extra={"input_shape": list(SHAPE)})
    np.savez("d.npz", x=data.x[:, 0].numpy(), y=data.y.numpy())
    words = ["explain", "--data", "d.npz", "--index", "4", "--model", "m", "--explainer", SPECS[1], "--target", "b"]
    monkeypatch.setattr(sys, "argv", ["advex", *words, "--out", "out"])
    linear.class_names = tuple("abc")
    advex.artifacts.save(linear, "m", extra={"input_shape": list(SHAPE)})
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    (answer,) = json.loads(Path("out", "explanations.json").read_text())["inputs"]
    values = np.load(Path("out", answer["values"]))["deep_lift_shap.1"]
    wanted = expected(linear, data, 0, torch.ones(40, dtype=torch.int64))[4]
    np.testing.assert_allclose(values, wanted.detach().numpy(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "copied"), [("expected_gradients", "integrated_gradients"), ("deep_lift_shap", "deep_lift")]
)
def test_a_copy_of_another_explainer_says_so(name: str, copied: str, data: Dataset, linear: Any) -> None:
    x, target = data.batch(slice(0, 4)).x, data.y[:4]
    other = explainers.build(copied)(linear, x, target).map
    with pytest.warns(AdvexWarning, match=f"single row of zeros.* those of {copied}") as heard:
        torch.testing.assert_close(explainers.build(name)(linear, x, target).map, other)
    assert heard[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainers.build(f"{name}:baseline=0")(linear, x, target)
        with_background(explainers.build(name), data)(linear, x, target)

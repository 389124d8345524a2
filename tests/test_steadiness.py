"""What is said beside figures of stability that mean little, of networks where it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advex.classifier import Classifier
from advex.data import Dataset, open_dataset
from advex.evaluation import Settings, evaluate

BLIND = pytest.mark.filterwarnings("ignore:.*no gradient reached the input")
FLAGS = {"constant_maps", "stable_by_chance", "weak_map_attack"}


def network(collapsed: bool = False) -> Classifier:
    """Nearest means of the classes' pictures, softened by a curve; or a bias alone."""
    data = open_dataset("digits", split="train")
    batch = data.batch(slice(None))
    means = torch.stack([batch.x[batch.y == label].mean(dim=0).flatten() for label in range(10)])
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.SiLU(), nn.Linear(10, 10))
    with torch.no_grad():
        layers[1].weight.copy_(means)  # pyright: ignore
        layers[1].bias.copy_(-means.square().sum(dim=1) / 2)  # pyright: ignore
        layers[3].weight.copy_(0 * torch.eye(10) if collapsed else 5 * torch.eye(10))  # pyright: ignore
        layers[3].bias.copy_(torch.linspace(0, 0.1, 10))  # pyright: ignore
    return Classifier(layers).eval()


@pytest.fixture
def data() -> Dataset:
    return open_dataset("digits", split="test").take(slice(0, 20))


def flagged(classifier: Classifier, data: Dataset, folder: Path, measure: str, **options: Any) -> dict[str, str]:
    settings = Settings(
        attack=None,
        btr=None,
        explanations=0,
        pictures=(),
        recheck=0,
        maps=("input_x_gradient",),
        measures=(measure,),
        **options,
    )
    record = evaluate([("a", "runs/a", classifier)], data, folder, settings)
    return {flag.code: flag.message for flag in record.flags if flag.code in FLAGS}


def test_a_good_search_on_a_network_that_has_learnt_raises_none(data: Dataset, tmp_path: Path) -> None:
    assert not flagged(network(), data, tmp_path, "worst_case:search=(pgd:steps=10),distance=relative_l2")


def test_a_search_that_finds_less_than_noise_is_told(data: Dataset, tmp_path: Path) -> None:
    weak = "worst_case:search=(pgd:steps=1,step=0.0001,norm=l2,radius=1.0),distance=relative_l2,samples=30"
    said = flagged(network(), data, tmp_path, weak)
    assert set(said) == {"weak_map_attack"}
    count = int(said["weak_map_attack"].split()[1])
    assert said["weak_map_attack"].startswith(f"For {count} of 20 examples the search of 'worst_case' moved the map by")
    assert count > 10


@BLIND
def test_a_collapsed_network_is_told(data: Dataset, tmp_path: Path) -> None:
    said = flagged(network(collapsed=True), data, tmp_path, "random_stability:samples=2,distance=spearman")
    assert set(said) == {"constant_maps", "stable_by_chance"}
    assert said["constant_maps"].startswith("20 of 20 maps by 'input_x_gradient' are constant")
    assert "'random_stability'" in said["stable_by_chance"]


@BLIND
def test_without_figures_of_stability_nothing_is_said_of_them(data: Dataset, tmp_path: Path) -> None:
    assert not flagged(network(collapsed=True), data, tmp_path, "gini")

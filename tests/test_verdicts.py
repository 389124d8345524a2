"""Measures of explanations are judged where the evidence is planted: those that know the truth pass, others cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advex
from advex import bundled, recipes, registry
from advex.classifier import Classifier
from advex.data.published.planted import drawn
from advex.errors import AdvexError
from advex.evaluation.plan import plan_of
from advex.evaluation.settings import Settings
from advex.evaluation.tasks import standing_on
from advex.measures import verdicts
from advex.measures.case import Better, Case
from advex.measures.sparsity import gini


@pytest.fixture(scope="module")
def judged() -> dict[str, verdicts.Verdict]:
    measures: dict[str, Any] = {name: registry.build("measure", name) for name in registry.entries("measure")}
    return verdicts.verdicts(measures | {"sparse": Sparse(), "misled": Misled()})


@dataclass(frozen=True)
class Sparse:
    """Claims to be faithful, and looks at the map's shape alone."""

    title: ClassVar[str] = "Sparse"
    better: ClassVar[Better] = "high"
    of: ClassVar[Any] = "faithful"
    needs: ClassVar[frozenset[Any]] = frozenset()

    def __call__(self, case: Case) -> Tensor:
        return gini(case.maps)


@dataclass(frozen=True)
class Misled(Sparse):
    """Prefers what lies beside the evidence."""

    title: ClassVar[str] = "Misled"

    def __call__(self, case: Case) -> Tensor:
        weight = case.explanation.map.sum(dim=1)
        return (weight * ~case.evidence_mask).flatten(1).sum(dim=1)


def test_what_is_known_is_found_again(judged: dict[str, verdicts.Verdict]) -> None:
    known = verdicts.known()
    assert known.keys() == judged.keys() - {"sparse", "misled"}, (
        "advex doctor --measures --json makes verdicts.json anew"
    )
    for name, verdict in known.items():
        assert judged[name].validated == verdict.validated, name
        assert np.allclose(judged[name].tau, verdict.tau, atol=0.02), name
        assert np.allclose(judged[name].right, verdict.right, atol=0.02), name


def test_measures_of_place_and_of_removal_know_the_truth(judged: dict[str, verdicts.Verdict]) -> None:
    assert all(judged[name].validated for name in ("pointing", "mass", "rank", "deletion", "insertion", "regions"))
    assert all(judged[f"road_{figure}"].validated for figure in ("most_first", "least_first", "combined"))
    assert judged["mass"].tau == pytest.approx((1.0, 1.0))
    assert judged["mass"].resolution == pytest.approx((0.25, 0.25))  # by construction: the share itself


def test_a_measure_of_shape_knows_nothing_and_a_misled_one_less(judged: dict[str, verdicts.Verdict]) -> None:
    assert not judged["sparse"].validated
    assert np.allclose(judged["sparse"].tau, 0)
    assert not judged["misled"].validated
    assert np.allclose(judged["misled"].tau, -1)


def test_standing_in_words() -> None:
    assert verdicts.standing("deletion") == "validated"
    assert verdicts.standing("deletion:fill=grey") == "not validated", "nobody has looked"
    assert verdicts.standing("gini") == "not about truth"


def test_what_is_known_of_a_measure_is_known_of_pictures_and_of_figures_with_a_good_direction() -> None:
    entries = plan_of(
        Settings(attack=None, btr=None, maps=("gradient",), measures=("deletion", "localisation"))
    ).entries
    on_pictures, on_rows = (
        {key: entry.standing for key, entry in standing_on(shape, entries).items()} for shape in ((3, 32, 32), (57,))
    )
    assert on_pictures["deletion"] == on_pictures["localisation"] == "validated"
    assert on_rows["deletion"] == "not validated"
    assert {on_pictures[key] for key, entry in entries.items() if entry.better == "neither"} == {""}


def test_a_measure_without_a_value_is_not_validated() -> None:
    assert not verdicts._verdict([np.full((5, 5), np.nan)] * 2).validated


def test_a_network_that_answers_by_something_else_judges_nobody() -> None:
    class Corner(nn.Module):
        """Answers by the colour of the mark."""

        def forward(self, x: Tensor) -> Tensor:
            return 20 * x[:, :, -1, -1] @ torch.eye(3, 4)

    made = drawn(40, classes=4, side=32, amplitude=0.16, mark=True, informative=False, seed=0)
    for network in (Corner(), nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))):
        with pytest.raises(AdvexError, match="does not rely on the planted patch"):
            verdicts.check_evidence(Classifier(network).eval(), made, strong=True)


def test_the_bundled_network_is_its_recipes_and_knows_the_patterns() -> None:
    folder = bundled.names()["planted"]
    meant = recipes.recipe_from(recipes.read("planted-ordinary"))
    assert recipes.recipe_from(recipes.read(str(folder / "recipe.yaml"))) == recipes.fitted(meant, (3, 32, 32), 4)
    data = advex.open_dataset("planted", split="test", max_samples=200)
    batch = data.batch(slice(None))
    answers = advex.load("builtin:planted").predict(batch.x).argmax(dim=1)
    assert (answers == batch.y).double().mean() >= 0.99
    assert bundled.figures("planted").scores["accuracy"].value >= 0.98

"""cos(x, map): by hand, and the same figure that attributional training raises."""

from __future__ import annotations

import math

import pytest
import torch

from advex.classifier import Classifier
from advex.explainers import Gradient
from advex.goals import Misaligned
from advex.measures import Case, apply, build
from advex.types import Explanation


def case_of(x: torch.Tensor, maps: torch.Tensor | None = None) -> Case:
    torch.manual_seed(0)
    spec = "small_cnn:channels=3,classes=4,widths=4-4-4,activation=silu"
    classifier = Classifier(spec, mean=[0.2, 0.4, 0.5], std=[0.2, 0.3, 0.25])
    classifier, x = classifier.double().eval(), x.double()
    y = torch.arange(len(x)) % 4
    answer = Gradient()(classifier, x, y) if maps is None else Explanation(map=maps.double(), target=y, method="given")
    return Case(classifier=classifier, x=x, y=y, explainer=Gradient(), explanation=answer)


def test_by_hand() -> None:
    x = torch.tensor([0.6, 0.0, 0.8]).reshape(1, 3, 1, 1).expand(4, 3, 8, 8)
    second = torch.tensor([0.0, 1, 0]).reshape(3, 1, 1).expand(3, 8, 8)
    maps = torch.stack([x[0], -2e-200 * x[0].double(), second, 0 * x[0]])
    measured = apply(build("along_input:anchor=raw"), case_of(x, maps))
    assert measured.values[""][:3].tolist() == pytest.approx([1, -1, 0], abs=1e-12)
    assert {reason: rows.tolist() for reason, rows in measured.undefined.items()} == {
        "the map is zero": [False, False, False, True]
    }
    by_pixel = apply(build("along_input:anchor=raw,channels=sum"), case_of(x, maps)).values[""]
    assert by_pixel[:3].tolist() == pytest.approx([1, -1, 1])
    # Normalised: (0.6 - 0.2) / 0.2, (0 - 0.4) / 0.3, (0.8 - 0.5) / 0.25 against the second channel alone.
    seen = apply(build("along_input"), case_of(x, maps)).values[""]
    assert seen[2].item() == pytest.approx((-4 / 3) / math.hypot(2, 4 / 3, 1.2))


def test_of_a_gradient_it_is_what_training_raises() -> None:
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    case = case_of(x)
    for anchor, same in (("raw", "raw"), ("normalised", "mixed")):
        goal = Misaligned(y=case.y, form="cosine", anchor=same, beta=0.0)  # pyright: ignore[reportArgumentType]
        theirs = 1 - goal.size(case.classifier, case.x).detach()
        ours = apply(build(f"along_input:anchor={anchor}"), case).values[""]
        assert torch.allclose(ours, theirs, rtol=1e-9)

"""Maps of enlarged pictures: beside gradients taken at the larger picture by hand, of whatever explainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from advex.classifier import Classifier
from advex.errors import AdvexWarning, InputError, SpecError
from advex.explainers import build


def network(any_size: bool = True) -> Classifier:
    torch.manual_seed(3)
    pool = nn.AdaptiveAvgPool2d((2, 2)) if any_size else nn.AvgPool2d((4, 3))
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(32, 3)]
    return Classifier(nn.Sequential(*layers).double(), mean=[0.5, 0.4, 0.6], std=[0.3, 0.2, 0.25]).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 3, 8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


TARGET = torch.tensor([0, 1, 2, 1])


def sized(values: Tensor, height: int, width: int) -> Tensor:
    return interpolate(values, size=(height, width), mode="bilinear", antialias=True)


@pytest.mark.parametrize(("by", "height", "width"), [(1.5, 12, 9), (2, 16, 12), (0.5, 4, 3), (1, 8, 6)])
def test_the_gradient_at_the_enlarged_picture_is_made_smaller(x: Tensor, by: float, height: int, width: int) -> None:
    classifier, large = network(), sized(x, height, width).clamp(0, 1).requires_grad_()
    classifier(large).gather(1, TARGET[:, None]).sum().backward()
    assert large.grad is not None
    made: Any = build(f"enlarged:by={by}")(classifier, x, TARGET)
    assert torch.allclose(made.map, sized(large.grad, 8, 6))
    assert made.picture is None
    assert "explainer=(gradient:of=logit)" in made.method or "explainer=gradient:of=logit" in made.method


@pytest.mark.parametrize("spec", ["grad_cam", "smooth_grad:samples=3", "norm_grad:selective=true", "extremal:steps=3"])
def test_any_explainer_is_that_of_the_enlarged_picture(x: Tensor, spec: str) -> None:
    classifier = network()
    alone: Any = build(spec)(classifier, sized(x, 12, 9).clamp(0, 1), TARGET, seed=4)
    made: Any = build(f"enlarged:explainer=({spec})")(classifier, x, TARGET, seed=4)
    assert torch.allclose(made.map, sized(alone.map, 8, 6))
    assert alone.method in made.method  # with the layer that was chosen


def test_a_changed_picture_is_made_smaller_and_stays_in_the_box(x: Tensor) -> None:
    classifier, x = network(), (x > 0.5).double()
    search = "perceptual:perceptual=1,gradients=20"
    large = sized(x, 12, 9).clamp(0, 1)
    alone: Any = build(search)(classifier, large, TARGET)
    made: Any = build(f"enlarged:explainer=({search})")(classifier, x, TARGET)
    assert torch.allclose(made.picture, (x + sized(alone.picture - large, 8, 6)).clamp(0, 1))
    assert torch.allclose(made.after, classifier.predict(made.picture))


def test_what_is_doubted_of_the_enlarged_map_is_doubted() -> None:
    classifier, x = network(), torch.rand(4, 3, 8, 6, dtype=torch.float64)
    spec = "integrated_gradients:steps=1"
    with pytest.warns(AdvexWarning, match="misses"):
        alone: Any = build(spec)(classifier, sized(x, 12, 9).clamp(0, 1), TARGET)
    with pytest.warns(AdvexWarning, match="misses"):
        made: Any = build(f"enlarged:explainer=({spec})")(classifier, x, TARGET)
    assert alone.incomplete.any()
    assert torch.equal(made.incomplete, alone.incomplete)


def test_memory_that_runs_out_is_no_matter_of_sizes(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = network()

    def greedy(values: Tensor) -> Tensor:
        if values.shape[2:] == (12, 9):
            raise torch.OutOfMemoryError("not enough memory")
        return values

    classifier.network.get_submodule("0").register_forward_pre_hook(lambda layer, given: (greedy(given[0]),))
    with pytest.raises(torch.OutOfMemoryError):
        build("enlarged")(classifier, x, TARGET)


def test_what_cannot_be_enlarged_is_refused(x: Tensor) -> None:
    with pytest.raises(InputError, match="by=1.5 needs a network that takes pictures of 8x6 and 12x9"):
        build("enlarged")(network(any_size=False), x, TARGET)
    with pytest.raises(InputError, match="needs pictures"):
        build("enlarged")(Classifier("mlp:features=6,classes=3,widths=4").eval(), torch.rand(4, 6), TARGET)
    for spec, message in (("explainer=grad_cm", "no explainer 'grad_cm'"), ("explainer=(lime:n=1)", "no option 'n'")):
        with pytest.raises(SpecError, match=message):
            build(f"enlarged:{spec}")


def test_a_control_stays_one() -> None:
    made: list[Any] = [build(spec) for spec in ("enlarged", "enlarged:explainer=edge")]
    assert [each.shows for each in made] == ["regions", "control"]

"""What is computed: checked against the explainers themselves, and against the bytes that are shown."""

from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.data import Dataset
from advex.drawing.heat import coloured, reach_of, summed
from advex.errors import InputError, SpecError
from advex.explainers import InputXGradient, Toward
from advex.explore.requests import Example, ExploreRequest, ModelChoice
from advex.explore.study import MAPS, Model, Study
from advex.progress import Stopped
from advex.record.explored import Explored
from advex.report.pages.explored import told
from advex.types import FLAT


def explored(study: Study, **changes: object) -> Explored:
    """The entry of a request that is answered."""
    request = ExploreRequest(model=0, picture=3, target=8, rho=0.15, explainer="input_x_gradient")
    answer = study.explain(dataclasses.replace(request, **changes), lambda: False)  # pyright: ignore
    return Explored.model_validate(answer.entry)


class Rounding(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((10 * x).round() / 10)


def pixels(png: bytes) -> np.ndarray:
    """As a viewer of the file sees them."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_an_explanation_is_that_of_the_explainer_and_of_the_pictures_shown(
    study: Study, trained: SimpleNamespace
) -> None:
    classifier, x = trained.classifier, trained.data.batch(slice(3, 4)).x
    request = ExploreRequest(model=0, picture=3, target=8, rho=0.15, explainer="input_x_gradient")
    answer = study.explain(request, lambda: False)
    entry = Explored.model_validate(answer.entry)
    expected = Toward(rho=0.15)(classifier, x, torch.tensor([8]))
    assert expected.picture is not None
    assert expected.after is not None
    assert entry.rmse == pytest.approx(0.15, abs=1e-6)
    assert entry.after == pytest.approx(expected.after[0].tolist(), abs=1e-6)
    assert entry.before == pytest.approx(classifier.predict(x)[0].tolist(), abs=1e-6)
    shown = pixels(answer.pictures["changed"])
    assert np.array_equal(shown, np.round(255 * expected.picture[0, 0].numpy()).astype(np.uint8))
    of_file = classifier.predict(torch.tensor(shown / 255, dtype=torch.float32)[None, None])[0]
    assert entry.png_after == pytest.approx(of_file.tolist(), abs=1e-6)
    assert np.array_equal(pixels(answer.pictures["input"]), np.round(255 * x[0, 0].numpy()).astype(np.uint8))
    delta = (expected.picture - x)[0, 0].numpy()
    assert entry.gain == pytest.approx(0.5 / np.abs(delta).max())
    difference = pixels(answer.pictures["difference"]).astype(float)
    assert np.abs(difference - 255 * (0.5 + entry.gain * delta)).max() <= 0.5 + 1e-3
    maps = InputXGradient()(classifier, torch.cat([x, expected.picture]), torch.tensor([8, 8])).map.numpy()
    values = [summed(each) for each in maps]
    assert entry.reach == pytest.approx(reach_of(values))  # one scale for both
    for which, each in zip(("map_input", "map_changed"), values, strict=True):
        assert np.array_equal(pixels(answer.pictures[which]), coloured(each, entry.reach))
    assert entry.command == "advex explain input.png --model runs/small --target 8 --rho 0.15 --seed 0"


@pytest.mark.parametrize("explainer", MAPS)
def test_every_map_on_offer_is_drawn_or_says_why_not(study: Study, explainer: str) -> None:
    entry = explored(study, explainer=explainer)
    if explainer == "grad_cam":  # there are no places in this network's layers
        assert entry.no_maps
    else:
        assert entry.no_maps == ""
        assert entry.reach > 0


def test_what_came_of_it_is_said(study: Study, trained: SimpleNamespace) -> None:
    says = int(trained.classifier.predict(trained.data.batch(slice(3, 4)).x).argmax())
    far, near, nothing = (told(explored(study, rho=rho)) for rho in (0.25, 0.02, 0.0))
    assert far[0].startswith("The network now says 8.")
    assert near[0].startswith(f"RMSE 0.02 does not reach 8: the network still says {says}.")
    assert nothing == (f"Nothing is changed: the network says {says}, and its confidence in 8 is <1\u202f%.",)
    assert told(explored(study, rho=None))[0].startswith("This is enough for the network to say 8")
    assert "already" in told(explored(study, rho=None, target=says))[0]
    assert told(explored(study, target=says))[0].startswith(f"The network still says {says}.")
    assert near[0].endswith("A larger change may.")
    most = told(explored(study, rho=1.0))
    assert not most[0].endswith("A larger change may.")
    assert most[1].startswith("Between black and white, the RMSE can be at most 0.")


@pytest.mark.filterwarnings("ignore:.*are doubtful")
@pytest.mark.parametrize(("rho", "why"), [(0.1, FLAT), (None, "the search was blind")])
def test_without_a_gradient_no_change_is_shown_and_that_is_said(
    rho: float | None, why: str, trained: SimpleNamespace
) -> None:
    """A network that rounds: its answers move with the input, its derivatives are zero."""
    rounds = Rounding(trained.classifier.network)
    study = Study(models=[Model(name="m", source="m", classifier=Classifier(rounds))], data=trained.data)
    answer = study.explain(ExploreRequest(model=0, picture=3, target=8, rho=rho, explainer="gradient"), lambda: False)
    entry = Explored.model_validate(answer.entry)
    assert (entry.rmse, entry.before == entry.after) == (0, True)
    (said,) = answer.summary["sentences"]
    assert said.startswith("There is no change to show: ")
    assert why in said
    assert FLAT in answer.summary["no_maps"]
    assert answer.pictures["changed"] == answer.pictures["input"]


def test_as_little_as_is_needed_is_less_than_what_the_slider_needs(study: Study) -> None:
    least = explored(study, rho=None)
    assert least.reached
    assert least.rho is None
    assert least.search.startswith("minimal:")
    assert not explored(study, rho=0.8 * least.rmse).reached
    assert explored(study, rho=1.3 * least.rmse).reached


def test_what_8_bits_lose_is_said(study: Study) -> None:
    entry = explored(study)
    other = [0.0] * 10
    other[5] = 1.0
    assert "does not preserve this" in " ".join(told(entry.model_copy(update={"png_after": other})))
    assert "An 8-bit PNG preserves this" in " ".join(told(entry))


def test_a_search_stops_between_two_passes_and_leaves_the_model_as_it_was(
    study: Study, trained: SimpleNamespace
) -> None:
    classifier: Classifier = trained.classifier
    classifier.network.train()
    flags = [parameter.requires_grad for parameter in classifier.parameters()]
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    random = torch.get_rng_state()
    passes: list[int] = []

    def count(*_: object) -> None:
        passes.append(1)

    hook = classifier.network.register_forward_hook(count)
    try:
        for rho in (0.1, None):
            for most in (1, 7, 20):
                passes.clear()
                request = ExploreRequest(model=0, picture=3, target=8, rho=rho, explainer="gradient")
                with pytest.raises(Stopped):
                    study.explain(request, lambda most=most: len(passes) >= most)
                assert len(passes) == most  # none after it was told
    finally:
        hook.remove()
    assert all(module.training for module in classifier.network.modules())
    classifier.eval()
    assert [parameter.requires_grad for parameter in classifier.parameters()] == flags
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in classifier.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in classifier.modules())
    assert explored(study).reached  # and it answers the next


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": 1}, "1"), ({"target": 10}, "10"), ({"explainer": "lime"}, "lime"),
        ({"picture": 10**6}, "1000000"), ({"picture": -1}, "-1"), ({"explainer": "__import__"}, "__import__"),
    ],
)  # fmt: skip
def test_what_is_not_there_cannot_be_asked(study: Study, changes: dict[str, object], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        explored(study, **changes)


def test_a_picture_of_another_size_is_refused(study: Study, make: SimpleNamespace) -> None:
    with pytest.raises(InputError):
        explored(study, picture=make.png(0))


def test_data_that_are_no_pictures_are_refused(trained: SimpleNamespace) -> None:
    rows = Dataset(name="rows", x=torch.rand(2, 64), y=torch.tensor([0, 1]), class_names=("a", "b"), ids=("0", "1"))
    with pytest.raises(InputError, match="rows"):
        Study([Model(name="small", source="small", classifier=trained.classifier)], rows)


def test_browsing_by_number_and_class(study: Study, trained: SimpleNamespace) -> None:
    catalogue, data = study.catalogue, trained.data
    assert [each.count for each in catalogue.labels] == torch.bincount(data.y).tolist()
    examples = [Example(number=row, id=data.ids[row], label=int(data.y[row])) for row in (2, 3, 4)]
    assert study.browse(2, 3, None) == examples
    sevens = study.browse(0, len(data), 7)
    assert [each.number for each in sevens] == torch.nonzero(data.y == 7)[:, 0].tolist()
    assert study.browse(1, 2, 7) == sevens[1:3]
    assert study.browse(0, 5, 99) == study.browse(10**6, 5, None) == []
    assert np.array_equal(pixels(study.thumbnail(4)), data.x[4, 0].numpy())
    with pytest.raises(SpecError, match=str(len(data))):
        study.thumbnail(len(data))


def test_thumbnails_of_large_pictures_are_small(trained: SimpleNamespace) -> None:
    large = torch.randint(0, 256, (2, 3, 200, 300), dtype=torch.uint8)
    data = Dataset(name="large", x=large, y=torch.tensor([0, 1]), class_names=("a", "b"), ids=("0", "1"))
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    study = Study([Model(name="mean", source="mean", classifier=Classifier(network).eval())], data)
    # The data's names, where the network has none.
    assert study.catalogue.models == (ModelChoice(name="mean", classes=("a", "b")),)
    assert pixels(study.thumbnail(0)).shape == (64, 96, 3)

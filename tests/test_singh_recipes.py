"""The recipes after Singh et al. 2020: settings as printed, and a step of each, with every objective and shape."""

from __future__ import annotations

import pytest
import torch

from advex import recipes
from advex.data.dataset import Dataset
from advex.recipes import Recipe, recipe_from
from advex.training import train
from advex.training.run import begin

PGD = "adversarial:attack=(pgd:norm=linf,radius=8/255,steps={},step={}/255),share=1"
VGG, SE = "vgg:depth=11,width=2,head=gap", "resnet:depth=50,width=2,se=true"


def recipe_of(name: str, **overrides: str) -> Recipe:
    return recipe_from(recipes.read(name), overrides, where=name)


# App. A.3.1, A.3.4, B.1: network; epochs, and those at which the rate falls to a tenth; peak; decay; batch.
PRINTED = {
    "cifar10-art": ("wide_resnet:depth=28,width=10", 100, (50, 80), 0.1, 2e-4, 256),
    "svhn-art": ("wide_resnet:depth=40,width=2", 200, (50, 80), 0.1, 2e-4, 256),
    "gtsrb-art": ("wide_resnet:depth=28,width=10", 12, (4, 6), 0.1, 2e-4, 128),
    "flowers-art": ("wide_resnet:depth=28,width=10", 68, (15, 35), 0.1, 2e-4, 128),
    "cub-art": ("resnet:depth=50", 200, (40, 80, 120, 160), 0.01, 1e-4, 90),
    "cub-pgd": ("resnet:depth=50", 200, (60, 120, 180), 0.01, 1e-4, 128),
    "cub-ordinary": ("resnet:depth=50", 200, (60, 120, 180), 0.01, 1e-4, 128),
}


@pytest.mark.parametrize("name", PRINTED)
def test_settings_are_those_of_the_appendices(name: str) -> None:
    network, epochs, falls, peak, decay, batch = PRINTED[name]
    recipe = recipe_of(name)
    said = (recipe.network, recipe.weight_decay, recipe.batch_size, recipe.momentum, recipe.nesterov)
    assert said == (network, decay, batch, 0.9, False)
    rates = [recipes.learning_rate(recipe, (epoch + 0.5) / epochs) for epoch in range(epochs)]
    for number, (start, end) in enumerate(zip((0, *falls), (*falls, epochs), strict=True)):
        assert rates[start:end] == pytest.approx([peak / 10**number] * (end - start))
    assert recipe.epochs == epochs
    assert recipe.per_class == {"flowers-art": 1000, "gtsrb-art": 10_000}.get(name, 0)


@pytest.mark.parametrize(
    ("name", "radius"),
    [(f"{name}-art", 2 if name == "cub" else 8) for name in ("cifar10", "svhn", "gtsrb", "flowers", "cub")],
)
def test_art_has_the_papers_search(name: str, radius: int) -> None:
    terms = recipe_of(name).objective
    assert terms.keys() == {"attributional"}
    search = f"pgd:norm=linf,radius={radius}/255,steps=3,step=1.5/255,keep=last"
    art = {key: value for key, value in terms["attributional"].items() if key != "channels"}
    assert art == {"attack": search, "strength": 0.5, "beta": 50}


def test_pgd_on_birds_has_the_papers_search() -> None:
    term = {"adversarial": {"attack": "pgd:norm=linf,radius=2/255,steps=7,step=0.5/255", "share": 1}}
    assert recipe_of("cub-pgd").objective == term


SMALL = {
    "cifar10": ("wide_resnet:depth=10,width=1", 24, {}),
    "svhn": ("wide_resnet:depth=10,width=1", 32, {}),
    "flowers": ("wide_resnet:depth=10,width=1", 24, {"per_class": "1"}),
    "gtsrb": ("wide_resnet:depth=10,width=1", 24, {"per_class": "1"}),
    "cub": ("resnet:depth=50,width=2", 40, {"crop": "32"}),
}
SEARCHES = {"cifar10": (10, 2), "svhn": (7, 2.5), "gtsrb": (7, 2), "flowers": (7, 2.5)}  # PGD's steps and their size
STEPS = [
    (f"{name}-art", changes)
    for name, search in SEARCHES.items()
    for changes in ({}, {"objective": "natural"}, {"objective": PGD.format(*search)})
]
STEPS += [
    (f"cub-{name}", changes)
    for name in ("art", "pgd", "ordinary")
    for changes in ({}, {"network": VGG}, {"network": SE})
]


@pytest.mark.parametrize(("name", "changes"), STEPS)
def test_a_step_of_each(name: str, changes: dict[str, str]) -> None:
    """One batch, on a thinner network: every parameter moves, to where it is finite."""
    network, side, other = SMALL[name.split("-")[0]]
    overrides = {"network": network, "epochs": "1", "batch_size": "4", "robust_every": "0"}
    recipe = recipe_of(name, **{**overrides, **other, **changes})
    x = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Dataset(name="toy", x=x, y=torch.tensor([0, 1, 2, 1]), class_names=("a", "b", "c"), ids=tuple("0123"))
    fitted = recipes.fitted(recipe, data.shape, 3)
    before = begin(fitted, data, None, "cpu").classifier.network.state_dict()
    after = train(fitted, data, None).network.state_dict()
    moved = {key: not torch.equal(value, after[key]) for key, value in before.items() if value.is_floating_point()}
    assert all(after[key].isfinite().all() for key in moved)
    assert all(moved.values()), [key for key, changed in moved.items() if not changed]
